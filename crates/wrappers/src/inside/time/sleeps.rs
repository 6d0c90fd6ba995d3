//! Functions that wait for a time to come, or for something else up to a time.

use core::ffi::{c_int, c_long, c_uint, c_void};

use super::arguments::{Given, Timer, Unit, read, show_rest};
use super::clocks::{self, Clock, Ns, Timespec};
use super::condition;
use crate::inside::system;

unsafe extern "C" {
    // What the program's thread may be cancelled in, as in the functions that are called by these.
    fn nanosleep(span: *const Timespec, rest: *mut Timespec) -> c_int;
    fn ppoll(files: *mut c_void, count: u64, span: *const Timespec, signals: *const c_void) -> c_int;
    fn setitimer(which: c_int, timer: *const Timer, old: *mut Timer) -> c_int;
}

const EINTR: c_int = 4;
const TIMER_ABSTIME: c_int = 1;
const ITIMER_REAL: c_int = 0;
const MILLISECOND: Ns = 1_000_000;
const SECOND: Ns = 1_000_000_000;

/// Milliseconds as a function takes them: longer rather than shorter, for ever stays for ever.
fn milliseconds(program: c_int) -> c_int {
    if program <= 0 {
        return program;
    }
    let real = clocks::span_to_real(Ns::from(program) * MILLISECOND);
    ((real + MILLISECOND - 1) / MILLISECOND).min(c_int::MAX.into()) as c_int
}

brant_mediator::mediator! {
    fn time_nanosleep(call, span: *const Timespec, rest: *mut Timespec) -> c_int {
        // SAFETY: as the program called it, with another time.
        let result = unsafe { call.inner_fn()(Given::span(span).pointer(), rest) };
        if result != 0 && system::errno() == EINTR as u32 {
            // SAFETY: the function has written there.
            unsafe { show_rest(rest) };
        }
        result
    }

    fn time_clock_nanosleep(call, clock: c_int, flags: c_int, at: *const Timespec, rest: *mut Timespec) -> c_int {
        let is_span = flags & TIMER_ABSTIME == 0;
        let given = match Clock::of(clock) {
            Some(_) if is_span => Given::span(at),
            clock => Given::deadline(clock, at),
        };
        // SAFETY: as the program called it, with another time.
        let result = unsafe { call.inner_fn()(clock, flags, given.pointer(), rest) };
        if result == EINTR && is_span && Clock::of(clock).is_some() {
            // SAFETY: the function has written there.
            unsafe { show_rest(rest) };
        }
        result
    }

    fn time_usleep(_call, span_us: c_uint) -> c_int {
        let span = Timespec::of_ns(clocks::span_to_real(Ns::from(span_us) * 1000));
        // SAFETY: a time of our own.
        unsafe { nanosleep(&raw const span, core::ptr::null_mut()) }
    }

    fn time_sleep(_call, span_s: c_uint) -> c_uint {
        let errno = system::errno();
        let mut span = Timespec::of_ns(clocks::span_to_real(Ns::from(span_s) * SECOND));
        let at = &raw mut span;
        // SAFETY: a time of our own.
        if unsafe { nanosleep(at, at) } == 0 {
            system::set_errno(errno);
            return 0;
        }
        let rest = span.ns().map_or(0, clocks::span_to_program);
        (rest / SECOND) as c_uint
    }

    fn time_alarm(_call, span_s: c_uint) -> c_uint {
        let value = Timespec::of_us(clocks::span_to_real(Ns::from(span_s) * SECOND) + 999);
        let none = Timespec { seconds: 0, rest: 0 };
        let (timer, mut old) = (Timer { interval: none, value: if span_s == 0 { none } else { value } }, Timer { interval: none, value: none });
        // SAFETY: timers of our own.
        unsafe { setitimer(ITIMER_REAL, &raw const timer, &raw mut old) };
        // To the next second, as it is less than one that the function means to tell; never 0 for one that runs.
        let left = old.value.us().map_or(0, clocks::span_to_program);
        ((left + SECOND / 2) / SECOND).max(Ns::from(left > 0)) as c_uint
    }

    fn time_setitimer(call, which: c_int, timer: *const Timer, old: *mut Timer) -> c_int {
        let unit = Unit { is_us: true };
        let real = read(timer).filter(|_| which == ITIMER_REAL).and_then(|timer| unit.to_real(timer));
        // SAFETY: as the program called it, with other times.
        let result = unsafe { call.inner_fn()(which, real.as_ref().map_or(timer, |real| &raw const *real), old) };
        if result == 0 && which == ITIMER_REAL {
            // SAFETY: the function has written there.
            unsafe { unit.show(old) };
        }
        result
    }

    fn time_getitimer(call, which: c_int, timer: *mut Timer) -> c_int {
        // SAFETY: as the program called it.
        let result = unsafe { call.inner_fn()(which, timer) };
        if result == 0 && which == ITIMER_REAL {
            // SAFETY: the function has written there.
            unsafe { Unit { is_us: true }.show(timer) };
        }
        result
    }

    fn time_poll(call, files: *mut c_void, count: u64, span_ms: c_int) -> c_int {
        if span_ms <= 0 {
            // SAFETY: as the program called it.
            return unsafe { call.inner_fn()(files, count, span_ms) };
        }
        let span = Timespec::of_ns(clocks::span_to_real(Ns::from(span_ms) * MILLISECOND));
        // SAFETY: the program's files, and a time of our own.
        unsafe { ppoll(files, count, &raw const span, core::ptr::null()) }
    }

    fn time_ppoll(call, files: *mut c_void, count: u64, span: *const Timespec, signals: *const c_void) -> c_int {
        // SAFETY: as the program called it, with another time.
        unsafe { call.inner_fn()(files, count, Given::span(span).pointer(), signals) }
    }

    fn time_select(call, count: c_int, reads: *mut c_void, writes: *mut c_void, others: *mut c_void, span: *mut Timespec) -> c_int {
        let given = read(span.cast_const()).and_then(Timespec::us);
        let Some(given) = given else {
            // SAFETY: as the program called it.
            return unsafe { call.inner_fn()(count, reads, writes, others, span) };
        };
        let before = Timespec::of_us(clocks::span_to_real(given) + 999);
        let mut real = before;
        // SAFETY: as the program called it, with another time.
        let result = unsafe { call.inner_fn()(count, reads, writes, others, &raw mut real) };
        // glibc tells what is left of it, musl does not.
        if (real.seconds, real.rest) != (before.seconds, before.rest) {
            let rest = real.us().map_or(0, clocks::span_to_program).min(given);
            // SAFETY: the function would write there.
            unsafe { *span = Timespec::of_us(rest) };
        }
        result
    }

    fn time_pselect(call, count: c_int, reads: *mut c_void, writes: *mut c_void, others: *mut c_void, span: *const Timespec, signals: *const c_void) -> c_int {
        // SAFETY: as the program called it, with another time.
        unsafe { call.inner_fn()(count, reads, writes, others, Given::span(span).pointer(), signals) }
    }

    fn time_epoll_wait(call, epoll: c_int, events: *mut c_void, count: c_int, span_ms: c_int) -> c_int {
        // SAFETY: as the program called it, with another time.
        unsafe { call.inner_fn()(epoll, events, count, milliseconds(span_ms)) }
    }

    fn time_epoll_pwait(call, epoll: c_int, events: *mut c_void, count: c_int, span_ms: c_int, signals: *const c_void) -> c_int {
        // SAFETY: as the program called it, with another time.
        unsafe { call.inner_fn()(epoll, events, count, milliseconds(span_ms), signals) }
    }

    fn time_epoll_pwait2(call, epoll: c_int, events: *mut c_void, count: c_int, span: *const Timespec, signals: *const c_void) -> c_int {
        // SAFETY: as the program called it, with another time.
        unsafe { call.inner_fn()(epoll, events, count, Given::span(span).pointer(), signals) }
    }

    fn time_sigtimedwait(call, signals: *const c_void, information: *mut c_void, span: *const Timespec) -> c_int {
        // SAFETY: as the program called it, with another time.
        unsafe { call.inner_fn()(signals, information, Given::span(span).pointer()) }
    }

    fn time_semtimedop(call, semaphores: c_int, operations: *mut c_void, count: usize, span: *const Timespec) -> c_int {
        // SAFETY: as the program called it, with another time.
        unsafe { call.inner_fn()(semaphores, operations, count, Given::span(span).pointer()) }
    }

    /// `f(what, deadline)`, of the clock that tells the time of day.
    fn time_until(call, what: *mut c_void, at: *const Timespec) -> c_int {
        // SAFETY: as the program called it, with another time.
        unsafe { call.inner_fn()(what, Given::deadline(Some(Clock::Real), at).pointer()) }
    }

    /// `f(what, clock, deadline)`.
    fn time_until_on(call, what: *mut c_void, clock: c_int, at: *const Timespec) -> c_int {
        // SAFETY: as the program called it, with another time.
        unsafe { call.inner_fn()(what, clock, Given::on(clock, at).pointer()) }
    }

    fn time_cond_timedwait(call, condition: *mut c_void, mutex: *mut c_void, at: *const Timespec) -> c_int {
        let given = Given::deadline(Some(condition::clock_of(condition, at)), at);
        // SAFETY: as the program called it, with another time.
        unsafe { call.inner_fn()(condition, mutex, given.pointer()) }
    }

    fn time_cond_clockwait(call, condition: *mut c_void, mutex: *mut c_void, clock: c_int, at: *const Timespec) -> c_int {
        // SAFETY: as the program called it, with another time.
        unsafe { call.inner_fn()(condition, mutex, clock, Given::on(clock, at).pointer()) }
    }

    fn time_timedjoin(call, thread: usize, result: *mut c_void, at: *const Timespec) -> c_int {
        // SAFETY: as the program called it, with another time.
        unsafe { call.inner_fn()(thread, result, Given::deadline(Some(Clock::Real), at).pointer()) }
    }

    fn time_clockjoin(call, thread: usize, result: *mut c_void, clock: c_int, at: *const Timespec) -> c_int {
        // SAFETY: as the program called it, with another time.
        unsafe { call.inner_fn()(thread, result, clock, Given::on(clock, at).pointer()) }
    }

    fn time_mq_timedsend(call, queue: c_int, message: *const c_void, bytes: usize, priority: c_uint, at: *const Timespec) -> c_int {
        // SAFETY: as the program called it, with another time.
        unsafe { call.inner_fn()(queue, message, bytes, priority, Given::deadline(Some(Clock::Real), at).pointer()) }
    }

    fn time_mq_timedreceive(call, queue: c_int, message: *mut c_void, bytes: usize, priority: *mut c_uint, at: *const Timespec) -> c_long {
        // SAFETY: as the program called it, with another time.
        unsafe { call.inner_fn()(queue, message, bytes, priority, Given::deadline(Some(Clock::Real), at).pointer()) }
    }
}
