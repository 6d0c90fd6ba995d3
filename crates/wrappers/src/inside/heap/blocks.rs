//! The blocks that are live: size and call site, by address, without locks and without search.
//!
//! A shadow of the address space holds a word for each place at which a block can begin. It is made in leaves, as blocks come.
//! A block's word is written by who got the block and taken by who frees it; in between nobody else gets one at that address,
//! so no two threads are ever at the same word. The child of a fork finds all of it as it was.

use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::memory::reserve;
use crate::inside::system::{self, PAGE};

/// Addresses of user space.
const ADDRESS_BITS: u32 = 47;
/// What one leaf is for.
const LEAF_BITS: u32 = 25;
const DIRECTORY: usize = 1 << (ADDRESS_BITS - LEAF_BITS);

const SITE_BITS: u32 = 17;
const SIZE_BITS: u32 = 46;
const IS_LIVE: u64 = 1 << 63;
/// Sites have smaller numbers.
pub(super) const SITES_MAX: usize = 1 << SITE_BITS;

/// A live block.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub(super) bytes: usize,
    pub(super) site: usize,
}

impl Block {
    fn word(self) -> u64 {
        let bytes = (self.bytes as u64).min((1 << SIZE_BITS) - 1);
        IS_LIVE | (self.site as u64) << SIZE_BITS | bytes
    }

    fn of(word: u64) -> Option<Block> {
        let bytes = (word & ((1 << SIZE_BITS) - 1)) as usize;
        let site = (word >> SIZE_BITS) as usize & (SITES_MAX - 1);
        (word & IS_LIVE != 0).then_some(Block { bytes, site })
    }
}

/// Before the words of a leaf: a page of its own.
#[repr(C)]
struct Leaf {
    next: *mut Leaf,
    /// Which pages of words were ever written to, a bit each.
    touched: [AtomicU64; TOUCHED],
}

const TOUCHED: usize = ((1 << (LEAF_BITS - 3)) * 8 / PAGE) / 64;
const WORDS_AT: usize = PAGE;
const _: () = assert!(size_of::<Leaf>() <= WORDS_AT);
const WORDS_OF_PAGE: usize = PAGE / 8;

static DIRECTORY_AT: AtomicPtr<AtomicPtr<Leaf>> = AtomicPtr::new(core::ptr::null_mut());
static LEAVES: AtomicPtr<Leaf> = AtomicPtr::new(core::ptr::null_mut());
/// Blocks begin so many bits apart.
static SHIFT: AtomicU32 = AtomicU32::new(4);
/// Blocks for whose words there was no memory.
pub(super) static UNSEEN: AtomicUsize = AtomicUsize::new(0);

/// Begins, for an allocator whose blocks begin at least `1 << shift` bytes apart (3 at least).
pub(super) fn prepare(shift: u32) -> Result<(), &'static str> {
    let at = reserve(DIRECTORY * size_of::<AtomicPtr<Leaf>>());
    let at = at.ok_or("there is no room for its table of blocks: address space is limited (ulimit -v)")?;
    SHIFT.store(shift, Ordering::Relaxed);
    DIRECTORY_AT.store(at.cast(), Ordering::Release);
    Ok(())
}

fn leaf_bytes() -> usize {
    WORDS_AT + (1 << (LEAF_BITS - SHIFT.load(Ordering::Relaxed))) * 8
}

fn entry(address: usize) -> Option<&'static AtomicPtr<Leaf>> {
    let directory = DIRECTORY_AT.load(Ordering::Relaxed);
    let index = address >> LEAF_BITS;
    // SAFETY: mapped with so many entries of zeros, as long as mediators run.
    (!directory.is_null() && index < DIRECTORY).then(|| unsafe { &*directory.add(index) })
}

fn word(leaf: *mut Leaf, address: usize) -> &'static AtomicU64 {
    let index = (address & ((1 << LEAF_BITS) - 1)) >> SHIFT.load(Ordering::Relaxed);
    // SAFETY: a leaf has a word for each such place, and is not unmapped while mediators run.
    unsafe { &*leaf.byte_add(WORDS_AT).cast::<AtomicU64>().add(index) }
}

fn find(address: usize) -> Option<&'static AtomicU64> {
    let leaf = entry(address)?.load(Ordering::Acquire);
    (!leaf.is_null()).then(|| word(leaf, address))
}

/// Notes a block. Gives what was noted there before: its end was not seen.
pub(super) fn add(address: usize, block: Block) -> Option<Block> {
    let Some(leaf) = entry(address).and_then(leaf_for) else {
        UNSEEN.fetch_add(1, Ordering::Relaxed);
        return None;
    };
    let word = word(leaf, address);
    let index = (word as *const AtomicU64 as usize - leaf as usize - WORDS_AT) / PAGE;
    // SAFETY: leaves stay, and zeros are valid.
    let touched = unsafe { &(*leaf).touched[index / 64] };
    if touched.load(Ordering::Relaxed) & 1 << (index % 64) == 0 {
        touched.fetch_or(1 << (index % 64), Ordering::Relaxed);
    }
    let before = word.load(Ordering::Relaxed);
    word.store(block.word(), Ordering::Relaxed);
    Block::of(before)
}

/// The live block at this address.
pub(super) fn get(address: usize) -> Option<Block> {
    Block::of(find(address)?.load(Ordering::Relaxed))
}

/// Takes a block out. Nothing where it is not known.
pub(super) fn take(address: usize) -> Option<Block> {
    let word = find(address)?;
    let block = Block::of(word.load(Ordering::Relaxed))?;
    word.store(0, Ordering::Relaxed);
    Some(block)
}

/// The leaf of an entry; a new one where there is none.
fn leaf_for(entry: &'static AtomicPtr<Leaf>) -> Option<*mut Leaf> {
    let leaf = entry.load(Ordering::Acquire);
    if leaf.is_null() { make_leaf(entry) } else { Some(leaf) }
}

#[cold]
fn make_leaf(entry: &'static AtomicPtr<Leaf>) -> Option<*mut Leaf> {
    let bytes = leaf_bytes();
    let leaf: *mut Leaf = reserve(bytes)?.cast();
    let nobody = core::ptr::null_mut();
    if let Err(other) = entry.compare_exchange(nobody, leaf, Ordering::AcqRel, Ordering::Acquire) {
        // SAFETY: nobody has seen it.
        unsafe { system::unmap(leaf.cast(), bytes) };
        return Some(other);
    }
    let mut next = LEAVES.load(Ordering::Relaxed);
    loop {
        // SAFETY: only who made the leaf writes this, before anybody can follow it.
        unsafe { (*leaf).next = next };
        match LEAVES.compare_exchange(next, leaf, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return Some(leaf),
            Err(other) => next = other,
        }
    }
}

/// Every live block, in no order. Those that come or go meanwhile may be missed or seen.
pub(super) fn each(mut visit: impl FnMut(Block)) {
    let mut leaf = LEAVES.load(Ordering::Acquire);
    while !leaf.is_null() {
        // SAFETY: leaves stay while mediators run.
        let Leaf { next, touched } = unsafe { &*leaf };
        for (index, bits) in touched.iter().enumerate() {
            let mut bits = bits.load(Ordering::Relaxed);
            while bits != 0 {
                let page = index * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                // SAFETY: a page of the leaf's words.
                let words = unsafe { leaf.byte_add(WORDS_AT).cast::<AtomicU64>().add(page * WORDS_OF_PAGE) };
                // SAFETY: as above.
                let words = unsafe { core::slice::from_raw_parts(words, WORDS_OF_PAGE) };
                words.iter().filter_map(|word| Block::of(word.load(Ordering::Relaxed))).for_each(&mut visit);
            }
        }
        leaf = *next;
    }
}

/// The end: no mediator runs any more.
pub(super) fn forget() {
    let directory = DIRECTORY_AT.swap(core::ptr::null_mut(), Ordering::AcqRel);
    let mut leaf = LEAVES.swap(core::ptr::null_mut(), Ordering::AcqRel);
    let bytes = leaf_bytes();
    while !leaf.is_null() {
        // SAFETY: nobody uses it any more.
        let next = unsafe { (*leaf).next };
        // SAFETY: as above.
        unsafe { system::unmap(leaf.cast(), bytes) };
        leaf = next;
    }
    if !directory.is_null() {
        // SAFETY: as above.
        unsafe { system::unmap(directory.cast(), DIRECTORY * size_of::<AtomicPtr<Leaf>>()) };
    }
}
