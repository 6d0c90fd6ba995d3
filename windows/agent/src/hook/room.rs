//! Memory for code: near to the functions that it belongs to. Nothing of it is ever freed, as a thread may still run it.

use std::ffi::c_void;

use windows_sys::Win32::System::Memory::{
    MEM_COMMIT, MEM_FREE, MEM_RESERVE, MEMORY_BASIC_INFORMATION, PAGE_EXECUTE_READWRITE, VirtualAlloc,
    VirtualQuery,
};

/// What is taken at once, and where it may begin.
const AREA_BYTES: u64 = 0x1_0000;
/// How far a jump surely reaches.
const REACH: u64 = 0x7f00_0000;
const ALIGNMENT: u64 = 16;

/// Areas of code.
#[derive(Debug)]
pub(crate) struct Room {
    /// Where each begins, and how much of it is taken.
    areas: Vec<(u64, u64)>,
}

impl Room {
    pub(crate) const fn new() -> Room {
        Room { areas: Vec::new() }
    }

    /// Room for so many bytes of code within reach of `near`. It may be written.
    pub(crate) fn take(&mut self, near: u64, bytes: u64) -> Option<u64> {
        let bytes = bytes.next_multiple_of(ALIGNMENT);
        let fits = |(start, taken): &&mut (u64, u64)| {
            taken.saturating_add(bytes) <= AREA_BYTES
                && start.abs_diff(near).saturating_add(AREA_BYTES) < REACH
        };
        if let Some((start, taken)) = self.areas.iter_mut().find(fits) {
            *taken += bytes;
            return Some(*start + *taken - bytes);
        }
        let start = free_near(near)?;
        self.areas.push((start, bytes));
        Some(start)
    }
}

/// A new area, the nearest one below `near`, or else above it.
fn free_near(near: u64) -> Option<u64> {
    below(near).or_else(|| above(near))
}

fn below(near: u64) -> Option<u64> {
    let mut at = near & !(AREA_BYTES - 1);
    while at >= AREA_BYTES && near - at < REACH - AREA_BYTES {
        let (start, end, is_free) = region(at - 1)?;
        let last = (end & !(AREA_BYTES - 1)).min(at).checked_sub(AREA_BYTES)?;
        if is_free && last >= start && last > 0 {
            if let Some(area) = take_at(last) {
                return Some(area);
            }
            at = last;
        } else {
            at = start.min(at - 1);
        }
    }
    None
}

fn above(near: u64) -> Option<u64> {
    let mut at = near;
    while at - near < REACH - AREA_BYTES {
        let (start, end, is_free) = region(at)?;
        let first = start.max(at).next_multiple_of(AREA_BYTES);
        if is_free && first + AREA_BYTES <= end {
            if let Some(area) = take_at(first) {
                return Some(area);
            }
            at = first + AREA_BYTES;
        } else {
            at = end;
        }
    }
    None
}

/// Where the memory around an address begins and ends, and whether it is free.
fn region(at: u64) -> Option<(u64, u64, bool)> {
    let mut told = MEMORY_BASIC_INFORMATION::default();
    // SAFETY: there is room for the answer.
    let bytes = unsafe { VirtualQuery(at as *const c_void, &raw mut told, size_of_val(&told)) };
    let start = told.BaseAddress as u64;
    (bytes != 0).then_some((start, start + told.RegionSize as u64, told.State == MEM_FREE))
}

fn take_at(at: u64) -> Option<u64> {
    // SAFETY: new memory, or none.
    let area = unsafe {
        VirtualAlloc(
            at as *const c_void,
            AREA_BYTES as usize,
            MEM_RESERVE | MEM_COMMIT,
            PAGE_EXECUTE_READWRITE,
        )
    };
    (!area.is_null()).then_some(area as u64)
}
