//! The calls of the heaps of 1999, under their names: HeapCreate and its like.
//!
//! Heaps have no names there. Here they are called heap-1, heap-2 and so on, the first that is free: a program that makes its heaps in the same
//! order finds them by the same names, and at the same addresses.

use std::ffi::{c_int, c_ulong, c_void};
use std::ptr::{NonNull, null_mut};

use brant_heap::{Error, Heap, Options};

use crate::{
    CBlock, CHeap, believed, brant_heap_alloc, brant_heap_size, brant_heap_zalloc, c_block, created, done,
    failed, heap,
};

const HEAP_ZERO_MEMORY: c_ulong = 8;
const HEAP_REALLOC_IN_PLACE_ONLY: c_ulong = 16;
/// Blocks that a walk looks ahead.
const AHEAD: usize = 64;

/// `PROCESS_HEAP_ENTRY`: where a walk is.
#[repr(C)]
pub struct CEntry {
    block: CBlock,
    ahead: [CBlock; AHEAD],
    count: usize,
    next: usize,
}

/// The largest size that a heap is made with where none is asked for: that of `Options`.
#[unsafe(no_mangle)]
pub extern "C" fn HeapCreate(_options: c_ulong, initial: usize, maximum: usize) -> *mut CHeap {
    let mut options = Options::default();
    if maximum != 0 {
        // What the allocator keeps for itself is not the caller's.
        let with_rest = maximum.max(initial).saturating_add(maximum / 64 + (8 << 20));
        options.range_bytes = with_rest.checked_next_multiple_of(2 << 20).unwrap_or(usize::MAX);
    }
    for number in 1..=1000u32 {
        let mut name = [0; 12];
        let len = write_name(&mut name, number);
        match Heap::create_with(std::str::from_utf8(&name[..len]).unwrap_or(""), &options) {
            Err(Error::Exists(_)) => {}
            made => return created(made),
        }
    }
    created(Err(Error::TooMany))
}

fn write_name(name: &mut [u8; 12], number: u32) -> usize {
    name[..5].copy_from_slice(b"heap-");
    let digits = number.ilog10() as usize + 1;
    for place in 0..digits {
        name[5 + place] = b'0' + (number / 10u32.pow((digits - 1 - place) as u32) % 10) as u8;
    }
    5 + digits
}

#[unsafe(no_mangle)]
pub extern "C" fn HeapAlloc(from: *mut CHeap, flags: c_ulong, bytes: usize) -> *mut c_void {
    if flags & HEAP_ZERO_MEMORY != 0 { brant_heap_zalloc(from, bytes) } else { brant_heap_alloc(from, bytes) }
}

/// # Safety
///
/// As the header says of all arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn HeapReAlloc(
    of: *mut CHeap,
    flags: c_ulong,
    old: *mut c_void,
    bytes: usize,
) -> *mut c_void {
    let before = brant_heap_size(of, old);
    let (Some(heap), Some(block)) = (believed(of), NonNull::new(old.cast::<u8>())) else { return null_mut() };
    if before == usize::MAX {
        return null_mut();
    }
    let new = if flags & HEAP_REALLOC_IN_PLACE_ONLY != 0 {
        // SAFETY: promised by the caller.
        if unsafe { heap.resize(block, bytes) } { old } else { null_mut() }
    } else {
        // SAFETY: promised by the caller.
        unsafe { crate::brant_heap_realloc(of, old, bytes) }
    };
    if !new.is_null() && flags & HEAP_ZERO_MEMORY != 0 && bytes > before {
        // SAFETY: the block has so many bytes now, and what is behind the old ones means nothing yet.
        unsafe { new.cast::<u8>().add(before).write_bytes(0, bytes - before) };
    }
    new
}

/// # Safety
///
/// As the header says of all arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn HeapFree(of: *mut CHeap, _flags: c_ulong, block: *mut c_void) -> c_int {
    // SAFETY: promised by the caller.
    c_int::from(unsafe { crate::brant_heap_free(of, block) } == 0)
}

#[unsafe(no_mangle)]
pub extern "C" fn HeapSize(of: *mut CHeap, _flags: c_ulong, block: *mut c_void) -> usize {
    brant_heap_size(of, block)
}

/// # Safety
///
/// As the header says of all arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn HeapDestroy(of: *mut CHeap) -> c_int {
    // SAFETY: promised by the caller.
    c_int::from(unsafe { crate::brant_heap_destroy(of) } == 0)
}

/// The next live block; 0 after the last, and where the heap is damaged (then `brant_heap_last_code` is not 0).
///
/// # Safety
///
/// As the header says of all arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn HeapWalk(of: *mut CHeap, entry: *mut CEntry) -> c_int {
    // SAFETY: promised by the caller.
    let entry = unsafe { &mut *entry };
    let heap = match heap(of) {
        Ok(heap) => heap,
        Err(error) => {
            failed(&error);
            return 0;
        }
    };
    if entry.block.address.is_null() {
        (entry.count, entry.next) = (0, 0);
    }
    if entry.next == entry.count {
        let (mut count, after) = (0, entry.block.address as usize);
        let walked = heap.walk_after(after, |block| {
            entry.ahead[count] = c_block(&block);
            count += 1;
            count < AHEAD
        });
        (entry.count, entry.next) = (count, 0);
        if done(walked) != 0 || count == 0 {
            return 0;
        }
    }
    let next = &entry.ahead[entry.next];
    entry.block = CBlock { address: next.address, bytes: next.bytes, kind: next.kind };
    entry.next += 1;
    1
}
