//! Functions of the program's C library that not every one has, or that may be in another library: 0 where they are not there.

use core::arch::global_asm;

macro_rules! weak {
    ($($name:ident)*) => {
        $(
            global_asm!(
                concat!(".weak ", stringify!($name)),
                concat!(".pushsection .data.rel.ro.brant_weak_", stringify!($name), ", \"aw\", @progbits"),
                ".p2align 3",
                concat!(".global brant_weak_", stringify!($name)),
                concat!(".hidden brant_weak_", stringify!($name)),
                concat!("brant_weak_", stringify!($name), ": .quad ", stringify!($name)),
                ".popsection",
            );

            /// Its address.
            pub(super) fn $name() -> usize {
                unsafe extern "C" {
                    #[link_name = concat!("brant_weak_", stringify!($name))]
                    static AT: usize;
                }
                // SAFETY: written by the loader, before anything else runs.
                unsafe { (&raw const AT).read_volatile() }
            }
        )*
    };
}

weak!(malloc free gnu_get_libc_version pthread_condattr_setclock pthread_cond_init);
