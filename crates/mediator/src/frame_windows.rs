//! The arguments of a call on Windows, where they are one array.

use core::ffi::c_void;

/// The arguments of any call as they were passed: for mediators that stand before many functions.
#[repr(C)]
#[derive(Debug)]
pub struct Frame {
    layer: *const c_void,
    pub(crate) arguments: *mut u64,
    /// xmm0 to xmm3: those of the first four arguments that are floating-point numbers.
    pub vectors: [[u64; 2]; 4],
    count: usize,
    unused: u64,
}

impl Frame {
    /// # Safety
    ///
    /// The runtime gave `icall` to a mediator that has not returned yet.
    pub unsafe fn of<'a>(icall: *const c_void) -> &'a Frame {
        // SAFETY: promised by the caller.
        unsafe { &*icall.cast::<Frame>() }
    }

    /// The arguments, a word each; there are as many as the definition says, and at least four words.
    pub fn arguments(&self) -> &[u64] {
        // SAFETY: the runtime has counted them.
        unsafe { core::slice::from_raw_parts(self.arguments, self.count) }
    }

    /// Changes an argument for the calls of the function that follow. Nothing where there are not so many.
    pub fn set_argument(&self, index: usize, value: u64) {
        if index < self.count {
            // SAFETY: one of the arguments, whose room is the called function's to use.
            unsafe { self.arguments.add(index).write(value) };
        }
    }
}

const _: () = assert!(size_of::<Frame>() == 96);
