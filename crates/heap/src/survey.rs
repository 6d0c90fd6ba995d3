//! Walks over all runs of a heap, in this process or in an image, and believes nothing: whatever cannot be is an error that says where.

use std::mem::offset_of;

use crate::class::{block_bytes, span_blocks, span_slices};
use crate::error::Error;
use crate::image::{u32_at, u64_at};
use crate::layout::*;

/// The most blocks that a span has, in words of bits.
const MARK_WORDS: usize = SLICE_BYTES / 16 / 64;

/// Where a heap's bytes come from.
pub(crate) trait Source {
    /// Fills `into` with what lies at an address of the heap.
    fn read(&self, address: usize, into: &mut [u8]) -> Result<(), Error>;
}

/// The numbers by which a heap is found in its range.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) base: usize,
    pub(crate) range_bytes: usize,
    pub(crate) top: u32,
    pub(crate) slots: u32,
}

/// One run of slices.
pub(crate) enum Run<'a> {
    Free { address: usize, bytes: usize },
    Span { address: usize, bytes: usize, block_bytes: usize, marks: &'a Marks },
    Large { address: usize, bytes: usize, asked: usize, is_region: bool },
}

/// Which blocks of a span are live.
pub(crate) struct Marks {
    bits: [u64; MARK_WORDS],
    carved: usize,
    free: usize,
}

impl Marks {
    pub(crate) fn live(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.carved).filter(|index| !self.is_free(*index))
    }

    pub(crate) fn live_count(&self) -> usize {
        self.carved - self.free
    }

    fn is_free(&self, index: usize) -> bool {
        self.bits[index / 64] & 1 << (index % 64) != 0
    }
}

/// An entry as it is in memory.
struct Entry {
    free: u64,
    remote: u64,
    owner: u32,
    back: u32,
    len: u32,
    block_bytes: u32,
    used: usize,
    carved: usize,
    state: u8,
    class: usize,
}

impl Entry {
    fn read(source: &dyn Source, extent: &Extent, slice: u32) -> Result<Entry, Error> {
        let mut bytes = [0; SPAN_BYTES];
        source.read(extent.base + SPANS_AT + slice as usize * SPAN_BYTES, &mut bytes)?;
        let u16_at = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        Ok(Entry {
            free: u64_at(&bytes, offset_of!(Span, free)),
            remote: u64_at(&bytes, offset_of!(Span, remote)),
            owner: u32_at(&bytes, offset_of!(Span, owner)),
            back: u32_at(&bytes, offset_of!(Span, back)),
            len: u32_at(&bytes, offset_of!(Span, len)),
            block_bytes: u32_at(&bytes, offset_of!(Span, block_bytes)),
            used: u16_at(offset_of!(Span, used)),
            carved: u16_at(offset_of!(Span, carved)),
            state: bytes[offset_of!(Span, state)],
            class: usize::from(bytes[offset_of!(Span, class)]),
        })
    }
}

/// Calls `visit` for each run from slice `first` on, which begins one, in order of addresses, until it says `false`.
pub(crate) fn survey(
    source: &dyn Source,
    extent: &Extent,
    first: u32,
    visit: &mut dyn FnMut(&Run<'_>) -> Result<bool, Error>,
) -> Result<(), Error> {
    let data = extent.base + data_of(extent.range_bytes).1;
    let mut marks = Marks { bits: [0; MARK_WORDS], carved: 0, free: 0 };
    let (mut slice, mut was_free) = (first, false);
    while slice < extent.top {
        let entry = Entry::read(source, extent, slice)?;
        let address = data + ((slice as usize) << SLICE_SHIFT);
        let damaged = |what| Error::Damaged { what, at: address as u64 };
        if entry.len == 0 || entry.len > extent.top - slice || entry.back != 0 {
            return Err(damaged("a run of slices has an impossible length"));
        }
        let bytes = (entry.len as usize) << SLICE_SHIFT;
        let goes_on = match entry.state {
            FREE if was_free => return Err(damaged("two free runs are not joined")),
            FREE => visit(&Run::Free { address, bytes })?,
            SMALL => {
                check_span(source, extent, &entry, slice).map_err(damaged)?;
                mark(source, &entry, address, &mut marks)?;
                visit(&Run::Span { address, bytes, block_bytes: block_bytes(entry.class), marks: &marks })?
            }
            LARGE | REGION => {
                let asked = usize::try_from(entry.free).unwrap_or(usize::MAX);
                if asked > bytes || entry.owner != 0 {
                    return Err(damaged("a large block has an impossible size"));
                }
                visit(&Run::Large { address, bytes, asked, is_region: entry.state == REGION })?
            }
            _ => return Err(damaged("a run of slices is of no known kind")),
        };
        if !goes_on {
            break;
        }
        was_free = entry.state == FREE;
        slice += entry.len;
    }
    Ok(())
}

fn check_span(source: &dyn Source, extent: &Extent, entry: &Entry, slice: u32) -> Result<(), &'static str> {
    if entry.class >= CLASSES
        || entry.block_bytes as usize != block_bytes(entry.class)
        || entry.len != span_slices(entry.class)
        || entry.carved > usize::from(span_blocks(entry.class))
    {
        return Err("a span does not fit to its size class");
    }
    if entry.owner == 0 || entry.owner > extent.slots {
        return Err("a span belongs to a slot that was never used");
    }
    for back in 1..entry.len {
        let part =
            Entry::read(source, extent, slice + back).map_err(|_| "a span's entries cannot be read")?;
        if part.state != SMALL_PART || part.back != back {
            return Err("a span's slices do not lead to it");
        }
    }
    Ok(())
}

/// Follows both lists of free blocks.
fn mark(source: &dyn Source, entry: &Entry, address: usize, marks: &mut Marks) -> Result<(), Error> {
    *marks = Marks { bits: [0; MARK_WORDS], carved: entry.carved, free: 0 };
    let own = follow(source, entry, address, entry.free, marks)?;
    let remote = follow(source, entry, address, entry.remote & !(REMOTE_BITS as u64), marks)?;
    if entry.used + own != entry.carved || remote > entry.used {
        return Err(Error::Damaged { what: "a span counts its blocks wrongly", at: address as u64 });
    }
    Ok(())
}

fn follow(
    source: &dyn Source,
    entry: &Entry,
    address: usize,
    first: u64,
    marks: &mut Marks,
) -> Result<usize, Error> {
    let (size, mut next, mut count) = (block_bytes(entry.class), first, 0);
    while next != 0 {
        let offset = (next as usize).wrapping_sub(address);
        let index = offset / size;
        if index >= entry.carved || !offset.is_multiple_of(size) || marks.is_free(index) {
            return Err(Error::Damaged { what: "a list of free blocks leads astray", at: address as u64 });
        }
        marks.bits[index / 64] |= 1 << (index % 64);
        marks.free += 1;
        count += 1;
        let mut link = [0; 8];
        source.read(next as usize, &mut link)?;
        next = u64::from_le_bytes(link);
    }
    Ok(count)
}
