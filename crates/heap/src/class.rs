//! Size classes: steps of 16 bytes up to 128, then four steps for each power of two up to 64 KiB.
//!
//! A block of a class that is a multiple of an alignment has that alignment, since spans begin at slices.

use crate::layout::{CLASSES, SLICE_BYTES};

/// The largest block that lies in a span.
pub(crate) const SMALL_BYTES_MAX: usize = block_bytes(CLASSES - 1);
/// Sizes up to here find their class in a table.
const TABLE_BYTES_MAX: usize = 1024;

static TABLE: [u8; TABLE_BYTES_MAX / 16 + 1] = table();

/// The class for a block of `bytes`, which are at most [`SMALL_BYTES_MAX`].
#[inline(always)]
pub(crate) fn class_of(bytes: usize) -> usize {
    if bytes <= TABLE_BYTES_MAX { usize::from(TABLE[bytes.div_ceil(16)]) } else { computed(bytes) }
}

const fn computed(bytes: usize) -> usize {
    if bytes <= 128 {
        return bytes.saturating_sub(1) / 16;
    }
    let last = bytes - 1;
    let power = last.ilog2() as usize;
    8 + (power - 7) * 4 + ((last >> (power - 2)) & 3)
}

/// The bytes of each block of a class.
pub(crate) const fn block_bytes(class: usize) -> usize {
    if class < 8 {
        return (class + 1) * 16;
    }
    let (power, step) = ((class - 8) / 4, (class - 8) % 4);
    (128 << power) + ((step + 1) << (5 + power))
}

/// How many slices a span of a class has: blocks of more than an eighth of a slice get longer ones.
pub(crate) const fn span_slices(class: usize) -> u32 {
    if block_bytes(class) <= SLICE_BYTES / 8 { 1 } else { 8 }
}

/// How many blocks a span of a class has.
pub(crate) const fn span_blocks(class: usize) -> u16 {
    (span_slices(class) as usize * SLICE_BYTES / block_bytes(class)) as u16
}

const fn table() -> [u8; TABLE_BYTES_MAX / 16 + 1] {
    let mut table = [0; TABLE_BYTES_MAX / 16 + 1];
    let mut at = 0;
    while at < table.len() {
        table[at] = computed(at * 16) as u8;
        at += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_has_the_smallest_class_that_holds_it() {
        assert_eq!(SMALL_BYTES_MAX, SLICE_BYTES);
        for bytes in 0..=SMALL_BYTES_MAX {
            let class = class_of(bytes);
            assert!(block_bytes(class) >= bytes, "{bytes}");
            assert!(class == 0 || block_bytes(class - 1) < bytes, "{bytes}");
            assert!(bytes < 1024 || block_bytes(class) <= bytes + bytes / 4, "{bytes}");
        }
        for class in 0..CLASSES {
            assert_eq!(block_bytes(class) % 16, 0);
            assert!(span_blocks(class) >= 8);
        }
    }
}
