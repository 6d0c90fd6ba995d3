//! brant_connect.dll: the two calls of mediating connectors for C, as `include/brant/connect.h` declares them.
#![allow(
    clippy::missing_const_for_thread_local,
    reason = "they are const; clippy does not see it where a target has no native ones"
)]

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::path::Path;

use brant_control::{Log, own_folder, unwrap_process, wrap_process};
use brant_windows::{Callers, Left, Refused};

thread_local! {
    /// Of the last call that failed.
    static WORDS: RefCell<Option<CString>> = const { RefCell::new(None) };
    /// The log that was chosen; nothing where the environment's counts.
    static LOG: RefCell<Option<Log>> = const { RefCell::new(None) };
}

/// Puts the wrapper that `name` leads to on a process. 0, or a code of `brant explain`.
///
/// # Safety
///
/// `name` is a string that ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn WrapProcess(name: *const c_char, pid: c_int) -> c_int {
    // SAFETY: promised by the caller.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    answer(with_log(|log| {
        let home = own_folder(WrapProcess as *const ())?;
        wrap_process(&name, pid as u32, Callers::Program, &home, log).map(|_| 0)
    }))
}

/// Takes a wrapper off a process. 0; 1 where its implementation stays loaded, dormant; or a code of `brant explain`.
///
/// # Safety
///
/// `name` is a string that ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn UnwrapProcess(name: *const c_char, pid: c_int) -> c_int {
    // SAFETY: promised by the caller.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    answer(with_log(|log| {
        unwrap_process(&name, pid as u32, log).map(|(_, left)| c_int::from(left == Left::Dormant))
    }))
}

/// What the calling thread's last call that failed has to say. Valid until its next call.
#[unsafe(no_mangle)]
pub extern "C" fn ConnectorError() -> *const c_char {
    WORDS.with_borrow(|words| words.as_ref().map_or(c"".as_ptr(), |words| words.as_ptr()))
}

/// Lets the calling thread's calls note each interception at the end of the file at `path`; with null they note it where the variable
/// BRANT_CONNECT_LOG says, if it is set. 0, or a code of `brant explain`.
///
/// # Safety
///
/// `path` is null or a string that ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ConnectorLog(path: *const c_char) -> c_int {
    if path.is_null() {
        LOG.set(None);
        return 0;
    }
    // SAFETY: promised by the caller.
    let path = unsafe { CStr::from_ptr(path) }.to_string_lossy().into_owned();
    answer(Log::open(Path::new(&path)).map(|log| {
        LOG.set(Some(log));
        0
    }))
}

fn with_log<T>(act: impl FnOnce(&Log) -> Result<T, Refused>) -> Result<T, Refused> {
    LOG.with_borrow(|log| match log {
        Some(log) => act(log),
        None => act(&Log::from_environment()?),
    })
}

fn answer(done: Result<c_int, Refused>) -> c_int {
    match done {
        Ok(number) => number,
        Err(refused) => {
            WORDS.set(CString::new(refused.to_string().replace('\0', " ")).ok());
            refused.number()
        }
    }
}
