//! The contents of private memory: packs are read, verified and decoded by several threads, and written into place.
//!
//! Only memory is touched by the threads; the tracer's own thread, which ptrace is bound to, meanwhile makes huge pages
//! for what will be filled wholly, ahead of them. Where the host gives huge pages only to who asks, asking by
//! MADV_HUGEPAGE would leave a mark on the mapping that nothing takes off again, so MADV_COLLAPSE (Linux 6.1) makes them:
//! one byte is written so that there is a page, and the kernel puts a huge one in its place. That is an attempt: what is refused is
//! filled in small pages.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use brant_base::{Addr, PAGE_SIZE, Pid};
use brant_image::model::{Backing, Mapping, PageOwner, ProcessBody, Sharing};
use brant_image::{Image, Pack, PackRun, PageContent, Run};
use brant_kernel::facts::{self, HugePages};
use brant_kernel::remote::{Call, Memory, Puppet};

use super::memory::is_kernels;
use crate::Error;

const THREADS_MAX: usize = 8;
/// Packs for which huge pages are made at a time: 64 MiB at most.
const GROUP_PACKS: usize = 64;
/// A group that takes longer than this gains nothing: memory is fragmented or short.
const GROUP_TIME_MAX: Duration = Duration::from_millis(250);
const HUGE_BYTES: u64 = 2 << 20;
const MADV_COLLAPSE: u64 = 25;

/// Fills the private memory of all processes.
pub(crate) fn fill(image: &Image, puppets: &mut BTreeMap<Pid, Puppet>) -> Result<(), Error> {
    let mut targets = BTreeMap::new();
    for process in &image.checkpoint().processes {
        let (Some(body), Some(puppet)) = (&process.body, puppets.get(&process.pid)) else { continue };
        let memory = puppet.open_memory().map_err(Error::builder("opening a process's memory"))?;
        targets.insert(process.pid, Target { pid: process.pid, memory, mappings: &body.memory.mappings });
    }
    let work = Work { image, targets, next: AtomicUsize::new(0), is_over: AtomicBool::new(false) };
    let packs = image.pack_count();
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get().min(THREADS_MAX));
    // Little memory is filled sooner than threads are made.
    if packs < 2 * threads || threads < 2 {
        return work.fill(&Released::all());
    }
    let released = Released::default();
    std::thread::scope(|scope| {
        let spawn = |_| {
            let fill = || work.fill(&released);
            std::thread::Builder::new().name("brant-fill".into()).spawn_scoped(scope, fill).ok()
        };
        let workers: Vec<_> = (0..threads).map_while(spawn).collect();
        // However this ends: no thread waits on.
        let all = ReleaseAll(&released);
        make_huge_pages(&work, puppets, &released);
        drop(all);
        if workers.is_empty() {
            work.fill(&released)?;
        }
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        results.into_iter().try_for_each(|result| result.expect("filling does not panic"))
    })
}

/// What the threads share.
struct Work<'i> {
    image: &'i Image,
    targets: BTreeMap<Pid, Target<'i>>,
    /// The pack that the next thread takes.
    next: AtomicUsize,
    /// One of the threads has failed.
    is_over: AtomicBool,
}

impl Work<'_> {
    /// Fills from one pack after the other until none is left.
    fn fill(&self, released: &Released) -> Result<(), Error> {
        let mut pack = Pack::default();
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.image.pack_count() || self.is_over.load(Ordering::Relaxed) {
                return Ok(());
            }
            released.wait_for(index);
            let filled = self.fill_from(index, &mut pack);
            if filled.is_err() {
                self.is_over.store(true, Ordering::Relaxed);
                return filled;
            }
        }
    }

    fn fill_from(&self, index: usize, pack: &mut Pack) -> Result<(), Error> {
        self.image.read_pack(index, pack)?;
        for run in pack.runs() {
            if let PageOwner::Process(pid) = run.owner
                && let Some(target) = self.targets.get(&pid)
            {
                target.write(&run)?;
            }
        }
        Ok(())
    }
}

/// How many packs may be filled from by now.
#[derive(Default)]
struct Released {
    packs: Mutex<usize>,
    more: Condvar,
}

impl Released {
    fn all() -> Released {
        Released { packs: Mutex::new(usize::MAX), more: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.packs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn up_to(&self, packs: usize) {
        *self.lock() = packs;
        self.more.notify_all();
    }

    fn wait_for(&self, pack: usize) {
        let mut packs = self.lock();
        while *packs <= pack {
            packs = self.more.wait(packs).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Lets the threads have all packs when it is dropped.
struct ReleaseAll<'a>(&'a Released);

impl Drop for ReleaseAll<'_> {
    fn drop(&mut self) {
        self.0.up_to(usize::MAX);
    }
}

/// Makes huge pages where all of one is in the image, group by group of packs, and releases these. Ends as soon as it
/// does not succeed; nothing depends on it.
fn make_huge_pages(work: &Work<'_>, puppets: &mut BTreeMap<Pid, Puppet>, released: &Released) {
    if facts::huge_pages() != Some(HugePages::Advised) {
        return;
    }
    let groups = whole_blocks(work.image);
    for number in 0..work.image.pack_count().div_ceil(GROUP_PACKS) {
        if work.is_over.load(Ordering::Relaxed) {
            return;
        }
        let begin = Instant::now();
        for (pid, blocks) in groups.get(&number).into_iter().flatten() {
            let (Some(target), Some(puppet)) = (work.targets.get(pid), puppets.get_mut(pid)) else {
                continue;
            };
            if !collapse(target, puppet, blocks) {
                return;
            }
        }
        if begin.elapsed() > GROUP_TIME_MAX {
            return;
        }
        released.up_to((number + 1) * GROUP_PACKS);
    }
}

/// Makes huge pages at all of `blocks`, which are sorted; whether the kernel did.
fn collapse(target: &Target<'_>, puppet: &mut Puppet, blocks: &[u64]) -> bool {
    let mut calls: Vec<Call> = Vec::new();
    for &at in blocks {
        if target.memory.write(Addr(at), &[0]).is_err() {
            return false;
        }
        match calls.last_mut() {
            Some(call) if call.arguments[0] + call.arguments[1] == at => call.arguments[1] += HUGE_BYTES,
            _ => calls.push(Call::new(libc::SYS_madvise, &[at, HUGE_BYTES, MADV_COLLAPSE])),
        }
    }
    puppet.batch(&calls).is_ok_and(|results| results.iter().all(|result| *result == 0))
}

/// The addresses of blocks, by process, by the group of packs that holds their beginning.
type Groups = BTreeMap<usize, BTreeMap<Pid, Vec<u64>>>;

/// Blocks of the size of a huge page, all pages of which are in the image, in anonymous memory that may have one.
fn whole_blocks(image: &Image) -> Groups {
    let mut groups = Groups::new();
    for process in &image.checkpoint().processes {
        let Some(body) = &process.body else { continue };
        let runs: Vec<Run> = image.runs(PageOwner::Process(process.pid)).filter(|run| !run.zero).collect();
        for (at, pack) in blocks_of(body, &runs) {
            groups.entry(pack / GROUP_PACKS).or_default().entry(process.pid).or_default().push(at);
        }
    }
    groups
}

/// As [`whole_blocks`], of one process with these sorted runs: addresses, and the pack of the first page.
fn blocks_of(body: &ProcessBody, runs: &[Run]) -> Vec<(u64, usize)> {
    if body.thp_disabled {
        return Vec::new();
    }
    let mut blocks = Vec::new();
    for mapping in body.memory.mappings.iter().filter(|mapping| may_be_huge(mapping)) {
        let mut at = mapping.range.start().0.next_multiple_of(HUGE_BYTES);
        while at + HUGE_BYTES <= mapping.range.end().0 {
            if let Some(pack) = covering_pack(runs, at / PAGE_SIZE, (at + HUGE_BYTES) / PAGE_SIZE) {
                blocks.push((at, pack));
            }
            at += HUGE_BYTES;
        }
    }
    blocks
}

/// Memory that is advised for huge pages gets them by itself; locked memory is there already, in small ones.
fn may_be_huge(mapping: &Mapping) -> bool {
    let flags = mapping.flags;
    mapping.backing == Backing::Anonymous
        && mapping.sharing == Sharing::Private
        && mapping.protection.write
        && !(flags.huge_page || flags.no_huge_page || flags.locked || flags.grows_down || flags.droppable)
}

/// The pack that holds page `first`, where the pages from there to `end` are all in runs.
fn covering_pack(runs: &[Run], first: u64, end: u64) -> Option<usize> {
    let index = runs.partition_point(|run| run.first_page + run.pages <= first);
    let mut covered = first;
    for run in &runs[index..] {
        if run.first_page > covered {
            return None;
        }
        covered = run.first_page + run.pages;
        if covered >= end {
            return Some(runs[index].pack);
        }
    }
    None
}

/// Where the pages of one process go.
struct Target<'i> {
    pid: Pid,
    memory: Memory,
    mappings: &'i [Mapping],
}

impl Target<'_> {
    /// Writes one run of pages, mapping by mapping.
    fn write(&self, run: &PackRun<'_>) -> Result<(), Error> {
        let (start, end) = (run.first_page * PAGE_SIZE, (run.first_page + run.content.pages()) * PAGE_SIZE);
        let first = self.mappings.partition_point(|mapping| mapping.range.end().0 <= start);
        for mapping in self.mappings[first..].iter().take_while(|mapping| mapping.range.start().0 < end) {
            let from = start.max(mapping.range.start().0);
            let to = end.min(mapping.range.end().0);
            if from >= to || mapping.sharing == Sharing::Shared || is_kernels(mapping) {
                continue;
            }
            let written = match run.content {
                PageContent::Bytes(bytes) => {
                    let part = &bytes[(from - start) as usize..(to - start) as usize];
                    self.write_part(mapping, from, part)
                }
                // Fresh anonymous memory is zero by itself.
                PageContent::Zero { .. } if mapping.backing == Backing::Anonymous => Ok(()),
                PageContent::Zero { .. } => self.write_zeros(mapping, from, to),
            };
            written.map_err(|error| Error::Contents { pid: self.pid, at: Addr(from), error })?;
        }
        Ok(())
    }

    fn write_part(&self, mapping: &Mapping, at: u64, bytes: &[u8]) -> std::io::Result<()> {
        if mapping.protection.write {
            self.memory.write(Addr(at), bytes)
        } else {
            self.memory.write_by_force(Addr(at), bytes)
        }
    }

    fn write_zeros(&self, mapping: &Mapping, mut from: u64, to: u64) -> std::io::Result<()> {
        static ZEROS: [u8; 65536] = [0; 65536];
        while from < to {
            let length = ZEROS.len().min((to - from) as usize);
            self.write_part(mapping, from, &ZEROS[..length])?;
            from += length as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first_page: u64, pages: u64, pack: usize) -> Run {
        Run { first_page, pages, zero: false, pack, offset: 0 }
    }

    #[test]
    fn a_block_is_whole_or_not() {
        let runs = [run(0, 256, 4), run(256, 300, 7), run(600, 1000, 8)];
        assert_eq!(covering_pack(&runs, 0, 512), Some(4));
        assert_eq!(covering_pack(&runs, 300, 556), Some(7));
        assert_eq!(covering_pack(&runs, 300, 557), None);
        assert_eq!(covering_pack(&runs, 560, 700), None);
        assert_eq!(covering_pack(&runs, 600, 1600), Some(8));
        assert_eq!(covering_pack(&runs, 600, 1601), None);
        assert_eq!(covering_pack(&[], 0, 1), None);
    }
}
