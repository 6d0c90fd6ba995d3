//! Where functions are, by the table of a module's frame descriptions (`.eh_frame_hdr` and `.eh_frame`: Linux Standard Base,
//! Core, section 10.6). Every function that an exception may pass has one, static ones too.

use alloc::vec::Vec;
use core::ops::Range;

use crate::symbols::{u32_at, u64_at};

pub const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
/// DW_EH_PE_udata4, and DW_EH_PE_datarel | DW_EH_PE_sdata4: what linkers write.
const COUNT_ENCODING: u8 = 0x03;
const TABLE_ENCODING: u8 = 0x3b;
const HEADER_BYTES: usize = 12;
const ENTRY_BYTES: usize = 8;
/// The longest function that is believed in.
const FUNCTION_BYTES_MAX: u64 = 64 << 20;

/// The functions in the table `header`, which lies at `at`; ascending. `read` gives the bytes at an address up to the end
/// of their segment.
pub fn described<'a>(header: &[u8], at: u64, read: impl Fn(u64) -> Option<&'a [u8]>) -> Vec<Range<u64>> {
    let [1, _, COUNT_ENCODING, TABLE_ENCODING, ..] = *header else { return Vec::new() };
    // The pointer to the descriptions takes four bytes with every encoding that goes with such a table.
    let count = u32_at(header, 8).unwrap_or(0) as usize;
    let entries = header.get(HEADER_BYTES..).unwrap_or(&[]).chunks_exact(ENTRY_BYTES).take(count);
    let mut functions: Vec<Range<u64>> = entries
        .filter_map(|entry| {
            let relative = |place| Some(at.wrapping_add_signed(i64::from(u32_at(entry, place)? as i32)));
            let start = relative(0)?;
            let bytes = length(read(relative(4)?)?, relative(4)?, start)?;
            (bytes > 0 && bytes < FUNCTION_BYTES_MAX).then_some(start..start + bytes)
        })
        .collect();
    functions.sort_by_key(|function| function.start);
    functions.dedup_by_key(|function| function.start);
    functions
}

/// The length of the function that begins at `start` by its description, which lies at `at`. The encoding is not said here, so
/// it is the one by which the description's beginning is the table's.
fn length(description: &[u8], at: u64, start: u64) -> Option<u64> {
    const BEGIN_AT: usize = 8;
    let relative = |value: i64| at.wrapping_add(BEGIN_AT as u64).wrapping_add_signed(value);
    let short = u32_at(description, BEGIN_AT)?;
    if relative(i64::from(short as i32)) == start || u64::from(short) == start {
        return Some(u64::from(u32_at(description, BEGIN_AT + 4)?));
    }
    let long = u64_at(description, BEGIN_AT)?;
    (relative(long as i64) == start || long == start).then(|| u64_at(description, BEGIN_AT + 8)).flatten()
}

/// Adds functions of another source, each where no function is described yet; both ascending.
pub fn merged(described: Vec<Range<u64>>, others: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut all = described;
    let known = all.len();
    let mut more: Vec<Range<u64>> = others
        .filter(|other| {
            let next = all[..known].partition_point(|function| function.start < other.end);
            next.checked_sub(1).is_none_or(|last| all[last].end <= other.start)
        })
        .collect();
    more.sort_by_key(|function| (function.start, core::cmp::Reverse(function.end)));
    // Several names of one function, and names inside of one.
    let mut end = 0;
    more.retain(|function| {
        let is_apart = function.start >= end;
        end = end.max(function.end);
        is_apart
    });
    all.extend(more);
    all.sort_by_key(|function| function.start);
    all
}
