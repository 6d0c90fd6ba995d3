//! Nanoseconds for one block: allocated, written at its first and last byte, freed. It is processor time, the kernel's included, divided by the
//! threads: what else the machine does, does not count.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::mpsc;

use crate::{NAMES, with_allocator};

const ROUNDS: usize = 15;

/// Processor time of this process, in seconds.
pub(crate) fn spent() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Sizes as programs ask for: most of them small.
    pub(crate) fn size(&mut self) -> usize {
        let next = self.next();
        match next % 16 {
            0 => 16 + (next >> 8) as usize % 4000,
            1..=4 => 16 + (next >> 8) as usize % 500,
            _ => 16 + (next >> 8) as usize % 112,
        }
    }
}

fn allocate<A: GlobalAlloc>(allocator: &A, bytes: usize) -> *mut u8 {
    let block = unsafe { allocator.alloc(Layout::from_size_align_unchecked(bytes, 16)) };
    unsafe {
        block.write(1);
        block.add(bytes - 1).write(1);
    }
    block
}

fn free<A: GlobalAlloc>(allocator: &A, block: *mut u8, bytes: usize) {
    unsafe { allocator.dealloc(block, Layout::from_size_align_unchecked(bytes, 16)) };
}

/// One block after the other, freed at once.
fn pairs<A: GlobalAlloc>(allocator: &A, seed: u64) -> u64 {
    const COUNT: u64 = 4_000_000;
    let mut random = Random(seed);
    let sizes: Vec<usize> = (0..1024).map(|_| random.size()).collect();
    for number in 0..COUNT as usize {
        let bytes = sizes[number % 1024];
        let block = allocate(allocator, bytes);
        free(allocator, std::hint::black_box(block), bytes);
    }
    COUNT
}

/// Many blocks, then all of them freed in the order of their birth.
fn batches<A: GlobalAlloc>(allocator: &A, seed: u64) -> u64 {
    const BATCH: usize = 20_000;
    const COUNT: usize = 50;
    let mut random = Random(seed);
    let mut blocks = Vec::with_capacity(BATCH);
    let sizes: Vec<usize> = (0..BATCH).map(|_| random.size()).collect();
    for _ in 0..COUNT {
        blocks.extend(sizes.iter().map(|bytes| allocate(allocator, *bytes)));
        blocks.drain(..).zip(&sizes).for_each(|(block, bytes)| free(allocator, block, *bytes));
    }
    (BATCH * COUNT) as u64
}

/// A hundred thousand live blocks, of which one is replaced at a time.
fn churn<A: GlobalAlloc>(allocator: &A, seed: u64) -> u64 {
    const LIVE: usize = 100_000;
    const COUNT: u64 = 1_500_000;
    let mut random = Random(seed);
    let mut live: Vec<(*mut u8, usize)> = (0..LIVE)
        .map(|_| {
            let bytes = random.size();
            (allocate(allocator, bytes), bytes)
        })
        .collect();
    for _ in 0..COUNT {
        let bytes = random.size();
        let place = &mut live[(random.next() >> 20) as usize % LIVE];
        free(allocator, place.0, place.1);
        *place = (allocate(allocator, bytes), bytes);
    }
    live.drain(..).for_each(|(block, bytes)| free(allocator, block, bytes));
    COUNT + LIVE as u64
}

/// Blocks of 64 KiB to 1 MiB.
fn large<A: GlobalAlloc>(allocator: &A, seed: u64) -> u64 {
    const COUNT: u64 = 100_000;
    let mut random = Random(seed);
    let mut live: Vec<(*mut u8, usize)> = Vec::new();
    for _ in 0..COUNT {
        let bytes = 65_536 + (random.next() >> 10) as usize % (1 << 20);
        live.push((allocate(allocator, bytes), bytes));
        if live.len() > 32 {
            let (block, bytes) = live.swap_remove((random.next() >> 20) as usize % live.len());
            free(allocator, block, bytes);
        }
    }
    live.drain(..).for_each(|(block, bytes)| free(allocator, block, bytes));
    COUNT
}

/// Seconds for blocks that one thread allocates and another one frees, and how many they were.
fn handed_over<A: GlobalAlloc + Sync>(allocator: &A) -> (f64, u64) {
    const COUNT: u64 = 1_000_000;
    struct Batch(Vec<(*mut u8, usize)>);
    unsafe impl Send for Batch {}
    let begin = spent();
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel::<Batch>(16);
        scope.spawn(move || {
            let mut random = Random(5);
            for _ in 0..COUNT / 200 {
                let batch = (0..200).map(|_| {
                    let bytes = random.size();
                    (allocate(allocator, bytes), bytes)
                });
                sender.send(Batch(batch.collect())).expect("the other thread reads");
            }
        });
        for batch in receiver.iter() {
            batch.0.into_iter().for_each(|(block, bytes)| free(allocator, block, bytes));
        }
    });
    ((spent() - begin) / 2.0, COUNT)
}

fn timed<A: GlobalAlloc + Sync>(allocator: &A, work: &str, threads: u64) -> f64 {
    if work == "handed over" {
        let (seconds, count) = handed_over(allocator);
        return seconds * 1e9 / count as f64;
    }
    let run = |seed: u64| match work {
        "pairs" => pairs(allocator, seed),
        "batches" => batches(allocator, seed),
        "churn" => churn(allocator, seed),
        _ => large(allocator, seed),
    };
    let begin = spent();
    let count = if threads == 1 {
        run(7)
    } else {
        std::thread::scope(|scope| {
            for thread in 1..threads {
                scope.spawn(move || run(7 + thread));
            }
            run(7)
        })
    };
    (spent() - begin) * 1e9 / (count * threads) as f64
}

/// All works, or those whose name begins with `only`.
pub(crate) fn run(only: &str) {
    println!("ns of a processor for a block (1 or 2 threads; best of {ROUNDS}, turn by turn)");
    println!("{:<16}{:>10}{:>10}{:>10}{:>10}  brant/mimalloc", "", NAMES[0], NAMES[1], NAMES[2], NAMES[3]);
    let works = ["pairs", "batches", "churn", "large", "handed over"];
    for (work, threads) in works.iter().flat_map(|work| [(work, 1), (work, 2)]) {
        if !work.starts_with(only) || (*work == "handed over" && threads == 1) {
            continue;
        }
        let mut best = [f64::MAX; 4];
        for _ in 0..ROUNDS {
            for (best, name) in best.iter_mut().zip(NAMES) {
                *best = best.min(with_allocator!(name, timed(work, threads)));
            }
        }
        let name = format!("{work}, {threads}");
        println!(
            "{name:<16}{:>10.1}{:>10.1}{:>10.1}{:>10.1}  {:.2}",
            best[0],
            best[1],
            best[2],
            best[3],
            best[0] / best[1]
        );
    }
}
