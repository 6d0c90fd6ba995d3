//! The file that holds a checkpoint: a raw header, then sections, each with its own checksums.
//!
//! Nothing is decoded before its checksum was verified, and every length is bounded before memory is
//! taken for it. The manifest comes first and the page packs follow, so an image can be written to a pipe;
//! the closing section tells a whole image from one that was cut short.

mod codec;
mod header;
mod note;
mod pack;
mod read;
mod runs;
mod section;
mod source;
mod write;

pub use codec::Codec;
pub use header::{Identity, ImageId};
pub use note::{NOTE_BYTES_MAX, NOTE_NAME_BYTES_MAX, Note};
pub use pack::{Pack, PackRun, PageContent, is_zero_page};
pub use read::{Head, Image};
pub use runs::Run;
pub use section::{SectionKind, section_memory_bytes};
pub use source::{PageSource, SourceRun};
pub use write::Writer;

/// The only version of the header and the section frame so far.
pub const FORMAT_VERSION: u32 = 1;
/// A manifest is never larger.
pub const MANIFEST_BYTES_MAX: u64 = 256 << 20;
/// Page bytes in one pack, before compression.
pub const PACK_BYTES_MAX: u64 = 1 << 20;
/// Runs that one pack's index may list.
pub const PACK_RUNS_MAX: u32 = 4096;

/// Payload of the closing section.
const END_BYTES: usize = 48;

/// What an image holds, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    pub id: ImageId,
    /// Length of the whole file, in bytes.
    pub bytes: u64,
    /// Pages whose contents are in it.
    pub pages: u64,
    /// Pages that are recorded as zero, without bytes.
    pub zero_pages: u64,
    /// blake3 over the header and all section headers, which hold the digests of all contents.
    pub digest: [u8; 32],
}
