//! Terminals.

use brant_base::{Pid, Redacted};

/// Names a [`Terminal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TerminalId(pub u32);

/// A pseudo-terminal.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Terminal {
    pub id: TerminalId,
    /// N of /dev/pts/N; `None` for a terminal that is not a pseudo-terminal (console).
    pub index: Option<u32>,
    /// Both sides are in the tree. Else the master is outside: restore makes a fresh terminal with a relay.
    pub inside: bool,
    /// struct termios2 as TCGETS2 gives it: 44 bytes.
    pub settings: Vec<u8>,
    /// Rows, columns, x pixels, y pixels.
    pub window: [u16; 4],
    /// The session that it controls, and the foreground group; 0 for none.
    pub session: Pid,
    pub foreground: Pid,
    /// Written to the master, not yet read from the slave.
    pub input: Redacted<Vec<u8>>,
    /// Written to the slave, not yet read from the master.
    pub output: Redacted<Vec<u8>>,
    /// TIOCSPTLCK: the slave cannot be opened.
    pub locked: bool,
    /// TIOCPKT.
    pub packet_mode: bool,
    /// TIOCEXCL.
    pub exclusive: bool,
}
