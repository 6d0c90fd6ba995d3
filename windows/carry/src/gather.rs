//! The threads of an image come together before any of them goes on: one that ran before the others have what is theirs, mutexes above all, would find a
//! program that never was.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::Threading::{INFINITE, Sleep, WaitForSingleObject};

use crate::freeze;

/// How long the next one of them may take.
const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(1);

/// Native threads that are in our code: the loader has told all that it tells of a new thread.
static HERE: AtomicU32 = AtomicU32::new(0);
/// Those that have what is theirs.
static READY: AtomicU32 = AtomicU32::new(0);

struct Events {
    assigned: HANDLE,
    go: HANDLE,
}

// SAFETY: handles of events, which are never closed.
unsafe impl Send for Events {}
// SAFETY: as above.
unsafe impl Sync for Events {}

fn events() -> &'static Events {
    static EVENTS: OnceLock<Events> = OnceLock::new();
    EVENTS.get_or_init(|| Events { assigned: freeze::event(true), go: freeze::event(true) })
}

fn wait(event: HANDLE) {
    // SAFETY: an event of ours.
    unsafe { WaitForSingleObject(event, INFINITE) };
}

/// The calling thread is here, and waits until it is known what it becomes.
pub(crate) fn here() {
    HERE.fetch_add(1, Ordering::AcqRel);
    wait(events().assigned);
}

/// Waits until so many threads are here. False where they do not come.
pub(crate) fn wait_for_here(count: u32) -> bool {
    wait_for(&HERE, count)
}

/// It is known what each of them becomes. Waits until so many have what is theirs; false where they do not come.
pub(crate) fn assign(count: u32) -> bool {
    freeze::set(events().assigned);
    wait_for(&READY, count)
}

/// The calling thread has what is its own, and waits for all.
pub(crate) fn ready() {
    READY.fetch_add(1, Ordering::AcqRel);
    wait(events().go);
}

/// The same for one that becomes nothing, and never goes on.
pub(crate) fn ready_for_ever() -> ! {
    READY.fetch_add(1, Ordering::AcqRel);
    loop {
        // SAFETY: a call without pointers.
        unsafe { Sleep(INFINITE) };
    }
}

pub(crate) fn go() {
    freeze::set(events().go);
}

fn wait_for(counter: &AtomicU32, count: u32) -> bool {
    let mut progress = (0, Instant::now());
    loop {
        let now = counter.load(Ordering::Acquire);
        if now >= count {
            return true;
        }
        if now > progress.0 {
            progress = (now, Instant::now());
        }
        if progress.1.elapsed() > LIMIT {
            return false;
        }
        std::thread::sleep(POLL);
    }
}
