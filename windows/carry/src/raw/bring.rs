//! Making the system's heaps again where they were. Nothing of the program has run; where a heap is refused, the process ends.

use std::ffi::c_void;
use std::ops::Range;

use brant_image::model::Windows;
use brant_windows::{Code, Refused};
use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::Memory::{
    GetProcessHeap, HeapCreate, HeapValidate, MEM_FREE, MEM_RELEASE, MEM_RESERVE, PAGE_NOACCESS,
    PAGE_READWRITE, VirtualAlloc, VirtualFree,
};

use super::own::{self, Own};
use super::settle::{digest, is_as_made};
use super::{heaps, is_on, raw, walk};
use crate::state::{RawHeap, load, state};

/// Where memory may begin.
const UNIT: usize = 0x1_0000;

/// A heap that was made where it was, before the image's pages are in it.
#[derive(Debug)]
pub(crate) struct Made {
    heap: &'static RawHeap,
    own: Vec<Own>,
    /// The bytes of each of `own`, of this process.
    words: Vec<Vec<u8>>,
}

/// Makes the heaps of an image whose records are there. Their addresses are reserved by whoever started the process.
pub(crate) fn make(windows: &Windows) -> Result<Vec<Made>, Refused> {
    if !is_on() {
        return Ok(Vec::new());
    }
    check_process_heap()?;
    let ranges: Vec<Range<usize>> =
        windows.heaps.iter().map(|range| range.start().0 as usize..range.end().0 as usize).collect();
    for range in &ranges {
        match heaps().find(|heap| load(&heap.handle) as usize == range.start) {
            Some(heap) => place(heap, range)?,
            None => reserve_again(range)?,
        }
    }
    heaps().map(made).collect()
}

fn elsewhere(what: String) -> Refused {
    Refused::new(Code::HeapsElsewhere, what).next("brant.exe explain B-1335")
}

/// By how much an address differs from what it was.
fn distance(was: usize, is: usize) -> String {
    let way = if is < was { "lower" } else { "higher" };
    format!("{:#x} {way}", was.abs_diff(is))
}

/// What the system has given to the program is in its process heap, and C libraries know it by its address.
fn check_process_heap() -> Result<(), Refused> {
    // SAFETY: a call without arguments.
    let (was, is) = (load(&state().process_heap) as usize, unsafe { GetProcessHeap() } as usize);
    if was == is {
        return Ok(());
    }
    Err(elsewhere(format!(
        "the process heap was at {was:#x}, and is at {is:#x} here ({})",
        distance(was, is)
    )))
}

/// Gives back what keeps a range free.
fn release(range: &Range<usize>) -> Result<(), Refused> {
    let is_kept = walk::region_of(range.start).is_some_and(|kept| kept == *range)
        && walk::query(range.start).is_some_and(|found| found.State == MEM_RESERVE);
    // SAFETY: the reservation was made for this.
    if !is_kept || unsafe { VirtualFree(range.start as *mut c_void, 0, MEM_RELEASE) } == 0 {
        return Err(elsewhere(format!(
            "a heap of the program was at {:#x}, where something else is in this process",
            range.start
        )));
    }
    Ok(())
}

/// Lets the system make a heap. It takes the lowest free memory that is large enough: all that is lower is taken meanwhile.
fn place(heap: &RawHeap, range: &Range<usize>) -> Result<(), Refused> {
    let number = heaps().take_while(|other| !std::ptr::eq(*other, heap)).count() + 1;
    let lower = take_below(range.start);
    release(range)?;
    let (initial, maximum) = (load(&heap.initial) as usize, load(&heap.maximum) as usize);
    let options = heap.options.load(std::sync::atomic::Ordering::Acquire);
    // SAFETY: a new heap, as the program has once asked for.
    let new = unsafe { HeapCreate(options, initial, maximum) } as usize;
    for at in lower {
        // SAFETY: reserved above, and used by nobody.
        unsafe { VirtualFree(at as *mut c_void, 0, MEM_RELEASE) };
    }
    if new != range.start {
        return Err(elsewhere(format!(
            "heap {number} of the program was at {:#x}, and the system puts it at {new:#x} here ({})",
            range.start,
            distance(range.start, new)
        )));
    }
    if walk::region_of(new) != Some(range.clone()) {
        return Err(elsewhere(format!("heap {number} of the program, at {new:#x}, has another size here"))
            .why("the system makes heaps of another size"));
    }
    Ok(())
}

/// Reserves all free memory below an address. Where.
fn take_below(end: usize) -> Vec<usize> {
    let mut taken = Vec::new();
    let mut at = UNIT;
    while at < end
        && let Some(found) = walk::query(at)
    {
        let next = (found.BaseAddress as usize + found.RegionSize).min(end);
        let bytes = next.saturating_sub(at) / UNIT * UNIT;
        if found.State == MEM_FREE && bytes > 0 {
            // SAFETY: asks for free pages at an address.
            let got = unsafe { VirtualAlloc(at as *const c_void, bytes, MEM_RESERVE, PAGE_NOACCESS) };
            taken.extend((!got.is_null()).then_some(at));
        }
        at = next.next_multiple_of(UNIT);
    }
    taken
}

/// Memory that a heap has beside its first: it is reserved as the system had done it.
fn reserve_again(range: &Range<usize>) -> Result<(), Refused> {
    release(range)?;
    // SAFETY: asks for pages at an address.
    let got = unsafe { VirtualAlloc(range.start as *const c_void, range.len(), MEM_RESERVE, PAGE_READWRITE) };
    if got as usize == range.start {
        return Ok(());
    }
    Err(elsewhere(format!("memory of the program's heaps at {:#x} is not to be had", range.start)))
}

/// Keeps what is this process's in a new heap.
fn made(heap: &'static RawHeap) -> Result<Made, Refused> {
    let own = own::of(raw(heap)).unwrap_or_default();
    if !is_as_made(heap, &own) {
        return Err(elsewhere(format!(
            "this system builds heaps otherwise than the program's at {:#x}",
            load(&heap.handle)
        )));
    }
    let words = own.iter().map(|own| place_of(heap, own).to_vec()).collect();
    Ok(Made { heap, own, words })
}

fn place_of(heap: &RawHeap, own: &Own) -> &'static mut [u8] {
    let at = (raw(heap) as usize + usize::from(own.offset)) as *mut u8;
    // SAFETY: a part of the heap's beginning, which nobody uses meanwhile.
    unsafe { std::slice::from_raw_parts_mut(at, own.bytes.into()) }
}

impl Made {
    /// Puts back what is this process's, once the image's pages are there, and lets the system look at the heap.
    pub(crate) fn finish(&self) -> Result<(), Refused> {
        for (own, words) in self.own.iter().zip(&self.words) {
            place_of(self.heap, own).copy_from_slice(words);
        }
        let handle: HANDLE = raw(self.heap);
        // SAFETY: a heap of this process.
        let is_valid = unsafe { HeapValidate(handle, 0, std::ptr::null()) } != 0;
        let blocks = [0, 1, 2, 3].map(|index| load(&self.heap.blocks[index]));
        if is_valid && digest(handle) == Some(blocks) {
            return Ok(());
        }
        Err(elsewhere(format!(
            "the system does not find the program's heap at {:#x} as it was",
            handle as usize
        )))
    }
}
