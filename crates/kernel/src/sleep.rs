//! Calls that a stop alone ends: what a thread slept in, and its registers to make the call again.
//!
//! Some calls give EINTR when a stop wakes them although no signal handler ran (signal(7), "Interruption of system calls and
//! library functions by stop signals"). The kernel does not show what remains of a relative time-out. But a thread that
//! sleeps last ran when it fell asleep, and `se.exec_start` in /proc/TID/sched says when that was.

use std::time::Duration;

use brant_base::{Pid, Tid};

use crate::proc::{self, CurrentCall};
use crate::ptrace::{self, Interrupted, Queue, UserRegisters};
use crate::remote::{TimeoutForm, timeout_form};
use crate::thread;

/// Calls that have had no effect when they give EINTR for a stop.
const EINTR_WITHOUT_EFFECT: [i64; 15] = [
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_epoll_wait,
    libc::SYS_io_getevents,
    libc::SYS_msgrcv,
    libc::SYS_msgsnd,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_sendmsg,
];

/// For how long a running thread has slept in a call that a stop would end; `None` where it is in none. To be asked
/// before the stop.
pub fn would_notice_stop(process: Pid, tid: Tid) -> Option<Duration> {
    let of = (process, tid);
    let CurrentCall::Inside { number, arguments, .. } = proc::current_call(of).ok()? else { return None };
    if !EINTR_WITHOUT_EFFECT.contains(&number) {
        return None;
    }
    if timeout_form(number, arguments).is_none() {
        return Some(Duration::ZERO);
    }
    let cpu = proc::stat(of).ok()?.processor as u32;
    let own = Pid(std::process::id() as i32);
    let exec_start = |who: Option<Tid>| {
        who.map_or_else(|| proc::exec_start_ns(own), |tid| proc::exec_start_ns((process, tid))).ok()
    };
    Some(Duration::from_nanos(thread::asleep_for_ns(tid, cpu, exec_start).unwrap_or_default()))
}

/// The registers with which a stopped thread whose call our stop has ended with EINTR makes it again, or `None` where the
/// kernel does what is right by itself. A time-out in a register is what remains after `slept`.
pub fn call_again(tid: Tid, registers: &UserRegisters, slept: Duration) -> Option<UserRegisters> {
    let Interrupted::Eintr { number } = registers.interrupted() else { return None };
    if !EINTR_WITHOUT_EFFECT.contains(&(number as i64)) || has_deliverable_signal(tid) {
        return None;
    }
    let mut again = registers.with_call_again(number);
    let arguments = [again.rdi, again.rsi, again.rdx, again.r10, again.r8, again.r9];
    if let Some(TimeoutForm::Milliseconds { argument: 3 }) = timeout_form(number as i64, arguments) {
        let left_ms = i64::from(again.r10 as i32).saturating_sub(slept.as_millis() as i64);
        again.r10 = left_ms.max(0) as u64;
    }
    Some(again)
}

/// Whether a signal is pending that a handler or a default action will end the call for.
fn has_deliverable_signal(tid: Tid) -> bool {
    let Ok(mask) = ptrace::signal_mask(tid) else { return true };
    [Queue::Thread, Queue::Process].into_iter().any(|queue| {
        ptrace::pending_signals(tid, queue).unwrap_or_default().iter().any(|info| {
            let signal = i32::from_le_bytes(info[..4].try_into().expect("four bytes"));
            (1..=64).contains(&signal) && mask & (1 << (signal - 1)) == 0
        })
    })
}
