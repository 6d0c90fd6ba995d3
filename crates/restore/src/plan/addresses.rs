//! Whether the ports and socket names of the image are free.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use brant_base::Refusals;
use brant_image::model::*;
use brant_kernel::facts::HostFacts;
use brant_kernel::sockdiag::{self, STATE_LISTEN};

use super::{Plan, Way, refusal, text};

pub(super) fn check(checkpoint: &Checkpoint, facts: &HostFacts, plan: &Plan, refusals: &mut Refusals) {
    for socket in &checkpoint.inet_sockets {
        if let Some(local) = socket_address(&plan.address(&socket.local))
            && local.port() != 0
        {
            check_port(socket, local, facts, refusals);
        }
    }
    for socket in &checkpoint.unix_sockets {
        check_reachable(checkpoint, socket, refusals);
        // The ends of a connection get their names without taking them.
        let connected = socket.kind != libc::SOCK_DGRAM
            && matches!(socket.state, UnixSocketState::Connected { .. } | UnixSocketState::PeerClosed);
        if !socket.address.is_empty() && !socket.address_deleted && !connected {
            check_name(socket, plan, refusals);
        }
    }
}

/// What the program sees of addresses that lead elsewhere.
pub(super) fn tell_changes(plan: &mut Plan) {
    for pair in &plan.map_addresses {
        let (from, to) = (pair.from, pair.to);
        let change = match plan.way {
            Way::AnyPid if plan.unmediated.is_empty() => {
                format!("the address {from} is {to} here, which the wrapper \"virtual\" hides")
            }
            Way::AnyPid => {
                format!(
                    "the address {from} is {to} here, which the wrapper \"virtual\" hides from all that is not static"
                )
            }
            Way::Namespaces => format!(
                "sockets that were bound or connected to {from} are at {to} now; the program sees that, and means {from} \
                 itself by that name from now on (with --any-pid the wrapper \"virtual\" hides it)"
            ),
        };
        plan.differences.push(change);
    }
}

/// The address in a `struct sockaddr_in` or `_in6`.
pub(crate) fn socket_address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    let ip = match family {
        libc::AF_INET => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(4..8)?).ok()?)),
        libc::AF_INET6 => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(8..24)?).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn check_port(socket: &InetSocket, local: SocketAddr, facts: &HostFacts, refusals: &mut Refusals) {
    let stream = socket.kind == libc::SOCK_STREAM;
    let resource = format!("the {} address {local}", if stream { "TCP" } else { "UDP" });
    let protected = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .ok()
        .and_then(|text| text.trim().parse::<u16>().ok())
        .unwrap_or(1024);
    if local.port() < protected && !facts.is_privileged() {
        refusals.push(refusal(
            "B-0417",
            resource.clone(),
            format!("ports below {protected} are for root"),
            "restore as root, or let the administrator lower net.ipv4.ip_unprivileged_port_start",
        ));
    }
    let ip = local.ip();
    let asks = |level, name| {
        let found = |option: &&SocketOption| (option.level, option.name) == (level, name);
        socket.options.0.iter().find(found).is_some_and(|option| option.value.iter().any(|byte| *byte != 0))
    };
    // A socket may ask to be bound to what is not there.
    let free = asks(libc::IPPROTO_IP, libc::IP_FREEBIND) || asks(libc::IPPROTO_IPV6, libc::IPV6_FREEBIND);
    if !ip.is_unspecified() && !ip.is_multicast() && !free && is_foreign(ip) {
        refusals.push(refusal(
            "B-0416",
            resource,
            "this host does not have the address",
            "add the address to an interface of this host, or name another: brant restore --map-address OLD=NEW",
        ));
        return;
    }
    let shares = |name| asks(libc::SOL_SOCKET, name);
    if shares(libc::SO_REUSEPORT) || (!stream && shares(libc::SO_REUSEADDR)) {
        return;
    }
    let protocol = if stream { libc::IPPROTO_TCP } else { libc::IPPROTO_UDP };
    let taken = sockdiag::inet_sockets(socket.family, protocol).unwrap_or_default();
    let conflict = taken.iter().any(|other| {
        let holds = !stream || other.state == STATE_LISTEN;
        let same = other.local.ip() == ip || other.local.ip().is_unspecified() || ip.is_unspecified();
        holds && same && other.local.port() == local.port()
    });
    if conflict {
        refusals.push(refusal(
            "B-0416",
            resource,
            "another program uses it",
            "end that program (it may be the captured one, still running: ss -lnp shows it), or name another address: brant \
             restore --map-address OLD:PORT=NEW:PORT",
        ));
    }
}

/// Whether no interface has the address. Binding to a port of the kernel's choice changes nothing that lasts.
fn is_foreign(ip: IpAddr) -> bool {
    let bound = UdpSocket::bind((ip, 0));
    bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
}

/// A datagram socket is connected, and its queue filled, through names.
fn check_reachable(checkpoint: &Checkpoint, socket: &UnixSocket, refusals: &mut Refusals) {
    if socket.kind != libc::SOCK_DGRAM || socket.state == UnixSocketState::PeerClosed {
        return;
    }
    let find = |id| checkpoint.unix_sockets.iter().find(|other| other.id == id);
    let peer = match socket.state {
        UnixSocketState::Connected { peer } => find(peer),
        _ => None,
    };
    let mutual = peer.is_some_and(|peer| {
        peer.id != socket.id && peer.state == UnixSocketState::Connected { peer: socket.id }
    });
    let nameless = |socket: &UnixSocket| socket.address.is_empty();
    let is_pair = mutual && peer.is_some_and(|peer| peer.address.is_empty()) && socket.address.is_empty();
    if is_pair {
        return;
    }
    let lost = peer.is_some_and(nameless) || (!socket.queue.is_empty() && nameless(socket));
    if lost {
        refusals.push(refusal(
            "B-0419",
            "a unix datagram socket".to_owned(),
            "it is connected to a socket without a name, or has messages and no name to send them to again",
            "take a checkpoint while it is connected to a socket with a name",
        ));
    }
}

fn check_name(socket: &UnixSocket, plan: &Plan, refusals: &mut Refusals) {
    let abstract_name = socket.address.first() == Some(&0);
    let shown = text(&socket.address).replace('\0', "@");
    let resource = format!("the unix socket name {shown}");
    let hint = "end the program that uses it (it may be the captured one, still running)";
    let open = sockdiag::unix_sockets().unwrap_or_default();
    if abstract_name {
        let holds = |other: &&sockdiag::UnixEntry| {
            let connection = other.peer.is_some() && other.kind != libc::SOCK_DGRAM;
            other.name.as_ref() == Some(&socket.address) && !connection
        };
        if open.iter().any(|other| holds(&other)) {
            refusals.push(refusal("B-0418", resource, "another program uses it", hint));
        }
        return;
    }
    if !socket.address.starts_with(b"/") {
        return;
    }
    let path = PathBuf::from(OsString::from_vec(plan.path(&socket.address)));
    let folder = path.parent().unwrap_or(&path);
    if let Err(error) = fs::metadata(folder) {
        let why = format!("its folder cannot be found: {error}");
        refusals.push(refusal("B-0414", resource, why, "make the folder"));
        return;
    }
    let Ok(found) = fs::symlink_metadata(&path) else { return };
    if !found.file_type().is_socket() {
        refusals.push(refusal("B-0418", resource, "something else is there now", "move it away"));
    } else if open.iter().any(|other| other.file.is_some_and(|(_, inode)| inode == found.ino())) {
        refusals.push(refusal("B-0418", resource, "another program uses it", hint));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_decoded() {
        let mut bytes = (libc::AF_INET as u16).to_ne_bytes().to_vec();
        bytes.extend([0x1f, 0x90, 127, 0, 0, 1]);
        bytes.extend([0; 8]);
        assert_eq!(socket_address(&bytes).unwrap().to_string(), "127.0.0.1:8080");
        let mut bytes = (libc::AF_INET6 as u16).to_ne_bytes().to_vec();
        bytes.extend([0, 80, 0, 0, 0, 0]);
        bytes.extend([0; 15]);
        bytes.push(1);
        bytes.extend([0; 4]);
        assert_eq!(socket_address(&bytes).unwrap().to_string(), "[::1]:80");
        assert_eq!(socket_address(&bytes[..9]), None);
    }
}
