//! Blocks: that they do not overlap, keep what is written to them, and are found again, by one thread and by many.
#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "each block uses what the test itself allocated just before"
)]

use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use brant_heap::{Error, Fault, Heap, Options};

fn heap(name: &str) -> Heap {
    Heap::create(name).unwrap()
}

fn fill(block: NonNull<u8>, bytes: usize, with: u8) {
    unsafe { block.as_ptr().write_bytes(with, bytes) };
}

fn is_filled(block: NonNull<u8>, bytes: usize, with: u8) -> bool {
    unsafe { std::slice::from_raw_parts(block.as_ptr(), bytes) }.iter().all(|byte| *byte == with)
}

/// xorshift: the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Mostly small, sometimes of many slices.
    fn size(&mut self) -> usize {
        match self.below(100) {
            0 => self.below(3 << 20) as usize,
            1..=5 => self.below(200_000) as usize,
            6..=30 => self.below(5_000) as usize,
            _ => self.below(200) as usize,
        }
    }
}

#[test]
fn blocks_keep_what_is_written() {
    for debug in [false, true] {
        let name = format!("keep-{debug}");
        let heap = Heap::create_with(&name, &Options { debug, ..Options::default() }).unwrap();
        let mut random = Random(42);
        let mut live: Vec<(NonNull<u8>, usize, u8)> = Vec::new();
        for round in 0..60_000u64 {
            let with = round as u8;
            match random.below(10) {
                0..=4 => {
                    let bytes = random.size();
                    let block = heap.allocate(bytes).unwrap();
                    assert_eq!(block.as_ptr() as usize % 16, 0);
                    assert!(heap.usable(block).unwrap() >= bytes);
                    fill(block, bytes, with);
                    live.push((block, bytes, with));
                }
                5 => {
                    let (bytes, align) = (random.size(), 1 << random.below(22));
                    let block = heap.allocate_aligned(bytes, align).unwrap();
                    assert_eq!(block.as_ptr() as usize % align, 0, "{bytes} {align}");
                    fill(block, bytes, with);
                    live.push((block, bytes, with));
                }
                6 if !live.is_empty() => {
                    let index = random.below(live.len() as u64) as usize;
                    let (block, bytes, with) = live[index];
                    let new = random.size();
                    let moved = unsafe { heap.reallocate(block, new) }.unwrap().unwrap();
                    assert!(is_filled(moved, bytes.min(new), with));
                    fill(moved, new, with);
                    live[index] = (moved, new, with);
                }
                _ if !live.is_empty() => {
                    let index = random.below(live.len() as u64) as usize;
                    let (block, bytes, with) = live.swap_remove(index);
                    assert!(is_filled(block, bytes, with));
                    unsafe { heap.free(block) }.unwrap();
                }
                _ => {}
            }
            if live.len() > 3000 {
                for (block, bytes, with) in live.drain(1000..) {
                    assert!(is_filled(block, bytes, with));
                    unsafe { heap.free(block) }.unwrap();
                }
            }
        }
        for (block, bytes, with) in live.drain(..) {
            assert!(is_filled(block, bytes, with));
            unsafe { heap.free(block) }.unwrap();
        }
        // All but one span for each class, at most.
        assert!(heap.figures().used_bytes < 12 << 20, "{:?}", heap.figures());
        unsafe { heap.destroy() };
    }
}

#[test]
fn zeroed_is_zero_although_it_was_written_before() {
    let heap = heap("zeroed");
    for bytes in [1, 100, 5000, 70_000, 1 << 20, 40 << 20] {
        for _ in 0..3 {
            for block in [heap.allocate_zeroed(bytes).unwrap(), heap.allocate_region(bytes).unwrap()] {
                assert!(is_filled(block, bytes, 0), "{bytes}");
                fill(block, bytes, 0xee);
                unsafe { heap.free(block) }.unwrap();
            }
            heap.trim();
        }
    }
}

#[test]
fn parts_of_a_region_are_given_up() {
    let heap = heap("region");
    let bytes = 10 << 20;
    let region = heap.allocate_region(bytes).unwrap();
    fill(region, bytes, 7);
    unsafe { heap.discard(region, 1000, 5 << 20) }.unwrap();
    assert!(is_filled(region, 1000, 7));
    assert!(is_filled(unsafe { region.add(1000) }, 5 << 20, 0));
    assert!(is_filled(unsafe { region.add(1000 + (5 << 20)) }, bytes - 1000 - (5 << 20), 7));
    assert!(unsafe { heap.discard(region, bytes, 1 << 20) }.is_err());
    let block = heap.allocate(100).unwrap();
    assert!(unsafe { heap.discard(block, 0, 10) }.is_err());
    unsafe { heap.free(region) }.unwrap();
    assert!(unsafe { heap.free(region) }.is_err());
}

#[test]
fn threads_free_what_others_allocated() {
    let heap = heap("threads");
    static FREED: AtomicU64 = AtomicU64::new(0);
    const THREADS: u64 = 4;
    const COUNT: u64 = 60_000;
    struct Block(NonNull<u8>, usize, u8);
    unsafe impl Send for Block {}
    let mut ends = Vec::new();
    let mut inputs = Vec::new();
    for _ in 0..THREADS {
        let (sender, receiver) = mpsc::channel::<Block>();
        ends.push(receiver);
        inputs.push(sender);
    }
    std::thread::scope(|scope| {
        for (number, receiver) in ends.into_iter().enumerate() {
            let senders = inputs.clone();
            scope.spawn(move || {
                let mut random = Random(number as u64 + 1);
                let mut kept = Vec::new();
                let free = |Block(block, bytes, with)| {
                    assert!(is_filled(block, bytes, with));
                    unsafe { heap.free(block) }.unwrap();
                    FREED.fetch_add(1, Ordering::Relaxed);
                };
                for round in 0..COUNT {
                    let bytes = 1 + random.size() % 3000;
                    let block = heap.allocate(bytes).unwrap();
                    fill(block, bytes, round as u8);
                    let block = Block(block, bytes, round as u8);
                    if random.below(3) == 0 {
                        kept.push(block);
                    } else if let Err(error) = senders[random.below(THREADS) as usize].send(block) {
                        free(error.0);
                    }
                    while let Ok(block) = receiver.try_recv() {
                        free(block);
                    }
                    if random.below(1000) == 0 {
                        kept.drain(..).for_each(free);
                    }
                }
                drop(senders);
                kept.into_iter().for_each(free);
                receiver.iter().for_each(free);
            });
        }
        drop(inputs);
    });
    assert_eq!(FREED.load(Ordering::Relaxed), THREADS * COUNT);
    // What threads left behind is used again: rounds of new threads do not make it grow.
    let used = heap.figures().used_bytes;
    for _ in 0..20 {
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let blocks: Vec<Block> =
                        (0..2000).map(|n| Block(heap.allocate(n % 700).unwrap(), 0, 0)).collect();
                    blocks.into_iter().for_each(|block| unsafe { heap.free(block.0) }.unwrap());
                });
            }
        });
    }
    let figures = heap.figures();
    assert!(figures.used_bytes <= used + (20 << 20), "{used} {figures:?}");
    assert!(heap.threads_at_most() < 20, "{}", heap.threads_at_most());
}

#[test]
fn spans_of_dead_threads_find_new_owners() {
    let heap = heap("orphans");
    let blocks: Vec<usize> = (0..8)
        .flat_map(|_| {
            let thread = std::thread::spawn(move || {
                (0..5000).map(|_| heap.allocate(64).unwrap().as_ptr() as usize).collect::<Vec<_>>()
            });
            thread.join().unwrap()
        })
        .collect();
    let used = heap.figures().used_bytes;
    // One thread frees all that eight allocated, and allocates as much: it gets the same memory.
    blocks.iter().for_each(|block| unsafe { heap.free(NonNull::new(*block as *mut u8).unwrap()) }.unwrap());
    for _ in 0..8 * 5000 {
        heap.allocate(64).unwrap();
    }
    assert!(heap.figures().used_bytes <= used + (1 << 20), "{used} {:?}", heap.figures());
}

#[test]
fn free_runs_are_joined() {
    let heap = Heap::create_with("joined", &Options { range_bytes: 64 << 20, ..Options::default() }).unwrap();
    let mut random = Random(7);
    for _ in 0..50 {
        let mut blocks: Vec<NonNull<u8>> = Vec::new();
        while let Some(block) = heap.allocate(65_537 + random.below(2 << 20) as usize) {
            blocks.push(block);
        }
        while !blocks.is_empty() {
            let block = blocks.swap_remove(random.below(blocks.len() as u64) as usize);
            unsafe { heap.free(block) }.unwrap();
        }
        // Everything is one run again.
        let all = heap.allocate(60 << 20).unwrap();
        unsafe { heap.free(all) }.unwrap();
    }
    assert_eq!(heap.figures().used_bytes, 0);
}

#[test]
fn a_full_heap_says_so_and_goes_on() {
    let heap = Heap::create_with("full", &Options { range_bytes: 4 << 20, ..Options::default() }).unwrap();
    let mut blocks = Vec::new();
    while let Some(block) = heap.allocate(1000) {
        blocks.push(block);
    }
    assert!(blocks.len() > 1000);
    assert!(heap.allocate(1 << 20).is_none() && heap.allocate(usize::MAX).is_none());
    assert!(heap.allocate_aligned(10, 1 << 62).is_none() && heap.allocate_aligned(10, 3).is_none());
    assert!(heap.allocate_region(usize::MAX).is_none());
    blocks.into_iter().for_each(|block| unsafe { heap.free(block) }.unwrap());
    assert!(heap.allocate(1 << 20).is_some());
}

#[test]
fn a_place_that_is_taken_is_told() {
    let at = 0x4ff0_0000_0000;
    let options = Options { range_bytes: 16 << 20, at: Some(at), ..Options::default() };
    let first = Heap::create_with("first", &options).unwrap();
    assert_eq!(first.base(), at);
    let error = Heap::create_with("second", &options).unwrap_err();
    assert_eq!(error.code(), "B-1203");
    assert!(error.to_string().contains("heap first"), "{error}");
    assert_eq!(Heap::create_with("first", &Options::default()).unwrap_err().code(), "B-1202");
    // A library lies somewhere.
    let code = (a_place_that_is_taken_is_told as *const () as usize) & !((2 << 20) - 1);
    let options = Options { range_bytes: 16 << 20, at: Some(code), ..Options::default() };
    let error = Heap::create_with("third", &options).unwrap_err();
    // In a static program, memory that the kernel gave it may lie right before.
    let is_told = ["allocate-", "anonymous memory"].iter().any(|by| error.to_string().contains(by));
    assert!(matches!(error, Error::Taken { .. }) && is_told, "{error}");
    for name in ["", "two words", "tab\t", &"n".repeat(64)] {
        assert_eq!(Heap::create(name).unwrap_err().code(), "B-1201", "{name}");
    }
    for range_bytes in [0, 1 << 20, (4 << 20) + 1, 2 << 40] {
        let options = Options { range_bytes, ..Options::default() };
        assert_eq!(Heap::create_with("bounds", &options).unwrap_err().code(), "B-1207");
    }
    // The same name leads elsewhere where its place is taken.
    let here = heap("place").base();
    unsafe { Heap::find("place").unwrap().destroy() };
    assert_eq!(Heap::find("place").unwrap_err().code(), "B-1206");
    let other =
        Heap::create_with("other", &Options { range_bytes: 16 << 20, at: Some(here), ..Options::default() });
    assert_ne!(heap("place").base(), here);
    unsafe { other.unwrap().destroy() };
}

#[test]
fn foreign_pointers_are_told() {
    let (heap, other) = (heap("mine"), heap("yours"));
    let theirs = other.allocate(50).unwrap();
    let on_stack = 0u64;
    for block in [theirs, NonNull::from(&on_stack).cast(), NonNull::dangling()] {
        let fault = unsafe { heap.free(block) }.unwrap_err();
        assert_eq!(fault, Fault::Foreign { address: block.as_ptr() as usize });
        assert_eq!(fault.code(), "B-1214");
        assert_eq!(heap.usable(block), None);
    }
    let large = heap.allocate(300_000).unwrap();
    assert!(unsafe { heap.free(large.add(65_536)) }.is_err());
    unsafe { heap.free(large) }.unwrap();
    assert!(unsafe { heap.free(large) }.is_err(), "twice");
}

#[test]
fn debug_mode_finds_faults() {
    let heap = Heap::create_with("debug", &Options { debug: true, ..Options::default() }).unwrap();
    for bytes in [1, 16, 100, 3000, 65_000, 300_000] {
        let block = heap.allocate(bytes).unwrap();
        assert_eq!(heap.usable(block), Some(bytes));
        fill(block, bytes, 1);
        heap.check_block(block).unwrap();
        let address = block.as_ptr() as usize;
        unsafe { block.add(bytes).write(1) };
        assert_eq!(heap.check_block(block), Err(Fault::Overrun { address, bytes }));
        assert_eq!(unsafe { heap.free(block) }, Err(Fault::Overrun { address, bytes }));
        unsafe { block.add(bytes).write(0xfa) };
        unsafe { block.sub(1).write(1) };
        assert!(matches!(unsafe { heap.free(block) }, Err(Fault::Underrun { .. })));
        unsafe { block.sub(20).cast::<u64>().write_unaligned(0) };
        assert!(matches!(heap.check_block(block), Err(Fault::Underrun { .. } | Fault::Foreign { .. })));
    }
    for bytes in [16, 3000] {
        let block = heap.allocate(bytes).unwrap();
        let middle = unsafe { block.add(8) };
        assert!(matches!(heap.check_block(middle), Err(Fault::Foreign { .. })));
        unsafe { heap.free(block) }.unwrap();
        let address = block.as_ptr() as usize;
        assert_eq!(unsafe { heap.free(block) }, Err(Fault::DoubleFree { address }));
        assert_eq!(unsafe { heap.reallocate(block, 5) }, Err(Fault::Foreign { address }));
    }
}

#[test]
fn roots_are_found_by_name() {
    let heap = heap("roots");
    heap.put("count", &7u64).unwrap();
    heap.put("count", &8u64).unwrap();
    assert_eq!(heap.get::<u64>("count"), Ok(8));
    assert_eq!(heap.get::<u32>("count").unwrap_err().code(), "B-1209");
    assert_eq!(heap.put("count", &8u32).unwrap_err().code(), "B-1209");
    assert_eq!(heap.get::<u64>("other").unwrap_err().code(), "B-1208");
    let list = heap.keep("list", vec![1u8, 2, 3]).unwrap();
    assert_eq!(unsafe { heap.kept::<Vec<u8>>("list") }.unwrap(), &[1, 2, 3]);
    assert!(unsafe { heap.kept::<Vec<u16>>("list") }.is_err());
    assert!(unsafe { heap.kept::<u64>("count") }.is_err());
    unsafe { list.drop_in_place() };
    let block = heap.allocate(100).unwrap();
    heap.set_root("part", unsafe { block.add(20) }, 50, 9).unwrap();
    assert_eq!(heap.root("part", 9).unwrap(), (unsafe { block.add(20) }, 50));
    assert_eq!(heap.set_root("far", block, 1000, 9).unwrap_err().code(), "B-1209");
    assert_eq!(heap.set_root("far", NonNull::dangling(), 1, 9).unwrap_err().code(), "B-1209");
    let mut names = HashMap::new();
    heap.each_root(|name, _, bytes, _| {
        names.insert(name.to_owned(), bytes);
    });
    assert_eq!(names.len(), 3);
    assert_eq!(names["part"], 50);
    heap.remove_root("count").unwrap();
    assert_eq!(heap.get::<u64>("count").unwrap_err().code(), "B-1208");
    for number in 0..126 {
        heap.put(&format!("n{number}"), &number).unwrap();
    }
    assert_eq!(heap.put("one-more", &1u8).unwrap_err().code(), "B-1205");
}

#[test]
fn a_forked_child_has_the_heap_whole() {
    let heap = heap("forked");
    let stop = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while stop.load(Ordering::Relaxed) == 0 {
                    let blocks: Vec<_> = (0..300).map(|n| heap.allocate(n * 900).unwrap()).collect();
                    blocks.iter().for_each(|block| unsafe { heap.free(*block) }.unwrap());
                }
            });
        }
        for _ in 0..40 {
            let child = unsafe { libc::fork() };
            if child == 0 {
                for bytes in (0..400_000).step_by(1000) {
                    let block = heap.allocate(bytes).unwrap();
                    unsafe { heap.free(block) }.unwrap();
                }
                unsafe { libc::_exit(0) };
            }
            let mut status = 0;
            unsafe { libc::waitpid(child, &mut status, 0) };
            assert_eq!(status, 0);
        }
        stop.store(1, Ordering::Relaxed);
    });
}
