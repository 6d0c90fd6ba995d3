//! Debug mode: each block has a head before it and guards around it, which are looked at when it is freed, resized or walked over.
//!
//! ```text
//! block  Head  0xfa...  the program's bytes  0xfa... up to the block's end, 16 at least
//! ```
//!
//! A freed block is filled with 0xdf, and that is looked at when it is given out again. All calls hold one lock: debug mode is
//! slow, and its order of events is that of the program.

use crate::core::Core;
use crate::error::Fault;
use crate::large::{Found, plain_class};
use crate::layout::*;

const HEAD_BYTES: usize = 32;
const GUARD_BYTES_MIN: usize = 16;
const GUARD: u8 = 0xfa;
const FREED: u8 = 0xdf;
pub(crate) const LIVE_TAG: u64 = 0x6576_696c_746e_7262;
const FREED_TAG: u64 = 0x6565_7266_746e_7262;

/// The beginning of a block. The smallest that debug mode asks for holds one.
#[repr(C)]
#[derive(Clone, Copy)]
struct Head {
    /// Free blocks have their link here.
    link: u64,
    /// One of the two tags, changed by the block's address.
    tag: u64,
    /// What the program asked for.
    bytes: u64,
    /// Where the program's bytes begin, from the block's beginning.
    offset: u64,
}

/// As [`Core::allocate`].
pub(crate) fn allocate(core: Core, bytes: usize, align: usize) -> usize {
    let align = align.max(16);
    let Some(whole) = bytes.checked_add(HEAD_BYTES + GUARD_BYTES_MIN + if align > 16 { align } else { 0 })
    else {
        return 0;
    };
    let _held = core.process.shared.hold();
    let block = core.allocate_plain(whole, 16);
    if block == 0 {
        return 0;
    }
    let size = core.find(block).map_or(whole, |found| found.bytes);
    // A large block is fresh memory or was given back whole.
    if plain_class(whole, 16).is_some()
        && head(block).tag == FREED_TAG ^ block as u64
        && !is_filled(block + HEAD_BYTES, block + size, FREED)
    {
        crate::die(Fault::WriteAfterFree { address: block + head(block).offset as usize });
    }
    let address = (block + HEAD_BYTES).next_multiple_of(align);
    set_head(
        block,
        Head { link: 0, tag: LIVE_TAG ^ block as u64, bytes: bytes as u64, offset: (address - block) as u64 },
    );
    mark_inside(core, block, address, true);
    fill(block + HEAD_BYTES, address, GUARD);
    fill(address + bytes, guard_end(address + bytes, block + size), GUARD);
    address
}

/// Says of a block that was never given out that what lies in it means nothing: its memory may have been that of another one.
pub(crate) fn carved(block: usize) {
    set_head(block, Head { link: 0, tag: 0, bytes: 0, offset: 0 });
}

/// As [`Core::free`].
pub(crate) fn free(core: Core, address: usize) -> Result<(), Fault> {
    let _held = core.process.shared.hold();
    let found = check(core, address)?;
    let before = head(found.block);
    set_head(found.block, Head { tag: FREED_TAG ^ found.block as u64, ..before });
    if found.span.state.get() == SMALL {
        fill(found.block + HEAD_BYTES, found.block + found.bytes, FREED);
    }
    mark_inside(core, found.block, address, false);
    core.free_plain(found.block)
}

/// An address that is aligned to more than a slice may lie in a later slice of its run than the first: that slice's entry leads back.
fn mark_inside(core: Core, block: usize, address: usize, is_live: bool) {
    let slices = ((address - block) >> SLICE_SHIFT) as u32;
    if let Some(found) = core.find(block).filter(|found| slices != 0 && found.span.state.get() == LARGE) {
        core.span(core.slice_of(found.span) + slices).back.set(if is_live { slices } else { 0 });
    }
}

/// What the program asked for.
pub(crate) fn requested(core: Core, address: usize) -> Option<usize> {
    let _held = core.process.shared.hold();
    let found = check(core, address).ok()?;
    Some(head(found.block).bytes as usize)
}

/// Where a live block's bytes for the program begin, and how many they are; `None` for a block that is not live.
pub(crate) fn inner(block: usize) -> Option<(usize, usize)> {
    let head = head(block);
    (head.tag == LIVE_TAG ^ block as u64).then(|| (block + head.offset as usize, head.bytes as usize))
}

/// Looks at a block by the address that the program has.
pub(crate) fn check(core: Core, address: usize) -> Result<Found<'static>, Fault> {
    let foreign = Fault::Foreign { address };
    let found = core.find(address).ok_or(foreign)?;
    let head = head(found.block);
    let is_its = |head: &Head| found.block as u64 + head.offset == address as u64;
    if head.tag == FREED_TAG ^ found.block as u64 {
        return Err(if is_its(&head) { Fault::DoubleFree { address } } else { foreign });
    }
    let is_offset = (HEAD_BYTES as u64..found.bytes as u64).contains(&head.offset);
    if head.tag != LIVE_TAG ^ found.block as u64 || !is_offset {
        return Err(Fault::Underrun { address });
    }
    if !is_its(&head) {
        return Err(foreign);
    }
    let (bytes, end) = (head.bytes as usize, found.block + found.bytes);
    if bytes > found.bytes
        || address + bytes + GUARD_BYTES_MIN > end
        || !is_filled(found.block + HEAD_BYTES, address, GUARD)
    {
        return Err(Fault::Underrun { address });
    }
    if !is_filled(address + bytes, guard_end(address + bytes, end), GUARD) {
        return Err(Fault::Overrun { address, bytes });
    }
    Ok(found)
}

/// Large blocks may have much behind their end: a page of it is enough.
fn guard_end(from: usize, end: usize) -> usize {
    end.min(from + PAGE_BYTES)
}

fn head(block: usize) -> Head {
    // SAFETY: the block lies in a heap of this process, and any bytes are a head.
    unsafe { (block as *const Head).read() }
}

fn set_head(block: usize, head: Head) {
    // SAFETY: the block lies in a debugged heap, whose lock is held.
    unsafe { (block as *mut Head).write(head) };
}

fn fill(from: usize, to: usize, with: u8) {
    // SAFETY: a part of a block of a debugged heap that the program does not have.
    unsafe { std::ptr::write_bytes(from as *mut u8, with, to - from) };
}

fn is_filled(from: usize, to: usize, with: u8) -> bool {
    // SAFETY: a part of a block, read only.
    let bytes = unsafe { std::slice::from_raw_parts(from as *const u8, to - from) };
    bytes.iter().all(|byte| *byte == with)
}
