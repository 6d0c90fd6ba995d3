//! Memory that the allocator of a program has and nobody uses, where the program has the wrapper `heap`.
//!
//! The wrapper tells where glibc keeps its lists of free chunks and whether a thread is about to change them
//! (`brant_wrappers::FREE_WORDS`). They are read from outside while the program stands still, and believed only where all of them
//! hold together. Of a free chunk glibc reads and writes the first 48 bytes (sizes, links) and the last 8 (its size again); no
//! content of it is ever taken for granted: `calloc` clears what it gives, but for memory that came from the kernel just then
//! (malloc.c of 2.36; malloc_state is the same from 2.27 to 2.41). Zeros are as good as what was there.
//!
//! musl (mallocng, since 1.2.1) has blocks in groups, whose descriptions lie elsewhere: which of them are free is a bit each, set after
//! the program has given the block back and taken before it gets it. The first and the last bytes of a block are its own.

use std::collections::HashSet;

use brant_base::{Addr, PAGE_SIZE, PageRange, Pid};
use brant_kernel::proc::{self, MapEntry, MapKind};
use brant_kernel::remote::Memory;
use brant_wrappers::{
    ARENA_TO_LIST, ARENAS_ANCHORED, FREE_MAGIC, FREE_WORDS, GROUPS_MAX, GROUPS_NOTED, LIBRARY,
};

use crate::runtime::exported;

const SYMBOL: &[u8] = b"BRANT_HEAP";
/// Names of files in memory in which the library is.
const FILE_NAME: &[u8] = b"brant-wrapper-";

/// `struct malloc_state` from the list of unsorted chunks on, in words: the top chunk, the last remainder, 127 lists of two links,
/// a map of 16 bytes, the next arena.
const ARENA_WORDS: usize = 2 + 254 + 2 + 1;
const LISTS: usize = 127;
/// Lists from this one on are of chunks of a page's quarter and more; the first one is of all sizes.
const FIRST_LARGE: usize = 63;
const ARENAS_MAX: usize = 4096;
/// The tree stands still meanwhile: what is beyond is written to the image like all else.
const CHUNKS_MAX: usize = 20_000;
/// What glibc keeps at the beginning of a free chunk.
const HEAD_BYTES: u64 = 48;

/// Of a block of musl's at either end: more than it keeps there.
const EDGE_BYTES: u64 = 64;
/// Smaller classes had other sizes before mallocng was a part of musl; from 9 KiB on they are the same.
const FIRST_KNOWN: usize = 32;
/// Its sizes of blocks, in units of 16 bytes.
const SIZE_CLASSES: [u16; 48] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 18, 20, 25, 31, 36, 42, 50, 63, 72, 84, 102, 127, 146, 170, 204,
    255, 292, 340, 409, 511, 584, 682, 818, 1023, 1169, 1364, 1637, 2047, 2340, 2730, 3276, 4095, 4680, 5460,
    6552, 8191,
];

const PREV_INUSE: u64 = 1;
const FLAGS: u64 = 7;

/// The free memory of a process that stands still; `task` is a thread of it. Whole pages only. Nothing where that cannot be told.
pub fn free_memory(task: Pid) -> Vec<PageRange> {
    let Ok(maps) = proc::maps(task) else { return Vec::new() };
    let is_library = |entry: &&MapEntry| {
        matches!(&entry.kind, MapKind::Memfd(name) if name.starts_with(FILE_NAME)) && entry.offset == 0
    };
    let bases: Vec<Addr> = maps.iter().filter(is_library).map(|entry| entry.range.start()).collect();
    let (Some(offset), false) = (exported(LIBRARY, SYMBOL), bases.is_empty()) else { return Vec::new() };
    let Ok(memory) = Memory::open(task) else { return Vec::new() };
    let mut heap = Heap { memory: &memory, maps: &maps, chunks: 0, found: Vec::new() };
    // The program may have the wrapper under several names; one is enough.
    for base in bases {
        let Ok(words) = memory.read_value::<[u64; FREE_WORDS]>(Addr(base.0 + offset)) else { continue };
        if words[0] != FREE_MAGIC || !heap.is_quiet(&words) {
            continue;
        }
        match words[1] {
            ARENAS_ANCHORED => heap.arenas(words[2]),
            GROUPS_NOTED => heap.groups(words[2], words[7]),
            _ => continue,
        }
        break;
    }
    heap.found
}

struct Heap<'a> {
    memory: &'a Memory,
    maps: &'a [MapEntry],
    /// How many were looked at.
    chunks: usize,
    found: Vec<PageRange>,
}

impl Heap<'_> {
    fn word(&self, at: u64) -> Option<u64> {
        self.memory.read_value(Addr(at)).ok()
    }

    /// Whether no thread is inside of the allocator. An arena's lock says the same where the program has several threads; one that
    /// makes threads without the C library has no locks in it.
    fn is_quiet(&self, words: &[u64; FREE_WORDS]) -> bool {
        let [_, _, _, first, stride, count, others, _] = *words;
        let Some(bytes) = stride.checked_mul(count).filter(|bytes| *bytes < 1 << 24 && stride >= 8) else {
            return false;
        };
        let mut room = vec![0; bytes as usize];
        let last = bytes as usize - (stride as usize - 8);
        if self.memory.read(Addr(first), &mut room[..last]).is_err() {
            return false;
        }
        room.chunks(stride as usize).all(|place| place.iter().take(8).all(|byte| *byte == 0))
            && self.word(others) == Some(0)
    }

    /// Follows the ring of arenas from the one with this list on.
    fn arenas(&mut self, list: u64) {
        let mut seen = HashSet::new();
        let mut list = list;
        while seen.len() < ARENAS_MAX && seen.insert(list) {
            let Ok(words) = self.memory.read_value::<[u64; ARENA_WORDS]>(Addr(list)) else { return };
            if self.lists_hold(list, &words).is_none() {
                return;
            }
            let lock = self.memory.read_value::<u32>(Addr(list.wrapping_sub(ARENA_TO_LIST)));
            if lock.is_ok_and(|lock| lock == 0) {
                self.arena(list, &words);
            }
            list = words[ARENA_WORDS - 1].wrapping_add(ARENA_TO_LIST);
        }
    }

    /// Whether this is an arena: every list leads to itself, or to a chunk that leads back.
    fn lists_hold(&self, list: u64, words: &[u64; ARENA_WORDS]) -> Option<()> {
        if !list.is_multiple_of(8) {
            return None;
        }
        for index in 0..LISTS {
            let head = list + 16 * index as u64;
            let [next, last] = [words[2 + 2 * index], words[3 + 2 * index]];
            let holds = match next == head {
                true => last == head,
                false => {
                    self.word(next.wrapping_add(24))? == head && self.word(last.wrapping_add(16))? == head
                }
            };
            // While an arena is being changed one of them may not hold; it is not read then at all.
            holds.then_some(())?;
        }
        Some(())
    }

    fn arena(&mut self, list: u64, words: &[u64; ARENA_WORDS]) {
        // The largest chunks first.
        for index in (FIRST_LARGE..LISTS).rev().chain([0]) {
            let head = list + 16 * index as u64;
            self.list(head, words[2 + 2 * index]);
        }
        self.top(words[0]);
    }

    /// The chunks of a list, up to the first one that does not hold.
    fn list(&mut self, head: u64, first: u64) -> Option<()> {
        let (mut chunk, mut before) = (first, head);
        while chunk != head && self.chunks < CHUNKS_MAX {
            self.chunks += 1;
            let [_, size, next, last] = self.memory.read_value::<[u64; 4]>(Addr(chunk)).ok()?;
            let bytes = size & !FLAGS;
            if last != before || !chunk.is_multiple_of(16) || !bytes.is_multiple_of(16) {
                return None;
            }
            if bytes >= PAGE_SIZE {
                let end = chunk.checked_add(bytes)?;
                let [size_before, size_behind] = self.memory.read_value::<[u64; 2]>(Addr(end)).ok()?;
                if size_before != bytes || size_behind & PREV_INUSE != 0 {
                    return None;
                }
                self.add(chunk + HEAD_BYTES, end);
            }
            (before, chunk) = (chunk, next);
        }
        Some(())
    }

    /// The chunk that is in no list: the rest of the heap.
    fn top(&mut self, chunk: u64) -> Option<()> {
        let size = self.word(chunk.checked_add(8)?)?;
        let end = chunk.checked_add(size & !FLAGS)?;
        let is_free = size & PREV_INUSE != 0 && chunk.is_multiple_of(16);
        is_free.then(|| self.add(chunk + HEAD_BYTES, end))
    }

    /// The free blocks of musl's groups.
    fn groups(&mut self, secret: u64, table: u64) {
        let Ok(descriptions) = self.memory.read_value::<[u64; GROUPS_MAX]>(Addr(table)) else { return };
        for description in descriptions.into_iter().filter(|description| *description != 0) {
            self.group(secret, description);
        }
    }

    /// One that is not what it was when it was noted is left alone.
    fn group(&mut self, secret: u64, description: u64) -> Option<()> {
        let [_, _, group, masks, shape]: [u64; 5] = self.memory.read_value(Addr(description)).ok()?;
        let is_one = self.word(description & !(PAGE_SIZE - 1))? == secret && self.word(group)? == description;
        let (last, class) = (shape & 31, (shape >> 6 & 63) as usize);
        let stride = 16 * u64::from(*SIZE_CLASSES.get(class)?);
        // A group of one block is given back to the system as a whole.
        if !is_one || last == 0 || class < FIRST_KNOWN {
            return None;
        }
        let free = (masks | masks >> 32) & ((2 << last) - 1);
        for index in (0..=last).filter(|index| free >> index & 1 == 1) {
            let start = group.checked_add(16 + stride * index)?;
            self.add(start + EDGE_BYTES, start.checked_add(stride - EDGE_BYTES)?);
        }
        Some(())
    }

    /// The whole pages between these addresses, if all lies in one mapping that the program may write to.
    fn add(&mut self, start: u64, end: u64) {
        let first = start.next_multiple_of(PAGE_SIZE);
        let Ok(range) = PageRange::new(first, (end & !(PAGE_SIZE - 1)).max(first)) else { return };
        let is_there = |entry: &MapEntry| entry.permissions.write && entry.range.covers(range);
        if range.pages() > 0 && self.maps.iter().any(is_there) {
            self.found.push(range);
        }
    }
}
