//! Libraries of another process.

use brant_windows::exports::Memory;
use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::Diagnostics::ToolHelp::{
    CreateToolhelp32Snapshot, MODULEENTRY32W, Module32FirstW, Module32NextW, TH32CS_SNAPMODULE,
    TH32CS_SNAPTHREAD, THREADENTRY32, Thread32First, Thread32Next,
};

use crate::handle::Handle;
use crate::memory;

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
pub(crate) fn find(process: HANDLE, pid: u32, name: &str) -> Option<Module> {
    // SAFETY: a call without pointers.
    let snapshot = Handle::new(unsafe { CreateToolhelp32Snapshot(TH32CS_SNAPMODULE, pid) })?;
    let mut entry = MODULEENTRY32W { dwSize: size_of::<MODULEENTRY32W>() as u32, ..Default::default() };
    // SAFETY: the snapshot is open; the entry says how long it is.
    let mut is_there = unsafe { Module32FirstW(snapshot.raw(), &raw mut entry) };
    while is_there != 0 {
        let length = entry.szModule.iter().position(|unit| *unit == 0).unwrap_or(entry.szModule.len());
        if String::from_utf16_lossy(&entry.szModule[..length]).eq_ignore_ascii_case(name) {
            return Some(Module { process, base: entry.modBaseAddr as u64, bytes: entry.modBaseSize });
        }
        // SAFETY: as above.
        is_there = unsafe { Module32NextW(snapshot.raw(), &raw mut entry) };
    }
    None
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
