//! What was there before the recording began, by /proc/self: descriptors, threads, regions.

use core::ffi::c_int;

use brant_record::layout::*;

use super::super::system;
use super::tables::{Tables, put_text};
use super::{calls, memory, threads};

const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;
const O_CLOEXEC: u32 = 0o2_000_000;
/// The kernel says it of every file of a 64-bit program.
const O_LARGEFILE: u32 = 0o100_000;
const SO_TYPE: usize = 3;
const SO_ACCEPTCONN: usize = 30;
const SO_PROTOCOL: usize = 38;
const SO_DOMAIN: usize = 39;

pub(super) fn look(tables: Tables, is_start: bool) {
    if let Some(folder) = calls::open(b"/proc/self/fd\0", true) {
        calls::each_number(folder, |number| {
            if number as usize != folder {
                note(tables, number as c_int, is_start);
            }
        });
        system::close(folder);
    }
    if let Some(folder) = calls::open(b"/proc/self/task\0", true) {
        calls::each_number(folder, |tid| threads::note_before(tables, tid, is_start));
        system::close(folder);
    }
    if let Some(file) = calls::open(b"/proc/self/maps\0", false) {
        memory::note_before(tables, file);
        system::close(file);
    }
}

fn note(tables: Tables, number: c_int, is_start: bool) {
    let mut file = describe(number);
    // brant's own libraries are open while they are loaded.
    let is_brants = matches!(file.kind, kind::MEMFD | kind::FILE) && is_brants(&file.text);
    if file.state == state::CLOSED || is_brants {
        return;
    }
    file.call = call::before;
    // What a program has when it begins its parent has given it.
    file.marks |= if is_start { mark::INHERITED } else { mark::BEFORE };
    super::files::put(tables, number, &file, false);
}

/// Whether a file is one of those that brant brings into programs: most in memory, others without a name any more.
pub(super) fn is_brants(path: &[u8]) -> bool {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    let name = name.strip_prefix(b"memfd:").unwrap_or(name);
    name.starts_with(b"brant-wrapper-") || name.starts_with(b"brant-runtime-")
}

/// A descriptor that nothing is known of, by what the kernel says. Closed where it is none.
pub(super) fn describe(number: c_int) -> File {
    let mut file = empty(number);
    let mut room = [0; TEXT_BYTES + 1];
    let Some(bytes) = calls::link(number, &mut room) else { return file };
    let flags = calls::fcntl(number, calls::F_GETFD).unwrap_or(0);
    file.marks |= if flags & 1 != 0 { mark::CLOSE_ON_EXEC } else { 0 };
    file.flags = calls::fcntl(number, calls::F_GETFL).unwrap_or(0) & !(O_CLOEXEC | O_LARGEFILE);
    file.state = state::OPEN;
    let text = &room[..bytes];
    file.kind = kind_of(text);
    if file.kind == kind::SOCKET {
        describe_socket(number, &mut file);
        return file;
    }
    if file.kind == kind::FILE && calls::mode(number).is_some_and(|mode| mode & S_IFMT == S_IFDIR) {
        file.kind = kind::FOLDER;
    }
    let (bytes, is_whole) = put_text(text, &mut file.text);
    file.text_bytes = bytes as u16;
    file.marks |= if is_whole { 0 } else { mark::CUT };
    file
}

pub(super) fn empty(number: c_int) -> File {
    File {
        sequence: 0,
        number,
        kind: kind::OTHER,
        state: state::CLOSED,
        call: 0,
        marks: 0,
        flags: 0,
        tid: 0,
        description: 0,
        opened_ns: 0,
        closed_ns: 0,
        family: 0,
        socket_type: 0,
        protocol: 0,
        text_bytes: 0,
        peer_bytes: 0,
        text: [0; TEXT_BYTES],
        reserved: 0,
    }
}

fn kind_of(link: &[u8]) -> u8 {
    let kinds: [(&[u8], u8); 10] = [
        (b"socket:[", kind::SOCKET),
        (b"pipe:[", kind::PIPE),
        (b"/memfd:", kind::MEMFD),
        (b"/", kind::FILE),
        (b"anon_inode:[eventfd]", kind::EVENTFD),
        (b"anon_inode:[timerfd]", kind::TIMERFD),
        (b"anon_inode:[signalfd]", kind::SIGNALFD),
        (b"anon_inode:[eventpoll]", kind::EPOLL),
        (b"anon_inode:inotify", kind::INOTIFY),
        (b"anon_inode:[pidfd]", kind::PIDFD),
    ];
    kinds.iter().find(|(begin, _)| link.starts_with(begin)).map_or(kind::OTHER, |(_, kind)| *kind)
}

/// Family, type, addresses and state of a socket.
pub(super) fn describe_socket(number: c_int, file: &mut File) {
    let option = |which| calls::socket_option(number, which).unwrap_or(0);
    (file.family, file.socket_type) = (option(SO_DOMAIN), option(SO_TYPE) as u16);
    file.protocol = option(SO_PROTOCOL) as u16;
    let (own, peer) = file.text.split_at_mut(PEER_AT);
    file.text_bytes = calls::address(number, false, own) as u16;
    file.peer_bytes = calls::address(number, true, &mut peer[..PEER_AT]) as u16;
    let is_listening = option(SO_ACCEPTCONN) != 0;
    file.state = match (is_listening, file.peer_bytes > 0, has_name(file)) {
        (true, ..) => state::LISTENING,
        (_, true, _) => state::CONNECTED,
        (_, _, true) => state::BOUND,
        _ => state::OPEN,
    };
}

/// Whether its own address is one: a name, or a port.
fn has_name(file: &File) -> bool {
    const AF_UNIX: i32 = 1;
    let address = &file.text[..usize::from(file.text_bytes)];
    match file.family {
        AF_UNIX => address.len() > 2,
        _ => address.len() >= 4 && address[2..4] != [0, 0],
    }
}
