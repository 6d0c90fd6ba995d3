//! Critical sections: plain words in the program's memory, with the numbers of threads that the program knows. The system's own would hold its handles
//! and blocks of its heap.

use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use super::heaps::{process_heap, space};
use super::threads::number;
use super::{ours, waits};
use crate::thread::Frame;

ours! {
    InitializeCriticalSection InitializeCriticalSectionAndSpinCount InitializeCriticalSectionEx RtlInitializeCriticalSection
    RtlInitializeCriticalSectionEx DeleteCriticalSection RtlDeleteCriticalSection TryEnterCriticalSection RtlTryEnterCriticalSection
    LeaveCriticalSection RtlLeaveCriticalSection SetCriticalSectionSpinCount;
    EnterCriticalSection RtlEnterCriticalSection
}

/// RTL_CRITICAL_SECTION. A section that the program has initialised statically begins with -1 and zeroes as well.
#[repr(C)]
struct Section {
    debug: AtomicU64,
    /// -1: nobody has it.
    count: AtomicI32,
    recursion: AtomicI32,
    owner: AtomicU64,
    /// Threads that wait.
    waiting: AtomicU32,
    padding: AtomicU32,
    spins: AtomicU64,
}

const SPINS: u32 = 100;

fn section(at: usize) -> &'static Section {
    // SAFETY: the program's section, which lives as long as it is used.
    unsafe { &*(at as *const Section) }
}

/// RTL_CRITICAL_SECTION_DEBUG: C libraries write names of their sections into it.
const DEBUG_BYTES: usize = 64;

extern "system" fn InitializeCriticalSection(at: usize) {
    let debug = space().allocate(process_heap(), DEBUG_BYTES, true);
    clear(at, debug as u64);
}

fn clear(at: usize, debug: u64) {
    let section = section(at);
    section.debug.store(debug, Ordering::Release);
    section.count.store(-1, Ordering::Release);
    section.recursion.store(0, Ordering::Release);
    section.owner.store(0, Ordering::Release);
    section.waiting.store(0, Ordering::Release);
    section.padding.store(0, Ordering::Release);
    section.spins.store(0, Ordering::Release);
}

extern "system" fn InitializeCriticalSectionAndSpinCount(at: usize, _spins: u32) -> i32 {
    InitializeCriticalSection(at);
    1
}

extern "system" fn InitializeCriticalSectionEx(at: usize, _spins: u32, _flags: u32) -> i32 {
    InitializeCriticalSection(at);
    1
}

extern "system" fn RtlInitializeCriticalSection(at: usize) -> i32 {
    InitializeCriticalSection(at);
    0
}

extern "system" fn RtlInitializeCriticalSectionEx(at: usize, _spins: u32, _flags: u32) -> i32 {
    InitializeCriticalSection(at);
    0
}

extern "system" fn DeleteCriticalSection(at: usize) {
    // A section that was initialised statically has its own record, which is no block.
    space().free(process_heap(), section(at).debug.load(Ordering::Acquire) as usize);
    clear(at, 0);
}

extern "system" fn RtlDeleteCriticalSection(at: usize) -> i32 {
    DeleteCriticalSection(at);
    0
}

extern "system" fn SetCriticalSectionSpinCount(_at: usize, _spins: u32) -> u32 {
    0
}

extern "system" fn TryEnterCriticalSection(at: usize) -> i32 {
    let section = section(at);
    let own = u64::from(number());
    if section.owner.load(Ordering::Acquire) == own {
        section.recursion.fetch_add(1, Ordering::AcqRel);
        return 1;
    }
    if section.count.compare_exchange(-1, 0, Ordering::AcqRel, Ordering::Acquire).is_err() {
        return 0;
    }
    section.recursion.store(1, Ordering::Release);
    section.owner.store(own, Ordering::Release);
    1
}

extern "system" fn RtlTryEnterCriticalSection(at: usize) -> i32 {
    TryEnterCriticalSection(at)
}

extern "system" fn EnterCriticalSection(at: usize) {
    enter(at, |_| {});
}

/// Enters a section. `remember` is told when the thread stands still meanwhile.
pub(super) fn enter(at: usize, remember: impl Fn(&mut Frame)) {
    for _ in 0..SPINS {
        if TryEnterCriticalSection(at) == 1 {
            return;
        }
        std::hint::spin_loop();
    }
    let section = section(at);
    loop {
        section.waiting.fetch_add(1, Ordering::SeqCst);
        let entered = TryEnterCriticalSection(at) == 1;
        if !entered {
            // Who stands still waits anew when it is brought back, and is not counted until then.
            waits::wait_for_word(at, |frame| {
                section.waiting.fetch_sub(1, Ordering::SeqCst);
                remember(frame);
            });
        }
        let waiting = &section.waiting;
        let _ =
            waiting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| Some(count.saturating_sub(1)));
        if entered {
            return;
        }
    }
}

extern "system" fn RtlEnterCriticalSection(at: usize) -> i32 {
    EnterCriticalSection(at);
    0
}

extern "system" fn LeaveCriticalSection(at: usize) {
    leave(at);
}

/// Leaves a section.
pub(super) fn leave(at: usize) {
    let section = section(at);
    if section.recursion.fetch_sub(1, Ordering::AcqRel) > 1 {
        return;
    }
    section.owner.store(0, Ordering::Release);
    section.count.store(-1, Ordering::SeqCst);
    if section.waiting.load(Ordering::SeqCst) > 0 {
        waits::wake_word(at);
    }
}

extern "system" fn RtlLeaveCriticalSection(at: usize) -> i32 {
    LeaveCriticalSection(at);
    0
}
