//! An image as a file, without bringing it up: what is in it, whether it is whole, and how two differ.
//!
//! This reads bytes that anybody may have made: nothing is followed before it was checked.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::mem::offset_of;

use super::format::{self, GROUP_BYTES, Opened, u32_at, u64_at};
use super::index::Record;
use crate::error::Error;
use crate::layout::*;
use crate::survey::{Extent, Run, Source, survey};
use crate::system::{File, Path};

/// Groups of a heap that are kept for the next look.
const CACHED_GROUPS: usize = 32;

/// An image file: its index is verified, its groups are when they are read.
#[derive(Debug)]
pub struct Image {
    file: File,
    opened: Opened,
    bytes: u64,
}

/// One heap of an image.
#[derive(Clone, Debug)]
pub struct ImageHeap {
    pub name: String,
    pub base: usize,
    pub range_bytes: usize,
    pub is_debug: bool,
    /// What the file holds of it.
    pub held_bytes: u64,
    pub roots: Vec<RootImage>,
    number: usize,
}

/// A root in an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootImage {
    pub name: String,
    pub address: usize,
    pub bytes: usize,
    pub kind: u64,
}

/// What lies where in a heap, in order of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub address: usize,
    pub bytes: usize,
    pub holding: Holding,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    Free,
    /// Blocks of one size: how many are live, of how many that there is room for.
    Span {
        block_bytes: usize,
        live: usize,
        room: usize,
    },
    Large {
        asked: usize,
    },
    Region,
}

/// Live blocks: address and size.
pub type BlockList = Vec<(usize, usize)>;

/// What a verification looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    pub groups: u64,
    pub bytes: u64,
    pub blocks: u64,
    pub live_bytes: u64,
}

/// How a heap differs between two images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    pub name: String,
    /// In which of the two it is.
    pub is_in: (bool, bool),
    pub changed_groups: u64,
    pub allocated: (u64, u64),
    pub freed: (u64, u64),
    /// Blocks in both whose bytes differ, and their bytes.
    pub changed: (u64, u64),
    /// Names of roots that came, went, or lead elsewhere.
    pub roots: Vec<String>,
}

impl Image {
    /// Opens an image; preamble, head and index are verified.
    pub fn open(path: &std::path::Path) -> Result<Image, Error> {
        let read = |errno| Error::Read { errno };
        let file = File::open_for_reading(&Path::new(path).map_err(read)?).map_err(read)?;
        let opened = format::open(&file)?;
        let bytes = file.status().map_err(read)?.bytes;
        Ok(Image { file, opened, bytes })
    }

    pub fn id(&self) -> [u8; 16] {
        self.opened.preamble.id
    }

    pub fn generation(&self) -> u64 {
        self.opened.head.generation
    }

    /// CLOCK_REALTIME in nanoseconds.
    pub fn created_ns(&self) -> u64 {
        self.opened.preamble.created_ns
    }

    /// When this generation was saved.
    pub fn saved_ns(&self) -> u64 {
        self.opened.head.saved_ns
    }

    /// The file's size, and what of it belongs to earlier generations.
    pub fn bytes(&self) -> (u64, u64) {
        let live = self.opened.index.groups_total() * GROUP_BYTES as u64
            + self.opened.head.index_bytes
            + format::BODY_AT;
        (self.bytes, self.opened.head.file_bytes.saturating_sub(live))
    }

    /// Mappings that a load makes.
    pub fn extents(&self) -> usize {
        self.opened.index.extents_total()
    }

    /// All heaps with their roots; each one's header is verified.
    pub fn heaps(&self) -> Result<Vec<ImageHeap>, Error> {
        self.opened.index.records().enumerate().map(|(number, record)| self.heap(number, &record)).collect()
    }

    fn heap(&self, number: usize, record: &Record) -> Result<ImageHeap, Error> {
        let header = self.group(record, 0)?;
        check_header(&header, record)?;
        let held = self.opened.index.extents(record).map(|extent| u64::from(extent.groups)).sum::<u64>();
        Ok(ImageHeap {
            name: record.name_text().to_owned(),
            base: record.base,
            range_bytes: record.range_bytes,
            is_debug: record.flags & FLAG_DEBUG != 0,
            held_bytes: held * GROUP_BYTES as u64,
            roots: roots(&header),
            number,
        })
    }

    /// A group, verified.
    fn group(&self, record: &Record, group: u32) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; GROUP_BYTES];
        let Some((offset, hash)) = self.opened.index.find(record, group) else { return Ok(bytes) };
        let count = self.file.read_at(&mut bytes, offset).map_err(|errno| Error::Read { errno })?;
        if count < GROUP_BYTES || *blake3::hash(&bytes).as_bytes() != hash {
            return Err(Error::Damaged { what: "the checksum of a group does not match", at: offset });
        }
        Ok(bytes)
    }

    /// What lies where in a heap.
    pub fn pieces(&self, heap: &ImageHeap) -> Result<Vec<Piece>, Error> {
        let mut pieces = Vec::new();
        self.survey(heap, &mut |run, _| {
            pieces.push(match run {
                Run::Free { address, bytes } => {
                    Piece { address: *address, bytes: *bytes, holding: Holding::Free }
                }
                Run::Span { address, bytes, block_bytes, marks } => {
                    let holding = Holding::Span {
                        block_bytes: *block_bytes,
                        live: marks.live_count(),
                        room: bytes / block_bytes,
                    };
                    Piece { address: *address, bytes: *bytes, holding }
                }
                Run::Large { address, bytes, asked, is_region } => {
                    let holding = if *is_region { Holding::Region } else { Holding::Large { asked: *asked } };
                    Piece { address: *address, bytes: *bytes, holding }
                }
            });
            Ok(())
        })?;
        Ok(pieces)
    }

    /// All live blocks of a heap, in order of addresses; in debug mode as the program has them.
    pub fn blocks(&self, heap: &ImageHeap) -> Result<BlockList, Error> {
        let mut blocks = Vec::new();
        self.survey(heap, &mut |run, source| {
            match run {
                Run::Free { .. } => {}
                Run::Large { address, asked, is_region, .. } if *is_region || !heap.is_debug => {
                    blocks.push((*address, *asked));
                }
                Run::Large { address, .. } => blocks.push(inner(source, *address)?),
                Run::Span { address, block_bytes, marks, .. } => {
                    for index in marks.live() {
                        let block = address + index * block_bytes;
                        blocks.push(if heap.is_debug {
                            inner(source, block)?
                        } else {
                            (block, *block_bytes)
                        });
                    }
                }
            }
            Ok(())
        })?;
        Ok(blocks)
    }

    fn survey(
        &self,
        heap: &ImageHeap,
        visit: &mut dyn FnMut(&Run<'_>, &dyn Source) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let record = self.opened.index.record(heap.number);
        let header = self.group(&record, 0)?;
        let extent = Extent {
            base: record.base,
            range_bytes: record.range_bytes,
            top: record.top,
            slots: u32_at(&header, offset_of!(Header, slots_used)),
        };
        let source =
            InFile { image: self, record, cached: RefCell::new(vec![(u32::MAX, Vec::new()); CACHED_GROUPS]) };
        survey(&source, &extent, 0, &mut |run| visit(run, &source).map(|()| true))
    }

    /// Reads all of the image: every checksum, and every structure of every heap.
    pub fn verify(&self) -> Result<Verified, Error> {
        let mut verified = Verified::default();
        for heap in self.heaps()? {
            let record = self.opened.index.record(heap.number);
            for extent in self.opened.index.extents(&record) {
                for group in extent.group..extent.group + extent.groups {
                    self.group(&record, group)?;
                    verified.groups += 1;
                }
            }
            let blocks = self.blocks(&heap)?;
            for root in &heap.roots {
                if !lies_in_a_block(&blocks, root) {
                    return Err(Error::Damaged {
                        what: "a root leads to no live block",
                        at: root.address as u64,
                    });
                }
            }
            verified.blocks += blocks.len() as u64;
            verified.live_bytes += blocks.iter().map(|(_, bytes)| *bytes as u64).sum::<u64>();
        }
        verified.bytes = verified.groups * GROUP_BYTES as u64;
        Ok(verified)
    }

    /// How the heaps of this image differ from those of an earlier one.
    pub fn differences(&self, earlier: &Image) -> Result<Vec<Difference>, Error> {
        let (before, after) = (earlier.heaps()?, self.heaps()?);
        let by_name = |heaps: &[ImageHeap]| {
            heaps
                .iter()
                .map(|heap| ((heap.name.clone(), heap.base), heap.clone()))
                .collect::<BTreeMap<_, _>>()
        };
        let (before, after) = (by_name(&before), by_name(&after));
        let mut names: Vec<_> = before.keys().chain(after.keys()).cloned().collect();
        names.sort();
        names.dedup();
        let compare = |key: &(String, usize)| match (before.get(key), after.get(key)) {
            (Some(old), Some(new)) => self.difference(earlier, old, new),
            (old, new) => {
                let count = |blocks: BlockList| {
                    (blocks.len() as u64, blocks.iter().map(|block| block.1 as u64).sum())
                };
                Ok(Difference {
                    name: key.0.clone(),
                    is_in: (old.is_some(), new.is_some()),
                    freed: old.map(|heap| earlier.blocks(heap)).transpose()?.map(count).unwrap_or_default(),
                    allocated: new.map(|heap| self.blocks(heap)).transpose()?.map(count).unwrap_or_default(),
                    ..Difference::default()
                })
            }
        };
        names.iter().map(compare).collect()
    }

    fn difference(&self, earlier: &Image, old: &ImageHeap, new: &ImageHeap) -> Result<Difference, Error> {
        let mut difference =
            Difference { name: new.name.clone(), is_in: (true, true), ..Difference::default() };
        let changed = self.changed_groups(earlier, old, new);
        difference.changed_groups = changed.len() as u64;
        difference.roots = changed_roots(&old.roots, &new.roots);
        let (before, after) = (earlier.blocks(old)?, self.blocks(new)?);
        let (mut i, mut j) = (0, 0);
        let count = |place: &mut (u64, u64), bytes: usize| *place = (place.0 + 1, place.1 + bytes as u64);
        let sources = (earlier.source(old), self.source(new));
        while i < before.len() || j < after.len() {
            match (before.get(i), after.get(j)) {
                (Some(a), Some(b)) if a == b => {
                    if is_in_groups(&changed, new.base, *a) && !is_equal(&sources.0, &sources.1, *a)? {
                        count(&mut difference.changed, a.1);
                    }
                    (i, j) = (i + 1, j + 1);
                }
                (Some(a), b) if b.is_none_or(|b| a <= b) => {
                    count(&mut difference.freed, a.1);
                    i += 1;
                }
                (_, Some(b)) => {
                    count(&mut difference.allocated, b.1);
                    j += 1;
                }
                _ => break,
            }
        }
        Ok(difference)
    }

    fn source(&self, heap: &ImageHeap) -> InFile<'_> {
        let record = self.opened.index.record(heap.number);
        InFile { image: self, record, cached: RefCell::new(vec![(u32::MAX, Vec::new()); CACHED_GROUPS]) }
    }

    /// The groups whose checksums differ, sorted.
    fn changed_groups(&self, earlier: &Image, old: &ImageHeap, new: &ImageHeap) -> Vec<u32> {
        let records = (earlier.opened.index.record(old.number), self.opened.index.record(new.number));
        let groups = |image: &Image, record: &Record| {
            image
                .opened
                .index
                .extents(record)
                .flat_map(|extent| extent.group..extent.group + extent.groups)
                .collect::<Vec<_>>()
        };
        let mut all = groups(earlier, &records.0);
        all.extend(groups(self, &records.1));
        all.sort_unstable();
        all.dedup();
        let hash = |image: &Image, record: &Record, group| {
            image.opened.index.find(record, group).map(|found| found.1)
        };
        all.retain(|group| hash(earlier, &records.0, *group) != hash(self, &records.1, *group));
        all
    }
}

/// A heap's bytes in the file.
struct InFile<'a> {
    image: &'a Image,
    record: Record,
    cached: RefCell<Vec<(u32, Vec<u8>)>>,
}

impl Source for InFile<'_> {
    fn read(&self, address: usize, into: &mut [u8]) -> Result<(), Error> {
        let mut cached = self.cached.borrow_mut();
        let (mut address, mut into) = (address, into);
        while !into.is_empty() {
            let offset = address.wrapping_sub(self.record.base);
            if offset >= self.record.range_bytes {
                return Err(Error::Damaged {
                    what: "an address lies outside of its heap",
                    at: address as u64,
                });
            }
            let group = (offset / GROUP_BYTES) as u32;
            let place = &mut cached[group as usize % CACHED_GROUPS];
            if place.0 != group {
                *place = (group, self.image.group(&self.record, group)?);
            }
            let within = offset % GROUP_BYTES;
            let count = into.len().min(GROUP_BYTES - within);
            into[..count].copy_from_slice(&place.1[within..within + count]);
            into = &mut into[count..];
            address += count;
        }
        Ok(())
    }
}

/// The block of a debugged heap as the program has it.
fn inner(source: &dyn Source, block: usize) -> Result<(usize, usize), Error> {
    let mut head = [0; 32];
    source.read(block, &mut head)?;
    let (tag, bytes, offset) = (u64_at(&head, 8), u64_at(&head, 16), u64_at(&head, 24));
    if tag != crate::debug::LIVE_TAG ^ block as u64
        || offset > RANGE_BYTES_MAX as u64
        || bytes > RANGE_BYTES_MAX as u64
    {
        return Err(Error::Damaged { what: "a live block has no head", at: block as u64 });
    }
    Ok((block + offset as usize, bytes as usize))
}

fn lies_in_a_block(blocks: &BlockList, root: &RootImage) -> bool {
    let after = blocks.partition_point(|block| block.0 <= root.address);
    let block = after.checked_sub(1).map(|index| blocks[index]);
    block.is_some_and(|(address, bytes)| {
        root.address - address <= bytes && root.bytes <= bytes - (root.address - address)
    })
}

fn is_in_groups(groups: &[u32], base: usize, block: (usize, usize)) -> bool {
    let first = ((block.0 - base) / GROUP_BYTES) as u32;
    let last = ((block.0 + block.1.max(1) - 1 - base) / GROUP_BYTES) as u32;
    let at = groups.partition_point(|group| *group < first);
    groups.get(at).is_some_and(|group| *group <= last)
}

fn is_equal(one: &dyn Source, other: &dyn Source, block: (usize, usize)) -> Result<bool, Error> {
    let (mut a, mut b) = ([0; 4096], [0; 4096]);
    for offset in (0..block.1).step_by(4096) {
        let count = (block.1 - offset).min(4096);
        one.read(block.0 + offset, &mut a[..count])?;
        other.read(block.0 + offset, &mut b[..count])?;
        if a[..count] != b[..count] {
            return Ok(false);
        }
    }
    Ok(true)
}

fn changed_roots(old: &[RootImage], new: &[RootImage]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (roots, others) in [(old, new), (new, old)] {
        names.extend(roots.iter().filter(|root| !others.contains(root)).map(|root| root.name.clone()));
    }
    names.sort();
    names.dedup();
    names
}

fn roots(header: &[u8]) -> Vec<RootImage> {
    let root = |number: usize| {
        let bytes = &header[offset_of!(Header, roots) + number * size_of::<Root>()..][..size_of::<Root>()];
        let at = |field: usize| u64_at(bytes, field);
        let name = &bytes[offset_of!(Root, name)..][..ROOT_NAME_BYTES_MAX + 1];
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        RootImage {
            name: name[..end]
                .iter()
                .map(|byte| if byte.is_ascii_graphic() { *byte as char } else { '?' })
                .collect(),
            address: at(offset_of!(Root, address)) as usize,
            bytes: at(offset_of!(Root, bytes)) as usize,
            kind: at(offset_of!(Root, kind)),
        }
    };
    (0..ROOTS_MAX).map(root).filter(|root| root.address != 0).collect()
}

/// A heap's header says what the index says of the heap.
pub(crate) fn check_header(header: &[u8], record: &Record) -> Result<(), Error> {
    let u64_of = |at: usize| u64_at(header, at);
    let (slices, data_at) = data_of(record.range_bytes);
    let numbers = [
        (u64_of(offset_of!(Header, magic)), HEADER_MAGIC),
        (u32_at(header, offset_of!(Header, layout_version)).into(), LAYOUT_VERSION.into()),
        (u32_at(header, offset_of!(Header, flags)).into(), record.flags.into()),
        (u64_of(offset_of!(Header, base)), record.base as u64),
        (u64_of(offset_of!(Header, range_bytes)), record.range_bytes as u64),
        (u64_of(offset_of!(Header, data)), (record.base + data_at) as u64),
        (u32_at(header, offset_of!(Header, slices_max)).into(), slices.into()),
        (u32_at(header, offset_of!(Header, top)).into(), record.top.into()),
    ];
    let slots = u32_at(header, offset_of!(Header, slots_used));
    let name = &header[offset_of!(Header, name)..][..NAME_BYTES_MAX + 1];
    let is_so = numbers.iter().all(|(found, wanted)| found == wanted)
        && name == record.name
        && record.flags & !FLAG_DEBUG == 0
        && (1..=SLOTS_MAX as u32).contains(&slots);
    if is_so {
        return Ok(());
    }
    Err(Error::Damaged { what: "a heap's header does not say what the index says", at: record.base as u64 })
}
