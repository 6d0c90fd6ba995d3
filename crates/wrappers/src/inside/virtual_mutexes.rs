//! `virtual`: mutexes whose owner the kernel looks up by the number that the program has written.
//!
//! That number may be one of the program's own by now. So a mutex with priority inheritance is locked and unlocked here as one
//! without: its word has the owner's number as the program knows it, and a bit that somebody waits. All threads that
//! have it do the same, as all processes of the program are mediated.
//!
//! A robust mutex is given up by the kernel when its owner dies, if it finds the owner's number in it. Where that is another
//! one, who waits for the mutex looks now and then whether its owner lives, and gives it up in the kernel's place.

use core::sync::atomic::{AtomicU32, Ordering};

use super::system;
use super::virtual_calls::{own_thread, peek};
use super::virtual_files::decimal;
use super::virtual_table::table;

const SYS_FUTEX: usize = 202;
const SYS_TKILL: usize = 200;
const SYS_CLOCK_GETTIME: usize = 228;
const WAIT: usize = 0;
const WAKE: usize = 1;
const LOCK_PI: usize = 6;
const UNLOCK_PI: usize = 7;
const TRYLOCK_PI: usize = 8;
const WAIT_BITSET: usize = 9;
const LOCK_PI2: usize = 13;
const PRIVATE: usize = 128;
const CLOCK_REALTIME: usize = 256;
const OPERATION: usize = 0x7f;
const ANY: usize = 0xffff_ffff;

const WAITERS: u32 = 0x8000_0000;
const OWNER_DIED: u32 = 0x4000_0000;
const TID: u32 = 0x3fff_ffff;

const EPERM: isize = -1;
const EINTR: isize = -4;
const ESRCH: isize = -3;
const EAGAIN: isize = -11;
const ETIMEDOUT: isize = -110;
const EFAULT: isize = -14;
const EDEADLK: isize = -35;

brant_mediator::mediator! {
    fn virtual_futex(call, at: usize, operation: usize, value: usize, timeout: usize, e: usize, f: usize) -> isize {
        let kind = operation & OPERATION;
        if [WAIT, WAIT_BITSET].contains(&kind) && is_strange_owner(value as u32) && !table().is_same() {
            return wait_for_owner(at, operation, value as u32, timeout);
        }
        if ![LOCK_PI, UNLOCK_PI, TRYLOCK_PI, LOCK_PI2].contains(&kind) || table().is_same() {
            return call.inner();
        }
        if peek::<4>(at).is_none() || !at.is_multiple_of(4) {
            return EFAULT;
        }
        // SAFETY: it can be read, and is a mutex, which all write to.
        let mutex = unsafe { AtomicU32::from_ptr(at as *mut u32) };
        let own = own_thread().1 as u32;
        match kind {
            UNLOCK_PI => unlock(mutex, own, operation & PRIVATE),
            TRYLOCK_PI => take(mutex, own, false).unwrap_or(EAGAIN),
            _ => {
                let clock = if kind == LOCK_PI { CLOCK_REALTIME } else { operation & CLOCK_REALTIME };
                lock(mutex, own, operation & PRIVATE | clock, timeout)
            }
        }
    }
}

/// Takes the mutex if it is free; `None` where somebody has it.
fn take(mutex: &AtomicU32, own: u32, has_waited: bool) -> Option<isize> {
    loop {
        let now = mutex.load(Ordering::Relaxed);
        if now & TID == own {
            return Some(EDEADLK);
        }
        if now & TID != 0 {
            return None;
        }
        // Others may have waited with us: who unlocks it comes here.
        let wanted = own | now & (WAITERS | OWNER_DIED) | if has_waited { WAITERS } else { 0 };
        if mutex.compare_exchange(now, wanted, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            return Some(0);
        }
    }
}

fn lock(mutex: &AtomicU32, own: u32, flags: usize, timeout: usize) -> isize {
    let mut has_waited = false;
    loop {
        if let Some(result) = take(mutex, own, has_waited) {
            return result;
        }
        let now = mutex.load(Ordering::Relaxed);
        if now & TID == 0 {
            continue;
        }
        let waiting = now | WAITERS;
        if now != waiting
            && mutex.compare_exchange(now, waiting, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            continue;
        }
        has_waited = true;
        let arguments = [mutex.as_ptr() as usize, WAIT_BITSET | flags, waiting as usize, timeout, 0, ANY];
        // SAFETY: waits at the mutex; the time-out is the caller's, at a point in time.
        match unsafe { system::call(SYS_FUTEX, arguments) } {
            0 | EINTR | EAGAIN => {}
            error => return error,
        }
    }
}

fn unlock(mutex: &AtomicU32, own: u32, flags: usize) -> isize {
    if mutex.load(Ordering::Relaxed) & TID != own {
        return EPERM;
    }
    let before = mutex.swap(0, Ordering::Release);
    if before & WAITERS != 0 {
        // SAFETY: wakes one who waits at the mutex.
        unsafe { system::call(SYS_FUTEX, [mutex.as_ptr() as usize, WAKE | flags, 1, 0, 0, 0]) };
    }
    0
}

/// Whether a word that somebody waits for is that of a mutex with an owner whose number is another one for the kernel. Other
/// words of the C library have no such bit, and no such number.
fn is_strange_owner(word: u32) -> bool {
    let owner = (word & TID) as i32;
    word & WAITERS != 0 && owner != 0 && table().real(owner) != owner
}

/// How long who waits does not look after the owner.
const LOOK_NS: u64 = 50_000_000;
const NS: u64 = 1_000_000_000;

fn now_ns(clock: usize) -> u64 {
    let mut time = [0u64; 2];
    // SAFETY: there is room for the time.
    unsafe { system::call(SYS_CLOCK_GETTIME, [clock, time.as_mut_ptr() as usize, 0, 0, 0, 0]) };
    time[0].saturating_mul(NS).saturating_add(time[1])
}

/// Waits as the call says, while the owner lives.
fn wait_for_owner(at: usize, operation: usize, word: u32, timeout: usize) -> isize {
    const MONOTONIC: usize = 1;
    const REALTIME: usize = 0;
    let is_absolute = operation & OPERATION == WAIT_BITSET;
    let clock = if is_absolute && operation & CLOCK_REALTIME != 0 { REALTIME } else { MONOTONIC };
    let given = match timeout {
        0 => None,
        place => match peek::<16>(place) {
            Some(time) => {
                let half = |at: usize| u64::from_ne_bytes(time[at..at + 8].try_into().unwrap_or_default());
                Some(half(0).saturating_mul(NS).saturating_add(half(8)))
            }
            None => return EFAULT,
        },
    };
    let until = given.map(|given| if is_absolute { given } else { now_ns(clock).saturating_add(given) });
    let owner = table().real((word & TID) as i32) as usize;
    loop {
        if !lives(owner) {
            return give_up(at, word);
        }
        let left = until.map_or(LOOK_NS, |until| until.saturating_sub(now_ns(clock)).min(LOOK_NS));
        if left == 0 {
            return ETIMEDOUT;
        }
        let time = [left / NS, left % NS];
        let arguments = [at, WAIT | operation & PRIVATE, word as usize, time.as_ptr() as usize, 0, 0];
        // SAFETY: waits at the word, as the program does.
        match unsafe { system::call(SYS_FUTEX, arguments) } {
            ETIMEDOUT => {}
            result => return result,
        }
    }
}

/// Whether a thread is there that is no zombie.
fn lives(thread: usize) -> bool {
    // SAFETY: no signal is sent.
    if unsafe { system::call(SYS_TKILL, [thread, 0, 0, 0, 0, 0]) } == ESRCH {
        return false;
    }
    let mut path = [0; 32];
    let mut used = 0;
    let mut put = |bytes: &[u8]| {
        path[used..used + bytes.len()].copy_from_slice(bytes);
        used += bytes.len();
    };
    let mut digits = [0; 10];
    put(b"/proc/");
    put(decimal(thread as u32, &mut digits));
    put(b"/stat");
    let Ok(file) = system::open_to_read(&path[..=used]) else { return true };
    // The name in it is short.
    let mut text = [0; 64];
    let read = system::read(file, &mut text);
    system::close(file);
    let Some(end) = text[..read].iter().rposition(|byte| *byte == b')') else { return true };
    !matches!(text.get(end + 2), Some(b'Z' | b'X'))
}

/// As the kernel does for a robust mutex whose owner has died: the next who looks finds that.
fn give_up(at: usize, word: u32) -> isize {
    if peek::<4>(at).is_none() || !at.is_multiple_of(4) {
        return EFAULT;
    }
    // SAFETY: it can be read, and is a mutex, which all write to.
    let mutex = unsafe { AtomicU32::from_ptr(at as *mut u32) };
    let _ = mutex.compare_exchange(word, WAITERS | OWNER_DIED, Ordering::Relaxed, Ordering::Relaxed);
    EAGAIN
}
