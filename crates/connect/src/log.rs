//! The log of interceptions: a line for each function that a wrapper is put before, or is taken off from, and for each that it
//! could not be put before. Calls themselves are no business of it: the wrapper `trace` records them.
//!
//! A line is one write to the end of a file that only its owner may read, so that several brants may have the same one:
//!
//! ```text
//! TIME PID on|off WRAPPER FUNCTION[@VERSION] LIBRARY ADDRESS MEDIATOR DEPTH
//! TIME PID refused WRAPPER CODE WORDS
//! TIME PID followed follow-exec PROGRAM
//! TIME PID unfollowed follow-exec PROGRAM CODE WORDS
//! ```
//!
//! Words of a definition or a program have no spaces and no control characters here: these are escaped.

use std::cell::Cell;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use brant_base::Pid;

use crate::error::Error;
use crate::{Function, Unwrapped, Wrapped};

/// The variable that names a log for whoever names none.
pub const VARIABLE: &str = "BRANT_CONNECT_LOG";

/// A log, or none.
#[derive(Debug, Default)]
pub struct Log {
    file: Option<(PathBuf, File)>,
    lost: Cell<u32>,
}

impl Log {
    /// Nothing is noted.
    pub fn none() -> Log {
        Log::default()
    }

    /// The file at `path`, which is made where it is not there.
    pub fn open(path: &Path) -> Result<Log, Error> {
        let failed = |error| Error::Log { path: path.display().to_string(), error };
        let path = std::path::absolute(path).map_err(failed)?;
        let file = File::options().append(true).create(true).mode(0o600).open(&path).map_err(failed)?;
        Ok(Log { file: Some((path, file)), lost: Cell::new(0) })
    }

    /// The one that the environment names.
    pub fn from_environment() -> Result<Log, Error> {
        match std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
            Some(path) => Log::open(Path::new(&path)),
            None => Ok(Log::none()),
        }
    }

    /// Where it is.
    pub fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|(path, _)| path.as_path())
    }

    /// How many lines could not be written.
    pub fn lost(&self) -> u32 {
        self.lost.get()
    }

    /// What came of putting a wrapper on.
    pub(crate) fn put_on(&self, pid: Pid, wrapper: &str, done: &Result<Wrapped, Error>) {
        match done {
            Ok(wrapped) => self.functions(pid, "on", wrapper, &wrapped.interceptions),
            Err(error) => self.refused(pid, wrapper, error),
        }
    }

    /// What came of taking it off.
    pub(crate) fn taken_off(&self, pid: Pid, wrapper: &str, done: &Result<&Unwrapped, &Error>) {
        match done {
            Ok(unwrapped) => self.functions(pid, "off", wrapper, &unwrapped.interceptions),
            Err(error) => self.refused(pid, wrapper, error),
        }
    }

    /// A program was executed that gets the wrappers of who executed it.
    pub(crate) fn followed(&self, pid: Pid, program: &Path) {
        self.line(
            pid,
            "followed",
            &format!("{} {}", crate::follow::NAME, word(program.as_os_str().as_encoded_bytes())),
        );
    }

    /// A program was executed that does not.
    pub(crate) fn unfollowed(&self, pid: Pid, program: &Path, error: &Error) {
        let program = word(program.as_os_str().as_encoded_bytes());
        self.line(pid, "unfollowed", &format!("{} {program} {} {error}", crate::follow::NAME, error.code()));
    }

    fn functions(&self, pid: Pid, what: &str, wrapper: &str, functions: &[Function]) {
        for function in functions {
            let mut name = word(&function.name);
            if !function.version.is_empty() {
                name.push_str(&format!("@{}", word(&function.version)));
            }
            let (library, mediator) = (word(&function.library), word(&function.mediator));
            let wrapper = word(wrapper.as_bytes());
            let (address, depth) = (function.address, function.depth);
            self.line(pid, what, &format!("{wrapper} {name} {library} {address:#x} {mediator} {depth}"));
        }
    }

    fn refused(&self, pid: Pid, wrapper: &str, error: &Error) {
        let wrapper = word(wrapper.as_bytes());
        let code = error.code();
        match error {
            Error::Unhookable(functions) => functions
                .iter()
                .for_each(|function| self.line(pid, "refused", &format!("{wrapper} {code} {function}"))),
            error => self.line(pid, "refused", &format!("{wrapper} {code} {error}")),
        }
    }

    fn line(&self, pid: Pid, what: &str, rest: &str) {
        let Some((_, file)) = &self.file else { return };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let rest: String = rest.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let line = format!("{}.{:06} {pid} {what} {rest}\n", now.as_secs(), now.subsec_micros());
        // One write, so that it is not mixed with another's.
        let is_whole = (&*file).write(line.as_bytes()).is_ok_and(|bytes| bytes == line.len());
        self.lost.set(self.lost.get() + u32::from(!is_whole));
    }
}

/// As one word.
fn word(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let is_plain = |c: char| !c.is_whitespace() && !c.is_control();
    match text.is_empty() {
        true => "-".to_owned(),
        false => text
            .chars()
            .flat_map(|c| {
                let escaped = (!is_plain(c)).then(|| c.escape_unicode());
                let plain = is_plain(c).then_some(c);
                escaped.into_iter().flatten().chain(plain)
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn lines_are_added_for_the_owner_only() {
        let path = std::env::temp_dir().join(format!("brant-log-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let function = Function {
            library: b"lib c.so".to_vec(),
            name: b"open".to_vec(),
            address: 0x1000,
            depth: 1,
            version: b"V_1".to_vec(),
            mediator: b"my_open".to_vec(),
        };
        for _ in 0..2 {
            let log = Log::open(&path).unwrap();
            log.functions(Pid(7), "on", "w", std::slice::from_ref(&function));
            log.refused(Pid(7), "w", &Error::Static(Pid(7)));
            assert_eq!(log.lost(), 0);
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[0], "7 on w open@V_1 lib\\u{20}c.so 0x1000 my_open 1");
        assert!(lines[3].starts_with("7 refused w B-1103 process 7 is statically linked"), "{text}");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(Log::open(Path::new("/nowhere/log")), Err(Error::Log { .. })));
    }
}
