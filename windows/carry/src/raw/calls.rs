//! What functions of heaps do when the heaps are the system's.

use std::ffi::c_void;

use windows_sys::Win32::Foundation::{
    ERROR_INVALID_HANDLE, ERROR_INVALID_PARAMETER, ERROR_NOT_ENOUGH_MEMORY, HANDLE,
};
use windows_sys::Win32::System::Memory::{
    GetProcessHeap as native_process_heap, HEAP_REALLOC_IN_PLACE_ONLY, HEAP_ZERO_MEMORY, HeapAlloc, HeapFree,
    HeapReAlloc, HeapSize, HeapValidate, HeapWalk, PROCESS_HEAP_ENTRY,
};

use super::{create, destroy, heaps, is_of_system, of};
use crate::state::load;

fn fails<T: Default>(error: u32) -> T {
    crate::calls::fails(error);
    T::default()
}

/// The heap that a block is to be looked for in: what the system gave to the program is in its own.
fn of_block(heap: usize, block: usize) -> Option<HANDLE> {
    let heap = of(heap)?;
    if heap as usize == process_heap() && is_of_system(block) {
        // SAFETY: a call without arguments.
        return Some(unsafe { native_process_heap() });
    }
    Some(heap)
}

pub(crate) fn create_heap(options: u32, initial: usize, maximum: usize) -> usize {
    create(options, initial, maximum).map_or_else(|| fails(ERROR_NOT_ENOUGH_MEMORY), |handle| handle as usize)
}

pub(crate) fn destroy_heap(heap: usize) -> i32 {
    if destroy(heap) { 1 } else { fails(ERROR_INVALID_HANDLE) }
}

pub(crate) fn allocate(heap: usize, flags: u32, bytes: usize) -> usize {
    let Some(heap) = of(heap) else { return fails(ERROR_INVALID_HANDLE) };
    // SAFETY: a heap of the program's.
    let block = unsafe { HeapAlloc(heap, flags & HEAP_ZERO_MEMORY, bytes) } as usize;
    if block == 0 { fails(ERROR_NOT_ENOUGH_MEMORY) } else { block }
}

pub(crate) fn free(heap: usize, block: usize) -> i32 {
    let Some(heap) = of_block(heap, block) else { return fails(ERROR_INVALID_HANDLE) };
    // SAFETY: a heap of this process; the block is the program's word.
    unsafe { HeapFree(heap, 0, block as *const c_void) }
}

pub(crate) fn reallocate(heap: usize, flags: u32, block: usize, bytes: usize) -> usize {
    let Some(heap) = of_block(heap, block) else { return fails(ERROR_INVALID_HANDLE) };
    let flags = flags & (HEAP_ZERO_MEMORY | HEAP_REALLOC_IN_PLACE_ONLY);
    // SAFETY: as above.
    let block = unsafe { HeapReAlloc(heap, flags, block as *const c_void, bytes) } as usize;
    if block == 0 { fails(ERROR_NOT_ENOUGH_MEMORY) } else { block }
}

pub(crate) fn size(heap: usize, block: usize) -> usize {
    let Some(heap) = of_block(heap, block) else {
        fails::<()>(ERROR_INVALID_PARAMETER);
        return usize::MAX;
    };
    // SAFETY: as above.
    unsafe { HeapSize(heap, 0, block as *const c_void) }
}

pub(crate) fn validate(heap: usize, block: usize) -> i32 {
    // SAFETY: as above.
    of(heap).map_or(0, |heap| unsafe { HeapValidate(heap, 0, block as *const c_void) })
}

pub(crate) fn walk_heap(heap: usize, entry: *mut PROCESS_HEAP_ENTRY) -> i32 {
    let Some(heap) = of(heap) else { return fails(ERROR_INVALID_HANDLE) };
    // SAFETY: the program's record, of the system's layout.
    unsafe { HeapWalk(heap, entry) }
}

/// Whether a handle is that of a heap.
pub(crate) fn is_heap(heap: usize) -> bool {
    of(heap).is_some()
}

/// What GetProcessHeap gives.
pub(crate) fn process_heap() -> usize {
    heaps().next().map_or(0, |heap| load(&heap.handle) as usize)
}

/// The handles of all heaps.
pub(crate) fn handles() -> impl Iterator<Item = usize> {
    heaps().map(|heap| load(&heap.handle) as usize)
}
