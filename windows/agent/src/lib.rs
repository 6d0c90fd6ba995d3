//! What lives in a wrapped Windows program: it answers requests, and puts mediators before functions.
//!
//! Every request comes on a thread of its own that was made for it, and whoever asked may be gone: all state is here. The agent is
//! never unloaded. Its own memory is a heap of its own ([`memory`]).

mod handles;
mod hook;
mod memory;
mod record;
mod serve;
mod thread;

use std::ffi::c_void;

use windows_sys::Win32::Foundation::{FALSE, HINSTANCE, TRUE};
use windows_sys::Win32::System::SystemServices::{DLL_PROCESS_ATTACH, DLL_THREAD_DETACH};
use windows_sys::core::BOOL;

/// The loader calls it when the agent is loaded, and when threads begin and end.
#[unsafe(no_mangle)]
#[allow(unreachable_pub, non_snake_case)]
pub extern "system" fn DllMain(_own: HINSTANCE, reason: u32, _reserved: *mut c_void) -> BOOL {
    match reason {
        DLL_PROCESS_ATTACH if !thread::prepare() => FALSE,
        DLL_THREAD_DETACH => {
            thread::ends();
            TRUE
        }
        _ => TRUE,
    }
}
