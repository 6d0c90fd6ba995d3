//! Times among the arguments of functions: as the program gives them, and as the functions are to have them.

use core::ffi::c_int;

use super::clocks::{self, Clock, Timespec};
use crate::inside::system;

/// A time in room of our own; what cannot be read, or is no time, goes on as the program gave it, and the function says so.
pub(super) struct Given {
    program: *const Timespec,
    real: Option<Timespec>,
}

impl Given {
    /// How long.
    pub(super) fn span(at: *const Timespec) -> Given {
        let real = read(at).and_then(Timespec::ns).map(|span| Timespec::of_ns(clocks::span_to_real(span)));
        Given { program: at, real }
    }

    /// When, on a clock that is none of ours in case of `None`.
    pub(super) fn deadline(clock: Option<Clock>, at: *const Timespec) -> Given {
        let real = clock.and_then(|clock| {
            let time = read(at)?.ns()?;
            Some(Timespec::of_ns(clocks::to_real(clock, time)))
        });
        Given { program: at, real }
    }

    pub(super) fn on(clock: c_int, at: *const Timespec) -> Given {
        Given::deadline(Clock::of(clock), at)
    }

    /// What the function gets.
    pub(super) fn pointer(&self) -> *const Timespec {
        self.real.as_ref().map_or(self.program, |real| &raw const *real)
    }
}

/// Reads what the program points to, which may be no valid address.
pub(super) fn read<T: Copy>(at: *const T) -> Option<T> {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    if at.is_null() {
        return None;
    }
    // SAFETY: the kernel writes to it only.
    let room = unsafe { core::slice::from_raw_parts_mut(value.as_mut_ptr().cast::<u8>(), size_of::<T>()) };
    // SAFETY: read as a whole; the types here are numbers only.
    system::read_bytes(at as usize, room).then(|| unsafe { value.assume_init() })
}

/// What is left of a span, where a function has written it for the program.
///
/// # Safety
///
/// The function has written there, if it is not NULL.
pub(super) unsafe fn show_rest(at: *mut Timespec) {
    if at.is_null() {
        return;
    }
    // SAFETY: promised by the caller.
    if let Some(rest) = unsafe { *at }.ns() {
        // SAFETY: as above.
        unsafe { *at = Timespec::of_ns(clocks::span_to_program(rest)) };
    }
}

/// `struct itimerspec`, and `struct itimerval` with microseconds.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Timer {
    pub(super) interval: Timespec,
    pub(super) value: Timespec,
}

/// What a timer is set to, or was.
#[derive(Clone, Copy)]
pub(super) struct Unit {
    /// What is not a whole second counts in these.
    pub(super) is_us: bool,
}

impl Unit {
    fn ns(self, time: Timespec) -> Option<clocks::Ns> {
        if self.is_us { time.us() } else { time.ns() }
    }

    /// Never nothing where it was something: that would disarm a timer.
    fn of_ns(self, ns: clocks::Ns) -> Timespec {
        if self.is_us { Timespec::of_us(ns + 999) } else { Timespec::of_ns(ns) }
    }

    fn each(self, timer: Timer, change: impl Fn(clocks::Ns) -> clocks::Ns) -> Option<Timer> {
        let one = |time| Some(self.of_ns(change(self.ns(time)?)));
        Some(Timer { interval: one(timer.interval)?, value: one(timer.value)? })
    }

    pub(super) fn to_real(self, timer: Timer) -> Option<Timer> {
        self.each(timer, clocks::span_to_real)
    }

    /// What is left of a timer, where a function has written it for the program.
    ///
    /// # Safety
    ///
    /// The function has written there, if it is not NULL.
    pub(super) unsafe fn show(self, at: *mut Timer) {
        if at.is_null() {
            return;
        }
        // SAFETY: promised by the caller.
        if let Some(timer) = self.each(unsafe { *at }, clocks::span_to_program) {
            // SAFETY: as above.
            unsafe { *at = timer };
        }
    }
}
