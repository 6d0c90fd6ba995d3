//! System calls for libraries without imports, and memory that a fork empties. For brant's own libraries: no part of what is promised
//! to others.

use core::arch::asm;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

const SYS_MMAP: usize = 9;
const SYS_MUNMAP: usize = 11;
const SYS_MADVISE: usize = 28;
const PAGE: usize = 4096;
const PROT_READ_WRITE: usize = 3;
const MAP_PRIVATE_ANONYMOUS: usize = 0x22;
const MADV_WIPEONFORK: usize = 18;

/// Makes a system call. An error is its negative number.
///
/// # Safety
///
/// As the system call of that number.
pub unsafe fn call(number: usize, [a, b, c, d, e, f]: [usize; 6]) -> isize {
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

/// Where the next pages are asked for; 0: nothing was asked for yet.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// New memory of zeros, apart from what the program maps: one that unmaps a part of a range, and the whole of it later, would take
/// pages with it that had come to lie in the hole meanwhile. As far from a fixed place as this library lies by chance.
pub fn map(bytes: usize) -> Option<*mut u8> {
    const APART: usize = 0x2000_0000_0000;
    const CHANCE: usize = 0x0fff_ffff_f000;
    let first = APART + (&raw const NEXT as usize & CHANCE);
    let _ = NEXT.compare_exchange(0, first, Ordering::Relaxed, Ordering::Relaxed);
    let wanted = NEXT.fetch_add(bytes.next_multiple_of(PAGE), Ordering::Relaxed);
    // SAFETY: new anonymous memory, which replaces nothing: a place that is taken is not given.
    let at =
        unsafe { call(SYS_MMAP, [wanted, bytes, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, usize::MAX, 0]) };
    (at > 0).then_some(at as *mut u8)
}

/// As [`map`]. In the child of a fork it is all zeros again; nothing before Linux 4.14, which cannot do that.
pub fn map_wiped_on_fork(bytes: usize) -> Option<*mut u8> {
    let at = map(bytes)?;
    // SAFETY: our own pages.
    if unsafe { call(SYS_MADVISE, [at as usize, bytes, MADV_WIPEONFORK, 0, 0, 0]) } != 0 {
        // SAFETY: nobody has them yet.
        unsafe { unmap(at, bytes) };
        return None;
    }
    Some(at)
}

/// Gives memory back.
///
/// # Safety
///
/// Whole mappings of the caller's own that nobody uses any more.
pub unsafe fn unmap(at: *mut u8, bytes: usize) {
    // SAFETY: promised by the caller.
    unsafe { call(SYS_MUNMAP, [at as usize, bytes, 0, 0, 0, 0]) };
}

/// A word that is zero again in the child of a fork.
#[derive(Debug)]
pub struct OfProcess(AtomicPtr<AtomicUsize>);

impl OfProcess {
    #[expect(clippy::new_without_default, reason = "for statics")]
    pub const fn new() -> OfProcess {
        OfProcess(AtomicPtr::new(core::ptr::null_mut()))
    }

    /// The word, where it has been asked for before.
    pub fn known(&self) -> Option<&AtomicUsize> {
        // SAFETY: stays mapped until `forget`; zeros are a valid number.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    /// The word; nothing where there is no such memory.
    pub fn get(&self) -> Option<&AtomicUsize> {
        if let Some(known) = self.known() {
            return Some(known);
        }
        let page = map_wiped_on_fork(PAGE)?;
        let null = core::ptr::null_mut();
        if self.0.compare_exchange(null, page.cast(), Ordering::AcqRel, Ordering::Acquire).is_err() {
            // SAFETY: nobody else has it: another one was first.
            unsafe { unmap(page, PAGE) };
        }
        self.known()
    }

    /// Gives the memory back.
    ///
    /// # Safety
    ///
    /// Nobody uses the word any more.
    pub unsafe fn forget(&self) {
        let at = self.0.swap(core::ptr::null_mut(), Ordering::AcqRel);
        if !at.is_null() {
            // SAFETY: mapped by `get`; the rest is promised by the caller.
            unsafe { unmap(at.cast(), PAGE) };
        }
    }
}
