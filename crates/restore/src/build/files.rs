//! Open file descriptions: opened in the builder, inherited by every task, put at their numbers there.
//!
//! The builder opens each description once, at a number above all that the tree uses. Tasks are forked from it, so what
//! was shared is shared again by inheritance. What depends on who makes it (watches, locks, owners, the
//! controlling terminal) is made by remote calls in [`FdStore::finish`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use brant_base::Pid;
use brant_image::Image;
use brant_image::model::*;
use brant_kernel::make;
use brant_kernel::remote::{Call, Puppet, RemoteError};

use super::tree::Tasks;
use super::unix::UnixSockets;
use super::{disk, late, peers, pipes, sockets, terminals, unix};
use crate::numbers::Numbers;
use crate::{Error, Options, Plan};

/// Every open file description of the image, open in the builder at numbers above all that the tree uses.
/// Tasks of the tree are forked from the builder and so have them at the same numbers.
pub(crate) struct FdStore {
    /// The lowest number of the store; all final numbers lie below.
    floor: RawFd,
    open_files: BTreeMap<OpenFileId, RawFd>,
    disk_files: BTreeMap<(DiskFileId, bool), RawFd>,
    shared_memory: BTreeMap<(SharedMemoryId, bool), RawFd>,
    slaves: BTreeMap<TerminalId, RawFd>,
    masters: BTreeMap<TerminalId, RawFd>,
    /// Keeps all of it open in the builder.
    held: Vec<OwnedFd>,
    /// Files without a name, made once.
    pub(super) stored: RefCell<BTreeMap<DiskFileId, OwnedFd>>,
    /// Sockets whose queues are not filled yet.
    unix: RefCell<UnixSockets>,
    /// What came out otherwise than it was, for people.
    warnings: RefCell<Vec<String>>,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) numbers: Numbers,
}

impl FdStore {
    /// Opens everything. Runs in the mount namespace that the tree will have, before its first task exists;
    /// /proc is still the builder's.
    pub(crate) fn open(
        image: &Image,
        plan: &Plan,
        options: &Options,
        numbers: Numbers,
    ) -> Result<FdStore, Error> {
        let checkpoint = image.checkpoint();
        let mut store = FdStore {
            floor: floor(checkpoint),
            open_files: BTreeMap::new(),
            disk_files: BTreeMap::new(),
            shared_memory: BTreeMap::new(),
            slaves: BTreeMap::new(),
            masters: BTreeMap::new(),
            held: Vec::new(),
            stored: RefCell::default(),
            unix: RefCell::default(),
            warnings: RefCell::default(),
            checkpoint: checkpoint.clone(),
            numbers,
        };
        make::raise_descriptor_limit().map_err(Error::builder("raising the limit of descriptors"))?;
        disk::open_mapped(&mut store, image, plan)?;
        for memory in &checkpoint.shared_memory {
            store.make_shared(memory)?;
        }
        terminals::open_all(&mut store)?;
        let mut made = pipes::make_all(&store, plan)?;
        let mut unix = unix::make_all(&store, plan)?;
        made.extend(sockets::make_all(&store, plan, &mut unix)?);
        for file in &checkpoint.open_files {
            if let Some(fd) = made.remove(&file.id) {
                store.put(file.id, fd)?;
                continue;
            }
            if let Some(fd) = open_one(&store, image, plan, options, file)? {
                store.put(file.id, fd)?;
            }
        }
        store.unix = RefCell::new(unix);
        terminals::lock(&store)?;
        disk::set_modes(&store)?;
        // A file that is executed may not be open for writing.
        store.stored.borrow_mut().clear();
        Ok(store)
    }

    fn make_shared(&mut self, memory: &SharedMemory) -> Result<(), Error> {
        let failed = || Error::builder("making shared memory");
        let (name, mode) = match &memory.kind {
            SharedMemoryKind::Anonymous => (&b"shared anonymous"[..], 0o777),
            SharedMemoryKind::Memfd { name, mode, .. } => (&name[..], *mode),
        };
        let fd = make::memfd(name, memory.bytes, mode).map_err(failed())?;
        let read_only = make::reopen(&fd, libc::O_RDONLY).map_err(failed())?;
        let writable = self.adopt(fd)?;
        let read_only = self.adopt(read_only)?;
        self.shared_memory.insert((memory.id, true), writable);
        self.shared_memory.insert((memory.id, false), read_only);
        Ok(())
    }

    /// Moves a descriptor of the builder's own above the store's floor, so that tasks can keep it.
    pub(crate) fn adopt(&mut self, fd: OwnedFd) -> Result<RawFd, Error> {
        let moved = make::duplicate_at_least(&fd, self.floor)
            .map_err(Error::builder("moving a descriptor out of the tree's way"))?;
        let number = moved.as_raw_fd();
        self.held.push(moved);
        Ok(number)
    }

    pub(super) fn put(&mut self, id: OpenFileId, fd: OwnedFd) -> Result<(), Error> {
        let number = self.adopt(fd)?;
        self.open_files.insert(id, number);
        Ok(())
    }

    pub(super) fn put_disk(&mut self, id: DiskFileId, writable: bool, fd: OwnedFd) -> Result<(), Error> {
        let number = self.adopt(fd)?;
        self.disk_files.insert((id, writable), number);
        Ok(())
    }

    pub(super) fn put_terminal(
        &mut self,
        id: TerminalId,
        master: OwnedFd,
        slave: OwnedFd,
    ) -> Result<(), Error> {
        let (master, slave) = (self.adopt(master)?, self.adopt(slave)?);
        self.masters.insert(id, master);
        self.slaves.insert(id, slave);
        Ok(())
    }

    /// A descriptor of the store, for a call in the builder.
    pub(crate) fn borrow(&self, number: RawFd) -> Option<BorrowedFd<'_>> {
        use std::os::fd::AsFd;
        self.held.iter().find(|fd| fd.as_raw_fd() == number).map(|fd| fd.as_fd())
    }

    /// The number to map this file with (or to name it as an executable); opened for writing as well where
    /// `writable`.
    pub(crate) fn disk_file(&self, id: DiskFileId, writable: bool) -> Option<RawFd> {
        self.disk_files.get(&(id, writable)).copied()
    }

    /// The number of this shared memory, of its recorded size and empty until memory.rs fills it.
    pub(crate) fn shared_memory(&self, id: SharedMemoryId, writable: bool) -> Option<RawFd> {
        self.shared_memory.get(&(id, writable)).copied()
    }

    /// The number of an open file description.
    pub(crate) fn open_file(&self, id: OpenFileId) -> Option<RawFd> {
        self.open_files.get(&id).copied()
    }

    /// The number of a slave side of this terminal.
    pub(crate) fn terminal_slave(&self, id: TerminalId) -> Option<RawFd> {
        self.slaves.get(&id).copied()
    }

    pub(super) fn warn(&self, warning: String) {
        self.warnings.borrow_mut().push(warning);
    }

    pub(crate) fn take_warnings(&self) -> Vec<String> {
        self.warnings.take()
    }

    /// The lowest number of the store.
    pub(super) fn floor(&self) -> RawFd {
        self.floor
    }

    /// The record of an open file description.
    pub(super) fn description(&self, id: OpenFileId) -> &OpenFile {
        self.checkpoint.open_files.iter().find(|file| file.id == id).expect("validated")
    }

    /// The path of a file on disk, as it was recorded.
    pub(super) fn disk_path(&self, id: DiskFileId) -> Vec<u8> {
        self.disk_record(id).path.clone()
    }

    pub(super) fn disk_record(&self, id: DiskFileId) -> &DiskFile {
        self.checkpoint.disk_files.iter().find(|file| file.id == id).expect("validated")
    }

    /// The process that sets up what no process holds.
    pub(super) fn caretaker(&self) -> Option<Pid> {
        let mut alive = self.checkpoint.processes.iter().filter(|process| process.body.is_some());
        alive.next().map(|process| process.pid)
    }

    /// The first descriptor of this description in the tree.
    pub(super) fn first_holder(&self, id: OpenFileId) -> Option<(Pid, i32)> {
        let mut processes = self.checkpoint.processes.iter();
        processes.find_map(|process| {
            let mut descriptors = process.body.as_ref()?.descriptors.iter();
            let found = descriptors.find(|descriptor| descriptor.file == id)?;
            Some((process.pid, found.number))
        })
    }

    pub(super) fn terminal_master(&self, id: TerminalId) -> Option<RawFd> {
        self.masters.get(&id).copied()
    }

    /// Masters of terminals whose master is outside of the tree: the keeper relays them. Called in the keeper.
    pub(crate) fn take_relayed_masters(&mut self) -> Vec<(TerminalId, OwnedFd)> {
        let outside = self.checkpoint.terminals.iter().filter(|terminal| !terminal.inside);
        let ids: Vec<TerminalId> = outside.map(|terminal| terminal.id).collect();
        let mut masters = Vec::new();
        for id in ids {
            let Some(number) = self.masters.remove(&id) else { continue };
            if let Some(at) = self.held.iter().position(|fd| fd.as_raw_fd() == number) {
                masters.push((id, self.held.swap_remove(at)));
            }
        }
        masters
    }

    /// Closes every descriptor of the store but `keep`. Called in the keeper.
    pub(crate) fn close_all(&mut self, keep: &[RawFd]) {
        let held = std::mem::take(&mut self.held);
        self.held = held.into_iter().filter(|fd| keep.contains(&fd.as_raw_fd())).collect();
        self.stored.borrow_mut().clear();
        self.unix.take();
    }

    /// Connects what only processes of the tree can, and puts back what is queued in unix sockets. Called once,
    /// before descriptors are placed.
    pub(crate) fn connect(&self, plan: &Plan, tasks: &mut Tasks) -> Result<(), Error> {
        peers::renew(self, tasks)?;
        unix::finish(self, plan, self.unix.take())
    }

    /// Lets what the task has of the store stay open in it when it executes a program.
    pub(crate) fn keep_open(&self, puppet: &mut Puppet) -> Result<(), RemoteError> {
        let folder = format!("/proc/{}/fd", puppet.tid());
        let names = std::fs::read_dir(folder).map_err(|error| RemoteError::Ptrace {
            tid: puppet.tid(),
            operation: "listing its descriptors",
            error,
        })?;
        let numbers = names.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
        let own = numbers.filter(|number| *number >= self.floor);
        let keep = |number: RawFd| Call::new(libc::SYS_fcntl, &[number as u64, libc::F_SETFD as u64, 0]);
        puppet.batch_all(&own.map(keep).collect::<Vec<Call>>()).map(drop)
    }

    /// Puts the process's descriptors at their numbers and closes everything else of the store in it.
    pub(crate) fn place(&self, puppet: &mut Puppet, process: &Process) -> Result<(), Error> {
        let Some(body) = &process.body else { return Ok(()) };
        let mut calls = Vec::new();
        let mut free_from = 0;
        for descriptor in &body.descriptors {
            let number = descriptor.number as u64;
            if free_from < number {
                calls.push(Call::new(libc::SYS_close_range, &[free_from, number - 1, 0]));
            }
            free_from = number + 1;
            let Some(store) = self.open_file(descriptor.file) else {
                calls.push(Call::new(libc::SYS_close_range, &[number, number, 0]));
                continue;
            };
            let flags = if descriptor.close_on_exec { libc::O_CLOEXEC as u64 } else { 0 };
            calls.push(Call::new(libc::SYS_dup3, &[store as u64, number, flags]));
        }
        if free_from < self.floor as u64 {
            calls.push(Call::new(libc::SYS_close_range, &[free_from, self.floor as u64 - 1, 0]));
        }
        puppet.batch_all(&calls).map_err(Error::remote(process.pid, "placing descriptors"))?;
        Ok(())
    }

    /// What can only be done when all tasks of the tree exist and have their descriptors: epoll watches, file
    /// owners, record locks, pidfds. Called once for each process, after `place` of all.
    pub(crate) fn finish(&self, puppet: &mut Puppet, process: &Process) -> Result<(), Error> {
        let Some(body) = &process.body else { return Ok(()) };
        late::finish(self, puppet, process, body)?;
        let last = u32::MAX as u64;
        puppet
            .call(libc::SYS_close_range, &[self.floor as u64, last, 0])
            .map_err(Error::remote(process.pid, "closing the store"))?;
        late::take_record_locks(self, puppet, process.pid, body)
    }
}

/// One above the largest descriptor of the tree.
fn floor(checkpoint: &Checkpoint) -> RawFd {
    const FLOOR_MIN: RawFd = 64;
    let bodies = checkpoint.processes.iter().filter_map(|process| process.body.as_ref());
    let numbers = bodies.flat_map(|body| body.descriptors.iter().map(|descriptor| descriptor.number + 1));
    numbers.max().unwrap_or(0).max(FLOOR_MIN)
}

/// Opens what needs nobody else. `None` for what a task must make itself.
fn open_one(
    store: &FdStore,
    image: &Image,
    plan: &Plan,
    options: &Options,
    file: &OpenFile,
) -> Result<Option<OwnedFd>, Error> {
    let status = file.flags as i32 & !libc::O_ASYNC;
    let nonblocking = status & libc::O_NONBLOCK;
    let fd = match &file.kind {
        FileKind::Regular { file: id } if disk::is_kernels(store.disk_record(*id)) => return Ok(None),
        FileKind::Regular { file: disk_file } => {
            disk::open_description(store, image, plan, file, *disk_file)?
        }
        FileKind::Directory { path } | FileKind::PathOnly { path } if path.starts_with(b"/proc/") => {
            return Ok(None);
        }
        FileKind::Directory { path } => disk::open_path(plan, path, status, file.position)?,
        FileKind::PathOnly { path } => disk::open_path(plan, path, status, 0)?,
        FileKind::Device { path, major: 5, minor: 0 } if path.ends_with(b"/tty") => return Ok(None),
        FileKind::Device { path, .. } => disk::open_path(plan, path, status, 0)?,
        FileKind::EventFd { counter, semaphore } => {
            make::eventfd(*counter, *semaphore, nonblocking).map_err(Error::builder("making an eventfd"))?
        }
        FileKind::Epoll { .. } => make::epoll().map_err(Error::builder("making an epoll instance"))?,
        FileKind::TimerFd(timer) => {
            make::timerfd(timer.clock, nonblocking).map_err(Error::builder("making a timerfd"))?
        }
        FileKind::SignalFd { mask } => {
            make::signalfd(*mask, nonblocking).map_err(Error::builder("making a signalfd"))?
        }
        FileKind::Inotify { watches } => make_inotify(watches, nonblocking)?,
        FileKind::Memfd { memory } => open_memfd(store, file, *memory)?,
        FileKind::TerminalMaster { terminal } => {
            let number = store.terminal_master(*terminal).expect("validated");
            let master = make::duplicate_at_least(store.borrow(number).expect("held"), store.floor)
                .map_err(Error::builder("duplicating a terminal"))?;
            make::set_status(&master, status).map_err(Error::builder("setting a terminal's flags"))?;
            master
        }
        FileKind::TerminalSlave { terminal } => {
            let number = store.terminal_slave(*terminal).expect("validated");
            make::reopen(store.borrow(number).expect("held"), status | libc::O_NOCTTY)
                .map_err(Error::builder("opening a terminal"))?
        }
        FileKind::Outside { stream, .. } => {
            let given = &options.stdio[*stream as usize];
            make::duplicate_at_least(given, store.floor).map_err(Error::builder("taking descriptors 0-2"))?
        }
        FileKind::PidFd { .. }
        | FileKind::Pipe { .. }
        | FileKind::UnixSocket { .. }
        | FileKind::InetSocket { .. } => {
            return Ok(None);
        }
    };
    Ok(Some(fd))
}

/// The first description for reading and writing is the one that memfd_create(2) made: unlike one of open(2) it does
/// not count as a writer, which would forbid to execute the memory.
fn open_memfd(store: &FdStore, file: &OpenFile, memory: SharedMemoryId) -> Result<OwnedFd, Error> {
    let failed = || Error::builder("opening a memfd");
    let status = file.flags as i32 & !disk::OPEN_ONCE;
    let number = store.shared_memory(memory, true).expect("validated");
    let memfd = store.borrow(number).expect("held");
    let is_made =
        |other: &&OpenFile| other.kind == file.kind && other.flags as i32 & libc::O_ACCMODE == libc::O_RDWR;
    let opened = if store.checkpoint.open_files.iter().find(is_made).is_some_and(|made| made.id == file.id) {
        let same = make::duplicate_at_least(memfd, store.floor).map_err(failed())?;
        make::set_status(&same, status).map_err(failed())?;
        same
    } else {
        make::reopen(memfd, status).map_err(failed())?
    };
    disk::seek(&opened, file.position)?;
    Ok(opened)
}

fn make_inotify(watches: &[InotifyWatch], nonblocking: i32) -> Result<OwnedFd, Error> {
    let fd = make::inotify(nonblocking).map_err(Error::builder("making an inotify instance"))?;
    let mut sorted: Vec<&InotifyWatch> = watches.iter().collect();
    sorted.sort_by_key(|watch| watch.descriptor);
    for watch in sorted {
        make::inotify_watch(&fd, &watch.path, watch.mask, watch.descriptor).map_err(|error| Error::Path {
            operation: "watching",
            path: String::from_utf8_lossy(&watch.path).into_owned(),
            error,
        })?;
    }
    // The removal of watches that only counted numbers was reported.
    make::drain(&fd).map_err(Error::builder("emptying an inotify instance"))?;
    Ok(fd)
}
