//! Why a restore failed. Nothing of it is left when one of these is returned: no process, no mount.

use std::io;

use brant_base::{Addr, PageRange, Pid, Refusals};
use brant_image::ImageError;
use brant_kernel::namespace::NamespaceError;
use brant_kernel::proc::ProcError;
use brant_kernel::remote::RemoteError;

use crate::identities::Unmediated;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host or its files do not fit: found before anything was built.
    #[error("{0}")]
    Refused(#[source] Refusals),
    /// A namespace of the restore's own could not be made.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A call of the builder's own.
    #[error("{operation}")]
    Builder {
        operation: &'static str,
        #[source]
        error: io::Error,
    },
    /// Something that is opened by path.
    #[error("{operation} {path}")]
    Path {
        operation: &'static str,
        path: String,
        #[source]
        error: io::Error,
    },
    /// A call in a task that is being built.
    #[error("process {pid}: {operation}")]
    Remote {
        pid: Pid,
        operation: &'static str,
        #[source]
        error: RemoteError,
    },
    /// A mapping that the kernel refused.
    #[error("process {pid}: mapping {range}")]
    Mapping {
        pid: Pid,
        range: PageRange,
        #[source]
        error: io::Error,
    },
    /// Memory that could not be filled.
    #[error("process {pid}: writing its memory at {at}")]
    Contents {
        pid: Pid,
        at: Addr,
        #[source]
        error: io::Error,
    },
    /// Mediators that a process needs could not be put on it.
    #[error("process {pid}: its numbers cannot be translated")]
    Mediators {
        pid: Pid,
        #[source]
        error: Unmediated,
    },
    #[error(transparent)]
    Proc(#[from] ProcError),
    /// The job's keeper ended before the tree was built.
    #[error("the job's keeper ended early")]
    KeeperEnded,
    /// A setting that the kernel refused.
    #[error("process {pid}: {what} (system call {number})")]
    Call {
        pid: Pid,
        what: &'static str,
        number: i64,
        #[source]
        error: io::Error,
    },
    /// The kernel made something else than what was asked for.
    #[error("process {pid}: {what} came out as {found}, not {wanted}")]
    Mismatch { pid: Pid, what: &'static str, found: String, wanted: String },
    /// No address range of `pages` pages is free in all address spaces.
    #[error("no gap of {pages} pages is free in every address space of the image")]
    NoGap { pages: u64 },
}

impl Error {
    /// The stable code that `brant explain` expands.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Refused(refusals) => refusals.0.first().map_or("B-0400", |refusal| refusal.code),
            Error::Namespace(_) => "B-0401",
            Error::Image(error) => error.code(),
            Error::Path { .. } => "B-0802",
            Error::Mediators { .. } => "B-0807",
            Error::KeeperEnded => "B-0803",
            Error::Mismatch { .. } => "B-0804",
            Error::NoGap { .. } => "B-0402",
            Error::Mapping { .. } | Error::Contents { .. } => "B-0805",
            Error::Builder { .. } | Error::Remote { .. } | Error::Call { .. } | Error::Proc(_) => "B-0801",
        }
    }

    pub(crate) fn builder(operation: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |error| Error::Builder { operation, error }
    }

    pub(crate) fn remote(pid: Pid, operation: &'static str) -> impl FnOnce(RemoteError) -> Error {
        move |error| Error::Remote { pid, operation, error }
    }
}
