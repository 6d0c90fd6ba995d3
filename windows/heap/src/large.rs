//! Large blocks: each has a run of units, of which only what it needs is committed.

use core::ptr;

use crate::Pages;
use crate::class::SMALL_BYTES_MAX;
use crate::layout::{LARGE_HEAD_BYTES, LargeHead, PAGE_BYTES, UNIT_BYTES, UNITS_MAX, Unit};
use crate::space::{HeapId, Space};

/// Units and committed bytes of a block of so many bytes.
fn extent(bytes: usize) -> Option<(u32, usize)> {
    let whole = bytes.checked_add(LARGE_HEAD_BYTES)?;
    let units = whole.div_ceil(UNIT_BYTES);
    (units < UNITS_MAX).then(|| (units as u32, whole.next_multiple_of(PAGE_BYTES)))
}

impl<P: Pages> Space<P> {
    fn large(&self, unit: u32) -> *mut LargeHead {
        self.address(unit) as *mut LargeHead
    }

    pub(crate) fn large_block(&self, unit: u32) -> *mut u8 {
        (self.address(unit) + LARGE_HEAD_BYTES) as *mut u8
    }

    pub(crate) fn large_owner(&self, unit: u32) -> HeapId {
        // SAFETY: the first page of a large block is committed and begins with its head.
        HeapId(unsafe { (*self.large(unit)).heap })
    }

    pub(crate) fn size_large(&self, unit: u32) -> usize {
        // SAFETY: as above.
        unsafe { (*self.large(unit)).bytes as usize }
    }

    /// A new one is zero: it was just committed.
    pub(crate) fn allocate_large(&self, heap: HeapId, bytes: usize) -> *mut u8 {
        let Some((units, committed)) = extent(bytes) else { return ptr::null_mut() };
        // A region until its head is written, so that nobody reads that.
        let Some(unit) = self.take_units(units, Unit::Region(units)) else { return ptr::null_mut() };
        if !self.pages.commit(self.address(unit), committed) {
            self.release_units(unit);
            return ptr::null_mut();
        }
        let head =
            LargeHead { heap: heap.0, padding: 0, bytes: bytes as u64, committed_bytes: committed as u64 };
        // SAFETY: the unit's first page was just committed.
        unsafe { self.large(unit).write(head) };
        self.set(unit, Unit::Large(units));
        self.large_block(unit)
    }

    /// Whether the block can have another size where it is; then it has it.
    pub(crate) fn resize_large(&self, unit: u32, bytes: usize) -> bool {
        let (Some((units, committed)), Unit::Large(old_units)) = (extent(bytes), self.unit(unit)) else {
            return false;
        };
        // One that became small moves, and one that would keep much address space for nothing.
        if bytes <= SMALL_BYTES_MAX || units < old_units / 4 {
            return false;
        }
        // SAFETY: the first page of a large block is committed and begins with its head; the block is its caller's.
        let head = unsafe { &mut *self.large(unit) };
        let old_committed = head.committed_bytes as usize;
        if units > old_units && !self.extend_units(unit, units, Unit::Large(units)) {
            return false;
        }
        if committed > old_committed {
            if !self.pages.commit(self.address(unit) + old_committed, committed - old_committed) {
                return false;
            }
            head.committed_bytes = committed as u64;
        }
        head.bytes = bytes as u64;
        true
    }
}
