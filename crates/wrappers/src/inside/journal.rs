//! Records on their way into a file.
//!
//! Each thread has a buffer by the hash of its pointer; two threads may have the same, so each is held by one at a time. A
//! signal handler that interrupts its own thread in a buffer takes another one. A buffer is written when it is full, when
//! its first record is a second old and another one comes, and when the wrapper is taken off or the program ends.
//!
//! Before a checkpoint all are written, and each record as it comes for some seconds, so that the program stops with empty
//! buffers: what waits in one would be written by the image's copy, and once more by a program that is left running.
//!
//! The file is opened for each write: no descriptor is kept in the program, which may close or count its own. The child of a
//! fork begins with empty buffers (MADV_WIPEONFORK), so no record is written twice.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use brant_mediator::thread_pointer;

use super::line::{LINE_BYTES, Line};
use super::system::{self, Once};
use crate::options::PATH_BYTES_MAX;

const BUFFERS: usize = 64;
const BUFFER_BYTES: usize = 64 << 10;
const AGE_MAX_NS: u64 = 1_000_000_000;
/// How often a thread gives way to the one that holds its buffer before it looks for another.
const PATIENCE: u32 = 1000;
const PATIENCE_AT_END: u32 = 100_000;

struct Buffer {
    /// The thread pointer of who holds it; 0: nobody.
    holder: AtomicUsize,
    content: UnsafeCell<Content>,
}

struct Content {
    used: usize,
    records: u64,
    /// When its first record came.
    since_ns: u64,
    bytes: [u8; BUFFER_BYTES],
}

struct Path {
    bytes: [u8; PATH_BYTES_MAX + 1],
}

static PATH: Once<Path> = Once::new();
static BUFFER: AtomicPtr<Buffer> = AtomicPtr::new(core::ptr::null_mut());
static IS_DIRECT: AtomicBool = AtomicBool::new(false);
/// Until this time it is so for a while.
static DIRECT_UNTIL_NS: AtomicU64 = AtomicU64::new(0);
/// Records that could not be written.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Begins: the file must be there, or can be made.
pub(super) fn open(path: &[u8], is_direct: bool) -> Result<(), &'static str> {
    let mut bytes = [0; PATH_BYTES_MAX + 1];
    bytes.get_mut(..path.len()).ok_or("the path of its file is too long")?.copy_from_slice(path);
    if path.len() > PATH_BYTES_MAX {
        return Err("the path of its file is too long");
    }
    can_write(&bytes)?;
    let buffers = system::map_wiped_on_fork(BUFFERS * size_of::<Buffer>());
    let buffers = buffers.ok_or("there is no memory for buffers that a fork leaves empty (Linux 4.14)")?;
    PATH.set(Path { bytes });
    IS_DIRECT.store(is_direct, Ordering::Relaxed);
    BUFFER.store(buffers.cast(), Ordering::Release);
    Ok(())
}

/// Whether the program can open this file to write: it is made where it is not there. The path ends with a zero byte.
pub(super) fn can_write(path: &[u8]) -> Result<(), &'static str> {
    match system::open_to_append(path) {
        Ok(file) => {
            system::close(file);
            Ok(())
        }
        Err(2) => Err("the folder of its file is not there for the program (ENOENT)"),
        Err(13) => Err("the program may not write its file (EACCES)"),
        Err(21) => Err("the file to write is a folder (EISDIR)"),
        Err(30) => Err("its file is on a file system that is read-only (EROFS)"),
        Err(_) => Err("the program cannot open its file to write"),
    }
}

/// Whether there is anything to record.
pub(super) fn is_open() -> bool {
    !BUFFER.load(Ordering::Relaxed).is_null()
}

/// Adds a record, which came at `now_ns`. It is whole in the file, or not at all.
pub(super) fn record(line: &Line, now_ns: u64) {
    let Some(buffers) = buffers() else { return };
    let own = thread_pointer();
    let first = own.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    for step in 0..BUFFERS {
        let buffer = &buffers[(first + step) % BUFFERS];
        if buffer.with(own, PATIENCE, |content| content.add(line, now_ns)).is_some() {
            return;
        }
    }
    LOST.fetch_add(1, Ordering::Relaxed);
}

/// Adds a record and writes everything: what comes next may not return.
pub(super) fn record_at_once(line: &Line, now_ns: u64) {
    record(line, now_ns);
    write_all();
}

/// Writes what there is, and from now on each record as it comes.
pub(super) fn write_through() {
    IS_DIRECT.store(true, Ordering::SeqCst);
    write_all();
}

/// A checkpoint is near, until then at least. After a restore the time has passed.
pub(super) fn save(until_ns: u64) {
    DIRECT_UNTIL_NS.store(until_ns, Ordering::SeqCst);
    write_all();
}

fn is_direct(now_ns: u64) -> bool {
    IS_DIRECT.load(Ordering::SeqCst) || now_ns < DIRECT_UNTIL_NS.load(Ordering::SeqCst)
}

fn write_all() {
    let own = thread_pointer();
    for buffer in buffers().into_iter().flatten() {
        buffer.with(own, PATIENCE_AT_END, Content::write);
    }
    let lost = LOST.swap(0, Ordering::Relaxed);
    if lost > 0 {
        let mut line = core::mem::MaybeUninit::uninit();
        let line = Line::begin(&mut line);
        line.put(b"# ");
        line.unsigned(lost);
        line.put(b" records could not be written\n");
        append(line.bytes());
    }
}

/// The end: no thread is in here.
pub(super) fn close() {
    if is_open() {
        write_through();
        let at = BUFFER.swap(core::ptr::null_mut(), Ordering::AcqRel);
        // SAFETY: nobody is inside of a mediator any more.
        unsafe { system::unmap(at.cast(), BUFFERS * size_of::<Buffer>()) };
    }
}

fn buffers() -> Option<&'static [Buffer]> {
    let at = BUFFER.load(Ordering::Acquire);
    // SAFETY: mapped with room for so many, and zeros are an empty buffer; unmapped only where no thread is inside.
    (!at.is_null()).then(|| unsafe { core::slice::from_raw_parts(at, BUFFERS) })
}

fn append(bytes: &[u8]) -> bool {
    let Some(path) = PATH.get() else { return false };
    let Ok(file) = system::open_to_append(&path.bytes) else { return false };
    let is_written = system::write_all(file, bytes);
    system::close(file);
    is_written
}

// SAFETY: the content belongs to who holds it.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Nothing where the thread itself holds it already, or another one does for too long.
    fn with<T>(&self, own: usize, patience: u32, act: impl FnOnce(&mut Content) -> T) -> Option<T> {
        let mut tries = 0;
        while let Err(holder) = self.holder.compare_exchange(0, own, Ordering::Acquire, Ordering::Relaxed) {
            if holder == own || tries > patience {
                return None;
            }
            tries += 1;
            if tries % 16 == 0 { system::give_way() } else { core::hint::spin_loop() }
        }
        // SAFETY: held by this thread alone, until it says otherwise.
        let result = act(unsafe { &mut *self.content.get() });
        self.holder.store(0, Ordering::Release);
        Some(result)
    }
}

impl Content {
    fn add(&mut self, line: &Line, now_ns: u64) {
        if self.used + LINE_BYTES > BUFFER_BYTES {
            self.write();
        }
        if self.used == 0 {
            self.since_ns = now_ns;
        }
        let bytes = line.bytes();
        self.bytes[self.used..self.used + bytes.len()].copy_from_slice(bytes);
        self.used += bytes.len();
        self.records += 1;
        if is_direct(now_ns) || now_ns.saturating_sub(self.since_ns) > AGE_MAX_NS {
            self.write();
        }
    }

    fn write(&mut self) {
        if self.used > 0 && !append(&self.bytes[..self.used]) {
            LOST.fetch_add(self.records, Ordering::Relaxed);
        }
        self.used = 0;
        self.records = 0;
    }
}
