//! Registers of a thread that waits in a function: as they were before it called.

use std::sync::atomic::Ordering;

use crate::thread::{Frame, IN_BETWEEN, Registers, Thread, XSTATE_BYTES};
use crate::thunk;

/// Where an XSAVE area has what.
const X87_CONTROL: usize = 0;
const MXCSR: usize = 24;
const XMM: usize = 160;
const STATE_BITS: usize = 512;
/// x87 and SSE: what a caller may rely on across a call.
const X87_AND_SSE: u64 = 0b11;
/// Interrupts are on, and bit 1 always is.
const FLAGS: u64 = 0x202;

/// Writes the registers of a thread that stands in a call into its record. One that was sent to park has them there.
pub(crate) fn settle(thread: &Thread) {
    let inside = thread.inside.load(Ordering::Acquire);
    if inside == IN_BETWEEN || inside == 0 {
        return;
    }
    // SAFETY: the thread is parked, and does not touch its record until it goes on.
    let record = unsafe { &mut *thread.at() };
    let Frame { rbp, rsi, rdi, r12, r13, r14, r15, rcx, rdx, r8, r9, mxcsr, x87_control, xmm } = record.frame;
    record.registers = Registers {
        rcx,
        rdx,
        rbx: record.rbx,
        rsp: record.own_rsp,
        rbp,
        rsi,
        rdi,
        r8,
        r9,
        r12,
        r13,
        r14,
        r15,
        rip: thunk::address_of(inside as usize - 1) as u64,
        flags: FLAGS,
        ..Registers::default()
    };
    let area = &mut record.xstate;
    *area = [0; XSTATE_BYTES];
    area[X87_CONTROL..X87_CONTROL + 2].copy_from_slice(&(x87_control as u16).to_le_bytes());
    area[MXCSR..MXCSR + 4].copy_from_slice(&mxcsr.to_le_bytes());
    for (index, [low, high]) in xmm.into_iter().enumerate() {
        let at = XMM + 16 * index;
        area[at..at + 8].copy_from_slice(&low.to_le_bytes());
        area[at + 8..at + 16].copy_from_slice(&high.to_le_bytes());
    }
    area[STATE_BITS..STATE_BITS + 8].copy_from_slice(&X87_AND_SSE.to_le_bytes());
}

/// XCR0, and whether a record has room for all of it.
pub(crate) fn xstate() -> (u64, bool) {
    let leaf = std::arch::x86_64::__cpuid_count(0xd, 0);
    // SAFETY: a system that runs AVX programs has switched it on; `brant` needs it for XSAVE anyway.
    let features = unsafe { std::arch::x86_64::_xgetbv(0) };
    (features, leaf.ebx as usize <= XSTATE_BYTES)
}
