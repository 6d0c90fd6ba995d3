//! Heaps: counted without a lock, as programs allocate all the time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use brant_windows::record::Heap;
use windows_sys::Win32::System::Memory::{GetProcessHeap, HeapSize};

use super::acts::Known;
use super::state::Taken;

/// Heaps that are told apart; what goes beyond is counted for the last one.
const HEAPS_MAX: usize = 256;

/// What a function does with a heap, which is its first argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeapAct {
    Create,
    Destroy,
    Allocate,
    Reallocate,
    Free,
}

struct Kept {
    handle: AtomicU64,
    is_destroyed: AtomicBool,
    allocations: AtomicU64,
    allocated_bytes: AtomicU64,
    releases: AtomicU64,
    released_bytes: AtomicU64,
}

static HEAPS: [Kept; HEAPS_MAX] = [const {
    Kept {
        handle: AtomicU64::new(0),
        is_destroyed: AtomicBool::new(false),
        allocations: AtomicU64::new(0),
        allocated_bytes: AtomicU64::new(0),
        releases: AtomicU64::new(0),
        released_bytes: AtomicU64::new(0),
    }
}; HEAPS_MAX];

/// All counts begin anew.
pub(crate) fn begin() {
    for heap in &HEAPS {
        heap.handle.store(0, Ordering::Relaxed);
        heap.is_destroyed.store(false, Ordering::Relaxed);
        for count in [&heap.allocations, &heap.allocated_bytes, &heap.releases, &heap.released_bytes] {
            count.store(0, Ordering::Relaxed);
        }
    }
}

/// The heap of this handle, which is new where it is not known.
fn find(handle: u64) -> Option<&'static Kept> {
    HEAPS
        .iter()
        .find(|heap| {
            let found = heap.handle.load(Ordering::Relaxed);
            let is_it = found == handle && !heap.is_destroyed.load(Ordering::Relaxed);
            is_it
                || found == 0
                    && match heap.handle.compare_exchange(0, handle, Ordering::Relaxed, Ordering::Relaxed) {
                        Ok(_) => true,
                        Err(other) => other == handle,
                    }
        })
        .or(HEAPS.last())
}

fn bytes_of(heap: u64, block: u64) -> u64 {
    if block == 0 {
        return 0;
    }
    // SAFETY: a block that the program itself is about to give to this heap's functions, or got from them.
    let bytes = unsafe { HeapSize(heap as *mut _, 0, block as *const _) };
    if bytes == usize::MAX { 0 } else { bytes as u64 }
}

/// The bytes of the block that the call will give back.
pub(crate) fn before(act: HeapAct, known: &Known<'_>) -> Option<Taken> {
    let is_release = matches!(act, HeapAct::Free | HeapAct::Reallocate);
    is_release.then(|| Taken::Bytes(bytes_of(known.argument(0), known.argument(2))))
}

pub(crate) fn after(act: HeapAct, known: &Known<'_>, taken: Option<Taken>) {
    let handle = if act == HeapAct::Create { known.result } else { known.argument(0) };
    if handle == 0 || known.result == 0 {
        return;
    }
    let Some(heap) = find(handle) else { return };
    let released = if let Some(Taken::Bytes(bytes)) = taken { bytes } else { 0 };
    let allocate = |bytes: u64| {
        heap.allocations.fetch_add(1, Ordering::Relaxed);
        heap.allocated_bytes.fetch_add(bytes, Ordering::Relaxed);
    };
    let release = || {
        heap.releases.fetch_add(1, Ordering::Relaxed);
        heap.released_bytes.fetch_add(released, Ordering::Relaxed);
    };
    match act {
        HeapAct::Create => {}
        HeapAct::Destroy => heap.is_destroyed.store(true, Ordering::Relaxed),
        HeapAct::Allocate => allocate(known.argument(2)),
        HeapAct::Reallocate => {
            release();
            allocate(known.argument(3));
        }
        HeapAct::Free if known.argument(2) != 0 => release(),
        HeapAct::Free => {}
    }
}

/// All that are known.
pub(crate) fn all() -> Vec<Heap> {
    // SAFETY: a call without arguments.
    let of_process = unsafe { GetProcessHeap() } as u64;
    let known = HEAPS.iter().filter(|heap| heap.handle.load(Ordering::Relaxed) != 0);
    let told = known.map(|heap| {
        let handle = heap.handle.load(Ordering::Relaxed);
        Heap {
            handle,
            kind: if handle == of_process { "process" } else { "private" }.to_owned(),
            allocations: heap.allocations.load(Ordering::Relaxed),
            allocated_bytes: heap.allocated_bytes.load(Ordering::Relaxed),
            releases: heap.releases.load(Ordering::Relaxed),
            released_bytes: heap.released_bytes.load(Ordering::Relaxed),
            is_destroyed: heap.is_destroyed.load(Ordering::Relaxed),
        }
    });
    told.collect()
}
