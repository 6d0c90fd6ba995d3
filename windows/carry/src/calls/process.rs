//! The process as such: its number, its end, its last resort for exceptions.

use std::sync::atomic::Ordering;

use windows_sys::Win32::System::Threading::{
    ExitProcess as native_exit, TerminateProcess as native_terminate,
};

use super::libraries::private_modules;
use super::ours;
use crate::objects;
use crate::state::{load, state, store};

ours! { GetCurrentProcessId ExitProcess RtlExitUserProcess TerminateProcess SetUnhandledExceptionFilter GetProcessId GetProcessTimes; }

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

/// Times in 100 ns, as FILETIME has them: in the kernel, and in its own code.
fn own_times(creation: *mut u64, exit: *mut u64) -> [u64; 2] {
    let (mut kernel, mut user) = (0_u64, 0_u64);
    // SAFETY: the pseudo handle of this process, and room for the times.
    unsafe {
        windows_sys::Win32::System::Threading::GetProcessTimes(
            usize::MAX as *mut _,
            creation.cast(),
            exit.cast(),
            (&raw mut kernel).cast(),
            (&raw mut user).cast(),
        )
    };
    [kernel, user]
}

/// What the program has spent so far, in this process and in earlier ones.
pub(crate) fn spent() -> [u64; 2] {
    let (mut creation, mut exit) = (0, 0);
    let now = own_times(&raw mut creation, &raw mut exit);
    std::array::from_fn(|which| now[which] + load(&state().spent[which]))
}

extern "system" fn GetProcessTimes(
    process: u64,
    creation: *mut u64,
    exit: *mut u64,
    kernel: *mut u64,
    user: *mut u64,
) -> i32 {
    if process != u64::MAX {
        // SAFETY: the program's call, with the system's handle.
        return unsafe {
            windows_sys::Win32::System::Threading::GetProcessTimes(
                objects::real(process),
                creation.cast(),
                exit.cast(),
                kernel.cast(),
                user.cast(),
            )
        };
    }
    let now = own_times(creation, exit);
    for (into, which) in [(kernel, 0), (user, 1)] {
        // SAFETY: the program has room for the times.
        unsafe { into.write(now[which] + load(&state().spent[which])) };
    }
    1
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
    let filter = load(&state().exception_filter) as usize;
    // SAFETY: the program's own function, or none.
    unsafe { native::SetUnhandledExceptionFilter(filter) };
}

/// The number that the program sees.
pub(crate) fn set_number(number: u32) {
    state().process.store(number, Ordering::Release);
    store(&state().exception_filter, 0);
}
