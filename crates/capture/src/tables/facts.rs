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

use super::open_quietly;

/// Larger files are told apart by size and time only.
const DIGEST_BYTES_MAX: u64 = 1 << 20;
const NOTE_BYTES_MAX: u64 = 64 << 10;
const PROGRAM_HEADERS_MAX: u64 = 512;

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
pub(super) fn warm_up(file: &DiskFile) {
    if !file.written {
        marks(file, true);
    }
}

/// Fills in size, mode and time as they are now, and the build id or digest.
pub(super) fn complete(file: &mut DiskFile, mapped: bool) {
    let Some((opened, status, _)) = open_same(file) else { return };
    drop(opened);
    file.size = status.bytes;
    file.mode = status.mode;
    file.modified_ns = status.modified_ns;
    let Marks { build_id, digest } = marks(file, mapped);
    file.build_id = build_id;
    file.digest = digest;
}

fn open_same(file: &DiskFile) -> Option<(File, FileStatus, i64)> {
    let opened = open_quietly(Path::new(OsStr::from_bytes(&file.path))).ok()?;
    let metadata = opened.metadata().ok()?;
    let same = metadata.ino() == file.inode && metadata.is_file();
    let changed_ns = metadata.ctime().saturating_mul(1_000_000_000).saturating_add(metadata.ctime_nsec());
    same.then(|| (opened, FileStatus::from(&metadata), changed_ns))
}

fn marks(file: &DiskFile, mapped: bool) -> Marks {
    let Some((opened, status, changed_ns)) = open_same(file) else { return Marks::default() };
    let version = (file.device, file.inode, status.bytes, status.modified_ns, changed_ns);
    if !file.written
        && let Some(known) = KNOWN.lock().ok().and_then(|known| known.get(&version).cloned())
    {
        return known;
    }
    let build_id = if mapped { build_id(&opened).unwrap_or_default() } else { Vec::new() };
    let small = status.bytes <= DIGEST_BYTES_MAX && build_id.is_empty();
    let digest = if small { digest(&opened, status.bytes).unwrap_or_default() } else { Vec::new() };
    let marks = Marks { build_id, digest };
    if !file.written
        && let Ok(mut known) = KNOWN.lock()
    {
        known.insert(version, marks.clone());
    }
    marks
}

fn digest(file: &File, bytes: u64) -> Option<Vec<u8>> {
    let mut all = vec![0; bytes as usize];
    file.read_exact_at(&mut all, 0).ok()?;
    Some(blake3::hash(&all).as_bytes().to_vec())
}

/// The GNU build id of a 64-bit ELF file (elf(5): a note of type 3 by "GNU").
fn build_id(file: &File) -> Option<Vec<u8>> {
    const PT_NOTE: u32 = 4;
    let mut head = [0u8; 64];
    file.read_exact_at(&mut head, 0).ok()?;
    if head[..5] != *b"\x7fELF\x02" {
        return None;
    }
    let (at, size, count) =
        (u64_at(&head, 32)?, u64::from(u16_at(&head, 54)?), u64::from(u16_at(&head, 56)?));
    for index in 0..count.min(PROGRAM_HEADERS_MAX) {
        let mut header = [0u8; 56];
        file.read_exact_at(&mut header, at.checked_add(index * size)?).ok()?;
        let bytes = u64_at(&header, 32)?;
        if u32_at(&header, 0)? == PT_NOTE && bytes <= NOTE_BYTES_MAX {
            let mut notes = vec![0; bytes as usize];
            file.read_exact_at(&mut notes, u64_at(&header, 8)?).ok()?;
            if let Some(found) = build_id_of_notes(&notes) {
                return Some(found);
            }
        }
    }
    None
}

fn build_id_of_notes(mut notes: &[u8]) -> Option<Vec<u8>> {
    const NT_GNU_BUILD_ID: u32 = 3;
    const BUILD_ID_BYTES_MAX: usize = 64;
    while notes.len() >= 12 {
        let (name_bytes, bytes) = (u32_at(notes, 0)? as usize, u32_at(notes, 4)? as usize);
        let kind = u32_at(notes, 8)?;
        let name = notes.get(12..12usize.checked_add(name_bytes)?)?;
        let start = 12 + name_bytes.checked_next_multiple_of(4)?;
        let end = start.checked_add(bytes)?;
        let found = notes.get(start..end)?;
        if kind == NT_GNU_BUILD_ID && name == b"GNU\0" && found.len() <= BUILD_ID_BYTES_MAX {
            return Some(found.to_vec());
        }
        notes = notes.get(end.checked_next_multiple_of(4)?..)?;
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_id_is_found_among_notes() {
        let mut notes = Vec::new();
        for (kind, bytes) in [(1u32, &b"sixteen bytes ab"[..]), (3, b"the build id")] {
            notes.extend_from_slice(&4u32.to_le_bytes());
            notes.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            notes.extend_from_slice(&kind.to_le_bytes());
            notes.extend_from_slice(b"GNU\0");
            notes.extend_from_slice(bytes);
        }
        assert_eq!(build_id_of_notes(&notes).unwrap(), b"the build id");
        for cut in 0..notes.len() {
            assert_eq!(build_id_of_notes(&notes[..cut]), None);
        }
    }

    #[test]
    fn facts_of_a_file_are_read() {
        let path = std::env::temp_dir().join(format!("brant-facts-{}", std::process::id()));
        std::fs::write(&path, b"contents").unwrap();
        let inode = std::fs::metadata(&path).unwrap().ino();
        let mut file = DiskFile { path: path.as_os_str().as_bytes().to_vec(), inode, ..DiskFile::default() };
        complete(&mut file, false);
        std::fs::remove_file(&path).unwrap();
        assert_eq!((file.size, file.digest), (8, blake3::hash(b"contents").as_bytes().to_vec()));
    }
}
