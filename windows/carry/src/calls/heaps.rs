//! Heaps: in the range of [`brant_windows_heap`], with virtual handles.

use std::ffi::c_void;
use std::sync::OnceLock;

use brant_windows_heap::{Block, HeapId, Pages, Space};
use windows_sys::Win32::Foundation::{
    ERROR_INVALID_HANDLE, ERROR_INVALID_PARAMETER, ERROR_NOT_ENOUGH_MEMORY,
};
use windows_sys::Win32::System::Memory::{
    GetProcessHeap as native_process_heap, HEAP_REALLOC_IN_PLACE_ONLY, HEAP_ZERO_MEMORY,
    HeapFree as native_free, HeapReAlloc as native_reallocate, HeapSize as native_size, MEM_COMMIT,
    MEM_DECOMMIT, PAGE_READWRITE, VirtualAlloc, VirtualFree,
};
use windows_sys::Win32::System::Threading::SwitchToThread;

use super::{fails, ours};
use crate::places::{SPACE, SPACE_BYTES};
use crate::raw;
use crate::state::{block, load, state, store};

/// Memory of the range, from the system.
#[derive(Debug)]
pub(crate) struct Native;

impl Pages for Native {
    fn commit(&self, at: usize, bytes: usize) -> bool {
        // SAFETY: pages of our reservation.
        !unsafe { VirtualAlloc(at as *const c_void, bytes, MEM_COMMIT, PAGE_READWRITE) }.is_null()
    }

    fn decommit(&self, at: usize, bytes: usize) {
        // SAFETY: as above; their block or region is gone.
        unsafe { VirtualFree(at as *mut c_void, bytes, MEM_DECOMMIT) };
    }

    fn give_way(&self) {
        // SAFETY: a call without arguments.
        unsafe { SwitchToThread() };
    }
}

static THE_SPACE: OnceLock<Space<Native>> = OnceLock::new();

/// All that the program allocates.
pub(crate) fn space() -> &'static Space<Native> {
    THE_SPACE.get().expect("the space is there before the program's code runs")
}

/// Makes it in reserved memory. False where there is no memory.
pub(crate) fn create_space() -> bool {
    // SAFETY: the range was just reserved, for us alone.
    let space = unsafe { Space::create(SPACE, SPACE_BYTES, Native) };
    let Some(space) = space else { return false };
    // The process heap.
    space.create_heap().is_some() && THE_SPACE.set(space).is_ok()
}

/// Takes the one that an image has brought.
pub(crate) fn bring_space_back() -> bool {
    // SAFETY: its pages are those of the image.
    THE_SPACE.set(unsafe { Space::brought_back(SPACE, Native) }).is_ok()
}

/// The heap of GetProcessHeap, and of LocalAlloc.
pub(crate) fn process_heap() -> HeapId {
    HeapId(0)
}

/// Remembers where the system's process heap is.
pub(crate) fn begin() {
    // SAFETY: a call without arguments.
    store(&state().process_heap, unsafe { native_process_heap() } as u64);
    remember_process_heap();
}

/// C libraries read the handle of the process heap from the process's block (the PEB), and keep it: it may be the one of any process that the program has been.
pub(crate) fn remember_process_heap() {
    // SAFETY: a call without arguments.
    let here = unsafe { native_process_heap() } as u64;
    let place = state().process_heaps.iter().find(|place| [0, here].contains(&load(place)));
    match place {
        Some(place) => store(place, here),
        None => block("the system's process heap was at more than 64 places"),
    }
}

pub(crate) fn is_system_process_heap(handle: usize) -> bool {
    handle != 0
        && state().process_heaps.iter().map(load).take_while(|&at| at != 0).any(|at| at == handle as u64)
}

/// Values of heap handles.
const FIRST: usize = 0x00a0_0000;

fn heap_of(handle: usize) -> Option<HeapId> {
    if is_system_process_heap(handle) {
        return Some(process_heap());
    }
    let number = handle.checked_sub(FIRST)? / 16;
    let heap = HeapId(u32::try_from(number).ok()?);
    space().is_heap(heap).then_some(heap)
}

fn handle_of(heap: HeapId) -> usize {
    FIRST + 16 * heap.0 as usize
}

/// Blocks that the system gave the program, such as a message's text, are in its own heap.
fn is_native(block: usize) -> bool {
    !(SPACE..SPACE + SPACE_BYTES).contains(&block)
}

ours! {
    HeapCreate HeapDestroy HeapAlloc HeapFree HeapReAlloc HeapSize HeapValidate HeapCompact HeapLock HeapUnlock
    HeapSetInformation HeapQueryInformation HeapWalk GetProcessHeap GetProcessHeaps
    RtlAllocateHeap RtlFreeHeap RtlReAllocateHeap RtlSizeHeap
    LocalAlloc LocalFree LocalReAlloc LocalSize LocalLock LocalUnlock LocalFlags
    GlobalAlloc GlobalFree GlobalReAlloc GlobalSize GlobalLock GlobalUnlock GlobalHandle GlobalFlags;
}

extern "system" fn HeapCreate(options: u32, initial: usize, maximum: usize) -> usize {
    if raw::is_on() {
        return raw::create_heap(options, initial, maximum);
    }
    space().create_heap().map_or_else(|| fails(ERROR_NOT_ENOUGH_MEMORY) as usize, handle_of)
}

extern "system" fn HeapDestroy(heap: usize) -> i32 {
    if raw::is_on() {
        return raw::destroy_heap(heap);
    }
    match heap_of(heap) {
        Some(heap) if heap != process_heap() && space().destroy_heap(heap) => 1,
        _ => fails(ERROR_INVALID_HANDLE) as i32,
    }
}

extern "system" fn HeapAlloc(heap: usize, flags: u32, bytes: usize) -> *mut u8 {
    if raw::is_on() {
        return raw::allocate(heap, flags, bytes) as *mut u8;
    }
    let Some(heap) = heap_of(heap) else { return fails(ERROR_INVALID_HANDLE) as *mut u8 };
    let block = space().allocate(heap, bytes, flags & HEAP_ZERO_MEMORY != 0);
    if block.is_null() {
        fails(ERROR_NOT_ENOUGH_MEMORY);
    }
    block
}

extern "system" fn HeapFree(heap: usize, flags: u32, block: usize) -> i32 {
    if block == 0 {
        return 1;
    }
    if raw::is_on() && is_native(block) {
        return raw::free(heap, block);
    }
    if is_native(block) {
        // SAFETY: the system gave the block to the program, from its own heap.
        return unsafe { native_free(native_process_heap(), flags, block as *const c_void) };
    }
    let is_freed = heap_of(heap).is_some_and(|heap| space().free(heap, block));
    if is_freed { 1 } else { fails(ERROR_INVALID_PARAMETER) as i32 }
}

extern "system" fn HeapReAlloc(heap: usize, flags: u32, block: usize, bytes: usize) -> *mut u8 {
    if raw::is_on() && is_native(block) {
        return raw::reallocate(heap, flags, block, bytes) as *mut u8;
    }
    if is_native(block) {
        // SAFETY: as for HeapFree.
        return unsafe { native_reallocate(native_process_heap(), flags, block as *const c_void, bytes) }
            .cast();
    }
    let Some(heap) = heap_of(heap) else { return fails(ERROR_INVALID_HANDLE) as *mut u8 };
    let is_zeroed = flags & HEAP_ZERO_MEMORY != 0;
    let block = space().reallocate(heap, block, bytes, is_zeroed, flags & HEAP_REALLOC_IN_PLACE_ONLY != 0);
    if block.is_null() {
        fails(ERROR_NOT_ENOUGH_MEMORY);
    }
    block
}

extern "system" fn HeapSize(heap: usize, flags: u32, block: usize) -> usize {
    if raw::is_on() && is_native(block) {
        return raw::size(heap, block);
    }
    if is_native(block) {
        // SAFETY: as for HeapFree.
        return unsafe { native_size(native_process_heap(), flags, block as *const c_void) };
    }
    let bytes = heap_of(heap).and_then(|heap| space().size(heap, block));
    bytes.unwrap_or_else(|| {
        fails(ERROR_INVALID_PARAMETER);
        usize::MAX
    })
}

extern "system" fn HeapValidate(heap: usize, _flags: u32, block: usize) -> i32 {
    if raw::is_on() {
        return raw::validate(heap, block);
    }
    let Some(heap) = heap_of(heap) else { return 0 };
    i32::from(block == 0 || space().size(heap, block).is_some())
}

/// What PROCESS_HEAP_ENTRY begins with.
#[repr(C)]
struct Entry {
    data: usize,
    bytes: u32,
    overhead: u8,
    region: u8,
    flags: u16,
}

extern "system" fn HeapWalk(heap: usize, entry: *mut Entry) -> i32 {
    const BUSY: u16 = 4;
    const ERROR_NO_MORE_ITEMS: u32 = 259;
    if raw::is_on() {
        return raw::walk_heap(heap, entry.cast());
    }
    let Some(heap) = heap_of(heap) else { return fails(ERROR_INVALID_HANDLE) as i32 };
    // SAFETY: the program's record.
    let last = unsafe { (*entry).data };
    let mut next: Option<Block> = None;
    space().walk(heap, |block| {
        if block.at > last && next.is_none_or(|next| block.at < next.at) {
            next = Some(block);
        }
    });
    let Some(block) = next else { return fails(ERROR_NO_MORE_ITEMS) as i32 };
    // SAFETY: as above.
    unsafe {
        entry.write(Entry { data: block.at, bytes: block.bytes as u32, overhead: 0, region: 0, flags: BUSY })
    };
    1
}

extern "system" fn HeapCompact(_heap: usize, _flags: u32) -> usize {
    1 << 20
}

fn is_heap(handle: usize) -> bool {
    if raw::is_on() { raw::is_heap(handle) } else { heap_of(handle).is_some() }
}

extern "system" fn HeapLock(heap: usize) -> i32 {
    i32::from(is_heap(heap))
}

extern "system" fn HeapUnlock(heap: usize) -> i32 {
    i32::from(is_heap(heap))
}

/// The low-fragmentation heap and the end on corruption: neither is needed here.
extern "system" fn HeapSetInformation(_heap: usize, _class: u32, _information: usize, _bytes: usize) -> i32 {
    1
}

extern "system" fn HeapQueryInformation(
    _heap: usize,
    _class: u32,
    into: *mut u32,
    bytes: usize,
    length: *mut usize,
) -> i32 {
    if bytes < 4 || into.is_null() {
        return fails(ERROR_INVALID_PARAMETER) as i32;
    }
    // SAFETY: the program has room for a number.
    unsafe { into.write(0) };
    if !length.is_null() {
        // SAFETY: as above.
        unsafe { length.write(4) };
    }
    1
}

extern "system" fn GetProcessHeap() -> usize {
    if raw::is_on() { raw::process_heap() } else { handle_of(process_heap()) }
}

extern "system" fn GetProcessHeaps(room: u32, into: *mut usize) -> u32 {
    let heaps: Vec<usize> =
        if raw::is_on() { raw::handles().collect() } else { space().heaps().map(handle_of).collect() };
    for (index, &heap) in heaps.iter().enumerate().take(room as usize) {
        // SAFETY: the program has room for so many handles.
        unsafe { into.add(index).write(heap) };
    }
    heaps.len() as u32
}

extern "system" fn RtlAllocateHeap(heap: usize, flags: u32, bytes: usize) -> *mut u8 {
    HeapAlloc(heap, flags, bytes)
}

extern "system" fn RtlFreeHeap(heap: usize, flags: u32, block: usize) -> i32 {
    HeapFree(heap, flags, block)
}

extern "system" fn RtlReAllocateHeap(heap: usize, flags: u32, block: usize, bytes: usize) -> *mut u8 {
    HeapReAlloc(heap, flags, block, bytes)
}

extern "system" fn RtlSizeHeap(heap: usize, flags: u32, block: usize) -> usize {
    HeapSize(heap, flags, block)
}

/// LMEM_ZEROINIT. Memory that may move is never moved, so that its handle is its address.
fn heap_flags(flags: u32) -> u32 {
    const ZEROED: u32 = 0x40;
    if flags & ZEROED != 0 { HEAP_ZERO_MEMORY } else { 0 }
}

extern "system" fn LocalAlloc(flags: u32, bytes: usize) -> *mut u8 {
    HeapAlloc(GetProcessHeap(), heap_flags(flags), bytes)
}

extern "system" fn LocalFree(block: usize) -> usize {
    if HeapFree(GetProcessHeap(), 0, block) != 0 { 0 } else { block }
}

extern "system" fn LocalReAlloc(block: usize, bytes: usize, flags: u32) -> *mut u8 {
    /// LMEM_MODIFY: only the flags change.
    const MODIFY: u32 = 0x80;
    if flags & MODIFY != 0 {
        return block as *mut u8;
    }
    HeapReAlloc(GetProcessHeap(), heap_flags(flags), block, bytes)
}

extern "system" fn LocalSize(block: usize) -> usize {
    match HeapSize(GetProcessHeap(), 0, block) {
        usize::MAX => 0,
        bytes => bytes,
    }
}

extern "system" fn LocalLock(block: usize) -> usize {
    block
}

extern "system" fn LocalUnlock(_block: usize) -> i32 {
    fails(0) as i32
}

extern "system" fn LocalFlags(_block: usize) -> u32 {
    0
}

extern "system" fn GlobalAlloc(flags: u32, bytes: usize) -> *mut u8 {
    LocalAlloc(flags, bytes)
}

extern "system" fn GlobalFree(block: usize) -> usize {
    LocalFree(block)
}

extern "system" fn GlobalReAlloc(block: usize, bytes: usize, flags: u32) -> *mut u8 {
    LocalReAlloc(block, bytes, flags)
}

extern "system" fn GlobalSize(block: usize) -> usize {
    LocalSize(block)
}

extern "system" fn GlobalLock(block: usize) -> usize {
    block
}

extern "system" fn GlobalUnlock(_block: usize) -> i32 {
    fails(0) as i32
}

extern "system" fn GlobalHandle(block: usize) -> usize {
    block
}

extern "system" fn GlobalFlags(_block: usize) -> u32 {
    0
}
