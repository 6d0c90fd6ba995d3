//! Open file descriptions, disk files, locks and pipes.

use brant_base::{Pid, Redacted, Tid};
use prost::{Message, Oneof};

use super::file_kinds::Kind;
use super::{Malformed, list, malformed, maybe, parse};
use crate::model::{self, Carried, DiskFileId, FileLockKind, FileOwnerKind, OpenFileId, PipeId};

#[derive(Clone, PartialEq, Message)]
pub(super) struct OpenFile {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(uint32, tag = "2")]
    flags: u32,
    #[prost(uint64, tag = "3")]
    position: u64,
    #[prost(message, optional, tag = "4")]
    owner: Option<FileOwner>,
    #[prost(message, repeated, tag = "5")]
    locks: Vec<FileLock>,
    #[prost(oneof = "Kind", tags = "16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32")]
    kind: Option<Kind>,
}

impl From<&model::OpenFile> for OpenFile {
    fn from(from: &model::OpenFile) -> OpenFile {
        OpenFile {
            id: from.id.0,
            flags: from.flags,
            position: from.position,
            owner: from.owner.as_ref().map(FileOwner::from),
            locks: list(&from.locks),
            kind: Some((&from.kind).into()),
        }
    }
}

impl TryFrom<OpenFile> for model::OpenFile {
    type Error = Malformed;

    fn try_from(from: OpenFile) -> Result<model::OpenFile, Malformed> {
        let Some(kind) = from.kind else {
            return malformed("open_file.kind", "is missing or not known");
        };
        Ok(model::OpenFile {
            id: OpenFileId(from.id),
            flags: from.flags,
            position: from.position,
            owner: maybe(from.owner)?,
            kind: kind.try_into()?,
            locks: parse(from.locks)?,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
struct FileOwner {
    #[prost(oneof = "Owner", tags = "1, 2, 3")]
    owner: Option<Owner>,
    #[prost(int32, tag = "4")]
    signal: i32,
}

#[derive(Clone, Copy, PartialEq, Oneof)]
enum Owner {
    #[prost(int32, tag = "1")]
    Thread(i32),
    #[prost(int32, tag = "2")]
    Process(i32),
    #[prost(int32, tag = "3")]
    Group(i32),
}

impl From<&model::FileOwner> for FileOwner {
    fn from(from: &model::FileOwner) -> FileOwner {
        let owner = match from.kind {
            FileOwnerKind::Thread(tid) => Owner::Thread(tid.0),
            FileOwnerKind::Process(pid) => Owner::Process(pid.0),
            FileOwnerKind::Group(pid) => Owner::Group(pid.0),
        };
        FileOwner { owner: Some(owner), signal: from.signal }
    }
}

impl TryFrom<FileOwner> for model::FileOwner {
    type Error = Malformed;

    fn try_from(from: FileOwner) -> Result<model::FileOwner, Malformed> {
        let kind = match from.owner {
            Some(Owner::Thread(tid)) => FileOwnerKind::Thread(Tid(tid)),
            Some(Owner::Process(pid)) => FileOwnerKind::Process(Pid(pid)),
            Some(Owner::Group(pid)) => FileOwnerKind::Group(Pid(pid)),
            None => return malformed("open_file.owner", "is missing or not known"),
        };
        Ok(model::FileOwner { kind, signal: from.signal })
    }
}

#[derive(Clone, PartialEq, Message)]
struct FileLock {
    #[prost(bool, tag = "1")]
    exclusive: bool,
    /// Present for an open-file-description lock, absent for flock.
    #[prost(message, optional, tag = "2")]
    ofd: Option<LockRange>,
}

#[derive(Clone, PartialEq, Message)]
struct LockRange {
    #[prost(uint64, tag = "1")]
    start: u64,
    #[prost(uint64, tag = "2")]
    length: u64,
}

impl From<&model::FileLock> for FileLock {
    fn from(from: &model::FileLock) -> FileLock {
        let ofd = match from.kind {
            FileLockKind::Flock => None,
            FileLockKind::Ofd { start, length } => Some(LockRange { start, length }),
        };
        FileLock { exclusive: from.exclusive, ofd }
    }
}

impl From<FileLock> for model::FileLock {
    fn from(from: FileLock) -> model::FileLock {
        let kind = match from.ofd {
            None => FileLockKind::Flock,
            Some(LockRange { start, length }) => FileLockKind::Ofd { start, length },
        };
        model::FileLock { kind, exclusive: from.exclusive }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RecordLock {
    #[prost(int32, tag = "1")]
    number: i32,
    #[prost(bool, tag = "2")]
    exclusive: bool,
    #[prost(uint64, tag = "3")]
    start: u64,
    #[prost(uint64, tag = "4")]
    length: u64,
}

impl From<&model::RecordLock> for RecordLock {
    fn from(from: &model::RecordLock) -> RecordLock {
        let &model::RecordLock { number, exclusive, start, length } = from;
        RecordLock { number, exclusive, start, length }
    }
}

impl From<RecordLock> for model::RecordLock {
    fn from(from: RecordLock) -> model::RecordLock {
        let RecordLock { number, exclusive, start, length } = from;
        model::RecordLock { number, exclusive, start, length }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DiskFile {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(bytes = "vec", tag = "2")]
    path: Vec<u8>,
    #[prost(bool, tag = "3")]
    deleted: bool,
    #[prost(bool, tag = "4")]
    stored: bool,
    #[prost(bool, tag = "5")]
    written: bool,
    #[prost(uint64, tag = "6")]
    size: u64,
    #[prost(uint32, tag = "7")]
    mode: u32,
    #[prost(uint64, tag = "8")]
    device: u64,
    #[prost(uint64, tag = "9")]
    inode: u64,
    #[prost(int64, tag = "10")]
    modified_ns: i64,
    #[prost(bytes = "vec", tag = "11")]
    build_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "12")]
    digest: Vec<u8>,
    #[prost(uint32, tag = "13")]
    carried: u32,
}

impl From<&model::DiskFile> for DiskFile {
    fn from(from: &model::DiskFile) -> DiskFile {
        DiskFile {
            id: from.id.0,
            path: from.path.clone(),
            deleted: from.deleted,
            stored: from.stored,
            written: from.written,
            size: from.size,
            mode: from.mode,
            device: from.device,
            inode: from.inode,
            modified_ns: from.modified_ns,
            build_id: from.build_id.clone(),
            digest: from.digest.clone(),
            carried: match from.carried {
                Carried::No => 0,
                Carried::Copy => 1,
                Carried::File => 2,
            },
        }
    }
}

impl TryFrom<DiskFile> for model::DiskFile {
    type Error = Malformed;

    fn try_from(from: DiskFile) -> Result<model::DiskFile, Malformed> {
        let carried = match from.carried {
            0 => Carried::No,
            1 => Carried::Copy,
            2 => Carried::File,
            other => return malformed("disk_file.carried", format!("is {other}")),
        };
        Ok(model::DiskFile {
            id: DiskFileId(from.id),
            path: from.path,
            deleted: from.deleted,
            stored: from.stored,
            written: from.written,
            size: from.size,
            mode: from.mode,
            device: from.device,
            inode: from.inode,
            modified_ns: from.modified_ns,
            build_id: from.build_id,
            digest: from.digest,
            carried,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Pipe {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(bytes = "vec", optional, tag = "2")]
    fifo: Option<Vec<u8>>,
    #[prost(uint32, tag = "3")]
    capacity_bytes: u32,
    #[prost(bytes = "vec", repeated, tag = "4")]
    in_flight: Vec<Vec<u8>>,
    #[prost(bool, tag = "5")]
    packets: bool,
}

impl From<&model::Pipe> for Pipe {
    fn from(from: &model::Pipe) -> Pipe {
        Pipe {
            id: from.id.0,
            fifo: from.fifo.clone(),
            capacity_bytes: from.capacity_bytes,
            in_flight: from.in_flight.iter().map(|bytes| bytes.0.clone()).collect(),
            packets: from.packets,
        }
    }
}

impl From<Pipe> for model::Pipe {
    fn from(from: Pipe) -> model::Pipe {
        model::Pipe {
            id: PipeId(from.id),
            fifo: from.fifo,
            capacity_bytes: from.capacity_bytes,
            in_flight: from.in_flight.into_iter().map(Redacted).collect(),
            packets: from.packets,
        }
    }
}
