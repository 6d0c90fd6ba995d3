//! Makes all checksums of an image of heaps right again, as far as it still has a shape: so that what reads it behind the checksums is reached.

use std::ops::Range;

const GROUP_BYTES: usize = 65536;

fn number(bytes: &[u8], at: usize) -> usize {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight) as usize
}

fn short(bytes: &[u8], at: usize) -> usize {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(four) as usize
}

fn part(bytes: &[u8], at: usize, length: usize) -> Option<Range<usize>> {
    at.checked_add(length).filter(|end| *end <= bytes.len()).map(|end| at..end)
}

/// Where the index of the head at `head` lies, if that is in the file.
pub(crate) fn index_of(bytes: &[u8], head: usize) -> Option<Range<usize>> {
    part(bytes, head, 128)?;
    part(bytes, number(bytes, head + 16), number(bytes, head + 24))
}

/// Groups first, then the index that has their checksums, then the head that has its own.
pub(crate) fn reseal(bytes: &mut [u8]) {
    for head in [4096, 8192] {
        let Some(index) = index_of(bytes, head) else { continue };
        if bytes[head..head + 128] == [0; 128] {
            continue;
        }
        reseal_groups(bytes, index.clone());
        let hash = *blake3::hash(&bytes[index]).as_bytes();
        bytes[head + 48..head + 80].copy_from_slice(&hash);
        let hash = *blake3::hash(&bytes[head..head + 96]).as_bytes();
        bytes[head + 96..head + 128].copy_from_slice(&hash);
    }
    if bytes.len() >= 72 {
        let hash = *blake3::hash(&bytes[..40]).as_bytes();
        bytes[40..72].copy_from_slice(&hash);
    }
}

fn reseal_groups(bytes: &mut [u8], index: Range<usize>) -> Option<()> {
    part(bytes, index.start, 8).filter(|_| index.len() >= 8)?;
    let heaps = short(bytes, index.start);
    let extents_at = index.start.checked_add(8 + heaps.checked_mul(128)?)?;
    part(bytes, extents_at, 0).filter(|_| extents_at <= index.end)?;
    let extents: usize =
        (0..heaps).map(|heap| number(bytes, index.start + 8 + heap * 128 + 104) & 0xffff).sum();
    let hashes_at = extents_at.checked_add(extents * 24).filter(|at| *at <= index.end)?;
    for extent in 0..extents {
        let at = extents_at + extent * 24;
        let (groups, offset, first) = (short(bytes, at + 4), number(bytes, at + 8), number(bytes, at + 16));
        for group in 0..groups.min(1000) {
            let place = first.checked_add(group)?.checked_mul(32)?.checked_add(hashes_at)?;
            let group = part(bytes, offset.checked_add(group * GROUP_BYTES)?, GROUP_BYTES)?;
            part(bytes, place, 32).filter(|place| place.end <= index.end)?;
            let hash = *blake3::hash(&bytes[group]).as_bytes();
            bytes[place..place + 32].copy_from_slice(&hash);
        }
    }
    Some(())
}
