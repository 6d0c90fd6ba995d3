//! The user's terminal in raw mode, and back.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// A terminal that passes every byte; dropped, it is again what it was.
pub(crate) struct RawTerminal {
    terminal: OwnedFd,
    before: Termios,
}

impl RawTerminal {
    /// Puts `terminal` into raw mode.
    pub(crate) fn enter(terminal: impl AsFd) -> io::Result<RawTerminal> {
        let before = tcgetattr(&terminal)?;
        let raw = RawTerminal { terminal: terminal.as_fd().try_clone_to_owned()?, before };
        raw.again()?;
        Ok(raw)
    }

    /// Raw mode once more, after somebody else has had the terminal.
    pub(crate) fn again(&self) -> io::Result<()> {
        let mut settings = self.before.clone();
        cfmakeraw(&mut settings);
        Ok(tcsetattr(&self.terminal, SetArg::TCSADRAIN, &settings)?)
    }

    /// As it was before, for as long as we are stopped.
    pub(crate) fn pause(&self) {
        let _ = tcsetattr(&self.terminal, SetArg::TCSADRAIN, &self.before);
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        self.pause();
    }
}
