//! A thread of the program: a stack of ours for its code, the system's stack for the system's.
//!
//! A function of the system never leaves a trace on the program's stack: the thunk ([`crate::switch`]) goes over to the thread's native stack, and back.
//! So what travels has no address of the system in it, and a thread that waits in a function is a thread that is about to call it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::state::{TLS_SLOTS, Text, state};

/// Registers as they are loaded. The order is that of `switch`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Registers {
    pub(crate) rax: u64,
    pub(crate) rcx: u64,
    pub(crate) rdx: u64,
    pub(crate) rbx: u64,
    pub(crate) rsp: u64,
    pub(crate) rbp: u64,
    pub(crate) rsi: u64,
    pub(crate) rdi: u64,
    pub(crate) r8: u64,
    pub(crate) r9: u64,
    pub(crate) r10: u64,
    pub(crate) r11: u64,
    pub(crate) r12: u64,
    pub(crate) r13: u64,
    pub(crate) r14: u64,
    pub(crate) r15: u64,
    pub(crate) rip: u64,
    pub(crate) flags: u64,
}

/// What a thunk keeps of its caller's registers.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Frame {
    pub(crate) rbp: u64,
    pub(crate) rsi: u64,
    pub(crate) rdi: u64,
    pub(crate) r12: u64,
    pub(crate) r13: u64,
    pub(crate) r14: u64,
    pub(crate) r15: u64,
    pub(crate) rcx: u64,
    pub(crate) rdx: u64,
    pub(crate) r8: u64,
    pub(crate) r9: u64,
    pub(crate) mxcsr: u32,
    pub(crate) x87_control: u32,
    /// xmm0 to 3 and 6 to 15 are kept.
    pub(crate) xmm: [[u64; 2]; 16],
}

pub(crate) const XSTATE_BYTES: usize = 4096;

/// In `inside`: no function, but on its way in or out.
pub(crate) const IN_BETWEEN: u32 = 0xffff;

/// The first fields are known to `switch` by their places.
#[repr(C, align(64))]
pub(crate) struct Thread {
    /// The number of the function that it is in, and 1; 0 in its own code.
    pub(crate) inside: AtomicU32,
    /// 1: it stands still until the program is thawed.
    pub(crate) parked: AtomicU32,
    pub(crate) native_rsp: AtomicU64,
    pub(crate) native_base: AtomicU64,
    pub(crate) native_limit: AtomicU64,
    pub(crate) native_allocation: AtomicU64,
    pub(crate) own_base: AtomicU64,
    pub(crate) own_limit: AtomicU64,
    pub(crate) own_allocation: AtomicU64,
    pub(crate) own_rsp: u64,
    pub(crate) rbx: u64,
    pub(crate) frame: Frame,
    pub(crate) registers: Registers,
    pub(crate) xstate: [u8; XSTATE_BYTES],
    /// 0: free.
    pub(crate) is_there: AtomicU32,
    /// As the program knows it.
    pub(crate) number: AtomicU32,
    /// Times that the program has suspended it.
    pub(crate) suspended: AtomicU32,
    pub(crate) last_error: AtomicU32,
    pub(crate) priority: AtomicU32,
    /// 1: it ran its first instruction.
    pub(crate) has_begun: AtomicU32,
    pub(crate) start: AtomicU64,
    pub(crate) argument: AtomicU64,
    /// The system's handle and number, of this process.
    pub(crate) real: AtomicU64,
    pub(crate) real_number: AtomicU32,
    pub(crate) is_main: AtomicU32,
    /// The program's own TLS block, in a heap of ours, and what the loader had in its place.
    pub(crate) tls_block: AtomicU64,
    pub(crate) native_tls_block: AtomicU64,
    pub(crate) tls: [AtomicU64; TLS_SLOTS],
    pub(crate) fls: [AtomicU64; TLS_SLOTS],
    pub(crate) padding: Text,
}

// SAFETY: fields that are not atomic are the thread's own, or are read while it is parked.
unsafe impl Sync for Thread {}

const _: () = assert!(std::mem::offset_of!(Thread, frame) == 80);
const _: () = assert!(std::mem::offset_of!(Thread, registers) == 432);
const _: () = assert!(std::mem::offset_of!(Thread, xstate) == 576);

impl Thread {
    pub(crate) fn is_there(&self) -> bool {
        self.is_there.load(Ordering::Acquire) == 1
    }

    pub(crate) fn set_inside(&self, what: u32) {
        self.inside.store(what, Ordering::SeqCst);
    }

    pub(crate) fn at(&self) -> *mut Thread {
        std::ptr::from_ref(self).cast_mut()
    }

    /// What waits changes an argument of its call, for the day when the call is made again.
    pub(crate) fn with_frame(&self, change: impl FnOnce(&mut Frame)) {
        // SAFETY: the frame is the calling thread's own.
        change(unsafe { &mut (*self.at()).frame });
    }

    pub(crate) fn index(&self) -> usize {
        (std::ptr::from_ref(self) as usize - state().threads.as_ptr() as usize) / size_of::<Thread>()
    }
}

/// All that there are.
pub(crate) fn threads() -> impl Iterator<Item = &'static Thread> {
    state().threads.iter().filter(|thread| thread.is_there())
}
