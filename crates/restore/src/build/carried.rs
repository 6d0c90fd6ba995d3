//! Files that had their names and travelled in the image.
//!
//! An executable or library that this host lacks is mapped from a copy in a folder of the user's, which is called after its digest: the
//! same in many images is there once. It lies there under its own name, so that the program finds itself (/proc/self/exe) and can be
//! checkpointed again. A file that the program had open is made anew where it was. Both appear under their names whole, or not at all.
//!
//! If the restore fails, files that it made are removed again. If it is killed, they stay: whole, and the same as in the image, so that the next
//! restore takes them. What is not whole has no name (O_TMPFILE), or a hidden one on a file system that knows only files with names.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use brant_base::fault;
use brant_image::model::{Checkpoint, DiskFile};
use brant_image::{Image, ImageError};

use super::disk::{fill, modified, path_error};
use crate::{Error, Plan};
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg};
use nix::unistd::linkat;

/// Bytes that are hashed at once.
const PART_BYTES: usize = 1 << 20;

/// Files that were made under their names. Dropped before [`Made::keep`], it removes them.
#[derive(Debug, Default)]
pub(crate) struct Made {
    files: Vec<(PathBuf, u64)>,
    /// Nobody clears copies away before they are mapped.
    lock: Option<Flock<File>>,
}

impl Made {
    pub(crate) fn keep(mut self) {
        self.files.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for (path, inode) in &self.files {
            if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.ino() == *inode) {
                // The image still has it.
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Provides copies and files as the plan says, durably.
pub(crate) fn provide(image: &Image, plan: &Plan) -> Result<Made, Error> {
    let checkpoint = image.checkpoint();
    let mut made = Made::default();
    if !plan.copies.is_empty() {
        let folder = &plan.copies_folder;
        let locked = make_folder(folder)
            .and_then(|()| File::open(folder))
            .and_then(|opened| Flock::lock(opened, FlockArg::LockShared).map_err(|(_, errno)| errno.into()));
        made.lock = Some(locked.map_err(path_error("making the folder", folder))?);
    }
    for file in &checkpoint.disk_files {
        if plan.copies.contains_key(&file.id) {
            provide_copy(image, file, &plan.file_path(file))?;
        }
        if let Some(path) = plan.creations.get(&file.id) {
            let inode = create(image, checkpoint, file, path)?;
            made.files.push((path.clone(), inode));
        }
    }
    Ok(made)
}

fn provide_copy(image: &Image, record: &DiskFile, path: &Path) -> Result<(), Error> {
    if is_whole(path, record).unwrap_or(false) {
        return Ok(());
    }
    let folder = path.parent().expect("a copy lies in a folder");
    make_folder(folder).map_err(path_error("making the folder", folder))?;
    // Executed and mapped; never written to, and without the marks that give a program other rights.
    let mode = record.mode & 0o555 | 0o400;
    let temporary = write(image, record, path, mode)?;
    temporary.name(path, || {
        // Another restore may have made the same one meanwhile.
        if !is_whole(path, record)? {
            fs::remove_file(path)?;
            return Ok(Some(Again));
        }
        Ok(None)
    })
}

fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Makes a file under its name; gives its inode.
fn create(image: &Image, checkpoint: &Checkpoint, record: &DiskFile, path: &Path) -> Result<u64, Error> {
    let temporary = write(image, record, path, record.mode & 0o7777)?;
    let fault = || path_error("making", path);
    let file = &temporary.file;
    let root = checkpoint.processes.iter().find(|process| process.pid == checkpoint.root);
    let credentials = root.and_then(|process| process.body.as_ref()).map(|body| &body.credentials);
    if let Some(credentials) = credentials
        && nix::unistd::geteuid().is_root()
    {
        let (uid, gid) = (credentials.uids[1], credentials.gids[1]);
        fchown(file, Some(uid), Some(gid)).map_err(fault())?;
        // A change of owner takes some bits of the mode away.
        file.set_permissions(Permissions::from_mode(record.mode & 0o7777)).map_err(fault())?;
    }
    file.set_modified(modified(record)).map_err(fault())?;
    let inode = file.metadata().map_err(fault())?.ino();
    // What has come into being meanwhile is never replaced.
    temporary.name(path, || Err(io::ErrorKind::AlreadyExists.into()))?;
    Ok(inode)
}

/// A file on its way to its name. Dropped before it got it, it is gone.
struct Temporary {
    file: File,
    /// Where it lies meanwhile, if the file system wants a name.
    hidden: Option<PathBuf>,
}

/// The name is free now.
struct Again;

impl Temporary {
    fn make(folder: &Path, id: u32) -> io::Result<Temporary> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        match options.clone().custom_flags(libc::O_TMPFILE).open(folder) {
            Ok(file) => return Ok(Temporary { file, hidden: None }),
            Err(error) => match error.raw_os_error() {
                Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL | libc::ENOSYS) => {}
                _ => return Err(error),
            },
        }
        let hidden = folder.join(format!(".brant-{}-{id}.tmp", std::process::id()));
        let file = options.create_new(true).open(&hidden)?;
        Ok(Temporary { file, hidden: Some(hidden) })
    }

    /// Durable under its name when it returns. `taken` says what to do where there is a file of that name already.
    fn name(self, to: &Path, taken: impl Fn() -> io::Result<Option<Again>>) -> Result<(), Error> {
        let durable = || -> io::Result<()> {
            self.file.sync_all()?;
            fault::reach("carried.synced");
            while let Err(error) = self.link(to) {
                if error.kind() != io::ErrorKind::AlreadyExists {
                    return Err(error);
                }
                if taken()?.is_none() {
                    break;
                }
            }
            fault::reach("carried.named");
            let folder = to.parent().unwrap_or(Path::new("/"));
            File::open(folder)?.sync_all()
        };
        durable().map_err(path_error("making", to))
    }

    fn link(&self, to: &Path) -> io::Result<()> {
        if let Some(hidden) = &self.hidden {
            return fs::hard_link(hidden, to);
        }
        let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        Ok(linkat(AT_FDCWD, own.as_str(), AT_FDCWD, to, AtFlags::AT_SYMLINK_FOLLOW)?)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(hidden) = &self.hidden {
            let _ = fs::remove_file(hidden);
        }
    }
}

fn write(image: &Image, record: &DiskFile, path: &Path, mode: u32) -> Result<Temporary, Error> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut temporary = Temporary::make(folder, record.id.0).map_err(path_error("making", path))?;
    fill(image, record, &temporary.file)?;
    fault::check("carried.written").map_err(path_error("writing", path))?;
    let found = digest(&mut temporary.file).map_err(path_error("reading", path))?;
    if found.as_bytes()[..] != record.digest {
        let what = format!("the contents of {} do not have their digest", super::disk::shown(&record.path));
        return Err(Error::Image(ImageError::Inconsistent { what }));
    }
    temporary.file.set_permissions(Permissions::from_mode(mode)).map_err(path_error("making", path))?;
    Ok(temporary)
}

fn is_whole(path: &Path, record: &DiskFile) -> io::Result<bool> {
    let metadata = fs::symlink_metadata(path)?;
    Ok(metadata.is_file()
        && metadata.len() == record.size
        && digest(&mut File::open(path)?)?.as_bytes()[..] == record.digest)
}

/// Of all that is in the file.
fn digest(file: &mut File) -> io::Result<blake3::Hash> {
    file.rewind()?;
    let mut hasher = blake3::Hasher::new();
    let mut part = vec![0; PART_BYTES];
    loop {
        match file.read(&mut part)? {
            0 => return Ok(hasher.finalize()),
            count => hasher.update(&part[..count]),
        };
    }
}
