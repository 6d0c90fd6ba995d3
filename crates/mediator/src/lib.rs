//! Mediators in Rust: functions that stand before a function of a library in a running program. It runs in that program, with
//! or without the standard library; `include/brant/mediator.h` is the same for C.
//!
//! ```
//! use core::ffi::{c_int, c_void};
//! use core::sync::atomic::{AtomicU64, Ordering};
//! use brant_mediator::mediator;
//!
//! static BYTES: AtomicU64 = AtomicU64::new(0);
//!
//! mediator! {
//!     /// Counts what is read.
//!     fn my_read(icall, fd: c_int, buffer: *mut c_void, bytes: usize) -> isize {
//!         // SAFETY: the prototype is that of read(2).
//!         let got: isize = unsafe { icall.inner() };
//!         BYTES.fetch_add(got.max(0) as u64, Ordering::Relaxed);
//!         got
//!     }
//! }
//! ```
//!
//! The library is a `cdylib`; its definition says `wrap read in libc with my_read sig "ssize_t(int, void *, size_t)"`. A
//! constructor of it runs when it is loaded, a destructor when it is unloaded or the program exits. A panic must not leave a
//! mediator: it ends the program.
#![no_std]

use core::ffi::c_void;

/// The call that a mediator is in the middle of: its first argument.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct InnerCall(*mut Frame);

/// What the runtime's frame begins with.
#[repr(C)]
struct Frame {
    layer: *const Layer,
}

#[repr(C)]
struct Link {
    code: *const c_void,
    entry: *const c_void,
}

#[repr(C)]
struct Layer {
    link: Link,
    next: *const Link,
    mediator: *const c_void,
    inner: *const c_void,
}

impl InnerCall {
    /// Calls the function as its caller did, and gives its result. A mediator does so never, once, or several times.
    ///
    /// # Safety
    ///
    /// `R` is the result's type, and the call is still under way. What the function's caller must uphold was upheld for
    /// the first call; the mediator vouches for what has changed since.
    pub unsafe fn inner<R>(self) -> R {
        // SAFETY: the frame of a call that is under way; layers are never freed.
        let inner = unsafe { (*(*self.0).layer).inner };
        // SAFETY: the inner call has this prototype for every result.
        let inner: unsafe extern "C" fn(InnerCall) -> R = unsafe { core::mem::transmute(inner) };
        // SAFETY: as promised by the caller.
        unsafe { inner(self) }
    }

    /// What [`InnerCall::inner`] calls, for other arguments: cast it to the function's type. While it runs, calls of the
    /// wrapper's own functions are not mediated.
    ///
    /// # Safety
    ///
    /// The call is still under way.
    pub unsafe fn function(self) -> *const c_void {
        // SAFETY: as above; the next link may change meanwhile, and each is one that may be called.
        unsafe {
            let next = (&raw const (*(*self.0).layer).next).read_volatile();
            (*next).entry
        }
    }
}

/// Declares a mediator with the function's own prototype; the first name is that of its [`InnerCall`].
#[macro_export]
macro_rules! mediator {
    (
        $(#[$attribute:meta])*
        fn $name:ident($icall:ident $(, $parameter:ident : $kind:ty)* $(,)?) $(-> $result:ty)? $body:block
    ) => {
        $(#[$attribute])*
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($icall: $crate::InnerCall $(, $parameter: $kind)*) $(-> $result)? {
            $(let _ = &$parameter;)*
            $body
        }
    };
}
