//! Wrappers on a process that is being built: it stands with its true state in all its threads, which the calling thread holds, and
//! nothing of it has run.
//!
//! As no other thread runs meanwhile, what one holds of the loader or the allocator it would hold for ever: so neither is used
//! (`by_hand`). Signals are blocked, so that nothing of the program itself runs.
//!
//! State of the target: on success it stands as before, with the wrappers on. Otherwise it is of no use any more, and whoever
//! builds it ends it; so it is, too, if brant is killed.

use brant_base::{Addr, Pid, Tid};
use brant_hook::{JUMP_BYTES, STUB_BYTES_MAX};
use brant_kernel::proc::{self, MapEntry};
use brant_kernel::ptrace;
use brant_kernel::remote::{HandThread, Memory};

use crate::alone;
use crate::error::Error;
use crate::in_flight;
use crate::session::Session;
use crate::target::Target;
use crate::{Turn, Wrapper, put_on, waiter};

const NO_SIGNALS: u64 = u64::MAX;
/// More than any system call's number.
const CALLS_MAX: u64 = 1024;

/// Puts wrappers on, in this order. `threads` are all of the process.
pub fn wrap_standing(threads: &[Tid], wrappers: &[Wrapper]) -> Result<(), Error> {
    // By a thread that is there: the main one may have ended.
    let pid = threads.first().map_or(Pid(0), |tid| Pid(tid.0));
    let _turn = Turn::take(pid)?;
    let waiter = waiter(pid)?;
    let target = match Target::inspect_own(pid) {
        Err(Error::NoLoader(_)) if is_being_loaded(pid, threads)? => return Ok(()),
        other => other?,
    };
    alone::refuse_restored(&target)?;
    let memory = Memory::open(pid).map_err(|error| Error::NotAllowed(pid, error))?;
    let held = threads.iter().map(|tid| stop_signals(*tid)).collect::<Result<Vec<_>, Error>>()?;
    let masks: Vec<(Tid, u64)> = held.iter().map(|(thread, mask)| (thread.tid, *mask)).collect();
    let held: Vec<HandThread> = held.into_iter().map(|(thread, _)| thread).collect();
    let mut session = Session::open_standing(&waiter, &target, &held, wrappers)?;
    for wrapper in wrappers {
        put_on(&target, &mut session, wrapper)?;
    }
    session.close()?;
    calls_again(&target, &memory, threads)?;
    for (tid, mask) in masks {
        ptrace::set_signal_mask(tid, mask)
            .map_err(|error| Error::thread(tid, "setting its signal mask", error))?;
    }
    Ok(())
}

/// Whether a process has just executed a program whose loader has not come to its C library yet. It remembers nothing, and is
/// like one that is executed after this.
fn is_being_loaded(pid: Pid, threads: &[Tid]) -> Result<bool, Error> {
    const AT_BASE: u64 = 7;
    let [only] = threads else { return Ok(false) };
    let maps = proc::maps(pid).map_err(|error| Error::looking(pid, error))?;
    let auxv = proc::auxv(pid).map_err(|error| Error::looking(pid, error))?;
    let base = auxv.iter().find(|(kind, _)| *kind == AT_BASE).map_or(0, |(_, value)| *value);
    let at = ptrace::registers(*only).map_err(|e| Error::thread(*only, "reading registers", e))?.rip;
    let file = |address: u64| {
        let entry = maps.iter().find(|entry| entry.range.contains(Addr(address)))?;
        Some((entry.device, entry.inode))
    };
    Ok(base != 0 && file(base).is_some() && file(base) == file(at))
}

/// Lets threads that will make a system call anew, as they were in it when they were frozen, come to its mediators.
fn calls_again(target: &Target, memory: &Memory, threads: &[Tid]) -> Result<(), Error> {
    let maps = proc::maps(target.pid).map_err(|error| Error::looking(target.pid, error))?;
    for tid in threads {
        let failed = |operation| move |error| Error::thread(*tid, operation, error);
        let mut registers = ptrace::registers(*tid).map_err(failed("reading registers"))?;
        if let Some(entry) = mediated(memory, registers.rip) {
            registers.rip = entry;
            ptrace::set_registers(*tid, &registers).map_err(failed("setting registers"))?;
        }
        for frame in interrupted_calls(memory, &maps, registers.rsp) {
            let Some(entry) = memory.read_value(frame).ok().and_then(|rip| mediated(memory, rip)) else {
                continue;
            };
            memory.write(frame, &entry.to_le_bytes()).map_err(failed("writing a signal's frame"))?;
        }
    }
    Ok(())
}

/// Where a call that is made at `site` is looked at for mediators, where a jump before it leads to that.
fn mediated(memory: &Memory, site: u64) -> Option<u64> {
    /// Farther before a call no jump is written (`brant_hook::Site::patch`).
    const BEFORE_BYTES_MAX: u64 = 4 + 15;
    const JUMP: u8 = 0xe9;
    let call: [u8; 2] = memory.read_value(Addr(site)).ok()?;
    if call != [0x0f, 0x05] {
        return None;
    }
    (JUMP_BYTES as u64..=BEFORE_BYTES_MAX).find_map(|distance| {
        let at = site.checked_sub(distance)?;
        let bytes: [u8; JUMP_BYTES] = memory.read_value(Addr(at)).ok()?;
        let (opcode, offset) = bytes.split_first()?;
        let offset = i32::from_le_bytes(offset.try_into().ok()?);
        let stub = at.checked_add(JUMP_BYTES as u64)?.checked_add_signed(offset.into())?;
        (*opcode == JUMP).then(|| check_in(memory, stub, site)).flatten()
    })
}

/// The place in a site's stub that looks whether the call is mediated: behind it the stub jumps to `site`.
fn check_in(memory: &Memory, stub: u64, site: u64) -> Option<u64> {
    let mut bytes = [0; STUB_BYTES_MAX];
    memory.read(Addr(stub), &mut bytes).ok()?;
    let check = brant_hook::call_check(&bytes)?;
    let behind = stub + check.end as u64;
    let back = brant_hook::jump(behind, site)?;
    (bytes.get(check.end..check.end + JUMP_BYTES) == Some(&back[..])).then_some(stub + check.start as u64)
}

/// The places in the frames of signals, on the stack from `stack` on, that hold where a call will be made anew.
fn interrupted_calls(memory: &Memory, maps: &[MapEntry], stack: u64) -> Vec<Addr> {
    const SEARCHED_BYTES_MAX: u64 = 1 << 20;
    /// From the instruction's place, in words: the number of the call before it, the segments behind it.
    const NUMBER_BEFORE: usize = 3;
    const SEGMENTS_BEHIND: usize = 2;
    const USER_CODE: u64 = 0x33;
    let from = stack & !7;
    let Some(mapping) = maps.iter().find(|entry| entry.range.contains(Addr(from))) else { return Vec::new() };
    let bytes = (mapping.range.end().0 - from).min(SEARCHED_BYTES_MAX);
    let mut buffer = vec![0; bytes as usize];
    if memory.read(Addr(from), &mut buffer).is_err() {
        return Vec::new();
    }
    let words: Vec<u64> = buffer
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
        .collect();
    let is_frame = |at: usize| {
        let segments = words.get(at + SEGMENTS_BEHIND).is_some_and(|word| word & 0xffff == USER_CODE);
        segments && words[at - NUMBER_BEFORE] < CALLS_MAX
    };
    (NUMBER_BEFORE..words.len()).filter(|at| is_frame(*at)).map(|at| Addr(from + at as u64 * 8)).collect()
}

/// Lets what the mediators of process numbers were doing in a process when it was frozen be done with the numbers of now, which
/// `now` gives for those of then. `threads` are all of the process.
pub fn revise_standing(threads: &[Tid], now: &dyn Fn(i32) -> Option<i32>) -> Result<(), Error> {
    let pid = threads.first().map_or(Pid(0), |tid| Pid(tid.0));
    in_flight::revise(pid, threads, now)
}

/// A stopped thread with all signals blocked, and what it blocks itself.
fn stop_signals(tid: Tid) -> Result<(HandThread, u64), Error> {
    let failed = |operation| move |error| Error::thread(tid, operation, error);
    let registers = ptrace::registers(tid).map_err(failed("reading registers"))?;
    let mask = ptrace::signal_mask(tid).map_err(failed("reading its signal mask"))?;
    ptrace::set_signal_mask(tid, NO_SIGNALS).map_err(failed("setting its signal mask"))?;
    Ok((HandThread { tid, registers, mask: NO_SIGNALS }, mask))
}
