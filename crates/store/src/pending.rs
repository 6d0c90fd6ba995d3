//! An image on its way to its name.
//!
//! Killed at any instant, brant leaves nothing under the final name: with O_TMPFILE nothing at all, else, and between the
//! two steps of replacing an earlier image, a hidden file that carries an flock(2) lock for as long as its writer lives.
//! The next image in the same folder sweeps away those that nobody holds; the lock works across pid namespaces, where a
//! recorded pid would not.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use brant_base::fault;
use brant_image::{Head, ImageError};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg, RenameFlags, renameat2};

use crate::{IMAGE_SUFFIX, StoreError};

const TEMPORARY_PREFIX: &str = ".brant-";
const TEMPORARY_SUFFIX: &str = ".tmp";
/// A temporary file younger than this may not have its lock yet.
const SWEEP_AGE_MIN: Duration = Duration::from_secs(60);
const NAME_TRIES_MAX: u32 = 100;

/// Where an image shall lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Under the image's own name in this folder.
    Folder(PathBuf),
    /// Under this very name.
    File(PathBuf),
}

impl Place {
    /// What `-o PATH` means: an existing folder, or a path that ends in a slash, is a folder.
    pub fn from_option(path: &Path) -> Place {
        if path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            Place::Folder(path.to_owned())
        } else {
            Place::File(path.to_owned())
        }
    }

    fn folder(&self) -> PathBuf {
        match self {
            Place::Folder(folder) => folder.clone(),
            Place::File(path) => folder_of(path),
        }
    }

    /// For messages.
    fn shown(&self) -> PathBuf {
        match self {
            Place::Folder(folder) => folder.clone(),
            Place::File(path) => path.clone(),
        }
    }
}

/// An image that is being written. Dropped before [`Pending::commit`], it leaves nothing.
#[derive(Debug)]
pub struct Pending {
    file: File,
    place: Place,
    force: bool,
    /// The hidden name, with its lock, where the file has one.
    temporary: Option<(PathBuf, Flock<File>)>,
    written_bytes: u64,
    expected_bytes: u64,
}

impl Pending {
    /// Begins an image at `place`. An existing file is found out now, and again on commit.
    pub fn begin(place: Place, force: bool, expected_bytes: u64) -> Result<Pending, StoreError> {
        if let Place::File(path) = &place
            && let Ok(metadata) = fs::symlink_metadata(path)
            && (!force || metadata.is_dir())
        {
            return Err(StoreError::Exists { path: path.clone() });
        }
        let folder = place.folder();
        sweep(&folder);
        let fault = |source| StoreError::Folder { folder: folder.clone(), source };
        let (file, temporary) = match nameless(&folder) {
            Ok(file) => (file, None),
            Err(error) if lacks_nameless(&error) => {
                let (file, path, lock) = named(&folder).map_err(fault)?;
                (file, Some((path, lock)))
            }
            Err(error) => return Err(fault(error)),
        };
        Ok(Pending { file, place, force, temporary, written_bytes: 0, expected_bytes })
    }

    /// An error where the disk has less free space than `bytes`; lets a checkpoint give up before it freezes.
    pub fn check_space(&mut self, bytes: u64) -> Result<(), StoreError> {
        self.expected_bytes = self.expected_bytes.max(bytes);
        let Ok(disk) = nix::sys::statvfs::fstatvfs(&self.file) else { return Ok(()) };
        let free_bytes = disk.blocks_available().saturating_mul(disk.fragment_size());
        if free_bytes < bytes && disk.blocks() > 0 {
            let path = self.place.shown();
            return Err(StoreError::Full { path, fit_bytes: free_bytes, needed_bytes: bytes });
        }
        Ok(())
    }

    /// Says what a failure of the [`Writer`](brant_image::Writer) means for this file.
    pub fn fault(&self, error: ImageError) -> StoreError {
        match error {
            ImageError::Write(source) => self.write_fault(source),
            source => StoreError::Image { path: self.place.shown(), source },
        }
    }

    /// Says what a failed write means for this file.
    pub fn write_fault(&self, source: io::Error) -> StoreError {
        let path = self.place.shown();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                let needed_bytes = self.expected_bytes.max(self.written_bytes);
                StoreError::Full { path, fit_bytes: self.written_bytes, needed_bytes }
            }
            _ => StoreError::Write { path, source },
        }
    }

    /// Makes the contents durable, then gives them their name: for a folder `own_name` (see [`own_name`](Self::own_name)).
    /// Gives the path.
    pub fn commit(mut self, own_name: &str) -> Result<PathBuf, StoreError> {
        fault::reach("store.before-sync");
        self.file.sync_all().map_err(|source| self.write_fault(source))?;
        fault::reach("store.synced");
        let path = match &self.place {
            Place::Folder(folder) => folder.join(own_name),
            Place::File(path) => path.clone(),
        };
        match self.give_name(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(StoreError::Exists { path });
            }
            Err(error) => return Err(self.write_fault(error)),
        }
        fault::reach("store.named");
        sync_folder(&path)?;
        Ok(path)
    }

    /// An image's own name: the job's or the program's name and the beginning of the id.
    pub fn own_name(name: &str, identity: &brant_image::Identity) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let name: String = name.chars().map(plain).take(64).collect();
        let name = name.trim_start_matches(['.', '-']);
        let id = identity.id.to_string();
        format!("{}-{}{IMAGE_SUFFIX}", if name.is_empty() { "image" } else { name }, &id[..12])
    }

    /// What has been written so far, through a descriptor of its own.
    pub(crate) fn reopened(&self) -> Result<File, ImageError> {
        self.file.try_clone().map_err(ImageError::Read)
    }

    /// The image's head, once all of it has been written.
    pub fn head(&self) -> Result<Option<Head>, StoreError> {
        match Head::read(&self.file) {
            Ok(head) => Ok(Some(head)),
            Err(ImageError::Truncated { .. }) => Ok(None),
            Err(source) => Err(self.fault(source)),
        }
    }

    /// Gives the finished file its name in one step, by link or by rename. A file that is there is replaced only
    /// where that was asked for.
    fn give_name(&mut self, path: &Path) -> io::Result<()> {
        let Some((temporary, _)) = &self.temporary else {
            match link(&self.file, path) {
                Err(error) if self.force && error.kind() == io::ErrorKind::AlreadyExists => {}
                other => return other,
            }
            // A link cannot replace: it gets a hidden name first, which is then renamed. Its lock keeps others from
            // sweeping it away, and goes with us.
            let _lock =
                Flock::lock(self.file.try_clone()?, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
            let (hidden, ()) = with_hidden_name(&folder_of(path), |hidden| link(&self.file, hidden))?;
            fault::reach("store.linked");
            return fs::rename(&hidden, path).inspect_err(|_| drop(fs::remove_file(&hidden)));
        };
        if self.force {
            fs::rename(temporary, path)?;
        } else {
            rename_new(temporary, path)?;
        }
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some((path, _)) = &self.temporary {
            // Nothing more can be done; the next run sweeps.
            let _ = fs::remove_file(path);
        }
    }
}

impl Write for Pending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        fault::check("store.write")?;
        let count = self.file.write(bytes)?;
        self.written_bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Removes temporary files that no writer holds. What cannot be removed stays.
pub(crate) fn sweep(folder: &Path) {
    let Ok(items) = fs::read_dir(folder) else { return };
    for item in items.flatten() {
        let name = item.file_name();
        let name = name.as_encoded_bytes();
        if !name.starts_with(TEMPORARY_PREFIX.as_bytes()) || !name.ends_with(TEMPORARY_SUFFIX.as_bytes()) {
            continue;
        }
        let age = item.metadata().and_then(|metadata| metadata.modified()).map(|time| time.elapsed());
        let Ok(Ok(age)) = age else { continue };
        let no_wait = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let Ok(file) = OpenOptions::new().read(true).custom_flags(no_wait).open(item.path()) else {
            continue;
        };
        if age >= SWEEP_AGE_MIN && Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok() {
            let _ = fs::remove_file(item.path());
        }
    }
}

/// Makes durable that `path` exists or has gone.
pub(crate) fn sync_folder(path: &Path) -> Result<(), StoreError> {
    let folder = folder_of(path);
    let result = File::open(&folder).and_then(|file| file.sync_all());
    result.map_err(|source| StoreError::Folder { folder, source })
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// A file without a name that can still be given one.
fn nameless(folder: &Path) -> io::Result<File> {
    fs::metadata("/proc/self/fd").map_err(|_| io::Error::from(Errno::EOPNOTSUPP))?;
    OpenOptions::new().read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(folder)
}

/// Whether the file system or kernel just does not know O_TMPFILE, or there is no /proc, through which the
/// file gets its name.
fn lacks_nameless(error: &io::Error) -> bool {
    let unsupported = [libc::EOPNOTSUPP, libc::EISDIR, libc::EINVAL, libc::ENOSYS];
    error.raw_os_error().is_some_and(|number| unsupported.contains(&number))
}

/// A file with a hidden name, locked.
fn named(folder: &Path) -> io::Result<(File, PathBuf, Flock<File>)> {
    let (path, file) = with_hidden_name(folder, |path| {
        OpenOptions::new().read(true).write(true).mode(0o600).create_new(true).open(path)
    })?;
    let lock = Flock::lock(file.try_clone()?, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    Ok((file, path, lock))
}

/// Tries hidden names until `create` succeeds.
fn with_hidden_name<T>(folder: &Path, create: impl Fn(&Path) -> io::Result<T>) -> io::Result<(PathBuf, T)> {
    let mut tries = 0;
    loop {
        let unique = brant_image::Identity::fresh().id;
        let path = folder.join(format!("{TEMPORARY_PREFIX}{unique}{TEMPORARY_SUFFIX}"));
        match create(&path) {
            Ok(made) => return Ok((path, made)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < NAME_TRIES_MAX => {
                tries += 1
            }
            Err(error) => return Err(error),
        }
    }
}

/// Names a nameless file; never replaces one.
fn link(file: &File, path: &Path) -> io::Result<()> {
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    nix::unistd::linkat(AT_FDCWD, own.as_str(), AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW)?;
    Ok(())
}

/// Renames, never replacing a file.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        Ok(()) => Ok(()),
        // Not every file system knows the flag; a link never replaces either.
        Err(Errno::EINVAL | Errno::ENOSYS) => fs::hard_link(from, to).and_then(|()| fs::remove_file(from)),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;
    use std::time::SystemTime;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("brant-pending-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        folder
    }

    /// As [`Pending::begin`] does where there is no O_TMPFILE.
    fn begin_named(place: Place, force: bool) -> Pending {
        let (file, path, lock) = named(&place.folder()).unwrap();
        Pending { file, place, force, temporary: Some((path, lock)), written_bytes: 0, expected_bytes: 0 }
    }

    fn names(folder: &Path) -> Vec<String> {
        let items = fs::read_dir(folder).unwrap();
        items.map(|item| item.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn both_ways_commit_and_never_overwrite() {
        let folder = folder("commit");
        let path = folder.join("a");
        for named in [false, true] {
            let begin = |force| match named {
                true => begin_named(Place::File(path.clone()), force),
                false => Pending::begin(Place::File(path.clone()), force, 0).unwrap(),
            };
            let mut pending = begin(false);
            let late = begin(false);
            pending.write_all(b"one").unwrap();
            assert_eq!(pending.commit("x").unwrap(), path);
            assert_eq!(late.commit("x").unwrap_err().code(), "B-0605");
            let early = Pending::begin(Place::File(path.clone()), false, 0);
            assert_eq!(early.unwrap_err().code(), "B-0605");
            let mut forced = begin(true);
            forced.write_all(b"two").unwrap();
            forced.commit("x").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"two");
            assert_eq!(names(&folder), ["a"]);
            fs::remove_file(&path).unwrap();
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn dropped_it_leaves_nothing() {
        let folder = folder("drop");
        Pending::begin(Place::Folder(folder.clone()), false, 0).unwrap().write_all(b"x").unwrap();
        begin_named(Place::Folder(folder.clone()), false).write_all(b"x").unwrap();
        assert!(names(&folder).is_empty());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn only_the_dead_are_swept() {
        let folder = folder("sweep");
        let old = FileTimes::new().set_modified(SystemTime::now() - SWEEP_AGE_MIN * 2);
        let living = begin_named(Place::Folder(folder.clone()), false);
        living.file.set_times(old).unwrap();
        let dead = folder.join(".brant-0123.tmp");
        File::create(&dead).unwrap().set_times(old).unwrap();
        File::create(folder.join(".brant-4567.tmp")).unwrap();
        File::create(folder.join("other")).unwrap().set_times(old).unwrap();
        sweep(&folder);
        assert_eq!(names(&folder).len(), 3);
        assert!(!dead.exists());
        drop(living);
        fs::remove_dir_all(folder).unwrap();
    }

    /// Whoever is killed between link and rename leaves the whole image under a hidden name, for the next one to remove.
    #[test]
    fn what_a_killed_writer_left_goes_with_the_next_image() {
        let folder = folder("left");
        let old = FileTimes::new().set_modified(SystemTime::now() - SWEEP_AGE_MIN * 2);
        let left = Pending::begin(Place::Folder(folder.clone()), false, 0).unwrap();
        let (hidden, ()) = with_hidden_name(&folder, |hidden| link(&left.file, hidden)).unwrap();
        left.file.set_times(old).unwrap();
        drop(left);
        assert!(hidden.exists());
        let next = Pending::begin(Place::File(folder.join("a")), true, 0).unwrap();
        assert!(!hidden.exists());
        next.commit("x").unwrap();
        assert_eq!(names(&folder), ["a"]);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_full_disk_is_named() {
        let mut pending = Pending::begin(Place::Folder(std::env::temp_dir()), false, 0).unwrap();
        let error = pending.check_space(u64::MAX).unwrap_err();
        assert_eq!(error.code(), "B-0603");
        assert!(error.to_string().contains(&brant_image::inspect::size(u64::MAX)), "{error}");
    }
}
