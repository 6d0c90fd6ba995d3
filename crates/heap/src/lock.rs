//! A lock of four bytes that may lie in a heap: all zero is free, and a copy of a taken one is made free by writing zero.

use std::sync::atomic::{AtomicU32, Ordering};

const FREE: u32 = 0;
const TAKEN: u32 = 1;
/// Taken, and somebody sleeps.
const WAITED_FOR: u32 = 2;

/// futex(2), without what `std`'s lock has besides.
#[repr(transparent)]
pub(crate) struct Lock(AtomicU32);

/// Frees the lock at its end.
pub(crate) struct Held<'a>(&'a Lock);

impl Lock {
    pub(crate) const fn new() -> Lock {
        Lock(AtomicU32::new(FREE))
    }

    #[inline]
    pub(crate) fn hold(&self) -> Held<'_> {
        self.take();
        Held(self)
    }

    /// Without a guard: for locks that are held across a fork.
    #[inline]
    pub(crate) fn take(&self) {
        if self.0.compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.wait();
        }
    }

    #[cold]
    fn wait(&self) {
        for _ in 0..100 {
            if self.0.load(Ordering::Relaxed) == FREE
                && self.0.compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return;
            }
            std::hint::spin_loop();
        }
        while self.0.swap(WAITED_FOR, Ordering::Acquire) != FREE {
            // SAFETY: futex(2) only reads the word, which lives as long as `self`.
            unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    self.0.as_ptr(),
                    libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                    WAITED_FOR,
                    std::ptr::null::<libc::timespec>(),
                );
            }
        }
    }

    pub(crate) fn release(&self) {
        if self.0.swap(FREE, Ordering::Release) == WAITED_FOR {
            // SAFETY: futex(2) does not touch memory here.
            unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    self.0.as_ptr(),
                    libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
                    1,
                );
            }
        }
    }

    /// Makes a lock free that came out of another process.
    pub(crate) fn reset(&self) {
        self.0.store(FREE, Ordering::Relaxed);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::UnsafeCell;

    use super::*;

    struct Counter(Lock, UnsafeCell<u64>);

    // SAFETY: the number is only touched while the lock is held.
    unsafe impl Sync for Counter {}

    #[test]
    fn one_at_a_time() {
        let counter = Counter(Lock::new(), UnsafeCell::new(0));
        let whole = &counter;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(move || {
                    let counter: &Counter = whole;
                    for _ in 0..20_000 {
                        let _held = counter.0.hold();
                        // SAFETY: the lock is held.
                        unsafe { *counter.1.get() += 1 };
                    }
                });
            }
        });
        assert_eq!(counter.1.into_inner(), 80_000);
    }
}
