//! Options, wherever they stand among the words of a command.

use std::path::Path;

use brant_control::Log;
use brant_windows::{Callers, Code, Refused};

use super::usage;

/// What the words of a command say.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// Words that are no options, in their order.
    pub(crate) words: Vec<String>,
    pub(crate) wrappers: Vec<String>,
    pub(crate) callers: Callers,
    pub(crate) log: Option<String>,
    pub(crate) is_json: bool,
    pub(crate) is_all: bool,
    pub(crate) is_renewed: bool,
    pub(crate) carry: bool,
    pub(crate) raw_heaps: bool,
    pub(crate) stop: bool,
    pub(crate) output: Option<String>,
    pub(crate) pid_file: Option<String>,
    /// Addresses that are taken before anything is loaded: for tests.
    pub(crate) taken: Vec<u64>,
}

impl Options {
    pub(crate) fn of(words: &[String]) -> Result<Options, Refused> {
        let mut options = Options::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().cloned().ok_or_else(|| usage(&format!("{word} needs a value")));
            match word.as_str() {
                "--wrap" => options.wrappers.push(value()?),
                "--log" => options.log = Some(value()?),
                "--json" => options.is_json = true,
                "--all" => options.is_all = true,
                "--renew" => options.is_renewed = true,
                "--carry" => options.carry = true,
                "--stop" => options.stop = true,
                "--pid-file" => options.pid_file = Some(value()?),
                "-o" | "--output" => options.output = Some(value()?),
                "--taken" => options.taken = addresses(&value()?)?,
                "--heaps" => {
                    options.raw_heaps = match value()?.as_str() {
                        "arenas" => false,
                        "raw" => true,
                        _ => return Err(usage("--heaps takes \"arenas\" or \"raw\"")),
                    }
                }
                "--callers" => {
                    options.callers = match value()?.as_str() {
                        "program" => Callers::Program,
                        "all" => Callers::All,
                        _ => return Err(usage("--callers takes \"program\" or \"all\"")),
                    }
                }
                word if word.starts_with("--") => {
                    return Err(usage(&format!("there is no option {word} here")));
                }
                word => options.words.push(word.to_owned()),
            }
        }
        Ok(options)
    }

    /// Writes the program's number where that was asked for.
    pub(crate) fn write_pid(&self, pid: u32) -> Result<(), Refused> {
        let Some(path) = &self.pid_file else { return Ok(()) };
        let failed = |error| Refused::new(Code::Failed, format!("{path} cannot be written")).why(error);
        std::fs::write(path, format!("{pid}\n")).map_err(failed)
    }

    pub(crate) fn log(&self) -> Result<Log, Refused> {
        self.log.as_ref().map_or_else(Log::from_environment, |path| Log::open(Path::new(path)))
    }
}

/// Hexadecimal addresses with commas between them.
fn addresses(words: &str) -> Result<Vec<u64>, Refused> {
    let address = |word: &str| {
        u64::from_str_radix(word, 16).map_err(|_| usage(&format!("{word} is no hexadecimal address")))
    };
    words.split(',').map(address).collect()
}

/// A process's number.
pub(crate) fn pid(word: &str) -> Result<u32, Refused> {
    word.parse().map_err(|_| usage(&format!("{word} is no process's number")))
}
