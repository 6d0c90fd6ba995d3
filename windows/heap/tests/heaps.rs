//! Heaps against a model, in memory of this process.

use std::collections::HashMap;

use brant_windows_heap::{HEAPS_MAX, HeapId, Pages, Space, UNIT_BYTES};
use proptest::prelude::*;

const SPACE_BYTES: usize = 1 << 28;

struct Memory;

impl Pages for Memory {
    fn commit(&self, at: usize, bytes: usize) -> bool {
        // SAFETY: the pages are in the test's own reservation.
        unsafe { libc::mprotect(at as *mut libc::c_void, bytes, libc::PROT_READ | libc::PROT_WRITE) == 0 }
    }

    fn decommit(&self, at: usize, bytes: usize) {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
        // SAFETY: as above; nothing is left in them.
        let mapped = unsafe { libc::mmap(at as *mut libc::c_void, bytes, libc::PROT_NONE, flags, -1, 0) };
        assert_eq!(mapped as usize, at);
    }

    fn give_way(&self) {
        std::thread::yield_now();
    }
}

/// A space that goes with the test.
struct Reserved {
    start: *mut libc::c_void,
    space: Space<Memory>,
}

impl Reserved {
    fn new() -> Reserved {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh mapping.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), SPACE_BYTES + UNIT_BYTES, libc::PROT_NONE, flags, -1, 0)
        };
        assert_ne!(start, libc::MAP_FAILED);
        let base = (start as usize).next_multiple_of(UNIT_BYTES);
        // SAFETY: the range lies in the mapping, which lives as long.
        let space = unsafe { Space::create(base, SPACE_BYTES, Memory) }.unwrap();
        Reserved { start, space }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours.
        unsafe { libc::munmap(self.start, SPACE_BYTES + UNIT_BYTES) };
    }
}

#[derive(Debug, Clone)]
enum Step {
    Create,
    Destroy(usize),
    Allocate(usize, usize, bool),
    Free(usize),
    Resize(usize, usize, bool),
    Reserve(usize),
    Release(usize),
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![6 => 0usize..300, 3 => 0usize..20_000, 1 => 16_000usize..400_000]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::Create),
        1 => any::<usize>().prop_map(Step::Destroy),
        30 => (any::<usize>(), size(), any::<bool>()).prop_map(|(heap, bytes, zeroed)| Step::Allocate(heap, bytes, zeroed)),
        20 => any::<usize>().prop_map(Step::Free),
        10 => (any::<usize>(), size(), any::<bool>()).prop_map(|(block, bytes, zeroed)| Step::Resize(block, bytes, zeroed)),
        3 => (1usize..300_000).prop_map(Step::Reserve),
        2 => any::<usize>().prop_map(Step::Release),
    ]
}

/// What a test knows of a block.
#[derive(Clone)]
struct Known {
    heap: HeapId,
    at: usize,
    bytes: usize,
    sign: u8,
}

impl Known {
    fn check(&self, space: &Space<Memory>) {
        assert_eq!(self.at % 16, 0);
        assert_eq!(space.size(self.heap, self.at), Some(self.bytes));
        assert_eq!(space.heap_of(self.at), Some(self.heap));
        self.check_bytes(self.bytes);
    }

    fn check_bytes(&self, bytes: usize) {
        // SAFETY: the block is live and has at least so many bytes.
        let contents = unsafe { std::slice::from_raw_parts(self.at as *const u8, bytes) };
        assert!(contents.iter().all(|&byte| byte == self.sign), "contents of a block changed");
    }

    fn fill(&self) {
        // SAFETY: the block is live and has so many bytes.
        unsafe { (self.at as *mut u8).write_bytes(self.sign, self.bytes) };
    }
}

fn is_zero(at: usize, bytes: usize) -> bool {
    // SAFETY: the block is live and has so many bytes.
    unsafe { std::slice::from_raw_parts(at as *const u8, bytes) }.iter().all(|&byte| byte == 0)
}

fn check_all(space: &Space<Memory>, heaps: &[HeapId], blocks: &[Known]) {
    blocks.iter().for_each(|block| block.check(space));
    for &heap in heaps {
        let mut found = HashMap::new();
        space.walk(heap, |block| assert!(found.insert(block.at, block.bytes).is_none()));
        let own: HashMap<usize, usize> =
            blocks.iter().filter(|block| block.heap == heap).map(|block| (block.at, block.bytes)).collect();
        assert_eq!(found, own);
    }
    let mut ranges: Vec<(usize, usize)> =
        blocks.iter().map(|block| (block.at, block.at + block.bytes)).collect();
    ranges.extend(space.regions().map(|(at, bytes)| (at, at + bytes)));
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "blocks overlap");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() })]

    #[test]
    fn heaps_keep_what_they_promise(steps in proptest::collection::vec(step(), 1..400)) {
        let reserved = Reserved::new();
        let space = &reserved.space;
        let mut heaps = vec![space.create_heap().unwrap()];
        let mut blocks: Vec<Known> = Vec::new();
        let mut regions: Vec<(usize, usize)> = Vec::new();
        for (index, step) in steps.into_iter().enumerate() {
            let sign = index as u8 | 1;
            match step {
                Step::Create => heaps.push(space.create_heap().unwrap()),
                Step::Destroy(which) if heaps.len() > 1 => {
                    let heap = heaps.swap_remove(which % heaps.len());
                    prop_assert!(space.destroy_heap(heap));
                    prop_assert!(!space.destroy_heap(heap));
                    prop_assert!(space.allocate(heap, 1, false).is_null());
                    blocks.retain(|block| block.heap != heap);
                }
                Step::Allocate(which, bytes, zeroed) => {
                    let heap = heaps[which % heaps.len()];
                    let at = space.allocate(heap, bytes, zeroed) as usize;
                    prop_assert!(at != 0);
                    prop_assert!(!zeroed || is_zero(at, bytes));
                    let block = Known { heap, at, bytes, sign };
                    block.fill();
                    blocks.push(block);
                }
                Step::Free(which) if !blocks.is_empty() => {
                    let block = blocks.swap_remove(which % blocks.len());
                    let other = heaps.iter().find(|&&heap| heap != block.heap);
                    if let Some(&other) = other {
                        prop_assert!(!space.free(other, block.at));
                    }
                    prop_assert!(!space.free(block.heap, block.at + 1));
                    block.check(space);
                    prop_assert!(space.free(block.heap, block.at));
                    prop_assert!(!space.free(block.heap, block.at));
                }
                Step::Resize(which, bytes, zeroed) if !blocks.is_empty() => {
                    let which = which % blocks.len();
                    let old = blocks[which].clone();
                    let at = space.reallocate(old.heap, old.at, bytes, zeroed, false) as usize;
                    prop_assert!(at != 0);
                    let kept = Known { at, ..old.clone() };
                    kept.check_bytes(old.bytes.min(bytes));
                    if zeroed && bytes > old.bytes {
                        prop_assert!(is_zero(at + old.bytes, bytes - old.bytes));
                    }
                    let block = Known { at, bytes, ..old };
                    block.fill();
                    blocks[which] = block;
                }
                Step::Reserve(bytes) => {
                    let at = space.reserve(bytes).unwrap();
                    let (start, length) = space.region_of(at + bytes - 1).unwrap();
                    prop_assert!(start == at && length >= bytes);
                    regions.push((at, bytes));
                }
                Step::Release(which) if !regions.is_empty() => {
                    let (at, _) = regions.swap_remove(which % regions.len());
                    prop_assert!(!space.release(at + 4096));
                    prop_assert!(space.release(at));
                    prop_assert!(space.region_of(at).is_none());
                }
                _ => {}
            }
        }
        check_all(space, &heaps, &blocks);
        prop_assert_eq!(space.regions().count(), regions.len());
        for block in &blocks {
            prop_assert!(space.free(block.heap, block.at));
        }
        for (at, _) in regions {
            prop_assert!(space.release(at));
        }
        check_all(space, &heaps, &[]);
        for heap in heaps {
            prop_assert!(space.destroy_heap(heap));
        }
        // All is one free run again: the largest region fits.
        prop_assert!(space.reserve(SPACE_BYTES - (4 << 20)).is_some());
    }
}

#[test]
fn threads_share_a_heap() {
    let reserved = Reserved::new();
    let space = &reserved.space;
    let heap = space.create_heap().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4usize {
            scope.spawn(move || {
                let mut blocks: Vec<(usize, usize)> = Vec::new();
                for round in 0..20_000usize {
                    let bytes = (round * 37 + thread * 11) % 700;
                    let at = space.allocate(heap, bytes, false);
                    // SAFETY: the block has so many bytes.
                    unsafe { at.write_bytes(thread as u8, bytes) };
                    blocks.push((at as usize, bytes));
                    if round % 3 != 0 {
                        let (at, bytes) = blocks.swap_remove(round % blocks.len());
                        // SAFETY: the block is this thread's.
                        let contents = unsafe { std::slice::from_raw_parts(at as *const u8, bytes) };
                        assert!(contents.iter().all(|&byte| byte == thread as u8));
                        assert!(space.free(heap, at));
                    }
                }
                blocks.into_iter().for_each(|(at, _)| assert!(space.free(heap, at)));
            });
        }
    });
    let mut count = 0;
    space.walk(heap, |_| count += 1);
    assert_eq!(count, 0);
}

#[test]
fn a_space_is_what_its_pages_are() {
    let reserved = Reserved::new();
    let heap = reserved.space.create_heap().unwrap();
    let at = reserved.space.allocate(heap, 100, false);
    let base = (reserved.start as usize).next_multiple_of(UNIT_BYTES);
    // SAFETY: the pages are those of the space that is there.
    let again = unsafe { Space::brought_back(base, Memory) };
    assert_eq!(again.size(heap, at as usize), Some(100));
    assert!(again.free(heap, at as usize));
    assert_eq!(again.heaps().collect::<Vec<_>>(), [heap]);
}

#[test]
fn what_is_too_much_is_refused() {
    let reserved = Reserved::new();
    let space = &reserved.space;
    let heap = space.create_heap().unwrap();
    assert!(space.allocate(heap, SPACE_BYTES, false).is_null());
    assert!(space.allocate(heap, usize::MAX, false).is_null());
    assert!(space.reserve(usize::MAX).is_none());
    assert!(space.allocate(HeapId(u32::MAX), 1, false).is_null());
    let block = space.allocate(heap, 40, false) as usize;
    assert!(space.reallocate(heap, block, 4000, false, true).is_null());
    assert_eq!(space.size(heap, block), Some(40));
    assert_eq!(space.reallocate(heap, block, 48, false, true) as usize, block);
    for _ in 1..HEAPS_MAX {
        assert!(space.create_heap().is_some());
    }
    assert!(space.create_heap().is_none());
}
