//! What the agent knows of each thread: whether it is in the agent itself, and which mediated calls it is in.
//!
//! It is found by a slot of the thread's own block of Windows (the TEB), read without any call, as the functions that are called
//! here may be the ones that are mediated. A thread's state is never freed: others look at it ([`all`]).

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering, compiler_fence};

use windows_sys::Win32::Foundation::{CloseHandle, WAIT_OBJECT_0};
use windows_sys::Win32::System::Memory::{MEM_COMMIT, MEM_RESERVE, PAGE_READWRITE, VirtualAlloc};
use windows_sys::Win32::System::Threading::{
    OpenThread, THREAD_SYNCHRONIZE, TLS_OUT_OF_INDEXES, TlsAlloc, WaitForSingleObject,
};

use crate::hook::Layer;

/// The thread's block of Windows: offsets that have not changed since Windows XP.
mod teb {
    pub(super) const STACK_BASE: usize = 0x08;
    pub(super) const OWN: usize = 0x30;
    pub(super) const THREAD_ID: usize = 0x48;
    pub(super) const LAST_ERROR: usize = 0x68;
    /// Where the memory of the thread's stack begins.
    pub(super) const STACK_MEMORY: usize = 0x1478;
    pub(super) const SLOTS: usize = 0x1480;
    pub(super) const SLOT_COUNT: u32 = 64;
}

/// In the slot while the state is being made.
const IN_THE_MAKING: usize = 1;
/// Calls that a thread has room for at first; twice as many each time that this is not enough.
const CALLS_AT_FIRST: usize = 64;

static SLOT: AtomicU32 = AtomicU32::new(u32::MAX);
static FIRST: AtomicPtr<ThreadState> = AtomicPtr::new(std::ptr::null_mut());

/// One mediated call.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Entry {
    /// Null until it is known which.
    pub(crate) layer: AtomicPtr<Layer>,
    /// Where its frame is on the stack, and the end of that: a thread may have several stacks (fibers). 0: not known.
    frame: Cell<usize>,
    stack: Cell<usize>,
    /// Whether it is in what its mediator calls by InnerCall.
    is_inner: Cell<bool>,
}

/// The state of a thread.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct ThreadState {
    id: AtomicU32,
    is_used: AtomicBool,
    /// The loader has said that the thread ends. It may still call, until it has.
    is_ending: AtomicBool,
    /// Above 0 the thread is in the agent, and nothing that it calls is mediated.
    busy: Cell<u32>,
    count: AtomicUsize,
    entries: AtomicPtr<Entry>,
    room: Cell<usize>,
    next: AtomicPtr<ThreadState>,
}

fn teb() -> usize {
    let own: usize;
    // SAFETY: the block points to itself, in every thread.
    unsafe {
        core::arch::asm!("mov {}, qword ptr gs:[{offset}]", out(reg) own, offset = const teb::OWN, options(nostack, readonly, preserves_flags));
    }
    own
}

fn word(offset: usize) -> *mut usize {
    (teb() + offset) as *mut usize
}

/// The end of the stack that an address is on. Nothing where the thread is on one that Windows does not know of, as some coroutines are.
pub(crate) fn stack_end(at: usize) -> Option<usize> {
    // SAFETY: within the thread's own block.
    let (memory, end) = unsafe { (word(teb::STACK_MEMORY).read(), word(teb::STACK_BASE).read()) };
    (memory..end).contains(&at).then_some(end)
}

pub(crate) fn thread_id() -> u32 {
    // SAFETY: within the thread's own block.
    unsafe { word(teb::THREAD_ID).cast::<u32>().read() }
}

/// What GetLastError gives.
pub(crate) fn last_error() -> u32 {
    // SAFETY: within the thread's own block.
    unsafe { word(teb::LAST_ERROR).cast::<u32>().read() }
}

pub(crate) fn set_last_error(error: u32) {
    // SAFETY: within the thread's own block.
    unsafe { word(teb::LAST_ERROR).cast::<u32>().write(error) };
}

/// Takes the slot. Once, before anything else here.
pub(crate) fn prepare() -> bool {
    // SAFETY: a call without arguments.
    let slot = unsafe { TlsAlloc() };
    if slot == TLS_OUT_OF_INDEXES || slot >= teb::SLOT_COUNT {
        return false;
    }
    SLOT.store(slot, Ordering::Relaxed);
    true
}

fn place() -> *mut usize {
    word(teb::SLOTS + 8 * SLOT.load(Ordering::Relaxed) as usize)
}

/// The calling thread's; nothing while it is being made, and where there is no memory for it.
pub(crate) fn current() -> Option<&'static ThreadState> {
    // SAFETY: within the thread's own block.
    let found = unsafe { place().read() };
    match found {
        0 => make(),
        IN_THE_MAKING => None,
        // SAFETY: a state is never freed.
        state => Some(unsafe { &*(state as *const ThreadState) }),
    }
}

/// All that there are.
pub(crate) fn all() -> impl Iterator<Item = &'static ThreadState> {
    let mut next = FIRST.load(Ordering::Acquire);
    std::iter::from_fn(move || {
        // SAFETY: a state is never freed.
        let state: &'static ThreadState = unsafe { next.as_ref() }?;
        next = state.next.load(Ordering::Acquire);
        Some(state)
    })
}

/// A state for the calling thread: one that is free, one whose thread is over, or a new one.
#[cold]
fn make() -> Option<&'static ThreadState> {
    // SAFETY: within the thread's own block.
    unsafe { place().write(IN_THE_MAKING) };
    let free = all().find(|state| {
        !state.is_used.load(Ordering::Relaxed)
            && state.is_used.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    });
    let state = free.or_else(|| all().find(|state| state.is_over())).or_else(add);
    if let Some(state) = state {
        state.count.store(0, Ordering::Relaxed);
        state.busy.set(0);
        state.id.store(thread_id(), Ordering::Release);
    }
    let value = state.map_or(0, |state| std::ptr::from_ref(state) as usize);
    // SAFETY: within the thread's own block.
    unsafe { place().write(value) };
    state
}

/// A new state, put before all others. States are never freed, so that whoever walks the list needs no lock.
fn add() -> Option<&'static ThreadState> {
    let entries: *mut Entry = allocate(CALLS_AT_FIRST * size_of::<Entry>())?.cast();
    let state: *mut ThreadState = allocate(size_of::<ThreadState>())?.cast();
    // SAFETY: new memory of this size, all zero, which is a valid state.
    let state: &'static ThreadState = unsafe { &*state };
    state.is_used.store(true, Ordering::Relaxed);
    state.room.set(CALLS_AT_FIRST);
    state.entries.store(entries, Ordering::Relaxed);
    let mut first = FIRST.load(Ordering::Relaxed);
    loop {
        state.next.store(first, Ordering::Relaxed);
        let own = std::ptr::from_ref(state).cast_mut();
        match FIRST.compare_exchange(first, own, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return Some(state),
            Err(other) => first = other,
        }
    }
}

fn allocate(bytes: usize) -> Option<*mut u8> {
    // SAFETY: new memory.
    let at = unsafe { VirtualAlloc(std::ptr::null(), bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE) };
    (!at.is_null()).then_some(at.cast())
}

/// The calling thread ends. Libraries that are told after us may still call what is mediated, so its state stays until it is gone.
pub(crate) fn ends() {
    // SAFETY: within the thread's own block.
    let found = unsafe { place().read() };
    if found > IN_THE_MAKING {
        // SAFETY: a state is never freed.
        let state = unsafe { &*(found as *const ThreadState) };
        state.is_ending.store(true, Ordering::Release);
    }
}

/// Whether there is no thread of this number any more.
fn has_ended(id: u32) -> bool {
    // SAFETY: a call without pointers.
    let thread = unsafe { OpenThread(THREAD_SYNCHRONIZE, 0, id) };
    if thread.is_null() {
        return true;
    }
    // SAFETY: just opened.
    let is_over = unsafe { WaitForSingleObject(thread, 0) } == WAIT_OBJECT_0;
    // SAFETY: as above.
    unsafe { CloseHandle(thread) };
    is_over
}

/// While it lives, nothing that the thread calls is mediated.
pub(crate) struct Busy(&'static ThreadState);

/// Nothing that the thread calls is mediated until the result is dropped.
pub(crate) fn busy() -> Option<Busy> {
    let state = current()?;
    state.busy.set(state.busy.get() + 1);
    Some(Busy(state))
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get().saturating_sub(1));
    }
}

impl ThreadState {
    pub(crate) fn id(&self) -> u32 {
        self.id.load(Ordering::Acquire)
    }

    /// Whether its thread has ended, so that it is free for the caller.
    fn is_over(&self) -> bool {
        self.is_ending.load(Ordering::Acquire)
            && has_ended(self.id())
            && self.is_ending.compare_exchange(true, false, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.busy.get() > 0
    }

    /// Calls that the thread is in. Others look at it while the thread may run: entries that it just leaves may be among them.
    pub(crate) fn layers(&self) -> impl Iterator<Item = *mut Layer> {
        let count = self.count.load(Ordering::Acquire);
        let entries = self.entries.load(Ordering::Acquire);
        // SAFETY: there were so many when the count was stored, and the room only grows; old room is never freed.
        (0..count).map(move |at| unsafe { (*entries.add(at)).layer.load(Ordering::Acquire) })
    }

    fn entry(&self, at: usize) -> &Entry {
        // SAFETY: only the thread itself calls this, for entries below its count.
        unsafe { &*self.entries.load(Ordering::Relaxed).add(at) }
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Notes a call whose frame is at `frame`, and drops those that were left without a return. False: there is no memory.
    pub(crate) fn enter(&self, frame: usize) -> bool {
        let stack = stack_end(frame).unwrap_or(0);
        let is_left = |entry: &Entry| stack != 0 && entry.stack.get() == stack && entry.frame.get() <= frame;
        while self.count() > 0 && is_left(self.entry(self.count() - 1)) {
            self.count.store(self.count() - 1, Ordering::Release);
        }
        let count = self.count();
        if count == self.room.get() && !self.grow() {
            return false;
        }
        let entry = self.entry(count);
        entry.layer.store(std::ptr::null_mut(), Ordering::Relaxed);
        entry.frame.set(frame);
        entry.stack.set(stack);
        entry.is_inner.set(false);
        self.count.store(count + 1, Ordering::Release);
        // Whoever stops this thread finds the entry before the layer was chosen: a stop lets the processor finish its writes.
        compiler_fence(Ordering::SeqCst);
        true
    }

    /// Twice the room for calls. The old entries stay where they are, as somebody may be reading them.
    #[cold]
    fn grow(&self) -> bool {
        let room = self.room.get();
        // What is called for memory is not mediated: that would need an entry.
        self.busy.set(self.busy.get() + 1);
        let more = allocate(2 * room * size_of::<Entry>());
        self.busy.set(self.busy.get() - 1);
        let Some(more) = more else { return false };
        let entries = self.entries.load(Ordering::Relaxed);
        // SAFETY: new memory, twice as large.
        unsafe { std::ptr::copy_nonoverlapping(entries, more.cast(), room) };
        self.entries.store(more.cast(), Ordering::Release);
        self.room.set(2 * room);
        true
    }

    /// The call at `frame` is of this layer.
    pub(crate) fn choose(&self, layer: *mut Layer) {
        self.entry(self.count() - 1).layer.store(layer, Ordering::Release);
    }

    /// The newest call takes place without a mediator.
    pub(crate) fn withdraw(&self) {
        self.count.store(self.count() - 1, Ordering::Release);
    }

    /// The call at `frame` is over.
    pub(crate) fn leave(&self, frame: usize) {
        let count = self.count();
        let Some(at) = (0..count).rev().find(|at| self.entry(*at).frame.get() == frame) else { return };
        for later in at + 1..count {
            let (to, from) = (self.entry(later - 1), self.entry(later));
            to.layer.store(from.layer.load(Ordering::Relaxed), Ordering::Release);
            to.frame.set(from.frame.get());
            to.stack.set(from.stack.get());
            to.is_inner.set(from.is_inner.get());
        }
        self.count.store(count - 1, Ordering::Release);
    }

    /// The call at `frame` begins or ends its inner call.
    pub(crate) fn set_inner(&self, frame: usize, is_inner: bool) {
        if let Some(at) = (0..self.count()).rev().find(|at| self.entry(*at).frame.get() == frame) {
            self.entry(at).is_inner.set(is_inner);
        }
    }

    /// Whether the thread is in a mediator for which this holds, and not in its inner call.
    pub(crate) fn is_in_mediator(&self, is_meant: impl Fn(&Layer) -> bool) -> bool {
        (0..self.count()).rev().find_map(|at| {
            let entry = self.entry(at);
            // SAFETY: a layer is never freed.
            let layer = unsafe { entry.layer.load(Ordering::Relaxed).as_ref() }?;
            is_meant(layer).then(|| !entry.is_inner.get())
        }) == Some(true)
    }
}
