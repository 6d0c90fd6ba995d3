//! The arguments of a call on Linux.

use core::ffi::c_void;

/// The arguments of any call as they were passed: for mediators that stand before many functions.
///
/// Vector registers are there where the definition's signature says that they carry arguments, or says nothing.
#[repr(C)]
#[derive(Debug)]
pub struct Frame {
    layer: *const c_void,
    unused: [u64; 3],
    /// rdi, rsi, rdx, rcx, r8, r9.
    pub integers: [u64; 6],
    rax: u64,
    r10: u64,
    /// xmm0 to xmm7.
    pub vectors: [[u64; 2]; 8],
    pub(crate) behind: [u64; 2],
}

impl Frame {
    /// # Safety
    ///
    /// The runtime gave `icall` to a mediator that has not returned yet.
    pub unsafe fn of<'a>(icall: *const c_void) -> &'a Frame {
        // SAFETY: promised by the caller.
        unsafe { &*icall.cast::<Frame>() }
    }

    /// A word of the stack arguments.
    ///
    /// # Safety
    ///
    /// The caller of the function has passed so many.
    pub unsafe fn stack(&self, index: usize) -> u64 {
        // SAFETY: promised by the caller; they follow the return address.
        unsafe { (&raw const *self).add(1).cast::<u64>().add(index).read() }
    }
}

const _: () = {
    assert!(core::mem::offset_of!(Frame, integers) == 32);
    assert!(core::mem::offset_of!(Frame, vectors) == 96);
    assert!(size_of::<Frame>() == 240);
};
