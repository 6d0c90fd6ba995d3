//! Children: what was started, and how it ended.

use core::ffi::{c_char, c_int, c_void};

use brant_record::layout::*;

use super::super::system;
use super::files::{check_partner, put_described};
use super::tables::{Tables, field, put_c_text};
use super::{Caller, caller, calls, own};

const CAPACITY: usize = TABLES[PROCESSES].capacity;

fn empty(pid: c_int, call: u8) -> Process {
    Process {
        sequence: 0,
        pid,
        state: RUNNING,
        call,
        marks: 0,
        unused: 0,
        status: 0,
        tid: 0,
        text_bytes: 0,
        begun_ns: 0,
        ended_ns: 0,
        handle: 0,
        text: [0; PROCESS_TEXT_BYTES],
        reserved: [0; 2],
    }
}

/// An entry, by the one who looks for a place in the table.
fn at(tables: Tables, index: usize) -> Process {
    // SAFETY: nobody else writes.
    unsafe { tables.entry::<Process>(PROCESSES, index).read() }
}

/// The newest entry that fits.
fn find(tables: Tables, fits: impl Fn(&Process) -> bool) -> Option<usize> {
    let entries = (0..tables.used(PROCESSES)).map(|index| (index, at(tables, index)));
    let fitting = entries.filter(|(_, process)| process.pid != 0 && fits(process));
    fitting.max_by_key(|(_, process)| process.begun_ns).map(|(index, _)| index)
}

/// A free place: a new one, one that was given back, or that of whoever ended first.
fn free(tables: Tables) -> Option<usize> {
    let used = tables.used(PROCESSES);
    if let Some(index) = (0..used).find(|index| at(tables, *index).pid == 0) {
        return Some(index);
    }
    if used < CAPACITY {
        tables.use_up_to(PROCESSES, used);
        return Some(used);
    }
    tables.add(field!(processes_not_kept), 1);
    let ended = (0..used).map(|index| (index, at(tables, index)));
    let ended = ended.filter(|(_, process)| process.state == ENDED);
    ended.min_by_key(|(_, process)| process.ended_ns).map(|(index, _)| index)
}

/// Notes a child. `change` says what is known of it.
fn note(tables: Tables, pid: c_int, call: u8, begun_ns: u64, change: impl FnOnce(&mut Process)) {
    tables.alone(PROCESSES, || {
        // What it executes, or its end, may have been seen before its beginning.
        let early = |process: &Process| {
            process.pid == pid
                && (process.state == RUNNING || process.call == call::wait && process.ended_ns >= begun_ns)
        };
        let known = find(tables, early);
        if known.is_none() {
            tables.add(field!(processes_made), 1);
        }
        let Some(index) = known.or_else(|| free(tables)) else { return };
        tables.change(PROCESSES, index, |process: &mut Process| {
            if known.is_none() {
                *process = empty(pid, call);
                process.begun_ns = begun_ns;
            }
            process.call = call;
            process.tid = system::thread();
            change(process);
        });
    });
}

fn put_command(process: &mut Process, command: *const c_char) {
    // SAFETY: a call that succeeded has read it, or reads it next.
    let (bytes, is_whole) = unsafe { put_c_text(command, &mut process.text) };
    process.text_bytes = bytes as u32;
    process.marks = process.marks & !mark::CUT | if is_whole { 0 } else { mark::CUT };
}

/// A child was waited for.
fn waited(tables: Tables, pid: c_int, status: c_int) {
    let has_ended = status & 0x7f == 0 || (status & 0x7f) != 0x7f && status & 0xffff != 0xffff;
    if pid <= 0 || !has_ended {
        return;
    }
    let now = system::wall_ns();
    tables.alone(PROCESSES, || {
        let known = find(tables, |process| process.pid == pid && process.state == RUNNING);
        let Some(index) = known.or_else(|| free(tables)) else { return };
        tables.change(PROCESSES, index, |process: &mut Process| {
            if known.is_none() {
                *process = empty(pid, call::wait);
                process.marks = mark::BEFORE;
                process.begun_ns = now;
            }
            (process.state, process.status, process.ended_ns) = (ENDED, status, now);
        });
    });
}

/// The newest child that this thread has started since then was started by `call`.
fn name_newest(tables: Tables, since_ns: u64, call: u8, command: *const c_char, handle: *mut c_void) {
    let tid = system::thread();
    tables.alone(PROCESSES, || {
        let Some(index) = find(tables, |process| process.tid == tid && process.begun_ns >= since_ns) else {
            return;
        };
        tables.change(PROCESSES, index, |process: &mut Process| {
            (process.call, process.handle) = (call, handle as u64);
            put_command(process, command);
        });
    });
}

/// A child that has its memory in common with us executes something: its parent's record tells.
fn executing(path: *const c_char) -> Option<Tables> {
    let Caller::Sharing(tables) = caller()? else { return None };
    // What cannot be read is not executed either.
    let mut room = [0; PROCESS_TEXT_BYTES];
    let (text, is_whole) = system::read_text(path, &mut room)?;
    note(tables, calls::pid() as c_int, call::execve, system::wall_ns(), |process| {
        process.text[..text.len()].copy_from_slice(text);
        process.text_bytes = text.len() as u32;
        process.marks = process.marks & !mark::CUT | if is_whole { 0 } else { mark::CUT };
    });
    Some(tables)
}

/// It could not be executed.
fn not_executed(tables: Tables) {
    tables.add(field!(exec_failed), 1);
    let pid = calls::pid() as c_int;
    tables.alone(PROCESSES, || {
        let Some(index) = find(tables, |process| process.pid == pid && process.call == call::execve) else {
            return;
        };
        tables.change(PROCESSES, index, |process: &mut Process| process.pid = 0);
        let made = tables.get(field!(processes_made));
        tables.set(field!(processes_made), made.saturating_sub(1));
    });
}

fn spawned(result: c_int, child: *const c_int, call: u8, path: *const c_char, begun_ns: u64) {
    let Some(tables) = own().filter(|_| result == 0 && !child.is_null()) else { return };
    // SAFETY: the call has written it.
    note(tables, unsafe { child.read() }, call, begun_ns, |process| put_command(process, path));
}

brant_mediator::mediator! {
    fn record_fork(call) -> c_int {
        let begun_ns = system::wall_ns();
        let child = call.inner();
        // In the child this begins its own record.
        if let Some(tables) = own().filter(|_| child > 0) {
            note(tables, child, call::fork, begun_ns, |_| {});
        }
        child
    }

    fn record_execve(call, path: *const c_char, arguments: *const c_void, environment: *const c_void) -> c_int {
        let shared = executing(path);
        let result = call.inner();
        match shared {
            Some(tables) => not_executed(tables),
            None => if let Some(tables) = own() {
                tables.add(field!(exec_failed), 1);
            },
        }
        result
    }

    fn record_posix_spawn(call, child: *mut c_int, path: *const c_char, actions: *const c_void, attributes: *const c_void, arguments: *const c_void, environment: *const c_void) -> c_int {
        let begun_ns = system::wall_ns();
        let result = call.inner();
        spawned(result, child, call::posix_spawn, path, begun_ns);
        result
    }

    fn record_posix_spawnp(call, child: *mut c_int, file: *const c_char, actions: *const c_void, attributes: *const c_void, arguments: *const c_void, environment: *const c_void) -> c_int {
        let begun_ns = system::wall_ns();
        let result = call.inner();
        spawned(result, child, call::posix_spawnp, file, begun_ns);
        result
    }

    fn record_system(call, command: *const c_char) -> c_int {
        let begun_ns = system::wall_ns();
        let status = call.inner();
        if let Some(tables) = own().filter(|_| !command.is_null() && status != -1) {
            name_newest(tables, begun_ns, call::system, command, core::ptr::null_mut());
        }
        status
    }

    fn record_popen(call, command: *const c_char, mode: *const c_char) -> *mut c_void {
        let begun_ns = system::wall_ns();
        let stream = call.inner();
        let Some(tables) = own().filter(|_| !stream.is_null()) else { return stream };
        name_newest(tables, begun_ns, call::popen, command, stream);
        // SAFETY: a stream that was just opened.
        let number = unsafe { calls::fileno(stream) };
        if super::files::known(tables, number).is_none() {
            put_described(tables, number, call::popen);
        }
        check_partner(tables, number);
        stream
    }

    fn record_pclose(call, stream: *mut c_void) -> c_int {
        // SAFETY: the program's own stream, which is closed next.
        super::files::stream_closing(|| unsafe { calls::fileno(stream) });
        let status = call.inner();
        if let Some(tables) = own().filter(|_| status != -1) {
            // Where the wait was not seen by itself.
            let child = tables.alone(PROCESSES, || {
                let index = find(tables, |process| process.handle == stream as u64 && process.state == RUNNING)?;
                Some(at(tables, index).pid)
            });
            if let Some(Some(pid)) = child {
                waited(tables, pid, status);
            }
        }
        status
    }

    fn record_wait(call, status: *mut c_int) -> c_int {
        let mut own_status = 0;
        let into = if status.is_null() { &raw mut own_status } else { status };
        // SAFETY: as the program called it, with a place for the status.
        let pid = unsafe { call.inner_fn()(into) };
        note_wait(pid, into);
        pid
    }

    fn record_waitpid(call, child: c_int, status: *mut c_int, options: c_int) -> c_int {
        let mut own_status = 0;
        let into = if status.is_null() { &raw mut own_status } else { status };
        // SAFETY: as above.
        let pid = unsafe { call.inner_fn()(child, into, options) };
        note_wait(pid, into);
        pid
    }

    fn record_wait3(call, status: *mut c_int, options: c_int, usage: *mut c_void) -> c_int {
        let mut own_status = 0;
        let into = if status.is_null() { &raw mut own_status } else { status };
        // SAFETY: as above.
        let pid = unsafe { call.inner_fn()(into, options, usage) };
        note_wait(pid, into);
        pid
    }

    fn record_wait4(call, child: c_int, status: *mut c_int, options: c_int, usage: *mut c_void) -> c_int {
        let mut own_status = 0;
        let into = if status.is_null() { &raw mut own_status } else { status };
        // SAFETY: as above.
        let pid = unsafe { call.inner_fn()(child, into, options, usage) };
        note_wait(pid, into);
        pid
    }

    fn record_waitid(call, which: c_int, id: u32, information: *mut c_void, options: c_int) -> c_int {
        // siginfo_t.
        let mut own_information = [0i32; 32];
        let into = if information.is_null() { own_information.as_mut_ptr().cast() } else { information };
        // SAFETY: as above.
        let result = unsafe { call.inner_fn()(which, id, into, options) };
        if result == 0 {
            // SAFETY: the call has written it.
            let [_, _, code, _, pid, _, value] = unsafe { into.cast::<[i32; 7]>().read() };
            let status = match code {
                1 => (value & 0xff) << 8,
                2 => value & 0x7f,
                3 => value & 0x7f | 0x80,
                _ => return result,
            };
            if let Some(tables) = own() {
                waited(tables, pid, status);
            }
        }
        result
    }
}

fn note_wait(pid: c_int, status: *const c_int) {
    if let Some(tables) = own().filter(|_| pid > 0) {
        // SAFETY: a wait that has found a child has written its status.
        waited(tables, pid, unsafe { status.read() });
    }
}
