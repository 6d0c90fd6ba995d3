//! Tries in a child what a restore does: namespaces of one's own, chosen pids, a fresh /proc and /dev/pts.
//!
//! The child is forked from a program that may have threads. So it calls nothing but system calls, and writes
//! its answers into memory that is shared with the parent.

use std::ffi::{CStr, CString};
use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use brant_base::Pid;

use super::Ability;
use crate::descriptor::PidFd;

/// What namespaces of one's own give here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Isolation {
    /// A user namespace. The rest is tried inside it or, where it does not work, without.
    pub user_namespace: Ability,
    /// One's own uid and gid can be mapped into it.
    pub id_map: Ability,
    pub mount_namespace: Ability,
    pub pid_namespace: Ability,
    pub time_namespace: Ability,
    /// A fresh /proc can be mounted over the old one.
    pub mount_proc: Ability,
    /// A fresh devpts can be mounted.
    pub mount_devpts: Ability,
    /// clone3 with set_tid.
    pub chosen_pids: Ability,
}

const TIMEOUT: Duration = Duration::from_secs(60);

/// The steps in the order in which they are tried.
#[derive(Clone, Copy)]
enum Step {
    User,
    IdMap,
    Mount,
    Pid,
    Time,
    MountProc,
    MountDevpts,
    ChosenPids,
}
const STEPS: usize = 8;
/// Not an errno.
const UNTRIED: i32 = -1;

/// One answer a step: 0, an errno or [`UNTRIED`].
struct Answers([AtomicI32; STEPS]);

impl Answers {
    /// Notes how a call went and passes its answer on.
    fn note(&self, step: Step, result: i32) -> bool {
        let errno = if result < 0 { last_errno() } else { 0 };
        self.0[step as usize].store(errno, Ordering::SeqCst);
        errno == 0
    }

    fn get(&self, step: Step) -> Ability {
        match self.0[step as usize].load(Ordering::SeqCst) {
            0 => Ability::Yes,
            UNTRIED => Ability::Untried,
            errno => Ability::No { errno },
        }
    }
}

/// What the child needs, made before the fork, as it may not allocate.
struct Plan {
    uid_map: CString,
    gid_map: CString,
}

impl Isolation {
    /// Nothing was tried.
    pub(super) const UNTRIED: Isolation = Isolation {
        user_namespace: Ability::Untried,
        id_map: Ability::Untried,
        mount_namespace: Ability::Untried,
        pid_namespace: Ability::Untried,
        time_namespace: Ability::Untried,
        mount_proc: Ability::Untried,
        mount_devpts: Ability::Untried,
        chosen_pids: Ability::Untried,
    };

    /// Makes the child and waits for it, at most a minute: a loaded host takes its time over namespaces.
    pub(super) fn probe() -> io::Result<Isolation> {
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        let plan = Plan {
            uid_map: CString::new(format!("{uid} {uid} 1")).expect("no NUL"),
            gid_map: CString::new(format!("{gid} {gid} 1")).expect("no NUL"),
        };
        let page = SharedPage::new()?;
        let answers = page.answers();
        // SAFETY: the child calls nothing but system calls and ends without unwinding.
        match unsafe { libc::fork() } {
            -1 => return Err(io::Error::last_os_error()),
            0 => {
                try_all(answers, &plan);
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(0) }
            }
            child => wait(Pid(child))?,
        }
        Ok(Isolation {
            user_namespace: answers.get(Step::User),
            id_map: answers.get(Step::IdMap),
            mount_namespace: answers.get(Step::Mount),
            pid_namespace: answers.get(Step::Pid),
            time_namespace: answers.get(Step::Time),
            mount_proc: answers.get(Step::MountProc),
            mount_devpts: answers.get(Step::MountDevpts),
            chosen_pids: answers.get(Step::ChosenPids),
        })
    }

    /// Whether a restore can have everything that it wants.
    pub fn is_complete(&self) -> bool {
        [
            self.mount_namespace,
            self.pid_namespace,
            self.time_namespace,
            self.mount_proc,
            self.mount_devpts,
            self.chosen_pids,
        ]
        .into_iter()
        .all(Ability::is_yes)
    }
}

/// Waits for the child's end; kills one that does not come to it.
fn wait(child: Pid) -> io::Result<()> {
    let handle = PidFd::open(child);
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let mut status = 0;
        // SAFETY: a live int.
        let result = unsafe { libc::waitpid(child.0, &mut status, libc::WNOHANG) };
        match result {
            0 if Instant::now() > deadline => {
                // SAFETY: our own child, not waited for: its number is still its own.
                unsafe { libc::kill(child.0, libc::SIGKILL) };
                // SAFETY: a live int.
                unsafe { libc::waitpid(child.0, &mut status, 0) };
                return Err(io::Error::from(io::ErrorKind::TimedOut));
            }
            0 => rest(handle.as_ref().ok()),
            // Somebody ignores SIGCHLD: the kernel has reaped it.
            -1 if last_errno() == libc::ECHILD => return Ok(()),
            -1 if last_errno() != libc::EINTR => return Err(io::Error::last_os_error()),
            -1 => {}
            _ => return Ok(()),
        }
    }
}

/// Sleeps until the child has ended, at most 20 ms.
fn rest(handle: Option<&PidFd>) {
    use std::os::fd::{AsFd, AsRawFd};
    let fd = handle.map_or(-1, |handle| handle.as_fd().as_raw_fd());
    let timeout_ms = 20;
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one live entry; a negative number is passed over.
    unsafe { libc::poll(&mut poll, 1, timeout_ms) };
}

fn last_errno() -> i32 {
    // SAFETY: the C library's own, of this thread.
    unsafe { *libc::__errno_location() }
}

/// Runs in the child.
fn try_all(answers: &Answers, plan: &Plan) {
    if answers.note(Step::User, unshare(libc::CLONE_NEWUSER)) {
        answers.note(Step::IdMap, map_ids(plan));
    }
    let mounts = answers.note(Step::Mount, private_mounts());
    answers.note(Step::Time, unshare(libc::CLONE_NEWTIME));
    if !answers.note(Step::Pid, unshare(libc::CLONE_NEWPID)) {
        return;
    }
    // SAFETY: as in `probe`; this child is single-threaded anyhow.
    match unsafe { libc::fork() } {
        0 => {
            if mounts {
                answers.note(Step::MountProc, mount(c"proc", c"/proc", c""));
                answers.note(Step::MountDevpts, mount(c"devpts", c"/dev/pts", c"newinstance,ptmxmode=0666"));
            }
            answers.note(Step::ChosenPids, clone_with_pid(300));
            // SAFETY: ends the first process of the new pid namespace, and with it all others there.
            unsafe { libc::_exit(0) }
        }
        -1 => {
            answers.note(Step::Pid, -1);
        }
        first => {
            // SAFETY: no status is asked for. It only makes system calls that do not sleep.
            unsafe { libc::waitpid(first, std::ptr::null_mut(), 0) };
        }
    }
}

fn unshare(flags: i32) -> i32 {
    // SAFETY: plain numbers.
    unsafe { libc::unshare(flags) }
}

fn map_ids(plan: &Plan) -> i32 {
    // Kernels before 3.19 have no setgroups file: then gid_map tells.
    write(c"/proc/self/setgroups", c"deny");
    let uid = write(c"/proc/self/uid_map", &plan.uid_map);
    if uid < 0 { uid } else { write(c"/proc/self/gid_map", &plan.gid_map) }
}

fn write(path: &CStr, text: &CStr) -> i32 {
    // SAFETY: a NUL-terminated path.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    if fd < 0 {
        return -1;
    }
    // The descriptor is closed by this process's end, so that errno stays that of the write.
    // SAFETY: a live text of that length.
    unsafe { libc::write(fd, text.as_ptr().cast(), text.count_bytes()) as i32 }
}

fn private_mounts() -> i32 {
    let made = unshare(libc::CLONE_NEWNS);
    if made < 0 {
        return made;
    }
    let (none, flags) = (std::ptr::null(), libc::MS_REC | libc::MS_SLAVE);
    // SAFETY: NUL-terminated texts, and no data.
    unsafe { libc::mount(none, c"/".as_ptr(), none, flags, none.cast()) }
}

fn mount(kind: &CStr, place: &CStr, data: &CStr) -> i32 {
    let flags = libc::MS_NOSUID | libc::MS_NOEXEC;
    // SAFETY: NUL-terminated texts.
    unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) }
}

fn clone_with_pid(pid: i32) -> i32 {
    // SAFETY: all zeros is a plain fork.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.set_tid = &raw const pid as u64;
    arguments.set_tid_size = 1;
    // SAFETY: without CLONE_VM and a stack this is fork(2).
    let child = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of_val(&arguments)) };
    if child == 0 {
        // SAFETY: ends this child at once.
        unsafe { libc::_exit(0) }
    }
    child as i32
}

/// A page that parent and child both see.
struct SharedPage(*mut Answers);

impl SharedPage {
    fn new() -> io::Result<SharedPage> {
        let (bytes, protection) = (size_of::<Answers>(), libc::PROT_READ | libc::PROT_WRITE);
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let page = SharedPage(page.cast());
        page.answers().0.iter().for_each(|answer| answer.store(UNTRIED, Ordering::SeqCst));
        Ok(page)
    }

    fn answers(&self) -> &Answers {
        // SAFETY: mapped, aligned, zeroed memory, which is a valid array of atomics, until this is dropped.
        unsafe { &*self.0 }
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: our own mapping; references to it cannot outlive this value.
        unsafe { libc::munmap(self.0.cast(), size_of::<Answers>()) };
    }
}
