//! Open file descriptions, descriptor tables and locks, from a survey of a frozen tree.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use brant_base::{Pid, Refusal, Refusals, Tid};
use brant_image::model::*;
use brant_kernel::descriptor::{self, OwnerKind, PidFd};
use brant_kernel::proc::{self, LockEntry, LockKind};

use super::{pipes, sockets, terminals};
use crate::error::Error;
use crate::files::{Description, Place, Survey, What};
use crate::refusals;

/// Duplicates of a tree's descriptors, one process opened once.
#[derive(Default)]
pub(crate) struct Handles(HashMap<Pid, PidFd>);

impl Handles {
    /// A duplicate of what is open at `place`.
    pub(crate) fn duplicate(&mut self, place: Place) -> Result<OwnedFd, Error> {
        let failed = |error: io::Error| Error::Descriptor {
            what: format!("duplicating descriptor {} of process {}", place.number, place.holder),
            error,
        };
        if let std::collections::hash_map::Entry::Vacant(entry) = self.0.entry(place.holder) {
            entry.insert(PidFd::open(place.holder).map_err(failed)?);
        }
        self.0[&place.holder].descriptor(place.number).map_err(failed)
    }
}

impl Survey {
    /// Fills in everything that descriptors lead to. `checkpoint.processes` stands in the order of the members. What
    /// turns out here not to be possible is a refusal still: nothing was changed.
    pub(crate) fn collect(self, checkpoint: &mut Checkpoint) -> Result<(), Error> {
        let mut handles = Handles::default();
        let mut refusals = Refusals::default();
        for description in self.descriptions.all() {
            let file = open_file(&self, description, &mut handles, &mut refusals)?;
            checkpoint.open_files.push(file);
        }
        checkpoint.pipes = pipes::collect(&self, &mut handles)?;
        checkpoint.unix_sockets = sockets::collect_unix(&self, &mut handles, &mut refusals)?;
        checkpoint.inet_sockets = sockets::collect_inet(&self, &mut handles)?;
        checkpoint.terminals = terminals::collect(&self, &mut handles, &mut refusals)?;
        refusals.into_result(()).map_err(Error::Refused)?;
        for (index, process) in checkpoint.processes.iter_mut().enumerate() {
            process.terminal = self
                .terminals
                .iter()
                .find(|terminal| terminal.controls.contains(&index))
                .map(|found| found.id);
            let Some(body) = &mut process.body else { continue };
            let table = &self.descriptors[index];
            body.descriptors = table
                .iter()
                .map(|entry| Descriptor {
                    number: entry.number,
                    file: entry.file,
                    close_on_exec: entry.close_on_exec,
                })
                .collect();
            for entry in table {
                body.record_locks.extend(entry.locks.iter().filter(|lock| lock.kind == LockKind::Posix).map(
                    |lock| RecordLock {
                        number: entry.number,
                        exclusive: lock.exclusive,
                        start: lock.start,
                        length: lock.length(),
                    },
                ));
            }
            unique_locks(&mut body.record_locks, table_inodes(&self, index));
        }
        Ok(())
    }
}

/// A lock shows at every duplicate of the descriptor that it was taken through; one of them is enough.
fn unique_locks(locks: &mut Vec<RecordLock>, inodes: HashMap<i32, (u64, u64)>) {
    let mut seen = std::collections::HashSet::new();
    locks.retain(|lock| {
        seen.insert((inodes.get(&lock.number).copied(), lock.start, lock.length, lock.exclusive))
    });
}

fn table_inodes(survey: &Survey, index: usize) -> HashMap<i32, (u64, u64)> {
    let of = |id| {
        let status = &survey.descriptions.get(id).described.status;
        (status.device.to_stat(), status.inode)
    };
    survey.descriptors[index].iter().map(|entry| (entry.number, of(entry.file))).collect()
}

fn open_file(
    survey: &Survey,
    description: &Description,
    handles: &mut Handles,
    refusals: &mut Refusals,
) -> Result<OpenFile, Error> {
    let owner = if description.is_path_only() {
        None
    } else {
        let duplicate = handles.duplicate(description.place)?;
        owner(survey, description, &duplicate, refusals)?
    };
    Ok(OpenFile {
        id: description.id,
        flags: description.flags(),
        position: u64::try_from(description.info.position).unwrap_or(0),
        owner,
        kind: kind(description)?,
        locks: description.info.locks.iter().filter_map(file_lock).collect(),
    })
}

fn kind(description: &Description) -> Result<FileKind, Error> {
    let info = &description.info;
    let missing = || Error::Descriptor {
        what: format!("descriptor {} of process {}", description.place.number, description.place.holder),
        error: io::Error::other("the kernel does not show what it holds"),
    };
    Ok(match &description.what {
        What::Unknown => return Err(missing()),
        What::Plain(kind) => kind.clone(),
        What::Pipe(pipe) => FileKind::Pipe { pipe: *pipe },
        What::Unix(socket) => FileKind::UnixSocket { socket: *socket },
        What::Inet(socket) => FileKind::InetSocket { socket: *socket },
        What::EventFd => FileKind::EventFd {
            counter: info.eventfd_count.ok_or_else(missing)?,
            // Kernels before 6.5 do not show it; semaphores are rare.
            semaphore: info.eventfd_semaphore.unwrap_or(false),
        },
        What::TimerFd => {
            let timer = info.timerfd.ok_or_else(missing)?;
            FileKind::TimerFd(TimerFd {
                clock: timer.clock,
                settime_flags: timer.settime_flags,
                remaining_ns: timer.value_ns,
                interval_ns: timer.interval_ns,
                ticks: timer.ticks,
            })
        }
        What::SignalFd => FileKind::SignalFd { mask: info.signal_mask.ok_or_else(missing)? },
        What::Epoll(watches) => FileKind::Epoll { watches: watches.clone() },
        What::Inotify(watches) => FileKind::Inotify { watches: watches.clone() },
        What::Master(terminal) => FileKind::TerminalMaster { terminal: *terminal },
        What::Slave(terminal) => FileKind::TerminalSlave { terminal: *terminal },
    })
}

fn file_lock(lock: &LockEntry) -> Option<FileLock> {
    let kind = match lock.kind {
        LockKind::Flock => FileLockKind::Flock,
        LockKind::Ofd => FileLockKind::Ofd { start: lock.start, length: lock.length() },
        LockKind::Posix | LockKind::Lease => return None,
    };
    Some(FileLock { kind, exclusive: lock.exclusive })
}

/// Who gets its signals, by the tree's own numbers.
fn owner(
    survey: &Survey,
    description: &Description,
    duplicate: &OwnedFd,
    refusals: &mut Refusals,
) -> Result<Option<FileOwner>, Error> {
    let failed = |error| Error::Descriptor { what: "asking for a descriptor's owner".to_owned(), error };
    let Some(owner) = descriptor::owner(duplicate.as_fd()).map_err(failed)? else { return Ok(None) };
    let signal = descriptor::owner_signal(duplicate.as_fd()).map_err(failed)?;
    let kind = match owner.kind {
        OwnerKind::Thread => inside_thread(survey, owner.id).map(FileOwnerKind::Thread),
        OwnerKind::Process => {
            let member = survey.members.iter().find(|member| member.host.0 == owner.id);
            member.map(|member| FileOwnerKind::Process(member.pid))
        }
        OwnerKind::Group => survey.sessions.group_inside(owner.id).map(FileOwnerKind::Group),
    };
    if kind.is_none() {
        refusals.push(outside_owner(description, owner.id));
    }
    Ok(kind.map(|kind| FileOwner { kind, signal }))
}

fn inside_thread(survey: &Survey, tid: i32) -> Option<Tid> {
    let status = proc::status(Pid(tid)).ok()?;
    let member = survey.members.iter().any(|member| member.host == status.tgid);
    let inside = status.ns_pid.last().copied();
    inside.filter(|_| member).map(Tid)
}

fn outside_owner(description: &Description, id: i32) -> Refusal {
    refusals::descriptor(
        "B-0345",
        description.place.holder,
        description.place.number,
        refusals::text(&description.described.path),
        format!("its signals go to process or group {id}, which is outside of the tree"),
        "let the program set another owner (F_SETOWN)",
    )
}
