//! The debug log: a line for each function that a wrapper is put before or taken off from, and for each refusal.
//!
//! `TIME PID WHAT WRAPPER FUNCTION LIBRARY ADDRESS MEDIATOR LAYERS`, as on Linux (docs/connectors.md).

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use brant_windows::{Code, Interception, Refused};

/// Where lines go; nowhere by default.
#[derive(Debug, Default)]
pub struct Log(Option<File>);

impl Log {
    /// Lines go to the end of a file, which is made where it is not there.
    pub fn open(path: &Path) -> Result<Log, Refused> {
        let file = File::options().append(true).create(true).open(path);
        file.map(|file| Log(Some(file))).map_err(|error| {
            Refused::new(Code::Log, format!("the log {} cannot be opened", path.display())).why(error)
        })
    }

    /// The file that the variable BRANT_CONNECT_LOG names, if it is set.
    pub fn from_environment() -> Result<Log, Refused> {
        std::env::var_os("BRANT_CONNECT_LOG").map_or(Ok(Log(None)), |path| Log::open(Path::new(&path)))
    }

    pub(crate) fn all(&self, pid: u32, what: &str, wrapper: &str, interceptions: &[Interception]) {
        for interception in interceptions {
            let Interception { function, library, address, mediator, depth } = interception;
            self.line(&format!(
                "{pid} {what} {wrapper} {function} {library} {address:#x} {mediator} {depth}"
            ));
        }
    }

    pub(crate) fn refused(&self, pid: u32, wrapper: &str, refused: &Refused) {
        self.line(&format!("{pid} refused {wrapper} {} {}", refused.code(), refused.what));
    }

    /// A line is one write, so that those of several processes do not mix. A full disk stops nothing.
    fn line(&self, text: &str) {
        let Some(mut file) = self.0.as_ref() else { return };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let _ = file.write_all(format!("{}.{:06} {text}\n", now.as_secs(), now.subsec_micros()).as_bytes());
    }
}
