//! Which process, and whether two things are one: pidfds and kcmp(2).

use std::cmp::Ordering;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use brant_base::Pid;

/// A process that stays the same one however its number is reused (pidfd_open(2), Linux 5.3).
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens one by number in our pid namespace. ESRCH where there is none. The number of a thread that is not its
    /// process's first is understood since Linux 6.9, EINVAL before.
    pub fn open(pid: Pid) -> io::Result<PidFd> {
        const PIDFD_THREAD: i32 = libc::O_EXCL;
        // SAFETY: plain numbers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.0, 0) };
        // EINVAL up to Linux 6.14, ENOENT since.
        if fd < 0 && matches!(io::Error::last_os_error().raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) {
            // SAFETY: plain numbers.
            return Ok(PidFd(owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.0, PIDFD_THREAD) })?));
        }
        Ok(PidFd(owned(fd)?))
    }

    /// A duplicate of the target's descriptor, close-on-exec (pidfd_getfd(2), Linux 5.6). EBADF where the
    /// target has none of that number, EPERM without the right to trace. O_PATH descriptors work too.
    pub fn descriptor(&self, number: i32) -> io::Result<OwnedFd> {
        // SAFETY: plain numbers.
        owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, self.0.as_raw_fd(), number, 0) })
    }

    /// Sends a signal; 0 only checks.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        // SAFETY: no siginfo is given.
        let sent = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal, std::ptr::null::<()>(), 0)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Whether every thread of it has ended (a zombie has).
    pub fn has_ended(&self) -> io::Result<bool> {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one live entry.
        super::checked(unsafe { libc::poll(&mut poll, 1, 0) }).map(|ready| ready > 0)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// What two processes or threads are compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kcmp {
    /// The open file descriptions of a descriptor of the first and one of the second.
    File(i32, i32),
    Memory,
    DescriptorTable,
    /// Working directory, root and umask.
    FileSystem,
    SignalHandlers,
    IoContext,
    /// Undo lists of System V semaphores.
    SemaphoreUndo,
    /// A descriptor of the first, and the target of the second's `epoll` that was added as `number`, the
    /// `offset`th of that number.
    EpollTarget {
        file: i32,
        epoll: i32,
        number: u32,
        offset: u32,
    },
}

/// Compares by the kernel's own, obfuscated order: the same for all calls until the next boot, so it can sort.
/// ENOSYS where the kernel has no kcmp; EPERM without the right to trace both.
pub fn kcmp(first: Pid, second: Pid, what: Kcmp) -> io::Result<Ordering> {
    #[repr(C)]
    struct EpollSlot {
        epoll: u32,
        number: u32,
        offset: u32,
    }
    let slot;
    let (kind, one, two) = match what {
        Kcmp::File(one, two) => (0, one as u64, two as u64),
        Kcmp::Memory => (1, 0, 0),
        Kcmp::DescriptorTable => (2, 0, 0),
        Kcmp::FileSystem => (3, 0, 0),
        Kcmp::SignalHandlers => (4, 0, 0),
        Kcmp::IoContext => (5, 0, 0),
        Kcmp::SemaphoreUndo => (6, 0, 0),
        Kcmp::EpollTarget { file, epoll, number, offset } => {
            slot = EpollSlot { epoll: epoll as u32, number, offset };
            (7, file as u64, &raw const slot as u64)
        }
    };
    // SAFETY: plain numbers, but for the slot, which is alive until the end of this function.
    match unsafe { libc::syscall(libc::SYS_kcmp, first.0, second.0, kind, one, two) } {
        0 => Ok(Ordering::Equal),
        1 => Ok(Ordering::Less),
        2 => Ok(Ordering::Greater),
        // Unequal without an order: no kernel answers this for the kinds above.
        3 => Err(io::Error::other("kcmp answered without an order")),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What processes may share besides descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shared {
    Memory,
    Files,
    FileSystem,
}

/// Whether two processes or threads share it. False where one is gone or may not be traced.
pub fn same_resource(one: Pid, two: Pid, what: Shared) -> bool {
    resource_order(one, two, what).is_eq()
}

/// The same in the kernel's order, for searches. `Less` where one is gone or may not be traced.
pub fn resource_order(one: Pid, two: Pid, what: Shared) -> Ordering {
    let what = match what {
        Shared::Memory => Kcmp::Memory,
        Shared::Files => Kcmp::DescriptorTable,
        Shared::FileSystem => Kcmp::FileSystem,
    };
    kcmp(one, two, what).unwrap_or(Ordering::Less)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use super::*;

    fn own() -> Pid {
        Pid(std::process::id() as i32)
    }

    #[test]
    fn a_duplicate_is_the_same_description() {
        let file = File::open("/proc/self/exe").unwrap();
        let other = File::open("/proc/self/exe").unwrap();
        let duplicate = PidFd::open(own()).unwrap().descriptor(file.as_raw_fd()).unwrap();
        let compare = |one: i32, two: i32| kcmp(own(), own(), Kcmp::File(one, two)).unwrap();
        assert_eq!(compare(file.as_raw_fd(), duplicate.as_raw_fd()), Ordering::Equal);
        let order = compare(file.as_raw_fd(), other.as_raw_fd());
        assert_ne!(order, Ordering::Equal);
        assert_eq!(compare(other.as_raw_fd(), file.as_raw_fd()), order.reverse());
        assert_eq!(kcmp(own(), own(), Kcmp::Memory).unwrap(), Ordering::Equal);
    }

    #[test]
    fn another_process_shares_nothing() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid(child.id() as i32);
        let handle = PidFd::open(pid).unwrap();
        assert!(!handle.has_ended().unwrap());
        for what in [Kcmp::Memory, Kcmp::DescriptorTable, Kcmp::FileSystem, Kcmp::SignalHandlers] {
            assert_ne!(kcmp(own(), pid, what).unwrap(), Ordering::Equal, "{what:?}");
        }
        assert_eq!(handle.descriptor(9999).unwrap_err().raw_os_error(), Some(libc::EBADF));
        handle.signal(libc::SIGKILL).unwrap();
        child.wait().unwrap();
        assert!(handle.has_ended().unwrap());
        assert_eq!(PidFd::open(pid).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn an_epoll_target_is_found() {
        let (reader, _writer) = io::pipe().unwrap();
        let (stranger, _other) = io::pipe().unwrap();
        // SAFETY: plain numbers.
        let epoll = owned(i64::from(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })).unwrap();
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 1 };
        let (raw, number) = (epoll.as_raw_fd(), reader.as_raw_fd());
        // SAFETY: a live event.
        assert_eq!(unsafe { libc::epoll_ctl(raw, libc::EPOLL_CTL_ADD, number, &mut event) }, 0);
        let target = |file| Kcmp::EpollTarget { file, epoll: raw, number: number as u32, offset: 0 };
        assert_eq!(kcmp(own(), own(), target(number)).unwrap(), Ordering::Equal);
        assert_ne!(kcmp(own(), own(), target(stranger.as_raw_fd())).unwrap(), Ordering::Equal);
    }
}
