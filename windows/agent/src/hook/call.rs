//! A mediated call: what its code knows, and the code itself.
//!
//! A function's first bytes are a jump to its *slot*'s entry, which spills rcx, rdx, r8 and r9 to the room that every caller leaves
//! for them: then all arguments are one array. The code that all entries share makes a [`Frame`], asks [`decide`] what is to be
//! called, and calls that mediator with the frame's address (`icall`) before the arguments; or it puts everything back and goes on to
//! the function. InnerCall is [`brant_inner`]: it hands a copy of the array on to the next layer. Both are described for the
//! unwinder, so exceptions and longjmp pass through.

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use brant_windows::Callers;

use super::modules;
use crate::thread::{self, ThreadState};

/// `struct brant_link` of `brant/mediator.h`.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Link {
    pub(crate) code: *const c_void,
    pub(crate) entry: *const c_void,
}

/// One mediator before one function. Never freed: code may still lead to it. It begins as `struct brant_layer`.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Layer {
    pub(crate) link: Link,
    /// The next layer's link, or the function's own.
    pub(crate) next: AtomicPtr<Link>,
    pub(crate) mediator: *const c_void,
    pub(crate) inner: *const c_void,
    pub(crate) index: usize,
    /// Arguments to move.
    pub(crate) slots: u64,
    /// 1: the first argument is a pointer to the result; 2: the fourth one is in xmm3.
    pub(crate) flags: u64,
    pub(crate) slot: *const Slot,
    pub(crate) wrapper: u64,
    pub(crate) callers: Callers,
    pub(crate) is_removed: AtomicBool,
}

pub(crate) const IS_SRET: u64 = 1;
pub(crate) const IS_FOURTH_VECTOR: u64 = 2;

/// A function that is or was mediated. Never freed.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Slot {
    /// The layer that is called first; null where there is none.
    pub(crate) first: AtomicPtr<Layer>,
    /// The function's own beginning, moved.
    pub(crate) bare: Link,
    /// A return address whose calls are mediated: the newest one. 0 after the libraries have changed.
    known_caller: AtomicU64,
}

// SAFETY: what changes in it is atomic, and what its pointers lead to is never freed.
unsafe impl Sync for Slot {}
// SAFETY: as above.
unsafe impl Send for Slot {}
// SAFETY: as above.
unsafe impl Sync for Layer {}
// SAFETY: as above.
unsafe impl Send for Layer {}

impl Slot {
    pub(crate) fn new(trampoline: *const c_void) -> Slot {
        Slot {
            first: AtomicPtr::new(std::ptr::null_mut()),
            bare: Link { code: trampoline, entry: trampoline },
            known_caller: AtomicU64::new(0),
        }
    }

    /// Who calls must be asked anew.
    pub(crate) fn forget_caller(&self) {
        self.known_caller.store(0, Ordering::Relaxed);
    }

    fn is_of_program(&self, caller: u64) -> bool {
        if self.known_caller.load(Ordering::Relaxed) == caller {
            return true;
        }
        let is_of_program = modules::is_of_program(caller);
        if is_of_program {
            self.known_caller.store(caller, Ordering::Relaxed);
        }
        is_of_program
    }
}

/// What `icall` points to.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Frame {
    layer: *const Layer,
    /// All arguments, from the first one's room on.
    arguments: *mut u64,
    /// xmm0 to xmm3. In the end, the result.
    vectors: [[u64; 2]; 4],
    /// How many arguments are moved; at least the four that have room always.
    count: u64,
    unused: u64,
}

const _: () = assert!(size_of::<Frame>() == 96);

/// Marks the address of a layer, where a slot's may stand too.
const IS_LAYER: usize = 1;

std::arch::global_asm!(
    // Jumped to by an entry: r11 is a slot, or a layer's address and 1. The arguments are in their room already.
    ".p2align 4",
    ".globl brant_enter",
    ".seh_proc brant_enter",
    "brant_enter:",
    "push rbp",
    ".seh_pushreg rbp",
    "mov rbp, rsp",
    ".seh_setframe rbp, 0",
    "sub rsp, 0x80",
    ".seh_stackalloc 0x80",
    ".seh_endprologue",
    "movups [rbp - 0x50], xmm0",
    "movups [rbp - 0x40], xmm1",
    "movups [rbp - 0x30], xmm2",
    "movups [rbp - 0x20], xmm3",
    "lea rax, [rbp + 16]",
    "mov [rbp - 0x58], rax",
    "mov rcx, r11",
    "lea rdx, [rbp - 0x60]",
    "call {decide}",
    "mov r11, [rbp - 0x60]",
    "test r11, r11",
    "jz 8f",
    // A mediator: icall and the arguments, in an even number of words.
    "mov r10, [rbp - 0x10]",
    "lea rcx, [8*r10 + 16]",
    "and rcx, -16",
    "cmp rcx, 48",
    "mov edx, 48",
    "cmovb rcx, rdx",
    "sub rsp, rcx",
    "xor ecx, ecx",
    "2: mov rdx, [rbp + 8*rcx + 16]",
    "mov [rsp + 8*rcx + 8], rdx",
    "inc rcx",
    "cmp rcx, r10",
    "jb 2b",
    "lea rdx, [rbp - 0x60]",
    "test qword ptr [r11 + 56], 1",
    "jnz 3f",
    "mov [rsp], rdx",
    "jmp 4f",
    "3: mov rcx, [rbp + 16]",
    "mov [rsp], rcx",
    "mov [rsp + 8], rdx",
    "4: test qword ptr [r11 + 56], 2",
    "jz 5f",
    "mov rdx, [rbp - 0x20]",
    "mov [rsp + 32], rdx",
    "5: mov rcx, [rsp]",
    "mov rdx, [rsp + 8]",
    "mov r8, [rsp + 16]",
    "mov r9, [rsp + 24]",
    "movups xmm1, [rbp - 0x50]",
    "movups xmm2, [rbp - 0x40]",
    "movups xmm3, [rbp - 0x30]",
    "call rax",
    "mov [rbp - 0x50], rax",
    "movups [rbp - 0x40], xmm0",
    "lea rcx, [rbp - 0x60]",
    "call {leave}",
    "mov rax, [rbp - 0x50]",
    "movups xmm0, [rbp - 0x40]",
    "lea rsp, [rbp]",
    "pop rbp",
    "ret",
    // The function itself, as if nothing were before it.
    "8: movups xmm0, [rbp - 0x50]",
    "movups xmm1, [rbp - 0x40]",
    "movups xmm2, [rbp - 0x30]",
    "movups xmm3, [rbp - 0x20]",
    "mov rcx, [rbp + 16]",
    "mov rdx, [rbp + 24]",
    "mov r8, [rbp + 32]",
    "mov r9, [rbp + 40]",
    "lea rsp, [rbp]",
    "pop rbp",
    "jmp rax",
    ".seh_endproc",
    // Called by InnerCall: rcx is icall.
    ".p2align 4",
    ".globl brant_inner",
    ".seh_proc brant_inner",
    "brant_inner:",
    "push rbx",
    ".seh_pushreg rbx",
    "push rbp",
    ".seh_pushreg rbp",
    "mov rbp, rsp",
    ".seh_setframe rbp, 0",
    "sub rsp, 0x48",
    ".seh_stackalloc 0x48",
    ".seh_endprologue",
    "mov rbx, rcx",
    "call {begin}",
    "mov r10, [rbx + 80]",
    "mov r11, [rbx + 8]",
    "lea rcx, [8*r10 + 8]",
    "and rcx, -16",
    "sub rsp, rcx",
    "xor ecx, ecx",
    "2: mov rdx, [r11 + 8*rcx]",
    "mov [rsp + 8*rcx], rdx",
    "inc rcx",
    "cmp rcx, r10",
    "jb 2b",
    "movups xmm0, [rbx + 16]",
    "movups xmm1, [rbx + 32]",
    "movups xmm2, [rbx + 48]",
    "movups xmm3, [rbx + 64]",
    "mov rcx, [r11]",
    "mov rdx, [r11 + 8]",
    "mov r8, [r11 + 16]",
    "mov r9, [r11 + 24]",
    "call rax",
    "mov [rbp - 0x10], rax",
    "movups [rbp - 0x20], xmm0",
    "mov rcx, rbx",
    "call {end}",
    "mov rax, [rbp - 0x10]",
    "movups xmm0, [rbp - 0x20]",
    "lea rsp, [rbp]",
    "pop rbp",
    "pop rbx",
    "ret",
    ".seh_endproc",
    decide = sym decide,
    leave = sym leave,
    begin = sym begin,
    end = sym end,
);

unsafe extern "C" {
    /// Only entries jump here.
    fn brant_enter();
    /// What `inner` of a layer is.
    fn brant_inner(icall: *mut c_void) -> u64;
}

const _: () = {
    assert!(std::mem::offset_of!(Layer, inner) == 32);
    assert!(std::mem::offset_of!(Layer, index) == 40);
    assert!(std::mem::offset_of!(Layer, flags) == 56);
    assert!(std::mem::offset_of!(Frame, count) == 80);
};

/// The address of what InnerCall calls.
pub(crate) fn inner_code() -> *const c_void {
    brant_inner as *const c_void
}

/// Code of an entry for this slot.
pub(crate) fn slot_entry(slot: *const Slot) -> Vec<u8> {
    entry(slot as usize)
}

/// Code of an entry for this layer: what InnerFn of the layer before it gives.
pub(crate) fn layer_entry(layer: *const Layer) -> Vec<u8> {
    entry(layer as usize | IS_LAYER)
}

/// An entry has at most so many bytes.
pub(crate) const ENTRY_BYTES_MAX: usize = 48;

fn entry(what: usize) -> Vec<u8> {
    let mut code = vec![0x48, 0x89, 0x4c, 0x24, 0x08]; // mov [rsp + 8], rcx
    code.extend([0x48, 0x89, 0x54, 0x24, 0x10]); // mov [rsp + 16], rdx
    code.extend([0x4c, 0x89, 0x44, 0x24, 0x18]); // mov [rsp + 24], r8
    code.extend([0x4c, 0x89, 0x4c, 0x24, 0x20]); // mov [rsp + 32], r9
    code.extend([0x49, 0xbb]); // mov r11, what
    code.extend((what as u64).to_le_bytes());
    code.extend([0xff, 0x25, 0, 0, 0, 0]); // jmp [rip]
    code.extend((brant_enter as *const c_void as u64).to_le_bytes());
    code
}

/// What is to be called. Where that is no mediator, the frame has no layer.
unsafe extern "C" fn decide(what: usize, frame: *mut Frame) -> *const c_void {
    let error = thread::last_error();
    // SAFETY: `brant_enter` gives a frame on its own stack.
    let frame = unsafe { &mut *frame };
    frame.layer = std::ptr::null();
    let layer = if what & IS_LAYER != 0 { Some((what & !IS_LAYER) as *const Layer) } else { None };
    // SAFETY: slots and layers are never freed.
    let slot: &Slot = unsafe { &*layer.map_or(what as *const Slot, |layer| (*layer).slot) };
    // SAFETY: the return address is before the arguments.
    let caller = unsafe { frame.arguments.sub(1).read() };
    let chosen = choose(slot, layer, caller, std::ptr::from_mut(frame) as usize);
    let code = match chosen {
        Some(layer) => {
            frame.layer = layer;
            // Not beyond the end of the stack, where a definition says too much or nothing.
            let at = frame.arguments as usize;
            let room = thread::stack_end(at).map_or(u64::MAX, |end| (end - at) as u64 / 8);
            frame.count = layer.slots.min(room).max(4);
            layer.mediator
        }
        None => slot.bare.entry,
    };
    thread::set_last_error(error);
    code
}

/// The layer whose mediator is to be called. The thread has an entry for it then.
fn choose(slot: &Slot, from: Option<*const Layer>, caller: u64, frame: usize) -> Option<&'static Layer> {
    let state = thread::current()?;
    if state.is_busy() || from.is_none() && modules::is_agent(caller) || !state.enter(frame) {
        return None;
    }
    let mut at = from.map_or_else(|| slot.first.load(Ordering::Acquire), <*const Layer>::cast_mut);
    loop {
        // SAFETY: a layer is never freed.
        let Some(layer) = (unsafe { at.as_ref::<'static>() }) else {
            state.withdraw();
            return None;
        };
        if is_meant(slot, layer, from.is_some(), caller, state) {
            state.choose(at);
            return Some(layer);
        }
        let next = layer.next.load(Ordering::Acquire);
        at = if std::ptr::eq(next, &raw const slot.bare) { std::ptr::null_mut() } else { next.cast() };
    }
}

/// Whether a layer mediates this call. What another mediator calls by InnerFn has been asked already who called.
fn is_meant(slot: &Slot, layer: &Layer, is_from_layer: bool, caller: u64, state: &ThreadState) -> bool {
    if layer.is_removed.load(Ordering::Acquire) {
        return false;
    }
    let is_of_caller = is_from_layer || layer.callers == Callers::All || slot.is_of_program(caller);
    is_of_caller && !state.is_in_mediator(|other| other.wrapper == layer.wrapper)
}

/// A mediator has returned.
unsafe extern "C" fn leave(frame: *mut Frame) {
    let error = thread::last_error();
    if let Some(state) = thread::current() {
        state.leave(frame as usize);
    }
    thread::set_last_error(error);
}

/// A mediator calls on. What that calls.
unsafe extern "C" fn begin(frame: *mut Frame) -> *const c_void {
    if let Some(state) = thread::current() {
        state.set_inner(frame as usize, true);
    }
    // SAFETY: `icall` of a mediator that has not returned; its layer is never freed.
    let layer = unsafe { &*(*frame).layer };
    // SAFETY: links are never freed.
    unsafe { (*layer.next.load(Ordering::Acquire)).entry }
}

/// The inner call has returned.
unsafe extern "C" fn end(frame: *mut Frame) {
    if let Some(state) = thread::current() {
        state.set_inner(frame as usize, false);
    }
}
