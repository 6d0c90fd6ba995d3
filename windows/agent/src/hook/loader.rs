//! The loader: its lock, and what it tells of libraries that come and go.
//!
//! Whoever needs the engine's table and the loader takes the loader's lock first, as the loader holds it when it tells us something.

use std::ffi::c_void;

use brant_windows::{Code, Refused};
use windows_sys::Win32::Foundation::UNICODE_STRING;
use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleW, GetProcAddress};

use crate::serve;

/// `LDR_DLL_NOTIFICATION_DATA`: the same for both kinds.
#[repr(C)]
pub(crate) struct Notice {
    flags: u32,
    full_name: *const UNICODE_STRING,
    base_name: *const UNICODE_STRING,
    base: *const c_void,
    bytes: u32,
}

pub(crate) const LOADED: u32 = 1;

type Told = unsafe extern "system" fn(reason: u32, notice: *const Notice, context: *mut c_void);
type Register = unsafe extern "system" fn(u32, Told, *mut c_void, *mut *mut c_void) -> i32;
type Lock = unsafe extern "system" fn(u32, *mut u32, *mut usize) -> i32;
type Unlock = unsafe extern "system" fn(u32, usize) -> i32;

impl Notice {
    pub(crate) fn base(&self) -> u64 {
        self.base as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.bytes)
    }

    pub(crate) fn path(&self) -> String {
        // SAFETY: the loader's own, while it tells of the library.
        let name = unsafe { &*self.full_name };
        // SAFETY: as above.
        let units = unsafe { std::slice::from_raw_parts(name.Buffer, usize::from(name.Length) / 2) };
        String::from_utf16_lossy(units)
    }
}

/// A function of ntdll.
pub(crate) fn ntdll(name: &std::ffi::CStr) -> Option<usize> {
    let library: Vec<u16> = "ntdll.dll\0".encode_utf16().collect();
    // SAFETY: a text that ends with a zero.
    let ntdll = unsafe { GetModuleHandleW(library.as_ptr()) };
    // SAFETY: a loaded library, and a text that ends with a zero byte.
    unsafe { GetProcAddress(ntdll, name.as_ptr().cast()) }.map(|function| function as usize)
}

/// From now on `told` is called for each library.
pub(crate) fn listen(told: Told) -> bool {
    let Some(register) = ntdll(c"LdrRegisterDllNotification") else { return false };
    // SAFETY: ntdll's function of this name has this prototype.
    let register: Register = unsafe { std::mem::transmute(register) };
    let mut cookie = std::ptr::null_mut();
    // SAFETY: the agent is never unloaded.
    unsafe { register(0, told, std::ptr::null_mut(), &raw mut cookie) >= 0 }
}

/// The loader's lock, which this thread holds.
#[derive(Debug)]
pub(crate) struct Held {
    cookie: usize,
}

/// Takes the loader's lock. It is waited for in the row of all that wait: where libraries and threads come and go all the time it is never just
/// free, so that whoever only tries comes too late each time. If it takes longer than whoever asked has patience, nothing is done.
pub(crate) fn hold() -> Result<Held, Refused> {
    let failed = || Refused::new(Code::Failed, "ntdll exports no lock of its loader");
    let lock = ntdll(c"LdrLockLoaderLock").ok_or_else(failed)?;
    // SAFETY: ntdll's function of this name has this prototype.
    let lock: Lock = unsafe { std::mem::transmute(lock) };
    let mut cookie = 0;
    // SAFETY: there is room for the cookie; no state is asked for.
    if unsafe { lock(0, std::ptr::null_mut(), &raw mut cookie) } < 0 {
        return Err(failed());
    }
    let held = Held { cookie };
    serve::step()?;
    Ok(held)
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(unlock) = ntdll(c"LdrUnlockLoaderLock") {
            // SAFETY: ntdll's function of this name has this prototype.
            let unlock: Unlock = unsafe { std::mem::transmute(unlock) };
            // SAFETY: this thread holds the lock.
            unsafe { unlock(0, self.cookie) };
        }
    }
}
