//! Runs of units: who has which, and regions, which are runs as VirtualAlloc gives them.

use crate::Pages;
use crate::layout::{UNIT_BYTES, UNITS_MAX, Unit};
use crate::space::Space;

impl<P: Pages> Space<P> {
    pub(crate) fn unit(&self, unit: u32) -> Unit {
        debug_assert!((unit as usize) < UNITS_MAX);
        // SAFETY: the map is in the root, and units are looked up below its length.
        Unit::decode(unsafe { (&raw const (*self.root()).map[unit as usize]).read_volatile() })
    }

    pub(crate) fn set(&self, unit: u32, kind: Unit) {
        // SAFETY: as above; whoever writes has the root's lock, or the unit.
        unsafe { (&raw mut (*self.root()).map[unit as usize]).write_volatile(kind.encode()) }
    }

    pub(crate) fn units(&self) -> u32 {
        // SAFETY: the root is committed.
        unsafe { (*self.root()).units }
    }

    fn lock(&self) -> crate::lock::Held<'_> {
        // SAFETY: the root is committed.
        unsafe { &(*self.root()).lock }.take(&self.pages)
    }

    fn search(&self) -> u32 {
        // SAFETY: the root is committed, and the caller has its lock.
        unsafe { (*self.root()).search }
    }

    fn set_search(&self, unit: u32) {
        // SAFETY: as above.
        unsafe {
            (*self.root()).search = unit;
        }
    }

    pub(crate) fn address(&self, unit: u32) -> usize {
        self.base + unit as usize * UNIT_BYTES
    }

    /// The unit of an address of this range.
    pub(crate) fn unit_of(&self, at: usize) -> Option<u32> {
        let unit = at.checked_sub(self.base)? / UNIT_BYTES;
        (unit < self.units() as usize).then_some(unit as u32)
    }

    /// Marks both ends of a free run.
    pub(crate) fn set_free(&self, first: u32, units: u32) {
        self.set(first, Unit::Free(units));
        self.set(first + units - 1, Unit::Free(units));
    }

    /// The run that begins at `unit`, which must be a beginning: where, what, and how many units.
    pub(crate) fn run_from(&self, unit: u32) -> Option<(u32, Unit, u32)> {
        if unit >= self.units() {
            return None;
        }
        let kind = self.unit(unit);
        Some(match kind {
            Unit::Free(units) | Unit::Large(units) | Unit::Region(units) => (unit, kind, units.max(1)),
            Unit::Span | Unit::Within(_) => (unit, kind, 1),
        })
    }

    /// Takes `units` units for what `kind` says.
    pub(crate) fn take_units(&self, units: u32, kind: Unit) -> Option<u32> {
        let _held = self.lock();
        let mut unit = self.search();
        let mut is_first_free = true;
        while let Some((at, found, length)) = self.run_from(unit) {
            unit = at + length;
            let Unit::Free(free) = found else { continue };
            if free < units {
                is_first_free = false;
                continue;
            }
            if free > units {
                self.set_free(at + units, free - units);
            }
            self.set(at, kind);
            for distance in 1..units {
                self.set(at + distance, Unit::Within(distance));
            }
            if is_first_free {
                self.set_search(at + units);
            }
            return Some(at);
        }
        None
    }

    /// Gives the run that begins at `first` back, with its memory.
    pub(crate) fn release_units(&self, first: u32) {
        let _held = self.lock();
        self.release_held(first);
    }

    /// Gives all runs back of which `is_own` says so.
    pub(crate) fn release_all(&self, is_own: impl Fn(u32, Unit) -> bool) {
        let _held = self.lock();
        let mut unit = 0;
        while let Some((at, kind, units)) = self.run_from(unit) {
            unit = if is_own(at, kind) { self.release_held(at) } else { at + units };
        }
    }

    /// Gives a run back, and the end of the free run that it is a part of now. The caller has the lock: whoever looks at runs under it finds the
    /// memory of all that are not free.
    fn release_held(&self, first: u32) -> u32 {
        let Some((_, _, units)) = self.run_from(first) else { return self.units() };
        self.pages.decommit(self.address(first), units as usize * UNIT_BYTES);
        // Whoever asks for a block that was in it must find that it is free.
        (first..first + units).for_each(|unit| self.set(unit, Unit::Free(units)));
        let (mut start, mut length) = (first, units);
        if let Some((_, Unit::Free(after), _)) = self.run_from(first + units) {
            length += after;
        }
        // Unit 0 is the root's, so there is one before.
        if let Unit::Free(before) = self.unit(first - 1) {
            start -= before;
            length += before;
        }
        self.set_free(start, length);
        self.set_search(self.search().min(start));
        start + length
    }

    /// Lets the run that begins at `first` grow to `units`, where what follows is free.
    pub(crate) fn extend_units(&self, first: u32, units: u32, kind: Unit) -> bool {
        let _held = self.lock();
        let Some((_, _, old)) = self.run_from(first) else { return false };
        let more = units - old;
        let Some((after, Unit::Free(free), _)) = self.run_from(first + old) else { return false };
        if free < more {
            return false;
        }
        if free > more {
            self.set_free(after + more, free - more);
        }
        self.set(first, kind);
        for distance in old..units {
            self.set(first + distance, Unit::Within(distance));
        }
        if self.search() == after {
            self.set_search(after + more);
        }
        true
    }

    /// Reserves a region, as VirtualAlloc with MEM_RESERVE does; nothing of it is committed. Gives its address.
    pub fn reserve(&self, bytes: usize) -> Option<usize> {
        let units = u32::try_from(bytes.max(1).div_ceil(UNIT_BYTES))
            .ok()
            .filter(|&units| units < UNITS_MAX as u32)?;
        self.take_units(units, Unit::Region(units)).map(|unit| self.address(unit))
    }

    /// Gives a region back, as VirtualFree with MEM_RELEASE does; false where none begins at `at`.
    pub fn release(&self, at: usize) -> bool {
        let Some(unit) = self.unit_of(at).filter(|&unit| unit != 0 && self.address(unit) == at) else {
            return false;
        };
        let is_region = matches!(self.unit(unit), Unit::Region(_));
        if is_region {
            self.release_units(unit);
        }
        is_region
    }

    /// The region that `at` is in: its address and its bytes.
    pub fn region_of(&self, at: usize) -> Option<(usize, usize)> {
        let unit = self.unit_of(at)?;
        let first = match self.unit(unit) {
            Unit::Region(_) => unit,
            Unit::Within(distance) => unit - distance,
            _ => return None,
        };
        match self.unit(first) {
            Unit::Region(units) if first != 0 => Some((self.address(first), units as usize * UNIT_BYTES)),
            _ => None,
        }
    }

    /// Each region, with its address and its bytes.
    pub fn regions(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let mut unit = 0;
        core::iter::from_fn(move || {
            while let Some((at, kind, units)) = self.run_from(unit) {
                unit = at + units;
                if matches!(kind, Unit::Region(_)) && at != 0 {
                    return Some((self.address(at), units as usize * UNIT_BYTES));
                }
            }
            None
        })
    }
}
