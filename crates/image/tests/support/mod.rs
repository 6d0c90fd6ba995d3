//! What the tests of this crate share: files without a name, checkpoints made from a seed, and forged checksums.
#![allow(dead_code, unreachable_pub, reason = "every test binary uses a part of it")]

pub mod forge;
pub mod generate;
mod generate_files;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};

use brant_image::model::{Checkpoint, PageOwner};
use brant_image::{Codec, Identity, ImageError, ImageId, Writer};

/// An empty file that has no name any more.
pub fn nameless() -> File {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let folder = std::path::Path::new("/dev/shm");
    let folder = if folder.is_dir() { folder.to_owned() } else { std::env::temp_dir() };
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = folder.join(format!("brant-image-test-{}-{number}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    file
}

/// A nameless file with these contents.
pub fn file_of(bytes: &[u8]) -> File {
    let file = nameless();
    file.write_all_at(bytes, 0).unwrap();
    file
}

/// A run of pages to be written; `None` is zero.
pub type Pages = (PageOwner, u64, Option<Vec<u8>>);

/// An image's bytes, with a fixed identity.
pub fn image_of(checkpoint: &Checkpoint, pages: &[Pages], codec: Codec) -> Result<Vec<u8>, ImageError> {
    written(checkpoint, pages, codec, &[])
}

/// The same with two notes.
pub fn noted_image_of(checkpoint: &Checkpoint, pages: &[Pages], codec: Codec) -> Result<Vec<u8>, ImageError> {
    written(checkpoint, pages, codec, &[("record", b"what somebody keeps"), ("other", &[7; 300])])
}

fn written(
    checkpoint: &Checkpoint,
    pages: &[Pages],
    codec: Codec,
    notes: &[(&str, &[u8])],
) -> Result<Vec<u8>, ImageError> {
    let identity = Identity { id: ImageId(*b"0123456789abcdef"), created_ns: 1_000_000_007 };
    let mut writer = Writer::create_as(Vec::new(), checkpoint, codec, identity)?;
    for (owner, first_page, content) in pages {
        match content {
            Some(bytes) => writer.pages(*owner, *first_page, bytes)?,
            None => writer.zero_pages(*owner, *first_page, 1)?,
        }
    }
    for (name, bytes) in notes {
        writer.note(checkpoint.root, name, bytes)?;
    }
    Ok(writer.finish()?.0)
}
