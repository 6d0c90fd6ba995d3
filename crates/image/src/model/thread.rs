//! A thread: registers and what belongs to it alone.

use brant_base::{Addr, Redacted, Tid};

use super::*;

/// One thread.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Thread {
    pub tid: Tid,
    /// As in /proc/PID/task/TID/comm, at most 15 bytes.
    pub name: Vec<u8>,
    pub registers: Registers,
    /// The extended state in the standard (non-compacted) XSAVE layout that PTRACE_GETREGSET gives.
    pub xstate: Redacted<Vec<u8>>,
    pub signal_mask: u64,
    /// Signals pending for this thread, in queue order.
    pub pending: Vec<QueuedSignal>,
    pub alternate_stack: AlternateStack,
    pub rseq: Option<Rseq>,
    pub robust_list: Option<RobustList>,
    /// Where the kernel clears the tid when the thread ends (set_tid_address); 0 for none.
    pub clear_tid: Addr,
    pub scheduling: Scheduling,
    pub parent_death_signal: i32,
    /// What becomes of the system call that the thread was in.
    pub interrupted: Option<InterruptedCall>,
}

/// General registers, as in `struct user_regs_struct`. `rip` and `rax` are already what the thread goes on
/// with: a call that simply restarts has its instruction and number put back.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Registers {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rip: u64,
    pub eflags: u64,
    pub rsp: u64,
    pub fs_base: u64,
    pub gs_base: u64,
}

impl std::fmt::Debug for Registers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registers {{ rip: {:#x}, rsp: {:#x}, .. }}", self.rip, self.rsp)
    }
}

/// A call with a relative time-out that must go on for what remains of it. The registers hold the call as
/// the program made it, `rip` at the `syscall` instruction and `rax` its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InterruptedCall {
    /// The system call's number.
    pub number: u64,
    /// What is left of the time-out when the tree was frozen.
    pub remaining_ns: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AlternateStack {
    pub base: Addr,
    /// SS_DISABLE, SS_AUTODISARM; never SS_ONSTACK, which the stack pointer tells.
    pub flags: i32,
    pub bytes: u64,
}

/// A restartable-sequences registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rseq {
    pub area: Addr,
    pub bytes: u32,
    pub signature: u32,
    pub flags: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RobustList {
    pub head: Addr,
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scheduling {
    /// SCHED_ number.
    pub policy: u32,
    pub reset_on_fork: bool,
    /// For SCHED_FIFO and SCHED_RR.
    pub priority: u32,
    pub nice: i32,
    pub timer_slack_ns: u64,
    /// CPUs that it may use; empty where it may use all.
    pub affinity: Vec<u32>,
    /// ioprio_get's value, 0 for none.
    pub io_priority: u32,
}
