//! Runs of slices: taken, given back, joined with their neighbours. All of it needs the lock `pages`.
//!
//! Free runs are in lists by length, two levels deep (a power of two, and eight steps within it), so that a run that is long enough is found
//! without a search. The first entry of a run says what it is; of a free run, the last entry too, for its neighbour to the right.

use std::sync::atomic::Ordering;

use crate::core::{Core, entry};
use crate::layout::*;
use crate::system;

/// Slices that are made usable at once: 16 MiB.
pub(crate) const COMMIT_SLICES: u32 = 256;
/// Free memory that is kept from the host, at least: 64 MiB.
const IDLE_SLICES_MIN: u32 = 1024;

/// A run that was taken.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    pub(crate) slice: u32,
    pub(crate) is_zero: bool,
}

/// The list for runs of `len`.
fn list_of(len: u32) -> (usize, usize) {
    let level = len.ilog2();
    (level as usize, ((u64::from(len) << 3 >> level) & 7) as usize)
}

impl Core {
    /// Takes `len` slices whose address is a multiple of `align` bytes. The entries are `NOTHING` but for `len` and `state` of the first, which
    /// the caller sets.
    pub(crate) fn take_run(self, len: u32, align: usize) -> Option<Run> {
        let extra = if align > SLICE_BYTES { (align >> SLICE_SHIFT) as u32 } else { 0 };
        let wanted = len.checked_add(extra)?;
        let mut run = self.take_listed(wanted).or_else(|| self.take_fresh(wanted))?;
        if extra != 0 {
            let address = self.slice_address(run.slice);
            let before = ((address.next_multiple_of(align) - address) >> SLICE_SHIFT) as u32;
            let (first, behind) = (run.slice, extra - before);
            run.slice += before;
            for (slice, count) in [(first, before), (run.slice + len, behind)] {
                if count != 0 {
                    self.put_run(slice, count, run.is_zero);
                }
            }
        }
        self.slices_live.set(self.slices_live.get() + len);
        Some(run)
    }

    /// Gives a run back. Its entries must be `NOTHING`.
    pub(crate) fn give_run(self, slice: u32, len: u32) {
        self.slices_live.set(self.slices_live.get() - len);
        self.put_run(slice, len, false);
        if self.slices_idle.get() >= self.process.discard_at.get().max(IDLE_SLICES_MIN) {
            self.discard_idle();
        }
    }

    /// Makes a run longer by what lies behind it, if that is free.
    pub(crate) fn grow_run(self, slice: u32, len: u32, new_len: u32) -> bool {
        let (behind, more) = (slice + len, new_len - len);
        if behind == self.top() {
            if self.take_fresh(more).is_none() {
                return false;
            }
        } else {
            let next = self.span(behind);
            if next.state.get() != FREE || next.len.get() < more {
                return false;
            }
            self.split(next, more);
        }
        self.slices_live.set(self.slices_live.get() + more);
        true
    }

    /// Gives the memory of all free runs back to the host.
    pub(crate) fn discard_idle(self) {
        for list in self.runs.iter().flatten() {
            let mut next = entry(list.get());
            while let Some(run) = next {
                next = entry(run.next.get());
                if run.flags.get() & RUN_ZERO == 0 && self.discard_slices(self.slice_of(run), run.len.get()) {
                    run.flags.set(RUN_ZERO);
                    self.slices_idle.set(self.slices_idle.get() - run.len.get());
                }
            }
        }
        self.process.discard_at.set(self.slices_idle.get() + IDLE_SLICES_MIN.max(self.slices_live.get() / 4));
    }

    /// Makes slices that nobody uses read as zero.
    pub(crate) fn discard_slices(self, slice: u32, len: u32) -> bool {
        let (address, bytes) = (self.slice_address(slice), (len as usize) << SLICE_SHIFT);
        let backed = self.backed(address, bytes);
        // A new mapping among those of a file costs one of the kernel's few: not for little.
        if !backed.is_empty() && len < 16 {
            return false;
        }
        // SAFETY: the slices are free, or a part of a region that its user gives up.
        let is_done = unsafe { system::discard(address, bytes, backed.is_empty()) };
        if is_done {
            backed.iter().for_each(|byte| byte.store(0, Ordering::Relaxed));
        }
        is_done
    }

    /// The bytes that say which parts of an address range are mapped from a file; empty where none can be.
    pub(crate) fn backed<'a>(self, address: usize, bytes: usize) -> &'a [std::sync::atomic::AtomicU8] {
        let first = self.process.backed.load(Ordering::Relaxed);
        if first.is_null() {
            return &[];
        }
        let at = (address - self.address()) >> SLICE_SHIFT;
        // SAFETY: there is a byte for each 64 KiB of the range, and they are kept as long as the process.
        let all = unsafe { std::slice::from_raw_parts(first, self.range_bytes.get() >> SLICE_SHIFT) };
        let part = &all[at..at + (bytes >> SLICE_SHIFT)];
        if part.iter().all(|byte| byte.load(Ordering::Relaxed) == 0) { &[] } else { part }
    }

    /// Says that an address range is mapped from a file now. The heap has the table of such parts, and `pages` is held.
    pub(crate) fn mark_backed(self, address: usize, bytes: usize) {
        let first = (address - self.address()) >> SLICE_SHIFT;
        let table = self.process.backed.load(Ordering::Relaxed);
        // SAFETY: there is a byte for each 64 KiB of the range, and they are kept as long as the process.
        let all = unsafe { std::slice::from_raw_parts(table, self.range_bytes.get() >> SLICE_SHIFT) };
        all[first..first + (bytes >> SLICE_SHIFT)].iter().for_each(|byte| byte.store(1, Ordering::Relaxed));
    }

    fn take_fresh(self, len: u32) -> Option<Run> {
        let slice = self.top();
        let end = slice.checked_add(len).filter(|end| *end <= self.slices_max.get())?;
        self.commit_slices(end)?;
        self.top.store(end, Ordering::Relaxed);
        Some(Run { slice, is_zero: true })
    }

    /// Makes slices below `end`, and their entries, usable.
    fn commit_slices(self, end: u32) -> Option<()> {
        let committed = self.process.slices_committed.get();
        if end <= committed {
            return Some(());
        }
        let new = end.next_multiple_of(COMMIT_SLICES).min(self.slices_max.get());
        let table = |slices: u32| self.address() + SPANS_AT + slices as usize * SPAN_BYTES;
        // By whole groups of an image.
        let table_begin = table(committed) & !(SLICE_BYTES - 1);
        let table_bytes = table(new).next_multiple_of(SLICE_BYTES) - table_begin;
        system::commit(table_begin, table_bytes).ok()?;
        system::commit(self.slice_address(committed), ((new - committed) as usize) << SLICE_SHIFT).ok()?;
        self.process.slices_committed.set(new);
        Some(())
    }

    /// A run of at least `len`, cut to it.
    fn take_listed(self, len: u32) -> Option<Run> {
        let run = self.find_run(len)?;
        let (slice, is_zero) = (self.slice_of(run), run.flags.get() & RUN_ZERO != 0);
        self.split(run, len);
        Some(Run { slice, is_zero })
    }

    fn find_run<'a>(self, len: u32) -> Option<&'a Span> {
        // Every run in the lists from here on is long enough.
        let rounded = len.checked_add(if len >= 8 { (1 << (len.ilog2() - 3)) - 1 } else { 0 })?;
        let (level, step) = list_of(rounded);
        if level >= RUN_LEVELS {
            return None;
        }
        let steps = self.run_steps[level].get() & (0xff << step);
        if steps != 0 {
            return entry(self.runs[level][steps.trailing_zeros() as usize].get());
        }
        let levels = self.run_levels.get() & (!0 << (level + 1)) & ((1 << RUN_LEVELS) - 1);
        if levels != 0 {
            let level = levels.trailing_zeros() as usize;
            return entry(self.runs[level][self.run_steps[level].get().trailing_zeros() as usize].get());
        }
        // Only where the range is about to be full: the list in which runs may or may not be long enough.
        if self.top() + len > self.slices_max.get() {
            let (level, step) = list_of(len);
            let mut next = entry(self.runs[level][step].get());
            while let Some(run) = next {
                if run.len.get() >= len {
                    return Some(run);
                }
                next = entry(run.next.get());
            }
        }
        None
    }

    /// Takes the first `len` slices out of a free run; the rest is listed again.
    fn split(self, run: &Span, len: u32) {
        let (slice, whole) = (self.slice_of(run), run.len.get());
        let is_zero = run.flags.get() & RUN_ZERO != 0;
        self.unlist(run);
        if whole > len {
            self.list(slice + len, whole - len, is_zero);
        }
    }

    /// Lists a run, joined with free neighbours.
    fn put_run(self, slice: u32, len: u32, is_zero: bool) {
        let (mut slice, mut len, mut is_zero) = (slice, len, is_zero);
        if slice + len < self.top() {
            let right = self.span(slice + len);
            if right.state.get() == FREE {
                len += right.len.get();
                is_zero = self.join(right, is_zero);
            }
        }
        if slice > 0 {
            let end = self.span(slice - 1);
            if matches!(end.state.get(), FREE | FREE_END) {
                let left = self.span(slice - 1 - end.back.get());
                slice -= left.len.get();
                len += left.len.get();
                is_zero = self.join(left, is_zero);
            }
        }
        self.list(slice, len, is_zero);
    }

    /// Unlists a neighbour; tells whether both together are zero.
    fn join(self, neighbour: &Span, is_zero: bool) -> bool {
        let both = is_zero && neighbour.flags.get() & RUN_ZERO != 0;
        self.unlist(neighbour);
        both
    }

    fn list(self, slice: u32, len: u32, is_zero: bool) {
        let run = self.span(slice);
        run.state.set(FREE);
        run.flags.set(if is_zero { RUN_ZERO } else { 0 });
        run.len.set(len);
        run.back.set(0);
        if len > 1 {
            let end = self.span(slice + len - 1);
            end.state.set(FREE_END);
            end.back.set(len - 1);
        }
        if !is_zero {
            self.slices_idle.set(self.slices_idle.get() + len);
        }
        let (level, step) = list_of(len);
        let list = &self.runs[level][step];
        run.prev.set(std::ptr::null());
        run.next.set(list.get());
        if let Some(next) = entry(list.get()) {
            next.prev.set(run);
        }
        list.set(run);
        self.run_steps[level].set(self.run_steps[level].get() | 1 << step);
        self.run_levels.set(self.run_levels.get() | 1 << level);
    }

    fn unlist(self, run: &Span) {
        let (slice, len) = (self.slice_of(run), run.len.get());
        let (level, step) = list_of(len);
        match entry(run.prev.get()) {
            Some(prev) => prev.next.set(run.next.get()),
            None => self.runs[level][step].set(run.next.get()),
        }
        if let Some(next) = entry(run.next.get()) {
            next.prev.set(run.prev.get());
        }
        if self.runs[level][step].get().is_null() {
            self.run_steps[level].set(self.run_steps[level].get() & !(1 << step));
            if self.run_steps[level].get() == 0 {
                self.run_levels.set(self.run_levels.get() & !(1 << level));
            }
        }
        if run.flags.get() & RUN_ZERO == 0 {
            self.slices_idle.set(self.slices_idle.get() - len);
        }
        for end in [slice, slice + len - 1] {
            let entry = self.span(end);
            entry.state.set(NOTHING);
            entry.back.set(0);
            entry.flags.set(0);
            entry.len.set(0);
        }
    }
}
