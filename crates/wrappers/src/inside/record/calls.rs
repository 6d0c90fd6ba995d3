//! System calls that this wrapper makes itself, and what it takes from the program's C library.

use core::ffi::{c_int, c_void};

use super::super::system::call;

unsafe extern "C" {
    pub(super) fn fileno(stream: *mut c_void) -> c_int;
    pub(super) fn dirfd(folder: *mut c_void) -> c_int;
    pub(super) fn malloc_usable_size(block: *mut c_void) -> usize;
}

const SYS_READ: usize = 0;
const SYS_FSTAT: usize = 5;
const SYS_MMAP: usize = 9;
const SYS_GETPID: usize = 39;
const SYS_SHMCTL: usize = 31;
const SYS_GETSOCKNAME: usize = 51;
const SYS_GETPEERNAME: usize = 52;
const SYS_GETSOCKOPT: usize = 55;
const SYS_KILL: usize = 62;
const SYS_FCNTL: usize = 72;
const SYS_READLINK: usize = 89;
const SYS_GETPPID: usize = 110;
const SYS_TGKILL: usize = 234;
const SYS_OPEN: usize = 2;
const SYS_GETDENTS64: usize = 217;
const SYS_KCMP: usize = 312;

const ESRCH: isize = -3;
const O_CLOEXEC_FOLDER: usize = 0o2_200_000;
const O_CLOEXEC: usize = 0o2_000_000;

pub(super) const F_GETFD: usize = 1;
pub(super) const F_GETFL: usize = 3;

pub(super) fn pid() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { call(SYS_GETPID, [0; 6]) as u32 }
}

pub(super) fn parent() -> u32 {
    // SAFETY: as above.
    unsafe { call(SYS_GETPPID, [0; 6]) as u32 }
}

/// Whether there is a process of this number, as far as one can see.
pub(super) fn is_there(pid: u32) -> bool {
    // SAFETY: signal 0 only asks.
    unsafe { call(SYS_KILL, [pid as usize, 0, 0, 0, 0, 0]) != ESRCH }
}

/// Whether two processes have the same memory (kcmp(2)); `None` where the kernel does not say.
pub(super) fn shares_memory(one: u32, other: u32) -> Option<bool> {
    const KCMP_VM: usize = 1;
    // SAFETY: only compares.
    match unsafe { call(SYS_KCMP, [one as usize, other as usize, KCMP_VM, 0, 0, 0]) } {
        0 => Some(true),
        1..=3 | ESRCH => Some(false),
        _ => None,
    }
}

/// Whether the process has a thread of this number.
pub(super) fn has_thread(pid: u32, tid: u32) -> bool {
    // SAFETY: signal 0 only asks.
    unsafe { call(SYS_TGKILL, [pid as usize, tid as usize, 0, 0, 0, 0]) == 0 }
}

/// New memory of zeros, which a fork copies.
pub(super) fn map(bytes: usize) -> Option<*mut u8> {
    const READ_WRITE: usize = 3;
    const PRIVATE_ANONYMOUS_NORESERVE: usize = 0x4022;
    // SAFETY: new anonymous memory, which replaces nothing.
    let at = unsafe { call(SYS_MMAP, [0, bytes, READ_WRITE, PRIVATE_ANONYMOUS_NORESERVE, usize::MAX, 0]) };
    (at > 0).then_some(at as *mut u8)
}

/// fcntl without an argument; `None` where it fails.
pub(super) fn fcntl(number: c_int, command: usize) -> Option<u32> {
    // SAFETY: the commands that are used take nothing and change nothing.
    let result = unsafe { call(SYS_FCNTL, [number as usize, command, 0, 0, 0, 0]) };
    (result >= 0).then_some(result as u32)
}

/// `st_mode` of what is open.
pub(super) fn mode(number: c_int) -> Option<u32> {
    let mut status = [0u32; 36];
    // SAFETY: struct stat has 144 bytes.
    let result = unsafe { call(SYS_FSTAT, [number as usize, status.as_mut_ptr() as usize, 0, 0, 0, 0]) };
    (result == 0).then_some(status[6])
}

/// What /proc calls a descriptor.
pub(super) fn link(number: c_int, room: &mut [u8]) -> Option<usize> {
    let mut path = [0; 32];
    let begin = b"/proc/self/fd/";
    path[..begin.len()].copy_from_slice(begin);
    put_decimal(number as u32, &mut path[begin.len()..31]);
    let (path, at) = (path.as_ptr() as usize, room.as_mut_ptr() as usize);
    // SAFETY: the path ends with a zero byte, and the kernel writes so many bytes at most.
    let result = unsafe { call(SYS_READLINK, [path, at, room.len(), 0, 0, 0]) };
    usize::try_from(result).ok()
}

/// Writes a number with a zero byte behind it; there is room.
pub(super) fn put_decimal(number: u32, room: &mut [u8]) -> usize {
    let mut digits = [0u8; 10];
    let (mut at, mut rest) = (digits.len(), number);
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let count = digits.len() - at;
    room[..count].copy_from_slice(&digits[at..]);
    room[count] = 0;
    count
}

/// One number of a socket's; `level` is SOL_SOCKET.
pub(super) fn socket_option(number: c_int, option: usize) -> Option<i32> {
    const SOL_SOCKET: usize = 1;
    let (mut value, mut bytes) = (0i32, 4u32);
    let places = [&raw mut value as usize, &raw mut bytes as usize];
    // SAFETY: there is room for four bytes.
    let result =
        unsafe { call(SYS_GETSOCKOPT, [number as usize, SOL_SOCKET, option, places[0], places[1], 0]) };
    (result == 0).then_some(value)
}

/// The address of a socket, or of its other end; gives its length.
pub(super) fn address(number: c_int, is_peer: bool, room: &mut [u8]) -> usize {
    let mut bytes = room.len() as u32;
    let which = if is_peer { SYS_GETPEERNAME } else { SYS_GETSOCKNAME };
    let places = [room.as_mut_ptr() as usize, &raw mut bytes as usize];
    // SAFETY: the kernel writes as many bytes as there is room for.
    let result = unsafe { call(which, [number as usize, places[0], places[1], 0, 0, 0]) };
    if result == 0 { room.len().min(bytes as usize) } else { 0 }
}

/// Bytes of a segment of shared memory.
pub(super) fn segment_bytes(id: c_int) -> Option<u64> {
    const IPC_STAT: usize = 2;
    let mut status = [0u64; 16];
    // SAFETY: struct shmid_ds has 112 bytes.
    let result = unsafe { call(SYS_SHMCTL, [id as usize, IPC_STAT, status.as_mut_ptr() as usize, 0, 0, 0]) };
    (result == 0).then_some(status[6])
}

/// Opens to read; `path` ends with a zero byte. `None` where that fails.
pub(super) fn open(path: &[u8], is_folder: bool) -> Option<usize> {
    debug_assert!(path.ends_with(&[0]));
    let flags = if is_folder { O_CLOEXEC_FOLDER } else { O_CLOEXEC };
    // SAFETY: the path ends with a zero byte.
    let result = unsafe { call(SYS_OPEN, [path.as_ptr() as usize, flags, 0, 0, 0, 0]) };
    usize::try_from(result).ok()
}

pub(super) fn read(file: usize, room: &mut [u8]) -> usize {
    // SAFETY: the kernel writes so many bytes at most.
    let result = unsafe { call(SYS_READ, [file, room.as_mut_ptr() as usize, room.len(), 0, 0, 0]) };
    usize::try_from(result).unwrap_or(0)
}

/// Calls `visit` with each name in a folder that is a number.
pub(super) fn each_number(folder: usize, mut visit: impl FnMut(u32)) {
    const NAME_AT: usize = 19;
    let mut room = [0u64; 256];
    loop {
        let places = [room.as_mut_ptr() as usize, size_of_val(&room)];
        // SAFETY: the kernel writes so many bytes at most.
        let result = unsafe { call(SYS_GETDENTS64, [folder, places[0], places[1], 0, 0, 0]) };
        let Ok(bytes @ 1..) = usize::try_from(result) else { return };
        // SAFETY: the kernel has written so many bytes.
        let mut rest = unsafe { core::slice::from_raw_parts(room.as_ptr().cast::<u8>(), bytes) };
        while rest.len() > NAME_AT {
            let length = usize::from(u16::from_le_bytes([rest[16], rest[17]]));
            if length <= NAME_AT || length > rest.len() {
                return;
            }
            if let Some(number) = decimal(&rest[NAME_AT..length]) {
                visit(number);
            }
            rest = &rest[length..];
        }
    }
}

/// A number, up to a zero byte.
fn decimal(text: &[u8]) -> Option<u32> {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    let digits = &text[..end];
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u32, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(digit.into())
    })
}
