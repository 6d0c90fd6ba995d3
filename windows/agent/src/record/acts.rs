//! What each recorded function changes.

use std::ffi::c_void;

use brant_windows::record::{Object, Process, Region, Socket};
use windows_sys::Win32::System::Diagnostics::Debug::ReadProcessMemory;
use windows_sys::Win32::System::Threading::GetCurrentProcess;

use super::heaps::HeapAct;
use super::state::{Child, Group, Made, Record};

const TEXT_UNITS_MAX: usize = 512;
const INVALID: u64 = u64::MAX;

/// A call, with the arguments that its caller gave.
#[derive(Debug)]
pub(crate) struct Known<'a> {
    pub(crate) name: &'static str,
    pub(crate) arguments: &'a [u64],
    pub(crate) result: u64,
    pub(crate) thread: u32,
}

/// What a function does.
pub(crate) enum Act {
    /// Noted once it has returned.
    Notes(fn(&mut Record, &Known<'_>)),
    /// Gives back what its argument of this number names.
    Closes(Group, usize),
    /// Waits, for as many milliseconds as its argument of this number says.
    Waits(usize),
    /// Does not return.
    Ends(fn(&mut Record, &Known<'_>)),
    Heap(HeapAct),
}

pub(crate) fn find(name: &str) -> Option<&'static Act> {
    ACTS.iter().find(|(known, _)| *known == name).map(|(_, act)| act)
}

const ACTS: &[(&str, Act)] = &[
    ("CreateProcessW", Act::Notes(|record, known| process(record, known, 0))),
    ("CreateProcessA", Act::Notes(|record, known| process(record, known, 0))),
    ("CreateProcessAsUserA", Act::Notes(|record, known| process(record, known, 1))),
    ("CreateProcessAsUserW", Act::Notes(|record, known| process(record, known, 1))),
    ("OpenProcess", Act::Notes(|record, known| handle(record, known, "process", None))),
    ("CreateThread", Act::Notes(create_thread)),
    ("ExitThread", Act::Ends(|record, known| record.waited(known.thread))),
    ("VirtualAlloc", Act::Notes(virtual_alloc)),
    ("VirtualFree", Act::Notes(virtual_free)),
    ("VirtualProtect", Act::Notes(virtual_protect)),
    ("MapViewOfFile", Act::Notes(map_view)),
    ("UnmapViewOfFile", Act::Closes(Group::Regions, 0)),
    ("HeapCreate", Act::Heap(HeapAct::Create)),
    ("HeapDestroy", Act::Heap(HeapAct::Destroy)),
    ("HeapAlloc", Act::Heap(HeapAct::Allocate)),
    ("HeapReAlloc", Act::Heap(HeapAct::Reallocate)),
    ("HeapFree", Act::Heap(HeapAct::Free)),
    (
        "SetStdHandle",
        Act::Notes(|record, known| {
            *record.sets.entry(known.argument(0) as u32).or_default() += u64::from(known.is_done())
        }),
    ),
    ("Sleep", Act::Waits(0)),
    ("SleepEx", Act::Waits(0)),
    ("WaitForSingleObject", Act::Waits(1)),
    ("WaitForSingleObjectEx", Act::Waits(1)),
    ("WaitForMultipleObjects", Act::Waits(3)),
    ("WaitForMultipleObjectsEx", Act::Waits(3)),
    ("CreateFileW", Act::Notes(create_file)),
    ("CreateFileA", Act::Notes(create_file)),
    ("CreateFileMappingW", Act::Notes(|record, known| handle(record, known, "section", Some(5)))),
    ("CreateFileMappingA", Act::Notes(|record, known| handle(record, known, "section", Some(5)))),
    ("OpenFileMappingW", Act::Notes(|record, known| handle(record, known, "section", Some(2)))),
    ("OpenFileMappingA", Act::Notes(|record, known| handle(record, known, "section", Some(2)))),
    ("CreatePipe", Act::Notes(create_pipe)),
    ("CreateNamedPipeW", Act::Notes(|record, known| handle(record, known, "named pipe", Some(0)))),
    ("CreateNamedPipeA", Act::Notes(|record, known| handle(record, known, "named pipe", Some(0)))),
    ("DuplicateHandle", Act::Notes(duplicate)),
    ("CloseHandle", Act::Closes(Group::Handles, 0)),
    ("CreateEventW", Act::Notes(|record, known| handle(record, known, "event", Some(3)))),
    ("CreateEventA", Act::Notes(|record, known| handle(record, known, "event", Some(3)))),
    ("OpenEventW", Act::Notes(|record, known| handle(record, known, "event", Some(2)))),
    ("OpenEventA", Act::Notes(|record, known| handle(record, known, "event", Some(2)))),
    ("CreateMutexW", Act::Notes(|record, known| handle(record, known, "mutex", Some(2)))),
    ("CreateMutexA", Act::Notes(|record, known| handle(record, known, "mutex", Some(2)))),
    ("OpenMutexW", Act::Notes(|record, known| handle(record, known, "mutex", Some(2)))),
    ("CreateSemaphoreW", Act::Notes(|record, known| handle(record, known, "semaphore", Some(3)))),
    ("CreateSemaphoreA", Act::Notes(|record, known| handle(record, known, "semaphore", Some(3)))),
    ("OpenSemaphoreW", Act::Notes(|record, known| handle(record, known, "semaphore", Some(2)))),
    ("CreateWaitableTimerW", Act::Notes(|record, known| handle(record, known, "timer", Some(2)))),
    ("CreateWaitableTimerA", Act::Notes(|record, known| handle(record, known, "timer", Some(2)))),
    ("CreateIoCompletionPort", Act::Notes(completion_port)),
    ("socket", Act::Notes(socket)),
    ("WSASocketW", Act::Notes(socket)),
    ("WSASocketA", Act::Notes(socket)),
    ("connect", Act::Notes(|record, known| peer(record, known, "connected"))),
    ("WSAConnect", Act::Notes(|record, known| peer(record, known, "connected"))),
    ("bind", Act::Notes(|record, known| state(record, known, "bound"))),
    ("listen", Act::Notes(|record, known| state(record, known, "listening"))),
    ("accept", Act::Notes(accept)),
    ("shutdown", Act::Notes(|record, known| state(record, known, "shut down"))),
    ("closesocket", Act::Closes(Group::Sockets, 0)),
    ("CreateWindowExW", Act::Notes(|record, known| gui(record, known, "window", Some(2)))),
    ("CreateWindowExA", Act::Notes(|record, known| gui(record, known, "window", Some(2)))),
    ("DestroyWindow", Act::Closes(Group::Gui, 0)),
    ("CreateMenu", Act::Notes(|record, known| gui(record, known, "menu", None))),
    ("CreatePopupMenu", Act::Notes(|record, known| gui(record, known, "menu", None))),
    ("DestroyMenu", Act::Closes(Group::Gui, 0)),
    ("GetDC", Act::Notes(|record, known| gui(record, known, "device context", None))),
    ("GetWindowDC", Act::Notes(|record, known| gui(record, known, "device context", None))),
    ("ReleaseDC", Act::Closes(Group::Gui, 1)),
    ("CreateDCW", Act::Notes(|record, known| gui(record, known, "device context", None))),
    ("CreateCompatibleDC", Act::Notes(|record, known| gui(record, known, "device context", None))),
    ("DeleteDC", Act::Closes(Group::Gui, 0)),
    ("CreatePen", Act::Notes(|record, known| gui(record, known, "pen", None))),
    ("CreateSolidBrush", Act::Notes(|record, known| gui(record, known, "brush", None))),
    ("CreateFontIndirectW", Act::Notes(|record, known| gui(record, known, "font", None))),
    ("CreateBitmap", Act::Notes(|record, known| gui(record, known, "bitmap", None))),
    ("CreateCompatibleBitmap", Act::Notes(|record, known| gui(record, known, "bitmap", None))),
    ("DeleteObject", Act::Closes(Group::Gui, 0)),
];

impl Known<'_> {
    pub(crate) fn argument(&self, index: usize) -> u64 {
        self.arguments.get(index).copied().unwrap_or(0)
    }

    /// Whether the function says by its result that it did what was asked: closesocket and its kind give 0 then.
    pub(crate) fn is_done(&self) -> bool {
        let is_of_sockets =
            matches!(self.name, "closesocket" | "connect" | "WSAConnect" | "bind" | "listen" | "shutdown");
        let low = self.result as u32;
        if is_of_sockets { low == 0 } else { low != 0 }
    }

    /// The handle that it gave, unless it failed.
    fn handle(&self) -> Option<u64> {
        (self.result != 0 && self.result != INVALID).then_some(self.result)
    }

    /// The text that an argument points to, in the units that the function's name says.
    fn text(&self, index: usize) -> String {
        let at = self.argument(index);
        // Below that are numbers of classes and resources.
        if at < 0x1_0000 {
            return String::new();
        }
        if self.name.ends_with('A') {
            String::from_utf8_lossy(&units::<1>(at).concat()).into_owned()
        } else {
            let units: Vec<u16> = units::<2>(at).into_iter().map(u16::from_le_bytes).collect();
            String::from_utf16_lossy(&units)
        }
    }
}

/// Bytes of the program's memory, where they are there.
fn bytes<const N: usize>(at: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let mut done = 0;
    // SAFETY: our own process; where there is no memory the call fails.
    let is_read = unsafe {
        ReadProcessMemory(
            GetCurrentProcess(),
            at as *const c_void,
            bytes.as_mut_ptr().cast(),
            N,
            &raw mut done,
        )
    };
    (is_read != 0 && done == N).then_some(bytes)
}

/// Units up to a zero.
fn units<const N: usize>(at: u64) -> Vec<[u8; N]> {
    let unit = |index: usize| bytes::<N>(at.wrapping_add((index * N) as u64)).filter(|unit| *unit != [0; N]);
    (0..TEXT_UNITS_MAX).map_while(unit).collect()
}

fn word(at: u64) -> u64 {
    bytes::<8>(at).map_or(0, u64::from_le_bytes)
}

fn add(record: &mut Record, known: &Known<'_>, group: Group, object: Object) {
    record.add(group, Object { by: known.name.to_owned(), ..object });
}

/// Its result is a handle; `name` is the argument with its name.
fn handle(record: &mut Record, known: &Known<'_>, kind: &str, name: Option<usize>) {
    let Some(handle) = known.handle() else {
        record.failed += 1;
        return;
    };
    let name = name.map_or(String::new(), |name| known.text(name));
    add(record, known, Group::Handles, Object { handle, kind: kind.to_owned(), name, ..Object::default() });
}

fn gui(record: &mut Record, known: &Known<'_>, kind: &str, name: Option<usize>) {
    let Some(handle) = known.handle() else {
        record.failed += 1;
        return;
    };
    let name = name.map_or(String::new(), |name| known.text(name));
    add(record, known, Group::Gui, Object { handle, kind: kind.to_owned(), name, ..Object::default() });
}

fn create_file(record: &mut Record, known: &Known<'_>) {
    let Some(handle) = known.handle() else {
        record.failed += 1;
        return;
    };
    let access = known.argument(1) as u32;
    let flags = [(0x8000_0000, "read"), (0x4000_0000, "write"), (0x1000_0000, "all"), (0x4, "append")];
    let named: Vec<&str> = flags.iter().filter(|(bit, _)| access & bit != 0).map(|(_, name)| *name).collect();
    let detail = named.join(" ");
    let object = Object { handle, kind: "file".to_owned(), name: known.text(0), detail, ..Object::default() };
    add(record, known, Group::Handles, object);
}

fn create_pipe(record: &mut Record, known: &Known<'_>) {
    if !known.is_done() {
        record.failed += 1;
        return;
    }
    for (argument, end) in [(0, "reading end"), (1, "writing end")] {
        let handle = word(known.argument(argument));
        let object = Object { handle, kind: "pipe".to_owned(), detail: end.to_owned(), ..Object::default() };
        add(record, known, Group::Handles, object);
    }
}

/// DuplicateHandle: only what is duplicated for this process itself.
fn duplicate(record: &mut Record, known: &Known<'_>) {
    // SAFETY: a call without arguments.
    let own = unsafe { GetCurrentProcess() } as u64;
    if !known.is_done() {
        record.failed += 1;
        return;
    }
    let is_closed = known.argument(6) & 1 != 0;
    let source =
        if known.argument(0) == own { record.handles.get(&known.argument(1)).cloned() } else { None };
    if is_closed && known.argument(0) == own {
        record.handles.remove(&known.argument(1));
    }
    if known.argument(2) == own && known.argument(3) != 0 {
        let handle = word(known.argument(3));
        let object = source.unwrap_or_else(|| Object { kind: "duplicate".to_owned(), ..Object::default() });
        add(record, known, Group::Handles, Object { handle, ..object });
    }
}

fn completion_port(record: &mut Record, known: &Known<'_>) {
    // With a port that is there already it gives that port again.
    if known.argument(1) == 0 {
        handle(record, known, "completion port", None);
    }
}

/// CreateProcess and CreateProcessAsUser, whose arguments begin one later.
fn process(record: &mut Record, known: &Known<'_>, shift: usize) {
    if !known.is_done() {
        record.failed += 1;
        return;
    }
    let made = known.argument(9 + shift);
    let (process, thread) = (word(made), word(made + 8));
    let pid = bytes::<4>(made + 16).map_or(0, u32::from_le_bytes);
    let line = known.text(1 + shift);
    let command = if line.is_empty() { known.text(shift) } else { line };
    for (handle, kind) in [(process, "process"), (thread, "thread")] {
        let object =
            Object { handle, kind: kind.to_owned(), name: format!("of process {pid}"), ..Object::default() };
        add(record, known, Group::Handles, object);
    }
    let told = Process { pid, command, by: known.name.to_owned(), exit_code: None };
    record.children.push(Child { told, handle: process });
}

fn create_thread(record: &mut Record, known: &Known<'_>) {
    let Some(thread) = known.handle() else {
        record.failed += 1;
        return;
    };
    // SAFETY: a handle that the function has just given.
    let id = unsafe { windows_sys::Win32::System::Threading::GetThreadId(thread as *mut c_void) };
    record.threads.insert(id, Made { start: known.argument(2), creator: known.thread });
    let object =
        Object { handle: thread, kind: "thread".to_owned(), name: id.to_string(), ..Object::default() };
    add(record, known, Group::Handles, object);
}

fn protection(protect: u64) -> &'static str {
    match protect & 0xff {
        1 => "no access",
        2 => "read",
        4 | 8 => "read write",
        0x10 => "execute",
        0x20 => "read execute",
        0x40 | 0x80 => "read write execute",
        _ => "?",
    }
}

fn virtual_alloc(record: &mut Record, known: &Known<'_>) {
    let Some(at) = known.handle() else {
        record.failed += 1;
        return;
    };
    let within = |region: &Region| region.at <= at && at < region.at + region.bytes;
    // Memory that is committed within a region is no new one.
    if record.regions.range(..=at).next_back().is_some_and(|(_, region)| within(region)) {
        return;
    }
    let reserved = if known.argument(2) & 0x1000 == 0 { "reserved " } else { "" };
    let detail = format!("{reserved}{}", protection(known.argument(3)));
    record.add_region(Region { at, bytes: known.argument(1), detail, by: known.name.to_owned() });
}

fn virtual_free(record: &mut Record, known: &Known<'_>) {
    const RELEASE: u64 = 0x8000;
    if known.is_done() && known.argument(2) & RELEASE != 0 {
        record.regions.remove(&known.argument(0));
    }
}

fn virtual_protect(record: &mut Record, known: &Known<'_>) {
    let (at, bytes) = (known.argument(0), known.argument(1));
    if let Some(region) =
        record.regions.get_mut(&at).filter(|region| known.is_done() && bytes >= region.bytes)
    {
        region.detail = protection(known.argument(2)).to_owned();
    }
}

fn map_view(record: &mut Record, known: &Known<'_>) {
    let Some(at) = known.handle() else {
        record.failed += 1;
        return;
    };
    let detail = format!("view of {:#x}", known.argument(0));
    record.add_region(Region { at, bytes: known.argument(4), detail, by: known.name.to_owned() });
}

fn socket(record: &mut Record, known: &Known<'_>) {
    let Some(handle) = known.handle() else {
        record.failed += 1;
        return;
    };
    let kind = match (known.argument(0) as u32, known.argument(1) as u32) {
        (2, 1) => "tcp".to_owned(),
        (23, 1) => "tcp6".to_owned(),
        (2, 2) => "udp".to_owned(),
        (23, 2) => "udp6".to_owned(),
        (family, kind) => format!("family {family} type {kind}"),
    };
    record.sockets.insert(handle, Socket { handle, kind, state: "new".to_owned(), ..Socket::default() });
}

fn state(record: &mut Record, known: &Known<'_>, state: &str) {
    if !known.is_done() {
        record.failed += 1;
        return;
    }
    if let Some(socket) = record.sockets.get_mut(&known.argument(0)) {
        state.clone_into(&mut socket.state);
        if state == "bound" {
            socket.local = address(known.argument(1));
        }
    }
}

fn peer(record: &mut Record, known: &Known<'_>, connected: &str) {
    let Some(socket) = record.sockets.get_mut(&known.argument(0)) else { return };
    socket.peer = if known.is_done() { address(known.argument(1)) } else { socket.peer.clone() };
    // A socket that does not block says so first, and is connected later.
    (if known.is_done() { connected } else { "connecting or failed" }).clone_into(&mut socket.state);
}

fn accept(record: &mut Record, known: &Known<'_>) {
    let Some(handle) = known.handle() else {
        record.failed += 1;
        return;
    };
    let listening = record.sockets.get(&known.argument(0)).cloned().unwrap_or_default();
    let peer = if known.argument(1) == 0 { String::new() } else { address(known.argument(1)) };
    record.sockets.insert(handle, Socket { handle, state: "accepted".to_owned(), peer, ..listening });
}

/// A socket's address.
fn address(at: u64) -> String {
    let Some(head) = bytes::<8>(at) else { return String::new() };
    let port = u16::from_be_bytes([head[2], head[3]]);
    match u16::from_le_bytes([head[0], head[1]]) {
        2 => format!("{}.{}.{}.{}:{port}", head[4], head[5], head[6], head[7]),
        23 => bytes::<16>(at + 8)
            .map_or(String::new(), |six| format!("[{}]:{port}", std::net::Ipv6Addr::from(six))),
        family => format!("family {family}"),
    }
}
