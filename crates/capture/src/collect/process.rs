//! A process as a whole: identity, limits, what its threads share.

use std::os::unix::ffi::OsStrExt;

use brant_base::{Pid, Refusals, Tid};
use brant_image::model::*;
use brant_kernel::proc::{self, Status};
use brant_kernel::ptrace::Queue;
use brant_kernel::remote::{Hand, HandThread, RemoteError};

use super::{memory, signals, thread, timers};
use crate::error::Error;
use crate::freeze::{Frozen, FrozenProcess};
use crate::refusals;
use crate::tables::Tables;
use crate::tree::{self, Member};

const PR_GET_DUMPABLE: u64 = 3;
const PR_GET_SECUREBITS: u64 = 27;
const PR_GET_CHILD_SUBREAPER: u64 = 37;
const PR_GET_THP_DISABLE: u64 = 42;
const SYS_MEMBARRIER: i64 = 324;
const MEMBARRIER_CMD_GET_REGISTRATIONS: u64 = 1 << 9;

/// One process of a frozen tree. Descriptors, locks and terminals are filled in by the survey.
pub(crate) fn collect(
    frozen: &Frozen,
    process: &FrozenProcess,
    tables: &mut Tables,
) -> Result<Process, Error> {
    let member = &process.member;
    let status = proc::status(member.task())?;
    let stat = proc::stat(member.host)?;
    let state = match process.threads.first() {
        None => ProcessState::Zombie { status: stat.exit_code },
        Some(first) => match first.stopped_by {
            // Once its parent has waited for it, the kernel forgets the stop's code.
            Some(signal) => ProcessState::Stopped { signal, announced: stat.exit_code == 0 },
            None => ProcessState::Running,
        },
    };
    let body = if process.threads.is_empty() { None } else { Some(body(frozen, process, &status, tables)?) };
    Ok(Process {
        pid: member.pid,
        ppid: parent_inside(&status),
        pgid: Pid(status.ns_pgid.last().copied().unwrap_or(0)),
        sid: Pid(status.ns_sid.last().copied().unwrap_or(0)),
        exit_signal: stat.exit_signal,
        state,
        terminal: None,
        body,
        name: proc::comm(member.host)?,
    })
}

/// A process whose limits leave it no room for the pages by which it is asked about itself.
fn refused_room(pid: Pid, error: RemoteError) -> Error {
    match error {
        RemoteError::Call { number: libc::SYS_mmap, error, .. } => {
            Error::Refused(Refusals(vec![refusals::no_room(pid, &error.to_string())]))
        }
        other => other.into(),
    }
}

/// The parent's number as the process itself sees it: 1 where the parent is outside its pid namespace.
fn parent_inside(status: &Status) -> Pid {
    const INIT: Pid = Pid(1);
    let Some(parent) = tree::member(status.ppid) else { return INIT };
    let depth = |pid: Pid| proc::status(pid).map(|status| status.ns_pid.len()).unwrap_or(0);
    if depth(status.ppid) == status.ns_pid.len() { parent.pid } else { INIT }
}

/// All of a live process: what /proc tells, and by the remote hand what only it can say itself.
fn body(
    frozen: &Frozen,
    process: &FrozenProcess,
    status: &Status,
    tables: &mut Tables,
) -> Result<ProcessBody, Error> {
    let member = &process.member;
    let stat = proc::stat(member.task())?;
    // It stands still: nothing has changed since the look at it.
    let entries = match tables.mappings.remove(&member.host) {
        Some(entries) => entries,
        None => proc::smaps(member.task())?,
    };
    let held: Vec<HandThread> = process
        .threads
        .iter()
        .map(|thread| HandThread { tid: thread.host, registers: thread.registers, mask: thread.mask })
        .collect();
    let executable = tree::executable_ranges(&entries);
    let mut hand = Hand::open(frozen.waiter(), member.host, &held, &executable)
        .map_err(|error| refused_room(member.host, error))?;
    let mut threads = Vec::with_capacity(process.threads.len());
    for (index, frozen_thread) in process.threads.iter().enumerate() {
        threads.push(thread::collect(&mut hand, index, member, frozen_thread)?);
    }
    let inside = |tid: Tid| {
        let index = process.threads.iter().position(|thread| thread.host == tid)?;
        Some(threads[index].tid)
    };
    let plain = |hand: &mut Hand, option| hand.call(0, libc::SYS_prctl, [option, 0, 0, 0, 0, 0]);
    let mut body = ProcessBody {
        executable: tables.executable(member)?,
        cwd: link(member, "cwd")?,
        root: link(member, "root")?,
        umask: status.umask.unwrap_or(0o022),
        credentials: credentials(member, status, plain(&mut hand, PR_GET_SECUREBITS)? as u32)?,
        limits: limits(member)?,
        memory: AddressSpace::default(),
        descriptors: Vec::new(),
        actions: signals::actions(&mut hand, status.signals_caught | status.signals_ignored)?,
        pending: signals::pending(process.threads[0].host, Queue::Process)?,
        interval_timers: timers::interval_timers(&mut hand)?,
        posix_timers: timers::posix_timers(&mut hand, member, inside)?,
        record_locks: Vec::new(),
        threads,
        leader_exited: process.leader_exited,
        personality: proc::personality(member.task())? as u64,
        dumpable: plain(&mut hand, PR_GET_DUMPABLE)? as i32,
        child_subreaper: thread::prctl_value(&mut hand, 0, PR_GET_CHILD_SUBREAPER)? != 0,
        oom_score_adj: proc::oom_score_adj(member.task())?,
        thp_disabled: plain(&mut hand, PR_GET_THP_DISABLE).unwrap_or(0) != 0,
        membarrier_registrations: hand
            .call(0, SYS_MEMBARRIER, [MEMBARRIER_CMD_GET_REGISTRATIONS, 0, 0, 0, 0, 0])
            .unwrap_or(0),
    };
    tables.clocks = match tables.clocks {
        None => Some(clocks(&mut hand)?),
        known => known,
    };
    let current_break = hand.call(0, libc::SYS_brk, [0; 6])?;
    hand.finish()?;
    // They were frozen in the order of the host's numbers.
    body.threads.sort_by_key(|thread| (thread.tid.0 != member.pid.0, thread.tid));
    let memory = memory::address_space(member, &entries, &stat, current_break, tables)?;
    Ok(ProcessBody { memory, ..body })
}

/// The clocks as the process sees them, in its time namespace.
fn clocks(hand: &mut Hand) -> Result<Clocks, Error> {
    let mut read = |clock: i32| {
        let at = hand.data().start();
        hand.call(0, libc::SYS_clock_gettime, [clock as u64, at.0, 0, 0, 0, 0])?;
        let [seconds, nanoseconds] = thread::read_data::<[i64; 2]>(hand)?;
        Ok::<i64, Error>(seconds * 1_000_000_000 + nanoseconds)
    };
    Ok(Clocks {
        realtime_ns: read(libc::CLOCK_REALTIME)?,
        monotonic_ns: read(libc::CLOCK_MONOTONIC)?,
        boottime_ns: read(libc::CLOCK_BOOTTIME)?,
    })
}

fn link(member: &Member, name: &str) -> Result<Vec<u8>, Error> {
    let path = std::fs::read_link(format!("/proc/{}/{name}", member.task()))
        .map_err(|error| Error::Descriptor { what: format!("reading {name} of {}", member.host), error })?;
    Ok(path.as_os_str().as_bytes().to_vec())
}

/// The numbers as the process sees them in its user namespace.
fn credentials(member: &Member, status: &Status, securebits: u32) -> Result<Credentials, Error> {
    let uid_map = proc::uid_map(member.task())?;
    let gid_map = proc::gid_map(member.task())?;
    let uid = |id| tree::id_inside(&uid_map, id);
    let gid = |id| tree::id_inside(&gid_map, id);
    Ok(Credentials {
        uids: status.uids.map(uid),
        gids: status.gids.map(gid),
        groups: status.groups.iter().map(|id| gid(*id)).collect(),
        capabilities: status.capabilities,
        securebits,
        no_new_privs: status.no_new_privs,
    })
}

fn limits(member: &Member) -> Result<Vec<Limit>, Error> {
    let all = proc::limits(member.task())?;
    Ok(all.iter().map(|pair| Limit { soft: pair.soft, hard: pair.hard }).collect())
}
