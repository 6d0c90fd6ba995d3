//! A heap by its address: how the other modules come to its header, slots and spans.

use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use crate::layout::*;

/// A heap that is mapped. Copies are cheap; none may be used once the heap was destroyed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Core(NonNull<Header>);

// SAFETY: the address is good for every thread; each field of the structures says who may touch it.
unsafe impl Send for Core {}
// SAFETY: as above.
unsafe impl Sync for Core {}

impl Deref for Core {
    type Target = Header;

    #[inline(always)]
    fn deref(&self) -> &Header {
        // SAFETY: a `Core` is made of mapped heaps only (`Core::at`), and all fields are cells or atomics.
        unsafe { self.0.as_ref() }
    }
}

impl Core {
    /// # Safety
    ///
    /// A whole header is mapped there, for as long as the result or a copy of it is used.
    #[inline(always)]
    pub(crate) unsafe fn at(header: *const Header) -> Core {
        // SAFETY: promised by the caller.
        Core(unsafe { NonNull::new_unchecked(header.cast_mut()) })
    }

    #[inline(always)]
    pub(crate) fn header<'a>(self) -> &'a Header {
        // SAFETY: as for `deref`; the header stays mapped as long as the heap.
        unsafe { self.0.as_ref() }
    }

    #[inline(always)]
    pub(crate) fn address(self) -> usize {
        self.0.as_ptr() as usize
    }

    #[inline(always)]
    pub(crate) fn top(self) -> u32 {
        self.top.load(Ordering::Relaxed)
    }

    pub(crate) fn is_debug(self) -> bool {
        self.flags.get() & FLAG_DEBUG != 0
    }

    pub(crate) fn name_text(&self) -> &str {
        // SAFETY: the cell's bytes are written before the heap is handed out, and never after.
        let bytes = unsafe { &*self.name.as_ptr() };
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        std::str::from_utf8(&bytes[..end]).unwrap_or("")
    }

    #[inline(always)]
    pub(crate) fn slot<'a>(self, index: usize) -> &'a Slot {
        debug_assert!(index < SLOTS_MAX);
        // SAFETY: all slots are mapped, zero is a valid one, and all fields are cells or atomics.
        unsafe { &*((self.address() + SLOTS_AT + index * SLOT_BYTES) as *const Slot) }
    }

    /// The entry of a slice, which must be below `slices_committed`.
    #[inline(always)]
    pub(crate) fn span<'a>(self, slice: u32) -> &'a Span {
        // SAFETY: entries of committed slices are mapped, zero is a valid one, and all fields are cells or atomics.
        unsafe { &*((self.address() + SPANS_AT + slice as usize * SPAN_BYTES) as *const Span) }
    }

    #[inline(always)]
    pub(crate) fn slice_of(self, span: &Span) -> u32 {
        ((std::ptr::from_ref(span) as usize - self.address() - SPANS_AT) / SPAN_BYTES) as u32
    }

    #[inline(always)]
    pub(crate) fn slice_address(self, slice: u32) -> usize {
        self.data.get() + ((slice as usize) << SLICE_SHIFT)
    }

    /// The run that holds an address: an entry that says `SMALL`, `LARGE` or `REGION`, or where that cannot be, the entry of the slice itself.
    #[inline(always)]
    pub(crate) fn span_at<'a>(self, address: usize) -> Option<&'a Span> {
        let offset = address.wrapping_sub(self.data.get());
        // `top` never shrinks; a stale value is of a time before the block was allocated only for who has no business with it.
        if offset >= (self.top() as usize) << SLICE_SHIFT {
            return None;
        }
        let slice = (offset >> SLICE_SHIFT) as u32;
        let entry = self.span(slice);
        Some(self.span(slice - entry.back.get()))
    }

    #[inline(always)]
    pub(crate) fn contains(self, address: usize) -> bool {
        address.wrapping_sub(self.address()) < self.range_bytes.get()
    }
}

/// The entry behind a pointer of a queue or list; `None` for null.
#[inline(always)]
pub(crate) fn entry<'a>(pointer: *const Span) -> Option<&'a Span> {
    // SAFETY: such pointers are null or point to entries of the heap, which stay mapped.
    unsafe { pointer.as_ref() }
}

/// The word at a free block's beginning: the address of the next one.
#[inline(always)]
pub(crate) fn link(block: usize) -> usize {
    // SAFETY: the block is free and belongs to the caller's list, so nobody else writes it.
    unsafe { (block as *const usize).read() }
}

#[inline(always)]
pub(crate) fn set_link(block: usize, next: usize) {
    // SAFETY: as for `link`.
    unsafe { (block as *mut usize).write(next) }
}
