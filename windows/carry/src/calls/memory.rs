//! VirtualAlloc: regions of our range.

use std::ffi::c_void;

use windows_sys::Win32::Foundation::{ERROR_INVALID_ADDRESS, ERROR_NOT_ENOUGH_MEMORY};
use windows_sys::Win32::System::Memory::{
    MEM_COMMIT, MEM_RELEASE, MEM_RESERVE, MEMORY_BASIC_INFORMATION, VirtualAlloc as native_alloc,
    VirtualFree as native_free, VirtualQuery as native_query,
};

use super::{fails, ours, space};
use crate::places::{SPACE, SPACE_BYTES};
use crate::state::block;

ours! { VirtualAlloc VirtualAllocEx VirtualFree VirtualFreeEx VirtualQuery; }

/// GetCurrentProcess.
const THIS_PROCESS: usize = usize::MAX;

fn is_ours(at: usize) -> bool {
    (SPACE..SPACE + SPACE_BYTES).contains(&at)
}

extern "system" fn VirtualAlloc(at: usize, bytes: usize, kind: u32, protection: u32) -> *mut c_void {
    if is_ours(at) && kind & MEM_RESERVE == 0 {
        // SAFETY: the system refuses what is not reserved; the rest is the program's region.
        return unsafe { native_alloc(at as *const c_void, bytes, kind, protection) };
    }
    if at != 0 {
        block("it has asked for memory at an address of its own choice (VirtualAlloc)");
        // SAFETY: the program's call.
        return unsafe { native_alloc(at as *const c_void, bytes, kind, protection) };
    }
    let Some(region) = space().reserve(bytes) else { return fails(ERROR_NOT_ENOUGH_MEMORY) as *mut c_void };
    if kind & MEM_COMMIT != 0 {
        // SAFETY: the region is ours and reserved.
        let committed = unsafe { native_alloc(region as *const c_void, bytes, MEM_COMMIT, protection) };
        if committed.is_null() {
            space().release(region);
            return committed;
        }
    }
    region as *mut c_void
}

extern "system" fn VirtualAllocEx(
    process: usize,
    at: usize,
    bytes: usize,
    kind: u32,
    protection: u32,
) -> *mut c_void {
    if process == THIS_PROCESS {
        return VirtualAlloc(at, bytes, kind, protection);
    }
    block("it has given memory to another process (VirtualAllocEx)");
    fails(ERROR_INVALID_ADDRESS) as *mut c_void
}

extern "system" fn VirtualFree(at: usize, bytes: usize, kind: u32) -> i32 {
    if !is_ours(at) || kind & MEM_RELEASE == 0 {
        // SAFETY: the program's call.
        return unsafe { native_free(at as *mut c_void, bytes, kind) };
    }
    if bytes == 0 && space().release(at) { 1 } else { fails(ERROR_INVALID_ADDRESS) as i32 }
}

extern "system" fn VirtualFreeEx(process: usize, at: usize, bytes: usize, kind: u32) -> i32 {
    if process == THIS_PROCESS { VirtualFree(at, bytes, kind) } else { fails(ERROR_INVALID_ADDRESS) as i32 }
}

/// For the system our range is one region; for the program, each of its own is one.
extern "system" fn VirtualQuery(at: usize, into: *mut MEMORY_BASIC_INFORMATION, room: usize) -> usize {
    // SAFETY: the program's call.
    let bytes = unsafe { native_query(at as *const c_void, into, room) };
    let Some((start, length)) =
        space().region_of(at).filter(|_| bytes == size_of::<MEMORY_BASIC_INFORMATION>())
    else {
        return bytes;
    };
    // SAFETY: the record was just filled.
    let found = unsafe { &mut *into };
    let end = (found.BaseAddress as usize + found.RegionSize).min(start + length);
    let first = (found.BaseAddress as usize).max(start);
    found.AllocationBase = start as *mut c_void;
    found.BaseAddress = first as *mut c_void;
    found.RegionSize = end - first;
    bytes
}
