//! The range as a whole, and what heaps promise.

use core::ptr;

use crate::class::{self, SMALL_BYTES_MAX};
use crate::layout::{HEAPS_MAX, HeapRecord, ROOT_UNITS, Root, SPACE_BYTES_MAX, UNIT_BYTES, Unit};
use crate::{Pages, class::CLASSES};

/// A heap's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeapId(pub u32);

/// A block as a walk finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    pub at: usize,
    pub bytes: usize,
}

/// A range of addresses with heaps and regions in it. Any thread may use it.
#[derive(Debug)]
pub struct Space<P> {
    pub(crate) base: usize,
    pub(crate) pages: P,
}

impl<P: Pages> Space<P> {
    /// Makes an empty one.
    ///
    /// # Safety
    /// `base` is a multiple of 64 KiB and begins `bytes` bytes that are reserved for this space alone for as long as it is used.
    pub unsafe fn create(base: usize, bytes: usize, pages: P) -> Option<Space<P>> {
        let units = bytes.min(SPACE_BYTES_MAX) / UNIT_BYTES;
        if units <= ROOT_UNITS || !pages.commit(base, ROOT_UNITS * UNIT_BYTES) {
            return None;
        }
        let space = Space { base, pages };
        // SAFETY: the root was just committed, and nobody else knows of it yet.
        unsafe {
            (*space.root()).units = units as u32;
        }
        space.set(0, Unit::Region(ROOT_UNITS as u32));
        for unit in 1..ROOT_UNITS as u32 {
            space.set(unit, Unit::Within(unit));
        }
        space.set_free(ROOT_UNITS as u32, (units - ROOT_UNITS) as u32);
        // SAFETY: as above.
        unsafe {
            (*space.root()).search = ROOT_UNITS as u32;
        }
        Some(space)
    }

    /// One whose pages are there already, from an image.
    ///
    /// # Safety
    /// As for [`Space::create`]; the pages are those of a space that was created at `base`.
    pub unsafe fn brought_back(base: usize, pages: P) -> Space<P> {
        Space { base, pages }
    }

    pub(crate) fn root(&self) -> *mut Root {
        self.base as *mut Root
    }

    pub(crate) fn record(&self, heap: HeapId) -> *mut HeapRecord {
        debug_assert!((heap.0 as usize) < HEAPS_MAX);
        // SAFETY: the root is committed and has so many records.
        unsafe { &raw mut (*self.root()).heaps[heap.0 as usize] }
    }

    /// Whether there is such a heap.
    pub fn is_heap(&self, heap: HeapId) -> bool {
        // SAFETY: the record is in the root; a heap that is just being destroyed by another thread is that thread's mistake.
        (heap.0 as usize) < HEAPS_MAX && unsafe { (*self.record(heap)).live } == 1
    }

    /// HeapCreate; `None` where there are [`HEAPS_MAX`] already.
    pub fn create_heap(&self) -> Option<HeapId> {
        // SAFETY: the root is committed.
        let _held = unsafe { &(*self.root()).lock }.take(&self.pages);
        let free = (0..HEAPS_MAX as u32).map(HeapId).find(|&heap| !self.is_heap(heap))?;
        let record = self.record(free);
        // SAFETY: the record is free, and whoever looks for a free one has the lock.
        unsafe {
            (*record).with_room = [0; CLASSES];
        }
        // SAFETY: as above.
        unsafe {
            (*record).live = 1;
        }
        Some(free)
    }

    /// HeapDestroy: all blocks of the heap are gone. False where there is no such heap.
    pub fn destroy_heap(&self, heap: HeapId) -> bool {
        if !self.is_heap(heap) {
            return false;
        }
        self.release_all(|unit, kind| self.owner_of(unit, kind) == Some(heap));
        // SAFETY: the record is in the root, and nobody may use a heap while it is destroyed.
        unsafe {
            (*self.record(heap)).live = 0;
        }
        true
    }

    /// The heaps that there are.
    pub fn heaps(&self) -> impl Iterator<Item = HeapId> + '_ {
        (0..HEAPS_MAX as u32).map(HeapId).filter(|&heap| self.is_heap(heap))
    }

    /// HeapAlloc; null where there is no memory or no such heap.
    pub fn allocate(&self, heap: HeapId, bytes: usize, zeroed: bool) -> *mut u8 {
        if !self.is_heap(heap) {
            return ptr::null_mut();
        }
        if bytes > SMALL_BYTES_MAX {
            return self.allocate_large(heap, bytes);
        }
        let block = self.allocate_small(heap, class::of(bytes), bytes);
        if zeroed && !block.is_null() {
            // SAFETY: the block has so many bytes, and is ours.
            unsafe { block.write_bytes(0, bytes) };
        }
        block
    }

    /// HeapFree; false where `block` is none of this heap's.
    pub fn free(&self, heap: HeapId, block: usize) -> bool {
        match self.place(heap, block) {
            Some((unit, Unit::Span)) => self.free_small(unit, block),
            Some((unit, Unit::Large(_))) => {
                self.release_units(unit);
                true
            }
            _ => false,
        }
    }

    /// HeapSize.
    pub fn size(&self, heap: HeapId, block: usize) -> Option<usize> {
        match self.place(heap, block)? {
            (unit, Unit::Span) => self.size_small(unit, block),
            (unit, _) => Some(self.size_large(unit)),
        }
    }

    /// HeapReAlloc: null where there is no memory, or no such block, or no room without a move where `in_place` is set; the block is as it was then.
    pub fn reallocate(
        &self,
        heap: HeapId,
        block: usize,
        bytes: usize,
        zeroed: bool,
        in_place: bool,
    ) -> *mut u8 {
        let (Some((unit, kind)), Some(old_bytes)) = (self.place(heap, block), self.size(heap, block)) else {
            return ptr::null_mut();
        };
        let fits = match kind {
            Unit::Span => self.resize_small(unit, block, bytes),
            _ => self.resize_large(unit, bytes),
        };
        if fits {
            if zeroed && bytes > old_bytes {
                // SAFETY: the block has `bytes` bytes now.
                unsafe { ((block + old_bytes) as *mut u8).write_bytes(0, bytes - old_bytes) };
            }
            return block as *mut u8;
        }
        if in_place {
            return ptr::null_mut();
        }
        let moved = self.allocate(heap, bytes, false);
        if moved.is_null() {
            return moved;
        }
        let kept = old_bytes.min(bytes);
        // SAFETY: both blocks have so many bytes, and are two.
        unsafe { ptr::copy_nonoverlapping(block as *const u8, moved, kept) };
        if zeroed {
            // SAFETY: the new block has `bytes` bytes, which are at least `kept`.
            unsafe { moved.add(kept).write_bytes(0, bytes - kept) };
        }
        self.free(heap, block);
        moved
    }

    /// HeapWalk: each block of the heap. Nobody may allocate from it meanwhile.
    pub fn walk(&self, heap: HeapId, mut visit: impl FnMut(Block)) {
        let mut unit = 0;
        while let Some((at, kind, units)) = self.run_from(unit) {
            unit = at + units;
            if self.owner_of(at, kind) != Some(heap) {
                continue;
            }
            match kind {
                Unit::Span => self.walk_small(at, &mut visit),
                _ => visit(Block { at: self.large_block(at) as usize, bytes: self.size_large(at) }),
            }
        }
    }

    /// The heap that `block` is in.
    pub fn heap_of(&self, block: usize) -> Option<HeapId> {
        let unit = self.unit_of(block)?;
        self.owner_of(unit, self.unit(unit))
    }

    /// The unit and kind of a block of this heap; of a small one it is not yet sure that it is one.
    fn place(&self, heap: HeapId, block: usize) -> Option<(u32, Unit)> {
        let unit = self.unit_of(block)?;
        let kind = self.unit(unit);
        if !self.is_heap(heap) || self.owner_of(unit, kind) != Some(heap) {
            return None;
        }
        if matches!(kind, Unit::Large(_)) && self.large_block(unit) as usize != block {
            return None;
        }
        Some((unit, kind))
    }

    fn owner_of(&self, unit: u32, kind: Unit) -> Option<HeapId> {
        match kind {
            // SAFETY: a span's first page is committed and begins with its head.
            Unit::Span => Some(HeapId(unsafe { (*self.span(unit)).heap })),
            Unit::Large(_) => Some(self.large_owner(unit)),
            _ => None,
        }
    }
}
