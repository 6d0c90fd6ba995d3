//! Processes, their threads and their memory.

use std::collections::HashSet;

use brant_base::{PAGE_SIZE, Tid};

use super::{MEMORY_BYTES_MAX, SIGNAL_MAX, Tables, absolute, require, signal_or_none};
use crate::ImageError;
use crate::model::*;

const NAME_BYTES_MAX: usize = 15;
const MAPPING_NAME_BYTES_MAX: usize = 79;
const SIGINFO_BYTES: usize = 128;
const LIMITS: usize = 16;
/// The legacy area and the XSAVE header; every extended state has these.
const XSTATE_BYTES_MIN: usize = 576;
const XSTATE_BYTES_MAX: usize = 1 << 16;
const AUXV_BYTES_MAX: usize = 1 << 16;

pub(super) fn check(process: &Process, tables: &Tables) -> Result<(), ImageError> {
    let pid = process.pid;
    let of = |what: &str| format!("process {pid}: {what}");
    require(pid.0 > 0 && process.ppid != pid, || of("its number or its parent's cannot be"))?;
    require(process.ppid.0 >= 0 && process.pgid.0 >= 0 && process.sid.0 >= 0, || {
        of("its parent, group or session is negative")
    })?;
    signal_or_none(process.exit_signal, || of("exit signal"))?;
    name(&process.name, || of("its name"))?;
    if let Some(terminal) = process.terminal {
        require(tables.terminals.contains(&terminal), || of("its terminal is not known"))?;
    }
    let ended = matches!(process.state, ProcessState::Zombie { .. });
    require(ended == process.body.is_none(), || of("only what has ended has no body"))?;
    if let ProcessState::Stopped { signal, .. } = process.state {
        require((1..=SIGNAL_MAX).contains(&signal), || of("it was stopped by no signal"))?;
    }
    match &process.body {
        Some(body) => check_body(process, body, tables),
        None => Ok(()),
    }
}

fn check_body(process: &Process, body: &ProcessBody, tables: &Tables) -> Result<(), ImageError> {
    let of = |what: &str| format!("process {}: {what}", process.pid);
    require(tables.disk_files.contains(&body.executable), || of("its executable is not known"))?;
    absolute(&body.cwd, || of("working directory"))?;
    absolute(&body.root, || of("root directory"))?;
    require(body.umask <= 0o777, || of("its umask cannot be"))?;
    require(body.limits.len() == LIMITS, || of("it has not 16 limits"))?;
    require(body.limits.iter().all(|limit| limit.soft <= limit.hard), || {
        of("a soft limit is above its hard one")
    })?;
    require(body.actions.len() == SIGNAL_MAX as usize, || of("it has not 64 signal actions"))?;
    require(body.descriptors.windows(2).all(|pair| pair[0].number < pair[1].number), || {
        of("its descriptors are not sorted or not unique")
    })?;
    for Descriptor { number, file, .. } in &body.descriptors {
        require(*number >= 0, || of("a descriptor is negative"))?;
        require(tables.open_files.contains(file), || of(&format!("descriptor {number} is of no open file")))?;
    }
    for lock in &body.record_locks {
        require(body.descriptors.binary_search_by_key(&lock.number, |entry| entry.number).is_ok(), || {
            of("a record lock is on no descriptor")
        })?;
        require(lock.start.checked_add(lock.length).is_some(), || of("a record lock's range cannot be"))?;
    }
    queued(&body.pending, || of("pending"))?;
    check_timers(process, body)?;
    check_memory(process, &body.memory, tables)?;
    check_threads(process, body)
}

fn check_timers(process: &Process, body: &ProcessBody) -> Result<(), ImageError> {
    let of = |timer: &PosixTimer, what: &str| format!("process {}: timer {}: {what}", process.pid, timer.id);
    let threads: HashSet<Tid> = body.threads.iter().map(|thread| thread.tid).collect();
    let mut ids = HashSet::new();
    for timer in &body.posix_timers {
        require(timer.id >= 0 && ids.insert(timer.id), || of(timer, "is there twice or negative"))?;
        signal_or_none(timer.signal, || of(timer, "signal"))?;
        if let Some(tid) = timer.thread {
            require(threads.contains(&tid), || of(timer, "its thread is not known"))?;
        }
    }
    Ok(())
}

fn check_memory(process: &Process, memory: &AddressSpace, tables: &Tables) -> Result<(), ImageError> {
    let of = |what: &str| format!("process {}: {what}", process.pid);
    require(memory.auxv.len().is_multiple_of(16) && memory.auxv.len() <= AUXV_BYTES_MAX, || {
        of("its auxiliary vector has no possible length")
    })?;
    require(memory.layout.brk.0 <= memory.layout.brk.1, || of("its break lies below its heap"))?;
    require(memory.mappings.windows(2).all(|pair| pair[0].range.end() <= pair[1].range.start()), || {
        of("its mappings are not sorted or overlap")
    })?;
    for mapping in &memory.mappings {
        let of = |what: &str| of(&format!("mapping {}: {what}", mapping.range));
        require(mapping.range.end().0 <= MEMORY_BYTES_MAX, || of("no program can have it"))?;
        let name = mapping.name.as_deref().unwrap_or_default();
        require(name.len() <= MAPPING_NAME_BYTES_MAX && !name.contains(&0), || of("its name cannot be"))?;
        let offset = match mapping.backing {
            Backing::Anonymous => {
                require(mapping.sharing == Sharing::Private, || of("it is shared but not by id"))?;
                0
            }
            Backing::File { file, offset, .. } => {
                require(tables.disk_files.contains(&file), || of("its file is not known"))?;
                offset
            }
            Backing::Shared { memory, offset, .. } => {
                require(tables.shared_memory.contains(&memory), || of("its shared memory is not known"))?;
                offset
            }
            Backing::Vdso | Backing::Vvar => 0,
        };
        let end = offset.checked_add(mapping.range.bytes());
        require(offset.is_multiple_of(PAGE_SIZE) && end.is_some(), || of("its offset cannot be"))?;
    }
    Ok(())
}

fn check_threads(process: &Process, body: &ProcessBody) -> Result<(), ImageError> {
    let of = |what: &str| format!("process {}: {what}", process.pid);
    let first = body.threads.first().map(|thread| thread.tid);
    let has_main = first == Some(Tid::from(process.pid));
    require(first.is_some(), || of("it has no threads"))?;
    require(has_main || body.leader_exited, || of("its first thread is not the main one"))?;
    let others = &body.threads[usize::from(has_main)..];
    require(others.windows(2).all(|pair| pair[0].tid < pair[1].tid), || {
        of("its threads are not sorted or not unique")
    })?;
    for thread in &body.threads {
        let of = |what: &str| of(&format!("thread {}: {what}", thread.tid));
        require(thread.tid.0 > 0, || of("its number cannot be"))?;
        name(&thread.name, || of("its name"))?;
        let xstate = thread.xstate.0.len();
        require(xstate == 0 || (XSTATE_BYTES_MIN..=XSTATE_BYTES_MAX).contains(&xstate), || {
            of("its extended state has no possible length")
        })?;
        queued(&thread.pending, || of("pending"))?;
        signal_or_none(thread.parent_death_signal, || of("parent-death signal"))?;
    }
    Ok(())
}

fn name(name: &[u8], what: impl FnOnce() -> String) -> Result<(), ImageError> {
    require(name.len() <= NAME_BYTES_MAX && !name.contains(&0), || {
        format!("{} is longer than 15 bytes or has a NUL", what())
    })
}

fn queued(signals: &[QueuedSignal], what: impl Fn() -> String) -> Result<(), ImageError> {
    for entry in signals {
        require((1..=SIGNAL_MAX).contains(&entry.signal), || {
            format!("{}: there is no signal {}", what(), entry.signal)
        })?;
        require(entry.info.0.len() == SIGINFO_BYTES, || {
            format!("{}: signal {} has not 128 bytes of information", what(), entry.signal)
        })?;
    }
    Ok(())
}
