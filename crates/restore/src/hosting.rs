//! The keeper and the tree's first task.
//!
//! Killed at any instant: the keeper ends at the end of its `start` and `go` pipes, and the first task with it.

use std::convert::Infallible;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use brant_base::{Pid, fault};
use brant_image::model::Checkpoint;
use brant_kernel::namespace::{self as kernel_namespace, NamespaceError, Side};
use brant_kernel::{proc, task};

use crate::build::files::FdStore;
use crate::build::shape::{INIT, TreeShape};
use crate::{Error, Handoff, Way};

/// The keeper and the first task exist.
pub(crate) struct Hosted {
    pub(crate) keeper: Pid,
    pub(crate) first: Pid,
    pub(crate) go: PipeWriter,
    pub(crate) status_fd: RawFd,
}

const PIPE: &str = "making a pipe";

/// Forks the keeper, which makes the first task. In namespaces of our own it is the first of its pid namespace and mounts /proc;
/// without them it adopts what is orphaned in the tree.
#[allow(unreachable_code, reason = "the empty match tells the type checker that a keeper never returns")]
pub(crate) fn host(
    checkpoint: &Checkpoint,
    shape: &TreeShape,
    store: &mut FdStore,
    keeper: impl FnOnce(Handoff) -> Infallible,
) -> Result<Hosted, Error> {
    let (go_reader, go) = io::pipe().map_err(Error::builder(PIPE))?;
    let (status_reader, status_writer) = io::pipe().map_err(Error::builder(PIPE))?;
    let (start_reader, start) = io::pipe().map_err(Error::builder(PIPE))?;
    let (mut report_reader, report) = io::pipe().map_err(Error::builder(PIPE))?;
    let status_fd = store.adopt(status_writer.into())?;
    let way = match store.numbers.are_given() {
        true => Way::AnyPid,
        false => Way::Namespaces,
    };
    let keeper_pid = match fork(way)? {
        Side::Parent(pid) => pid,
        Side::Child => {
            drop((go, start, report_reader));
            let reaps_root = !shape.parents.iter().any(|parent| {
                checkpoint
                    .processes
                    .iter()
                    .any(|process| process.pid == checkpoint.root && process.ppid == *parent)
            });
            let slave = shape.keeper_terminal.and_then(|terminal| store.terminal_slave(terminal));
            let terminal = slave.and_then(|number| store.borrow(number));
            run_keeper(start_reader, report, (way, shape.first), terminal);
            let handoff = Handoff {
                root_is_child: reaps_root,
                sleepers: shape.sleepers.clone(),
                terminals: store.take_relayed_masters(),
                go: go_reader.into(),
                status: status_reader.into(),
            };
            store.close_all(&keep_of(&handoff));
            match keeper(handoff) {}
        }
    };
    drop((start_reader, report, go_reader, status_reader));
    fault::reach("restore.keeper-forked");
    if way == Way::Namespaces {
        // A mount namespace of our own again, in which /proc stays the host's.
        kernel_namespace::leave_mounts()?;
    }
    store.numbers.note(INIT.0, keeper_pid.into());
    { start }.write_all(&[1]).map_err(|_| Error::KeeperEnded)?;
    read_report(&mut report_reader)?;
    let children = proc::children(keeper_pid)?;
    let [first] = children[..] else { return Err(Error::KeeperEnded) };
    Ok(Hosted { keeper: keeper_pid, first, go, status_fd })
}

/// Forks the keeper: in a new pid namespace, or in ours.
fn fork(way: Way) -> Result<Side, Error> {
    match way {
        Way::Namespaces => Ok(kernel_namespace::fork()?),
        Way::AnyPid => match task::fork().map_err(Error::builder("making the keeper"))? {
            task::Fork::Child => Ok(Side::Child),
            task::Fork::Parent { child } => Ok(Side::Parent(child)),
        },
    }
}

fn keep_of(handoff: &Handoff) -> Vec<RawFd> {
    let masters = handoff.terminals.iter().map(|(_, master)| master.as_raw_fd());
    masters.chain([handoff.go.as_raw_fd(), handoff.status.as_raw_fd()]).collect()
}

const REPORT_READY: u8 = 0;
const REPORT_NO_PROC: u8 = 1;
const REPORT_NO_TASK: u8 = 2;

/// In the keeper: waits until the builder is in other mounts, then mounts /proc, leads a session, with `terminal` as its
/// controlling one, and makes the first task in it.
fn run_keeper(
    mut start: PipeReader,
    mut report: PipeWriter,
    (way, first): (Way, Pid),
    terminal: Option<BorrowedFd<'_>>,
) {
    let mut byte = [0];
    if start.read(&mut byte).unwrap_or(0) == 0 {
        std::process::exit(1);
    }
    let mounted = match way {
        Way::Namespaces => kernel_namespace::mount_proc(),
        Way::AnyPid => Ok(()),
    };
    fault::reach("restore.keeper-mounted");
    let make_first = || match way {
        Way::Namespaces => kernel_namespace::fork_sleeper(first),
        Way::AnyPid => task::become_subreaper().and_then(|()| kernel_namespace::fork_bound_sleeper()),
    };
    let (kind, error) = match mounted {
        Err(NamespaceError::Mount { error, .. }) => (REPORT_NO_PROC, Some(error)),
        Err(_) => (REPORT_NO_PROC, None),
        Ok(()) => match task::lead_session(terminal).and_then(|()| make_first()) {
            Err(error) => (REPORT_NO_TASK, Some(error)),
            Ok(()) => (REPORT_READY, None),
        },
    };
    let errno = error.and_then(|error| error.raw_os_error()).unwrap_or(0);
    let mut bytes = vec![kind];
    bytes.extend(errno.to_le_bytes());
    let written = report.write_all(&bytes);
    if kind != REPORT_READY || written.is_err() {
        std::process::exit(1);
    }
}

fn read_report(report: &mut PipeReader) -> Result<(), Error> {
    let mut bytes = [0; 5];
    report.read_exact(&mut bytes).map_err(|_| Error::KeeperEnded)?;
    let error = io::Error::from_raw_os_error(i32::from_le_bytes(bytes[1..].try_into().expect("four bytes")));
    match bytes[0] {
        REPORT_READY => Ok(()),
        REPORT_NO_PROC => Err(NamespaceError::Mount { what: "/proc", error }.into()),
        _ => Err(Error::Builder { operation: "making the first task", error }),
    }
}
