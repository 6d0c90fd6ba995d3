//! A lock that lies in the range. Nobody holds one when the range is written to an image: who allocates is waited for.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::Pages;

const SPINS: u32 = 200;

#[repr(C)]
pub(crate) struct Lock(AtomicU32);

pub(crate) struct Held<'a>(&'a Lock);

impl Lock {
    pub(crate) fn take(&self, pages: &impl Pages) -> Held<'_> {
        let mut spins = 0;
        while self.0.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            spins += 1;
            if spins < SPINS { core::hint::spin_loop() } else { pages.give_way() }
        }
        Held(self)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.0.store(0, Ordering::Release);
    }
}
