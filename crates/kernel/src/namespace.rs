//! Namespaces of a restore's own: user, pid, mount and time.
//!
//! A plain user gets the rights to choose pids and to mount /proc from a user namespace that it makes itself
//! (user_namespaces(7)); a time namespace lets CLOCK_MONOTONIC go on (time_namespaces(7), Linux 5.6). The
//! offsets are frozen as soon as the first child exists.

use std::fs;
use std::io;
use std::path::Path;

use brant_base::Pid;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::remote::CloneArguments;

/// Why a namespace could not be made or furnished.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    #[error("making {what} namespaces of our own")]
    Unshare {
        what: &'static str,
        #[source]
        error: io::Error,
    },
    #[error("writing {path}")]
    Write {
        path: &'static str,
        #[source]
        error: io::Error,
    },
    #[error("mounting {what}")]
    Mount {
        what: &'static str,
        #[source]
        error: io::Error,
    },
    #[error("reading the clock offsets of our own time namespace")]
    Offsets(#[source] io::Error),
    #[error("forking")]
    Fork(#[source] io::Error),
}

/// What the clocks of the new time namespace show now, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockStart {
    pub monotonic_ns: i64,
    pub boottime_ns: i64,
}

/// Who the user is inside the new user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InsideIdentity {
    pub uid: u32,
    pub gid: u32,
}

/// What [`enter`] made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entered {
    /// There is a user namespace: one uid and one gid exist in it.
    pub user: bool,
}

/// Makes mount and time namespaces (and a user namespace, unless we are root and may do without); the time namespace
/// begins with the next child, which [`fork`] gives a pid namespace. Mounts are made slaves, so that nothing of
/// ours shows outside. The caller has one thread; later it may have more.
pub fn enter(inside: InsideIdentity, clocks: ClockStart) -> Result<Entered, NamespaceError> {
    let base = CloneFlags::CLONE_NEWNS | CloneFlags::from_bits_retain(CLONE_NEWTIME);
    let offsets = current_offsets()?;
    let uid = nix::unistd::geteuid().as_raw();
    let gid = nix::unistd::getegid().as_raw();
    let user = uid != 0 || unshare(base).is_err();
    if user {
        unshare(base | CloneFlags::CLONE_NEWUSER)
            .map_err(|error| NamespaceError::Unshare { what: "user, mount and time", error: error.into() })?;
        write("/proc/self/setgroups", "deny")?;
        write("/proc/self/uid_map", &format!("{} {uid} 1", inside.uid))?;
        write("/proc/self/gid_map", &format!("{} {gid} 1", inside.gid))?;
    }
    change_mount("the mounts as slaves", None, "/", None, MsFlags::MS_SLAVE | MsFlags::MS_REC)?;
    set_clocks(clocks, offsets)?;
    Ok(Entered { user })
}

const CLONE_NEWTIME: i32 = 0x80;
const NS_A_SECOND: i64 = 1_000_000_000;

fn write(path: &'static str, text: &str) -> Result<(), NamespaceError> {
    fs::write(path, text).map_err(|error| NamespaceError::Write { path, error })
}

fn change_mount(
    what: &'static str,
    source: Option<&str>,
    target: &str,
    kind: Option<&str>,
    flags: MsFlags,
) -> Result<(), NamespaceError> {
    mount(source, target, kind, flags, None::<&str>)
        .map_err(|error| NamespaceError::Mount { what, error: error.into() })
}

/// The offsets of our own time namespace against the host's clocks: monotonic and boottime, in nanoseconds.
fn current_offsets() -> Result<(i64, i64), NamespaceError> {
    let text = fs::read_to_string("/proc/self/timens_offsets").map_err(NamespaceError::Offsets)?;
    let of = |clock: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(clock)).unwrap_or("0 0");
        let mut numbers = line.split_whitespace().map(|number| number.parse::<i64>().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        next() * NS_A_SECOND + next()
    };
    Ok((of("monotonic"), of("boottime")))
}

/// Sets the new namespace's offsets. They count against the host's clocks, so those that we live with
/// ourselves are taken off first.
fn set_clocks(wanted: ClockStart, own: (i64, i64)) -> Result<(), NamespaceError> {
    let now = |clock| {
        nix::time::clock_gettime(clock)
            .map(|time| time.tv_sec() * NS_A_SECOND + time.tv_nsec())
            .map_err(|error| NamespaceError::Offsets(error.into()))
    };
    // What cannot be is for the kernel to refuse.
    let offset = |wanted: i64, now: i64, own: i64| wanted.saturating_sub(now.saturating_sub(own));
    let monotonic = offset(wanted.monotonic_ns, now(nix::time::ClockId::CLOCK_MONOTONIC)?, own.0);
    let boottime = offset(wanted.boottime_ns, now(nix::time::ClockId::CLOCK_BOOTTIME)?, own.1);
    let line = |name: &str, offset: i64| {
        format!("{name} {} {}\n", offset.div_euclid(NS_A_SECOND), offset.rem_euclid(NS_A_SECOND))
    };
    let text = line("monotonic", monotonic) + &line("boottime", boottime);
    write("/proc/self/timens_offsets", &text)
}

/// Gives the caller a copy of its mount namespace; what it mounts from here on is seen by itself only.
pub fn leave_mounts() -> Result<(), NamespaceError> {
    unshare(CloneFlags::CLONE_NEWNS)
        .map_err(|error| NamespaceError::Unshare { what: "mount", error: error.into() })
}

/// Mounts the /proc of the caller's pid namespace. The kernel refuses where the present /proc is partly
/// masked, as in many containers.
pub fn mount_proc() -> Result<(), NamespaceError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    change_mount("/proc", Some("proc"), "/proc", Some("proc"), flags)
}

/// Mounts a devpts instance of its own on /dev/pts, and its ptmx over /dev/ptmx where that is needed.
pub fn mount_terminals() -> Result<(), NamespaceError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("devpts"), "/dev/pts", Some("devpts"), flags, Some("newinstance,ptmxmode=0666,mode=0620"))
        .map_err(|error| NamespaceError::Mount { what: "/dev/pts", error: error.into() })?;
    if !Path::new("/dev/ptmx").is_symlink() {
        change_mount("/dev/ptmx", Some("/dev/pts/ptmx"), "/dev/ptmx", None, MsFlags::MS_BIND)?;
    }
    Ok(())
}

/// A folder that is covered; dropping this uncovers it.
#[derive(Debug)]
pub struct Cover(std::path::PathBuf);

/// Covers a folder with an empty one of our own. The caller is in a mount namespace of its own, with the right to
/// mount there.
pub fn cover(folder: &Path) -> io::Result<Cover> {
    mount(Some("brant"), folder, Some("tmpfs"), MsFlags::empty(), Some("mode=0700"))?;
    Ok(Cover(folder.to_path_buf()))
}

impl Drop for Cover {
    fn drop(&mut self) {
        // What was made there may be in use still: it goes with its last user. Nobody else ever sees it.
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Which side of a [`fork`] one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The parent, with the child's number.
    Parent(Pid),
    Child,
}

/// Forks the caller, which has one thread; the child is process 1 of a new pid namespace. Other than after unshare(2), the
/// caller's own children stay in its namespace, so that it may have threads (`clone(2)`, CLONE_THREAD).
pub fn fork() -> Result<Side, NamespaceError> {
    let tasks = fs::read_dir("/proc/self/task").map(Iterator::count).map_err(NamespaceError::Fork)?;
    assert_eq!(tasks, 1, "only a process with one thread may be forked");
    let arguments = CloneArguments {
        flags: libc::CLONE_NEWPID as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArguments::default()
    };
    let size = size_of::<CloneArguments>();
    // SAFETY: the arguments are live and of that size; no memory is shared. There is no other thread that could hold a
    // lock, so the child may do what the parent may.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size) } {
        error if error < 0 => Err(match io::Error::last_os_error() {
            error if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSPC | libc::EUSERS)) => {
                NamespaceError::Unshare { what: "pid", error }
            }
            error => NamespaceError::Fork(error),
        }),
        0 => Ok(Side::Child),
        pid => Ok(Side::Parent(Pid(pid as i32))),
    }
}

/// Forks a task with number `number` in the caller's pid namespace; it sleeps until it is killed, or is taken
/// over by [`crate::remote::Puppet::from_fork`].
pub fn fork_sleeper(number: Pid) -> io::Result<()> {
    let wanted = number.0;
    let arguments = CloneArguments {
        exit_signal: libc::SIGCHLD as u64,
        set_tid: &raw const wanted as u64,
        set_tid_size: 1,
        ..CloneArguments::default()
    };
    let size = size_of::<CloneArguments>();
    // SAFETY: the arguments are live and of that size; no memory is shared, so the child has a copy of
    // everything, and does nothing but sleep.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size) } {
        error if error < 0 => Err(io::Error::last_os_error()),
        0 => loop {
            // SAFETY: no arguments.
            unsafe { libc::syscall(libc::SYS_pause) };
        },
        _ => Ok(()),
    }
}

/// Forks a task as [`fork_sleeper`] does, with any number, in a place where no namespace's end would end it: it ends with the
/// calling thread, which is the only one of its process.
pub fn fork_bound_sleeper() -> io::Result<()> {
    let parent = nix::unistd::getpid().as_raw();
    // SAFETY: as in `fork_sleeper`: the child makes system calls with plain numbers.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: plain numbers.
            let bound = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
            // SAFETY: takes nothing.
            let still = unsafe { libc::getppid() } == parent;
            if bound != 0 || !still {
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(1) }
            }
            loop {
                // SAFETY: no arguments.
                unsafe { libc::syscall(libc::SYS_pause) };
            }
        }
        _ => Ok(()),
    }
}

/// Closes every descriptor of the caller except `keep`.
pub fn close_all_but(keep: &[i32]) {
    let mut keep: Vec<u32> = keep.iter().filter_map(|number| u32::try_from(*number).ok()).collect();
    keep.sort_unstable();
    keep.dedup();
    let close = |first: u32, last: u32| {
        if first <= last {
            // SAFETY: descriptors are closed that their owners in this process will not use: the caller is a
            // fresh fork that keeps what it names.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    };
    let mut from = 0;
    for number in keep {
        if number > 0 {
            close(from, number - 1);
        }
        from = number + 1;
    }
    close(from, u32::MAX);
}
