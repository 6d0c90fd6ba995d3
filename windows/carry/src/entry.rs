//! The process's first thread: it is caught at the executable's entry, before any of the program's code, and of threads that wait to become the program's.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::Diagnostics::Debug::FlushInstructionCache;
use windows_sys::Win32::System::Memory::{PAGE_EXECUTE_READWRITE, VirtualProtect};
use windows_sys::Win32::System::Threading::{ExitThread, GetCurrentProcess, GetCurrentThreadId, GetThreadId};

use crate::calls::{libraries, threads};
use crate::thread::Thread;
use crate::{bring, gather, switch};

/// `jmp [rip]` and an address.
const JUMP_BYTES: usize = 14;
const PROCESS_BEGINS: usize = 1;

/// What stood at the entry.
static SAVED: Mutex<[u8; JUMP_BYTES]> = Mutex::new([0; JUMP_BYTES]);
/// The record of the first thread of an image; 1 for an image whose first thread had ended.
static MAIN: AtomicUsize = AtomicUsize::new(1);

type Given = HashMap<u32, usize>;

/// The records of native threads, by their numbers.
fn given() -> MutexGuard<'static, Option<Given>> {
    static GIVEN: Mutex<Option<Given>> = Mutex::new(None);
    GIVEN.lock().unwrap_or_else(|broken| broken.into_inner())
}

/// Lets the first thread begin the program with us.
pub(crate) fn begin_at_entry() {
    jump_from_entry(first as *const () as usize);
}

/// Lets the first thread go on with what an image has brought.
pub(crate) fn resume_at_entry() {
    jump_from_entry(resumed as *const () as usize);
}

fn jump_from_entry(target: usize) {
    let entry = libraries::program().entry();
    let mut code = [0xff, 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    code[6..].copy_from_slice(&target.to_le_bytes());
    let before = write(entry, &code);
    *SAVED.lock().unwrap_or_else(|broken| broken.into_inner()) = before;
}

/// Writes code at the entry; what stood there.
fn write(entry: usize, code: &[u8; JUMP_BYTES]) -> [u8; JUMP_BYTES] {
    let mut old = 0;
    // SAFETY: the entry is code of the executable.
    unsafe { VirtualProtect(entry as *const c_void, JUMP_BYTES, PAGE_EXECUTE_READWRITE, &raw mut old) };
    // SAFETY: as above; it can be written to now, and no thread runs there.
    let before = unsafe { (entry as *mut [u8; JUMP_BYTES]).replace(*code) };
    // SAFETY: as above.
    unsafe { VirtualProtect(entry as *const c_void, JUMP_BYTES, old, &raw mut old) };
    // SAFETY: as above.
    unsafe { FlushInstructionCache(GetCurrentProcess(), entry as *const c_void, JUMP_BYTES) };
    before
}

fn restore_entry() -> usize {
    let entry = libraries::program().entry();
    let saved = *SAVED.lock().unwrap_or_else(|broken| broken.into_inner());
    write(entry, &saved);
    entry
}

/// What the first thread does instead of the program's entry.
unsafe extern "system" fn first(_argument: usize) -> u32 {
    let entry = restore_entry();
    let main = MAIN.load(Ordering::Acquire);
    // SAFETY: `begin` has made the record.
    let thread: &'static Thread = unsafe { &*(main as *const Thread) };
    threads::begin_native(thread);
    libraries::tell_private(thread, PROCESS_BEGINS);
    thread.has_begun.store(1, Ordering::Release);
    // SAFETY: the program's entry, on its first thread.
    let code = unsafe { switch::call(thread, entry, [0, 0, 0]) } as u32;
    threads::end_and_maybe_all(thread, code);
    code
}

/// The same for a program that an image has brought: with it all others go on.
unsafe extern "system" fn resumed(_argument: usize) -> u32 {
    restore_entry();
    let main = MAIN.load(Ordering::Acquire);
    if main == 1 {
        gather::go();
        // The process goes on with the other threads.
        // SAFETY: this thread's end.
        unsafe { ExitThread(0) };
    }
    // SAFETY: `set_main` was given a record.
    let thread: &'static Thread = unsafe { &*(main as *const Thread) };
    threads::go_on(thread, gather::go)
}

/// The record that the process's first thread becomes.
pub(crate) fn set_main(thread: &Thread) {
    MAIN.store(thread.at() as usize, Ordering::Release);
}

/// The record that a native thread of [`waiting`] becomes.
pub(crate) fn give(native: HANDLE, thread: &Thread) {
    // SAFETY: the thread's handle.
    let number = unsafe { GetThreadId(native) };
    given().get_or_insert_default().insert(number, thread.at() as usize);
}

/// A native thread that becomes one of the program's when all is there.
pub(crate) unsafe extern "system" fn waiting(_argument: *mut c_void) -> u32 {
    gather::here();
    // SAFETY: a call without arguments.
    let number = unsafe { GetCurrentThreadId() };
    let record = given().get_or_insert_default().get(&number).copied();
    let Some(record) = record else {
        bring::take_abandoned();
        gather::ready_for_ever();
    };
    // SAFETY: `give` was given a record.
    let thread = unsafe { &*(record as *const Thread) };
    threads::go_on(thread, || {
        // One that the program made suspended comes here when it is resumed.
        if thread.has_begun.load(Ordering::Acquire) == 1 {
            gather::ready();
        }
    })
}
