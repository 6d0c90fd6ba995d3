//! Descriptors: what is open, and what was closed.

use core::ffi::{c_char, c_int, c_long, c_uint, c_void};

use brant_record::layout::*;

use super::super::system;
use super::before::{describe, empty};
use super::tables::{Tables, field, put_c_text, put_text};
use super::{calls, own};

const O_CLOEXEC: u32 = 0o2_000_000;
const O_DIRECTORY: u32 = 0o200_000;
const CAPACITY: usize = TABLES[FILES].capacity;

/// The place of a descriptor; `None` where there is none for it.
fn index_of(number: c_int) -> Option<usize> {
    usize::try_from(number).ok().filter(|index| *index < CAPACITY)
}

/// Notes that a descriptor has come to be. `is_new`: by a call, as opposed to one that was there before.
pub(super) fn put(tables: Tables, number: c_int, file: &File, is_new: bool) {
    if is_new {
        tables.add(field!(opened), 1);
    }
    let Some(index) = index_of(number) else {
        tables.add(field!(files_not_kept), 1);
        return;
    };
    let now = if is_new { system::wall_ns() } else { 0 };
    let mut new = *file;
    new.number = number;
    new.opened_ns = now;
    new.state = new.state.max(state::OPEN);
    if new.description == 0 {
        new.description = tables.add(field!(next_description), 1) as u32 + 1;
    }
    tables.use_up_to(FILES, index);
    let replaced = tables.change(FILES, index, |entry: &mut File| core::mem::replace(entry, new));
    if let Some(mut old) = replaced.filter(|old| old.state != state::CLOSED && is_new) {
        old.marks |= mark::CLOSED_UNSEEN;
        retire(tables, &mut old, now);
    }
    if is_new && number <= 2 {
        note_standard(tables, &new, now);
    }
}

/// A new descriptor with a text that the call has just read.
fn put_path(tables: Tables, number: c_int, call: u8, flags: u32, path: *const c_char) {
    let mut file = empty(number);
    file.call = call;
    file.kind = if flags & O_DIRECTORY != 0 { kind::FOLDER } else { kind::FILE };
    file.flags = flags & !O_CLOEXEC;
    file.marks = if flags & O_CLOEXEC != 0 { mark::CLOSE_ON_EXEC } else { 0 };
    // SAFETY: a call that succeeded has read it.
    let (mut bytes, mut is_whole) = unsafe { put_c_text(path, &mut file.text) };
    if bytes == 0 || file.text[0] != b'/' {
        // From some folder on, which may change: the kernel knows the whole of it.
        let mut room = [0; TEXT_BYTES + 1];
        if let Some(length) = calls::link(number, &mut room).filter(|_| room[0] == b'/') {
            (bytes, is_whole) = put_text(&room[..length], &mut file.text);
        }
    }
    file.text_bytes = bytes as u16;
    file.marks |= if is_whole { 0 } else { mark::CUT };
    put(tables, number, &file, true);
}

/// A new descriptor of a kind, with a name where it has one.
pub(super) fn put_kind(number: c_int, kind: u8, call: u8, is_close_on_exec: bool, name: &[u8]) {
    let Some(tables) = own() else { return };
    if number < 0 {
        tables.add(field!(open_failed), 1);
        return;
    }
    let mut file = empty(number);
    (file.kind, file.call) = (kind, call);
    file.marks = if is_close_on_exec { mark::CLOSE_ON_EXEC } else { 0 };
    let (bytes, is_whole) = put_text(name, &mut file.text);
    file.text_bytes = bytes as u16;
    file.marks |= if is_whole { 0 } else { mark::CUT };
    put(tables, number, &file, true);
}

/// A new descriptor of which only the kernel knows what it is.
pub(super) fn put_described(tables: Tables, number: c_int, call: u8) {
    let mut file = describe(number);
    if file.state == state::CLOSED {
        return;
    }
    file.call = call;
    put(tables, number, &file, true);
}

/// What a call by which a path is opened gave.
fn opened(number: c_int, call: u8, flags: u32, path: *const c_char) {
    let Some(tables) = own() else { return };
    match number {
        0.. => put_path(tables, number, call, flags, path),
        _ => {
            tables.add(field!(open_failed), 1);
        }
    }
}

/// Changes what is known of an open descriptor; where nothing is, it is asked for first.
pub(super) fn update(tables: Tables, number: c_int, act: impl FnOnce(&mut File)) {
    let Some(index) = index_of(number) else { return };
    tables.use_up_to(FILES, index);
    let known = tables.change(FILES, index, |file: &mut File| file.state != state::CLOSED);
    if known == Some(false) {
        put_described(tables, number, 0);
    }
    tables.change(FILES, index, |file: &mut File| {
        if file.state != state::CLOSED {
            act(file);
        }
    });
}

/// What is known of an open descriptor.
pub(super) fn known(tables: Tables, number: c_int) -> Option<File> {
    let file = tables.change(FILES, index_of(number)?, |file: &mut File| *file)?;
    (file.state != state::CLOSED).then_some(file)
}

/// A descriptor is about to be closed.
fn closing(tables: Tables, number: c_int) {
    let Some(index) = index_of(number).filter(|index| *index < tables.used(FILES)) else { return };
    let old = tables.change(FILES, index, |file: &mut File| {
        let old = *file;
        file.state = state::CLOSED;
        old
    });
    if let Some(mut old) = old.filter(|old| old.state != state::CLOSED) {
        retire(tables, &mut old, system::wall_ns());
    }
}

fn retire(tables: Tables, old: &mut File, now: u64) {
    old.closed_ns = now;
    tables.add(field!(closed), 1);
    tables.push(CLOSED, old);
}

/// The child of a fork has what its parent had.
pub(super) fn inherit(tables: Tables) {
    for index in 0..tables.used(FILES) {
        if tables.mend::<File>(FILES, index) {
            // Another thread was writing it: the kernel knows.
            let mut file = describe(index as c_int);
            file.call = 0;
            tables.change(FILES, index, |entry: &mut File| *entry = file);
        }
        tables.change(FILES, index, |file: &mut File| {
            if file.state != state::CLOSED {
                file.marks = file.marks & !mark::BEFORE | mark::INHERITED;
            }
        });
    }
}

/// Descriptors 0, 1 and 2 are told apart: they have become something else.
fn note_standard(tables: Tables, file: &File, now: u64) {
    let mut text = [0; STANDARD_TEXT_BYTES];
    let known = if file.kind == kind::SOCKET { &[][..] } else { &file.text[..usize::from(file.text_bytes)] };
    let (bytes, _) = put_text(known, &mut text);
    let event = Standard {
        sequence: 0,
        number: file.number,
        call: file.call,
        kind: file.kind,
        text_bytes: bytes as u16,
        tid: system::thread(),
        time_ns: now,
        text,
        reserved: 0,
    };
    tables.push(STANDARD, &event);
}

/// What happened to it since then was done by `call`.
fn rename_standard(tables: Tables, number: c_int, since_ns: u64, call: u8) {
    for index in 0..if number <= 2 { tables.used(STANDARD) } else { 0 } {
        tables.change(STANDARD, index, |event: &mut Standard| {
            if event.number == number && event.time_ns >= since_ns {
                event.call = call;
            }
        });
    }
}

/// `to` is now what `from` is.
fn duplicated(tables: Tables, from: c_int, to: c_int, call: u8, is_close_on_exec: bool) {
    if from == to {
        return;
    }
    if known(tables, from).is_none() {
        update(tables, from, |_| {});
    }
    let mut file = known(tables, from).unwrap_or_else(|| describe(to));
    file.call = call;
    file.marks &= mark::CUT | mark::SHUT_READ | mark::SHUT_WRITE;
    file.marks |= if is_close_on_exec { mark::CLOSE_ON_EXEC } else { 0 };
    // What `to` was is closed by the same call.
    closing(tables, to);
    put(tables, to, &file, true);
}

/// The other end of a pipe that a function has closed by itself.
pub(super) fn check_partner(tables: Tables, number: c_int) {
    let Some(file) = known(tables, number).filter(|file| file.kind == kind::PIPE) else { return };
    if file.family != number && calls::fcntl(file.family, calls::F_GETFD).is_none() {
        closing(tables, file.family);
    }
}

fn pipe_made(ends: *const c_int, result: c_int, call: u8, flags: u32) {
    let Some(tables) = own() else { return };
    if result != 0 {
        tables.add(field!(open_failed), 1);
        return;
    }
    // SAFETY: the call has written both.
    let ends = unsafe { [ends.read(), ends.add(1).read()] };
    for (index, number) in ends.into_iter().enumerate() {
        let mut file = empty(number);
        (file.kind, file.call, file.family) = (kind::PIPE, call, ends[1 - index]);
        // The first one is read, the second one written: O_RDONLY and O_WRONLY.
        file.flags = flags & !O_CLOEXEC | index as u32;
        file.marks = if flags & O_CLOEXEC != 0 { mark::CLOSE_ON_EXEC } else { 0 };
        put(tables, number, &file, true);
    }
}

/// The flags of a mode of fopen.
fn flags_of(mode: *const c_char) -> u32 {
    const O_CREAT: u32 = 0o100;
    const O_EXCL: u32 = 0o200;
    const O_TRUNC: u32 = 0o1000;
    const O_APPEND: u32 = 0o2000;
    let mut text = [0; 16];
    // SAFETY: a call that succeeded has read it.
    let (bytes, _) = unsafe { put_c_text(mode, &mut text) };
    // Behind a comma there is a character set.
    let text = text[..bytes].split(|byte| *byte == b',').next().unwrap_or(&[]);
    let is_both = text.contains(&b'+');
    let flags = match text.first() {
        Some(b'w') => O_CREAT | O_TRUNC,
        Some(b'a') => O_CREAT | O_APPEND,
        _ => 0,
    };
    let access = match (is_both, text.first()) {
        (true, _) => 2,
        (false, Some(b'r')) => 0,
        _ => 1,
    };
    let has = |letter: u8, flag: u32| if text.contains(&letter) { flag } else { 0 };
    flags | access | has(b'e', O_CLOEXEC) | has(b'x', O_EXCL)
}

/// A call that may go by another one that is seen too: what was there before it.
struct Outer {
    begun_ns: u64,
    open_failed: u64,
}

impl Outer {
    fn begin() -> Outer {
        let open_failed = Tables::current().map_or(0, |tables| tables.get(field!(open_failed)));
        Outer { begun_ns: system::wall_ns(), open_failed }
    }

    /// It gave a descriptor, or none: `put` tells of one that was not seen yet.
    fn end(self, number: c_int, call: u8, put: impl FnOnce(Tables)) {
        let Some(tables) = own() else { return };
        if number < 0 {
            if tables.get(field!(open_failed)) == self.open_failed {
                tables.add(field!(open_failed), 1);
            }
            return;
        }
        if known(tables, number).is_some_and(|file| file.opened_ns >= self.begun_ns) {
            rename_standard(tables, number, self.begun_ns, call);
            return update(tables, number, |file| file.call = call);
        }
        put(tables);
    }

    /// The same for what opens a path.
    fn end_with_path(self, number: c_int, call: u8, flags: impl FnOnce() -> u32, path: *const c_char) {
        self.end(number, call, |tables| put_path(tables, number, call, flags(), path));
    }
}

/// The descriptor of a stream that a call gave; -1 where it gave none.
fn number_of(stream: *mut c_void) -> c_int {
    // SAFETY: a stream that was just opened.
    if stream.is_null() { -1 } else { unsafe { calls::fileno(stream) } }
}

/// The descriptor of a stream or folder of the program, noted as closed.
pub(super) fn stream_closing(number: impl FnOnce() -> c_int) {
    let Some(tables) = own() else { return };
    let errno = system::errno();
    let number = number();
    system::set_errno(errno);
    closing(tables, number);
}

brant_mediator::mediator! {
    fn record_open(call, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
        let file = call.inner();
        opened(file, call::open, flags as u32, path);
        file
    }

    fn record_openat(call, folder: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
        let file = call.inner();
        opened(file, call::openat, flags as u32, path);
        file
    }

    fn record_creat(call, path: *const c_char, mode: c_uint) -> c_int {
        const CREATE_WRITE_TRUNCATE: u32 = 0o1101;
        let file = call.inner();
        opened(file, call::creat, CREATE_WRITE_TRUNCATE, path);
        file
    }

    fn record_shm_open(call, name: *const c_char, flags: c_int, mode: c_uint) -> c_int {
        // SAFETY: as the program called it; what it opens by itself is not seen twice.
        let file = unsafe { call.inner_fn()(name, flags, mode) };
        if file < 0 {
            put_kind(file, kind::FILE, call::shm_open, false, b"");
        } else if let Some(tables) = own() {
            put_described(tables, file, call::shm_open);
        }
        file
    }

    fn record_memfd_create(call, name: *const c_char, flags: c_uint) -> c_int {
        let file = call.inner();
        let mut room = [0; 256];
        // SAFETY: a call that succeeded has read it.
        let bytes = if file < 0 { 0 } else { unsafe { put_c_text(name, &mut room) }.0 };
        put_kind(file, kind::MEMFD, call::memfd_create, flags & 1 != 0, &room[..bytes]);
        file
    }

    fn record_fopen(call, path: *const c_char, mode: *const c_char) -> *mut c_void {
        let outer = Outer::begin();
        let stream = call.inner();
        outer.end_with_path(number_of(stream), call::fopen, || flags_of(mode), path);
        stream
    }

    fn record_freopen(call, path: *const c_char, mode: *const c_char, stream: *mut c_void) -> *mut c_void {
        // SAFETY: the program's own stream.
        stream_closing(|| unsafe { calls::fileno(stream) });
        let outer = Outer::begin();
        let result = call.inner();
        let number = number_of(result);
        if path.is_null() {
            outer.end(number, call::freopen, |tables| put_described(tables, number, call::freopen));
        } else {
            outer.end_with_path(number, call::freopen, || flags_of(mode), path);
        }
        result
    }

    fn record_tmpfile(call) -> *mut c_void {
        let outer = Outer::begin();
        let stream = call.inner();
        let number = number_of(stream);
        outer.end(number, call::tmpfile, |tables| put_described(tables, number, call::tmpfile));
        stream
    }

    fn record_fclose(call, stream: *mut c_void) -> c_int {
        // SAFETY: the program's own stream, which is closed next.
        stream_closing(|| unsafe { calls::fileno(stream) });
        call.inner()
    }

    fn record_opendir(call, path: *const c_char) -> *mut c_void {
        let outer = Outer::begin();
        let folder = call.inner();
        // SAFETY: a folder that was just opened.
        let number = if folder.is_null() { -1 } else { unsafe { calls::dirfd(folder) } };
        outer.end_with_path(number, call::opendir, || O_DIRECTORY | O_CLOEXEC, path);
        folder
    }

    fn record_closedir(call, folder: *mut c_void) -> c_int {
        // SAFETY: the program's own folder, which is closed next.
        stream_closing(|| unsafe { calls::dirfd(folder) });
        call.inner()
    }

    fn record_close(call, number: c_int) -> c_int {
        if let Some(tables) = own() {
            closing(tables, number);
        }
        call.inner()
    }

    fn record_close_range(call, first: c_uint, last: c_uint, flags: c_int) -> c_int {
        close_all(first, last, flags);
        call.inner()
    }

    fn record_closefrom(call, first: c_int) {
        close_all(first.max(0) as c_uint, c_uint::MAX, 0);
        call.inner()
    }

    fn record_dup(call, number: c_int) -> c_int {
        let copy = call.inner();
        if let Some(tables) = own().filter(|_| copy >= 0) {
            duplicated(tables, number, copy, call::dup, false);
        }
        copy
    }

    fn record_dup2(call, number: c_int, to: c_int) -> c_int {
        let copy = call.inner();
        if let Some(tables) = own().filter(|_| copy >= 0) {
            duplicated(tables, number, copy, call::dup2, false);
        }
        copy
    }

    fn record_dup3(call, number: c_int, to: c_int, flags: c_int) -> c_int {
        let copy = call.inner();
        if let Some(tables) = own().filter(|_| copy >= 0) {
            duplicated(tables, number, copy, call::dup3, flags as u32 & O_CLOEXEC != 0);
        }
        copy
    }

    fn record_fcntl(call, number: c_int, command: c_int, argument: usize) -> c_int {
        const F_DUPFD: c_int = 0;
        const F_SETFD: c_int = 2;
        const F_SETFL: c_int = 4;
        const F_DUPFD_CLOEXEC: c_int = 1030;
        const CHANGEABLE: u32 = 0o66000;
        let result = call.inner();
        let Some(tables) = own().filter(|_| result >= 0) else { return result };
        match command {
            F_DUPFD | F_DUPFD_CLOEXEC => {
                duplicated(tables, number, result, call::fcntl, command == F_DUPFD_CLOEXEC);
            }
            F_SETFD => update(tables, number, |file| {
                file.marks = file.marks & !mark::CLOSE_ON_EXEC | if argument & 1 != 0 { mark::CLOSE_ON_EXEC } else { 0 };
            }),
            F_SETFL => update(tables, number, |file| {
                file.flags = file.flags & !CHANGEABLE | argument as u32 & CHANGEABLE;
            }),
            _ => {}
        }
        result
    }

    fn record_pipe(call, ends: *mut c_int) -> c_int {
        // SAFETY: as the program called it; pipe2, by which it may go, is not seen too.
        let result = unsafe { call.inner_fn()(ends) };
        pipe_made(ends, result, call::pipe, 0);
        result
    }

    fn record_pipe2(call, ends: *mut c_int, flags: c_int) -> c_int {
        let result = call.inner();
        pipe_made(ends, result, call::pipe2, flags as u32);
        result
    }

    fn record_eventfd(call, value: c_uint, flags: c_int) -> c_int {
        let number = call.inner();
        put_kind(number, kind::EVENTFD, call::eventfd, flags as u32 & O_CLOEXEC != 0, b"");
        number
    }

    fn record_timerfd_create(call, clock: c_int, flags: c_int) -> c_int {
        let number = call.inner();
        put_kind(number, kind::TIMERFD, call::timerfd_create, flags as u32 & O_CLOEXEC != 0, b"");
        number
    }

    fn record_signalfd(call, number: c_int, mask: *const c_void, flags: c_int) -> c_int {
        let result = call.inner();
        if number < 0 || result < 0 {
            put_kind(result, kind::SIGNALFD, call::signalfd, flags as u32 & O_CLOEXEC != 0, b"");
        }
        result
    }

    fn record_epoll_create(call, size: c_int) -> c_int {
        // SAFETY: as the program called it; epoll_create1, by which it may go, is not seen too.
        let number = unsafe { call.inner_fn()(size) };
        put_kind(number, kind::EPOLL, call::epoll_create, false, b"");
        number
    }

    fn record_epoll_create1(call, flags: c_int) -> c_int {
        let number = call.inner();
        put_kind(number, kind::EPOLL, call::epoll_create1, flags as u32 & O_CLOEXEC != 0, b"");
        number
    }

    fn record_inotify_init(call) -> c_int {
        // SAFETY: as the program called it; inotify_init1, by which it may go, is not seen too.
        let number = unsafe { call.inner_fn()() };
        put_kind(number, kind::INOTIFY, call::inotify_init, false, b"");
        number
    }

    fn record_inotify_init1(call, flags: c_int) -> c_int {
        let number = call.inner();
        put_kind(number, kind::INOTIFY, call::inotify_init1, flags as u32 & O_CLOEXEC != 0, b"");
        number
    }

    fn record_pidfd_open(call, pid: c_int, flags: c_uint) -> c_int {
        let number = call.inner();
        let mut text = [0; 12];
        let bytes = calls::put_decimal(pid.max(0) as u32, &mut text);
        put_kind(number, kind::PIDFD, call::pidfd_open, true, &text[..bytes]);
        number
    }
}

// Some libraries close by syscall(2), so that no cancellation comes between.
brant_mediator::mediator! {
    fn record_syscall(call, number: c_long, first: usize, second: usize, third: usize) -> c_long {
        match number {
            SYS_CLOSE => if let Some(tables) = own() {
                closing(tables, first as c_int);
            },
            SYS_CLOSE_RANGE => close_all(first as c_uint, second as c_uint, third as c_int),
            _ => {}
        }
        let result = call.inner();
        if GIVE_DESCRIPTORS.contains(&number) && result >= 0 && let Some(tables) = own() {
            put_described(tables, result as c_int, call::syscall);
        }
        result
    }
}

const SYS_CLOSE: c_long = 3;
const SYS_CLOSE_RANGE: c_long = 436;
/// open, dup, dup2, socket, accept, creat, openat, timerfd_create, accept4, signalfd4, eventfd2, epoll_create1, dup3, inotify_init1,
/// perf_event_open, memfd_create, userfaultfd, io_uring_setup, pidfd_open, openat2, pidfd_getfd, memfd_secret.
const GIVE_DESCRIPTORS: [c_long; 22] =
    [2, 32, 33, 41, 43, 85, 257, 283, 288, 289, 290, 291, 292, 294, 298, 319, 323, 425, 434, 437, 438, 447];

/// close_range and closefrom.
fn close_all(first: c_uint, last: c_uint, flags: c_int) {
    const CLOSE_RANGE_CLOEXEC: c_int = 4;
    let Some(tables) = own().filter(|_| first <= last) else { return };
    let end = (last as usize).saturating_add(1).min(tables.used(FILES));
    for index in first as usize..end {
        if flags & CLOSE_RANGE_CLOEXEC == 0 {
            closing(tables, index as c_int);
            continue;
        }
        tables.change(FILES, index, |file: &mut File| {
            if file.state != state::CLOSED {
                file.marks |= mark::CLOSE_ON_EXEC;
            }
        });
    }
}
