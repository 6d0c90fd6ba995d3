//! `syscall(2)` of the C library: runtimes wait for their futexes by it.

use core::ffi::c_int;

use super::arguments::{Given, show_rest};
use super::clocks::Clock;
use super::reads;

const SYS_NANOSLEEP: isize = 35;
const SYS_FUTEX: isize = 202;
const SYS_CLOCK_GETTIME: isize = 228;
const SYS_CLOCK_NANOSLEEP: isize = 230;
const SYS_FUTEX_WAITV: isize = 449;

const FUTEX_COMMAND: usize = 0x7f;
const FUTEX_CLOCK_REALTIME: usize = 256;
const FUTEX_WAIT: usize = 0;
const FUTEX_LOCK_PI: usize = 6;
const FUTEX_WAIT_BITSET: usize = 9;
const FUTEX_WAIT_REQUEUE_PI: usize = 11;
const FUTEX_LOCK_PI2: usize = 13;
const EINTR: u32 = 4;
const TIMER_ABSTIME: usize = 1;

/// The time-out of a futex call; nothing where it has none.
fn futex_time(operation: usize, at: usize) -> Option<Given> {
    let clock = if operation & FUTEX_CLOCK_REALTIME != 0 { Clock::Real } else { Clock::Monotonic };
    match operation & FUTEX_COMMAND {
        FUTEX_WAIT => Some(Given::span(at as *const _)),
        FUTEX_LOCK_PI => Some(Given::deadline(Some(Clock::Real), at as *const _)),
        FUTEX_WAIT_BITSET | FUTEX_WAIT_REQUEUE_PI | FUTEX_LOCK_PI2 => {
            Some(Given::deadline(Some(clock), at as *const _))
        }
        _ => None,
    }
}

brant_mediator::mediator! {
    fn time_syscall(call, number: isize, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
        let function = call.inner_fn();
        let has_failed = |result: isize| result == -1 && crate::inside::system::errno() == EINTR;
        // SAFETY: as the program called it, with other times.
        unsafe {
            match number {
                SYS_FUTEX if d != 0 => match futex_time(b, d) {
                    Some(given) => function(number, a, b, c, given.pointer() as usize, e, f),
                    None => function(number, a, b, c, d, e, f),
                },
                SYS_FUTEX_WAITV if d != 0 => {
                    function(number, a, b, c, Given::on(e as c_int, d as *const _).pointer() as usize, e, f)
                }
                SYS_CLOCK_GETTIME => {
                    let result = function(number, a, b, c, d, e, f);
                    if result == 0 {
                        reads::show(a as c_int, b as *mut _);
                    }
                    result
                }
                SYS_NANOSLEEP => {
                    let given = Given::span(a as *const _);
                    let result = function(number, given.pointer() as usize, b, c, d, e, f);
                    if has_failed(result) {
                        show_rest(b as *mut _);
                    }
                    result
                }
                SYS_CLOCK_NANOSLEEP if Clock::of(a as c_int).is_some() => {
                    let is_span = b & TIMER_ABSTIME == 0;
                    let at = c as *const _;
                    let given = if is_span { Given::span(at) } else { Given::on(a as c_int, at) };
                    let result = function(number, a, b, given.pointer() as usize, d, e, f);
                    if is_span && has_failed(result) {
                        show_rest(d as *mut _);
                    }
                    result
                }
                _ => function(number, a, b, c, d, e, f),
            }
        }
    }
}
