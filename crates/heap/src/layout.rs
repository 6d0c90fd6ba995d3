//! What lies where in a heap's range. All of a heap is in its range, so a copy of the range at the same address is the heap.
//!
//! ```text
//! base            Header: name, roots, free runs, locks
//! base + 64 KiB   Slot[1024]: what belongs to one thread
//! base + 2 MiB    Span[slices]: one entry for each slice of the data
//! data            slices of 64 KiB: spans of small blocks, large blocks, free runs
//! ```
//!
//! Nothing here depends on the C library, the kernel or the compiler: every structure is `repr(C)`, x86-64 is the only machine, and
//! [`LAYOUT_VERSION`] changes with any of it. Fields are cells or atomics, so that a shared reference is all that is ever made;
//! who may touch which field is said with each.

use std::cell::Cell;
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize};

use crate::lock::Lock;

/// Changes with anything in this file, in `class`, and with the meaning of any of it.
pub(crate) const LAYOUT_VERSION: u32 = 1;
pub(crate) const HEADER_MAGIC: u64 = u64::from_le_bytes(*b"BrantHp1");

pub(crate) const SLICE_SHIFT: u32 = 16;
/// The unit in which data is given to spans and large blocks, and in which images are checked and written.
pub(crate) const SLICE_BYTES: usize = 1 << SLICE_SHIFT;
pub(crate) const PAGE_BYTES: usize = 4096;

pub(crate) const SLOTS_MAX: usize = 1024;
pub(crate) const SLOT_BYTES: usize = 1024;
pub(crate) const SLOTS_AT: usize = SLICE_BYTES;
pub(crate) const SPANS_AT: usize = 2 << 20;
pub(crate) const SPAN_BYTES: usize = 64;

pub(crate) const CLASSES: usize = 44;
pub(crate) const NAME_BYTES_MAX: usize = 63;
pub(crate) const ROOTS_MAX: usize = 128;
pub(crate) const ROOT_NAME_BYTES_MAX: usize = 39;

/// The bounds of a heap's range.
pub(crate) const RANGE_BYTES_MIN: usize = 4 << 20;
pub(crate) const RANGE_BYTES_MAX: usize = 1 << 40;

/// Free runs are kept by length: a power of two, and eight steps within it.
pub(crate) const RUN_LEVELS: usize = 24;
pub(crate) const RUN_STEPS: usize = 8;

/// Faults are looked for; see `debug`.
pub(crate) const FLAG_DEBUG: u32 = 1;
/// The range is where the kernel put it: such a heap cannot be saved.
pub(crate) const FLAG_PRIVATE: u32 = 2;

/// How many slices of data a range has, and where they begin, counted from the base.
pub(crate) const fn data_of(range_bytes: usize) -> (u32, usize) {
    let slices_at_most = range_bytes >> SLICE_SHIFT;
    let table = slices_at_most * SPAN_BYTES;
    let data_at = (SPANS_AT + table).next_multiple_of(SLICE_BYTES);
    (((range_bytes - data_at) >> SLICE_SHIFT) as u32, data_at)
}

/// The first bytes of a heap.
#[repr(C, align(4096))]
pub(crate) struct Header {
    pub(crate) magic: Cell<u64>,
    pub(crate) layout_version: Cell<u32>,
    pub(crate) flags: Cell<u32>,
    pub(crate) base: Cell<usize>,
    pub(crate) range_bytes: Cell<usize>,
    /// Address of slice 0.
    pub(crate) data: Cell<usize>,
    pub(crate) slices_max: Cell<u32>,
    /// Slices from here on were never used and are zero. `pages`.
    pub(crate) top: AtomicU32,
    pub(crate) name: Cell<[u8; NAME_BYTES_MAX + 1]>,
    /// Slices in use, in spans and large blocks. `pages`.
    pub(crate) slices_live: Cell<u32>,
    /// Slices of free runs that may hold memory of the host. `pages`.
    pub(crate) slices_idle: Cell<u32>,
    /// The highest number of slots that was ever in use. `slots`.
    pub(crate) slots_used: AtomicU32,
    /// Slots that have no thread. `slots`.
    pub(crate) slots_orphaned: AtomicU32,

    /// From here to `runs`: of this process, and made anew by a load.
    pub(crate) process: Process,

    /// Which lists of free runs are not empty. `pages`.
    pub(crate) run_levels: Cell<u32>,
    pub(crate) run_steps: [Cell<u8>; RUN_LEVELS],
    /// First run of each list; null where there is none. `pages`.
    pub(crate) runs: [[Cell<*const Span>; RUN_STEPS]; RUN_LEVELS],
    /// `roots`.
    pub(crate) roots: [Root; ROOTS_MAX],
    /// What a slot's queue without a span points to: a span that never has a free block. Never written.
    pub(crate) no_span: Span,
}

/// The part of a header that means something in one process only.
#[repr(C, align(64))]
pub(crate) struct Process {
    /// The heap's place in the registry.
    pub(crate) index: AtomicU32,
    /// Slices that are readable and writable so far. `pages`.
    pub(crate) slices_committed: Cell<u32>,
    /// Memory of free runs is given back to the host when `slices_idle` comes to this. `pages`.
    pub(crate) discard_at: Cell<u32>,
    /// For a heap of which parts are mapped from an image: a byte for each 64 KiB of the range, 1 where that is so. Else null. `pages`.
    pub(crate) backed: AtomicPtr<AtomicU8>,
    /// Which image it was loaded from or last saved to. `pages`.
    pub(crate) origin: Cell<Origin>,
    /// Free runs, slices, spans that change hands.
    pub(crate) pages: Lock,
    /// Which slot has a thread.
    pub(crate) slots: Lock,
    /// The slot of those who have none, and every call of a debugged heap.
    pub(crate) shared: Lock,
    pub(crate) roots: Lock,
    /// A bit for each slot that has a thread. `slots`.
    pub(crate) owned: [AtomicU64; SLOTS_MAX / 64],
}

/// A generation of an image.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) id: [u8; 16],
    pub(crate) generation: u64,
}

/// A named pointer into the heap.
#[repr(C)]
pub(crate) struct Root {
    pub(crate) name: Cell<[u8; ROOT_NAME_BYTES_MAX + 1]>,
    /// 0 where there is none.
    pub(crate) address: Cell<u64>,
    /// What the owner says that lies there.
    pub(crate) kind: Cell<u64>,
    pub(crate) bytes: Cell<u64>,
}

/// What belongs to one thread: for each class, a queue of spans with room. The first one is allocated from.
#[repr(C, align(1024))]
pub(crate) struct Slot {
    /// Never null once the slot was used: `Header::no_span` stands for none.
    pub(crate) head: [Cell<*const Span>; CLASSES],
    pub(crate) tail: [Cell<*const Span>; CLASSES],
    /// Full spans in which another thread freed a block since; a list through `Span::returned_next`. Anyone pushes.
    pub(crate) returned: AtomicPtr<Span>,
    /// Its place among the slots, plus one. 0 where the slot was never used.
    pub(crate) id: Cell<u32>,
}

/// The states of an entry. What is not the first or last slice of a run, nor a part of a span of small blocks, is `NOTHING`.
pub(crate) const NOTHING: u8 = 0;
pub(crate) const FREE: u8 = 1;
/// The last slice of a free run of more than one.
pub(crate) const FREE_END: u8 = 2;
pub(crate) const SMALL: u8 = 3;
/// A further slice of a span of small blocks.
pub(crate) const SMALL_PART: u8 = 4;
pub(crate) const LARGE: u8 = 5;
/// A large block that was asked for as a region.
pub(crate) const REGION: u8 = 6;

/// It has no free block that its owner knows of, and is in no queue.
pub(crate) const SPAN_FULL: u8 = 1;
/// A free run whose memory reads as zero.
pub(crate) const RUN_ZERO: u8 = 2;

/// In `Span::remote`: the span is full, whoever frees a block says so to the owner.
pub(crate) const REMOTE_FULL: usize = 1;
/// In `Span::remote`: the span is in a list `Slot::returned`.
pub(crate) const REMOTE_QUEUED: usize = 2;
pub(crate) const REMOTE_BITS: usize = 3;

/// One entry for each slice. Those of a run's first slice say what the run is.
///
/// For spans of small blocks all but `remote`, `returned_next` and `owner` belong to the owner of the slot `owner`.
#[repr(C, align(64))]
pub(crate) struct Span {
    /// Free blocks, each with the address of the next. For large blocks: the bytes that were asked for.
    pub(crate) free: Cell<usize>,
    /// Blocks that other threads freed, and two bits. Anyone pushes, the owner takes.
    pub(crate) remote: AtomicUsize,
    /// Belongs to who put the span into the list.
    pub(crate) returned_next: Cell<*const Span>,
    /// Neighbours in a queue of a slot or, for free runs, in a list of runs.
    pub(crate) next: Cell<*const Span>,
    pub(crate) prev: Cell<*const Span>,
    /// The slot's id; 0 for whatever is not a span of small blocks.
    pub(crate) owner: AtomicU32,
    /// How many entries before this one the run begins.
    pub(crate) back: Cell<u32>,
    /// Slices of the run.
    pub(crate) len: Cell<u32>,
    pub(crate) block_bytes: Cell<u32>,
    /// Blocks that are not in `free` (those in `remote` count as used). Not shared, but atomic: the compiler would read a cell together with its
    /// neighbour, and a processor waits where more is read than was just written.
    pub(crate) used: AtomicU16,
    /// Blocks that were ever in `free`; the rest of the span was never touched.
    pub(crate) carved: Cell<u16>,
    pub(crate) state: Cell<u8>,
    pub(crate) class: Cell<u8>,
    pub(crate) flags: Cell<u8>,
    pub(crate) spare: Cell<u8>,
}

const _: () = assert!(size_of::<Span>() == SPAN_BYTES);
const _: () = assert!(size_of::<Slot>() == SLOT_BYTES);
const _: () = assert!(size_of::<Header>() <= SLOTS_AT);
const _: () = assert!(SLOTS_AT + SLOTS_MAX * SLOT_BYTES <= SPANS_AT);
