//! Sockets: addresses, options and what was received and not read yet.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use brant_base::{Refusal, Refusals};
use brant_image::model::*;
use brant_kernel::descriptor;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::files::Handles;
use crate::error::Error;
use crate::files::{self, InetFound, Survey, UnixFound};
use crate::refusals;

fn failed(what: &str) -> impl Fn(io::Error) -> Error + '_ {
    move |error| Error::Descriptor { what: format!("{what} of a socket"), error }
}

pub(crate) fn collect_unix(
    survey: &Survey,
    handles: &mut Handles,
    refusals: &mut Refusals,
) -> Result<Vec<UnixSocket>, Error> {
    let sockets: Vec<UnixSocket> = survey
        .unix
        .iter()
        .map(|found| unix(survey, found, handles, refusals))
        .collect::<Result<_, Error>>()?;
    for (socket, found) in sockets.iter().zip(&survey.unix) {
        if has_lost_a_name(socket, &sockets) {
            let place = survey.descriptions.get(found.description).place;
            refusals.push(refusals::descriptor(
                "B-0335",
                place.holder,
                place.number,
                "a unix datagram socket",
                "it is connected to a socket without a name, or has messages and no name to send them to again",
                "let the program close it",
            ));
        }
    }
    Ok(sockets)
}

/// A datagram socket that is no half of a pair is connected, and its queue filled, through names.
fn has_lost_a_name(socket: &UnixSocket, all: &[UnixSocket]) -> bool {
    if socket.kind != libc::SOCK_DGRAM || socket.state == UnixSocketState::PeerClosed {
        return false;
    }
    let nameless = |socket: &UnixSocket| socket.address.is_empty();
    let peer = match socket.state {
        UnixSocketState::Connected { peer } => all.iter().find(|other| other.id == peer),
        _ => None,
    };
    let is_pair = peer.is_some_and(|peer| {
        peer.id != socket.id
            && peer.state == UnixSocketState::Connected { peer: socket.id }
            && peer.address.is_empty()
            && socket.address.is_empty()
    });
    !is_pair && (peer.is_some_and(nameless) || (!socket.queue.is_empty() && nameless(socket)))
}

fn unix(
    survey: &Survey,
    found: &UnixFound,
    handles: &mut Handles,
    refusals: &mut Refusals,
) -> Result<UnixSocket, Error> {
    let duplicate = handles.duplicate(survey.descriptions.get(found.description).place)?;
    let fd = duplicate.as_fd();
    let listening = matches!(found.state, UnixSocketState::Listening { .. });
    let queue = match survey.queues.get(&found.inode) {
        Some(known) => known.clone(),
        None if listening => Vec::new(),
        None => queue(survey, found, fd, refusals)?,
    };
    Ok(UnixSocket {
        id: found.id,
        kind: found.kind,
        address: files::bound_address(fd).map_err(failed("reading the address"))?,
        address_deleted: found.address_deleted,
        state: found.state,
        queue,
        shutdown: found.shutdown,
        options: options(fd, libc::AF_UNIX, found.kind).map_err(failed("reading the options"))?,
    })
}

/// The queue of a socket that had no descriptors in flight when it was surveyed.
fn queue(
    survey: &Survey,
    found: &UnixFound,
    fd: BorrowedFd<'_>,
    refusals: &mut Refusals,
) -> Result<Vec<UnixMessage>, Error> {
    let messages = descriptor::peek_socket(fd).map_err(failed("reading the queue"))?;
    if messages.iter().any(|message| !message.files.is_empty()) {
        let place = survey.descriptions.get(found.description).place;
        refusals.push(Refusal {
            hint: "try again in a moment".to_owned(),
            ..refusals::descriptor(
                "B-0336",
                place.holder,
                place.number,
                "a unix socket",
                "descriptors are in flight in it that this kernel does not count",
                "",
            )
        });
    }
    let message = |message: descriptor::SocketMessage| UnixMessage {
        bytes: message.bytes,
        files: Vec::new(),
        sender: files::sun_path(&message.sender),
    };
    Ok(messages.into_iter().map(message).collect())
}

pub(crate) fn collect_inet(survey: &Survey, handles: &mut Handles) -> Result<Vec<InetSocket>, Error> {
    survey.inet.iter().map(|found| inet(survey, found, handles)).collect()
}

fn inet(survey: &Survey, found: &InetFound, handles: &mut Handles) -> Result<InetSocket, Error> {
    let duplicate = handles.duplicate(survey.descriptions.get(found.description).place)?;
    let fd = duplicate.as_fd();
    let local = descriptor::socket_name(fd).map_err(failed("reading the address"))?;
    let peer = descriptor::socket_peer(fd).map_err(failed("reading the peer's address"))?;
    Ok(InetSocket {
        id: found.id,
        family: found.family,
        kind: found.kind,
        protocol: found.protocol,
        local: if is_bound(&local) { local } else { Vec::new() },
        peer: peer.unwrap_or_default(),
        listening: found.listening,
        options: options(fd, found.family, found.kind).map_err(failed("reading the options"))?,
    })
}

/// Whether an address names a port or a host: all zeros is what a socket has that was never bound.
fn is_bound(address: &[u8]) -> bool {
    address.get(2..).is_some_and(|rest| rest.iter().any(|byte| *byte != 0))
}

/// What is read with getsockopt(2) and can be set again; in the order to set it in.
const SOCKET_OPTIONS: &[i32] = &[
    libc::SO_REUSEADDR,
    libc::SO_REUSEPORT,
    libc::SO_DONTROUTE,
    libc::SO_BROADCAST,
    libc::SO_SNDBUF,
    libc::SO_RCVBUF,
    SO_BUF_LOCK,
    libc::SO_KEEPALIVE,
    libc::SO_OOBINLINE,
    libc::SO_PRIORITY,
    libc::SO_NO_CHECK,
    libc::SO_LINGER,
    libc::SO_PASSCRED,
    libc::SO_RCVLOWAT,
    libc::SO_RCVTIMEO,
    libc::SO_SNDTIMEO,
    libc::SO_BINDTODEVICE,
    libc::SO_TIMESTAMP,
    libc::SO_PASSSEC,
    libc::SO_TIMESTAMPNS,
    libc::SO_MARK,
    libc::SO_TIMESTAMPING,
    libc::SO_RXQ_OVFL,
    libc::SO_PEEK_OFF,
    libc::SO_SELECT_ERR_QUEUE,
    libc::SO_BUSY_POLL,
    libc::SO_ZEROCOPY,
    SO_PASSPIDFD,
];
const SO_PASSPIDFD: i32 = 76;
const SO_BUF_LOCK: i32 = 72;
const TCP_OPTIONS: &[i32] = &[
    libc::TCP_NODELAY,
    libc::TCP_CORK,
    libc::TCP_KEEPIDLE,
    libc::TCP_KEEPINTVL,
    libc::TCP_KEEPCNT,
    libc::TCP_SYNCNT,
    libc::TCP_LINGER2,
    libc::TCP_DEFER_ACCEPT,
    libc::TCP_WINDOW_CLAMP,
    libc::TCP_CONGESTION,
    libc::TCP_USER_TIMEOUT,
    libc::TCP_FASTOPEN,
    libc::TCP_FASTOPEN_CONNECT,
    libc::TCP_NOTSENT_LOWAT,
];
const IP_OPTIONS: &[i32] = &[
    libc::IP_TOS,
    libc::IP_TTL,
    libc::IP_PKTINFO,
    libc::IP_MTU_DISCOVER,
    libc::IP_RECVERR,
    libc::IP_RECVTTL,
    libc::IP_RECVTOS,
    libc::IP_FREEBIND,
    libc::IP_TRANSPARENT,
    libc::IP_BIND_ADDRESS_NO_PORT,
    libc::IP_MULTICAST_IF,
    libc::IP_MULTICAST_TTL,
    libc::IP_MULTICAST_LOOP,
    libc::IP_MULTICAST_ALL,
];
const IPV6_OPTIONS: &[i32] = &[
    libc::IPV6_V6ONLY,
    libc::IPV6_TCLASS,
    libc::IPV6_UNICAST_HOPS,
    libc::IPV6_MULTICAST_IF,
    libc::IPV6_MULTICAST_HOPS,
    libc::IPV6_MULTICAST_LOOP,
    libc::IPV6_MTU_DISCOVER,
    libc::IPV6_RECVERR,
    libc::IPV6_RECVPKTINFO,
    libc::IPV6_RECVHOPLIMIT,
    libc::IPV6_RECVTCLASS,
    libc::IPV6_FREEBIND,
];

/// The options in which a socket differs from a fresh one of its kind.
fn options(fd: BorrowedFd<'_>, family: i32, kind: i32) -> io::Result<SocketOptions> {
    let fresh = fresh(family, kind)?;
    let mut levels = vec![(libc::SOL_SOCKET, SOCKET_OPTIONS)];
    if family != libc::AF_UNIX {
        levels.push((libc::IPPROTO_IP, IP_OPTIONS));
    }
    if family == libc::AF_INET6 {
        levels.insert(1, (libc::IPPROTO_IPV6, IPV6_OPTIONS));
    }
    if family != libc::AF_UNIX && kind == libc::SOCK_STREAM {
        levels.push((libc::IPPROTO_TCP, TCP_OPTIONS));
    }
    let mut options = Vec::new();
    for (level, names) in levels {
        for name in names {
            // What this kernel or kind of socket does not have cannot differ.
            let Ok(value) = descriptor::socket_option(fd, level, *name) else { continue };
            if descriptor::socket_option(fresh.as_fd(), level, *name).is_ok_and(|usual| usual == value) {
                continue;
            }
            options.push(SocketOption { level, name: *name, value: to_be_set(level, *name, value) });
        }
    }
    // Setting a size fixes it, unless this says that it was the kernel's choice (Linux 5.14).
    let sized = |option: &SocketOption| {
        option.level == libc::SOL_SOCKET && matches!(option.name, libc::SO_SNDBUF | libc::SO_RCVBUF)
    };
    if options.iter().any(sized)
        && !options.iter().any(|option| option.level == libc::SOL_SOCKET && option.name == SO_BUF_LOCK)
        && let Ok(value) = descriptor::socket_option(fd, libc::SOL_SOCKET, SO_BUF_LOCK)
    {
        options.push(SocketOption { level: libc::SOL_SOCKET, name: SO_BUF_LOCK, value });
    }
    Ok(SocketOptions(options))
}

/// The kernel doubles the sizes of buffers that it is given (socket(7)).
fn to_be_set(level: i32, name: i32, value: Vec<u8>) -> Vec<u8> {
    let doubled = level == libc::SOL_SOCKET && matches!(name, libc::SO_SNDBUF | libc::SO_RCVBUF);
    match <[u8; 4]>::try_from(value.as_slice()) {
        Ok(bytes) if doubled => (i32::from_ne_bytes(bytes) / 2).to_ne_bytes().to_vec(),
        _ => value,
    }
}

fn fresh(family: i32, kind: i32) -> io::Result<OwnedFd> {
    let family = match family {
        libc::AF_UNIX => AddressFamily::Unix,
        libc::AF_INET => AddressFamily::Inet,
        _ => AddressFamily::Inet6,
    };
    let kind = match kind {
        libc::SOCK_STREAM => SockType::Stream,
        libc::SOCK_DGRAM => SockType::Datagram,
        _ => SockType::SeqPacket,
    };
    Ok(socket(family, kind, SockFlag::SOCK_CLOEXEC, None::<SockProtocol>)?)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn only_what_differs_is_kept() {
        let socket = fresh(libc::AF_INET, libc::SOCK_STREAM).unwrap();
        assert_eq!(options(socket.as_fd(), libc::AF_INET, libc::SOCK_STREAM).unwrap().0, []);
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::ReuseAddr, &true).unwrap();
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBuf, &10_000).unwrap();
        let options = options(socket.as_fd(), libc::AF_INET, libc::SOCK_STREAM).unwrap().0;
        let by_name: HashMap<i32, &[u8]> = options.iter().map(|it| (it.name, &it.value[..])).collect();
        assert_eq!(by_name[&libc::SO_REUSEADDR], 1i32.to_ne_bytes());
        assert_eq!(by_name[&libc::SO_RCVBUF], 10_000i32.to_ne_bytes());
        assert_eq!(by_name[&SO_BUF_LOCK], 2i32.to_ne_bytes());
        assert_eq!(options.len(), 3);
    }

    #[test]
    fn a_socket_that_was_never_bound_has_no_address() {
        assert!(!is_bound(&[2, 0, 0, 0, 0, 0, 0, 0]));
        assert!(is_bound(&[2, 0, 0, 80, 0, 0, 0, 0]));
    }
}
