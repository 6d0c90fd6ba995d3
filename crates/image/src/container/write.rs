//! Writing an image, front to back, without seeking.

use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};

use brant_base::PAGE_SIZE;

use super::codec::{CODEC_RAW, Codec};
use super::header::{HEADER_BYTES, Identity};
use super::pack::{OpenPack, SealedPack};
use super::runs::{IndexEntry, PageBounds, RunTable};
use super::section::{FLAG_CRITICAL, SECTION_HEADER_BYTES, SECTION_VERSION, SectionHeader, SectionKind};
use super::{MANIFEST_BYTES_MAX, PACK_BYTES_MAX, Summary};
use crate::model::{Checkpoint, PageOwner};
use crate::{ImageError, validate, wire};

/// Packs under way between us and the sealing thread.
const PACKS_IN_FLIGHT_MAX: usize = 3;

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
    bounds: PageBounds,
    table: RunTable,
    open: OpenPack,
    sealer: Sealer,
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
            sealer: Sealer::new(codec),
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
        let mut rest = bytes;
        let pages = bytes.len() as u64 / PAGE_SIZE;
        self.pages_with(owner, first_page, pages, |_, into| {
            let (now, later) = rest.split_at(into.len());
            into.copy_from_slice(now);
            rest = later;
            Ok(())
        })
    }

    /// Adds `pages` pages that `fill(page number, bytes)` supplies in place, in order, at most 1 MiB a call.
    pub fn pages_with<E: From<ImageError>>(
        &mut self,
        owner: PageOwner,
        first_page: u64,
        pages: u64,
        mut fill: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if pages == 0 {
            return Ok(());
        }
        self.bounds.check(&IndexEntry { owner, first_page, pages, zero: false })?;
        let mut done = 0;
        while done < pages {
            let start = self.open.bytes.len();
            let now = (pages - done).min((PACK_BYTES_MAX - start as u64) / PAGE_SIZE);
            self.open.bytes.resize(start + (now * PAGE_SIZE) as usize, 0);
            if let Err(error) = fill(first_page + done, &mut self.open.bytes[start..]) {
                self.open.bytes.truncate(start);
                return Err(error);
            }
            self.open.push(IndexEntry { owner, first_page: first_page + done, pages: now, zero: false });
            done += now;
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

    /// Writes what is left and the closing section, and flushes the sink. The sink still has to be made
    /// durable by its owner.
    pub fn finish(mut self) -> Result<(W, Summary), ImageError> {
        if !self.open.entries.is_empty() {
            self.seal()?;
        }
        while self.sealer.in_flight > 0 {
            self.write_pack()?;
        }
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

    fn seal_if_full(&mut self) -> Result<(), ImageError> {
        if self.open.is_full() { self.seal() } else { Ok(()) }
    }

    /// Hands the open pack over and takes a fresh one.
    fn seal(&mut self) -> Result<(), ImageError> {
        if self.sealer.in_flight == PACKS_IN_FLIGHT_MAX {
            self.write_pack()?;
        }
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        let full = std::mem::replace(&mut self.open, OpenPack { entries: Vec::new(), bytes });
        self.sealer.submit(full);
        Ok(())
    }

    /// Writes the oldest pack under way.
    fn write_pack(&mut self) -> Result<(), ImageError> {
        let sealed = self.sealer.take();
        self.section(sealed.header)?;
        self.put(&sealed.index)?;
        self.put(&sealed.body)?;
        let mut offset = 0;
        for entry in sealed.entries {
            self.table.insert(entry, self.packs, offset);
            offset += if entry.zero { 0 } else { entry.pages * PAGE_SIZE };
        }
        self.packs += 1;
        let largest = if sealed.spare.capacity() > 0 { sealed.spare } else { sealed.body };
        self.spare.push(largest);
        Ok(())
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

/// Compresses and hashes packs, in order, on a thread of its own from the second pack on.
#[derive(Debug)]
struct Sealer {
    codec: Codec,
    in_flight: usize,
    /// Where there is no thread (yet): packs that are done.
    done: std::collections::VecDeque<SealedPack>,
    submitted: usize,
    thread: Option<(SyncSender<OpenPack>, Receiver<SealedPack>)>,
}

impl Sealer {
    fn new(codec: Codec) -> Sealer {
        Sealer { codec, in_flight: 0, done: Default::default(), submitted: 0, thread: None }
    }

    fn submit(&mut self, pack: OpenPack) {
        if self.submitted == 1 {
            self.thread = self.spawn();
        }
        self.submitted += 1;
        self.in_flight += 1;
        match &self.thread {
            Some((packs, _)) => packs.send(pack).expect("the sealing thread lives as long as its channel"),
            None => self.done.push_back(pack.seal(self.codec)),
        }
    }

    /// The oldest pack that was submitted and not yet taken.
    fn take(&mut self) -> SealedPack {
        assert!(self.in_flight > 0);
        self.in_flight -= 1;
        if let Some(sealed) = self.done.pop_front() {
            return sealed;
        }
        let (_, sealed) = self.thread.as_ref().expect("a pack in flight is done or with the thread");
        sealed.recv().expect("the sealing thread answers every pack")
    }

    /// `None` where no thread can be had: then the caller's own does the work.
    fn spawn(&self) -> Option<(SyncSender<OpenPack>, Receiver<SealedPack>)> {
        let (pack_sender, packs) = sync_channel::<OpenPack>(PACKS_IN_FLIGHT_MAX);
        let (sealed_sender, sealed) = channel();
        let codec = self.codec;
        let work = move || {
            for pack in packs {
                if sealed_sender.send(pack.seal(codec)).is_err() {
                    break;
                }
            }
        };
        std::thread::Builder::new().name("brant-seal".into()).spawn(work).ok()?;
        Some((pack_sender, sealed))
    }
}
