//! Heaps and regions of a Windows program in one range of addresses that is the same in every process.
//!
//! Everything that the allocator knows lies in that range, so the range's pages are the heaps: written to an image and brought back at the same
//! address, they go on. Nothing in it points out of it. What HeapAlloc promises holds here: blocks lie at multiples of 16, a size is told exactly,
//! freeing what is no block of the heap is refused and changes nothing.
//!
//! The range is cut into units of 64 KiB, the granularity of VirtualAlloc. A unit is a *span* of small blocks of one size, or belongs to a run of
//! units that is one large block or one region. This crate knows no system: [`Pages`] commits memory. Its tests run on Linux.
#![no_std]

mod class;
mod large;
mod layout;
mod lock;
mod small;
mod space;
mod units;

pub use layout::{HEAPS_MAX, SPACE_BYTES_MAX, UNIT_BYTES};
pub use space::{Block, HeapId, Space};

/// Who gives memory. The range itself has been reserved.
pub trait Pages {
    /// Makes pages of the range readable and writable; those that were not are zero. False where there is no memory.
    fn commit(&self, at: usize, bytes: usize) -> bool;
    /// Gives pages back: the next commit finds them zero.
    fn decommit(&self, at: usize, bytes: usize);
    /// Lets other threads go on, one of which has a lock.
    fn give_way(&self);
}
