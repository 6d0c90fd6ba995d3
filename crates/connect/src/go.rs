//! Go code in a program. A goroutine makes system calls on its own stack, which may have two KiB: too little for a mediator.
//!
//! Facts relied upon: the Go linker gives what it makes a note of the owner "Go" with the build's name (cmd/link, `.note.go.buildid`).

use brant_hook::symbols::{self, PROGRAM_HEADER_BYTES};
use brant_kernel::proc::MapEntry;
use brant_kernel::remote::Memory;

const PT_NOTE: u32 = 4;
const ELF_MAGIC: [u8; 4] = *b"\x7fELF";
const HEADERS_MAX: usize = 64;
const NOTES_BYTES_MAX: u64 = 1 << 16;
const OWNER: &[u8] = b"Go\0\0";

/// Whether the Go linker made the program or one of its libraries.
pub(crate) fn is_in(memory: &Memory, maps: &[MapEntry]) -> bool {
    let begins_a_file = |entry: &&MapEntry| entry.inode != 0 && entry.offset == 0;
    maps.iter().filter(begins_a_file).any(|entry| is_made_by_go(memory, entry).unwrap_or(false))
}

fn is_made_by_go(memory: &Memory, first: &MapEntry) -> Option<bool> {
    let start = first.range.start();
    let header: [u8; 64] = memory.read_value(start).ok()?;
    if header[..4] != ELF_MAGIC {
        return Some(false);
    }
    let from = u64::from_le_bytes(header[32..40].try_into().ok()?);
    let count = usize::from(u16::from_le_bytes([header[56], header[57]])).min(HEADERS_MAX);
    let mut headers = vec![0; count * PROGRAM_HEADER_BYTES];
    memory.read(start.checked_add(from)?, &mut headers).ok()?;
    let notes = symbols::segments(&headers).filter(|segment| segment.kind == PT_NOTE);
    // In the first mapping, offsets lead to what was mapped.
    let read = |segment: symbols::Segment| {
        let mut bytes = vec![0; segment.file_bytes.min(NOTES_BYTES_MAX) as usize];
        memory.read(start.checked_add(segment.offset)?, &mut bytes).ok()?;
        Some(has_note_of_go(&bytes))
    };
    Some(notes.filter_map(read).any(|is_of_go| is_of_go))
}

fn has_note_of_go(mut notes: &[u8]) -> bool {
    let word = |bytes: &[u8], at: usize| {
        let word = bytes.get(at..at + 4)?;
        Some(u32::from_le_bytes(word.try_into().ok()?) as usize)
    };
    while let (Some(owner), Some(description)) = (word(notes, 0), word(notes, 4)) {
        if owner == OWNER.len() && notes.get(12..16) == Some(OWNER) {
            return true;
        }
        let length = owner.saturating_add(3) / 4 * 4 + description.saturating_add(3) / 4 * 4;
        notes = notes.get(12 + length..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_of_go_are_told_from_others() {
        let gnu = [&[4, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0][..], b"GNU\0", &[1, 2, 3, 0]].concat();
        let go = [&[4, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0][..], OWNER, &[1, 2, 0, 0]].concat();
        assert!(!has_note_of_go(&gnu));
        assert!(has_note_of_go(&[gnu.clone(), go].concat()));
        assert!(!has_note_of_go(&[gnu, vec![255; 40]].concat()));
    }
}
