//! Memory of another process.

use std::ffi::c_void;

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::Diagnostics::Debug::{ReadProcessMemory, WriteProcessMemory};
use windows_sys::Win32::System::Memory::{
    MEM_COMMIT, MEM_RELEASE, MEM_RESERVE, PAGE_READWRITE, VirtualAllocEx, VirtualFreeEx,
};

/// Fills `into` from there; tells whether that could be done.
pub(crate) fn read(process: HANDLE, at: u64, into: &mut [u8]) -> bool {
    let mut done = 0;
    // SAFETY: there is room for so many bytes; a wrong address fails.
    let is_read = unsafe {
        ReadProcessMemory(process, at as *const c_void, into.as_mut_ptr().cast(), into.len(), &raw mut done)
    };
    is_read != 0 && done == into.len()
}

/// Writes all of `bytes` there; tells whether that could be done.
pub(crate) fn write(process: HANDLE, at: u64, bytes: &[u8]) -> bool {
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
    // SAFETY: asks for pages at an address; where something is, it fails.
    unsafe { VirtualAllocEx(process, at as *const c_void, BYTES, MEM_RESERVE, PAGE_READWRITE) };
}
