//! Handles that are closed when they are dropped.

use windows_sys::Win32::Foundation::{CloseHandle, HANDLE, INVALID_HANDLE_VALUE};

/// A handle of ours.
#[derive(Debug)]
pub(crate) struct Handle(HANDLE);

impl Handle {
    /// What a call gave, unless it failed.
    pub(crate) fn new(handle: HANDLE) -> Option<Handle> {
        (!handle.is_null() && handle != INVALID_HANDLE_VALUE).then_some(Handle(handle))
    }

    pub(crate) fn raw(&self) -> HANDLE {
        self.0
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: nobody else closes it.
        unsafe { CloseHandle(self.0) };
    }
}

// SAFETY: a handle is of the process, not of a thread.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}
