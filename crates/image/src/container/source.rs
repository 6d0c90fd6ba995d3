//! Writing much memory at once: packs are read, compressed and hashed by several threads, and written in order.
//!
//! Every thread reads pages straight into the pack that it seals. Only the caller's own thread writes; it seals packs as the others do
//! while the next one to write is not there yet, so that there are no more threads than processors. The threads end with
//! the call: when it returns, nothing reads from the source any more.

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
/// Threads that seal packs, the caller's own among them.
const WORKERS_MAX: usize = 8;
/// Packs that are sealed and not yet written, for each of them.
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
        let workers = std::thread::available_parallelism().map_or(1, |count| count.get().min(WORKERS_MAX));
        let line = Line { owner, jobs: &jobs, codec: self.codec(), ahead_max: workers * PACKS_AHEAD_MAX };
        let shared = Shared::default();
        std::thread::scope(|scope| {
            // However this ends: no thread waits on for room.
            let _over = Over(&shared);
            for _ in 1..workers {
                let work = || line.work(source, &shared);
                // Without them the caller's own thread does it all.
                let _ = std::thread::Builder::new().name("brant-pack".into()).spawn_scoped(scope, work);
            }
            self.write_in_order(&line, source, &shared)
        })
    }

    /// Writes one pack after the other, and seals packs itself while the next one is not there yet.
    fn write_in_order(
        &mut self,
        line: &Line<'_>,
        source: &impl PageSource,
        shared: &Shared,
    ) -> Result<(), ImageError> {
        let mut compressor = Compressor::new(line.codec);
        let mut wanted = 0;
        while wanted < line.jobs.len() {
            match shared.turn(wanted, line) {
                Turn::Write(sealed) => {
                    let buffers = self.write_sealed(sealed?)?;
                    shared.lock().spare.extend(buffers);
                    wanted += 1;
                }
                Turn::Seal(number, buffer) => line.seal(number, buffer, &mut compressor, source, shared),
            }
        }
        Ok(())
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
        while let Some((number, buffer)) = shared.next(self) {
            self.seal(number, buffer, &mut compressor, source, shared);
        }
    }

    /// Reads and seals pack `number`, and hands it to the caller. `buffer` is memory for what is read.
    fn seal(
        &self,
        number: usize,
        buffer: Vec<u8>,
        compressor: &mut Compressor,
        source: &impl PageSource,
        shared: &Shared,
    ) {
        let mut pack = OpenPack { entries: Vec::new(), bytes: buffer };
        let read = pack.read(self.owner, &self.jobs[number], source);
        // Without an index there is nothing to write.
        let sealed = read.map(|()| pack.seal(compressor, shared.lock().shortest()));
        let mut state = shared.lock();
        state.done.insert(number, sealed);
        if number == state.wanted {
            shared.ready.notify_one();
        }
    }
}

/// What the threads and the caller tell each other.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// For threads: there may be room for a further pack.
    room: Condvar,
    /// For the caller: the pack that it waits for may be there.
    ready: Condvar,
}

#[derive(Default)]
struct State {
    /// The job that the next thread takes.
    next: usize,
    /// The job whose pack is written next.
    wanted: usize,
    done: BTreeMap<usize, Result<SealedPack, ImageError>>,
    /// Memory to be used again.
    spare: Vec<Vec<u8>>,
    is_over: bool,
    /// A thread panicked; its pack will never be there.
    is_lost: bool,
}

impl State {
    /// The next job and memory for it, where it is not too far ahead.
    fn take(&mut self, line: &Line<'_>) -> Option<(usize, Vec<u8>)> {
        let is_free = self.next < line.jobs.len() && self.next < self.wanted + line.ahead_max;
        is_free.then(|| {
            self.next += 1;
            (self.next - 1, self.longest().unwrap_or_default())
        })
    }

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

/// What the caller does next.
enum Turn {
    Write(Result<SealedPack, ImageError>),
    /// Seal the pack of this number, with this memory.
    Seal(usize, Vec<u8>),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// For a thread: a job, as soon as it is not too far ahead.
    fn next(&self, line: &Line<'_>) -> Option<(usize, Vec<u8>)> {
        let mut state = self.lock();
        while !state.is_over && state.next < line.jobs.len() {
            if let Some(job) = state.take(line) {
                return Some(job);
            }
            state = self.room.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        None
    }

    /// For the caller: pack `wanted`, or a job to do until it is there.
    ///
    /// # Panics
    /// Where a thread did.
    fn turn(&self, wanted: usize, line: &Line<'_>) -> Turn {
        let mut state = self.lock();
        if state.wanted != wanted {
            state.wanted = wanted;
            self.room.notify_one();
        }
        loop {
            if let Some(sealed) = state.done.remove(&wanted) {
                return Turn::Write(sealed);
            }
            if let Some((number, buffer)) = state.take(line) {
                return Turn::Seal(number, buffer);
            }
            assert!(!state.is_lost, "a thread that seals packs panicked");
            state = self.ready.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }
}

/// Tells the threads, when it is dropped, that nobody waits for packs any more.
struct Over<'a>(&'a Shared);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.lock().is_over = true;
        self.0.room.notify_all();
    }
}

/// Tells the caller, when it is dropped in a panic, that a pack will be missing.
struct Leaving<'a>(&'a Shared);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().is_lost = true;
            self.0.ready.notify_one();
        }
    }
}
