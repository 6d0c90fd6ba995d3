//! A page pack: an index of runs, guarded by a digest of its own, then page bytes, compressed or not.
//!
//! The index is never compressed, so that opening an image reads indexes only.

use brant_base::PAGE_SIZE;

use super::codec::{CODEC_RAW, Compressor};
use super::header::{u16_at, u32_at, u64_at};
use super::runs::{IndexEntry, owner_from_numbers, owner_numbers};
use super::section::{FLAG_CRITICAL, SECTION_VERSION, SectionHeader, SectionKind};
use super::{PACK_BYTES_MAX, PACK_RUNS_MAX};
use crate::model::PageOwner;

/// Number of runs (u32), reserved (u32).
pub(crate) const INDEX_HEAD_BYTES: usize = 8;
const INDEX_ENTRY_BYTES: usize = 24;
const INDEX_DIGEST_BYTES: usize = 32;
const RUN_ZERO: u16 = 1;

/// A pack that was read and verified. Reuse one for many reads: it keeps its memory.
#[derive(Debug, Default)]
pub struct Pack {
    pub(crate) entries: Vec<IndexEntry>,
    /// The section's payload as stored.
    pub(crate) stored: Vec<u8>,
    /// Where the page bytes begin in `stored`, for a pack that is stored raw.
    pub(crate) raw_start: Option<usize>,
    /// The page bytes of a pack that was compressed.
    pub(crate) decoded: Vec<u8>,
}

/// Consecutive pages of one owner, with their contents.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PackRun<'a> {
    pub owner: PageOwner,
    pub first_page: u64,
    pub content: PageContent<'a>,
}

/// What pages hold. Printing it tells no contents.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PageContent<'a> {
    /// Whole pages.
    Bytes(&'a [u8]),
    /// This many pages of zeroes.
    Zero { pages: u64 },
}

impl PageContent<'_> {
    /// Length in pages.
    pub fn pages(&self) -> u64 {
        match self {
            PageContent::Bytes(bytes) => bytes.len() as u64 / PAGE_SIZE,
            PageContent::Zero { pages } => *pages,
        }
    }
}

impl Pack {
    /// The runs in the order in which they were written.
    pub fn runs(&self) -> impl Iterator<Item = PackRun<'_>> {
        let mut offset = 0;
        let page_bytes = self.bytes();
        self.entries.iter().map(move |entry| {
            let content = if entry.zero {
                PageContent::Zero { pages: entry.pages }
            } else {
                let bytes = (entry.pages * PAGE_SIZE) as usize;
                offset += bytes;
                PageContent::Bytes(&page_bytes[offset - bytes..offset])
            };
            PackRun { owner: entry.owner, first_page: entry.first_page, content }
        })
    }

    /// The page bytes of all runs that are not zero, one after the other; [`Run::offset`](super::Run) counts in these.
    pub fn bytes(&self) -> &[u8] {
        match self.raw_start {
            Some(start) => &self.stored[start..],
            None => &self.decoded,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.stored.clear();
        self.decoded.clear();
        self.raw_start = None;
    }
}

/// Whether all bytes are zero.
pub fn is_zero_page(page: &[u8]) -> bool {
    let mut chunks = page.chunks_exact(64);
    let head =
        chunks.by_ref().all(|chunk| chunk.chunks_exact(8).fold(0, |sum, word| sum | u64_at(word, 0)) == 0);
    head && chunks.remainder().iter().all(|&byte| byte == 0)
}

/// Bytes of an index with this many runs, its head and digest included.
pub(crate) fn index_bytes(runs: u32) -> u64 {
    (INDEX_HEAD_BYTES + INDEX_DIGEST_BYTES) as u64 + u64::from(runs) * INDEX_ENTRY_BYTES as u64
}

/// The number of runs that an index's head gives.
pub(crate) fn parse_index_head(head: &[u8; INDEX_HEAD_BYTES]) -> Result<u32, &'static str> {
    let runs = u32_at(head, 0);
    if u32_at(head, 4) != 0 {
        return Err("the reserved bytes of its index are not zero");
    }
    if runs == 0 || runs > PACK_RUNS_MAX {
        return Err("its index has no runs or too many");
    }
    Ok(runs)
}

/// Verifies and decodes a whole index. Its runs have exactly `raw_bytes` of page bytes.
pub(crate) fn parse_index(index: &[u8], raw_bytes: u64) -> Result<Vec<IndexEntry>, &'static str> {
    let (checked, digest) = index.split_at(index.len() - INDEX_DIGEST_BYTES);
    if blake3::hash(checked).as_bytes() != digest {
        return Err("the checksum of its index does not match");
    }
    let mut entries = Vec::with_capacity((checked.len() - INDEX_HEAD_BYTES) / INDEX_ENTRY_BYTES);
    let mut pages: u64 = 0;
    for raw in checked[INDEX_HEAD_BYTES..].chunks_exact(INDEX_ENTRY_BYTES) {
        let owner = owner_from_numbers(u16_at(raw, 0), u32_at(raw, 4)).ok_or("a run has an unknown owner")?;
        let flags = u16_at(raw, 2);
        if flags & !RUN_ZERO != 0 {
            return Err("a run has unknown flags");
        }
        let entry = IndexEntry {
            owner,
            first_page: u64_at(raw, 8),
            pages: u64_at(raw, 16),
            zero: flags & RUN_ZERO != 0,
        };
        if !entry.zero {
            pages = pages.saturating_add(entry.pages);
        }
        entries.push(entry);
    }
    if pages.checked_mul(PAGE_SIZE) != Some(raw_bytes) {
        return Err("its index and its length do not agree");
    }
    Ok(entries)
}

/// A pack that is being filled.
#[derive(Debug, Default)]
pub(crate) struct OpenPack {
    pub(crate) entries: Vec<IndexEntry>,
    pub(crate) bytes: Vec<u8>,
}

impl OpenPack {
    /// Adds a run, joining it to the last one where it continues that.
    pub(crate) fn push(&mut self, entry: IndexEntry) {
        match self.entries.last_mut() {
            Some(last)
                if last.owner == entry.owner
                    && last.zero == entry.zero
                    && last.first_page + last.pages == entry.first_page =>
            {
                last.pages += entry.pages;
            }
            _ => self.entries.push(entry),
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() as u64 == PACK_BYTES_MAX || self.entries.len() == PACK_RUNS_MAX as usize
    }

    fn index(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(index_bytes(self.entries.len() as u32) as usize);
        out.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for entry in &self.entries {
            let (kind, id) = owner_numbers(entry.owner);
            out.extend_from_slice(&kind.to_le_bytes());
            out.extend_from_slice(&(if entry.zero { RUN_ZERO } else { 0 }).to_le_bytes());
            out.extend_from_slice(&id.to_le_bytes());
            out.extend_from_slice(&entry.first_page.to_le_bytes());
            out.extend_from_slice(&entry.pages.to_le_bytes());
        }
        let digest = blake3::hash(&out);
        out.extend_from_slice(digest.as_bytes());
        out
    }

    /// Compresses and hashes; `buffer` is memory for what is compressed.
    pub(crate) fn seal(self, compressor: &mut Compressor, buffer: Option<Vec<u8>>) -> SealedPack {
        let index = self.index();
        let raw_bytes = self.bytes.len() as u64;
        let mut stored = buffer.unwrap_or_default();
        let compressed = compressor.compress(&self.bytes, &mut stored);
        let (number, body, body_bytes, spare) = match compressed {
            Some((number, bytes)) => (number, stored, bytes, self.bytes),
            None => (CODEC_RAW, self.bytes, raw_bytes as usize, stored),
        };
        let digest = *blake3::Hasher::new().update(&index).update(&body[..body_bytes]).finalize().as_bytes();
        let header = SectionHeader {
            kind: SectionKind::PagePack,
            version: SECTION_VERSION,
            flags: FLAG_CRITICAL,
            codec: number,
            sequence: 0,
            stored_bytes: (index.len() + body_bytes) as u64,
            raw_bytes,
            digest,
        };
        SealedPack { header, entries: self.entries, index, body, body_bytes, spare }
    }
}

/// A pack ready to be written. The writer numbers it.
#[derive(Debug)]
pub(crate) struct SealedPack {
    pub(crate) header: SectionHeader,
    pub(crate) entries: Vec<IndexEntry>,
    pub(crate) index: Vec<u8>,
    /// Holds the stored page bytes in its first `body_bytes`; what follows is room to be used again.
    pub(crate) body: Vec<u8>,
    pub(crate) body_bytes: usize,
    /// Memory that is not needed any more.
    pub(crate) spare: Vec<u8>,
}
