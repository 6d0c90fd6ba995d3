//! Writing a plan into a process while none of its threads runs, and looking whether a thread is inside of a wrapper.
//!
//! State of the target: stopped while this looks and writes, else running. Each single write leaves every function callable:
//! first comes that the wrapper is on, then pointers of functions that are hooked already, last the jumps. If brant is killed in between, the wrapper is on
//! for some of its functions; `unwrap` takes it off.

use std::ops::Range;
use std::time::Duration;

use brant_base::{Addr, Tid};
use brant_hook::exchange::Write;
use brant_kernel::proc::{self, MapEntry};
use brant_kernel::remote::{HandThread, Memory};

use crate::error::Error;
use crate::progress::Progress;
use crate::runtime::Runtime;
use crate::session::Session;
use crate::stack::Stacks;
use crate::stop::{Held, while_stopped};
use crate::target::Target;

/// A thread may be in the middle of the bytes that are to be overwritten, by way of a signal's frame. A try counts where one in the way has
/// moved since the last.
const COMMIT_TRIES: u32 = 40;
const COMMIT_PAUSE: Duration = Duration::from_millis(2);
const COMMIT_PAUSE_MAX: Duration = Duration::from_millis(50);

/// What a commit took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Committed {
    /// For how long the process stood still.
    pub(crate) pause: Duration,
}

/// Writes a plan. `inside` is looked at with the process still stopped afterwards.
pub(crate) fn commit<T: Send>(
    target: &Target,
    session: &mut Session<'_>,
    writes: &[Write],
    moves: &[(u64, u64)],
    inside: impl FnOnce(&[HandThread], &[MapEntry]) -> T + Send,
) -> Result<(Committed, T), Error> {
    let interiors = Interiors::of(writes);
    let is_interior = |address: u64| interiors.contain(address);
    // As it was when it was borrowed. From here on it comes back where it must not be moved any more, as it does by itself.
    let away = session.thread;
    if let Some(to) = place_of(&away, moves) {
        session.move_to(to)?;
    }
    let others = session.others.clone();
    let own: Vec<HandThread> = [away].into_iter().chain(others.iter().copied()).collect();
    let memory = &Memory::open(target.pid).map_err(|error| Error::NotAllowed(target.pid, error))?;
    let mut inside = Some(inside);
    let mut progress = Progress::new(COMMIT_PAUSE);
    let (mut tries, mut is_made) = (0, false);
    loop {
        let mut attempt = |held: &mut Held<'_>| {
            let maps = proc::maps(target.pid).map_err(|error| Error::looking(target.pid, error))?;
            let threads: Vec<HandThread> = held.threads().chain(own.iter().copied()).collect();
            let stacks = Stacks { memory, maps: &maps, descriptions: &target.descriptions };
            let is_in_the_way = |thread: &&HandThread| match place_of(thread, moves) {
                Some(_) => stacks.returns_inside(thread, is_interior),
                // Where only pointers are written nobody is.
                None => !interiors.ranges.is_empty() && stacks.is_inside(thread, is_interior),
            };
            let in_the_way: Vec<&HandThread> = threads.iter().filter(is_in_the_way).collect();
            if !in_the_way.is_empty() {
                is_made = progress.is_made(memory, in_the_way);
                tries += u32::from(is_made);
                return Ok(None);
            }
            check_old(memory, target, writes)?;
            for thread in threads {
                if let Some(to) = place_of(&thread, moves).filter(|_| thread.tid != away.tid) {
                    held.move_to(thread.tid, to)?;
                }
            }
            write(memory, away.tid, writes)?;
            let threads: Vec<HandThread> = held.threads().chain(own.iter().copied()).collect();
            Ok(inside.take().map(|inside| inside(&threads, &maps)))
        };
        let (seen, pause) = match &others[..] {
            [] => while_stopped(target.pid, &[away.tid], attempt)?,
            // All of them are held by this very thread.
            _ => (attempt(&mut Held::none(&crate::waiter(target.pid)?, target.pid))?, Duration::ZERO),
        };
        if let Some(seen) = seen {
            for (other, to) in others.iter().filter_map(|other| Some((other.tid, place_of(other, moves)?))) {
                session.move_other(other, to)?;
            }
            return Ok((Committed { pause }, seen));
        }
        if tries == COMMIT_TRIES || !progress.wait(is_made, COMMIT_PAUSE_MAX) {
            break;
        }
    }
    Err(Error::Changed { pid: target.pid, what: "a thread stays in the first instructions of a function" })
}

/// Where a thread is to go on that stands in overwritten bytes, or is in a system call that leads back to them.
fn place_of(thread: &HandThread, moves: &[(u64, u64)]) -> Option<u64> {
    moves.iter().find(|(from, _)| *from == thread.registers.rip).map(|(_, to)| *to)
}

/// The bytes of jumps behind the first ones: no thread may come back there.
struct Interiors {
    /// Ascending.
    ranges: Vec<Range<u64>>,
}

impl Interiors {
    fn of(writes: &[Write]) -> Interiors {
        let code = writes.iter().filter(|write| write.is_code);
        let mut ranges: Vec<Range<u64>> =
            code.map(|write| write.address + 1..write.address + write.new.len() as u64).collect();
        ranges.sort_by_key(|range| range.start);
        Interiors { ranges }
    }

    /// Asked for every word of every stack.
    fn contain(&self, address: u64) -> bool {
        let (Some(first), Some(last)) = (self.ranges.first(), self.ranges.last()) else { return false };
        if address < first.start || last.end <= address {
            return false;
        }
        let next = self.ranges.partition_point(|range| range.end <= address);
        self.ranges.get(next).is_some_and(|range| range.contains(&address))
    }
}

/// Nothing is written where anything is not as it was planned.
fn check_old(memory: &Memory, target: &Target, writes: &[Write]) -> Result<(), Error> {
    for write in writes {
        let mut now = vec![0; write.old.len()];
        let is_read = memory.read(Addr(write.address), &mut now).is_ok();
        if !is_read || now != write.old {
            return Err(Error::Stale(target.pid));
        }
    }
    Ok(())
}

fn write(memory: &Memory, away: Tid, writes: &[Write]) -> Result<(), Error> {
    for write in writes.iter().filter(|write| write.old != write.new) {
        memory
            .write_by_force(Addr(write.address), &write.new)
            .map_err(|error| Error::thread(away, "writing code", error))?;
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
    pub(crate) fn is_empty(
        &self,
        target: &Target,
        memory: &Memory,
        threads: &[HandThread],
        maps: &[MapEntry],
    ) -> bool {
        self.threads(target, memory, threads, maps).is_some_and(|inside| inside.is_empty())
            && self.is_unaccounted(memory)
    }

    /// Whether the runtime knows of nobody inside.
    pub(crate) fn is_unaccounted(&self, memory: &Memory) -> bool {
        self.runtime.calls_under_way(memory, self.wrapper) == Some(0)
            && self.runtime.is_loading(memory) == Some(false)
    }

    /// The threads that can be seen to be inside; `None` where that cannot be told.
    pub(crate) fn threads<'t>(
        &self,
        target: &Target,
        memory: &Memory,
        threads: &'t [HandThread],
        maps: &[MapEntry],
    ) -> Option<Vec<&'t HandThread>> {
        let code = self.runtime.code(memory)?;
        let stacks = Stacks { memory, maps, descriptions: &target.descriptions };
        let is_in = |ranges: &[Range<u64>], address: u64| ranges.iter().any(|range| range.contains(&address));
        let is_entering = |address: u64| {
            is_in(&code, address)
                || is_in(&self.implementation, address)
                || self.runtime.is_thunk(address) && !self.runtime.is_return(address)
        };
        let is_in = |thread: &&HandThread| {
            self.runtime.is_thunk(thread.registers.rip) || stacks.is_inside(thread, is_entering)
        };
        Some(threads.iter().filter(is_in).collect())
    }
}
