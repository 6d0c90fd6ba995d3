//! brant.exe: wrappers on Windows programs.
//!
//! The command line only; `brant-control` does what it says in other processes.
#![forbid(unsafe_code)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    ExitCode::from(cli::main(&arguments))
}
