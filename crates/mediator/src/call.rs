//! A call that is mediated. The layouts are those of `brant/mediator.h` and of the runtime's thunks.

use core::ffi::c_void;
use core::marker::PhantomData;
use core::mem::transmute_copy;

/// `struct brant_link`.
#[repr(C)]
struct Link {
    code: *const c_void,
    entry: *const c_void,
}

/// `struct brant_layer`.
#[repr(C)]
struct Layer {
    link: Link,
    next: *const Link,
    mediator: *const c_void,
    inner: *const c_void,
    index: usize,
}

/// A call of a function of type `F`, which returns `R`.
#[derive(Debug)]
pub struct Call<F, R> {
    icall: *mut c_void,
    kind: PhantomData<(F, fn() -> R)>,
}

impl<F: Copy, R> Call<F, R> {
    /// # Safety
    ///
    /// The runtime gave `icall` to a mediator of a function of type `F` that returns `R`, which has not returned yet.
    pub unsafe fn new(icall: *mut c_void) -> Call<F, R> {
        const { assert!(size_of::<F>() == size_of::<usize>(), "F is the type of a function pointer") };
        Call { icall, kind: PhantomData }
    }

    /// Calls the function as its caller did: every time with the arguments that the caller gave.
    pub fn inner(&self) -> R {
        // SAFETY: `new` vouches for the layer and the types; the arguments are those of the caller.
        unsafe {
            #[cfg(panic = "abort")]
            let inner: unsafe extern "C" fn(*mut c_void) -> R = transmute_copy(&(*self.layer()).inner);
            #[cfg(panic = "unwind")]
            let inner: unsafe extern "C-unwind" fn(*mut c_void) -> R = transmute_copy(&(*self.layer()).inner);
            inner(self.icall)
        }
    }

    /// What [`Call::inner`] calls, for other arguments. Calls of the wrapper's own functions that it makes are not mediated.
    pub fn inner_fn(&self) -> F {
        // SAFETY: `new` vouches for the layer and the type; a link is never freed.
        unsafe { transmute_copy(&(*(*self.layer()).next).entry) }
    }

    /// Which `wrap` of the definition the call is for, from 0 on.
    pub fn index(&self) -> usize {
        // SAFETY: `new` vouches for the layer.
        unsafe { (*self.layer()).index }
    }

    /// Where the function's caller goes on, and what was in its frame pointer register: a frame only if that code keeps frames.
    #[cfg(not(windows))]
    pub fn caller(&self) -> (usize, usize) {
        // SAFETY: `new` vouches for the frame, which the runtime's thunk has made.
        let behind = unsafe { (&raw const (*self.icall.cast::<crate::Frame>()).behind).read() };
        (behind[1] as usize, behind[0] as usize)
    }

    /// Where the function's caller goes on.
    #[cfg(windows)]
    pub fn caller(&self) -> usize {
        // SAFETY: `new` vouches for the frame; the return address stands before the arguments.
        unsafe { (*self.icall.cast::<crate::Frame>()).arguments.sub(1).read() as usize }
    }

    fn layer(&self) -> *const Layer {
        // SAFETY: what `icall` points to begins with the address of the layer.
        unsafe { self.icall.cast::<*const Layer>().read() }
    }
}

const _: () = {
    assert!(core::mem::offset_of!(Layer, inner) == 32);
    assert!(core::mem::offset_of!(Layer, index) == 40);
};
