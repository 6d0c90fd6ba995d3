//! What is recorded of a file on disk so that a restore can tell whether it is still the same.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{LazyLock, Mutex};

use brant_image::model::DiskFile;
use brant_kernel::descriptor::FileStatus;
use brant_kernel::elf;

use super::open_quietly;

/// Larger files are told apart by size and time only.
const DIGEST_BYTES_MAX: u64 = 1 << 20;

/// Bytes that are read at once.
const PART_BYTES: u64 = 1 << 20;

/// Device, inode, size, modified and changed in nanoseconds.
type Version = (u64, u64, u64, i64, i64);

#[derive(Clone, Default)]
struct Marks {
    build_id: Vec<u8>,
    digest: Vec<u8>,
}

/// What was read before the freeze need not be read again while the tree stands still.
static KNOWN: LazyLock<Mutex<HashMap<Version, Marks>>> = LazyLock::new(Mutex::default);

/// Reads what is slow to read, for later.
pub(super) fn warm_up(file: &DiskFile, whole: bool) {
    if !file.written {
        marks(file, true, whole);
    }
}

/// Fills in size, mode and time as they are now, and the build id or digest; `whole` asks for a digest in any case.
/// Gives the file, opened, where it is still the one that is meant and may be read.
pub(super) fn complete(file: &mut DiskFile, mapped: bool, whole: bool) -> Option<File> {
    let (opened, status, _) = open_same(file)?;
    file.size = status.bytes;
    file.mode = status.mode;
    file.modified_ns = status.modified_ns;
    let Marks { build_id, digest } = marks(file, mapped, whole);
    file.build_id = build_id;
    file.digest = digest;
    Some(opened)
}

fn open_same(file: &DiskFile) -> Option<(File, FileStatus, i64)> {
    let opened = open_quietly(Path::new(OsStr::from_bytes(&file.path))).ok()?;
    let metadata = opened.metadata().ok()?;
    let same = metadata.ino() == file.inode && metadata.is_file();
    let changed_ns = metadata.ctime().saturating_mul(1_000_000_000).saturating_add(metadata.ctime_nsec());
    same.then(|| (opened, FileStatus::from(&metadata), changed_ns))
}

fn marks(file: &DiskFile, mapped: bool, whole: bool) -> Marks {
    let Some((opened, status, changed_ns)) = open_same(file) else { return Marks::default() };
    let version = (file.device, file.inode, status.bytes, status.modified_ns, changed_ns);
    if !file.written
        && let Some(known) = KNOWN.lock().ok().and_then(|known| known.get(&version).cloned())
        && !(whole && known.digest.is_empty())
    {
        return known;
    }
    let build_id = if mapped { elf::build_id(&opened).unwrap_or_default() } else { Vec::new() };
    let small = status.bytes <= DIGEST_BYTES_MAX && build_id.is_empty();
    let digest = if small || whole { digest(&opened, status.bytes).unwrap_or_default() } else { Vec::new() };
    let marks = Marks { build_id, digest };
    if !file.written
        && let Ok(mut known) = KNOWN.lock()
    {
        known.insert(version, marks.clone());
    }
    marks
}

fn digest(file: &File, bytes: u64) -> Option<Vec<u8>> {
    let mut hasher = blake3::Hasher::new();
    let mut part = vec![0; bytes.min(PART_BYTES) as usize];
    let mut at = 0;
    while at < bytes {
        let length = PART_BYTES.min(bytes - at) as usize;
        file.read_exact_at(&mut part[..length], at).ok()?;
        hasher.update(&part[..length]);
        at += length as u64;
    }
    Some(hasher.finalize().as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_a_file_are_read() {
        let path = std::env::temp_dir().join(format!("brant-facts-{}", std::process::id()));
        std::fs::write(&path, b"contents").unwrap();
        let inode = std::fs::metadata(&path).unwrap().ino();
        let mut file = DiskFile { path: path.as_os_str().as_bytes().to_vec(), inode, ..DiskFile::default() };
        assert!(complete(&mut file, false, false).is_some());
        std::fs::remove_file(&path).unwrap();
        assert_eq!((file.size, file.digest), (8, blake3::hash(b"contents").as_bytes().to_vec()));
    }
}
