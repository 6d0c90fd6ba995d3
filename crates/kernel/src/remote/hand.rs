//! Remote calls in a program that must survive us.
//!
//! State of the target: between [`Hand::open`] and [`Hand::finish`] threads that made calls have foreign
//! registers and all signals blocked, with their true state in a return thunk that follows every foreign
//! instruction. Finished: every thread has its true registers and mask, the scratch region is unmapped. Killed
//! at any instant: each thread runs through its thunk into its true state; a scratch region of a few pages may
//! stay mapped, which nothing refers to.

use std::hash::{BuildHasher, RandomState};

use brant_base::{Addr, PAGE_SIZE, PageRange, Pid, Tid, fault};

use super::thunk::{THUNK_BYTES, thunk};
use super::{CALL_TIMEOUT, Memory, RemoteError, call_result};
use crate::ptrace::{self, Stop, UserRegisters, Waiter};

/// A stopped thread's true state.
#[derive(Debug, Clone, Copy)]
pub struct HandThread {
    pub tid: Tid,
    pub registers: UserRegisters,
    pub mask: u64,
}

pub(super) struct Slot {
    pub(super) thread: HandThread,
    /// Where its thunk stands; the first one's is the bootstrap slot.
    thunk: Addr,
    foreign: bool,
    /// Stop signals that came while it was foreign, sent again at the end.
    stopped_by: Vec<i32>,
}

/// The remote hand in one process, all of whose threads are stopped by us.
pub struct Hand<'w> {
    pub(super) waiter: &'w Waiter,
    pid: Pid,
    pub(super) memory: Memory,
    pub(super) slots: Vec<Slot>,
    /// What the bootstrap slot's bytes were.
    pub(super) bootstrap_room: Addr,
    data: Option<PageRange>,
    code: Option<PageRange>,
    /// The code of a copy.
    pub(super) copy_code: Option<PageRange>,
}

/// Marks a bootstrap slot that a killed brant left behind.
const MARK: [u8; 16] = *b"brant thunk here";
/// Room for one thunk and the mark, in bytes, at the end of an executable mapping.
pub(super) const ROOM_BYTES: usize = THUNK_BYTES + MARK.len();
/// Bytes of the data area that remote calls may point into.
const DATA_BYTES: u64 = 4 * PAGE_SIZE;
const NR_MMAP: i64 = libc::SYS_mmap;
const ALL_SIGNALS: u64 = u64::MAX;

impl<'w> Hand<'w> {
    /// Takes hold of process `pid` whose stopped `threads` are all of it, and maps the scratch region.
    /// `executable` are its executable private mappings, the vdso first; the zero tail of one carries the
    /// first thunk. The first thread must be alive and stopped.
    pub fn open(
        waiter: &'w Waiter,
        pid: Pid,
        threads: &[HandThread],
        executable: &[PageRange],
    ) -> Result<Hand<'w>, RemoteError> {
        let first = threads[0].tid;
        // By a living thread: a main thread that has ended has no memory any more.
        let memory =
            Memory::open(Pid(first.0)).map_err(|error| ptrace_error(first, "opening its memory", error))?;
        let room = find_room(&memory, executable).ok_or(RemoteError::NoRoom { tid: first })?;
        let room_end = Addr(room.0 + ROOM_BYTES as u64);
        for thread in threads {
            if (room..room_end).contains(&Addr(thread.registers.rip)) {
                return Err(RemoteError::InThunk { tid: thread.tid });
            }
        }
        let slots = threads
            .iter()
            .map(|thread| Slot { thread: *thread, thunk: room, foreign: false, stopped_by: Vec::new() })
            .collect();
        let mut hand = Hand {
            waiter,
            pid,
            memory,
            slots,
            bootstrap_room: room,
            data: None,
            code: None,
            copy_code: None,
        };
        hand.map_scratch()?;
        Ok(hand)
    }

    /// What is mapped into a process of so many threads while a hand is open.
    pub fn room_bytes(threads: usize) -> u64 {
        DATA_BYTES + (threads.saturating_sub(1) * THUNK_BYTES).next_multiple_of(PAGE_SIZE as usize) as u64
    }

    /// Maps what the hand needs in the target: a page of data, and code with a room for each thread's thunk. The
    /// first room is marked before, so that what is left of it can be told after a kill.
    fn map_scratch(&mut self) -> Result<(), RemoteError> {
        let tid = self.slots[0].thread.tid;
        let mark = Addr(self.bootstrap_room.0 + THUNK_BYTES as u64);
        self.memory
            .write_by_force(mark, &MARK)
            .map_err(|error| ptrace_error(tid, "marking the bootstrap slot", error))?;
        fault::reach("hand.room-marked");
        let data = self.map_pages(DATA_BYTES, libc::PROT_READ | libc::PROT_WRITE)?;
        self.data = Some(data);
        if self.slots.len() > 1 {
            let bytes = Hand::room_bytes(self.slots.len()) - DATA_BYTES;
            let code = self.map_pages(bytes, libc::PROT_READ | libc::PROT_EXEC)?;
            self.code = Some(code);
            for (index, slot) in self.slots.iter_mut().enumerate().skip(1) {
                slot.thunk = Addr(code.start().0 + ((index - 1) * THUNK_BYTES) as u64);
            }
        }
        Ok(())
    }

    /// Maps new memory of zeros by the first thread, [`apart`].
    pub fn map_pages(&mut self, bytes: u64, protection: i32) -> Result<PageRange, RemoteError> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let at = self.call(0, NR_MMAP, [apart(), bytes, protection as u64, flags as u64, u64::MAX, 0])?;
        Ok(PageRange::new(at, at + bytes).expect("mmap returns whole pages"))
    }

    /// The process's memory.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// An area in the target that remote calls may read and write: 16 KiB, mapped readable and writable.
    pub fn data(&self) -> PageRange {
        self.data.expect("mapped by open")
    }

    /// The mappings that are ours, which no image must hold.
    pub fn scratch(&self) -> impl Iterator<Item = PageRange> {
        self.data.into_iter().chain(self.code)
    }

    /// Makes thread number `index` perform system call `number`. The call must not sleep, must not end the
    /// thread, and must leave nothing changed that the program could notice.
    pub fn call(&mut self, index: usize, number: i64, arguments: [u64; 6]) -> Result<u64, RemoteError> {
        self.enter(index)?;
        fault::reach("hand.thunk-written");
        let Slot { thread: HandThread { tid, registers, .. }, thunk, .. } = self.slots[index];
        let [rdi, rsi, rdx, r10, r8, r9] = arguments;
        let foreign = UserRegisters {
            rip: thunk.0,
            rax: number as u64,
            orig_rax: u64::MAX,
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            r9,
            ..registers
        };
        ptrace::set_registers(tid, &foreign).map_err(|e| ptrace_error(tid, "setting registers", e))?;
        fault::reach("hand.registers-set");
        if !self.slots[index].foreign {
            self.slots[index].foreign = true;
            ptrace::set_signal_mask(tid, ALL_SIGNALS)
                .map_err(|e| ptrace_error(tid, "blocking signals", e))?;
            fault::reach("hand.signals-blocked");
        }
        self.run_to_syscall_stop(index)?;
        fault::reach("hand.in-call");
        self.run_to_syscall_stop(index)?;
        fault::reach("hand.after-call");
        let after = ptrace::registers(tid).map_err(|e| ptrace_error(tid, "reading registers", e))?;
        call_result(tid, number, after.rax)
    }

    /// Writes the thread's thunk before its first foreign instruction.
    fn enter(&mut self, index: usize) -> Result<(), RemoteError> {
        let slot = &self.slots[index];
        if slot.foreign {
            return Ok(());
        }
        let code = thunk(&slot.thread.registers, slot.thread.mask);
        self.memory
            .write_by_force(slot.thunk, &code)
            .map_err(|error| ptrace_error(slot.thread.tid, "writing its return thunk", error))
    }

    pub(super) fn run_to_syscall_stop(&mut self, index: usize) -> Result<(), RemoteError> {
        match self.run_to_stop(index)? {
            Stop::Syscall => Ok(()),
            stop => Err(RemoteError::Unexpected { tid: self.slots[index].thread.tid, stop }),
        }
    }

    /// Runs to the next system call's entry or exit, or to what else a thread stops for.
    pub(super) fn run_to_stop(&mut self, index: usize) -> Result<Stop, RemoteError> {
        let tid = self.slots[index].thread.tid;
        loop {
            ptrace::resume_to_syscall(tid, 0).map_err(|e| ptrace_error(tid, "running a call", e))?;
            match self.waiter.wait(tid, CALL_TIMEOUT)? {
                Stop::Ended(status) => return Err(RemoteError::Ended { tid, status }),
                Stop::Signal(signal) => self.slots[index].stopped_by.push(signal),
                Stop::Group(_) | Stop::Interrupt => {}
                stop => return Ok(stop),
            }
        }
    }

    /// Puts one thread's true state back. The kernel honours restart codes only from an event stop, so the
    /// thread is interrupted again first, before it executes anything.
    fn leave(&mut self, index: usize) -> Result<(), RemoteError> {
        if !self.slots[index].foreign {
            return Ok(());
        }
        fault::reach("hand.before-leaving");
        let HandThread { tid, registers, mask } = self.slots[index].thread;
        ptrace::interrupt(tid).map_err(|e| ptrace_error(tid, "interrupting", e))?;
        loop {
            ptrace::resume(tid, 0).map_err(|e| ptrace_error(tid, "resuming", e))?;
            match self.waiter.wait(tid, CALL_TIMEOUT)? {
                Stop::Interrupt | Stop::Group(_) => break,
                Stop::Ended(status) => return Err(RemoteError::Ended { tid, status }),
                Stop::Signal(signal) => self.slots[index].stopped_by.push(signal),
                stop => return Err(RemoteError::Unexpected { tid, stop }),
            }
        }
        ptrace::set_signal_mask(tid, mask).map_err(|e| ptrace_error(tid, "setting its signal mask", e))?;
        fault::reach("hand.mask-back");
        ptrace::set_registers(tid, &registers).map_err(|e| ptrace_error(tid, "setting registers", e))?;
        fault::reach("hand.registers-back");
        self.slots[index].foreign = false;
        for signal in std::mem::take(&mut self.slots[index].stopped_by) {
            // SAFETY: a plain system call with numbers; nothing is dereferenced.
            unsafe { libc::syscall(libc::SYS_tgkill, self.pid.0, tid.0, signal) };
        }
        Ok(())
    }

    /// Unmaps the scratch region and puts every thread's true state back.
    pub fn finish(mut self) -> Result<(), RemoteError> {
        self.release()
    }

    /// Takes the scratch region away again; the first thread comes last, since its calls do it.
    fn release(&mut self) -> Result<(), RemoteError> {
        let mut outcome = Ok(());
        for index in 1..self.slots.len() {
            outcome = outcome.and(self.leave(index));
        }
        for range in [self.copy_code.take(), self.code.take(), self.data.take()].into_iter().flatten() {
            let unmapped =
                self.call(0, libc::SYS_munmap, [range.start().0, range.bytes(), 0, 0, 0, 0]).map(drop);
            outcome = outcome.and(unmapped);
        }
        outcome = outcome.and(self.leave(0));
        if outcome.is_ok() {
            let tid = self.slots[0].thread.tid;
            outcome = self
                .memory
                .write_by_force(self.bootstrap_room, &[0; ROOM_BYTES])
                .map_err(|error| ptrace_error(tid, "clearing the bootstrap slot", error));
        }
        self.slots.iter_mut().for_each(|slot| slot.foreign = false);
        outcome
    }
}

impl Drop for Hand<'_> {
    fn drop(&mut self) {
        if self.slots.iter().any(|slot| slot.foreign) {
            // Where this fails the threads still have their thunks.
            let _ = self.release();
        }
    }
}

/// An address, by chance, that is apart from what a program maps, some of whose threads may run: one that unmaps a part of a range, and
/// the whole of it later, would take pages with it that had come to lie in the hole meanwhile. The kernel takes it for a
/// wish: what is there already stays.
pub fn apart() -> u64 {
    const APART: u64 = 0x2000_0000_0000;
    const CHANCE: u64 = 0x0fff_ffff_f000;
    APART + (RandomState::new().hash_one(()) & CHANCE)
}

/// The last bytes of an executable mapping, where they are unused.
fn find_room(memory: &Memory, executable: &[PageRange]) -> Option<Addr> {
    executable.iter().find_map(|range| {
        let room = Addr(range.end().0 - ROOM_BYTES as u64);
        // Some space before it must be unused as well, so that it is no trailing constant of zeros.
        let mut bytes = [0u8; 2 * ROOM_BYTES];
        memory.read(Addr(room.0 - ROOM_BYTES as u64), &mut bytes).ok()?;
        let (before, at) = bytes.split_at(ROOM_BYTES);
        let unused = at.iter().all(|byte| *byte == 0) && before.iter().all(|byte| *byte == 0);
        (unused || at[THUNK_BYTES..] == MARK).then_some(room)
    })
}

pub(super) fn ptrace_error(tid: Tid, operation: &'static str, error: std::io::Error) -> RemoteError {
    RemoteError::Ptrace { tid, operation, error }
}
