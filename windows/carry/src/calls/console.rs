//! The console: its input may keep a reader waiting, and cannot be taken back from it.

use windows_sys::Win32::Foundation::HANDLE;

use super::ours;
use crate::objects;
use crate::state::{block, load, lock, state, store};

ours! { SetConsoleCtrlHandler ReadConsoleInputA ReadConsoleInputW ReadConsoleA ReadConsoleW; }

mod native {
    use windows_sys::Win32::Foundation::HANDLE;
    #[link(name = "kernel32", kind = "raw-dylib")]
    unsafe extern "system" {
        pub(super) fn SetConsoleCtrlHandler(handler: usize, add: i32) -> i32;
        pub(super) fn ReadConsoleInputA(handle: HANDLE, into: usize, count: u32, read: *mut u32) -> i32;
        pub(super) fn ReadConsoleInputW(handle: HANDLE, into: usize, count: u32, read: *mut u32) -> i32;
        pub(super) fn ReadConsoleA(
            handle: HANDLE,
            into: usize,
            count: u32,
            read: *mut u32,
            control: usize,
        ) -> i32;
        pub(super) fn ReadConsoleW(
            handle: HANDLE,
            into: usize,
            count: u32,
            read: *mut u32,
            control: usize,
        ) -> i32;
    }
}

extern "system" fn SetConsoleCtrlHandler(handler: usize, add: i32) -> i32 {
    // SAFETY: the program's call.
    let is_done = unsafe { native::SetConsoleCtrlHandler(handler, add) };
    if is_done == 0 {
        return 0;
    }
    let held = lock();
    let handlers = &state().ctrl_handlers;
    let wanted = if add != 0 { 0 } else { handler as u64 };
    // 0 stands for no handler, so that ignoring ctrl-c is kept as 1.
    let kept = if handler == 0 { 1 } else { handler as u64 };
    let place = handlers.iter().find(|place| load(place) == if wanted == 0 && add == 0 { 1 } else { wanted });
    match place {
        Some(place) => store(place, if add != 0 { kept } else { 0 }),
        None => {
            drop(held);
            block("it has more than 16 handlers of console events");
        }
    }
    1
}

/// Registers the program's handlers again.
pub(crate) fn bring_back() {
    for handler in state().ctrl_handlers.iter().map(load).filter(|&handler| handler != 0) {
        let handler = if handler == 1 { 0 } else { handler as usize };
        // SAFETY: the program's own handler.
        unsafe { native::SetConsoleCtrlHandler(handler, 1) };
    }
}

fn real(handle: u64) -> HANDLE {
    objects::real(handle)
}

extern "system" fn ReadConsoleInputA(handle: u64, into: usize, count: u32, read: *mut u32) -> i32 {
    // SAFETY: the program's call, with the system's handle.
    unsafe { native::ReadConsoleInputA(real(handle), into, count, read) }
}

extern "system" fn ReadConsoleInputW(handle: u64, into: usize, count: u32, read: *mut u32) -> i32 {
    // SAFETY: the program's call, with the system's handle.
    unsafe { native::ReadConsoleInputW(real(handle), into, count, read) }
}

extern "system" fn ReadConsoleA(handle: u64, into: usize, count: u32, read: *mut u32, control: usize) -> i32 {
    // SAFETY: the program's call, with the system's handle.
    unsafe { native::ReadConsoleA(real(handle), into, count, read, control) }
}

extern "system" fn ReadConsoleW(handle: u64, into: usize, count: u32, read: *mut u32, control: usize) -> i32 {
    // SAFETY: the program's call, with the system's handle.
    unsafe { native::ReadConsoleW(real(handle), into, count, read, control) }
}
