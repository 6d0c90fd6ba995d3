//! The process as such: its number, its end, its last resort for exceptions.

use std::sync::atomic::Ordering;

use windows_sys::Win32::System::Threading::{
    ExitProcess as native_exit, TerminateProcess as native_terminate,
};

use super::libraries::private_modules;
use super::ours;
use crate::objects;
use crate::state::{state, store};

ours! { GetCurrentProcessId ExitProcess RtlExitUserProcess TerminateProcess SetUnhandledExceptionFilter GetProcessId; }

mod native {
    #[link(name = "kernel32", kind = "raw-dylib")]
    unsafe extern "system" {
        pub(super) fn SetUnhandledExceptionFilter(filter: usize) -> usize;
    }
}

const PROCESS_ENDS: usize = 0;

extern "system" fn GetCurrentProcessId() -> u32 {
    state().process.load(Ordering::Acquire)
}

extern "system" fn GetProcessId(process: u64) -> u32 {
    if process == u64::MAX {
        return GetCurrentProcessId();
    }
    // SAFETY: the program's call.
    unsafe { windows_sys::Win32::System::Threading::GetProcessId(objects::real(process)) }
}

extern "system" fn ExitProcess(code: u32) {
    type Entry = unsafe extern "system" fn(usize, usize, usize) -> i32;
    for module in private_modules() {
        // SAFETY: the entry of a library; this thread is in a function of the system's, so what it calls stays on this stack.
        let entry = unsafe { std::mem::transmute::<usize, Entry>(module.entry()) };
        // SAFETY: as above.
        unsafe { entry(module.base(), PROCESS_ENDS, 1) };
    }
    // SAFETY: the program's end.
    unsafe { native_exit(code) }
}

extern "system" fn RtlExitUserProcess(code: u32) {
    ExitProcess(code);
}

extern "system" fn TerminateProcess(process: u64, code: u32) -> i32 {
    // SAFETY: the program's call.
    unsafe { native_terminate(objects::real(process), code) }
}

extern "system" fn SetUnhandledExceptionFilter(filter: usize) -> usize {
    // SAFETY: the program's call.
    unsafe { native::SetUnhandledExceptionFilter(filter) };
    let before = state().exception_filter.swap(filter as u64, Ordering::AcqRel);
    before as usize
}

/// Registers the program's filter again.
pub(crate) fn bring_back() {
    let filter = crate::state::load(&state().exception_filter) as usize;
    // SAFETY: the program's own function, or none.
    unsafe { native::SetUnhandledExceptionFilter(filter) };
}

/// The number that the program sees.
pub(crate) fn set_number(number: u32) {
    state().process.store(number, Ordering::Release);
    store(&state().exception_filter, 0);
}
