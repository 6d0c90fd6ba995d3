//! The tables, and how entries are written.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use brant_mediator::thread_pointer;
use brant_record::layout::*;

use super::super::system;
use super::calls;

/// How often a place that another thread writes is tried.
const PATIENCE: u32 = 2000;

/// The offset of a number in the summary.
macro_rules! field {
    ($name:ident) => {
        core::mem::offset_of!(brant_record::layout::Summary, $name)
    };
}
pub(super) use field;

#[repr(transparent)]
pub(super) struct Exported(UnsafeCell<Head>);

// SAFETY: written while the wrapper is loaded and unloaded only, when no mediator runs.
unsafe impl Sync for Exported {}

/// Where brant finds the tables.
#[used]
#[unsafe(no_mangle)]
pub(super) static BRANT_RECORD: Exported = Exported(UnsafeCell::new(Head {
    magic: MAGIC,
    version: VERSION,
    summary_bytes: Summary::BYTES as u32,
    region: 0,
    region_bytes: 0,
}));

static REGION: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());
/// Who looks for a place in each table, by thread pointer.
static HOLDERS: [AtomicUsize; TABLE_COUNT] = [const { AtomicUsize::new(0) }; TABLE_COUNT];

/// An entry that begins with its sequence number.
///
/// # Safety
///
/// The first four bytes are that number, and every other byte may have any value.
pub(super) unsafe trait Guarded: Copy {}

// SAFETY: by their layouts.
unsafe impl Guarded for File {}
// SAFETY: as above.
unsafe impl Guarded for Process {}
// SAFETY: as above.
unsafe impl Guarded for Thread {}
// SAFETY: as above.
unsafe impl Guarded for Region {}
// SAFETY: as above.
unsafe impl Guarded for Sleeper {}
// SAFETY: as above.
unsafe impl Guarded for Standard {}

/// The region of all tables.
#[derive(Clone, Copy)]
pub(super) struct Tables {
    region: *mut u8,
}

impl Tables {
    /// New ones, of zeros, which no mediator knows yet.
    pub(super) fn make() -> Option<Tables> {
        calls::map(REGION_BYTES).map(|region| Tables { region })
    }

    pub(super) fn current() -> Option<Tables> {
        let region = REGION.load(Ordering::Acquire);
        (!region.is_null()).then_some(Tables { region })
    }

    /// From here on mediators write and brant reads.
    pub(super) fn publish(self) {
        // SAFETY: no mediator stands before anything yet.
        unsafe {
            let head = BRANT_RECORD.0.get();
            (*head).region_bytes = REGION_BYTES as u64;
            (&raw mut (*head).region).write_volatile(self.region as u64);
        }
        REGION.store(self.region, Ordering::Release);
    }

    /// The end of them.
    pub(super) fn unmake() {
        let region = REGION.swap(core::ptr::null_mut(), Ordering::AcqRel);
        if !region.is_null() {
            // SAFETY: nobody is inside of a mediator any more.
            unsafe {
                (&raw mut (*BRANT_RECORD.0.get()).region).write_volatile(0);
                system::unmap(region, REGION_BYTES);
            }
        }
    }

    /// Where they are.
    pub(super) fn address(self) -> usize {
        self.region as usize
    }

    fn number(self, field: usize) -> &'static AtomicU64 {
        debug_assert!(field + 8 <= Summary::BYTES);
        // SAFETY: the summary is at the beginning, aligned, and all its fields are such numbers.
        unsafe { AtomicU64::from_ptr(self.region.add(field).cast()) }
    }

    pub(super) fn get(self, field: usize) -> u64 {
        self.number(field).load(Ordering::Relaxed)
    }

    pub(super) fn set(self, field: usize, value: u64) {
        self.number(field).store(value, Ordering::Relaxed);
    }

    pub(super) fn add(self, field: usize, value: u64) -> u64 {
        self.number(field).fetch_add(value, Ordering::Relaxed)
    }

    fn used_number(self, table: usize) -> &'static AtomicU64 {
        self.number(field!(used) + table * 8)
    }

    /// One beyond the last entry that was ever used.
    pub(super) fn used(self, table: usize) -> usize {
        (self.used_number(table).load(Ordering::Acquire) as usize).min(TABLES[table].capacity)
    }

    pub(super) fn use_up_to(self, table: usize, index: usize) {
        self.used_number(table).fetch_max(index as u64 + 1, Ordering::AcqRel);
    }

    /// The address of an entry of a table with such entries.
    pub(super) fn entry<T>(self, table: usize, index: usize) -> *mut T {
        let Table { offset, entry_bytes, capacity, .. } = TABLES[table];
        debug_assert!(entry_bytes == size_of::<T>() && index < capacity);
        // SAFETY: inside of the region.
        unsafe { self.region.add(offset + index * entry_bytes).cast() }
    }

    /// Changes an entry, which nobody else writes meanwhile. Nothing where another one does for too long.
    pub(super) fn change<T: Guarded, R>(
        self,
        table: usize,
        index: usize,
        act: impl FnOnce(&mut T) -> R,
    ) -> Option<R> {
        let at = self.entry::<T>(table, index);
        // SAFETY: the first word of such an entry.
        let sequence = unsafe { AtomicU32::from_ptr(at.cast()) };
        let Some(begun) = take(sequence) else {
            self.add(field!(lost), 1);
            return None;
        };
        // SAFETY: held by this thread alone, and all bytes are valid.
        let mut value = unsafe { at.read() };
        let result = act(&mut value);
        // SAFETY: as above; the sequence stays as it is.
        unsafe {
            let from = (&raw const value).cast::<u8>().add(4);
            core::ptr::copy_nonoverlapping(from, at.cast::<u8>().add(4), size_of::<T>() - 4);
        }
        sequence.store(begun.wrapping_add(2).max(2), Ordering::Release);
        Some(result)
    }

    /// Adds to a ring.
    pub(super) fn push<T: Guarded>(self, table: usize, value: &T) {
        let number = self.used_number(table).fetch_add(1, Ordering::AcqRel);
        let index = (number % TABLES[table].capacity as u64) as usize;
        self.change(table, index, |entry: &mut T| *entry = *value);
    }

    /// Lets one thread at a time look for places in a table. Nothing where it takes too long, which counts as lost.
    pub(super) fn alone<R>(self, table: usize, act: impl FnOnce() -> R) -> Option<R> {
        let own = thread_pointer();
        let holder = &HOLDERS[table];
        let mut tries = 0;
        while let Err(other) = holder.compare_exchange(0, own, Ordering::Acquire, Ordering::Relaxed) {
            // A handler that interrupted its own thread would wait for ever.
            if other == own || tries > PATIENCE {
                self.add(field!(lost), 1);
                return None;
            }
            tries += 1;
            pause(tries);
        }
        let result = act();
        holder.store(0, Ordering::Release);
        Some(result)
    }

    /// The child of a fork: who held something is not here. Tells how much may be torn.
    pub(super) fn release_all(self) -> u32 {
        let mut torn = 0;
        for (table, holder) in HOLDERS.iter().enumerate() {
            // The others begin anew.
            torn += u32::from(holder.swap(0, Ordering::AcqRel) != 0 && table == REGIONS);
        }
        for index in 0..self.used(REGIONS) {
            torn += u32::from(self.mend::<Region>(REGIONS, index));
        }
        torn
    }

    /// Makes an entry usable whose writer is not here. Tells whether it was one.
    pub(super) fn mend<T: Guarded>(self, table: usize, index: usize) -> bool {
        // SAFETY: the first word of such an entry.
        let sequence = unsafe { AtomicU32::from_ptr(self.entry::<T>(table, index).cast()) };
        let seen = sequence.load(Ordering::Relaxed);
        if seen & 1 != 0 {
            sequence.store(seen.wrapping_add(1).max(2), Ordering::Release);
        }
        seen & 1 != 0
    }

    /// Empties a table that nobody else uses.
    pub(super) fn clear(self, table: usize) {
        let entry_bytes = TABLES[table].entry_bytes;
        let bytes = self.used(table) * entry_bytes;
        // SAFETY: inside of the table.
        unsafe { self.entry_bytes(table).write_bytes(0, bytes) };
        self.used_number(table).store(0, Ordering::Release);
    }

    fn entry_bytes(self, table: usize) -> *mut u8 {
        // SAFETY: inside of the region.
        unsafe { self.region.add(TABLES[table].offset) }
    }
}

/// Holds an entry; gives its number before.
fn take(sequence: &AtomicU32) -> Option<u32> {
    let mut tries = 0;
    loop {
        let seen = sequence.load(Ordering::Relaxed);
        let is_free = seen & 1 == 0;
        if is_free && sequence.compare_exchange(seen, seen | 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
        {
            return Some(seen);
        }
        tries += 1;
        if tries > PATIENCE {
            return None;
        }
        pause(tries);
    }
}

fn pause(tries: u32) {
    if tries.is_multiple_of(16) { system::give_way() } else { core::hint::spin_loop() }
}

/// Copies a text into its room; gives how much of it, and whether that is all.
pub(super) fn put_text(from: &[u8], room: &mut [u8]) -> (usize, bool) {
    let bytes = from.len().min(room.len());
    room[..bytes].copy_from_slice(&from[..bytes]);
    (bytes, bytes == from.len())
}

/// Copies a text of the program that a call has just read: up to its zero byte, or as much as there is room for.
///
/// # Safety
///
/// `at` is such a text.
pub(super) unsafe fn put_c_text(at: *const core::ffi::c_char, room: &mut [u8]) -> (usize, bool) {
    for (index, place) in room.iter_mut().enumerate() {
        // SAFETY: before its end.
        let byte = unsafe { at.cast::<u8>().add(index).read() };
        if byte == 0 {
            return (index, true);
        }
        *place = byte;
    }
    (room.len(), false)
}
