//! Saving: the heaps' groups that the image does not have yet, an index, a new head.
//!
//! No other thread may use the heaps meanwhile: that is for the caller to see to, since only he knows what belongs together. Locks of the
//! allocator are held, so a thread that does allocate slowly waits, but most calls take no lock. So what the allocator itself keeps is looked at
//! once more when all is read: a save during which another thread allocated or freed is none. Each group is copied before it is checked and
//! written, so that an image's checksums always hold.
//!
//! Nothing here allocates: the heap that is saved may be the program's own.

use super::format::GROUP_BYTES;
use super::index::{Builder, HEAPS_MAX};
use super::pagemap::{PageMap, Pages};
use super::remap::Runs;
use super::target::Target;
use crate::core::Core;
use crate::error::{Error, Label};
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
    /// Map what was read from the image afterwards, copy-on-write, as a load does. Then the next save reads only what was written since, where else
    /// it reads all that this process ever wrote. For who saves again and again; the file must stay as it is, as for a load, and what another
    /// thread writes to the heaps meanwhile is lost.
    pub mapped: bool,
}

/// What a save did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The image's generation: one more with each save that changed anything.
    pub generation: u64,
    /// The file's size.
    pub bytes: u64,
    /// What was read of the heaps.
    pub read_bytes: u64,
    /// What was written of the heaps.
    pub written_bytes: u64,
    /// What the image holds of them.
    pub held_bytes: u64,
    /// What was mapped, if that was asked for: less than was read where the kernel maps no more.
    pub mapped_bytes: u64,
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
    let mut runs = Runs::new(saving.mapped.then_some(groups))?;
    let mut seen = [[0; 32]; HEAPS_MAX];
    let (mut held_bytes, mut read_bytes) = (0, 0);
    for (core, seen) in set.each().zip(&mut seen) {
        let mut saver = Saver::new(core, &mut target, &mut builder, &mut runs);
        *seen = saver.heap()?;
        held_bytes += saver.held * GROUP_BYTES as u64;
        read_bytes += saver.read * GROUP_BYTES as u64;
    }
    for (core, seen) in set.each().zip(&seen) {
        if Saver::new(core, &mut target, &mut builder, &mut runs).metadata_now() != *seen {
            return Err(Error::InUse(Label::new(core.name_text().as_bytes())));
        }
    }
    let (index, index_bytes) = builder.finish()?;
    let written_bytes = target.written_groups * GROUP_BYTES as u64;
    let (id, generation, bytes) = target.commit(&index[..index_bytes])?;
    let mut mapped_bytes = 0;
    for (core, seen) in set.each().zip(&seen).filter(|_| saving.mapped) {
        // Making an image durable takes its time: what another thread has allocated meanwhile must not go.
        if Saver::new(core, &mut target, &mut builder, &mut runs).metadata_now() == *seen {
            mapped_bytes += runs.map(core, target.file());
        }
    }
    set.each().for_each(|core| core.process.origin.set(Origin { id, generation }));
    Ok(Saved { generation, bytes, read_bytes, written_bytes, held_bytes, mapped_bytes })
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

struct Saver<'a> {
    core: Core,
    target: &'a mut Target,
    builder: &'a mut Builder,
    runs: &'a mut Runs,
    /// The heap in the image as it is.
    record: Option<super::index::Record>,
    /// The heap was loaded from, or last saved to, the image as it is: pages of the file that were not written are in it already.
    has_origin: bool,
    pages: PageMap,
    held: u64,
    read: u64,
}

/// What is to be done with a group.
enum Found {
    /// The file has it as it is, or it is zero and the file has none.
    Old,
    /// It was never touched.
    Absent,
    /// It was read, and is all zero.
    Zero,
    /// It was read: its checksum. Its bytes are in the target's room.
    Read([u8; 32]),
}

impl<'a> Saver<'a> {
    fn new(core: Core, target: &'a mut Target, builder: &'a mut Builder, runs: &'a mut Runs) -> Saver<'a> {
        let record = target.old.as_ref().and_then(|old| {
            let is_it = |record: &super::index::Record| {
                record.base == core.address() && record.range_bytes == core.range_bytes.get()
            };
            old.index.records().find(is_it)
        });
        let (id, generation) = target.identity();
        let has_origin =
            record.is_some() && generation != 0 && core.process.origin.get() == Origin { id, generation };
        Saver { core, target, builder, runs, record, has_origin, pages: PageMap::open(), held: 0, read: 0 }
    }

    /// Writes what is new of the heap; gives a checksum of what the allocator keeps.
    fn heap(&mut self) -> Result<[u8; 32], Error> {
        let core = self.core;
        let mut seen = blake3::Hasher::new();
        for group in metadata_groups(core) {
            let found = self.read(group);
            seen.update(&mark(&found));
            self.keep(group, &found)?;
        }
        let first_data = (core.data.get() - core.address()) / GROUP_BYTES;
        let mut slice = 0;
        while slice < core.top() {
            let span = core.span(slice);
            let len = span.len.get().max(1);
            if span.state.get() != FREE {
                for group in (slice..slice + len).map(|slice| first_data + slice as usize) {
                    let found = self.read(group);
                    let offset = self.keep(group, &found)?;
                    if matches!(found, Found::Zero | Found::Read(_)) {
                        self.runs.group(core.address(), group as u32, offset);
                    }
                }
            }
            slice += len;
        }
        self.builder.heap(
            &core.name.get(),
            core.address(),
            core.range_bytes.get(),
            core.flags.get(),
            core.top(),
        );
        Ok(*seen.finalize().as_bytes())
    }

    /// The same checksum, of now.
    fn metadata_now(&mut self) -> [u8; 32] {
        let mut seen = blake3::Hasher::new();
        metadata_groups(self.core).for_each(|group| {
            seen.update(&mark(&self.read(group)));
        });
        *seen.finalize().as_bytes()
    }

    /// Whether a group has to be written, and its bytes. Pages that nobody has touched, or that are still the
    /// file's, are told without being read.
    fn read(&mut self, group: usize) -> Found {
        let address = self.core.address() + group * GROUP_BYTES;
        let is_backed = !self.core.backed(address, GROUP_BYTES).is_empty();
        match self.pages.look(address) {
            Pages::Absent if !is_backed => return Found::Absent,
            Pages::Absent | Pages::OfFile if is_backed && self.has_origin => return Found::Old,
            _ => {}
        }
        let room = self.target.room();
        copy(address, room);
        self.read += 1;
        if group == 0 {
            forget_process(room);
        }
        if room.iter().all(|byte| *byte == 0) {
            return Found::Zero;
        }
        Found::Read(*blake3::hash(room).as_bytes())
    }

    /// Enters a group into the index, and what was read into the file if that does not have it. Gives its place in the file.
    fn keep(&mut self, group: usize, found: &Found) -> Result<Option<u64>, Error> {
        let old = match (&self.target.old, &self.record) {
            (Some(old), Some(record)) => old.index.find(record, group as u32),
            _ => None,
        };
        let (offset, hash) = match (found, old) {
            (Found::Absent | Found::Zero, _) | (Found::Old, None) => return Ok(None),
            (Found::Old, Some(old)) => old,
            (Found::Read(hash), Some((offset, old))) if old == *hash => (offset, old),
            (Found::Read(hash), _) => (self.target.keep()?, *hash),
        };
        self.builder.group(group as u32, offset, &hash);
        self.held += 1;
        Ok(Some(offset))
    }
}

/// What a group adds to the checksum of what the allocator keeps.
fn mark(found: &Found) -> [u8; 32] {
    match found {
        Found::Old => [1; 32],
        Found::Absent | Found::Zero => [0; 32],
        Found::Read(hash) => *hash,
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
