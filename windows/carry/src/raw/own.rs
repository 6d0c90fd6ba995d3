//! What belongs to the process in the beginning of a heap, and not to the program: its links in the system's list of heaps, and its lock.

use std::ffi::c_void;
use std::ops::Range;

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::Memory::{
    GetProcessHeap, GetProcessHeaps, HeapValidate, MEM_COMMIT, MEM_PRIVATE,
};

use super::walk;
use crate::state::RAW_OWN_MAX;

/// A part of a heap's beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Own {
    pub(super) offset: u16,
    pub(super) bytes: u16,
}

impl Own {
    /// As it is kept in the record of a heap.
    pub(super) fn word(self) -> u32 {
        u32::from(self.offset) | u32::from(self.bytes) << 16
    }
}

/// A heap's beginning is no longer.
const HEAD_MAX: usize = 4096;
const LINK_BYTES: u16 = 8;
/// RTL_CRITICAL_SECTION.
const LOCK_BYTES: usize = 40;
const HEAPS_MAX: usize = 1024;

/// The bytes before a heap's first block. Nothing where the system's walk does not tell of them.
pub(super) fn head(heap: HANDLE) -> Option<Range<usize>> {
    const REGION: u16 = 1;
    let first = *walk::entries(heap)?.first()?;
    let is_head = first.at == heap as usize && first.flags & REGION != 0;
    let bytes = first.bytes as usize;
    (is_head && (2 * LOCK_BYTES..=HEAD_MAX).contains(&bytes)).then(|| first.at..first.at + bytes / 8 * 8)
}

/// What is the process's in it: at least both links. Nothing where a heap is built otherwise.
pub(super) fn of(heap: HANDLE) -> Option<Vec<Own>> {
    let head = head(heap)?;
    let all = all();
    let mut found = Vec::new();
    for at in head.clone().step_by(8) {
        let offset = at - head.start;
        let is_link = all.iter().any(|&other| {
            other != head.start && [other + offset, (other + offset).wrapping_sub(8)].contains(&word(at))
        });
        let is_lock = at + LOCK_BYTES <= head.end && is_lock(at);
        if is_link {
            found.push(Own { offset: offset as u16, bytes: LINK_BYTES });
        } else if is_lock {
            found.push(Own { offset: offset as u16, bytes: LOCK_BYTES as u16 });
        }
    }
    (2..=RAW_OWN_MAX).contains(&found.len()).then_some(found)
}

/// Something that a heap's beginning leads to and that is neither the process's nor in `ranges`: there is more of the heap than the system tells.
pub(super) fn leads_out(heap: HANDLE, own: &[Own], ranges: &[Range<usize>]) -> Option<usize> {
    let head = head(heap)?;
    let is_own = |at: usize| {
        own.iter().any(|own| {
            let start = head.start + usize::from(own.offset);
            (start..start + usize::from(own.bytes)).contains(&at)
        })
    };
    head.clone().step_by(8).filter(|&at| !is_own(at)).map(word).find(|&word| {
        !ranges.iter().any(|range| range.contains(&word))
            && walk::query(word).is_some_and(|found| {
                found.State == MEM_COMMIT
                    && found.Type == MEM_PRIVATE
                    && found.AllocationBase as usize == word
            })
    })
}

/// All heaps of the process.
fn all() -> Vec<usize> {
    let mut heaps: Vec<HANDLE> = vec![std::ptr::null_mut(); HEAPS_MAX];
    // SAFETY: there is room for so many handles.
    let count = unsafe { GetProcessHeaps(HEAPS_MAX as u32, heaps.as_mut_ptr()) } as usize;
    heaps.into_iter().take(count.min(HEAPS_MAX)).map(|heap| heap as usize).collect()
}

fn word(at: usize) -> usize {
    // SAFETY: a word of a heap's beginning, which is there as long as the heap.
    unsafe { (at as *const usize).read() }
}

/// A critical section that nobody has, with its record in the system's process heap.
fn is_lock(at: usize) -> bool {
    const NOBODY: usize = 0x0000_0000_ffff_ffff;
    let record = word(at);
    // SAFETY: a call without arguments.
    let system = unsafe { GetProcessHeap() };
    record.is_multiple_of(16)
        && word(at + 8) == NOBODY
        && word(at + 16) == 0
        && walk::query(record).is_some_and(|found| {
            found.State == MEM_COMMIT && found.AllocationBase == system
        })
        // SAFETY: an address in the heap's memory.
        && unsafe { HeapValidate(system, 0, record as *const c_void) } != 0
}
