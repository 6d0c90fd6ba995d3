//! Calls with a relative time-out go on for what remained of it through code that stays in the process.

use brant_base::{Addr, PAGE_SIZE, Pid};
use brant_image::model::{Backing, Mapping, ProcessBody, Protection, Registers, Sharing, Thread};
use brant_kernel::ptrace::UserRegisters;
use brant_kernel::remote::{
    Call, ProgramCall, Puppet, TRAMPOLINE_BYTES, TRAMPOLINE_MARK, call_of_program, timeout_form, trampoline,
};

use super::script::Script;
use super::threads::final_registers;
use super::vdso::Gap;
use crate::Error;

/// Final registers of all threads of a process, by their order in the image; `own` are those of `of_program`. Calls with a relative time-out go through
/// trampolines, which are mapped in the gap and stay.
pub(crate) fn registers(
    puppet: &mut Puppet,
    pid: Pid,
    body: &ProcessBody,
    own: &[Registers],
    gap: &Gap,
) -> Result<Vec<UserRegisters>, Error> {
    let base = puppet.base_registers();
    let mut code = Vec::new();
    let mut all = Vec::new();
    for (thread, own) in body.threads.iter().zip(own) {
        let mut registers = final_registers(own, &base);
        if let Some(call) = thread.interrupted
            && let Some(form) = timeout_form(call.number as i64, registers.arguments())
        {
            let at = gap.trampolines.start().0 + (TRAMPOLINE_BYTES + code.len()) as u64;
            code.extend(trampoline(at, &registers, form, call.remaining_ns));
            registers.rip = at;
        }
        all.push(registers);
    }
    if !code.is_empty() {
        place(puppet, pid, gap, &code)?;
    }
    Ok(all)
}

/// Bytes of the area that holds trampolines for `threads`, whole pages: a slot for each, and one for a mark at each end.
pub(crate) fn area_bytes(threads: usize) -> u64 {
    (((threads + 2) * TRAMPOLINE_BYTES) as u64).next_multiple_of(PAGE_SIZE)
}

fn holds_trampolines(puppet: &Puppet, mapping: &Mapping) -> bool {
    let code = Protection { read: true, write: false, execute: true };
    let reads_mark = |at: u64| {
        let mut bytes = [0; TRAMPOLINE_MARK.len()];
        puppet.read_memory(Addr(at), &mut bytes).is_ok() && bytes == *TRAMPOLINE_MARK
    };
    mapping.backing == Backing::Anonymous
        && mapping.sharing == Sharing::Private
        && mapping.protection == code
        && reads_mark(mapping.range.start().0)
        && reads_mark(mapping.range.end().0 - TRAMPOLINE_MARK.len() as u64)
}

/// The threads' registers, as `of_thread` has them: to be asked before older trampolines go.
pub(crate) fn of_program(puppet: &Puppet, body: &ProcessBody) -> Vec<Registers> {
    body.threads.iter().map(|thread| of_thread(puppet, body, thread)).collect()
}

/// A thread's registers, its call as the program made it: one that was caught in the call of a trampoline of an earlier restore
/// comes out of it, so that it needs that one no longer.
fn of_thread(puppet: &Puppet, body: &ProcessBody, thread: &Thread) -> Registers {
    // Trampolines of older images lead to older ones, and those of a hostile one anywhere.
    const CHAIN_MAX: usize = 64;
    let mut registers = thread.registers;
    if thread.interrupted.is_none() {
        return registers;
    }
    for _ in 0..CHAIN_MAX {
        let Some(call) = call_within(puppet, body, registers.rip) else { break };
        let Registers { rdi, rsi, rdx, r10, r8, r9, .. } = &mut registers;
        *[rdi, rsi, rdx, r10, r8, r9][call.argument] = call.original;
        registers.rip = call.at;
    }
    registers
}

/// What the trampoline stands for whose call is at `address`.
fn call_within(puppet: &Puppet, body: &ProcessBody, address: u64) -> Option<ProgramCall> {
    let is_around = |mapping: &&Mapping| mapping.range.contains(Addr(address));
    let area = body.memory.mappings.iter().find(is_around).filter(|area| holds_trampolines(puppet, area))?;
    let offset = (address - area.range.start().0) % TRAMPOLINE_BYTES as u64;
    let mut slot = [0; TRAMPOLINE_BYTES];
    puppet.read_memory(Addr(address - offset), &mut slot).ok()?;
    call_of_program(&slot, offset as usize)
}

/// Unmaps trampolines of an earlier restore that every thread has left: each runs through its own once. A thread that is
/// in a signal handler may have to go back into one, so its stacks are searched for such an address.
pub(crate) fn drop_old(script: &mut Script, puppet: &Puppet, body: &ProcessBody, own: &[Registers]) {
    let is_old = |mapping: &&Mapping| holds_trampolines(puppet, mapping);
    let mut old: Vec<&Mapping> = body.memory.mappings.iter().filter(is_old).collect();
    for (thread, own) in body.threads.iter().zip(own) {
        old.retain(|mapping| !mapping.range.contains(Addr(own.rip)));
        if !old.is_empty() {
            visit_stacks(puppet, body, thread.registers.rsp, |word| {
                old.retain(|mapping| !mapping.range.contains(Addr(word)));
            });
        }
    }
    for mapping in old {
        let arguments = [mapping.range.start().0, mapping.range.bytes()];
        script.must("unmapping old trampolines", libc::SYS_munmap, &arguments);
    }
}

/// Shows every word of the stack that a thread is on, and of those that signals have interrupted it on: a handler may run on a
/// stack of its own.
fn visit_stacks(puppet: &Puppet, body: &ProcessBody, stack_pointer: u64, mut visit: impl FnMut(u64)) {
    /// What lies before the segments in the frame of a signal: the stack pointer, the instruction's place, flags.
    const BEFORE_SEGMENTS: usize = 3;
    /// Of code and of the stack, as the kernel writes them since 4.6.
    const USER_SEGMENTS: u64 = 0x2b_0000_0000_0033;
    const STACKS_MAX: usize = 64;
    let mut known = vec![stack_pointer];
    let mut next = 0;
    while let Some(from) = known.get(next).copied() {
        next += 1;
        let bytes = stack_from(puppet, body, from);
        let words =
            bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
        let words: Vec<u64> = words.collect();
        words.iter().for_each(|word| visit(*word));
        for frame in words.windows(BEFORE_SEGMENTS + 1) {
            if frame[BEFORE_SEGMENTS] == USER_SEGMENTS
                && known.len() < STACKS_MAX
                && !known.contains(&frame[0])
            {
                known.push(frame[0]);
            }
        }
    }
}

/// What lies above a stack pointer, as far as a handler's frame may be; empty where that is no memory.
fn stack_from(puppet: &Puppet, body: &ProcessBody, stack_pointer: u64) -> Vec<u8> {
    const SEARCHED_BYTES_MAX: u64 = 8 << 20;
    let from = stack_pointer & !7;
    let stack = body.memory.mappings.iter().find(|mapping| mapping.range.contains(Addr(from)));
    let length = stack.map_or(0, |mapping| (mapping.range.end().0 - from).min(SEARCHED_BYTES_MAX));
    let mut bytes = vec![0; length as usize];
    match puppet.read_memory(Addr(from), &mut bytes) {
        Ok(()) => bytes,
        Err(_) => Vec::new(),
    }
}

/// The code by which calls with a relative time-out go on for what remained, between marks by which a later
/// checkpoint knows it.
fn place(puppet: &mut Puppet, pid: Pid, gap: &Gap, code: &[u8]) -> Result<(), Error> {
    debug_assert!(code.len().is_multiple_of(TRAMPOLINE_BYTES));
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
    let protection = (libc::PROT_READ | libc::PROT_EXEC) as u64;
    let range = gap.trampolines;
    let call = Call::new(libc::SYS_mmap, &[range.start().0, range.bytes(), protection, flags, u64::MAX, 0]);
    puppet.batch_all(&[call]).map_err(Error::remote(pid, "mapping trampolines"))?;
    let mut bytes = vec![0; range.bytes() as usize];
    let end = bytes.len() - TRAMPOLINE_MARK.len();
    bytes[..TRAMPOLINE_MARK.len()].copy_from_slice(TRAMPOLINE_MARK);
    bytes[TRAMPOLINE_BYTES..TRAMPOLINE_BYTES + code.len()].copy_from_slice(code);
    bytes[end..].copy_from_slice(TRAMPOLINE_MARK);
    puppet.memory().write_by_force(range.start(), &bytes).map_err(|error| Error::Contents {
        pid,
        at: range.start(),
        error,
    })
}
