//! Sleeps: who sleeps, since when and for how long, and how many there were.

use core::ffi::{c_int, c_uint};
use core::sync::atomic::{AtomicU64, Ordering};

use brant_mediator::thread_pointer;
use brant_record::layout::*;

use super::super::system;
use super::own;
use super::tables::{Tables, field};

const CAPACITY: usize = TABLES[SLEEPERS].capacity;

#[repr(C)]
#[derive(Clone, Copy)]
struct Time {
    seconds: i64,
    nanoseconds: i64,
}

impl Time {
    fn nanoseconds(self) -> u64 {
        let seconds = u64::try_from(self.seconds).unwrap_or(0);
        seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(self.nanoseconds).unwrap_or(0))
    }
}

/// The place of a thread, by its pointer.
fn place(tables: Tables, key: u64) -> Option<usize> {
    let first = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize;
    for step in 0..CAPACITY {
        let index = (first + step) % CAPACITY;
        let at = tables.entry::<Sleeper>(SLEEPERS, index);
        // SAFETY: an aligned number of an entry, which is given away once.
        let found = unsafe { AtomicU64::from_ptr(&raw mut (*at).key) };
        let claimed = match found.load(Ordering::Relaxed) {
            0 => found.compare_exchange(0, key, Ordering::Relaxed, Ordering::Relaxed).is_ok(),
            other => other == key,
        };
        if claimed {
            tables.use_up_to(SLEEPERS, index);
            return Some(index);
        }
    }
    tables.add(field!(sleepers_not_kept), 1);
    None
}

/// What is being slept by whoever was interrupted by a handler that sleeps itself.
struct Sleep {
    tables: Tables,
    place: Option<usize>,
    outer: Option<Sleeper>,
    begun_ns: u64,
    asked_ns: u64,
}

impl Sleep {
    fn begin(call: u8, asked_ns: u64) -> Option<Sleep> {
        let tables = own()?;
        let key = thread_pointer() as u64;
        let (tid, begun_ns) = (system::thread(), system::monotonic_ns());
        let frame = (&raw const key) as u64;
        let place = place(tables, key);
        let since_ns = system::wall_ns();
        let outer = place.and_then(|place| {
            tables.change(SLEEPERS, place, |sleeper: &mut Sleeper| {
                let outer = *sleeper;
                (sleeper.tid, sleeper.call, sleeper.since_ns) = (tid, call, since_ns);
                (sleeper.asked_ns, sleeper.frame, sleeper.key) = (asked_ns, frame, key);
                outer
            })
        });
        // One whose frame is not above this one was left by a jump, or is another thread's.
        let outer = outer.filter(|outer| outer.call != 0 && outer.tid == tid && outer.frame > frame);
        Some(Sleep { tables, place, outer, begun_ns, asked_ns })
    }

    fn end(self, is_cut_short: bool) {
        let slept_ns = system::monotonic_ns().saturating_sub(self.begun_ns);
        let tables = self.tables;
        tables.add(field!(sleeps), 1);
        tables.add(field!(sleep_asked_ns), self.asked_ns);
        tables.add(field!(slept_ns), slept_ns);
        tables.add(field!(sleeps_cut_short), is_cut_short.into());
        if let Some(place) = self.place {
            tables.change(SLEEPERS, place, |sleeper: &mut Sleeper| match self.outer {
                Some(outer) => *sleeper = outer,
                None => sleeper.call = 0,
            });
        }
    }
}

/// The time that the program asked for; 0 where that cannot be read.
fn asked(time: *const Time) -> u64 {
    let mut bytes = [0; 16];
    if !system::read_bytes(time as usize, &mut bytes) {
        return 0;
    }
    let word = |at: usize| i64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
    Time { seconds: word(0), nanoseconds: word(8) }.nanoseconds()
}

brant_mediator::mediator! {
    fn record_sleep(call, seconds: c_uint) -> c_uint {
        let sleep = Sleep::begin(call::sleep, u64::from(seconds) * 1_000_000_000);
        // SAFETY: as the program called it; the functions by which it goes are not seen too.
        let rest = unsafe { call.inner_fn()(seconds) };
        if let Some(sleep) = sleep {
            sleep.end(rest != 0);
        }
        rest
    }

    fn record_usleep(call, microseconds: c_uint) -> c_int {
        let sleep = Sleep::begin(call::usleep, u64::from(microseconds) * 1000);
        // SAFETY: as above.
        let result = unsafe { call.inner_fn()(microseconds) };
        if let Some(sleep) = sleep {
            sleep.end(result != 0);
        }
        result
    }

    fn record_nanosleep(call, duration: *const Time, rest: *mut Time) -> c_int {
        let sleep = Sleep::begin(call::nanosleep, asked(duration));
        // SAFETY: as above.
        let result = unsafe { call.inner_fn()(duration, rest) };
        if let Some(sleep) = sleep {
            sleep.end(result != 0);
        }
        result
    }

    fn record_clock_nanosleep(call, clock: c_int, flags: c_int, duration: *const Time, rest: *mut Time) -> c_int {
        const TIMER_ABSTIME: c_int = 1;
        let mut asked_ns = asked(duration);
        if flags & TIMER_ABSTIME != 0 {
            asked_ns = asked_ns.saturating_sub(system::clock(clock));
        }
        let sleep = Sleep::begin(call::clock_nanosleep, asked_ns);
        // SAFETY: as above.
        let result = unsafe { call.inner_fn()(clock, flags, duration, rest) };
        if let Some(sleep) = sleep {
            sleep.end(result != 0);
        }
        result
    }
}
