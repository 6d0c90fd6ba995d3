//! Where checkpoints find out which memory is free: brant reads this table while the program stands still, and then the
//! allocator's own lists (`brant_connect::free_memory`). What the lists hold, nobody but the allocator will read.
//!
//! Of musl, which keeps no such lists, groups are noted in which there may be large blocks that are free.
//!
//! Lists of glibc are changed under their arena's lock, but without it while the program has a single thread. So each thread
//! notes that it is inside of the allocator.

use core::ffi::c_void;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::{Counts, OTHERS, THREADS, THREADS_MAX};
use crate::inside::{system, weak};
use crate::options::{ARENA_TO_LIST, ARENAS_ANCHORED, FREE_MAGIC, FREE_WORDS, GROUPS_MAX, GROUPS_NOTED};

/// See [`FREE_WORDS`] in `options`, which brant has too.
#[unsafe(no_mangle)]
static BRANT_HEAP: [AtomicU64; FREE_WORDS] = [const { AtomicU64::new(0) }; FREE_WORDS];

/// Versions of glibc (their minor numbers) whose arenas are laid out as brant knows them.
const ARENAS_KNOWN: core::ops::RangeInclusive<u32> = 27..=41;
/// Too large for a cache of a thread, and too small for a mapping of its own.
const PROBE_BYTES: usize = 4000;
/// The chunk is of an arena that is not the main one.
const NON_MAIN_ARENA: u64 = 4;
/// Such arenas have heaps of this size, at multiples of it.
const HEAP_BYTES: u64 = 64 << 20;

/// While this lives the thread is inside of the allocator.
pub(super) struct Inside(&'static AtomicUsize);

impl Inside {
    pub(super) fn begin() -> Inside {
        let inside = &Counts::own().in_allocator;
        inside.store(inside.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        Inside(inside)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
    }
}

/// Fills in the table, before any mediator runs. Where the allocator is not known it stays empty.
pub(super) fn prepare() {
    let known = unsorted_list().map(|list| (ARENAS_ANCHORED, list));
    let Some((kind, anchor)) = known.or_else(|| secret_of_groups().map(|secret| (GROUPS_NOTED, secret)))
    else {
        return;
    };
    let own: *const Counts = Counts::own();
    let threads = (&raw const THREADS) as u64;
    let stride = (size_of_val(&THREADS) / THREADS_MAX) as u64;
    // SAFETY: an address within the counts.
    let in_allocator = unsafe { &raw const (*own).in_allocator } as u64;
    // The calling thread has a place of its own, unless there is no room, which is not so yet.
    let offset = in_allocator.wrapping_sub(threads) % stride;
    let others = (&raw const OTHERS.in_allocator) as u64;
    let groups = (&raw const GROUPS) as u64;
    let words = [FREE_MAGIC, kind, anchor, threads + offset, stride, THREADS_MAX as u64, others, groups];
    HAS_GROUPS.store(kind == GROUPS_NOTED, Ordering::Relaxed);
    BRANT_HEAP.iter().zip(words).skip(1).for_each(|(place, word)| place.store(word, Ordering::Relaxed));
    BRANT_HEAP[0].store(words[0], Ordering::Release);
}

/// No call is noted any more.
pub(super) fn forget() {
    BRANT_HEAP[0].store(0, Ordering::Release);
}

type Malloc = unsafe extern "C" fn(usize) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void);

/// Those of the program.
fn functions() -> Option<(Malloc, Free)> {
    if weak::malloc() == 0 || weak::free() == 0 {
        return None;
    }
    // SAFETY: the program's own functions of these names.
    unsafe {
        Some((
            core::mem::transmute::<usize, Malloc>(weak::malloc()),
            core::mem::transmute::<usize, Free>(weak::free()),
        ))
    }
}

/// The head of a list of free chunks: a chunk is given back, and its link tells.
fn unsorted_list() -> Option<u64> {
    if !is_known() {
        return None;
    }
    let (malloc, free) = functions()?;
    // The second one keeps the first one from what is free behind it.
    // SAFETY: the program's own functions of these names; this thread may call them.
    let (block, fence) = unsafe { (malloc(PROBE_BYTES), malloc(PROBE_BYTES)) };
    let mut links = [0u8; 32];
    // SAFETY: each is given back once.
    unsafe { free(block) };
    let is_read = !block.is_null() && system::read_bytes(block as usize - 16, &mut links);
    // SAFETY: as above.
    unsafe { free(fence) };
    let word = |at: usize| u64::from_le_bytes(links[at..at + 8].try_into().unwrap_or([0; 8]));
    let (size, back) = (word(8), word(24));
    if !is_read {
        return None;
    }
    if size & NON_MAIN_ARENA == 0 {
        return Some(back);
    }
    // Its heap begins with the address of the arena, in which that list is behind the small ones.
    let mut arena = [0u8; 8];
    let heap = block as u64 & !(HEAP_BYTES - 1);
    system::read_bytes(heap as usize, &mut arena).then(|| u64::from_le_bytes(arena) + ARENA_TO_LIST)
}

/// Descriptions of groups (`struct meta` of mallocng) that large blocks were freed of: brant looks at them itself.
static GROUPS: [AtomicUsize; GROUPS_MAX] = [const { AtomicUsize::new(0) }; GROUPS_MAX];
static HAS_GROUPS: AtomicBool = AtomicBool::new(false);
/// A smaller block has no whole page for certain.
const LARGE_BYTES: usize = 8192;
/// How far from its place by hash a group may be noted.
const PROBES_MAX: usize = 32;

/// A block that the program is about to give back.
pub(super) fn note_group(block: usize, bytes: usize) {
    if bytes < LARGE_BYTES || !HAS_GROUPS.load(Ordering::Relaxed) {
        return;
    }
    // SAFETY: a live block of musl's: what is before it is mapped, the beginning of its group too.
    let description = unsafe { (group_of(block) as *const usize).read() };
    let first = (description >> 3).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    for step in 0..PROBES_MAX {
        let place = &GROUPS[(first + step) % GROUPS_MAX];
        let found = place.load(Ordering::Relaxed);
        let is_noted = found == description
            || found == 0
                && place.compare_exchange(0, description, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_noted {
            return;
        }
    }
}

/// The group of a block: how far behind it the block is stands before the block.
///
/// # Safety
///
/// A live block of musl's.
unsafe fn group_of(block: usize) -> usize {
    // SAFETY: promised by the caller.
    let offset = unsafe {
        match ((block - 4) as *const u8).read() {
            0 => usize::from(((block - 2) as *const u16).read()),
            _ => ((block - 8) as *const u32).read() as usize,
        }
    };
    block - 16 * offset - 16
}

/// What stands before all of musl's descriptions of groups: it tells that something is one.
fn secret_of_groups() -> Option<u64> {
    if weak::gnu_get_libc_version() != 0 {
        return None;
    }
    let (malloc, free) = functions()?;
    // SAFETY: the program's own functions of these names; this thread may call them.
    let block = unsafe { malloc(PROBE_BYTES) } as usize;
    if block == 0 {
        return None;
    }
    let word = |at: usize| {
        let mut bytes = [0u8; 8];
        system::read_bytes(at, &mut bytes).then(|| u64::from_le_bytes(bytes))
    };
    let mut before = [0u8; 8];
    // An allocator that is another one, as musl's was before 1.2.1, has something else there.
    let secret = system::read_bytes(block - 8, &mut before).then(|| {
        let offset = usize::from(u16::from_le_bytes([before[6], before[7]]));
        let group = block.wrapping_sub(16 * offset + 16);
        let description = word(group)? as usize;
        let is_one = before[4] == 0 && word(description.wrapping_add(16))? as usize == group;
        is_one.then(|| word(description & !(system::PAGE - 1)))?
    });
    // SAFETY: as above.
    unsafe { free(block as *mut c_void) };
    secret.flatten().filter(|secret| *secret != 0)
}

/// Whether this is a glibc whose arenas are known.
fn is_known() -> bool {
    type Version = unsafe extern "C" fn() -> *const core::ffi::c_char;
    if weak::gnu_get_libc_version() == 0 {
        return false;
    }
    // SAFETY: glibc's own function of that name.
    let version = unsafe { core::mem::transmute::<usize, Version>(weak::gnu_get_libc_version())() };
    // SAFETY: a text of glibc's that stays.
    let version = unsafe { core::ffi::CStr::from_ptr(version) }.to_str().unwrap_or("");
    let minor = version.strip_prefix("2.").and_then(|minor| minor.parse().ok());
    minor.is_some_and(|minor: u32| ARENAS_KNOWN.contains(&minor))
}
