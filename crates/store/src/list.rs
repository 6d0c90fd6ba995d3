//! What is in a store, from each image's header and manifest.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use brant_base::Pid;
use brant_image::{Head, Identity, ImageError};

use crate::{IMAGE_SUFFIX, StoreError};

/// An image in the store, as its head says. Whether the rest is whole is `verify`'s matter.
#[derive(Debug, Clone)]
pub struct Entry {
    pub path: PathBuf,
    pub bytes: u64,
    pub identity: Identity,
    pub job: Option<String>,
    pub command: Vec<Vec<u8>>,
    pub root: Pid,
    pub processes: usize,
    /// The host that it was taken on.
    pub host: String,
}

/// The images of a store.
#[derive(Debug, Default)]
pub struct Listing {
    /// Newest first.
    pub entries: Vec<Entry>,
    /// Files that are named like images but whose heads cannot be read.
    pub damaged: Vec<(PathBuf, ImageError)>,
}

pub(crate) fn list(folder: &Path) -> Result<Listing, StoreError> {
    let fault = |source| StoreError::Folder { folder: folder.to_owned(), source };
    let mut listing = Listing::default();
    for item in fs::read_dir(folder).map_err(fault)? {
        let path = item.map_err(fault)?.path();
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        if name.starts_with(b".") || !name.ends_with(IMAGE_SUFFIX.as_bytes()) {
            continue;
        }
        let head = match File::open(&path) {
            Ok(file) => Head::read(&file),
            // Removed since.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => Err(ImageError::Read(error)),
        };
        match head {
            Ok(head) => listing.entries.push(entry(path, head)),
            Err(error) => listing.damaged.push((path, error)),
        }
    }
    listing
        .entries
        .sort_by(|a, b| b.identity.created_ns.cmp(&a.identity.created_ns).then_with(|| a.path.cmp(&b.path)));
    listing.damaged.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(listing)
}

fn entry(path: PathBuf, head: Head) -> Entry {
    let Head { identity, checkpoint, bytes } = head;
    Entry {
        path,
        bytes,
        identity,
        job: checkpoint.job,
        command: checkpoint.command,
        root: checkpoint.root,
        processes: checkpoint.processes.len() + usize::from(checkpoint.windows.is_some()),
        host: checkpoint.host.name,
    }
}
