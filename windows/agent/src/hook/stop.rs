//! All other threads of the process, stopped while code is changed.
//!
//! Whoever is stopped may hold any lock, the allocator's too: so nothing is allocated meanwhile, and nothing is called but system
//! calls. Even these may wait for ever: under Wine a thread that stands may hold a lock of the system's own library, for which another one waits that then
//! cannot be stopped. So a *guardian*, a thread that is made before, lets all go if they stand too long, and it is tried again; code is written only once
//! the guardian has agreed that it will not ([`Stopped::begin`]).

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use brant_windows::{Code, Refused};
use windows_sys::Win32::Foundation::{CloseHandle, HANDLE, WAIT_OBJECT_0};
use windows_sys::Win32::System::Diagnostics::Debug::{
    CONTEXT, CONTEXT_CONTROL_AMD64, GetThreadContext, SetThreadContext,
};
use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleW, GetProcAddress};
use windows_sys::Win32::System::Threading::{
    CreateEventW, GetCurrentProcess, GetThreadId, INFINITE, ResumeThread, SetEvent, SuspendThread,
    THREAD_GET_CONTEXT, THREAD_QUERY_INFORMATION, THREAD_SET_CONTEXT, THREAD_SUSPEND_RESUME,
    THREAD_SYNCHRONIZE, WaitForSingleObject,
};

use crate::thread;

/// More threads are not stopped.
const THREADS_MAX: usize = 4096;
/// Passes until no thread is new.
const PASSES_MAX: usize = 100;

type NextThread = unsafe extern "system" fn(HANDLE, HANDLE, u32, u32, u32, *mut HANDLE) -> i32;

/// NtGetNextThread, which needs no memory of its own.
static NEXT_THREAD: AtomicUsize = AtomicUsize::new(0);

/// The processor's state must lie at a multiple of 16.
#[repr(C, align(16))]
struct Context(CONTEXT);

/// A thread that stands still.
#[derive(Debug)]
struct Still {
    handle: AtomicPtr<c_void>,
    id: AtomicU32,
    /// Whether it is still to be let go. Who sets it to false does that.
    is_held: AtomicBool,
}

/// Threads that stand still: the agent answers one request at a time.
static STILL: [Still; THREADS_MAX] = [const {
    Still {
        handle: AtomicPtr::new(std::ptr::null_mut()),
        id: AtomicU32::new(0),
        is_held: AtomicBool::new(false),
    }
}; THREADS_MAX];
static COUNT: AtomicUsize = AtomicUsize::new(0);
static STATE: AtomicU32 = AtomicU32::new(STOPPING);

/// Threads are being stopped, or looked at.
const STOPPING: u32 = 0;
/// Code is being written: the guardian has nothing to do any more.
const WRITING: u32 = 1;
/// All were let go, as it took too long.
const BROKEN: u32 = 2;

/// How long threads stand still without one more that does, before they are let go and it is tried again.
const STANDING_LIMIT_MS: u32 = 2000;
/// So many times as long at most.
const STANDING_LIMITS_MAX: u32 = 4;

/// All other threads of the process, standing still.
#[derive(Debug)]
pub(crate) struct Stopped<'a> {
    guardian: &'a Guardian,
}

/// Stops all other threads.
pub(crate) fn stop(guardian: &Guardian) -> Result<Stopped<'_>, Refused> {
    let failed = |why: &str| Refused::new(Code::Threads, "the program's threads cannot be stopped").why(why);
    let next = next_thread().ok_or_else(|| failed("ntdll exports no NtGetNextThread"))?;
    COUNT.store(0, Ordering::Release);
    STATE.store(STOPPING, Ordering::Release);
    let stopped = Stopped { guardian };
    guardian.watch();
    for _ in 0..PASSES_MAX {
        match stopped.pass(next) {
            Ok(0) => return Ok(stopped),
            Ok(_) => {}
            Err(why) => {
                drop(stopped);
                return Err(failed(why));
            }
        }
    }
    drop(stopped);
    Err(failed("it makes new ones all the time"))
}

fn still() -> &'static [Still] {
    STILL.get(..COUNT.load(Ordering::Acquire)).unwrap_or(&[])
}

/// Lets all go that are still held.
fn let_go() {
    for still in still() {
        if still.is_held.swap(false, Ordering::AcqRel) {
            // SAFETY: stopped by us, and open until the guardian is told that all is over.
            unsafe { ResumeThread(still.handle.load(Ordering::Relaxed)) };
        }
    }
}

fn next_thread() -> Option<NextThread> {
    let mut found = NEXT_THREAD.load(Ordering::Relaxed);
    if found == 0 {
        let name: Vec<u16> = "ntdll.dll\0".encode_utf16().collect();
        // SAFETY: a text that ends with a zero.
        let ntdll = unsafe { GetModuleHandleW(name.as_ptr()) };
        // SAFETY: a loaded library, and a text that ends with a zero byte.
        found = unsafe { GetProcAddress(ntdll, c"NtGetNextThread".as_ptr().cast()) }? as usize;
        NEXT_THREAD.store(found, Ordering::Relaxed);
    }
    // SAFETY: ntdll's function of this name has this prototype.
    Some(unsafe { std::mem::transmute::<usize, NextThread>(found) })
}

impl Stopped<'_> {
    /// Stops those that are not stopped yet; their number.
    fn pass(&self, next: NextThread) -> Result<usize, &'static str> {
        let access =
            THREAD_SUSPEND_RESUME | THREAD_GET_CONTEXT | THREAD_SET_CONTEXT | THREAD_QUERY_INFORMATION;
        let mut count = 0;
        let mut previous: HANDLE = std::ptr::null_mut();
        let mut is_kept = true;
        loop {
            let mut handle: HANDLE = std::ptr::null_mut();
            // SAFETY: the calling process, a thread of it or none, and room for the answer.
            let status = unsafe { next(GetCurrentProcess(), previous, access, 0, 0, &raw mut handle) };
            if !is_kept {
                // SAFETY: opened here, and not kept.
                unsafe { CloseHandle(previous) };
            }
            if status < 0 {
                return Ok(count);
            }
            // SAFETY: just opened.
            let id = unsafe { GetThreadId(handle) };
            let is_ours = id == thread::thread_id() || id == self.guardian.thread();
            let is_known = || still().iter().any(|still| still.id.load(Ordering::Relaxed) == id);
            (previous, is_kept) = (handle, false);
            if !is_ours && !is_known() {
                is_kept = self.stop_one(handle, id)?;
                count += usize::from(is_kept);
            }
        }
    }

    /// Stops a thread; whether it was one that still runs, whose handle is kept.
    fn stop_one(&self, handle: HANDLE, id: u32) -> Result<bool, &'static str> {
        let at = COUNT.load(Ordering::Relaxed);
        let Some(still) = STILL.get(at) else { return Err("there are more than 4096 of them") };
        // SAFETY: just opened. A thread that ends is none any more.
        if unsafe { SuspendThread(handle) } == u32::MAX {
            return Ok(false);
        }
        still.handle.store(handle, Ordering::Relaxed);
        still.id.store(id, Ordering::Relaxed);
        still.is_held.store(true, Ordering::Release);
        COUNT.store(at + 1, Ordering::Release);
        // It stands only once its state can be told.
        let _ = instruction(handle);
        if STATE.load(Ordering::Acquire) == BROKEN {
            // The guardian may not have seen the newest one.
            let_go();
            return Err("one of them waits for another one that stands still");
        }
        Ok(true)
    }

    /// From now on all stand until this is dropped, and code may be written. False: they have been let go meanwhile.
    pub(crate) fn begin(&self) -> bool {
        STATE.compare_exchange(STOPPING, WRITING, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn handles(&self) -> impl Iterator<Item = HANDLE> {
        still().iter().map(|still| still.handle.load(Ordering::Relaxed))
    }

    /// Lets every thread that stands at the first of a pair of addresses go on at the second. Whether that could be done.
    pub(crate) fn move_all(&self, moves: &[(u64, u64)]) -> bool {
        self.handles().all(|handle| {
            let Some(at) = instruction(handle) else { return true };
            moves.iter().find(|(from, _)| *from == at).is_none_or(|(_, to)| go_to(handle, *to))
        })
    }

    /// Whether a thread stands within one of these ranges, but not at one of these places.
    pub(crate) fn is_within(&self, ranges: &[(u64, u64)], but: &[(u64, u64)]) -> bool {
        self.handles().filter_map(instruction).any(|at| {
            ranges.iter().any(|(start, end)| *start < at && at < *end)
                && but.iter().all(|(from, _)| *from != at)
        })
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        // Before anything else is done: that may need a lock that one of them holds.
        let_go();
        self.guardian.end();
        for still in still() {
            // SAFETY: opened when it was stopped; the guardian is done with it.
            unsafe { CloseHandle(still.handle.load(Ordering::Relaxed)) };
        }
        COUNT.store(0, Ordering::Release);
    }
}

/// A thread that lets the others go if they stand still for too long.
#[derive(Debug)]
pub(crate) struct Guardian {
    watch: Arc<Watch>,
    thread: u32,
}

/// What a guardian and its owner have in common. It is each guardian's own: one that comes too late finds that it is to end.
#[derive(Debug)]
struct Watch {
    /// To watch, or to end; all is over; done.
    events: [Event; 3],
    thread: AtomicU32,
    /// The guardian is to end in the place of watching.
    is_quitting: AtomicBool,
}

const WATCH: usize = 0;
const OVER: usize = 1;
const DONE: usize = 2;

/// An event that one wait consumes.
#[derive(Debug)]
struct Event(AtomicPtr<c_void>);

impl Event {
    fn new() -> Option<Event> {
        // SAFETY: a new event.
        let event = unsafe { CreateEventW(std::ptr::null(), 0, 0, std::ptr::null()) };
        (!event.is_null()).then(|| Event(event.into()))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: nobody has it any more.
        unsafe { CloseHandle(*self.0.get_mut()) };
    }
}

impl Watch {
    fn new() -> Option<Arc<Watch>> {
        let events = [Event::new()?, Event::new()?, Event::new()?];
        Some(Arc::new(Watch { events, thread: 0.into(), is_quitting: false.into() }))
    }

    fn set(&self, which: usize) {
        // SAFETY: an event of ours.
        unsafe { SetEvent(self.events[which].0.load(Ordering::Relaxed)) };
    }

    fn wait(&self, which: usize, limit_ms: u32) -> bool {
        // SAFETY: an event of ours.
        unsafe {
            WaitForSingleObject(self.events[which].0.load(Ordering::Relaxed), limit_ms) == WAIT_OBJECT_0
        }
    }

    /// What the guardian does: nothing that needs memory or a lock while threads stand.
    fn guard(&self) {
        loop {
            self.wait(WATCH, INFINITE);
            if self.is_quitting.load(Ordering::Acquire) {
                self.set(DONE);
                return;
            }
            if !self.is_over_in_time() {
                if STATE.compare_exchange(STOPPING, BROKEN, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                    let_go();
                }
                self.wait(OVER, INFINITE);
            }
            self.set(DONE);
        }
    }

    /// Waits as long as ever more threads stand: on a busy machine that takes its time. Not for ever, as the program stands meanwhile.
    fn is_over_in_time(&self) -> bool {
        for _ in 0..STANDING_LIMITS_MAX {
            let before = COUNT.load(Ordering::Acquire);
            if self.wait(OVER, STANDING_LIMIT_MS) {
                return true;
            }
            if COUNT.load(Ordering::Acquire) == before {
                return false;
            }
        }
        false
    }
}

impl Guardian {
    /// Without any lock: the loader tells its libraries of a new thread before that runs.
    pub(crate) fn new() -> Result<Guardian, Refused> {
        let failed = || Refused::new(Code::Threads, "there is no thread that could watch over the others");
        let watch = Watch::new().ok_or_else(failed)?;
        let own = Arc::clone(&watch);
        let guardian = std::thread::Builder::new().spawn(move || {
            let _busy = thread::busy();
            own.thread.store(thread::thread_id(), Ordering::Release);
            own.set(DONE);
            own.guard();
        });
        guardian.map_err(|_| failed())?;
        // Where a thread is stuck in the loader, this one does not come.
        if !watch.wait(DONE, START_LIMIT_MS) {
            watch.is_quitting.store(true, Ordering::Release);
            watch.set(WATCH);
            return Err(Refused { code: Code::Slow, ..failed() }
                .why("the program's loader is held by another thread"));
        }
        let thread = watch.thread.load(Ordering::Acquire);
        Ok(Guardian { watch, thread })
    }

    fn thread(&self) -> u32 {
        self.thread
    }

    fn watch(&self) {
        self.watch.set(WATCH);
    }

    fn end(&self) {
        self.watch.set(OVER);
        self.watch.wait(DONE, INFINITE);
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        self.watch.is_quitting.store(true, Ordering::Release);
        self.watch.set(WATCH);
    }
}

/// How long a new thread may take to run: less than who asked has patience.
const START_LIMIT_MS: u32 = 25_000;

fn context(thread: HANDLE) -> Option<Context> {
    let mut context: MaybeUninit<Context> = MaybeUninit::zeroed();
    let at = context.as_mut_ptr();
    // SAFETY: room for a context; a context of zeros is valid.
    unsafe {
        (&raw mut (*at).0.ContextFlags).write(CONTEXT_CONTROL_AMD64);
        (GetThreadContext(thread, &raw mut (*at).0) != 0).then(|| context.assume_init())
    }
}

/// Where a stopped thread stands; nothing where it has ended.
fn instruction(thread: HANDLE) -> Option<u64> {
    context(thread).map(|context| context.0.Rip)
}

fn go_to(thread: HANDLE, address: u64) -> bool {
    let Some(mut context) = context(thread) else { return true };
    context.0.Rip = address;
    // SAFETY: the thread's own state but for the instruction, which the trampoline has too.
    unsafe { SetThreadContext(thread, &raw const context.0) != 0 }
}

/// The threads of this process that have not ended: a thread that has is there as long as somebody has a handle of it.
pub(crate) fn living() -> Vec<u32> {
    let Some(next) = next_thread() else { return Vec::new() };
    let access = THREAD_QUERY_INFORMATION | THREAD_SYNCHRONIZE;
    let mut found = Vec::new();
    let mut previous: HANDLE = std::ptr::null_mut();
    loop {
        let mut handle: HANDLE = std::ptr::null_mut();
        // SAFETY: the calling process, a thread of it or none, and room for the answer.
        let status = unsafe { next(GetCurrentProcess(), previous, access, 0, 0, &raw mut handle) };
        if !previous.is_null() {
            // SAFETY: opened here.
            unsafe { CloseHandle(previous) };
        }
        if status < 0 {
            return found;
        }
        // SAFETY: just opened.
        let is_over = unsafe { WaitForSingleObject(handle, 0) } == WAIT_OBJECT_0;
        if !is_over {
            // SAFETY: just opened.
            found.push(unsafe { GetThreadId(handle) });
        }
        previous = handle;
    }
}
