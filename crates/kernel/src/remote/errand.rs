//! A thread of a program that must survive us calls functions of that program, on a stack of its own, and comes back by
//! itself.
//!
//! Unlike a system call by the [`Hand`], a function changes everything: all registers, the extended state, the stack. So the
//! thread runs a stub that saves the extended state, blocks all signals, calls, and then puts back the extended state, the
//! mask, the flags and every register from constants that were written before its first instruction. Nothing of that needs
//! us: if brant is killed at any instant, the call runs to its end and the thread goes on where it was.
//!
//! State of the target: until [`Errand::call`] as [`Hand`] leaves it; during a call the other threads run; after
//! [`Errand::close`] the thread is stopped with its true state and the stub's memory is unmapped. Killed: that memory stays
//! mapped, which nothing refers to once the thread is back.

use std::io;
use std::time::Duration;

use brant_base::{Addr, PAGE_SIZE, PageRange, Pid};

use super::hand::ptrace_error;
use super::thunk::go_on;
use super::{Hand, HandThread, Memory, RemoteError};
use crate::ptrace::{self, Stop, Waiter};

/// A call's parameters begin the data: the function, six arguments, the result, the mask of all signals.
const RESULT_AT: u64 = 56;
const ALL_SIGNALS_AT: u64 = 64;
const XSTATE_AT: u64 = PAGE_SIZE;
const XSTATE_BYTES: u64 = 64 << 10;
const ROOM_AT: u64 = XSTATE_AT + XSTATE_BYTES;
const STACK_BYTES: u64 = 1 << 20;
/// rt_sigprocmask, and getppid, which changes nothing.
const NR_MASK: u32 = 14;
const NR_REPORT: u32 = 110;

/// One stopped thread that calls functions.
pub struct Errand<'w> {
    waiter: &'w Waiter,
    pid: Pid,
    thread: HandThread,
    xstate: Vec<u8>,
    memory: Memory,
    executable: Vec<PageRange>,
    code: PageRange,
    data: PageRange,
    room_bytes: u64,
    /// Offset of the code that calls, and of the instruction behind the report.
    call_at: u64,
    reported_at: u64,
    /// The thread has foreign registers.
    is_out: bool,
    /// It stands at the entry of a report.
    is_reported: bool,
    /// A call did not return in time: the thread is in the middle of it, and must come back by itself.
    is_lost: bool,
}

impl<'w> Errand<'w> {
    /// Takes hold of one stopped thread, `prepare`s by system calls, and maps the stub, a stack, and `room_bytes` for
    /// arguments. The other threads of the process may run.
    pub fn open<T>(
        waiter: &'w Waiter,
        pid: Pid,
        thread: HandThread,
        executable: &[PageRange],
        room_bytes: u64,
        prepare: impl FnOnce(&mut Hand<'w>) -> Result<T, RemoteError>,
    ) -> Result<(Errand<'w>, T), RemoteError> {
        let tid = thread.tid;
        let xstate = ptrace::xstate(tid).map_err(|e| ptrace_error(tid, "reading the extended state", e))?;
        if xstate.len() as u64 > XSTATE_BYTES {
            return Err(ptrace_error(
                tid,
                "saving an extended state of this size",
                io::ErrorKind::Unsupported.into(),
            ));
        }
        let memory = Memory::open(Pid(tid.0)).map_err(|e| ptrace_error(tid, "opening its memory", e))?;
        let room_bytes = room_bytes.next_multiple_of(PAGE_SIZE);
        let mut hand = Hand::open(waiter, pid, &[thread], executable)?;
        let code = hand.map_pages(PAGE_SIZE, libc::PROT_READ | libc::PROT_EXEC)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let data = hand.map_pages(ROOM_AT + room_bytes + STACK_BYTES, protection)?;
        let prepared = prepare(&mut hand);
        if prepared.is_err() {
            for range in [code, data] {
                let _ = hand.call(0, libc::SYS_munmap, [range.start().0, range.bytes(), 0, 0, 0, 0]);
            }
        }
        hand.finish()?;
        let prepared = prepared?;
        let stub = stub(&thread, data.start().0);
        let errand = Errand {
            waiter,
            pid,
            thread,
            xstate,
            memory,
            executable: executable.to_vec(),
            code,
            data,
            room_bytes,
            call_at: stub.call_at,
            reported_at: stub.reported_at,
            is_out: false,
            is_reported: false,
            is_lost: false,
        };
        errand.write_by_force(code.start(), &stub.code)?;
        errand.write(Addr(data.start().0 + ALL_SIGNALS_AT), &u64::MAX.to_le_bytes())?;
        Ok((errand, prepared))
    }

    /// Memory in the target that arguments may point to.
    pub fn room(&self) -> Addr {
        Addr(self.data.start().0 + ROOM_AT)
    }

    /// Bytes of [`Errand::room`].
    pub fn room_bytes(&self) -> u64 {
        self.room_bytes
    }

    /// The process's memory.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Calls the function at `function`. Where it does not return in time, it is left to itself: the thread goes on with
    /// its own work after it, as soon as whoever holds it lets it go. Until then nothing else can be done with it.
    pub fn call(
        &mut self,
        function: Addr,
        arguments: [u64; 6],
        timeout: Duration,
    ) -> Result<u64, RemoteError> {
        let tid = self.thread.tid;
        self.check_is_here()?;
        let mut parameters = Vec::with_capacity(56);
        parameters.extend(function.0.to_le_bytes());
        arguments.iter().for_each(|argument| parameters.extend(argument.to_le_bytes()));
        self.write(self.data.start(), &parameters)?;
        let (at, base) = match self.is_out {
            false => (self.code.start().0, self.thread.registers),
            true => {
                let now = ptrace::registers(tid).map_err(|e| ptrace_error(tid, "reading registers", e))?;
                (self.code.start().0 + self.call_at, now)
            }
        };
        let mut foreign = base;
        foreign.rip = at;
        foreign.rsp = self.data.end().0 - 64;
        foreign.rbx = self.data.start().0;
        foreign.eflags &= !0x400;
        if !self.is_out {
            foreign.orig_rax = u64::MAX;
        }
        ptrace::set_registers(tid, &foreign).map_err(|e| ptrace_error(tid, "setting registers", e))?;
        self.is_out = true;
        // Whatever is met but the report: the function's frames are on the stack, and it may hold locks.
        self.is_lost = true;
        self.run_to_report(timeout)?;
        self.is_lost = false;
        self.memory
            .read_value::<u64>(Addr(self.data.start().0 + RESULT_AT))
            .map_err(|e| ptrace_error(tid, "reading a result", e))
    }

    /// Whether the thread is in the middle of a call that did not return in time.
    pub fn is_lost(&self) -> bool {
        self.is_lost
    }

    fn check_is_here(&self) -> Result<(), RemoteError> {
        match self.is_lost {
            true => Err(ptrace_error(self.thread.tid, "bringing it back", io::ErrorKind::TimedOut.into())),
            false => Ok(()),
        }
    }

    /// Runs to the entry of the system call that reports the function's return.
    fn run_to_report(&mut self, timeout: Duration) -> Result<(), RemoteError> {
        let tid = self.thread.tid;
        let reported = self.code.start().0 + self.reported_at;
        let mut signal = 0;
        // A second call begins at the entry of the report of the first.
        let mut is_entry = self.is_reported;
        loop {
            ptrace::resume_to_syscall(tid, signal).map_err(|e| ptrace_error(tid, "running a call", e))?;
            signal = 0;
            match self.waiter.wait(tid, timeout)? {
                Stop::Syscall => {
                    let registers =
                        ptrace::registers(tid).map_err(|e| ptrace_error(tid, "reading registers", e))?;
                    // At an entry the kernel has set rax to -ENOSYS.
                    is_entry = !is_entry && registers.rax as i64 == -i64::from(libc::ENOSYS);
                    if is_entry && registers.rip == reported {
                        self.is_reported = true;
                        return Ok(());
                    }
                }
                Stop::Ended(status) => return Err(RemoteError::Ended { tid, status }),
                Stop::Signal(number) => signal = number,
                Stop::Group(_) | Stop::Interrupt | Stop::Event(_) => {}
                stop => return Err(RemoteError::Unexpected { tid, stop }),
            }
        }
    }

    /// Changes where the thread goes on when it comes back: there it must find what it would have found where it was.
    pub fn move_to(&mut self, rip: u64) -> Result<(), RemoteError> {
        self.check_is_here()?;
        let tid = self.thread.tid;
        self.thread.registers.rip = rip;
        // The thread is stopped before the part that is other now, and a write within one page is done as a whole.
        self.write_by_force(self.code.start(), &stub(&self.thread, self.data.start().0).code)?;
        if !self.is_out {
            ptrace::set_registers(tid, &self.thread.registers)
                .map_err(|e| ptrace_error(tid, "setting registers", e))?;
        }
        Ok(())
    }

    /// Puts the thread's true state back and unmaps what was mapped; `last` makes further system calls before that. The
    /// thread stays stopped. One that is lost stays where it is.
    pub fn close<T>(
        mut self,
        last: impl FnOnce(&mut Hand<'w>) -> Result<T, RemoteError>,
    ) -> Result<T, RemoteError> {
        self.check_is_here()?;
        self.come_back()?;
        let mut hand = Hand::open(self.waiter, self.pid, &[self.thread], &self.executable)?;
        let done = last(&mut hand);
        for range in [self.code, self.data] {
            hand.call(0, libc::SYS_munmap, [range.start().0, range.bytes(), 0, 0, 0, 0])?;
        }
        hand.finish()?;
        done
    }

    /// The kernel honours restart codes only from an event stop, so the thread is interrupted first.
    fn come_back(&mut self) -> Result<(), RemoteError> {
        if !self.is_out {
            return Ok(());
        }
        let HandThread { tid, registers, mask } = self.thread;
        ptrace::interrupt(tid).map_err(|e| ptrace_error(tid, "interrupting", e))?;
        let mut signal = 0;
        loop {
            // Not to the call's exit: any other stop takes the interrupt back.
            ptrace::resume(tid, signal).map_err(|e| ptrace_error(tid, "resuming", e))?;
            match self.waiter.wait(tid, super::CALL_TIMEOUT)? {
                Stop::Interrupt | Stop::Group(_) => break,
                // One that cannot be blocked; the interrupt is asked for anew.
                Stop::Signal(number) => signal = number,
                Stop::Ended(status) => return Err(RemoteError::Ended { tid, status }),
                stop => return Err(RemoteError::Unexpected { tid, stop }),
            }
            ptrace::interrupt(tid).map_err(|e| ptrace_error(tid, "interrupting", e))?;
        }
        // In this order: until the last step the thread would do the same by itself.
        ptrace::set_xstate(tid, &self.xstate)
            .map_err(|e| ptrace_error(tid, "setting the extended state", e))?;
        ptrace::set_signal_mask(tid, mask).map_err(|e| ptrace_error(tid, "setting its signal mask", e))?;
        ptrace::set_registers(tid, &registers).map_err(|e| ptrace_error(tid, "setting registers", e))?;
        (self.is_out, self.is_reported) = (false, false);
        Ok(())
    }

    fn write(&self, at: Addr, bytes: &[u8]) -> Result<(), RemoteError> {
        self.memory.write(at, bytes).map_err(|e| ptrace_error(self.thread.tid, "writing arguments", e))
    }

    fn write_by_force(&self, at: Addr, bytes: &[u8]) -> Result<(), RemoteError> {
        self.memory
            .write_by_force(at, bytes)
            .map_err(|e| ptrace_error(self.thread.tid, "writing its stub", e))
    }
}

struct Stub {
    code: Vec<u8>,
    call_at: u64,
    reported_at: u64,
}

/// The stub for a thread whose true state is `thread`; its parameters are at `data`, which rbx holds.
fn stub(thread: &HandThread, data: u64) -> Stub {
    let resumed = thread.registers.as_resumed_by_kernel();
    let mut code = Vec::with_capacity(512);
    let mask_call = |code: &mut Vec<u8>| {
        code.extend([0xbf, 2, 0, 0, 0]); // mov edi, SIG_SETMASK
        code.extend([0x31, 0xd2]); // xor edx, edx
        code.extend([0x41, 0xba, 8, 0, 0, 0]); // mov r10d, 8
        code.push(0xb8); // mov eax, rt_sigprocmask
        code.extend(NR_MASK.to_le_bytes());
        code.extend([0x0f, 0x05]); // syscall
    };
    code.extend([0x48, 0x8d, 0xb3]); // lea rsi, [rbx + the mask of all signals]
    code.extend((ALL_SIGNALS_AT as u32).to_le_bytes());
    mask_call(&mut code);
    let whole_xstate = [0x83, 0xc8, 0xff, 0x83, 0xca, 0xff]; // or eax, -1; or edx, -1
    code.extend(whole_xstate);
    code.extend([0x48, 0x0f, 0xae, 0xa3]); // xsave64 [rbx + ...]
    code.extend((XSTATE_AT as u32).to_le_bytes());
    let call_at = code.len() as u64;
    code.extend([0x48, 0x8b, 0x7b, 8]); // mov rdi, [rbx + 8]
    code.extend([0x48, 0x8b, 0x73, 16]); // mov rsi, [rbx + 16]
    code.extend([0x48, 0x8b, 0x53, 24]); // mov rdx, [rbx + 24]
    code.extend([0x48, 0x8b, 0x4b, 32]); // mov rcx, [rbx + 32]
    code.extend([0x4c, 0x8b, 0x43, 40]); // mov r8, [rbx + 40]
    code.extend([0x4c, 0x8b, 0x4b, 48]); // mov r9, [rbx + 48]
    code.extend([0x31, 0xc0]); // xor eax, eax
    code.extend([0xff, 0x13]); // call [rbx]
    code.extend([0x48, 0x89, 0x43, RESULT_AT as u8]); // mov [rbx + the result], rax
    code.push(0xb8); // mov eax, getppid
    code.extend(NR_REPORT.to_le_bytes());
    code.extend([0x0f, 0x05]); // syscall: the report
    let reported_at = code.len() as u64;
    code.extend(whole_xstate);
    code.extend([0x48, 0x0f, 0xae, 0xab]); // xrstor64 [rbx + ...]
    code.extend((XSTATE_AT as u32).to_le_bytes());
    code.extend([0x48, 0x8d, 0x35]); // lea rsi, [rip + to the mask]
    let mask_reference = code.len();
    code.extend([0; 4]);
    mask_call(&mut code);
    code.extend([0x48, 0x8d, 0xa3]); // lea rsp, [rbx + room for the flags]
    code.extend((ALL_SIGNALS_AT as u32 + 16).to_le_bytes());
    code.push(0x68); // push the flags; the system's own bits of them are never set here
    code.extend((resumed.eflags as u32 & 0x7fff_ffff).to_le_bytes());
    code.push(0x9d); // popfq
    let values: [([u8; 2], u64); 16] = [
        ([0x48, 0xb8], resumed.rax),
        ([0x48, 0xb9], resumed.rcx),
        ([0x48, 0xba], resumed.rdx),
        ([0x48, 0xbb], resumed.rbx),
        ([0x48, 0xbd], resumed.rbp),
        ([0x48, 0xbe], resumed.rsi),
        ([0x48, 0xbf], resumed.rdi),
        ([0x49, 0xb8], resumed.r8),
        ([0x49, 0xb9], resumed.r9),
        ([0x49, 0xba], resumed.r10),
        ([0x49, 0xbb], resumed.r11),
        ([0x49, 0xbc], resumed.r12),
        ([0x49, 0xbd], resumed.r13),
        ([0x49, 0xbe], resumed.r14),
        ([0x49, 0xbf], resumed.r15),
        ([0x48, 0xbc], resumed.rsp),
    ];
    go_on(&mut code, &values, resumed.rip, (mask_reference, thread.mask));
    debug_assert!(code.len() as u64 <= PAGE_SIZE && data.is_multiple_of(PAGE_SIZE));
    Stub { code, call_at, reported_at }
}
