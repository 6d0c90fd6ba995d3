//! Whether a stopped thread is in the middle of certain code, or will come back to it.
//!
//! Every word of its stack is looked at first, which is quick and finds too much. Only where one of them leads into the code
//! are its frames followed (`unwind`); what cannot be followed counts by its words, so that errors are to the safe side.

use brant_base::Addr;
use brant_kernel::proc::MapEntry;
use brant_kernel::remote::{HandThread, Memory};

use crate::unwind::{Descriptions, Trace};

/// More of a stack is not looked at: it counts as being everywhere.
const STACK_BYTES_MAX: u64 = 64 << 20;

/// Stacks of a process whose threads in question are stopped.
pub(crate) struct Stacks<'a> {
    pub(crate) memory: &'a Memory,
    pub(crate) maps: &'a [MapEntry],
    pub(crate) descriptions: &'a Descriptions,
}

impl Stacks<'_> {
    /// Whether a thread is at an address for which `is_inside`, or will return to one.
    pub(crate) fn is_inside(&self, thread: &HandThread, is_inside: impl Fn(u64) -> bool) -> bool {
        is_inside(thread.registers.rip) || self.returns_inside(thread, is_inside)
    }

    /// Whether a thread will return to an address for which `is_inside`, wherever it is now.
    pub(crate) fn returns_inside(&self, thread: &HandThread, is_inside: impl Fn(u64) -> bool) -> bool {
        let start = thread.registers.rsp & !7;
        let Some(words) = self.words(start) else { return true };
        if !words.iter().any(|word| is_inside(*word)) {
            return false;
        }
        let Trace { frames, unknown_from } =
            self.descriptions.trace(self.memory, self.maps, &thread.registers);
        let is_in_rest = |from: u64| {
            let first = (from.saturating_sub(start) / 8) as usize;
            words.get(first..).is_none_or(|rest| rest.iter().any(|word| is_inside(*word)))
        };
        frames.into_iter().skip(1).any(&is_inside) || unknown_from.is_some_and(is_in_rest)
    }

    /// The words from an address to the end of its mapping; `None` where they cannot be read.
    fn words(&self, start: u64) -> Option<Vec<u64>> {
        let at = self.maps.partition_point(|entry| entry.range.end().0 <= start);
        let mapping = self.maps.get(at).filter(|entry| entry.range.contains(Addr(start)))?;
        let bytes = mapping.range.end().0 - start;
        if bytes > STACK_BYTES_MAX {
            return None;
        }
        let mut buffer = vec![0; bytes as usize];
        self.memory.read(Addr(start), &mut buffer).ok()?;
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        Some(buffer.chunks_exact(8).map(word).collect())
    }
}
