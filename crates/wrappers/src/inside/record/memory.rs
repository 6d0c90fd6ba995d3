//! The C library's heap in numbers, and the regions of the address space.
//!
//! What the heap itself takes from the kernel is part of the heap, not a region: its functions are called by `inner_fn`. A child
//! that has its memory in common with us changes both for us too, so nobody asks who calls.

use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use brant_mediator::thread_pointer;
use brant_record::layout::*;

use super::super::system;
use super::tables::{Tables, field, put_text};
use super::{calls, files};

const CAPACITY: usize = TABLES[REGIONS].capacity;
const PAGE: u64 = 4096;
const FAILED: usize = usize::MAX;

/// Whether the sizes of blocks can be asked for.
static HAS_BYTES: AtomicBool = AtomicBool::new(false);

/// Looks whether the function that tells a block's size belongs to the C library: another allocator's may not know its blocks.
pub(super) fn prepare(tables: Tables) {
    let of_library = system::errno_location();
    let of_allocator = calls::malloc_usable_size as *const () as usize;
    let Some(file) = calls::open(b"/proc/self/maps\0", false) else { return };
    let mut inodes = [None; 2];
    each_mapping(file, |mapping| {
        for (address, inode) in [of_library, of_allocator].into_iter().zip(&mut inodes) {
            if (mapping.start..mapping.end).contains(&(address as u64)) {
                *inode = Some((mapping.device, mapping.inode));
            }
        }
    });
    system::close(file);
    let is_same = inodes[0].is_some() && inodes[0] == inodes[1];
    HAS_BYTES.store(is_same, Ordering::Relaxed);
    tables.set(field!(heap_has_bytes), is_same.into());
}

/// A line of /proc/self/maps.
struct Mapping<'a> {
    start: u64,
    end: u64,
    protection: u32,
    is_shared: bool,
    offset: u64,
    device: u64,
    inode: u64,
    name: &'a [u8],
}

/// Calls `visit` with each line of an open /proc/self/maps. Lines that are longer than a page are left out.
fn each_mapping(file: usize, mut visit: impl FnMut(&Mapping)) {
    let mut room = [0u8; 4608];
    let (mut used, mut is_skipping) = (0, false);
    loop {
        let got = calls::read(file, &mut room[used..]);
        if got == 0 {
            return;
        }
        used += got;
        let mut begin = 0;
        while let Some(length) = room[begin..used].iter().position(|byte| *byte == b'\n') {
            if let Some(mapping) = parse(&room[begin..begin + length]).filter(|_| !is_skipping) {
                visit(&mapping);
            }
            is_skipping = false;
            begin += length + 1;
        }
        if begin == 0 && used == room.len() {
            (used, is_skipping) = (0, true);
            continue;
        }
        room.copy_within(begin..used, 0);
        used -= begin;
    }
}

/// `START-END rwxp OFFSET MAJOR:MINOR INODE    NAME`.
fn parse(line: &[u8]) -> Option<Mapping<'_>> {
    let mut words = line.splitn(6, |byte| *byte == b' ');
    let mut range = words.next()?.split(|byte| *byte == b'-');
    let (start, end) = (hex(range.next()?)?, hex(range.next()?)?);
    let permissions = words.next()?;
    let offset = hex(words.next()?)?;
    let mut device = words.next()?.split(|byte| *byte == b':');
    let device = hex(device.next()?)? << 32 | hex(device.next()?)?;
    let inode = words
        .next()?
        .iter()
        .try_fold(0u64, |sum, digit| Some(sum * 10 + u64::from(digit.checked_sub(b'0')?)))?;
    let bit =
        |index: usize, letter: u8, bit: u32| if permissions.get(index) == Some(&letter) { bit } else { 0 };
    let name = words.next().unwrap_or(&[]).trim_ascii_start();
    Some(Mapping {
        start,
        end,
        protection: bit(0, b'r', 1) | bit(1, b'w', 2) | bit(2, b'x', 4),
        is_shared: permissions.get(3) == Some(&b's'),
        offset,
        device,
        inode,
        name,
    })
}

fn hex(text: &[u8]) -> Option<u64> {
    u64::from_str_radix(core::str::from_utf8(text).ok()?, 16).ok()
}

/// Notes what is mapped already, but for what brant has put there.
pub(super) fn note_before(tables: Tables, file: usize) {
    let own = tables.address() as u64;
    each_mapping(file, |mapping| {
        let is_brants = super::before::is_brants(mapping.name) || (mapping.start..mapping.end).contains(&own);
        if is_brants || mapping.name == b"[vsyscall]" {
            return;
        }
        let mut region = empty(mapping.start, mapping.end);
        (region.protection, region.offset, region.call) = (mapping.protection, mapping.offset, call::before);
        region.flags = if mapping.is_shared { 1 } else { 2 } | if mapping.inode == 0 { 0x20 } else { 0 };
        region.marks = mark::BEFORE;
        let (bytes, is_whole) = put_text(mapping.name, &mut region.text);
        region.text_bytes = bytes as u16;
        region.marks |= if is_whole { 0 } else { mark::CUT };
        tables.alone(REGIONS, || insert(tables, &region));
    });
}

fn empty(start: u64, end: u64) -> Region {
    Region {
        sequence: 0,
        protection: 0,
        flags: 0,
        file: -1,
        start,
        end,
        offset: 0,
        since_ns: 0,
        call: 0,
        marks: 0,
        text_bytes: 0,
        unused: 0,
        text: [0; REGION_TEXT_BYTES],
        reserved: 0,
    }
}

/// Start and end of an entry, for the one who looks for a place in the table. Both 0: it is free.
fn bounds(tables: Tables, index: usize) -> (u64, u64) {
    let at = tables.entry::<Region>(REGIONS, index);
    // SAFETY: nobody else writes.
    unsafe { ((&raw const (*at).start).read(), (&raw const (*at).end).read()) }
}

fn insert(tables: Tables, region: &Region) {
    let used = tables.used(REGIONS);
    let index = (0..used).find(|index| bounds(tables, *index).1 == 0).unwrap_or(used);
    if index >= CAPACITY {
        tables.add(field!(regions_not_kept), 1);
        return;
    }
    tables.use_up_to(REGIONS, index);
    tables.change(REGIONS, index, |entry: &mut Region| *entry = *region);
}

/// Takes `start..end` out of what is mapped; each part that was there is given to `again`, which may tell what it becomes.
fn cut(tables: Tables, start: u64, end: u64, again: impl Fn(&Region) -> Option<Region>) {
    // Entries that are added meanwhile lie outside of the range, or are what it becomes.
    for index in 0..tables.used(REGIONS) {
        let (from, to) = bounds(tables, index);
        if to == 0 || from >= end || to <= start {
            continue;
        }
        let old = tables.change(REGIONS, index, |entry: &mut Region| {
            let old = *entry;
            if from < start {
                entry.end = start;
            } else {
                (entry.start, entry.end) = (0, 0);
            }
            old
        });
        let Some(old) = old else { return };
        if to > end {
            insert(tables, &Region { start: end, end: to, offset: shifted(&old, end), ..old });
        }
        let (start, end) = (start.max(from), end.min(to));
        if let Some(new) = again(&Region { start, end, offset: shifted(&old, start), ..old }) {
            insert(tables, &new);
        }
    }
}

/// The offset in its file of an address of a region.
fn shifted(region: &Region, address: u64) -> u64 {
    if region.file < 0 && region.text_bytes == 0 { 0 } else { region.offset + (address - region.start) }
}

fn rounded(bytes: usize) -> u64 {
    (bytes as u64).saturating_add(PAGE - 1) & !(PAGE - 1)
}

/// A region that a call has made in the place of whatever was there.
fn made(tables: Tables, region: Region) {
    tables.add(field!(regions_made), 1);
    tables.alone(REGIONS, || {
        cut(tables, region.start, region.end, |_| None);
        insert(tables, &region);
    });
}

fn mapped(at: usize, bytes: usize, protection: c_int, flags: c_int, file: c_int, offset: i64) {
    const MAP_ANONYMOUS: c_int = 0x20;
    let Some(tables) = Tables::current() else { return };
    let mut region = empty(at as u64, (at as u64).saturating_add(rounded(bytes)));
    (region.protection, region.flags) = (protection as u32, flags as u32);
    (region.call, region.since_ns) = (call::mmap, system::wall_ns());
    if flags & MAP_ANONYMOUS == 0 {
        (region.file, region.offset) = (file, offset as u64);
        let mut room = [0; TEXT_BYTES];
        let known =
            files::known(tables, file).filter(|file| file.kind != kind::SOCKET && file.text_bytes > 0);
        let text = match &known {
            Some(file) => &file.text[..usize::from(file.text_bytes)],
            // Opened by a way that is not seen: the C library's own, for one.
            None => {
                let bytes = calls::link(file, &mut room).unwrap_or(0);
                &room[..bytes]
            }
        };
        let (bytes, is_whole) = put_text(text, &mut region.text);
        region.text_bytes = bytes as u16;
        region.marks |= if is_whole { 0 } else { mark::CUT };
    }
    made(tables, region);
}

/// The numbers of the calling thread.
fn shard(tables: Tables) -> (&'static HeapNumbers, bool) {
    let key = thread_pointer() as u64;
    let count = TABLES[HEAP].capacity - 1;
    let first = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize;
    for step in 0..16 {
        let index = (first + step) % count;
        let numbers = numbers(tables, index);
        match numbers.key.load(Ordering::Relaxed) {
            0 if numbers.key.compare_exchange(0, key, Ordering::Relaxed, Ordering::Relaxed).is_ok() => {
                tables.use_up_to(HEAP, index);
                return (numbers, true);
            }
            other if other == key => return (numbers, true),
            _ => {}
        }
    }
    tables.use_up_to(HEAP, count);
    (numbers(tables, count), false)
}

/// [`Heap`], as numbers that are added to.
#[repr(C)]
struct HeapNumbers {
    key: AtomicU64,
    allocations: AtomicU64,
    releases: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    failed: AtomicU64,
    spare: [AtomicU64; 2],
}

const _: () = assert!(size_of::<HeapNumbers>() == Heap::BYTES);

fn numbers(tables: Tables, index: usize) -> &'static HeapNumbers {
    // SAFETY: an aligned entry of such numbers.
    unsafe { &*tables.entry::<Heap>(HEAP, index).cast::<HeapNumbers>() }
}

/// Adds; where only this thread adds, by one instruction that a handler cannot come into, and without a lock.
fn add(number: &AtomicU64, value: u64, is_own: bool) {
    if !is_own {
        number.fetch_add(value, Ordering::Relaxed);
        return;
    }
    // SAFETY: an aligned number; the kernel and other readers see it whole.
    unsafe {
        core::arch::asm!("add qword ptr [{at}], {value}", at = in(reg) number.as_ptr(), value = in(reg) value, options(nostack))
    }
}

fn size_of_block(block: *mut c_void) -> u64 {
    if block.is_null() || !HAS_BYTES.load(Ordering::Relaxed) {
        return 0;
    }
    // SAFETY: a block of the C library's, by `prepare`, which the caller owns.
    unsafe { calls::malloc_usable_size(block) as u64 }
}

fn allocated(block: *mut c_void) {
    let Some(tables) = Tables::current() else { return };
    let (numbers, is_own) = shard(tables);
    if block.is_null() {
        return add(&numbers.failed, 1, is_own);
    }
    add(&numbers.allocations, 1, is_own);
    add(&numbers.bytes_in, size_of_block(block), is_own);
}

fn releasing(block: *mut c_void) {
    let Some(tables) = Tables::current().filter(|_| !block.is_null()) else { return };
    let (numbers, is_own) = shard(tables);
    add(&numbers.releases, 1, is_own);
    add(&numbers.bytes_out, size_of_block(block), is_own);
}

/// `bytes` of a block that is there no more became `new`.
fn reallocated(block: *mut c_void, old_bytes: u64, new: *mut c_void, asked: usize) {
    let Some(tables) = Tables::current() else { return };
    let (numbers, is_own) = shard(tables);
    match (block.is_null(), new.is_null()) {
        (true, _) => allocated(new),
        (false, false) => {
            add(&numbers.bytes_out, old_bytes, is_own);
            add(&numbers.bytes_in, size_of_block(new), is_own);
        }
        // glibc gives nothing for nothing, and releases it.
        (false, true) if asked == 0 => {
            add(&numbers.releases, 1, is_own);
            add(&numbers.bytes_out, old_bytes, is_own);
        }
        (false, true) => add(&numbers.failed, 1, is_own),
    }
}

// What these functions do by one another is not seen twice: each is called by `inner_fn`, as the program called it.
brant_mediator::mediator! {
    fn record_malloc(call, bytes: usize) -> *mut c_void {
        // SAFETY: as the program called it.
        let block = unsafe { call.inner_fn()(bytes) };
        allocated(block);
        block
    }

    fn record_calloc(call, count: usize, bytes: usize) -> *mut c_void {
        // SAFETY: as the program called it.
        let block = unsafe { call.inner_fn()(count, bytes) };
        allocated(block);
        block
    }

    fn record_realloc(call, block: *mut c_void, bytes: usize) -> *mut c_void {
        let old_bytes = size_of_block(block);
        // SAFETY: as the program called it.
        let new = unsafe { call.inner_fn()(block, bytes) };
        reallocated(block, old_bytes, new, bytes);
        new
    }

    fn record_reallocarray(call, block: *mut c_void, count: usize, bytes: usize) -> *mut c_void {
        let old_bytes = size_of_block(block);
        // SAFETY: as the program called it.
        let new = unsafe { call.inner_fn()(block, count, bytes) };
        reallocated(block, old_bytes, new, count.saturating_mul(bytes));
        new
    }

    fn record_free(call, block: *mut c_void) {
        releasing(block);
        // SAFETY: as the program called it.
        unsafe { call.inner_fn()(block) }
    }

    fn record_memalign(call, alignment: usize, bytes: usize) -> *mut c_void {
        // SAFETY: as the program called it.
        let block = unsafe { call.inner_fn()(alignment, bytes) };
        allocated(block);
        block
    }

    fn record_posix_memalign(call, block: *mut *mut c_void, alignment: usize, bytes: usize) -> c_int {
        // SAFETY: as the program called it.
        let result = unsafe { call.inner_fn()(block, alignment, bytes) };
        // SAFETY: where it succeeds it has written there.
        allocated(if result == 0 { unsafe { block.read() } } else { core::ptr::null_mut() });
        result
    }

    fn record_valloc(call, bytes: usize) -> *mut c_void {
        // SAFETY: as the program called it.
        let block = unsafe { call.inner_fn()(bytes) };
        allocated(block);
        block
    }

    fn record_sbrk(call, bytes: isize) -> usize {
        let old = call.inner();
        if let Some(tables) = Tables::current().filter(|_| old != FAILED) {
            tables.add(field!(break_calls), 1);
            tables.set(field!(break_now), (old as u64).wrapping_add_signed(bytes as i64));
        }
        old
    }

    fn record_brk(call, end: usize) -> c_int {
        let result = call.inner();
        if let Some(tables) = Tables::current().filter(|_| result == 0) {
            tables.add(field!(break_calls), 1);
            tables.set(field!(break_now), end as u64);
        }
        result
    }

    fn record_mmap(call, at: usize, bytes: usize, protection: c_int, flags: c_int, file: c_int, offset: i64) -> usize {
        let found = call.inner();
        if found != FAILED {
            mapped(found, bytes, protection, flags, file, offset);
        }
        found
    }

    fn record_munmap(call, at: usize, bytes: usize) -> c_int {
        // Before it: afterwards another thread may have something there.
        if let Some(tables) = Tables::current().filter(|_| (at as u64).is_multiple_of(PAGE) && bytes > 0) {
            let start = at as u64;
            tables.alone(REGIONS, || cut(tables, start, start.saturating_add(rounded(bytes)), |_| None));
        }
        call.inner()
    }

    fn record_mprotect(call, at: usize, bytes: usize, protection: c_int) -> c_int {
        let result = call.inner();
        if let Some(tables) = Tables::current().filter(|_| result == 0 && bytes > 0) {
            let (start, protection) = (at as u64, protection as u32);
            tables.alone(REGIONS, || {
                cut(tables, start, start.saturating_add(rounded(bytes)), |part| Some(Region { protection, ..*part }));
            });
        }
        result
    }

    fn record_mremap(call, old: usize, old_bytes: usize, bytes: usize, flags: c_int, to: usize) -> usize {
        const MREMAP_DONTUNMAP: c_int = 4;
        let new = call.inner();
        let Some(tables) = Tables::current().filter(|_| new != FAILED) else { return new };
        let (start, end) = (old as u64, (old as u64).saturating_add(rounded(old_bytes)));
        let (new_start, new_end) = (new as u64, (new as u64).saturating_add(rounded(bytes)));
        tables.add(field!(regions_made), 1);
        tables.alone(REGIONS, || {
            let index = (0..tables.used(REGIONS)).find(|index| {
                let (from, to) = bounds(tables, *index);
                from <= start && start < to
            });
            // SAFETY: nobody else writes.
            let known = index.map(|index| unsafe { tables.entry::<Region>(REGIONS, index).read() });
            let mut region = known.unwrap_or(empty(start, end));
            region.offset = shifted(&region, start.max(region.start));
            if flags & MREMAP_DONTUNMAP == 0 {
                cut(tables, start, end, |_| None);
            }
            cut(tables, new_start, new_end, |_| None);
            (region.start, region.end, region.call) = (new_start, new_end, call::mremap);
            region.since_ns = system::wall_ns();
            region.marks &= mark::CUT;
            insert(tables, &region);
        });
        new
    }

    fn record_shmat(call, id: c_int, at: usize, flags: c_int) -> usize {
        const SHM_RDONLY: c_int = 0o10000;
        let found = call.inner();
        let Some(tables) = Tables::current().filter(|_| found != FAILED) else { return found };
        let bytes = calls::segment_bytes(id).unwrap_or(PAGE);
        let mut region = empty(found as u64, found as u64 + rounded(bytes as usize));
        region.protection = if flags & SHM_RDONLY != 0 { 1 } else { 3 };
        (region.flags, region.call, region.since_ns) = (1, call::shmat, system::wall_ns());
        let mut text = [0; 24];
        let begin = b"sysv ";
        text[..begin.len()].copy_from_slice(begin);
        let digits = calls::put_decimal(id as u32, &mut text[begin.len()..]);
        let (bytes, _) = put_text(&text[..begin.len() + digits], &mut region.text);
        region.text_bytes = bytes as u16;
        made(tables, region);
        found
    }

    fn record_shmdt(call, at: usize) -> c_int {
        if let Some(tables) = Tables::current() {
            tables.alone(REGIONS, || {
                let found = (0..tables.used(REGIONS)).map(|index| bounds(tables, index)).find(|(start, end)| {
                    *end != 0 && *start == at as u64
                });
                if let Some((start, end)) = found {
                    cut(tables, start, end, |_| None);
                }
            });
        }
        call.inner()
    }
}
