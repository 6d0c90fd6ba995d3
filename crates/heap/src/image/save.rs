//! Saving: the heaps' groups that the image does not have yet, an index, a new head.
//!
//! No other thread may use the heaps meanwhile: that is for the caller to see to, since only he knows what belongs together. Locks of the
//! allocator are held, so a thread that does allocate slowly waits, but most calls take no lock. Each group is copied before it is checked and
//! written, so that an image's checksums always hold.
//!
//! Nothing here allocates: the heap that is saved may be the program's own.

use super::format::GROUP_BYTES;
use super::index::{Builder, HEAPS_MAX};
use super::pagemap::{PageMap, Pages};
use super::target::Target;
use crate::core::Core;
use crate::error::Error;
use crate::heap::Heap;
use crate::layout::*;
use crate::registry;

/// How heaps are to be saved.
#[derive(Clone, Copy, Debug, Default)]
pub struct Saving {
    /// Write a new file although the image at the path could be added to.
    pub whole: bool,
    /// Save a debugged heap although blocks hold addresses of loaded modules.
    pub code_pointers: bool,
}

/// What a save did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The image's generation: one more with each save that changed anything.
    pub generation: u64,
    /// The file's size.
    pub bytes: u64,
    /// What was written of the heaps.
    pub written_bytes: u64,
    /// What the image holds of them.
    pub held_bytes: u64,
}

/// Saves heaps together: pointers from one to another hold. Adds to the image at `path` where there is one and that is worth while; else
/// makes a new file and puts it in its place. The image is whole at every instant: the old one, or the new one.
///
/// No other thread may use the heaps meanwhile.
pub fn save(path: &std::path::Path, heaps: &[Heap]) -> Result<Saved, Error> {
    save_with(path, heaps, Saving::default())
}

/// As [`save`], with options.
pub fn save_with(path: &std::path::Path, heaps: &[Heap], saving: Saving) -> Result<Saved, Error> {
    if heaps.is_empty() || heaps.len() > HEAPS_MAX {
        return Err(Error::TooManyForImage);
    }
    if heaps.iter().any(|heap| heap.0.flags.get() & FLAG_PRIVATE != 0) {
        return Err(Error::Private);
    }
    for heap in heaps.iter().filter(|heap| heap.0.is_debug() && !saving.code_pointers) {
        heap.check()?;
        heap.check_code_pointers()?;
    }
    let mut target = Target::open(path, saving.whole)?;
    let _registry = registry::hold();
    let set = Set::hold(heaps);
    let groups = set.each().map(groups_of).sum();
    let mut builder = Builder::new(HEAPS_MAX, groups)?;
    let mut held_bytes = 0;
    let mut result = Ok(());
    set.each().for_each(|core| {
        if result.is_ok() {
            result = save_heap(core, &mut target, &mut builder).map(|bytes| held_bytes += bytes);
        }
    });
    result?;
    let (index, index_bytes) = builder.finish()?;
    let written_bytes = target.written_groups * GROUP_BYTES as u64;
    let (id, generation, bytes) = target.commit(&index[..index_bytes])?;
    set.each().for_each(|core| core.process.origin.set(Origin { id, generation }));
    Ok(Saved { generation, bytes, written_bytes, held_bytes })
}

/// Heaps whose locks are held, in the order of the registry, as a fork takes them.
struct Set<'a> {
    heaps: &'a [Heap],
}

impl<'a> Set<'a> {
    fn hold(heaps: &'a [Heap]) -> Set<'a> {
        let set = Set { heaps };
        set.each().for_each(|core| locks(core).iter().for_each(|lock| lock.take()));
        set
    }

    /// Each heap once.
    fn each(&self) -> impl Iterator<Item = Core> + '_ {
        let is_first = |index: &usize| self.heaps[..*index].iter().all(|other| *other != self.heaps[*index]);
        let mut next = None;
        std::iter::from_fn(move || {
            let number = |heap: &Heap| heap.0.process.index.load(std::sync::atomic::Ordering::Relaxed);
            let indices = (0..self.heaps.len()).filter(is_first);
            let following = indices.map(|index| self.heaps[index]).filter(|heap| Some(number(heap)) >= next);
            let heap = following.min_by_key(number)?;
            next = Some(number(&heap) + 1);
            Some(heap.0)
        })
    }
}

impl Drop for Set<'_> {
    fn drop(&mut self) {
        self.each().for_each(|core| locks(core).iter().for_each(|lock| lock.release()));
    }
}

fn locks<'a>(core: Core) -> [&'a crate::lock::Lock; 4] {
    let process = &core.header().process;
    [&process.roots, &process.shared, &process.slots, &process.pages]
}

/// The groups that a heap can have at most.
fn groups_of(core: Core) -> usize {
    core.top() as usize + metadata_groups(core).len()
}

/// The groups of header, slots and entries that are in use.
fn metadata_groups(core: Core) -> impl ExactSizeIterator<Item = usize> {
    let slots = core.slots_used.load(std::sync::atomic::Ordering::Relaxed) as usize * SLOT_BYTES;
    let slots = slots.div_ceil(GROUP_BYTES);
    let spans = (core.top() as usize * SPAN_BYTES).div_ceil(GROUP_BYTES);
    let before_spans = 1 + slots;
    (0..before_spans + spans).map(move |number| {
        if number < before_spans { number } else { number - before_spans + SPANS_AT / GROUP_BYTES }
    })
}

/// Writes what is new of a heap; gives how much the image holds of it.
fn save_heap(core: Core, target: &mut Target, builder: &mut Builder) -> Result<u64, Error> {
    let record = target.old.as_ref().and_then(|old| {
        let is_it = |record: &super::index::Record| {
            record.base == core.address() && record.range_bytes == core.range_bytes.get()
        };
        old.index.records().find(is_it)
    });
    let (id, generation) = target.identity();
    let origin = core.process.origin.get();
    let has_origin = record.is_some() && generation != 0 && origin == Origin { id, generation };
    let mut saver = Saver { core, target, builder, record, has_origin, pages: PageMap::open(), held: 0 };
    metadata_groups(core).try_for_each(|group| saver.group(group))?;
    let first_data = (core.data.get() - core.address()) / GROUP_BYTES;
    let mut slice = 0;
    while slice < core.top() {
        let span = core.span(slice);
        let len = span.len.get().max(1);
        if span.state.get() != FREE {
            (slice..slice + len).try_for_each(|slice| saver.group(first_data + slice as usize))?;
        }
        slice += len;
    }
    let held = saver.held;
    builder.heap(&core.name.get(), core.address(), core.range_bytes.get(), core.flags.get(), core.top());
    Ok(held * GROUP_BYTES as u64)
}

struct Saver<'a> {
    core: Core,
    target: &'a mut Target,
    builder: &'a mut Builder,
    /// The heap in the image as it is.
    record: Option<super::index::Record>,
    /// The heap was loaded from, or last saved to, the image as it is: pages of the file that were not written are in it already.
    has_origin: bool,
    pages: PageMap,
    held: u64,
}

impl Saver<'_> {
    fn group(&mut self, group: usize) -> Result<(), Error> {
        let address = self.core.address() + group * GROUP_BYTES;
        let is_backed = !self.core.backed(address, GROUP_BYTES).is_empty();
        let old = match (&self.target.old, &self.record) {
            (Some(old), Some(record)) => old.index.find(record, group as u32),
            _ => None,
        };
        match self.pages.look(address) {
            Pages::Absent if !is_backed => return Ok(()),
            Pages::Absent | Pages::OfFile if is_backed && self.has_origin => {
                if let Some((offset, hash)) = old {
                    self.builder.group(group as u32, offset, &hash);
                    self.held += 1;
                }
                return Ok(());
            }
            _ => {}
        }
        let room = self.target.room();
        copy(address, room);
        if group == 0 {
            forget_process(room);
        }
        if room.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let hash = *blake3::hash(room).as_bytes();
        let offset = match old {
            Some((offset, old_hash)) if old_hash == hash => offset,
            _ => self.target.keep()?,
        };
        self.builder.group(group as u32, offset, &hash);
        self.held += 1;
        Ok(())
    }
}

fn copy(address: usize, to: &mut [u8]) {
    // SAFETY: the address is that of a group of a mapped heap, whose users keep still; the copy is ours.
    unsafe { std::ptr::copy_nonoverlapping(address as *const u8, to.as_mut_ptr(), to.len()) };
}

/// What a header says of this process means nothing in an image, and would make two saves of the same heap differ.
fn forget_process(header: &mut [u8]) {
    let at = std::mem::offset_of!(Header, process);
    header[at..at + size_of::<Process>()].fill(0);
    let at = std::mem::offset_of!(Header, slots_orphaned);
    header[at..at + 4].fill(0);
}
