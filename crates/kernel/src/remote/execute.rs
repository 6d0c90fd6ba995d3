//! A task that is being built takes another program as its own: for a plain user the only way to a right /proc/PID/exe.
//!
//! The task executes the program, is stopped before its first instruction, and everything that the kernel has mapped but the
//! vdso is unmapped again. Facts relied upon (execve(2), ptrace(2)): the event stop lies within the call, so the call's exit
//! is reported after it, with its own result in rax; descriptors that close on exec are closed, signal actions are
//! the default ones, the signal mask stays.

use std::rc::Rc;

use brant_base::{Addr, PAGE_SIZE, PageRange, Pid};

use super::puppet::{MASK_ALL_BUT_TRAP, Puppet, StubPlace, USER_END};
use super::stub::stub_code;
use super::{Memory, RemoteError, call_result};
use crate::proc::{self, MapEntry, MapKind};
use crate::ptrace::{self, Options, Stop};

const EXEC_EVENT: i32 = libc::PTRACE_EVENT_EXEC;
const SYSCALL: [u8; 2] = [0x0f, 0x05];

impl Puppet {
    /// Executes the program behind `descriptor` and comes to stand in a stub at `place` again, in an address space in which
    /// there is nothing else but the vdso, whose parts are given back. The task has one thread. After an error it is of no
    /// use any more.
    pub fn execute(&mut self, descriptor: i32, place: StubPlace) -> Result<Vec<MapEntry>, RemoteError> {
        self.start_program(descriptor)?;
        self.memory = Rc::new(self.open_memory().map_err(self.failed("opening its memory"))?);
        self.base = ptrace::registers(self.tid).map_err(self.failed("reading registers"))?;
        let maps = proc::maps(Pid(self.tid.0)).map_err(|error| self.unreadable(error))?;
        let is_kernels = |entry: &MapEntry| matches!(entry.kind, MapKind::Vdso | MapKind::Vvar);
        let kernels: Vec<MapEntry> = maps.into_iter().filter(is_kernels).collect();
        let at = find_call(&self.memory, &kernels).ok_or_else(|| {
            self.failed("looking for its vdso")(std::io::Error::from(std::io::ErrorKind::NotFound))
        })?;
        for hole in holes(&kernels) {
            self.call_at(at, libc::SYS_munmap, &[hole.start().0, hole.bytes()])?;
        }
        self.put_stub(at, place)?;
        self.set_mask(MASK_ALL_BUT_TRAP)?;
        Ok(kernels)
    }

    /// To the exit of the call that has executed the program.
    fn start_program(&mut self, descriptor: i32) -> Result<(), RemoteError> {
        let tid = self.tid;
        let keep = Options { exit_kill: true, follow_children: true, stop_at_exec: false };
        let options = |options| ptrace::set_options(tid, options);
        options(Options { stop_at_exec: true, ..keep }).map_err(self.failed("changing options"))?;
        // An empty path; behind it a list of that as the only argument, and of no environment.
        let room = self.arguments().start();
        let list = [0, room.0, 0];
        let bytes: Vec<u8> = list.iter().flat_map(|word: &u64| word.to_le_bytes()).collect();
        self.write_memory(room, &bytes)?;
        let arguments = [descriptor as u64, room.0, room.0 + 8, room.0 + 16, libc::AT_EMPTY_PATH as u64];
        self.start_call(libc::SYS_execveat, &arguments)?;
        match self.run_to_stop()? {
            Stop::Event(EXEC_EVENT) => {}
            Stop::Signal(libc::SIGTRAP) => {
                let after = ptrace::registers(tid).map_err(self.failed("reading registers"))?;
                call_result(tid, libc::SYS_execveat, after.rax)?;
                return Err(RemoteError::Unexpected { tid, stop: Stop::Signal(libc::SIGTRAP) });
            }
            stop => return Err(RemoteError::Unexpected { tid, stop }),
        }
        self.run_to_syscall_stop()?;
        options(keep).map_err(self.failed("changing options"))
    }

    fn put_stub(&mut self, at: Addr, place: StubPlace) -> Result<(), RemoteError> {
        let fixed = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let data = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let (start, bytes) = (place.range.start().0, place.range.bytes());
        self.call_at(at, libc::SYS_mmap, &[start, bytes, data, fixed as u64, u64::MAX, 0])?;
        self.write_memory(place.range.start(), &stub_code())?;
        let code = (libc::PROT_READ | libc::PROT_EXEC) as u64;
        self.call_at(at, libc::SYS_mprotect, &[start, PAGE_SIZE, code])?;
        self.stub = place.range.start();
        self.data = place.data();
        Ok(())
    }

    fn unreadable(&self, error: proc::ProcError) -> RemoteError {
        self.failed("reading its mappings")(std::io::Error::other(error))
    }
}

/// A `syscall` instruction in the vdso.
fn find_call(memory: &Memory, kernels: &[MapEntry]) -> Option<Addr> {
    let vdso = kernels.iter().find(|entry| entry.kind == MapKind::Vdso)?;
    let mut code = vec![0; vdso.range.bytes() as usize];
    memory.read(vdso.range.start(), &mut code).ok()?;
    let offset = code.windows(SYSCALL.len()).position(|bytes| bytes == SYSCALL)?;
    vdso.range.start().checked_add(offset as u64)
}

/// What lies between `kept`, which are sorted.
fn holes(kept: &[MapEntry]) -> Vec<PageRange> {
    let mut from = 0;
    let mut all = Vec::new();
    for range in kept.iter().map(|entry| entry.range) {
        all.extend(PageRange::new(from, range.start().0).ok().filter(|hole| hole.bytes() > 0));
        from = range.end().0;
    }
    all.extend(PageRange::new(from, USER_END).ok().filter(|hole| hole.bytes() > 0));
    all
}
