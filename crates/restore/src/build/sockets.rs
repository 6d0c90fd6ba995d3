//! Unix sockets of the tree with what is queued, and internet sockets that are not connected.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};

use brant_image::model::*;
use brant_kernel::make;

use super::files::FdStore;
use crate::Error;

/// Makes every socket and returns the descriptions of those that are held by descriptors.
pub(super) fn make_all(store: &mut FdStore) -> Result<BTreeMap<OpenFileId, OwnedFd>, Error> {
    let mut unix = BTreeMap::new();
    for socket in &store.checkpoint.unix_sockets {
        make_unix(&store.checkpoint, socket, &mut unix)?;
    }
    let mut made = BTreeMap::new();
    for file in &store.checkpoint.open_files {
        let fd = match file.kind {
            FileKind::UnixSocket { socket } => unix.remove(&socket),
            FileKind::InetSocket { socket } => {
                let record = store.checkpoint.inet_sockets.iter().find(|inet| inet.id == socket);
                Some(make_inet(record.expect("validated"))?)
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

fn make_unix(
    checkpoint: &Checkpoint,
    socket: &UnixSocket,
    made: &mut BTreeMap<UnixSocketId, OwnedFd>,
) -> Result<(), Error> {
    let failed = || Error::builder("making a unix socket");
    if made.contains_key(&socket.id) {
        return Ok(());
    }
    match socket.state {
        UnixSocketState::Connected { peer } => {
            let (one, other) = make::socket_pair(socket.kind).map_err(failed())?;
            made.insert(socket.id, one);
            let record = checkpoint.unix_sockets.iter().find(|unix| unix.id == peer).expect("validated");
            set_options(&made[&socket.id], &socket.options)?;
            set_options(&other, &record.options)?;
            made.insert(peer, other);
        }
        UnixSocketState::PeerClosed => {
            let (one, other) = make::socket_pair(socket.kind).map_err(failed())?;
            for message in &socket.queue {
                make::send_message(&other, &message.bytes.0, &[]).map_err(failed())?;
            }
            made.insert(socket.id, one);
        }
        UnixSocketState::Unconnected | UnixSocketState::Listening { .. } => {
            let fd = make::unix_socket(socket.kind).map_err(failed())?;
            set_options(&fd, &socket.options)?;
            if !socket.address.is_empty() && !socket.address_deleted {
                make::bind_unix(&fd, &socket.address).map_err(|error| Error::Path {
                    operation: "binding a unix socket to",
                    path: String::from_utf8_lossy(&socket.address).into_owned(),
                    error,
                })?;
            }
            if let UnixSocketState::Listening { backlog } = socket.state {
                make::listen(&fd, backlog).map_err(failed())?;
            }
            made.insert(socket.id, fd);
        }
    }
    Ok(())
}

fn set_options(fd: &OwnedFd, options: &SocketOptions) -> Result<(), Error> {
    for option in &options.0 {
        make::set_socket_option(fd, option.level, option.name, &option.value)
            .map_err(Error::builder("setting a socket option"))?;
    }
    Ok(())
}

fn make_inet(socket: &InetSocket) -> Result<OwnedFd, Error> {
    let failed = || Error::builder("making an internet socket");
    let fd = make::inet_socket(socket.family, socket.kind, socket.protocol).map_err(failed())?;
    set_options(&fd, &socket.options)?;
    if !socket.local.is_empty() {
        make::bind_raw(&fd, &socket.local)
            .map_err(Error::builder("binding an internet socket to its address"))?;
    }
    if !socket.peer.is_empty() {
        make::connect_raw(&fd, &socket.peer).map_err(failed())?;
    }
    if let Some(backlog) = socket.listening {
        make::listen(&fd, backlog).map_err(failed())?;
    }
    Ok(fd)
}

/// Sends what was queued at each socket from its peer, descriptors in flight included; then shuts down what was.
pub(super) fn fill_queues(store: &FdStore) -> Result<(), Error> {
    let failed = || Error::builder("putting messages back into a unix socket");
    let description = |id: UnixSocketId| {
        let mut files = store.checkpoint.open_files.iter();
        let file = files.find(|file| matches!(file.kind, FileKind::UnixSocket { socket } if socket == id))?;
        store.borrow(store.open_file(file.id)?)
    };
    for socket in &store.checkpoint.unix_sockets {
        let UnixSocketState::Connected { peer } = socket.state else { continue };
        let Some(sender) = description(peer) else { continue };
        for message in &socket.queue {
            let files: Vec<i32> = message.files.iter().filter_map(|file| store.open_file(*file)).collect();
            make::send_message(sender, &message.bytes.0, &files).map_err(failed())?;
        }
    }
    for socket in &store.checkpoint.unix_sockets {
        if let Some(fd) = description(socket.id)
            && socket.shutdown != 0
        {
            make::shutdown(fd.as_raw_fd(), socket.shutdown).map_err(failed())?;
        }
    }
    Ok(())
}
