//! Why a checkpoint was not made. In every case the program runs on.

use std::io;
use std::time::Duration;

use brant_base::{Pid, Refusals, Tid};
use brant_image::ImageError;
use brant_kernel::proc::ProcError;
use brant_kernel::remote::RemoteError;

/// Why a checkpoint was not made; the program runs on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no process {0}")]
    NoTarget(Pid),
    #[error("this brant is itself a part of the tree under process {0}, and cannot hold itself still")]
    OwnTree(Pid),
    #[error("process {pid} may not be traced by this user")]
    Permission {
        pid: Pid,
        #[source]
        error: io::Error,
    },
    #[error("{} thing{} cannot be carried", .0.0.len(), if .0.0.len() == 1 { "" } else { "s" })]
    Refused(Refusals),
    #[error("thread {tid} did not stop within {timeout:?}; it waits in the kernel at {place}")]
    DoesNotStop { tid: Tid, timeout: Duration, place: String },
    #[error("waiting for tracees")]
    Waiter(#[source] io::Error),
    #[error("thread {tid}: {operation}")]
    Thread {
        tid: Tid,
        operation: &'static str,
        #[source]
        error: io::Error,
    },
    #[error("thread {tid} cannot be traced")]
    Seize {
        tid: Tid,
        #[source]
        error: io::Error,
    },
    #[error("reading the memory of process {pid}")]
    Memory {
        pid: Pid,
        #[source]
        error: io::Error,
    },
    #[error(
        "the tree under process {0} executes programs all the time, on which brant is just putting wrappers"
    )]
    Passing(Pid),
    #[error(
        "the tree under process {0} asks for process numbers, paths or addresses all the time, which `virtual` translates"
    )]
    Unsettled(Pid),
    #[error("process {pid} ended while it was looked at")]
    Ended { pid: Pid },
    /// A copy of a process that ran on was killed before all of it was written.
    #[error("the copy of process {pid} {}", if *.memory_short { "was given up, as memory got short" } else { "was killed" })]
    CopyLost { pid: Pid, memory_short: bool },
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error(transparent)]
    Proc(#[from] ProcError),
    #[error("the file {path} was changed while it was copied into the image")]
    Changed { path: String },
    #[error("{what}")]
    Descriptor {
        what: String,
        #[source]
        error: io::Error,
    },
    /// The image could not be written: the disk is full, or the like.
    #[error("writing the image")]
    Image(#[from] ImageError),
}

impl Error {
    /// A stable code that `brant explain` expands.
    pub fn code(&self) -> &'static str {
        match self {
            Error::NoTarget(_) => "B-0201",
            Error::OwnTree(_) => "B-0203",
            Error::Permission { .. } | Error::Seize { .. } => "B-0202",
            Error::Refused(refusals) => refusals.0.first().map_or("B-0300", |refusal| refusal.code),
            Error::DoesNotStop { .. } => "B-0701",
            Error::Ended { .. } => "B-0702",
            Error::Changed { .. } => "B-0706",
            Error::Passing(_) => "B-0707",
            Error::Unsettled(_) => "B-0708",
            Error::CopyLost { .. } => "B-0705",
            Error::Image(error) => error.code(),
            _ => "B-0700",
        }
    }
}
