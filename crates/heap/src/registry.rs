//! The heaps of this process: by index, name and address; the process's own heap; and what a fork needs.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

use crate::core::Core;
use crate::error::{Error, Label};
use crate::layout::*;
use crate::lock::{Held, Lock};
use crate::place;
use crate::system;
use crate::thread::{self, HEAPS_MAX};

static HEAPS: [AtomicPtr<Header>; HEAPS_MAX] = [const { AtomicPtr::new(null_mut()) }; HEAPS_MAX];
/// Indices from here on were never used.
static USED: AtomicU32 = AtomicU32::new(0);
/// Changes to the table, and whatever must see it unchanged.
static REGISTRY: Lock = Lock::new();
static OWN: AtomicPtr<Header> = AtomicPtr::new(null_mut());
static OWN_LOCK: Lock = Lock::new();
static IS_FORK_WATCHED: AtomicBool = AtomicBool::new(false);

/// How a heap is made.
#[derive(Clone, Copy)]
pub(crate) struct Making<'a> {
    pub(crate) name: &'a str,
    pub(crate) range_bytes: usize,
    /// 0: wherever its name leads.
    pub(crate) at: usize,
    pub(crate) flags: u32,
}

/// Keeps the table as it is.
pub(crate) fn hold() -> Held<'static> {
    REGISTRY.hold()
}

/// Calls `visit` for each heap until it says `false`.
pub(crate) fn each(mut visit: impl FnMut(Core) -> bool) {
    for place in &HEAPS[..USED.load(Ordering::Acquire) as usize] {
        let heap = place.load(Ordering::Acquire);
        // SAFETY: what is in the table is mapped.
        if !heap.is_null() && !visit(unsafe { Core::at(heap) }) {
            return;
        }
    }
}

pub(crate) fn by_name(name: &str) -> Option<Core> {
    let mut found = None;
    each(|core| {
        if core.name_text() == name && core.flags.get() & FLAG_PRIVATE == 0 {
            found = Some(core);
        }
        found.is_none()
    });
    found
}

pub(crate) fn by_address(address: usize) -> Option<Core> {
    let mut found = None;
    each(|core| {
        if core.contains(address) {
            found = Some(core);
        }
        found.is_none()
    });
    found
}

/// The heap that the program's allocator takes from where nothing else is said. `None` where the kernel gives no address space.
pub(crate) fn own() -> Option<Core> {
    let own = OWN.load(Ordering::Acquire);
    if !own.is_null() {
        // SAFETY: this heap is never unmapped.
        return Some(unsafe { Core::at(own) });
    }
    make_own()
}

/// The same, without making it: for who holds the registry.
pub(crate) fn own_address() -> usize {
    OWN.load(Ordering::Acquire) as usize
}

#[cold]
fn make_own() -> Option<Core> {
    let core = {
        let _held = OWN_LOCK.hold();
        let own = OWN.load(Ordering::Acquire);
        if !own.is_null() {
            // SAFETY: as above.
            return Some(unsafe { Core::at(own) });
        }
        // Less where the address space is limited.
        let sizes = [64 << 30, 8 << 30, 1 << 30, 256 << 20];
        let making = |range_bytes| Making { name: "process", range_bytes, at: 0, flags: FLAG_PRIVATE };
        let core = sizes.into_iter().find_map(|bytes| make_at(&making(bytes), 0).ok())?;
        OWN.store(core.address() as *mut Header, Ordering::Release);
        core
    };
    watch_forks();
    Some(core)
}

/// Makes a heap and enters it into the table.
pub(crate) fn make(making: &Making<'_>) -> Result<Core, Error> {
    check_name(making.name.as_bytes(), NAME_BYTES_MAX)?;
    check_range(making.range_bytes, making.at)?;
    let made = {
        let _held = REGISTRY.hold();
        if by_name(making.name).is_some() {
            return Err(Error::Exists(Label::new(making.name.as_bytes())));
        }
        if making.at != 0 { make_held(making, making.at) } else { make_anywhere(making) }
    };
    watch_forks();
    made
}

/// Where its name leads, or next to it.
fn make_anywhere(making: &Making<'_>) -> Result<Core, Error> {
    let mut first = None;
    for attempt in 0..place::TRIES {
        match make_held(making, place::address(making.name, making.range_bytes, attempt)) {
            Err(error @ Error::Taken { .. }) => first = first.or(Some(error)),
            done => return done,
        }
    }
    Err(first.unwrap_or(Error::TooMany))
}

fn make_at(making: &Making<'_>, at: usize) -> Result<Core, Error> {
    let _held = REGISTRY.hold();
    make_held(making, at)
}

fn make_held(making: &Making<'_>, at: usize) -> Result<Core, Error> {
    let base = reserve(at, making.range_bytes)?;
    let made = begin(base, making).and_then(|core| enter(core).map(|()| core));
    if made.is_err() {
        // SAFETY: nobody has seen the range.
        unsafe { system::unmap(base, making.range_bytes) };
    }
    made
}

/// A reserved range, at `at` unless that is 0. Says what is in the way.
pub(crate) fn reserve(at: usize, bytes: usize) -> Result<usize, Error> {
    match system::reserve(at, if at == 0 { bytes + place::BASE_ALIGN } else { bytes }) {
        Ok(base) if at == 0 => {
            let aligned = base.next_multiple_of(place::BASE_ALIGN);
            // SAFETY: both ends of what was just reserved, which nobody uses.
            unsafe {
                if aligned != base {
                    system::unmap(base, aligned - base);
                }
                system::unmap(aligned + bytes, base + place::BASE_ALIGN - aligned);
            }
            Ok(aligned)
        }
        Ok(base) => Ok(base),
        Err(errno) => Err(in_the_way(at, bytes).unwrap_or(Error::NoMemory { bytes, errno })),
    }
}

fn in_the_way(at: usize, bytes: usize) -> Option<Error> {
    let (start, end) = (at, at.checked_add(bytes)?);
    let mut found = None;
    if at != 0 {
        crate::maps::visit(|mapping| {
            if mapping.start < end && mapping.end > start {
                let by = match by_address(mapping.start) {
                    Some(heap) => heap_label(heap),
                    None if mapping.name.is_empty() => Label::new(b"anonymous memory"),
                    None => Label::new(mapping.name),
                };
                found = Some(Error::Taken { start, end, by, by_start: mapping.start, by_end: mapping.end });
            }
            found.is_none()
        });
    }
    found
}

fn heap_label(heap: Core) -> Label {
    let mut words = [0; 6 + NAME_BYTES_MAX];
    let name = heap.name_text().as_bytes();
    words[..5].copy_from_slice(b"heap ");
    words[5..5 + name.len()].copy_from_slice(name);
    Label::new(&words[..5 + name.len()])
}

/// Writes a header into a fresh range.
fn begin(base: usize, making: &Making<'_>) -> Result<Core, Error> {
    commit_metadata(base)?;
    // SAFETY: the header's memory is usable and zero, which is valid for each of its fields.
    let core = unsafe { Core::at(base as *const Header) };
    let (slices, data_at) = data_of(making.range_bytes);
    core.magic.set(HEADER_MAGIC);
    core.layout_version.set(LAYOUT_VERSION);
    core.flags.set(making.flags);
    core.base.set(base);
    core.range_bytes.set(making.range_bytes);
    core.data.set(base + data_at);
    core.slices_max.set(slices);
    let mut name = [0; NAME_BYTES_MAX + 1];
    name[..making.name.len()].copy_from_slice(making.name.as_bytes());
    core.name.set(name);
    // The first slot is that of all threads without one.
    core.prepare_slot(0);
    core.slots_used.store(1, Ordering::Relaxed);
    Ok(core)
}

/// Makes the header and the slots usable.
pub(crate) fn commit_metadata(base: usize) -> Result<(), Error> {
    system::commit(base, SPANS_AT).map_err(|errno| Error::NoMemory { bytes: SPANS_AT, errno })
}

/// Enters a heap into the table. `REGISTRY` is held.
pub(crate) fn enter(core: Core) -> Result<(), Error> {
    let used = USED.load(Ordering::Relaxed) as usize;
    let index =
        HEAPS[..used].iter().position(|place| place.load(Ordering::Relaxed).is_null()).unwrap_or(used);
    let place = HEAPS.get(index).ok_or(Error::TooMany)?;
    core.process.index.store(index as u32, Ordering::Relaxed);
    place.store(core.address() as *mut Header, Ordering::Release);
    if index == used {
        USED.store(used as u32 + 1, Ordering::Release);
    }
    Ok(())
}

/// Takes a heap out of the table and of all threads, and unmaps it.
///
/// # Safety
///
/// Nobody uses the heap or a block of it any more.
pub(crate) unsafe fn end(core: Core) {
    let _held = REGISTRY.hold();
    // SAFETY: promised by the caller.
    unsafe { end_held(core) };
}

/// As [`end`], with `REGISTRY` held.
///
/// # Safety
///
/// As for [`end`].
pub(crate) unsafe fn end_held(core: Core) {
    let (base, bytes) = (core.address(), core.range_bytes.get());
    thread::forget(core);
    HEAPS[core.process.index.load(Ordering::Relaxed) as usize].store(null_mut(), Ordering::Release);
    let backed = core.process.backed.load(Ordering::Relaxed);
    // SAFETY: promised by the caller.
    unsafe { system::unmap(base, bytes) };
    if !backed.is_null() {
        // SAFETY: the heap was the only one that knew of it.
        unsafe { system::unmap(backed as usize, (bytes >> SLICE_SHIFT).next_multiple_of(PAGE_BYTES)) };
    }
}

pub(crate) fn check_name(name: &[u8], bytes_max: usize) -> Result<(), Error> {
    let is_good = !name.is_empty() && name.len() <= bytes_max && name.iter().all(u8::is_ascii_graphic);
    if is_good { Ok(()) } else { Err(Error::Name) }
}

/// The bounds of what a range may be.
pub(crate) fn check_range(bytes: usize, at: usize) -> Result<(), Error> {
    if !(RANGE_BYTES_MIN..=RANGE_BYTES_MAX).contains(&bytes) || !bytes.is_multiple_of(SLICE_BYTES) {
        return Err(Error::Range { bytes });
    }
    let is_low = at != 0 && (!at.is_multiple_of(place::BASE_ALIGN) || at + bytes > 0x7fff_ffff_0000);
    if is_low { Err(Error::Range { bytes: at }) } else { Ok(()) }
}

/// Lets a forked child find heaps with no lock held. Other threads' slots stay theirs in it, although the threads are gone.
fn watch_forks() {
    if !IS_FORK_WATCHED.swap(true, Ordering::Relaxed) {
        // SAFETY: functions of the right type, which live as long as the process. May allocate: nothing is held.
        unsafe { libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(after_fork)) };
    }
}

/// In the order in which they are taken elsewhere.
extern "C" fn before_fork() {
    OWN_LOCK.take();
    REGISTRY.take();
    thread::lock().take();
    each(|core| {
        let process = &core.process;
        [&process.roots, &process.shared, &process.slots, &process.pages].iter().for_each(|lock| lock.take());
        true
    });
}

extern "C" fn after_fork() {
    each(|core| {
        let process = &core.process;
        [&process.pages, &process.slots, &process.shared, &process.roots]
            .iter()
            .for_each(|lock| lock.release());
        true
    });
    thread::lock().release();
    REGISTRY.release();
    OWN_LOCK.release();
}
