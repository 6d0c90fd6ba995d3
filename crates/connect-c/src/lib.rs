//! The two calls of mediating connectors for C: `include/brant/connect.h` declares them.
//!
//! Both drive the process by ptrace from the calling thread and return when that is done.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};

use brant_base::Pid;
use brant_connect::{Error, Implementation};

thread_local! {
    static WORDS: RefCell<CString> = RefCell::default();
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
    answer(brant_connect::wrap_process(&name, Pid(pid)).map(|_| 0))
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
    let is_dormant = |implementation| c_int::from(implementation != Implementation::Unloaded);
    answer(
        brant_connect::unwrap_process(&name, Pid(pid)).map(|unwrapped| is_dormant(unwrapped.implementation)),
    )
}

/// What the calling thread's last call that failed has to say. Valid until its next call.
#[unsafe(no_mangle)]
pub extern "C" fn ConnectorError() -> *const c_char {
    WORDS.with_borrow(|words| words.as_ptr())
}

fn answer(done: Result<c_int, Error>) -> c_int {
    let error = match done {
        Ok(number) => return number,
        Err(error) => error,
    };
    let mut words = error.to_string();
    if let Error::Unhookable(functions) = &error {
        functions.iter().for_each(|function| words.push_str(&format!("\n{function}")));
    }
    WORDS.set(CString::new(words.replace('\0', " ")).unwrap_or_default());
    error.code().strip_prefix("B-").and_then(|number| number.parse().ok()).unwrap_or(-1)
}
