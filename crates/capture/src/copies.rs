//! Copies of a frozen tree's private memory, so that it can run on while they are written.
//!
//! A copy is a copy-on-write fork that never runs (`brant_kernel::remote::Copied`). Where a process could notice it, or the
//! host has no room, the process's memory is written while the tree stands still, and the report says why. What a fork
//! does not give (memory of MADV_DONTFORK and MADV_WIPEONFORK) is always written then.
//!
//! State of the target: as [`Hand::copy`] says. Copies end when [`Copies`] is dropped and when brant ends.

use brant_base::Pid;
use brant_image::model::{Checkpoint, Process, ProcessBody};
use brant_kernel::proc;
use brant_kernel::ptrace::{Interrupted, UserRegisters};
use brant_kernel::remote::{Copied, Hand, HandThread, RemoteError};

use crate::error::Error;
use crate::freeze::{Frozen, FrozenProcess};
use crate::headroom::{Guard, Headroom};
use crate::tree;

/// A process whose private memory was written while the tree stood still, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopiedStanding {
    /// Its number in our pid namespace.
    pub pid: Pid,
    pub why: String,
}

/// Where the private memory of each process of a tree is to be read.
#[derive(Default)]
pub(crate) struct Copies {
    /// In the tree's order; `None` where the process itself is to be read while it stands still.
    copies: Vec<Option<Copied>>,
    pub(crate) standing: Vec<CopiedStanding>,
    guard: Option<Guard>,
}

impl Copies {
    /// Copies every process of the tree that can be, all at the moment of the freeze.
    pub(crate) fn make(frozen: &Frozen, checkpoint: &Checkpoint) -> Result<Copies, Error> {
        let mut made = Copies::default();
        let headroom = Headroom::of(frozen.processes.iter().map(|process| process.member.task()));
        let bodies = checkpoint.processes.iter().filter(|process| process.body.is_some()).count();
        let tight = headroom.too_little_for(bodies as u64, anonymous_bytes(frozen));
        for (process, described) in frozen.processes.iter().zip(&checkpoint.processes) {
            let Some(body) = &described.body else {
                made.copies.push(None);
                continue;
            };
            let copied = match tight.clone().or_else(|| would_notice(process, described, body, checkpoint)) {
                Some(why) => Err(why),
                None => copy(frozen, process)?,
            };
            let pid = process.member.host;
            made.copies.push(copied.map_err(|why| made.standing.push(CopiedStanding { pid, why })).ok());
        }
        let copies: Vec<Pid> = made.copies.iter().flatten().map(Copied::pid).collect();
        if !copies.is_empty() {
            made.guard = Some(Guard::start(headroom, &copies)?);
        }
        Ok(made)
    }

    /// The copy of process number `index` of the tree.
    pub(crate) fn of(&self, index: usize) -> Option<&Copied> {
        self.copies.get(index)?.as_ref()
    }

    /// Lets the copy of process number `index` go, once all of it was read. An error where it did not stand until now:
    /// what was read is worth nothing then.
    pub(crate) fn finish(&self, index: usize, pid: Pid) -> Result<(), Error> {
        let Some(copy) = self.of(index) else { return Ok(()) };
        let stood = copy.stands();
        copy.end_soon();
        if stood { Ok(()) } else { Err(self.lost(pid)) }
    }

    /// Why the copy of process `pid` cannot be read.
    pub(crate) fn lost(&self, pid: Pid) -> Error {
        Error::CopyLost { pid, memory_short: self.guard.as_ref().is_some_and(Guard::has_struck) }
    }
}

/// Memory that the copies keep twice when the tree has written to all of it.
fn anonymous_bytes(frozen: &Frozen) -> u64 {
    let tasks = frozen.processes.iter().filter(|process| !process.threads.is_empty());
    tasks
        .map(|process| proc::status(process.member.task()).map_or(0, |status| status.rss_anonymous_kib << 10))
        .sum()
}

/// Why a process, or one that adopts its orphans, could see its copy.
fn would_notice(
    process: &FrozenProcess,
    described: &Process,
    body: &ProcessBody,
    checkpoint: &Checkpoint,
) -> Option<String> {
    if body.child_subreaper {
        return Some("it adopts orphans (PR_SET_CHILD_SUBREAPER) and would get its copy".to_owned());
    }
    if let Some(reaper) = adopting_ancestor(described, checkpoint) {
        return Some(format!("process {reaper} above it adopts orphans and would get its copy"));
    }
    let namespaces = proc::namespaces(process.member.task()).unwrap_or_default();
    if namespaces.pid != namespaces.pid_for_children {
        return Some("its children are born in another pid namespace".to_owned());
    }
    let wait = "a thread of it waits for children of every kind (__WALL)";
    process.threads.iter().any(|thread| waits_for_every_kind(&thread.at_stop)).then(|| wait.to_owned())
}

/// Whether the thread stands in a call that would find children without an exit signal.
fn waits_for_every_kind(at_stop: &UserRegisters) -> bool {
    let flags = match at_stop.interrupted() {
        Interrupted::Restart { number } if number == libc::SYS_wait4 as u64 => at_stop.rdx,
        Interrupted::Restart { number } if number == libc::SYS_waitid as u64 => at_stop.r10,
        _ => return false,
    };
    flags & (libc::__WALL | libc::__WCLONE) as u32 as u64 != 0
}

/// A process of the tree above one of its members that adopts orphans.
fn adopting_ancestor(described: &Process, checkpoint: &Checkpoint) -> Option<Pid> {
    let parent_of = |process: &Process| checkpoint.processes.iter().find(|other| other.pid == process.ppid);
    let mut above = parent_of(described);
    // No chain of parents is longer than the tree.
    for _ in 0..checkpoint.processes.len() {
        let process = above?;
        if process.body.as_ref().is_some_and(|body| body.child_subreaper) {
            return Some(process.pid);
        }
        above = parent_of(process);
    }
    None
}

/// A copy, or why the kernel gave none.
fn copy(frozen: &Frozen, process: &FrozenProcess) -> Result<Result<Copied, String>, Error> {
    let member = &process.member;
    let entries = proc::maps(member.task())?;
    let held: Vec<HandThread> = process
        .threads
        .iter()
        .map(|thread| HandThread { tid: thread.host, registers: thread.registers, mask: thread.mask })
        .collect();
    let mut hand = Hand::open(frozen.waiter(), member.host, &held, &tree::executable_ranges(&entries))?;
    let copied = match hand.copy() {
        Err(RemoteError::Call { error, .. }) => Err(format!("it could not be forked: {error}")),
        other => Ok(other?),
    };
    hand.finish()?;
    if let Ok(copy) = &copied
        && let Some(reaper) = frozen.processes.iter().find(|process| adopted(copy, process))
    {
        // Cannot be: subreapers were told apart before.
        return Ok(Err(format!("its copy went to process {}", reaper.member.host)));
    }
    Ok(copied)
}

fn adopted(copy: &Copied, process: &FrozenProcess) -> bool {
    proc::stat(copy.pid()).is_ok_and(|stat| stat.ppid == process.member.host)
}
