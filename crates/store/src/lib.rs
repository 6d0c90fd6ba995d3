//! Where images live: names, atomic commit, lookup, listing.
//!
//! An image exists whole under its name or not at all, whatever happens to brant while it writes: it is
//! written to a file without a name (O_TMPFILE) where the file system can do that, else to a hidden temporary
//! name, made durable, and only then linked. Images hold secrets and are code: the store's folder has mode
//! 0700 and belongs to the user, files have mode 0600.
#![forbid(unsafe_code)]

mod copies;
mod error;
mod list;
mod pending;
mod receive;

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use brant_image::{Head, ImageError};

pub use copies::{Cleared, clear as clear_copies};
pub use error::StoreError;
pub use list::{Entry, Listing};
pub use pending::{Pending, Place};
pub use receive::Received;

/// What an image's file name ends with.
pub const IMAGE_SUFFIX: &str = ".brant";

/// A folder of images.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// `$XDG_STATE_HOME/brant/images`, else `~/.local/state/brant/images`.
    pub fn default_folder() -> Result<PathBuf, StoreError> {
        Ok(Store::state_folder()?.join("images"))
    }

    /// Where copies lie of executables and libraries that images carried: `brant/files` beside `brant/images`.
    pub fn default_copies_folder() -> Result<PathBuf, StoreError> {
        Ok(Store::state_folder()?.join("files"))
    }

    fn state_folder() -> Result<PathBuf, StoreError> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        absolute("XDG_STATE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
            .map(|state| state.join("brant"))
            .ok_or(StoreError::NoHome)
    }

    /// Opens the folder, creating it with mode 0700, and clears away what dead writers left.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Store, StoreError> {
        let folder = folder.into();
        let fault = |source| StoreError::Folder { folder: folder.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(fault)?;
        let metadata = fs::metadata(&folder).map_err(fault)?;
        if metadata.uid() != nix::unistd::geteuid().as_raw() {
            return Err(StoreError::Foreign { folder });
        }
        if metadata.mode() & 0o077 != 0 {
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).map_err(fault)?;
        }
        pending::sweep(&folder);
        Ok(Store { folder })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Begins a new image in this store. `expected_bytes` is what it may need, for the message of a full disk.
    pub fn begin(&self, expected_bytes: u64) -> Result<Pending, StoreError> {
        Pending::begin(Place::Folder(self.folder.clone()), false, expected_bytes)
    }

    /// The file that IMAGE names: a path if it has a slash or exists, else the newest image of that job, else a
    /// file name in the store, else the only image whose id begins so.
    pub fn find(&self, image: &OsStr) -> Result<PathBuf, StoreError> {
        let path = Path::new(image);
        if image.as_encoded_bytes().contains(&b'/') || fs::symlink_metadata(path).is_ok() {
            return match fs::metadata(path) {
                Ok(metadata) if metadata.is_dir() => Err(StoreError::IsFolder { path: path.to_owned() }),
                Ok(_) => Ok(path.to_owned()),
                Err(source) => Err(StoreError::Read { path: path.to_owned(), source }),
            };
        }
        let name = image.to_string_lossy().into_owned();
        let Listing { entries, damaged } = self.list()?;
        let of_job = entries.iter().filter(|entry| entry.job.as_deref() == Some(&name));
        if let Some(newest) = of_job.max_by_key(|entry| entry.identity.created_ns) {
            return Ok(newest.path.clone());
        }
        let paths = entries.iter().map(|entry| &entry.path).chain(damaged.iter().map(|(path, _)| path));
        if let Some(path) = paths.into_iter().find(|path| has_name(path, &name)) {
            return Ok(path.clone());
        }
        let begins = |entry: &&Entry| entry.identity.id.to_string().starts_with(&name);
        let matches: Vec<&Entry> =
            if name.is_empty() { Vec::new() } else { entries.iter().filter(begins).collect() };
        match matches.as_slice() {
            [] => Err(StoreError::NoSuchImage { name, folder: self.folder.clone() }),
            [one] => Ok(one.path.clone()),
            many => {
                let candidates = many.iter().map(|entry| entry.identity.id.to_string()).collect();
                Err(StoreError::Ambiguous { name, candidates })
            }
        }
    }

    /// All images, newest first.
    pub fn list(&self) -> Result<Listing, StoreError> {
        list::list(&self.folder)
    }

    /// Removes the image that IMAGE names (see [`Store::find`]); a file that is not an image stays.
    pub fn remove(&self, image: &OsStr) -> Result<PathBuf, StoreError> {
        let path = self.find(image)?;
        let read = |source| StoreError::Read { path: path.clone(), source };
        let file = File::open(&path).map_err(read)?;
        // A damaged image may go as well.
        if let Err(source @ (ImageError::NotAnImage | ImageError::Read(_))) = Head::read(&file) {
            return Err(StoreError::Image { path, source });
        }
        fs::remove_file(&path).map_err(|source| StoreError::Write { path: path.clone(), source })?;
        pending::sync_folder(&path)?;
        Ok(path)
    }
}

/// Whether the file's name is `name`, with or without the suffix.
fn has_name(path: &Path, name: &str) -> bool {
    let own = path.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
    own == name || own.strip_suffix(IMAGE_SUFFIX) == Some(name)
}
