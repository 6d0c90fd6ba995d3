//! What a checkpoint writes down of the system's heaps, while the program stands still.

use std::ops::Range;
use std::sync::atomic::Ordering;

use brant_windows::{Code, Refused};
use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::Memory::HeapValidate;

use super::{heaps, own, raw, walk};
use crate::state::{RawHeap, store};

/// All memory of the program's heaps, sorted: what the system reserved at once for each part of them.
pub(crate) fn ranges() -> Vec<Range<usize>> {
    let mut all = Vec::new();
    heaps().for_each(|heap| all.extend(ranges_of(raw(heap))));
    all.sort_by_key(|range| range.start);
    all
}

fn ranges_of(heap: HANDLE) -> Vec<Range<usize>> {
    let mut all: Vec<Range<usize>> = Vec::new();
    for entry in walk::entries(heap).unwrap_or_default() {
        if all.iter().any(|range| range.contains(&entry.at)) {
            continue;
        }
        all.extend(walk::region_of(entry.at));
    }
    all
}

/// Writes the digest of each heap's blocks into its record. A heap that could not be brought back is refused.
pub(crate) fn settle() -> Result<(), Refused> {
    let ranges = ranges();
    for heap in heaps() {
        let refused = |why: String| {
            Err(Refused::new(
                Code::NotCarried,
                format!("the heap at {:#x} cannot be carried as it is", raw(heap) as usize),
            )
            .why(why)
            .next("start it with brant.exe run --carry, without --heaps raw"))
        };
        let own = own::of(raw(heap)).unwrap_or_default();
        if !is_as_made(heap, &own) {
            return refused("it is not built as the system built it, or a thread has its lock".into());
        }
        if let Some(at) = own::leads_out(raw(heap), &own, &ranges) {
            return refused(format!("it has memory at {at:#x} of which HeapWalk does not tell"));
        }
        // SAFETY: a heap of the program's; all of its threads stand still.
        let is_valid = unsafe { HeapValidate(raw(heap), 0, std::ptr::null()) } != 0;
        let Some(digest) = digest(raw(heap)).filter(|_| is_valid) else {
            return refused("the system finds it damaged".into());
        };
        digest.into_iter().zip(&heap.blocks).for_each(|(word, field)| store(field, word));
    }
    Ok(())
}

/// Whether what is the process's in a heap is where it was when the heap was made.
pub(super) fn is_as_made(heap: &RawHeap, own: &[own::Own]) -> bool {
    let count = heap.own_count.load(Ordering::Acquire) as usize;
    count == own.len()
        && own.iter().zip(&heap.own).all(|(own, field)| own.word() == field.load(Ordering::Acquire))
}

/// A digest of where all blocks are, those in use and the free ones.
pub(super) fn digest(heap: HANDLE) -> Option<[u64; 4]> {
    let mut hasher = blake3::Hasher::new();
    for entry in walk::entries(heap)? {
        hasher.update(&(entry.at as u64).to_le_bytes());
        hasher.update(&u64::from(entry.bytes).to_le_bytes());
        hasher.update(&[entry.flags as u8, (entry.flags >> 8) as u8, entry.region]);
    }
    let hash = hasher.finalize();
    let (words, _) = hash.as_bytes().as_chunks::<8>();
    Some([0, 1, 2, 3].map(|index| u64::from_le_bytes(words[index])))
}
