//! The processes of a tree: who they are, parents first.

use std::collections::VecDeque;

use brant_base::{PageRange, Pid, Tid};
use brant_kernel::proc::{self, IdMapLine, MapEntry, MapKind};

/// One process as discovery found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its number in our own pid namespace.
    pub host: Pid,
    /// Its number in its innermost pid namespace: the one that it knows and that an image holds.
    pub pid: Pid,
    /// It has ended and waits to be reaped: it has neither memory nor descriptors.
    pub zombie: bool,
}

impl Member {
    /// A thread of it that has not ended: what the process has can be seen there. Usually the first one.
    pub(crate) fn task(&self) -> Pid {
        living_task(self)
    }
}

/// Everything that descends from `roots` (host numbers), parents before children, and the orphans of sessions that a
/// member leads: their parents have ended, but they would lose their session.
pub(crate) fn discover(roots: &[Pid]) -> Vec<Member> {
    let mut found = Vec::<Member>::new();
    let mut queue: VecDeque<Pid> = roots.iter().copied().collect();
    loop {
        add_descendants(&mut found, &mut queue);
        queue.extend(orphans(&found));
        if queue.is_empty() {
            return found;
        }
    }
}

/// Processes outside of the tree whose session is led by a member.
fn orphans(found: &[Member]) -> Vec<Pid> {
    let leads = |member: &&Member| proc::stat(member.host).is_ok_and(|stat| stat.session == member.host);
    let sessions: Vec<Pid> = found.iter().filter(leads).map(|member| member.host).collect();
    if sessions.is_empty() {
        return Vec::new();
    }
    let of_session = |pid: Pid| {
        let stat = proc::stat(pid).ok()?;
        let is_orphan = sessions.contains(&stat.session)
            && stat.state != b'Z'
            && !found.iter().any(|member| member.host == pid);
        is_orphan.then_some((pid, stat.ppid))
    };
    let orphans: Vec<(Pid, Pid)> =
        proc::processes().unwrap_or_default().into_iter().filter_map(of_session).collect();
    let is_child = |parent: Pid| orphans.iter().any(|(pid, _)| *pid == parent);
    orphans.iter().filter(|(_, parent)| !is_child(*parent)).map(|(pid, _)| *pid).collect()
}

fn add_descendants(found: &mut Vec<Member>, queue: &mut VecDeque<Pid>) {
    while let Some(host) = queue.pop_front() {
        if found.iter().any(|known| known.host == host) {
            continue;
        }
        let Some(process) = member(host) else { continue };
        queue.extend(proc::children(host).unwrap_or_default());
        found.push(process);
    }
}

/// Looks one process up; `None` where it has gone.
pub(crate) fn member(host: Pid) -> Option<Member> {
    let status = proc::status(host).ok()?;
    // A main thread that has ended shows as a zombie, although other threads go on.
    let zombie = status.is_zombie() && status.threads <= 1;
    Some(Member { host, pid: status.inner_pid(), zombie })
}

/// A thread of a process that still has what all its threads share (descriptors, the executable): a main thread
/// that has ended has nothing left. /proc has a directory under its number, too.
pub(crate) fn living_task(member: &Member) -> Pid {
    if !thread_ended(member.host, member.host.into()) {
        return member.host;
    }
    let tasks = proc::tasks(member.host).unwrap_or_default();
    let living = tasks.into_iter().find(|tid| !thread_ended(member.host, *tid));
    living.map_or(member.host, |tid| Pid(tid.0))
}

/// Private executable mappings, the vdso first: where a return thunk may find room.
pub(crate) fn executable_ranges(entries: &[MapEntry]) -> Vec<PageRange> {
    let mut ranges: Vec<&MapEntry> = entries
        .iter()
        .filter(|entry| entry.permissions.execute && !entry.shared && entry.kind != MapKind::Vsyscall)
        .collect();
    ranges.sort_by_key(|entry| entry.kind != MapKind::Vdso);
    ranges.into_iter().map(|entry| entry.range).collect()
}

/// Whether a thread has ended, although its process may go on.
pub(crate) fn thread_ended(process: Pid, tid: Tid) -> bool {
    proc::stat((process, tid)).map_or(true, |stat| matches!(stat.state, b'Z' | b'X'))
}

/// Whether a process will run no further instruction of its program: each of its threads has ended or is on its way out.
/// It stands in nobody's way, whatever a look at it says.
pub(crate) fn ends(process: Pid) -> bool {
    proc::tasks(process).unwrap_or_default().into_iter().all(|tid| thread_ends(process, tid))
}

/// Same, of one thread.
pub(crate) fn thread_ends(process: Pid, tid: Tid) -> bool {
    proc::stat((process, tid)).map_or(true, |stat| stat.is_ending())
}

/// A user or group number as it is inside a user namespace; the overflow number where it is not mapped.
pub(crate) fn id_inside(map: &[IdMapLine], outside: u32) -> u32 {
    const OVERFLOW: u32 = 65534;
    map.iter().find_map(|line| line.to_inside(outside)).unwrap_or(OVERFLOW)
}
