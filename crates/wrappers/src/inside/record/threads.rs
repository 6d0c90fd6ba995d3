//! Threads: created, named, ended.
//!
//! pthread_create gives a handle; the thread's number stands in what that points to, at a place that each C library has chosen
//! for itself. It is found by the loading thread's own number.

use core::ffi::{c_char, c_int, c_void};
use core::sync::atomic::{AtomicUsize, Ordering};

use brant_mediator::thread_pointer;
use brant_record::layout::*;

use super::super::system;
use super::tables::{Tables, field, put_c_text};
use super::{calls, own};

const CAPACITY: usize = TABLES[THREADS].capacity;
/// How far into a thread's own memory its number is looked for.
const NUMBER_AT_MAX: usize = 1024;
const UNKNOWN: usize = usize::MAX;

static NUMBER_AT: AtomicUsize = AtomicUsize::new(UNKNOWN);

/// Finds where a thread's number stands.
pub(super) fn prepare() {
    let (base, own) = (thread_pointer(), system::thread());
    let mut word = [0; 4];
    for at in (0..NUMBER_AT_MAX).step_by(4) {
        if !system::read_bytes(base + at, &mut word) {
            return;
        }
        if u32::from_le_bytes(word) == own {
            NUMBER_AT.store(at, Ordering::Relaxed);
            return;
        }
    }
}

/// The number of a thread by its handle; 0 where it cannot be told.
fn number_of(handle: usize) -> u32 {
    let at = NUMBER_AT.load(Ordering::Relaxed);
    let mut word = [0; 4];
    if at == UNKNOWN || !system::read_bytes(handle.wrapping_add(at), &mut word) {
        return 0;
    }
    u32::from_le_bytes(word)
}

fn empty() -> Thread {
    Thread {
        sequence: 0,
        tid: 0,
        state: RUNNING,
        call: 0,
        marks: 0,
        name_bytes: 0,
        creator: 0,
        handle: 0,
        routine: 0,
        begun_ns: 0,
        ended_ns: 0,
        name: [0; 16],
        reserved: [0; 4],
    }
}

fn at(tables: Tables, index: usize) -> Thread {
    // SAFETY: whoever looks for a place is the only one that writes.
    unsafe { tables.entry::<Thread>(THREADS, index).read() }
}

fn find(tables: Tables, fits: impl Fn(&Thread) -> bool) -> Option<usize> {
    (0..tables.used(THREADS)).find(|index| {
        let thread = at(tables, *index);
        thread.state == RUNNING && fits(&thread)
    })
}

fn free(tables: Tables) -> Option<usize> {
    let used = tables.used(THREADS);
    if used < CAPACITY {
        tables.use_up_to(THREADS, used);
        return Some(used);
    }
    tables.add(field!(threads_not_kept), 1);
    let entries = (0..used).map(|index| (index, at(tables, index)));
    let ended = entries.clone().filter(|(_, thread)| thread.state == ENDED);
    let ended = ended.min_by_key(|(_, thread)| thread.ended_ns).map(|(index, _)| index);
    // Threads that nobody joins end without a word.
    let pid = calls::pid();
    ended.or_else(|| {
        entries.clone().find(|(_, thread)| !calls::has_thread(pid, thread.tid)).map(|(index, _)| index)
    })
}

/// A thread that tells of itself before pthread_create has given its handle: whoever made it may get no processor for long.
fn put_early(tables: Tables, handle: usize, tid: u32, change: impl FnOnce(&mut Thread)) {
    if tid != system::thread() {
        return;
    }
    let mut new = empty();
    (new.tid, new.handle, new.call) = (tid, handle as u64, call::pthread_create);
    new.begun_ns = system::wall_ns();
    change(&mut new);
    if let Some(index) = free(tables) {
        tables.change(THREADS, index, |thread: &mut Thread| *thread = new);
    }
}

/// Adds to what a new thread has told of itself. Tells whether it had.
fn complete_early(tables: Tables, new: &Thread) -> bool {
    let is_it = |thread: &Thread| {
        (thread.call, thread.creator) == (call::pthread_create, 0)
            && (thread.handle, new.call) == (new.handle, call::pthread_create)
            && thread.begun_ns >= new.begun_ns
    };
    let Some(index) = (0..tables.used(THREADS)).find(|index| is_it(&at(tables, *index))) else {
        return false;
    };
    tables.change(THREADS, index, |thread: &mut Thread| {
        (thread.creator, thread.routine, thread.begun_ns) = (new.creator, new.routine, new.begun_ns);
        if thread.state == RUNNING {
            (thread.state, thread.ended_ns) = (new.state, new.ended_ns);
        }
    });
    true
}

fn add(tables: Tables, new: Thread) {
    tables.alone(THREADS, || {
        if complete_early(tables, &new) {
            return;
        }
        // Whoever had the same handle or number has ended, which was not seen.
        while let Some(index) = find(tables, |thread| {
            new.handle != 0 && thread.handle == new.handle || new.tid != 0 && thread.tid == new.tid
        }) {
            end_at(tables, index, new.begun_ns);
        }
        if let Some(index) = free(tables) {
            tables.change(THREADS, index, |thread: &mut Thread| *thread = new);
        }
    });
}

fn end_at(tables: Tables, index: usize, now: u64) {
    tables.change(THREADS, index, |thread: &mut Thread| (thread.state, thread.ended_ns) = (ENDED, now));
}

/// A thread that was there before.
pub(super) fn note_before(tables: Tables, tid: u32, is_start: bool) {
    let mut thread = empty();
    (thread.tid, thread.call) = (tid, call::before);
    thread.marks = if is_start { mark::INHERITED } else { mark::BEFORE };
    thread.handle = if tid == system::thread() { thread_pointer() as u64 } else { 0 };
    let mut path = [0; 64];
    let (begin, end) = (b"/proc/self/task/", b"/comm\0");
    path[..begin.len()].copy_from_slice(begin);
    let digits = calls::put_decimal(tid, &mut path[begin.len()..]);
    path[begin.len() + digits..begin.len() + digits + end.len()].copy_from_slice(end);
    if let Some(file) = calls::open(&path[..begin.len() + digits + end.len()], false) {
        let bytes = calls::read(file, &mut thread.name);
        thread.name_bytes = bytes.saturating_sub(1) as u8;
        system::close(file);
    }
    add(tables, thread);
}

/// The one thread that the child of a fork has.
pub(super) fn note_own(tables: Tables) {
    note_before(tables, system::thread(), true);
}

fn ended(tables: Tables, handle: usize, tid: u32) {
    let now = system::wall_ns();
    tables.alone(THREADS, || {
        let by_handle = find(tables, |thread| handle != 0 && thread.handle == handle as u64);
        let index = by_handle.or_else(|| find(tables, |thread| tid != 0 && thread.tid == tid));
        match index {
            Some(index) => end_at(tables, index, now),
            None => put_early(tables, handle, tid, |new| (new.state, new.ended_ns) = (ENDED, now)),
        }
    });
}

fn named(tables: Tables, handle: usize, tid: u32, name: *const c_char) {
    let mut room = [0; 16];
    // SAFETY: a call that succeeded has read it.
    let (bytes, _) = unsafe { put_c_text(name, &mut room[..15]) };
    tables.alone(THREADS, || {
        let by_handle = find(tables, |thread| handle != 0 && thread.handle == handle as u64);
        let name = |thread: &mut Thread| (thread.name, thread.name_bytes) = (room, bytes as u8);
        match by_handle.or_else(|| find(tables, |thread| tid != 0 && thread.tid == tid)) {
            Some(index) => drop(tables.change(THREADS, index, name)),
            None => put_early(tables, handle, tid, name),
        }
    });
}

/// After a join, of what it gave; `tid` was asked for before it.
fn joined(result: c_int, handle: usize, tid: u32) -> c_int {
    if let Some(tables) = own().filter(|_| result == 0) {
        ended(tables, handle, tid);
    }
    result
}

brant_mediator::mediator! {
    fn record_pthread_create(call, thread: *mut usize, attributes: *const c_void, routine: *const c_void, argument: *mut c_void) -> c_int {
        let begun_ns = system::wall_ns();
        let result = call.inner();
        let Some(tables) = own().filter(|_| result == 0) else { return result };
        let mut new = empty();
        // SAFETY: the call has written it.
        new.handle = unsafe { thread.read() } as u64;
        (new.call, new.begun_ns, new.creator) = (call::pthread_create, begun_ns, system::thread());
        (new.tid, new.routine) = (number_of(new.handle as usize), routine as u64);
        tables.add(field!(threads_made), 1);
        // Its number is taken away when it ends.
        if new.tid == 0 && NUMBER_AT.load(Ordering::Relaxed) != UNKNOWN {
            (new.state, new.ended_ns) = (ENDED, system::wall_ns());
        }
        add(tables, new);
        result
    }

    fn record_pthread_join(call, thread: usize, value: *mut *mut c_void) -> c_int {
        let tid = number_of(thread);
        joined(call.inner(), thread, tid)
    }

    fn record_pthread_tryjoin_np(call, thread: usize, value: *mut *mut c_void) -> c_int {
        let tid = number_of(thread);
        joined(call.inner(), thread, tid)
    }

    fn record_pthread_timedjoin_np(call, thread: usize, value: *mut *mut c_void, until: *const c_void) -> c_int {
        let tid = number_of(thread);
        joined(call.inner(), thread, tid)
    }

    fn record_pthread_exit(call, value: *mut c_void) {
        if let Some(tables) = own() {
            ended(tables, thread_pointer(), system::thread());
        }
        call.inner()
    }

    fn record_pthread_setname_np(call, thread: usize, name: *const c_char) -> c_int {
        let result = call.inner();
        if let Some(tables) = own().filter(|_| result == 0) {
            named(tables, thread, number_of(thread), name);
        }
        result
    }

    fn record_prctl(call, option: c_int, first: usize, second: usize, third: usize, fourth: usize) -> c_int {
        const PR_SET_NAME: c_int = 15;
        let result = call.inner();
        if let Some(tables) = (option == PR_SET_NAME && result == 0).then(own).flatten() {
            named(tables, thread_pointer(), system::thread(), first as *const c_char);
        }
        result
    }
}
