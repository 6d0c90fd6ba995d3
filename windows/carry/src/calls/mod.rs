//! Functions that the program has instead of the system's. They run on the calling thread's native stack.
//!
//! Each has the prototype of its namesake; what its documentation promises holds. A handle is the program's; [`crate::objects`] says what it
//! stands for.
#![allow(non_snake_case, reason = "they are called as the system's")]

pub(crate) mod automation;
pub(crate) mod clocks;
pub(crate) mod console;
pub(crate) mod environment;
pub(crate) mod files;
mod handles;
pub(crate) mod heaps;
pub(crate) mod input;
pub(crate) mod libraries;
mod locks;
mod memory;
mod objects;
pub(crate) mod process;
mod registry;
mod slim;
pub(crate) mod slots;
pub(crate) mod threads;
pub(crate) mod waits;

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::catalog::Ours;

pub(crate) use heaps::space;

/// What we have for a function of this name.
pub(crate) fn find(name: &str) -> Option<&'static Ours> {
    static ALL: OnceLock<HashMap<&'static str, &'static Ours>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let tables = [
            automation::OURS,
            clocks::OURS,
            console::OURS,
            environment::OURS,
            files::OURS,
            handles::OURS,
            heaps::OURS,
            libraries::OURS,
            locks::OURS,
            memory::OURS,
            objects::OURS,
            process::OURS,
            registry::OURS,
            registry::reading::OURS,
            slim::OURS,
            slots::OURS,
            threads::OURS,
            waits::OURS,
        ];
        tables.into_iter().flatten().map(|ours| (ours.name, ours)).collect()
    });
    all.get(name).copied()
}

/// The table of a module's functions: those that do not wait, and behind a semicolon those that do.
macro_rules! ours {
    ($($quick:ident)*; $($waiting:ident)*) => {
        pub(crate) static OURS: &[$crate::catalog::Ours] = &[
            $($crate::catalog::Ours {
                name: stringify!($quick),
                how: $crate::catalog::How::Quick,
                function: $crate::catalog::Address($quick as *const ()),
                real: None,
            },)*
            $($crate::catalog::Ours {
                name: stringify!($waiting),
                how: $crate::catalog::How::Waiting,
                function: $crate::catalog::Address($waiting as *const ()),
                real: None,
            },)*
        ];
    };
}

/// Functions that are the system's but for handles among their first arguments.
macro_rules! with_handles {
    ($($name:ident)*) => {
        $(
            #[allow(clippy::too_many_arguments)]
            unsafe extern "system" fn $name(a: u64, b: u64, c: u64, d: u64, e: u64, f: u64, g: u64, h: u64, i: u64) -> u64 {
                let real = reals::$name.load(std::sync::atomic::Ordering::Acquire);
                let a = $crate::objects::real(a) as u64;
                type All = unsafe extern "system" fn(u64, u64, u64, u64, u64, u64, u64, u64, u64) -> u64;
                // SAFETY: the system's function of this name; it takes as many of the arguments as it has.
                let real: All = unsafe { std::mem::transmute::<usize, All>(real) };
                // SAFETY: the arguments are the program's.
                unsafe { real(a, b, c, d, e, f, g, h, i) }
            }
        )*
        #[allow(non_upper_case_globals)]
        mod reals {
            $(pub(super) static $name: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);)*
        }
        pub(crate) static OURS: &[$crate::catalog::Ours] = &[
            $($crate::catalog::Ours {
                name: stringify!($name),
                how: $crate::catalog::How::Quick,
                function: $crate::catalog::Address($name as *const ()),
                real: Some(&reals::$name),
            },)*
        ];
    };
}

pub(super) use {ours, with_handles};

/// Sets the calling thread's error. Gives 0, what most functions say then.
pub(crate) fn fails(error: u32) -> u64 {
    // SAFETY: a call without pointers.
    unsafe { windows_sys::Win32::Foundation::SetLastError(error) };
    0
}
