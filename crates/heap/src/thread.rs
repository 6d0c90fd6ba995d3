//! What each thread has: its slot in every heap, and the heap that its program's allocator takes from.
//!
//! The address of a thread's table is in a thread-local word of the initial-exec kind, which costs one load and never allocates: the C library
//! allocates other thread-local memory by the very malloc that may be ours. A thread that has no table, or no more, goes by the shared slot.

use std::arch::{asm, global_asm};
use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

use crate::core::Core;
use crate::error::Error;
use crate::layout::{Header, Slot};
use crate::lock::Lock;
use crate::registry;
use crate::system::Buffer;

/// How many heaps a process can have.
pub(crate) const HEAPS_MAX: usize = 1000;

/// One thread's table.
///
/// The thread alone writes, but for the end of a heap.
#[repr(C)]
pub(crate) struct Thread {
    /// The heap for the program's allocator; null where the process's own could not be made.
    current: AtomicPtr<Header>,
    /// The thread's slot in that heap; null where it has none yet. So that the usual way has one word to look at.
    current_slot: AtomicPtr<Slot>,
    /// By the heap's index; null where the thread has none.
    slots: [AtomicPtr<Slot>; HEAPS_MAX],
    /// Neighbours in the list of all tables. `THREADS`.
    next: Cell<*const Thread>,
    prev: Cell<*const Thread>,
}

/// What the word points to once a thread is on its way out: a table without any slot. Never written.
struct Ended(Thread);

// SAFETY: its cells are never written.
unsafe impl Sync for Ended {}

static ENDED: Ended = Ended(Thread {
    current: AtomicPtr::new(null_mut()),
    current_slot: AtomicPtr::new(null_mut()),
    slots: [const { AtomicPtr::new(null_mut()) }; HEAPS_MAX],
    next: Cell::new(null()),
    prev: Cell::new(null()),
});

static THREADS: Lock = Lock::new();
static FIRST: AtomicPtr<Thread> = AtomicPtr::new(null_mut());
static HAS_KEY: AtomicBool = AtomicBool::new(false);
static KEY: AtomicU32 = AtomicU32::new(0);

global_asm!(
    ".pushsection .tbss.brant_heap_thread,\"awT\",@nobits",
    ".balign 8",
    ".globl brant_heap_thread",
    ".hidden brant_heap_thread",
    ".type brant_heap_thread,@tls_object",
    ".size brant_heap_thread,8",
    "brant_heap_thread:",
    ".zero 8",
    ".popsection",
);

/// The calling thread's table; null where it has none.
#[inline(always)]
fn table<'a>() -> Option<&'a Thread> {
    let thread: *const Thread;
    // SAFETY: reads a word of the thread's own static memory, which is there from its first instruction to its last.
    unsafe {
        asm!(
            "mov {0}, qword ptr [rip + brant_heap_thread@GOTTPOFF]",
            "mov {0}, qword ptr fs:[{0}]",
            out(reg) thread,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    // SAFETY: null, or a table that lives until the thread's end.
    unsafe { thread.as_ref() }
}

fn set_table(thread: *const Thread) {
    // SAFETY: writes a word of the thread's own static memory.
    unsafe {
        asm!(
            "mov {1}, qword ptr [rip + brant_heap_thread@GOTTPOFF]",
            "mov qword ptr fs:[{1}], {0}",
            in(reg) thread,
            out(reg) _,
            options(nostack, preserves_flags),
        );
    }
}

/// The calling thread's slot in a heap, if it has one.
#[inline(always)]
pub(crate) fn slot<'a>(index: u32) -> Option<&'a Slot> {
    let thread = table()?;
    // SAFETY: indices are below HEAPS_MAX.
    let slot = unsafe { thread.slots.get_unchecked(index as usize) }.load(Ordering::Relaxed);
    // SAFETY: null, or a slot of a heap that is mapped: the end of a heap takes its slots from all tables.
    unsafe { slot.as_ref() }
}

/// The calling thread's slot in a heap; it gets one if there is one.
pub(crate) fn attach<'a>(core: Core) -> Option<&'a Slot> {
    let thread = own_table()?;
    let place = &thread.slots[core.process.index.load(Ordering::Relaxed) as usize];
    // SAFETY: as in `slot`.
    let slot = match unsafe { place.load(Ordering::Relaxed).as_ref() } {
        Some(slot) => slot,
        None => core.acquire_slot()?,
    };
    let address = std::ptr::from_ref(slot).cast_mut();
    place.store(address, Ordering::Relaxed);
    if thread.current.load(Ordering::Relaxed) as usize == core.address() {
        thread.current_slot.store(address, Ordering::Relaxed);
    }
    Some(slot)
}

/// The calling thread's slot in the heap that it allocates from, if it has one.
#[inline(always)]
pub(crate) fn current_slot<'a>() -> Option<&'a Slot> {
    // SAFETY: as in `slot`.
    unsafe { table()?.current_slot.load(Ordering::Relaxed).as_ref() }
}

/// The heap that the calling thread allocates from and its slot in that, if it has both.
#[inline(always)]
pub(crate) fn current_pair<'a>() -> Option<(Core, &'a Slot)> {
    let thread = table()?;
    // SAFETY: as in `slot`.
    let slot = unsafe { thread.current_slot.load(Ordering::Relaxed).as_ref() }?;
    let heap = thread.current.load(Ordering::Relaxed);
    // SAFETY: null, or a heap that is mapped: the end of a heap takes it from all tables.
    (!heap.is_null()).then(|| (unsafe { Core::at(heap) }, slot))
}

/// The heap that the calling thread allocates from, if it has a table.
#[inline(always)]
pub(crate) fn current() -> Option<Core> {
    let heap = table()?.current.load(Ordering::Relaxed);
    // SAFETY: null, or a heap that is mapped: the end of a heap takes it from all tables.
    (!heap.is_null()).then(|| unsafe { Core::at(heap) })
}

/// Enters another heap, or the process's own.
pub(crate) fn set_current(heap: Option<Core>) -> Result<(), Error> {
    let thread = own_table().ok_or(Error::NoMemory { bytes: size_of::<Thread>(), errno: libc::ENOMEM })?;
    let heap = heap.or_else(registry::own);
    let slot_in = |core: Core| &thread.slots[core.process.index.load(Ordering::Relaxed) as usize];
    let slot = heap.map_or(null_mut(), |core| slot_in(core).load(Ordering::Relaxed));
    // None in between: the two must not be of different heaps.
    thread.current_slot.store(null_mut(), Ordering::Relaxed);
    thread.current.store(heap.map_or(0, Core::address) as *mut Header, Ordering::Relaxed);
    thread.current_slot.store(slot, Ordering::Relaxed);
    Ok(())
}

/// Takes a heap that ends from all threads.
pub(crate) fn forget(core: Core) {
    let index = core.process.index.load(Ordering::Relaxed) as usize;
    let own = registry::own_address() as *mut Header;
    let _held = THREADS.hold();
    let mut next = FIRST.load(Ordering::Relaxed).cast_const();
    // SAFETY: tables are in the list as long as they live, and the lock is held.
    while let Some(thread) = unsafe { next.as_ref() } {
        thread.slots[index].store(null_mut(), Ordering::Relaxed);
        let address = core.address() as *mut Header;
        if thread.current.compare_exchange(address, own, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            // The slot in the process's own heap is found again when the thread next allocates.
            thread.current_slot.store(null_mut(), Ordering::Relaxed);
        }
        next = thread.next.get();
    }
}

/// Held across a fork, so that the child finds the list whole.
pub(crate) fn lock() -> &'static Lock {
    &THREADS
}

/// The calling thread's table, made if need be. `None` at the thread's end, or without memory.
fn own_table<'a>() -> Option<&'a Thread> {
    // The first time, this lets the C library allocate, which may come here before it returns.
    let own = registry::own().map_or(0, Core::address);
    if let Some(thread) = table() {
        return (!std::ptr::eq(thread, &raw const ENDED.0)).then_some(thread);
    }
    let memory = Buffer::new(size_of::<Thread>()).ok()?.leak();
    // SAFETY: the memory is zeroed, large and aligned enough, and nobody else has it; zero is a valid table.
    let thread = unsafe { &*memory.cast::<Thread>() };
    {
        let _held = THREADS.hold();
        let first = FIRST.load(Ordering::Relaxed);
        thread.next.set(first);
        // SAFETY: tables are in the list as long as they live, and the lock is held.
        if let Some(first) = unsafe { first.as_ref() } {
            first.prev.set(thread);
        }
        FIRST.store(std::ptr::from_ref(thread).cast_mut(), Ordering::Relaxed);
    }
    thread.current.store(own as *mut Header, Ordering::Relaxed);
    // Before anything that might allocate.
    set_table(thread);
    ask_for_end(thread);
    Some(thread)
}

/// Lets the C library call us at the thread's end.
fn ask_for_end(thread: &Thread) {
    {
        let _held = THREADS.hold();
        if !HAS_KEY.load(Ordering::Relaxed) {
            let mut key = 0;
            // SAFETY: the destructor is a function of the right type.
            if unsafe { libc::pthread_key_create(&mut key, Some(at_end)) } != 0 {
                // Then slots of threads that end are not used again; nothing worse.
                return;
            }
            KEY.store(key, Ordering::Relaxed);
            HAS_KEY.store(true, Ordering::Relaxed);
        }
    }
    // SAFETY: the key is ours. This may allocate, by a table that is complete.
    unsafe { libc::pthread_setspecific(KEY.load(Ordering::Relaxed), std::ptr::from_ref(thread).cast()) };
}

/// The end of a thread: its slots can be had by others. What it frees and allocates after this goes by the shared slots.
extern "C" fn at_end(thread: *mut c_void) {
    set_table(&raw const ENDED.0);
    // SAFETY: the key's value is the thread's table, which ends here.
    let table = unsafe { &*thread.cast::<Thread>() };
    {
        let _held = THREADS.hold();
        registry::each(|core| {
            let index = core.process.index.load(Ordering::Relaxed) as usize;
            // SAFETY: as in `slot`.
            if let Some(slot) = unsafe { table.slots[index].load(Ordering::Relaxed).as_ref() } {
                core.release_slot(slot);
            }
            true
        });
        // SAFETY: tables are in the list as long as they live, and the lock is held.
        match unsafe { table.prev.get().as_ref() } {
            Some(prev) => prev.next.set(table.next.get()),
            None => FIRST.store(table.next.get().cast_mut(), Ordering::Relaxed),
        }
        // SAFETY: as above.
        if let Some(next) = unsafe { table.next.get().as_ref() } {
            next.prev.set(table.prev.get());
        }
    }
    // SAFETY: nothing points to the table any more.
    unsafe { crate::system::unmap(thread as usize, size_of::<Thread>().next_multiple_of(4096)) };
}
