//! After a save that was asked for it: the groups that were read are mapped from the image, copy-on-write, as a load maps them. Then the kernel
//! tells which pages were written since, and the next save reads those alone.
//!
//! The image is durable by then, and what is mapped is what lies there already: so wherever this ends, be it by a kill, each group is its
//! own memory or the file's, with the same bytes. What the kernel does not map stays as it is, and the next save reads it.
//!
//! Groups of the header, slots and entries are never mapped: they are few, and written all the time.

use std::sync::atomic::Ordering::{Relaxed, Release};

use super::format::{GROUP_BYTES, u32_at, u64_at};
use crate::core::Core;
use crate::error::Error;
use crate::system::{self, Buffer, File, Replaced};

const RUN_BYTES: usize = 24;
/// What a run has for its place in the file where it is all zero: no group lies there.
const ZERO: u64 = 0;

/// Groups that follow each other in a heap and in the file.
#[derive(Clone, Copy)]
struct Run {
    base: usize,
    group: u32,
    groups: u32,
    offset: u64,
}

impl Run {
    fn bytes(&self) -> usize {
        self.groups as usize * GROUP_BYTES
    }

    fn is_followed_by(&self, next: &Run) -> bool {
        let offset = if self.offset == ZERO { ZERO } else { self.offset + self.bytes() as u64 };
        self.base == next.base && self.group + self.groups == next.group && offset == next.offset
    }
}

/// The runs of a save, in the order in which they were read.
pub(super) struct Runs {
    buffer: Option<Buffer>,
    len: usize,
    last: Option<Run>,
}

impl Runs {
    /// Room for so many groups; for none where nothing is to be mapped.
    pub(super) fn new(groups_max: Option<usize>) -> Result<Runs, Error> {
        let buffer = groups_max.map(|groups| Buffer::new(groups * RUN_BYTES)).transpose()?;
        Ok(Runs { buffer, len: 0, last: None })
    }

    /// A group that was read, and where it lies in the file; nowhere if it is all zero.
    pub(super) fn group(&mut self, base: usize, group: u32, offset: Option<u64>) {
        if self.buffer.is_none() {
            return;
        }
        let next = Run { base, group, groups: 1, offset: offset.unwrap_or(ZERO) };
        match &mut self.last {
            Some(last) if last.is_followed_by(&next) => last.groups += 1,
            _ => {
                self.flush();
                self.last = Some(next);
            }
        }
    }

    fn flush(&mut self) {
        if let (Some(last), Some(buffer)) = (self.last.take(), &mut self.buffer) {
            let room = &mut buffer[self.len * RUN_BYTES..][..RUN_BYTES];
            room[..8].copy_from_slice(&(last.base as u64).to_le_bytes());
            room[8..12].copy_from_slice(&last.group.to_le_bytes());
            room[12..16].copy_from_slice(&last.groups.to_le_bytes());
            room[16..].copy_from_slice(&last.offset.to_le_bytes());
            self.len += 1;
        }
    }

    /// Maps what was read of a heap; tells how many bytes. The image is durable, and the heap's locks are held.
    pub(super) fn map(&mut self, core: Core, file: &File) -> u64 {
        self.flush();
        let Some(buffer) = &self.buffer else { return 0 };
        if !has_table(core) {
            return 0;
        }
        let runs = buffer.chunks_exact(RUN_BYTES).take(self.len).map(|bytes| Run {
            base: u64_at(bytes, 0) as usize,
            group: u32_at(bytes, 8),
            groups: u32_at(bytes, 12),
            offset: u64_at(bytes, 16),
        });
        let mut mapped = 0;
        for run in runs.filter(|run| run.base == core.address()) {
            if !map_run(core, file, &run) {
                break;
            }
            mapped += run.bytes() as u64;
        }
        mapped
    }
}

/// Makes the table of groups that are a file's, if the heap has none yet.
fn has_table(core: Core) -> bool {
    if core.process.backed.load(Relaxed).is_null() {
        let Ok(table) = Buffer::new(core.range_bytes.get() / GROUP_BYTES) else { return false };
        core.process.backed.store(table.leak().cast(), Release);
    }
    true
}

/// Puts the file in the place of one run, or gives memory back that is all zero. `false` where the kernel does no more; then the run is its own
/// memory as before.
fn map_run(core: Core, file: &File, run: &Run) -> bool {
    let at = run.base + run.group as usize * GROUP_BYTES;
    if run.offset == ZERO {
        let backed = core.backed(at, run.bytes());
        // SAFETY: it is all zero already, and nobody uses the heap.
        let is_done = unsafe { system::discard(at, run.bytes(), backed.is_empty()) };
        if is_done {
            backed.iter().for_each(|byte| byte.store(0, Relaxed));
        }
        return is_done;
    }
    // SAFETY: the file holds what lies there, and nobody uses the heap.
    match unsafe { system::replace_by_file(at, run.bytes(), file, run.offset) } {
        Replaced::Done => {
            core.mark_backed(at, run.bytes());
            true
        }
        Replaced::Untouched => false,
        Replaced::Unknown => {
            fetch(at, run.bytes(), file, run.offset);
            false
        }
    }
}

/// Memory of its own again, with what the file holds. The program cannot go on without.
fn fetch(at: usize, bytes: usize, file: &File, offset: u64) {
    // SAFETY: what lay there is in the file, and nobody uses the heap.
    let is_fresh = unsafe { system::discard(at, bytes, false) };
    if is_fresh {
        // SAFETY: mapped just now, readable and writable, and nobody else uses it.
        let memory = unsafe { std::slice::from_raw_parts_mut(at as *mut u8, bytes) };
        if file.read_at(memory, offset) == Ok(bytes) {
            return;
        }
    }
    system::say(
        b"brant-heap: the kernel took memory of a heap away while it was saved; the image is whole\n",
    );
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::Path;

    #[test]
    fn runs_are_joined() {
        let mut runs = Runs::new(Some(8)).unwrap();
        let place = |group: u64| Some(12288 + group * GROUP_BYTES as u64);
        for (group, offset) in
            [(1, None), (2, None), (3, place(0)), (4, place(1)), (6, place(2)), (7, place(9))]
        {
            runs.group(1 << 40, group, offset);
        }
        runs.flush();
        let buffer = runs.buffer.as_ref().unwrap();
        let found: Vec<(u32, u32)> = (0..runs.len)
            .map(|number| &buffer[number * RUN_BYTES..][..RUN_BYTES])
            .map(|bytes| (u32_at(bytes, 8), u32_at(bytes, 12)))
            .collect();
        assert_eq!(found, [(1, 2), (3, 2), (6, 1), (7, 1)]);
        let mut none = Runs::new(None).unwrap();
        none.group(1 << 40, 1, None);
        none.flush();
        assert_eq!(none.len, 0);
    }

    #[test]
    fn what_was_taken_away_is_fetched() {
        let path = std::env::temp_dir().join(format!("brant-heap-fetch-{}", std::process::id()));
        std::fs::write(&path, vec![7; 3 * GROUP_BYTES]).unwrap();
        let file = File::open_for_reading(&Path::new(&path).unwrap()).unwrap();
        std::fs::remove_file(&path).unwrap();
        let buffer = Buffer::new(2 * GROUP_BYTES).unwrap();
        fetch(buffer.as_ptr() as usize, 2 * GROUP_BYTES, &file, GROUP_BYTES as u64);
        assert!(buffer.iter().all(|byte| *byte == 7));
    }
}
