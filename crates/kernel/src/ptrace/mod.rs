//! ptrace(2) operations on one thread, as safe functions.
//!
//! ptrace is bound to the calling thread: whoever seized a tracee must be the one who drives it. A tracee that
//! was seized without [`Options::exit_kill`] runs on when its tracer dies (ptrace(2), PTRACE_SEIZE).

mod registers;
mod sentinel;
mod stop;

pub use registers::{Interrupted, UserRegisters, in_rseq_section};
pub use sentinel::{Sentinel, Watch};
pub use stop::{Stop, WaitError, Waiter, reap_ended, reap_zombie};

use std::io;

use brant_base::Tid;

/// Options of a tracee (PTRACE_O_*).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// The kernel kills the tracee when its tracer dies: restore before its commit.
    pub exit_kill: bool,
    /// New processes and threads are seized too.
    pub follow_children: bool,
    /// It stops when it has executed a program.
    pub stop_at_exec: bool,
}

impl Options {
    fn bits(self) -> usize {
        let mut bits = libc::PTRACE_O_TRACESYSGOOD;
        if self.exit_kill {
            bits |= libc::PTRACE_O_EXITKILL;
        }
        if self.follow_children {
            bits |= libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_TRACEFORK | libc::PTRACE_O_TRACEVFORK;
        }
        if self.stop_at_exec {
            bits |= libc::PTRACE_O_TRACEEXEC;
        }
        bits as usize
    }
}

/// A queued signal as the kernel keeps it: the 128 bytes of `siginfo_t`.
pub type RawSiginfo = [u8; 128];

const PTRACE_GETREGSET: u32 = 0x4204;
const PTRACE_SETREGSET: u32 = 0x4205;
const PTRACE_PEEKSIGINFO: u32 = 0x4209;
const PTRACE_GETSIGMASK: u32 = 0x420a;
const PTRACE_SETSIGMASK: u32 = 0x420b;
const PTRACE_GET_RSEQ_CONFIGURATION: u32 = 0x420f;
const PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG: u32 = 0x4211;
const NT_X86_XSTATE: usize = 0x202;
const PTRACE_PEEKSIGINFO_SHARED: u32 = 1;
/// Signals that are looked at in one queue before it counts as endless.
const QUEUED_SIGNALS_MAX: usize = 1 << 17;
/// The largest extended state that is accepted (AMX needs 11 KiB).
const XSTATE_BYTES_MAX: usize = 64 << 10;

fn ptrace(request: u32, tid: Tid, addr: usize, data: usize) -> io::Result<i64> {
    // SAFETY: every caller in this module passes addresses of live buffers of the size that the request
    // writes, or plain numbers; the kernel checks the tid.
    let result = unsafe { libc::ptrace(request as _, tid.0, addr, data) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Attaches without stopping. Fails with ESRCH where the thread is gone, EPERM where it may not be traced.
pub fn seize(tid: Tid, options: Options) -> io::Result<()> {
    ptrace(libc::PTRACE_SEIZE, tid, 0, options.bits()).map(drop)
}

/// Asks a seized thread to stop; it reports [`Stop::Interrupt`] or [`Stop::Group`].
pub fn interrupt(tid: Tid) -> io::Result<()> {
    ptrace(libc::PTRACE_INTERRUPT, tid, 0, 0).map(drop)
}

/// Changes the options of a stopped tracee.
pub fn set_options(tid: Tid, options: Options) -> io::Result<()> {
    ptrace(libc::PTRACE_SETOPTIONS, tid, 0, options.bits()).map(drop)
}

/// Lets a stopped tracee run, delivering `signal` (0 for none).
pub fn resume(tid: Tid, signal: i32) -> io::Result<()> {
    ptrace(libc::PTRACE_CONT, tid, 0, signal as usize).map(drop)
}

/// Lets a stopped tracee run to the next system call's entry or exit.
pub fn resume_to_syscall(tid: Tid, signal: i32) -> io::Result<()> {
    ptrace(libc::PTRACE_SYSCALL, tid, 0, signal as usize).map(drop)
}

/// Leaves a tracee in its job-control stop, of which it has told; it tells of its end.
pub fn listen(tid: Tid) -> io::Result<()> {
    ptrace(libc::PTRACE_LISTEN, tid, 0, 0).map(drop)
}

/// Lets go of a stopped tracee. One in a job-control stop stays stopped.
pub fn detach(tid: Tid, signal: i32) -> io::Result<()> {
    ptrace(libc::PTRACE_DETACH, tid, 0, signal as usize).map(drop)
}

/// The number that the last event stop carries: the new child's, in the tracer's pid namespace.
pub fn event_message(tid: Tid) -> io::Result<u64> {
    let mut message = 0u64;
    ptrace(libc::PTRACE_GETEVENTMSG, tid, 0, &raw mut message as usize)?;
    Ok(message)
}

/// The general registers of a stopped tracee.
pub fn registers(tid: Tid) -> io::Result<UserRegisters> {
    let mut registers = UserRegisters::default();
    ptrace(libc::PTRACE_GETREGS, tid, 0, &raw mut registers as usize)?;
    Ok(registers)
}

/// Replaces the general registers of a stopped tracee, all at once.
pub fn set_registers(tid: Tid, registers: &UserRegisters) -> io::Result<()> {
    ptrace(libc::PTRACE_SETREGS, tid, 0, &raw const *registers as usize).map(drop)
}

/// The extended state in the standard XSAVE layout.
pub fn xstate(tid: Tid) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0u8; XSTATE_BYTES_MAX];
    let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    ptrace(PTRACE_GETREGSET, tid, NT_X86_XSTATE, &raw mut vector as usize)?;
    bytes.truncate(vector.iov_len);
    Ok(bytes)
}

/// Replaces the extended state.
pub fn set_xstate(tid: Tid, bytes: &[u8]) -> io::Result<()> {
    let vector = libc::iovec { iov_base: bytes.as_ptr() as *mut _, iov_len: bytes.len() };
    ptrace(PTRACE_SETREGSET, tid, NT_X86_XSTATE, &raw const vector as usize).map(drop)
}

/// The mask of blocked signals; bit 0 is signal 1.
pub fn signal_mask(tid: Tid) -> io::Result<u64> {
    let mut mask = 0u64;
    ptrace(PTRACE_GETSIGMASK, tid, 8, &raw mut mask as usize)?;
    Ok(mask)
}

/// Replaces the mask of blocked signals.
pub fn set_signal_mask(tid: Tid, mask: u64) -> io::Result<()> {
    ptrace(PTRACE_SETSIGMASK, tid, 8, &raw const mask as usize).map(drop)
}

/// Which queue of pending signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    Thread,
    Process,
}

/// The pending signals, in queue order, without taking them off.
pub fn pending_signals(tid: Tid, queue: Queue) -> io::Result<Vec<RawSiginfo>> {
    #[repr(C)]
    struct Arguments {
        offset: u64,
        flags: u32,
        count: i32,
    }
    const BATCH: usize = 32;
    let flags = if queue == Queue::Process { PTRACE_PEEKSIGINFO_SHARED } else { 0 };
    let mut all = Vec::new();
    loop {
        let mut batch = [[0u8; 128]; BATCH];
        let arguments = Arguments { offset: all.len() as u64, flags, count: BATCH as i32 };
        let found =
            ptrace(PTRACE_PEEKSIGINFO, tid, &raw const arguments as usize, batch.as_mut_ptr() as usize)?;
        all.extend_from_slice(&batch[..found as usize]);
        if (found as usize) < BATCH || all.len() > QUEUED_SIGNALS_MAX {
            return Ok(all);
        }
    }
}

/// A registered restartable-sequences area (Linux 5.13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct RseqConfiguration {
    pub area: u64,
    pub bytes: u32,
    pub signature: u32,
    pub flags: u32,
    padding: u32,
}

/// The thread's rseq registration; an area of 0 is none.
pub fn rseq_configuration(tid: Tid) -> io::Result<RseqConfiguration> {
    let mut configuration = RseqConfiguration::default();
    let size = size_of::<RseqConfiguration>();
    ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tid, size, &raw mut configuration as usize)?;
    Ok(configuration)
}

/// Whether the thread has switched syscall user dispatch on (Wine does); false where the kernel is too old.
pub fn has_syscall_user_dispatch(tid: Tid) -> bool {
    let mut configuration = [0u64; 4];
    let size = size_of_val(&configuration);
    let read =
        ptrace(PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, tid, size, configuration.as_mut_ptr() as usize);
    read.is_ok() && configuration[0] != 0
}
