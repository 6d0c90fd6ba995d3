//! Waiting: a thread that waits stands still when the program is frozen, and is then about to call again, for the time that remains.

use std::sync::atomic::{AtomicUsize, Ordering};

use windows_sys::Win32::Foundation::{HANDLE, WAIT_ABANDONED_0, WAIT_FAILED, WAIT_OBJECT_0, WAIT_TIMEOUT};
use windows_sys::Win32::System::Threading::{
    INFINITE, Sleep as native_sleep, SwitchToThread as native_switch,
    WaitForMultipleObjects as native_wait_all, WaitForSingleObject as native_wait,
};

use super::clocks::GetTickCount64;
use super::ours;
use super::threads::own;
use crate::freeze;
use crate::objects::{self, Kind};
use crate::state::{Object, block};
use crate::thread::Frame;

ours! {
    SwitchToThread WakeByAddressSingle WakeByAddressAll;
    WaitOnAddress
    Sleep SleepEx WaitForSingleObject WaitForSingleObjectEx WaitForMultipleObjects WaitForMultipleObjectsEx SignalObjectAndWait
}

/// With a freeze's event there may be one less.
const OBJECTS_MAX: usize = 63;
/// How often a thread that waits for all of several objects looks whether it has to stand still.
const ALL_SLICE_MS: u32 = 10;

/// Waits for one of the system's objects as WaitForMultipleObjects does. When the program is frozen, `remember` is given the caller's registers as they
/// will be when it is brought back, with the milliseconds that remain.
pub(crate) fn wait(handles: &[HANDLE], limit_ms: u32, remember: impl Fn(&mut Frame, u32)) -> u32 {
    let begin = GetTickCount64();
    let remaining = |limit_ms: u32| match limit_ms {
        INFINITE => INFINITE,
        limit_ms => (u64::from(limit_ms).saturating_sub(GetTickCount64() - begin)) as u32,
    };
    let mut all = [std::ptr::null_mut(); OBJECTS_MAX + 1];
    all[..handles.len()].copy_from_slice(handles);
    all[handles.len()] = freeze::begins();
    let count = handles.len() as u32;
    loop {
        // SAFETY: so many handles; the last one is ours and stays open.
        let end = unsafe { native_wait_all(count + 1, all.as_ptr(), 0, remaining(limit_ms)) };
        if end != WAIT_OBJECT_0 + count {
            return end;
        }
        stand(|frame| remember(frame, remaining(limit_ms)));
    }
}

/// Stands still until the program is thawed.
pub(crate) fn stand(remember: impl FnOnce(&mut Frame)) {
    match own() {
        Some(thread) if freeze::is_in_call(thread) => {
            thread.with_frame(remember);
            freeze::park(thread);
        }
        // A thread of the system's, or one that the system has called back: a freeze waits for it.
        // SAFETY: a call without pointers.
        _ => unsafe { native_sleep(1) },
    }
}

/// What a wait that ended means for the objects: a mutex has an owner now.
fn won(object: Option<&Object>) {
    let Some(object) = object.filter(|object| object.kind() == Some(Kind::Mutex)) else { return };
    let owner = own().map_or(0, |thread| thread.index() as u64 + 1);
    for same in objects::same(object) {
        let count = if same.number(0) == owner { same.number(1) } else { 0 };
        same.set_number(0, owner);
        same.set_number(1, count + 1);
    }
}

extern "system" fn Sleep(limit_ms: u32) {
    if limit_ms == 0 {
        // SAFETY: a call without pointers.
        unsafe { native_sleep(0) };
        return;
    }
    wait(&[], limit_ms, |frame, remaining_ms| frame.rcx = u64::from(remaining_ms));
}

extern "system" fn SleepEx(limit_ms: u32, alertable: i32) -> u32 {
    alert(alertable);
    Sleep(limit_ms);
    0
}

/// Nothing that could alert a thread is carried; only that none is waited for.
fn alert(alertable: i32) {
    if alertable != 0 {
        block("a thread has waited for procedure calls (APCs)");
    }
}

extern "system" fn SwitchToThread() -> i32 {
    // SAFETY: a call without pointers.
    unsafe { native_switch() }
}

extern "system" fn WaitForSingleObject(handle: u64, limit_ms: u32) -> u32 {
    let object = objects::of(handle);
    let end =
        wait(&[objects::real(handle)], limit_ms, |frame, remaining_ms| frame.rdx = u64::from(remaining_ms));
    if end == WAIT_OBJECT_0 || end == WAIT_ABANDONED_0 {
        won(object);
    }
    end
}

extern "system" fn WaitForSingleObjectEx(handle: u64, limit_ms: u32, alertable: i32) -> u32 {
    alert(alertable);
    WaitForSingleObject(handle, limit_ms)
}

extern "system" fn WaitForMultipleObjects(count: u32, handles: *const u64, all: i32, limit_ms: u32) -> u32 {
    // SAFETY: the program's list.
    let list = unsafe { std::slice::from_raw_parts(handles, count as usize) };
    let real: Vec<HANDLE> = list.iter().map(|&handle| objects::real(handle)).collect();
    if real.is_empty() || real.len() > OBJECTS_MAX {
        if real.len() > OBJECTS_MAX {
            block("a thread has waited for 64 objects at once");
        }
        // SAFETY: so many handles.
        return unsafe { native_wait_all(count, real.as_ptr(), all, limit_ms) };
    }
    let remember = |frame: &mut Frame, remaining_ms| frame.r9 = u64::from(remaining_ms);
    let end =
        if all == 0 { wait(&real, limit_ms, remember) } else { wait_for_all(&real, limit_ms, remember) };
    if end == WAIT_FAILED || end == WAIT_TIMEOUT {
        return end;
    }
    if all != 0 {
        list.iter().for_each(|&handle| won(objects::of(handle)));
    } else if let Some(&handle) = list.get((end & !WAIT_ABANDONED_0) as usize) {
        won(objects::of(handle));
    }
    end
}

extern "system" fn WaitForMultipleObjectsEx(
    count: u32,
    handles: *const u64,
    all: i32,
    limit_ms: u32,
    alertable: i32,
) -> u32 {
    alert(alertable);
    WaitForMultipleObjects(count, handles, all, limit_ms)
}

fn wait_for_all(handles: &[HANDLE], limit_ms: u32, remember: impl Fn(&mut Frame, u32)) -> u32 {
    let begin = GetTickCount64();
    loop {
        let remaining_ms = match limit_ms {
            INFINITE => INFINITE,
            limit_ms => u64::from(limit_ms).saturating_sub(GetTickCount64() - begin) as u32,
        };
        // SAFETY: so many handles.
        let end = unsafe {
            native_wait_all(handles.len() as u32, handles.as_ptr(), 1, remaining_ms.min(ALL_SLICE_MS))
        };
        if end != WAIT_TIMEOUT || remaining_ms <= ALL_SLICE_MS {
            return end;
        }
        // SAFETY: the event is ours.
        if unsafe { native_wait(freeze::begins(), 0) } == WAIT_OBJECT_0 {
            stand(|frame| remember(frame, remaining_ms));
        }
    }
}

extern "system" fn SignalObjectAndWait(signal: u64, handle: u64, limit_ms: u32, alertable: i32) -> u32 {
    block("it has used SignalObjectAndWait");
    alert(alertable);
    // SAFETY: the program's call.
    unsafe {
        windows_sys::Win32::System::Threading::SignalObjectAndWait(
            objects::real(signal),
            objects::real(handle),
            limit_ms,
            alertable,
        )
    }
}

/// Buckets by which threads wait for words of memory. A thread that waits for another word than the one that changed looks and waits on.
const BUCKETS: usize = 64;
/// A bucket's event wakes one thread, maybe the wrong one: none waits longer before it looks again.
const LOOK_MS: u32 = 4;

fn bucket(address: usize) -> HANDLE {
    static EVENTS: [AtomicUsize; BUCKETS] = [const { AtomicUsize::new(0) }; BUCKETS];
    let place = &EVENTS[(address >> 4) % BUCKETS];
    let known = place.load(Ordering::Acquire);
    if known != 0 {
        return known as HANDLE;
    }
    let new = freeze::event(false);
    match place.compare_exchange(0, new as usize, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => new,
        // Another thread was first; an event more does no harm.
        Err(known) => known as HANDLE,
    }
}

/// Waits until the word at `address` may have changed, or the program was frozen.
pub(crate) fn wait_for_word(address: usize, remember: impl Fn(&mut Frame)) {
    wait(&[bucket(address)], LOOK_MS, |frame, _| remember(frame));
}

/// The system's own keeps lists of threads; here a thread looks at the word.
extern "system" fn WaitOnAddress(address: usize, compared: usize, bytes: usize, limit_ms: u32) -> i32 {
    const ERROR_TIMEOUT: u32 = 1460;
    let begin = GetTickCount64();
    let word = |at: usize| -> u64 {
        // SAFETY: the program's words, of 1, 2, 4 or 8 bytes.
        unsafe {
            match bytes {
                1 => u64::from((at as *const u8).read_volatile()),
                2 => u64::from((at as *const u16).read_volatile()),
                4 => u64::from((at as *const u32).read_volatile()),
                _ => (at as *const u64).read_volatile(),
            }
        }
    };
    let before = word(compared);
    while word(address) == before {
        let spent_ms = GetTickCount64() - begin;
        if limit_ms != INFINITE && spent_ms >= u64::from(limit_ms) {
            return super::fails(ERROR_TIMEOUT) as i32;
        }
        wait_for_word(address, |frame| {
            if limit_ms != INFINITE {
                frame.r9 = u64::from(limit_ms).saturating_sub(spent_ms);
            }
        });
    }
    1
}

extern "system" fn WakeByAddressSingle(address: usize) {
    wake_word(address);
}

extern "system" fn WakeByAddressAll(address: usize) {
    wake_word(address);
}

/// Wakes who waits for the word.
pub(crate) fn wake_word(address: usize) {
    freeze::set(bucket(address));
}
