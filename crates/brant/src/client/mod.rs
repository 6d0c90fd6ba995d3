//! Clients of a keeper: in the foreground (run, attach, restore) and in passing (stop, kill).
//!
//! A client holds nothing that the job needs. Killed at any instant it leaves the job running; what it did to
//! the user's terminal it takes back on every way out but SIGKILL.

mod foreground;
mod link;
mod raw;
mod signals;

pub(crate) use foreground::{Foreground, Outcome, own_window};
pub(crate) use link::Link;
pub(crate) use raw::LentTerminal;
pub(crate) use signals::Blocked;
