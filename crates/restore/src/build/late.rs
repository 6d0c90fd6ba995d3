//! What a process of the tree must do itself once its descriptors are in place.

use brant_base::{Addr, Pid};
use brant_image::model::*;
use brant_kernel::remote::{Puppet, RemoteError};

use super::files::FdStore;
use crate::Error;

/// Performs it by remote calls.
pub(super) fn finish(
    store: &FdStore,
    puppet: &mut Puppet,
    process: &Process,
    body: &ProcessBody,
) -> Result<(), Error> {
    let failed = |operation| Error::remote(process.pid, operation);
    for descriptor in &body.descriptors {
        let file = store.checkpoint.open_files.iter().find(|file| file.id == descriptor.file);
        let file = file.expect("validated");
        match &file.kind {
            FileKind::Device { path, major: 5, minor: 0 } => {
                open_tty(puppet, path, file, descriptor).map_err(failed("opening its terminal"))?;
            }
            FileKind::Epoll { watches } if is_first(store, process, descriptor) => {
                watch(puppet, descriptor.number, watches, body).map_err(failed("adding an epoll watch"))?;
            }
            FileKind::TimerFd(timer) if is_first(store, process, descriptor) => {
                set_timer(puppet, descriptor.number, timer).map_err(failed("setting a timerfd"))?;
            }
            FileKind::PidFd { pid } => {
                open_pidfd(puppet, *pid, file, descriptor).map_err(failed("opening a pidfd"))?;
            }
            _ => {}
        }
        if let Some(owner) = file.owner
            && is_first(store, process, descriptor)
        {
            set_owner(puppet, descriptor.number, owner).map_err(failed("setting a file's owner"))?;
        }
    }
    for lock in &body.record_locks {
        record_lock(puppet, lock).map_err(failed("taking a record lock again"))?;
    }
    Ok(())
}

/// Whether this descriptor is the one through which its description is set up: the first in the tree.
fn is_first(store: &FdStore, process: &Process, descriptor: &Descriptor) -> bool {
    let mut all =
        store.checkpoint.processes.iter().filter_map(|process| Some((process.pid, process.body.as_ref()?)));
    let first = all.find_map(|(pid, body)| {
        let same = |other: &&Descriptor| other.file == descriptor.file;
        body.descriptors.iter().find(same).map(|found| (pid, found.number))
    });
    first == Some((process.pid, descriptor.number))
}

fn place(puppet: &mut Puppet, fd: u64, descriptor: &Descriptor) -> Result<(), RemoteError> {
    let flags = if descriptor.close_on_exec { libc::O_CLOEXEC as u64 } else { 0 };
    if fd == descriptor.number as u64 {
        return Ok(());
    }
    puppet.call(libc::SYS_dup3, &[fd, descriptor.number as u64, flags])?;
    puppet.call(libc::SYS_close, &[fd]).map(drop)
}

fn open_tty(
    puppet: &mut Puppet,
    path: &[u8],
    file: &OpenFile,
    descriptor: &Descriptor,
) -> Result<(), RemoteError> {
    let room = puppet.arguments().start();
    let mut text = path.to_vec();
    text.push(0);
    puppet.write_memory(room, &text)?;
    let here = libc::AT_FDCWD as i64 as u64;
    let fd = puppet.call(libc::SYS_openat, &[here, room.0, file.flags as u64])?;
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

fn watch(
    puppet: &mut Puppet,
    epoll: i32,
    watches: &[EpollWatch],
    body: &ProcessBody,
) -> Result<(), RemoteError> {
    let room = puppet.arguments().start();
    for watch in watches {
        let mut event = [0u8; 12];
        event[..4].copy_from_slice(&watch.events.to_le_bytes());
        event[4..].copy_from_slice(&watch.data.to_le_bytes());
        puppet.write_memory(room, &event)?;
        // Where the number has another file by now, the description is lent the number for the call.
        let in_place = body.descriptors.iter().any(|at| at.number == watch.number && at.file == watch.file);
        let holder = body.descriptors.iter().find(|at| at.file == watch.file).map(|at| at.number);
        let (Some(holder), add) = (holder, libc::EPOLL_CTL_ADD as u64) else { continue };
        let number = watch.number as u64;
        if in_place {
            puppet.call(libc::SYS_epoll_ctl, &[epoll as u64, add, number, room.0])?;
            continue;
        }
        let taken = body.descriptors.iter().find(|at| at.number == watch.number);
        let kept = match taken {
            Some(_) => Some(puppet.call(libc::SYS_dup, &[number])?),
            None => None,
        };
        puppet.call(libc::SYS_dup3, &[holder as u64, number, 0])?;
        puppet.call(libc::SYS_epoll_ctl, &[epoll as u64, add, number, room.0])?;
        match (kept, taken) {
            (Some(kept), Some(descriptor)) => place(puppet, kept, descriptor)?,
            _ => drop(puppet.call(libc::SYS_close, &[number])?),
        }
    }
    Ok(())
}

fn set_timer(puppet: &mut Puppet, fd: i32, timer: &TimerFd) -> Result<(), RemoteError> {
    const NS: u64 = 1_000_000_000;
    // Ticks that nobody has read come again at once.
    let value = if timer.ticks > 0 { 1 } else { timer.remaining_ns };
    if value == 0 {
        return Ok(());
    }
    let words = [timer.interval_ns / NS, timer.interval_ns % NS, value / NS, value % NS];
    let room = puppet.arguments().start();
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    puppet.write_memory(room, &bytes)?;
    puppet.call(libc::SYS_timerfd_settime, &[fd as u64, 0, room.0, 0]).map(drop)
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

fn record_lock(puppet: &mut Puppet, lock: &RecordLock) -> Result<(), RemoteError> {
    let kind = if lock.exclusive { libc::F_WRLCK } else { libc::F_RDLCK } as u64;
    let words = [kind, lock.start, lock.length, 0];
    let room = puppet.arguments().start();
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    puppet.write_memory(room, &bytes)?;
    puppet.call(libc::SYS_fcntl, &[lock.number as u64, libc::F_SETLK as u64, room.0]).map(drop)
}
