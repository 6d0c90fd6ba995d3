//! Signals of a client in the foreground: read from a descriptor instead of handled.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// All signals are blocked while this lives, except, where the program is in our own process group, those that
/// stop a process: so Ctrl-Z and `fg` work.
pub(crate) struct Blocked {
    before: SigSet,
    descriptor: SignalFd,
}

/// What a signal asks of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Hand it to the program: somebody sent it to us with kill(2).
    Forward(i32),
    /// The user's terminal has another size.
    Resize,
    /// The user's terminal has gone, or somebody says so.
    HangUp {
        from_kernel: bool,
    },
    /// Stop, and go on when told: only where the terminal is ours to put right first.
    Stop,
    /// We were stopped and go on.
    Continue,
    /// The terminal sent it to our whole group, which the program may or may not be in.
    Keyboard(i32),
    Nothing,
}

impl Blocked {
    /// Blocks; with `stops_itself` also the request to stop.
    pub(crate) fn new(stops_itself: bool) -> io::Result<Blocked> {
        let mut mask = SigSet::all();
        mask.remove(Signal::SIGTTIN);
        mask.remove(Signal::SIGTTOU);
        if !stops_itself {
            mask.remove(Signal::SIGTSTP);
        }
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), Some(&mut before))?;
        let descriptor = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Blocked { before, descriptor })
    }

    /// What was blocked before: the program's mask.
    pub(crate) fn before(&self) -> &SigSet {
        &self.before
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// The next signal that has come, without waiting.
    pub(crate) fn next(&self) -> Option<Asked> {
        let info = self.descriptor.read_signal().ok().flatten()?;
        let signal = Signal::try_from(info.ssi_signo as i32);
        let from_kernel = info.ssi_code == libc::SI_KERNEL;
        Some(match signal {
            Ok(Signal::SIGWINCH) => Asked::Resize,
            Ok(Signal::SIGCONT) => Asked::Continue,
            Ok(Signal::SIGHUP) => Asked::HangUp { from_kernel },
            Ok(Signal::SIGTSTP) => Asked::Stop,
            Ok(signal @ (Signal::SIGINT | Signal::SIGQUIT)) if from_kernel => Asked::Keyboard(signal as i32),
            Ok(
                signal @ (Signal::SIGINT
                | Signal::SIGQUIT
                | Signal::SIGTERM
                | Signal::SIGUSR1
                | Signal::SIGUSR2),
            ) => Asked::Forward(signal as i32),
            _ => Asked::Nothing,
        })
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}
