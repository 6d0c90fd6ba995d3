//! The registry, and tokens: read, and closed again before anything is captured.

use windows_sys::Win32::Foundation::HANDLE;

use super::ours;
use crate::objects::{self, Kind};
use crate::text;

ours! { RegOpenKeyExA RegOpenKeyExW RegCreateKeyExW RegCloseKey OpenProcessToken OpenThreadToken; }

/// Functions that only need the system's handle.
pub(super) mod reading {
    use crate::calls::with_handles;

    with_handles! {
        RegQueryValueExA
        RegQueryValueExW
        RegGetValueW
        RegEnumKeyExW
        RegEnumValueW
        RegQueryInfoKeyW
        RegSetValueExW
        RegDeleteValueW
        GetTokenInformation
        AdjustTokenPrivileges
    }
}

mod native {
    use windows_sys::Win32::Foundation::HANDLE;
    #[link(name = "advapi32", kind = "raw-dylib")]
    unsafe extern "system" {
        pub(super) fn RegOpenKeyExA(
            key: HANDLE,
            name: usize,
            options: u32,
            access: u32,
            into: *mut HANDLE,
        ) -> i32;
        pub(super) fn RegOpenKeyExW(
            key: HANDLE,
            name: usize,
            options: u32,
            access: u32,
            into: *mut HANDLE,
        ) -> i32;
        pub(super) fn RegCreateKeyExW(
            key: HANDLE,
            name: usize,
            reserved: u32,
            class: usize,
            options: u32,
            access: u32,
            security: usize,
            into: *mut HANDLE,
            how: usize,
        ) -> i32;
        pub(super) fn RegCloseKey(key: HANDLE) -> i32;
        pub(super) fn OpenProcessToken(process: HANDLE, access: u32, into: *mut HANDLE) -> i32;
        pub(super) fn OpenThreadToken(thread: HANDLE, access: u32, own: i32, into: *mut HANDLE) -> i32;
    }
}

/// Gives the program a handle of what cannot be carried while it is open.
fn keep(real: HANDLE, what: &str, into: *mut u64) {
    let handle = objects::add(Kind::Other, real, [0; 4], &text::wide(what));
    // SAFETY: the program has room for the handle.
    unsafe { into.write(if handle == 0 { real as u64 } else { handle }) };
}

const KEY: &str = "a key of the registry";

/// Lets the system open a key, and keeps it.
fn with_key(into: *mut u64, open: impl FnOnce(*mut HANDLE) -> i32) -> i32 {
    let mut real = std::ptr::null_mut();
    let result = open(&raw mut real);
    if result == 0 {
        keep(real, KEY, into);
    }
    result
}

extern "system" fn RegOpenKeyExA(key: u64, name: usize, options: u32, access: u32, into: *mut u64) -> i32 {
    // SAFETY: the program's call, with the system's handle.
    with_key(into, |real| unsafe { native::RegOpenKeyExA(objects::real(key), name, options, access, real) })
}

extern "system" fn RegOpenKeyExW(key: u64, name: usize, options: u32, access: u32, into: *mut u64) -> i32 {
    // SAFETY: the program's call, with the system's handle.
    with_key(into, |real| unsafe { native::RegOpenKeyExW(objects::real(key), name, options, access, real) })
}

extern "system" fn RegCreateKeyExW(
    key: u64,
    name: usize,
    reserved: u32,
    class: usize,
    options: u32,
    access: u32,
    security: usize,
    into: *mut u64,
    how: usize,
) -> i32 {
    let key = objects::real(key);
    // SAFETY: the program's call, with the system's handle.
    with_key(into, |real| unsafe {
        native::RegCreateKeyExW(key, name, reserved, class, options, access, security, real, how)
    })
}

extern "system" fn RegCloseKey(key: u64) -> i32 {
    let real = objects::real(key);
    if let Some(object) = objects::of(key) {
        // It is closed below, as keys are.
        crate::state::store(&object.real, 0);
        objects::close(object);
    }
    // SAFETY: the program's call, with the system's handle.
    unsafe { native::RegCloseKey(real) }
}

extern "system" fn OpenProcessToken(process: u64, access: u32, into: *mut u64) -> i32 {
    let mut real = std::ptr::null_mut();
    // SAFETY: the program's call, with the system's handle.
    let is_done = unsafe { native::OpenProcessToken(objects::real(process), access, &raw mut real) };
    if is_done != 0 {
        keep(real, "a token of the process", into);
    }
    is_done
}

extern "system" fn OpenThreadToken(thread: u64, access: u32, own: i32, into: *mut u64) -> i32 {
    let mut real = std::ptr::null_mut();
    // SAFETY: the program's call, with the system's handle.
    let is_done = unsafe { native::OpenThreadToken(objects::real(thread), access, own, &raw mut real) };
    if is_done != 0 {
        keep(real, "a token of a thread", into);
    }
    is_done
}
