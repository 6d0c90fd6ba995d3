//! Slots of threads. TLS slots are the system's, as compilers read them from the TEB, and are taken anew under the same numbers; FLS slots are ours.

use std::sync::atomic::Ordering;

use windows_sys::Win32::Foundation::{ERROR_INVALID_PARAMETER, ERROR_NOT_ENOUGH_MEMORY};
use windows_sys::Win32::System::Threading::{TlsAlloc as native_alloc, TlsFree as native_free};

use super::threads::own;
use super::{fails, ours};
use crate::state::{TLS_SLOTS, load, lock, state, store};
use crate::thread::threads;

ours! { TlsAlloc TlsFree FlsAlloc FlsFree FlsGetValue FlsSetValue EncodePointer DecodePointer RtlEncodePointer RtlDecodePointer; }

/// TLS_OUT_OF_INDEXES, FLS_OUT_OF_INDEXES.
const NONE: u32 = u32::MAX;

/// The program has slots from here on; the system's libraries, and we, take what is below.
const FIRST_OF_PROGRAM: u32 = 32;

/// Takes the program's slots before anybody else does: they must be free in each process. False where one of them is not.
pub(crate) fn reserve() -> bool {
    let mut wanted = u64::MAX << FIRST_OF_PROGRAM;
    let mut others = Vec::new();
    while wanted != 0 {
        // SAFETY: a call without arguments.
        let slot = unsafe { native_alloc() };
        if slot >= TLS_SLOTS as u32 {
            break;
        }
        if wanted >> slot & 1 == 1 { wanted &= !(1 << slot) } else { others.push(slot) }
    }
    for slot in others {
        // SAFETY: the slot was just given, and nobody uses it.
        unsafe { native_free(slot) };
    }
    wanted == 0
}

extern "system" fn TlsAlloc() -> u32 {
    let _held = lock();
    let used = load(&state().tls_slots);
    let Some(slot) = (FIRST_OF_PROGRAM..TLS_SLOTS as u32).find(|slot| used >> slot & 1 == 0) else {
        fails(ERROR_NOT_ENOUGH_MEMORY);
        return NONE;
    };
    store(&state().tls_slots, used | 1 << slot);
    slot
}

extern "system" fn TlsFree(slot: u32) -> i32 {
    let _held = lock();
    let used = load(&state().tls_slots);
    if slot >= TLS_SLOTS as u32 || used >> slot & 1 == 0 {
        return fails(ERROR_INVALID_PARAMETER) as i32;
    }
    store(&state().tls_slots, used & !(1 << slot));
    // Its values of all threads go; then it is ours again.
    // SAFETY: the slot is ours, and nobody uses it any more.
    unsafe { native_free(slot) };
    reserve_again(slot)
}

fn reserve_again(wanted: u32) -> i32 {
    let mut others = Vec::new();
    // SAFETY: a call without arguments.
    while let slot @ 0..=63 = unsafe { native_alloc() } {
        if slot == wanted {
            break;
        }
        others.push(slot);
    }
    for slot in others {
        // SAFETY: the slot was just given, and nobody uses it.
        unsafe { native_free(slot) };
    }
    1
}

extern "system" fn FlsAlloc(callback: usize) -> u32 {
    let _held = lock();
    let used = load(&state().fls_slots);
    // Slot 0 is never given, as the system does not either.
    let Some(slot) = (1..TLS_SLOTS).find(|slot| used >> slot & 1 == 0) else {
        fails(ERROR_NOT_ENOUGH_MEMORY);
        return NONE;
    };
    threads().for_each(|thread| store(&thread.fls[slot], 0));
    store(&state().fls_callbacks[slot], callback as u64);
    store(&state().fls_slots, used | 1 << slot);
    slot as u32
}

fn is_slot(slot: u32) -> bool {
    (slot as usize) < TLS_SLOTS && load(&state().fls_slots) >> slot & 1 == 1
}

extern "system" fn FlsFree(slot: u32) -> i32 {
    if !is_slot(slot) {
        return fails(ERROR_INVALID_PARAMETER) as i32;
    }
    state().fls_slots.fetch_and(!(1 << slot), Ordering::AcqRel);
    1
}

extern "system" fn FlsGetValue(slot: u32) -> u64 {
    match own() {
        Some(thread) if is_slot(slot) => {
            fails(0);
            load(&thread.fls[slot as usize])
        }
        _ => fails(ERROR_INVALID_PARAMETER),
    }
}

extern "system" fn FlsSetValue(slot: u32, value: u64) -> i32 {
    match own() {
        Some(thread) if is_slot(slot) => {
            store(&thread.fls[slot as usize], value);
            1
        }
        _ => fails(ERROR_INVALID_PARAMETER) as i32,
    }
}

/// The system mixes a cookie of the process in, which no other process has.
const COOKIE: usize = 0x5aa5_0000_0000_0000;

extern "system" fn EncodePointer(pointer: usize) -> usize {
    pointer ^ COOKIE
}

extern "system" fn DecodePointer(pointer: usize) -> usize {
    pointer ^ COOKIE
}

extern "system" fn RtlEncodePointer(pointer: usize) -> usize {
    pointer ^ COOKIE
}

extern "system" fn RtlDecodePointer(pointer: usize) -> usize {
    pointer ^ COOKIE
}
