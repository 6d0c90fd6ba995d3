//! The system calls that heaps need, without an allocator: the program's own may be the heap that is being saved.

use std::cell::Cell;
use std::os::unix::ffi::OsStrExt as _;

use crate::error::Error;
use crate::layout::PAGE_BYTES;

/// The number of the last failed call.
fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn checked(result: i64) -> Result<usize, i32> {
    if result < 0 { Err(errno()) } else { Ok(result as usize) }
}

/// A path as the kernel takes it.
#[derive(Clone)]
pub(crate) struct Path {
    bytes: [u8; libc::PATH_MAX as usize],
    len: usize,
}

impl Path {
    /// `ENAMETOOLONG` or `EINVAL` where the kernel would take no such path.
    pub(crate) fn new(path: &std::path::Path) -> Result<Path, i32> {
        let bytes = path.as_os_str().as_bytes();
        if bytes.contains(&0) || bytes.is_empty() {
            return Err(libc::EINVAL);
        }
        Path { bytes: [0; libc::PATH_MAX as usize], len: 0 }.with(bytes)
    }

    pub(crate) fn literal(bytes: &[u8]) -> Path {
        let empty = Path { bytes: [0; libc::PATH_MAX as usize], len: 0 };
        empty.clone().with(bytes).unwrap_or(empty)
    }

    /// With more at its end.
    pub(crate) fn with(mut self, bytes: &[u8]) -> Result<Path, i32> {
        let end = self.len + bytes.len();
        // The last byte stays zero.
        let place =
            self.bytes[..libc::PATH_MAX as usize - 1].get_mut(self.len..end).ok_or(libc::ENAMETOOLONG)?;
        place.copy_from_slice(bytes);
        self.len = end;
        Ok(self)
    }

    /// The folder that it lies in.
    pub(crate) fn folder(&self) -> Path {
        match self.bytes[..self.len].iter().rposition(|byte| *byte == b'/') {
            None => Path::literal(b"."),
            Some(0) => Path::literal(b"/"),
            Some(at) => Path::literal(&self.bytes[..at]),
        }
    }

    fn as_ptr(&self) -> *const libc::c_char {
        self.bytes.as_ptr().cast()
    }
}

/// What fstat(2) says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) bytes: u64,
    pub(crate) is_regular: bool,
}

/// An open file; closed at its end.
#[derive(Debug)]
pub(crate) struct File {
    fd: i32,
    is_locked: Cell<bool>,
}

impl File {
    pub(crate) fn open_for_reading(path: &Path) -> Result<File, i32> {
        File::open(path, libc::O_RDONLY | libc::O_NONBLOCK)
    }

    pub(crate) fn open_for_writing(path: &Path) -> Result<File, i32> {
        File::open(path, libc::O_RDWR | libc::O_NONBLOCK)
    }

    /// A new file that its owner alone may read; `EEXIST` where there is one.
    pub(crate) fn create(path: &Path) -> Result<File, i32> {
        File::open(path, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW)
    }

    fn open(path: &Path, flags: i32) -> Result<File, i32> {
        // SAFETY: the path ends with a zero byte.
        let fd = unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, 0o600) };
        checked(fd.into()).map(|fd| File { fd: fd as i32, is_locked: Cell::new(false) })
    }

    pub(crate) fn raw(&self) -> i32 {
        self.fd
    }

    pub(crate) fn status(&self) -> Result<Status, i32> {
        let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
        // SAFETY: the structure is ours and of the right size.
        checked(unsafe { libc::fstat(self.fd, stat.as_mut_ptr()) }.into())?;
        // SAFETY: zero is valid for each field, and fstat filled it.
        let stat = unsafe { stat.assume_init() };
        Ok(Status {
            device: stat.st_dev,
            inode: stat.st_ino,
            bytes: stat.st_size as u64,
            is_regular: stat.st_mode & libc::S_IFMT == libc::S_IFREG,
        })
    }

    pub(crate) fn read(&self, into: &mut [u8]) -> Result<usize, i32> {
        loop {
            // SAFETY: the buffer is ours and as long as said.
            let count = unsafe { libc::read(self.fd, into.as_mut_ptr().cast(), into.len()) };
            match checked(count as i64) {
                Err(libc::EINTR) => {}
                done => return done,
            }
        }
    }

    /// Fills all of `into`; tells how much there was.
    pub(crate) fn read_at(&self, into: &mut [u8], offset: u64) -> Result<usize, i32> {
        let mut filled = 0;
        while filled < into.len() {
            let rest = &mut into[filled..];
            let at = (offset + filled as u64) as i64;
            // SAFETY: the buffer is ours and as long as said.
            let count = unsafe { libc::pread(self.fd, rest.as_mut_ptr().cast(), rest.len(), at) };
            match checked(count as i64) {
                Err(libc::EINTR) => {}
                Err(errno) => return Err(errno),
                Ok(0) => break,
                Ok(count) => filled += count,
            }
        }
        Ok(filled)
    }

    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), i32> {
        let mut written = 0;
        while written < bytes.len() {
            let rest = &bytes[written..];
            let at = (offset + written as u64) as i64;
            // SAFETY: the buffer is ours and as long as said.
            let count = unsafe { libc::pwrite(self.fd, rest.as_ptr().cast(), rest.len(), at) };
            match checked(count as i64) {
                Err(libc::EINTR) => {}
                Err(errno) => return Err(errno),
                Ok(0) => return Err(libc::ENOSPC),
                Ok(count) => written += count,
            }
        }
        Ok(())
    }

    pub(crate) fn set_length(&self, bytes: u64) -> Result<(), i32> {
        // SAFETY: no memory is touched.
        checked(unsafe { libc::ftruncate(self.fd, bytes as i64) }.into()).map(drop)
    }

    pub(crate) fn sync(&self) -> Result<(), i32> {
        // SAFETY: no memory is touched.
        checked(unsafe { libc::fsync(self.fd) }.into()).map(drop)
    }

    /// Takes the file for ourselves; `EWOULDBLOCK` where another process has it.
    pub(crate) fn try_lock(&self) -> Result<(), i32> {
        // SAFETY: no memory is touched.
        checked(unsafe { libc::flock(self.fd, libc::LOCK_EX | libc::LOCK_NB) }.into())?;
        self.is_locked.set(true);
        Ok(())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if self.is_locked.get() {
            // The child of a fork that came meanwhile has the descriptor too, and would keep the lock for as long as it lives.
            // SAFETY: no memory is touched.
            unsafe { libc::flock(self.fd, libc::LOCK_UN) };
        }
        // SAFETY: the descriptor is ours, and nobody has it after this.
        unsafe { libc::close(self.fd) };
    }
}

pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), i32> {
    // SAFETY: both paths end with a zero byte.
    checked(unsafe { libc::rename(from.as_ptr(), to.as_ptr()) }.into()).map(drop)
}

pub(crate) fn unlink(path: &Path) {
    // SAFETY: the path ends with a zero byte.
    unsafe { libc::unlink(path.as_ptr()) };
}

/// Makes the names in a folder durable. Some file systems cannot, and say so.
pub(crate) fn sync_folder(path: &Path) -> Result<(), i32> {
    let folder = File::open(path, libc::O_RDONLY | libc::O_DIRECTORY)?;
    match folder.sync() {
        Err(libc::EINVAL | libc::EBADF | libc::ENOTSUP) | Ok(()) => Ok(()),
        failed => failed,
    }
}

pub(crate) fn process_id() -> u32 {
    std::process::id()
}

pub(crate) fn sleep_ms(milliseconds: i64) {
    let time = libc::timespec { tv_sec: milliseconds / 1000, tv_nsec: milliseconds % 1000 * 1_000_000 };
    // SAFETY: the structure is ours; the remaining time is not asked for.
    unsafe { libc::nanosleep(&time, std::ptr::null_mut()) };
}

/// CLOCK_REALTIME in nanoseconds.
pub(crate) fn now_ns() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// 16 bytes that no one else has.
pub(crate) fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    // SAFETY: the buffer is ours and as long as said.
    let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if count != 16 {
        bytes[..8].copy_from_slice(&now_ns().to_le_bytes());
        bytes[8..12].copy_from_slice(&process_id().to_le_bytes());
    }
    bytes
}

/// Says something on descriptor 2.
pub(crate) fn say(line: &[u8]) {
    // SAFETY: the buffer is ours and as long as said.
    unsafe { libc::write(2, line.as_ptr().cast(), line.len()) };
}

/// Reserves address space that nothing else gets; no memory yet. At `at` exactly, unless that is 0.
pub(crate) fn reserve(at: usize, bytes: usize) -> Result<usize, i32> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let fixed = if at == 0 { 0 } else { libc::MAP_FIXED_NOREPLACE };
    // SAFETY: the kernel replaces no mapping of ours, since MAP_FIXED is not said.
    let address = unsafe { libc::mmap(at as *mut _, bytes, libc::PROT_NONE, flags | fixed, -1, 0) };
    if address == libc::MAP_FAILED {
        return Err(errno());
    }
    if at != 0 && address as usize != at {
        // A kernel before 4.17 takes the address for a wish.
        // SAFETY: this was mapped just now and is not in use.
        unsafe { libc::munmap(address, bytes) };
        return Err(libc::EEXIST);
    }
    Ok(address as usize)
}

/// # Safety
///
/// Nobody uses the range any more.
pub(crate) unsafe fn unmap(at: usize, bytes: usize) {
    // SAFETY: promised by the caller.
    unsafe { libc::munmap(at as *mut _, bytes) };
}

/// Makes a part of a reserved range readable and writable.
pub(crate) fn commit(at: usize, bytes: usize) -> Result<(), i32> {
    // SAFETY: the range is reserved by a heap of ours, and getting rights is no harm to its memory.
    checked(unsafe { libc::mprotect(at as *mut _, bytes, libc::PROT_READ | libc::PROT_WRITE) }.into())
        .map(drop)
}

/// Maps a part of a file, copy-on-write, over a part of a range.
///
/// # Safety
///
/// The range is reserved by the caller, and nobody uses what lies there.
pub(crate) unsafe fn map_file(at: usize, bytes: usize, file: &File, offset: u64) -> Result<(), i32> {
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
    // SAFETY: promised by the caller.
    let address = unsafe { libc::mmap(at as *mut _, bytes, rights, flags, file.raw(), offset as i64) };
    if address == libc::MAP_FAILED { Err(errno()) } else { Ok(()) }
}

/// What became of memory that a file was to take the place of.
pub(crate) enum Replaced {
    Done,
    Untouched,
    /// Nothing may be there any more.
    Unknown,
}

/// Puts a part of a file, copy-on-write, in the place of memory that holds the same. It is mapped elsewhere first, since a mapping that fails may
/// have removed what it was to replace.
///
/// # Safety
///
/// The memory is of a heap, the file holds the same bytes, and nobody uses it.
pub(crate) unsafe fn replace_by_file(at: usize, bytes: usize, file: &File, offset: u64) -> Replaced {
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    let (nowhere, offset) = (std::ptr::null_mut(), offset as i64);
    // SAFETY: nothing is replaced.
    let fresh = unsafe { libc::mmap(nowhere, bytes, rights, libc::MAP_PRIVATE, file.raw(), offset) };
    if fresh == libc::MAP_FAILED {
        return Replaced::Untouched;
    }
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: promised by the caller; the fresh mapping is ours.
    if unsafe { libc::mremap(fresh, bytes, bytes, flags, at as *mut libc::c_void) } == libc::MAP_FAILED {
        // SAFETY: nobody has seen it.
        unsafe { unmap(fresh as usize, bytes) };
        return Replaced::Unknown;
    }
    Replaced::Done
}

/// Makes whole pages read as zero and gives their memory back. `false` where the kernel does not; then they are as they were.
///
/// # Safety
///
/// Nobody uses what lies there.
pub(crate) unsafe fn discard(at: usize, bytes: usize, is_anonymous: bool) -> bool {
    if is_anonymous {
        // SAFETY: promised by the caller.
        return unsafe { libc::madvise(at as *mut _, bytes, libc::MADV_DONTNEED) } == 0;
    }
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: promised by the caller.
    unsafe { libc::mmap(at as *mut _, bytes, rights, flags, -1, 0) != libc::MAP_FAILED }
}

/// Zeroed memory of the kernel's, given back at its end.
pub(crate) struct Buffer {
    address: *mut u8,
    bytes: usize,
}

// SAFETY: the memory belongs to the buffer alone.
unsafe impl Send for Buffer {}

impl Buffer {
    pub(crate) fn new(bytes: usize) -> Result<Buffer, Error> {
        let bytes = bytes.max(1).next_multiple_of(PAGE_BYTES);
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: nothing is replaced.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), bytes, rights, flags, -1, 0) };
        if address == libc::MAP_FAILED {
            return Err(Error::NoMemory { bytes, errno: errno() });
        }
        Ok(Buffer { address: address.cast(), bytes })
    }

    /// Never given back.
    pub(crate) fn leak(self) -> *mut u8 {
        let address = self.address;
        std::mem::forget(self);
        address
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: mapped, zeroed and ours for as long as `self`.
        unsafe { std::slice::from_raw_parts(self.address, self.bytes) }
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: mapped, zeroed and ours for as long as `self`.
        unsafe { std::slice::from_raw_parts_mut(self.address, self.bytes) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: nobody has a reference any more.
        unsafe { unmap(self.address as usize, self.bytes) };
    }
}
