//! What of brant lives in a wrapped program.
//!
//! It is loaded by the program's own dlopen, so that unwinders find its frame descriptions, but imports nothing: malloc or
//! anything else of libc may be what is wrapped, and one file must do for glibc and musl. brant calls [`serve`] on a thread
//! of the program and, with every thread stopped, writes what the reply says; until then nothing has changed for the program. Only
//! into libraries that are just being loaded the runtime itself writes ([`late`]).
//!
//! How a call goes: the function's first bytes jump to its *gate*, which jumps to the *link* that its slot names first. A link
//! is a layer, whose thunk ([`thunk`]) calls a mediator, or the function itself by its trampoline. A layer names the next link.
//! Slots, layers and trampolines stay: a thread may be on its way through them. They are used again once their function's module was
//! unloaded, and layers once their wrapper's implementation was, which brant does only where no thread is inside.
#![no_std]

extern crate alloc;

mod areas;
mod calls;
mod entry;
mod event;
mod guard;
mod late;
mod modules;
mod plan;
mod slot;
mod system;
mod table;
mod thunk;

use core::sync::atomic::AtomicU32;

use brant_hook::exchange::{MAGIC, Reply, Request, VERSION};

use event::Known;
use guard::State;

/// What brant reads from outside. Found by its symbol.
#[repr(C)]
pub struct Head {
    magic: [u8; 8],
    version: u32,
    states_max: u32,
    serve: unsafe extern "C" fn(*const u8, usize, *mut u8, usize) -> usize,
    states: *const State,
    /// The states in use, by index, and how many these are.
    claimed: *const u16,
    claimed_count: *const AtomicU32,
    /// Calls that ended without returning, by wrapper modulo the number of them.
    lost: *const AtomicU32,
    lost_max: u64,
    /// The code of thunks, and the addresses in it to which a mediator or an inner call returns.
    thunks: *const u8,
    thunks_end: *const u8,
    returns: *const u64,
    returns_end: *const u64,
    /// Ranges of generated code, and how many.
    code: *const areas::CodeRange,
    code_count: *const AtomicU32,
    /// Threads that look at a library which is being loaded.
    loading: *const AtomicU32,
    /// The code by which system calls come to their first layer, and the address in it to which that returns.
    enter: *const u8,
    enter_end: *const u8,
    enter_back: *const u8,
}

// SAFETY: it is only read, and what it points to is atomic or never changes.
unsafe impl Sync for Head {}

/// The head of this copy of the runtime.
#[unsafe(no_mangle)]
pub static BRANT_RUNTIME_HEAD: Head = Head {
    magic: MAGIC,
    version: VERSION,
    states_max: guard::STATES_MAX as u32,
    serve,
    states: guard::states(),
    claimed: guard::CLAIMED.as_ptr().cast(),
    claimed_count: &raw const guard::CLAIMED_COUNT,
    lost: guard::LOST.as_ptr(),
    lost_max: guard::LOST.len() as u64,
    thunks: thunk::begin(),
    thunks_end: thunk::end(),
    returns: thunk::returns(),
    returns_end: thunk::returns_end(),
    code: areas::CODE.as_ptr().cast(),
    code_count: &raw const areas::CODE_COUNT,
    loading: &raw const table::LOADING,
    enter: entry::enter_begin(),
    enter_end: entry::enter_end(),
    enter_back: entry::enter_back(),
};

/// Answers the request of so many bytes. Returns the length of the reply, or 0 where there is no room for it or the request
/// makes no sense.
///
/// # Safety
///
/// `request` and `reply` are memory of those lengths that nobody else uses.
pub unsafe extern "C" fn serve(request: *const u8, bytes: usize, reply: *mut u8, room: usize) -> usize {
    // SAFETY: promised by the caller.
    let request = unsafe { core::slice::from_raw_parts(request, bytes) };
    let Some(request) = Request::decode(request) else { return 0 };
    let answer = answer(request).encode();
    if answer.len() > room {
        return 0;
    }
    // SAFETY: promised by the caller; the answer fits.
    unsafe { core::ptr::copy_nonoverlapping(answer.as_ptr(), reply, answer.len()) };
    answer.len()
}

fn answer(request: Request) -> Reply {
    match request {
        Request::Wrap { name, path, handle, iterate, debug, is_unguarded, options, mediations } => {
            let known = Known::new(&name, &path, handle, &options, &mediations);
            plan::wrap(known, plan::Places { iterate, debug }, is_unguarded, mediations)
        }
        Request::Replan { wrapper } => plan::replan(wrapper, None),
        Request::Tell { wrapper, event } => plan::tell(wrapper, event),
        Request::Unwrap { wrapper, holds } => plan::unwrap(wrapper, holds),
        Request::Settle { wrapper, is_unloaded } => plan::settle(wrapper, is_unloaded),
        Request::List => plan::list(),
    }
}
