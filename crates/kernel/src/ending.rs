//! The end of a frozen tree: all of it, or nothing, although we may be killed at any instant.
//!
//! When a tracer ends, the kernel lets its tracees go on. So a child in a session of its own, which depends on nobody, does
//! it in this order: it sends SIGSTOP to every process, which takes effect only if the tree is let go; it looks whether
//! the tree is still held; and if so it kills all. From the look on no instruction of the program runs, whoever ends. If it
//! is not held any more, the tree is continued: it had gone on before its end was certain, and its image is of the past.
//!
//! Facts relied on: signal(7): a queued SIGSTOP stops a process before it returns to its own code, SIGCONT takes a queued
//! SIGSTOP away, SIGKILL ends a stopped process. proc(5): TracerPid is 0 for a thread that nobody traces.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;

use brant_base::{Pid, Tid};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

use crate::task;

/// What the child says when it did not begin.
const NOT_HELD: i32 = 3;
/// Enough of /proc/TID/status to have TracerPid in it.
const STATUS_BYTES: usize = 1024;

/// A process of a tree that is to end.
#[derive(Debug)]
pub struct Mortal {
    pidfd: OwnedFd,
    /// The status of a thread that we hold.
    status: CString,
    /// Job control has stopped it: it needs no stop and must not be continued.
    stands: bool,
}

impl Mortal {
    /// Process `pid`, of which we hold `thread`. `stands`: it was in a job-control stop before.
    pub fn new(pid: Pid, thread: Tid, stands: bool) -> io::Result<Mortal> {
        let status = CString::new(format!("/proc/{thread}/status"))?;
        Ok(Mortal { pidfd: task::pidfd_open(pid)?, status, stands })
    }

    fn signal(&self, signal: i32) {
        // Permission was asked for before; one that has ended since needs no signal.
        let _ = task::pidfd_send_signal(&self.pidfd, signal);
    }

    /// Whether somebody traces it, or it has ended. Allocates nothing.
    fn is_held(&self) -> bool {
        let mut text = [0_u8; STATUS_BYTES];
        // SAFETY: the path is a string that ends in a zero byte.
        let fd = unsafe { libc::open(self.status.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
        if fd < 0 {
            return true;
        }
        // SAFETY: `text` is as long as is said.
        let length = unsafe { libc::read(fd, text.as_mut_ptr().cast(), text.len()) };
        // SAFETY: opened above and known to nobody else.
        unsafe { libc::close(fd) };
        !is_untraced(&text[..length.max(0) as usize])
    }
}

fn is_untraced(status: &[u8]) -> bool {
    status.split(|byte| *byte == b'\n').any(|line| line == b"TracerPid:\t0")
}

/// Ends all processes of a tree that the calling thread holds, or none: once it has begun, it ends all although we are
/// killed, and none of them runs meanwhile. Processes that have ended are no error; after an error none was ended.
pub fn end_together(processes: &[Mortal]) -> io::Result<()> {
    for process in processes {
        match task::pidfd_send_signal(&process.pidfd, 0) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(error),
            _ => {}
        }
    }
    let mut mask = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut mask))?;
    // SAFETY: the child makes system calls with numbers and reads `processes` only, then ends: so it does not matter what
    // other threads of ours held at this moment.
    let child = match unsafe { libc::fork() } {
        0 => {
            // SAFETY: plain numbers; it is no group's leader, so this cannot fail.
            unsafe { libc::setsid() };
            task::exit_now(if end_if_held(processes) { 0 } else { NOT_HELD })
        }
        -1 => Err(io::Error::last_os_error()),
        child => Ok(Pid(child)),
    };
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None);
    if task::wait_for(child?).ok() != Some(0) {
        // Somebody has ended the child and not us, or its end cannot be seen: we hold the tree.
        processes.iter().for_each(|process| process.signal(libc::SIGKILL));
    }
    Ok(())
}

fn end_if_held(processes: &[Mortal]) -> bool {
    let moving = || processes.iter().filter(|process| !process.stands);
    moving().for_each(|process| process.signal(libc::SIGSTOP));
    let is_held = processes.iter().all(Mortal::is_held);
    match is_held {
        true => processes.iter().for_each(|process| process.signal(libc::SIGKILL)),
        false => moving().for_each(|process| process.signal(libc::SIGCONT)),
    }
    is_held
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_tracers_from_none() {
        let own = std::fs::read("/proc/self/status").unwrap();
        assert!(is_untraced(&own[..own.len().min(STATUS_BYTES)]));
        assert!(!is_untraced(b"Name:\tx\nTracerPid:\t1\nUid:\t0\n"));
        assert!(!is_untraced(b"Name:\tx\nTracerPid:\t01\n"));
        assert!(!is_untraced(b""));
    }
}
