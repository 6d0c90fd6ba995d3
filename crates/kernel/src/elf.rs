//! The GNU build id of an ELF file (elf(5)): tells builds of a program or library apart wherever they lie.

use std::fs::File;
use std::os::unix::fs::FileExt;

const NOTE_BYTES_MAX: u64 = 64 << 10;
const PROGRAM_HEADERS_MAX: u64 = 512;
const BUILD_ID_BYTES_MAX: usize = 64;
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
const NT_GNU_BUILD_ID: u32 = 3;

/// The build id of a 64-bit ELF file: a note of type 3 by "GNU". `None` for every other file.
pub fn build_id(file: &File) -> Option<Vec<u8>> {
    let (at, size, count) = program_headers(file)?;
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

/// Whether an ELF file names no program interpreter: it runs wherever the kernel does, without any library.
pub fn is_static(file: &File) -> bool {
    let look = || -> Option<bool> {
        let (at, size, count) = program_headers(file)?;
        for index in 0..count {
            let mut kind = [0u8; 4];
            file.read_exact_at(&mut kind, at.checked_add(index * size)?).ok()?;
            if u32_at(&kind, 0)? == PT_INTERP {
                return Some(false);
            }
        }
        Some(true)
    };
    look().unwrap_or(false)
}

/// Where the program headers of a 64-bit ELF file begin, the bytes of each, and their number.
fn program_headers(file: &File) -> Option<(u64, u64, u64)> {
    let mut head = [0u8; 64];
    file.read_exact_at(&mut head, 0).ok()?;
    if head[..5] != *b"\x7fELF\x02" {
        return None;
    }
    Some((u64_at(&head, 32)?, u64::from(u16_at(&head, 54)?), u64::from(u16_at(&head, 56)?)))
}

fn build_id_of_notes(mut notes: &[u8]) -> Option<Vec<u8>> {
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
}
