//! System calls, and the two functions that are imported from the program's C library.

use core::cell::UnsafeCell;
use core::ffi::{c_char, c_int};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use brant_mediator::system::OfProcess;
pub(super) use brant_mediator::system::{call, map_wiped_on_fork, unmap};

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
    // By way of the vDSO; a system call of its own would cost as much as all the rest of a record.
    fn clock_gettime(clock: c_int, time: *mut Time) -> c_int;
}

#[repr(C)]
struct Time {
    seconds: i64,
    nanoseconds: i64,
}

const SYS_READ: usize = 0;
const SYS_WRITE: usize = 1;
const SYS_OPEN: usize = 2;
const SYS_CLOSE: usize = 3;
const SYS_MMAP: usize = 9;
const SYS_SCHED_YIELD: usize = 24;
const SYS_GETPID: usize = 39;
const SYS_GETPEERNAME: usize = 52;
const SYS_FTRUNCATE: usize = 77;
const SYS_TIMES: usize = 100;
const SYS_GETTID: usize = 186;
const SYS_PROCESS_VM_READV: usize = 310;
const SYS_MEMFD_CREATE: usize = 319;

pub(super) const PAGE: usize = 4096;
const O_WRONLY: usize = 1;
const O_CREAT: usize = 0o100;
const O_NOCTTY: usize = 0o400;
const O_APPEND: usize = 0o2000;
const O_CLOEXEC: usize = 0o2_000_000;
const PROT_READ: usize = 1;
const MAP_SHARED: usize = 1;

pub(super) fn errno() -> u32 {
    // SAFETY: the calling thread's own.
    unsafe { *__errno_location() as u32 }
}

/// Where the C library is, in other words.
pub(super) fn errno_location() -> usize {
    let function: unsafe extern "C" fn() -> *mut c_int = __errno_location;
    function as usize
}

pub(super) fn set_errno(number: u32) {
    // SAFETY: the calling thread's own.
    unsafe { *__errno_location() = number as c_int }
}

/// Nanoseconds of a clock.
pub(super) fn clock(which: c_int) -> u64 {
    let mut time = Time { seconds: 0, nanoseconds: 0 };
    // SAFETY: there is room for the time.
    unsafe { clock_gettime(which, &raw mut time) };
    (time.seconds as u64).wrapping_mul(1_000_000_000).wrapping_add(time.nanoseconds as u64)
}

/// Nanoseconds since 1970.
pub(super) fn wall_ns() -> u64 {
    clock(0)
}

/// Nanoseconds of a clock that only goes forward.
pub(super) fn monotonic_ns() -> u64 {
    clock(1)
}

/// What times(2) gives.
pub(super) fn ticks() -> i64 {
    // SAFETY: writes nothing.
    unsafe { call(SYS_TIMES, [0; 6]) as i64 }
}

pub(super) fn thread() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { call(SYS_GETTID, [0; 6]) as u32 }
}

/// Where the number of this process is kept: memory that a fork leaves empty.
static PROCESS: OfProcess = OfProcess::new();

/// Until this time the number is not kept: it may be another one in a copy that is about to be made of the program.
static UNSURE_UNTIL_NS: AtomicU64 = AtomicU64::new(0);

/// Forgets the number of this process until then.
pub(super) fn be_unsure_of_process(until_ns: u64) {
    UNSURE_UNTIL_NS.store(until_ns, Ordering::SeqCst);
    if let Some(kept) = PROCESS.known() {
        kept.store(0, Ordering::SeqCst);
    }
}

/// It changes behind the program's back: it is asked for each time.
static IS_ALWAYS_ASKED: AtomicBool = AtomicBool::new(false);

/// Never keeps the number of this process.
pub(super) fn always_ask_for_process() {
    IS_ALWAYS_ASKED.store(true, Ordering::Relaxed);
}

/// The number of this process, kept where that is possible: it is asked for with every text.
pub(super) fn process() -> usize {
    // SAFETY: takes nothing and cannot fail.
    let ask = || unsafe { call(SYS_GETPID, [0; 6]) as usize };
    if IS_ALWAYS_ASKED.load(Ordering::Relaxed) {
        return ask();
    }
    let Some(kept) = PROCESS.get() else { return ask() };
    match kept.load(Ordering::Relaxed) {
        0 => {
            let unsure_until = UNSURE_UNTIL_NS.load(Ordering::SeqCst);
            let number = ask();
            if wall_ns() >= unsure_until {
                kept.store(number, Ordering::SeqCst);
                // It may have become unsure meanwhile.
                if UNSURE_UNTIL_NS.load(Ordering::SeqCst) != unsure_until {
                    kept.store(0, Ordering::SeqCst);
                }
            }
            number
        }
        number => number,
    }
}

/// Gives back what is kept: no mediator runs any more.
pub(super) fn forget() {
    // SAFETY: nobody uses it.
    unsafe { PROCESS.forget() };
}

pub(super) fn give_way() {
    // SAFETY: takes nothing.
    unsafe { call(SYS_SCHED_YIELD, [0; 6]) };
}

/// Opens a file to append to it, at its end. `path` ends with a zero byte. An error is its number.
pub(super) fn open_to_append(path: &[u8]) -> Result<usize, u32> {
    debug_assert!(path.ends_with(&[0]));
    let flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY;
    // SAFETY: the path ends with a zero byte.
    match unsafe { call(SYS_OPEN, [path.as_ptr() as usize, flags, 0o666, 0, 0, 0]) } {
        file if file >= 0 => Ok(file as usize),
        error => Err(-error as u32),
    }
}

/// As much of a file as there is room for. `path` ends with a zero byte.
pub(super) fn read_file<'a>(path: &[u8], room: &'a mut [u8]) -> Option<&'a [u8]> {
    debug_assert!(path.ends_with(&[0]));
    // SAFETY: the path ends with a zero byte.
    let file = unsafe { call(SYS_OPEN, [path.as_ptr() as usize, O_CLOEXEC, 0, 0, 0, 0]) };
    if file < 0 {
        return None;
    }
    let mut used = 0;
    while used < room.len() {
        let rest = &mut room[used..];
        // SAFETY: the kernel writes so many bytes at most.
        let got = unsafe { call(SYS_READ, [file as usize, rest.as_mut_ptr() as usize, rest.len(), 0, 0, 0]) };
        if got <= 0 {
            break;
        }
        used += got as usize;
    }
    close(file as usize);
    Some(&room[..used])
}

/// A short text that is put together in room of a fixed size.
pub(super) struct Text<'a> {
    room: &'a mut [u8],
    used: usize,
}

impl<'a> Text<'a> {
    pub(super) fn into(room: &'a mut [u8]) -> Text<'a> {
        Text { room, used: 0 }
    }

    /// What does not fit is left out.
    pub(super) fn put(mut self, bytes: &[u8]) -> Text<'a> {
        let fits = bytes.len().min(self.room.len() - 1 - self.used);
        self.room[self.used..self.used + fits].copy_from_slice(&bytes[..fits]);
        self.used += fits;
        self
    }

    pub(super) fn number(self, number: u64) -> Text<'a> {
        let mut digits = [0u8; 20];
        let mut at = digits.len();
        let mut rest = number;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                return self.put(&digits[at..]);
            }
        }
    }

    /// With a zero byte at its end.
    pub(super) fn end(self) -> &'a [u8] {
        self.room[self.used] = 0;
        &self.room[..=self.used]
    }
}

/// Opens a file to read it. `path` ends with a zero byte. An error is its number.
pub(super) fn open_to_read(path: &[u8]) -> Result<usize, u32> {
    debug_assert!(path.ends_with(&[0]));
    // SAFETY: the path ends with a zero byte.
    match unsafe { call(SYS_OPEN, [path.as_ptr() as usize, O_CLOEXEC | O_NOCTTY, 0, 0, 0, 0]) } {
        file if file >= 0 => Ok(file as usize),
        error => Err(-error as u32),
    }
}

/// A file in memory of so many bytes of zeros.
pub(super) fn memory_file(name: &core::ffi::CStr, bytes: usize) -> Result<usize, u32> {
    const MFD_CLOEXEC: usize = 1;
    // SAFETY: the name ends with a zero byte.
    let file = unsafe { call(SYS_MEMFD_CREATE, [name.as_ptr() as usize, MFD_CLOEXEC, 0, 0, 0, 0]) };
    if file < 0 {
        return Err(-file as u32);
    }
    // SAFETY: plain numbers.
    match unsafe { call(SYS_FTRUNCATE, [file as usize, bytes, 0, 0, 0, 0]) } {
        0 => Ok(file as usize),
        error => {
            close(file as usize);
            Err(-error as u32)
        }
    }
}

/// Maps the beginning of a file to be read, shared with all others who do. It is never unmapped.
pub(super) fn map_shared(file: usize, bytes: usize) -> Option<&'static [u8]> {
    // SAFETY: new memory, which replaces nothing.
    let at = unsafe { call(SYS_MMAP, [0, bytes, PROT_READ, MAP_SHARED, file, 0]) };
    // SAFETY: just mapped, so many bytes.
    (at > 0).then(|| unsafe { core::slice::from_raw_parts(at as *const u8, bytes) })
}

/// Writes all of it, or tells that it could not.
pub(super) fn write_all(file: usize, mut bytes: &[u8]) -> bool {
    const EINTR: isize = -4;
    while !bytes.is_empty() {
        // SAFETY: the kernel reads so many bytes.
        match unsafe { call(SYS_WRITE, [file, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0]) } {
            EINTR => {}
            done if done > 0 => bytes = &bytes[done as usize..],
            _ => return false,
        }
    }
    true
}

/// Reads from a file; how many bytes came.
pub(super) fn read(file: usize, room: &mut [u8]) -> usize {
    const SYS_READ: usize = 0;
    // SAFETY: writes to `room` only, so many bytes.
    let done = unsafe { call(SYS_READ, [file, room.as_mut_ptr() as usize, room.len(), 0, 0, 0]) };
    usize::try_from(done).unwrap_or(0)
}

pub(super) fn close(file: usize) {
    // SAFETY: our own descriptor.
    unsafe { call(SYS_CLOSE, [file, 0, 0, 0, 0, 0]) };
}

/// Reads memory of the program at an address that may be none: all of it, or nothing of worth.
pub(super) fn read_bytes(at: usize, room: &mut [u8]) -> bool {
    let local = [room.as_mut_ptr() as usize, room.len()];
    let remote = [at, room.len()];
    let (local, remote) = (&raw const local as usize, &raw const remote as usize);
    // SAFETY: writes to `room` only, so many bytes.
    let done = unsafe { call(SYS_PROCESS_VM_READV, [process(), local, 1, remote, 1, 0]) };
    done == room.len() as isize
}

/// The address of the other end of a socket, in `room`.
pub(super) fn peer(socket: c_int, room: &mut [u8]) -> Option<&[u8]> {
    let mut bytes = room.len() as u32;
    let (at, length) = (room.as_mut_ptr() as usize, &raw mut bytes as usize);
    // SAFETY: writes as many bytes as there is room for, and how many there are.
    let done = unsafe { call(SYS_GETPEERNAME, [socket as usize, at, length, 0, 0, 0]) };
    (done == 0).then(|| &room[..room.len().min(bytes as usize)])
}

/// Reads the program's text at an address that may be none, up to a zero byte. `None` where there is nothing.
pub(super) fn read_text(at: *const c_char, room: &mut [u8]) -> Option<(&[u8], bool)> {
    let mut got = 0;
    // Page by page: the kernel gives nothing of a range that ends in a hole.
    while got < room.len() {
        let from = (at as usize).wrapping_add(got);
        let bytes = (PAGE - from % PAGE).min(room.len() - got);
        if !read_bytes(from, &mut room[got..got + bytes]) {
            return (got > 0).then_some((&room[..got], false));
        }
        if let Some(end) = room[got..got + bytes].iter().position(|byte| *byte == 0) {
            return Some((&room[..got + end], true));
        }
        got += bytes;
    }
    Some((&room[..got], false))
}

/// A value that is set once, before any mediator runs.
pub(super) struct Once<T> {
    is_set: AtomicU8,
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: written once, before it is set.
unsafe impl<T: Sync + Send> Sync for Once<T> {}

impl<T> Once<T> {
    pub(super) const fn new() -> Once<T> {
        Once { is_set: AtomicU8::new(0), value: UnsafeCell::new(MaybeUninit::uninit()) }
    }

    /// Later values are dropped.
    pub(super) fn set(&self, value: T) {
        if self.is_set.compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            // SAFETY: nobody else writes, and nobody reads before it is set.
            unsafe { (*self.value.get()).write(value) };
            self.is_set.store(2, Ordering::Release);
        }
    }

    pub(super) fn get(&self) -> Option<&T> {
        // SAFETY: it was written, and is not any more.
        (self.is_set.load(Ordering::Acquire) == 2).then(|| unsafe { (*self.value.get()).assume_init_ref() })
    }
}
