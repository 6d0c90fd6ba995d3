//! What a job's folder says, and what of it still holds.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use brant_base::Pid;
use brant_kernel::task;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};

use super::{children, stat};
use crate::failure::Failure;

/// A process by number and start time, which together are never used twice in one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// In the pid namespace of the user who runs brant.
    pub(crate) pid: i32,
    /// /proc/PID/stat's start time as the user's time namespace shows it, in clock ticks.
    pub(crate) start_ticks: u64,
}

impl Process {
    /// Process `pid` as it is now.
    pub(crate) fn now(pid: Pid) -> Option<Process> {
        stat(pid).map(|stat| Process { pid: pid.0, start_ticks: stat.start_ticks })
    }

    /// Whether this very process still runs.
    pub(crate) fn is_alive(self) -> bool {
        stat(self.pid()).is_some_and(|stat| stat.start_ticks == self.start_ticks && stat.is_alive())
    }

    pub(crate) fn pid(self) -> Pid {
        Pid(self.pid)
    }

    /// Waits until this very process has ended.
    pub(crate) fn ends_before(self, deadline: Instant) -> bool {
        let Ok(pidfd) = task::pidfd_open(self.pid()) else { return true };
        !self.is_alive() || ends_before(&pidfd, deadline)
    }
}

/// Waits until the process that `pidfd` names has ended.
pub(crate) fn ends_before(pidfd: &OwnedFd, deadline: Instant) -> bool {
    loop {
        let left_ms = deadline.saturating_duration_since(Instant::now()).as_millis().min(60_000) as u16;
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, left_ms) {
            Ok(1..) => return true,
            Ok(_) if left_ms == 0 => return false,
            Err(error) if error != Errno::EINTR => return false,
            _ => {}
        }
    }
}

/// `meta.json`: written whole (a temporary name, then renamed) by who starts the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub(crate) schema_version: u32,
    pub(crate) name: String,
    /// For people: bytes that are no UTF-8 are replaced.
    pub(crate) command: Vec<String>,
    /// The keeper; before there is one, the brant process that builds the job.
    pub(crate) keeper: Process,
    /// The root process, once there is one.
    pub(crate) root: Option<Process>,
    /// The root's number in the job's own pid namespace.
    pub(crate) inside_pid: Option<i32>,
    pub(crate) started_unix_ms: u64,
    /// /proc/sys/kernel/random/boot_id: start times of another boot mean nothing.
    pub(crate) boot_id: String,
    /// The image that it was restored from.
    pub(crate) image: Option<String>,
    /// Whether the keeper holds a terminal for it.
    pub(crate) terminal: bool,
    /// Whether the keeper collects its output in a log.
    pub(crate) logged: bool,
}

/// `ended.json`: written by the keeper when the root process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    /// As wait(2) gives it.
    pub(crate) wait_status: i32,
    pub(crate) ended_unix_ms: u64,
}

/// `moved.json`: written by `brant migrate` before it ends the job, and again once it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moved {
    pub(crate) host: String,
    /// The job was ended because it was given to that host.
    pub(crate) given: bool,
}

impl Moved {
    /// What the job's folder says, where it says something.
    pub(crate) fn read(folder: &Path) -> Option<Moved> {
        read_json(&folder.join("moved.json"))
    }

    /// Puts this into the job's folder.
    pub(crate) fn write(&self, folder: &Path) -> std::io::Result<()> {
        write_json(&folder.join("moved.json"), self)
    }

    /// The job stays.
    pub(crate) fn remove(folder: &Path) {
        let _ = std::fs::remove_file(folder.join("moved.json"));
    }
}

/// What a job is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It is being set up.
    Starting,
    Running,
    /// Stopped by job control.
    Stopped,
    /// The root process has ended, others of its tree live on.
    Orphans(Ended),
    Exited(Ended),
    /// The keeper is dead and the program is not.
    Unkept,
    /// Neither keeper nor program is left and nobody wrote how it ended.
    Lost,
}

impl State {
    /// Whether processes of the job are alive.
    pub(crate) fn is_live(self) -> bool {
        !matches!(self, State::Exited(_) | State::Lost)
    }
}

/// A job as found in its folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) folder: PathBuf,
    pub(crate) meta: Meta,
    pub(crate) state: State,
}

impl Job {
    /// Reads the job in `folder`; `None` where there is none or it is not readable.
    pub(crate) fn read(folder: &Path) -> Option<Job> {
        /// Who keeps a job changes once, from the client that starts it to its keeper.
        const LOOKS_MAX: usize = 3;
        let mut job = Job::look(folder)?;
        for _ in 1..LOOKS_MAX {
            if !matches!(job.state, State::Lost | State::Unkept) {
                break;
            }
            // Its keeper may have been named, and the client have ended, since the description was read.
            let again = Job::look(folder)?;
            if std::mem::replace(&mut job, again).meta == job.meta {
                break;
            }
        }
        Some(job)
    }

    fn look(folder: &Path) -> Option<Job> {
        let mut meta: Meta = read_json(&folder.join("meta.json"))?;
        if meta.boot_id != boot_id() {
            meta.keeper.start_ticks = u64::MAX;
            meta.root = None;
        }
        // Asked first: what a keeper writes, it writes before it ends.
        let is_kept = meta.keeper.is_alive();
        let state = state(&meta, is_kept, read_json(&folder.join("ended.json")));
        Some(Job { folder: folder.to_path_buf(), meta, state })
    }

    pub(crate) fn name(&self) -> &str {
        &self.meta.name
    }

    /// The processes that the rest of the job descends from, by the user's numbers: the root, and what the
    /// keeper has adopted. Placeholders of a restore, which stand between keeper and root, are left out, and brants that
    /// put wrappers on programs which are executed.
    pub(crate) fn roots(&self) -> Vec<Pid> {
        let root = self.meta.root.filter(|root| root.is_alive()).map(Process::pid);
        if !self.meta.keeper.is_alive() {
            return root.into_iter().collect();
        }
        let mut above = Vec::new();
        let mut at = root;
        while let Some(stat) = at.and_then(stat) {
            above.push(stat.pid);
            at = (stat.parent != self.meta.keeper.pid() && stat.parent.0 > 1).then_some(stat.parent);
        }
        let placeholders: Vec<i32> = read_json(&self.folder.join("placeholders.json")).unwrap_or_default();
        let is_placeholder = |pid: Pid| {
            brant_kernel::proc::status(pid).is_ok_and(|status| placeholders.contains(&status.inner_pid().0))
        };
        let adopted = children(self.meta.keeper.pid());
        let is_own = |pid: Pid| is_placeholder(pid) || brant_connect::follow::is_follower(pid);
        let adopted = adopted.into_iter().filter(|pid| !above.contains(pid) && !is_own(*pid));
        root.into_iter().chain(adopted.filter(|&pid| stat(pid).is_some_and(|stat| stat.is_alive()))).collect()
    }
}

fn state(meta: &Meta, is_kept: bool, ended: Option<Ended>) -> State {
    match (is_kept, ended, meta.root) {
        (true, Some(ended), _) => State::Orphans(ended),
        (true, None, None) => State::Starting,
        (true, None, Some(root)) if stat(root.pid()).is_some_and(|stat| stat.state == 'T') => State::Stopped,
        (true, None, Some(_)) => State::Running,
        (false, Some(ended), _) => State::Exited(ended),
        (false, None, Some(root)) if root.is_alive() => State::Unkept,
        (false, None, _) => State::Lost,
    }
}

/// Reads a small JSON file; `None` where it is missing or of another form.
fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// Writes a small JSON file whole or not at all.
pub(super) fn write_json<T: Serialize>(path: &Path, value: &T) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    std::fs::write(&temporary, bytes)?;
    std::fs::rename(&temporary, path)
}

/// Notes the processes of a restored job that only hold a number, by their numbers inside.
pub(crate) fn write_placeholders(folder: &Path, inside: &[Pid]) -> std::io::Result<()> {
    let inside_pids: Vec<i32> = inside.iter().map(|pid| pid.0).collect();
    write_json(&folder.join("placeholders.json"), &inside_pids)
}

impl Meta {
    /// Puts this into the job's folder.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), Failure> {
        write_json(&folder.join("meta.json"), self).map_err(|error| super::runtime::unusable(folder, &error))
    }
}

impl Ended {
    /// Puts this into the job's folder.
    pub(crate) fn write(&self, folder: &Path) -> std::io::Result<()> {
        write_json(&folder.join("ended.json"), self)
    }
}

/// Names this boot of this machine.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_string()
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
