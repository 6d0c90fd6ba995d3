//! What a process of the tree must do itself once its descriptors are in place: what the kernel ties to the
//! process that asks for it.
//!
//! Facts relied upon: epoll(7) keys an interest by number and description; a signalfd that is watched reports the
//! signals of the process that added it; timerfd_settime(2) counts in the caller's time namespace; /dev/tty is the
//! opener's terminal; a listening unix socket shows its last listener's credentials; a process loses its record locks on a file when it closes *any* descriptor of that file
//! (fcntl(2)), so they are taken when the store is closed already.

use brant_base::{Addr, Pid};
use brant_image::model::*;
use brant_kernel::remote::{Puppet, RemoteError};

use super::files::FdStore;
use crate::Error;

/// Opens what depends on its opener, adds watches, sets timers and owners.
pub(super) fn finish(
    store: &FdStore,
    puppet: &mut Puppet,
    process: &Process,
    body: &ProcessBody,
) -> Result<(), Error> {
    let files = || body.descriptors.iter().map(|descriptor| (descriptor, store.description(descriptor.file)));
    // Everything is opened before watches look for it.
    for (descriptor, file) in files().filter(|(descriptor, _)| store.open_file(descriptor.file).is_none()) {
        open_late(store, puppet, process, body, file, descriptor)?;
    }
    for (descriptor, file) in files().filter(|(descriptor, _)| is_first(store, process, descriptor)) {
        set_up(store, puppet, process.pid, body, file, descriptor.number)?;
    }
    // What is in flight only is set up by the first process, under its number in the store.
    if store.caretaker() == Some(process.pid) {
        let in_flight =
            store.checkpoint.open_files.iter().filter(|file| store.first_holder(file.id).is_none());
        for file in in_flight {
            if let Some(number) = store.open_file(file.id) {
                set_up(store, puppet, process.pid, body, file, number)?;
            }
        }
    }
    Ok(())
}

/// Watches, timers, owners and locks of one description, by its descriptor `number`.
fn set_up(
    store: &FdStore,
    puppet: &mut Puppet,
    pid: Pid,
    body: &ProcessBody,
    file: &OpenFile,
    number: i32,
) -> Result<(), Error> {
    let failed = |operation| Error::remote(pid, operation);
    match &file.kind {
        FileKind::Epoll { watches } => {
            for watch in watches {
                add_watch(store, puppet, number, watch, body).map_err(failed("adding an epoll watch"))?;
            }
        }
        FileKind::TimerFd(timer) => {
            set_timer(puppet, number, timer, &store.checkpoint.clocks)
                .map_err(failed("setting a timerfd"))?;
        }
        FileKind::UnixSocket { socket } => {
            listen_again(store, puppet, number, *socket).map_err(failed("listening at its socket"))?;
        }
        _ => {}
    }
    if let Some(owner) = file.owner {
        let kind = match owner.kind {
            FileOwnerKind::Thread(tid) => FileOwnerKind::Thread(store.numbers.of(Pid(tid.0))?.into()),
            FileOwnerKind::Process(pid) => FileOwnerKind::Process(store.numbers.of(pid)?),
            FileOwnerKind::Group(pid) => FileOwnerKind::Group(store.numbers.of(pid)?),
        };
        let owner = FileOwner { kind, ..owner };
        set_owner(puppet, number, owner).map_err(failed("setting a file's owner"))?;
    }
    if file.flags & libc::O_ASYNC as u32 != 0 {
        let arguments = [number as u64, libc::F_SETFL as u64, u64::from(file.flags)];
        puppet.call(libc::SYS_fcntl, &arguments).map_err(failed("asking for signals of a file"))?;
    }
    for lock in &file.locks {
        take_lock(puppet, number, lock).map_err(failed("taking a file lock again"))?;
    }
    Ok(())
}

/// Whether this descriptor is the one through which its description is set up: the first in the tree.
fn is_first(store: &FdStore, process: &Process, descriptor: &Descriptor) -> bool {
    store.first_holder(descriptor.file) == Some((process.pid, descriptor.number))
}

/// Opens a description that only its process can open. One that descriptors of several processes share is opened
/// in each: such files have no position that matters.
fn open_late(
    store: &FdStore,
    puppet: &mut Puppet,
    process: &Process,
    body: &ProcessBody,
    file: &OpenFile,
    descriptor: &Descriptor,
) -> Result<(), Error> {
    let failed = |operation| Error::remote(process.pid, operation);
    let mut own = body.descriptors.iter().take_while(|other| other.number < descriptor.number);
    if let Some(before) = own.find(|other| other.file == descriptor.file) {
        let flags = close_on_exec(descriptor);
        let arguments = [before.number as u64, descriptor.number as u64, flags];
        return puppet.call(libc::SYS_dup3, &arguments).map(drop).map_err(failed("duplicating a descriptor"));
    }
    match &file.kind {
        FileKind::Device { path, .. } => {
            open_path(puppet, path, file, descriptor).map_err(failed("opening its terminal"))
        }
        FileKind::Directory { path } | FileKind::PathOnly { path } => {
            let path = store.numbers.path(path);
            open_path(puppet, &path, file, descriptor).map_err(failed("opening a directory of /proc"))
        }
        FileKind::Regular { file: id } => {
            let path = store.numbers.path(&store.disk_path(*id));
            open_path(puppet, &path, file, descriptor).map_err(failed("opening a file of /proc"))
        }
        FileKind::PidFd { pid } => {
            let pid = store.numbers.of(*pid)?;
            open_pidfd(puppet, pid, file, descriptor).map_err(failed("opening a pidfd"))
        }
        _ => Ok(()),
    }
}

fn close_on_exec(descriptor: &Descriptor) -> u64 {
    if descriptor.close_on_exec { libc::O_CLOEXEC as u64 } else { 0 }
}

/// Moves a descriptor that the process has just made to its number.
fn place(puppet: &mut Puppet, fd: u64, descriptor: &Descriptor) -> Result<(), RemoteError> {
    if fd != descriptor.number as u64 {
        puppet.call(libc::SYS_dup3, &[fd, descriptor.number as u64, close_on_exec(descriptor)])?;
        return puppet.call(libc::SYS_close, &[fd]).map(drop);
    }
    let flags = if descriptor.close_on_exec { libc::FD_CLOEXEC as u64 } else { 0 };
    puppet.call(libc::SYS_fcntl, &[fd, libc::F_SETFD as u64, flags]).map(drop)
}

fn open_path(
    puppet: &mut Puppet,
    path: &[u8],
    file: &OpenFile,
    descriptor: &Descriptor,
) -> Result<(), RemoteError> {
    let room = puppet.arguments().start();
    puppet.write_memory(room, &[path, &[0]].concat())?;
    let here = libc::AT_FDCWD as i64 as u64;
    let flags = (file.flags & !super::disk::OPEN_ONCE as u32) as u64;
    let fd = puppet.call(libc::SYS_openat, &[here, room.0, flags | libc::O_NOCTTY as u64])?;
    if file.position > 0 {
        puppet.call(libc::SYS_lseek, &[fd, file.position, libc::SEEK_SET as u64])?;
    }
    place(puppet, fd, descriptor)
}

fn open_pidfd(
    puppet: &mut Puppet,
    pid: Pid,
    file: &OpenFile,
    descriptor: &Descriptor,
) -> Result<(), RemoteError> {
    let nonblocking = file.flags as u64 & libc::O_NONBLOCK as u64;
    let fd = puppet.call(libc::SYS_pidfd_open, &[pid.0 as u64, nonblocking])?;
    place(puppet, fd, descriptor)
}

/// Adds one interest. Where the number that it was added with has another file by now, or none, the description is
/// lent the number for the call.
fn add_watch(
    store: &FdStore,
    puppet: &mut Puppet,
    epoll: i32,
    watch: &EpollWatch,
    body: &ProcessBody,
) -> Result<(), RemoteError> {
    let room = puppet.arguments().start();
    let mut event = [0u8; 12];
    event[..4].copy_from_slice(&watch.events.to_le_bytes());
    event[4..].copy_from_slice(&watch.data.to_le_bytes());
    puppet.write_memory(room, &event)?;
    let number = watch.number as u64;
    let add = [epoll as u64, libc::EPOLL_CTL_ADD as u64, number, room.0];
    let taken = body.descriptors.iter().find(|at| at.number == watch.number);
    if taken.is_some_and(|taken| taken.file == watch.file) {
        return puppet.call(libc::SYS_epoll_ctl, &add).map(drop);
    }
    let held = body.descriptors.iter().find(|at| at.file == watch.file).map(|at| at.number);
    // A description that is open nowhere any more is watched by nobody.
    let Some(holder) = store.open_file(watch.file).or(held) else { return Ok(()) };
    let saved = match taken {
        Some(_) => {
            let arguments = [number, libc::F_DUPFD_CLOEXEC as u64, store.floor() as u64];
            Some(puppet.call(libc::SYS_fcntl, &arguments)?)
        }
        None => None,
    };
    puppet.call(libc::SYS_dup3, &[holder as u64, number, 0])?;
    puppet.call(libc::SYS_epoll_ctl, &add)?;
    match (saved, taken) {
        (Some(saved), Some(taken)) => place(puppet, saved, taken),
        _ => puppet.call(libc::SYS_close, &[number]).map(drop),
    }
}

/// Those who connect see the process that listened last as their peer (SO_PEERCRED).
fn listen_again(
    store: &FdStore,
    puppet: &mut Puppet,
    number: i32,
    socket: UnixSocketId,
) -> Result<(), RemoteError> {
    let record = store.checkpoint.unix_sockets.iter().find(|record| record.id == socket);
    let Some(UnixSocketState::Listening { backlog }) = record.map(|record| record.state) else {
        return Ok(());
    };
    puppet.call(libc::SYS_listen, &[number as u64, u64::from(backlog)]).map(drop)
}

fn set_timer(puppet: &mut Puppet, fd: i32, timer: &TimerFd, frozen: &Clocks) -> Result<(), RemoteError> {
    const NS: u64 = 1_000_000_000;
    const SET_TICKS: u64 = 0x4008_5400;
    let room = puppet.arguments().start();
    // A timer that was set to a point in time keeps that point, whatever has passed since.
    let absolute = timer.settime_flags & libc::TFD_TIMER_ABSTIME as u32 != 0 && timer.remaining_ns > 0;
    let clock_ns = match timer.clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM => frozen.realtime_ns,
        libc::CLOCK_BOOTTIME | libc::CLOCK_BOOTTIME_ALARM => frozen.boottime_ns,
        _ => frozen.monotonic_ns,
    };
    let from = if absolute { u64::try_from(clock_ns).unwrap_or(0) } else { 0 };
    let set = |puppet: &mut Puppet, flags: u32, value: u64| {
        let words = [timer.interval_ns / NS, timer.interval_ns % NS, value / NS, value % NS];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        puppet.write_memory(room, &bytes)?;
        puppet.call(libc::SYS_timerfd_settime, &[fd as u64, u64::from(flags), room.0, 0]).map(drop)
    };
    if timer.remaining_ns == 0 && timer.interval_ns > 0 {
        // It has expired, and counts on when it is read.
        set(puppet, 0, 1)?;
    }
    if timer.remaining_ns > 0 {
        let flags = if absolute { timer.settime_flags } else { 0 };
        set(puppet, flags, from.saturating_add(timer.remaining_ns))?;
    }
    if timer.ticks == 0 {
        return Ok(());
    }
    puppet.write_memory(room, &timer.ticks.to_le_bytes())?;
    match puppet.call(libc::SYS_ioctl, &[fd as u64, SET_TICKS, room.0]) {
        // A kernel without checkpoint support: an expiration comes at once instead.
        Err(error) if error.errno() == Some(libc::ENOTTY) => set(puppet, 0, 1),
        other => other.map(drop),
    }
}

fn set_owner(puppet: &mut Puppet, fd: i32, owner: FileOwner) -> Result<(), RemoteError> {
    const F_SETOWN_EX: u64 = 15;
    const F_SETSIG: u64 = 10;
    let (kind, id) = match owner.kind {
        FileOwnerKind::Thread(tid) => (0i32, tid.0),
        FileOwnerKind::Process(pid) => (1, pid.0),
        FileOwnerKind::Group(pid) => (2, pid.0),
    };
    let room: Addr = puppet.arguments().start();
    let bytes: Vec<u8> = [kind, id].iter().flat_map(|word| word.to_le_bytes()).collect();
    puppet.write_memory(room, &bytes)?;
    puppet.call(libc::SYS_fcntl, &[fd as u64, F_SETOWN_EX, room.0])?;
    puppet.call(libc::SYS_fcntl, &[fd as u64, F_SETSIG, owner.signal as u64]).map(drop)
}

/// Takes a lock of the description again.
fn take_lock(puppet: &mut Puppet, fd: i32, lock: &FileLock) -> Result<(), RemoteError> {
    let FileLockKind::Ofd { start, length } = lock.kind else {
        let operation = if lock.exclusive { libc::LOCK_EX } else { libc::LOCK_SH };
        return puppet.call(libc::SYS_flock, &[fd as u64, (operation | libc::LOCK_NB) as u64]).map(drop);
    };
    let room = write_lock(puppet, lock.exclusive, start, length)?;
    puppet.call(libc::SYS_fcntl, &[fd as u64, libc::F_OFD_SETLK as u64, room.0]).map(drop)
}

/// A `struct flock` where the process can read it.
fn write_lock(puppet: &mut Puppet, exclusive: bool, start: u64, length: u64) -> Result<Addr, RemoteError> {
    let kind = if exclusive { libc::F_WRLCK } else { libc::F_RDLCK } as u64;
    let words = [kind, start, length, 0];
    let room = puppet.arguments().start();
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    puppet.write_memory(room, &bytes)?;
    Ok(room)
}

/// Takes the record locks of a process again. Nothing of the store may be open in it any more.
pub(super) fn take_record_locks(
    store: &FdStore,
    puppet: &mut Puppet,
    pid: Pid,
    body: &ProcessBody,
) -> Result<(), Error> {
    for lock in &body.record_locks {
        let number = lockable(store, body, lock);
        write_lock(puppet, lock.exclusive, lock.start, lock.length)
            .and_then(|room| puppet.call(libc::SYS_fcntl, &[number as u64, libc::F_SETLK as u64, room.0]))
            .map_err(Error::remote(pid, "taking a record lock again"))?;
    }
    Ok(())
}

/// A descriptor on the locked file whose access mode allows the lock: the one named may be another.
fn lockable(store: &FdStore, body: &ProcessBody, lock: &RecordLock) -> i32 {
    let file_of = |descriptor: &Descriptor| store.description(descriptor.file);
    let Some(named) = body.descriptors.iter().find(|at| at.number == lock.number) else { return lock.number };
    let fits = |descriptor: &&Descriptor| {
        let mode = file_of(descriptor).flags as i32 & libc::O_ACCMODE;
        let needed = if lock.exclusive { libc::O_WRONLY } else { libc::O_RDONLY };
        (mode == needed || mode == libc::O_RDWR) && file_of(descriptor).kind == file_of(named).kind
    };
    let mut candidates = std::iter::once(named).chain(&body.descriptors);
    candidates.find(fits).map_or(lock.number, |descriptor| descriptor.number)
}
