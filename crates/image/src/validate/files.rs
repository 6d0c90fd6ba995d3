//! Open files and what they refer to.

use std::collections::{HashMap, HashSet};

use super::{MEMORY_BYTES_MAX, Tables, absolute, require, signal_or_none};
use crate::ImageError;
use crate::model::*;

const DIGEST_BYTES: usize = 32;
const BUILD_ID_BYTES_MAX: usize = 64;
const MEMFD_NAME_BYTES_MAX: usize = 249;
const UNIX_ADDRESS_BYTES_MAX: usize = 108;
const TERMINAL_SETTINGS_BYTES: usize = 44;
const SOCK_STREAM: i32 = 1;
const SOCK_DGRAM: i32 = 2;
const SOCK_SEQPACKET: i32 = 5;
const AF_INET: i32 = 2;
const AF_INET6: i32 = 10;
const SOCKADDR_IN_BYTES: usize = 16;
const SOCKADDR_IN6_BYTES: usize = 28;

pub(super) fn check(checkpoint: &Checkpoint, tables: &Tables) -> Result<(), ImageError> {
    let memory: HashMap<_, _> = checkpoint.shared_memory.iter().map(|entry| (entry.id, entry)).collect();
    for file in &checkpoint.open_files {
        check_open_file(file, tables, &memory)?;
    }
    checkpoint.disk_files.iter().try_for_each(check_disk_file)?;
    checkpoint.shared_memory.iter().try_for_each(check_shared_memory)?;
    checkpoint.pipes.iter().try_for_each(check_pipe)?;
    check_unix_sockets(&checkpoint.unix_sockets, tables)?;
    checkpoint.inet_sockets.iter().try_for_each(check_inet_socket)?;
    for terminal in &checkpoint.terminals {
        let of = |what: &str| format!("terminal {}: {what}", terminal.id.0);
        require(terminal.settings.len() == TERMINAL_SETTINGS_BYTES, || of("its settings are not 44 bytes"))?;
        require(terminal.session.0 >= 0 && terminal.foreground.0 >= 0, || {
            of("its session or foreground group is negative")
        })?;
    }
    Ok(())
}

fn check_open_file(
    file: &OpenFile,
    tables: &Tables,
    memory: &HashMap<SharedMemoryId, &SharedMemory>,
) -> Result<(), ImageError> {
    let of = |what: &str| format!("open file {}: {what}", file.id.0);
    if let Some(owner) = file.owner {
        signal_or_none(owner.signal, || of("owner's signal"))?;
    }
    for lock in &file.locks {
        if let FileLockKind::Ofd { start, length } = lock.kind {
            require(start.checked_add(length).is_some(), || of("a lock's range cannot be"))?;
        }
    }
    match &file.kind {
        FileKind::Regular { file } => {
            require(tables.disk_files.contains(file), || of("its disk file is not known"))
        }
        FileKind::Directory { path } | FileKind::PathOnly { path } | FileKind::Device { path, .. } => {
            absolute(path, || of("it"))
        }
        FileKind::Pipe { pipe } => require(tables.pipes.contains(pipe), || of("its pipe is not known")),
        FileKind::UnixSocket { socket } => {
            require(tables.unix_sockets.contains(socket), || of("its socket is not known"))
        }
        FileKind::InetSocket { socket } => {
            require(tables.inet_sockets.contains(socket), || of("its socket is not known"))
        }
        FileKind::Epoll { watches } => {
            let mut keys = HashSet::new();
            watches.iter().try_for_each(|watch| {
                require(tables.open_files.contains(&watch.file) && watch.file != file.id, || {
                    of("it watches no open file")
                })?;
                require(watch.number >= 0 && keys.insert((watch.number, watch.file)), || {
                    of("it watches a descriptor twice, or a negative one")
                })
            })
        }
        FileKind::Inotify { watches } => {
            watches.iter().try_for_each(|watch| absolute(&watch.path, || of("a watch")))
        }
        FileKind::Memfd { memory: id } => {
            let is_memfd = |entry: &&SharedMemory| matches!(entry.kind, SharedMemoryKind::Memfd { .. });
            require(memory.get(id).is_some_and(is_memfd), || of("its memory is not known or no memfd"))
        }
        FileKind::TerminalMaster { terminal } | FileKind::TerminalSlave { terminal } => {
            require(tables.terminals.contains(terminal), || of("its terminal is not known"))
        }
        FileKind::PidFd { pid } => require(tables.processes.contains(pid), || of("its process is not known")),
        FileKind::EventFd { .. }
        | FileKind::TimerFd(_)
        | FileKind::SignalFd { .. }
        | FileKind::Outside { .. } => Ok(()),
    }
}

fn check_disk_file(file: &DiskFile) -> Result<(), ImageError> {
    let of = |what: &str| format!("disk file {}: {what}", file.id.0);
    absolute(&file.path, || of("it"))?;
    require(file.size <= i64::MAX as u64, || of("its size cannot be"))?;
    require(file.digest.is_empty() || file.digest.len() == DIGEST_BYTES, || {
        of("its digest is not 32 bytes")
    })?;
    require(file.build_id.len() <= BUILD_ID_BYTES_MAX, || of("its build id is too long"))?;
    let is_known = file.stored && !file.deleted && file.digest.len() == DIGEST_BYTES;
    require(file.carried == Carried::No || is_known, || of("it is carried, but without digest or contents"))?;
    require(file.stored || !file.deleted, || of("it was deleted, but its contents are not in the image"))
}

fn check_shared_memory(memory: &SharedMemory) -> Result<(), ImageError> {
    let of = |what: &str| format!("shared memory {}: {what}", memory.id.0);
    require(memory.bytes <= MEMORY_BYTES_MAX, || of("its size cannot be"))?;
    match &memory.kind {
        SharedMemoryKind::Memfd { name, .. } => {
            require(name.len() <= MEMFD_NAME_BYTES_MAX && !name.contains(&0), || of("its name cannot be"))
        }
        SharedMemoryKind::Anonymous => Ok(()),
    }
}

fn check_pipe(pipe: &Pipe) -> Result<(), ImageError> {
    let of = |what: &str| format!("pipe {}: {what}", pipe.id.0);
    if let Some(path) = &pipe.fifo {
        absolute(path, || of("it"))?;
    }
    require(pipe.packets || pipe.in_flight.len() <= 1, || of("it has packets but is no packet pipe"))
}

fn check_unix_sockets(sockets: &[UnixSocket], tables: &Tables) -> Result<(), ImageError> {
    let by_id: HashMap<_, _> = sockets.iter().map(|socket| (socket.id, socket)).collect();
    for socket in sockets {
        let of = |what: &str| format!("unix socket {}: {what}", socket.id.0);
        require([SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET].contains(&socket.kind), || {
            of("its type is not known")
        })?;
        require(socket.address.len() <= UNIX_ADDRESS_BYTES_MAX, || of("its address is too long"))?;
        require(socket.shutdown <= 3, || of("its shutdown state is not known"))?;
        if let UnixSocketState::Connected { peer } = socket.state {
            let Some(peer) = by_id.get(&peer) else {
                return require(false, || of("its peer is not known"));
            };
            require(peer.kind == socket.kind, || of("its peer is of another type"))?;
            let mutual = peer.state == UnixSocketState::Connected { peer: socket.id } && peer.id != socket.id;
            require(socket.kind == SOCK_DGRAM || mutual, || of("its peer is not connected to it"))?;
        }
        for message in &socket.queue {
            require(message.files.iter().all(|id| tables.open_files.contains(id)), || {
                of("a descriptor in flight is of no open file")
            })?;
            require(message.sender.len() <= UNIX_ADDRESS_BYTES_MAX, || of("a sender's address is too long"))?;
        }
    }
    Ok(())
}

fn check_inet_socket(socket: &InetSocket) -> Result<(), ImageError> {
    let of = |what: &str| format!("internet socket {}: {what}", socket.id.0);
    let address_bytes = match socket.family {
        AF_INET => SOCKADDR_IN_BYTES,
        AF_INET6 => SOCKADDR_IN6_BYTES,
        _ => return require(false, || of("its family is not known")),
    };
    for address in [&socket.local, &socket.peer] {
        require(address.is_empty() || address.len() == address_bytes, || {
            of("an address has no possible length")
        })?;
    }
    require([SOCK_STREAM, SOCK_DGRAM].contains(&socket.kind), || of("its type is not known"))?;
    require(socket.listening.is_none() || socket.kind == SOCK_STREAM, || of("only a stream socket listens"))
}
