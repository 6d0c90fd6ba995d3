//! The commands.

mod checkpoint;
mod explain;
mod handles;
mod options;
mod restore;
mod run;
mod show;
mod wrap;

use std::ffi::OsString;
use std::path::PathBuf;

use brant_windows::{Code, Refused};

pub(crate) const USAGE: &str = "\
brant.exe run [--carry [--heaps arenas|raw]] [--pid-file FILE] [--wrap WRAPPER]... [--callers all] [--log FILE] -- PROGRAM [ARGUMENT]...
brant.exe wrap WRAPPER PID [--callers all] [--log FILE]
brant.exe unwrap NAME PID [--log FILE]
brant.exe wrappers [PID] [--json]
brant.exe show PID [--all] [--json]
brant.exe handles PID [--renew] [--json]
brant.exe checkpoint PID -o FILE [--stop]
brant.exe restore FILE [--pid-file FILE]
brant.exe explain CODE

WRAPPER is the path of a definition file, or a name; options of the implementation follow behind a colon.
";

/// Exit codes, as on Linux.
pub(crate) mod exit {
    pub(crate) const FAILED: u8 = 1;
    pub(crate) const USAGE: u8 = 2;
    pub(crate) const UNSUPPORTED: u8 = 3;
    pub(crate) const NO_TARGET: u8 = 4;
    /// `run`'s own failures, so that the program's codes stay its own.
    pub(crate) const OWN: u8 = 125;
    pub(crate) const NOT_FOUND: u8 = 127;
}

/// Does what the arguments say. The exit code.
pub(crate) fn main(arguments: &[OsString]) -> u8 {
    let words: Vec<String> = arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let done = match words.first().map(String::as_str) {
        Some("run") => return run::run(&arguments[1..]),
        Some("restore") => return restore::restore(&arguments[1..]),
        Some("checkpoint") => checkpoint::checkpoint(&words[1..]),
        Some("wrap") => wrap::wrap(&words[1..]),
        Some("unwrap") => wrap::unwrap(&words[1..]),
        Some("wrappers") => wrap::wrappers(&words[1..]),
        Some("show") => show::show(&words[1..]),
        Some("handles") => handles::handles(&words[1..]),
        Some("explain") => explain::explain(&words[1..]),
        Some("help" | "--help" | "-h") => {
            print!("{USAGE}");
            Ok(())
        }
        Some("--version" | "-V") => {
            println!("brant {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        _ => Err(usage("there is no such command")),
    };
    done.map_or_else(|refused| told(&refused), |()| 0)
}

pub(crate) fn usage(what: &str) -> Refused {
    Refused::new(Code::Usage, what).next("brant.exe help")
}

/// Tells the user; the exit code.
pub(crate) fn told(refused: &Refused) -> u8 {
    eprintln!("brant: {refused}");
    match refused.code {
        Code::Usage => exit::USAGE,
        Code::NoProcess | Code::NotWrapped | Code::NotRecorded => exit::NO_TARGET,
        Code::OtherMachine | Code::NotCarried | Code::NotHere | Code::Unhookable => exit::UNSUPPORTED,
        _ => exit::FAILED,
    }
}

/// The folder where brant.exe and the agent lie.
pub(crate) fn home() -> Result<PathBuf, Refused> {
    let failed = |why: &str| Refused::new(Code::Failed, "it cannot be told where brant.exe lies").why(why);
    let own = std::env::current_exe().map_err(|error| failed(&error.to_string()))?;
    own.parent().map(PathBuf::from).ok_or_else(|| failed("its path has no folder"))
}
