//! What a program without a standard library needs: system calls, memory, and an end for what must not happen.

use core::arch::asm;

const SYS_MMAP: usize = 9;
const SYS_MPROTECT: usize = 10;
const SYS_MUNMAP: usize = 11;
const SYS_GETPID: usize = 39;

const PROT_READ: usize = 1;
const PROT_WRITE: usize = 2;
const PROT_EXEC: usize = 4;
const MAP_PRIVATE: usize = 2;
const MAP_ANONYMOUS: usize = 0x20;
const MAP_FIXED_NOREPLACE: usize = 0x10_0000;

pub(crate) const PAGE: usize = 4096;

/// # Safety
///
/// As the system call of that number.
unsafe fn call(number: usize, [a, b, c, d, e, f]: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the kernel changes rax, rcx, r11 and what the call is documented to; the caller vouches for that.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// The number of this process.
pub(crate) fn process() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { call(SYS_GETPID, [0; 6]) as u32 }
}

/// New pages that can be written, anywhere.
pub(crate) fn map(bytes: usize) -> Option<*mut u8> {
    map_at(0, bytes, 0)
}

fn map_at(at: usize, bytes: usize, more_flags: usize) -> Option<*mut u8> {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | more_flags;
    // SAFETY: new anonymous memory, which replaces nothing.
    let address = unsafe { call(SYS_MMAP, [at, bytes, PROT_READ | PROT_WRITE, flags, usize::MAX, 0]) };
    (address > 0).then_some(address as *mut u8)
}

/// # Safety
///
/// Pages of [`map`] or [`map_near`] that nobody uses any more.
pub(crate) unsafe fn unmap(at: *mut u8, bytes: usize) {
    // SAFETY: promised by the caller.
    unsafe { call(SYS_MUNMAP, [at as usize, bytes, 0, 0, 0, 0]) };
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

/// How far generated code may be from what it refers to: 2 GiB less room for a module.
const NEAR: usize = 0x7000_0000;
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
        let Some(got) = map_at(at, bytes, MAP_FIXED_NOREPLACE) else { continue };
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
    use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

    use super::{PAGE, map, unmap};

    /// Blocks of powers of two from 16 bytes to 64 KiB, in lists of free ones; larger ones are pages.
    struct Blocks {
        is_held: AtomicBool,
        free: [AtomicPtr<u8>; CLASSES],
        rest: AtomicUsize,
        rest_bytes: AtomicUsize,
    }

    const SMALLEST: usize = 16;
    const CLASSES: usize = 13;
    const LARGEST: usize = SMALLEST << (CLASSES - 1);
    const CHUNK: usize = 4 * LARGEST;

    #[global_allocator]
    static BLOCKS: Blocks = Blocks {
        is_held: AtomicBool::new(false),
        free: [const { AtomicPtr::new(core::ptr::null_mut()) }; CLASSES],
        rest: AtomicUsize::new(0),
        rest_bytes: AtomicUsize::new(0),
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
            let mut at = self.rest.load(Ordering::Relaxed).next_multiple_of(bytes);
            let end = self.rest.load(Ordering::Relaxed) + self.rest_bytes.load(Ordering::Relaxed);
            let mut end = end;
            if at == 0 || at + bytes > end {
                let Some(chunk) = map(CHUNK + LARGEST) else { return core::ptr::null_mut() };
                at = (chunk as usize).next_multiple_of(bytes);
                end = chunk as usize + CHUNK + LARGEST;
            }
            self.rest.store(at + bytes, Ordering::Relaxed);
            self.rest_bytes.store(end - at - bytes, Ordering::Relaxed);
            at as *mut u8
        }

        /// Requests are answered one at a time, so that nobody waits here but after a fork in the middle of one.
        fn alone<T>(&self, act: impl FnOnce() -> T) -> T {
            while self.is_held.swap(true, Ordering::Acquire) {
                core::hint::spin_loop();
            }
            let result = act();
            self.is_held.store(false, Ordering::Release);
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
