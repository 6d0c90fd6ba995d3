//! Writing a plan into a process while none of its threads runs, and looking whether a thread is inside of a wrapper.
//!
//! State of the target: stopped while this looks and writes, else running. Each single write leaves every function callable:
//! first come pointers of functions that are hooked already, last the jumps. If brant is killed in between, the wrapper is on
//! for some of its functions; `unwrap` takes it off.

use std::ops::Range;
use std::time::{Duration, Instant};

use brant_base::Addr;
use brant_hook::JUMP_BYTES;
use brant_hook::exchange::Write;
use brant_kernel::proc::{self, MapEntry};
use brant_kernel::ptrace::Waiter;
use brant_kernel::remote::{HandThread, Memory};

use crate::error::Error;
use crate::runtime::Runtime;
use crate::session::Session;
use crate::stack;
use crate::stop::Held;
use crate::target::Target;

/// A thread may be in the middle of the bytes that are to be overwritten, by way of a signal's frame.
const COMMIT_TRIES: u32 = 40;
const COMMIT_PAUSE: Duration = Duration::from_millis(2);

/// What a commit took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Committed {
    /// For how long the process stood still.
    pub(crate) pause: Duration,
}

/// Writes a plan. `inside` is looked at with the process still stopped afterwards.
pub(crate) fn commit<T>(
    waiter: &Waiter,
    target: &Target,
    session: &Session<'_>,
    writes: &[Write],
    moves: &[(u64, u64)],
    inside: impl FnOnce(&[HandThread], &[MapEntry]) -> T,
) -> Result<(Committed, T), Error> {
    let interiors: Vec<Range<u64>> = writes
        .iter()
        .filter(|write| write.new.len() == JUMP_BYTES)
        .map(|write| write.address + 1..write.address + JUMP_BYTES as u64)
        .collect();
    let is_interior = |address: u64| interiors.iter().any(|range| range.contains(&address));
    let memory = session.memory();
    for _ in 0..COMMIT_TRIES {
        let begin = Instant::now();
        let mut held = Held::none(waiter, target.pid);
        held.stop_all(&[session.thread.tid])?;
        let maps = proc::maps(target.pid).map_err(|error| Error::looking(target.pid, error))?;
        let threads: Vec<HandThread> = held.threads().chain([session.thread]).collect();
        let is_clear = threads.iter().all(|thread| {
            let rip = thread.registers.rip;
            let is_movable = thread.tid != session.thread.tid && moves.iter().any(|(from, _)| *from == rip);
            let words = stack::words(memory, &maps, thread).unwrap_or_default();
            (!is_interior(rip) || is_movable) && !words.into_iter().any(is_interior)
        });
        if is_clear {
            check_old(memory, target, writes)?;
            for thread in threads {
                if let Some((_, to)) = moves.iter().find(|(from, _)| *from == thread.registers.rip) {
                    held.move_to(thread.tid, *to)?;
                }
            }
            write(memory, session, writes)?;
            let threads: Vec<HandThread> = held.threads().chain([session.thread]).collect();
            let seen = inside(&threads, &maps);
            held.release();
            return Ok((Committed { pause: begin.elapsed() }, seen));
        }
        held.release();
        std::thread::sleep(COMMIT_PAUSE);
    }
    Err(Error::Changed { pid: target.pid, what: "a thread stays in the first instructions of a function" })
}

/// Nothing is written where anything is not as it was planned.
fn check_old(memory: &Memory, target: &Target, writes: &[Write]) -> Result<(), Error> {
    for write in writes {
        let mut now = vec![0; write.old.len()];
        let is_read = memory.read(Addr(write.address), &mut now).is_ok();
        if !is_read || now != write.old {
            return Err(Error::Changed { pid: target.pid, what: "a function is not as it was a moment ago" });
        }
    }
    Ok(())
}

fn write(memory: &Memory, session: &Session<'_>, writes: &[Write]) -> Result<(), Error> {
    for write in writes {
        memory
            .write_by_force(Addr(write.address), &write.new)
            .map_err(|error| Error::thread(session.thread.tid, "writing code", error))?;
    }
    Ok(())
}

/// What a thread must be outside of before a wrapper's implementation is unloaded.
pub(crate) struct Inside<'a> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) wrapper: u32,
    /// The implementation's code.
    pub(crate) implementation: Vec<Range<u64>>,
}

impl Inside<'_> {
    /// Whether no thread is on its way into the wrapper, in it, or will come back to it. Stacks that no thread is on are
    /// not seen: for calls that wait there the runtime keeps its own account.
    pub(crate) fn is_empty(&self, memory: &Memory, threads: &[HandThread], maps: &[MapEntry]) -> bool {
        let Some(code) = self.runtime.code(memory) else { return false };
        let is_in = |ranges: &[Range<u64>], word: u64| ranges.iter().any(|range| range.contains(&word));
        let is_entering = |word: u64| {
            is_in(&code, word)
                || is_in(&self.implementation, word)
                || self.runtime.thunks.contains(&word) && !self.runtime.returns.contains(&word)
        };
        let is_outside = |thread: &HandThread| {
            let rip = thread.registers.rip;
            let words = stack::words(memory, maps, thread);
            !self.runtime.thunks.contains(&rip)
                && !is_entering(rip)
                && words.is_some_and(|words| !words.into_iter().any(is_entering))
        };
        threads.iter().all(is_outside) && self.runtime.calls_under_way(memory, self.wrapper) == Some(0)
    }
}
