//! Who looks at processes that stand still for what the engine knows nothing of.
//!
//! The engine does not know who that is, nor what it keeps: the binary supplies it. Nothing that it says can make a
//! checkpoint fail or a restored program differ, but for pages that it vouches nobody will read.

use brant_base::{PageRange, Pid, Tid};
use brant_image::model::*;

use crate::tree::Member;

/// Looks at processes of a tree, all but once while it is frozen. It only reads, and soon answers: the tree stands still meanwhile.
pub trait Beholder: Sync + std::fmt::Debug {
    /// What to keep of the process in the image, each with its name (`brant_image::Image::notes`).
    fn notes(&self, _process: &Beheld) -> Vec<(&'static str, Vec<u8>)> {
        Vec::new()
    }

    /// Private anonymous memory whose contents the program will not read again: the image holds nothing of it, and a restored
    /// program finds zeros there. What lies elsewhere is left out of account.
    fn unread(&self, _process: &Beheld) -> Vec<PageRange> {
        Vec::new()
    }

    /// Whether somebody is about to change one of these processes, by their numbers here, and will be done in a moment. As they
    /// are then, they would not go on elsewhere: the tree is let go, and frozen again.
    fn is_passing(&self, _processes: &[Pid]) -> bool {
        false
    }

    /// The threads of these processes, by their numbers here, that could not go on elsewhere as they stand, and can in another
    /// moment. They stand still.
    fn unsettled(&self, _processes: &[Pid]) -> Vec<Tid> {
        Vec::new()
    }
}

/// A process that stands still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beheld {
    /// A thread of it that has not ended, by its number here: where its memory is read.
    pub task: Pid,
    /// The process, by its number here.
    pub host: Pid,
    /// The number that it knows, and that the image has.
    pub pid: Pid,
}

/// For checkpoints that nobody looks at.
#[derive(Debug)]
pub struct Nobody;

impl Beholder for Nobody {}

/// What a beholder has said of one process.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) notes: Vec<(&'static str, Vec<u8>)>,
    /// Sorted and disjoint, and private anonymous memory all of it.
    pub(crate) unread: Vec<PageRange>,
}

/// Asks of one process.
pub(crate) fn ask(beholder: &dyn Beholder, member: &Member, space: &AddressSpace) -> Said {
    let beheld = Beheld { task: member.task(), host: member.host, pid: member.pid };
    let mut notes = beholder.notes(&beheld);
    // A note that an image cannot hold is no reason to have no image.
    notes.retain(|(_, bytes)| bytes.len() as u64 + 64 <= brant_image::container::NOTE_BYTES_MAX);
    Said { notes, unread: anonymous(beholder.unread(&beheld), space) }
}

/// The parts of `ranges`, in any order, in which pages that are missing from an image are zeros.
fn anonymous(mut ranges: Vec<PageRange>, space: &AddressSpace) -> Vec<PageRange> {
    ranges.sort_unstable_by_key(|range| range.start());
    let of_zeros =
        |mapping: &&Mapping| mapping.backing == Backing::Anonymous && mapping.sharing == Sharing::Private;
    let mappings: Vec<PageRange> =
        space.mappings.iter().filter(of_zeros).map(|mapping| mapping.range).collect();
    let mut found: Vec<PageRange> = Vec::new();
    for range in ranges {
        // Ranges may overlap: what has been found already is left out.
        let from = found.last().map_or(range.start(), |last| last.end().max(range.start()));
        let Ok(range) = PageRange::new(from.0, range.end().0.max(from.0)) else { continue };
        let first = mappings.partition_point(|mapping| mapping.end() <= range.start());
        let touched = mappings[first..].iter().take_while(|mapping| mapping.start() < range.end());
        found.extend(touched.filter_map(|mapping| mapping.intersection(range)));
    }
    found
}

/// `runs` without `unread`; both are sorted and disjoint.
pub(crate) fn without(runs: Vec<PageRange>, unread: &[PageRange]) -> Vec<PageRange> {
    let mut left = Vec::with_capacity(runs.len());
    for run in runs {
        let mut from = run.start().0;
        let first = unread.partition_point(|hole| hole.end() <= run.start());
        for hole in unread[first..].iter().take_while(|hole| hole.start() < run.end()) {
            left.extend(PageRange::new(from, hole.start().0.max(from)));
            from = hole.end().0;
        }
        left.extend(PageRange::new(from, run.end().0.max(from)));
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(pages: &[(u64, u64)]) -> Vec<PageRange> {
        pages.iter().map(|(from, to)| PageRange::new(from << 12, to << 12).unwrap()).collect()
    }

    fn space(mappings: &[(u64, u64, Backing, Sharing)]) -> AddressSpace {
        let mapping = |(from, to, backing, sharing): &(u64, u64, Backing, Sharing)| Mapping {
            range: PageRange::new(from << 12, to << 12).unwrap(),
            protection: Protection { read: true, write: true, execute: false },
            sharing: *sharing,
            backing: *backing,
            flags: MappingFlags::default(),
            name: None,
        };
        AddressSpace { mappings: mappings.iter().map(mapping).collect(), ..Default::default() }
    }

    #[test]
    fn only_private_anonymous_memory_is_left_out() {
        let space = space(&[
            (10, 20, Backing::Anonymous, Sharing::Private),
            (20, 22, Backing::Vvar, Sharing::Private),
            (22, 30, Backing::Anonymous, Sharing::Private),
            (40, 50, Backing::Anonymous, Sharing::Shared),
        ]);
        let said = ranges(&[(23, 24), (8, 12), (11, 14), (18, 26), (44, 45), (60, 70), (23, 25)]);
        assert_eq!(anonymous(said, &space), ranges(&[(10, 12), (12, 14), (18, 20), (22, 26)]));
    }

    #[test]
    fn runs_have_holes() {
        let holes = ranges(&[(1, 3), (5, 6), (8, 12), (20, 21)]);
        let left = without(ranges(&[(0, 2), (4, 10), (11, 13), (15, 16), (20, 21), (30, 31)]), &holes);
        assert_eq!(left, ranges(&[(0, 1), (4, 5), (6, 8), (12, 13), (15, 16), (30, 31)]));
        assert_eq!(without(ranges(&[(0, 2)]), &[]), ranges(&[(0, 2)]));
    }
}
