//! A library that travels with brant, as a file that the program's loader can load.
//!
//! It is a file in memory, where the program may make and map one and finds it in its /proc. Otherwise it is a file in a folder for
//! temporary files, as the program sees that, for its owner only: its name is taken away before it is loaded, or, where there
//! is no /proc, after that. All of it is done by system calls of the program itself, so it has the program's rights and root.
//!
//! State of the target: it has a descriptor more until [`Carried::give_back`], which is closed by an execve. Killed: that stays open;
//! a file that has a name for the moment keeps it.

use std::time::{SystemTime, UNIX_EPOCH};

use brant_base::{Addr, PAGE_SIZE, Pid, Tid, fault};
use brant_kernel::proc;
use brant_kernel::remote::{Hand, RemoteError, apart};

use crate::error::Error;

/// Where temporary files may be, in this order.
const FOLDERS: [&str; 4] = ["/tmp", "/var/tmp", "/dev/shm", "/run"];
/// MFD_NOEXEC_SEAL (Linux 6.3): the file cannot be executed, which says nothing about mapping it. Where vm.memfd_noexec is 2
/// nothing else is allowed.
const MFD_NOEXEC_SEAL: u64 = 8;
/// What has failed where there is no way at all.
pub(crate) const MAKING: &str = "making a file";
/// Between a file's name and what makes it a new one.
const MARK: u8 = b'~';
const OWNER_ONLY: u64 = 0o600;
const MAY_READ: u64 = 4;

/// Whether the program may have a file of so many bytes. The kernel ends a program that makes one beyond its limit.
pub(crate) fn check_limit(pid: Pid, bytes: usize) -> Result<(), Error> {
    const RLIMIT_FSIZE: usize = 1;
    let limits = proc::limits(pid).map_err(|error| Error::looking(pid, error))?;
    match limits[RLIMIT_FSIZE].soft {
        limit if limit < bytes as u64 => Err(Error::FileLimit { pid, bytes: bytes as u64 }),
        _ => Ok(()),
    }
}

/// The name that was given to [`Carried::make`], from the path of a file that it has made in a folder.
pub(crate) fn name_of(path: &[u8]) -> Option<&[u8]> {
    let file = path.rsplit(|byte| *byte == b'/').next()?;
    let end = file.iter().rposition(|byte| *byte == MARK)?;
    Some(&file[..end])
}

/// A library in the program.
pub(crate) struct Carried {
    /// What it is: several may be the same.
    pub(crate) name: Vec<u8>,
    file: u64,
    is_in_folder: bool,
    /// Its name in a folder, while it has one.
    path: Option<Vec<u8>>,
    /// A loader gives two who load one file the same library, with one state.
    pub(crate) is_loaded: bool,
}

impl Carried {
    pub(crate) fn make(
        hand: &mut Hand<'_>,
        tid: Tid,
        name: &[u8],
        library: &[u8],
    ) -> Result<Carried, RemoteError> {
        let maker = Maker { tid, library };
        if let Some(file) = maker.memory_file(hand, name)? {
            return Ok(Carried {
                name: name.to_vec(),
                file,
                is_in_folder: false,
                path: None,
                is_loaded: false,
            });
        }
        let (file, path) = maker.named_file(hand, name)?;
        let mut carried =
            Carried { name: name.to_vec(), file, is_in_folder: true, path: Some(path), is_loaded: false };
        if maker.is_found(hand, file)? {
            carried.take_name(hand)?;
        }
        Ok(carried)
    }

    /// Its descriptor in the program.
    pub(crate) fn descriptor(&self) -> u64 {
        self.file
    }

    /// How many more are made, in case that a loader takes one for another library. Numbers of files in memory are not given
    /// twice by one kernel; those of files in a folder are, soon.
    pub(crate) fn spares(&self) -> usize {
        if self.is_in_folder { 3 } else { 1 }
    }

    /// The path to load it by, another one each time.
    pub(crate) fn path(&self) -> Vec<u8> {
        if let Some(path) = &self.path {
            return path.clone();
        }
        // Loaders compare names first, and the number may have been another file's: so each file gets a name of its own.
        let spelled = (0..48).map(|bit| if unique() >> bit & 1 == 0 { "/" } else { "./" });
        let path: String = ["/proc/self/fd/"].into_iter().chain(spelled).collect();
        format!("{path}{}", self.file).into_bytes()
    }

    /// Takes away what the program needs no more.
    pub(crate) fn give_back(mut self, hand: &mut Hand<'_>) -> Result<(), RemoteError> {
        let taken = self.take_name(hand);
        hand.call(0, libc::SYS_close, [self.file, 0, 0, 0, 0, 0])?;
        taken
    }

    fn take_name(&mut self, hand: &mut Hand<'_>) -> Result<(), RemoteError> {
        let Some(path) = self.path.take() else { return Ok(()) };
        let at = hand.data().start().0;
        write(hand, Tid(0), &path)?;
        hand.call(0, libc::SYS_unlink, [at, 0, 0, 0, 0, 0]).map(drop)
    }
}

struct Maker<'a> {
    tid: Tid,
    library: &'a [u8],
}

impl Maker<'_> {
    /// Nothing where the program may not have one, may not map it, or does not find it.
    fn memory_file(&self, hand: &mut Hand<'_>, name: &[u8]) -> Result<Option<u64>, RemoteError> {
        if fault::check("wrap.memory-file").is_err() {
            return Ok(None);
        }
        let at = hand.data().start().0;
        for flag in [0, MFD_NOEXEC_SEAL] {
            write(hand, self.tid, name)?;
            let flags = u64::from(libc::MFD_CLOEXEC) | flag;
            let Some(file) = allowed(hand.call(0, libc::SYS_memfd_create, [at, flags, 0, 0, 0, 0]))? else {
                continue;
            };
            if self.fill(hand, file)? && self.is_found(hand, file)? {
                return Ok(Some(file));
            }
            hand.call(0, libc::SYS_close, [file, 0, 0, 0, 0, 0])?;
        }
        Ok(None)
    }

    /// A file in the first folder that takes one.
    fn named_file(&self, hand: &mut Hand<'_>, name: &[u8]) -> Result<(u64, Vec<u8>), RemoteError> {
        let at = hand.data().start().0;
        let flags = (libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC | libc::O_NOFOLLOW) as u64;
        let mut why = std::io::Error::other("no folder for temporary files lets it map code");
        for folder in FOLDERS {
            let path =
                [folder.as_bytes(), b"/", name, &[MARK], format!("{:x}", unique()).as_bytes()].concat();
            write(hand, self.tid, &path)?;
            let file = match hand.call(0, libc::SYS_open, [at, flags, OWNER_ONLY, 0, 0, 0]) {
                Ok(file) => file,
                Err(RemoteError::Call { error, .. }) => {
                    why = error;
                    continue;
                }
                Err(error) => return Err(error),
            };
            if self.fill(hand, file)? {
                return Ok((file, path));
            }
            write(hand, self.tid, &path)?;
            hand.call(0, libc::SYS_unlink, [at, 0, 0, 0, 0, 0])?;
            hand.call(0, libc::SYS_close, [file, 0, 0, 0, 0, 0])?;
        }
        Err(failed(self.tid, MAKING, why))
    }

    /// Whether the file could be filled and its code could be mapped.
    fn fill(&self, hand: &mut Hand<'_>, file: u64) -> Result<bool, RemoteError> {
        let bytes = self.library.len() as u64;
        if allowed(hand.call(0, libc::SYS_ftruncate, [file, bytes, 0, 0, 0, 0]))?.is_none() {
            return Ok(false);
        }
        let map = |hand: &mut Hand<'_>, bytes, protection: i32, flags: i32| {
            hand.call(0, libc::SYS_mmap, [apart(), bytes, protection as u64, flags as u64, file, 0])
        };
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let Some(at) = allowed(map(hand, bytes, protection, libc::MAP_SHARED))? else { return Ok(false) };
        let written = hand.memory().write(Addr(at), self.library);
        hand.call(0, libc::SYS_munmap, [at, bytes, 0, 0, 0, 0])?;
        if written.is_err() {
            // A full disk is found here; it is no fault of the program, which has not touched that memory.
            return Ok(false);
        }
        let code = allowed(map(hand, PAGE_SIZE, libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE))?;
        let Some(code) = code else { return Ok(false) };
        hand.call(0, libc::SYS_munmap, [code, PAGE_SIZE, 0, 0, 0, 0])?;
        Ok(true)
    }

    /// Whether the program finds a descriptor in its /proc.
    fn is_found(&self, hand: &mut Hand<'_>, file: u64) -> Result<bool, RemoteError> {
        let at = hand.data().start().0;
        write(hand, self.tid, format!("/proc/self/fd/{file}").as_bytes())?;
        Ok(allowed(hand.call(0, libc::SYS_access, [at, MAY_READ, 0, 0, 0, 0]))?.is_some())
    }
}

/// Nothing where the kernel has said no.
fn allowed(called: Result<u64, RemoteError>) -> Result<Option<u64>, RemoteError> {
    match called {
        Ok(value) => Ok(Some(value)),
        Err(RemoteError::Call { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn write(hand: &Hand<'_>, tid: Tid, text: &[u8]) -> Result<(), RemoteError> {
    let text = [text, b"\0"].concat();
    let written = hand.memory().write(hand.data().start(), &text);
    written.map_err(|error| failed(tid, "writing arguments", error))
}

fn failed(tid: Tid, operation: &'static str, error: std::io::Error) -> RemoteError {
    RemoteError::Ptrace { tid, operation, error }
}

fn unique() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}
