//! What a descriptor is, in a few words.

use std::collections::HashMap;

use super::CarriedLine;
use super::text::readable;
use crate::model::*;

/// Access mode and what follows: the part of F_GETFL that people ask for.
const O_ACCMODE: u32 = 3;
const O_APPEND: u32 = 0o2000;
const O_NONBLOCK: u32 = 0o4000;

/// Each open file in words; processes that share one share its description.
pub(super) fn open_files(checkpoint: &Checkpoint) -> HashMap<OpenFileId, String> {
    checkpoint.open_files.iter().map(|file| (file.id, open_file(checkpoint, file))).collect()
}

/// Files whose contents are in the image, and what for.
pub(super) fn carried(checkpoint: &Checkpoint) -> Vec<CarriedLine> {
    let line = |file: &DiskFile| CarriedLine {
        path: readable(&file.path),
        bytes: file.size,
        purpose: match file.carried {
            Carried::No => "it had no name any more",
            Carried::Copy => "mapped from a copy where a host has none or another one",
            Carried::File => "made anew where a host has none",
        },
    };
    checkpoint.disk_files.iter().filter(|file| file.stored).map(line).collect()
}

pub(super) fn disk_path(checkpoint: &Checkpoint, id: DiskFileId) -> String {
    let file = checkpoint.disk_files.iter().find(|file| file.id == id);
    match file {
        Some(file) if file.deleted => format!("{} (deleted)", readable(&file.path)),
        Some(file) => readable(&file.path),
        None => "unknown".into(),
    }
}

fn open_file(checkpoint: &Checkpoint, file: &OpenFile) -> String {
    let mut what = kind(checkpoint, file);
    if matches!(file.kind, FileKind::Regular { .. } | FileKind::Pipe { .. } | FileKind::Device { .. }) {
        what += match file.flags & O_ACCMODE {
            0 => ", reading",
            1 => ", writing",
            _ => ", both ways",
        };
    }
    if matches!(file.kind, FileKind::Regular { .. }) {
        what += &format!(", at byte {}", file.position);
    }
    if file.flags & O_APPEND != 0 {
        what += ", appending";
    }
    if file.flags & O_NONBLOCK != 0 {
        what += ", non-blocking";
    }
    match file.locks.len() {
        0 => what,
        1 => what + ", locked",
        count => what + &format!(", {count} locks"),
    }
}

fn kind(checkpoint: &Checkpoint, file: &OpenFile) -> String {
    match &file.kind {
        FileKind::Regular { file } => format!("file {}", disk_path(checkpoint, *file)),
        FileKind::Directory { path } => format!("directory {}", readable(path)),
        FileKind::PathOnly { path } => format!("path {}", readable(path)),
        FileKind::Device { path, .. } => format!("device {}", readable(path)),
        FileKind::Pipe { pipe } => pipe_words(checkpoint, *pipe),
        FileKind::UnixSocket { socket } => unix_words(checkpoint, *socket),
        FileKind::InetSocket { socket } => inet_words(checkpoint, *socket),
        FileKind::EventFd { counter, semaphore } => {
            format!("eventfd {counter}{}", if *semaphore { " (semaphore)" } else { "" })
        }
        FileKind::Epoll { watches } => format!("epoll with {} watches", watches.len()),
        FileKind::TimerFd(timer) => match timer.remaining_ns {
            0 => "timerfd, not armed".into(),
            left => format!("timerfd, {:.3} s left", left as f64 / 1e9),
        },
        FileKind::SignalFd { mask } => format!("signalfd of {} signals", mask.count_ones()),
        FileKind::Inotify { watches } => format!("inotify with {} watches", watches.len()),
        FileKind::Memfd { memory } => format!("memfd {}", memfd_words(checkpoint, *memory)),
        FileKind::TerminalMaster { terminal } => format!("master of terminal {}", terminal.0),
        FileKind::TerminalSlave { terminal } => {
            let inside = checkpoint.terminals.iter().any(|entry| entry.id == *terminal && entry.inside);
            format!("terminal {}{}", terminal.0, if inside { "" } else { " (restore gives a fresh one)" })
        }
        FileKind::PidFd { pid } => format!("pidfd of process {pid}"),
        FileKind::Outside { stream, description } => {
            let stream = match stream {
                StandardStream::Input => "input",
                StandardStream::Output => "output",
                StandardStream::Error => "error output",
            };
            format!("{} (becomes restore's standard {stream})", readable(description.as_bytes()))
        }
    }
}

fn pipe_words(checkpoint: &Checkpoint, id: PipeId) -> String {
    let Some(pipe) = checkpoint.pipes.iter().find(|pipe| pipe.id == id) else { return "unknown".into() };
    let bytes: usize = pipe.in_flight.iter().map(|packet| packet.0.len()).sum();
    let name = match &pipe.fifo {
        Some(path) => format!("fifo {}", readable(path)),
        None => format!("pipe {}", id.0),
    };
    format!("{name} with {bytes} bytes in flight")
}

fn unix_words(checkpoint: &Checkpoint, id: UnixSocketId) -> String {
    let Some(socket) = checkpoint.unix_sockets.iter().find(|socket| socket.id == id) else {
        return "unknown".into();
    };
    let state = match socket.state {
        UnixSocketState::Unconnected => "not connected".to_owned(),
        UnixSocketState::Listening { .. } => "listening".to_owned(),
        UnixSocketState::Connected { peer } => format!("connected to {}", peer.0),
        UnixSocketState::PeerClosed => "peer closed".to_owned(),
    };
    let bytes: usize = socket.queue.iter().map(|message| message.bytes.0.len()).sum();
    let address = match socket.address.as_slice() {
        [] => String::new(),
        [0, name @ ..] => format!(" @{}", readable(name)),
        path => format!(" {}", readable(path)),
    };
    format!("unix socket {}{address}, {state}, {bytes} bytes queued", id.0)
}

fn inet_words(checkpoint: &Checkpoint, id: InetSocketId) -> String {
    let Some(socket) = checkpoint.inet_sockets.iter().find(|socket| socket.id == id) else {
        return "unknown".into();
    };
    let kind = if socket.kind == 1 { "TCP" } else { "UDP" };
    let listening = if socket.listening.is_some() { ", listening" } else { "" };
    match address(&socket.local) {
        Some(local) => format!("{kind} socket {local}{listening}"),
        None => format!("{kind} socket, not bound"),
    }
}

/// `struct sockaddr_in` or `_in6` as people write it.
pub(super) fn address(raw: &[u8]) -> Option<String> {
    let port = |raw: &[u8]| u16::from_be_bytes([raw[2], raw[3]]);
    match raw.len() {
        16 => {
            let ip = std::net::Ipv4Addr::new(raw[4], raw[5], raw[6], raw[7]);
            Some(std::net::SocketAddr::from((ip, port(raw))).to_string())
        }
        28 => {
            let mut ip = [0; 16];
            ip.copy_from_slice(&raw[8..24]);
            Some(std::net::SocketAddr::from((ip, port(raw))).to_string())
        }
        _ => None,
    }
}

fn memfd_words(checkpoint: &Checkpoint, id: SharedMemoryId) -> String {
    let memory = checkpoint.shared_memory.iter().find(|memory| memory.id == id);
    match memory {
        Some(SharedMemory { bytes, kind: SharedMemoryKind::Memfd { name, .. }, .. }) => {
            format!("{} of {bytes} bytes", readable(name))
        }
        _ => "unknown".into(),
    }
}
