//! Interval timers and POSIX timers. Reading them changes nothing.

use brant_base::Tid;
use brant_image::model::{IntervalTimer, PosixTimer};
use brant_kernel::proc;
use brant_kernel::remote::Hand;

use crate::error::Error;
use crate::tree::Member;

fn read<const N: usize>(hand: &Hand) -> Result<[i64; N], Error> {
    hand.memory()
        .read_value::<[i64; N]>(hand.data().start())
        .map_err(|error| Error::Descriptor { what: "reading a timer".to_owned(), error })
}

/// ITIMER_REAL, VIRTUAL and PROF.
pub(crate) fn interval_timers(hand: &mut Hand) -> Result<[IntervalTimer; 3], Error> {
    const US: u64 = 1_000;
    let mut timers = [IntervalTimer::default(); 3];
    for (which, timer) in timers.iter_mut().enumerate() {
        hand.call(0, libc::SYS_getitimer, [which as u64, hand.data().start().0, 0, 0, 0, 0])?;
        let [interval_s, interval_us, value_s, value_us] = read::<4>(hand)?;
        timer.value_ns = value_s as u64 * 1_000_000_000 + value_us as u64 * US;
        timer.interval_ns = interval_s as u64 * 1_000_000_000 + interval_us as u64 * US;
    }
    Ok(timers)
}

/// The timers of timer_create(2). `inside` translates a thread's number of the host.
pub(crate) fn posix_timers(
    hand: &mut Hand,
    member: &Member,
    inside: impl Fn(Tid) -> Option<Tid>,
) -> Result<Vec<PosixTimer>, Error> {
    let entries = match proc::timers(member.task()) {
        Ok(entries) => entries,
        Err(proc::ProcError::Absent { .. }) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let mut timers = Vec::with_capacity(entries.len());
    for entry in entries {
        let at = hand.data().start().0;
        hand.call(0, libc::SYS_timer_gettime, [entry.id as u64, at, 0, 0, 0, 0])?;
        let [interval_s, interval_ns, value_s, value_ns] = read::<4>(hand)?;
        let overrun = hand.call(0, libc::SYS_timer_getoverrun, [entry.id as u64, 0, 0, 0, 0, 0])?;
        timers.push(PosixTimer {
            id: entry.id,
            clock: entry.clock,
            notify: entry.sigev_notify(),
            signal: entry.signal,
            value: entry.value,
            thread: if entry.to_thread { inside(Tid(entry.target)) } else { None },
            remaining_ns: value_s as u64 * 1_000_000_000 + value_ns as u64,
            interval_ns: interval_s as u64 * 1_000_000_000 + interval_ns as u64,
            overrun: overrun as i32,
        });
    }
    Ok(timers)
}
