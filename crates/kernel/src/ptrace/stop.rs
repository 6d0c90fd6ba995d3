//! Waiting for tracees, with a limit.

use std::io;
use std::time::{Duration, Instant};

use brant_base::{Pid, Tid};

use crate::patience::Patience;
use crate::proc;

/// Why a tracee stopped or ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// PTRACE_INTERRUPT, or a new tracee's first stop.
    Interrupt,
    /// A job-control stop by this signal.
    Group(i32),
    /// At the entry or exit of a system call.
    Syscall,
    /// A PTRACE_EVENT_ number of another kind.
    Event(i32),
    /// About to receive this signal.
    Signal(i32),
    /// Ended, with the wait status.
    Ended(i32),
    /// Something that this kernel reports and we do not know.
    Unknown(i32),
}

impl Stop {
    /// What a status of wait(2) says. What it does not know it keeps as it is: an unknown stop is no reason to
    /// panic.
    fn from_status(status: i32) -> Stop {
        if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            return Stop::Ended(status);
        }
        if !libc::WIFSTOPPED(status) {
            return Stop::Unknown(status);
        }
        let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
        match (event, signal) {
            (libc::PTRACE_EVENT_STOP, libc::SIGTRAP) => Stop::Interrupt,
            (libc::PTRACE_EVENT_STOP, signal) => Stop::Group(signal),
            (0, signal) if signal == libc::SIGTRAP | 0x80 => Stop::Syscall,
            (0, signal) => Stop::Signal(signal),
            (event, _) => Stop::Event(event),
        }
    }
}

/// Why waiting failed.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    #[error("thread {0} did not stop within {1:?}")]
    TimedOut(Tid, Duration),
    #[error("waiting for thread {0}")]
    Wait(Tid, #[source] io::Error),
}

/// Waits for tracees of the calling thread.
///
/// A blocking wait is the fastest way to meet a tracee, but it has no limit of its own. So a timer of the
/// calling thread ticks while a `Waiter` lives, and each tick ends the wait for a look at the clock. Its signal is
/// open during a wait, whatever the thread blocks otherwise, and blocked between waits: it would end other calls with EINTR.
pub struct Waiter {
    timer: libc::timer_t,
    was_blocked: bool,
}

const TICK_MS: i64 = 20;
/// How long wait(2) may say nothing about a thread before it is looked at.
const DEAD_LEADER_AFTER: Duration = Duration::from_millis(200);

fn is_zombie(tid: Tid) -> bool {
    proc::stat(Pid(tid.0)).is_ok_and(|stat| stat.state == b'Z')
}

/// The signal of the tick. Its handler does nothing; the signal belongs to brant's own process.
fn tick_signal() -> i32 {
    libc::SIGRTMAX() - 3
}

extern "C" fn ignore_tick(_: i32) {}

/// Opens the tick's signal for the calling thread, or blocks it; whether it was blocked before.
fn block_tick(how: i32) -> io::Result<bool> {
    // SAFETY: an all-zero set is valid; the calls fill sets that outlive them.
    unsafe {
        let (mut tick, mut before): (libc::sigset_t, libc::sigset_t) = std::mem::zeroed();
        libc::sigemptyset(&mut tick);
        libc::sigaddset(&mut tick, tick_signal());
        match libc::pthread_sigmask(how, &tick, &mut before) {
            0 => Ok(libc::sigismember(&before, tick_signal()) == 1),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

impl Waiter {
    /// Starts the tick for the calling thread, which does not feel it before it waits.
    pub fn new() -> io::Result<Waiter> {
        // SAFETY: an all-zero sigaction is valid; the handler does nothing and so is async-signal-safe.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = ignore_tick as *const () as usize;
            if libc::sigaction(tick_signal(), &action, std::ptr::null_mut()) < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: an all-zero sigevent is valid, and `timer` outlives the call that fills it.
        let timer = unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = tick_signal();
            event.sigev_notify_thread_id = libc::gettid();
            let mut timer: libc::timer_t = std::ptr::null_mut();
            if libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) < 0 {
                return Err(io::Error::last_os_error());
            }
            timer
        };
        let waiter = Waiter { timer, was_blocked: block_tick(libc::SIG_BLOCK)? };
        let tick = libc::timespec { tv_sec: 0, tv_nsec: TICK_MS * 1_000_000 };
        let setting = libc::itimerspec { it_interval: tick, it_value: tick };
        // SAFETY: the timer was just made and `setting` is valid.
        if unsafe { libc::timer_settime(timer, 0, &setting, std::ptr::null_mut()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(waiter)
    }

    /// Waits until `tid` stops or ends. One that has by the time that this gives up is not given up.
    pub fn wait(&self, tid: Tid, timeout: Duration) -> Result<Stop, WaitError> {
        let _open = OpenTick::new().map_err(|error| WaitError::Wait(tid, error))?;
        let started = Instant::now();
        let mut patience = Patience::new(timeout);
        loop {
            match self.wait_once(tid, libc::__WALL) {
                Ok(Some(stop)) => return Ok(stop),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(WaitError::Wait(tid, error)),
            }
            // wait(2) does not report a dead main thread before all others of its process were waited for.
            if started.elapsed() >= DEAD_LEADER_AFTER && is_zombie(tid) {
                return Ok(Stop::Ended(libc::SIGKILL));
            }
            if patience.is_over() {
                return self.poll(tid)?.ok_or(WaitError::TimedOut(tid, timeout));
            }
        }
    }

    /// Whether `tid` has stopped or ended by now.
    pub fn poll(&self, tid: Tid) -> Result<Option<Stop>, WaitError> {
        loop {
            match self.wait_once(tid, libc::__WALL | libc::WNOHANG) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map_err(|error| WaitError::Wait(tid, error)),
            }
        }
    }

    /// A signal on its way to the thread is looked at, and not taken note of: what wait(2) takes note of the kernel forgets
    /// (`wait_task_stopped` clears the code that `ptrace_signal` goes by), and if we were killed before we pass the signal
    /// on, the program would never get it. Resuming the thread settles it.
    fn wait_once(&self, tid: Tid, flags: i32) -> io::Result<Option<Stop>> {
        // SAFETY: an all-zero siginfo is valid.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let look = libc::WEXITED | libc::WSTOPPED | libc::WNOWAIT | flags;
        // SAFETY: `info` outlives the call.
        if unsafe { libc::waitid(libc::P_PID, tid.0 as u32, &mut info, look) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: waitid fills these fields, or leaves them zero.
        let (found, code) = unsafe { (info.si_pid(), info.si_status()) };
        if found == 0 {
            return Ok(None);
        }
        const STOPPED: i32 = 0x7f;
        if info.si_code == libc::CLD_TRAPPED
            && let signal @ Stop::Signal(_) = Stop::from_status(code << 8 | STOPPED)
        {
            return Ok(Some(signal));
        }
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        match unsafe { libc::waitpid(tid.0, &mut status, flags | libc::WNOHANG) } {
            0 => Ok(None),
            found if found < 0 => Err(io::Error::last_os_error()),
            _ => Ok(Some(Stop::from_status(status))),
        }
    }
}

/// Takes note of the end of a tracee that any thread of ours holds, without waiting. Only for one that is known to be a
/// zombie: of another, a stop would be swallowed.
pub fn reap_zombie(tid: Tid) {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    unsafe { libc::waitpid(tid.0, &mut status, libc::__WALL | libc::WNOHANG) };
}

/// Whether a tracee that was killed has ended; takes note of it then. Stops of it are swallowed.
pub fn reap_ended(tid: Tid) -> bool {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let found = unsafe { libc::waitpid(tid.0, &mut status, libc::__WALL | libc::WNOHANG) };
    match found {
        0 => false,
        found if found < 0 => io::Error::last_os_error().raw_os_error() == Some(libc::ECHILD),
        _ => !libc::WIFSTOPPED(status),
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        // SAFETY: the timer was made by `new` and is deleted once.
        unsafe { libc::timer_delete(self.timer) };
        if !self.was_blocked {
            let _ = block_tick(libc::SIG_UNBLOCK);
        }
    }
}

/// As long as it lives, the calling thread feels the tick. One that was on its way goes by before the wait begins; the next one
/// ends that.
struct OpenTick;

impl OpenTick {
    fn new() -> io::Result<OpenTick> {
        block_tick(libc::SIG_UNBLOCK).map(|_| OpenTick)
    }
}

impl Drop for OpenTick {
    fn drop(&mut self) {
        let _ = block_tick(libc::SIG_BLOCK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ptrace::{self, Options};

    /// The kernel lets go of a tracee when the thread that traces it ends, killed or not.
    #[test]
    fn a_signal_is_not_lost_with_who_has_seen_it() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let tid = Tid(child.id() as i32);
        let tracer = std::thread::spawn(move || {
            ptrace::seize(tid, Options::default()).unwrap();
            // SAFETY: plain numbers.
            assert_eq!(unsafe { libc::kill(tid.0, libc::SIGUSR1) }, 0);
            let stop = Waiter::new().unwrap().wait(tid, Duration::from_secs(10)).unwrap();
            assert_eq!(stop, Stop::Signal(libc::SIGUSR1));
        });
        tracer.join().unwrap();
        let begun = Instant::now();
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if begun.elapsed() > Duration::from_secs(10) => break None,
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        child.kill().unwrap();
        let signal = status.and_then(|status| std::os::unix::process::ExitStatusExt::signal(&status));
        assert_eq!(signal, Some(libc::SIGUSR1));
    }

    /// Whoever waits for tracees also locks files, and talks to others.
    #[test]
    fn the_tick_ends_no_other_calls() {
        let waiter = Waiter::new().unwrap();
        let mut poll = libc::pollfd { fd: -1, events: 0, revents: 0 };
        let ms = 10 * TICK_MS as i32;
        // SAFETY: `poll` outlives the call.
        assert_eq!(unsafe { libc::poll(&mut poll, 1, ms) }, 0, "{}", io::Error::last_os_error());
        drop(waiter);
        assert!(!block_tick(libc::SIG_UNBLOCK).unwrap(), "it is as it was before");
    }

    /// A client of a job in the foreground blocks all signals, and the builder of a restore is its child.
    #[test]
    fn a_wait_ends_in_time_although_signals_are_blocked() {
        block_tick(libc::SIG_BLOCK).unwrap();
        let mut child = std::process::Command::new("sleep").arg("10").spawn().unwrap();
        let tid = Tid(child.id() as i32);
        ptrace::seize(tid, Options::default()).unwrap();
        let waiter = Waiter::new().unwrap();
        let (begun, timeout) = (Instant::now(), Duration::from_millis(100));
        assert!(matches!(waiter.wait(tid, timeout), Err(WaitError::TimedOut(..))));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        drop(waiter);
        assert!(block_tick(libc::SIG_UNBLOCK).unwrap(), "it is as it was before");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
