//! Windows processes from outside: they are started, opened, given the agent, and asked.
//!
//! This is the part of `brant.exe` that calls Windows, and so the one with `unsafe`. A process that was running before survives
//! whatever fails here, and the end of brant at any instant: all that is done in it is done by threads of its own
//! ([`Process::ask`]). A process that is being started ends with brant until it is let go ([`Starting`]).

mod carry;
mod error;
mod handle;
mod log;
mod memory;
mod module;
mod process;
mod start;
mod wrap;

pub mod definitions;

pub use carry::{carry, checkpoint, restored};
pub use log::Log;
pub use module::own_folder;
pub use process::{ANSWER_LIMIT_MS, Process};
pub use start::{Started, Starting};
pub use wrap::{handles, show, unwrap_process, wrap, wrap_process, wrappers};
