//! The agent's own memory: a heap of its own, so that the program's heaps have nothing of it.

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::c_void;
use std::sync::atomic::{AtomicPtr, Ordering};

use windows_sys::Win32::System::Memory::{
    HEAP_ZERO_MEMORY, HeapAlloc, HeapCreate, HeapDestroy, HeapFree, HeapReAlloc,
};

/// What HeapAlloc aligns to.
const ALIGNMENT: usize = 16;

struct Own;

#[global_allocator]
static OWN: Own = Own;

static HEAP: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// The heap; null where there is no memory for it.
fn heap() -> *mut c_void {
    let heap = HEAP.load(Ordering::Acquire);
    if !heap.is_null() {
        return heap;
    }
    // SAFETY: a new heap that grows.
    let new = unsafe { HeapCreate(0, 0, 0) };
    match HEAP.compare_exchange(std::ptr::null_mut(), new, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => new,
        Err(first) => {
            // SAFETY: nobody else has it.
            unsafe { HeapDestroy(new) };
            first
        }
    }
}

fn allocate(layout: Layout, flags: u32) -> *mut u8 {
    let heap = heap();
    if heap.is_null() {
        return std::ptr::null_mut();
    }
    if layout.align() <= ALIGNMENT {
        // SAFETY: our heap.
        return unsafe { HeapAlloc(heap, flags, layout.size()) }.cast();
    }
    // The block's own address stands before the aligned one.
    let Some(bytes) = layout.size().checked_add(layout.align() + size_of::<usize>()) else {
        return std::ptr::null_mut();
    };
    // SAFETY: our heap.
    let block = unsafe { HeapAlloc(heap, flags, bytes) } as usize;
    if block == 0 {
        return std::ptr::null_mut();
    }
    let at = (block + size_of::<usize>()).next_multiple_of(layout.align());
    // SAFETY: within the block, before what is given.
    unsafe { ((at - size_of::<usize>()) as *mut usize).write(block) };
    at as *mut u8
}

// SAFETY: blocks of a heap of Windows, aligned as asked for.
unsafe impl GlobalAlloc for Own {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        allocate(layout, 0)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        allocate(layout, HEAP_ZERO_MEMORY)
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        let block = if layout.align() <= ALIGNMENT {
            at
        } else {
            // SAFETY: `allocate` has put the block's address there.
            unsafe { at.sub(size_of::<usize>()).cast::<usize>().read() as *mut u8 }
        };
        // SAFETY: a block of our heap.
        unsafe { HeapFree(heap(), 0, block.cast()) };
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        if layout.align() <= ALIGNMENT {
            // SAFETY: a block of our heap.
            return unsafe { HeapReAlloc(heap(), 0, at.cast(), bytes) }.cast();
        }
        let Ok(wanted) = Layout::from_size_align(bytes, layout.align()) else { return std::ptr::null_mut() };
        let new = allocate(wanted, 0);
        if !new.is_null() {
            // SAFETY: both blocks have so many bytes.
            unsafe { std::ptr::copy_nonoverlapping(at, new, layout.size().min(bytes)) };
            // SAFETY: promised by the caller.
            unsafe { self.dealloc(at, layout) };
        }
        new
    }
}
