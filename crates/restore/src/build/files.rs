//! Open file descriptions: opened in the builder, inherited by every task, put at their numbers there.

use std::os::fd::{OwnedFd, RawFd};

use brant_image::Image;
use brant_image::model::{DiskFileId, OpenFileId, Process, SharedMemoryId, TerminalId};
use brant_kernel::remote::Puppet;

use crate::{Error, Options, Plan};

/// Every open file description of the image, open in the builder at numbers above all that the tree uses.
/// Tasks of the tree are forked from the builder and so have them at the same numbers.
pub(crate) struct FdStore {
    pub(crate) floor: RawFd,
}

impl FdStore {
    /// Opens everything. Runs in the mount namespace that the tree will have, before its first task exists;
    /// /proc is still the builder's.
    pub(crate) fn open(image: &Image, plan: &Plan, options: &Options) -> Result<FdStore, Error> {
        let _ = (image, plan, options);
        Ok(FdStore { floor: 0 })
    }

    /// Moves a descriptor of the builder's own above the store's floor, so that tasks can keep it.
    pub(crate) fn adopt(&mut self, fd: OwnedFd) -> Result<RawFd, Error> {
        let _ = fd;
        todo!()
    }

    /// The number to map this file with (or to name it as an executable); opened for writing as well where
    /// `writable`.
    pub(crate) fn disk_file(&self, id: DiskFileId, writable: bool) -> Option<RawFd> {
        let _ = (id, writable);
        todo!()
    }

    /// The number of this shared memory, of its recorded size and empty until memory.rs fills it.
    pub(crate) fn shared_memory(&self, id: SharedMemoryId, writable: bool) -> Option<RawFd> {
        let _ = (id, writable);
        todo!()
    }

    /// The number of an open file description.
    pub(crate) fn open_file(&self, id: OpenFileId) -> Option<RawFd> {
        let _ = id;
        todo!()
    }

    /// The number of a slave side of this terminal.
    pub(crate) fn terminal_slave(&self, id: TerminalId) -> Option<RawFd> {
        let _ = id;
        todo!()
    }

    /// Masters of terminals whose master is outside of the tree: the keeper relays them. Called in the keeper.
    pub(crate) fn take_relayed_masters(&mut self) -> Vec<(TerminalId, OwnedFd)> {
        Vec::new()
    }

    /// Closes every descriptor of the store but `keep`. Called in the keeper.
    pub(crate) fn close_all(&mut self, keep: &[RawFd]) {
        let _ = keep;
    }

    /// Puts the process's descriptors at their numbers and closes everything else of the store in it.
    pub(crate) fn place(&self, puppet: &mut Puppet, process: &Process) -> Result<(), Error> {
        let _ = (puppet, process);
        todo!()
    }

    /// What can only be done when all tasks of the tree exist and have their descriptors: epoll watches, file
    /// owners, record locks, pidfds. Called once for each process, after `place` of all.
    pub(crate) fn finish(&self, puppet: &mut Puppet, process: &Process) -> Result<(), Error> {
        let _ = (puppet, process);
        todo!()
    }
}
