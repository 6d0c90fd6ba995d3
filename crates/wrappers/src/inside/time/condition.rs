//! Which clock the deadlines of a condition variable are of. Its owner chose it long ago, and every C library keeps it somewhere
//! else; so two conditions of either kind are made, and where they differ is where it is kept.

use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicU32, Ordering};

use super::arguments::read;
use super::clocks::{self, Clock, Timespec};
use crate::inside::weak;

/// `pthread_cond_t` has so many bytes in glibc and musl.
const CONDITION_BYTES: usize = 48;
const CLOCK_MONOTONIC: c_int = 1;

/// Where it is kept: the byte's place, and its bits in the upper half. 0: not known.
static PLACE: AtomicU32 = AtomicU32::new(0);

pub(super) fn prepare() {
    let (Some(plain), Some(monotonic)) = (made(0), made(CLOCK_MONOTONIC)) else { return };
    let mut differing = plain.iter().zip(&monotonic).enumerate().filter(|(_, (one, other))| one != other);
    if let (Some((place, (one, other))), None) = (differing.next(), differing.next())
        && *one & (one ^ other) == 0
    {
        PLACE.store(place as u32 | u32::from(one ^ other) << 16, Ordering::Relaxed);
    }
}

/// A new condition with this clock. They need not be destroyed: they are only memory.
fn made(clock: c_int) -> Option<[u8; CONDITION_BYTES]> {
    type Set = unsafe extern "C" fn(*mut u64, c_int) -> c_int;
    type Init = unsafe extern "C" fn(*mut c_void, *const u64) -> c_int;
    let (set, init) = (weak::pthread_condattr_setclock(), weak::pthread_cond_init());
    if set == 0 || init == 0 {
        return None;
    }
    // SAFETY: the C library's own functions of these names.
    let (set, init) =
        unsafe { (core::mem::transmute::<usize, Set>(set), core::mem::transmute::<usize, Init>(init)) };
    // Zeros are fresh attributes in glibc and musl; they have 4 bytes.
    let mut attributes = 0u64;
    let mut condition = [0u64; CONDITION_BYTES / 8];
    // SAFETY: there is room for both.
    let is_made = unsafe {
        set(&raw mut attributes, clock) == 0
            && init(condition.as_mut_ptr().cast(), &raw const attributes) == 0
    };
    let mut bytes = [0; CONDITION_BYTES];
    bytes.chunks_exact_mut(8).zip(condition).for_each(|(to, from)| to.copy_from_slice(&from.to_ne_bytes()));
    is_made.then_some(bytes)
}

/// The clock of a condition that is waited for until `at`.
pub(super) fn clock_of(condition: *const c_void, at: *const Timespec) -> Clock {
    let place = PLACE.load(Ordering::Relaxed);
    if place != 0 {
        // SAFETY: the function itself reads there.
        let byte = unsafe { condition.cast::<u8>().add((place & 0xffff) as usize).read_volatile() };
        return if u32::from(byte) & place >> 16 != 0 { Clock::Monotonic } else { Clock::Real };
    }
    read(at).and_then(Timespec::ns).map_or(Clock::Real, clocks::nearest)
}
