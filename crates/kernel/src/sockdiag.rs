//! NETLINK_SOCK_DIAG: what the kernel says of all sockets of our network namespace, to a plain user too.
//!
//! Facts relied upon: sock_diag(7), linux/unix_diag.h, linux/inet_diag.h. A socket that nobody has accepted
//! yet has no inode: it counts as 0.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::proc::Device;

/// States as in the kernel's `enum` of TCP states, which unix sockets use too.
pub const STATE_ESTABLISHED: u8 = 1;
pub const STATE_SYN_SENT: u8 = 2;
pub const STATE_CLOSE: u8 = 7;
pub const STATE_LISTEN: u8 = 10;

/// A unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnixEntry {
    pub inode: u64,
    /// SOCK_ number.
    pub kind: i32,
    /// [`STATE_ESTABLISHED`], [`STATE_CLOSE`] (not connected) or [`STATE_LISTEN`].
    pub state: u8,
    /// `sun_path` as bound: a leading NUL for an abstract name. `None` where it is not bound.
    pub name: Option<Vec<u8>>,
    /// The inode that bind(2) made in the file system.
    pub file: Option<(Device, u64)>,
    /// The peer's inode. Of a datagram socket: whom it was connected to.
    pub peer: Option<u64>,
    /// Of a listening socket: the inodes of the clients that wait to be accepted.
    pub pending: Vec<u64>,
    /// Bytes received and not read; of a listening socket, how many clients wait. Of a datagram socket the
    /// length of the first message only.
    pub receive_queue: u32,
    /// Bytes sent and not received by the peer; of a listening socket, its backlog.
    pub send_queue: u32,
    /// Bit 0: receiving was shut down, bit 1: sending was.
    pub shutdown: u8,
    /// `None` on kernels before 5.3.
    pub uid: Option<u32>,
}

/// An internet socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InetEntry {
    /// 0 for a connection that no process holds any more.
    pub inode: u64,
    /// IPPROTO_ number that was asked for.
    pub protocol: i32,
    pub state: u8,
    pub local: SocketAddr,
    /// All zeros where there is none.
    pub remote: SocketAddr,
    /// Bytes received and not read; of a listening socket, how many clients wait.
    pub receive_queue: u32,
    /// Bytes not acknowledged; of a listening socket, its backlog.
    pub send_queue: u32,
    /// As in [`UnixEntry`].
    pub shutdown: u8,
    pub uid: u32,
    /// The interface it is bound to; 0 for none.
    pub interface: u32,
}

/// Every unix socket.
pub fn unix_sockets() -> io::Result<Vec<UnixEntry>> {
    const SHOW_ALL_BUT_MEMORY: u32 = 0x1f | 0x40;
    let mut request = vec![libc::AF_UNIX as u8, 0, 0, 0];
    for word in [u32::MAX, 0, SHOW_ALL_BUT_MEMORY, u32::MAX, u32::MAX] {
        request.extend_from_slice(&word.to_ne_bytes());
    }
    dump(&request, parse_unix)
}

/// Every socket of a family (AF_INET, AF_INET6) and protocol (IPPROTO_TCP, IPPROTO_UDP, IPPROTO_RAW, ...).
/// Raw sockets come whatever their own protocol. ENOENT where the kernel cannot tell of that protocol.
pub fn inet_sockets(family: i32, protocol: i32) -> io::Result<Vec<InetEntry>> {
    const SHUTDOWN: u8 = 1 << (INET_DIAG_SHUTDOWN - 1);
    let mut request = vec![family as u8, protocol as u8, SHUTDOWN, 0];
    request.extend_from_slice(&u32::MAX.to_ne_bytes());
    request.extend_from_slice(&[0; INET_IDENTITY_BYTES]);
    dump(&request, |body| parse_inet(body, protocol))
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const HEADER_BYTES: usize = 16;
const INET_IDENTITY_BYTES: usize = 48;
const INET_DIAG_SHUTDOWN: u8 = 8;
/// The kernel fills buffers of 16 KiB at most where ours is larger.
const RECEIVE_BYTES: usize = 64 << 10;
const REPLY_TIMEOUT_S: libc::time_t = 10;
/// How often a list that changed while it was made is asked for again. The last one is taken as it is.
const ATTEMPTS_MAX: usize = 4;

/// Why a list is not complete.
enum End {
    Done,
    /// NLM_F_DUMP_INTR: sockets came or went in between.
    Interrupted,
}

fn dump<T>(request: &[u8], parse: impl Fn(&[u8]) -> Option<T>) -> io::Result<Vec<T>> {
    let socket = connect()?;
    let mut entries = Vec::new();
    for sequence in 1..=ATTEMPTS_MAX as u32 {
        entries.clear();
        send(&socket, request, sequence)?;
        if let End::Done = receive(&socket, sequence, &parse, &mut entries)? {
            break;
        }
    }
    Ok(entries)
}

fn connect() -> io::Result<OwnedFd> {
    const NETLINK_SOCK_DIAG: i32 = 4;
    // SAFETY: plain numbers.
    let raw =
        unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, NETLINK_SOCK_DIAG) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made for us alone.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let timeout = libc::timeval { tv_sec: REPLY_TIMEOUT_S, tv_usec: 0 };
    let length = size_of::<libc::timeval>() as libc::socklen_t;
    // SAFETY: a live value of that length.
    let set = unsafe {
        libc::setsockopt(raw, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const timeout).cast(), length)
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

fn send(socket: &OwnedFd, body: &[u8], sequence: u32) -> io::Result<()> {
    let mut message = Vec::with_capacity(HEADER_BYTES + body.len());
    message.extend_from_slice(&((HEADER_BYTES + body.len()) as u32).to_ne_bytes());
    message.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend_from_slice(&((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes());
    message.extend_from_slice(&sequence.to_ne_bytes());
    message.extend_from_slice(&0u32.to_ne_bytes());
    message.extend_from_slice(body);
    // SAFETY: a live buffer of that length; a netlink socket that is not bound sends to the kernel.
    let sent = unsafe { libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn receive<T>(
    socket: &OwnedFd,
    sequence: u32,
    parse: &impl Fn(&[u8]) -> Option<T>,
    entries: &mut Vec<T>,
) -> io::Result<End> {
    let mut buffer = vec![0u8; RECEIVE_BYTES];
    let mut interrupted = false;
    loop {
        // SAFETY: a live buffer of that length.
        let count = unsafe {
            libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_TRUNC)
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        let received = buffer.get(..count).ok_or_else(|| malformed("a reply is too long"))?;
        for message in Messages(received) {
            let message = message?;
            if message.sequence != sequence {
                continue;
            }
            interrupted |= message.flags & libc::NLM_F_DUMP_INTR as u16 != 0;
            match i32::from(message.kind) {
                libc::NLMSG_DONE => {
                    // It carries the error that a list ended with, where there was one.
                    let answer = u32_at(message.body, 0).map_or(0, |word| word as i32);
                    if answer < 0 {
                        return Err(io::Error::from_raw_os_error(answer.wrapping_neg()));
                    }
                    return Ok(if interrupted { End::Interrupted } else { End::Done });
                }
                libc::NLMSG_ERROR => {
                    let errno = u32_at(message.body, 0).ok_or_else(|| malformed("an error is too short"))?;
                    return Err(io::Error::from_raw_os_error((errno as i32).wrapping_neg()));
                }
                _ => entries.push(parse(message.body).ok_or_else(|| malformed("a socket's entry"))?),
            }
        }
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the kernel's list of sockets: {what}"))
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

/// The netlink messages of one datagram.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = io::Result<Message<'a>>;

    fn next(&mut self) -> Option<io::Result<Message<'a>>> {
        if self.0.is_empty() {
            return None;
        }
        let all = std::mem::take(&mut self.0);
        Some(split_message(all).ok_or_else(|| malformed("a message's length")).map(|(message, rest)| {
            self.0 = rest;
            message
        }))
    }
}

fn split_message(all: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let length = u32_at(all, 0)? as usize;
    let body = all.get(HEADER_BYTES..length)?;
    let rest = all.get(length.next_multiple_of(4)..).unwrap_or_default();
    let message = Message { kind: u16_at(all, 4)?, flags: u16_at(all, 6)?, sequence: u32_at(all, 8)?, body };
    Some((message, rest))
}

/// The attributes behind a fixed header: type and payload.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)?;
        let payload = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    })
}

/// `struct unix_diag_msg` and its attributes.
fn parse_unix(body: &[u8]) -> Option<UnixEntry> {
    const BODY_BYTES: usize = 16;
    let [_family, kind, state] = *body.get(..3)? else { return None };
    let mut entry =
        UnixEntry { inode: u32_at(body, 4)?.into(), kind: kind.into(), state, ..UnixEntry::default() };
    for (kind, payload) in attributes(body.get(BODY_BYTES..)?) {
        match kind {
            0 => entry.name = Some(payload.to_vec()),
            1 => entry.file = Some((Device::from_kernel(u32_at(payload, 4)?), u32_at(payload, 0)?.into())),
            2 => entry.peer = Some(u32_at(payload, 0)?.into()),
            3 => {
                entry.pending =
                    payload.chunks_exact(4).filter_map(|word| u32_at(word, 0)).map(u64::from).collect()
            }
            4 => (entry.receive_queue, entry.send_queue) = (u32_at(payload, 0)?, u32_at(payload, 4)?),
            6 => entry.shutdown = *payload.first()?,
            7 => entry.uid = Some(u32_at(payload, 0)?),
            _ => {}
        }
    }
    Some(entry)
}

/// `struct inet_diag_msg` and its attributes.
fn parse_inet(body: &[u8], protocol: i32) -> Option<InetEntry> {
    const BODY_BYTES: usize = 72;
    let [family, state] = *body.get(..2)? else { return None };
    let mut entry = InetEntry {
        inode: u32_at(body, 68)?.into(),
        protocol,
        state,
        local: SocketAddr::new(address(family, body, 8)?, port(body, 4)?),
        remote: SocketAddr::new(address(family, body, 24)?, port(body, 6)?),
        receive_queue: u32_at(body, 56)?,
        send_queue: u32_at(body, 60)?,
        shutdown: 0,
        uid: u32_at(body, 64)?,
        interface: u32_at(body, 40)?,
    };
    for (kind, payload) in attributes(body.get(BODY_BYTES..)?) {
        if kind == u16::from(INET_DIAG_SHUTDOWN) {
            entry.shutdown = *payload.first()?;
        }
    }
    Some(entry)
}

fn address(family: u8, body: &[u8], at: usize) -> Option<IpAddr> {
    let bytes: [u8; 16] = body.get(at..at + 16)?.try_into().ok()?;
    match i32::from(family) {
        libc::AF_INET => Some(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()),
        libc::AF_INET6 => Some(Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

fn port(body: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(body.get(at..at + 2)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use proptest::prelude::*;

    use super::*;
    use crate::descriptor::file_status;

    fn inode(fd: &impl AsFd) -> u64 {
        file_status(fd.as_fd()).unwrap().inode
    }

    fn find(entries: &[UnixEntry], socket: &impl AsFd) -> UnixEntry {
        let inode = inode(socket);
        entries.iter().find(|entry| entry.inode == inode).unwrap().clone()
    }

    #[test]
    fn a_pair_names_its_peer() {
        let (mut one, two) = UnixStream::pair().unwrap();
        one.write_all(b"five!").unwrap();
        one.shutdown(std::net::Shutdown::Write).unwrap();
        let entries = unix_sockets().unwrap();
        let (first, second) = (find(&entries, &one), find(&entries, &two));
        assert_eq!((first.peer, second.peer), (Some(inode(&two)), Some(inode(&one))));
        assert_eq!((first.kind, first.state, first.name), (libc::SOCK_STREAM, STATE_ESTABLISHED, None));
        assert_eq!((second.receive_queue, first.shutdown, second.shutdown), (5, 2, 1));
    }

    #[test]
    fn a_listener_names_those_who_wait() {
        let path = std::env::temp_dir().join(format!("brant-diag-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let file = std::fs::metadata(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let entry = find(&unix_sockets().unwrap(), &listener);
        assert_eq!(entry.state, STATE_LISTEN);
        assert_eq!(entry.pending, [inode(&client)]);
        let name = entry.name.unwrap();
        assert_eq!(name.strip_suffix(b"\0").unwrap_or(&name), path.as_os_str().as_encoded_bytes());
        use std::os::unix::fs::MetadataExt;
        assert_eq!(entry.file, Some((Device::from_stat(file.dev()), file.ino())));
        assert_eq!(entry.uid, Some(nix::unistd::getuid().as_raw()));
    }

    #[test]
    fn internet_sockets_are_listed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let tcp = inet_sockets(libc::AF_INET, libc::IPPROTO_TCP).unwrap();
        let of = |inode| tcp.iter().find(|entry| entry.inode == inode).unwrap();
        let (listening, connected) = (of(inode(&listener)), of(inode(&client)));
        assert_eq!((listening.state, listening.receive_queue), (STATE_LISTEN, 1));
        assert_eq!(listening.local, listener.local_addr().unwrap());
        assert_eq!(connected.state, STATE_ESTABLISHED);
        assert_eq!(connected.remote, listener.local_addr().unwrap());
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        match inet_sockets(libc::AF_INET, libc::IPPROTO_UDP) {
            Ok(all) => assert!(all.iter().any(|entry| entry.inode == inode(&udp))),
            Err(error) => eprintln!("skipped: this kernel does not list UDP sockets: {error}"),
        }
    }

    #[test]
    fn an_unknown_protocol_is_an_error() {
        assert_eq!(inet_sockets(libc::AF_INET, 250).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse_unix(&bytes);
            let _ = parse_inet(&bytes, 6);
            let _ = Messages(&bytes).count();
        }
    }
}
