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
    pub fn caller(&self) -> (usize, usize) {
        // SAFETY: `new` vouches for the frame, which the runtime's thunk has made.
        let behind = unsafe { (&raw const (*self.icall.cast::<Frame>()).behind).read() };
        (behind[1] as usize, behind[0] as usize)
    }

    fn layer(&self) -> *const Layer {
        // SAFETY: what `icall` points to begins with the address of the layer.
        unsafe { self.icall.cast::<*const Layer>().read() }
    }
}

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
    behind: [u64; 2],
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
    assert!(core::mem::offset_of!(Layer, inner) == 32);
    assert!(core::mem::offset_of!(Layer, index) == 40);
};
