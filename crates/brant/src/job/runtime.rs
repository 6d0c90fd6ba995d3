//! The folder where this user's jobs are found: `$XDG_RUNTIME_DIR/brant`, else `/tmp/brant-UID`.
//!
//! Sockets in it give power over the jobs, so it must be the user's own and closed to all others: a folder
//! that somebody else made first under /tmp is refused, not used.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use brant_base::fault;
use nix::fcntl::{Flock, FlockArg};

use super::meta::unix_ms;
use super::{Job, State};
use crate::failure::{Failure, exit};

/// How long an ended job can still be asked for its exit status.
const ENDED_KEPT_MS: u64 = 24 * 3600 * 1000;
/// How many ended jobs are kept at most.
const ENDED_KEPT_MAX: usize = 50;

/// This user's runtime folder.
#[derive(Debug, Clone)]
pub(crate) struct Runtime {
    jobs: PathBuf,
}

/// Held while folders of jobs are made or removed.
pub(crate) struct RuntimeLock(#[expect(dead_code, reason = "held for its lock")] Flock<File>);

impl Runtime {
    /// Opens the runtime folder and makes it where it is missing.
    pub(crate) fn open() -> Result<Runtime, Failure> {
        let root = match std::env::var_os("XDG_RUNTIME_DIR") {
            Some(folder) if Path::new(&folder).is_absolute() => Path::new(&folder).join("brant"),
            _ => PathBuf::from(format!("/tmp/brant-{}", nix::unistd::geteuid())),
        };
        let jobs = root.join("jobs");
        for folder in [&root, &jobs] {
            match DirBuilder::new().mode(0o700).create(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(unusable(folder, &error));
                }
                _ => check_private(folder)?,
            }
        }
        Ok(Runtime { jobs })
    }

    /// Waits for the right to make and remove folders. Nobody holds it for longer than a few file operations.
    pub(crate) fn lock(&self) -> Result<RuntimeLock, Failure> {
        let path = self.jobs.with_file_name("lock");
        let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(|error| unusable(&path, &error))?;
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(lock) => Ok(RuntimeLock(lock)),
            Err((_, error)) => Err(unusable(&path, &error.into())),
        }
    }

    /// The folder of job `name`, whether it exists or not.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.jobs.join(name)
    }

    /// Job `name`, where there is one.
    pub(crate) fn job(&self, name: &str) -> Option<Job> {
        if check_name(name).is_err() {
            return None;
        }
        Job::read(&self.folder(name))
    }

    /// Every job, oldest first.
    pub(crate) fn jobs(&self) -> Vec<Job> {
        let Ok(entries) = fs::read_dir(&self.jobs) else { return Vec::new() };
        let mut jobs: Vec<Job> = entries.flatten().filter_map(|entry| Job::read(&entry.path())).collect();
        jobs.sort_by_key(|job| (job.meta.started_unix_ms, job.meta.name.clone()));
        jobs
    }

    /// Removes what is left of jobs that were lost or have ended long ago.
    pub(crate) fn sweep(&self, _lock: &RuntimeLock) {
        let Ok(entries) = fs::read_dir(&self.jobs) else { return };
        let mut ended = Vec::new();
        for folder in entries.flatten().map(|entry| entry.path()) {
            match Job::read(&folder).map(|job| job.state) {
                None if folder.join("meta.json").exists() => {} // another version's: not ours to judge
                None | Some(State::Lost) => {
                    fault::reach("job.judged");
                    drop(fs::remove_dir_all(&folder));
                }
                Some(State::Exited(how)) => ended.push((how.ended_unix_ms, folder)),
                Some(_) => {}
            }
        }
        ended.sort();
        let surplus = ended.len().saturating_sub(ENDED_KEPT_MAX);
        let now = unix_ms();
        for (index, (when, folder)) in ended.into_iter().enumerate() {
            if index < surplus || when + ENDED_KEPT_MS < now {
                let _ = fs::remove_dir_all(folder);
            }
        }
    }
}

/// Whether `name` may be a job's: never a pid, never a path.
pub(crate) fn check_name(name: &str) -> Result<(), Failure> {
    let form = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '+');
    let sound = (1..=64).contains(&name.len())
        && name.chars().all(form)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !name.chars().all(|c| c.is_ascii_digit());
    if sound {
        return Ok(());
    }
    Err(Failure::new("B-0104", exit::USAGE, format!("\"{}\" cannot be a job's name", name.escape_debug()))
        .why("a name has 1 to 64 letters, digits, '.', '_', '-' or '+', starts with a letter or digit, and is not a number")
        .next("brant run -n NAME -- COMMAND"))
}

/// Connects to the socket of the job in `folder`, however long the folder's path is.
pub(crate) fn connect(folder: &Path) -> io::Result<UnixStream> {
    let handle = File::open(folder)?;
    UnixStream::connect(format!("/proc/self/fd/{}/socket", handle.as_raw_fd()))
}

/// The folder must be a folder, ours, and closed to others.
fn check_private(folder: &Path) -> Result<(), Failure> {
    let found = fs::symlink_metadata(folder).map_err(|error| unusable(folder, &error))?;
    let euid = nix::unistd::geteuid().as_raw();
    let why = if !found.is_dir() {
        "it is not a folder".to_string()
    } else if found.uid() != euid {
        format!("it belongs to uid {}, you are uid {euid}", found.uid())
    } else if found.mode() & 0o077 != 0 {
        format!("others may enter it (mode {:o})", found.mode() & 0o777)
    } else {
        return Ok(());
    };
    Err(Failure::new(
        "B-0105",
        exit::FAILED,
        format!("the runtime folder {} is not safe to use", folder.display()),
    )
    .why(why)
    .next("remove that folder, or set XDG_RUNTIME_DIR to a folder of mode 0700 that is yours"))
}

pub(super) fn unusable(path: &Path, error: &io::Error) -> Failure {
    Failure::new("B-0105", exit::FAILED, format!("the runtime folder cannot be used: {}", path.display()))
        .why(error)
        .next("set XDG_RUNTIME_DIR to a folder of mode 0700 that is yours")
}
