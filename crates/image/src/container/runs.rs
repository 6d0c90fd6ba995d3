//! Which pages an image holds, and which it may hold.

use std::collections::BTreeMap;

use brant_base::{PAGE_SIZE, PageRange, Pid};

use crate::ImageError;
use crate::model::{Checkpoint, DiskFileId, PageOwner, SharedMemoryId};

/// Consecutive pages of one owner in one pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub first_page: u64,
    pub pages: u64,
    /// All zero; there are no bytes in the pack.
    pub zero: bool,
    /// The pack's number, from 0.
    pub pack: usize,
    /// Where the bytes begin in the pack's page bytes; 0 for a zero run.
    pub offset: u64,
}

/// An entry of a pack's index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub(crate) owner: PageOwner,
    pub(crate) first_page: u64,
    pub(crate) pages: u64,
    pub(crate) zero: bool,
}

impl IndexEntry {
    fn fault(&self, why: &'static str) -> ImageError {
        ImageError::Pages { owner: self.owner, first_page: self.first_page, pages: self.pages, why }
    }
}

pub(crate) fn owner_numbers(owner: PageOwner) -> (u16, u32) {
    match owner {
        PageOwner::Process(pid) => (1, pid.0 as u32),
        PageOwner::Shared(id) => (2, id.0),
        PageOwner::File(id) => (3, id.0),
    }
}

pub(crate) fn owner_from_numbers(kind: u16, id: u32) -> Option<PageOwner> {
    match kind {
        1 => i32::try_from(id).ok().map(|pid| PageOwner::Process(Pid(pid))),
        2 => Some(PageOwner::Shared(SharedMemoryId(id))),
        3 => Some(PageOwner::File(DiskFileId(id))),
        _ => None,
    }
}

/// All runs of an image by owner.
#[derive(Debug, Default)]
pub(crate) struct RunTable {
    runs: BTreeMap<PageOwner, Vec<Run>>,
    pub(crate) pages: u64,
    pub(crate) zero_pages: u64,
}

impl RunTable {
    pub(crate) fn insert(&mut self, entry: IndexEntry, pack: usize, offset: u64) {
        let run = Run { first_page: entry.first_page, pages: entry.pages, zero: entry.zero, pack, offset };
        *(if entry.zero { &mut self.zero_pages } else { &mut self.pages }) += entry.pages;
        self.runs.entry(entry.owner).or_default().push(run);
    }

    /// Sorts the runs of each owner; an error where two of them hold the same page.
    pub(crate) fn check(&mut self) -> Result<(), ImageError> {
        for (&owner, runs) in &mut self.runs {
            runs.sort_by_key(|run| run.first_page);
            for pair in runs.windows(2) {
                if pair[0].first_page + pair[0].pages > pair[1].first_page {
                    let Run { first_page, pages, .. } = pair[1];
                    let why = "the same page is in the image twice";
                    return Err(ImageError::Pages { owner, first_page, pages, why });
                }
            }
        }
        Ok(())
    }

    pub(crate) fn of(&self, owner: PageOwner) -> &[Run] {
        self.runs.get(&owner).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn owners(&self) -> impl Iterator<Item = PageOwner> {
        self.runs.keys().copied()
    }
}

/// The pages that a checkpoint's owners have: sorted, disjoint, adjacent ones merged.
#[derive(Debug)]
pub(crate) struct PageBounds(BTreeMap<PageOwner, Vec<(u64, u64)>>);

impl PageBounds {
    /// `checkpoint` has been validated: its mappings are sorted and disjoint.
    pub(crate) fn of(checkpoint: &Checkpoint) -> PageBounds {
        let mut bounds = BTreeMap::new();
        for process in &checkpoint.processes {
            let Some(body) = &process.body else { continue };
            let mappings = body.memory.mappings.iter().map(|mapping| mapping.range);
            bounds.insert(PageOwner::Process(process.pid), merged(mappings));
        }
        if let Some(windows) = &checkpoint.windows {
            let regions = windows.regions.iter().map(|region| region.range);
            bounds.insert(PageOwner::Process(checkpoint.root), merged(regions));
        }
        for memory in &checkpoint.shared_memory {
            bounds.insert(PageOwner::Shared(memory.id), vec![(0, memory.bytes.div_ceil(PAGE_SIZE))]);
        }
        for file in checkpoint.disk_files.iter().filter(|file| file.stored) {
            bounds.insert(PageOwner::File(file.id), vec![(0, file.size.div_ceil(PAGE_SIZE))]);
        }
        PageBounds(bounds)
    }

    /// An error unless the entry is non-empty and its owner has all its pages.
    pub(crate) fn check(&self, entry: &IndexEntry) -> Result<(), ImageError> {
        let Some(end) = entry.first_page.checked_add(entry.pages) else {
            return Err(entry.fault("their numbers leave the address space"));
        };
        if entry.pages == 0 {
            return Err(entry.fault("the run is empty"));
        }
        let Some(ranges) = self.0.get(&entry.owner) else {
            return Err(entry.fault("the checkpoint has no such owner of pages"));
        };
        let after = ranges.partition_point(|range| range.0 <= entry.first_page);
        match after.checked_sub(1).map(|index| ranges[index]) {
            Some((_, range_end)) if end <= range_end => Ok(()),
            _ => Err(entry.fault("they lie outside what the owner has mapped")),
        }
    }
}

/// Sorted ranges as page numbers, adjacent ones as one.
fn merged(sorted: impl Iterator<Item = PageRange>) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for range in sorted {
        let (start, end) = (range.start().0 / PAGE_SIZE, range.end().0 / PAGE_SIZE);
        match ranges.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => ranges.push((start, end)),
        }
    }
    ranges
}
