//! Files on disk: opened as they were, and put back where their contents travelled.

use std::collections::btree_map::Entry;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use brant_base::PAGE_SIZE;
use brant_image::model::*;
use brant_image::{Image, PageContent};
use brant_kernel::make;

use super::files::FdStore;
use crate::{Error, Plan};

/// Flags that only matter to the call that opened the file first, and O_ASYNC, which open(2) shows without doing it.
pub(super) const OPEN_ONCE: i32 = libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC | libc::O_ASYNC | O_TMPFILE;
const O_TMPFILE: i32 = libc::O_TMPFILE & !libc::O_DIRECTORY;

/// Opens every file that is mapped or executed, for reading, and for writing too where a mapping may write.
pub(super) fn open_mapped(store: &mut FdStore, image: &Image, plan: &Plan) -> Result<(), Error> {
    let checkpoint = image.checkpoint();
    let mut wanted: Vec<(DiskFileId, bool)> = Vec::new();
    for body in checkpoint.processes.iter().filter_map(|process| process.body.as_ref()) {
        wanted.push((body.executable, false));
        for mapping in &body.memory.mappings {
            if let Backing::File { file, writable, .. } = mapping.backing {
                wanted.push((file, writable && mapping.sharing == Sharing::Shared));
            }
        }
    }
    wanted.sort();
    wanted.dedup();
    for (id, writable) in wanted {
        let flags = if writable { libc::O_RDWR } else { libc::O_RDONLY };
        let fd = open_disk(store, image, plan, id, flags)?;
        store.put_disk(id, writable, fd)?;
    }
    Ok(())
}

/// A file of /proc, which is another one in the tree's own /proc: its process opens it.
pub(super) fn is_kernels(record: &DiskFile) -> bool {
    record.inode == 0 && record.path.starts_with(b"/proc/")
}

/// Opens the description of a regular file.
pub(super) fn open_description(
    store: &FdStore,
    image: &Image,
    plan: &Plan,
    file: &OpenFile,
    id: DiskFileId,
) -> Result<OwnedFd, Error> {
    let fd = open_disk(store, image, plan, id, file.flags as i32)?;
    seek(&fd, file.position)?;
    Ok(fd)
}

fn open_disk(
    store: &FdStore,
    image: &Image,
    plan: &Plan,
    id: DiskFileId,
    flags: i32,
) -> Result<OwnedFd, Error> {
    let record = store.checkpoint.disk_files.iter().find(|file| file.id == id).expect("validated");
    if record.stored && record.carried == Carried::No {
        return open_stored(store, image, plan, record, flags);
    }
    open_at(&plan.file_path(record), flags)
}

/// A file whose name has gone: made anew once, then opened through the first descriptor.
fn open_stored(
    store: &FdStore,
    image: &Image,
    plan: &Plan,
    record: &DiskFile,
    flags: i32,
) -> Result<OwnedFd, Error> {
    let mut stored = store.stored.borrow_mut();
    let made = match stored.entry(record.id) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(free) => free.insert(make_stored(store, image, plan, record)?),
    };
    make::reopen(&*made, flags & !OPEN_ONCE & !libc::O_DIRECTORY)
        .map_err(Error::builder("opening a file without a name"))
}

fn make_stored(store: &FdStore, image: &Image, plan: &Plan, record: &DiskFile) -> Result<OwnedFd, Error> {
    let path = PathBuf::from(std::ffi::OsString::from_vec(plan.path(&record.path)));
    let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
    let taken = path.symlink_metadata().is_ok();
    let hidden = folder.join(format!(".brant-{}-{}", std::process::id(), record.id.0));
    let name = if taken { &hidden } else { &path };
    const OWN_MODE: u32 = 0o600;
    let create =
        |at: &Path| OpenOptions::new().read(true).write(true).create_new(true).mode(OWN_MODE).open(at);
    let (file, made_at) = match create(name) {
        Ok(file) => (file, name.clone()),
        Err(error) => {
            let fallback = std::env::temp_dir().join(hidden.file_name().expect("made above"));
            store.warn(format!(
                "the deleted file {} lies on the file system of {} now: {error}",
                path.display(),
                std::env::temp_dir().display()
            ));
            let file = create(&fallback).map_err(path_error("making", &fallback))?;
            (file, fallback)
        }
    };
    fs::remove_file(&made_at).map_err(path_error("unlinking", &made_at))?;
    fill(image, record, &file)?;
    file.set_modified(modified(record)).map_err(path_error("setting the time of", &path))?;
    Ok(file.into())
}

/// Gives files without a name the modes that they had: once all who have them open have opened them.
pub(super) fn set_modes(store: &FdStore) -> Result<(), Error> {
    for (id, made) in &*store.stored.borrow() {
        let record = store.disk_record(*id);
        let file = File::from(made.try_clone().map_err(Error::builder("duplicating a descriptor"))?);
        file.set_permissions(Permissions::from_mode(record.mode & 0o7777)).map_err(|error| Error::Path {
            operation: "setting the mode of",
            path: shown(&record.path),
            error,
        })?;
    }
    Ok(())
}

pub(super) fn modified(record: &DiskFile) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(record.modified_ns).unwrap_or(0))
}

/// Writes the contents that travelled, and sets the size.
pub(super) fn fill(image: &Image, record: &DiskFile, file: &File) -> Result<(), Error> {
    let failed = || Error::builder("filling a file from the image");
    image.visit_pages(image.checkpoint().contents_of(record), |run| {
        let PageContent::Bytes(bytes) = run.content else { return Ok(()) };
        let at = run.first_page * PAGE_SIZE;
        let length = bytes.len().min(record.size.saturating_sub(at) as usize);
        file.write_all_at(&bytes[..length], at).map_err(failed())
    })?;
    file.set_len(record.size).map_err(failed())
}

/// A path for people.
pub(super) fn shown(path: &[u8]) -> String {
    brant_image::inspect::readable(path)
}

pub(crate) fn path_error(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.display().to_string();
    move |error| Error::Path { operation, path, error }
}

fn open(path: &[u8], flags: i32) -> Result<OwnedFd, Error> {
    open_at(&PathBuf::from(std::ffi::OsString::from_vec(path.to_vec())), flags)
}

fn open_at(path: &Path, flags: i32) -> Result<OwnedFd, Error> {
    make::open(path, flags & !OPEN_ONCE | libc::O_NOCTTY).map_err(path_error("opening", path))
}

/// Opens a directory, a device or a place, by path.
pub(super) fn open_path(plan: &Plan, path: &[u8], flags: i32, position: u64) -> Result<OwnedFd, Error> {
    let fd = open(&plan.path(path), flags)?;
    seek(&fd, position)?;
    Ok(fd)
}

/// Moves to the recorded position, where there is one.
pub(super) fn seek(fd: &OwnedFd, position: u64) -> Result<(), Error> {
    if position == 0 {
        return Ok(());
    }
    let mut file = File::from(fd.try_clone().map_err(Error::builder("duplicating a descriptor"))?);
    file.seek(SeekFrom::Start(position)).map(drop).map_err(Error::builder("moving to a file's position"))
}
