//! Events, mutexes, semaphores, timers; handles as such.

use windows_sys::Win32::Foundation::{
    DUPLICATE_CLOSE_SOURCE, DuplicateHandle as native_duplicate, ERROR_INVALID_HANDLE, HANDLE,
};
use windows_sys::Win32::System::Threading::{
    CREATE_EVENT_INITIAL_SET, CREATE_EVENT_MANUAL_RESET, CREATE_MUTEX_INITIAL_OWNER,
    CREATE_WAITABLE_TIMER_MANUAL_RESET, CancelWaitableTimer as native_cancel, CreateEventW as native_event,
    CreateMutexW as native_mutex, CreateSemaphoreW as native_semaphore, CreateWaitableTimerW as native_timer,
    GetCurrentProcess, GetCurrentThread, ReleaseMutex as native_release,
    SetWaitableTimer as native_set_timer,
};

use super::clocks::GetTickCount64;
use super::threads::{self, own};
use super::{fails, ours};
use crate::objects::{self, Kind};
use crate::state::block;

ours! {
    CreateEventA CreateEventW CreateEventExA CreateEventExW CreateMutexA CreateMutexW CreateMutexExA CreateMutexExW
    CreateSemaphoreA CreateSemaphoreW CreateSemaphoreExA CreateSemaphoreExW CreateWaitableTimerA CreateWaitableTimerW
    CreateWaitableTimerExA CreateWaitableTimerExW SetWaitableTimer SetWaitableTimerEx CancelWaitableTimer ReleaseMutex
    CloseHandle NtClose DuplicateHandle;
}

/// A text of the program's, with its zero; nothing for no text.
fn wide(name: *const u16) -> Vec<u16> {
    if name.is_null() {
        return Vec::new();
    }
    // SAFETY: the program's text ends with a zero.
    let length = (0..).find(|&index| unsafe { name.add(index).read() } == 0).unwrap_or(0);
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts(name, length) }.to_vec()
}

pub(super) fn narrow(name: *const u8) -> Vec<u16> {
    if name.is_null() {
        return Vec::new();
    }
    // SAFETY: the program's text ends with a zero.
    let bytes = unsafe { std::ffi::CStr::from_ptr(name.cast()) }.to_bytes();
    // Names of objects and files of programs that use these functions: UTF-8, of which ASCII is a part, or the system's code page.
    crate::text::from_code_page(bytes)
}

fn pointer(name: &[u16], with_zero: &mut Vec<u16>) -> *const u16 {
    if name.is_empty() {
        return std::ptr::null();
    }
    with_zero.extend_from_slice(name);
    with_zero.push(0);
    with_zero.as_ptr()
}

fn keep(kind: Kind, real: HANDLE, numbers: [u64; 4], name: &[u16]) -> u64 {
    if real.is_null() {
        return 0;
    }
    // The error says whether there was one of the name.
    // SAFETY: a call without arguments.
    let error = unsafe { windows_sys::Win32::Foundation::GetLastError() };
    let handle = objects::add(kind, real, numbers, name);
    if !name.is_empty() {
        block("it has named objects, which other processes may have as well");
    }
    fails(error);
    if handle == 0 {
        block("it has more than 2048 handles");
        return real as u64;
    }
    handle
}

fn event(manual: bool, set: bool, name: &[u16]) -> u64 {
    let mut room = Vec::new();
    let name_pointer = pointer(name, &mut room);
    // SAFETY: a name that ends with a zero, or none.
    let real = unsafe { native_event(std::ptr::null(), i32::from(manual), i32::from(set), name_pointer) };
    keep(Kind::Event, real, [u64::from(manual), 0, 0, 0], name)
}

extern "system" fn CreateEventA(_security: usize, manual: i32, set: i32, name: *const u8) -> u64 {
    event(manual != 0, set != 0, &narrow(name))
}

extern "system" fn CreateEventW(_security: usize, manual: i32, set: i32, name: *const u16) -> u64 {
    event(manual != 0, set != 0, &wide(name))
}

extern "system" fn CreateEventExA(_security: usize, name: *const u8, flags: u32, _access: u32) -> u64 {
    event(flags & CREATE_EVENT_MANUAL_RESET != 0, flags & CREATE_EVENT_INITIAL_SET != 0, &narrow(name))
}

extern "system" fn CreateEventExW(_security: usize, name: *const u16, flags: u32, _access: u32) -> u64 {
    event(flags & CREATE_EVENT_MANUAL_RESET != 0, flags & CREATE_EVENT_INITIAL_SET != 0, &wide(name))
}

fn mutex(owned: bool, name: &[u16]) -> u64 {
    let mut room = Vec::new();
    let name_pointer = pointer(name, &mut room);
    // SAFETY: a name that ends with a zero, or none.
    let real = unsafe { native_mutex(std::ptr::null(), i32::from(owned), name_pointer) };
    let owner = own().filter(|_| owned).map_or(0, |thread| thread.index() as u64 + 1);
    keep(Kind::Mutex, real, [owner, u64::from(owner != 0), 0, 0], name)
}

extern "system" fn CreateMutexA(_security: usize, owned: i32, name: *const u8) -> u64 {
    mutex(owned != 0, &narrow(name))
}

extern "system" fn CreateMutexW(_security: usize, owned: i32, name: *const u16) -> u64 {
    mutex(owned != 0, &wide(name))
}

extern "system" fn CreateMutexExA(_security: usize, name: *const u8, flags: u32, _access: u32) -> u64 {
    mutex(flags & CREATE_MUTEX_INITIAL_OWNER != 0, &narrow(name))
}

extern "system" fn CreateMutexExW(_security: usize, name: *const u16, flags: u32, _access: u32) -> u64 {
    mutex(flags & CREATE_MUTEX_INITIAL_OWNER != 0, &wide(name))
}

extern "system" fn ReleaseMutex(handle: u64) -> i32 {
    // What is known of it changes first: with the release it is another thread's, which says so by itself.
    let own = own().map_or(0, |thread| thread.index() as u64 + 1);
    let mutex = objects::of(handle)
        .filter(|object| own != 0 && object.kind() == Some(Kind::Mutex) && object.number(0) == own);
    let count = mutex.map_or(0, |object| object.number(1));
    let owned = |times: u64| {
        for same in mutex.into_iter().flat_map(objects::same) {
            same.set_number(1, times);
            same.set_number(0, if times == 0 { 0 } else { own });
        }
    };
    owned(count.saturating_sub(1));
    // SAFETY: the system refuses what is no mutex.
    let released = unsafe { native_release(objects::real(handle)) };
    if released == 0 {
        owned(count);
    }
    released
}

fn semaphore(count: i32, maximum: i32, name: &[u16]) -> u64 {
    let mut room = Vec::new();
    let name_pointer = pointer(name, &mut room);
    // SAFETY: a name that ends with a zero, or none.
    let real = unsafe { native_semaphore(std::ptr::null(), count, maximum, name_pointer) };
    keep(Kind::Semaphore, real, [0, maximum as u64, 0, 0], name)
}

extern "system" fn CreateSemaphoreA(_security: usize, count: i32, maximum: i32, name: *const u8) -> u64 {
    semaphore(count, maximum, &narrow(name))
}

extern "system" fn CreateSemaphoreW(_security: usize, count: i32, maximum: i32, name: *const u16) -> u64 {
    semaphore(count, maximum, &wide(name))
}

extern "system" fn CreateSemaphoreExA(_security: usize, count: i32, maximum: i32, name: *const u8) -> u64 {
    semaphore(count, maximum, &narrow(name))
}

extern "system" fn CreateSemaphoreExW(_security: usize, count: i32, maximum: i32, name: *const u16) -> u64 {
    semaphore(count, maximum, &wide(name))
}

fn timer(manual: bool, name: &[u16]) -> u64 {
    let mut room = Vec::new();
    let name_pointer = pointer(name, &mut room);
    // SAFETY: a name that ends with a zero, or none.
    let real = unsafe { native_timer(std::ptr::null(), i32::from(manual), name_pointer) };
    keep(Kind::Timer, real, [u64::from(manual), 0, 0, 0], name)
}

extern "system" fn CreateWaitableTimerA(_security: usize, manual: i32, name: *const u8) -> u64 {
    timer(manual != 0, &narrow(name))
}

extern "system" fn CreateWaitableTimerW(_security: usize, manual: i32, name: *const u16) -> u64 {
    timer(manual != 0, &wide(name))
}

extern "system" fn CreateWaitableTimerExA(
    _security: usize,
    name: *const u8,
    flags: u32,
    _access: u32,
) -> u64 {
    timer(flags & CREATE_WAITABLE_TIMER_MANUAL_RESET != 0, &narrow(name))
}

extern "system" fn CreateWaitableTimerExW(
    _security: usize,
    name: *const u16,
    flags: u32,
    _access: u32,
) -> u64 {
    timer(flags & CREATE_WAITABLE_TIMER_MANUAL_RESET != 0, &wide(name))
}

extern "system" fn SetWaitableTimer(
    handle: u64,
    due: *const i64,
    period_ms: i32,
    routine: usize,
    argument: usize,
    resume: i32,
) -> i32 {
    if routine != 0 {
        block("it has a timer that calls a procedure");
    }
    // SAFETY: the program's number.
    let due_at = unsafe { due.read() };
    // SAFETY: the program's call, with the system's handle.
    let is_set = unsafe {
        native_set_timer(
            objects::real(handle),
            due,
            period_ms,
            std::mem::transmute::<usize, windows_sys::Win32::System::Threading::PTIMERAPCROUTINE>(routine),
            argument as *const _,
            resume,
        )
    };
    if is_set != 0
        && let Some(object) = objects::of(handle)
    {
        let in_ms = if due_at < 0 { -due_at / 10_000 } else { until(due_at) };
        let due_ms = GetTickCount64().saturating_add_signed(in_ms).max(1);
        for same in objects::same(object) {
            same.set_number(2, period_ms as u64);
            same.set_number(1, due_ms);
        }
    }
    is_set
}

/// Milliseconds until a time of day.
fn until(file_time: i64) -> i64 {
    (file_time - system_time()) / 10_000
}

/// The time of day, in 100 ns as a FILETIME has them.
pub(super) fn system_time() -> i64 {
    let mut now = windows_sys::Win32::Foundation::FILETIME { dwLowDateTime: 0, dwHighDateTime: 0 };
    // SAFETY: there is room for the answer.
    unsafe { windows_sys::Win32::System::SystemInformation::GetSystemTimeAsFileTime(&raw mut now) };
    i64::from(now.dwHighDateTime) << 32 | i64::from(now.dwLowDateTime)
}

extern "system" fn SetWaitableTimerEx(
    handle: u64,
    due: *const i64,
    period_ms: i32,
    routine: usize,
    argument: usize,
    _reason: usize,
    _tolerance: u32,
) -> i32 {
    SetWaitableTimer(handle, due, period_ms, routine, argument, 0)
}

extern "system" fn CancelWaitableTimer(handle: u64) -> i32 {
    // SAFETY: the system refuses what is no timer.
    let is_done = unsafe { native_cancel(objects::real(handle)) };
    if is_done != 0
        && let Some(object) = objects::of(handle)
    {
        objects::same(object).for_each(|same| same.set_number(1, 0));
    }
    is_done
}

extern "system" fn CloseHandle(handle: u64) -> i32 {
    match objects::of(handle) {
        Some(object) => i32::from(objects::close(object)),
        // SAFETY: the program's own mistake, or a handle that no function of ours gave.
        None => unsafe { windows_sys::Win32::Foundation::CloseHandle(handle as HANDLE) },
    }
}

extern "system" fn NtClose(handle: u64) -> i32 {
    const STATUS_INVALID_HANDLE: i32 = 0xC000_0008_u32 as i32;
    if CloseHandle(handle) != 0 { 0 } else { STATUS_INVALID_HANDLE }
}

extern "system" fn DuplicateHandle(
    from_process: HANDLE,
    handle: u64,
    to_process: HANDLE,
    into: *mut u64,
    access: u32,
    inherit: i32,
    options: u32,
) -> i32 {
    let mut real = std::ptr::null_mut();
    // The pseudo handle of the calling thread stands for another thread in each.
    // SAFETY: a call without arguments.
    let of_thread = handle as HANDLE == unsafe { GetCurrentThread() };
    let keep_source = options & !DUPLICATE_CLOSE_SOURCE;
    // SAFETY: the program's call, with the system's handle.
    let is_done = unsafe {
        native_duplicate(
            objects::real(from_process as u64),
            objects::real(handle),
            objects::real(to_process as u64),
            &raw mut real,
            access,
            inherit,
            keep_source,
        )
    };
    if is_done == 0 {
        return 0;
    }
    // SAFETY: a call without arguments.
    if to_process != unsafe { GetCurrentProcess() } {
        block("it has given a handle to another process");
    }
    let new = match objects::of(handle) {
        Some(object) => objects::add_same(object, real),
        None if of_thread => threads::object_of_own(real),
        None => objects::add(
            Kind::Other,
            real,
            [0; 4],
            &crate::text::wide("a duplicate of a handle of the system"),
        ),
    };
    if options & DUPLICATE_CLOSE_SOURCE != 0 {
        CloseHandle(handle);
    }
    if into.is_null() {
        return 1;
    }
    if new == 0 {
        return fails(ERROR_INVALID_HANDLE) as i32;
    }
    // SAFETY: the program has room for the handle.
    unsafe { into.write(new) };
    1
}
