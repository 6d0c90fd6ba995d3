//! The user's terminal in raw mode, and back; and put right after a program that could not do so itself.

use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};

use brant_kernel::task;

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

/// What the user's terminal was like before a program got it as its own.
pub(crate) struct LentTerminal {
    before: Option<Termios>,
}

impl LentTerminal {
    /// Remembers the settings of stdin's terminal, where it is one.
    pub(crate) fn remember() -> LentTerminal {
        LentTerminal { before: tcgetattr(io::stdin()).ok() }
    }

    /// Puts it right after the program was killed: nobody else will, as the user's shell sees brant exit in
    /// peace. The alternate screen is left without moving the cursor, which is right on both screens.
    pub(crate) fn put_right(&self, terminal: impl AsFd) {
        const RESET: &[u8] =
            b"\x1b[?47l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1l\x1b>\x1b[?25h\x1b[m";
        let Some(before) = &self.before else { return };
        // The program's own group may still be the foreground one.
        task::ignore_signal(libc::SIGTTOU);
        if tcgetattr(&terminal).is_ok_and(|now| now != *before) {
            let _ = tcsetattr(&terminal, SetArg::TCSADRAIN, before);
            let stderr = io::stderr();
            if stderr.is_terminal() {
                let _ = stderr.lock().write_all(RESET);
            }
        }
    }
}
