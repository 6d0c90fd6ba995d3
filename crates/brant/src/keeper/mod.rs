//! The one small process that keeps a job: it reaps, holds the pseudo-terminal and the log, keeps the exit
//! status and answers clients. It does nothing else, so that it hardly ever has a reason to fail.
//!
//! It serves in two ways: started by `brant run` it is a subreaper in the user's pid namespace ([`launch`](mod@launch));
//! forked by the builder of a restore it is pid 1 of the job's own namespace ([`adopt`](mod@adopt)), and the rest of the
//! job dies with it. One thread, one poll loop, no wait on any client.
//!
//! Killed by SIGKILL, it takes a terminal or a log pipe with it (the program gets SIGHUP, SIGPIPE); a program
//! that was given plain descriptors runs on.

mod adopt;
mod beginning;
mod launch;
mod log;
mod modes;
mod peer;
mod serve;

pub(crate) use adopt::{Inheritance, adopt};
pub(crate) use launch::{Io, LaunchError, Launched, Wrapping, launch};
pub(crate) use log::copy_log;
pub(crate) use modes::Modes;
