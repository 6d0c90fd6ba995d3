//! Sizes of small blocks: by 16 up to 256 bytes, then four to each doubling.

pub(crate) const CLASSES: usize = 40;
/// Larger blocks have units of their own.
pub(crate) const SMALL_BYTES_MAX: usize = 16384;

const FINE_BYTES_MAX: usize = 256;
const FINE_CLASSES: usize = FINE_BYTES_MAX / 16;

/// The class for so many bytes, at most [`SMALL_BYTES_MAX`].
pub(crate) fn of(bytes: usize) -> usize {
    if bytes <= FINE_BYTES_MAX {
        return bytes.max(1).div_ceil(16) - 1;
    }
    let doubling = (bytes - 1).ilog2() as usize;
    let quarter = (bytes - 1) >> (doubling - 2) & 3;
    FINE_CLASSES + (doubling - 8) * 4 + quarter
}

/// Bytes of its blocks.
pub(crate) fn block_bytes(class: usize) -> usize {
    if class < FINE_CLASSES {
        return (class + 1) * 16;
    }
    let (doubling, quarter) = ((class - FINE_CLASSES) / 4 + 8, (class - FINE_CLASSES) % 4);
    (1 << doubling) + (quarter + 1) * (1 << (doubling - 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_has_the_smallest_class_that_holds_it() {
        for bytes in 0..=SMALL_BYTES_MAX {
            let class = of(bytes);
            assert!(class < CLASSES && block_bytes(class) >= bytes && block_bytes(class).is_multiple_of(16));
            assert!(class == 0 || block_bytes(class - 1) < bytes.max(1), "{bytes}");
        }
        assert_eq!(of(SMALL_BYTES_MAX), CLASSES - 1);
    }
}
