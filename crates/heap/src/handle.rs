//! A heap as an allocator handle for collections that take one (`allocator-api2`): hashbrown, for one.
//!
//! The handle is the heap's address, which is the same in every process; so a collection that holds it may lie in the heap itself.

use std::alloc::Layout;
use std::ptr::NonNull;

use allocator_api2::alloc::{AllocError, Allocator};

use crate::heap::Heap;

// SAFETY: blocks stay where they are until they are freed, whichever copy of the handle frees them; none overlap, and they have the size and
// alignment that was asked for.
unsafe impl Allocator for Heap {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        let address = self.0.allocate(layout.size(), layout.align());
        let block = NonNull::new(address as *mut u8).ok_or(AllocError)?;
        Ok(NonNull::slice_from_raw_parts(block, layout.size()))
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        let address = self.0.allocate_zeroed(layout.size(), layout.align());
        let block = NonNull::new(address as *mut u8).ok_or(AllocError)?;
        Ok(NonNull::slice_from_raw_parts(block, layout.size()))
    }

    #[inline]
    unsafe fn deallocate(&self, block: NonNull<u8>, _: Layout) {
        if let Err(fault) = self.0.free(block.as_ptr() as usize) {
            crate::die(fault);
        }
    }
}
