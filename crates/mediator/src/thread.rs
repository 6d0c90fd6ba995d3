//! State of each thread, without thread-local storage, which a library that is loaded late may have to allocate.

use core::sync::atomic::{AtomicUsize, Ordering};

/// The calling thread's own pointer (`fs:0` in glibc and musl, its block on Windows): another one for each thread that lives.
pub fn thread_pointer() -> usize {
    let pointer: usize;
    // SAFETY: the thread pointer points to itself, in every thread that a C library made.
    #[cfg(not(windows))]
    unsafe {
        core::arch::asm!("mov {}, qword ptr fs:[0]", out(reg) pointer, options(nostack, readonly, preserves_flags))
    };
    // SAFETY: the block points to itself, in every thread.
    #[cfg(windows)]
    unsafe {
        core::arch::asm!("mov {}, qword ptr gs:[0x30]", out(reg) pointer, options(nostack, readonly, preserves_flags))
    };
    pointer
}

/// What a thread finds first.
pub trait Initial {
    const INITIAL: Self;
}

impl Initial for core::sync::atomic::AtomicU64 {
    const INITIAL: Self = core::sync::atomic::AtomicU64::new(0);
}

/// One `T` for each of up to `N` threads.
///
/// A thread that gets the pointer of one that has ended finds what that one left.
///
/// ```
/// use brant_mediator::PerThread;
/// use core::sync::atomic::{AtomicU64, Ordering};
///
/// static CALLS: PerThread<AtomicU64, 1024> = PerThread::new();
///
/// brant_mediator::mediator! {
///     fn my_rand(call) -> core::ffi::c_int {
///         if let Some(calls) = CALLS.get() {
///             calls.fetch_add(1, Ordering::Relaxed);
///         }
///         call.inner()
///     }
/// }
/// # fn main() {
/// CALLS.get().unwrap().store(7, Ordering::Relaxed);
/// let other = std::thread::spawn(|| CALLS.get().unwrap().load(Ordering::Relaxed)).join().unwrap();
/// assert_eq!((CALLS.get().unwrap().load(Ordering::Relaxed), other), (7, 0));
/// assert_eq!(CALLS.iter().map(|calls| calls.load(Ordering::Relaxed)).sum::<u64>(), 7);
/// # }
/// ```
#[derive(Debug)]
pub struct PerThread<T, const N: usize> {
    places: [Place<T>; N],
}

#[repr(align(64))]
#[derive(Debug)]
struct Place<T> {
    /// The thread pointer; 0: free.
    key: AtomicUsize,
    value: T,
}

impl<T: Initial + Sync, const N: usize> Default for PerThread<T, N> {
    fn default() -> Self {
        PerThread::new()
    }
}

impl<T: Initial + Sync, const N: usize> PerThread<T, N> {
    pub const fn new() -> PerThread<T, N> {
        PerThread { places: [const { Place { key: AtomicUsize::new(0), value: T::INITIAL } }; N] }
    }

    /// The calling thread's own; nothing where there are more than `N`.
    pub fn get(&self) -> Option<&T> {
        let key = thread_pointer();
        let first = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        for step in 0..N {
            let place = &self.places[(first + step) % N];
            let found = place.key.load(Ordering::Relaxed);
            let is_own = found == key
                || found == 0
                    && place.key.compare_exchange(0, key, Ordering::Relaxed, Ordering::Relaxed).is_ok();
            if is_own {
                return Some(&place.value);
            }
        }
        None
    }

    /// Those of all threads that there were.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.places.iter().filter(|place| place.key.load(Ordering::Relaxed) != 0).map(|place| &place.value)
    }
}
