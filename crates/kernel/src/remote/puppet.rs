//! Remote calls in a task that is being built. It is no program yet: it dies with its tracer (exit_kill), so
//! nothing is kept for a way back.

use std::rc::Rc;
use std::time::Duration;

use brant_base::{Addr, PAGE_SIZE, PageRange, Pid, Tid, fault};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::stub::{StubEntry, own_stub, stub_code};
use super::{CALL_TIMEOUT, Memory, RemoteError, call_result};

use crate::patience::Patience;
use crate::proc;
use crate::ptrace::{self, Options, Stop, UserRegisters, Waiter};

/// Where the stub's pages lie in the task: one page of code, then a data area for arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StubPlace {
    pub range: PageRange,
}

impl StubPlace {
    /// Pages that a stub needs: one of code and 32 of data.
    pub const PAGES: u64 = 33;

    fn code(self) -> Addr {
        self.range.start()
    }

    /// The area for arguments.
    pub fn data(self) -> PageRange {
        PageRange::new(self.range.start().0 + PAGE_SIZE, self.range.end().0).expect("more than a page")
    }
}

/// One system call of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub number: i64,
    pub arguments: [u64; 6],
}

impl Call {
    /// A call with up to six arguments; the others are 0.
    pub fn new(number: i64, arguments: &[u64]) -> Call {
        let mut all = [0; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        Call { number, arguments: all }
    }
}

/// What kind of task [`Puppet::fork`] makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// A child process with this exit signal.
    Child { exit_signal: i32 },
    /// A process whose parent is the caller's parent.
    Sibling,
    /// A thread of the caller's process.
    Thread,
}

/// A stopped task that performs system calls for us.
pub struct Puppet {
    pub(super) waiter: Rc<Waiter>,
    /// Its number in our pid namespace.
    pub(super) tid: Tid,
    pub(super) memory: Rc<Memory>,
    pub(super) stub: Addr,
    pub(super) data: PageRange,
    /// Registers that calls start from: the task's own segments.
    pub(super) base: UserRegisters,
}

const NR_CLONE3: i64 = libc::SYS_clone3;
/// SIGTRAP must stay open: int3 reports back with it.
pub(super) const MASK_ALL_BUT_TRAP: u64 = !(1 << (libc::SIGTRAP - 1));
/// Where the addresses of programs end.
pub(super) const USER_END: u64 = 0x7fff_ffff_f000;
/// Room for calls in the data area; what is above is the caller's.
const BATCH_CALLS_MAX: usize = 1024;

/// `struct clone_args` of clone3(2).
#[derive(Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct CloneArguments {
    pub(crate) flags: u64,
    pub(crate) pidfd: u64,
    pub(crate) child_tid: u64,
    pub(crate) parent_tid: u64,
    pub(crate) exit_signal: u64,
    pub(crate) stack: u64,
    pub(crate) stack_size: u64,
    pub(crate) tls: u64,
    pub(crate) set_tid: u64,
    pub(crate) set_tid_size: u64,
    pub(crate) cgroup: u64,
}

impl Puppet {
    /// Seizes `tid`, a fork of ourselves that waits, and moves it into a stub at `place`: everything else in its
    /// address space but the vdso is unmapped, and the vdso moved to `vdso_to`. `place` and the vdso's new place
    /// must be free in the fork. It dies with us from here on.
    pub fn from_fork(
        waiter: Rc<Waiter>,
        tid: Tid,
        place: StubPlace,
        keep: &[PageRange],
    ) -> Result<Puppet, RemoteError> {
        let failed = |operation| move |error| RemoteError::Ptrace { tid, operation, error };
        let options = Options { exit_kill: true, follow_children: true, ..Options::default() };
        ptrace::seize(tid, options).map_err(failed("seizing"))?;
        ptrace::interrupt(tid).map_err(failed("interrupting"))?;
        wait_for_first_stop(&waiter, tid)?;
        let memory = Rc::new(Memory::open(Pid(tid.0)).map_err(failed("opening its memory"))?);
        ptrace::set_signal_mask(tid, MASK_ALL_BUT_TRAP).map_err(failed("blocking signals"))?;
        let base = ptrace::registers(tid).map_err(failed("reading registers"))?;
        let data = place.data();
        let mut puppet = Puppet { waiter, tid, memory, stub: own_stub(), data, base };
        puppet.move_stub(place, keep)?;
        Ok(puppet)
    }

    /// Puts the stub where no mapping of the image will be, goes on from there, and unmaps all else.
    fn move_stub(&mut self, place: StubPlace, keep: &[PageRange]) -> Result<(), RemoteError> {
        let fixed = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let (start, bytes) = (place.range.start().0, place.range.bytes());
        self.call(libc::SYS_mmap, &[start, bytes, protection as u64, fixed as u64, u64::MAX, 0])?;
        self.memory.write(place.code(), &stub_code()).map_err(|error| RemoteError::Ptrace {
            tid: self.tid,
            operation: "writing the stub",
            error,
        })?;
        let code = (libc::PROT_READ | libc::PROT_EXEC) as u64;
        self.call(libc::SYS_mprotect, &[start, PAGE_SIZE, code])?;
        self.stub = place.code();
        // Forget what libc registered, before its memory goes.
        let rseq = ptrace::rseq_configuration(self.tid).unwrap_or_default();
        if rseq.area != 0 {
            let unregister = 1;
            let arguments = [rseq.area, rseq.bytes as u64, unregister, rseq.signature as u64];
            self.call(libc::SYS_rseq, &arguments)?;
        }
        self.call(libc::SYS_set_robust_list, &[0, 24])?;
        self.call(libc::SYS_set_tid_address, &[0])?;
        self.unmap_all_but(place.range, keep)
    }

    /// Empties the address space around what must stay.
    fn unmap_all_but(&mut self, stub: PageRange, keep: &[PageRange]) -> Result<(), RemoteError> {
        let mut kept: Vec<PageRange> = keep.to_vec();
        kept.push(stub);
        kept.sort();
        let mut calls = Vec::new();
        let mut from = 0;
        for range in kept {
            if range.start().0 > from {
                calls.push(Call::new(libc::SYS_munmap, &[from, range.start().0 - from]));
            }
            from = range.end().0;
        }
        calls.push(Call::new(libc::SYS_munmap, &[from, USER_END - from]));
        for (call, result) in calls.iter().zip(self.batch(&calls)?) {
            call_result(self.tid, call.number, result)?;
        }
        Ok(())
    }

    /// Its number in our pid namespace.
    pub fn tid(&self) -> Tid {
        self.tid
    }

    /// The memory of its process.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Same, to be kept or sent to a thread that only reads and writes memory.
    pub fn open_memory(&self) -> std::io::Result<Memory> {
        Memory::open(Pid(self.tid.0))
    }

    /// Reaches its memory through this thread from here on: threads share the handle of the main thread, which is no good
    /// once that has ended.
    pub fn reopen_memory(&mut self) -> Result<(), RemoteError> {
        self.memory = Rc::new(self.open_memory().map_err(self.failed("opening its memory"))?);
        Ok(())
    }

    /// Where arguments may be put: the upper half of the data area, 64 KiB.
    pub fn arguments(&self) -> PageRange {
        let middle = self.data.start().0 + (BATCH_CALLS_MAX * 64) as u64;
        PageRange::new(middle, self.data.end().0).expect("larger than a batch")
    }

    /// Performs one system call.
    pub fn call(&mut self, number: i64, arguments: &[u64]) -> Result<u64, RemoteError> {
        self.start_call(number, arguments)?;
        let after = self.run_to_trap()?;
        call_result(self.tid, number, after.rax)
    }

    pub(super) fn start_call(&mut self, number: i64, arguments: &[u64]) -> Result<(), RemoteError> {
        let Call { arguments: [rdi, rsi, rdx, r10, r8, r9], .. } = Call::new(number, arguments);
        let rip = self.stub.0 + StubEntry::Call.offset();
        let rax = number as u64;
        let registers = UserRegisters { rip, rax, rdi, rsi, rdx, r10, r8, r9, ..self.base };
        self.set_registers(UserRegisters { orig_rax: u64::MAX, ..registers })
    }

    fn set_registers(&self, registers: UserRegisters) -> Result<(), RemoteError> {
        let tid = self.tid;
        ptrace::set_registers(tid, &registers).map_err(|error| RemoteError::Ptrace {
            tid,
            operation: "setting registers",
            error,
        })
    }

    /// Performs all calls in one run and returns the kernel's raw results, in order. A failed call does not
    /// end the batch.
    pub fn batch(&mut self, calls: &[Call]) -> Result<Vec<u64>, RemoteError> {
        let mut results = Vec::with_capacity(calls.len());
        for part in calls.chunks(BATCH_CALLS_MAX) {
            let records: Vec<[u64; 8]> = part
                .iter()
                .map(|call| {
                    let a = call.arguments;
                    [call.number as u64, a[0], a[1], a[2], a[3], a[4], a[5], 0]
                })
                .collect();
            self.write_memory(self.data.start(), records.as_bytes())?;
            let rip = self.stub.0 + StubEntry::Batch.offset();
            let (rbx, rbp) = (self.data.start().0, part.len() as u64);
            self.set_registers(UserRegisters { rip, rbx, rbp, orig_rax: u64::MAX, ..self.base })?;
            self.run_to_trap()?;
            let mut done = vec![[0u64; 8]; part.len()];
            self.read_memory(self.data.start(), done.as_mut_bytes())?;
            results.extend(done.iter().map(|record| record[7]));
        }
        Ok(results)
    }

    /// Performs all calls in one run; the first that failed is the error.
    pub fn batch_all(&mut self, calls: &[Call]) -> Result<Vec<u64>, RemoteError> {
        let results = self.batch(calls)?;
        for (call, result) in calls.iter().zip(&results) {
            call_result(self.tid, call.number, *result)?;
        }
        Ok(results)
    }

    /// Writes into its memory, where it may write itself.
    pub fn write_memory(&self, at: Addr, bytes: &[u8]) -> Result<(), RemoteError> {
        let failed = |error| RemoteError::Ptrace { tid: self.tid, operation: "writing its memory", error };
        self.memory.write(at, bytes).map_err(failed)
    }

    /// Reads its memory.
    pub fn read_memory(&self, at: Addr, bytes: &mut [u8]) -> Result<(), RemoteError> {
        let failed = |error| RemoteError::Ptrace { tid: self.tid, operation: "reading its memory", error };
        self.memory.read(at, bytes).map_err(failed)
    }

    /// Runs until a stop that is not one of being interrupted.
    pub(super) fn run_to_stop(&self) -> Result<Stop, RemoteError> {
        let tid = self.tid;
        loop {
            ptrace::resume(tid, 0).map_err(self.failed("resuming"))?;
            fault::reach("restore.in-call");
            match self.waiter.wait(tid, CALL_TIMEOUT)? {
                Stop::Ended(status) => return Err(RemoteError::Ended { tid, status }),
                Stop::Interrupt | Stop::Group(_) => {}
                stop => return Ok(stop),
            }
        }
    }

    fn run_to_trap(&mut self) -> Result<UserRegisters, RemoteError> {
        match self.run_to_stop()? {
            Stop::Signal(libc::SIGTRAP) => {
                ptrace::registers(self.tid).map_err(self.failed("reading registers"))
            }
            stop => Err(RemoteError::Unexpected { tid: self.tid, stop }),
        }
    }

    /// Makes a new task whose number in the innermost pid namespace is `number`, or any where that is not said; it comes
    /// stopped, in the same stub, and dies with us too.
    pub fn fork(&mut self, kind: Fork, number: Option<i32>) -> Result<Puppet, RemoteError> {
        let room = self.arguments().start();
        let (flags, exit_signal) = match kind {
            Fork::Child { exit_signal } => (0, exit_signal as u64),
            Fork::Sibling => (libc::CLONE_PARENT as u64, 0),
            Fork::Thread => (THREAD_FLAGS as u64, 0),
        };
        let number_at = room.0 + 128;
        let arguments = CloneArguments {
            flags,
            exit_signal,
            set_tid: number.map_or(0, |_| number_at),
            set_tid_size: u64::from(number.is_some()),
            ..CloneArguments::default()
        };
        self.write_memory(room, arguments.as_bytes())?;
        self.write_memory(Addr(number_at), &number.unwrap_or(0).to_le_bytes())?;
        self.start_call(NR_CLONE3, &[room.0, size_of::<CloneArguments>() as u64])?;
        let child = self.run_to_clone()?;
        wait_for_first_stop(&self.waiter, child)?;
        self.run_to_trap()?;
        let memory = if kind == Fork::Thread {
            self.memory.clone()
        } else {
            let failed = |error| RemoteError::Ptrace { tid: child, operation: "opening its memory", error };
            Rc::new(Memory::open(Pid(child.0)).map_err(failed)?)
        };
        Ok(Puppet { waiter: self.waiter.clone(), tid: child, memory, ..*self })
    }

    /// Runs until the clone event, and returns the new task's number in our namespace.
    fn run_to_clone(&mut self) -> Result<Tid, RemoteError> {
        let tid = self.tid;
        let stop = self.run_to_stop()?;
        match stop {
            Stop::Event(_) => {
                let message = ptrace::event_message(tid).map_err(self.failed("reading an event"))?;
                return Ok(Tid(message as i32));
            }
            Stop::Signal(libc::SIGTRAP) => {
                let after = ptrace::registers(tid).map_err(self.failed("reading registers"))?;
                call_result(tid, NR_CLONE3, after.rax)?;
            }
            _ => {}
        }
        Err(RemoteError::Unexpected { tid, stop })
    }

    /// Makes it exit with `code`, or die by signal `-code` where negative, and waits for that. It stays a zombie for
    /// its parent to see.
    pub fn end(mut self, status: i32) -> Result<(), RemoteError> {
        let tid = self.tid;
        if libc::WIFSIGNALED(status) {
            let signal = libc::WTERMSIG(status);
            // Signals are blocked in the stub; the one that must kill it is opened.
            let mask = MASK_ALL_BUT_TRAP & !(1u64 << (signal - 1));
            ptrace::set_signal_mask(tid, mask).map_err(|error| RemoteError::Ptrace {
                tid,
                operation: "opening a signal",
                error,
            })?;
            let own = self.call(libc::SYS_getpid, &[])?;
            self.start_call(libc::SYS_kill, &[own, signal as u64])?;
        } else {
            self.start_call(libc::SYS_exit_group, &[libc::WEXITSTATUS(status) as u64])?;
        }
        let mut deliver = 0;
        loop {
            match ptrace::resume(tid, deliver) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
                Err(error) => return Err(RemoteError::Ptrace { tid, operation: "ending", error }),
            }
            match self.waiter.wait(tid, CALL_TIMEOUT)? {
                Stop::Ended(_) => return Ok(()),
                Stop::Signal(signal) => deliver = signal,
                _ => deliver = 0,
            }
        }
    }

    /// Turns it into a placeholder for a parent: it reaps its children, writes the wait status of the child with inside number
    /// `child` to its descriptor `status_fd` (four bytes, little-endian), and ends when it has no child left. Takes effect
    /// when it is let go.
    pub fn become_parent(&mut self, child: i32, status_fd: i32) -> Result<(), RemoteError> {
        let rip = self.stub.0 + StubEntry::Parent.offset();
        let (rbx, rbp, r12) = (self.data.start().0, child as u64, status_fd as u64);
        self.set_registers(UserRegisters { rip, rbx, rbp, r12, orig_rax: u64::MAX, ..self.base })
    }

    /// Turns it into a placeholder that sleeps until it is killed. Takes effect when it is let go.
    pub fn become_sleeper(&mut self) -> Result<(), RemoteError> {
        let rip = self.stub.0 + StubEntry::Pause.offset();
        self.set_registers(UserRegisters { rip, orig_rax: u64::MAX, ..self.base })
    }

    /// Performs one system call at a `syscall` instruction of its own program, with two stops and no trap: for what
    /// the stub cannot do, such as unmapping itself. All signals are blocked from here on.
    pub fn call_at(&mut self, instruction: Addr, number: i64, arguments: &[u64]) -> Result<u64, RemoteError> {
        let Call { arguments: [rdi, rsi, rdx, r10, r8, r9], .. } = Call::new(number, arguments);
        let (rip, rax) = (instruction.0, number as u64);
        let registers = UserRegisters { rip, rax, rdi, rsi, rdx, r10, r8, r9, ..self.base };
        self.set_registers(UserRegisters { orig_rax: u64::MAX, ..registers })?;
        self.set_mask(u64::MAX)?;
        self.run_to_syscall_stop()?;
        self.run_to_syscall_stop()?;
        let after = ptrace::registers(self.tid).map_err(self.failed("reading registers"))?;
        call_result(self.tid, number, after.rax)
    }

    pub(super) fn run_to_syscall_stop(&mut self) -> Result<(), RemoteError> {
        let tid = self.tid;
        loop {
            ptrace::resume_to_syscall(tid, 0).map_err(self.failed("resuming"))?;
            match self.waiter.wait(tid, CALL_TIMEOUT)? {
                Stop::Syscall => return Ok(()),
                Stop::Ended(status) => return Err(RemoteError::Ended { tid, status }),
                Stop::Interrupt | Stop::Group(_) => {}
                stop => return Err(RemoteError::Unexpected { tid, stop }),
            }
        }
    }

    pub(super) fn failed(
        &self,
        operation: &'static str,
    ) -> impl FnOnce(std::io::Error) -> RemoteError + use<> {
        let tid = self.tid;
        move |error| RemoteError::Ptrace { tid, operation, error }
    }

    /// Sets the signals that it runs on with blocked.
    pub fn set_mask(&self, mask: u64) -> Result<(), RemoteError> {
        ptrace::set_signal_mask(self.tid, mask).map_err(self.failed("setting its signal mask"))
    }

    /// Its extended state.
    pub fn xstate(&self) -> Result<Vec<u8>, RemoteError> {
        ptrace::xstate(self.tid).map_err(self.failed("reading its extended state"))
    }

    /// Replaces its extended state.
    pub fn set_xstate(&self, bytes: &[u8]) -> Result<(), RemoteError> {
        ptrace::set_xstate(self.tid, bytes).map_err(self.failed("setting its extended state"))
    }

    /// Loads flags that ptrace does not set but keeps (ID).
    pub fn load_flags(&mut self, flags: u64) -> Result<(), RemoteError> {
        let room = self.arguments().start();
        self.write_memory(room, &flags.to_le_bytes())?;
        let rip = self.stub.0 + StubEntry::Flags.offset();
        self.set_registers(UserRegisters { rip, rsp: room.0, orig_rax: u64::MAX, ..self.base })?;
        self.run_to_trap().map(drop)
    }

    /// Puts its process into a job-control stop by `signal`, or by SIGSTOP where the kernel ignores that one (in an
    /// orphaned process group). The stop holds on when it is let go; calls can still be made.
    pub fn stop_process(&mut self, signal: i32) -> Result<(), RemoteError> {
        for signal in [signal, libc::SIGSTOP] {
            if self.try_stop(signal)? {
                return Ok(());
            }
        }
        Err(RemoteError::Unexpected { tid: self.tid, stop: Stop::Unknown(0) })
    }

    /// Lets the task send itself a signal that stops it; tells whether it stopped before the call came back.
    fn try_stop(&mut self, signal: i32) -> Result<bool, RemoteError> {
        let tid = self.tid;
        let own = self.call(libc::SYS_getpid, &[])?;
        self.set_mask(MASK_ALL_BUT_TRAP & !(1 << (signal - 1)))?;
        self.start_call(libc::SYS_kill, &[own, signal as u64])?;
        let mut deliver = 0;
        let stopped = loop {
            ptrace::resume(tid, deliver).map_err(self.failed("stopping it"))?;
            match self.waiter.wait(tid, CALL_TIMEOUT)? {
                Stop::Signal(libc::SIGTRAP) => break false,
                Stop::Signal(signal) => deliver = signal,
                Stop::Group(_) => break true,
                Stop::Ended(status) => return Err(RemoteError::Ended { tid, status }),
                Stop::Interrupt => deliver = 0,
                stop => return Err(RemoteError::Unexpected { tid, stop }),
            }
        };
        self.set_mask(MASK_ALL_BUT_TRAP)?;
        Ok(stopped)
    }

    /// Ends this thread alone. A main thread stays as a zombie until its process ends, and nothing reports its end.
    pub fn end_thread(mut self) -> Result<(), RemoteError> {
        const TIMEOUT: Duration = Duration::from_secs(10);
        let mut patience = Patience::new(TIMEOUT);
        let tid = self.tid;
        self.start_call(libc::SYS_exit, &[0])?;
        ptrace::resume(tid, 0).map_err(self.failed("ending it"))?;
        loop {
            let stat = proc::stat((Pid(tid.0), tid))
                .map_err(|error| self.failed("looking whether it has ended")(std::io::Error::other(error)))?;
            if matches!(stat.state, b'Z' | b'X') {
                return Ok(());
            }
            if patience.is_over() {
                return Err(RemoteError::Unexpected { tid, stop: Stop::Unknown(0) });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Its registers as calls start from them: segments and bases of a fresh task.
    pub fn base_registers(&self) -> UserRegisters {
        self.base
    }

    /// Sets the registers that it runs on with when it is let go.
    pub fn set_final_registers(&mut self, registers: &UserRegisters) -> Result<(), RemoteError> {
        self.set_registers(*registers)
    }

    /// From here on it survives our end.
    pub fn survive(&self) -> Result<(), RemoteError> {
        let tid = self.tid;
        ptrace::set_options(tid, Options::default()).map_err(|error| RemoteError::Ptrace {
            tid,
            operation: "changing options",
            error,
        })
    }

    /// Lets go of it: it runs with the registers that were set last.
    pub fn release(self) -> Result<(), RemoteError> {
        let tid = self.tid;
        ptrace::detach(tid, 0).map_err(|error| RemoteError::Ptrace { tid, operation: "letting go", error })
    }
}

const THREAD_FLAGS: i32 = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM;

fn wait_for_first_stop(waiter: &Waiter, tid: Tid) -> Result<(), RemoteError> {
    match waiter.wait(tid, CALL_TIMEOUT)? {
        Stop::Interrupt | Stop::Group(_) => Ok(()),
        Stop::Ended(status) => Err(RemoteError::Ended { tid, status }),
        stop => Err(RemoteError::Unexpected { tid, stop }),
    }
}
