//! Threads: each of the program's runs on a stack in our range, from its first instruction on.

use std::ffi::c_void;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use windows_sys::Win32::Foundation::{CloseHandle, ERROR_NOT_ENOUGH_MEMORY, ERROR_NOT_SUPPORTED, HANDLE};
use windows_sys::Win32::System::Memory::{MEM_COMMIT, PAGE_READWRITE, VirtualAlloc};
use windows_sys::Win32::System::Threading::{
    CREATE_SUSPENDED, CreateThread as native_create, ExitThread as native_exit, GetCurrentThread,
    GetCurrentThreadId as native_number, GetExitCodeThread as native_code,
    GetThreadId as native_thread_number, ResumeThread as native_resume, SetThreadPriority as native_priority,
    SuspendThread as native_suspend, TlsAlloc, TlsGetValue, TlsSetValue,
};

use super::heaps::{process_heap, space};
use super::{fails, libraries, ours};
use crate::freeze;
use crate::objects::{self, Kind};
use crate::pe::Module;
use crate::state::{TLS_SLOTS, block, load, lock, state, store};
use crate::switch;
use crate::thread::{IN_BETWEEN, Thread, threads};

ours! {
    CreateThread ResumeThread SuspendThread GetCurrentThreadId GetThreadId GetExitCodeThread SetThreadPriority
    TerminateThread SetThreadStackGuarantee SwitchToFiber ConvertThreadToFiber ExitThread RtlExitUserThread;
}

/// STILL_ACTIVE.
const RUNS: u32 = 259;
/// What a program may have without saying so.
const STACK_BYTES: usize = 1 << 20;
/// Below a stack, never committed.
const GUARD_BYTES: usize = 0x1_0000;

/// The TLS slot with the thread's record.
pub(crate) fn slot() -> u32 {
    static SLOT: OnceLock<u32> = OnceLock::new();
    *SLOT.get_or_init(|| {
        // SAFETY: a call without arguments.
        let slot = unsafe { TlsAlloc() };
        switch::use_slot(slot);
        slot
    })
}

/// The calling thread's record; nothing for a thread of the system's or of ours.
pub(crate) fn own() -> Option<&'static Thread> {
    // SAFETY: our slot.
    let at: *const Thread = unsafe { TlsGetValue(slot()) }.cast();
    // SAFETY: the slot has a record that is the thread's until it ends.
    unsafe { at.as_ref() }
}

/// The calling thread's number, as the program knows it.
pub(crate) fn number() -> u32 {
    // SAFETY: a call without arguments.
    own().map_or_else(|| unsafe { native_number() }, |thread| thread.number.load(Ordering::Acquire))
}

extern "system" fn GetCurrentThreadId() -> u32 {
    number()
}

/// Stacks are committed as a whole; there is nothing that could be kept back.
extern "system" fn SetThreadStackGuarantee(_bytes: usize) -> i32 {
    1
}

extern "system" fn SwitchToFiber(_fiber: usize) {
    block("it uses fibers");
}

extern "system" fn ConvertThreadToFiber(_parameter: usize) -> usize {
    block("it uses fibers");
    fails(ERROR_NOT_SUPPORTED) as usize
}

/// A new record with a stack. Nothing where there is no room.
fn new_record(stack_bytes: usize) -> Option<&'static Thread> {
    let held = lock();
    let thread = state().threads.iter().find(|thread| !thread.is_there())?;
    let bytes = stack_bytes.max(STACK_BYTES).next_multiple_of(0x1_0000);
    let bottom = space().reserve(bytes + GUARD_BYTES)?;
    let limit = bottom + GUARD_BYTES;
    // SAFETY: the region is ours and reserved.
    if unsafe { VirtualAlloc(limit as *const c_void, bytes, MEM_COMMIT, PAGE_READWRITE) }.is_null() {
        space().release(bottom);
        return None;
    }
    thread.set_inside(IN_BETWEEN);
    thread.parked.store(0, Ordering::Release);
    store(&thread.own_base, (limit + bytes) as u64);
    store(&thread.own_limit, limit as u64);
    store(&thread.own_allocation, bottom as u64);
    thread.suspended.store(0, Ordering::Release);
    thread.has_begun.store(0, Ordering::Release);
    thread.is_main.store(0, Ordering::Release);
    thread.priority.store(0, Ordering::Release);
    thread.number.store(0, Ordering::Release);
    store(&thread.real, 0);
    store(&thread.tls_block, 0);
    thread.fls.iter().for_each(|value| store(value, 0));
    thread.is_there.store(1, Ordering::SeqCst);
    freeze::begun();
    drop(held);
    Some(thread)
}

/// The record of the program's first thread, which is the calling one or is going to run.
pub(crate) fn main_record(stack_bytes: usize) -> Option<&'static Thread> {
    let thread = new_record(stack_bytes)?;
    thread.is_main.store(1, Ordering::Release);
    Some(thread)
}

/// Takes the calling thread for the record's: its native stack, its slot, its TLS block.
pub(crate) fn begin_native(thread: &'static Thread) {
    let (base, limit, allocation) = crate::teb::stack();
    store(&thread.native_base, base);
    store(&thread.native_limit, limit);
    store(&thread.native_allocation, allocation);
    // SAFETY: a call without arguments.
    thread.real_number.store(unsafe { native_number() }, Ordering::Release);
    if load(&thread.real) == 0 {
        store(&thread.real, freeze::own_handle() as u64);
    }
    if thread.number.load(Ordering::Acquire) == 0 {
        thread.number.store(thread.real_number.load(Ordering::Acquire), Ordering::Release);
    }
    // SAFETY: our slot.
    unsafe { TlsSetValue(slot(), thread.at().cast()) };
    take_tls_block(thread);
}

/// Puts a block of ours in the place of the loader's TLS block of the executable: the program has pointers into it.
fn take_tls_block(thread: &Thread) {
    let Some(tls) = Module::at(load(&state().program_base) as usize).tls() else { return };
    let Some(place) = crate::teb::tls_block(tls.index) else { return };
    // SAFETY: the TEB's list has an entry for each module with TLS.
    let native = unsafe { place.read() };
    store(&thread.native_tls_block, native as u64);
    if load(&thread.tls_block) == 0 {
        let own = space().allocate(process_heap(), tls.bytes.max(1), true);
        if own.is_null() {
            block("there was no memory for a thread's TLS");
            return;
        }
        // SAFETY: the loader's block has so many bytes, and so has ours.
        unsafe { std::ptr::copy_nonoverlapping(native as *const u8, own, tls.bytes) };
        store(&thread.tls_block, own as u64);
    }
    // SAFETY: as above.
    unsafe { place.write(load(&thread.tls_block) as usize) };
}

fn give_tls_block_back(thread: &Thread) {
    let Some(tls) = Module::at(load(&state().program_base) as usize).tls() else { return };
    let Some(place) = crate::teb::tls_block(tls.index) else { return };
    // SAFETY: the TEB's list has an entry for each module with TLS.
    unsafe { place.write(load(&thread.native_tls_block) as usize) };
    space().free(process_heap(), load(&thread.tls_block) as usize);
    store(&thread.tls_block, 0);
}

/// What a private C library wants to know of threads.
const THREAD_BEGINS: usize = 2;
const THREAD_ENDS: usize = 3;

/// A thread of the program, on its native stack. Its argument is its record.
unsafe extern "system" fn body(record: *mut c_void) -> u32 {
    // SAFETY: the record was made for this thread.
    let thread: &'static Thread = unsafe { &*record.cast() };
    begin_native(thread);
    libraries::tell_private(thread, THREAD_BEGINS);
    thread.has_begun.store(1, Ordering::Release);
    let (start, argument) = (load(&thread.start) as usize, load(&thread.argument) as usize);
    // SAFETY: the program's own function, with its argument, on this thread.
    let code = unsafe { switch::call(thread, start, [argument, 0, 0]) } as u32;
    end_and_maybe_all(thread, code);
    code
}

/// Lets the calling thread be the record's, from where it stood on. `ready` is called once it has what is its own, and comes back when all go on. Its exit code.
pub(crate) fn go_on(thread: &'static Thread, ready: impl FnOnce()) -> u32 {
    begin_native(thread);
    for which in 0..TLS_SLOTS {
        if load(&state().tls_slots) >> which & 1 == 1 {
            // SAFETY: the slot is the program's, taken again.
            unsafe { TlsSetValue(which as u32, load(&thread.tls[which]) as *const c_void) };
        }
    }
    crate::bring::own_mutexes(thread);
    ready();
    let priority = thread.priority.load(Ordering::Acquire) as i32;
    if priority != 0 {
        // SAFETY: a call without pointers.
        unsafe { native_priority(GetCurrentThread(), priority) };
    }
    if thread.has_begun.load(Ordering::Acquire) == 0 {
        libraries::tell_private(thread, THREAD_BEGINS);
        thread.has_begun.store(1, Ordering::Release);
        let (start, argument) = (load(&thread.start) as usize, load(&thread.argument) as usize);
        // SAFETY: the program's own function, with its argument, on this thread.
        let code = unsafe { switch::call(thread, start, [argument, 0, 0]) } as u32;
        end_and_maybe_all(thread, code);
        return code;
    }
    fails(thread.last_error.load(Ordering::Acquire));
    // SAFETY: the registers and the stack are the program's, of this thread.
    let code = unsafe { switch::resume(thread) } as u32;
    end_and_maybe_all(thread, code);
    code
}

/// The end of a thread; with the last one of the program's the process ends, which threads of ours would keep.
pub(crate) fn end_and_maybe_all(thread: &'static Thread, code: u32) {
    end(thread, code);
    if threads().next().is_none() {
        // SAFETY: the program's end.
        unsafe { windows_sys::Win32::System::Threading::ExitProcess(code) };
    }
}

/// What is left of a thread of the program when it ends, on its native stack.
fn end(thread: &'static Thread, code: u32) {
    thread.has_begun.store(2, Ordering::Release);
    for slot in 1..TLS_SLOTS {
        let (callback, value) = (load(&state().fls_callbacks[slot]), load(&thread.fls[slot]));
        if load(&state().fls_slots) >> slot & 1 == 1 && callback != 0 && value != 0 {
            // SAFETY: the program's own callback, with its value.
            unsafe { switch::call(thread, callback as usize, [value as usize, 0, 0]) };
        }
    }
    libraries::tell_private(thread, THREAD_ENDS);
    give_tls_block_back(thread);
    // SAFETY: our slot.
    unsafe { TlsSetValue(slot(), std::ptr::null()) };
    objects::thread_ended(thread.index(), code);
    // SAFETY: the record's own handle.
    unsafe { CloseHandle(load(&thread.real) as HANDLE) };
    store(&thread.real, 0);
    space().release(load(&thread.own_allocation) as usize);
    thread.is_there.store(0, Ordering::Release);
}

extern "system" fn CreateThread(
    _security: usize,
    stack_bytes: usize,
    start: usize,
    argument: usize,
    flags: u32,
    number: *mut u32,
) -> u64 {
    let of_program = Module::at(load(&state().program_base) as usize).stack_bytes();
    let bytes = if stack_bytes == 0 { of_program } else { stack_bytes };
    let Some(thread) = new_record(bytes) else { return fails(ERROR_NOT_ENOUGH_MEMORY) };
    store(&thread.start, start as u64);
    store(&thread.argument, argument as u64);
    let mut real_number = 0;
    // It begins when its record is whole.
    // SAFETY: the record stays until the thread ends.
    let real = unsafe {
        native_create(
            std::ptr::null(),
            0,
            Some(body),
            thread.at().cast::<c_void>().cast_const(),
            CREATE_SUSPENDED,
            &raw mut real_number,
        )
    };
    if real.is_null() {
        space().release(load(&thread.own_allocation) as usize);
        thread.is_there.store(0, Ordering::Release);
        return 0;
    }
    store(&thread.real, freeze::duplicate(real) as u64);
    thread.real_number.store(real_number, Ordering::Release);
    // A number that another thread of the program has had before a restore must not be given twice.
    thread.number.store(free_number(thread, real_number), Ordering::Release);
    let handle = objects::add(Kind::Thread, real, [thread.index() as u64 + 1, u64::from(RUNS), 0, 0], &[]);
    if handle == 0 {
        block("it has more than 2048 handles");
    }
    if !number.is_null() {
        // SAFETY: the program has room for the number.
        unsafe { number.write(thread.number.load(Ordering::Acquire)) };
    }
    if flags & CREATE_SUSPENDED == 0 {
        // SAFETY: the thread's handle.
        unsafe { native_resume(real) };
    } else {
        thread.suspended.store(1, Ordering::Release);
    }
    handle
}

fn free_number(own: &Thread, real_number: u32) -> u32 {
    let taken = |number: u32| {
        threads()
            .any(|thread| thread.index() != own.index() && thread.number.load(Ordering::Acquire) == number)
    };
    (0..).map(|step| real_number.wrapping_add(4 * step)).find(|&number| !taken(number)).unwrap_or(real_number)
}

/// A handle of the calling thread, for the program.
pub(super) fn object_of_own(real: HANDLE) -> u64 {
    let thread = own().map_or(0, |thread| thread.index() as u64 + 1);
    objects::add(Kind::Thread, real, [thread, u64::from(RUNS), 0, 0], &[])
}

fn record_of(handle: u64) -> Option<&'static Thread> {
    let index = match objects::of(handle) {
        Some(object) if object.kind() == Some(Kind::Thread) => object.number(0).checked_sub(1)? as usize,
        // SAFETY: a call without arguments.
        _ if handle as HANDLE == unsafe { GetCurrentThread() } => return own(),
        _ => return None,
    };
    state().threads.get(index).filter(|thread| thread.is_there())
}

extern "system" fn ResumeThread(handle: u64) -> u32 {
    let thread = record_of(handle);
    // SAFETY: the program's call, with the system's handle.
    let count = unsafe { native_resume(objects::real(handle)) };
    if let Some(thread) = thread.filter(|_| count != u32::MAX && count > 0) {
        thread.suspended.store(count - 1, Ordering::SeqCst);
        freeze::begun();
    }
    count
}

extern "system" fn SuspendThread(handle: u64) -> u32 {
    if let Some(thread) = record_of(handle) {
        // A freeze lets each thread come to a stand by itself, which a suspended one does not.
        block("it has suspended a thread that was running");
        thread.suspended.fetch_add(1, Ordering::AcqRel);
    }
    // SAFETY: the program's call, with the system's handle.
    unsafe { native_suspend(objects::real(handle)) }
}

extern "system" fn GetThreadId(handle: u64) -> u32 {
    match record_of(handle) {
        Some(thread) => thread.number.load(Ordering::Acquire),
        // SAFETY: the program's call.
        None => unsafe { native_thread_number(objects::real(handle)) },
    }
}

extern "system" fn GetExitCodeThread(handle: u64, into: *mut u32) -> i32 {
    let ended =
        objects::of(handle).filter(|object| object.kind() == Some(Kind::Thread) && object.number(0) == 0);
    if let Some(object) = ended {
        // SAFETY: the program has room for the code.
        unsafe { into.write(object.number(1) as u32) };
        return 1;
    }
    // SAFETY: the program's call, with the system's handle.
    unsafe { native_code(objects::real(handle), into) }
}

extern "system" fn SetThreadPriority(handle: u64, priority: i32) -> i32 {
    // SAFETY: the program's call, with the system's handle.
    let is_done = unsafe { native_priority(objects::real(handle), priority) };
    if let Some(thread) = record_of(handle).filter(|_| is_done != 0) {
        thread.priority.store(priority as u32, Ordering::Release);
    }
    is_done
}

extern "system" fn TerminateThread(handle: u64, code: u32) -> i32 {
    block("it has ended a thread by force");
    // SAFETY: the program's call, with the system's handle.
    unsafe { windows_sys::Win32::System::Threading::TerminateThread(objects::real(handle), code) }
}

extern "system" fn ExitThread(code: u32) {
    if let Some(thread) = own() {
        // The thread may have been frozen before: it does not come back from here.
        thread.set_inside(IN_BETWEEN);
        end_and_maybe_all(thread, code);
    }
    // SAFETY: the calling thread's own end.
    unsafe { native_exit(code) }
}

extern "system" fn RtlExitUserThread(code: u32) {
    ExitThread(code);
}
