//! Signal dispositions and queued signals.

use brant_base::{Addr, Redacted};

/// What a process does on one signal, as rt_sigaction(2) gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SignalAction {
    /// 0 is SIG_DFL, 1 is SIG_IGN.
    pub handler: Addr,
    pub flags: u64,
    pub restorer: Addr,
    pub mask: u64,
}

/// A pending signal: its 128 bytes of `siginfo_t`, as PTRACE_PEEKSIGINFO gives them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueuedSignal {
    pub signal: i32,
    pub info: Redacted<Vec<u8>>,
}
