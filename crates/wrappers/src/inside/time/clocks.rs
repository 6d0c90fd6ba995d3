//! The program's time as a function of the real one: one straight line for each clock, from the moment on at which the wrapper
//! was put on.

use core::ffi::c_int;

use crate::inside::system::{self, Once};
use crate::options::{self, SCALE_ONE, Start};

/// `struct timespec`; `struct timeval` with microseconds in the place of nanoseconds.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Timespec {
    pub(super) seconds: i64,
    pub(super) rest: i64,
}

/// Nanoseconds.
pub(super) type Ns = i128;

const SECOND: Ns = 1_000_000_000;

impl Timespec {
    /// Nothing where it is none that a function would take.
    pub(super) fn ns(self) -> Option<Ns> {
        let is_valid = (0..SECOND as i64).contains(&self.rest);
        is_valid.then(|| Ns::from(self.seconds) * SECOND + Ns::from(self.rest))
    }

    pub(super) fn of_ns(ns: Ns) -> Timespec {
        let seconds = ns.div_euclid(SECOND).clamp(i64::MIN.into(), i64::MAX.into());
        Timespec { seconds: seconds as i64, rest: ns.rem_euclid(SECOND) as i64 }
    }

    /// The same of a `struct timeval`.
    pub(super) fn us(self) -> Option<Ns> {
        let is_valid = (0..1_000_000).contains(&self.rest);
        is_valid.then(|| Ns::from(self.seconds) * SECOND + Ns::from(self.rest) * 1000)
    }

    pub(super) fn of_us(ns: Ns) -> Timespec {
        let Timespec { seconds, rest } = Timespec::of_ns(ns);
        Timespec { seconds, rest: rest / 1000 }
    }
}

/// Clocks that go together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Clock {
    Real = 0,
    Tai = 1,
    Monotonic = 2,
    Raw = 3,
    Boot = 4,
}

const CLOCKS: usize = 5;
/// The kernel's numbers of these.
const NUMBERS: [c_int; CLOCKS] = [0, 11, 1, 4, 7];

impl Clock {
    /// Nothing for clocks of processor time and of devices, which stay as they are.
    pub(super) fn of(number: c_int) -> Option<Clock> {
        match number {
            // With those that are coarse, and those that wake the machine.
            0 | 5 | 8 => Some(Clock::Real),
            11 => Some(Clock::Tai),
            1 | 6 => Some(Clock::Monotonic),
            4 => Some(Clock::Raw),
            7 | 9 => Some(Clock::Boot),
            _ => None,
        }
    }
}

struct Lines {
    /// Parts of 2^32.
    scale: Ns,
    /// Where the lines begin: on the real clock, and on the program's.
    real: [Ns; CLOCKS],
    program: [Ns; CLOCKS],
    real_ticks: i64,
}

static LINES: Once<Lines> = Once::new();

pub(super) fn prepare(options: &str) -> Result<(), &'static str> {
    let scale = match options::value(options, "scale") {
        None => SCALE_ONE,
        Some(value) => options::scale(value).ok_or("\"scale\" is no number that it takes")?,
    };
    let real = NUMBERS.map(|number| Ns::from(system::clock(number)));
    let mut program = real;
    let start = options::start(options).map_err(|()| "\"shift\" or \"start\" cannot be read")?;
    let shift = match start {
        Start::Shifted(seconds) => Ns::from(seconds) * SECOND,
        Start::At(seconds) => Ns::from(seconds) * SECOND - real[Clock::Real as usize],
    };
    program[Clock::Real as usize] += shift;
    program[Clock::Tai as usize] += shift;
    LINES.set(Lines { scale: scale.into(), real, program, real_ticks: system::ticks() });
    Ok(())
}

/// What the program is to see of a real clock.
pub(super) fn to_program(clock: Clock, real: Ns) -> Ns {
    let Some(lines) = LINES.get() else { return real };
    let clock = clock as usize;
    lines.program[clock] + (((real - lines.real[clock]) * lines.scale) >> 32)
}

/// When that is on the real clock: never before it.
pub(super) fn to_real(clock: Clock, program: Ns) -> Ns {
    let Some(lines) = LINES.get() else { return program };
    let clock = clock as usize;
    // Far from any overflow, and from any end of the world.
    let ahead = (program - lines.program[clock]).clamp(-(1 << 94), 1 << 94) << 32;
    lines.real[clock] + div_up(ahead, lines.scale)
}

/// How long the program believes that a real span lasts. What is left of one is never nothing.
pub(super) fn span_to_program(real: Ns) -> Ns {
    let Some(lines) = LINES.get() else { return real };
    let product = real.clamp(0, 1 << 72) * lines.scale;
    (product >> 32) + Ns::from(product & 0xffff_ffff != 0)
}

/// How long it really is: not shorter.
pub(super) fn span_to_real(program: Ns) -> Ns {
    let Some(lines) = LINES.get() else { return program };
    div_up(program.clamp(0, 1 << 94) << 32, lines.scale)
}

/// What times(2) gives.
pub(super) fn ticks_to_program(ticks: i64) -> i64 {
    let Some(lines) = LINES.get() else { return ticks };
    let ahead = Ns::from(ticks.wrapping_sub(lines.real_ticks)) * lines.scale;
    lines.real_ticks.wrapping_add((ahead >> 32) as i64)
}

fn div_up(number: Ns, by: Ns) -> Ns {
    number.div_euclid(by) + Ns::from(number.rem_euclid(by) != 0)
}

/// The clock to which a time is nearest: for deadlines of which nothing else is known.
pub(super) fn nearest(time: Ns) -> Clock {
    let distance = |clock: Clock| {
        let now = to_program(clock, Ns::from(system::clock(NUMBERS[clock as usize])));
        (time - now).abs()
    };
    if distance(Clock::Monotonic) < distance(Clock::Real) { Clock::Monotonic } else { Clock::Real }
}
