//! Our own processes: fork, wait, pidfds, terminals. Everything here is about brant itself and the job
//! processes that it starts; nothing touches a target.
//!
//! Facts relied on: fork(2) copies only the calling thread, so a child of a single-threaded process may go on
//! with everything; PR_SET_CHILD_SUBREAPER is not inherited; pidfd_open(2) is Linux 5.3, TIOCGPTPEER 4.13.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use brant_base::Pid;

use crate::patience::Patience;

/// Which side of a fork one is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    Parent { child: Pid },
    Child,
}

/// Forks this process, which must have one thread only (else `ErrorKind::Unsupported`): that is what makes
/// going on in the child with locks, allocator and buffers safe.
pub fn fork() -> io::Result<Fork> {
    require_single_thread()?;
    // SAFETY: this process has a single thread (checked above, and only that thread could start another), so
    // no lock is held by a thread that the child lacks.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        child => Ok(Fork::Parent { child: Pid(child) }),
    }
}

/// A thread that was joined may take a moment to leave the list.
fn require_single_thread() -> io::Result<()> {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let mut patience = Patience::new(TIMEOUT);
    while std::fs::read_dir("/proc/self/task")?.count() != 1 {
        if patience.is_over() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "fork with several threads"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Closes every descriptor from 3 up but `keep`, then runs `body`, for ever; returns only where
/// the descriptors cannot be listed. Whatever else this process had
/// opened is forgotten with its owners: `body` captures nothing and nobody returns to them.
pub fn go_on_alone(keep: Vec<OwnedFd>, notes: Vec<u8>, body: fn(Vec<OwnedFd>, Vec<u8>) -> !) -> io::Error {
    let kept: Vec<i32> = keep.iter().map(AsRawFd::as_raw_fd).collect();
    let entries = match std::fs::read_dir("/proc/self/fd") {
        Ok(entries) => entries,
        Err(error) => return error,
    };
    let open: Vec<i32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd >= 3 && !kept.contains(fd)) {
        // SAFETY: the owner of the descriptor, if there is one, is never used again: this function does not
        // return from here on, and `body` cannot name anything but what it is given.
        unsafe { libc::close(fd) };
    }
    body(keep, notes)
}

/// Ends this process at once, without running destructors or exit handlers: for the child of a fork, whose
/// buffers and guards are its parent's.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes a plain number and does not return.
    unsafe { libc::_exit(code) }
}

/// Replaces this process by a program that is searched for in PATH; returns only where that failed.
pub fn exec(command: &[CString]) -> io::Error {
    let Some(program) = command.first() else { return io::Error::from_raw_os_error(libc::ENOENT) };
    let result: Result<Infallible, nix::Error> = nix::unistd::execvp(program, command);
    match result {
        Ok(never) => match never {},
        Err(error) => error.into(),
    }
}

/// What a wait found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// A child ended; `status` as wait(2) gives it.
    Ended { pid: Pid, status: i32 },
    /// Job control stopped a child.
    Stopped { pid: Pid, signal: i32 },
    /// A stopped child goes on.
    Continued { pid: Pid },
    /// There are children, none with news.
    Nothing,
    /// There are no children.
    NoChildren,
}

/// News of any child, without waiting. Repeat until [`Waited::Nothing`] or [`Waited::NoChildren`].
pub fn wait_any() -> io::Result<Waited> {
    let mut status = 0;
    // SAFETY: `status` is a live i32 that the kernel fills.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG | libc::WUNTRACED | libc::WCONTINUED) };
    match pid {
        0 => Ok(Waited::Nothing),
        -1 => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ECHILD) => Ok(Waited::NoChildren),
            error => Err(error),
        },
        pid if libc::WIFSTOPPED(status) => {
            Ok(Waited::Stopped { pid: Pid(pid), signal: libc::WSTOPSIG(status) })
        }
        pid if libc::WIFCONTINUED(status) => Ok(Waited::Continued { pid: Pid(pid) }),
        pid => Ok(Waited::Ended { pid: Pid(pid), status }),
    }
}

/// Waits until child `pid` ends and returns its wait status. Only for children that are sure to end.
pub fn wait_for(pid: Pid) -> io::Result<i32> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a live i32 that the kernel fills.
        if unsafe { libc::waitpid(pid.0, &mut status, 0) } == pid.0 {
            return Ok(status);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Makes this process the one that adopts orphaned descendants.
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: this prctl takes plain numbers.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) })
}

/// Sets this thread's name as /proc/PID/comm shows it; the kernel keeps the first 15 bytes.
pub fn set_name(name: &str) {
    let name: Vec<u8> = name.bytes().filter(|&byte| byte != 0).take(15).chain([0]).collect();
    // SAFETY: `name` is a live string that ends with a zero byte within 16 bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Asks the kernel to send this process `signal` when its parent ends.
pub fn set_parent_death_signal(signal: i32) -> io::Result<()> {
    // SAFETY: this prctl takes plain numbers.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal, 0, 0, 0) })
}

/// Gives `signal` its default action in this process.
pub fn default_signal(signal: i32) {
    // SAFETY: SIG_DFL installs no code of ours; signals that cannot be changed give an error, which is fine.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// Lets this process ignore `signal`.
pub fn ignore_signal(signal: i32) {
    // SAFETY: SIG_IGN installs no code of ours.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// A descriptor that names process `pid` for as long as it is held. It is readable once the process ended.
pub fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes plain numbers and returns a new descriptor, close-on-exec.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.0, 0) };
    match fd {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
    }
}

/// Sends `signal` (0: only asks whether one may) to the process that `pidfd` names.
pub fn pidfd_send_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: no siginfo is passed (null is allowed); the descriptor is alive for the call.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    check(result as i32)
}

/// Another number, close-on-exec, of a descriptor that who started this program left open for it on purpose. The number itself
/// stays open; see [`close_inherited`].
pub fn inherited(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes plain numbers and gives a new descriptor or an error.
    match unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}

/// Closes every descriptor from 3 up that this program inherited from who started it.
///
/// The rule that makes this safe: a descriptor that brant opens itself is close-on-exec (std and this
/// workspace see to it), so one that is not has no owner in this process.
pub fn close_inherited() -> io::Result<()> {
    let mut inherited = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(fd) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // SAFETY: F_GETFD reads a flag of a number that may also be closed by now.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        if fd >= 3 && flags >= 0 && flags & libc::FD_CLOEXEC == 0 {
            inherited.push(fd);
        }
    }
    for fd in inherited {
        // SAFETY: the descriptor is not close-on-exec, so no value in this process owns it (see above).
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// A terminal's size in characters and pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Window {
    pub rows: u16,
    pub columns: u16,
    pub x_pixels: u16,
    pub y_pixels: u16,
}

/// The size of terminal `fd`.
pub fn window(fd: impl AsFd) -> io::Result<Window> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ fills the winsize that is passed.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &mut size) })?;
    Ok(Window { rows: size.ws_row, columns: size.ws_col, x_pixels: size.ws_xpixel, y_pixels: size.ws_ypixel })
}

/// Sets the size of terminal `fd`; its foreground group gets SIGWINCH where that is a change.
pub fn set_window(fd: impl AsFd, window: Window) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: window.rows,
        ws_col: window.columns,
        ws_xpixel: window.x_pixels,
        ws_ypixel: window.y_pixels,
    };
    // SAFETY: TIOCSWINSZ reads the winsize that is passed.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &size) })
}

/// Founds a session, led by this process, with `terminal` as its controlling terminal.
pub fn lead_session(terminal: Option<BorrowedFd<'_>>) -> io::Result<()> {
    nix::unistd::setsid()?;
    terminal.map_or(Ok(()), take_terminal)
}

/// Makes terminal `fd` the controlling terminal of this session leader, which must have none.
fn take_terminal(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes a plain number.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY, 0) })
}

/// Opens the slave of pseudo-terminal `master`, whatever mount of devpts it lies in.
pub fn open_slave(master: impl AsFd) -> io::Result<OwnedFd> {
    // With O_CLOEXEC here the kernel would keep that flag in the description, where it shows in /proc for every
    // duplicate (fs/proc/fd.c); so the descriptor gets it afterwards.
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    // SAFETY: TIOCGPTPEER takes open flags and returns a new descriptor.
    let fd = unsafe { libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCGPTPEER, flags) };
    if fd == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    let slave = unsafe { OwnedFd::from_raw_fd(fd) };
    nix::fcntl::fcntl(&slave, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    Ok(slave)
}

/// A system call's 0 or -1 as a result.
fn check(result: i32) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
