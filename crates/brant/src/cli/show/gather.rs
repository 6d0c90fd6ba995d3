//! Records, each beside what the kernel or the image says of its process.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use brant_base::{Pid, Tid};
use brant_image::Image;
use brant_image::model::{Checkpoint, FileKind, ProcessState};
use brant_kernel::proc;
use brant_record::{Compared, Outside, ReadError, Record, Snapshot};

use crate::beholder::NOTE;
use crate::failure::{Failure, exit};
use crate::job::descendants;
use crate::target::Target;

/// A process, with its record where it has one.
pub(super) struct Shown {
    /// Its number here; in an image: as it had it.
    pub(super) pid: Pid,
    pub(super) name: String,
    pub(super) command: Vec<String>,
    pub(super) is_from_image: bool,
    /// When the state was so, in nanoseconds since 1970.
    pub(super) now_ns: u64,
    pub(super) state: Option<State>,
}

/// What is recorded.
pub(super) struct State {
    pub(super) record: Record,
    pub(super) outside: Outside,
    pub(super) compared: Compared,
    /// The number that the process knows is another one than it recorded.
    pub(super) inner_pid: i32,
}

/// The processes of a running target, parents first.
pub(super) fn of_target(target: &Target) -> Result<Vec<Shown>, Failure> {
    let (mut found, mut gone) = (Vec::new(), None);
    for root in target.roots()? {
        for pid in [root].into_iter().chain(descendants(root)) {
            if found.iter().any(|shown: &Shown| shown.pid == pid) {
                continue;
            }
            let state = match state_of(pid) {
                // One that ended meanwhile is not there.
                Err(error @ ReadError::Gone(_)) => {
                    gone = Some(error);
                    continue;
                }
                other => other.map_err(|error| unreadable(&error))?,
            };
            found.push(Shown {
                pid,
                name: proc::comm(pid).map(|name| brant_image::inspect::readable(&name)).unwrap_or_default(),
                command: words(&proc::cmdline(pid).unwrap_or_default()),
                is_from_image: false,
                now_ns: crate::job::unix_ms() * 1_000_000,
                state,
            });
        }
    }
    match gone {
        Some(error) if found.is_empty() => Err(unreadable(&error)),
        _ => Ok(found),
    }
}

fn unreadable(error: &ReadError) -> Failure {
    let (code, what) = match error {
        ReadError::Gone(_) => ("B-0201", "there is nothing to show any more"),
        ReadError::NotAllowed(..) => ("B-0202", "the record may not be read"),
        ReadError::Version { .. } => ("B-1162", "the record cannot be read"),
        ReadError::Damaged(_) => ("B-1163", "the record cannot be read"),
    };
    Failure::of_error(code, what, error)
}

/// How often a process that runs is looked at before a difference is believed, and the pause between.
const LOOKS: u32 = 4;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(2);

/// The record of a process that runs. The kernel is asked before and after it, and all of it again where they differ: what changes
/// meanwhile is no difference.
fn state_of(pid: Pid) -> Result<Option<State>, ReadError> {
    let mut differences: Option<Differences> = None;
    for look in 1.. {
        let before = outside_of(pid);
        let Some(snapshot) = brant_record::read(living_thread(pid))? else { return Ok(None) };
        let after = outside_of(pid);
        let record = Record::of(&snapshot);
        let compared = before.in_common(&after).compare(&record);
        let mut outside = before.and(after);
        let here = Differences { gone: outside.gone(&record), compared };
        let standing = match differences.take() {
            Some(earlier) => here.standing_since(&earlier),
            None => here,
        };
        if look == LOOKS || standing.are_none() {
            outside.believe(&record, &standing.gone);
            let inner_pid = proc::status(pid).map_or(record.pid, |status| status.inner_pid().0);
            return Ok(Some(State { record, outside, compared: standing.compared, inner_pid }));
        }
        differences = Some(standing);
        std::thread::sleep(PAUSE);
    }
    Ok(None)
}

/// Where a record and the kernel differ.
struct Differences {
    /// Descriptors that are open by the record only, with the time of their opening.
    gone: BTreeSet<(i32, u64)>,
    compared: Compared,
}

impl Differences {
    fn are_none(&self) -> bool {
        self.gone.is_empty() && self.compared == Compared::default()
    }

    /// Those that were there before, too.
    fn standing_since(mut self, earlier: &Differences) -> Differences {
        self.gone.retain(|key| earlier.gone.contains(key));
        self.compared.unknown_descriptors.retain(|it| earlier.compared.unknown_descriptors.contains(it));
        self.compared.unknown_threads.retain(|it| earlier.compared.unknown_threads.contains(it));
        self.compared.unknown_children.retain(|it| earlier.compared.unknown_children.contains(it));
        self
    }
}

/// A main thread that has ended has no memory that could be read.
fn living_thread(pid: Pid) -> Pid {
    let is_alive = |tid: &Tid| proc::stat((pid, *tid)).is_ok_and(|stat| stat.state != b'Z');
    let tasks = proc::tasks(pid).unwrap_or_default();
    tasks.iter().find(|tid| is_alive(tid)).map_or(pid, |tid| Pid(tid.0))
}

fn outside_of(pid: Pid) -> Outside {
    let task = living_thread(pid);
    let mut outside = Outside::default();
    for number in proc::open_descriptors(task).unwrap_or_default() {
        let position = proc::fdinfo(task, number).ok().and_then(|info| u64::try_from(info.position).ok());
        outside.descriptors.insert(number, position);
    }
    for tid in proc::tasks(pid).unwrap_or_default() {
        let Ok(status) = proc::status((pid, tid)) else { continue };
        outside.threads.insert(status.inner_tid().0 as u32, proc::comm((pid, tid)).unwrap_or_default());
    }
    for child in proc::children(pid).unwrap_or_default() {
        outside.children.extend(proc::status(child).map(|status| status.inner_pid().0));
    }
    let ranges = proc::maps(task).unwrap_or_default();
    outside.mapped = ranges.iter().map(|entry| (entry.range.start().0, entry.range.end().0)).collect();
    outside
}

/// The processes of an image.
pub(super) fn of_image(image: &Image, path: &Path) -> Result<Vec<Shown>, Failure> {
    let damaged = |code, error: &dyn std::error::Error| {
        Failure::of_error(code, format!("the record in {} cannot be read", path.display()), error)
    };
    let notes = image.notes(NOTE).map_err(|error| damaged(error.code(), &error))?;
    let mut snapshots = BTreeMap::new();
    for note in notes {
        let snapshot = Snapshot::decode(&note.bytes).map_err(|error| match error {
            brant_record::Malformed::Version(_) => damaged("B-1162", &error),
            _ => Failure { exit: exit::CORRUPT, ..damaged("B-1163", &error) },
        })?;
        snapshots.insert(note.pid, snapshot);
    }
    let checkpoint = image.checkpoint();
    let alive = checkpoint.processes.iter().filter(|process| process.body.is_some());
    let shown = alive.map(|process| {
        let state = snapshots.remove(&process.pid).map(|snapshot| {
            let record = Record::of(&snapshot);
            let outside = outside_in(checkpoint, process.pid);
            let compared = outside.compare(&record);
            State { record, outside, compared, inner_pid: process.pid.0 }
        });
        let is_root = process.pid == checkpoint.root;
        Shown {
            pid: process.pid,
            name: brant_image::inspect::readable(&process.name),
            command: if is_root { words(&checkpoint.command) } else { Vec::new() },
            is_from_image: true,
            now_ns: u64::try_from(checkpoint.clocks.realtime_ns).unwrap_or(0),
            state,
        }
    });
    Ok(shown.collect())
}

fn outside_in(checkpoint: &Checkpoint, pid: Pid) -> Outside {
    let mut outside = Outside::default();
    let process = checkpoint.processes.iter().find(|process| process.pid == pid);
    let Some(body) = process.and_then(|process| process.body.as_ref()) else { return outside };
    for descriptor in &body.descriptors {
        let file = checkpoint.open_files.iter().find(|file| file.id == descriptor.file);
        let has_position =
            |kind: &FileKind| matches!(kind, FileKind::Regular { .. } | FileKind::Directory { .. });
        let position = file.filter(|file| has_position(&file.kind)).map(|file| file.position);
        outside.descriptors.insert(descriptor.number, position);
    }
    for thread in &body.threads {
        outside.threads.insert(thread.tid.0 as u32, thread.name.clone());
    }
    let children = checkpoint.processes.iter().filter(|process| process.ppid == pid);
    outside.children = children.map(|process| process.pid.0).collect();
    debug_assert!(process.is_none_or(|process| !matches!(process.state, ProcessState::Zombie { .. })));
    outside.mapped = body.memory.mappings.iter().map(|it| (it.range.start().0, it.range.end().0)).collect();
    outside
}

fn words(command: &[Vec<u8>]) -> Vec<String> {
    // Programs that change their title leave empty words behind it.
    let end = command.iter().rposition(|word| !word.is_empty()).map_or(0, |last| last + 1);
    command[..end].iter().map(|word| brant_image::inspect::readable(word)).collect()
}
