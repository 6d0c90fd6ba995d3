//! The ranges of addresses that a carried program has everywhere.

use std::ffi::c_void;

use brant_windows::{Code, Refused};
use windows_sys::Win32::System::Memory::{
    MEM_COMMIT, MEM_RESERVE, PAGE_NOACCESS, PAGE_READWRITE, VirtualAlloc,
};

use crate::places::{SPACE, SPACE_BYTES, STATE, SYSTEM_MODULES, SYSTEM_MODULES_MAX};
use crate::state::State;

/// Reserves them, and commits the records, which are zero.
pub(crate) fn all() -> Result<(), Refused> {
    at(SYSTEM_MODULES, SYSTEM_MODULES_MAX << 16, MEM_RESERVE, PAGE_NOACCESS)?;
    at(SPACE, SPACE_BYTES, MEM_RESERVE, PAGE_READWRITE)?;
    at(STATE, size_of::<State>(), MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE)
}

fn at(start: usize, bytes: usize, how: u32, protection: u32) -> Result<(), Refused> {
    // SAFETY: asks for pages at an address.
    let got = unsafe { VirtualAlloc(start as *const c_void, bytes, how, protection) };
    if got as usize == start {
        return Ok(());
    }
    Err(Refused::new(Code::NotCarried, format!("something else is at {start:#x} in this process"))
        .why("carried programs have their memory there"))
}
