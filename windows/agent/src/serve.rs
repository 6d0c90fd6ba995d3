//! Requests: JSON behind a block of memory, answered by a thread that was made for it.

use std::ffi::c_void;
use std::panic::catch_unwind;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::{handles, hook, record, thread};
use brant_windows::{Block, Code, PROTOCOL, Refused, Reply, Request};

use windows_sys::Win32::System::Memory::{MEM_COMMIT, MEM_RESERVE, PAGE_READWRITE, VirtualAlloc};

/// One request at a time.
static TURN: Mutex<()> = Mutex::new(());
/// The request that has its turn; null while there is none.
static ASKED: AtomicPtr<Block> = AtomicPtr::new(std::ptr::null_mut());

/// The block of the request that has its turn: the agent and whoever asked both write to it.
fn asked<T>(look: impl FnOnce(&AtomicU64, &AtomicU64) -> T) -> Option<T> {
    let block = ASKED.load(Ordering::Acquire);
    if block.is_null() {
        return None;
    }
    // SAFETY: it stays until its thread ends, and is taken from here before.
    let steps = unsafe { AtomicU64::from_ptr(&raw mut (*block).steps) };
    // SAFETY: as above.
    let is_withdrawn = unsafe { AtomicU64::from_ptr(&raw mut (*block).is_withdrawn) };
    Some(look(steps, is_withdrawn))
}

/// Tells whoever asked that it goes on. Refused where nobody waits any more: then nothing more is to be done.
pub(crate) fn step() -> Result<(), Refused> {
    let is_withdrawn = asked(|steps, is_withdrawn| {
        steps.fetch_add(1, Ordering::Relaxed);
        is_withdrawn.load(Ordering::Relaxed) != 0
    });
    match is_withdrawn {
        Some(true) => Err(Refused::new(Code::Slow, "who asked does not wait any more")),
        _ => Ok(()),
    }
}

/// A request that has its turn, until this is dropped.
struct Turn;

impl Turn {
    fn of(block: *mut Block) -> Turn {
        ASKED.store(block, Ordering::Release);
        Turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        ASKED.store(std::ptr::null_mut(), Ordering::Release);
    }
}

/// Answers one request.
///
/// # Safety
///
/// `block` is a [`Block`] with its request behind it, which stays until the thread ends.
#[unsafe(no_mangle)]
#[allow(unreachable_pub)]
pub unsafe extern "system" fn brant_agent_serve(block: *mut c_void) -> u32 {
    let block: *mut Block = block.cast();
    // SAFETY: promised by the caller.
    let head = unsafe { block.read() };
    // SAFETY: as above: so many bytes follow.
    let words = unsafe { std::slice::from_raw_parts(block.add(1).cast::<u8>(), head.request_bytes as usize) };
    if head.protocol != PROTOCOL {
        return 1;
    }
    let Some(_busy) = thread::busy() else { return 4 };
    let answered = catch_unwind(|| {
        let reply = serde_json::from_slice::<Request>(words).map_or_else(
            |error| Err(Refused::new(Code::OtherAgent, "the request cannot be read").why(error)),
            |request| {
                let _alone = TURN.lock().unwrap_or_else(|broken| broken.into_inner());
                let _turn = Turn::of(block);
                step().and_then(|()| answer(request))
            },
        );
        serde_json::to_vec(&reply.unwrap_or_else(Reply::Refused)).unwrap_or_default()
    });
    let Ok(reply) = answered else { return 2 };
    // SAFETY: new memory, which who asked gives back.
    let at = unsafe {
        VirtualAlloc(std::ptr::null(), reply.len().max(1), MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE)
    };
    if at.is_null() {
        return 3;
    }
    // SAFETY: there is room for so many bytes, which nobody else knows yet.
    unsafe { std::ptr::copy_nonoverlapping(reply.as_ptr(), at.cast(), reply.len()) };
    // SAFETY: promised by the caller.
    unsafe { (&raw mut (*block).reply_bytes).write(reply.len() as u64) };
    // SAFETY: as above.
    unsafe { (&raw mut (*block).reply).write(at as u64) };
    0
}

/// What is done about a request.
fn answer(request: Request) -> Result<Reply, Refused> {
    match request {
        Request::Hello => Ok(Reply::Hello),
        Request::Wrap(spec) => hook::wrap(spec).map(Reply::Wrapped),
        Request::Unwrap { name } => {
            let (interceptions, left) = hook::unwrap(&name)?;
            Ok(Reply::Unwrapped { interceptions, left })
        }
        Request::Show => record::show().map(|shown| Reply::Shown(Box::new(shown))),
        Request::Handles { renew } => {
            Ok(Reply::Handles(if renew { handles::renew() } else { handles::list() }))
        }
        Request::Wrappers => Ok(Reply::Wrappers(hook::wrappers())),
        Request::Carry { .. } | Request::Checkpoint { .. } if !hook::wrappers().is_empty() => {
            Err(Refused::new(Code::NotCarried, "the program has wrappers, which would not come back with it")
                .next("brant.exe unwrap NAME PID"))
        }
        Request::Carry { raw_heaps } => brant_carry::begin(raw_heaps).map(|()| Reply::Prepared),
        Request::Checkpoint { path, stop } => {
            brant_carry::checkpoint(Path::new(&path), stop).map(|bytes| Reply::Written { bytes })
        }
        Request::Restore { path } => brant_carry::restore(Path::new(&path)).map(|()| Reply::Prepared),
    }
}
