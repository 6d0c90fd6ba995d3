//! Sockets: internet sockets that are not connected, and the options of all.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use brant_image::model::*;
use brant_kernel::make;

use super::files::FdStore;
use super::unix::UnixSockets;
use crate::{Error, Plan};

/// Makes the descriptions of all sockets that descriptors hold.
pub(super) fn make_all(
    store: &FdStore,
    plan: &Plan,
    unix: &mut UnixSockets,
) -> Result<BTreeMap<OpenFileId, OwnedFd>, Error> {
    let mut made = BTreeMap::new();
    for file in &store.checkpoint.open_files {
        let fd = match file.kind {
            FileKind::UnixSocket { socket } => unix.take(socket),
            FileKind::InetSocket { socket } => {
                let record = store.checkpoint.inet_sockets.iter().find(|inet| inet.id == socket);
                Some(make_inet(store, plan, record.expect("validated"))?)
            }
            _ => None,
        };
        if let Some(fd) = fd {
            let failed = Error::builder("setting a socket's flags");
            make::set_status(&fd, file.flags as i32).map_err(failed)?;
            made.insert(file.id, fd);
        }
    }
    Ok(made)
}

/// Sets what differs from a fresh socket. What this user or kernel may not set is said.
pub(super) fn set_options(store: &FdStore, fd: &OwnedFd, options: &SocketOptions) {
    for option in &options.0 {
        if let Err(error) = make::set_socket_option(fd, option.level, option.name, &option.value) {
            let (level, name) = (option.level, option.name);
            store.warn(format!("socket option {name} of level {level} could not be set: {error}"));
        }
    }
}

fn make_inet(store: &FdStore, plan: &Plan, socket: &InetSocket) -> Result<OwnedFd, Error> {
    let failed = || Error::builder("making an internet socket");
    let fd = make::inet_socket(socket.family, socket.kind, socket.protocol).map_err(failed())?;
    set_options(store, &fd, &socket.options);
    if !socket.local.is_empty() {
        let local = plan.address(&socket.local);
        bind(socket, &local, &fd).map_err(|error| {
            let address = crate::plan::socket_address(&local);
            let path = address.map_or_else(|| "an address".to_owned(), |address| address.to_string());
            Error::Path { operation: "binding an internet socket to", path, error }
        })?;
    }
    if !socket.peer.is_empty() {
        make::connect_raw(&fd, &plan.address(&socket.peer)).map_err(failed())?;
    }
    if let Some(backlog) = socket.listening {
        make::listen(&fd, backlog).map_err(failed())?;
    }
    Ok(fd)
}

/// Connections of the program that ended lately keep its port for a minute (TIME_WAIT). SO_REUSEADDR, which matters
/// for bind(2) only, lets a TCP socket have it again; it cannot take a port from one that listens.
fn bind(socket: &InetSocket, local: &[u8], fd: &OwnedFd) -> io::Result<()> {
    match make::bind_raw(fd, local) {
        Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) && socket.kind == libc::SOCK_STREAM => {
            set_reuse(fd, 1)?;
            make::bind_raw(fd, local)?;
            let own = |option: &&SocketOption| {
                (option.level, option.name) == (libc::SOL_SOCKET, libc::SO_REUSEADDR)
            };
            if !socket.options.0.iter().any(|option| own(&option)) {
                set_reuse(fd, 0)?;
            }
            Ok(())
        }
        other => other,
    }
}

fn set_reuse(fd: impl AsFd, value: i32) -> io::Result<()> {
    make::set_socket_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, &value.to_ne_bytes())
}
