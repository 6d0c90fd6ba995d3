//! Performs the steps of a [`TreeShape`]: afterwards every process exists as a stopped puppet with its number,
//! parent, session, group and controlling terminal.

use std::collections::BTreeMap;

use brant_base::Pid;
use brant_image::model::Checkpoint;
use brant_kernel::remote::{Call, Fork, Puppet};

use super::files::FdStore;
use super::shape::{Step, TreeShape, zombies};
use crate::Error;
use crate::numbers::Numbers;

/// The stopped tasks by their number inside; only main threads.
pub(crate) struct Tasks {
    pub(crate) puppets: BTreeMap<Pid, Puppet>,
    pub(crate) numbers: Numbers,
}

/// Signals that have a disposition.
const SIGNALS: std::ops::RangeInclusive<u64> = 1..=64;
const ACTION_BYTES: usize = 32;
const MASK_BYTES: u64 = 8;

impl Tasks {
    /// Makes all tasks, starting with `first`.
    pub(crate) fn grow(mut first: Puppet, shape: &TreeShape, store: &FdStore) -> Result<Tasks, Error> {
        reset_actions(&mut first).map_err(Error::remote(shape.first, "resetting signal actions"))?;
        let numbers = store.numbers.clone();
        numbers.note(shape.first.0, first.tid());
        let mut tasks = Tasks { puppets: BTreeMap::from([(shape.first, first)]), numbers };
        for step in &shape.steps {
            tasks.perform(step, store)?;
        }
        Ok(tasks)
    }

    pub(crate) fn get(&mut self, pid: Pid) -> &mut Puppet {
        self.puppets.get_mut(&pid).expect("the plan makes every task before it uses it")
    }

    fn call(&mut self, pid: Pid, what: &'static str, number: i64, arguments: &[u64]) -> Result<u64, Error> {
        self.get(pid).call(number, arguments).map_err(Error::remote(pid, what))
    }

    fn perform(&mut self, step: &Step, store: &FdStore) -> Result<(), Error> {
        match *step {
            Step::Child { by, pid, exit_signal } => self.make(by, pid, Fork::Child { exit_signal }),
            Step::Brother { by, pid } => self.make(by, pid, Fork::Sibling),
            Step::FoundSession { pid } => {
                self.call(pid, "founding its session", libc::SYS_setsid, &[]).map(drop)
            }
            Step::TakeTerminal { leader, terminal } => {
                // A terminal that is not carried leaves the session without one.
                let Some(slave) = store.terminal_slave(terminal) else { return Ok(()) };
                let arguments = [slave as u64, libc::TIOCSCTTY, 0];
                self.call(leader, "taking its controlling terminal", libc::SYS_ioctl, &arguments).map(drop)
            }
            Step::JoinGroup { pid, group } => {
                let arguments = [0, self.numbers.of(group)?.0 as u64];
                self.call(pid, "joining its process group", libc::SYS_setpgid, &arguments).map(drop)
            }
            Step::Adopt { pid, on } => {
                let arguments = [libc::PR_SET_CHILD_SUBREAPER as u64, u64::from(on)];
                self.call(pid, "becoming a subreaper", libc::SYS_prctl, &arguments).map(drop)
            }
            Step::End { pid, reaper } => self.end(pid, 0, reaper),
        }
    }

    fn make(&mut self, by: Pid, pid: Pid, kind: Fork) -> Result<(), Error> {
        let wanted = self.numbers.wanted(pid.0);
        let puppet =
            self.get(by).fork(kind, wanted).map_err(Error::remote(pid, "getting its process number"))?;
        self.numbers.note(pid.0, puppet.tid());
        self.puppets.insert(pid, puppet);
        Ok(())
    }

    fn end(&mut self, pid: Pid, status: i32, reaper: Option<Pid>) -> Result<(), Error> {
        let puppet = self.puppets.remove(&pid).expect("made before");
        puppet.end(status).map_err(Error::remote(pid, "ending"))?;
        if let Some(reaper) = reaper {
            let arguments = [self.numbers.of(pid)?.0 as u64, 0, libc::__WALL as u64, 0];
            self.call(reaper, "reaping a temporary task", libc::SYS_wait4, &arguments)?;
        }
        Ok(())
    }

    /// Sets foreground groups, ends what was only needed for the making, and turns zombies into zombies.
    pub(crate) fn settle(
        &mut self,
        checkpoint: &Checkpoint,
        shape: &TreeShape,
        store: &FdStore,
    ) -> Result<(), Error> {
        for (terminal, leader, group) in &shape.foreground {
            let Some(slave) = store.terminal_slave(*terminal) else { continue };
            let number = self.numbers.of(*group)?;
            let puppet = self.get(*leader);
            let room = puppet.arguments().start();
            puppet
                .write_memory(room, &number.0.to_le_bytes())
                .and_then(|()| puppet.call(libc::SYS_ioctl, &[slave as u64, libc::TIOCSPGRP, room.0]))
                .map_err(Error::remote(*leader, "setting its terminal's foreground group"))?;
        }
        for (pid, reaper) in &shape.temporary {
            self.end(*pid, 0, *reaper)?;
        }
        for (pid, status) in zombies(checkpoint) {
            self.end(pid, status, None)?;
        }
        Ok(())
    }

    /// Turns what remains of the stand-ins into what they are for: parents that reap (the root's tells
    /// `status_fd`) and sleepers. Takes effect when they are let go.
    pub(crate) fn place_stand_ins(
        &mut self,
        root: Pid,
        shape: &TreeShape,
        status_fd: i32,
    ) -> Result<(), Error> {
        let root = self.numbers.of(root)?;
        for pid in shape.parents.iter().chain(&shape.sleepers) {
            let puppet = self.get(*pid);
            let last = u64::from(u32::MAX);
            let mut calls = vec![
                Call::new(libc::SYS_close_range, &[0, status_fd as u64 - 1, 0]),
                Call::new(libc::SYS_close_range, &[status_fd as u64 + 1, last, 0]),
            ];
            let is_parent = shape.parents.contains(pid);
            if !is_parent {
                calls.push(Call::new(libc::SYS_close, &[status_fd as u64]));
            }
            puppet
                .batch_all(&calls)
                .map(drop)
                .and_then(|()| {
                    if is_parent { puppet.become_parent(root.0, status_fd) } else { puppet.become_sleeper() }
                })
                .map_err(Error::remote(*pid, "becoming a stand-in"))?;
        }
        Ok(())
    }
}

/// Gives every signal its default action: brant's own, such as an ignored SIGPIPE, are not the program's.
fn reset_actions(puppet: &mut Puppet) -> Result<(), brant_kernel::remote::RemoteError> {
    let room = puppet.arguments().start();
    puppet.write_memory(room, &[0; ACTION_BYTES])?;
    let calls: Vec<Call> =
        SIGNALS.map(|signal| Call::new(libc::SYS_rt_sigaction, &[signal, room.0, 0, MASK_BYTES])).collect();
    puppet.batch(&calls).map(drop)
}
