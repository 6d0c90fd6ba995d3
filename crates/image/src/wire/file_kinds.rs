//! What an open file description refers to.

use brant_base::Pid;
use prost::{Message, Oneof};

use super::{Malformed, list, malformed, parse, timers};
use crate::model::{
    self, DiskFileId, FileKind, InetSocketId, OpenFileId, PipeId, SharedMemoryId, StandardStream, TerminalId,
    UnixSocketId,
};

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Kind {
    #[prost(uint32, tag = "16")]
    Regular(u32),
    #[prost(bytes, tag = "17")]
    Directory(Vec<u8>),
    #[prost(bytes, tag = "18")]
    PathOnly(Vec<u8>),
    #[prost(message, tag = "19")]
    Device(Device),
    #[prost(uint32, tag = "20")]
    Pipe(u32),
    #[prost(uint32, tag = "21")]
    UnixSocket(u32),
    #[prost(uint32, tag = "22")]
    InetSocket(u32),
    #[prost(message, tag = "23")]
    EventFd(EventFd),
    #[prost(message, tag = "24")]
    Epoll(Epoll),
    #[prost(message, tag = "25")]
    TimerFd(timers::TimerFd),
    #[prost(fixed64, tag = "26")]
    SignalFd(u64),
    #[prost(message, tag = "27")]
    Inotify(Inotify),
    #[prost(uint32, tag = "28")]
    Memfd(u32),
    #[prost(uint32, tag = "29")]
    TerminalMaster(u32),
    #[prost(uint32, tag = "30")]
    TerminalSlave(u32),
    #[prost(int32, tag = "31")]
    PidFd(i32),
    #[prost(message, tag = "32")]
    Outside(Outside),
}

impl From<&FileKind> for Kind {
    fn from(from: &FileKind) -> Kind {
        match from {
            FileKind::Regular { file } => Kind::Regular(file.0),
            FileKind::Directory { path } => Kind::Directory(path.clone()),
            FileKind::PathOnly { path } => Kind::PathOnly(path.clone()),
            FileKind::Device { path, major, minor } => {
                Kind::Device(Device { path: path.clone(), major: *major, minor: *minor })
            }
            FileKind::Pipe { pipe } => Kind::Pipe(pipe.0),
            FileKind::UnixSocket { socket } => Kind::UnixSocket(socket.0),
            FileKind::InetSocket { socket } => Kind::InetSocket(socket.0),
            FileKind::EventFd { counter, semaphore } => {
                Kind::EventFd(EventFd { counter: *counter, semaphore: *semaphore })
            }
            FileKind::Epoll { watches } => Kind::Epoll(Epoll { watches: list(watches) }),
            FileKind::TimerFd(timer) => Kind::TimerFd(timer.into()),
            FileKind::SignalFd { mask } => Kind::SignalFd(*mask),
            FileKind::Inotify { watches } => Kind::Inotify(Inotify { watches: list(watches) }),
            FileKind::Memfd { memory } => Kind::Memfd(memory.0),
            FileKind::TerminalMaster { terminal } => Kind::TerminalMaster(terminal.0),
            FileKind::TerminalSlave { terminal } => Kind::TerminalSlave(terminal.0),
            FileKind::PidFd { pid } => Kind::PidFd(pid.0),
            FileKind::Outside { stream, description } => {
                let stream = match stream {
                    StandardStream::Input => 0,
                    StandardStream::Output => 1,
                    StandardStream::Error => 2,
                };
                Kind::Outside(Outside { stream, description: description.clone() })
            }
        }
    }
}

impl TryFrom<Kind> for FileKind {
    type Error = Malformed;

    fn try_from(from: Kind) -> Result<FileKind, Malformed> {
        Ok(match from {
            Kind::Regular(id) => FileKind::Regular { file: DiskFileId(id) },
            Kind::Directory(path) => FileKind::Directory { path },
            Kind::PathOnly(path) => FileKind::PathOnly { path },
            Kind::Device(Device { path, major, minor }) => FileKind::Device { path, major, minor },
            Kind::Pipe(id) => FileKind::Pipe { pipe: PipeId(id) },
            Kind::UnixSocket(id) => FileKind::UnixSocket { socket: UnixSocketId(id) },
            Kind::InetSocket(id) => FileKind::InetSocket { socket: InetSocketId(id) },
            Kind::EventFd(EventFd { counter, semaphore }) => FileKind::EventFd { counter, semaphore },
            Kind::Epoll(Epoll { watches }) => FileKind::Epoll { watches: parse(watches)? },
            Kind::TimerFd(timer) => FileKind::TimerFd(timer.into()),
            Kind::SignalFd(mask) => FileKind::SignalFd { mask },
            Kind::Inotify(Inotify { watches }) => FileKind::Inotify { watches: parse(watches)? },
            Kind::Memfd(id) => FileKind::Memfd { memory: SharedMemoryId(id) },
            Kind::TerminalMaster(id) => FileKind::TerminalMaster { terminal: TerminalId(id) },
            Kind::TerminalSlave(id) => FileKind::TerminalSlave { terminal: TerminalId(id) },
            Kind::PidFd(pid) => FileKind::PidFd { pid: Pid(pid) },
            Kind::Outside(Outside { stream, description }) => {
                let stream = match stream {
                    0 => StandardStream::Input,
                    1 => StandardStream::Output,
                    2 => StandardStream::Error,
                    other => return malformed("outside.stream", format!("{other} is not known")),
                };
                FileKind::Outside { stream, description }
            }
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Device {
    #[prost(bytes = "vec", tag = "1")]
    path: Vec<u8>,
    #[prost(uint32, tag = "2")]
    major: u32,
    #[prost(uint32, tag = "3")]
    minor: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct EventFd {
    #[prost(uint64, tag = "1")]
    counter: u64,
    #[prost(bool, tag = "2")]
    semaphore: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Epoll {
    #[prost(message, repeated, tag = "1")]
    watches: Vec<EpollWatch>,
}

#[derive(Clone, PartialEq, Message)]
struct EpollWatch {
    #[prost(int32, tag = "1")]
    number: i32,
    #[prost(uint32, tag = "2")]
    file: u32,
    #[prost(uint32, tag = "3")]
    events: u32,
    #[prost(fixed64, tag = "4")]
    data: u64,
}

impl From<&model::EpollWatch> for EpollWatch {
    fn from(from: &model::EpollWatch) -> EpollWatch {
        EpollWatch { number: from.number, file: from.file.0, events: from.events, data: from.data }
    }
}

impl From<EpollWatch> for model::EpollWatch {
    fn from(from: EpollWatch) -> model::EpollWatch {
        model::EpollWatch {
            number: from.number,
            file: OpenFileId(from.file),
            events: from.events,
            data: from.data,
        }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Inotify {
    #[prost(message, repeated, tag = "1")]
    watches: Vec<InotifyWatch>,
}

#[derive(Clone, PartialEq, Message)]
struct InotifyWatch {
    #[prost(int32, tag = "1")]
    descriptor: i32,
    #[prost(bytes = "vec", tag = "2")]
    path: Vec<u8>,
    #[prost(uint32, tag = "3")]
    mask: u32,
}

impl From<&model::InotifyWatch> for InotifyWatch {
    fn from(from: &model::InotifyWatch) -> InotifyWatch {
        InotifyWatch { descriptor: from.descriptor, path: from.path.clone(), mask: from.mask }
    }
}

impl From<InotifyWatch> for model::InotifyWatch {
    fn from(from: InotifyWatch) -> model::InotifyWatch {
        model::InotifyWatch { descriptor: from.descriptor, path: from.path, mask: from.mask }
    }
}

/// `stream` is 0, 1 or 2.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Outside {
    #[prost(uint32, tag = "1")]
    stream: u32,
    #[prost(string, tag = "2")]
    description: String,
}
