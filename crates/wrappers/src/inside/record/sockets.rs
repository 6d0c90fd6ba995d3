//! Sockets: who is connected with whom.

use core::ffi::{c_int, c_void};

use brant_record::layout::*;

use super::super::system;
use super::before::{describe_socket, empty};
use super::files::{put, put_described, update};
use super::tables::{Tables, field};
use super::{calls, own};

const SOCK_CLOEXEC: c_int = 0o2_000_000;
const SOCK_NONBLOCK: c_int = 0o4000;
const TYPE_MASK: c_int = 0xf;
const AF_UNSPEC: u16 = 0;

const EINTR: u32 = 4;
const EISCONN: u32 = 106;
const EALREADY: u32 = 114;
const EINPROGRESS: u32 = 115;

fn new(number: c_int, call: u8, family: c_int, type_and_flags: c_int, protocol: c_int) -> File {
    let mut file = empty(number);
    (file.kind, file.call, file.state) = (kind::SOCKET, call, state::OPEN);
    (file.family, file.protocol) = (family, protocol as u16);
    file.socket_type = (type_and_flags & TYPE_MASK) as u16;
    // Two, as of everything that is read and written.
    file.flags = 2 | (type_and_flags & SOCK_NONBLOCK) as u32;
    file.marks = if type_and_flags & SOCK_CLOEXEC != 0 { mark::CLOSE_ON_EXEC } else { 0 };
    file
}

/// What the kernel says of both ends now.
fn put_addresses(file: &mut File) {
    let (own, peer) = file.text.split_at_mut(PEER_AT);
    file.text_bytes = calls::address(file.number, false, own) as u16;
    let found = calls::address(file.number, true, &mut peer[..PEER_AT]) as u16;
    // A connection that is being made has no peer yet, and one that was shut down none any more.
    file.peer_bytes = if found > 0 { found } else { file.peer_bytes };
}

fn accepted(tables: Tables, listener: c_int, number: c_int, call: u8, flags: c_int) {
    let mut file = new(number, call, 0, flags, 0);
    describe_socket(number, &mut file);
    file.state = state::ACCEPTED;
    // Many connections have the address of their listener.
    let _ = listener;
    put(tables, number, &file, true);
}

fn connected(tables: Tables, number: c_int, address: *const c_void, bytes: u32, result: c_int, errno: u32) {
    let mut given = [0; PEER_AT];
    let given = &mut given[..(bytes as usize).min(PEER_AT)];
    if !system::read_bytes(address as usize, given) {
        tables.add(field!(connect_failed), 1);
        return;
    }
    let family = given.get(..2).map_or(AF_UNSPEC, |word| u16::from_le_bytes([word[0], word[1]]));
    let state = match (result, errno) {
        (0, _) if family == AF_UNSPEC => state::OPEN,
        (0, _) | (_, EISCONN) => state::CONNECTED,
        (_, EINPROGRESS | EALREADY | EINTR) => state::CONNECTING,
        _ => state::FAILED,
    };
    if state == state::FAILED {
        tables.add(field!(connect_failed), 1);
    }
    update(tables, number, |file| {
        // A second look at a connection that stands tells nothing new.
        if errno == EISCONN && result != 0 && matches!(file.state, state::CONNECTED | state::ACCEPTED) {
            return;
        }
        file.state = state;
        file.peer_bytes = given.len() as u16;
        file.text[PEER_AT..PEER_AT + given.len()].copy_from_slice(given);
        if state == state::OPEN {
            file.peer_bytes = 0;
        }
        put_addresses(file);
    });
}

brant_mediator::mediator! {
    fn record_socket(call, family: c_int, kind: c_int, protocol: c_int) -> c_int {
        let number = call.inner();
        if let Some(tables) = own() {
            match number {
                0.. => put(tables, number, &new(number, call::socket, family, kind, protocol), true),
                _ => { tables.add(field!(open_failed), 1); }
            }
        }
        number
    }

    fn record_socketpair(call, family: c_int, kind: c_int, protocol: c_int, ends: *mut c_int) -> c_int {
        let result = call.inner();
        let Some(tables) = own() else { return result };
        if result != 0 {
            tables.add(field!(open_failed), 1);
            return result;
        }
        // SAFETY: the call has written both.
        for number in unsafe { [ends.read(), ends.add(1).read()] } {
            let mut file = new(number, call::socketpair, family, kind, protocol);
            file.state = state::PAIR;
            put(tables, number, &file, true);
        }
        result
    }

    fn record_bind(call, number: c_int, address: *const c_void, bytes: u32) -> c_int {
        let result = call.inner();
        if let Some(tables) = own().filter(|_| result == 0) {
            // The port may be the kernel's choice.
            update(tables, number, |file| {
                file.state = if file.state == state::OPEN { state::BOUND } else { file.state };
                put_addresses(file);
            });
        }
        result
    }

    fn record_listen(call, number: c_int, backlog: c_int) -> c_int {
        let result = call.inner();
        if let Some(tables) = own().filter(|_| result == 0) {
            update(tables, number, |file| {
                file.state = state::LISTENING;
                put_addresses(file);
            });
        }
        result
    }

    fn record_connect(call, number: c_int, address: *const c_void, bytes: u32) -> c_int {
        let result = call.inner();
        if let Some(tables) = own() {
            connected(tables, number, address, bytes, result, system::errno());
        }
        result
    }

    // How a connection that was begun without waiting is asked for.
    fn record_getsockopt(call, number: c_int, level: c_int, option: c_int, value: *mut c_int, bytes: *mut u32) -> c_int {
        const SOL_SOCKET: c_int = 1;
        const SO_ERROR: c_int = 4;
        let result = call.inner();
        if (level, option, result) != (SOL_SOCKET, SO_ERROR, 0) {
            return result;
        }
        let Some(tables) = own() else { return result };
        // SAFETY: the call has written it.
        let error = unsafe { value.read_unaligned() };
        update(tables, number, |file| {
            if file.state != state::CONNECTING {
                return;
            }
            let mut room = [0; PEER_AT];
            if error != 0 {
                file.state = state::FAILED;
                tables.add(field!(connect_failed), 1);
            } else if calls::address(number, true, &mut room) > 0 {
                file.state = state::CONNECTED;
                put_addresses(file);
            }
        });
        result
    }

    fn record_accept(call, number: c_int, address: *mut c_void, bytes: *mut u32) -> c_int {
        let result = call.inner();
        if let Some(tables) = own().filter(|_| result >= 0) {
            accepted(tables, number, result, call::accept, 0);
        }
        result
    }

    fn record_accept4(call, number: c_int, address: *mut c_void, bytes: *mut u32, flags: c_int) -> c_int {
        let result = call.inner();
        if let Some(tables) = own().filter(|_| result >= 0) {
            accepted(tables, number, result, call::accept4, flags);
        }
        result
    }

    fn record_shutdown(call, number: c_int, how: c_int) -> c_int {
        let result = call.inner();
        if let Some(tables) = own().filter(|_| result == 0) {
            update(tables, number, |file| {
                file.marks |= match how {
                    0 => mark::SHUT_READ,
                    1 => mark::SHUT_WRITE,
                    _ => mark::SHUT_READ | mark::SHUT_WRITE,
                };
            });
        }
        result
    }

    // Descriptors that others send.
    fn record_recvmsg(call, number: c_int, message: *mut c_void, flags: c_int) -> isize {
        let result = call.inner();
        if let Some(tables) = own().filter(|_| result >= 0) {
            received(tables, message);
        }
        result
    }
}

/// Notes the descriptors in a message that has just been received (cmsg(3)).
fn received(tables: Tables, message: *const c_void) {
    const CONTROL_AT: usize = 32;
    const HEAD_BYTES: usize = 16;
    const SOL_SOCKET_SCM_RIGHTS: [i32; 2] = [1, 1];
    // SAFETY: struct msghdr, which the call has read and written.
    let [control, bytes] =
        unsafe { message.cast::<u8>().add(CONTROL_AT).cast::<[usize; 2]>().read_unaligned() };
    let mut at = 0;
    while control != 0 && at + HEAD_BYTES <= bytes {
        // SAFETY: inside of what the call has written.
        let (length, kind) = unsafe {
            let head = (control + at) as *const u8;
            (head.cast::<usize>().read_unaligned(), head.add(8).cast::<[i32; 2]>().read_unaligned())
        };
        if length < HEAD_BYTES || length > bytes - at {
            return;
        }
        if kind == SOL_SOCKET_SCM_RIGHTS {
            for index in 0..(length - HEAD_BYTES) / 4 {
                // SAFETY: as above.
                let number =
                    unsafe { ((control + at + HEAD_BYTES) as *const c_int).add(index).read_unaligned() };
                put_described(tables, number, call::recvmsg);
            }
        }
        at += length.next_multiple_of(8);
    }
}
