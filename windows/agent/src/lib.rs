//! What lives in a wrapped Windows program: it answers requests.
//!
//! Every request comes on a thread of its own that was made for it, and whoever asked may be gone: all state is here.

mod serve;

use std::ffi::c_void;

use windows_sys::Win32::Foundation::{HINSTANCE, TRUE};
use windows_sys::core::BOOL;

/// The loader calls it when the agent is loaded, and when threads begin and end.
#[unsafe(no_mangle)]
#[allow(unreachable_pub, non_snake_case)]
pub extern "system" fn DllMain(_own: HINSTANCE, _reason: u32, _reserved: *mut c_void) -> BOOL {
    TRUE
}
