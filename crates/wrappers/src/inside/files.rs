//! `files`: which files the program opens, and others in their place.

use core::ffi::{c_char, c_int, c_void};
use core::mem::MaybeUninit;

use super::journal;
use super::line::Line;
use super::system::{self, Once};
use crate::options::{self, MAPS_MAX, PATH_BYTES_MAX};

const AT_FDCWD: c_int = -100;

/// From a path to another, with the slash between a folder and the rest left to the rest.
#[derive(Clone, Copy)]
struct Pair {
    from: (usize, usize),
    to: (usize, usize),
}

struct Settings {
    is_json: bool,
    /// All paths, one behind the other.
    text: [u8; 2 * MAPS_MAX * 256],
    pairs: [Pair; MAPS_MAX],
    count: usize,
}

static SETTINGS: Once<Settings> = Once::new();

pub(super) fn prepare(options: &str) -> Result<(), &'static str> {
    let mut settings = Settings {
        is_json: options::value(options, "json").is_some(),
        text: [0; 2 * MAPS_MAX * 256],
        pairs: [Pair { from: (0, 0), to: (0, 0) }; MAPS_MAX],
        count: 0,
    };
    let mut used = 0;
    for (_, value) in options::each(options).filter(|(key, _)| *key == "map") {
        let (from, to) = value.and_then(|value| value.split_once('=')).ok_or("a map is no pair")?;
        let mut keep = |path: &str| {
            let path = path.trim_end_matches('/').as_bytes();
            let place = settings.text.get_mut(used..used + path.len()).ok_or("its maps are too long")?;
            place.copy_from_slice(path);
            used += path.len();
            Ok::<_, &'static str>((used - path.len(), used))
        };
        let pair = Pair { from: keep(from)?, to: keep(to)? };
        *settings.pairs.get_mut(settings.count).ok_or("it has too many maps")? = pair;
        settings.count += 1;
    }
    SETTINGS.set(settings);
    Ok(())
}

/// A path with a zero byte at its end.
type Room = [u8; PATH_BYTES_MAX * 2];

/// The path that is opened in the place of `path`, in `room`; `path` itself where nothing maps it.
fn mapped(path: *const c_char, room: &mut Room) -> *const c_char {
    let Some(settings) = SETTINGS.get().filter(|settings| settings.count > 0) else { return path };
    let mut given = [MaybeUninit::<u8>::uninit(); PATH_BYTES_MAX];
    // SAFETY: only bytes that the kernel has written are looked at.
    let given = unsafe { core::slice::from_raw_parts_mut(given.as_mut_ptr().cast::<u8>(), PATH_BYTES_MAX) };
    let Some((given, true)) = system::read_text(path, given) else { return path };
    for pair in &settings.pairs[..settings.count] {
        let (from, to) = (&settings.text[pair.from.0..pair.from.1], &settings.text[pair.to.0..pair.to.1]);
        let Some(rest) = given.strip_prefix(from) else { continue };
        if !rest.is_empty() && rest[0] != b'/' || to.len() + rest.len() >= room.len() {
            continue;
        }
        room[..to.len()].copy_from_slice(to);
        room[to.len()..to.len() + rest.len()].copy_from_slice(rest);
        room[to.len() + rest.len()] = 0;
        return room.as_ptr().cast();
    }
    path
}

struct Opening<'a> {
    function: &'a str,
    /// What relative paths begin at.
    folder: c_int,
    /// What the program gave, and what was opened.
    path: *const c_char,
    opened: *const c_char,
    /// `Ok`: the descriptor where it is known. `Err`: the error's number.
    result: Result<Option<c_int>, u32>,
}

impl Opening<'_> {
    /// By the function's result: a descriptor, or -1.
    fn file(result: c_int) -> Result<Option<c_int>, u32> {
        if result < 0 { Err(system::errno()) } else { Ok(Some(result)) }
    }

    /// By the function's result: a stream, or NULL.
    fn stream(result: *mut c_void) -> Result<Option<c_int>, u32> {
        if result.is_null() { Err(system::errno()) } else { Ok(None) }
    }

    fn record(&self) {
        if !journal::is_open() {
            return;
        }
        let is_json = SETTINGS.get().is_some_and(|settings| settings.is_json);
        let now = system::wall_ns();
        let mut line = MaybeUninit::uninit();
        let line = Line::begin(&mut line);
        if is_json {
            self.put_json(line, now)
        } else {
            self.put_text(line, now)
        }
        journal::record(line, now);
    }

    fn put_text(&self, line: &mut Line, now: u64) {
        line.seconds(now);
        line.put(b" ");
        line.unsigned(system::thread().into());
        line.put(b" ");
        line.put(self.function.as_bytes());
        line.put(b" ");
        if self.folder != AT_FDCWD {
            line.put(b"in ");
            line.signed(self.folder.into());
            line.put(b" ");
        }
        put_path(line, self.path, false);
        if self.path != self.opened {
            line.put(b" -> ");
            put_path(line, self.opened, false);
        }
        line.put(b" = ");
        match self.result {
            Ok(None) => line.put(b"opened"),
            Ok(Some(file)) => line.signed(file.into()),
            Err(number) => put_errno(line, number),
        }
        line.put(b"\n");
    }

    fn put_json(&self, line: &mut Line, now: u64) {
        line.put(b"{\"time\":");
        line.seconds(now);
        line.put(b",\"tid\":");
        line.unsigned(system::thread().into());
        line.put(b",\"function\":\"");
        line.put(self.function.as_bytes());
        line.put(b"\"");
        if self.folder != AT_FDCWD {
            line.put(b",\"folder\":");
            line.signed(self.folder.into());
        }
        line.put(b",\"path\":");
        put_path(line, self.path, true);
        if self.path != self.opened {
            line.put(b",\"opened\":");
            put_path(line, self.opened, true);
        }
        match self.result {
            Ok(None) => line.put(b",\"ok\":true"),
            Ok(Some(file)) => {
                line.put(b",\"ok\":true,\"file\":");
                line.signed(file.into());
            }
            Err(number) => {
                line.put(b",\"ok\":false,\"errno\":\"");
                put_errno(line, number);
                line.put(b"\"");
            }
        }
        line.put(b"}\n");
    }
}

/// A path takes at most four bytes of text for each of its own in octal; both together fit into a line.
const SHOWN_BYTES: usize = 240;

fn put_path(line: &mut Line, path: *const c_char, is_json: bool) {
    let mut room = [0; SHOWN_BYTES];
    match system::read_text(path, &mut room) {
        Some((text, is_whole)) => {
            let fits = if line.has_room(text.len() * 4) { text } else { &text[..text.len().min(40)] };
            line.quoted(fits, is_json);
            if !is_json && (!is_whole || fits.len() < text.len()) {
                line.put(b"...");
            }
        }
        None if is_json => line.put(b"null"),
        None => line.hex(path as u64),
    }
}

pub(super) fn put_errno(line: &mut Line, number: u32) {
    match crate::errno::name(number) {
        Some(name) => line.put(name.as_bytes()),
        None => {
            line.put(b"error ");
            line.unsigned(number.into());
        }
    }
}

// What opens by another of these functions inside of itself is seen once: the functions are called by `inner_fn`.
brant_mediator::mediator! {
    fn files_open(call, path: *const c_char, flags: c_int, mode: c_int) -> c_int {
        let mut room: Room = [0; PATH_BYTES_MAX * 2];
        let opened = mapped(path, &mut room);
        // SAFETY: as the program called it, with another path.
        let file = unsafe { call.inner_fn()(opened, flags, mode) };
        Opening { function: "open", folder: AT_FDCWD, path, opened, result: Opening::file(file) }.record();
        file
    }

    fn files_openat(call, folder: c_int, path: *const c_char, flags: c_int, mode: c_int) -> c_int {
        let mut room: Room = [0; PATH_BYTES_MAX * 2];
        let opened = mapped(path, &mut room);
        // SAFETY: as the program called it, with another path.
        let file = unsafe { call.inner_fn()(folder, opened, flags, mode) };
        Opening { function: "openat", folder, path, opened, result: Opening::file(file) }.record();
        file
    }

    fn files_creat(call, path: *const c_char, mode: c_int) -> c_int {
        let mut room: Room = [0; PATH_BYTES_MAX * 2];
        let opened = mapped(path, &mut room);
        // SAFETY: as the program called it, with another path.
        let file = unsafe { call.inner_fn()(opened, mode) };
        Opening { function: "creat", folder: AT_FDCWD, path, opened, result: Opening::file(file) }.record();
        file
    }

    fn files_fopen(call, path: *const c_char, mode: *const c_char) -> *mut c_void {
        let mut room: Room = [0; PATH_BYTES_MAX * 2];
        let opened = mapped(path, &mut room);
        // SAFETY: as the program called it, with another path.
        let stream = unsafe { call.inner_fn()(opened, mode) };
        Opening { function: "fopen", folder: AT_FDCWD, path, opened, result: Opening::stream(stream) }.record();
        stream
    }

    fn files_freopen(call, path: *const c_char, mode: *const c_char, stream: *mut c_void) -> *mut c_void {
        let mut room: Room = [0; PATH_BYTES_MAX * 2];
        let opened = mapped(path, &mut room);
        // SAFETY: as the program called it, with another path.
        let stream = unsafe { call.inner_fn()(opened, mode, stream) };
        // Without a path it changes the mode of what is open.
        if !path.is_null() {
            let result = Opening::stream(stream);
            Opening { function: "freopen", folder: AT_FDCWD, path, opened, result }.record();
        }
        stream
    }

    fn files_opendir(call, path: *const c_char) -> *mut c_void {
        let mut room: Room = [0; PATH_BYTES_MAX * 2];
        let opened = mapped(path, &mut room);
        // SAFETY: as the program called it, with another path.
        let stream = unsafe { call.inner_fn()(opened) };
        Opening { function: "opendir", folder: AT_FDCWD, path, opened, result: Opening::stream(stream) }.record();
        stream
    }
}
