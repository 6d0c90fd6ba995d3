//! Files on disk and standard handles.

use windows_sys::Win32::Foundation::{
    ERROR_BROKEN_PIPE, ERROR_INVALID_HANDLE, GENERIC_READ, GENERIC_WRITE, GetLastError, HANDLE,
    INVALID_HANDLE_VALUE,
};
use windows_sys::Win32::Storage::FileSystem::{
    CreateFileW as native_create, FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_DELETE_ON_CLOSE,
    FILE_FLAG_OVERLAPPED, FILE_TYPE_DISK, GetFileType, GetFullPathNameW, ReadFile as native_read,
};
use windows_sys::Win32::System::Console::{
    GetStdHandle as native_standard, STD_ERROR_HANDLE, STD_INPUT_HANDLE, STD_OUTPUT_HANDLE,
    SetStdHandle as native_set_standard,
};

use super::objects::narrow;
use super::{fails, input, ours};
use crate::objects::{self, Kind};
use crate::state::{Object, block, load, state, store};
use crate::text;

ours! {
    CreateFileA CreateFileW GetStdHandle SetStdHandle LockFile UnlockFile LockFileEx UnlockFileEx
    FindFirstFileA FindFirstFileW FindFirstFileExW FindNextFileA FindNextFileW FindClose PeekNamedPipe;
    ReadFile NtReadFile
}

const STANDARD: [u32; 3] = [STD_INPUT_HANDLE, STD_OUTPUT_HANDLE, STD_ERROR_HANDLE];

/// Gives the program its standard handles, when it begins.
pub(crate) fn begin_standard() {
    for (which, number) in STANDARD.into_iter().enumerate() {
        // SAFETY: a call without pointers.
        let real = unsafe { native_standard(number) };
        let handle = match real.is_null() || real == INVALID_HANDLE_VALUE {
            true => real as u64,
            false => objects::add(Kind::Standard, real, [which as u64, 0, 0, 0], &[]),
        };
        store(&state().standard[which], handle);
    }
}

/// The standard handle of this process.
pub(crate) fn native_handle(which: usize) -> HANDLE {
    // SAFETY: a call without pointers.
    unsafe { native_standard(STANDARD[which]) }
}

extern "system" fn GetStdHandle(number: u32) -> u64 {
    match STANDARD.iter().position(|&known| known == number) {
        Some(which) => load(&state().standard[which]),
        None => {
            fails(ERROR_INVALID_HANDLE);
            INVALID_HANDLE_VALUE as u64
        }
    }
}

extern "system" fn SetStdHandle(number: u32, handle: u64) -> i32 {
    let Some(which) = STANDARD.iter().position(|&known| known == number) else {
        return fails(ERROR_INVALID_HANDLE) as i32;
    };
    store(&state().standard[which], handle);
    // SAFETY: the program's call, with the system's handle.
    unsafe { native_set_standard(number, objects::real(handle)) }
}

extern "system" fn CreateFileA(
    path: *const u8,
    access: u32,
    share: u32,
    security: usize,
    how: u32,
    flags: u32,
    template: u64,
) -> u64 {
    open(&narrow(path), access, share, security, how, flags, template)
}

extern "system" fn CreateFileW(
    path: *const u16,
    access: u32,
    share: u32,
    security: usize,
    how: u32,
    flags: u32,
    template: u64,
) -> u64 {
    // SAFETY: the program's text ends with a zero.
    let length = (0..).find(|&index| unsafe { path.add(index).read() } == 0).unwrap_or(0);
    // SAFETY: as above.
    let path = unsafe { std::slice::from_raw_parts(path, length) };
    open(path, access, share, security, how, flags, template)
}

fn open(path: &[u16], access: u32, share: u32, security: usize, how: u32, flags: u32, template: u64) -> u64 {
    let with_zero = [path, &[0]].concat();
    // SAFETY: the program's call.
    let real = unsafe {
        native_create(
            with_zero.as_ptr(),
            access,
            share,
            security as *const _,
            how,
            flags,
            objects::real(template),
        )
    };
    if real == INVALID_HANDLE_VALUE {
        return real as u64;
    }
    // It says whether there was such a file.
    // SAFETY: a call without arguments.
    let error = unsafe { GetLastError() };
    let name = String::from_utf16_lossy(path).to_ascii_uppercase();
    let (kind, text) = match name.as_str() {
        "CONIN$" | "CONOUT$" => (Kind::Console, path.to_vec()),
        _ => of_disk(real, path, flags),
    };
    let numbers = [u64::from(access), u64::from(share), u64::from(flags), 0];
    let handle = objects::add(kind, real, numbers, &text);
    if handle == 0 {
        block("it has more than 2048 handles");
    }
    fails(error);
    if handle == 0 { real as u64 } else { handle }
}

fn of_disk(real: HANDLE, path: &[u16], flags: u32) -> (Kind, Vec<u16>) {
    let with_zero = [path, &[0]].concat();
    let mut full = vec![0; 1024];
    // SAFETY: a text that ends with a zero, and room for so many units.
    let length = unsafe {
        GetFullPathNameW(with_zero.as_ptr(), full.len() as u32, full.as_mut_ptr(), std::ptr::null_mut())
    };
    full.truncate(length as usize);
    let shown = String::from_utf16_lossy(&full);
    let other = |why: &str| {
        (Kind::Other, text::wide(&format!("{why}: {shown}").chars().take(200).collect::<String>()))
    };
    // SAFETY: an open handle.
    if unsafe { GetFileType(real) } != FILE_TYPE_DISK {
        return other("a device or a pipe");
    }
    if flags & FILE_FLAG_OVERLAPPED != 0 {
        return other("a file for overlapped reads and writes");
    }
    if flags & FILE_FLAG_DELETE_ON_CLOSE != 0 {
        return other("a file that goes when it is closed");
    }
    if flags & FILE_FLAG_BACKUP_SEMANTICS != 0 {
        return other("a folder");
    }
    (Kind::File, full)
}

/// The right to open a file again as it was opened.
pub(crate) fn open_again(object: &Object) -> Result<HANDLE, u32> {
    const OPEN_EXISTING: u32 = 3;
    let (access, share, flags) = (object.number(0) as u32, object.number(1) as u32, object.number(2) as u32);
    let path = [object.text.get(), &[0]].concat();
    // SAFETY: a text that ends with a zero.
    let real = unsafe {
        native_create(
            path.as_ptr(),
            access,
            share,
            std::ptr::null(),
            OPEN_EXISTING,
            flags,
            std::ptr::null_mut(),
        )
    };
    if real == INVALID_HANDLE_VALUE {
        // SAFETY: a call without arguments.
        return Err(unsafe { GetLastError() });
    }
    Ok(real)
}

/// Whether the program may read and write it.
pub(crate) fn access_text(access: u32) -> &'static str {
    match (access & (GENERIC_READ | 1) != 0, access & (GENERIC_WRITE | 2 | 4) != 0) {
        (true, true) => "read and written",
        (false, true) => "written",
        _ => "read",
    }
}

macro_rules! locks {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {
        $(extern "system" fn $name(handle: u64, $($argument: $type),*) -> i32 {
            block("it has locked a part of a file");
            // SAFETY: the program's call, with the system's handle.
            unsafe { windows_sys::Win32::Storage::FileSystem::$name(objects::real(handle), $($argument),*) }
        })*
    };
}

locks! {
    LockFile(low: u32, high: u32, bytes_low: u32, bytes_high: u32);
    UnlockFile(low: u32, high: u32, bytes_low: u32, bytes_high: u32);
    LockFileEx(flags: u32, reserved: u32, low: u32, high: u32, at: *mut windows_sys::Win32::System::IO::OVERLAPPED);
    UnlockFileEx(reserved: u32, low: u32, high: u32, at: *mut windows_sys::Win32::System::IO::OVERLAPPED);
}

fn search(real: HANDLE) -> u64 {
    if real == INVALID_HANDLE_VALUE {
        return real as u64;
    }
    let handle = objects::add(Kind::Other, real, [0; 4], &text::wide("a search of files that is not over"));
    if handle == 0 { real as u64 } else { handle }
}

extern "system" fn FindFirstFileA(
    path: *const u8,
    into: *mut windows_sys::Win32::Storage::FileSystem::WIN32_FIND_DATAA,
) -> u64 {
    // SAFETY: the program's call.
    search(unsafe { windows_sys::Win32::Storage::FileSystem::FindFirstFileA(path, into) })
}

extern "system" fn FindFirstFileW(
    path: *const u16,
    into: *mut windows_sys::Win32::Storage::FileSystem::WIN32_FIND_DATAW,
) -> u64 {
    // SAFETY: the program's call.
    search(unsafe { windows_sys::Win32::Storage::FileSystem::FindFirstFileW(path, into) })
}

extern "system" fn FindFirstFileExW(
    path: *const u16,
    level: i32,
    into: *mut core::ffi::c_void,
    what: i32,
    filter: usize,
    flags: u32,
) -> u64 {
    // SAFETY: the program's call.
    search(unsafe {
        windows_sys::Win32::Storage::FileSystem::FindFirstFileExW(
            path,
            level,
            into,
            what,
            filter as *const _,
            flags,
        )
    })
}

extern "system" fn FindNextFileA(
    handle: u64,
    into: *mut windows_sys::Win32::Storage::FileSystem::WIN32_FIND_DATAA,
) -> i32 {
    // SAFETY: the program's call, with the system's handle.
    unsafe { windows_sys::Win32::Storage::FileSystem::FindNextFileA(objects::real(handle), into) }
}

extern "system" fn FindNextFileW(
    handle: u64,
    into: *mut windows_sys::Win32::Storage::FileSystem::WIN32_FIND_DATAW,
) -> i32 {
    // SAFETY: the program's call, with the system's handle.
    unsafe { windows_sys::Win32::Storage::FileSystem::FindNextFileW(objects::real(handle), into) }
}

extern "system" fn FindClose(handle: u64) -> i32 {
    let real = objects::real(handle);
    if let Some(object) = objects::of(handle) {
        // Its handle is none that CloseHandle knows.
        store(&object.real, 0);
        objects::close(object);
    }
    // SAFETY: the program's call, with the system's handle.
    unsafe { windows_sys::Win32::Storage::FileSystem::FindClose(real) }
}

extern "system" fn PeekNamedPipe(
    handle: u64,
    into: *mut u8,
    room: u32,
    read: *mut u32,
    total: *mut u32,
    left: *mut u32,
) -> i32 {
    block("it has looked into a pipe (PeekNamedPipe)");
    // SAFETY: the program's call, with the system's handle.
    unsafe { native_peek::PeekNamedPipe(objects::real(handle), into, room, read, total, left) }
}

mod native_peek {
    #[link(name = "kernel32", kind = "raw-dylib")]
    unsafe extern "system" {
        pub(super) fn PeekNamedPipe(
            handle: windows_sys::Win32::Foundation::HANDLE,
            into: *mut u8,
            room: u32,
            read: *mut u32,
            total: *mut u32,
            left: *mut u32,
        ) -> i32;
    }
}

extern "system" fn ReadFile(handle: u64, into: *mut u8, room: u32, read: *mut u32, overlapped: usize) -> i32 {
    let real = objects::real(handle);
    let is_input = is_standard_input(handle);
    // SAFETY: an open handle, or the system refuses it.
    if !is_input || overlapped != 0 || unsafe { GetFileType(real) } == FILE_TYPE_DISK {
        // SAFETY: the program's call, with the system's handle.
        return unsafe { native_read(real, into, room, read, overlapped as *mut _) };
    }
    match input::read(into, room as usize) {
        Some(count) => {
            // SAFETY: the program has room for the number.
            unsafe { read.write(count as u32) };
            1
        }
        None => {
            // SAFETY: as above.
            unsafe { read.write(0) };
            fails(ERROR_BROKEN_PIPE) as i32
        }
    }
}

/// IO_STATUS_BLOCK.
#[repr(C)]
struct Status {
    status: i32,
    padding: u32,
    bytes: usize,
}

const STATUS_END_OF_FILE: i32 = 0xC000_0011_u32 as i32;

extern "system" fn NtReadFile(
    handle: u64,
    event: u64,
    routine: usize,
    context: usize,
    status: *mut Status,
    into: *mut u8,
    room: u32,
    offset: usize,
    key: usize,
) -> i32 {
    let real = objects::real(handle);
    // SAFETY: an open handle, or the system refuses it.
    let is_on_disk = unsafe { GetFileType(real) } == FILE_TYPE_DISK;
    if !is_standard_input(handle) || event != 0 || routine != 0 || is_on_disk {
        let event = objects::real(event);
        // SAFETY: the program's call, with the system's handles.
        return unsafe { native::NtReadFile(real, event, routine, context, status, into, room, offset, key) };
    }
    let count = input::read(into, room as usize);
    let result = if count.is_some() { 0 } else { STATUS_END_OF_FILE };
    // SAFETY: the program has room for the record.
    unsafe { status.write(Status { status: result, padding: 0, bytes: count.unwrap_or(0) }) };
    result
}

mod native {
    use windows_sys::Win32::Foundation::HANDLE;
    #[link(name = "ntdll", kind = "raw-dylib")]
    unsafe extern "system" {
        pub(super) fn NtReadFile(
            handle: HANDLE,
            event: HANDLE,
            routine: usize,
            context: usize,
            status: *mut super::Status,
            into: *mut u8,
            room: u32,
            offset: usize,
            key: usize,
        ) -> i32;
    }
}

fn is_standard_input(handle: u64) -> bool {
    objects::of(handle).is_some_and(|object| object.kind() == Some(Kind::Standard) && object.number(0) == 0)
}
