//! What each thread is in the middle of: the calls whose mediators run, outermost first.
//!
//! A thread's state is found by its thread pointer (`fs:0` holds it in glibc and musl) in a table with open addressing; there
//! is no thread-local storage, which a library that is loaded late may have to allocate. A frame that an exception or a
//! longjmp has left is noticed by its address, which lies below the stack pointer then, or by what it no longer holds. All
//! memory of stacks that is looked at here is between the stack pointer and a frame on the same stack.

use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, compiler_fence};

use crate::slot::Layer;
use crate::system;

/// Places in the table. The thunks' hash gives the upper 14 bits.
pub(crate) const STATES_MAX: usize = 1 << 14;
/// How far from its hash's place a state may be.
const PROBES_MAX: usize = 64;
/// Entries in a state itself. brant and the thunks know how many; no entry ever moves, as frames lead to them.
const INLINE_ENTRIES: usize = 6;
/// Entries behind these, in memory of their own: more than calls have room for on a stack.
const FURTHER_ENTRIES: usize = 1 << 16;
/// Frames that are further apart than this are on different stacks.
const STACK_BYTES_MAX: u64 = 16 << 20;
/// A place that is being taken.
const BUSY: u64 = 1;

/// One thread's state. The thunks know its layout.
#[repr(C, align(128))]
pub(crate) struct State {
    /// The thread pointer; 0: free.
    key: AtomicU64,
    depth: AtomicU32,
    capacity: AtomicU32,
    /// Where those behind the inline ones are.
    further: AtomicUsize,
    unused: u64,
    inline: [Entry; INLINE_ENTRIES],
}

/// A call whose mediator runs.
#[repr(C)]
pub(crate) struct Entry {
    /// The frame's address.
    icall: AtomicU64,
    /// 0: being written or taken away.
    wrapper: AtomicU32,
    /// The mediator is in an inner call.
    is_inside: AtomicU32,
}

/// The beginning of a thunk's frame.
#[repr(C)]
pub(crate) struct Frame {
    layer: *const Layer,
    state: *const State,
    index: u64,
    entry: *const Entry,
}

unsafe extern "C" {
    static brant_states: [State; STATES_MAX];
}

pub(crate) const fn states() -> *const State {
    &raw const brant_states as *const State
}

/// The places of the table that are in use.
pub(crate) static CLAIMED: [AtomicU16; STATES_MAX] = [const { AtomicU16::new(0) }; STATES_MAX];
pub(crate) static CLAIMED_COUNT: AtomicU32 = AtomicU32::new(0);
/// Calls that ended without returning, or that no state had room for, by wrapper modulo the number of them: whether a thread
/// is inside of these wrappers cannot be told.
pub(crate) static LOST: [AtomicU32; 1024] = [const { AtomicU32::new(0) }; 1024];

/// Called by a thunk where the thread has no state yet or is inside of a mediator already. Returns 1 where the call is to
/// pass the layer by.
pub(crate) unsafe extern "C" fn enter(frame: *mut Frame) -> u32 {
    // SAFETY: the thunk's own frame; its layer is never freed.
    let (frame_ref, layer) = unsafe { (&mut *frame, &*(*frame).layer) };
    let here = frame as u64;
    let Some(state) = own_state() else {
        lose(layer.wrapper());
        frame_ref.state = core::ptr::null();
        frame_ref.entry = core::ptr::null();
        return 0;
    };
    state.drop_stale(here);
    let depth = state.depth.load(Ordering::Relaxed);
    for index in (0..depth).rev() {
        let entry = state.entry(index);
        if entry.wrapper.load(Ordering::Relaxed) == layer.wrapper() {
            if entry.is_inside.load(Ordering::Relaxed) == 0 && entry.is_alive(state, index, here) {
                return 1;
            }
            break;
        }
    }
    if depth == state.capacity.load(Ordering::Relaxed) && !state.grow() {
        lose(layer.wrapper());
        frame_ref.state = core::ptr::null();
        frame_ref.entry = core::ptr::null();
        return 0;
    }
    frame_ref.state = state;
    frame_ref.index = u64::from(depth);
    // In the order that a handler in between can bear: see the thunks.
    state.depth.store(depth + 1, Ordering::Relaxed);
    compiler_fence(Ordering::SeqCst);
    let entry = state.entry(depth);
    frame_ref.entry = entry;
    entry.icall.store(here, Ordering::Relaxed);
    entry.is_inside.store(0, Ordering::Relaxed);
    compiler_fence(Ordering::SeqCst);
    entry.wrapper.store(layer.wrapper(), Ordering::Relaxed);
    0
}

/// How many calls of a wrapper were lost sight of.
pub(crate) fn lost(wrapper: u32) -> u32 {
    LOST[wrapper as usize % LOST.len()].load(Ordering::Relaxed)
}

/// A call of a wrapper is lost sight of: it will not be unloaded.
pub(crate) fn lose(wrapper: u32) {
    LOST[wrapper as usize % LOST.len()].fetch_add(1, Ordering::Relaxed);
}

/// Called where this thread ends: none of its calls goes on.
pub(crate) unsafe extern "C" fn leave() {
    let Some(state) = own_state() else { return };
    for index in (0..state.depth.load(Ordering::Relaxed)).rev() {
        state.entry(index).wrapper.store(0, Ordering::Relaxed);
        state.depth.store(index, Ordering::Relaxed);
    }
}

fn own_state() -> Option<&'static State> {
    let key: u64;
    // SAFETY: the thread pointer points to itself, in every thread that a libc made.
    unsafe {
        core::arch::asm!("mov {}, qword ptr fs:[0]", out(reg) key, options(nostack, readonly, preserves_flags))
    };
    // SAFETY: all zeros, which is a valid value, from the beginning on; changed atomically only.
    let states = unsafe { &brant_states };
    let hash = (key.wrapping_mul(-1_640_531_535i64 as u64) >> 50) as usize;
    for probe in 0..PROBES_MAX {
        let index = (hash + probe) % STATES_MAX;
        let state = &states[index];
        let found = state.key.load(Ordering::Relaxed);
        if found == key {
            return Some(state);
        }
        if found == 0 && state.key.compare_exchange(0, BUSY, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            state.capacity.store(INLINE_ENTRIES as u32, Ordering::Relaxed);
            let place = CLAIMED_COUNT.fetch_add(1, Ordering::Relaxed) as usize;
            CLAIMED[place % STATES_MAX].store(index as u16, Ordering::Relaxed);
            // Last: a handler that interrupts this takes another place.
            compiler_fence(Ordering::SeqCst);
            state.key.store(key, Ordering::Relaxed);
            return Some(state);
        }
    }
    None
}

impl State {
    fn entry(&self, index: u32) -> &Entry {
        let index = index as usize;
        match self.inline.get(index) {
            Some(entry) => entry,
            None => {
                let further = self.further.load(Ordering::Relaxed) as *const Entry;
                // SAFETY: there are `capacity` of them together, which the index is below.
                unsafe { &*further.add(index - INLINE_ENTRIES) }
            }
        }
    }

    /// Takes away entries at the end whose calls have ended without returning.
    fn drop_stale(&self, here: u64) {
        let mut depth = self.depth.load(Ordering::Relaxed);
        while depth > 0 {
            let entry = self.entry(depth - 1);
            let wrapper = entry.wrapper.load(Ordering::Relaxed);
            if wrapper == 0 || entry.is_alive(self, depth - 1, here) {
                break;
            }
            lose(wrapper);
            entry.wrapper.store(0, Ordering::Relaxed);
            depth -= 1;
            self.depth.store(depth, Ordering::Relaxed);
        }
    }

    /// Room for further entries, once.
    #[cold]
    fn grow(&self) -> bool {
        if self.further.load(Ordering::Relaxed) != 0 {
            return false;
        }
        let Some(further) = system::map(FURTHER_ENTRIES * size_of::<Entry>()) else { return false };
        self.further.store(further as usize, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        self.capacity.store((INLINE_ENTRIES + FURTHER_ENTRIES) as u32, Ordering::Relaxed);
        true
    }
}

const _: () = {
    assert!(core::mem::offset_of!(State, depth) == 8);
    assert!(core::mem::offset_of!(State, further) == 16);
    assert!(core::mem::offset_of!(State, inline) == 32);
    assert!(core::mem::offset_of!(Frame, entry) == 24);
    assert!(core::mem::offset_of!(Entry, is_inside) == 12);
};

impl Entry {
    /// Whether the call goes on, as seen from a frame at `here`. One on another stack counts as going on.
    fn is_alive(&self, state: &State, index: u32, here: u64) -> bool {
        let icall = self.icall.load(Ordering::Relaxed);
        if icall.abs_diff(here) > STACK_BYTES_MAX {
            return true;
        }
        if icall <= here {
            return false;
        }
        // SAFETY: between the stack pointer and a frame of the same stack; any bytes are valid for what is read.
        let (of, at) = unsafe {
            let frame = icall as *const Frame;
            ((&raw const (*frame).state).read_volatile(), (&raw const (*frame).index).read_volatile())
        };
        core::ptr::eq(of, state) && at == u64::from(index)
    }
}
