//! Libraries of another process.

use std::ffi::OsString;
use std::os::windows::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use brant_windows::exports::Memory;
use brant_windows::{Code, Refused};
use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::Diagnostics::ToolHelp::{
    CreateToolhelp32Snapshot, MODULEENTRY32W, Module32FirstW, Module32NextW, TH32CS_SNAPMODULE,
    TH32CS_SNAPTHREAD, THREADENTRY32, Thread32First, Thread32Next,
};

use windows_sys::Win32::System::LibraryLoader::{
    GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS, GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT, GetModuleFileNameW,
    GetModuleHandleExW,
};

use crate::error::last;
use crate::handle::Handle;
use crate::memory;

/// How often a process's libraries are listed until one is known to be missing.
const LOOKS_MAX: u32 = 50;
const LOOK_PAUSE: Duration = Duration::from_millis(2);
/// A path has at most so many units.
const PATH_UNITS_MAX: usize = 32_768;

/// A library that another process has loaded.
#[derive(Debug)]
pub(crate) struct Module {
    process: HANDLE,
    pub(crate) base: u64,
    bytes: u32,
}

impl Memory for Module {
    fn read(&self, offset: u32, into: &mut [u8]) -> bool {
        let end = u64::from(offset) + into.len() as u64;
        end <= u64::from(self.bytes) && memory::read(self.process, self.base + u64::from(offset), into)
    }
}

/// The library with this file name; nothing where the process has not loaded it, or cannot be looked at.
///
/// The process's own list is read while it may change, and then a part of it may be missed. So it is not there only if it is missing in two lists
/// that are the same.
pub(crate) fn find(process: HANDLE, pid: u32, name: &str) -> Option<Module> {
    let mut before = None;
    for _ in 0..LOOKS_MAX {
        let libraries = list(pid);
        let is_meant = |(_, _, other): &&(u64, u32, String)| other.eq_ignore_ascii_case(name);
        if let Some((base, bytes, _)) = libraries.iter().find(is_meant) {
            return Some(Module { process, base: *base, bytes: *bytes });
        }
        if before.as_ref() == Some(&libraries) {
            return None;
        }
        before = Some(libraries);
        std::thread::sleep(LOOK_PAUSE);
    }
    None
}

/// Where the libraries are, their lengths and file names, as far as they can be told now.
fn list(pid: u32) -> Vec<(u64, u32, String)> {
    let mut found = Vec::new();
    // SAFETY: a call without pointers.
    let Some(snapshot) = Handle::new(unsafe { CreateToolhelp32Snapshot(TH32CS_SNAPMODULE, pid) }) else {
        return found;
    };
    let mut entry = MODULEENTRY32W { dwSize: size_of::<MODULEENTRY32W>() as u32, ..Default::default() };
    // SAFETY: the snapshot is open; the entry says how long it is.
    let mut is_there = unsafe { Module32FirstW(snapshot.raw(), &raw mut entry) };
    while is_there != 0 {
        let length = entry.szModule.iter().position(|unit| *unit == 0).unwrap_or(entry.szModule.len());
        let name = String::from_utf16_lossy(&entry.szModule[..length]);
        found.push((entry.modBaseAddr as u64, entry.modBaseSize, name));
        // SAFETY: as above.
        is_there = unsafe { Module32NextW(snapshot.raw(), &raw mut entry) };
    }
    found
}

/// The folder of the library or program that this code of ours is in: where the agent lies.
pub fn own_folder(code: *const ()) -> Result<PathBuf, Refused> {
    let failed = || last(Code::Failed, "it cannot be told where brant lies");
    let mut library = std::ptr::null_mut();
    let flags = GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT;
    // SAFETY: there is room for the answer.
    if unsafe { GetModuleHandleExW(flags, code.cast(), &raw mut library) } == 0 {
        return Err(failed());
    }
    let mut path = vec![0; PATH_UNITS_MAX];
    // SAFETY: there is room for so many units.
    let length = unsafe { GetModuleFileNameW(library, path.as_mut_ptr(), path.len() as u32) } as usize;
    let path = PathBuf::from(OsString::from_wide(&path[..length]));
    path.parent().map(Path::to_owned).ok_or_else(failed)
}

/// The threads of a process.
pub(crate) fn threads(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    // SAFETY: a call without pointers.
    let Some(snapshot) = Handle::new(unsafe { CreateToolhelp32Snapshot(TH32CS_SNAPTHREAD, 0) }) else {
        return found;
    };
    let mut entry = THREADENTRY32 { dwSize: size_of::<THREADENTRY32>() as u32, ..Default::default() };
    // SAFETY: the snapshot is open; the entry says how long it is.
    let mut is_there = unsafe { Thread32First(snapshot.raw(), &raw mut entry) };
    while is_there != 0 {
        if entry.th32OwnerProcessID == pid {
            found.push(entry.th32ThreadID);
        }
        // SAFETY: as above.
        is_there = unsafe { Thread32Next(snapshot.raw(), &raw mut entry) };
    }
    found
}
