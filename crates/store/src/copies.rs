//! Copies of executables and libraries that images carried: which of them are still needed.
//!
//! A checkpoint of a program that maps a copy carries it in any case, so no image needs one; only programs that run do. A restore
//! holds a shared flock(2) lock on the folder from before it makes copies until they are mapped.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::StoreError;

/// What [`clear`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cleared {
    pub removed: usize,
    /// Bytes of the files that were removed.
    pub bytes: u64,
    /// Copies that a program of this user has mapped.
    pub used: usize,
    /// A restore is under way, so nothing was looked at.
    pub busy: bool,
}

/// Removes the copies in `folder` that no process of this user has mapped.
pub fn clear(folder: &Path) -> Result<Cleared, StoreError> {
    let fault = |source| StoreError::Folder { folder: folder.to_owned(), source };
    let opened = match File::open(folder) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Cleared::default()),
        Err(error) => return Err(fault(error)),
    };
    let Ok(_lock) = Flock::lock(opened, FlockArg::LockExclusiveNonblock) else {
        return Ok(Cleared { busy: true, ..Cleared::default() });
    };
    let mapped = mapped_inodes();
    let mut cleared = Cleared::default();
    for item in fs::read_dir(folder).map_err(fault)? {
        let own = item.map_err(fault)?.path();
        for copy in files_in(&own) {
            let Ok(metadata) = fs::symlink_metadata(&copy) else { continue };
            if mapped.contains(&metadata.ino()) {
                cleared.used += 1;
                continue;
            }
            fs::remove_file(&copy).map_err(|source| StoreError::Write { path: copy, source })?;
            cleared.removed += 1;
            cleared.bytes += metadata.len();
        }
        // One that still holds a copy stays.
        let _ = fs::remove_dir(&own);
    }
    Ok(cleared)
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).map(|items| items.flatten().map(|item| item.path()).collect()).unwrap_or_default()
}

/// Inodes of everything that is mapped by processes that this user may look at. The same number on another file system keeps a
/// copy that could go: no harm.
fn mapped_inodes() -> HashSet<u64> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let maps = processes.filter_map(|process| fs::read_to_string(process.path().join("maps")).ok());
    let mut inodes = HashSet::new();
    for text in maps {
        inodes.extend(
            text.lines().filter_map(|line| line.split_ascii_whitespace().nth(4)?.parse::<u64>().ok()),
        );
    }
    inodes
}
