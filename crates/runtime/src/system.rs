//! What a program without a standard library needs: system calls, memory, and an end for what must not happen.

use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};

use brant_mediator::system::{OfProcess, call};
pub(crate) use brant_mediator::system::{map, unmap};

const SYS_MMAP: usize = 9;
const SYS_MPROTECT: usize = 10;
const SYS_RT_SIGPROCMASK: usize = 14;
const SYS_MSYNC: usize = 26;
const SYS_NANOSLEEP: usize = 35;
const SYS_GETPID: usize = 39;

const PROT_READ: usize = 1;
const PROT_WRITE: usize = 2;
const PROT_EXEC: usize = 4;
const MS_ASYNC: usize = 1;
const SIG_SETMASK: usize = 2;
const MAP_PRIVATE: usize = 2;
const MAP_ANONYMOUS: usize = 0x20;
const MAP_FIXED_NOREPLACE: usize = 0x10_0000;

pub(crate) const PAGE: usize = 4096;

static OWN: OfProcess = OfProcess::new();

/// A number for this process, other than those of its parent and children. Asked for once: whoever traces this process
/// stops it at every system call, and each block of memory needs the number.
pub(crate) fn process() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    let ask = || unsafe { call(SYS_GETPID, [0; 6]) as usize };
    let Some(known) = OWN.get() else { return ask() as u32 };
    match known.load(Ordering::Relaxed) {
        0 => {
            let own = ask();
            known.store(own, Ordering::Relaxed);
            own as u32
        }
        own => own as u32,
    }
}

/// New pages at this address, where nothing is yet.
fn map_at(at: usize, bytes: usize) -> Option<*mut u8> {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    // SAFETY: new anonymous memory, which replaces nothing.
    let address = unsafe { call(SYS_MMAP, [at, bytes, PROT_READ | PROT_WRITE, flags, usize::MAX, 0]) };
    (address > 0).then_some(address as *mut u8)
}

/// Makes pages executable and no longer writable.
///
/// # Safety
///
/// Pages of [`map`] or [`map_near`] that are not written any more.
pub(crate) unsafe fn seal(at: *mut u8, bytes: usize) -> bool {
    // SAFETY: promised by the caller.
    unsafe { call(SYS_MPROTECT, [at as usize, bytes, PROT_READ | PROT_EXEC, 0, 0, 0]) == 0 }
}

/// Makes pages of code writable or not, with what else their segment says.
///
/// # Safety
///
/// The range is of one segment of a module, which was mapped so.
pub(crate) unsafe fn protect(range: Range<usize>, is_readable: bool, is_writable: bool) -> bool {
    let protection = PROT_EXEC
        | if is_readable { PROT_READ } else { 0 }
        | if is_writable { PROT_READ | PROT_WRITE } else { 0 };
    let start = range.start & !(PAGE - 1);
    // SAFETY: promised by the caller.
    unsafe { call(SYS_MPROTECT, [start, range.end - start, protection, 0, 0, 0]) == 0 }
}

/// Whether the page at an address is mapped.
pub(crate) fn is_mapped(at: usize) -> bool {
    // SAFETY: writes nothing: since Linux 2.6.19 this only tells whether there is memory.
    unsafe { call(SYS_MSYNC, [at & !(PAGE - 1), PAGE, MS_ASYNC, 0, 0, 0]) == 0 }
}

/// Waits for a tenth of a millisecond.
pub(crate) fn pause() {
    let time: [u64; 2] = [0, 100_000];
    // SAFETY: reads the time, which is there.
    unsafe { call(SYS_NANOSLEEP, [time.as_ptr() as usize, 0, 0, 0, 0, 0]) };
}

/// No signal handler runs on this thread until this is dropped.
pub(crate) struct Undisturbed(u64);

impl Undisturbed {
    pub(crate) fn begin() -> Undisturbed {
        Undisturbed(set_signal_mask(u64::MAX))
    }
}

impl Drop for Undisturbed {
    fn drop(&mut self) {
        set_signal_mask(self.0);
    }
}

/// Gives the one before.
fn set_signal_mask(mask: u64) -> u64 {
    let mut before = 0u64;
    let (new, old) = (&raw const mask as usize, &raw mut before as usize);
    // SAFETY: reads and writes these eight bytes.
    unsafe { call(SYS_RT_SIGPROCMASK, [SIG_SETMASK, new, old, 8, 0, 0]) };
    before
}

/// Something that one thread holds at a time, known by its process: a fork may copy it while it is held.
pub(crate) struct Hold(AtomicU32);

/// Pauses that are waited for, at most: ten seconds that the process runs.
const PAUSES_MAX: u32 = 100_000;

/// How something came to be held.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    Free,
    /// From a thread of the process that this one is a fork of: it may have been in the middle of something.
    Inherited,
}

impl Hold {
    pub(crate) const fn new() -> Hold {
        Hold(AtomicU32::new(0))
    }

    /// `None` where somebody holds it for too long.
    pub(crate) fn take(&self) -> Option<Taken> {
        let own = process();
        for _ in 0..PAUSES_MAX {
            let (free, other) = match self.0.compare_exchange(0, own, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(Taken::Free),
                Err(holder) => (holder == 0, holder),
            };
            if !free && other != own {
                let swapped = self.0.compare_exchange(other, own, Ordering::Acquire, Ordering::Relaxed);
                if swapped.is_ok() {
                    return Some(Taken::Inherited);
                }
            }
            pause();
        }
        None
    }

    pub(crate) fn give_back(&self) {
        self.0.store(0, Ordering::Release);
    }
}

/// Makes such pages writable again, and no longer executable.
///
/// # Safety
///
/// Nobody runs their code any more.
pub(crate) unsafe fn unseal(at: *mut u8, bytes: usize) -> bool {
    // SAFETY: promised by the caller.
    unsafe { call(SYS_MPROTECT, [at as usize, bytes, PROT_READ | PROT_WRITE, 0, 0, 0]) == 0 }
}

/// How far generated code may be from what it refers to: 2 GiB less room for a module.
pub(crate) const NEAR: usize = 0x7000_0000;
const STEP: usize = 1 << 20;

/// New pages, all of them within 2 GiB of every byte of `start..end`. MAP_FIXED_NOREPLACE needs Linux 4.17; an older one
/// takes the address as a hint.
pub(crate) fn map_near(start: usize, end: usize, bytes: usize) -> Option<*mut u8> {
    let lowest = end.saturating_sub(NEAR).max(0x1_0000);
    let highest = start.saturating_add(NEAR);
    let below = (1..)
        .map(|step| start.wrapping_sub(step * STEP) & !(STEP - 1))
        .take_while(|at| *at >= lowest && *at < start);
    let above = (1..).map(|step| (end + step * STEP) & !(STEP - 1)).take_while(|at| at + bytes <= highest);
    for at in below.chain(above) {
        let Some(got) = map_at(at, bytes) else { continue };
        if got as usize == at {
            return Some(got);
        }
        // SAFETY: just mapped.
        unsafe { unmap(got, bytes) };
    }
    None
}

#[cfg(feature = "loaded")]
mod loaded {
    use core::alloc::{GlobalAlloc, Layout};
    use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

    use super::{Hold, PAGE, map, unmap};

    /// Blocks of powers of two from 16 bytes to 64 KiB, in lists of free ones; larger ones are pages.
    struct Blocks {
        hold: Hold,
        free: [AtomicPtr<u8>; CLASSES],
        rest: AtomicUsize,
        rest_end: AtomicUsize,
    }

    const SMALLEST: usize = 16;
    const CLASSES: usize = 13;
    const LARGEST: usize = SMALLEST << (CLASSES - 1);
    const CHUNK: usize = 4 * LARGEST;

    #[global_allocator]
    static BLOCKS: Blocks = Blocks {
        hold: Hold::new(),
        free: [const { AtomicPtr::new(core::ptr::null_mut()) }; CLASSES],
        rest: AtomicUsize::new(0),
        rest_end: AtomicUsize::new(0),
    };

    fn class(layout: Layout) -> usize {
        let bytes = layout.size().max(layout.align()).max(SMALLEST).next_power_of_two();
        (bytes / SMALLEST).trailing_zeros() as usize
    }

    impl Blocks {
        fn take(&self, class: usize) -> *mut u8 {
            let first = self.free[class].load(Ordering::Relaxed);
            if !first.is_null() {
                // SAFETY: a free block holds the address of the next one.
                let next = unsafe { first.cast::<*mut u8>().read() };
                self.free[class].store(next, Ordering::Relaxed);
                return first;
            }
            let bytes = SMALLEST << class;
            let at = self.rest.load(Ordering::Relaxed).next_multiple_of(bytes);
            if at != 0 && at + bytes <= self.rest_end.load(Ordering::Relaxed) {
                self.rest.store(at + bytes, Ordering::Relaxed);
                return at as *mut u8;
            }
            let Some(chunk) = map(CHUNK + LARGEST) else { return core::ptr::null_mut() };
            let at = (chunk as usize).next_multiple_of(bytes);
            // In an order that a fork in between can bear.
            self.rest_end.store(0, Ordering::Release);
            self.rest.store(at + bytes, Ordering::Release);
            self.rest_end.store(chunk as usize + CHUNK + LARGEST, Ordering::Release);
            at as *mut u8
        }

        /// Where the parent of a fork was in the middle of this, a block may be lost to the child, no more.
        fn alone<T>(&self, act: impl FnOnce() -> T) -> T {
            let _ = self.hold.take();
            let result = act();
            self.hold.give_back();
            result
        }
    }

    // SAFETY: a block is given to one owner until it comes back, is large enough, and is aligned to its own size or to a page.
    unsafe impl GlobalAlloc for Blocks {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            let class = class(layout);
            if class >= CLASSES {
                if layout.align() > PAGE {
                    return core::ptr::null_mut();
                }
                return map(layout.size().next_multiple_of(PAGE)).unwrap_or(core::ptr::null_mut());
            }
            self.alone(|| self.take(class))
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            let class = class(layout);
            if class >= CLASSES {
                // SAFETY: alloc mapped it, and the owner gives it back.
                return unsafe { unmap(block, layout.size().next_multiple_of(PAGE)) };
            }
            self.alone(|| {
                // SAFETY: the owner gives back at least 16 bytes.
                unsafe { block.cast::<*mut u8>().write(self.free[class].load(Ordering::Relaxed)) };
                self.free[class].store(block, Ordering::Relaxed);
            });
        }
    }
}
