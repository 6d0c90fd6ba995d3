//! Blocks of more than 64 KiB, regions, and what the two kinds of blocks have in common.

use std::sync::atomic::Ordering::Relaxed;

use crate::class::{SMALL_BYTES_MAX, block_bytes, class_of};
use crate::core::Core;
use crate::error::Fault;
use crate::layout::*;
use crate::small::take_ready;
use crate::thread;

/// No block is longer: half of the address space that a heap can have.
pub(crate) const BLOCK_BYTES_MAX: usize = RANGE_BYTES_MAX / 2;

/// What a block is, by its address.
#[derive(Clone, Copy)]
pub(crate) struct Found<'a> {
    pub(crate) span: &'a Span,
    /// Where the block begins.
    pub(crate) block: usize,
    /// All bytes that may be used.
    pub(crate) bytes: usize,
}

impl Core {
    /// A block of at least `bytes` whose address is a multiple of `align`, a power of two; 0 where there is no memory.
    #[inline(always)]
    pub(crate) fn allocate(self, bytes: usize, align: usize) -> usize {
        if bytes <= SMALL_BYTES_MAX && align <= 16 {
            let slot = thread::slot(self.process.index.load(Relaxed));
            if let Some(slot) = slot {
                let block = take_ready(slot, class_of(bytes));
                if block != 0 {
                    return block;
                }
            }
        }
        self.allocate_slowly(bytes, align)
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn allocate_slowly(self, bytes: usize, align: usize) -> usize {
        if self.is_debug() {
            crate::debug::allocate(self, bytes, align)
        } else {
            self.allocate_plain(bytes, align)
        }
    }

    /// Frees a block. Only what shows by itself is looked for, unless the heap is debugged.
    #[inline(always)]
    pub(crate) fn free(self, address: usize) -> Result<(), Fault> {
        if self.free_quickly(address) { Ok(()) } else { self.free_slowly(address) }
    }

    /// Frees a block if it lies in a span of the calling thread.
    #[inline(always)]
    pub(crate) fn free_quickly(self, address: usize) -> bool {
        thread::slot(self.process.index.load(Relaxed)).is_some_and(|slot| self.free_own(slot, address))
    }

    /// Frees a block if it lies in a span of the caller's slot.
    #[inline(always)]
    pub(crate) fn free_own(self, slot: &Slot, address: usize) -> bool {
        if let Some(span) = self.span_at(address)
            && span.owner.load(Relaxed) == slot.id.get()
        {
            self.give_block(slot, span, address);
            return true;
        }
        false
    }

    #[inline(never)]
    pub(crate) fn free_slowly(self, address: usize) -> Result<(), Fault> {
        if self.is_debug() { crate::debug::free(self, address) } else { self.free_plain(address) }
    }

    /// As [`Core::allocate`], without debug mode.
    pub(crate) fn allocate_plain(self, bytes: usize, align: usize) -> usize {
        match plain_class(bytes, align) {
            Some(class) => match self.is_debug() {
                // All calls of a debugged heap hold the lock already.
                true => self.take_block(self.slot(0), class),
                false => match thread::attach(self) {
                    Some(slot) => self.take_block(slot, class),
                    None => {
                        let _held = self.process.shared.hold();
                        self.take_block(self.slot(0), class)
                    }
                },
            },
            None => self.allocate_large(bytes, align, LARGE).map_or(0, |(address, _)| address),
        }
    }

    /// As [`Core::free`], without debug mode.
    pub(crate) fn free_plain(self, address: usize) -> Result<(), Fault> {
        let foreign = Fault::Foreign { address };
        let span = self.span_at(address).ok_or(foreign)?;
        match span.state.get() {
            SMALL => {
                if self.is_debug() {
                    self.give_block(self.slot(0), span, address);
                } else {
                    self.give_remotely(span, address);
                }
                Ok(())
            }
            LARGE | REGION => self.free_large(span, address),
            _ => Err(foreign),
        }
    }

    /// A run for a block of its own; also tells whether it is zero.
    pub(crate) fn allocate_large(self, bytes: usize, align: usize, state: u8) -> Option<(usize, bool)> {
        if bytes > BLOCK_BYTES_MAX || align > BLOCK_BYTES_MAX {
            return None;
        }
        let len = bytes.max(1).div_ceil(SLICE_BYTES) as u32;
        let _held = self.process.pages.hold();
        let run = self.take_run(len, align)?;
        let span = self.span(run.slice);
        span.free.set(bytes);
        span.owner.store(0, Relaxed);
        span.back.set(0);
        span.len.set(len);
        span.flags.set(0);
        span.state.set(state);
        Some((self.slice_address(run.slice), run.is_zero))
    }

    pub(crate) fn free_large(self, span: &Span, address: usize) -> Result<(), Fault> {
        let _held = self.process.pages.hold();
        let slice = self.slice_of(span);
        // Looked at again: another thread may have been first.
        if !matches!(span.state.get(), LARGE | REGION) || self.slice_address(slice) != address {
            return Err(Fault::Foreign { address });
        }
        let len = span.len.get();
        span.state.set(NOTHING);
        span.len.set(0);
        self.give_run(slice, len);
        Ok(())
    }

    /// What block an address is the beginning of, or lies in.
    pub(crate) fn find<'a>(self, address: usize) -> Option<Found<'a>> {
        let span = self.span_at(address)?;
        let begin = self.slice_address(self.slice_of(span));
        match span.state.get() {
            SMALL => {
                let bytes = span.block_bytes.get() as usize;
                let index = (address - begin) / bytes;
                (index < usize::from(span.carved.get())).then_some(Found {
                    span,
                    block: begin + index * bytes,
                    bytes,
                })
            }
            LARGE | REGION => {
                Some(Found { span, block: begin, bytes: (span.len.get() as usize) << SLICE_SHIFT })
            }
            _ => None,
        }
    }

    /// The bytes of a block that may be used.
    pub(crate) fn usable(self, address: usize) -> Option<usize> {
        if self.is_debug() {
            return crate::debug::requested(self, address);
        }
        self.find(address).filter(|found| found.block == address).map(|found| found.bytes)
    }

    /// A zeroed block.
    pub(crate) fn allocate_zeroed(self, bytes: usize, align: usize) -> usize {
        if !self.is_debug() && plain_class(bytes, align).is_none() {
            let Some((address, is_zero)) = self.allocate_large(bytes, align, LARGE) else { return 0 };
            if !is_zero {
                fill_zero(address, bytes);
            }
            return address;
        }
        let address = self.allocate(bytes, align);
        if address != 0 {
            fill_zero(address, bytes);
        }
        address
    }

    /// Makes a block longer or shorter, elsewhere if need be. 0 where there is no memory; then it is as it was.
    pub(crate) fn reallocate(self, address: usize, bytes: usize, align: usize) -> Result<usize, Fault> {
        let old = self.usable(address).ok_or(Fault::Foreign { address })?;
        if !self.is_debug() && self.resize(address, old, bytes) {
            return Ok(address);
        }
        let new = self.allocate(bytes, align);
        if new != 0 {
            // SAFETY: both blocks are live and have at least so many bytes; a new block overlaps with no live one.
            unsafe { std::ptr::copy_nonoverlapping(address as *const u8, new as *mut u8, old.min(bytes)) };
            self.free(address)?;
        }
        Ok(new)
    }

    /// Whether the block could stay where it is.
    pub(crate) fn resize(self, address: usize, old: usize, bytes: usize) -> bool {
        // What fits stays, unless half of it would be wasted.
        if bytes <= old && (old <= SMALL_BYTES_MAX && bytes >= old / 2) {
            return true;
        }
        if old <= SMALL_BYTES_MAX || bytes <= SMALL_BYTES_MAX || bytes > BLOCK_BYTES_MAX {
            return false;
        }
        let Some(span) = self.span_at(address).filter(|span| span.state.get() == LARGE) else { return false };
        let (slice, len, new_len) = (self.slice_of(span), span.len.get(), bytes.div_ceil(SLICE_BYTES) as u32);
        let _held = self.process.pages.hold();
        if new_len > len && !self.grow_run(slice, len, new_len) {
            return false;
        }
        span.len.set(new_len);
        span.free.set(bytes);
        if new_len < len {
            self.give_run(slice + new_len, len - new_len);
        }
        true
    }
}

/// The class whose blocks have these bytes and this alignment; `None` where a run of slices is needed.
pub(crate) fn plain_class(bytes: usize, align: usize) -> Option<usize> {
    let padded = if align <= 16 { bytes } else { bytes.max(1).checked_next_multiple_of(align)? };
    if padded > SMALL_BYTES_MAX {
        return None;
    }
    let mut class = class_of(padded);
    // At most four: powers of two are classes.
    while align > 16 && !block_bytes(class).is_multiple_of(align) {
        class += 1;
    }
    Some(class)
}

pub(crate) fn fill_zero(address: usize, bytes: usize) {
    // SAFETY: the block is the caller's and has so many bytes.
    unsafe { std::ptr::write_bytes(address as *mut u8, 0, bytes) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_blocks_are_of_classes_that_are_aligned() {
        for power in 0..17 {
            let align = 1 << power;
            for bytes in [0, 1, 15, 16, 17, 100, 129, 1000, 5000, 40_000, 65_536] {
                let Some(class) = plain_class(bytes, align) else { continue };
                assert!(block_bytes(class) >= bytes && block_bytes(class).is_multiple_of(align.min(16)));
                assert!(align <= 16 || block_bytes(class).is_multiple_of(align), "{bytes} {align}");
            }
        }
    }
}
