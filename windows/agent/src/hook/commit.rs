//! Code that is changed: all jumps of a wrapper at once, while no other thread runs.

use std::ffi::c_void;

use brant_windows::{Code, Refused};
use windows_sys::Win32::System::Diagnostics::Debug::FlushInstructionCache;
use windows_sys::Win32::System::Memory::{PAGE_EXECUTE_READWRITE, PAGE_PROTECTION_FLAGS, VirtualProtect};
use windows_sys::Win32::System::Threading::GetCurrentProcess;

use super::code::Write;

/// Code that may be written until this is dropped.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Where, how many bytes, and what they were before.
    places: Vec<(u64, usize, PAGE_PROTECTION_FLAGS)>,
}

/// Makes places of code writable. Before any thread is stopped: the kernel may need a lock for it.
pub(crate) fn open<'a>(writes: impl Iterator<Item = &'a Write>) -> Result<Opened, Refused> {
    let mut opened = Opened { places: Vec::new() };
    for write in writes {
        let before = protect(write.at, write.new.len(), PAGE_EXECUTE_READWRITE).ok_or_else(|| {
            Refused::new(Code::Failed, format!("the code at {:#x} cannot be made writable", write.at))
                .why(std::io::Error::last_os_error())
        })?;
        opened.places.push((write.at, write.new.len(), before));
    }
    Ok(opened)
}

fn protect(at: u64, bytes: usize, how: PAGE_PROTECTION_FLAGS) -> Option<PAGE_PROTECTION_FLAGS> {
    let mut before = 0;
    // SAFETY: code of a loaded library, which stays executable.
    let is_done = unsafe { VirtualProtect(at as *const c_void, bytes, how, &raw mut before) };
    (is_done != 0).then_some(before)
}

impl Drop for Opened {
    fn drop(&mut self) {
        // Backwards: places of one page are opened one after the other.
        for (at, bytes, before) in self.places.iter().rev() {
            let _ = protect(*at, *bytes, *before);
            // SAFETY: code of this process.
            unsafe { FlushInstructionCache(GetCurrentProcess(), *at as *const c_void, *bytes) };
        }
    }
}

impl Write {
    /// Whether that stands there which is expected: the old bytes, or the new ones.
    pub(crate) fn stands(&self, is_new: bool) -> bool {
        let expected = if is_new { &self.new } else { &self.old };
        // SAFETY: code of a library that is loaded.
        let found = unsafe { std::slice::from_raw_parts(self.at as *const u8, expected.len()) };
        found == expected.as_slice()
    }

    /// Writes the new bytes, or the old ones again. The place is open, and no other thread runs there.
    pub(crate) fn perform(&self, is_new: bool) {
        let bytes = if is_new { &self.new } else { &self.old };
        for (offset, byte) in bytes.iter().enumerate() {
            let at = (self.at + offset as u64) as *mut u8;
            // SAFETY: the caller has opened the place.
            unsafe { at.write_volatile(*byte) };
        }
    }
}
