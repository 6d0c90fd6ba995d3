//! What a job wrote, kept up to a limit: `log`, and `log.old` with what came before.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// When `log` has this many bytes, it becomes `log.old`.
const LOG_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The log of a job that is running.
pub(super) struct Log {
    folder: PathBuf,
    file: Option<File>,
    bytes: u64,
}

impl Log {
    /// A new log in `folder`. Where it cannot be written the job goes on without: output is never a reason
    /// to end a program.
    pub(super) fn create(folder: &Path) -> Log {
        Log { folder: folder.to_path_buf(), file: open(folder), bytes: 0 }
    }

    /// Adds `bytes`.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        if self.bytes >= LOG_BYTES_MAX {
            let _ = fs::rename(self.folder.join("log"), self.folder.join("log.old"));
            self.file = open(&self.folder);
            self.bytes = 0;
        }
        if let Some(file) = &mut self.file {
            let _ = file.write_all(bytes);
            self.bytes += bytes.len() as u64;
        }
    }
}

fn open(folder: &Path) -> Option<File> {
    File::options().create(true).write(true).truncate(true).mode(0o600).open(folder.join("log")).ok()
}

/// Copies what the log of the job in `folder` holds to `out`, oldest first.
pub(crate) fn copy_log(folder: &Path, out: &mut impl Write) -> io::Result<()> {
    for name in ["log.old", "log"] {
        match File::open(folder.join(name)) {
            Ok(mut file) => drop(io::copy(&mut file, out)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
