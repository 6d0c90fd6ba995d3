//! Mediators in Rust: they tell of every file that is opened, and refuse those with a name that the options give.
//!
//! ```text
//! wrapper files implementation "brant_example.dll"
//! wrap CreateFileW in kernel32 with my_create_file size 28
//! ```

use std::ffi::c_void;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use brant_mediator::{Event, PerThread};

const INVALID_HANDLE: *mut c_void = -1_isize as *mut c_void;

static REFUSED: OnceLock<String> = OnceLock::new();
static CALLS: PerThread<AtomicU64, 256> = PerThread::new();

brant_mediator::mediator! {
    /// Before CreateFileW.
    fn my_create_file(
        call, path: *const u16, access: u32, share: u32, security: *const c_void, creation: u32, flags: u32, template: *mut c_void,
    ) -> *mut c_void {
        // SAFETY: the function takes a text that ends with a zero.
        let length = (0..).take_while(|at| unsafe { path.add(*at).read() } != 0).count();
        // SAFETY: so many units are there.
        let name = String::from_utf16_lossy(unsafe { std::slice::from_raw_parts(path, length) });
        if let Some(calls) = CALLS.get() {
            calls.fetch_add(1, Ordering::Relaxed);
        }
        let is_refused = REFUSED.get().is_some_and(|refused| name.ends_with(refused.as_str()));
        let file = if is_refused { INVALID_HANDLE } else { call.inner() };
        let said = if file == INVALID_HANDLE { "refused" } else { "opened" };
        eprintln!("{said} {name}");
        file
    }
}

fn on_event(event: Event<'_>) -> Result<(), &'static str> {
    match event {
        Event::Load(load) if load.options().is_empty() => Ok(()),
        Event::Load(load) => {
            let refused = String::from_utf8_lossy(load.options()).into_owned();
            REFUSED.set(refused).map_err(|_| "it has options already")
        }
        Event::Unload => {
            let calls: u64 = CALLS.iter().map(|calls| calls.load(Ordering::Relaxed)).sum();
            eprintln!("{calls} files");
            Ok(())
        }
        _ => Ok(()),
    }
}

brant_mediator::events!(on_event);
