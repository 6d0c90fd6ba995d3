//! Threads that sleep in a system call with a time-out: how much of it is left, and how the call goes on.
//!
//! The kernel does not show what remains of a relative time-out. But a thread that sleeps last ran when it fell
//! asleep, and `se.exec_start` in /proc/TID/sched says when that was, on the clock of its CPU. So the elapsed time is
//! the difference to our own `exec_start` on that CPU, read before the thread is disturbed. Where the file is missing
//! the time-out counts as unspent; so it does where the thread has been awake between this look and its stop (the kernel
//! counts how often it went to sleep): then it may be in another call.

use std::time::Duration;

use brant_base::{Addr, Pid, Tid};

use crate::proc::{self, CurrentCall};
use crate::ptrace::{self, Interrupted, Queue, UserRegisters};
use crate::remote::{Memory, TimeoutForm, timeout_form};
use crate::thread;

/// A timed call that a thread was asleep in before it was disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sleep {
    pub number: u64,
    pub elapsed: Duration,
    /// How often the thread had gone to sleep by then.
    switches: u64,
}

impl Sleep {
    /// The same of a thread that has been stopped since, and stands: nothing of the time-out counts as spent unless the
    /// stop alone has woken it.
    pub fn at_stop(self, tid: Tid) -> Sleep {
        // The stop is a sleep of its own.
        let slept_on = switches(Pid(tid.0)) == Some(self.switches + 1);
        Sleep { elapsed: if slept_on { self.elapsed } else { Duration::ZERO }, ..self }
    }
}

fn switches(of: impl Into<proc::Subject>) -> Option<u64> {
    proc::status(of).ok().map(|status| status.voluntary_switches)
}

/// Looks at a running thread; `None` where it is not asleep in a call with a relative time-out, nor in one that the kernel goes on
/// with under another number.
pub fn measure(process: Pid, tid: Tid) -> Option<Sleep> {
    let of = (process, tid);
    let before = switches(of)?;
    let CurrentCall::Inside { number, arguments, pc, .. } = proc::current_call(of).ok()? else {
        return None;
    };
    let original = original_number(tid, number as u64, arguments, pc.0);
    if original == number as u64 {
        timeout_form(number, arguments)?;
    }
    let cpu = proc::stat(of).ok()?.processor as u32;
    let own = Pid(std::process::id() as i32);
    let exec_start = |who: Option<Tid>| {
        who.map_or_else(|| proc::exec_start_ns(own), |tid| proc::exec_start_ns((process, tid))).ok()
    };
    let elapsed_ns = thread::asleep_for_ns(tid, cpu, exec_start).unwrap_or_default();
    // A thread that went on meanwhile is found out at its stop.
    Some(Sleep { number: original, elapsed: Duration::from_nanos(elapsed_ns), switches: before })
}

const NANOSLEEP: u64 = libc::SYS_nanosleep as u64;
const CLOCK_NANOSLEEP: u64 = libc::SYS_clock_nanosleep as u64;
const FUTEX: u64 = libc::SYS_futex as u64;
const POLL: u64 = libc::SYS_poll as u64;
/// A clock's number is not above this, nor that of a futex operation; a pointer is.
const SMALL: u64 = 4095;

/// The call that the program made: after an earlier stop, the kernel goes on with a sleep under the number of
/// restart_syscall. The place where the thread hangs then tells which call it was; the arguments are still there.
fn original_number(tid: Tid, number: u64, arguments: [u64; 6], instruction: u64) -> u64 {
    if number != libc::SYS_restart_syscall as u64 {
        return number;
    }
    let place = std::fs::read_to_string(format!("/proc/{tid}/wchan")).unwrap_or_default();
    if place.contains("futex") {
        return FUTEX;
    }
    if place.contains("poll") || place.contains("select") {
        return POLL;
    }
    if place.contains("nanosleep") {
        // clock_nanosleep's first argument is a clock, nanosleep's a pointer.
        return if arguments[0] <= SMALL { CLOCK_NANOSLEEP } else { NANOSLEEP };
    }
    let memory = Memory::open(Pid(tid.0)).ok();
    memory.and_then(|memory| number_gone_on_with(&memory, arguments, instruction)).unwrap_or(number)
}

/// Which call restart_syscall goes on with, by the code before `behind` its instruction or else by what its arguments can only
/// be for.
fn number_gone_on_with(memory: &Memory, arguments: [u64; 6], behind: u64) -> Option<u64> {
    let is_timespec = |at: u64| at > SMALL && memory.read_value::<[u64; 2]>(Addr(at)).is_ok();
    number_in_code(memory, behind).or_else(|| number_by_arguments(arguments, is_timespec))
}

/// The registers with which a stopped thread makes a sleep's call itself, where it has been caught just before or in the
/// restart_syscall by which it would go on with that: what is left of the time-out, which the kernel alone knows, would be lost
/// with the thread. `None` for all others, and where the call cannot be told.
pub fn with_sleep_again(memory: &Memory, registers: &UserRegisters) -> Option<UserRegisters> {
    const CALL: [u8; 2] = [0x0f, 0x05];
    let again = registers.as_resumed_by_kernel();
    let stands_at_call = memory.read_value::<[u8; 2]>(Addr(again.rip)).is_ok_and(|code| code == CALL);
    if again.rax != libc::SYS_restart_syscall as u64 || !stands_at_call {
        return None;
    }
    let number = number_gone_on_with(memory, again.arguments(), again.rip + CALL.len() as u64)?;
    Some(UserRegisters { rax: number, ..again })
}

/// The same where the number came in a register: what the arguments can only be for. `is_timespec` asks whether one can be read
/// at an address.
fn number_by_arguments(arguments: [u64; 6], is_timespec: impl Fn(u64) -> bool) -> Option<u64> {
    const FLAGS: u64 = (libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME) as u64;
    const PRIVATE: u64 = libc::FUTEX_PRIVATE_FLAG as u64;
    const WAITS: [u64; 2] = [libc::FUTEX_WAIT as u64, libc::FUTEX_WAIT_BITSET as u64];
    let [first, second, third, fourth, ..] = arguments;
    let is_wait = WAITS.contains(&(second & !FLAGS));
    match (first > SMALL, second) {
        (false, 0 | 1) if is_timespec(third) => Some(CLOCK_NANOSLEEP),
        // No descriptors, as programs sleep for milliseconds.
        (false, 0) if first == 0 => Some(POLL),
        (true, 0) => Some(NANOSLEEP),
        (true, rest) if rest > SMALL => Some(NANOSLEEP),
        (true, operation) if is_wait && operation & PRIVATE != 0 && is_timespec(fourth) => Some(FUTEX),
        // Of a futex that processes share, or of so many descriptors.
        (true, _) if is_wait && second & PRIVATE == 0 => None,
        (true, _) if third as i32 > 0 => Some(POLL),
        _ => None,
    }
}

/// The number that code before a system call's instruction loads into eax, of the calls that restart_syscall goes on with: newer
/// kernels hang in no function of their own there.
fn number_in_code(memory: &Memory, behind: u64) -> Option<u64> {
    const BYTES: u64 = 48;
    const LOAD: u8 = 0xb8;
    let code: [u8; BYTES as usize] = memory.read_value(Addr(behind.checked_sub(BYTES)?)).ok()?;
    let loads = code.windows(5).rev().filter(|bytes| bytes[0] == LOAD);
    let mut numbers = loads.map(|bytes| u32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]).into());
    numbers.find(|number| [NANOSLEEP, CLOCK_NANOSLEEP, FUTEX, POLL].contains(number))
}

/// System calls that give EINTR when a stop wakes them, although no signal handler ran, and that have had no effect then
/// (signal(7), "Interruption of system calls and library functions by stop signals").
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

/// Whether a running thread is in a call that a stop would end with EINTR.
pub fn would_notice_stop(tid: Tid) -> bool {
    let call = proc::current_call(Pid(tid.0));
    matches!(call, Ok(CurrentCall::Inside { number, .. }) if EINTR_WITHOUT_EFFECT.contains(&number))
}

/// The call of a stopped thread that our stop alone has ended with EINTR.
pub fn ended_by_stop(tid: Tid, registers: &UserRegisters) -> Option<u64> {
    let Interrupted::Eintr { number } = registers.interrupted() else { return None };
    (EINTR_WITHOUT_EFFECT.contains(&(number as i64)) && !has_deliverable_signal(tid)).then_some(number)
}

/// The registers with which a thread whose call our stop has ended with EINTR makes it again, or `None` where the kernel
/// does what is right by itself. A time-out in a register is what remains of it.
pub fn call_again(tid: Tid, registers: &UserRegisters, sleep: Option<Sleep>) -> Option<UserRegisters> {
    let number = ended_by_stop(tid, registers)?;
    let mut again = registers.with_call_again(number);
    if let (Some(TimeoutForm::Milliseconds { argument: 3 }), Some(sleep)) =
        (timeout_form(number as i64, again.arguments()), sleep)
    {
        let left_ms = (again.r10 as i32 as i64).saturating_sub(sleep.elapsed.as_millis() as i64);
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::ptrace::{Options, Waiter};

    #[test]
    fn arguments_tell_calls_apart() {
        const MEMORY: u64 = 0x7fff_0000_0000;
        let told = |arguments| number_by_arguments(arguments, |at| at >= MEMORY);
        assert_eq!(told([0, 0, MEMORY, 0, 0, 0]), Some(CLOCK_NANOSLEEP));
        assert_eq!(told([1, 0, MEMORY, MEMORY, 0, 0]), Some(CLOCK_NANOSLEEP));
        assert_eq!(told([MEMORY, MEMORY, 0, 0, 0, 0]), Some(NANOSLEEP));
        assert_eq!(told([MEMORY, 0, 7, 7, 0, 0]), Some(NANOSLEEP));
        assert_eq!(told([MEMORY, 128, 5, MEMORY, 0, 0]), Some(FUTEX));
        assert_eq!(told([MEMORY, 128 | 9 | 256, 5, MEMORY, 0, u32::MAX.into()]), Some(FUTEX));
        assert_eq!(told([0, 0, 5000, 0, 0, 0]), Some(POLL));
        assert_eq!(told([0, 0, 60_000, MEMORY, 0, 0]), Some(POLL));
        assert_eq!(told([MEMORY, 1, 5000, 0, 0, 0]), Some(POLL));
        assert_eq!(told([MEMORY, 200, 60_000, MEMORY, 0, 0]), Some(POLL));
        assert_eq!(told([MEMORY, 9, 5000, MEMORY, 0, 0]), None);
    }

    #[test]
    fn what_has_elapsed_counts_only_if_the_thread_slept_on() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (pid, tid) = (Pid(child.id() as i32), Tid(child.id() as i32));
        let deadline = Instant::now() + Duration::from_secs(10);
        let asleep = loop {
            assert!(Instant::now() < deadline, "it does not sleep");
            std::thread::sleep(Duration::from_millis(20));
            if let Some(asleep) = measure(pid, tid) {
                break Sleep { elapsed: Duration::from_secs(1), ..asleep };
            }
        };
        ptrace::seize(tid, Options::default()).unwrap();
        let waiter = Waiter::new().unwrap();
        let stop = || {
            ptrace::interrupt(tid).unwrap();
            waiter.wait(tid, Duration::from_secs(10)).unwrap();
            ptrace::registers(tid).unwrap();
        };
        stop();
        assert_eq!(asleep.at_stop(tid).elapsed, Duration::from_secs(1));
        // Awake once more, it is in the same call again; who looks from afar cannot tell.
        ptrace::resume(tid, 0).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        stop();
        assert_eq!(asleep.at_stop(tid).elapsed, Duration::ZERO);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
