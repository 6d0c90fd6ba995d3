//! Clocks that count from the system's start go on after a restore; the time of day is the host's.

use std::sync::atomic::Ordering;

use super::ours;
use crate::state::state;

mod native {
    #[link(name = "kernel32", kind = "raw-dylib")]
    unsafe extern "system" {
        pub(super) fn QueryPerformanceCounter(count: *mut i64) -> i32;
    }
}

ours! { GetTickCount GetTickCount64 QueryPerformanceCounter timeGetTime; }

/// Milliseconds as the program sees them.
pub(crate) extern "system" fn GetTickCount64() -> u64 {
    // SAFETY: a call without arguments.
    let native = unsafe { windows_sys::Win32::System::SystemInformation::GetTickCount64() };
    native.wrapping_add_signed(state().ticks_ms.load(Ordering::Acquire))
}

extern "system" fn GetTickCount() -> u32 {
    GetTickCount64() as u32
}

extern "system" fn timeGetTime() -> u32 {
    GetTickCount64() as u32
}

/// The counter as the program sees it.
pub(crate) fn counter() -> i64 {
    let mut native = 0;
    // SAFETY: there is room for the answer.
    unsafe { native::QueryPerformanceCounter(&raw mut native) };
    native.wrapping_add(state().performance.load(Ordering::Acquire))
}

extern "system" fn QueryPerformanceCounter(into: *mut i64) -> i32 {
    // SAFETY: the program has room for the answer.
    unsafe { into.write(counter()) };
    1
}
