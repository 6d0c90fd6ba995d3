//! What must hold between a checkpoint's records. Checked before an image is written and after one was read,
//! so that restore can rely on it: ids are unique and known, lists have their documented order and length,
//! paths are absolute.

mod files;
mod process;
mod windows;

use std::collections::HashSet;
use std::hash::Hash;

use brant_base::{PAGE_SIZE, Pid, Tid};

use crate::ImageError;
use crate::model::*;

/// Signals are numbered from 1 to this.
const SIGNAL_MAX: i32 = 64;
/// Page bytes that one file or shared memory may have: what 64-bit addresses of 57 bits can name.
const MEMORY_BYTES_MAX: u64 = 1 << 56;
const VDSO_BYTES_MAX: usize = 1 << 20;

/// An error unless the checkpoint's records fit together.
pub fn validate(checkpoint: &Checkpoint) -> Result<(), ImageError> {
    if let Some(program) = &checkpoint.windows {
        return windows::check(checkpoint, program);
    }
    let tables = Tables::of(checkpoint)?;
    require(checkpoint.host.vdso.len() <= VDSO_BYTES_MAX, || "the vdso is too large".into())?;
    require(checkpoint.host.vdso.len().is_multiple_of(PAGE_SIZE as usize), || {
        "the vdso is not a whole number of pages".into()
    })?;
    require(tables.processes.contains(&checkpoint.root), || {
        format!("the root process {} is not among the processes", checkpoint.root)
    })?;
    let mut seen = HashSet::new();
    let mut tids = HashSet::new();
    for process in &checkpoint.processes {
        require(seen.contains(&process.ppid) || !tables.processes.contains(&process.ppid), || {
            format!("process {} stands before its parent {}", process.pid, process.ppid)
        })?;
        seen.insert(process.pid);
        process::check(process, &tables)?;
        unique_tids(process, &mut tids)?;
    }
    files::check(checkpoint, &tables)
}

/// The ids that records may name.
struct Tables {
    processes: HashSet<Pid>,
    open_files: HashSet<OpenFileId>,
    disk_files: HashSet<DiskFileId>,
    shared_memory: HashSet<SharedMemoryId>,
    pipes: HashSet<PipeId>,
    unix_sockets: HashSet<UnixSocketId>,
    inet_sockets: HashSet<InetSocketId>,
    terminals: HashSet<TerminalId>,
}

impl Tables {
    fn of(checkpoint: &Checkpoint) -> Result<Tables, ImageError> {
        Ok(Tables {
            processes: ids("process", &checkpoint.processes, |entry| entry.pid)?,
            open_files: ids("open file", &checkpoint.open_files, |entry| entry.id)?,
            disk_files: ids("disk file", &checkpoint.disk_files, |entry| entry.id)?,
            shared_memory: ids("shared memory", &checkpoint.shared_memory, |entry| entry.id)?,
            pipes: ids("pipe", &checkpoint.pipes, |entry| entry.id)?,
            unix_sockets: ids("unix socket", &checkpoint.unix_sockets, |entry| entry.id)?,
            inet_sockets: ids("internet socket", &checkpoint.inet_sockets, |entry| entry.id)?,
            terminals: ids("terminal", &checkpoint.terminals, |entry| entry.id)?,
        })
    }
}

fn ids<T, Id: Copy + Eq + Hash + std::fmt::Debug>(
    table: &str,
    entries: &[T],
    id: impl Fn(&T) -> Id,
) -> Result<HashSet<Id>, ImageError> {
    let mut all = HashSet::with_capacity(entries.len());
    for entry in entries {
        let id = id(entry);
        require(all.insert(id), || format!("{table} {id:?} is there twice"))?;
    }
    Ok(all)
}

/// Threads of one process may not have the number of another's.
fn unique_tids(process: &Process, tids: &mut HashSet<Tid>) -> Result<(), ImageError> {
    let own = Tid::from(process.pid);
    let threads = process.body.iter().flat_map(|body| &body.threads).map(|thread| thread.tid);
    for tid in std::iter::once(own).chain(threads.filter(|&tid| tid != own)) {
        require(tids.insert(tid), || format!("thread {tid} is there twice"))?;
    }
    Ok(())
}

fn require(holds: bool, what: impl FnOnce() -> String) -> Result<(), ImageError> {
    if holds { Ok(()) } else { Err(ImageError::Inconsistent { what: what() }) }
}

/// A path as the kernel takes it, from the root.
fn absolute(path: &[u8], what: impl FnOnce() -> String) -> Result<(), ImageError> {
    require(path.starts_with(b"/") && !path.contains(&0), || {
        format!("the path of {} is not absolute or has a NUL", what())
    })
}

fn signal_or_none(signal: i32, what: impl FnOnce() -> String) -> Result<(), ImageError> {
    require((0..=SIGNAL_MAX).contains(&signal), || format!("{}: there is no signal {signal}", what()))
}
