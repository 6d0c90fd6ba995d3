//! `virtual`: paths with numbers of processes in them, paths that lead elsewhere now, and the host's name.
//!
//! Paths are compared as the program says them: a relative one is not mapped.

use core::ffi::c_char;
use core::mem::MaybeUninit;

use brant_identity::Kind;

use super::rooms::{PATH_BYTES, Room, is_borrower, with_rooms};
use super::system;
use super::virtual_calls::peek;
use super::virtual_table::table;

const ENOMEM: isize = -12;
const ENAMETOOLONG: isize = -36;

struct Text<'r> {
    room: &'r mut [u8],
    used: usize,
    is_whole: bool,
}

impl Text<'_> {
    fn put(&mut self, bytes: &[u8]) {
        match self.room.get_mut(self.used..self.used + bytes.len()) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.used += bytes.len();
            }
            None => self.is_whole = false,
        }
    }

    fn put_number(&mut self, number: i32) {
        self.put(decimal(number.unsigned_abs(), &mut [0; 10]));
    }
}

/// A number's digits.
pub(super) fn decimal(number: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut rest = number;
    let mut from = digits.len();
    loop {
        from -= 1;
        digits[from] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            return &digits[from..];
        }
    }
}

/// A leading number, up to a slash or the end.
fn number(path: &[u8]) -> Option<(i32, &[u8])> {
    let end = path.iter().position(|byte| *byte == b'/').unwrap_or(path.len());
    let (digits, rest) = path.split_at(end);
    let is_plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) && digits[0] != b'0';
    let number = core::str::from_utf8(digits).ok()?.parse().ok().filter(|_| is_plain)?;
    Some((number, rest))
}

/// Puts a path below /proc with other numbers; the first `prefix` bytes are `/proc/`, or nothing.
fn put_numbers(text: &mut Text<'_>, path: &[u8], translate: impl Fn(i32) -> i32) {
    const TASK: &[u8] = b"/task/";
    let rest = match number(path) {
        Some((number, rest)) => {
            text.put_number(translate(number));
            rest
        }
        None => {
            let end = path.iter().position(|byte| *byte == b'/').unwrap_or(path.len());
            text.put(&path[..end]);
            &path[end..]
        }
    };
    match rest.strip_prefix(TASK).and_then(number) {
        Some((thread, rest)) => {
            text.put(TASK);
            text.put_number(translate(thread));
            text.put(rest);
        }
        None => text.put(rest),
    }
}

/// What is left of a path below `folder`, beginning with a slash where there is anything.
fn below<'p>(path: &'p [u8], folder: &[u8]) -> Option<&'p [u8]> {
    path.strip_prefix(folder).filter(|rest| rest.is_empty() || rest[0] == b'/')
}

const PROC: &[u8; 6] = b"/proc/";

/// Where a path of the program leads. `Ok(None)`: to where it says.
fn led(path: &[u8], room: &mut Room) -> Result<Option<usize>, ()> {
    let table = table();
    let mut text = Text { room, used: 0, is_whole: true };
    if let Some(rest) = path.strip_prefix(&PROC[..]).filter(|_| !table.is_same()) {
        text.put(PROC);
        put_numbers(&mut text, rest, |number| table.real(number));
    } else {
        let terminal =
            table.texts(Kind::Terminal).find(|(from, _)| path == *from).map(|(_, to)| (to, &b""[..]));
        let folder = || table.texts(Kind::Path).find_map(|(from, to)| Some((to, below(path, from)?)));
        let Some((to, rest)) = terminal.or_else(folder) else { return Ok(None) };
        text.put(to);
        text.put(rest);
    }
    text.put(&[0]);
    if text.is_whole { Ok(Some(text.used)) } else { Err(()) }
}

/// Calls with the path that the program's leads to.
pub(super) fn with_path(path: usize, inner: impl FnOnce(usize) -> isize) -> isize {
    let table = table();
    let may_be_led =
        table.has_paths() || (!table.is_same() && peek::<6>(path).is_some_and(|head| head == *PROC));
    if may_be_led { with_led_path(path, inner) } else { inner(path) }
}

#[inline(never)]
fn with_led_path(path: usize, inner: impl FnOnce(usize) -> isize) -> isize {
    match is_borrower() {
        true => with_rooms(|given, room| call_led(path, given, room, inner)).unwrap_or(ENOMEM),
        false => with_own_rooms(path, inner),
    }
}

/// A function of its own, as it takes much of the stack.
#[inline(never)]
fn with_own_rooms(path: usize, inner: impl FnOnce(usize) -> isize) -> isize {
    let mut given = MaybeUninit::<Room>::uninit();
    let mut room = MaybeUninit::<Room>::uninit();
    // SAFETY: bytes are written before they are read, by the kernel or by us.
    let (given, room) = unsafe { (&mut *given.as_mut_ptr(), &mut *room.as_mut_ptr()) };
    call_led(path, given, room, inner)
}

fn call_led(path: usize, given: &mut Room, room: &mut Room, inner: impl FnOnce(usize) -> isize) -> isize {
    let Some((given, true)) = system::read_text(path as *const c_char, given) else { return inner(path) };
    match led(given, room) {
        Ok(None) => inner(path),
        Ok(Some(_)) => inner(room.as_ptr() as usize),
        Err(()) => ENAMETOOLONG,
    }
}

/// What the program calls a path that the kernel has written, which takes `length` bytes, or the length that it would take.
fn shown(at: usize, length: usize, room_bytes: usize, is_number: bool) -> Option<usize> {
    // SAFETY: the kernel has just written so much there.
    let found = unsafe { core::slice::from_raw_parts(at as *const u8, length) };
    let table = table();
    let mut room = MaybeUninit::<Room>::uninit();
    // SAFETY: bytes are written before they are read.
    let room = unsafe { &mut *room.as_mut_ptr() };
    let mut text = Text { room, used: 0, is_whole: true };
    if is_number {
        put_numbers(&mut text, found, |number| table.apparent(number));
    } else if let Some(rest) = found.strip_prefix(&PROC[..]).filter(|_| !table.is_same()) {
        text.put(PROC);
        put_numbers(&mut text, rest, |number| table.apparent(number));
    } else {
        let terminal =
            table.texts(Kind::Terminal).find(|(_, to)| found == *to).map(|(from, _)| (from, &b""[..]));
        let folder = || {
            let mut maps = table.texts(Kind::Path);
            maps.find_map(|(from, to)| Some((from, below(found, to)?)))
        };
        let (from, rest) = terminal.or_else(folder)?;
        text.put(from);
        text.put(rest);
    }
    let used = text.used.min(room_bytes);
    // SAFETY: the program gave room for so much; the kernel has written there.
    unsafe { core::ptr::copy_nonoverlapping(text.room.as_ptr(), at as *mut u8, used) };
    Some(used)
}

/// Whether a link leads to the caller's own folder in /proc: its text is a number.
fn is_own_link(path: usize) -> bool {
    let mut given = [0; 20];
    let text = system::read_text(path as *const c_char, &mut given);
    matches!(text, Some((b"/proc/self" | b"/proc/thread-self", true)))
}

fn show_link(result: isize, path: usize, at: usize, room_bytes: usize) -> isize {
    if result <= 0 {
        return result;
    }
    shown(at, result as usize, room_bytes, is_own_link(path)).map_or(result, |bytes| bytes as isize)
}

brant_mediator::mediator! {
    /// open, stat, access, chdir ...
    fn virtual_path(call, path: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
        // SAFETY: as the program called it, with another path.
        with_path(path, |path| unsafe { call.inner_fn()(path, b, c, d, e, f) })
    }

    /// openat, newfstatat, statx ...
    fn virtual_path_at(call, folder: usize, path: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
        // SAFETY: as the program called it, with another path.
        with_path(path, |path| unsafe { call.inner_fn()(folder, path, c, d, e, f) })
    }

    /// rename, link.
    fn virtual_paths(call, from: usize, to: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
        // SAFETY: as the program called it, with other paths.
        with_path(from, |from| with_path(to, |to| unsafe { call.inner_fn()(from, to, c, d, e, f) }))
    }

    /// renameat, renameat2, linkat.
    fn virtual_paths_at(call, one: usize, from: usize, other: usize, to: usize, e: usize, f: usize) -> isize {
        // SAFETY: as the program called it, with other paths.
        with_path(from, |from| with_path(to, |to| unsafe { call.inner_fn()(one, from, other, to, e, f) }))
    }

    fn virtual_readlink(call, path: usize, at: usize, bytes: usize, d: usize, e: usize, f: usize) -> isize {
        // SAFETY: as the program called it, with another path.
        let result = with_path(path, |path| unsafe { call.inner_fn()(path, at, bytes, d, e, f) });
        show_link(result, path, at, bytes)
    }

    fn virtual_readlinkat(call, folder: usize, path: usize, at: usize, bytes: usize, e: usize, f: usize) -> isize {
        // SAFETY: as the program called it, with another path.
        let result = with_path(path, |path| unsafe { call.inner_fn()(folder, path, at, bytes, e, f) });
        show_link(result, path, at, bytes)
    }

    fn virtual_getcwd(call, at: usize, bytes: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
        const ERANGE: isize = -34;
        let result = call.inner();
        if result <= 1 {
            return result;
        }
        // Its length counts the zero byte at the end.
        match shown(at, result as usize - 1, bytes, false) {
            None => result,
            Some(used) if used >= bytes => ERANGE,
            Some(used) => {
                // SAFETY: within the room that the program gave.
                unsafe { (at as *mut u8).add(used).write(0) };
                used as isize + 1
            }
        }
    }

    fn virtual_uname(call, at: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
        const FIELD_BYTES: usize = 65;
        let result = call.inner();
        if let Some((name, _)) = table().texts(Kind::Host).next().filter(|_| result == 0) {
            let bytes = name.len().min(FIELD_BYTES - 1);
            // SAFETY: the kernel has written six such fields there; the host's name is the second.
            unsafe {
                let place = (at as *mut u8).add(FIELD_BYTES);
                core::ptr::copy_nonoverlapping(name.as_ptr(), place, bytes);
                place.add(bytes).write_bytes(0, FIELD_BYTES - bytes);
            }
        }
        result
    }
}
