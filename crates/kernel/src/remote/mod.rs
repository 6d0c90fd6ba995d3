//! Remote control: a stopped thread performs system calls for us, then goes on as it was.
//!
//! - [`Hand`] works in a program that must survive us: every foreign instruction is followed by a return thunk.
//! - [`Errand`] makes one thread of such a program call its functions.
//! - [`Copied`] is a fork of such a program that never runs: its memory as it was at one moment.
//! - [`Puppet`] drives a task that is being built and dies with us.

mod copy;
mod errand;
mod execute;
mod hand;
mod memory;
mod puppet;
mod stub;
mod thunk;
mod trampoline;

pub use copy::Copied;
pub use errand::Errand;
pub use hand::{Hand, HandThread, apart};
pub use memory::Memory;
pub(crate) use puppet::CloneArguments;
pub use puppet::{Call, Fork, Puppet, StubPlace};
pub use stub::{STUB_BYTES, StubEntry};
pub use trampoline::{
    ProgramCall, TRAMPOLINE_BYTES, TRAMPOLINE_MARK, TimeoutForm, call_of_program, timeout_form, trampoline,
};

use std::io;
use std::time::Duration;

use brant_base::Tid;

use crate::ptrace::{Stop, WaitError};

/// How long one remote call may take. The calls that are made never sleep; a loaded machine may.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a remote call was not made or failed.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error("thread {tid}: system call {number} failed")]
    Call {
        tid: Tid,
        number: i64,
        #[source]
        error: io::Error,
    },
    #[error("thread {tid} ended (wait status {status:#x})")]
    Ended { tid: Tid, status: i32 },
    #[error("thread {tid}: unexpected stop {stop:?}")]
    Unexpected { tid: Tid, stop: Stop },
    #[error("thread {tid}: {operation}")]
    Ptrace {
        tid: Tid,
        operation: &'static str,
        #[source]
        error: io::Error,
    },
    #[error(transparent)]
    Wait(#[from] WaitError),
    #[error("thread {tid}: no free room for a return thunk in its executable mappings")]
    NoRoom { tid: Tid },
    #[error("thread {tid} is inside a return thunk")]
    InThunk { tid: Tid },
}

impl RemoteError {
    /// The errno of a call that was made and failed.
    pub fn errno(&self) -> Option<i32> {
        match self {
            RemoteError::Call { error, .. } => error.raw_os_error(),
            _ => None,
        }
    }
}

/// The kernel's return value of a call as a result.
fn call_result(tid: Tid, number: i64, value: u64) -> Result<u64, RemoteError> {
    match value as i64 {
        error @ -4095..=-1 => {
            Err(RemoteError::Call { tid, number, error: io::Error::from_raw_os_error(-error as i32) })
        }
        _ => Ok(value),
    }
}
