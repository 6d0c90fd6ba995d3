//! What /proc says of a process: parsers that take bytes, and thin readers that take a number of the host.
//!
//! Facts relied upon: proc(5) and, where that page is silent, `Documentation/filesystems/proc.rst` of Linux 6.18.
//! A process may vanish between any two reads; that is [`ProcError::Gone`], never a panic. What the files hold
//! is partly chosen by the target (names, paths), so parsers accept any bytes and answer with an error.

mod attributes;
mod fdinfo;
mod limits;
mod locks;
mod maps;
mod mounts;
mod namespaces;
mod pagemap;
mod stat;
mod status;
mod text;
mod timers;
mod tree;

pub use attributes::{
    CurrentCall, auxv, cmdline, comm, current_call, exec_start_ns, link, oom_score_adj, parse_auxv,
    parse_current_call, parse_exec_start, personality, timer_slack_ns,
};
pub use fdinfo::{EpollTarget, FdInfo, InotifyMark, TimerFdInfo, fdinfo, open_descriptors, parse_fdinfo};
pub use limits::{LIMITS, LimitPair, UNLIMITED, limits, parse_limits};
pub use locks::{LockEntry, LockKind, locks, parse_lock, parse_locks};
pub use maps::{Device, MapEntry, MapKind, Permissions, VmFlags, maps, parse_maps, smaps};
pub use mounts::{Mount, mounts, parse_mounts};
pub use namespaces::{IdMapLine, Namespaces, gid_map, namespaces, parse_id_map, uid_map};
pub use pagemap::{Extent, PageKind, PageRun, Pagemap, data_extents, populated_pages};
pub use stat::{Stat, parse_stat, stat};
pub use status::{Status, parse_status, status};
pub use text::ParseError;
pub use timers::{TimerEntry, TimerNotify, parse_timers, timers};
pub use tree::{children, parse_numbers, processes, tasks};

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use brant_base::{Pid, Tid};

/// The largest /proc file that is read: smaps of the 65,530 mappings that a process may have is 50 MB.
const FILE_BYTES_MAX: u64 = 512 << 20;

/// Whose entry under /proc. Numbers are those of the mounted /proc, which is the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// `/proc/PID`
    Process(Pid),
    /// `/proc/PID/task/TID`
    Thread(Pid, Tid),
    /// `/proc` itself
    System,
}

impl From<Pid> for Subject {
    fn from(pid: Pid) -> Subject {
        Subject::Process(pid)
    }
}

impl From<(Pid, Tid)> for Subject {
    fn from((pid, tid): (Pid, Tid)) -> Subject {
        Subject::Thread(pid, tid)
    }
}

impl Subject {
    /// The directory of this subject.
    pub fn directory(self) -> PathBuf {
        match self {
            Subject::Process(pid) => format!("/proc/{pid}").into(),
            Subject::Thread(pid, tid) => format!("/proc/{pid}/task/{tid}").into(),
            Subject::System => "/proc".into(),
        }
    }

    fn path(self, file: &str) -> PathBuf {
        self.directory().join(file)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Process(pid) => write!(f, "process {pid}"),
            Subject::Thread(pid, tid) => write!(f, "thread {tid} of process {pid}"),
            Subject::System => f.write_str("the system"),
        }
    }
}

/// Why something under /proc could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ProcError {
    /// It has ended; or it is a zombie and what was asked for went with its memory.
    #[error("{0} is gone")]
    Gone(Subject),
    /// It lives, but has no such file: an older kernel, or a descriptor that was closed.
    #[error("{subject} has no {file} in /proc")]
    Absent { subject: Subject, file: String },
    #[error("may not read {file} of {subject}")]
    Denied {
        subject: Subject,
        file: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot read {file} of {subject}")]
    Io {
        subject: Subject,
        file: String,
        #[source]
        source: io::Error,
    },
    #[error("{file} of {subject} is not as this program knows it")]
    Malformed {
        subject: Subject,
        file: String,
        #[source]
        source: ParseError,
    },
}

impl ProcError {
    /// Whether the process or thread has ended.
    pub fn is_gone(&self) -> bool {
        matches!(self, ProcError::Gone(_))
    }

    fn from_io(subject: Subject, file: &str, source: io::Error) -> ProcError {
        let file = file.to_owned();
        match source.raw_os_error() {
            Some(libc::ESRCH) => ProcError::Gone(subject),
            Some(libc::ENOENT) if !subject.directory().exists() => ProcError::Gone(subject),
            Some(libc::ENOENT) => ProcError::Absent { subject, file },
            Some(libc::EACCES | libc::EPERM) => ProcError::Denied { subject, file, source },
            _ => ProcError::Io { subject, file, source },
        }
    }
}

/// stat(2) of what a link under a process's directory leads to, such as `fd/3` or `exe`.
pub fn file_status(subject: Subject, file: &str) -> Result<crate::descriptor::FileStatus, ProcError> {
    std::fs::metadata(subject.path(file))
        .map(|metadata| crate::descriptor::FileStatus::from(&metadata))
        .map_err(|error| ProcError::from_io(subject, file, error))
}

fn open(subject: Subject, file: &str) -> Result<File, ProcError> {
    File::open(subject.path(file)).map_err(|error| ProcError::from_io(subject, file, error))
}

fn read(subject: Subject, file: &str) -> Result<Vec<u8>, ProcError> {
    let mut bytes = Vec::new();
    let opened = open(subject, file)?;
    match opened.take(FILE_BYTES_MAX).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(ProcError::from_io(subject, file, error)),
    }
}

fn read_parsed<T>(
    subject: Subject,
    file: &str,
    parse: impl FnOnce(&[u8]) -> Result<T, ParseError>,
) -> Result<T, ProcError> {
    let bytes = read(subject, file)?;
    parse(&bytes).map_err(|source| ProcError::Malformed { subject, file: file.to_owned(), source })
}
