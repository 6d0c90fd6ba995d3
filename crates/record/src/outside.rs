//! A record beside what the kernel says, or an image: what the program did by other ways than its API shows here.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Child, Descriptor, Mapped, Record, Sleeping, Task};

/// What is known of a process besides its record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outside {
    /// Descriptors that are open, with their positions where they have one.
    pub descriptors: BTreeMap<i32, Option<u64>>,
    /// Threads by the numbers that the program knows, with their names.
    pub threads: BTreeMap<u32, Vec<u8>>,
    /// Mapped ranges, sorted.
    pub mapped: Vec<(u64, u64)>,
    /// Children that have not been waited for, by the numbers that the program knows.
    pub children: BTreeSet<i32>,
}

/// Where the two differ.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Compared {
    /// Open, and not in the record.
    pub unknown_descriptors: Vec<i32>,
    pub unknown_threads: Vec<u32>,
    pub unknown_children: Vec<i32>,
}

impl Outside {
    pub fn has(&self, descriptor: &Descriptor) -> bool {
        self.descriptors.contains_key(&descriptor.number)
    }

    pub fn position(&self, descriptor: &Descriptor) -> Option<u64> {
        self.descriptors.get(&descriptor.number).copied().flatten()
    }

    /// Whether a thread runs: one whose end was not seen shows here.
    pub fn runs(&self, task: &Task) -> bool {
        task.ended_ns.is_none() && self.threads.contains_key(&task.tid)
    }

    pub fn sleeps(&self, sleeper: &Sleeping) -> bool {
        self.threads.contains_key(&sleeper.tid)
    }

    pub fn has_child(&self, child: &Child) -> bool {
        child.ended.is_none() && self.children.contains(&child.pid)
    }

    /// Whether any page of it is mapped.
    pub fn maps(&self, region: &Mapped) -> bool {
        let first = self.mapped.partition_point(|(_, end)| *end <= region.start);
        self.mapped.get(first).is_some_and(|(start, _)| *start < region.end)
    }

    pub fn compare(&self, record: &Record) -> Compared {
        let known: BTreeSet<i32> = record.descriptors.iter().map(|descriptor| descriptor.number).collect();
        let tasks: BTreeSet<u32> =
            record.threads.iter().filter(|task| task.ended_ns.is_none()).map(|task| task.tid).collect();
        let children: BTreeSet<i32> = record.children.iter().map(|child| child.pid).collect();
        Compared {
            unknown_descriptors: self
                .descriptors
                .keys()
                .copied()
                .filter(|number| !known.contains(number))
                .collect(),
            unknown_threads: self.threads.keys().copied().filter(|tid| !tasks.contains(tid)).collect(),
            unknown_children: self.children.iter().copied().filter(|pid| !children.contains(pid)).collect(),
        }
    }
}

/// Of several looks at one process.
impl Outside {
    /// What is open by the record only: number and time of its opening.
    pub fn gone(&self, record: &Record) -> BTreeSet<(i32, u64)> {
        let gone = record.descriptors.iter().filter(|descriptor| !self.has(descriptor));
        gone.map(|descriptor| (descriptor.number, descriptor.opened_ns)).collect()
    }

    /// Takes everything for open that is so by the record, but for these.
    pub fn believe(&mut self, record: &Record, gone: &BTreeSet<(i32, u64)>) {
        for descriptor in &record.descriptors {
            if !gone.contains(&(descriptor.number, descriptor.opened_ns)) {
                self.descriptors.entry(descriptor.number).or_insert(None);
            }
        }
    }

    /// What both have seen.
    pub fn in_common(&self, other: &Outside) -> Outside {
        let mut common = self.clone();
        common.descriptors.retain(|number, _| other.descriptors.contains_key(number));
        common.threads.retain(|tid, _| other.threads.contains_key(tid));
        common.children.retain(|pid| other.children.contains(pid));
        common
    }

    /// What either has seen; the second one where they differ.
    pub fn and(mut self, other: Outside) -> Outside {
        self.descriptors.extend(other.descriptors);
        self.threads.extend(other.threads);
        self.children.extend(other.children);
        self.mapped = other.mapped;
        self
    }
}
