//! Slim locks (SRWLOCK) and condition variables: plain words in the program's memory, so that a thread which waits for one stands still as in any other wait, and
//! a critical section that is left for a condition variable is one of ours.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use windows_sys::Win32::System::Threading::INFINITE;

use super::clocks::GetTickCount64;
use super::objects::system_time;
use super::{fails, locks, ours, waits};
use crate::thread::Frame;

ours! {
    InitializeSRWLock RtlInitializeSRWLock InitializeConditionVariable RtlInitializeConditionVariable
    TryAcquireSRWLockExclusive RtlTryAcquireSRWLockExclusive TryAcquireSRWLockShared RtlTryAcquireSRWLockShared
    ReleaseSRWLockExclusive RtlReleaseSRWLockExclusive ReleaseSRWLockShared RtlReleaseSRWLockShared
    WakeConditionVariable RtlWakeConditionVariable WakeAllConditionVariable RtlWakeAllConditionVariable;
    AcquireSRWLockExclusive RtlAcquireSRWLockExclusive AcquireSRWLockShared RtlAcquireSRWLockShared
    SleepConditionVariableSRW SleepConditionVariableCS RtlSleepConditionVariableSRW RtlSleepConditionVariableCS
}

/// One thread has the lock for itself.
const EXCLUSIVE: u64 = 1;
/// Somebody waits, or did.
const CONTENDED: u64 = 2;
/// One thread that shares it.
const SHARED: u64 = 4;

fn slim(at: usize) -> &'static AtomicU64 {
    // SAFETY: the program's lock, one word, which lives as long as it is used.
    unsafe { &*(at as *const AtomicU64) }
}

extern "system" fn InitializeSRWLock(at: usize) {
    slim(at).store(0, Ordering::Release);
}

extern "system" fn RtlInitializeSRWLock(at: usize) {
    InitializeSRWLock(at);
}

fn try_lock(at: usize, is_shared: bool) -> bool {
    let taken = slim(at).fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| match is_shared {
        true => (word & EXCLUSIVE == 0).then_some(word + SHARED),
        false => (word & !CONTENDED == 0).then_some(word | EXCLUSIVE),
    });
    taken.is_ok()
}

/// Waits until the lock is had. `remember` is told when the thread stands still meanwhile.
fn lock(at: usize, is_shared: bool, remember: impl Fn(&mut Frame)) {
    while !try_lock(at, is_shared) {
        slim(at).fetch_or(CONTENDED, Ordering::AcqRel);
        if !try_lock(at, is_shared) {
            waits::wait_for_word(at, &remember);
        } else {
            return;
        }
    }
}

fn unlock(at: usize, is_shared: bool) {
    let left = if is_shared { SHARED } else { EXCLUSIVE };
    let word = slim(at).fetch_sub(left, Ordering::AcqRel) - left;
    if word == CONTENDED {
        slim(at).fetch_and(!CONTENDED, Ordering::AcqRel);
        waits::wake_word(at);
    }
}

extern "system" fn TryAcquireSRWLockExclusive(at: usize) -> u8 {
    u8::from(try_lock(at, false))
}

extern "system" fn RtlTryAcquireSRWLockExclusive(at: usize) -> u8 {
    u8::from(try_lock(at, false))
}

extern "system" fn TryAcquireSRWLockShared(at: usize) -> u8 {
    u8::from(try_lock(at, true))
}

extern "system" fn RtlTryAcquireSRWLockShared(at: usize) -> u8 {
    u8::from(try_lock(at, true))
}

extern "system" fn AcquireSRWLockExclusive(at: usize) {
    lock(at, false, |_| {});
}

extern "system" fn RtlAcquireSRWLockExclusive(at: usize) {
    lock(at, false, |_| {});
}

extern "system" fn AcquireSRWLockShared(at: usize) {
    lock(at, true, |_| {});
}

extern "system" fn RtlAcquireSRWLockShared(at: usize) {
    lock(at, true, |_| {});
}

extern "system" fn ReleaseSRWLockExclusive(at: usize) {
    unlock(at, false);
}

extern "system" fn RtlReleaseSRWLockExclusive(at: usize) {
    unlock(at, false);
}

extern "system" fn ReleaseSRWLockShared(at: usize) {
    unlock(at, true);
}

extern "system" fn RtlReleaseSRWLockShared(at: usize) {
    unlock(at, true);
}

/// CONDITION_VARIABLE.
#[repr(C)]
struct Condition {
    /// Another number with each wake.
    wakes: AtomicU32,
    /// Threads that wait.
    waiting: AtomicU32,
}

fn condition(at: usize) -> &'static Condition {
    // SAFETY: the program's condition variable, which lives as long as it is used.
    unsafe { &*(at as *const Condition) }
}

extern "system" fn InitializeConditionVariable(at: usize) {
    slim(at).store(0, Ordering::Release);
}

extern "system" fn RtlInitializeConditionVariable(at: usize) {
    InitializeConditionVariable(at);
}

/// A wake for one may wake several: whoever waits must bear that by the function's documentation.
extern "system" fn WakeConditionVariable(at: usize) {
    condition(at).wakes.fetch_add(1, Ordering::SeqCst);
    if condition(at).waiting.load(Ordering::SeqCst) > 0 {
        waits::wake_word(at);
    }
}

extern "system" fn RtlWakeConditionVariable(at: usize) {
    WakeConditionVariable(at);
}

extern "system" fn WakeAllConditionVariable(at: usize) {
    WakeConditionVariable(at);
}

extern "system" fn RtlWakeAllConditionVariable(at: usize) {
    WakeConditionVariable(at);
}

/// In the address of the lock, which is a multiple of 8, of a call that is made again in the next process: the lock was left, and the thread is among those that wait.
const LEFT: u64 = 1;
/// The same, and it waits no more for the variable.
const WOKEN: u64 = 2;
const FLAGS: u64 = LEFT | WOKEN;

/// The lock of a condition variable.
#[derive(Clone, Copy)]
enum Lock {
    Exclusive,
    Shared,
    Section,
}

impl Lock {
    fn leave(self, at: usize) {
        match self {
            Lock::Section => locks::leave(at),
            _ => unlock(at, matches!(self, Lock::Shared)),
        }
    }

    fn enter(self, at: usize, remember: impl Fn(&mut Frame)) {
        match self {
            Lock::Section => locks::enter(at, remember),
            _ => lock(at, matches!(self, Lock::Shared), remember),
        }
    }

    fn of(flags: u32) -> Lock {
        if flags & 1 != 0 { Lock::Shared } else { Lock::Exclusive }
    }
}

/// Leaves the lock, waits for a wake, and enters the lock again. False where the time was over. One that was brought back meanwhile is woken: that is allowed at
/// any time.
fn sleep(at: usize, lock_word: u64, kind: Lock, limit_ms: u32) -> bool {
    let (lock_at, step) = ((lock_word & !FLAGS) as usize, lock_word & FLAGS);
    let condition = condition(at);
    let mut is_woken = true;
    if step == 0 {
        condition.waiting.fetch_add(1, Ordering::SeqCst);
        let before = condition.wakes.load(Ordering::SeqCst);
        kind.leave(lock_at);
        let begin = GetTickCount64();
        while condition.wakes.load(Ordering::SeqCst) == before {
            if limit_ms != INFINITE && GetTickCount64() - begin >= u64::from(limit_ms) {
                is_woken = false;
                break;
            }
            waits::wait_for_word(at, |frame| frame.rdx = lock_at as u64 | LEFT);
        }
    }
    if step != WOKEN {
        condition.waiting.fetch_sub(1, Ordering::SeqCst);
    }
    kind.enter(lock_at, |frame| frame.rdx = lock_at as u64 | WOKEN);
    is_woken
}

fn slept(is_woken: bool) -> i32 {
    const ERROR_TIMEOUT: u32 = 1460;
    if is_woken { 1 } else { fails(ERROR_TIMEOUT) as i32 }
}

extern "system" fn SleepConditionVariableSRW(at: usize, lock: u64, limit_ms: u32, flags: u32) -> i32 {
    slept(sleep(at, lock, Lock::of(flags), limit_ms))
}

extern "system" fn SleepConditionVariableCS(at: usize, section: u64, limit_ms: u32) -> i32 {
    slept(sleep(at, section, Lock::Section, limit_ms))
}

/// What ntdll's functions give.
fn status(is_woken: bool) -> u32 {
    const STATUS_TIMEOUT: u32 = 0x102;
    if is_woken { 0 } else { STATUS_TIMEOUT }
}

/// A limit of ntdll's, in 100 ns: from now on where it is negative, else a time. Nothing waits for ever.
fn limit_ms(limit: *const i64) -> u32 {
    if limit.is_null() {
        return INFINITE;
    }
    // SAFETY: the program's number.
    let limit = unsafe { limit.read() };
    let remaining =
        if limit < 0 { limit.unsigned_abs() } else { limit.saturating_sub(system_time()).max(0) as u64 };
    remaining.div_ceil(10_000).min(u64::from(INFINITE) - 1) as u32
}

extern "system" fn RtlSleepConditionVariableSRW(at: usize, lock: u64, limit: *const i64, flags: u32) -> u32 {
    status(sleep(at, lock, Lock::of(flags), limit_ms(limit)))
}

extern "system" fn RtlSleepConditionVariableCS(at: usize, section: u64, limit: *const i64) -> u32 {
    status(sleep(at, section, Lock::Section, limit_ms(limit)))
}
