//! Reading an image from a file, in any order and from several threads.

use std::fs::File;
use std::io;

use brant_base::PAGE_SIZE;

use super::codec;
use super::header::{HEADER_BYTES, Identity, ImageId, u32_at, u64_at};
use super::note::{self, NOTE_BYTES_MAX, Note};
use super::pack::{self, INDEX_HEAD_BYTES, Pack, PackRun, PageContent};
use super::runs::{IndexEntry, PageBounds, Run, RunTable};
use super::section::{FLAG_CRITICAL, SECTION_HEADER_BYTES, SECTION_VERSION, SectionHeader, SectionKind};
use super::{END_BYTES, MANIFEST_BYTES_MAX, PACK_BYTES_MAX, Summary};
use crate::model::{Checkpoint, PageOwner};
use crate::{ImageError, validate, wire};

/// What an image says of itself at its beginning. Cheap; says nothing of whether the rest is whole.
#[derive(Debug)]
pub struct Head {
    pub identity: Identity,
    pub checkpoint: Checkpoint,
    /// Length of the file, in bytes.
    pub bytes: u64,
}

impl Head {
    /// Reads and verifies the header and the manifest of an image.
    pub fn read(file: &File) -> Result<Head, ImageError> {
        let source = Source::new(file)?;
        let identity = source.identity()?;
        let section = source.section(HEADER_BYTES as u64, 0)?;
        let checkpoint = source.manifest(&section)?;
        Ok(Head { identity, checkpoint, bytes: source.bytes })
    }
}

/// An image whose frame, manifest and indexes have been verified. Page bytes are verified as they are read.
#[derive(Debug)]
pub struct Image {
    file: File,
    identity: Identity,
    checkpoint: Checkpoint,
    packs: Vec<PackPlace>,
    notes: Vec<Section>,
    /// Sections that this brant does not know and need not.
    others: Vec<Section>,
    table: RunTable,
    bytes: u64,
    digest: [u8; 32],
}

#[derive(Debug)]
struct PackPlace {
    section: Section,
    index_bytes: u64,
}

/// A section's header and where it stands.
#[derive(Debug, Clone, Copy)]
struct Section {
    header: SectionHeader,
    /// Of the header, in the file.
    offset: u64,
}

impl Image {
    /// Verifies the header, all sections' headers and indexes and the closing section, then decodes and
    /// validates the manifest.
    pub fn open(file: File) -> Result<Image, ImageError> {
        let source = Source::new(&file)?;
        let identity = source.identity()?;
        let mut walk = Walk::new(identity);
        let manifest = source.section(HEADER_BYTES as u64, 0)?;
        let checkpoint = source.manifest(&manifest)?;
        let bounds = PageBounds::of(&checkpoint);
        walk.pass(&manifest);
        let (mut packs, mut notes, mut others) = (Vec::new(), Vec::new(), Vec::new());
        let mut table = RunTable::default();
        loop {
            let section = source.section(walk.offset, walk.sequence)?;
            match section.header.kind {
                SectionKind::PagePack => {
                    let (place, entries) = source.pack_index(&section)?;
                    insert_runs(&mut table, &bounds, &entries, packs.len())?;
                    packs.push(place);
                }
                SectionKind::Manifest => return Err(section.misplaced("there is a second manifest")),
                SectionKind::Note => notes.push(section),
                SectionKind::Other(_) => others.push(section),
                SectionKind::End => {
                    let digest = source.end(&section, &walk)?;
                    table.check()?;
                    let bytes = source.bytes;
                    return Ok(Image {
                        file,
                        identity,
                        checkpoint,
                        packs,
                        notes,
                        others,
                        table,
                        bytes,
                        digest,
                    });
                }
            }
            walk.pass(&section);
        }
    }

    /// What was captured.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    pub fn id(&self) -> ImageId {
        self.identity.id
    }

    /// CLOCK_REALTIME when the image was begun, in nanoseconds.
    pub fn created_ns(&self) -> i64 {
        self.identity.created_ns
    }

    /// The image in numbers.
    pub fn summary(&self) -> Summary {
        Summary {
            id: self.identity.id,
            bytes: self.bytes,
            pages: self.table.pages,
            zero_pages: self.table.zero_pages,
            digest: self.digest,
        }
    }

    /// The owner's pages, sorted and disjoint. Pages that are in no run are as the kernel makes them.
    pub fn runs(&self, owner: PageOwner) -> impl Iterator<Item = Run> + '_ {
        self.table.of(owner).iter().copied()
    }

    /// Who has pages in this image.
    pub fn owners(&self) -> impl Iterator<Item = PageOwner> + '_ {
        self.table.owners()
    }

    /// Number of page packs.
    pub fn pack_count(&self) -> usize {
        self.packs.len()
    }

    /// Reads and verifies one pack. May be called from several threads.
    pub fn pack(&self, index: usize) -> Result<Pack, ImageError> {
        let mut pack = Pack::default();
        self.read_pack(index, &mut pack)?;
        Ok(pack)
    }

    /// As [`Image::pack`], into memory that is used again. After an error `into` is empty.
    pub fn read_pack(&self, index: usize, into: &mut Pack) -> Result<(), ImageError> {
        let result = self.fill_pack(&self.packs[index], into);
        if result.is_err() {
            into.clear();
        }
        result
    }

    /// Calls `visit` with all of the owner's pages, each pack being read once; not in the order of the pages.
    pub fn visit_pages<E: From<ImageError>>(
        &self,
        owner: PageOwner,
        mut visit: impl FnMut(PackRun<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut numbers: Vec<usize> = self.runs(owner).map(|run| run.pack).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let mut pack = Pack::default();
        for number in numbers {
            self.read_pack(number, &mut pack)?;
            pack.runs().filter(|run| run.owner == owner).try_for_each(&mut visit)?;
        }
        Ok(())
    }

    /// The owner's contents as one piece of `bytes` bytes, zero where the image has nothing.
    pub fn read_blob(&self, owner: PageOwner, bytes: usize) -> Result<Vec<u8>, ImageError> {
        let mut blob = vec![0; bytes];
        self.visit_pages(owner, |run| {
            let PageContent::Bytes(content) = run.content else { return Ok(()) };
            let start = usize::try_from(run.first_page * PAGE_SIZE).unwrap_or(usize::MAX);
            if let Some(into) = blob.get_mut(start..) {
                let length = into.len().min(content.len());
                into[..length].copy_from_slice(&content[..length]);
            }
            Ok::<(), ImageError>(())
        })?;
        Ok(blob)
    }

    /// The notes of this name, in the order in which they were written.
    pub fn notes(&self, name: &str) -> Result<Vec<Note>, ImageError> {
        let mut found = Vec::new();
        for section in &self.notes {
            let note = self.note(section)?;
            if note.name == name {
                found.push(note);
            }
        }
        Ok(found)
    }

    fn note(&self, section: &Section) -> Result<Note, ImageError> {
        let source = Source { file: &self.file, bytes: self.bytes };
        let raw = source.contents(section, NOTE_BYTES_MAX)?;
        note::decode(&raw).map_err(|what| section.damaged(what))
    }

    /// Reads and verifies everything, on as many threads as there are processors.
    pub fn verify(&self) -> Result<Summary, ImageError> {
        let source = Source { file: &self.file, bytes: self.bytes };
        for section in &self.others {
            source.payload_digest(section)?;
        }
        for section in &self.notes {
            self.note(section)?;
        }
        let threads = std::thread::available_parallelism().map_or(1, |count| count.get().min(16));
        let verify_every = |first: usize| {
            let mut pack = Pack::default();
            (first..self.packs.len()).step_by(threads).try_for_each(|index| self.read_pack(index, &mut pack))
        };
        if self.packs.len() < 2 || threads < 2 {
            (0..threads).try_for_each(verify_every)?;
            return Ok(self.summary());
        }
        std::thread::scope(|scope| {
            let workers: Vec<_> =
                (0..threads).map(|first| scope.spawn(move || verify_every(first))).collect();
            workers.into_iter().try_for_each(|worker| worker.join().expect("verifying does not panic"))
        })?;
        Ok(self.summary())
    }

    /// Reads a pack, compares its checksum, and only then decodes its index and its pages.
    fn fill_pack(&self, place: &PackPlace, into: &mut Pack) -> Result<(), ImageError> {
        let source = Source { file: &self.file, bytes: self.bytes };
        let section = &place.section;
        let header = &section.header;
        let index_bytes = place.index_bytes as usize;
        into.stored.resize(header.stored_bytes as usize, 0);
        source.read(section.payload(), &mut into.stored)?;
        if *blake3::hash(&into.stored).as_bytes() != header.digest {
            return Err(section.damaged("the checksum of its contents does not match"));
        }
        let (index, body) = into.stored.split_at(index_bytes);
        into.entries = pack::parse_index(index, header.raw_bytes).map_err(|what| section.damaged(what))?;
        if header.codec == codec::CODEC_RAW && body.len() as u64 == header.raw_bytes {
            into.raw_start = Some(index_bytes);
            return Ok(());
        }
        into.raw_start = None;
        into.decoded.resize(header.raw_bytes as usize, 0);
        codec::decompress(header.codec, body, &mut into.decoded).map_err(|what| section.damaged(what))
    }
}

/// Adds a pack's index to the table.
fn insert_runs(
    table: &mut RunTable,
    bounds: &PageBounds,
    entries: &[IndexEntry],
    pack: usize,
) -> Result<(), ImageError> {
    let mut offset = 0;
    for entry in entries {
        bounds.check(entry)?;
        table.insert(*entry, pack, if entry.zero { 0 } else { offset });
        offset += if entry.zero { 0 } else { entry.pages * PAGE_SIZE };
    }
    Ok(())
}

/// How far the sections have been read.
struct Walk {
    offset: u64,
    sequence: u32,
    headers: blake3::Hasher,
}

impl Walk {
    fn new(identity: Identity) -> Walk {
        let mut headers = blake3::Hasher::new();
        headers.update(&identity.encode());
        Walk { offset: HEADER_BYTES as u64, sequence: 0, headers }
    }

    fn pass(&mut self, section: &Section) {
        self.headers.update(&section.header.encode());
        self.offset = section.end();
        self.sequence += 1;
    }
}

impl Section {
    fn payload(&self) -> u64 {
        self.offset + SECTION_HEADER_BYTES as u64
    }

    /// Cannot overflow: the section lies inside the file.
    fn end(&self) -> u64 {
        self.payload() + self.header.stored_bytes
    }

    fn damaged(&self, what: &'static str) -> ImageError {
        let SectionHeader { sequence, kind, .. } = self.header;
        ImageError::SectionDamaged { sequence, kind, offset: self.offset, what }
    }

    fn misplaced(&self, what: &'static str) -> ImageError {
        ImageError::Layout { offset: self.offset, what }
    }

    fn bound(&self, bytes: u64, bytes_max: u64) -> Result<(), ImageError> {
        let SectionHeader { sequence, kind, .. } = self.header;
        if bytes > bytes_max {
            return Err(ImageError::TooLarge { sequence, kind, bytes, bytes_max });
        }
        Ok(())
    }
}

/// A file of known length.
struct Source<'a> {
    file: &'a File,
    bytes: u64,
}

impl Source<'_> {
    fn new(file: &File) -> Result<Source<'_>, ImageError> {
        let metadata = file.metadata().map_err(ImageError::Read)?;
        if !metadata.is_file() {
            let why = "it is not a regular file";
            return Err(ImageError::Read(io::Error::new(io::ErrorKind::Unsupported, why)));
        }
        Ok(Source { file, bytes: metadata.len() })
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), ImageError> {
        self.need(offset, into.len() as u64)?;
        read_exact_at(self.file, into, offset).map_err(ImageError::Read)
    }

    fn need(&self, offset: u64, needed_bytes: u64) -> Result<(), ImageError> {
        match offset.checked_add(needed_bytes) {
            Some(end) if end <= self.bytes => Ok(()),
            _ => Err(ImageError::Truncated { offset, needed_bytes, file_bytes: self.bytes }),
        }
    }

    fn identity(&self) -> Result<Identity, ImageError> {
        let mut raw = [0; HEADER_BYTES];
        let have = self.bytes.min(8) as usize;
        self.read(0, &mut raw[..have])?;
        if raw[..have] != b"BRANTIMG"[..have] || have == 0 {
            return Err(ImageError::NotAnImage);
        }
        self.read(0, &mut raw)?;
        Identity::decode(&raw)
    }

    /// The section at `offset`, which must be the one numbered `sequence`, wholly inside the file and known or skippable.
    fn section(&self, offset: u64, sequence: u32) -> Result<Section, ImageError> {
        let mut raw = [0; SECTION_HEADER_BYTES];
        self.read(offset, &mut raw)?;
        let Some(header) = SectionHeader::decode(&raw) else {
            return Err(ImageError::Layout { offset, what: "a section's header is damaged" });
        };
        let mut section = Section { header, offset };
        if header.sequence != sequence {
            return Err(section.misplaced("a section is missing or out of order"));
        }
        if header.flags & !FLAG_CRITICAL != 0 {
            return Err(section.misplaced("a section has flags that this brant does not know"));
        }
        let known = header.version == SECTION_VERSION
            && !matches!(header.kind, SectionKind::Other(_))
            && codec::is_known(header.codec);
        if !known && header.is_critical() {
            let (kind, version) = (header.kind.number(), header.version);
            return Err(ImageError::SectionUnknown { sequence, kind, version });
        }
        if !known {
            section.header.kind = SectionKind::Other(header.kind.number());
        }
        if (sequence == 0) != (section.header.kind == SectionKind::Manifest) {
            return Err(section.misplaced("the manifest is not the first section"));
        }
        self.need(section.payload(), header.stored_bytes)?;
        Ok(section)
    }

    /// Reads, verifies, decodes and validates the manifest.
    fn manifest(&self, section: &Section) -> Result<Checkpoint, ImageError> {
        let checkpoint = wire::decode(&self.contents(section, MANIFEST_BYTES_MAX)?)?;
        validate(&checkpoint)?;
        Ok(checkpoint)
    }

    /// Reads, verifies and decompresses a whole section of at most so many bytes.
    fn contents(&self, section: &Section, bytes_max: u64) -> Result<Vec<u8>, ImageError> {
        let header = &section.header;
        section.bound(header.stored_bytes, bytes_max)?;
        section.bound(header.raw_bytes, bytes_max)?;
        let mut stored = vec![0; header.stored_bytes as usize];
        self.read(section.payload(), &mut stored)?;
        if *blake3::hash(&stored).as_bytes() != header.digest {
            return Err(section.damaged("the checksum of its contents does not match"));
        }
        let mut raw = vec![0; header.raw_bytes as usize];
        codec::decompress(header.codec, &stored, &mut raw).map_err(|what| section.damaged(what))?;
        Ok(raw)
    }

    /// Reads and verifies a pack's index, not its pages.
    fn pack_index(&self, section: &Section) -> Result<(PackPlace, Vec<IndexEntry>), ImageError> {
        let header = &section.header;
        let damaged = |what| section.damaged(what);
        section.bound(header.raw_bytes, PACK_BYTES_MAX)?;
        if header.stored_bytes < INDEX_HEAD_BYTES as u64 {
            return Err(damaged("it is too short for an index"));
        }
        let mut head = [0; INDEX_HEAD_BYTES];
        self.read(section.payload(), &mut head)?;
        let index_bytes = pack::index_bytes(pack::parse_index_head(&head).map_err(damaged)?);
        if header.stored_bytes < index_bytes {
            return Err(damaged("it is too short for its index"));
        }
        // A pack that does not shrink is stored raw.
        section.bound(header.stored_bytes - index_bytes, header.raw_bytes)?;
        let mut index = vec![0; index_bytes as usize];
        self.read(section.payload(), &mut index)?;
        let entries = pack::parse_index(&index, header.raw_bytes).map_err(damaged)?;
        Ok((PackPlace { section: *section, index_bytes }, entries))
    }

    /// Verifies the closing section and gives the digest of all headers.
    fn end(&self, section: &Section, walk: &Walk) -> Result<[u8; 32], ImageError> {
        if section.header.stored_bytes != END_BYTES as u64
            || section.header.raw_bytes != END_BYTES as u64
            || section.header.codec != codec::CODEC_RAW
        {
            return Err(section.damaged("it is not 48 bytes of raw contents"));
        }
        let mut raw = [0; END_BYTES];
        self.read(section.payload(), &mut raw)?;
        if *blake3::hash(&raw).as_bytes() != section.header.digest {
            return Err(section.damaged("the checksum of its contents does not match"));
        }
        let digest = *walk.headers.finalize().as_bytes();
        if u64_at(&raw, 0) != section.end() || u32_at(&raw, 8) != walk.sequence + 1 || raw[16..] != digest {
            return Err(section.misplaced("the closing section does not close these sections"));
        }
        if u32_at(&raw, 12) != 0 {
            return Err(section.damaged("its reserved bytes are not zero"));
        }
        if section.end() != self.bytes {
            return Err(section.misplaced("there are bytes after the closing section"));
        }
        Ok(digest)
    }

    /// Verifies the contents of a section of any length.
    fn payload_digest(&self, section: &Section) -> Result<(), ImageError> {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; section.header.stored_bytes.min(PACK_BYTES_MAX) as usize];
        let mut offset = section.payload();
        while offset < section.end() {
            let length = (section.end() - offset).min(buffer.len() as u64) as usize;
            self.read(offset, &mut buffer[..length])?;
            hasher.update(&buffer[..length]);
            offset += length as u64;
        }
        if *hasher.finalize().as_bytes() != section.header.digest {
            return Err(section.damaged("the checksum of its contents does not match"));
        }
        Ok(())
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, into: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, offset)
}

/// The file's position moves with it; nobody here uses that.
#[cfg(windows)]
fn read_exact_at(file: &File, mut into: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !into.is_empty() {
        let count = std::os::windows::fs::FileExt::seek_read(file, into, offset)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        into = &mut into[count..];
        offset += count as u64;
    }
    Ok(())
}
