//! What lies on a stopped thread's stack, looked at word by word.
//!
//! Without frame descriptions every word might be a return address. What is stale or a plain number errs to the safe side:
//! the thread counts as being inside.

use std::ops::Range;

use brant_base::{Addr, PAGE_SIZE};
use brant_kernel::proc::MapEntry;
use brant_kernel::remote::{HandThread, Memory};

/// More of a stack is not looked at: it counts as unknown.
const STACK_BYTES_MAX: u64 = 64 << 20;

/// The words from the stack pointer to the end of its mapping; `None` where they cannot be read.
pub(crate) fn words(memory: &Memory, maps: &[MapEntry], thread: &HandThread) -> Option<Vec<u64>> {
    let start = thread.registers.rsp & !7;
    let mapping = maps.iter().find(|entry| entry.range.contains(Addr(start)))?;
    let bytes = mapping.range.end().0 - start;
    if bytes > STACK_BYTES_MAX {
        return None;
    }
    let mut buffer = vec![0; bytes as usize];
    memory.read(Addr(start), &mut buffer).ok()?;
    Some(
        buffer
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
            .collect(),
    )
}

/// Whether a word could be a return address into one of `ranges`: it points there, and behind a call.
pub(crate) fn returns_into(memory: &Memory, words: &[u64], ranges: &[Range<u64>]) -> bool {
    words.iter().any(|word| ranges.iter().any(|range| range.contains(word)) && is_behind_call(memory, *word))
}

/// Whether what stands before an address is a call: direct, or by a register or memory.
fn is_behind_call(memory: &Memory, address: u64) -> bool {
    const LONGEST: usize = 8;
    let mut bytes = [0u8; LONGEST];
    let start = address.saturating_sub(LONGEST as u64);
    if memory.read(Addr(start), &mut bytes).is_err() {
        return address % PAGE_SIZE < LONGEST as u64;
    }
    let is_direct = bytes[LONGEST - 5] == 0xe8;
    let is_indirect = (2..=7).any(|length| {
        let call = &bytes[LONGEST - length..];
        call[0] == 0xff && (call[1] >> 3) & 7 == 2
    });
    is_direct || is_indirect
}
