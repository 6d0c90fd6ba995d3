//! Writing an image, front to back, without seeking.

use std::io::Write;

use brant_base::{PAGE_SIZE, Pid};

use super::codec::{CODEC_RAW, Codec, Compressor};
use super::header::{HEADER_BYTES, Identity};
use super::note::{self, NOTE_BYTES_MAX};
use super::pack::{OpenPack, SealedPack};
use super::runs::{IndexEntry, PageBounds, RunTable};
use super::section::{FLAG_CRITICAL, SECTION_HEADER_BYTES, SECTION_VERSION, SectionHeader, SectionKind};
use super::{MANIFEST_BYTES_MAX, PACK_BYTES_MAX, Summary};
use crate::model::{Checkpoint, PageOwner};
use crate::{ImageError, validate, wire};

/// Writes one image. Dropped before [`Writer::finish`], it leaves a file that no reader accepts.
#[derive(Debug)]
pub struct Writer<W: Write> {
    sink: W,
    identity: Identity,
    position: u64,
    sequence: u32,
    packs: usize,
    /// Over the header and all section headers.
    headers: blake3::Hasher,
    pub(super) bounds: PageBounds,
    table: RunTable,
    open: OpenPack,
    compressor: Compressor,
    spare: Vec<Vec<u8>>,
}

impl<W: Write> Writer<W> {
    /// Validates `checkpoint` and writes the header and the manifest.
    pub fn create(sink: W, checkpoint: &Checkpoint, codec: Codec) -> Result<Writer<W>, ImageError> {
        Writer::create_as(sink, checkpoint, codec, Identity::fresh())
    }

    /// As [`Writer::create`], with an identity that the caller chose.
    pub fn create_as(
        sink: W,
        checkpoint: &Checkpoint,
        codec: Codec,
        identity: Identity,
    ) -> Result<Writer<W>, ImageError> {
        validate(checkpoint)?;
        let mut writer = Writer {
            sink,
            identity,
            position: 0,
            sequence: 0,
            packs: 0,
            headers: blake3::Hasher::new(),
            bounds: PageBounds::of(checkpoint),
            table: RunTable::default(),
            open: OpenPack::default(),
            compressor: Compressor::new(codec),
            spare: Vec::new(),
        };
        let header = identity.encode();
        writer.headers.update(&header);
        writer.put(&header)?;
        writer.manifest(&wire::encode(checkpoint))?;
        Ok(writer)
    }

    /// The image's name and time.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Adds pages with their contents, `bytes` being whole pages. No page may be added twice.
    ///
    /// # Panics
    /// Where `bytes` is not a whole number of pages.
    pub fn pages(&mut self, owner: PageOwner, first_page: u64, bytes: &[u8]) -> Result<(), ImageError> {
        assert!((bytes.len() as u64).is_multiple_of(PAGE_SIZE), "a part of a page");
        let pages = bytes.len() as u64 / PAGE_SIZE;
        if pages == 0 {
            return Ok(());
        }
        self.bounds.check(&IndexEntry { owner, first_page, pages, zero: false })?;
        let (mut first_page, mut rest) = (first_page, bytes);
        while !rest.is_empty() {
            let room = PACK_BYTES_MAX as usize - self.open.bytes.len();
            let (now, later) = rest.split_at(room.min(rest.len()));
            let pages = now.len() as u64 / PAGE_SIZE;
            self.open.bytes.extend_from_slice(now);
            self.open.push(IndexEntry { owner, first_page, pages, zero: false });
            first_page += pages;
            rest = later;
            self.seal_if_full()?;
        }
        Ok(())
    }

    /// Records that `pages` pages are zero. Needed where a page that is absent from the image would be
    /// something else than zero: in private mappings of files.
    pub fn zero_pages(&mut self, owner: PageOwner, first_page: u64, pages: u64) -> Result<(), ImageError> {
        if pages == 0 {
            return Ok(());
        }
        let entry = IndexEntry { owner, first_page, pages, zero: true };
        self.bounds.check(&entry)?;
        self.open.push(entry);
        self.seal_if_full()
    }

    /// Adds what somebody called `name` keeps of a process. Whoever reads the image may ask for it, and nobody must.
    ///
    /// # Panics
    /// Where `name` is not 1 to 32 lower-case letters, digits and dashes.
    pub fn note(&mut self, pid: Pid, name: &str, bytes: &[u8]) -> Result<(), ImageError> {
        assert!(note::is_name(name.as_bytes()), "no name of a note");
        let raw = note::encode(pid, name, bytes);
        let raw_bytes = raw.len() as u64;
        if raw_bytes > NOTE_BYTES_MAX {
            let (sequence, kind) = (self.sequence, SectionKind::Note);
            return Err(ImageError::TooLarge { sequence, kind, bytes: raw_bytes, bytes_max: NOTE_BYTES_MAX });
        }
        let mut room = Vec::new();
        let (codec, stored) = match self.compressor.compress(&raw, &mut room) {
            Some((codec, length)) => (codec, &room[..length]),
            None => (CODEC_RAW, &raw[..]),
        };
        self.section(SectionHeader {
            kind: SectionKind::Note,
            version: SECTION_VERSION,
            flags: 0,
            codec,
            sequence: 0,
            stored_bytes: stored.len() as u64,
            raw_bytes,
            digest: *blake3::hash(stored).as_bytes(),
        })?;
        self.put(stored)
    }

    /// Writes what is left and the closing section, and flushes the sink. The sink still has to be made
    /// durable by its owner.
    pub fn finish(mut self) -> Result<(W, Summary), ImageError> {
        self.seal_open()?;
        self.table.check()?;
        let digest = *self.headers.finalize().as_bytes();
        let bytes = self.position + (SECTION_HEADER_BYTES + super::END_BYTES) as u64;
        let mut end = [0; super::END_BYTES];
        end[..8].copy_from_slice(&bytes.to_le_bytes());
        end[8..12].copy_from_slice(&(self.sequence + 1).to_le_bytes());
        end[16..].copy_from_slice(&digest);
        self.section(SectionHeader {
            kind: SectionKind::End,
            version: SECTION_VERSION,
            flags: FLAG_CRITICAL,
            codec: CODEC_RAW,
            sequence: 0,
            stored_bytes: end.len() as u64,
            raw_bytes: end.len() as u64,
            digest: *blake3::hash(&end).as_bytes(),
        })?;
        self.put(&end)?;
        self.sink.flush().map_err(ImageError::Write)?;
        let (pages, zero_pages) = (self.table.pages, self.table.zero_pages);
        Ok((self.sink, Summary { id: self.identity.id, bytes, pages, zero_pages, digest }))
    }

    /// The first section. A manifest beyond its limit is refused here: no reader would take it.
    fn manifest(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        let length = bytes.len() as u64;
        if length > MANIFEST_BYTES_MAX {
            let kind = SectionKind::Manifest;
            return Err(ImageError::TooLarge {
                sequence: 0,
                kind,
                bytes: length,
                bytes_max: MANIFEST_BYTES_MAX,
            });
        }
        self.section(SectionHeader {
            kind: SectionKind::Manifest,
            version: SECTION_VERSION,
            flags: FLAG_CRITICAL,
            codec: CODEC_RAW,
            sequence: 0,
            stored_bytes: length,
            raw_bytes: length,
            digest: *blake3::hash(bytes).as_bytes(),
        })?;
        self.put(bytes)
    }

    pub(super) fn codec(&self) -> Codec {
        self.compressor.codec()
    }

    /// Adds the pages of `pack` to the open one.
    pub(super) fn append(&mut self, pack: &OpenPack) -> Result<(), ImageError> {
        let mut rest = &pack.bytes[..];
        for entry in &pack.entries {
            let IndexEntry { owner, first_page, pages, zero } = *entry;
            if zero {
                self.zero_pages(owner, first_page, pages)?;
                continue;
            }
            let (now, later) = rest.split_at((pages * PAGE_SIZE) as usize);
            self.pages(owner, first_page, now)?;
            rest = later;
        }
        Ok(())
    }

    fn seal_if_full(&mut self) -> Result<(), ImageError> {
        if self.open.is_full() { self.seal_open() } else { Ok(()) }
    }

    /// Writes the open pack, unless it is empty, and begins a fresh one.
    pub(super) fn seal_open(&mut self) -> Result<(), ImageError> {
        if self.open.entries.is_empty() {
            return Ok(());
        }
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        let full = std::mem::replace(&mut self.open, OpenPack { entries: Vec::new(), bytes });
        let sealed = full.seal(&mut self.compressor, self.spare.pop());
        self.spare = self.write_sealed(sealed)?.into();
        Ok(())
    }

    /// Writes a pack; gives its memory back.
    pub(super) fn write_sealed(&mut self, sealed: SealedPack) -> Result<[Vec<u8>; 2], ImageError> {
        // All its pages were zero and need not be kept.
        if sealed.entries.is_empty() {
            return Ok([sealed.body, sealed.spare]);
        }
        self.section(sealed.header)?;
        self.put(&sealed.index)?;
        self.put(&sealed.body[..sealed.body_bytes])?;
        let mut offset = 0;
        for entry in sealed.entries {
            self.table.insert(entry, self.packs, offset);
            offset += if entry.zero { 0 } else { entry.pages * PAGE_SIZE };
        }
        self.packs += 1;
        Ok([sealed.body, sealed.spare])
    }

    /// Numbers and writes a section's header.
    fn section(&mut self, header: SectionHeader) -> Result<(), ImageError> {
        let raw = SectionHeader { sequence: self.sequence, ..header }.encode();
        self.sequence += 1;
        if header.kind != SectionKind::End {
            self.headers.update(&raw);
        }
        self.put(&raw)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        debug_assert!(self.position != 0 || bytes.len() == HEADER_BYTES);
        self.sink.write_all(bytes).map_err(ImageError::Write)?;
        self.position += bytes.len() as u64;
        Ok(())
    }
}
