//! What can be wrong with an image, with stable codes.

use std::io;

use crate::container::SectionKind;
use crate::model::PageOwner;

/// Why an image cannot be read or written. B-05xx: the image is damaged or not one; B-06xx: the disk.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("this is not a brant image: it does not begin with \"BRANTIMG\"")]
    NotAnImage,
    #[error("the image has format version {found}; this brant reads version {known}")]
    FormatVersion { found: u32, known: u32 },
    #[error("the image's header is damaged: {what}")]
    HeaderDamaged { what: &'static str },
    #[error(
        "the image is cut short: {needed_bytes} bytes are needed at offset {offset}, the file has {file_bytes}"
    )]
    Truncated { offset: u64, needed_bytes: u64, file_bytes: u64 },
    #[error("section {sequence} ({kind}) at offset {offset} is damaged: {what}")]
    SectionDamaged { sequence: u32, kind: SectionKind, offset: u64, what: &'static str },
    #[error("section {sequence} has kind {kind} version {version}, which this brant does not know but must")]
    SectionUnknown { sequence: u32, kind: u16, version: u16 },
    #[error("the image's sections do not fit together at offset {offset}: {what}")]
    Layout { offset: u64, what: &'static str },
    #[error("section {sequence} ({kind}) says it has {bytes} bytes; at most {bytes_max} are allowed")]
    TooLarge { sequence: u32, kind: SectionKind, bytes: u64, bytes_max: u64 },
    #[error("the manifest cannot be decoded")]
    Manifest(#[source] prost::DecodeError),
    #[error("the manifest is malformed: {field}: {why}")]
    Malformed { field: &'static str, why: String },
    #[error("the manifest contradicts itself: {what}")]
    Inconsistent { what: String },
    #[error("pages {first_page:#x} + {pages} of {owner:?}: {why}")]
    Pages { owner: PageOwner, first_page: u64, pages: u64, why: &'static str },
    /// What was to be written could not be read.
    #[error("reading pages from {first_page:#x} on of {owner:?}")]
    Source {
        owner: PageOwner,
        first_page: u64,
        #[source]
        error: io::Error,
    },
    #[error("reading the image failed")]
    Read(#[source] io::Error),
    #[error("writing the image failed")]
    Write(#[source] io::Error),
}

impl ImageError {
    /// The stable code that `brant explain` expands.
    pub fn code(&self) -> &'static str {
        match self {
            ImageError::NotAnImage => "B-0501",
            ImageError::FormatVersion { .. } => "B-0502",
            ImageError::HeaderDamaged { .. } => "B-0503",
            ImageError::Truncated { .. } => "B-0504",
            ImageError::SectionDamaged { .. } => "B-0505",
            ImageError::SectionUnknown { .. } => "B-0506",
            ImageError::Layout { .. } => "B-0507",
            ImageError::TooLarge { .. } => "B-0508",
            ImageError::Manifest(_) => "B-0509",
            ImageError::Malformed { .. } => "B-0510",
            ImageError::Inconsistent { .. } => "B-0511",
            ImageError::Pages { .. } => "B-0512",
            ImageError::Source { .. } => "B-0700",
            ImageError::Read(_) => "B-0601",
            ImageError::Write(_) => "B-0602",
        }
    }
}
