//! `heap`: the blocks that the program has from its allocator, by size and by caller.
//!
//! A call costs a look at the caller's number, a word of the table of blocks, and some counts of the thread's own. Nothing is
//! locked, so a signal handler or the child of a fork finds nothing held.

mod blocks;
mod free;
mod maps;
mod memory;
mod report;
mod sites;

use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

use brant_mediator::{Function, Initial, PerThread};

use self::blocks::Block;
use self::free::Inside;
use crate::options;

const THREADS_MAX: usize = 1024;
/// How much a thread may get or give back before the count of all learns of it.
const UNSAID_BYTES_MAX: i64 = 64 << 10;
/// How often a thread looks whether a report is due: every so many blocks.
const CALLS_BETWEEN_LOOKS: u64 = 256;

/// How often the last report gives way to one that is being written.
const PATIENCE_AT_END: u32 = 100_000;

/// What one thread has done. Others only read it.
pub(super) struct Counts {
    /// Blocks that it got, and their bytes.
    got: AtomicU64,
    got_bytes: AtomicU64,
    /// Blocks that it gave back.
    freed: AtomicU64,
    /// Of these, blocks that were there before the wrapper was.
    unknown: AtomicU64,
    /// Not of these: blocks that are not known and that the C library gives back itself. glibc does so with a thread's cache when
    /// the thread ends, though the program has given back these blocks long before.
    inside: AtomicU64,
    /// Blocks whose end was not seen: another one was given at the same place.
    replaced: AtomicU64,
    /// Bytes that the count of all does not know of yet.
    unsaid: AtomicI64,
    /// How deep it is inside of the allocator.
    in_allocator: AtomicUsize,
}

impl Initial for Counts {
    const INITIAL: Counts = Counts {
        got: AtomicU64::new(0),
        got_bytes: AtomicU64::new(0),
        freed: AtomicU64::new(0),
        unknown: AtomicU64::new(0),
        inside: AtomicU64::new(0),
        replaced: AtomicU64::new(0),
        unsaid: AtomicI64::new(0),
        in_allocator: AtomicUsize::new(0),
    };
}

static THREADS: PerThread<Counts, THREADS_MAX> = PerThread::new();
/// Of all threads for which there is no room. Two of them may lose a count.
static OTHERS: Counts = Counts::INITIAL;
static LIVE_BYTES: AtomicI64 = AtomicI64::new(0);
static PEAK_BYTES: AtomicI64 = AtomicI64::new(0);

pub(super) fn prepare(options: &str, functions: &[Function]) -> Result<(), &'static str> {
    let number = |key| options::value(options, key).map(str::parse::<u64>).transpose();
    let is_json = options::value(options, "json").is_some();
    let frames = number("frames").map_err(|_| "\"frames\" is no number")?.unwrap_or(1);
    let top = number("top").map_err(|_| "\"top\" is no number")?;
    let every_s = number("every").map_err(|_| "\"every\" is no number")?;
    let is_of_libc = functions.iter().any(|function| function.library() == b"libc");
    if is_of_libc {
        report::look_at_allocator()?;
        free::prepare();
    }
    blocks::prepare(if is_of_libc { report::spacing_bits() } else { 3 })?;
    sites::prepare(frames as usize)?;
    report::prepare(options::value(options, "out").unwrap_or(""), is_json, top, every_s)
}

/// What there is now is written.
pub(super) fn end(when: &str) {
    report::write(when, PATIENCE_AT_END);
}

/// New calls do not reach the wrapper any more.
pub(super) fn off() {
    free::forget();
    end("taken off");
}

/// No mediator runs any more.
pub(super) fn forget() {
    free::forget();
    blocks::forget();
    sites::forget();
}

impl Counts {
    fn own() -> &'static Counts {
        THREADS.get().unwrap_or(&OTHERS)
    }

    /// Only the thread itself writes, so nothing is locked.
    fn count(counter: &AtomicU64, more: u64) -> u64 {
        let count = counter.load(Ordering::Relaxed).wrapping_add(more);
        counter.store(count, Ordering::Relaxed);
        count
    }

    fn change_live(&self, bytes: i64) {
        let unsaid = self.unsaid.load(Ordering::Relaxed).wrapping_add(bytes);
        if unsaid.unsigned_abs() < UNSAID_BYTES_MAX as u64 {
            return self.unsaid.store(unsaid, Ordering::Relaxed);
        }
        self.unsaid.store(0, Ordering::Relaxed);
        let live = LIVE_BYTES.fetch_add(unsaid, Ordering::Relaxed).wrapping_add(unsaid);
        if live > PEAK_BYTES.load(Ordering::Relaxed) {
            PEAK_BYTES.fetch_max(live, Ordering::Relaxed);
        }
    }
}

/// A block that a function has given to `caller`.
fn got(block: *mut c_void, bytes: usize, caller: (usize, usize)) {
    if block.is_null() {
        return;
    }
    let site = sites::note(caller);
    let own = Counts::own();
    let mut change = bytes as i64;
    if let Some(before) = blocks::add(block as usize, Block { bytes, site }) {
        Counts::count(&own.replaced, 1);
        change -= before.bytes as i64;
    }
    own.change_live(change);
    Counts::count(&own.got_bytes, bytes as u64);
    if Counts::count(&own.got, 1).is_multiple_of(CALLS_BETWEEN_LOOKS) {
        report::write_if_due();
    }
}

/// A block that the program gives back: before the function has it, as it may give it to another thread at once.
fn freed(block: *mut c_void, (back, _): (usize, usize)) -> Option<Block> {
    if block.is_null() {
        return None;
    }
    let own = Counts::own();
    let known = blocks::take(block as usize);
    match known {
        Some(known) => {
            own.change_live(-(known.bytes as i64));
            free::note_group(block as usize, known.bytes);
        }
        None if report::is_in_libc(back) => {
            Counts::count(&own.inside, 1);
            return None;
        }
        None => _ = Counts::count(&own.unknown, 1),
    }
    Counts::count(&own.freed, 1);
    known
}

/// After a function that was to make a block larger or smaller.
fn resized(
    (old, known): (*mut c_void, Option<Block>),
    new: *mut c_void,
    bytes: usize,
    caller: (usize, usize),
) {
    if !new.is_null() {
        return got(new, bytes, caller);
    }
    // It has failed, and the block is what it was. With no bytes it has freed the block.
    if let Some(block) = known.filter(|_| bytes > 0) {
        let own = Counts::own();
        blocks::add(old as usize, block);
        own.change_live(block.bytes as i64);
        Counts::count(&own.freed, u64::MAX);
    }
}

/// Calls a function of the allocator.
fn inside<T>(call: impl FnOnce() -> T) -> T {
    let _inside = Inside::begin();
    call()
}

brant_mediator::mediator! {
    fn heap_malloc(call, bytes: usize) -> *mut c_void {
        // SAFETY: as the program called it.
        let block = unsafe { inside(|| call.inner_fn()(bytes)) };
        got(block, bytes, call.caller());
        block
    }

    fn heap_calloc(call, count: usize, bytes: usize) -> *mut c_void {
        // SAFETY: as the program called it.
        let block = unsafe { inside(|| call.inner_fn()(count, bytes)) };
        got(block, count.wrapping_mul(bytes), call.caller());
        block
    }

    fn heap_realloc(call, block: *mut c_void, bytes: usize) -> *mut c_void {
        let old = (block, freed(block, call.caller()));
        // SAFETY: as the program called it.
        let new = unsafe { inside(|| call.inner_fn()(block, bytes)) };
        resized(old, new, bytes, call.caller());
        new
    }

    fn heap_reallocarray(call, block: *mut c_void, count: usize, bytes: usize) -> *mut c_void {
        let old = (block, freed(block, call.caller()));
        // SAFETY: as the program called it.
        let new = unsafe { inside(|| call.inner_fn()(block, count, bytes)) };
        // A product that is too large fails.
        resized(old, new, count.checked_mul(bytes).unwrap_or(1), call.caller());
        new
    }

    fn heap_free(call, block: *mut c_void) {
        freed(block, call.caller());
        // SAFETY: as the program called it.
        unsafe { inside(|| call.inner_fn()(block)) }
    }

    fn heap_posix_memalign(call, block: *mut *mut c_void, alignment: usize, bytes: usize) -> c_int {
        // SAFETY: as the program called it.
        let error = unsafe { inside(|| call.inner_fn()(block, alignment, bytes)) };
        if error == 0 {
            // SAFETY: the function has written there.
            got(unsafe { *block }, bytes, call.caller());
        }
        error
    }

    fn heap_aligned_alloc(call, alignment: usize, bytes: usize) -> *mut c_void {
        // SAFETY: as the program called it.
        let block = unsafe { inside(|| call.inner_fn()(alignment, bytes)) };
        got(block, bytes, call.caller());
        block
    }

    fn heap_valloc(call, bytes: usize) -> *mut c_void {
        // SAFETY: as the program called it.
        let block = unsafe { inside(|| call.inner_fn()(bytes)) };
        got(block, bytes, call.caller());
        block
    }

    /// Before any function that gives a block which it has from these: the block is its caller's.
    fn heap_through(call) -> *mut c_void {
        let block = call.inner();
        if let Some(known) = blocks::get(block as usize) {
            blocks::add(block as usize, Block { site: sites::note(call.caller()), ..known });
            if let Some(inner) = sites::get(known.site) {
                inner.calls.fetch_sub(1, Ordering::Relaxed);
            }
        }
        block
    }
}
