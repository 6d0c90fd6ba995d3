//! The malloc family over `brant-heap`, by link: a C or C++ program that is linked with this allocates from the heap that its thread entered
//! (`brant_heap_enter`), else from the process's own, and frees to whichever it was. `include/brant/heap.h` declares the rest.
//!
//! Functions of another library that hand out memory of malloc come here too. `operator new` of libstdc++ and libc++ calls malloc.

use brant_heap::Allocator;
// Exported from here as well.
pub use brant_heap_c as api;
use libc::{EINVAL, ENOMEM, c_int, c_void, size_t};

const PAGE_BYTES: usize = 4096;
/// What every block is aligned to.
const ALIGN: usize = 16;

/// malloc(3).
#[unsafe(no_mangle)]
pub extern "C" fn malloc(bytes: size_t) -> *mut c_void {
    given(Allocator.allocate(bytes, ALIGN))
}

/// free(3).
///
/// # Safety
///
/// The block is of this family and nobody uses it any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(block: *mut c_void) {
    if block.is_null() {
        return;
    }
    // SAFETY: promised by the caller.
    unsafe { Allocator.free_or_die(block as usize) };
}

/// calloc(3).
#[unsafe(no_mangle)]
pub extern "C" fn calloc(count: size_t, bytes: size_t) -> *mut c_void {
    given(count.checked_mul(bytes).map_or(0, |bytes| Allocator.allocate_zeroed(bytes, ALIGN)))
}

/// realloc(3).
///
/// # Safety
///
/// As for `free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(block: *mut c_void, bytes: size_t) -> *mut c_void {
    if block.is_null() {
        return malloc(bytes);
    }
    if bytes == 0 {
        // SAFETY: promised by the caller.
        unsafe { free(block) };
        return std::ptr::null_mut();
    }
    // SAFETY: promised by the caller.
    match unsafe { Allocator.reallocate(block as usize, bytes, ALIGN) } {
        Ok(address) => given(address),
        Err(fault) => brant_heap::die(fault),
    }
}

/// reallocarray(3).
///
/// # Safety
///
/// As for `free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reallocarray(block: *mut c_void, count: size_t, bytes: size_t) -> *mut c_void {
    match count.checked_mul(bytes) {
        // SAFETY: promised by the caller.
        Some(bytes) => unsafe { realloc(block, bytes) },
        None => given(0),
    }
}

/// posix_memalign(3).
///
/// # Safety
///
/// `place` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(place: *mut *mut c_void, align: size_t, bytes: size_t) -> c_int {
    if !align.is_power_of_two() || !align.is_multiple_of(size_of::<usize>()) {
        return EINVAL;
    }
    let address = Allocator.allocate(bytes, align);
    if address == 0 {
        return ENOMEM;
    }
    // SAFETY: promised by the caller.
    unsafe { place.write(address as *mut c_void) };
    0
}

/// aligned_alloc(3).
#[unsafe(no_mangle)]
pub extern "C" fn aligned_alloc(align: size_t, bytes: size_t) -> *mut c_void {
    if !align.is_power_of_two() {
        return refused(EINVAL);
    }
    given(Allocator.allocate(bytes, align))
}

/// memalign(3).
#[unsafe(no_mangle)]
pub extern "C" fn memalign(align: size_t, bytes: size_t) -> *mut c_void {
    aligned_alloc(align, bytes)
}

/// valloc(3).
#[unsafe(no_mangle)]
pub extern "C" fn valloc(bytes: size_t) -> *mut c_void {
    aligned_alloc(PAGE_BYTES, bytes)
}

/// pvalloc(3).
#[unsafe(no_mangle)]
pub extern "C" fn pvalloc(bytes: size_t) -> *mut c_void {
    match bytes.max(1).checked_next_multiple_of(PAGE_BYTES) {
        Some(bytes) => aligned_alloc(PAGE_BYTES, bytes),
        None => given(0),
    }
}

/// malloc_usable_size(3).
///
/// # Safety
///
/// As for `free`, but that the block may be used on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_usable_size(block: *mut c_void) -> size_t {
    if block.is_null() { 0 } else { Allocator.usable(block as usize).unwrap_or(0) }
}

fn given(address: usize) -> *mut c_void {
    if address == 0 { refused(ENOMEM) } else { address as *mut c_void }
}

#[cold]
fn refused(errno: c_int) -> *mut c_void {
    // SAFETY: the calling thread's own word.
    unsafe { *libc::__errno_location() = errno };
    std::ptr::null_mut()
}
