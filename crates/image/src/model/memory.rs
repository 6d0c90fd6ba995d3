//! Address spaces and shared memory.

use brant_base::{Addr, PageRange};

use super::*;

/// The address space of one process.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AddressSpace {
    pub layout: MemoryLayout,
    /// The auxiliary vector as in /proc/PID/auxv.
    pub auxv: Vec<u8>,
    /// Sorted and disjoint.
    pub mappings: Vec<Mapping>,
}

/// The marks that the kernel keeps of an address space (prctl PR_SET_MM_MAP).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryLayout {
    pub code: (Addr, Addr),
    pub data: (Addr, Addr),
    /// Start of the heap and the current break.
    pub brk: (Addr, Addr),
    pub stack_start: Addr,
    pub arguments: (Addr, Addr),
    pub environment: (Addr, Addr),
}

/// One mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    pub range: PageRange,
    pub protection: Protection,
    pub sharing: Sharing,
    pub backing: Backing,
    pub flags: MappingFlags,
    /// PR_SET_VMA_ANON_NAME.
    pub name: Option<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Protection {
    pub read: bool,
    pub write: bool,
    pub execute: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    #[default]
    Private,
    Shared,
}

/// What lies under a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    Anonymous,
    /// A file on disk from byte `offset`. `writable` says that the mapping may become writable (shared only):
    /// the file was opened for writing.
    File {
        file: DiskFileId,
        offset: u64,
        writable: bool,
    },
    /// Shared memory from byte `offset`; may be mapped privately too.
    Shared {
        memory: SharedMemoryId,
        offset: u64,
        writable: bool,
    },
    Vdso,
    /// `[vvar]`, `[vvar_vclock]` and their like: the kernel's own, remade by the kernel.
    Vvar,
}

/// What madvise(2), mlock(2) and mmap(2) set besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MappingFlags {
    pub grows_down: bool,
    pub no_reserve: bool,
    pub locked: bool,
    pub dont_fork: bool,
    pub wipe_on_fork: bool,
    pub dont_dump: bool,
    pub mergeable: bool,
    pub huge_page: bool,
    pub no_huge_page: bool,
    pub sequential: bool,
    pub random: bool,
    /// MAP_DROPPABLE: its contents may go at any time, and do not travel.
    pub droppable: bool,
}

/// Names a [`SharedMemory`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SharedMemoryId(pub u32);

/// Memory that several mappings or descriptors share.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SharedMemory {
    pub id: SharedMemoryId,
    pub bytes: u64,
    pub kind: SharedMemoryKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SharedMemoryKind {
    /// mmap(MAP_SHARED | MAP_ANONYMOUS).
    #[default]
    Anonymous,
    /// memfd_create(2) with its name, its seals and its mode.
    Memfd { name: Vec<u8>, seals: u32, mode: u32 },
}
