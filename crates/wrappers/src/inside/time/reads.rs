//! Functions that tell the time, or set it.

use core::ffi::{c_int, c_void};

use super::clocks::{self, Clock, Timespec};
use crate::inside::system;

const EPERM: u32 = 1;
const CLOCK_REALTIME: c_int = 0;

brant_mediator::mediator! {
    fn time_clock_gettime(call, clock: c_int, at: *mut Timespec) -> c_int {
        // SAFETY: as the program called it.
        let result = unsafe { call.inner_fn()(clock, at) };
        if result == 0 {
            // SAFETY: the function has written there.
            unsafe { show(clock, at) };
        }
        result
    }

    fn time_gettimeofday(call, at: *mut Timespec, zone: *mut c_void) -> c_int {
        // SAFETY: as the program called it.
        let result = unsafe { call.inner_fn()(at, zone) };
        if result == 0 && !at.is_null() {
            // SAFETY: the function has written there.
            let real = unsafe { *at };
            if let Some(real) = real.us() {
                // SAFETY: as above.
                unsafe { *at = Timespec::of_us(clocks::to_program(Clock::Real, real)) };
            }
        }
        result
    }

    fn time_time(_call, at: *mut i64) -> i64 {
        // A second of the real clock is too coarse for a scale.
        let now = clocks::to_program(Clock::Real, system::clock(CLOCK_REALTIME).into());
        let now = Timespec::of_ns(now).seconds;
        if !at.is_null() {
            // SAFETY: the function would write there.
            unsafe { *at = now };
        }
        now
    }

    fn time_times(call, at: *mut c_void) -> i64 {
        // SAFETY: as the program called it.
        let ticks = unsafe { call.inner_fn()(at) };
        if ticks == -1 { -1 } else { clocks::ticks_to_program(ticks) }
    }

    /// What the program takes for the time would be the machine's.
    fn time_set(_call) -> c_int {
        system::set_errno(EPERM);
        -1
    }
}

/// Makes a real time the program's.
///
/// # Safety
///
/// A function has written it there.
pub(super) unsafe fn show(clock: c_int, at: *mut Timespec) {
    // SAFETY: promised by the caller.
    let real = unsafe { *at };
    if let (Some(clock), Some(real)) = (Clock::of(clock), real.ns()) {
        // SAFETY: as above.
        unsafe { *at = Timespec::of_ns(clocks::to_program(clock, real)) };
    }
}
