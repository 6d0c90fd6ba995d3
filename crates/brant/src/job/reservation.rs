//! A name that is taken for a job that does not run yet.
//!
//! Until it is handed over, the reservation belongs to the process that made it: if that dies, anybody may
//! sweep the folder away; if it gives up, `Drop` removes it. A keeper that was forked before its client died may come too
//! late: so a description is only ever written under the lock that sweepers hold, into the folder that was reserved.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::meta::{boot_id, unix_ms};
use super::runtime::{check_name, unusable};
use super::{Job, Meta, Process, Runtime, State, descendants};
use crate::failure::{Failure, exit};

/// Where a keeper listens, in its job's folder.
const SOCKET: &str = "socket";

/// A job's folder with its listening socket.
#[derive(Debug)]
pub(crate) struct Reservation {
    runtime: Runtime,
    folder: PathBuf,
    socket: FileId,
    meta: Meta,
    listener: UnixListener,
    /// Who must remove the folder if it comes to nothing; `None` once it is handed over.
    owner: Option<nix::unistd::Pid>,
}

/// Device and inode of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId(u64, u64);

impl FileId {
    fn of(path: &Path) -> io::Result<FileId> {
        fs::symlink_metadata(path).map(|found| FileId(found.dev(), found.ino()))
    }
}

impl Runtime {
    /// Takes `name` for a new job that runs `command`; without a name, one made from the command. The remains
    /// of an ended job of that name are removed.
    pub(crate) fn reserve(&self, name: Option<&str>, command: &[String]) -> Result<Reservation, Failure> {
        if let Some(job) = name.and_then(|name| self.job(name)) {
            wait_for_end(&job);
        }
        let lock = self.lock()?;
        self.sweep(&lock);
        let name = match name {
            Some(name) => {
                check_name(name)?;
                self.check_free(name)?;
                name.to_string()
            }
            None => self.free_name(command.first().map_or("job", String::as_str)),
        };
        let folder = self.folder(&name);
        let _ = fs::remove_dir_all(&folder);
        fs::DirBuilder::new().mode(0o700).create(&folder).map_err(|error| unusable(&folder, &error))?;
        let made = self.fill(&folder, name, command);
        if made.is_err() {
            let _ = fs::remove_dir_all(&folder);
        }
        made
    }

    /// Makes socket and meta in the new folder.
    fn fill(&self, folder: &Path, name: String, command: &[String]) -> Result<Reservation, Failure> {
        let bind = || -> io::Result<UnixListener> {
            let handle = fs::File::open(folder)?;
            let fd = std::os::fd::AsRawFd::as_raw_fd(&handle);
            UnixListener::bind(format!("/proc/self/fd/{fd}/{SOCKET}"))
        };
        let listener = bind().map_err(|error| unusable(folder, &error))?;
        let socket = FileId::of(&folder.join(SOCKET)).map_err(|error| unusable(folder, &error))?;
        let own = nix::unistd::getpid();
        let keeper = Process::now(brant_base::Pid(own.as_raw()))
            .ok_or_else(|| unusable(Path::new("/proc"), &io::ErrorKind::NotFound.into()))?;
        let meta = Meta {
            schema_version: 1,
            name,
            command: command.to_vec(),
            keeper,
            root: None,
            inside_pid: None,
            started_unix_ms: unix_ms(),
            boot_id: boot_id(),
            image: None,
            terminal: false,
            logged: false,
        };
        meta.write(folder)?;
        Ok(Reservation {
            runtime: self.clone(),
            folder: folder.to_path_buf(),
            socket,
            meta,
            listener,
            owner: Some(own),
        })
    }

    fn check_free(&self, name: &str) -> Result<(), Failure> {
        match self.job(name).filter(|job| job.state.is_live()) {
            None => Ok(()),
            Some(job) => {
                Err(Failure::new("B-0103", exit::FAILED, format!("a job called \"{name}\" is there already"))
                    .why(format!("it runs {}", crate::report::command_line(&job.meta.command)))
                    .next(format!("take another name with -n, or: brant stop {name}")))
            }
        }
    }

    /// `sleep`, else `sleep-2` and so on.
    fn free_name(&self, program: &str) -> String {
        let base = program.rsplit('/').next().unwrap_or_default();
        let sound = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '+');
        let mut base: String = base.chars().filter(sound).take(48).collect();
        if check_name(&base).is_err() {
            base = format!("job-{base}");
        }
        let mut names = (1..).map(|n| if n == 1 { base.clone() } else { format!("{base}-{n}") });
        names
            .find(|name| self.job(name).is_none_or(|job| !job.state.is_live()))
            .expect("names do not run out before processes do")
    }
}

/// Who was told that a job has ended may use its name at once, although its keeper is not gone yet. One that has processes
/// left to keep stays.
fn wait_for_end(job: &Job) {
    const END_TIMEOUT: Duration = Duration::from_secs(10);
    const LOOK_PAUSE: Duration = Duration::from_secs(1);
    if !matches!(job.state, State::Orphans(_)) {
        return;
    }
    let deadline = Instant::now() + END_TIMEOUT;
    while !job.meta.keeper.ends_before(Instant::now() + LOOK_PAUSE) {
        if Instant::now() > deadline || !descendants(job.meta.keeper.pid()).is_empty() {
            return;
        }
    }
}

impl Reservation {
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The description of the job, to be completed before it is handed over.
    pub(crate) fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    /// A second descriptor of the listening socket, for the keeper.
    pub(crate) fn listener(&self) -> Result<UnixListener, Failure> {
        self.listener.try_clone().map_err(|error| unusable(&self.folder, &error))
    }

    /// Writes the description as it is now. Once its keeper is another process, that one's life is the job's. Fails where
    /// the job was found lost before that, since who reserved it is dead: nothing may run then that nobody would list.
    pub(crate) fn publish(&self) -> Result<(), Failure> {
        let _lock = self.runtime.lock()?;
        if !self.is_there() {
            return Err(unusable(&self.folder, &io::ErrorKind::NotFound.into()));
        }
        self.meta.write(&self.folder)
    }

    /// Removes the folder, unless that has happened already; the name may be another job's since.
    pub(crate) fn remove(&self) {
        if let Ok(_lock) = self.runtime.lock()
            && self.is_there()
        {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }

    /// Whether what has the folder's name is what was made for this job. Our listener keeps the inode of its socket from
    /// being used for another file.
    fn is_there(&self) -> bool {
        FileId::of(&self.folder.join(SOCKET)).is_ok_and(|found| found == self.socket)
    }

    /// The job is its keeper's from here on: the folder stays.
    pub(crate) fn hand_over(mut self) -> Meta {
        self.owner = None;
        self.meta.clone()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.owner == Some(nix::unistd::getpid()) {
            self.remove();
        }
    }
}
