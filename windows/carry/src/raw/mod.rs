//! The papers' method for heaps (`--heaps raw`): the program's heaps are the system's own, written as they are, and brought back in place.
//!
//! A heap is full of pointers into itself, so it must lie where it was: a restore keeps these addresses free before the process's loader begins, lets the system
//! make each heap there with all that is lower taken ([`bring`]), and refuses where it does not. Regions of VirtualAlloc and stacks are in our range as ever.
//!
//! The process heap of the system has the loader's own lists in it and cannot be exchanged under the loader's feet. So GetProcessHeap gives the program another heap
//! of the system's, made before its first instruction. What the *process* keeps in a heap of the program is its place in the system's list of heaps and
//! its lock ([`own`]): these words stay those of the new process.
//!
//! How a heap is built is the system's secret. What is relied on is looked at when the first one is made ([`begin`]), and the system has the last word: when all is
//! in place, it must find each heap valid, and the same blocks in it.

mod bring;
mod calls;
mod own;
mod settle;
mod walk;

use std::sync::atomic::Ordering;

use brant_windows::{Code, Refused};
use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::Memory::{
    GetProcessHeap as native_process_heap, HEAP_NO_SERIALIZE, HeapAlloc, HeapCreate, HeapDestroy, HeapFree,
};

pub(crate) use bring::{Made, make};
pub(crate) use calls::*;
pub(crate) use settle::{ranges, settle};

use crate::state::{RawHeap, load, lock, state, store};

/// HEAP_CREATE_ENABLE_EXECUTE and HEAP_NO_SERIALIZE: what else a program asks for is none of a heap's memory.
const OPTIONS: u32 = 0x4_0000 | HEAP_NO_SERIALIZE;
/// A block of this size lies outside of the heap's first memory.
const LARGE: usize = 4 << 20;

/// Whether the program's heaps are the system's.
pub(crate) fn is_on() -> bool {
    state().has_raw_heaps.load(Ordering::Acquire) == 1
}

/// Makes the heap that is the program's process heap, and looks at how the system builds heaps.
pub(crate) fn begin() -> Result<(), Refused> {
    let refused = |why: &str| {
        Refused::new(Code::NotCarried, "this system's heaps cannot be carried as they are")
            .why(why)
            .next("brant.exe run --carry -- PROGRAM")
    };
    state().has_raw_heaps.store(1, Ordering::Release);
    let handle = create(0, 0, 0).ok_or_else(|| refused("there is no memory for a heap"))?;
    if heaps().next().is_none_or(|heap| heap.own_count.load(Ordering::Acquire) == 0) {
        return Err(refused("they begin with something else than brant knows"));
    }
    // SAFETY: a heap of ours.
    let large = unsafe { HeapAlloc(handle, 0, LARGE) };
    let is_told = !large.is_null()
        && walk::entries(handle).is_some_and(|all| all.iter().any(|entry| entry.is_block(large)));
    // SAFETY: the block that was just made, or none.
    unsafe { HeapFree(handle, 0, large) };
    if is_told { Ok(()) } else { Err(refused("HeapWalk does not tell of large blocks")) }
}

/// The program's heaps; its process heap is the first.
pub(crate) fn heaps() -> impl Iterator<Item = &'static RawHeap> {
    state().raw_heaps.iter().filter(|heap| load(&heap.handle) != 0)
}

fn raw(heap: &RawHeap) -> HANDLE {
    load(&heap.handle) as HANDLE
}

/// The heap behind a handle of the program.
fn of(handle: usize) -> Option<HANDLE> {
    if super::calls::heaps::is_system_process_heap(handle) {
        return heaps().next().map(raw);
    }
    heaps().any(|heap| load(&heap.handle) as usize == handle).then_some(handle as HANDLE)
}

/// A new heap of the system's, in our table.
fn create(options: u32, initial: usize, maximum: usize) -> Option<HANDLE> {
    let _held = lock();
    let free = state().raw_heaps.iter().find(|heap| load(&heap.handle) == 0)?;
    let options = options & OPTIONS;
    // SAFETY: a new heap, as the program asks for.
    let handle = unsafe { HeapCreate(options, initial, maximum) };
    if handle.is_null() {
        return None;
    }
    let own = own::of(handle).unwrap_or_default();
    free.own_count.store(own.len() as u32, Ordering::Release);
    own.iter().zip(&free.own).for_each(|(own, field)| field.store(own.word(), Ordering::Release));
    free.options.store(options, Ordering::Release);
    store(&free.initial, initial as u64);
    store(&free.maximum, maximum as u64);
    store(&free.handle, handle as u64);
    Some(handle)
}

/// Destroys a heap that is not the process heap.
fn destroy(handle: usize) -> bool {
    let _held = lock();
    let Some(heap) = heaps().skip(1).find(|heap| load(&heap.handle) as usize == handle) else { return false };
    store(&heap.handle, 0);
    // SAFETY: a heap of the program's, which it does not use any more.
    unsafe { HeapDestroy(handle as HANDLE) != 0 }
}

/// Whether a block is one of the system's own process heap, which has given it to the program.
fn is_of_system(block: usize) -> bool {
    // SAFETY: a call without arguments.
    let of_system = unsafe { native_process_heap() };
    walk::query(block).is_some_and(|found| found.AllocationBase == of_system)
}
