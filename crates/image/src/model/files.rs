//! Open file descriptions, what they refer to, and locks.

use brant_base::{Pid, Tid};

use super::*;

/// Names an [`OpenFile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct OpenFileId(pub u32);

/// An open file description: what dup(2) and fork(2) share.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenFile {
    pub id: OpenFileId,
    /// File status flags and access mode as F_GETFL gives them.
    pub flags: u32,
    /// In bytes; 0 for what cannot be sought.
    pub position: u64,
    pub owner: Option<FileOwner>,
    pub kind: FileKind,
    /// flock and OFD locks, which belong to the description.
    pub locks: Vec<FileLock>,
}

/// Who gets SIGIO (F_SETOWN_EX, F_SETSIG).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileOwner {
    pub kind: FileOwnerKind,
    pub signal: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileOwnerKind {
    Thread(Tid),
    Process(Pid),
    Group(Pid),
}

/// What a description refers to.
#[derive(Debug, Clone, PartialEq)]
pub enum FileKind {
    /// A regular file.
    Regular {
        file: DiskFileId,
    },
    /// A directory; the position is that of readdir.
    Directory {
        path: Vec<u8>,
    },
    /// O_PATH on anything but a symbolic link.
    PathOnly {
        path: Vec<u8>,
    },
    /// null, zero, full, random, urandom and tty.
    Device {
        path: Vec<u8>,
        major: u32,
        minor: u32,
    },
    Pipe {
        pipe: PipeId,
    },
    UnixSocket {
        socket: UnixSocketId,
    },
    InetSocket {
        socket: InetSocketId,
    },
    EventFd {
        counter: u64,
        semaphore: bool,
    },
    Epoll {
        watches: Vec<EpollWatch>,
    },
    TimerFd(TimerFd),
    SignalFd {
        mask: u64,
    },
    Inotify {
        watches: Vec<InotifyWatch>,
    },
    Memfd {
        memory: SharedMemoryId,
    },
    /// The master side of a terminal inside the tree.
    TerminalMaster {
        terminal: TerminalId,
    },
    /// The slave side of a terminal, inside the tree or relayed.
    TerminalSlave {
        terminal: TerminalId,
    },
    /// pidfd_open(2) of a process of the tree.
    PidFd {
        pid: Pid,
    },
    /// One of descriptors 0-2 whose other end is outside the tree; connected to restore's own.
    Outside {
        stream: StandardStream,
        description: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StandardStream {
    Input,
    Output,
    Error,
}

/// One interest of an epoll instance. The kernel keys it by (number, description).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpollWatch {
    /// The descriptor's number when it was added.
    pub number: i32,
    pub file: OpenFileId,
    pub events: u32,
    pub data: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InotifyWatch {
    pub descriptor: i32,
    pub path: Vec<u8>,
    pub mask: u32,
}

/// Names a [`DiskFile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DiskFileId(pub u32);

/// A regular file on disk, as it was. Two entries never describe one inode.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskFile {
    pub id: DiskFileId,
    /// As the program sees it; without the kernel's " (deleted)".
    pub path: Vec<u8>,
    /// The name is gone: the contents travel in the image.
    pub deleted: bool,
    /// The contents are in the image, under [`PageOwner::File`] of [`Checkpoint::contents_of`].
    pub stored: bool,
    /// What the contents of a file that had its name are there for.
    pub carried: Carried,
    /// Somebody in the tree has it open or mapped shared for writing.
    pub written: bool,
    /// In bytes.
    pub size: u64,
    pub mode: u32,
    pub device: u64,
    pub inode: u64,
    pub modified_ns: i64,
    /// The GNU build id, for an ELF file that has one.
    pub build_id: Vec<u8>,
    /// blake3 of the whole contents, where it was small enough to hash; else empty.
    pub digest: Vec<u8>,
}

/// What the contents of a file that still had its name are in the image for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Carried {
    /// They are not.
    #[default]
    No,
    /// To be mapped from where a host has no such file: executables and libraries (`--portable`).
    Copy,
    /// To be made anew where a host has no file of that name (`--with-files`).
    File,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileLock {
    pub kind: FileLockKind,
    pub exclusive: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileLockKind {
    /// flock(2), on the whole file.
    Flock,
    /// Open-file-description lock; `length` 0 is to the end of the file.
    Ofd { start: u64, length: u64 },
}

/// A POSIX record lock of a process; `length` 0 is to the end of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordLock {
    /// A descriptor of the process on the locked file.
    pub number: i32,
    pub exclusive: bool,
    pub start: u64,
    pub length: u64,
}

/// Names a [`Pipe`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PipeId(pub u32);

/// A pipe or an open fifo with what is in flight.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Pipe {
    pub id: PipeId,
    /// The fifo's path; `None` for a pipe.
    pub fifo: Option<Vec<u8>>,
    /// F_GETPIPE_SZ, in bytes.
    pub capacity_bytes: u32,
    /// What has been written and not yet read. In packet mode (O_DIRECT) one entry a packet, else one in all.
    pub in_flight: Vec<brant_base::Redacted<Vec<u8>>>,
    /// The packets' boundaries matter.
    pub packets: bool,
}
