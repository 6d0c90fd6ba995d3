//! Internet sockets, and the families that are not carried.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use brant_base::{Refusal, Refusals};
use brant_image::model::{InetSocketId, OpenFileId};
use brant_kernel::descriptor;

use super::{Description, Survey, What, on_its_way, unseen};

/// An internet socket that can be carried.
pub(crate) struct InetFound {
    pub(crate) id: InetSocketId,
    pub(crate) description: OpenFileId,
    pub(crate) family: i32,
    pub(crate) kind: i32,
    pub(crate) protocol: i32,
    /// The backlog, for a listening one.
    pub(crate) listening: Option<u32>,
}

/// Multipath TCP, which Go and others listen with.
pub(crate) const IPPROTO_MPTCP: i32 = 262;
const TCP_LISTEN: u8 = 10;
const TCP_CLOSE: u8 = 7;

/// Takes note of a socket that is no unix socket; [`look`] does the rest.
pub(super) fn note(survey: &mut Survey, id: OpenFileId) {
    let number = InetSocketId(survey.inet.len() as u32 + 1);
    survey.inet.push(InetFound {
        id: number,
        description: id,
        family: 0,
        kind: 0,
        protocol: 0,
        listening: None,
    });
}

pub(super) fn look(survey: &mut Survey, refusals: &mut Refusals) {
    let mut carried = Vec::new();
    for mut found in std::mem::take(&mut survey.inet) {
        let description = survey.descriptions.get(found.description);
        match examine(description, &mut found) {
            Ok(()) => {
                refuse_filter(description, refusals);
                survey.descriptions.get_mut(found.description).what = What::Inet(found.id);
                carried.push(found);
            }
            Err(Obstacle::Refused(refusal)) => refusals.push(refusal),
            Err(Obstacle::Outside(what, refusal)) => {
                if !survey.connect_outside(&[found.description], &what) {
                    refusals.push(refusal);
                }
            }
        }
    }
    survey.inet = carried;
}

enum Obstacle {
    Refused(Refusal),
    /// No obstacle at descriptors 0 to 2.
    Outside(String, Refusal),
}

fn examine(description: &Description, found: &mut InetFound) -> Result<(), Obstacle> {
    let failed =
        |error: std::io::Error| Obstacle::Refused(unseen(description.place.holder, "a socket", &error));
    let duplicate = description.place.duplicate().map_err(failed)?;
    let fd = duplicate.as_fd();
    found.family = descriptor::socket_domain(fd).map_err(failed)?;
    found.kind = descriptor::socket_kind(fd).map_err(failed)?;
    found.protocol = descriptor::socket_protocol(fd).map_err(failed)?;
    let internet = matches!(found.family, libc::AF_INET | libc::AF_INET6);
    match (found.kind, found.protocol) {
        (libc::SOCK_STREAM, libc::IPPROTO_TCP | IPPROTO_MPTCP) if internet => tcp(description, fd, found),
        (libc::SOCK_DGRAM, libc::IPPROTO_UDP) if internet => udp(description, fd),
        _ => {
            let what = format!("a {} socket", family_name(found.family, found.kind, found.protocol));
            let why = "sockets of this family or protocol are not carried";
            let hint = "let the program close it";
            Err(Obstacle::Refused(description.refuse("B-0334", what, why, hint)))
        }
    }
}

/// `struct tcp_info`: the state, the queue of a listening socket, and whether it ever sent or received.
struct TcpInfo {
    state: u8,
    pending: u32,
    backlog: u32,
    segments: u32,
}

fn tcp_info(fd: BorrowedFd<'_>) -> std::io::Result<TcpInfo> {
    let bytes = descriptor::socket_option(fd, libc::IPPROTO_TCP, libc::TCP_INFO)?;
    let word = |at: usize| {
        bytes.get(at..at + 4).map_or(0, |word| u32::from_ne_bytes(word.try_into().expect("four bytes")))
    };
    // linux/tcp.h: tcpi_unacked, tcpi_sacked, tcpi_segs_out and tcpi_segs_in.
    let segments = word(136) | word(140);
    Ok(TcpInfo { state: bytes.first().copied().unwrap_or(0), pending: word(24), backlog: word(28), segments })
}

fn tcp(description: &Description, fd: BorrowedFd<'_>, found: &mut InetFound) -> Result<(), Obstacle> {
    let info = match tcp_info(fd) {
        Ok(info) => info,
        // One of multipath TCP that was not used yet has no flow to ask.
        Err(_) if found.protocol == IPPROTO_MPTCP => return Ok(()),
        Err(error) => {
            return Err(Obstacle::Refused(unseen(description.place.holder, "a TCP socket", &error)));
        }
    };
    match info.state {
        TCP_LISTEN if info.pending > 0 => {
            let why = "a connection waits to be accepted";
            Err(Obstacle::Refused(on_its_way(description, "a listening TCP socket", why)))
        }
        TCP_LISTEN => {
            found.listening = Some(info.backlog);
            Ok(())
        }
        TCP_CLOSE if info.segments == 0 => Ok(()),
        state => {
            let local = descriptor::socket_name(fd).ok().and_then(|bytes| address(&bytes));
            let peer = descriptor::socket_peer(fd).ok().flatten().and_then(|bytes| address(&bytes));
            let shown =
                |address: Option<SocketAddr>| address.map_or_else(|| "?".to_owned(), |it| it.to_string());
            let what =
                format!("{} TCP connection from {} to {}", state_name(state), shown(local), shown(peer));
            let hint = "let the program or its peer close the connection first";
            let why = "its peer would not accept another socket in its place";
            let refusal = description.refuse("B-0333", what.clone(), why, hint);
            Err(Obstacle::Outside(what, refusal))
        }
    }
}

fn udp(description: &Description, fd: BorrowedFd<'_>) -> Result<(), Obstacle> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut polled = [PollFd::new(fd, PollFlags::POLLIN)];
    let waits = poll(&mut polled, PollTimeout::ZERO).is_ok_and(|count| count > 0);
    if waits {
        let why = "datagrams or an error wait to be read";
        return Err(Obstacle::Refused(on_its_way(description, "a UDP socket", why)));
    }
    let joined = groups()
        .into_iter()
        .find(|(interface, group)| descriptor::is_in_group(fd, *interface, *group).unwrap_or(false));
    match joined {
        None => Ok(()),
        Some((_, group)) => {
            let what = format!("a UDP socket in the multicast group {group}");
            let why = "memberships of groups are not carried";
            Err(Obstacle::Refused(description.refuse("B-0334", what, why, "let the program leave the group")))
        }
    }
}

/// The multicast groups that somebody on this host is in, with the indices of their interfaces.
fn groups() -> Vec<(u32, IpAddr)> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let mut groups = groups_v4(&read("/proc/net/igmp"));
    groups.extend(read("/proc/net/igmp6").lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let interface = words.next()?.parse().ok()?;
        let group = u128::from_str_radix(words.nth(1)?, 16).ok()?;
        Some((interface, Ipv6Addr::from(group).into()))
    }));
    groups
}

/// A line for each interface, then one for each of its groups: the number as it lies in memory.
fn groups_v4(text: &str) -> Vec<(u32, IpAddr)> {
    let mut interface = 0;
    let mut groups = Vec::new();
    for line in text.lines().skip(1) {
        let Some(word) = line.split_ascii_whitespace().next() else { continue };
        if !line.starts_with(char::is_whitespace) {
            interface = word.parse().unwrap_or(0);
        } else if let Ok(group) = u32::from_str_radix(word, 16) {
            groups.push((interface, Ipv4Addr::from(group.to_ne_bytes()).into()));
        }
    }
    groups
}

/// A filter can neither be seen nor put back.
pub(super) fn refuse_filter(description: &Description, refusals: &mut Refusals) {
    const SO_GET_FILTER: i32 = 26;
    let Ok(duplicate) = description.place.duplicate() else { return };
    let attached = match descriptor::socket_option(duplicate.as_fd(), libc::SOL_SOCKET, SO_GET_FILTER) {
        Ok(instructions) => !instructions.is_empty(),
        // An eBPF filter.
        Err(error) => error.raw_os_error() == Some(libc::EACCES),
    };
    if attached {
        let what = "a filter on a socket".to_owned();
        let why = "it cannot be read";
        refusals.push(description.refuse("B-0347", what, why, "let the program detach it"));
    }
}

fn address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    let ip: IpAddr = match family {
        libc::AF_INET => Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(4..8)?).ok()?).into(),
        libc::AF_INET6 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(8..24)?).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn state_name(state: u8) -> &'static str {
    match state {
        1 => "an established",
        2 | 3 => "a half open",
        TCP_CLOSE => "an ended",
        _ => "a half closed",
    }
}

fn family_name(family: i32, kind: i32, protocol: i32) -> String {
    let name = match (family, kind) {
        (libc::AF_NETLINK, _) => "netlink",
        (libc::AF_PACKET, _) => "packet",
        (libc::AF_VSOCK, _) => "vsock",
        (libc::AF_ALG, _) => "kernel crypto",
        (libc::AF_BLUETOOTH, _) => "bluetooth",
        (libc::AF_CAN, _) => "CAN bus",
        (libc::AF_XDP, _) => "XDP",
        (libc::AF_TIPC, _) => "TIPC",
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_RAW) => "raw internet",
        (libc::AF_INET | libc::AF_INET6, _) => return format!("internet (protocol {protocol})"),
        (libc::AF_UNIX, _) => return "unix (of another network namespace)".to_owned(),
        _ => return format!("family {family}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown() {
        let v4 = [2, 0, 0x1f, 0x90, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(address(&v4).unwrap().to_string(), "127.0.0.1:8080");
        assert_eq!(address(&v4[..6]), None);
        let igmp = "Idx\tDevice    : Count Querier\n2\teth0      :     1      V3\n\t\t\t\tFB0000E0     1 0:00000000\t\t0\n";
        assert_eq!(groups_v4(igmp), [(2, IpAddr::from([224, 0, 0, 251]))]);
        assert_eq!(family_name(libc::AF_NETLINK, 3, 0), "netlink");
    }
}
