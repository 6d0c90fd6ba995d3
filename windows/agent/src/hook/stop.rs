//! All other threads of the process, stopped while code is changed.
//!
//! Whoever is stopped may hold any lock, the allocator's too: so nothing is allocated meanwhile, and nothing is called but system
//! calls.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};

use brant_windows::{Code, Refused};
use windows_sys::Win32::Foundation::{CloseHandle, HANDLE, WAIT_OBJECT_0};
use windows_sys::Win32::System::Diagnostics::Debug::{
    CONTEXT, CONTEXT_CONTROL_AMD64, GetThreadContext, SetThreadContext,
};
use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleW, GetProcAddress};
use windows_sys::Win32::System::Threading::{
    GetCurrentProcess, GetThreadId, ResumeThread, SuspendThread, THREAD_GET_CONTEXT,
    THREAD_QUERY_INFORMATION, THREAD_SET_CONTEXT, THREAD_SUSPEND_RESUME, THREAD_SYNCHRONIZE,
    WaitForSingleObject,
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
#[derive(Debug, Clone, Copy)]
struct Still {
    handle: HANDLE,
    id: u32,
}

/// All other threads of the process, standing still.
#[derive(Debug)]
pub(crate) struct Stopped {
    threads: Vec<Still>,
}

/// Stops all other threads.
pub(crate) fn stop() -> Result<Stopped, Refused> {
    let failed = |why: &str| Refused::new(Code::Threads, "the program's threads cannot be stopped").why(why);
    let next = next_thread().ok_or_else(|| failed("ntdll exports no NtGetNextThread"))?;
    let mut stopped = Stopped { threads: Vec::with_capacity(THREADS_MAX) };
    for _ in 0..PASSES_MAX {
        match stopped.pass(next) {
            Ok(0) => return Ok(stopped),
            Ok(_) => {}
            Err(()) => {
                drop(stopped);
                return Err(failed("there are more than 4096 of them"));
            }
        }
    }
    drop(stopped);
    Err(failed("it makes new ones all the time"))
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

impl Stopped {
    /// Stops those that are not stopped yet; their number.
    fn pass(&mut self, next: NextThread) -> Result<usize, ()> {
        let access =
            THREAD_SUSPEND_RESUME | THREAD_GET_CONTEXT | THREAD_SET_CONTEXT | THREAD_QUERY_INFORMATION;
        let mut count = 0;
        let mut previous: Option<Still> = None;
        loop {
            let mut handle: HANDLE = std::ptr::null_mut();
            let from = previous.map_or(std::ptr::null_mut(), |previous| previous.handle);
            // SAFETY: the calling process, a thread of it or none, and room for the answer.
            let status = unsafe { next(GetCurrentProcess(), from, access, 0, 0, &raw mut handle) };
            if let Some(previous) = previous.filter(|previous| !self.has(previous.handle)) {
                // SAFETY: opened here, and not kept.
                unsafe { CloseHandle(previous.handle) };
            }
            if status < 0 {
                return Ok(count);
            }
            // SAFETY: just opened.
            let id = unsafe { GetThreadId(handle) };
            previous = Some(Still { handle, id });
            if id == thread::thread_id() || self.threads.iter().any(|still| still.id == id) {
                continue;
            }
            if self.threads.len() == self.threads.capacity() {
                // SAFETY: just opened, and not kept.
                unsafe { CloseHandle(handle) };
                return Err(());
            }
            // SAFETY: just opened. A thread that ends is none any more.
            if unsafe { SuspendThread(handle) } != u32::MAX {
                self.threads.push(Still { handle, id });
                count += 1;
                // It stands only once its state can be told.
                let _ = instruction(handle);
            }
        }
    }

    fn has(&self, handle: HANDLE) -> bool {
        self.threads.iter().any(|still| still.handle == handle)
    }

    /// Lets every thread that stands at the first of a pair of addresses go on at the second. Whether that could be done.
    pub(crate) fn move_all(&self, moves: &[(u64, u64)]) -> bool {
        self.threads.iter().all(|still| {
            let Some(at) = instruction(still.handle) else { return true };
            moves.iter().find(|(from, _)| *from == at).is_none_or(|(_, to)| go_to(still.handle, *to))
        })
    }

    /// Whether a thread stands within one of these ranges, but not at one of these places.
    pub(crate) fn is_within(&self, ranges: &[(u64, u64)], but: &[(u64, u64)]) -> bool {
        self.threads.iter().filter_map(|still| instruction(still.handle)).any(|at| {
            ranges.iter().any(|(start, end)| *start < at && at < *end)
                && but.iter().all(|(from, _)| *from != at)
        })
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // First all are let go: what is done for them may need a lock that one of them holds.
        for still in &self.threads {
            // SAFETY: stopped above, and open.
            unsafe { ResumeThread(still.handle) };
        }
        for still in &self.threads {
            // SAFETY: opened above.
            unsafe { CloseHandle(still.handle) };
        }
    }
}

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
