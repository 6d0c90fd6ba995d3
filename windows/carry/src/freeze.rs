//! Bringing all threads of the program to a stand, and letting them go.
//!
//! A thread that waits in a function of ours parks by itself, about to call again. One that is in the program's own code is stopped and sent to
//! park ([`crate::switch::stand`]), which keeps all of its registers. One that is in a function of the system's is waited for. Nothing but these threads' own
//! standing has to be undone, and they are let go by an event: whoever asked for the freeze may end at any instant.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use brant_windows::{Code, Refused};
use windows_sys::Win32::Foundation::{
    CloseHandle, DUPLICATE_SAME_ACCESS, DuplicateHandle, GetLastError, HANDLE, SetLastError,
};
use windows_sys::Win32::System::Diagnostics::Debug::{
    CONTEXT, CONTEXT_CONTROL_AMD64, CONTEXT_INTEGER_AMD64, GetThreadContext, SetThreadContext,
};
use windows_sys::Win32::System::Threading::{
    CreateEventW, GetCurrentProcess, GetCurrentThread, INFINITE, ResetEvent, ResumeThread, SetEvent,
    SuspendThread, TlsGetValue, WaitForSingleObject,
};

use crate::calls::libraries::private_modules;
use crate::catalog::{self, How};
use crate::pe::Module;
use crate::places::{SPACE, SPACE_BYTES, TARGETS, THUNKS};
use crate::state::{TLS_SLOTS, load, state, store};
use crate::thread::{IN_BETWEEN, Registers, Thread, threads};
use crate::{switch, thunk};

/// How long threads have to come to a stand, from when the last one did.
const FREEZE_LIMIT: Duration = Duration::from_secs(5);
/// And how often it was looked at them: on a busy machine neither they nor we have had a processor for long.
const LOOKS_MIN: u32 = 2000;
/// The program does not stand longer for a checkpoint that may come to nothing.
const FREEZE_LIMIT_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(1);

/// Another number with each thread that is made or begins: a look at all threads that meets this has not seen all.
static BEGUN: AtomicU32 = AtomicU32::new(0);

/// A thread has been made, or let begin.
pub(crate) fn begun() {
    BEGUN.fetch_add(1, Ordering::SeqCst);
}

/// A new event without a name.
pub(crate) fn event(manual: bool) -> HANDLE {
    // SAFETY: a call without names.
    unsafe { CreateEventW(std::ptr::null(), i32::from(manual), 0, std::ptr::null()) }
}

pub(crate) fn set(event: HANDLE) {
    // SAFETY: an event of ours.
    unsafe { SetEvent(event) };
}

pub(crate) fn close(handle: HANDLE) {
    // SAFETY: a handle of ours that nobody uses any more.
    unsafe { CloseHandle(handle) };
}

/// Another handle of the same thing.
pub(crate) fn duplicate(handle: HANDLE) -> HANDLE {
    let mut new = std::ptr::null_mut();
    // SAFETY: a call without arguments.
    let own = unsafe { GetCurrentProcess() };
    // SAFETY: an open handle, and room for the new one.
    unsafe { DuplicateHandle(own, handle, own, &raw mut new, 0, 0, DUPLICATE_SAME_ACCESS) };
    new
}

/// A handle of the calling thread.
pub(crate) fn own_handle() -> HANDLE {
    // SAFETY: a call without arguments.
    duplicate(unsafe { GetCurrentThread() })
}

struct Events {
    begins: HANDLE,
    over: HANDLE,
}

// SAFETY: handles of events, which are never closed.
unsafe impl Send for Events {}
// SAFETY: as above.
unsafe impl Sync for Events {}

fn events() -> &'static Events {
    static EVENTS: OnceLock<Events> = OnceLock::new();
    EVENTS.get_or_init(|| Events { begins: event(true), over: event(true) })
}

/// Set while the program is to stand still.
pub(crate) fn begins() -> HANDLE {
    events().begins
}

/// Whoever has it keeps the program from being captured: for threads of ours that change what travels.
pub(crate) fn still() -> MutexGuard<'static, ()> {
    static STILL: Mutex<()> = Mutex::new(());
    STILL.lock().unwrap_or_else(|broken| broken.into_inner())
}

/// Whether the calling thread's frame is that of the function that it waits in. One that begins or ends is waited for: what C libraries do about a thread then is
/// done once, and would be done again in the next process.
pub(crate) fn is_in_call(thread: &Thread) -> bool {
    let inside = thread.inside.load(Ordering::Acquire);
    thread.has_begun.load(Ordering::Acquire) == 1
        && inside != IN_BETWEEN
        && inside != 0
        && catalog::how(&thunk::name_of(inside as usize - 1).1) == How::Waiting
}

/// The calling thread stands still until the program is thawed.
pub(crate) fn park(thread: &Thread) {
    // SAFETY: a call without arguments.
    let error = unsafe { GetLastError() };
    thread.last_error.store(error, Ordering::Release);
    for slot in (0..TLS_SLOTS).filter(|slot| load(&state().tls_slots) >> slot & 1 == 1) {
        // SAFETY: the program's slot.
        store(&thread.tls[slot], unsafe { TlsGetValue(slot as u32) } as u64);
    }
    thread.parked.store(1, Ordering::SeqCst);
    // SAFETY: an event of ours.
    unsafe { WaitForSingleObject(events().over, INFINITE) };
    thread.parked.store(0, Ordering::SeqCst);
    // SAFETY: a call without pointers.
    unsafe { SetLastError(error) };
}

/// Stops a thread of ours. It stands only once its state can be told.
pub(crate) fn suspend(native: HANDLE) {
    // SAFETY: a thread of ours.
    unsafe { SuspendThread(native) };
    let mut room = Aligned(CONTEXT { ContextFlags: CONTEXT_CONTROL_AMD64, ..Default::default() });
    // SAFETY: a suspended thread, and room for its context.
    unsafe { GetThreadContext(native, &raw mut room.0) };
}

/// Lets it go on.
pub(crate) fn resume(native: HANDLE) {
    // SAFETY: a thread of ours.
    unsafe { ResumeThread(native) };
}

/// Called by `switch` on the native stack of a thread that was sent there.
#[unsafe(no_mangle)]
extern "system" fn brant_carry_stood(thread: *mut Thread) {
    // SAFETY: `stop` has given the thread its own record.
    park(unsafe { &*thread });
}

/// All threads of the program stand still until this is dropped.
pub(crate) struct Frozen(#[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

/// Brings them to a stand, or tells which one does not and lets all go.
pub(crate) fn freeze() -> Result<Frozen, Refused> {
    let frozen = Frozen(still());
    // SAFETY: an event of ours.
    unsafe { ResetEvent(events().over) };
    set(events().begins);
    let (begin, mut looks) = (Instant::now(), 0);
    let mut progress = (usize::MAX, begin);
    loop {
        let begun = BEGUN.load(Ordering::SeqCst);
        let moving: Vec<&Thread> = threads().filter(|thread| !stands(thread)).collect();
        if moving.is_empty() && begun == BEGUN.load(Ordering::SeqCst) {
            return Ok(frozen);
        }
        looks += 1;
        if moving.len() < progress.0 {
            progress = (moving.len(), Instant::now());
        }
        let is_too_long = progress.1.elapsed() > FREEZE_LIMIT && looks > LOOKS_MIN;
        if is_too_long || begin.elapsed() > FREEZE_LIMIT_MAX {
            let all: Vec<String> = moving.iter().map(|thread| whereabouts(thread)).collect();
            return Err(Refused::new(Code::Moving, "not all threads come to a stand").why(all.join("\n")));
        }
        moving.into_iter().for_each(stop);
        std::thread::sleep(POLL);
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // SAFETY: an event of ours.
        unsafe { ResetEvent(events().begins) };
        set(events().over);
        // The next freeze must not take those for standing that are just going.
        while threads().any(|thread| thread.parked.load(Ordering::SeqCst) == 1) {
            std::thread::sleep(POLL);
        }
    }
}

fn stands(thread: &Thread) -> bool {
    thread.parked.load(Ordering::SeqCst) == 1 || is_not_begun(thread)
}

/// It was made suspended, and nobody has resumed it.
pub(crate) fn is_not_begun(thread: &Thread) -> bool {
    thread.has_begun.load(Ordering::Acquire) == 0 && thread.suspended.load(Ordering::Acquire) > 0
}

fn whereabouts(thread: &Thread) -> String {
    let number = thread.number.load(Ordering::Acquire);
    if thread.has_begun.load(Ordering::Acquire) != 1 {
        return format!("thread {number} is beginning or ending");
    }
    match thread.inside.load(Ordering::Acquire) {
        0 => format!("thread {number} is in code of the system"),
        IN_BETWEEN => format!("thread {number} is beginning or ending"),
        inside => format!("thread {number} is in {}", thunk::name_of(inside as usize - 1).1),
    }
}

/// Sends a thread that is in the program's own code to park. Any other one is left as it is.
fn stop(thread: &Thread) {
    let has_begun = |thread: &Thread| thread.has_begun.load(Ordering::SeqCst) == 1;
    let is_outside = |thread: &Thread| thread.inside.load(Ordering::SeqCst) == 0 && has_begun(thread);
    let real = load(&thread.real) as HANDLE;
    // SAFETY: the thread's own handle; it is resumed below, whatever happens.
    if !(has_begun(thread) && comes_out(thread)) || unsafe { SuspendThread(real) } == u32::MAX {
        return;
    }
    let mut room = Aligned(CONTEXT {
        ContextFlags: CONTEXT_CONTROL_AMD64 | CONTEXT_INTEGER_AMD64,
        ..Default::default()
    });
    let context = &mut room.0;
    // SAFETY: a suspended thread, and room for its context.
    let is_known = unsafe { GetThreadContext(real, context) } != 0;
    if is_known && is_outside(thread) && is_code(context.Rip as usize) {
        let registers = registers_of(context);
        // SAFETY: the thread is suspended, and reads its record only in `switch`, where it is not.
        unsafe { (*thread.at()).registers = registers };
        context.Rip = switch::stand() as u64;
        context.Rcx = thread.at() as u64;
        // SAFETY: as above; `stand` keeps what is not in `registers`, and loads all of it again.
        if unsafe { SetThreadContext(real, context) } != 0 {
            thread.set_inside(IN_BETWEEN);
        }
    }
    // SAFETY: it was suspended above.
    unsafe { ResumeThread(real) };
}

/// Whether a thread is in the program's own code, or in a function that it is soon out of: one that calls these all the time would hardly be met outside
/// of them twice, before it is suspended and behind that.
fn comes_out(thread: &Thread) -> bool {
    match thread.inside.load(Ordering::SeqCst) {
        0 => true,
        IN_BETWEEN => false,
        inside => catalog::how(&thunk::name_of(inside as usize - 1).1) == How::Quick,
    }
}

/// The system wants contexts at multiples of 16.
#[repr(C, align(16))]
struct Aligned(CONTEXT);

/// Whether an address is in code that travels.
fn is_code(at: usize) -> bool {
    let program = Module::at(load(&state().program_base) as usize);
    let in_module = |module: Module| (module.base()..module.base() + module.bytes()).contains(&at);
    in_module(program)
        || private_modules().any(in_module)
        || (SPACE..SPACE + SPACE_BYTES).contains(&at)
        || (THUNKS..TARGETS).contains(&at)
}

fn registers_of(context: &CONTEXT) -> Registers {
    Registers {
        rax: context.Rax,
        rcx: context.Rcx,
        rdx: context.Rdx,
        rbx: context.Rbx,
        rsp: context.Rsp,
        rbp: context.Rbp,
        rsi: context.Rsi,
        rdi: context.Rdi,
        r8: context.R8,
        r9: context.R9,
        r10: context.R10,
        r11: context.R11,
        r12: context.R12,
        r13: context.R13,
        r14: context.R14,
        r15: context.R15,
        rip: context.Rip,
        flags: u64::from(context.EFlags),
    }
}
