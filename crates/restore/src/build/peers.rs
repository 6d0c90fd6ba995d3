//! Who made the ends of a unix connection (SO_PEERCRED): the kernel notes the process that called socketpair(2),
//! connect(2) or listen(2). So these calls are made again by processes of the tree, once it has grown, in place of
//! the builder's own; all who hold an end take it over under the number that it has in the store.
//!
//! Done for nameless pairs and for connections to a listener of the image. Other connections keep the builder as their
//! maker, which the tree sees as process 0; their users and groups are right.

use brant_base::{Addr, Pid};
use brant_image::model::*;
use brant_kernel::descriptor::{self, PidFd};
use brant_kernel::make;
use brant_kernel::remote::{Call, Puppet, RemoteError};

use super::files::FdStore;
use super::sockets::set_options;
use super::tree::Tasks;
use super::unix::{is_pair, record};
use crate::Error;

/// Two ends that are connected, with the descriptions that hold them.
struct Connection<'s> {
    ends: [(&'s UnixSocket, &'s OpenFile); 2],
}

pub(super) fn renew(store: &FdStore, tasks: &mut Tasks) -> Result<(), Error> {
    for connection in connections(store) {
        let [(one, _), (other, _)] = connection.ends;
        if one.address.is_empty() && other.address.is_empty() {
            renew_pair(store, tasks, &connection)?;
        } else if let Some(listener) = listener(store, one).filter(|_| other.address.is_empty()) {
            renew_accepted(store, tasks, &connection, listener)?;
        }
    }
    Ok(())
}

/// Each connection once; the end with a name comes first.
fn connections(store: &FdStore) -> Vec<Connection<'_>> {
    let file = |id: UnixSocketId| {
        let is_it = |file: &&OpenFile| file.kind == FileKind::UnixSocket { socket: id };
        store.checkpoint.open_files.iter().find(is_it)
    };
    let mut all = Vec::new();
    for socket in &store.checkpoint.unix_sockets {
        let UnixSocketState::Connected { peer } = socket.state else { continue };
        let stream = socket.kind != libc::SOCK_DGRAM;
        let peer = record(store, peer);
        if socket.id >= peer.id || !(stream || is_pair(store, socket)) {
            continue;
        }
        let (one, other) = if socket.address.is_empty() { (peer, socket) } else { (socket, peer) };
        if let (Some(one_file), Some(other_file)) = (file(one.id), file(other.id)) {
            all.push(Connection { ends: [(one, one_file), (other, other_file)] });
        }
    }
    all
}

/// The description of a listener with the name of an accepted end, where that leads to it from everywhere.
fn listener<'s>(store: &'s FdStore, accepted: &UnixSocket) -> Option<(&'s OpenFile, u32)> {
    if !matches!(accepted.address.first(), Some(0 | b'/')) {
        return None;
    }
    store.checkpoint.open_files.iter().find_map(|file| {
        let FileKind::UnixSocket { socket } = file.kind else { return None };
        let socket = record(store, socket);
        match socket.state {
            UnixSocketState::Listening { backlog }
                if socket.address == accepted.address
                    && socket.kind == accepted.kind
                    && !socket.address_deleted =>
            {
                Some((file, backlog))
            }
            _ => None,
        }
    })
}

const PAIR: &str = "making a pair of unix sockets";
const CONNECTION: &str = "connecting unix sockets";

fn renew_pair(store: &FdStore, tasks: &mut Tasks, connection: &Connection<'_>) -> Result<(), Error> {
    let holders = connection.ends.iter().filter_map(|(_, file)| store.first_holder(file.id));
    let order = |pid: Pid| store.checkpoint.processes.iter().position(|process| process.pid == pid);
    // Parents stand before their children.
    let Some(maker) = holders.map(|(pid, _)| pid).min_by_key(|pid| order(*pid)) else { return Ok(()) };
    let puppet = tasks.get(maker);
    let failed = || Error::remote(maker, PAIR);
    let room = puppet.arguments().start();
    let kind = (connection.ends[0].0.kind | libc::SOCK_CLOEXEC) as u64;
    puppet.call(libc::SYS_socketpair, &[libc::AF_UNIX as u64, kind, 0, room.0]).map_err(failed())?;
    let mut made = [0u8; 8];
    puppet.read_memory(room, &mut made).map_err(failed())?;
    let number =
        |at: usize| u64::from(u32::from_ne_bytes([made[at], made[at + 1], made[at + 2], made[at + 3]]));
    take_over(store, tasks, connection, maker, [number(0), number(4)])
}

fn renew_accepted(
    store: &FdStore,
    tasks: &mut Tasks,
    connection: &Connection<'_>,
    (listener, backlog): (&OpenFile, u32),
) -> Result<(), Error> {
    let [(accepted, _), (_, client_file)] = connection.ends;
    let number = store.open_file(listener.id);
    let (Some((server, _)), Some((client, _)), Some(number)) =
        (store.first_holder(listener.id), store.first_holder(client_file.id), number)
    else {
        return Ok(());
    };
    let listening = [number as u64, u64::from(backlog)];
    tasks.get(server).call(libc::SYS_listen, &listening).map_err(Error::remote(server, CONNECTION))?;
    let puppet = tasks.get(client);
    let failed = || Error::remote(client, CONNECTION);
    let connecting = connect(puppet, accepted).map_err(failed())?;
    let own = accept_own(puppet, client, number)?;
    take_over(store, tasks, connection, client, [own, connecting])
}

fn connect(puppet: &mut Puppet, to: &UnixSocket) -> Result<u64, RemoteError> {
    let room: Addr = puppet.arguments().start();
    let kind = (to.kind | libc::SOCK_CLOEXEC) as u64;
    let fd = puppet.call(libc::SYS_socket, &[libc::AF_UNIX as u64, kind, 0])?;
    let address = make::unix_address(&to.address);
    puppet.write_memory(room, &address)?;
    puppet.call(libc::SYS_connect, &[fd, room.0, address.len() as u64])?;
    Ok(fd)
}

/// Accepts the connection that this process has just made. Somebody outside may have found the name already: such a
/// connection is closed, as it is when a server starts anew.
fn accept_own(puppet: &mut Puppet, pid: Pid, listener: i32) -> Result<u64, Error> {
    const FOREIGN_MAX: usize = 1000;
    let failed = || Error::remote(pid, CONNECTION);
    let host = Pid(puppet.tid().0);
    for _ in 0..FOREIGN_MAX {
        let arguments = [listener as u64, 0, 0, libc::SOCK_CLOEXEC as u64];
        let fd = puppet.call(libc::SYS_accept4, &arguments).map_err(failed())?;
        let maker = PidFd::open(host)
            .and_then(|pidfd| pidfd.descriptor(fd as i32))
            .and_then(|fd| {
                use std::os::fd::AsFd;
                descriptor::socket_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED)
            })
            .map_err(Error::builder(CONNECTION))?;
        if maker.get(..4) == Some(&host.0.to_ne_bytes()[..]) {
            return Ok(fd);
        }
        puppet.call(libc::SYS_close, &[fd]).map_err(failed())?;
    }
    Err(Error::Builder { operation: CONNECTION, error: std::io::ErrorKind::ConnectionRefused.into() })
}

/// Puts the ends, which process `maker` has as `made`, in the place of the builder's wherever they are needed.
fn take_over(
    store: &FdStore,
    tasks: &mut Tasks,
    connection: &Connection<'_>,
    maker: Pid,
    made: [u64; 2],
) -> Result<(), Error> {
    let puppet = tasks.get(maker);
    let host = Pid(puppet.tid().0);
    for ((socket, file), fd) in connection.ends.into_iter().zip(made) {
        let Some(number) = store.open_file(file.id) else { continue };
        let puppet = tasks.get(maker);
        let calls = [
            Call::new(libc::SYS_dup3, &[fd, number as u64, libc::O_CLOEXEC as u64]),
            Call::new(libc::SYS_close, &[fd]),
        ];
        puppet.batch_all(&calls).map_err(Error::remote(maker, PAIR))?;
        let own = PidFd::open(host)
            .and_then(|pidfd| pidfd.descriptor(number))
            .map_err(Error::builder("taking over a unix socket"))?;
        set_options(store, &own, &socket.options);
        make::set_status(&own, file.flags as i32).map_err(Error::builder("setting a socket's flags"))?;
        make::replace(&own, number).map_err(Error::builder("taking over a unix socket"))?;
        for process in &store.checkpoint.processes {
            let Some(body) = &process.body else { continue };
            let caretaker = store.caretaker() == Some(process.pid);
            if process.pid != maker && (caretaker || needs(store, body, file.id)) {
                let maker = tasks.numbers.of(maker)?;
                fetch(tasks.get(process.pid), maker, number)
                    .map_err(Error::remote(process.pid, "taking over a unix socket"))?;
            }
        }
    }
    Ok(())
}

/// Whether a process has the description, or watches it by an epoll instance.
fn needs(store: &FdStore, body: &ProcessBody, id: OpenFileId) -> bool {
    body.descriptors.iter().any(|descriptor| {
        descriptor.file == id
            || match &store.description(descriptor.file).kind {
                FileKind::Epoll { watches } => watches.iter().any(|watch| watch.file == id),
                _ => false,
            }
    })
}

fn fetch(puppet: &mut Puppet, from: Pid, number: i32) -> Result<(), RemoteError> {
    let pidfd = puppet.call(libc::SYS_pidfd_open, &[from.0 as u64, 0])?;
    let fd = puppet.call(libc::SYS_pidfd_getfd, &[pidfd, number as u64, 0])?;
    puppet.call(libc::SYS_dup3, &[fd, number as u64, libc::O_CLOEXEC as u64])?;
    puppet.batch_all(&[Call::new(libc::SYS_close, &[fd]), Call::new(libc::SYS_close, &[pidfd])]).map(drop)
}
