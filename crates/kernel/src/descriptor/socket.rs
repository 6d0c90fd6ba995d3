//! Sockets: names, options, and what was received and not yet read (MSG_PEEK).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use brant_base::Redacted;

use super::{checked, queued_bytes};

/// A socket address is at most this long (`struct sockaddr_storage`).
const ADDRESS_BYTES_MAX: usize = 128;
/// Options are shorter by far, but for lists of multicast sources.
const OPTION_BYTES_MAX: usize = 64 << 10;
/// Ancillary data: 253 descriptors (SCM_MAX_FD), credentials, time stamps.
const CONTROL_BYTES_MAX: usize = 4096;
/// Room for one message; grows for longer ones.
const MESSAGE_BYTES: usize = 256 << 10;
const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// Messages in one queue before it counts as endless.
const MESSAGES_MAX: usize = 1 << 20;
/// Linux 6.5.
const SCM_PIDFD: i32 = 4;

/// getsockopt(2) of SO_DOMAIN: AF_ number.
pub fn socket_domain(fd: BorrowedFd<'_>) -> io::Result<i32> {
    integer_option(fd, libc::SO_DOMAIN)
}

/// SO_TYPE: SOCK_ number.
pub fn socket_kind(fd: BorrowedFd<'_>) -> io::Result<i32> {
    integer_option(fd, libc::SO_TYPE)
}

/// SO_PROTOCOL: IPPROTO_ number.
pub fn socket_protocol(fd: BorrowedFd<'_>) -> io::Result<i32> {
    integer_option(fd, libc::SO_PROTOCOL)
}

/// The bytes of any option.
pub fn socket_option(fd: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0u8; OPTION_BYTES_MAX];
    let mut length = bytes.len() as libc::socklen_t;
    // SAFETY: a live buffer of that length.
    let result =
        unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, bytes.as_mut_ptr().cast(), &raw mut length) };
    checked(result)?;
    bytes.truncate(length as usize);
    Ok(bytes)
}

/// Whether a socket is a member of a multicast group on an interface, by its index (ip(7), MCAST_MSFILTER).
pub fn is_in_group(fd: BorrowedFd<'_>, interface: u32, group: std::net::IpAddr) -> io::Result<bool> {
    const MCAST_MSFILTER: i32 = 48;
    const GROUP_AT: usize = 8;
    /// `struct group_filter` with room for one source.
    const FILTER_BYTES: usize = 272;
    #[repr(C, align(8))]
    struct Filter([u8; FILTER_BYTES]);
    let mut filter = Filter([0; FILTER_BYTES]);
    filter.0[..4].copy_from_slice(&interface.to_ne_bytes());
    let (level, family, address_at) = match group {
        std::net::IpAddr::V4(_) => (libc::IPPROTO_IP, libc::AF_INET, GROUP_AT + 4),
        std::net::IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::AF_INET6, GROUP_AT + 8),
    };
    filter.0[GROUP_AT..GROUP_AT + 2].copy_from_slice(&(family as u16).to_ne_bytes());
    match group {
        std::net::IpAddr::V4(group) => filter.0[address_at..][..4].copy_from_slice(&group.octets()),
        std::net::IpAddr::V6(group) => filter.0[address_at..][..16].copy_from_slice(&group.octets()),
    }
    let mut length = FILTER_BYTES as libc::socklen_t;
    // SAFETY: a live buffer of that length.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, MCAST_MSFILTER, (&raw mut filter).cast(), &raw mut length)
    };
    match checked(result) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(false),
        Err(error) => Err(error),
    }
}

fn integer_option(fd: BorrowedFd<'_>, name: i32) -> io::Result<i32> {
    let mut value = 0i32;
    let mut length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: a live int.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, (&raw mut value).cast(), &raw mut length)
    };
    checked(result).map(|_| value)
}

/// getsockname(2): the address with its family. Of a unix socket without a name, the family alone.
pub fn socket_name(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    address(|place, length| {
        // SAFETY: `address` gives live pointers.
        unsafe { libc::getsockname(fd.as_raw_fd(), place, length) }
    })
}

/// getpeername(2); `None` where it is not connected.
pub fn socket_peer(fd: BorrowedFd<'_>) -> io::Result<Option<Vec<u8>>> {
    let peer = address(|place, length| {
        // SAFETY: `address` gives live pointers.
        unsafe { libc::getpeername(fd.as_raw_fd(), place, length) }
    });
    match peer {
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => Ok(None),
        other => other.map(Some),
    }
}

fn address(get: impl FnOnce(*mut libc::sockaddr, *mut libc::socklen_t) -> i32) -> io::Result<Vec<u8>> {
    #[repr(C, align(8))]
    struct Place([u8; ADDRESS_BYTES_MAX]);
    let mut place = Place([0; ADDRESS_BYTES_MAX]);
    let mut length = ADDRESS_BYTES_MAX as libc::socklen_t;
    checked(get((&raw mut place).cast(), &raw mut length))?;
    Ok(place.0[..(length as usize).min(ADDRESS_BYTES_MAX)].to_vec())
}

/// Something that was received and not yet read.
#[derive(Debug)]
pub struct SocketMessage {
    pub bytes: Redacted<Vec<u8>>,
    /// Duplicates of the descriptors in flight (SCM_RIGHTS), close-on-exec.
    pub files: Vec<OwnedFd>,
    /// The sender's address with its family; empty where it has none, and for streams.
    pub sender: Vec<u8>,
}

/// What waits in the queue of a socket that is not listening, in order, without taking it: one entry a
/// message, and of a stream one entry for all bytes up to those that carry descriptors, and one for these.
///
/// Exact only while nobody reads or writes. Most queues are read without a change to the socket. SO_PEEK_OFF
/// is set while messages, or a stream with descriptors in flight, are read, and put back as it was on every
/// way out; if we are killed in between, a child process does it.
/// A datagram of no bytes that somebody has peeked at before is passed over by the kernel. A socket other than
/// a stream on which an error is pending is an error here, too.
///
/// One peek at a stream gives the bytes that were sent before a descriptor together with it. Where its own bytes
/// begin is found by a second peek.
pub fn peek_socket(fd: BorrowedFd<'_>) -> io::Result<Vec<SocketMessage>> {
    if socket_kind(fd)? != libc::SOCK_STREAM {
        return if is_readable(fd)? { peek_with_offset(fd, None) } else { Ok(Vec::new()) };
    }
    let total = queued_bytes(fd)?;
    if total == 0 {
        return Ok(Vec::new());
    }
    let saved_offset = integer_option(fd, libc::SO_PEEK_OFF).unwrap_or(-1);
    if saved_offset < 0 {
        let message = peek_once(fd, total, Read::Stream)?;
        match message {
            Some(message) if message.bytes.0.len() == total => {
                return split_at_files(fd, message);
            }
            _ => {}
        }
    }
    peek_with_offset(fd, Some(total))
}

fn peek_with_offset(fd: BorrowedFd<'_>, stream_bytes: Option<usize>) -> io::Result<Vec<SocketMessage>> {
    let _restored_on_drop = PeekOffset::save(fd)?;
    let mut messages = Vec::new();
    let mut offset = 0;
    while stream_bytes.is_none_or(|total| offset < total) {
        set_peek_offset(fd, i32::try_from(offset).map_err(io::Error::other)?)?;
        let read = match stream_bytes {
            Some(total) => peek_once(fd, total - offset, Read::Stream)?,
            None => peek_message(fd, offset)?,
        };
        let Some(message) = read else { break };
        let start = i32::try_from(offset).map_err(io::Error::other)?;
        offset += message.bytes.0.len();
        if stream_bytes.is_some() {
            set_peek_offset(fd, start)?;
            messages.extend(split_at_files(fd, message)?);
        } else {
            messages.push(message);
        }
        if messages.len() > MESSAGES_MAX {
            return Err(io::Error::other("a socket's queue does not end"));
        }
    }
    if stream_bytes.is_some_and(|total| total != offset) {
        return Err(io::Error::other("a socket's queue changed while it was read"));
    }
    Ok(messages)
}

/// Splits what a stream gave at once before the bytes that its descriptors came with.
fn split_at_files(fd: BorrowedFd<'_>, message: SocketMessage) -> io::Result<Vec<SocketMessage>> {
    let length = message.bytes.0.len();
    if message.files.is_empty() || length < 2 {
        return Ok(vec![message]);
    }
    let start = start_of_last_piece(fd, length)?;
    if start == 0 {
        return Ok(vec![message]);
    }
    let (before, after) = message.bytes.0.split_at(start);
    let before = SocketMessage { bytes: Redacted(before.to_vec()), files: Vec::new(), sender: Vec::new() };
    let after = SocketMessage { bytes: Redacted(after.to_vec()), files: message.files, sender: Vec::new() };
    Ok(vec![before, after])
}

/// Where the last of the pieces begins that a stream gives at once, `length` bytes in all. The kernel copies piece by
/// piece, and one that does not fit into memory is left out whole: so all are asked for with the last byte's place
/// being no memory.
fn start_of_last_piece(fd: BorrowedFd<'_>, length: usize) -> io::Result<usize> {
    const PAGE: usize = 4096;
    let room = (length - 1).next_multiple_of(PAGE);
    // SAFETY: a new private mapping, wherever there is place.
    let area = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        libc::mmap(std::ptr::null_mut(), room + PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    };
    if area == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the last page of the area, which nothing refers to.
    let guarded = checked(unsafe { libc::mprotect(area.byte_add(room), PAGE, libc::PROT_NONE) });
    // SAFETY: inside the area, as `length - 1 <= room`.
    let base = unsafe { area.byte_add(room - (length - 1)) };
    let mut vector = libc::iovec { iov_base: base, iov_len: length };
    // SAFETY: all zeros is a message header without buffers.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    // SAFETY: the kernel writes into the area only, and answers where it may not.
    let count = unsafe { libc::recvmsg(fd.as_raw_fd(), &mut header, libc::MSG_PEEK | libc::MSG_DONTWAIT) };
    let error = io::Error::last_os_error();
    // SAFETY: ours alone, and no reference to it is left.
    unsafe { libc::munmap(area, room + PAGE) };
    guarded?;
    match count {
        0.. => Ok((count as usize).min(length - 1)),
        _ if error.raw_os_error() == Some(libc::EFAULT) => Ok(0),
        _ => Err(error),
    }
}

/// One whole message, with as much room as it needs.
fn peek_message(fd: BorrowedFd<'_>, offset: usize) -> io::Result<Option<SocketMessage>> {
    let mut room = MESSAGE_BYTES;
    loop {
        match peek_once(fd, room, Read::Message) {
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) && room < MESSAGE_BYTES_MAX => {
                room *= 8;
                set_peek_offset(fd, i32::try_from(offset).map_err(io::Error::other)?)?;
            }
            other => return other,
        }
    }
}

/// Puts SO_PEEK_OFF back as it was: on every way out, and by a child process where we are killed before.
struct PeekOffset<'a> {
    fd: BorrowedFd<'a>,
    saved: i32,
    heir: libc::pid_t,
    /// The heir waits for the end of this pipe.
    alive: io::PipeWriter,
}

impl<'a> PeekOffset<'a> {
    fn save(fd: BorrowedFd<'a>) -> io::Result<PeekOffset<'a>> {
        let saved = integer_option(fd, libc::SO_PEEK_OFF)?;
        let (reader, alive) = io::pipe()?;
        // SAFETY: the child makes system calls only, then ends: so it does not matter what other threads of ours
        // held at this moment.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => inherit(fd, saved, reader.as_raw_fd(), alive.as_raw_fd()),
            heir => Ok(PeekOffset { fd, saved, heir, alive }),
        }
    }
}

/// In the child: waits for a byte or the end of the pipe, which means that the parent was killed.
fn inherit(fd: BorrowedFd<'_>, saved: i32, reader: RawFd, writer: RawFd) -> ! {
    let mut byte = 0u8;
    // SAFETY: plain numbers, a live signal set and a live byte. Nothing but SIGKILL shall end this process.
    unsafe {
        libc::setsid();
        let mut all = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::sigprocmask(libc::SIG_BLOCK, &all, std::ptr::null_mut());
        libc::close(writer);
        if libc::read(reader, (&raw mut byte).cast(), 1) == 0 {
            let _ = set_peek_offset(fd, saved);
        }
        libc::_exit(0)
    }
}

impl Drop for PeekOffset<'_> {
    fn drop(&mut self) {
        use std::io::Write;
        // Cannot fail where it could be set before; there is nothing else to do about it.
        let _ = set_peek_offset(self.fd, self.saved);
        // The heir is alive and reads, so this cannot fail either.
        let _ = self.alive.write_all(&[0]);
        let mut status = 0;
        // SAFETY: a live int. __WALL: whatever its exit signal.
        unsafe { libc::waitpid(self.heir, &mut status, libc::__WALL) };
    }
}

fn set_peek_offset(fd: BorrowedFd<'_>, offset: i32) -> io::Result<()> {
    let length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: a live int.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEEK_OFF,
            (&raw const offset).cast(),
            length,
        )
    };
    checked(result).map(drop)
}

fn is_readable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one live entry.
    checked(unsafe { libc::poll(&mut poll, 1, 0) })?;
    // To receive would take the error away from the program.
    if poll.revents & libc::POLLERR != 0 {
        return Err(io::Error::other("an error is pending on the socket"));
    }
    Ok(poll.revents & libc::POLLIN != 0)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    Stream,
    Message,
}

/// One recvmsg(2) with MSG_PEEK. `None` at the queue's end; EMSGSIZE where a message is longer than `room`.
fn peek_once(fd: BorrowedFd<'_>, room: usize, read: Read) -> io::Result<Option<SocketMessage>> {
    #[repr(C, align(8))]
    struct Aligned<const N: usize>([u8; N]);
    let mut bytes = vec![0u8; room];
    let mut control = Aligned([0u8; CONTROL_BYTES_MAX]);
    let mut sender = Aligned([0u8; ADDRESS_BYTES_MAX]);
    let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all zeros is a message header without buffers.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = (&raw mut sender).cast();
    header.msg_namelen = ADDRESS_BYTES_MAX as u32;
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = CONTROL_BYTES_MAX as _;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the header names live buffers with their lengths.
    let count = unsafe { libc::recvmsg(fd.as_raw_fd(), &mut header, flags) };
    if count < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
    }
    // SAFETY: recvmsg has just filled the header and its control buffer.
    let files = unsafe { take_files(&header) };
    if header.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::other("ancillary data was cut off: too many open files?"));
    }
    if read == Read::Message && header.msg_flags & libc::MSG_TRUNC != 0 {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    let sender = match read {
        Read::Message => sender.0[..(header.msg_namelen as usize).min(ADDRESS_BYTES_MAX)].to_vec(),
        Read::Stream => Vec::new(),
    };
    let at_end = count == 0 && read == Read::Message && ended(fd, &header)?;
    if at_end || (count == 0 && read == Read::Stream) {
        return Ok(None);
    }
    bytes.truncate(count as usize);
    Ok(Some(SocketMessage { bytes: Redacted(bytes), files, sender }))
}

/// Whether no bytes mean the end (the peer has gone) and not an empty message. Datagram sockets have no end,
/// unless receiving was shut down.
fn ended(fd: BorrowedFd<'_>, header: &libc::msghdr) -> io::Result<bool> {
    if header.msg_flags & libc::MSG_EOR != 0 || header.msg_controllen != 0 {
        return Ok(false);
    }
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one live entry.
    checked(unsafe { libc::poll(&mut poll, 1, 0) })?;
    Ok(poll.revents & (libc::POLLRDHUP | libc::POLLHUP) != 0)
}

/// Takes every descriptor that a received message brought.
///
/// # Safety
/// `header` is as recvmsg(2) left it, with its control buffer alive, and nobody has taken these before.
unsafe fn take_files(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut files = Vec::new();
    // SAFETY: by this function's contract.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !control.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give whole headers inside the buffer only.
        let (level, kind, length) =
            unsafe { ((*control).cmsg_level, (*control).cmsg_type, (*control).cmsg_len as usize) };
        if level == libc::SOL_SOCKET && (kind == libc::SCM_RIGHTS || kind == SCM_PIDFD) {
            // SAFETY: as above.
            let data = unsafe { libc::CMSG_DATA(control) };
            let payload = length.saturating_sub(data as usize - control as usize);
            for index in 0..payload / size_of::<RawFd>() {
                // SAFETY: inside the payload, whose length the kernel stated; it may be unaligned.
                let raw = unsafe { data.cast::<RawFd>().add(index).read_unaligned() };
                if raw < 0 {
                    continue;
                }
                // SAFETY: the kernel made it for us with this message.
                let file = unsafe { OwnedFd::from_raw_fd(raw) };
                // A pidfd of the sender comes because the socket asks for one (SO_PASSPIDFD): dropped.
                if kind == libc::SCM_RIGHTS {
                    files.push(file);
                }
            }
        }
        // SAFETY: as above.
        control = unsafe { libc::CMSG_NXTHDR(header, control) };
    }
    files
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Read as _, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

    use super::*;

    fn send_with_file(socket: &impl AsRawFd, bytes: &[u8], file: &impl AsRawFd) {
        let files = [file.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&files)];
        sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], &control, MsgFlags::empty(), None).unwrap();
    }

    fn texts(messages: &[SocketMessage]) -> Vec<&[u8]> {
        messages.iter().map(|message| &message.bytes.0[..]).collect()
    }

    #[test]
    fn a_stream_stays_as_it_was() {
        let (mut one, mut two) = UnixStream::pair().unwrap();
        assert!(peek_socket(two.as_fd()).unwrap().is_empty());
        one.write_all(b"hello ").unwrap();
        one.write_all(b"there").unwrap();
        for _ in 0..2 {
            assert_eq!(texts(&peek_socket(two.as_fd()).unwrap()), [b"hello there"]);
        }
        assert_eq!(integer_option(two.as_fd(), libc::SO_PEEK_OFF).unwrap(), -1);
        drop(one);
        assert_eq!(texts(&peek_socket(two.as_fd()).unwrap()), [b"hello there"]);
        let mut all = Vec::new();
        two.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"hello there");
        assert!(peek_socket(two.as_fd()).unwrap().is_empty());
    }

    #[test]
    fn descriptors_in_flight_are_duplicated() {
        let (mut one, two) = UnixStream::pair().unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        send_with_file(&one, b"first", &reader);
        one.write_all(b"between").unwrap();
        send_with_file(&one, b"second", &writer);
        one.write_all(b"last").unwrap();
        let messages = peek_socket(two.as_fd()).unwrap();
        assert_eq!(texts(&messages), [&b"first"[..], b"between", b"second", b"last"]);
        let files: Vec<usize> = messages.iter().map(|message| message.files.len()).collect();
        assert_eq!(files, [1, 0, 1, 0]);
        writer.write_all(b"x").unwrap();
        assert_eq!(queued_bytes(messages[0].files[0].as_fd()).unwrap(), 1);
        assert_eq!(integer_option(two.as_fd(), libc::SO_PEEK_OFF).unwrap(), -1);
    }

    #[test]
    fn a_joined_group_is_found() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (group, other) = ("239.1.2.3".parse().unwrap(), "239.1.2.4".parse().unwrap());
        socket.join_multicast_v4(&group, &std::net::Ipv4Addr::LOCALHOST).unwrap();
        let loopback = 1;
        assert!(is_in_group(socket.as_fd(), loopback, group.into()).unwrap());
        assert!(!is_in_group(socket.as_fd(), loopback, other).unwrap());
    }

    #[test]
    fn an_heir_puts_the_offset_back() {
        let (one, two) = UnixDatagram::pair().unwrap();
        one.send(b"a").unwrap();
        let offset = PeekOffset::save(two.as_fd()).unwrap();
        set_peek_offset(two.as_fd(), 1).unwrap();
        let PeekOffset { alive, heir, .. } = &*std::mem::ManuallyDrop::new(offset);
        // SAFETY: what a kill does; the wrapper that owns it is never dropped.
        unsafe { libc::close(alive.as_raw_fd()) };
        let mut status = 0;
        // SAFETY: a live int.
        assert_eq!(unsafe { libc::waitpid(*heir, &mut status, 0) }, *heir);
        assert_eq!(integer_option(two.as_fd(), libc::SO_PEEK_OFF).unwrap(), -1);
    }

    #[test]
    fn datagrams_keep_their_bounds() {
        let (one, two) = UnixDatagram::pair().unwrap();
        assert!(peek_socket(two.as_fd()).unwrap().is_empty());
        let long = vec![7u8; 100_000];
        one.send(b"a").unwrap();
        one.send(b"").unwrap();
        one.send(&long).unwrap();
        assert_eq!(texts(&peek_socket(two.as_fd()).unwrap()), [&b"a"[..], b"", &long]);
        let mut buffer = [0u8; 8];
        assert_eq!(two.recv(&mut buffer).unwrap(), 1);
        assert_eq!(two.recv(&mut buffer).unwrap(), 0);
    }

    #[test]
    fn sequenced_packets_end_with_their_peer() {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, send, socketpair};
        let (one, two) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        send(one.as_raw_fd(), b"one", MsgFlags::empty()).unwrap();
        send(one.as_raw_fd(), b"three", MsgFlags::empty()).unwrap();
        assert_eq!(texts(&peek_socket(two.as_fd()).unwrap()), [&b"one"[..], b"three"]);
        drop(one);
        assert_eq!(texts(&peek_socket(two.as_fd()).unwrap()), [&b"one"[..], b"three"]);
    }

    #[test]
    fn names_and_options_are_read() {
        let path = std::env::temp_dir().join(format!("brant-socket-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let name = socket_name(listener.as_fd()).unwrap();
        assert_eq!(name[2..].strip_suffix(b"\0").unwrap(), path.as_os_str().as_encoded_bytes());
        assert_eq!(socket_peer(listener.as_fd()).unwrap(), None);
        assert_eq!(socket_domain(listener.as_fd()).unwrap(), libc::AF_UNIX);
        assert_eq!(socket_kind(listener.as_fd()).unwrap(), libc::SOCK_STREAM);
        assert_eq!(socket_protocol(listener.as_fd()).unwrap(), 0);
        let accepts = socket_option(listener.as_fd(), libc::SOL_SOCKET, libc::SO_ACCEPTCONN).unwrap();
        assert_eq!(accepts, 1i32.to_ne_bytes());
    }
}
