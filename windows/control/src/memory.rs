//! Memory of another process.

use std::ffi::c_void;
use std::time::Duration;

use windows_sys::Win32::Foundation::{ERROR_ACCESS_DENIED, GetLastError, HANDLE};
use windows_sys::Win32::System::Diagnostics::Debug::{ReadProcessMemory, WriteProcessMemory};
use windows_sys::Win32::System::Memory::{
    MEM_COMMIT, MEM_FREE, MEM_RELEASE, MEM_RESERVE, MEMORY_BASIC_INFORMATION, PAGE_READWRITE, VirtualAllocEx,
    VirtualFreeEx, VirtualQueryEx,
};

/// How often it is tried to reach another process's memory.
const TRIES_MAX: u32 = 60;
const PAUSE: Duration = Duration::from_millis(5);

/// Does it again for a while where access is denied. Whoever calls has the right to it: Wine stops a thread of the process for it, and denies access
/// where that thread just ends.
fn again(mut act: impl FnMut() -> bool) -> bool {
    for _ in 0..TRIES_MAX {
        if act() {
            return true;
        }
        // SAFETY: a call without arguments.
        if unsafe { GetLastError() } != ERROR_ACCESS_DENIED {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
    act()
}

/// Fills `into` from there; tells whether that could be done.
pub(crate) fn read(process: HANDLE, at: u64, into: &mut [u8]) -> bool {
    again(|| read_once(process, at, into))
}

fn read_once(process: HANDLE, at: u64, into: &mut [u8]) -> bool {
    let mut done = 0;
    // SAFETY: there is room for so many bytes; a wrong address fails.
    let is_read = unsafe {
        ReadProcessMemory(process, at as *const c_void, into.as_mut_ptr().cast(), into.len(), &raw mut done)
    };
    is_read != 0 && done == into.len()
}

/// Writes all of `bytes` there; tells whether that could be done.
pub(crate) fn write(process: HANDLE, at: u64, bytes: &[u8]) -> bool {
    again(|| write_once(process, at, bytes))
}

fn write_once(process: HANDLE, at: u64, bytes: &[u8]) -> bool {
    let mut done = 0;
    // SAFETY: so many bytes are there; who calls this owns the memory that is written.
    let is_written = unsafe {
        WriteProcessMemory(process, at as *const c_void, bytes.as_ptr().cast(), bytes.len(), &raw mut done)
    };
    is_written != 0 && done == bytes.len()
}

/// New memory in the process; 0 where there is none.
pub(crate) fn allocate(process: HANDLE, bytes: usize) -> u64 {
    // SAFETY: new memory, wherever there is room.
    let at =
        unsafe { VirtualAllocEx(process, std::ptr::null(), bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE) };
    at as u64
}

/// Gives memory back that nobody uses any more.
pub(crate) fn release(process: HANDLE, at: u64) {
    // SAFETY: as the caller says.
    unsafe { VirtualFreeEx(process, at as *mut c_void, 0, MEM_RELEASE) };
}

/// Reserves the 64 KiB at an address, if they are free.
pub(crate) fn take(process: HANDLE, at: u64) {
    const BYTES: usize = 0x1_0000;
    reserve(process, at, BYTES);
}

/// Reserves memory at an address; tells whether it was free.
pub(crate) fn reserve(process: HANDLE, at: u64, bytes: usize) -> bool {
    // SAFETY: asks for pages at an address; where something is, it fails.
    let got = unsafe { VirtualAllocEx(process, at as *const c_void, bytes, MEM_RESERVE, PAGE_READWRITE) };
    got as u64 == at
}

/// What is free in a range of addresses, as addresses and bytes.
pub(crate) fn free_parts(process: HANDLE, at: u64, bytes: u64) -> Vec<(u64, u64)> {
    let (end, mut next, mut free) = (at + bytes, at, Vec::new());
    while next < end {
        let mut found = MEMORY_BASIC_INFORMATION::default();
        // SAFETY: there is room for the record.
        let got =
            unsafe { VirtualQueryEx(process, next as *const c_void, &raw mut found, size_of_val(&found)) };
        if got == 0 || found.RegionSize == 0 {
            break;
        }
        let stop = (found.BaseAddress as u64 + found.RegionSize as u64).min(end);
        if found.State == MEM_FREE {
            free.push((next, stop - next));
        }
        next = stop;
    }
    free
}
