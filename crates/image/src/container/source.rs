//! Writing much memory at once: packs are read, compressed and hashed by several threads, and written in order.
//!
//! Every thread reads pages straight into the pack that it seals; only the caller's own thread writes. The threads end with the
//! call: when it returns, nothing reads from the source any more.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard};

use brant_base::PAGE_SIZE;

use super::codec::{Codec, Compressor};
use super::pack::{OpenPack, SealedPack, is_zero_page};
use super::runs::IndexEntry;
use super::write::Writer;
use super::{PACK_BYTES_MAX, PACK_RUNS_MAX};
use crate::ImageError;
use crate::model::PageOwner;

/// Where pages come from. It is read from several threads.
pub trait PageSource: Sync {
    /// Fills `into`, whole pages, with those from page `first_page` on.
    fn read(&self, first_page: u64, into: &mut [u8]) -> io::Result<()>;
}

/// Consecutive pages that a [`PageSource`] has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceRun {
    pub first_page: u64,
    pub pages: u64,
    /// Record those that are zero; else they are left out.
    pub keep_zeros: bool,
}

const PACK_PAGES_MAX: u64 = PACK_BYTES_MAX / PAGE_SIZE;
const THREADS_MAX: usize = 8;
/// Packs that are sealed and not yet written, for each thread.
const PACKS_AHEAD_MAX: usize = 3;

/// The pages of one pack.
type Job = Vec<SourceRun>;

impl<W: io::Write> Writer<W> {
    /// Adds all pages of `runs`, which are the owner's, from `source`. No page may be added twice.
    pub fn pages_from(
        &mut self,
        owner: PageOwner,
        runs: &[SourceRun],
        source: &impl PageSource,
    ) -> Result<(), ImageError> {
        for run in runs {
            let SourceRun { first_page, pages, .. } = *run;
            self.bounds.check(&IndexEntry { owner, first_page, pages, zero: false })?;
        }
        let jobs = split(runs);
        // A few packs are not worth a thread, and small processes share one.
        if jobs.len() < 2 {
            return jobs.iter().try_for_each(|job| self.read_into_open(owner, job, source));
        }
        self.seal_open()?;
        let threads = std::thread::available_parallelism().map_or(1, |count| count.get().min(THREADS_MAX));
        let line = Line { owner, jobs: &jobs, codec: self.codec(), ahead_max: threads * PACKS_AHEAD_MAX };
        let shared = Shared::default();
        std::thread::scope(|scope| {
            // However this ends: no thread waits on for room.
            let _over = Over(&shared);
            for _ in 0..threads {
                shared.lock().threads += 1;
                let work = || line.work(source, &shared);
                if std::thread::Builder::new().name("brant-pack".into()).spawn_scoped(scope, work).is_err() {
                    shared.lock().threads -= 1;
                    break;
                }
            }
            for (number, job) in jobs.iter().enumerate() {
                match shared.take(number) {
                    Some(sealed) => {
                        let buffers = self.write_sealed(sealed?)?;
                        shared.lock().spare.extend(buffers);
                    }
                    // There are no threads: none could be had.
                    None => self.read_into_open(owner, job, source)?,
                }
            }
            Ok(())
        })
    }

    fn read_into_open(
        &mut self,
        owner: PageOwner,
        job: &Job,
        source: &impl PageSource,
    ) -> Result<(), ImageError> {
        let mut pack = OpenPack::default();
        pack.read(owner, job, source)?;
        self.append(&pack)
    }
}

/// Cuts runs into packs.
fn split(runs: &[SourceRun]) -> Vec<Job> {
    let mut jobs = Vec::new();
    let (mut job, mut room) = (Job::new(), PACK_PAGES_MAX);
    for run in runs {
        let mut rest = *run;
        while rest.pages > 0 {
            let now = rest.pages.min(room);
            job.push(SourceRun { pages: now, ..rest });
            rest.first_page += now;
            rest.pages -= now;
            room -= now;
            if room == 0 {
                jobs.push(std::mem::take(&mut job));
                room = PACK_PAGES_MAX;
            }
        }
    }
    if !job.is_empty() {
        jobs.push(job);
    }
    jobs
}

// Each page of a pack begins a run at most.
const _: () = assert!(PACK_PAGES_MAX <= PACK_RUNS_MAX as u64);

impl OpenPack {
    /// Reads the pages of a job and leaves out those that are zero. What `bytes` holds before is only memory to be used.
    fn read(&mut self, owner: PageOwner, job: &Job, source: &impl PageSource) -> Result<(), ImageError> {
        const PAGE: usize = PAGE_SIZE as usize;
        let bytes_max = job.iter().map(|run| run.pages as usize * PAGE).sum();
        if self.bytes.len() < bytes_max {
            self.bytes.resize(bytes_max, 0);
        }
        let mut kept = 0;
        for run in job {
            let SourceRun { first_page, pages, .. } = *run;
            let start = kept;
            source
                .read(first_page, &mut self.bytes[start..start + pages as usize * PAGE])
                .map_err(|error| ImageError::Source { owner, first_page, error })?;
            for page in 0..run.pages {
                let at = start + page as usize * PAGE;
                let zero = is_zero_page(&self.bytes[at..at + PAGE]);
                if !zero || run.keep_zeros {
                    self.push(IndexEntry { owner, first_page: run.first_page + page, pages: 1, zero });
                }
                if !zero {
                    if kept != at {
                        self.bytes.copy_within(at..at + PAGE, kept);
                    }
                    kept += PAGE;
                }
            }
        }
        self.bytes.truncate(kept);
        Ok(())
    }
}

/// What the threads work at.
struct Line<'a> {
    owner: PageOwner,
    jobs: &'a [Job],
    codec: Codec,
    ahead_max: usize,
}

impl Line<'_> {
    /// Seals one pack after the other until none is left or nobody wants them any more.
    fn work(&self, source: &impl PageSource, shared: &Shared) {
        let _leaving = Leaving(shared);
        let mut compressor = Compressor::new(self.codec);
        while let Some((number, buffer)) = shared.next(self.jobs.len(), self.ahead_max) {
            let mut pack = OpenPack { entries: Vec::new(), bytes: buffer };
            let read = pack.read(self.owner, &self.jobs[number], source);
            // Without an index there is nothing to write.
            let sealed = read.map(|()| pack.seal(&mut compressor, shared.lock().shortest()));
            shared.lock().done.insert(number, sealed);
            shared.changed.notify_all();
        }
    }
}

/// What the threads and the caller tell each other.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// How many threads there are.
    threads: usize,
    /// The job that the next thread takes.
    next: usize,
    /// The job whose pack is written next.
    wanted: usize,
    done: BTreeMap<usize, Result<SealedPack, ImageError>>,
    /// Memory to be used again.
    spare: Vec<Vec<u8>>,
    is_over: bool,
}

impl State {
    /// For what is read: growing memory means to zero it first.
    fn longest(&mut self) -> Option<Vec<u8>> {
        self.spare.sort_unstable_by_key(Vec::len);
        self.spare.pop()
    }

    /// For what is compressed.
    fn shortest(&mut self) -> Option<Vec<u8>> {
        self.spare.sort_unstable_by_key(|buffer| std::cmp::Reverse(buffer.len()));
        self.spare.pop()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// For a thread: a job and memory for it, as soon as it is not too far ahead.
    fn next(&self, jobs: usize, ahead_max: usize) -> Option<(usize, Vec<u8>)> {
        let mut state = self.lock();
        loop {
            if state.is_over || state.next == jobs {
                return None;
            }
            if state.next < state.wanted + ahead_max {
                break;
            }
            state = self.wait(state);
        }
        let number = state.next;
        state.next += 1;
        Some((number, state.longest().unwrap_or_default()))
    }

    /// For the caller: what became of this job; `None` where there is no thread that could do it.
    fn take(&self, number: usize) -> Option<Result<SealedPack, ImageError>> {
        let mut state = self.lock();
        state.wanted = number;
        self.changed.notify_all();
        loop {
            if let Some(sealed) = state.done.remove(&number) {
                return Some(sealed);
            }
            if state.threads == 0 {
                return None;
            }
            state = self.wait(state);
        }
    }
}

/// Tells the threads, when it is dropped, that nobody waits for packs any more.
struct Over<'a>(&'a Shared);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.lock().is_over = true;
        self.0.changed.notify_all();
    }
}

/// Tells the caller, when it is dropped, that there is a thread less.
struct Leaving<'a>(&'a Shared);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.lock().threads -= 1;
        self.0.changed.notify_all();
    }
}
