//! What the program was started with, in its own memory.

use std::ffi::c_void;

use windows_sys::Win32::System::Environment::{
    FreeEnvironmentStringsW as native_free, GetCommandLineW as native_command_line,
    GetEnvironmentStringsW as native_environment,
};
use windows_sys::Win32::System::Threading::{
    GetStartupInfoA as native_startup_a, GetStartupInfoW as native_startup_w, STARTUPINFOA, STARTUPINFOW,
};

use super::heaps::{process_heap, space};
use super::ours;
use crate::state::{load, state, store};
use crate::text;

ours! {
    GetCommandLineA GetCommandLineW GetEnvironmentStrings GetEnvironmentStringsA GetEnvironmentStringsW
    FreeEnvironmentStringsA FreeEnvironmentStringsW GetStartupInfoA GetStartupInfoW;
}

/// The process's command line.
pub(crate) fn command_line() -> Vec<u16> {
    // SAFETY: a call without arguments; the text ends with a zero and stays.
    let at = unsafe { native_command_line() };
    // SAFETY: as above.
    let length = (0..).find(|&index| unsafe { at.add(index).read() } == 0).unwrap_or(0);
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts(at, length) }.to_vec()
}

/// Copies the command line into the program's memory, when it begins. False where there is no memory.
pub(crate) fn begin() -> bool {
    let wide = command_line();
    let narrow = text::to_code_page(&wide);
    let a = put(&narrow, 1);
    let wide: Vec<u8> = wide.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let w = put(&wide, 2);
    store(&state().command_line_a, a as u64);
    store(&state().command_line_w, w as u64);
    !a.is_null() && !w.is_null()
}

/// A block of the process heap with these bytes and zeroes behind them.
fn put(bytes: &[u8], zeroes: usize) -> *mut u8 {
    let at = space().allocate(process_heap(), bytes.len() + zeroes, true);
    if !at.is_null() {
        // SAFETY: the block is new and has so many bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) };
    }
    at
}

/// The process's environment: texts that end with a zero each.
pub(crate) fn environment() -> Vec<u16> {
    // SAFETY: a call without arguments.
    let at = unsafe { native_environment() };
    // SAFETY: the list ends with an empty text.
    let is_end =
        |index: usize| unsafe { at.add(index).read() } == 0 && unsafe { at.add(index + 1).read() } == 0;
    let length = (0..).find(|&index| is_end(index)).unwrap_or(0) + 1;
    // SAFETY: as above.
    let all = unsafe { std::slice::from_raw_parts(at, length) }.to_vec();
    // SAFETY: the list was just given.
    unsafe { native_free(at) };
    all
}

extern "system" fn GetCommandLineA() -> u64 {
    load(&state().command_line_a)
}

extern "system" fn GetCommandLineW() -> u64 {
    load(&state().command_line_w)
}

extern "system" fn GetEnvironmentStringsW() -> *mut u8 {
    let bytes: Vec<u8> = environment().iter().flat_map(|unit| unit.to_le_bytes()).collect();
    put(&bytes, 2)
}

extern "system" fn GetEnvironmentStrings() -> *mut u8 {
    put(&text::to_code_page(&environment()), 1)
}

extern "system" fn GetEnvironmentStringsA() -> *mut u8 {
    GetEnvironmentStrings()
}

extern "system" fn FreeEnvironmentStringsA(block: usize) -> i32 {
    i32::from(space().free(process_heap(), block))
}

extern "system" fn FreeEnvironmentStringsW(block: usize) -> i32 {
    i32::from(space().free(process_heap(), block))
}

extern "system" fn GetStartupInfoA(into: *mut STARTUPINFOA) {
    // SAFETY: the program has room for the record.
    unsafe { native_startup_a(into) };
    // Its texts are the system's, and what it has for a C library are handles of it.
    // SAFETY: as above.
    let record = unsafe { &mut *into };
    (record.lpReserved, record.lpDesktop, record.lpTitle) =
        (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
    (record.lpReserved2, record.cbReserved2) = (std::ptr::null_mut(), 0);
    (record.hStdInput, record.hStdOutput, record.hStdError) = standard();
}

extern "system" fn GetStartupInfoW(into: *mut STARTUPINFOW) {
    // SAFETY: the program has room for the record.
    unsafe { native_startup_w(into) };
    // SAFETY: as above.
    let record = unsafe { &mut *into };
    (record.lpReserved, record.lpDesktop, record.lpTitle) =
        (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
    (record.lpReserved2, record.cbReserved2) = (std::ptr::null_mut(), 0);
    (record.hStdInput, record.hStdOutput, record.hStdError) = standard();
}

fn standard() -> (*mut c_void, *mut c_void, *mut c_void) {
    let handle = |which: usize| load(&state().standard[which]) as *mut c_void;
    (handle(0), handle(1), handle(2))
}
