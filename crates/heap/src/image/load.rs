//! Loading: the ranges are reserved and the file's extents mapped into them, copy-on-write. The time is that of some system calls for each extent and
//! of the index's checksum, whatever the heaps hold.
//!
//! Verified are the preamble, the head, the index and each heap's header. The rest of the heaps is read when the program touches it; [`Image::verify`]
//! reads all. An image is trusted as the program itself is: who may write it may make its reader do anything.
//!
//! [`Image::verify`]: super::Image::verify

use std::sync::atomic::Ordering::Relaxed;

use super::format::{self, GROUP_BYTES, Opened};
use super::index::{Extent, HEAPS_MAX, Record};
use crate::core::Core;
use crate::error::{Error, Label};
use crate::heap::Heap;
use crate::layout::*;
use crate::registry;
use crate::system::{self, Buffer, File, Path};

/// The heaps that came out of an image.
#[derive(Debug)]
pub struct Loaded {
    heaps: [Option<Heap>; HEAPS_MAX],
    count: usize,
}

impl Loaded {
    pub fn iter(&self) -> impl Iterator<Item = Heap> + '_ {
        self.heaps[..self.count].iter().flatten().copied()
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// Brings up all heaps of an image, or none. Their pages are read as they are touched; what is written to them stays in this process until
/// they are saved. The file must not be written by other means than a save, which never changes what is mapped.
pub fn load(path: &std::path::Path) -> Result<Loaded, Error> {
    let read = |errno| Error::Read { errno };
    let file = File::open_for_reading(&Path::new(path).map_err(read)?).map_err(read)?;
    let opened = format::open(&file)?;
    let _registry = registry::hold();
    let mut loaded = Loaded { heaps: [None; HEAPS_MAX], count: 0 };
    for record in opened.index.records() {
        match load_heap(&file, &opened, &record) {
            Ok(core) => {
                loaded.heaps[loaded.count] = Some(Heap(core));
                loaded.count += 1;
            }
            Err(error) => {
                // SAFETY: the heaps came up just now, and nobody has seen them: the registry is held.
                loaded.iter().for_each(|heap| unsafe { registry::end_held(heap.0) });
                return Err(error);
            }
        }
    }
    Ok(loaded)
}

/// Checks a heap's header, reserves its range, maps its extents. With an error the range is free again.
fn load_heap(file: &File, opened: &Opened, record: &Record) -> Result<Core, Error> {
    if registry::by_name(record.name_text()).is_some() {
        return Err(Error::Exists(Label::new(record.name_text().as_bytes())));
    }
    check_header(file, opened, record)?;
    let base = registry::reserve(record.base, record.range_bytes)?;
    let ready = map(file, opened, record).and_then(|backed| {
        // SAFETY: the header was mapped just now; its bytes were checked, and any are valid for its fields.
        let core = unsafe { Core::at(base as *const Header) };
        wake(core, opened, record, backed);
        registry::enter(core).map(|()| core)
    });
    if ready.is_err() {
        // SAFETY: the range was reserved above, and nobody has seen it.
        unsafe { system::unmap(base, record.range_bytes) };
    }
    ready
}

/// The first group of the heap says what the index says.
fn check_header(file: &File, opened: &Opened, record: &Record) -> Result<(), Error> {
    let damaged = |what| Err(Error::Damaged { what, at: record.base as u64 });
    let Some((offset, hash)) = opened.index.find(record, 0) else { return damaged("the heap has no header") };
    let mut group = Buffer::new(GROUP_BYTES)?;
    let count = file.read_at(&mut group, offset).map_err(|errno| Error::Read { errno })?;
    if count < GROUP_BYTES || *blake3::hash(&group).as_bytes() != hash {
        return damaged("the checksum of the heap's header does not match");
    }
    super::reader::check_header(&group, record)
}

/// Maps the extents; tells which groups are the file's.
fn map(file: &File, opened: &Opened, record: &Record) -> Result<Buffer, Error> {
    let no_memory = |bytes: usize| move |errno| Error::NoMemory { bytes, errno };
    registry::commit_metadata(record.base)?;
    let (slices, data_at) = data_of(record.range_bytes);
    let committed = committed(record.top, slices);
    let table = (committed as usize * SPAN_BYTES).next_multiple_of(GROUP_BYTES);
    system::commit(record.base + SPANS_AT, table).map_err(no_memory(table))?;
    let data = (committed as usize) << SLICE_SHIFT;
    system::commit(record.base + data_at, data).map_err(no_memory(data))?;
    let mut backed = Buffer::new(record.range_bytes >> SLICE_SHIFT)?;
    for extent in opened.index.extents(record) {
        let first = extent.group as usize;
        if map_extent(file, record, &extent)? {
            backed[first..first + extent.groups as usize].fill(1);
        }
    }
    Ok(backed)
}

/// `false` where the file system maps nothing, and the extent was read instead.
fn map_extent(file: &File, record: &Record, extent: &Extent) -> Result<bool, Error> {
    let at = record.base + extent.group as usize * GROUP_BYTES;
    let bytes = extent.groups as usize * GROUP_BYTES;
    // SAFETY: the part lies in the range that was reserved for this heap, which nobody has seen.
    match unsafe { system::map_file(at, bytes, file, extent.offset) } {
        Ok(()) => Ok(true),
        Err(libc::ENODEV | libc::EPERM) => {
            system::commit(at, bytes).map_err(|errno| Error::NoMemory { bytes, errno })?;
            // SAFETY: as above, and it is writable.
            let memory = unsafe { std::slice::from_raw_parts_mut(at as *mut u8, bytes) };
            match file.read_at(memory, extent.offset) {
                Ok(count) if count == bytes => Ok(false),
                Ok(_) => Err(Error::Damaged { what: "the file is too short", at: extent.offset }),
                Err(errno) => Err(Error::Read { errno }),
            }
        }
        Err(errno) => Err(Error::NoMemory { bytes, errno }),
    }
}

fn committed(top: u32, slices: u32) -> u32 {
    top.next_multiple_of(crate::pages::COMMIT_SLICES).min(slices)
}

/// Makes the header's part about the process anew.
fn wake(core: Core, opened: &Opened, record: &Record, backed: Buffer) {
    let process = &core.process;
    [&process.roots, &process.shared, &process.slots, &process.pages].iter().for_each(|lock| lock.reset());
    process.owned.iter().for_each(|owned| owned.store(0, Relaxed));
    process.slices_committed.set(committed(record.top, core.slices_max.get()));
    process.discard_at.set(0);
    process.backed.store(backed.leak().cast(), Relaxed);
    process.origin.set(Origin { id: opened.preamble.id, generation: opened.head.generation });
    // All slots but that of who has none wait for threads.
    core.slots_orphaned.store(core.slots_used.load(Relaxed) - 1, Relaxed);
}
