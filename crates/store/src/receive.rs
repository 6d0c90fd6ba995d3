//! An image that comes through a pipe: kept whole and verified, or not at all.
//!
//! The sender may have ended the program, so that this stream is the only copy: it is durable under a name before
//! anything else is done with it.

use std::io::{self, Read};
use std::path::PathBuf;

use brant_image::model::Checkpoint;
use brant_image::{Head, Identity, Image, ImageError, Summary};

use crate::{Pending, Store, StoreError};

/// Bytes that are copied at a time.
const BLOCK_BYTES: usize = 1 << 20;
/// What every image begins with; a stream without it is not read to its end.
const MAGIC: &[u8] = b"BRANTIMG";

/// An image that was received.
#[derive(Debug)]
pub struct Received {
    pub path: PathBuf,
    pub summary: Summary,
    /// The very same image was there before.
    pub was_there: bool,
}

impl Store {
    /// Copies a stream into this store, verifies every byte of it, and gives it the image's own name, durably.
    /// On failure nothing of it is left. An image that is there already is never replaced; if it is the same, all is well.
    pub fn receive(&self, stream: impl Read) -> Result<Received, StoreError> {
        let mut pending = self.begin(0)?;
        copy(stream, &mut pending)?;
        let (name, summary) = pending.verified()?;
        let path = self.folder().join(&name);
        match pending.commit(&name) {
            Ok(path) => Ok(Received { path, summary, was_there: false }),
            Err(StoreError::Exists { .. }) if is_same(&path, &summary) => {
                Ok(Received { path, summary, was_there: true })
            }
            Err(error) => Err(error),
        }
    }
}

impl Pending {
    /// Reads and verifies all that has been written, as a whole image; gives the name that it has in a store.
    pub fn verified(&self) -> Result<(String, Summary), StoreError> {
        let verified = self.reopened().and_then(|file| Image::open(file).and_then(checked));
        verified.map_err(|source| self.fault(source))
    }
}

/// Everything of the stream, unless it begins like no image.
fn copy(mut stream: impl Read, pending: &mut Pending) -> Result<(), StoreError> {
    let mut block = vec![0; BLOCK_BYTES];
    let mut have = 0;
    let mut is_begun = false;
    loop {
        let count = match stream.read(&mut block[have..]) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(StoreError::Stream { source }),
        };
        have += count;
        let is_full = have == block.len();
        if !is_begun && have >= MAGIC.len() {
            if !block.starts_with(MAGIC) {
                return Err(pending.fault(ImageError::NotAnImage));
            }
            is_begun = true;
        }
        if is_full || count == 0 {
            io::Write::write_all(pending, &block[..have]).map_err(|source| pending.write_fault(source))?;
            have = 0;
        }
        if count == 0 {
            return Ok(());
        }
    }
}

/// Reads all of the image; gives the name that it has in a store.
fn checked(image: Image) -> Result<(String, Summary), ImageError> {
    let summary = image.verify()?;
    let identity = Identity { id: summary.id, created_ns: image.created_ns() };
    Ok((Pending::own_name(&program_name(image.checkpoint()), &identity), summary))
}

/// What a checkpoint's image is named after: the job, else the root's program.
fn program_name(checkpoint: &Checkpoint) -> String {
    let of_root = || {
        if let Some(windows) = &checkpoint.windows {
            return windows.program.rsplit(['\\', '/']).next().unwrap_or_default().to_owned();
        }
        let root = checkpoint.processes.iter().find(|process| process.pid == checkpoint.root);
        root.map(|process| String::from_utf8_lossy(&process.name).into_owned()).unwrap_or_default()
    };
    checkpoint.job.clone().unwrap_or_else(of_root)
}

/// Whether the image at `path` is the one that `summary` tells of, whole.
fn is_same(path: &std::path::Path, summary: &Summary) -> bool {
    let open = || std::fs::File::open(path).map_err(ImageError::Read);
    let is_it = || -> Result<bool, ImageError> {
        Ok(Head::read(&open()?)?.identity.id == summary.id && Image::open(open()?)?.verify()? == *summary)
    };
    is_it().unwrap_or(false)
}
