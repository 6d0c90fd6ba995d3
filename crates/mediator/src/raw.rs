//! What a wrapper is told, as `brant/mediator.h` lays it out. For who tells: brant's own runtimes; no part of what is promised to others.

use core::ffi::c_char;

/// `struct brant_event`.
#[repr(C)]
#[derive(Debug)]
pub struct Raw {
    pub bytes: u32,
    pub kind: u32,
    pub wrapper: *const c_char,
    pub options: *const c_char,
    pub functions: *const RawFunction,
    pub function_count: usize,
    pub answer: *mut c_char,
    pub answer_bytes: usize,
    /// Only with the events of libraries.
    pub library: *const RawLibrary,
}

/// `struct brant_function`: one `wrap` of the definition.
#[repr(C)]
#[derive(Debug)]
pub struct RawFunction {
    pub name: *const c_char,
    pub library: *const c_char,
    pub prototype: *const c_char,
    pub kinds: *const c_char,
}

// SAFETY: nothing changes them, or what they point to.
unsafe impl Sync for RawFunction {}
// SAFETY: as above.
unsafe impl Send for RawFunction {}

/// `struct brant_library`.
#[repr(C)]
#[derive(Debug)]
pub struct RawLibrary {
    pub path: *const c_char,
    pub soname: *const c_char,
    pub base: u64,
}
