//! What a wrapper is told. The layouts are those of `brant/mediator.h`.

use core::ffi::{CStr, c_char, c_int};
use core::sync::atomic::{AtomicBool, Ordering};

use crate::raw::{Raw, RawFunction, RawLibrary};

/// What happens to the wrapper, on one of the program's own threads.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// The mediators are about to stand before their functions.
    Load(Load),
    /// No new call reaches them; some may be under way.
    Off,
    /// No call is under way; the library is unloaded next.
    Unload,
    /// The program is about to be checkpointed, and may end after that or be moved to another host: what waits in buffers should
    /// be written now. A record that waits when the program stops is in both copies, where both run on.
    Save,
    /// A library has been loaded: its functions are mediated, its constructors have not run. This is told within the loader,
    /// under its lock: dlopen, dlsym and the like must not be called, nor functions of the library. Those of other namespaces
    /// (dlmopen) are not told of.
    Library(Library<'a>),
    /// A library has been unloaded. Told as above.
    LibraryGone(Library<'a>),
    /// The program ends by returning from main or by exit(3), while the wrapper is on. Other threads may still call.
    Exit,
}

/// With what the wrapper is loaded. It stays as long as the library is loaded.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    wrapper: &'static CStr,
    options: &'static CStr,
    functions: &'static [Function],
}

impl Load {
    pub fn wrapper(&self) -> &'static [u8] {
        self.wrapper.to_bytes()
    }

    /// What stands behind the colon in `brant wrap NAME:OPTIONS TARGET`.
    pub fn options(&self) -> &'static [u8] {
        self.options.to_bytes()
    }

    /// The same with its zero byte.
    pub fn options_text(&self) -> &'static CStr {
        self.options
    }

    /// One for each `wrap` of the definition: [`crate::Call::index`] is the place in it.
    pub fn functions(&self) -> &'static [Function] {
        self.functions
    }
}

/// A library that has come or gone.
#[derive(Debug, Clone, Copy)]
pub struct Library<'a> {
    path: &'a CStr,
    soname: &'a CStr,
    base: usize,
}

impl<'a> Library<'a> {
    /// As the loader knows it.
    pub fn path(&self) -> &'a [u8] {
        self.path.to_bytes()
    }

    /// Empty where it has none, or that cannot be told.
    pub fn soname(&self) -> &'a [u8] {
        self.soname.to_bytes()
    }

    /// What the loader adds to its addresses.
    pub fn base(&self) -> usize {
        self.base
    }
}

/// One `wrap` of the definition.
#[repr(transparent)]
#[derive(Debug)]
pub struct Function(RawFunction);

impl Function {
    pub fn name(&self) -> &'static [u8] {
        text(self.0.name).to_bytes()
    }

    pub fn library(&self) -> &'static [u8] {
        text(self.0.library).to_bytes()
    }

    /// The signature in C; empty where the definition has none.
    pub fn prototype(&self) -> &'static [u8] {
        text(self.0.prototype).to_bytes()
    }

    /// The signature in letters, see `brant/mediator.h`; empty where the definition has none.
    pub fn kinds(&self) -> &'static [u8] {
        text(self.0.kinds).to_bytes()
    }
}

fn text(at: *const c_char) -> &'static CStr {
    // SAFETY: only the runtime makes these; its texts end with a zero byte and stay.
    unsafe { CStr::from_ptr(at) }
}

/// # Safety
///
/// `raw` is an event of a library, and is told as long as the result is used.
unsafe fn library<'a>(raw: &'a Raw) -> Library<'a> {
    // SAFETY: promised by the caller: its texts end with a zero byte.
    unsafe {
        let library: &'a RawLibrary = &*raw.library;
        Library {
            path: CStr::from_ptr(library.path),
            soname: CStr::from_ptr(library.soname),
            base: library.base as usize,
        }
    }
}

type Handler = fn(Event<'_>) -> Result<(), &'static str>;

static IS_ON: AtomicBool = AtomicBool::new(false);

/// Behind [`crate::events!`].
///
/// # Safety
///
/// `raw` is as `brant/mediator.h` describes it.
pub unsafe fn deliver(raw: *const Raw, handler: Handler) -> c_int {
    // SAFETY: promised by the caller.
    let raw = unsafe { &*raw };
    let event = match raw.kind {
        1 => Event::Load(Load {
            wrapper: text(raw.wrapper),
            options: text(raw.options),
            // SAFETY: promised by the caller; they stay.
            functions: unsafe { core::slice::from_raw_parts(raw.functions.cast(), raw.function_count) },
        }),
        2 => Event::Off,
        3 => Event::Unload,
        4 => Event::Save,
        // SAFETY: these are the events of libraries.
        5 => Event::Library(unsafe { library(raw) }),
        // SAFETY: as above.
        6 => Event::LibraryGone(unsafe { library(raw) }),
        // Of a later version: there is nothing to decline.
        _ => return 0,
    };
    if matches!(event, Event::Off | Event::Unload) {
        IS_ON.store(false, Ordering::Relaxed);
    }
    match handler(event) {
        Ok(()) => {
            IS_ON.fetch_or(matches!(event, Event::Load(_)), Ordering::Relaxed);
            0
        }
        Err(why) => {
            let bytes = why.len().min(raw.answer_bytes.saturating_sub(1));
            // SAFETY: there is room for so many and a zero byte.
            unsafe {
                core::ptr::copy_nonoverlapping(why.as_ptr(), raw.answer.cast(), bytes);
                raw.answer.add(bytes).write(0);
            }
            1
        }
    }
}

/// Behind [`crate::events!`]: called when the program ends, or the library is unloaded.
pub fn leave(handler: Handler) {
    if IS_ON.swap(false, Ordering::Relaxed) {
        let _ = handler(Event::Exit);
    }
}
