//! Heaps as the allocator of a whole program: of Rust by `#[global_allocator]`, of C by the malloc family (`brant-heap-malloc`).
//!
//! A thread that entered a heap allocates from it; all others allocate from the process's own heap, which lies where the kernel puts it and is never
//! saved. What is freed goes back to the heap that it came from, whoever frees it.

use std::alloc::{GlobalAlloc, Layout};
use std::marker::PhantomData;

use crate::class::{SMALL_BYTES_MAX, class_of};
use crate::core::Core;
use crate::error::{Error, Fault};
use crate::heap::Heap;
use crate::layout::FLAG_PRIVATE;
use crate::registry;
use crate::small::take_ready;
use crate::thread;

/// The allocator for `#[global_allocator]`.
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: brant_heap::Allocator = brant_heap::Allocator;
///
/// let heap = brant_heap::Heap::create("words").unwrap();
/// let words = {
///     let _entered = heap.enter().unwrap();
///     vec!["in", "the", "heap"].into_iter().map(String::from).collect::<Vec<_>>()
/// };
/// assert_eq!(brant_heap::Heap::of_address(words.as_ptr() as usize), Some(heap));
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Allocator;

/// The calling thread allocates from a heap until this ends.
#[derive(Debug)]
pub struct Entered {
    before: Option<Heap>,
    /// Of this thread only.
    _thread: PhantomData<*const ()>,
}

impl Heap {
    /// Lets the calling thread's program allocate from this heap, by [`Allocator`] or malloc, until the result is dropped. These nest.
    pub fn enter(self) -> Result<Entered, Error> {
        let before = Heap::switch(Some(self))?;
        Ok(Entered { before, _thread: PhantomData })
    }

    /// The heap that the calling thread entered; the last one.
    pub fn entered() -> Option<Heap> {
        thread::current().map(Heap).filter(|heap| heap.0.flags.get() & FLAG_PRIVATE == 0)
    }

    /// As [`Heap::enter`] and its end, without a guard: for C. Gives the heap before.
    pub fn switch(to: Option<Heap>) -> Result<Option<Heap>, Error> {
        let before = Heap::entered();
        thread::set_current(to.map(|heap| heap.0))?;
        Ok(before)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        // Only a thread without a table fails, and this one has one.
        let _ = thread::set_current(self.before.map(|heap| heap.0));
    }
}

impl Allocator {
    /// A block from the heap that the thread entered, or from the process's own; 0 where there is no memory.
    #[inline(always)]
    pub fn allocate(self, bytes: usize, align: usize) -> usize {
        if bytes <= SMALL_BYTES_MAX
            && align <= 16
            && let Some(slot) = thread::current_slot()
        {
            let block = take_ready(slot, class_of(bytes));
            if block != 0 {
                return block;
            }
        }
        allocate_slowly(bytes, align)
    }

    /// The same, all zero.
    pub fn allocate_zeroed(self, bytes: usize, align: usize) -> usize {
        heap().map_or(0, |core| core.allocate_zeroed(bytes, align))
    }

    /// The heap that an address came from; for who gets addresses of others too.
    fn heap_of(self, address: usize) -> Result<Core, Fault> {
        match heap() {
            Some(core) if core.contains(address) => Ok(core),
            _ => registry::by_address(address).ok_or(Fault::Foreign { address }),
        }
    }

    /// # Safety
    ///
    /// The block came from any heap of this process, and nobody uses it any more.
    #[inline(always)]
    pub unsafe fn free(self, address: usize) -> Result<(), Fault> {
        if let Some((core, slot)) = thread::current_pair()
            && core.free_own(slot, address)
        {
            return Ok(());
        }
        free_slowly(address)
    }

    /// The same for who has no caller to tell: a fault ends the program.
    ///
    /// # Safety
    ///
    /// As for [`Allocator::free`].
    #[inline(always)]
    pub unsafe fn free_or_die(self, address: usize) {
        if let Some((core, slot)) = thread::current_pair()
            && core.free_own(slot, address)
        {
            return;
        }
        // Not in line: so the usual way needs no room on the stack.
        free_slowly_or_die(address);
    }

    /// # Safety
    ///
    /// As for [`Heap::reallocate`].
    pub unsafe fn reallocate(self, address: usize, bytes: usize, align: usize) -> Result<usize, Fault> {
        self.heap_of(address)?.reallocate(address, bytes, align)
    }

    /// The bytes of a block that may be used.
    pub fn usable(self, address: usize) -> Option<usize> {
        self.heap_of(address).ok()?.usable(address)
    }
}

#[cold]
#[inline(never)]
fn allocate_slowly(bytes: usize, align: usize) -> usize {
    heap().map_or(0, |core| core.allocate_slowly(bytes, align))
}

/// Frees a block that is not of the calling thread's slot in the heap that it entered.
#[inline(never)]
fn free_slowly(address: usize) -> Result<(), Fault> {
    match heap() {
        Some(core) if core.contains(address) => core.free_slowly(address),
        _ => registry::by_address(address).ok_or(Fault::Foreign { address })?.free(address),
    }
}

#[inline(never)]
fn free_slowly_or_die(address: usize) {
    if let Err(fault) = free_slowly(address) {
        crate::die(fault);
    }
}

#[inline(always)]
fn heap() -> Option<Core> {
    match thread::current() {
        Some(core) => Some(core),
        None => registry::own(),
    }
}

// SAFETY: blocks are live until they are freed, do not overlap, and have the size and alignment that was asked for; nothing unwinds.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.allocate(layout.size(), layout.align()) as *mut u8
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.allocate_zeroed(layout.size(), layout.align()) as *mut u8
    }

    #[inline]
    unsafe fn dealloc(&self, pointer: *mut u8, _: Layout) {
        // SAFETY: promised by the caller.
        unsafe { self.free_or_die(pointer as usize) };
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: promised by the caller.
        match unsafe { self.reallocate(pointer as usize, bytes, layout.align()) } {
            Ok(address) => address as *mut u8,
            Err(fault) => crate::die(fault),
        }
    }
}
