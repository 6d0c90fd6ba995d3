//! A process: its place in the tree, its identity, what its threads share.

use brant_base::Pid;

use super::*;

/// One process of the tree.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Process {
    pub pid: Pid,
    /// The parent, which may be outside the tree; 1 where it was adopted by init.
    pub ppid: Pid,
    /// Process group; 0 where its leader is outside the program's pid namespace.
    pub pgid: Pid,
    /// Session; 0 as above.
    pub sid: Pid,
    /// The signal that its parent gets when it ends (clone's exit signal), usually SIGCHLD.
    pub exit_signal: i32,
    pub state: ProcessState,
    /// Its controlling terminal.
    pub terminal: Option<TerminalId>,
    /// `None` for a zombie, which has nothing left but its number and status.
    pub body: Option<ProcessBody>,
    /// The main thread's name, as in /proc/PID/comm. Kept here for zombies.
    pub name: Vec<u8>,
}

/// What a process was doing as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProcessState {
    #[default]
    Running,
    /// Stopped by job control with this signal. `announced`: its parent has waited for this stop already.
    Stopped { signal: i32, announced: bool },
    /// Ended but not waited for: `status` as wait(2) gives it.
    Zombie { status: i32 },
}

/// Everything of a process that is alive.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ProcessBody {
    /// The executable.
    pub executable: DiskFileId,
    /// Absolute path of the working directory.
    pub cwd: Vec<u8>,
    /// Absolute path of the root directory, `/` unless it was changed.
    pub root: Vec<u8>,
    pub umask: u32,
    pub credentials: Credentials,
    /// All 16 limits in the order of their RLIMIT_ numbers.
    pub limits: Vec<Limit>,
    pub memory: AddressSpace,
    /// Sorted by number.
    pub descriptors: Vec<Descriptor>,
    /// All 64 signals in order, signal 1 first.
    pub actions: Vec<SignalAction>,
    /// Signals pending for the process as a whole, in queue order.
    pub pending: Vec<QueuedSignal>,
    pub interval_timers: [IntervalTimer; 3],
    pub posix_timers: Vec<PosixTimer>,
    /// POSIX record locks, which belong to the process.
    pub record_locks: Vec<RecordLock>,
    /// Main thread first (its tid is the pid), others by tid. The main thread may have exited.
    pub threads: Vec<Thread>,
    /// Whether the main thread has ended while others go on.
    pub leader_exited: bool,
    /// Processes that share their descriptor table or fs attributes are refused; kept as a fact.
    pub personality: u64,
    pub dumpable: i32,
    pub child_subreaper: bool,
    pub oom_score_adj: i32,
    pub thp_disabled: bool,
    /// MEMBARRIER_CMD_GET_REGISTRATIONS, 0 where the kernel cannot tell.
    pub membarrier_registrations: u64,
}

/// Who the process is. Numbers are those inside its user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    /// Real, effective, saved, file system.
    pub uids: [u32; 4],
    /// Real, effective, saved, file system.
    pub gids: [u32; 4],
    pub groups: Vec<u32>,
    /// Inheritable, permitted, effective, bounding, ambient.
    pub capabilities: [u64; 5],
    pub securebits: u32,
    pub no_new_privs: bool,
}

/// A resource limit; `u64::MAX` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limit {
    pub soft: u64,
    pub hard: u64,
}

/// An entry of the descriptor table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Descriptor {
    pub number: i32,
    pub file: OpenFileId,
    pub close_on_exec: bool,
}
