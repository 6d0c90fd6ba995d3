//! What the system tells of its heaps and of memory.

use std::ffi::c_void;
use std::ops::Range;

use windows_sys::Win32::Foundation::{ERROR_NO_MORE_ITEMS, GetLastError, HANDLE};
use windows_sys::Win32::System::Memory::{
    HeapWalk, MEM_FREE, MEMORY_BASIC_INFORMATION, PROCESS_HEAP_ENTRY, VirtualQuery,
};

/// An entry of HeapWalk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) at: usize,
    pub(super) bytes: u32,
    pub(super) flags: u16,
    pub(super) region: u8,
}

const BUSY: u16 = 4;

impl Entry {
    /// Whether it is this block, in use.
    pub(super) fn is_block(&self, block: *const c_void) -> bool {
        self.flags & BUSY != 0 && self.at == block as usize
    }
}

/// All entries of a heap; nothing where the system does not tell them to the end.
pub(super) fn entries(heap: HANDLE) -> Option<Vec<Entry>> {
    let mut all = Vec::new();
    let mut entry = PROCESS_HEAP_ENTRY::default();
    // SAFETY: a heap of this process, and the record of the walk.
    while unsafe { HeapWalk(heap, &raw mut entry) } != 0 {
        all.push(Entry {
            at: entry.lpData as usize,
            bytes: entry.cbData,
            flags: entry.wFlags,
            region: entry.iRegionIndex,
        });
    }
    // SAFETY: a call without arguments.
    (unsafe { GetLastError() } == ERROR_NO_MORE_ITEMS).then_some(all)
}

/// What VirtualQuery says of an address.
pub(super) fn query(at: usize) -> Option<MEMORY_BASIC_INFORMATION> {
    let mut found = MEMORY_BASIC_INFORMATION::default();
    // SAFETY: there is room for the record.
    let bytes = unsafe { VirtualQuery(at as *const c_void, &raw mut found, size_of_val(&found)) };
    (bytes != 0).then_some(found)
}

/// All that was reserved at once with an address; nothing where it is free.
pub(super) fn region_of(at: usize) -> Option<Range<usize>> {
    let start = query(at).filter(|found| found.State != MEM_FREE)?.AllocationBase as usize;
    let mut end = start;
    while let Some(found) = query(end)
        && found.State != MEM_FREE
        && found.AllocationBase as usize == start
    {
        end = found.BaseAddress as usize + found.RegionSize;
    }
    Some(start..end)
}
