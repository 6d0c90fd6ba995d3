//! Small blocks: spans of one unit with blocks of one size.
//!
//! Beside each block stands its *slack*, by how much the block is larger than what was asked for, or that it is free. So a size is exact, and
//! an address that is no block of ours is told from one that is.

use core::ptr;

use crate::Pages;
use crate::class;
use crate::layout::{FREE_BLOCK, SPAN_HEAD_BYTES, Span, UNIT_BYTES, Unit};
use crate::space::{Block, HeapId, Space};

impl<P: Pages> Space<P> {
    pub(crate) fn span(&self, unit: u32) -> *mut Span {
        self.address(unit) as *mut Span
    }

    fn slack(&self, unit: u32, block: u32) -> *mut u16 {
        (self.address(unit) + SPAN_HEAD_BYTES + 2 * block as usize) as *mut u16
    }

    fn block(&self, unit: u32, span: &Span, block: u32) -> *mut u8 {
        let bytes = class::block_bytes(span.class as usize);
        (self.address(unit) + span.first_block as usize + block as usize * bytes) as *mut u8
    }

    /// The number of the used block that begins at `at`.
    fn used_block(&self, unit: u32, span: &Span, at: usize) -> Option<u32> {
        let offset = (at - self.address(unit)).checked_sub(span.first_block as usize)?;
        let bytes = class::block_bytes(span.class as usize);
        let block = (offset / bytes) as u32;
        if offset % bytes != 0 || block >= span.fresh {
            return None;
        }
        // SAFETY: the span has a slack for each block below `fresh`.
        (unsafe { self.slack(unit, block).read() } != FREE_BLOCK).then_some(block)
    }

    pub(crate) fn allocate_small(&self, heap: HeapId, class: usize, bytes: usize) -> *mut u8 {
        let record = self.record(heap);
        // SAFETY: the record is in the root.
        let _held = unsafe { &(*record).lock }.take(&self.pages);
        // SAFETY: the heap's lock is held.
        let mut unit = unsafe { (*record).with_room[class] };
        if unit == 0 {
            let Some(fresh) = self.new_span(heap, class) else { return ptr::null_mut() };
            unit = fresh;
            self.link(record, unit);
        }
        // SAFETY: the unit is a span of this heap, whose lock is held.
        let span = unsafe { &mut *self.span(unit) };
        let number = if span.free != 0 {
            let number = span.free - 1;
            // SAFETY: a free block holds the number of the next one.
            span.free = unsafe { self.block(unit, span, number).cast::<u32>().read() };
            number
        } else {
            span.fresh += 1;
            span.fresh - 1
        };
        span.used += 1;
        if span.used == span.capacity {
            self.unlink(record, unit);
        }
        let slack = (class::block_bytes(class) - bytes) as u16;
        // SAFETY: the span has a slack for each of its blocks.
        unsafe { self.slack(unit, number).write(slack) };
        // SAFETY: as above.
        self.block(unit, unsafe { &*self.span(unit) }, number)
    }

    pub(crate) fn free_small(&self, unit: u32, at: usize) -> bool {
        // SAFETY: the unit is a span, as its caller has looked up.
        let record = self.record(HeapId(unsafe { (*self.span(unit)).heap }));
        // SAFETY: the record is in the root.
        let _held = unsafe { &(*record).lock }.take(&self.pages);
        // SAFETY: the heap's lock is held.
        let span = unsafe { &mut *self.span(unit) };
        let Some(number) = self.used_block(unit, span, at) else { return false };
        // SAFETY: the span has a slack for each of its blocks.
        unsafe { self.slack(unit, number).write(FREE_BLOCK) };
        // SAFETY: the block is free now, and has at least 16 bytes.
        unsafe { (at as *mut u32).write(span.free) };
        span.free = number + 1;
        span.used -= 1;
        let (is_empty, has_room, class) = (span.used == 0, span.has_room == 1, span.class as usize);
        if !has_room {
            self.link(record, unit);
        }
        // One empty span of each class is kept, or each allocation of a lone block would commit memory.
        // SAFETY: the heap's lock is held.
        if is_empty && unsafe { (*self.span(unit)).next != 0 || (*record).with_room[class] != unit } {
            self.unlink(record, unit);
            self.release_units(unit);
        }
        true
    }

    pub(crate) fn size_small(&self, unit: u32, at: usize) -> Option<usize> {
        // SAFETY: the unit is a span, as its caller has looked up.
        let span = unsafe { &*self.span(unit) };
        let number = self.used_block(unit, span, at)?;
        // SAFETY: the span has a slack for each of its blocks.
        let slack = unsafe { self.slack(unit, number).read() };
        Some(class::block_bytes(span.class as usize) - slack as usize)
    }

    /// Whether the block can have another size where it is; then it has it.
    pub(crate) fn resize_small(&self, unit: u32, at: usize, bytes: usize) -> bool {
        // SAFETY: the unit is a span, as its caller has looked up.
        let span = unsafe { &*self.span(unit) };
        let room = class::block_bytes(span.class as usize);
        let Some(number) = self.used_block(unit, span, at) else { return false };
        // A block that would be mostly empty moves.
        if bytes > room || bytes < room / 4 {
            return false;
        }
        // SAFETY: the span has a slack for each of its blocks, and the block is its caller's.
        unsafe { self.slack(unit, number).write((room - bytes) as u16) };
        true
    }

    pub(crate) fn walk_small(&self, unit: u32, visit: &mut impl FnMut(Block)) {
        // SAFETY: the unit is a span, as its caller has looked up.
        let span = unsafe { &*self.span(unit) };
        for number in 0..span.fresh {
            let at = self.block(unit, span, number) as usize;
            if let Some(bytes) = self.size_small(unit, at) {
                visit(Block { at, bytes });
            }
        }
    }

    fn new_span(&self, heap: HeapId, class: usize) -> Option<u32> {
        let unit = self.take_units(1, Unit::Region(1))?;
        if !self.pages.commit(self.address(unit), UNIT_BYTES) {
            self.release_units(unit);
            return None;
        }
        let bytes = class::block_bytes(class);
        let mut capacity = (UNIT_BYTES - SPAN_HEAD_BYTES) / (bytes + 2);
        let first = |capacity: usize| (SPAN_HEAD_BYTES + 2 * capacity).next_multiple_of(16);
        while first(capacity) + capacity * bytes > UNIT_BYTES {
            capacity -= 1;
        }
        let span = Span {
            heap: heap.0,
            class: class as u32,
            capacity: capacity as u32,
            first_block: first(capacity) as u32,
            used: 0,
            fresh: 0,
            free: 0,
            next: 0,
            previous: 0,
            has_room: 0,
            padding: [0; 6],
        };
        // SAFETY: the unit is committed, and nobody else knows of it.
        unsafe { self.span(unit).write(span) };
        self.set(unit, Unit::Span);
        Some(unit)
    }

    /// Puts a span in front of those with room. The caller has the heap's lock.
    fn link(&self, record: *mut crate::layout::HeapRecord, unit: u32) {
        // SAFETY: the unit is a span of the heap whose lock is held, here and in the rest.
        let span = unsafe { &mut *self.span(unit) };
        // SAFETY: as above.
        let first = unsafe { &mut (*record).with_room[span.class as usize] };
        (span.previous, span.next, span.has_room) = (0, *first, 1);
        if *first != 0 {
            // SAFETY: as above; it is another span.
            unsafe { (*self.span(*first)).previous = unit };
        }
        *first = unit;
    }

    fn unlink(&self, record: *mut crate::layout::HeapRecord, unit: u32) {
        // SAFETY: the unit is a span of the heap whose lock is held, here and in the rest.
        let span = unsafe { &mut *self.span(unit) };
        if span.previous == 0 {
            // SAFETY: as above.
            unsafe { (*record).with_room[span.class as usize] = span.next };
        } else {
            // SAFETY: as above; it is another span.
            unsafe { (*self.span(span.previous)).next = span.next };
        }
        if span.next != 0 {
            // SAFETY: as above; it is another span.
            unsafe { (*self.span(span.next)).previous = span.previous };
        }
        span.has_room = 0;
    }
}
