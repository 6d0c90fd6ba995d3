//! Address spaces and shared memory.

use brant_base::{Addr, PageRange};
use prost::{Message, Oneof};

use super::{Malformed, array, bits, flags, list, malformed, need, parse};
use crate::model::{self, DiskFileId, Protection, SharedMemoryId, SharedMemoryKind, Sharing};

#[derive(Clone, PartialEq, Message)]
pub(super) struct AddressSpace {
    #[prost(message, optional, tag = "1")]
    layout: Option<MemoryLayout>,
    #[prost(bytes = "vec", tag = "2")]
    auxv: Vec<u8>,
    #[prost(message, repeated, tag = "3")]
    mappings: Vec<Mapping>,
}

impl From<&model::AddressSpace> for AddressSpace {
    fn from(from: &model::AddressSpace) -> AddressSpace {
        AddressSpace {
            layout: Some((&from.layout).into()),
            auxv: from.auxv.clone(),
            mappings: list(&from.mappings),
        }
    }
}

impl TryFrom<AddressSpace> for model::AddressSpace {
    type Error = Malformed;

    fn try_from(from: AddressSpace) -> Result<model::AddressSpace, Malformed> {
        Ok(model::AddressSpace {
            layout: need("memory.layout", from.layout)?,
            auxv: from.auxv,
            mappings: parse(from.mappings)?,
        })
    }
}

/// Each mark is a pair: start, end.
#[derive(Clone, PartialEq, Message)]
struct MemoryLayout {
    #[prost(uint64, repeated, tag = "1")]
    code: Vec<u64>,
    #[prost(uint64, repeated, tag = "2")]
    data: Vec<u64>,
    #[prost(uint64, repeated, tag = "3")]
    brk: Vec<u64>,
    #[prost(uint64, tag = "4")]
    stack_start: u64,
    #[prost(uint64, repeated, tag = "5")]
    arguments: Vec<u64>,
    #[prost(uint64, repeated, tag = "6")]
    environment: Vec<u64>,
}

impl From<&model::MemoryLayout> for MemoryLayout {
    fn from(from: &model::MemoryLayout) -> MemoryLayout {
        let pair = |(start, end): (Addr, Addr)| vec![start.0, end.0];
        MemoryLayout {
            code: pair(from.code),
            data: pair(from.data),
            brk: pair(from.brk),
            stack_start: from.stack_start.0,
            arguments: pair(from.arguments),
            environment: pair(from.environment),
        }
    }
}

impl TryFrom<MemoryLayout> for model::MemoryLayout {
    type Error = Malformed;

    fn try_from(from: MemoryLayout) -> Result<model::MemoryLayout, Malformed> {
        let pair = |marks| -> Result<(Addr, Addr), Malformed> {
            let [start, end] = array("memory.layout", marks)?;
            Ok((Addr(start), Addr(end)))
        };
        Ok(model::MemoryLayout {
            code: pair(from.code)?,
            data: pair(from.data)?,
            brk: pair(from.brk)?,
            stack_start: Addr(from.stack_start),
            arguments: pair(from.arguments)?,
            environment: pair(from.environment)?,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    start: u64,
    #[prost(uint64, tag = "2")]
    end: u64,
    /// 1 read, 2 write, 4 execute.
    #[prost(uint32, tag = "3")]
    protection: u32,
    #[prost(bool, tag = "4")]
    shared: bool,
    #[prost(oneof = "Backing", tags = "5, 6, 7, 8, 9")]
    backing: Option<Backing>,
    /// In the order of the model's `MappingFlags`, `grows_down` being 1.
    #[prost(uint32, tag = "10")]
    flags: u32,
    #[prost(bytes = "vec", optional, tag = "11")]
    name: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Backing {
    #[prost(bool, tag = "5")]
    Anonymous(bool),
    #[prost(message, tag = "6")]
    File(Piece),
    #[prost(message, tag = "7")]
    SharedMemory(Piece),
    #[prost(bool, tag = "8")]
    Vdso(bool),
    #[prost(bool, tag = "9")]
    Vvar(bool),
}

/// A place in a file or in shared memory.
#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(uint64, tag = "2")]
    offset: u64,
    #[prost(bool, tag = "3")]
    writable: bool,
}

impl From<&model::Mapping> for Mapping {
    fn from(from: &model::Mapping) -> Mapping {
        let backing = match from.backing {
            model::Backing::Anonymous => Backing::Anonymous(true),
            model::Backing::File { file, offset, writable } => {
                Backing::File(Piece { id: file.0, offset, writable })
            }
            model::Backing::Shared { memory, offset, writable } => {
                Backing::SharedMemory(Piece { id: memory.0, offset, writable })
            }
            model::Backing::Vdso => Backing::Vdso(true),
            model::Backing::Vvar => Backing::Vvar(true),
        };
        let Protection { read, write, execute } = from.protection;
        Mapping {
            start: from.range.start().0,
            end: from.range.end().0,
            protection: bits(&[read, write, execute]),
            shared: from.sharing == Sharing::Shared,
            backing: Some(backing),
            flags: mapping_bits(from.flags),
            name: from.name.clone(),
        }
    }
}

impl TryFrom<Mapping> for model::Mapping {
    type Error = Malformed;

    fn try_from(from: Mapping) -> Result<model::Mapping, Malformed> {
        let range = PageRange::new(from.start, from.end);
        let range = range.or_else(|error| malformed("mapping.range", error.to_string()))?;
        let [read, write, execute] = flags("mapping.protection", from.protection)?;
        let backing = match from.backing {
            Some(Backing::Anonymous(true)) => model::Backing::Anonymous,
            Some(Backing::File(Piece { id, offset, writable })) => {
                model::Backing::File { file: DiskFileId(id), offset, writable }
            }
            Some(Backing::SharedMemory(Piece { id, offset, writable })) => {
                model::Backing::Shared { memory: SharedMemoryId(id), offset, writable }
            }
            Some(Backing::Vdso(true)) => model::Backing::Vdso,
            Some(Backing::Vvar(true)) => model::Backing::Vvar,
            _ => return malformed("mapping.backing", "is missing or not known"),
        };
        Ok(model::Mapping {
            range,
            protection: Protection { read, write, execute },
            sharing: if from.shared { Sharing::Shared } else { Sharing::Private },
            backing,
            flags: mapping_flags(from.flags)?,
            name: from.name,
        })
    }
}

fn mapping_bits(from: model::MappingFlags) -> u32 {
    bits(&[
        from.grows_down,
        from.no_reserve,
        from.locked,
        from.dont_fork,
        from.wipe_on_fork,
        from.dont_dump,
        from.mergeable,
        from.huge_page,
        from.no_huge_page,
        from.sequential,
        from.random,
        from.droppable,
    ])
}

fn mapping_flags(bits: u32) -> Result<model::MappingFlags, Malformed> {
    let all: [bool; 12] = flags("mapping.flags", bits)?;
    let [grows_down, no_reserve, locked, dont_fork, wipe_on_fork, dont_dump, mergeable, ..] = all;
    let [.., huge_page, no_huge_page, sequential, random, droppable] = all;
    Ok(model::MappingFlags {
        grows_down,
        no_reserve,
        locked,
        dont_fork,
        wipe_on_fork,
        dont_dump,
        mergeable,
        huge_page,
        no_huge_page,
        sequential,
        random,
        droppable,
    })
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SharedMemory {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(uint64, tag = "2")]
    bytes: u64,
    #[prost(oneof = "SharedKind", tags = "3, 4")]
    kind: Option<SharedKind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum SharedKind {
    #[prost(bool, tag = "3")]
    Anonymous(bool),
    #[prost(message, tag = "4")]
    Memfd(Memfd),
}

#[derive(Clone, PartialEq, Message)]
struct Memfd {
    #[prost(bytes = "vec", tag = "1")]
    name: Vec<u8>,
    #[prost(uint32, tag = "2")]
    seals: u32,
    #[prost(uint32, tag = "3")]
    mode: u32,
}

impl From<&model::SharedMemory> for SharedMemory {
    fn from(from: &model::SharedMemory) -> SharedMemory {
        let kind = match &from.kind {
            SharedMemoryKind::Anonymous => SharedKind::Anonymous(true),
            SharedMemoryKind::Memfd { name, seals, mode } => {
                SharedKind::Memfd(Memfd { name: name.clone(), seals: *seals, mode: *mode })
            }
        };
        SharedMemory { id: from.id.0, bytes: from.bytes, kind: Some(kind) }
    }
}

impl TryFrom<SharedMemory> for model::SharedMemory {
    type Error = Malformed;

    fn try_from(from: SharedMemory) -> Result<model::SharedMemory, Malformed> {
        let kind = match from.kind {
            Some(SharedKind::Anonymous(true)) => SharedMemoryKind::Anonymous,
            Some(SharedKind::Memfd(Memfd { name, seals, mode })) => {
                SharedMemoryKind::Memfd { name, seals, mode }
            }
            _ => return malformed("shared_memory.kind", "is missing or not known"),
        };
        Ok(model::SharedMemory { id: SharedMemoryId(from.id), bytes: from.bytes, kind })
    }
}
