//! Writing mediators for brant in Rust.
//!
//! A *mediator* stands before one function of a library in a running program. [`mediator!`] declares one with the function's
//! own prototype; it calls the function never, once, or several times:
//!
//! ```
//! use core::ffi::{c_char, c_int};
//! use core::sync::atomic::{AtomicU64, Ordering};
//!
//! static FAILED: AtomicU64 = AtomicU64::new(0);
//!
//! brant_mediator::mediator! {
//!     /// Counts the files that could not be opened.
//!     fn my_open(call, path: *const c_char, flags: c_int, mode: c_int) -> c_int {
//!         let file = call.inner();
//!         if file < 0 {
//!             FAILED.fetch_add(1, Ordering::Relaxed);
//!         }
//!         file
//!     }
//! }
//! # fn main() {}
//! ```
//!
//! Built as a cdylib, with a definition beside it:
//!
//! ```text
//! wrapper count implementation "libcount.so"
//! wrap open in libc with my_open sig "int(const char *path, int flags, ...)"
//! ```
//!
//! it is put on by `brant wrap ./count.wrap TARGET` and taken off by `brant unwrap count TARGET`. [`events!`] tells of that,
//! and gives the options; [`PerThread`] is state of each thread; [`Frame`] has the arguments of any function, for a mediator
//! that stands before many. Statics are state of the process.
//!
//! What a mediator must bear: it runs in any thread at any time, in a signal handler too, as its function may. Its own calls
//! of functions that its wrapper mediates go to these functions themselves. `errno` is what the function left, unless
//! the mediator changes it. Where the function may throw or be cancelled, the library must be built with
//! `-Cforce-unwind-tables=yes`, and nothing that is to be dropped may live across `inner()` if it is built with panic=abort.
//!
//! On Windows (`docs/windows.md`) there are no native mediators, and the end of the program is not told ([`Event::Exit`]).
//!
//! In C the same is `brant/mediator.h`.
#![no_std]

mod call;
mod event;
#[cfg_attr(windows, path = "frame_windows.rs")]
mod frame;
mod raw;
mod thread;

#[cfg(feature = "freestanding")]
mod freestanding;
#[cfg(feature = "system")]
#[doc(hidden)]
pub mod system;

pub use call::Call;
pub use event::{Event, Function, Library, Load};
#[doc(hidden)]
pub use event::{deliver, leave};
pub use frame::Frame;
#[doc(hidden)]
pub use raw::{Raw, RawFunction, RawLibrary};
pub use thread::{Initial, PerThread, thread_pointer};

/// Declares mediators.
///
/// `fn NAME(CALL, PARAMETER: TYPE, ...) -> TYPE { ... }` has the prototype of the function that it stands before, with a name
/// for the [`Call`] in front. It is exported under its name.
///
/// ```
/// use core::ffi::{c_double, c_int};
///
/// brant_mediator::mediator! {
///     // Other arguments: twice what the caller gave.
///     fn my_scale(call, value: c_double, times: c_int) -> c_double {
///         let scale = call.inner_fn();
///         unsafe { scale(value * 2.0, times) }
///     }
///
///     // Not called at all.
///     fn my_beep(_call) {}
/// }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! mediator {
    ($($(#[$attribute:meta])* fn $name:ident($call:ident $(, $parameter:ident: $kind:ty)* $(,)?) $(-> $result:ty)? $body:block)+) => {
        $(
            $(#[$attribute])*
            #[cfg(panic = "abort")]
            #[unsafe(no_mangle)]
            #[allow(unused_variables, unreachable_pub)]
            pub unsafe extern "C" fn $name(icall: *mut ::core::ffi::c_void $(, $parameter: $kind)*) $(-> $result)? {
                // SAFETY: the runtime calls it with a call of the function that its definition names.
                let $call = unsafe {
                    $crate::Call::<unsafe extern "C" fn($($kind),*) $(-> $result)?, $crate::mediator!(@ $($result)?)>::new(icall)
                };
                $body
            }

            $(#[$attribute])*
            #[cfg(panic = "unwind")]
            #[unsafe(no_mangle)]
            #[allow(unused_variables, unreachable_pub)]
            pub unsafe extern "C-unwind" fn $name(icall: *mut ::core::ffi::c_void $(, $parameter: $kind)*) $(-> $result)? {
                // SAFETY: the runtime calls it with a call of the function that its definition names.
                let $call = unsafe {
                    $crate::Call::<unsafe extern "C-unwind" fn($($kind),*) $(-> $result)?, $crate::mediator!(@ $($result)?)>::new(icall)
                };
                $body
            }
        )+
    };
    (@) => { () };
    (@ $result:ty) => { $result };
}

/// Declares native mediators (`wrap ... native`): with the function's own prototype, and jumped to directly.
///
/// `fn NAME(INNER, PARAMETER: TYPE, ...) -> TYPE { ... }`: INNER is a pointer to the function (or to the next wrapper's mediator). It
/// stands before one function only. There is no guard: what it calls itself is mediated, so it must not call what it mediates
/// but by INNER. No account is kept of its calls, so the library stays loaded, dormant, when the wrapper is taken off.
///
/// ```
/// use core::ffi::c_void;
///
/// brant_mediator::native! {
///     /// Twice what is asked for.
///     fn my_malloc(inner, bytes: usize) -> *mut c_void {
///         unsafe { inner(bytes * 2) }
///     }
/// }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! native {
    ($($(#[$attribute:meta])* fn $name:ident($inner:ident $(, $parameter:ident: $kind:ty)* $(,)?) $(-> $result:ty)? $body:block)+) => {
        $(
            $(#[$attribute])*
            #[cfg(panic = "abort")]
            #[unsafe(no_mangle)]
            #[allow(unused_variables, unreachable_pub)]
            pub unsafe extern "C" fn $name($($parameter: $kind),*) $(-> $result)? {
                $crate::native!(@ "C", $name, $inner, ($($kind),*), ($($result)?));
                $body
            }

            $(#[$attribute])*
            #[cfg(panic = "unwind")]
            #[unsafe(no_mangle)]
            #[allow(unused_variables, unreachable_pub)]
            pub unsafe extern "C-unwind" fn $name($($parameter: $kind),*) $(-> $result)? {
                $crate::native!(@ "C-unwind", $name, $inner, ($($kind),*), ($($result)?));
                $body
            }
        )+
    };
    (@ $abi:literal, $name:ident, $inner:ident, ($($kind:ty),*), ($($result:ty)?)) => {
        #[unsafe(export_name = concat!("brant_inner_", stringify!($name)))]
        static INNER: ::core::sync::atomic::AtomicPtr<::core::ffi::c_void> =
            ::core::sync::atomic::AtomicPtr::new(::core::ptr::null_mut());
        let $inner = INNER.load(::core::sync::atomic::Ordering::Relaxed);
        // SAFETY: the runtime sets it to the function that the definition names before this can be called.
        let $inner = unsafe {
            ::core::mem::transmute::<*mut ::core::ffi::c_void, unsafe extern $abi fn($($kind),*) $(-> $result)?>($inner)
        };
    };
}

/// Names the function that is told what happens to the wrapper: `fn(Event<'_>) -> Result<(), &'static str>`.
///
/// An error at [`Event::Load`] declines: nothing is changed in the program, and the user reads it.
///
/// ```
/// use brant_mediator::Event;
///
/// fn on_event(event: Event<'_>) -> Result<(), &'static str> {
///     match event {
///         Event::Load(load) if load.options() == b"" => Ok(()),
///         Event::Load(_) => Err("there are no options"),
///         _ => Ok(()),
///     }
/// }
///
/// brant_mediator::events!(on_event);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! events {
    ($handler:path) => {
        #[unsafe(no_mangle)]
        #[doc(hidden)]
        #[allow(unreachable_pub)]
        pub unsafe extern "C" fn brant_event(event: *const $crate::Raw) -> ::core::ffi::c_int {
            // SAFETY: the runtime gives one as `brant/mediator.h` describes it.
            unsafe { $crate::deliver(event, $handler) }
        }

        #[cfg(not(windows))]
        #[used]
        #[unsafe(link_section = ".fini_array")]
        static BRANT_EXIT: extern "C" fn() = {
            extern "C" fn exit() {
                $crate::leave($handler)
            }
            exit
        };
    };
}
