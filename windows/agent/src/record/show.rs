//! The record, told.

use std::ffi::c_void;

use brant_windows::record::{Object, Process, Shown, Standard, Thread, Wait};
use brant_windows::{Code, Refused};
use windows_sys::Win32::Foundation::STILL_ACTIVE;
use windows_sys::Win32::Storage::FileSystem::{
    FILE_CURRENT, FILE_TYPE_CHAR, FILE_TYPE_DISK, FILE_TYPE_PIPE, GetFileType, SetFilePointerEx,
};
use windows_sys::Win32::System::Console::{
    GetStdHandle, STD_ERROR_HANDLE, STD_INPUT_HANDLE, STD_OUTPUT_HANDLE,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcessId, GetExitCodeProcess};

use super::state::Record;
use super::{calls, heaps, state};
use crate::{handles, hook, thread};

/// All that is kept.
pub(crate) fn show() -> Result<Shown, Refused> {
    // SAFETY: a call without arguments.
    let pid = unsafe { GetCurrentProcessId() };
    let none = || {
        Refused::new(Code::NotRecorded, format!("process {pid} keeps no record"))
            .next(format!("brant.exe wrap record {pid}"))
    };
    if !hook::wrappers().iter().any(|wrapper| wrapper.name == super::NAME && wrapper.is_on) {
        return Err(none());
    }
    let held = || {
        Refused::new(Code::Slow, format!("the record of process {pid} cannot be read"))
            .why("a thread of the program has it, and does not run, or was ended meanwhile")
    };
    // What asks the kernel is done without the record, which the program's threads need.
    let living: Vec<u32> = hook::living().into_iter().filter(|id| *id != thread::thread_id()).collect();
    let mut shown = state::ask(|record| told(record, &living)).ok_or_else(held)?;
    shown.pid = pid;
    shown.program = std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_default();
    shown.heaps = heaps::all();
    shown.calls = calls();
    shown.lost = state::lost();
    shown
        .handles
        .iter_mut()
        .filter(|object| object.kind == "file")
        .for_each(|file| file.position = position(handles::real(file.handle)));
    for standard in &mut shown.standard {
        standard.kind = kind(handles::real(standard.handle)).to_owned();
    }
    Ok(shown)
}

fn told(record: &mut Record, living: &[u32]) -> Shown {
    record.waits.retain(|thread, _| living.contains(thread));
    let now = |since: std::time::Instant| since.elapsed().as_millis() as u64;
    let mut threads: Vec<Thread> = record
        .threads
        .iter()
        .map(|(id, made)| Thread {
            id: *id,
            start: made.start,
            creator: made.creator,
            is_running: living.contains(id),
        })
        .collect();
    let others = living.iter().filter(|id| !record.threads.contains_key(id));
    threads.extend(others.map(|id| Thread { id: *id, start: 0, creator: 0, is_running: true }));
    threads.sort_by_key(|thread| thread.id);
    let waits = record.waits.iter().map(|(thread, wait)| Wait {
        thread: *thread,
        function: wait.function.to_owned(),
        limit_ms: wait.limit_ms,
        since_ms: now(wait.since),
    });
    Shown {
        recorded_ms: record.now_ms(),
        standard: standard(record),
        handles: record.handles.values().cloned().collect::<Vec<Object>>(),
        closed: record.closed,
        failed: record.failed,
        processes: record.children.iter().map(|child| process(record, &child.told, child.handle)).collect(),
        threads,
        regions: record.regions.values().cloned().collect(),
        sockets: record.sockets.values().cloned().collect(),
        gui: record.gui.values().cloned().collect(),
        waits: waits.collect(),
        waits_done: record.waits_done,
        waited_ms: record.waited_ms,
        ..Shown::default()
    }
}

fn standard(record: &Record) -> Vec<Standard> {
    let names = [("input", STD_INPUT_HANDLE), ("output", STD_OUTPUT_HANDLE), ("error", STD_ERROR_HANDLE)];
    let told = names.iter().map(|(name, which)| Standard {
        name: (*name).to_owned(),
        // SAFETY: a call without pointers.
        handle: unsafe { GetStdHandle(*which) } as u64,
        kind: String::new(),
        sets: record.sets.get(which).copied().unwrap_or(0),
    });
    told.collect()
}

/// How a process has ended can be told as long as the program has its handle.
fn process(record: &Record, told: &Process, handle: u64) -> Process {
    let is_held = record.handles.get(&handle).is_some_and(|object| object.kind == "process");
    let mut code = 0;
    // SAFETY: a handle that the program holds, and room for the answer.
    let is_known = is_held && unsafe { GetExitCodeProcess(handle as *mut c_void, &raw mut code) } != 0;
    Process { exit_code: (is_known && code != STILL_ACTIVE as u32).then_some(code), ..told.clone() }
}

fn kind(handle: u64) -> &'static str {
    // SAFETY: a handle that may be any number.
    match unsafe { GetFileType(handle as *mut c_void) } {
        FILE_TYPE_DISK => "file",
        FILE_TYPE_CHAR => "console or device",
        FILE_TYPE_PIPE => "pipe",
        _ if handle == 0 => "none",
        _ => "unknown",
    }
}

/// Where a regular file stands.
fn position(file: u64) -> Option<u64> {
    // SAFETY: a handle that may have been closed meanwhile.
    if unsafe { GetFileType(file as *mut c_void) } != FILE_TYPE_DISK {
        return None;
    }
    let mut position = 0;
    // SAFETY: as above, and room for the answer. Nothing is moved.
    let is_told = unsafe { SetFilePointerEx(file as *mut c_void, 0, &raw mut position, FILE_CURRENT) };
    (is_told != 0).then_some(position as u64)
}
