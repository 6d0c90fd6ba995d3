//! What a wrapper's implementation is told: `struct brant_event` of `brant/mediator.h`.

use std::ffi::{CString, c_char};

use brant_windows::SpecFunction;

use super::implementation::kept;

/// What happens to a wrapper.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event<'a> {
    Load,
    Off,
    Unload,
    Library(&'a Library),
    LibraryGone(&'a Library),
}

/// `struct brant_function`.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Function {
    name: *const c_char,
    library: *const c_char,
    prototype: *const c_char,
    kinds: *const c_char,
}

// SAFETY: what they point to is never changed or freed.
unsafe impl Sync for Function {}
// SAFETY: as above.
unsafe impl Send for Function {}

/// A library that comes or goes, with its texts.
#[derive(Debug)]
pub(crate) struct Library {
    raw: RawLibrary,
    _path: CString,
    _name: CString,
}

/// `struct brant_library`.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct RawLibrary {
    path: *const c_char,
    soname: *const c_char,
    base: u64,
}

/// `struct brant_event`.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Raw {
    pub(crate) bytes: u32,
    pub(crate) kind: u32,
    pub(crate) wrapper: *const c_char,
    pub(crate) options: *const c_char,
    pub(crate) functions: *const Function,
    pub(crate) function_count: usize,
    pub(crate) answer: *mut c_char,
    pub(crate) answer_bytes: usize,
    pub(crate) library: *const RawLibrary,
}

impl Function {
    pub(crate) fn of(function: &SpecFunction) -> Function {
        let text = |text: &str| kept(text).as_ptr();
        Function {
            name: text(&function.function),
            library: text(&function.library),
            prototype: text(&function.prototype),
            kinds: text(&function.kinds),
        }
    }
}

impl Library {
    pub(crate) fn new(path: &str, name: &str, base: u64) -> Library {
        let path = CString::new(path).unwrap_or_default();
        let name = CString::new(name).unwrap_or_default();
        let raw = RawLibrary { path: path.as_ptr(), soname: name.as_ptr(), base };
        Library { raw, _path: path, _name: name }
    }
}

impl Event<'_> {
    pub(crate) fn kind(self) -> u32 {
        match self {
            Event::Load => 1,
            Event::Off => 2,
            Event::Unload => 3,
            Event::Library(_) => 5,
            Event::LibraryGone(_) => 6,
        }
    }

    pub(crate) fn library(self) -> *const RawLibrary {
        match self {
            Event::Library(library) | Event::LibraryGone(library) => &raw const library.raw,
            Event::Load | Event::Off | Event::Unload => std::ptr::null(),
        }
    }
}
