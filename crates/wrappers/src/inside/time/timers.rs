//! Timers that the kernel keeps.

use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::arguments::{Timer, Unit, read};
use super::clocks::{self, Clock, Timespec};
use crate::inside::system;

const UNIT: Unit = Unit { is_us: false };
const TIMER_ABSTIME: c_int = 1;
const TIMERS_MAX: usize = 256;

/// Timers that were made since, with their clocks, as far as there is room.
static TIMERS: [(AtomicUsize, AtomicU64); TIMERS_MAX] =
    [const { (AtomicUsize::new(0), AtomicU64::new(0)) }; TIMERS_MAX];

/// A number of a timer may be 0.
fn key(timer: usize) -> usize {
    timer.wrapping_add(1)
}

fn note(timer: usize, clock: c_int) {
    for (place, known) in &TIMERS {
        let is_own = place.load(Ordering::Acquire) == key(timer)
            || place.compare_exchange(0, key(timer), Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if is_own {
            return known.store(clock as u32 as u64 + 1, Ordering::Release);
        }
    }
}

fn forget(timer: usize) {
    for (place, known) in TIMERS.iter().filter(|(place, _)| place.load(Ordering::Acquire) == key(timer)) {
        known.store(0, Ordering::Relaxed);
        place.store(0, Ordering::Release);
    }
}

/// What kind of clock a timer has.
enum Kind {
    Known(Clock),
    /// Processor time: the program's is the real one.
    Other,
    /// It was made before the wrapper was put on.
    Unknown,
}

fn kind_of(number: c_int) -> Kind {
    Clock::of(number).map_or(Kind::Other, Kind::Known)
}

fn kind_of_timer(timer: usize) -> Kind {
    let known = TIMERS.iter().find(|(place, _)| place.load(Ordering::Acquire) == key(timer));
    match known.map(|(_, clock)| clock.load(Ordering::Acquire)) {
        None | Some(0) => Kind::Unknown,
        Some(clock) => kind_of((clock - 1) as u32 as c_int),
    }
}

/// The clock of a descriptor, as the kernel tells it.
fn kind_of_file(file: c_int) -> Kind {
    let mut path = [0u8; 48];
    let mut room = [0u8; 512];
    let text =
        system::Text::into(&mut path).put(b"/proc/self/fdinfo/").number(file.unsigned_abs().into()).end();
    let Some(text) = system::read_file(text, &mut room) else { return Kind::Unknown };
    let mut lines = text.split(|byte| *byte == b'\n');
    let number = lines
        .find_map(|line| line.strip_prefix(b"clockid:"))
        .and_then(|number| core::str::from_utf8(number).ok());
    number.and_then(|number| number.trim().parse().ok()).map_or(Kind::Unknown, kind_of)
}

/// What a timer is to be set to; the program's own where nothing is to be changed.
fn real(kind: &Kind, is_deadline: bool, timer: *const Timer) -> Option<Timer> {
    let given = read(timer)?;
    if matches!(kind, Kind::Other) {
        return None;
    }
    let mut real = UNIT.to_real(given)?;
    // No time at all disarms it.
    let is_armed = given.value.seconds != 0 || given.value.rest != 0;
    if is_deadline && is_armed {
        let time = given.value.ns()?;
        let clock = match kind {
            Kind::Known(clock) => *clock,
            _ => clocks::nearest(time),
        };
        // The first instant stands for what has passed long ago.
        real.value = Timespec::of_ns(clocks::to_real(clock, time).max(1));
    }
    Some(real)
}

brant_mediator::mediator! {
    fn time_timer_create(call, clock: c_int, event: *mut c_void, timer: *mut usize) -> c_int {
        // SAFETY: as the program called it.
        let result = unsafe { call.inner_fn()(clock, event, timer) };
        if result == 0 {
            // SAFETY: the function has written there.
            note(unsafe { *timer }, clock);
        }
        result
    }

    fn time_timer_delete(call, timer: usize) -> c_int {
        forget(timer);
        // SAFETY: as the program called it.
        unsafe { call.inner_fn()(timer) }
    }

    fn time_timer_settime(call, timer: usize, flags: c_int, new: *const Timer, old: *mut Timer) -> c_int {
        let kind = kind_of_timer(timer);
        let real = real(&kind, flags & TIMER_ABSTIME != 0, new);
        // SAFETY: as the program called it, with other times.
        let result = unsafe { call.inner_fn()(timer, flags, real.as_ref().map_or(new, |real| &raw const *real), old) };
        if result == 0 && !matches!(kind, Kind::Other) {
            // SAFETY: the function has written there.
            unsafe { UNIT.show(old) };
        }
        result
    }

    fn time_timer_gettime(call, timer: usize, at: *mut Timer) -> c_int {
        // SAFETY: as the program called it.
        let result = unsafe { call.inner_fn()(timer, at) };
        if result == 0 && !matches!(kind_of_timer(timer), Kind::Other) {
            // SAFETY: the function has written there.
            unsafe { UNIT.show(at) };
        }
        result
    }

    fn time_timerfd_settime(call, file: c_int, flags: c_int, new: *const Timer, old: *mut Timer) -> c_int {
        let is_deadline = flags & TIMER_ABSTIME != 0;
        let kind = if is_deadline { kind_of_file(file) } else { Kind::Unknown };
        let real = real(&kind, is_deadline, new);
        // SAFETY: as the program called it, with other times.
        let result = unsafe { call.inner_fn()(file, flags, real.as_ref().map_or(new, |real| &raw const *real), old) };
        if result == 0 {
            // SAFETY: the function has written there.
            unsafe { UNIT.show(old) };
        }
        result
    }

    fn time_timerfd_gettime(call, file: c_int, at: *mut Timer) -> c_int {
        // SAFETY: as the program called it.
        let result = unsafe { call.inner_fn()(file, at) };
        if result == 0 {
            // SAFETY: the function has written there.
            unsafe { UNIT.show(at) };
        }
        result
    }
}
