//! Timers.

use brant_base::Tid;
use prost::Message;

use crate::model;

#[derive(Clone, PartialEq, Message)]
pub(super) struct IntervalTimer {
    #[prost(uint64, tag = "1")]
    value_ns: u64,
    #[prost(uint64, tag = "2")]
    interval_ns: u64,
}

impl From<&model::IntervalTimer> for IntervalTimer {
    fn from(from: &model::IntervalTimer) -> IntervalTimer {
        IntervalTimer { value_ns: from.value_ns, interval_ns: from.interval_ns }
    }
}

impl From<IntervalTimer> for model::IntervalTimer {
    fn from(from: IntervalTimer) -> model::IntervalTimer {
        model::IntervalTimer { value_ns: from.value_ns, interval_ns: from.interval_ns }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PosixTimer {
    #[prost(int32, tag = "1")]
    id: i32,
    #[prost(int32, tag = "2")]
    clock: i32,
    #[prost(int32, tag = "3")]
    notify: i32,
    #[prost(int32, tag = "4")]
    signal: i32,
    #[prost(uint64, tag = "5")]
    value: u64,
    #[prost(int32, optional, tag = "6")]
    thread: Option<i32>,
    #[prost(uint64, tag = "7")]
    remaining_ns: u64,
    #[prost(uint64, tag = "8")]
    interval_ns: u64,
    #[prost(int32, tag = "9")]
    overrun: i32,
}

impl From<&model::PosixTimer> for PosixTimer {
    fn from(from: &model::PosixTimer) -> PosixTimer {
        PosixTimer {
            id: from.id,
            clock: from.clock,
            notify: from.notify,
            signal: from.signal,
            value: from.value,
            thread: from.thread.map(|tid| tid.0),
            remaining_ns: from.remaining_ns,
            interval_ns: from.interval_ns,
            overrun: from.overrun,
        }
    }
}

impl From<PosixTimer> for model::PosixTimer {
    fn from(from: PosixTimer) -> model::PosixTimer {
        model::PosixTimer {
            id: from.id,
            clock: from.clock,
            notify: from.notify,
            signal: from.signal,
            value: from.value,
            thread: from.thread.map(Tid),
            remaining_ns: from.remaining_ns,
            interval_ns: from.interval_ns,
            overrun: from.overrun,
        }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TimerFd {
    #[prost(int32, tag = "1")]
    clock: i32,
    #[prost(uint32, tag = "2")]
    settime_flags: u32,
    #[prost(uint64, tag = "3")]
    remaining_ns: u64,
    #[prost(uint64, tag = "4")]
    interval_ns: u64,
    #[prost(uint64, tag = "5")]
    ticks: u64,
}

impl From<&model::TimerFd> for TimerFd {
    fn from(from: &model::TimerFd) -> TimerFd {
        let &model::TimerFd { clock, settime_flags, remaining_ns, interval_ns, ticks } = from;
        TimerFd { clock, settime_flags, remaining_ns, interval_ns, ticks }
    }
}

impl From<TimerFd> for model::TimerFd {
    fn from(from: TimerFd) -> model::TimerFd {
        let TimerFd { clock, settime_flags, remaining_ns, interval_ns, ticks } = from;
        model::TimerFd { clock, settime_flags, remaining_ns, interval_ns, ticks }
    }
}
