//! Unix sockets of the tree: pairs, connections under a listener's name, listeners, datagram sockets; then what is
//! queued in them.
//!
//! Facts relied upon (unix(7) and net/unix/af_unix.c): an accepted socket has its listener's name, and the name is the
//! text that bind(2) was given. So the ends of a connection get theirs from a listener that lives for a moment, bound to
//! that text in a tmpfs that only we see: no name of the host's is touched. Where we may not mount, the name itself is taken for
//! that moment, and what has it is called otherwise meanwhile. A datagram socket that is connected takes
//! messages from its peer only, so queues are filled before such sockets are connected. A message remembers the name
//! of who sent it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use brant_image::model::*;
use brant_kernel::{make, namespace};

use super::files::FdStore;
use super::sockets::set_options;
use crate::{Error, Plan};

/// The sockets, and for those whose peer has gone, the peers: they are closed once the queues are filled.
#[derive(Default)]
pub(super) struct UnixSockets {
    made: BTreeMap<UnixSocketId, OwnedFd>,
    gone: BTreeMap<UnixSocketId, OwnedFd>,
    /// Where datagram sockets are whose name is gone: O_PATH descriptors of what bind(2) made.
    places: BTreeMap<UnixSocketId, OwnedFd>,
}

const MAKING: &str = "making a unix socket";

/// Makes all sockets of the image: first connections, then what holds names.
pub(super) fn make_all(store: &FdStore, plan: &Plan) -> Result<UnixSockets, Error> {
    let mut sockets = UnixSockets::default();
    let all = &store.checkpoint.unix_sockets;
    for socket in all {
        if !sockets.made.contains_key(&socket.id) {
            sockets.connect(store, socket).map_err(name_error(socket, "connecting"))?;
        }
    }
    let unmade: Vec<&UnixSocket> =
        all.iter().filter(|socket| !sockets.made.contains_key(&socket.id)).collect();
    for socket in unmade {
        let fd = sockets.make_named(store, plan, socket).map_err(name_error(socket, "binding"))?;
        sockets.made.insert(socket.id, fd);
    }
    for socket in all {
        set_options(store, &sockets.made[&socket.id], &socket.options);
    }
    Ok(sockets)
}

fn name_error(socket: &UnixSocket, operation: &'static str) -> impl FnOnce(io::Error) -> Error {
    let shown = String::from_utf8_lossy(&socket.address).replace('\0', "@");
    move |error| {
        if shown.is_empty() {
            return Error::Builder { operation: MAKING, error };
        }
        Error::Path { operation, path: format!("the unix socket {shown}"), error }
    }
}

pub(super) fn record(store: &FdStore, id: UnixSocketId) -> &UnixSocket {
    store.checkpoint.unix_sockets.iter().find(|socket| socket.id == id).expect("validated")
}

/// Two datagram sockets that came from socketpair(2), or might as well.
pub(super) fn is_pair(store: &FdStore, socket: &UnixSocket) -> bool {
    let UnixSocketState::Connected { peer } = socket.state else { return false };
    let peer = record(store, peer);
    peer.id != socket.id
        && peer.state == UnixSocketState::Connected { peer: socket.id }
        && socket.address.is_empty()
        && peer.address.is_empty()
}

impl UnixSockets {
    /// Makes both ends of a connection, or the end that is left of it.
    fn connect(&mut self, store: &FdStore, socket: &UnixSocket) -> io::Result<()> {
        let stream = socket.kind != libc::SOCK_DGRAM;
        match socket.state {
            UnixSocketState::Connected { peer } if stream || is_pair(store, socket) => {
                let peer = record(store, peer);
                let (one, other) = connected(store, socket, peer)?;
                self.made.insert(socket.id, one);
                self.made.insert(peer.id, other);
            }
            UnixSocketState::PeerClosed => {
                let nameless = UnixSocket { id: socket.id, kind: socket.kind, ..UnixSocket::default() };
                let (one, other) = connected(store, socket, &nameless)?;
                self.made.insert(socket.id, one);
                self.gone.insert(socket.id, other);
            }
            _ => {}
        }
        Ok(())
    }

    /// A socket that is not connected yet, with its own name.
    fn make_named(&mut self, store: &FdStore, plan: &Plan, socket: &UnixSocket) -> io::Result<OwnedFd> {
        let fd = make::unix_socket(socket.kind)?;
        if !socket.address.is_empty() {
            if socket.address_deleted {
                let place = with_private_name(store, socket, |name| {
                    make::bind_raw(&fd, name)?;
                    make::open(Path::new(OsStr::from_bytes(&socket.address)), libc::O_PATH)
                })?;
                self.places.insert(socket.id, place);
            } else {
                at_home(store, socket, || bind(store, socket, &fd, &name_here(plan, socket)))?;
            }
        }
        if let UnixSocketState::Listening { backlog } = socket.state {
            make::listen(&fd, backlog)?;
        }
        Ok(fd)
    }

    /// An address that leads to the socket from here.
    fn address(&self, plan: &Plan, socket: &UnixSocket) -> Vec<u8> {
        use std::os::fd::AsRawFd;
        match self.places.get(&socket.id) {
            // A name that leads through the descriptor to the socket itself (proc_pid_fd(5)).
            Some(place) => make::unix_address(format!("/proc/self/fd/{}", place.as_raw_fd()).as_bytes()),
            None => make::unix_address(&name_here(plan, socket)),
        }
    }

    pub(super) fn take(&mut self, id: UnixSocketId) -> Option<OwnedFd> {
        self.made.remove(&id)
    }
}

/// A connection between two sockets, each under its name.
fn connected(store: &FdStore, one: &UnixSocket, other: &UnixSocket) -> io::Result<(OwnedFd, OwnedFd)> {
    if one.address.is_empty() && other.address.is_empty() {
        return make::socket_pair(one.kind);
    }
    if one.kind == libc::SOCK_DGRAM {
        // What is left of a pair of named ones: the name is bound afterwards.
        let (end, gone) = make::socket_pair(one.kind)?;
        with_private_name(store, one, |name| make::bind_raw(&end, name))?;
        return Ok((end, gone));
    }
    let listens = |socket: &UnixSocket| {
        let is_listener = |at: &UnixSocket| matches!(at.state, UnixSocketState::Listening { .. });
        let mut all = store.checkpoint.unix_sockets.iter();
        all.any(|listener| is_listener(listener) && listener.address == socket.address)
    };
    let one_accepted = other.address.is_empty() || (!one.address.is_empty() && listens(one));
    let (accepted, client) = if one_accepted { (one, other) } else { (other, one) };
    let (accepted, client) = accept(store, accepted, client)?;
    Ok(if one_accepted { (accepted, client) } else { (client, accepted) })
}

fn accept(store: &FdStore, accepted: &UnixSocket, client: &UnixSocket) -> io::Result<(OwnedFd, OwnedFd)> {
    let (listener, connecting) = (make::unix_socket(accepted.kind)?, make::unix_socket(client.kind)?);
    if !client.address.is_empty() {
        with_private_name(store, client, |name| make::bind_raw(&connecting, name))?;
    }
    with_private_name(store, accepted, |name| {
        make::bind_raw(&listener, name)?;
        make::listen(&listener, 1)?;
        make::connect_raw(&connecting, name)
    })?;
    Ok((make::accept(&listener)?, connecting))
}

/// The process that a socket is set up for: the first that has it.
fn holder<'s>(store: &'s FdStore, socket: &UnixSocket) -> Option<&'s ProcessBody> {
    let is_it = |file: &&OpenFile| file.kind == FileKind::UnixSocket { socket: socket.id };
    let file = store.checkpoint.open_files.iter().find(is_it)?;
    let (pid, _) = store.first_holder(file.id)?;
    store.checkpoint.processes.iter().find(|process| process.pid == pid)?.body.as_ref()
}

/// Runs `action` where relative names count from the socket's process's working directory, most likely the one
/// that it was bound in.
fn at_home<T>(store: &FdStore, socket: &UnixSocket, action: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    if matches!(socket.address.first(), None | Some(0 | b'/')) {
        return action();
    }
    let cwd = holder(store, socket).map_or(&b"/"[..], |body| &body.cwd);
    inside(Path::new(OsStr::from_bytes(cwd)), action)
}

/// Runs `action` with this working directory.
fn inside<T>(folder: &Path, action: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    // By descriptor: the way back may be covered.
    let before = make::open(Path::new("."), libc::O_PATH | libc::O_DIRECTORY)?;
    std::env::set_current_dir(folder)?;
    let result = action();
    nix::unistd::fchdir(&before)?;
    result
}

/// Runs `action` with the socket's address while nothing of the host's has that name for us.
fn with_private_name<T>(
    store: &FdStore,
    socket: &UnixSocket,
    action: impl FnOnce(&[u8]) -> io::Result<T>,
) -> io::Result<T> {
    let address = make::unix_address(&socket.address);
    if socket.address.first() == Some(&0) {
        return action(&address);
    }
    let relative = socket.address.first() != Some(&b'/');
    if store.numbers.are_given() {
        return if relative {
            in_own_folder(socket, &address, action)
        } else {
            in_place(socket, &address, action)
        };
    }
    // A relative name is the same text wherever it is bound.
    let base = if relative { std::env::temp_dir() } else { PathBuf::from("/") };
    let path = base.join(OsStr::from_bytes(&socket.address));
    let folder = path.parent().unwrap_or(Path::new("/"));
    let covered = folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/"));
    if covered == Path::new("/") {
        // The root cannot be covered. Its names are few.
        let result = action(&address);
        let _ = fs::remove_file(&path);
        return result;
    }
    let _uncovered_on_drop = namespace::cover(covered)?;
    fs::create_dir_all(folder)?;
    if relative { inside(&base, || action(&address)) } else { action(&address) }
}

/// A relative name, without mounts: in a folder of our own.
fn in_own_folder<T>(
    socket: &UnixSocket,
    address: &[u8],
    action: impl FnOnce(&[u8]) -> io::Result<T>,
) -> io::Result<T> {
    let base = std::env::temp_dir().join(format!("brant-names-{}", std::process::id()));
    let path = base.join(OsStr::from_bytes(&socket.address));
    fs::create_dir_all(path.parent().unwrap_or(&base))?;
    let result = inside(&base, || action(address));
    // The name may lead out of the folder.
    let _ = fs::remove_file(&path);
    let removed = fs::remove_dir_all(&base);
    let made = result?;
    removed.map(|()| made)
}

/// An absolute name, without mounts: what has it stands aside. The plan has seen that nobody listens there.
fn in_place<T>(
    socket: &UnixSocket,
    address: &[u8],
    action: impl FnOnce(&[u8]) -> io::Result<T>,
) -> io::Result<T> {
    let path = PathBuf::from(OsStr::from_bytes(&socket.address));
    let mut aside = path.clone().into_os_string();
    aside.push(format!(".brant-{}", std::process::id()));
    let was_there = match fs::rename(&path, &aside) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    let result = action(address);
    let _ = fs::remove_file(&path);
    if was_there {
        fs::rename(&aside, &path)?;
    }
    result
}

/// The socket's name on this host.
fn name_here(plan: &Plan, socket: &UnixSocket) -> Vec<u8> {
    if socket.address.starts_with(b"/") { plan.path(&socket.address) } else { socket.address.clone() }
}

/// Binds with the owner and the rights that a socket of its process has, or that one left behind there has.
fn bind(store: &FdStore, socket: &UnixSocket, fd: &OwnedFd, name: &[u8]) -> io::Result<()> {
    if name.first() == Some(&0) {
        return make::bind_unix(fd, name);
    }
    let path = Path::new(OsStr::from_bytes(name));
    let before = fs::symlink_metadata(path);
    make::bind_unix(fd, name)?;
    let body = holder(store, socket);
    const ALL: u32 = 0o777;
    let (mode, owner) = match (before, body) {
        (Ok(before), _) => (before.mode() & 0o7777, Some((before.uid(), before.gid()))),
        (Err(_), Some(body)) => {
            let credentials = &body.credentials;
            (ALL & !body.umask, Some((credentials.uids[3], credentials.gids[3])))
        }
        (Err(_), None) => return Ok(()),
    };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    if let Some((uid, gid)) = owner {
        // A plain user's is its own already.
        let _ = std::os::unix::fs::lchown(path, Some(uid), Some(gid));
    }
    Ok(())
}

/// Puts back what is queued, connects datagram sockets, shuts down what was. Descriptors in flight must be open.
pub(super) fn finish(store: &FdStore, plan: &Plan, mut sockets: UnixSockets) -> Result<(), Error> {
    let description = |id: UnixSocketId| {
        let is_it = |file: &&OpenFile| file.kind == FileKind::UnixSocket { socket: id };
        let file = store.checkpoint.open_files.iter().find(is_it)?;
        store.borrow(store.open_file(file.id)?)
    };
    let all = &store.checkpoint.unix_sockets;
    for socket in all {
        let gone = sockets.gone.remove(&socket.id);
        for message in &socket.queue {
            let files = in_flight(store, message)?;
            let sent = match socket.state {
                UnixSocketState::PeerClosed => {
                    let gone = gone.as_ref().expect("made with it");
                    make::send_message(gone, &message.bytes.0, &files)
                }
                UnixSocketState::Connected { peer }
                    if socket.kind != libc::SOCK_DGRAM || is_pair(store, socket) =>
                {
                    let sender = description(peer).ok_or(io::ErrorKind::NotConnected.into());
                    sender.and_then(|sender| make::send_message(sender, &message.bytes.0, &files))
                }
                _ => {
                    let address = sockets.address(plan, socket);
                    send_by_name(store, socket, message, &files, &address, &description)
                }
            };
            sent.map_err(Error::builder("putting messages back into a unix socket"))?;
        }
    }
    for socket in all.iter().filter(|socket| socket.kind == libc::SOCK_DGRAM && !is_pair(store, socket)) {
        let (UnixSocketState::Connected { peer }, Some(fd)) = (socket.state, description(socket.id)) else {
            continue;
        };
        let peer = record(store, peer);
        let address = sockets.address(plan, peer);
        at_home(store, peer, || make::connect_raw(fd, &address))
            .map_err(name_error(peer, "connecting to"))?;
    }
    for socket in all.iter().filter(|socket| socket.shutdown != 0) {
        if let Some(fd) = description(socket.id) {
            make::shutdown(fd, socket.shutdown).map_err(Error::builder("shutting down a unix socket"))?;
        }
    }
    Ok(())
}

fn in_flight(store: &FdStore, message: &UnixMessage) -> Result<Vec<RawFd>, Error> {
    let number = |id: &OpenFileId| {
        store.open_file(*id).ok_or_else(|| Error::Builder {
            operation: "putting a descriptor back in flight",
            error: io::Error::other("it can be opened by its own process only"),
        })
    };
    message.files.iter().map(number).collect()
}

/// Sends a datagram to a socket that is not connected yet, under the name of its sender.
fn send_by_name<'s>(
    store: &'s FdStore,
    to: &UnixSocket,
    message: &UnixMessage,
    files: &[RawFd],
    address: &[u8],
    description: &impl Fn(UnixSocketId) -> Option<std::os::fd::BorrowedFd<'s>>,
) -> io::Result<()> {
    let is_sender = |socket: &&UnixSocket| {
        socket.kind == to.kind && !socket.address.is_empty() && socket.address == message.sender
    };
    let known = store.checkpoint.unix_sockets.iter().find(is_sender);
    let stand_in;
    let sender = match known.and_then(|socket| description(socket.id)) {
        Some(sender) => sender,
        None => {
            stand_in = make::unix_socket(to.kind)?;
            if !message.sender.is_empty() {
                let named =
                    UnixSocket { id: to.id, address: message.sender.clone(), ..UnixSocket::default() };
                with_private_name(store, &named, |name| make::bind_raw(&stand_in, name))?;
            }
            stand_in.as_fd()
        }
    };
    at_home(store, to, || make::send_message_to(sender, &message.bytes.0, files, address))
}
