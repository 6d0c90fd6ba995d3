//! Carried programs: Windows console programs that can be captured and brought back in another process, on another Windows.
//!
//! This is the part of it that runs in the program. The program is started with it and has, from its first instruction on, a world of its own
//! in the place of the system's: heaps and regions at fixed addresses ([`brant_windows_heap`]), stacks among them, virtual handles, its own copy of the
//! C library, and for each function of the system that it may call a thunk at a fixed address. Whatever it calls is one of four kinds
//! ([`catalog`]): done by us, passed on as it leaves nothing behind, passed on on the program's own stack, or unknown; a program that has called an unknown one
//! runs on as ever and cannot be carried, and is told which.
//!
//! So nothing that travels has an address or a handle of the system in it, which a capture checks ([`scan`]), and a restore is: the same memory at the
//! same addresses, thunks that lead to this system's functions, objects made again behind the same handles, and threads that go on.

mod bring;
mod calls;
mod capture;
mod catalog;
mod entry;
mod freeze;
mod gather;
mod objects;
mod pe;
mod places;
mod raw;
mod registers;
mod reserve;
mod scan;
mod state;
mod switch;
mod teb;
mod text;
mod thread;
mod thunk;

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use brant_windows::{Code, Refused};

use crate::calls::{environment, files, heaps, libraries, process, slots, threads};

/// 0: not carried; 1: carried; 2: what was begun has failed.
static CARRIED: AtomicU32 = AtomicU32::new(0);

fn begin_once() -> Result<(), Refused> {
    match CARRIED.compare_exchange(0, 2, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Ok(()),
        Err(_) => Err(Refused::new(Code::NotCarried, "this program is carried already")),
    }
}

/// Prepares a program that has not begun: its first thread will find our world. Where it fails, the process must be ended.
/// With `raw_heaps` its heaps are the system's own.
pub fn begin(raw_heaps: bool) -> Result<(), Refused> {
    begin_once()?;
    let failed = |what: &str| Refused::new(Code::NotCarried, "the program cannot be carried").why(what);
    let program = libraries::program();
    let (xstate, has_room) = registers::xstate();
    if !has_room {
        return Err(failed("this CPU has larger registers than brant keeps"));
    }
    reserve::all()?;
    let state = state::state();
    state.version.store(state::VERSION, Ordering::Release);
    state::store(&state.bytes, size_of::<state::State>() as u64);
    state::store(&state.program_base, program.base() as u64);
    state::store(&state.program_bytes, program.bytes() as u64);
    state::store(&state.xstate, xstate);
    process::set_number(std::process::id());
    threads::slot();
    if !slots::reserve() {
        return Err(failed("something else has its TLS slots"));
    }
    if !heaps::create_space() || !thunk::make() || !thunk::protect() || !environment::begin() {
        return Err(failed("there is not enough memory"));
    }
    heaps::begin();
    if raw_heaps {
        raw::begin()?;
    }
    files::begin_standard();
    libraries::bind(program).map_err(|why| failed(&why))?;
    let main = threads::main_record(program.stack_bytes())
        .ok_or_else(|| failed("there is no memory for a stack"))?;
    entry::set_main(main);
    entry::begin_at_entry();
    CARRIED.store(1, Ordering::Release);
    Ok(())
}

/// Writes an image of the program to `path`, an absolute path. With `stop` the program ends once that is safe. Gives the image's bytes.
pub fn checkpoint(path: &Path, stop: bool) -> Result<u64, Refused> {
    if CARRIED.load(Ordering::Acquire) != 1 {
        return Err(Refused::new(Code::NotCarried, "this program was not started to be carried")
            .next("brant.exe run --carry -- PROGRAM"));
    }
    capture::checkpoint(path, stop)
}

/// Brings back the program of the image at `path` in this process, which has not begun. Where it fails, the process must be ended.
pub fn restore(path: &Path) -> Result<(), Refused> {
    begin_once()?;
    threads::slot();
    if !slots::reserve() {
        return Err(Refused::new(Code::NotRestored, "something else has the program's TLS slots"));
    }
    bring::restore(path)?;
    CARRIED.store(1, Ordering::Release);
    Ok(())
}
