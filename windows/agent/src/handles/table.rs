//! Which real handle each virtual one stands for.
//!
//! A virtual handle is a number far above those that Windows gives, and a multiple of four as they are. Looking one up takes no lock.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::rows::Kind;

const FIRST: u64 = 0x4000_0000;
const STEP: u64 = 4;
/// More handles stay real.
const HANDLES_MAX: usize = 65_536;
const _: () = assert!(HANDLES_MAX - 1 <= u16::MAX as usize);

/// A place is being filled, or its handle closed.
const BUSY: u64 = u64::MAX;

/// The real handle of each place; 0 where it is free.
static REALS: [AtomicU64; HANDLES_MAX] = [const { AtomicU64::new(0) }; HANDLES_MAX];
static KINDS: [AtomicU8; HANDLES_MAX] = [const { AtomicU8::new(0) }; HANDLES_MAX];
/// Calls under way that have each place's real handle.
static USES: [AtomicU32; HANDLES_MAX] = [const { AtomicU32::new(0) }; HANDLES_MAX];
/// Where a free place is looked for next, so that a handle that was closed is not another one at once.
static NEXT: AtomicUsize = AtomicUsize::new(0);
static USED: AtomicUsize = AtomicUsize::new(0);

fn place(handle: u64) -> Option<usize> {
    // The low two bits are the program's own.
    let offset = (handle & !3).checked_sub(FIRST)?;
    let place = (offset / STEP) as usize;
    (place < HANDLES_MAX).then_some(place)
}

/// The real handle of a virtual one; any other value as it is.
pub(crate) fn real(handle: u64) -> u64 {
    let found =
        place(handle).and_then(|place| REALS.get(place)).map_or(0, |real| real.load(Ordering::Acquire));
    if found == 0 || found == BUSY { handle } else { found }
}

/// Virtual handles that a call uses. Until it is dropped their real ones are not closed when they are changed.
#[derive(Debug)]
pub(crate) struct Uses {
    places: [u16; USES_MAX],
    count: usize,
}

/// A call uses so many handles at most: an array, and some others.
const USES_MAX: usize = 72;

impl Uses {
    pub(crate) fn new() -> Uses {
        Uses { places: [0; USES_MAX], count: 0 }
    }

    /// The real handle of a virtual one; any other value as it is.
    pub(crate) fn real(&mut self, handle: u64) -> u64 {
        let Some(place) = place(handle).filter(|_| self.count < USES_MAX) else { return real(handle) };
        // Counted first: whoever changes the handle then either sees this use, or this sees the change.
        USES[place].fetch_add(1, Ordering::SeqCst);
        self.places[self.count] = place as u16;
        self.count += 1;
        real(handle)
    }
}

impl Drop for Uses {
    fn drop(&mut self) {
        for place in &self.places[..self.count] {
            USES[usize::from(*place)].fetch_sub(1, Ordering::Release);
        }
    }
}

/// Whether a call under way has the real handle of this virtual one, or had it before it was changed.
pub(crate) fn is_used(handle: u64) -> bool {
    place(handle).is_some_and(|place| USES[place].load(Ordering::SeqCst) > 0)
}

pub(crate) fn kind(handle: u64) -> Option<Kind> {
    let place = place(handle)?;
    let is_there = !matches!(REALS.get(place)?.load(Ordering::Acquire), 0 | BUSY);
    is_there.then(|| Kind::of_number(KINDS[place].load(Ordering::Relaxed)))
}

/// A new virtual handle. Nothing where there are too many.
pub(crate) fn add(real: u64, kind: Kind) -> Option<u64> {
    if USED.load(Ordering::Relaxed) >= HANDLES_MAX {
        return None;
    }
    let first = NEXT.fetch_add(1, Ordering::Relaxed);
    for step in 0..HANDLES_MAX {
        let place = first.wrapping_add(step) % HANDLES_MAX;
        let is_free = REALS[place].compare_exchange(0, BUSY, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if is_free {
            KINDS[place].store(kind as u8, Ordering::Relaxed);
            REALS[place].store(real, Ordering::Release);
            USED.fetch_add(1, Ordering::Relaxed);
            return Some(FIRST + STEP * place as u64);
        }
    }
    None
}

/// Takes a virtual handle out.
pub(crate) fn take(handle: u64) -> Option<(u64, Kind)> {
    let place = place(handle)?;
    let kind = kind(handle)?;
    let real = REALS.get(place)?.swap(0, Ordering::AcqRel);
    if real == 0 || real == BUSY {
        return None;
    }
    USED.fetch_sub(1, Ordering::Relaxed);
    Some((real, kind))
}

/// The handle could not be closed after all. Where its place has been taken meanwhile, the real one leaks.
pub(crate) fn put_back(handle: u64, real: u64, kind: Kind) {
    let Some(place) = place(handle) else { return };
    if REALS[place].compare_exchange(0, BUSY, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
        KINDS[place].store(kind as u8, Ordering::Relaxed);
        REALS[place].store(real, Ordering::Release);
        USED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Lets a virtual handle stand for another real one; whether it still stood for the old one.
pub(crate) fn change(handle: u64, old: u64, new: u64, kind: Kind) -> bool {
    let Some(place) = place(handle) else { return false };
    let is_same = KINDS[place].load(Ordering::Relaxed) == kind as u8;
    is_same && REALS[place].compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

/// All virtual handles, with their real ones.
pub(crate) fn all() -> Vec<(u64, u64, Kind)> {
    if USED.load(Ordering::Acquire) == 0 {
        return Vec::new();
    }
    let told = REALS.iter().zip(&KINDS).enumerate().filter_map(|(place, (real, kind))| {
        let real = real.load(Ordering::Acquire);
        let is_there = real != 0 && real != BUSY;
        is_there.then(|| (FIRST + STEP * place as u64, real, Kind::of_number(kind.load(Ordering::Relaxed))))
    });
    told.collect()
}
