//! Memory of the wrapper's own: never from the allocator that it looks at.

use crate::inside::system::{self, PAGE};

const SYS_MMAP: usize = 9;
const PROT_READ_WRITE: usize = 3;
const MAP_PRIVATE_ANONYMOUS: usize = 0x22;
const MAP_NORESERVE: usize = 0x4000;

/// Zeros that take no memory before they are written to.
pub(super) fn reserve(bytes: usize) -> Option<*mut u8> {
    let flags = MAP_PRIVATE_ANONYMOUS | MAP_NORESERVE;
    // SAFETY: new anonymous memory, which replaces nothing.
    let at = unsafe { system::call(SYS_MMAP, [0, bytes, PROT_READ_WRITE, flags, usize::MAX, 0]) };
    (at > 0).then_some(at as *mut u8)
}

/// Memory that is given back when it is dropped.
pub(super) struct Scratch {
    at: *mut u8,
    bytes: usize,
}

impl Scratch {
    pub(super) fn new(bytes: usize) -> Option<Scratch> {
        let bytes = bytes.next_multiple_of(PAGE);
        reserve(bytes).map(|at| Scratch { at, bytes })
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped, ours alone, and zeros at first.
        unsafe { core::slice::from_raw_parts_mut(self.at, self.bytes) }
    }

    /// The same memory as values.
    ///
    /// # Safety
    ///
    /// Zeros are a valid `T`, which needs no more than a page's alignment.
    pub(super) unsafe fn values<T>(&mut self) -> &mut [T] {
        // SAFETY: mapped and ours alone; the caller vouches for the rest.
        unsafe { core::slice::from_raw_parts_mut(self.at.cast(), self.bytes / size_of::<T>()) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: whoever borrowed from it is gone.
        unsafe { system::unmap(self.at, self.bytes) };
    }
}
