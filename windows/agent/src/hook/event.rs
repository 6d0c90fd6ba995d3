//! What a wrapper's implementation is told: `struct brant_event` of `brant/mediator.h`.

use std::ffi::CString;

use brant_mediator::{RawFunction, RawLibrary};
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

/// A library that comes or goes, with its texts.
#[derive(Debug)]
pub(crate) struct Library {
    raw: RawLibrary,
    _path: CString,
    _name: CString,
}

/// One `wrap` of the definition, as it is told.
pub(crate) fn function(function: &SpecFunction) -> RawFunction {
    let text = |text: &str| kept(text).as_ptr();
    RawFunction {
        name: text(&function.function),
        library: text(&function.library),
        prototype: text(&function.prototype),
        kinds: text(&function.kinds),
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
