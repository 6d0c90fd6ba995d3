//! Heaps that outlive their process, for C: `include/brant/heap.h` declares what is here and says what it does.
//!
//! Nothing here allocates: the calls may be made while the program's own malloc is the heap that is being saved.

pub mod windows;

use std::cell::RefCell;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr::{NonNull, null, null_mut};

use brant_heap::{Block, BlockKind, Error, Heap, Options, Saving};

/// What C has for a heap: its address.
#[repr(C)]
pub struct CHeap {
    _opaque: [u8; 0],
}

/// `brant_heap_options`.
#[repr(C)]
pub struct COptions {
    range_bytes: usize,
    at: usize,
    debug: c_int,
}

/// `brant_heap_block`.
#[repr(C)]
pub struct CBlock {
    pub(crate) address: *mut c_void,
    pub(crate) bytes: usize,
    /// 0 small, 1 large, 2 region.
    pub(crate) kind: c_int,
}

/// How many heaps a save of all takes.
const ALL_MAX: usize = 256;

/// The last failure of a thread.
struct Last {
    number: c_int,
    words: [u8; 512],
    len: usize,
}

impl std::fmt::Write for Last {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        // The last byte stays zero.
        let room = self.words.len() - 1 - self.len;
        let bytes = &text.as_bytes()[..text.len().min(room)];
        self.words[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        Ok(())
    }
}

thread_local! {
    static LAST: RefCell<Last> = const { RefCell::new(Last { number: 0, words: [0; 512], len: 0 }) };
}

/// Remembers a failure; gives its number: 1203 for B-1203.
pub(crate) fn failed(error: &Error) -> c_int {
    let number = error.code().strip_prefix("B-").and_then(|number| number.parse().ok()).unwrap_or(-1);
    LAST.with_borrow_mut(|last| {
        *last = Last { number, words: [0; 512], len: 0 };
        let _ = write!(last, "{}: {error}", error.code());
    });
    number
}

pub(crate) fn done<E: Into<Error>>(result: Result<(), E>) -> c_int {
    result.map_or_else(|error| failed(&error.into()), |()| 0)
}

pub(crate) fn out(heap: Heap) -> *mut CHeap {
    heap.base() as *mut CHeap
}

/// A heap that a caller names. One that is none is a failure, not a crash.
pub(crate) fn heap(heap: *mut CHeap) -> Result<Heap, Error> {
    let address = heap as usize;
    let found = Heap::of_address(address).filter(|heap| heap.base() == address);
    found.ok_or(Error::Fault(brant_heap::Fault::Foreign { address }))
}

/// Quick, for calls that come often: the heap is believed to be one.
pub(crate) fn believed(heap: *mut CHeap) -> Option<Heap> {
    // SAFETY: the header says that a heap argument is null or a heap of this process.
    (!heap.is_null()).then(|| unsafe { Heap::at(heap as usize) })
}

fn block(address: *mut c_void) -> Result<NonNull<u8>, Error> {
    let foreign = Error::Fault(brant_heap::Fault::Foreign { address: address as usize });
    NonNull::new(address.cast::<u8>()).ok_or(foreign)
}

fn no_memory(bytes: usize) -> *mut c_void {
    failed(&Error::NoMemory { bytes, errno: 12 });
    null_mut()
}

/// # Safety
///
/// A string that ends with a zero byte, or null.
unsafe fn text<'a>(words: *const c_char) -> &'a str {
    if words.is_null() {
        return "";
    }
    // SAFETY: promised by the caller.
    unsafe { CStr::from_ptr(words) }.to_str().unwrap_or("")
}

/// # Safety
///
/// A string that ends with a zero byte, or null.
unsafe fn path<'a>(words: *const c_char) -> &'a Path {
    if words.is_null() {
        return Path::new("");
    }
    // SAFETY: promised by the caller.
    Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(words) }.to_bytes()))
}

/// # Safety
///
/// As the header says of all arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brant_heap_create(name: *const c_char, options: *const COptions) -> *mut CHeap {
    // SAFETY: promised by the caller.
    let (name, options) = unsafe { (text(name), options.as_ref()) };
    let defaults = Options::default();
    let options = options.map_or(defaults, |options| Options {
        range_bytes: if options.range_bytes == 0 { defaults.range_bytes } else { options.range_bytes },
        at: (options.at != 0).then_some(options.at),
        debug: options.debug != 0,
    });
    created(Heap::create_with(name, &options))
}

pub(crate) fn created(made: Result<Heap, Error>) -> *mut CHeap {
    made.map_or_else(
        |error| {
            failed(&error);
            null_mut()
        },
        out,
    )
}

/// # Safety
///
/// As the header says of all arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brant_heap_find(name: *const c_char) -> *mut CHeap {
    // SAFETY: promised by the caller.
    created(Heap::find(unsafe { text(name) }))
}

/// The next heap that can be saved after one, or the first; null after the last.
#[unsafe(no_mangle)]
pub extern "C" fn brant_heap_next(after: *mut CHeap) -> *mut CHeap {
    let mut next = null_mut();
    let mut is_behind = after.is_null();
    Heap::each(|heap| {
        if is_behind {
            next = out(heap);
            return false;
        }
        is_behind = out(heap) == after;
        true
    });
    next
}

/// # Safety
///
/// The result is valid as long as the heap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brant_heap_name(of: *mut CHeap) -> *const c_char {
    match heap(of) {
        // The name lies in the heap, with a zero byte behind it.
        Ok(heap) => heap.name_address() as *const c_char,
        Err(error) => {
            failed(&error);
            null()
        }
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn brant_heap_alloc(from: *mut CHeap, bytes: usize) -> *mut c_void {
    let block = believed(from).and_then(|heap| heap.allocate(bytes));
    block.map_or_else(|| no_memory(bytes), |block| block.as_ptr().cast())
}

#[unsafe(no_mangle)]
pub extern "C" fn brant_heap_zalloc(from: *mut CHeap, bytes: usize) -> *mut c_void {
    let block = believed(from).and_then(|heap| heap.allocate_zeroed(bytes));
    block.map_or_else(|| no_memory(bytes), |block| block.as_ptr().cast())
}

#[unsafe(no_mangle)]
pub extern "C" fn brant_heap_alloc_aligned(from: *mut CHeap, bytes: usize, align: usize) -> *mut c_void {
    let block = believed(from).and_then(|heap| heap.allocate_aligned(bytes, align));
    block.map_or_else(|| no_memory(bytes), |block| block.as_ptr().cast())
}

/// # Safety
///
/// As the header says of all arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brant_heap_realloc(of: *mut CHeap, old: *mut c_void, bytes: usize) -> *mut c_void {
    let (Some(heap), Some(old)) = (believed(of), NonNull::new(old.cast::<u8>())) else {
        return brant_heap_alloc(of, bytes);
    };
    // SAFETY: promised by the caller.
    match unsafe { heap.reallocate(old, bytes) } {
        Ok(Some(block)) => block.as_ptr().cast(),
        Ok(None) => no_memory(bytes),
        Err(fault) => {
            failed(&fault.into());
            null_mut()
        }
    }
}

/// # Safety
///
/// As the header says of all arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brant_heap_free(of: *mut CHeap, address: *mut c_void) -> c_int {
    let (Some(heap), Some(block)) = (believed(of), NonNull::new(address.cast::<u8>())) else { return 0 };
    // SAFETY: promised by the caller.
    done(unsafe { heap.free(block) })
}

/// The bytes of a block, or all ones for what is none.
#[unsafe(no_mangle)]
pub extern "C" fn brant_heap_size(of: *mut CHeap, address: *mut c_void) -> usize {
    let foreign = Error::Fault(brant_heap::Fault::Foreign { address: address as usize });
    let size = heap(of).and_then(|heap| heap.usable(block(address)?).ok_or(foreign));
    size.unwrap_or_else(|error| {
        failed(&error);
        usize::MAX
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn brant_heap_region(from: *mut CHeap, bytes: usize) -> *mut c_void {
    let block = believed(from).and_then(|heap| heap.allocate_region(bytes));
    block.map_or_else(|| no_memory(bytes), |block| block.as_ptr().cast())
}

/// # Safety
///
/// As the header says of all arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brant_heap_discard(
    of: *mut CHeap,
    region: *mut c_void,
    offset: usize,
    bytes: usize,
) -> c_int {
    // SAFETY: promised by the caller.
    done(heap(of).and_then(|heap| unsafe { heap.discard(block(region)?, offset, bytes) }))
}

/// # Safety
///
/// As the header says of all arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brant_heap_walk(
    of: *mut CHeap,
    visit: Option<unsafe extern "C" fn(*mut c_void, *const CBlock) -> c_int>,
    context: *mut c_void,
) -> c_int {
    let Some(visit) = visit else { return 0 };
    done(heap(of).and_then(|heap| {
        heap.walk(|block| {
            let block = c_block(&block);
            // SAFETY: promised by the caller.
            unsafe { visit(context, &block) == 0 }
        })
    }))
}

pub(crate) fn c_block(block: &Block) -> CBlock {
    let kind = match block.kind {
        BlockKind::Small => 0,
        BlockKind::Large => 1,
        BlockKind::Region => 2,
    };
    CBlock { address: block.address as *mut c_void, bytes: block.bytes, kind }
}

#[unsafe(no_mangle)]
pub extern "C" fn brant_heap_check(of: *mut CHeap) -> c_int {
    done(heap(of).and_then(Heap::check))
}

/// # Safety
///
/// As the header says of all arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brant_heap_destroy(of: *mut CHeap) -> c_int {
    // SAFETY: promised by the caller.
    done(heap(of).map(|heap| unsafe { heap.destroy() }))
}

/// Enters a heap, or with null the process's own; gives the one before.
#[unsafe(no_mangle)]
pub extern "C" fn brant_heap_enter(to: *mut CHeap) -> *mut CHeap {
    let before = Heap::switch(believed(to));
    before.map_or_else(
        |error| {
            failed(&error);
            null_mut()
        },
        |before| before.map_or(null_mut(), out),
    )
}

/// # Safety
///
/// As the header says of all arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brant_heap_set_root(
    of: *mut CHeap,
    name: *const c_char,
    address: *mut c_void,
    bytes: usize,
    kind: u64,
) -> c_int {
    // SAFETY: promised by the caller.
    let name = unsafe { text(name) };
    done(heap(of).and_then(|heap| heap.set_root(name, block(address)?, bytes, kind)))
}

/// # Safety
///
/// As the header says of all arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brant_heap_root(
    of: *mut CHeap,
    name: *const c_char,
    kind: u64,
    bytes: *mut usize,
) -> *mut c_void {
    // SAFETY: promised by the caller.
    let name = unsafe { text(name) };
    match heap(of).and_then(|heap| heap.root(name, kind)) {
        Ok((address, size)) => {
            if !bytes.is_null() {
                // SAFETY: promised by the caller.
                unsafe { bytes.write(size) };
            }
            address.as_ptr().cast()
        }
        Err(error) => {
            failed(&error);
            null_mut()
        }
    }
}

/// # Safety
///
/// As the header says of all arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brant_heap_save(to: *const c_char, heaps: *const *mut CHeap, count: usize) -> c_int {
    // SAFETY: promised by the caller.
    unsafe { brant_heap_save_with(to, heaps, count, 0) }
}

/// `BRANT_HEAP_SAVE_WHOLE` and the others.
const SAVE_WHOLE: c_int = 1;
const SAVE_CODE_POINTERS: c_int = 2;
const SAVE_MAPPED: c_int = 4;

/// # Safety
///
/// As the header says of all arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brant_heap_save_with(
    to: *const c_char,
    heaps: *const *mut CHeap,
    count: usize,
    flags: c_int,
) -> c_int {
    let saving = Saving {
        whole: flags & SAVE_WHOLE != 0,
        code_pointers: flags & SAVE_CODE_POINTERS != 0,
        mapped: flags & SAVE_MAPPED != 0,
    };
    let mut chosen: [Option<Heap>; ALL_MAX] = [None; ALL_MAX];
    let mut chosen_count = 0;
    let mut result = Ok(());
    let mut choose = |heap: Heap| {
        match chosen.get_mut(chosen_count) {
            Some(place) => *place = Some(heap),
            None => result = Err(Error::TooManyForImage),
        }
        chosen_count += 1;
        result.is_ok()
    };
    if count == 0 {
        Heap::each(&mut choose);
    } else {
        for number in 0..count {
            // SAFETY: promised by the caller.
            match heap(unsafe { heaps.add(number).read() }) {
                Ok(heap) => choose(heap),
                Err(error) => return failed(&error),
            };
        }
    }
    let Some(first) = chosen[0].filter(|_| result.is_ok()) else { return failed(&Error::TooManyForImage) };
    let heaps = chosen.map(|heap| heap.unwrap_or(first));
    // SAFETY: promised by the caller.
    let to = unsafe { path(to) };
    brant_heap::save_with(to, &heaps[..chosen_count], saving).map_or_else(|error| failed(&error), |_| 0)
}

/// # Safety
///
/// As the header says of all arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brant_heap_load(from: *const c_char) -> c_int {
    // SAFETY: promised by the caller.
    brant_heap::load(unsafe { path(from) }).map_or_else(|error| failed(&error), |_| 0)
}

/// The number of the thread's last failure.
#[unsafe(no_mangle)]
pub extern "C" fn brant_heap_last_code() -> c_int {
    LAST.with_borrow(|last| last.number)
}

/// The words of the thread's last failure; valid until its next one.
#[unsafe(no_mangle)]
pub extern "C" fn brant_heap_error() -> *const c_char {
    LAST.with_borrow(|last| last.words.as_ptr().cast())
}
