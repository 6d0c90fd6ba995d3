//! What can go wrong with a store, with stable codes.

use std::io;
use std::path::PathBuf;

use brant_image::ImageError;
use brant_image::inspect::size;

/// Why an image was not stored or found. Codes are B-06xx, or the image's own.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "the disk is full: {path} could not be written; {} fit, {}", size(*fit_bytes), needed(*fit_bytes, *needed_bytes)
    )]
    Full { path: PathBuf, fit_bytes: u64, needed_bytes: u64 },
    #[error("{path} cannot be written")]
    Write { path: PathBuf, source: io::Error },
    #[error("{path} exists already and is not overwritten (--force does)")]
    Exists { path: PathBuf },
    #[error("there is no image {name:?} in {folder}")]
    NoSuchImage { name: String, folder: PathBuf },
    #[error("{name:?} begins the ids of several images: {}", candidates.join(", "))]
    Ambiguous { name: String, candidates: Vec<String> },
    #[error("the folder {folder} cannot be used")]
    Folder { folder: PathBuf, source: io::Error },
    #[error("the folder {folder} belongs to another user; images hold secrets and are code")]
    Foreign { folder: PathBuf },
    #[error("neither XDG_STATE_HOME nor HOME is an absolute path, so there is no place for images")]
    NoHome,
    #[error("{path} cannot be read")]
    Read { path: PathBuf, source: io::Error },
    #[error("the stream cannot be read")]
    Stream { source: io::Error },
    #[error("{path} is a folder, not an image")]
    IsFolder { path: PathBuf },
    #[error("{path}")]
    Image { path: PathBuf, source: ImageError },
}

/// How much would do, where that is known.
fn needed(fit_bytes: u64, needed_bytes: u64) -> String {
    match needed_bytes > fit_bytes {
        true => format!("about {} are needed", size(needed_bytes)),
        false => "and more is needed".to_string(),
    }
}

impl StoreError {
    /// The stable code that `brant explain` expands.
    pub fn code(&self) -> &'static str {
        match self {
            StoreError::Full { .. } => "B-0603",
            StoreError::Write { .. } => "B-0604",
            StoreError::Exists { .. } => "B-0605",
            StoreError::NoSuchImage { .. } => "B-0606",
            StoreError::Ambiguous { .. } => "B-0607",
            StoreError::Folder { .. } => "B-0608",
            StoreError::Foreign { .. } => "B-0609",
            StoreError::NoHome => "B-0610",
            StoreError::Read { .. } => "B-0611",
            StoreError::IsFolder { .. } => "B-0612",
            StoreError::Stream { .. } => "B-0613",
            StoreError::Image { source, .. } => source.code(),
        }
    }
}
