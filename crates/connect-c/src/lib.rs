//! The two calls of mediating connectors for C: `include/brant/connect.h` declares them.
//!
//! Both drive the process by ptrace from a thread of their own and return when that is done.

use std::cell::RefCell;
use std::ffi::{CStr, CString, OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use brant_base::Pid;
use brant_connect::{Error, Implementation, Log};

thread_local! {
    static WORDS: RefCell<CString> = RefCell::default();
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
    let wrap = |log: &Log| {
        let wrapper = brant_connect::definitions::find(&name)?;
        brant_connect::wrap(&wrapper, Pid(pid), log).map(|_| 0)
    };
    answer(with_log(wrap))
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
    let unwrap = |log: &Log| brant_connect::unwrap(&name, Pid(pid), log);
    answer(with_log(unwrap).map(|unwrapped| is_dormant(unwrapped.implementation)))
}

/// What the calling thread's last call that failed has to say. Valid until its next call.
#[unsafe(no_mangle)]
pub extern "C" fn ConnectorError() -> *const c_char {
    WORDS.with_borrow(|words| words.as_ptr())
}

/// Lets the calling thread's calls note each interception at the end of the file at `path`, which is made where it is not there;
/// with null they note it where the variable BRANT_CONNECT_LOG says, if it is set. 0, or a code of `brant explain`.
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
    let path = Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()));
    answer(Log::open(path).map(|log| {
        LOG.set(Some(log));
        0
    }))
}

fn with_log<T>(act: impl FnOnce(&Log) -> Result<T, Error>) -> Result<T, Error> {
    LOG.with_borrow(|log| match log {
        Some(log) => act(log),
        None => act(&Log::from_environment()?),
    })
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
