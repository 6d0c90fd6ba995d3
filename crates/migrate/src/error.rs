//! Why a connection between two hosts came to nothing.

use std::io;
use std::time::Duration;

use crate::wire::{Failure, WireError};

/// What went wrong between the two hosts. Codes are B-09xx, or the other side's own.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection ended before brant at the other end said anything.
    #[error("the connection ended before brant answered there")]
    NoAnswer,
    /// Something else than brant talks at the other end.
    #[error("no brant answered within {bytes_max} bytes of other output")]
    Chatter { bytes_max: usize },
    #[error("brant there speaks version {theirs} of the protocol, this one speaks {ours}")]
    Protocol { theirs: u32, ours: u32 },
    #[error("the connection was lost")]
    Lost,
    #[error("nothing was heard from the other side for {} seconds", .0.as_secs())]
    Silent(Duration),
    #[error("the other side has taken nothing for {} seconds", .0.as_secs())]
    Stalled(Duration),
    #[error("what came over the connection is not brant's protocol")]
    Wire(#[source] WireError),
    #[error("{got} came where {wanted} was due")]
    Unexpected { got: &'static str, wanted: &'static str },
    #[error("the connection cannot be used")]
    Io(#[source] io::Error),
    #[error("interrupted by a signal")]
    Interrupted,
    /// The other side gave up, and said why.
    #[error("{}", .0.what)]
    Peer(Box<Failure>),
}

impl Error {
    /// The stable code that `brant explain` expands.
    pub fn code(&self) -> &'static str {
        match self {
            Error::NoAnswer | Error::Chatter { .. } => "B-0901",
            Error::Protocol { .. } => "B-0902",
            Error::Lost | Error::Io(_) => "B-0903",
            Error::Silent(_) | Error::Stalled(_) => "B-0904",
            Error::Wire(_) | Error::Unexpected { .. } => "B-0905",
            Error::Interrupted => "B-0906",
            Error::Peer(_) => "B-0907",
        }
    }
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Error {
        match error {
            WireError::Chatter { bytes_max } => Error::Chatter { bytes_max },
            error => Error::Wire(error),
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
                Error::Lost
            }
            _ => Error::Io(error),
        }
    }
}
