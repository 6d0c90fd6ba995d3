//! The builder: the phases of a restore in order.
//!
//! Whoever is killed at whatever instant: until the commit all tasks of the tree are traced with EXITKILL and
//! the keeper ends at the end of its `go` pipe, so nothing is left; after the commit all is there and runs on.

use std::convert::Infallible;
use std::os::fd::OwnedFd;

use brant_base::Pid;
use brant_image::Image;
use brant_image::model::TerminalId;

use crate::{Error, FilesPolicy, Plan};

/// What a user may choose.
#[derive(Debug)]
pub struct Options {
    /// Nobody is in the foreground: the job runs on by itself.
    pub detached: bool,
    pub files: FilesPolicy,
    /// Paths of the image that begin with the first are looked for at the second.
    pub map_paths: Vec<(Vec<u8>, Vec<u8>)>,
    /// What descriptors 0-2 whose other end was outside the tree are connected to.
    pub stdio: [OwnedFd; 3],
    /// Redirect the vdso even where it is the same: for tests of that path.
    pub redirect_vdso: bool,
}

/// What the keeper, pid 1 of the tree's pid namespace, gets.
#[derive(Debug)]
pub struct Handoff {
    /// The root of the tree, by its number inside.
    pub root: Pid,
    /// The keeper is its parent and reaps it. Else a placeholder is, and its wait status comes through `status`.
    pub root_is_child: bool,
    /// Tasks that hold a number and sleep for ever, by their numbers inside. The keeper ends them when only they
    /// are left.
    pub sleepers: Vec<Pid>,
    /// One byte comes when the tree runs; the end of the pipe before that means that it never will: the
    /// keeper ends.
    pub go: OwnedFd,
    /// Four bytes, little-endian: the root's wait status, where a placeholder is its parent.
    pub status: OwnedFd,
    /// Masters of terminals that are to be relayed.
    pub terminals: Vec<(TerminalId, OwnedFd)>,
}

/// A tree that runs.
#[derive(Debug, Clone)]
pub struct Restored {
    /// The root's number on this host and inside.
    pub root_host: Pid,
    pub root_inside: Pid,
    pub keeper_host: Pid,
    /// Settings that this user may not restore, for people.
    pub warnings: Vec<String>,
}

/// Builds the tree of `image` and lets it go. The caller is a process of its own with one thread, made for
/// this; it is in other namespaces afterwards, and should end.
///
/// `keeper` runs in pid 1 of the new pid namespace and never returns.
pub fn restore(
    image: &Image,
    plan: Plan,
    options: Options,
    keeper: impl FnOnce(Handoff) -> Infallible,
) -> Result<Restored, Error> {
    let _ = (image, plan, options, keeper);
    todo!()
}
