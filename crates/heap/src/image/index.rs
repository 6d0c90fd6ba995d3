//! The index of an image: which heaps, and where each group of theirs lies, with its checksum.
//!
//! ```text
//! u32 heaps, u32 0
//! heap records of 128 bytes: name 64, base 8, range 8, flags 4, layout version 4, slices in use 8, first extent 8, extents 8, zeroes
//! extents of 24 bytes: first group 4, groups 4, offset in the file 8, first checksum 8
//! checksums of 32 bytes, one for each group of each extent
//! ```
//!
//! A group without an extent is all zero. Nothing here uses the program's allocator.

use std::fmt;

use super::format::{BODY_AT, GROUP_BYTES, Hash, Head, u32_at, u64_at};
use crate::error::Error;
use crate::layout::{LAYOUT_VERSION, NAME_BYTES_MAX, PAGE_BYTES, data_of};
use crate::registry::{check_name, check_range};
use crate::system::{Buffer, File};

/// Heaps in one image, at most.
pub(crate) const HEAPS_MAX: usize = 256;
const START_BYTES: usize = 8;
const RECORD_BYTES: usize = 128;
const EXTENT_BYTES: usize = 24;
const HASH_BYTES: usize = 32;

/// An index as it is in the file, looked through once for what is impossible.
pub(crate) struct Index {
    buffer: Buffer,
    bytes: usize,
    hashes_at: usize,
}

/// One heap in an image.
#[derive(Clone, Copy)]
pub(crate) struct Record {
    pub(crate) name: [u8; NAME_BYTES_MAX + 1],
    pub(crate) base: usize,
    pub(crate) range_bytes: usize,
    pub(crate) flags: u32,
    pub(crate) top: u32,
    first_extent: usize,
    extents: usize,
}

/// Groups that follow each other in the heap and in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) group: u32,
    pub(crate) groups: u32,
    pub(crate) offset: u64,
    hash: u64,
}

impl Record {
    pub(crate) fn name_text(&self) -> &str {
        let end = self.name.iter().position(|byte| *byte == 0).unwrap_or(self.name.len());
        std::str::from_utf8(&self.name[..end]).unwrap_or("")
    }
}

impl Index {
    /// Reads it, verifies its checksum, then its numbers.
    pub(crate) fn read(file: &File, head: &Head) -> Result<Index, Error> {
        let bytes = head.index_bytes as usize;
        let mut buffer = Buffer::new(bytes)?;
        let count =
            file.read_at(&mut buffer[..bytes], head.index_at).map_err(|errno| Error::Read { errno })?;
        if count != bytes || blake3::hash(&buffer[..bytes]).as_bytes() != &head.index_hash {
            return Err(Error::Damaged {
                what: "the checksum of the index does not match",
                at: head.index_at,
            });
        }
        let index = Index { buffer, bytes, hashes_at: 0 };
        index.checked(head)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.buffer[..self.bytes]
    }

    pub(crate) fn heaps(&self) -> usize {
        u32_at(&self.buffer, 0) as usize
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = Record> + '_ {
        (0..self.heaps()).map(|number| self.record(number))
    }

    pub(crate) fn record(&self, number: usize) -> Record {
        let bytes = &self.buffer[START_BYTES + number * RECORD_BYTES..][..RECORD_BYTES];
        let mut name = [0; NAME_BYTES_MAX + 1];
        name.copy_from_slice(&bytes[..NAME_BYTES_MAX + 1]);
        Record {
            name,
            base: u64_at(bytes, 64) as usize,
            range_bytes: u64_at(bytes, 72) as usize,
            flags: u32_at(bytes, 80),
            top: u64_at(bytes, 88) as u32,
            first_extent: u64_at(bytes, 96) as usize,
            extents: u64_at(bytes, 104) as usize,
        }
    }

    pub(crate) fn extents<'a>(&'a self, record: &Record) -> impl Iterator<Item = Extent> + 'a {
        let first = record.first_extent;
        (first..first + record.extents).map(|number| self.extent(number))
    }

    fn extent(&self, number: usize) -> Extent {
        let at = START_BYTES + self.heaps() * RECORD_BYTES + number * EXTENT_BYTES;
        let bytes = &self.buffer[at..at + EXTENT_BYTES];
        Extent {
            group: u32_at(bytes, 0),
            groups: u32_at(bytes, 4),
            offset: u64_at(bytes, 8),
            hash: u64_at(bytes, 16),
        }
    }

    /// All extents of all heaps.
    pub(crate) fn extents_total(&self) -> usize {
        self.records().map(|record| record.extents).sum()
    }

    /// Groups that the file holds for this generation.
    pub(crate) fn groups_total(&self) -> u64 {
        ((self.bytes - self.hashes_at) / HASH_BYTES) as u64
    }

    /// Where a group lies in the file, and its checksum; `None` for one that is all zero.
    pub(crate) fn find(&self, record: &Record, group: u32) -> Option<(u64, Hash)> {
        let (mut low, mut high) = (record.first_extent, record.first_extent + record.extents);
        while low < high {
            let middle = usize::midpoint(low, high);
            let extent = self.extent(middle);
            if group < extent.group {
                high = middle;
            } else if group - extent.group >= extent.groups {
                low = middle + 1;
            } else {
                let further = u64::from(group - extent.group);
                return Some((
                    extent.offset + further * GROUP_BYTES as u64,
                    self.hash(extent.hash + further),
                ));
            }
        }
        None
    }

    fn hash(&self, number: u64) -> Hash {
        let at = self.hashes_at + number as usize * HASH_BYTES;
        let mut hash = [0; HASH_BYTES];
        hash.copy_from_slice(&self.buffer[at..at + HASH_BYTES]);
        hash
    }

    /// Every number is in bounds, in order, and fits to the others.
    fn checked(mut self, head: &Head) -> Result<Index, Error> {
        let damaged = |what| Error::Damaged { what, at: head.index_at };
        if self.bytes < START_BYTES || self.heaps() == 0 || self.heaps() > HEAPS_MAX {
            return Err(damaged("the number of heaps is impossible"));
        }
        let extents_at = START_BYTES + self.heaps() * RECORD_BYTES;
        if self.bytes < extents_at {
            return Err(damaged("the index is too short for its heaps"));
        }
        let most = (self.bytes - extents_at) / EXTENT_BYTES;
        let (mut extents, mut hashes) = (0, 0);
        for number in 0..self.heaps() {
            let record = self.record(number);
            if record.first_extent != extents || record.extents > most - extents {
                return Err(damaged("a heap's extents are out of order"));
            }
            self.check_record(number, &record).map_err(damaged)?;
            extents += record.extents;
            let mut next_group = 0;
            for extent in self.extents(&record) {
                check_extent(&extent, next_group, hashes, &record, head).map_err(damaged)?;
                next_group = extent.group + extent.groups;
                hashes += u64::from(extent.groups);
            }
        }
        self.hashes_at = extents_at + extents * EXTENT_BYTES;
        if (self.bytes - self.hashes_at) as u64 != hashes * HASH_BYTES as u64 {
            return Err(damaged("the number of checksums does not fit to the extents"));
        }
        Ok(self)
    }

    fn check_record(&self, number: usize, record: &Record) -> Result<(), &'static str> {
        let bytes = &self.buffer[START_BYTES + number * RECORD_BYTES..][..RECORD_BYTES];
        if u32_at(bytes, 84) != LAYOUT_VERSION {
            return Err("a heap has another layout version");
        }
        if check_name(record.name_text().as_bytes(), NAME_BYTES_MAX).is_err() {
            return Err("a heap's name is impossible");
        }
        if record.base == 0 || check_range(record.range_bytes, record.base).is_err() {
            return Err("a heap's range is impossible");
        }
        if u64_at(bytes, 88) > u64::from(data_of(record.range_bytes).0) {
            return Err("a heap is larger than its range");
        }
        for other in (0..number).map(|other| self.record(other)) {
            let is_apart = record.base + record.range_bytes <= other.base
                || other.base + other.range_bytes <= record.base;
            if !is_apart || record.name_text() == other.name_text() {
                return Err("two heaps have one name, or ranges that overlap");
            }
        }
        Ok(())
    }
}

fn check_extent(
    extent: &Extent,
    next_group: u32,
    hashes: u64,
    record: &Record,
    head: &Head,
) -> Result<(), &'static str> {
    let groups = (record.range_bytes / GROUP_BYTES) as u32;
    let data = (data_of(record.range_bytes).1 / GROUP_BYTES) as u32;
    let end = extent.group.checked_add(extent.groups).filter(|end| *end <= groups);
    let file_end = extent.offset.checked_add(u64::from(extent.groups) * GROUP_BYTES as u64);
    if extent.groups == 0 || extent.group < next_group || end.is_none() || end > Some(data + record.top) {
        return Err("an extent's groups are impossible");
    }
    if extent.offset < BODY_AT
        || !extent.offset.is_multiple_of(PAGE_BYTES as u64)
        || file_end.is_none_or(|end| end > head.file_bytes)
    {
        return Err("an extent's place in the file is impossible");
    }
    if extent.hash != hashes {
        return Err("an extent's checksums are out of order");
    }
    Ok(())
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Index({} heaps, {} extents)", self.heaps(), self.extents_total())
    }
}

/// An index that is being made.
pub(crate) struct Builder {
    records: Bytes,
    extents: Bytes,
    hashes: Bytes,
    heap_first: usize,
    last: Option<Extent>,
}

impl Builder {
    /// For so many heaps with so many groups together.
    pub(crate) fn new(heaps: usize, groups: usize) -> Result<Builder, Error> {
        Ok(Builder {
            records: Bytes::new(heaps * RECORD_BYTES)?,
            extents: Bytes::new(groups * EXTENT_BYTES)?,
            hashes: Bytes::new(groups * HASH_BYTES)?,
            heap_first: 0,
            last: None,
        })
    }

    /// The next group of the heap at hand; groups come in order.
    pub(crate) fn group(&mut self, group: u32, offset: u64, hash: &Hash) {
        let follows = |last: &Extent| {
            last.group + last.groups == group
                && last.offset + u64::from(last.groups) * GROUP_BYTES as u64 == offset
        };
        match &mut self.last {
            Some(last) if follows(last) => last.groups += 1,
            _ => {
                self.flush();
                let number = (self.hashes.len / HASH_BYTES) as u64;
                self.last = Some(Extent { group, groups: 1, offset, hash: number });
            }
        }
        self.hashes.push(hash);
    }

    fn flush(&mut self) {
        if let Some(last) = self.last.take() {
            self.extents.push(&last.group.to_le_bytes());
            self.extents.push(&last.groups.to_le_bytes());
            self.extents.push(&last.offset.to_le_bytes());
            self.extents.push(&last.hash.to_le_bytes());
        }
    }

    /// All groups of the heap at hand have come.
    pub(crate) fn heap(
        &mut self,
        name: &[u8; NAME_BYTES_MAX + 1],
        base: usize,
        range_bytes: usize,
        flags: u32,
        top: u32,
    ) {
        self.flush();
        let first = self.heap_first;
        let end = self.extents.len / EXTENT_BYTES;
        self.heap_first = end;
        self.records.push(name);
        self.records.push(&(base as u64).to_le_bytes());
        self.records.push(&(range_bytes as u64).to_le_bytes());
        self.records.push(&flags.to_le_bytes());
        self.records.push(&LAYOUT_VERSION.to_le_bytes());
        self.records.push(&u64::from(top).to_le_bytes());
        self.records.push(&(first as u64).to_le_bytes());
        self.records.push(&((end - first) as u64).to_le_bytes());
        self.records.push(&[0; 16]);
    }

    /// The whole as it is in the file.
    pub(crate) fn finish(&self) -> Result<(Buffer, usize), Error> {
        let parts = [&self.records, &self.extents, &self.hashes];
        let bytes = START_BYTES + parts.iter().map(|part| part.len).sum::<usize>();
        let mut all = Bytes::new(bytes)?;
        all.push(&((self.records.len / RECORD_BYTES) as u32).to_le_bytes());
        all.push(&[0; 4]);
        parts.iter().for_each(|part| all.push(&part.buffer[..part.len]));
        Ok((all.buffer, bytes))
    }
}

/// Bytes that grow up to a bound.
struct Bytes {
    buffer: Buffer,
    len: usize,
}

impl Bytes {
    fn new(bytes_max: usize) -> Result<Bytes, Error> {
        Ok(Bytes { buffer: Buffer::new(bytes_max)?, len: 0 })
    }

    fn push(&mut self, bytes: &[u8]) {
        self.buffer[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}
