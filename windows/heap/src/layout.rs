//! What lies where in the range. All of it is plain numbers; zero is a valid beginning of each record.

use crate::class::CLASSES;
use crate::lock::Lock;

/// The granularity of VirtualAlloc.
pub const UNIT_BYTES: usize = 1 << 16;
/// A program may create as many.
pub const HEAPS_MAX: usize = 1024;
/// The map of units has room for as much.
pub const SPACE_BYTES_MAX: usize = UNITS_MAX * UNIT_BYTES;

pub(crate) const UNITS_MAX: usize = 1 << 19;
pub(crate) const PAGE_BYTES: usize = 4096;

/// The first bytes of the range.
#[repr(C)]
pub(crate) struct Root {
    /// Guards `search` and `map`.
    pub(crate) lock: Lock,
    /// Units of the range.
    pub(crate) units: u32,
    /// No unit before it is free.
    pub(crate) search: u32,
    pub(crate) padding: u32,
    pub(crate) heaps: [HeapRecord; HEAPS_MAX],
    /// Kind and number of each unit, see [`Unit`].
    pub(crate) map: [u32; UNITS_MAX],
}

#[repr(C)]
pub(crate) struct HeapRecord {
    pub(crate) lock: Lock,
    /// 1 for a heap that there is.
    pub(crate) live: u32,
    /// For each class the first of the spans that have room; 0 for none.
    pub(crate) with_room: [u32; CLASSES],
}

/// Units that the root itself takes.
pub(crate) const ROOT_UNITS: usize = size_of::<Root>().div_ceil(UNIT_BYTES);

/// What the map says of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Free; the first and the last of the run say of how many.
    Free(u32),
    Span,
    /// The first of so many.
    Large(u32),
    Region(u32),
    /// So many after the first of its run.
    Within(u32),
}

const KIND_SHIFT: u32 = 28;
const NUMBER: u32 = (1 << KIND_SHIFT) - 1;

impl Unit {
    pub(crate) fn encode(self) -> u32 {
        let (kind, number) = match self {
            Unit::Free(units) => (0, units),
            Unit::Span => (1, 1),
            Unit::Large(units) => (2, units),
            Unit::Region(units) => (3, units),
            Unit::Within(distance) => (4, distance),
        };
        kind << KIND_SHIFT | number
    }

    pub(crate) fn decode(word: u32) -> Unit {
        let number = word & NUMBER;
        match word >> KIND_SHIFT {
            0 => Unit::Free(number),
            1 => Unit::Span,
            2 => Unit::Large(number),
            3 => Unit::Region(number),
            _ => Unit::Within(number),
        }
    }
}

/// The first bytes of a span. The blocks' slacks follow, then the blocks.
#[repr(C)]
pub(crate) struct Span {
    pub(crate) heap: u32,
    pub(crate) class: u32,
    pub(crate) capacity: u32,
    /// Of block 0, from the unit's beginning.
    pub(crate) first_block: u32,
    pub(crate) used: u32,
    /// Blocks from here on were never used.
    pub(crate) fresh: u32,
    /// The first free block and 1; each holds the number of the next one and 1.
    pub(crate) free: u32,
    /// Neighbours among the spans with room.
    pub(crate) next: u32,
    pub(crate) previous: u32,
    /// 1 while it is among them.
    pub(crate) has_room: u32,
    pub(crate) padding: [u32; 6],
}

pub(crate) const SPAN_HEAD_BYTES: usize = size_of::<Span>();
/// The slack of a block that is free.
pub(crate) const FREE_BLOCK: u16 = u16::MAX;

/// The first bytes of a large block's first unit.
#[repr(C)]
pub(crate) struct LargeHead {
    pub(crate) heap: u32,
    pub(crate) padding: u32,
    pub(crate) bytes: u64,
    /// From the unit's beginning.
    pub(crate) committed_bytes: u64,
}

/// Where its bytes begin.
pub(crate) const LARGE_HEAD_BYTES: usize = 64;
