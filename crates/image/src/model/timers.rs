//! Interval timers, POSIX timers and timerfds. Times are what remained when the tree was frozen.

use brant_base::Tid;

/// setitimer(2): ITIMER_REAL, VIRTUAL and PROF in this order. Zero `value_ns` is disarmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IntervalTimer {
    pub value_ns: u64,
    pub interval_ns: u64,
}

/// timer_create(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PosixTimer {
    pub id: i32,
    pub clock: i32,
    /// `sigev_notify` as the kernel has it (SIGEV_THREAD_ID and so on).
    pub notify: i32,
    pub signal: i32,
    /// `sigev_value`.
    pub value: u64,
    /// For SIGEV_THREAD_ID.
    pub thread: Option<Tid>,
    /// Time left; 0 is disarmed.
    pub remaining_ns: u64,
    pub interval_ns: u64,
    pub overrun: i32,
}

/// timerfd_create(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimerFd {
    pub clock: i32,
    /// TFD_TIMER_ABSTIME and TFD_TIMER_CANCEL_ON_SET as they were set.
    pub settime_flags: u32,
    /// Time left; 0 is disarmed.
    pub remaining_ns: u64,
    pub interval_ns: u64,
    /// Expirations that nobody has read.
    pub ticks: u64,
}
