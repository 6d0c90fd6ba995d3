//! brant: checkpoint, restore and keep running programs as a plain user.
//!
//! This crate is the command line (`cli`), the small process that keeps a job (`keeper`), its clients
//! (`client`), the folder of running jobs (`job`) and what is printed (`report`, `explain`). It knows nothing
//! of how a checkpoint is made: the engine's crates do.
#![forbid(unsafe_code)]

mod beholder;
mod cli;
mod client;
mod explain;
mod failure;
mod handover;
mod job;
mod keeper;
mod protocol;
mod report;
mod target;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Who ignores it, and hands that down, would take the ends of our own processes from us.
    brant_kernel::task::default_signal(libc::SIGCHLD);
    cli::main()
}
