//! Small blocks: spans of one class that belong to a slot, and a slot belongs to a thread. The owner allocates and frees without a lock or
//! an atomic write; other threads push what they free onto the span's `remote` list, which the owner takes when it is out of blocks.
//!
//! A span without free blocks is in no queue. Who frees a block in it from elsewhere finds `REMOTE_FULL` and puts the span into its owner's list
//! `returned`; `REMOTE_QUEUED` says that it is in such a list, so that it is in one at most. A span that changed its owner meanwhile is passed on
//! by who takes it off the list. So the owner of a span is the only one who touches its queue links, counters and free list.

use std::ptr::null;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use crate::class::{block_bytes, span_blocks, span_slices};
use crate::core::{Core, entry, link, set_link};
use crate::layout::*;

/// Blocks that are carved at once: a page of them.
const CARVE_BYTES: usize = 4096;
/// What a processor's cache keeps together.
const LINE_BYTES: usize = 64;

impl Core {
    /// A block of a class from the caller's slot; 0 where there is no memory.
    pub(crate) fn take_block(self, slot: &Slot, class: usize) -> usize {
        match take_ready(slot, class) {
            0 => self.take_block_slowly(slot, class),
            block => block,
        }
    }

    /// Frees a block of a span that belongs to the caller's slot.
    #[inline(always)]
    pub(crate) fn give_block(self, slot: &Slot, span: &Span, block: usize) {
        set_link(block, span.free.get());
        span.free.set(block);
        let used = span.used.load(Relaxed).wrapping_sub(1);
        span.used.store(used, Relaxed);
        // An only span is kept: a program that allocates and frees one block at a time stays here.
        if span.flags.get() & SPAN_FULL != 0 || (used == 0 && !is_alone(span)) {
            self.settle(slot, span);
        }
    }

    /// Where the span at hand has none left: what other threads freed is taken in, another span is adopted, or a
    /// new one made.
    #[cold]
    #[inline(never)]
    fn take_block_slowly(self, slot: &Slot, class: usize) -> usize {
        loop {
            let span = match entry(slot.head[class].get()) {
                Some(span) if !std::ptr::eq(span, &raw const self.no_span) => span,
                _ => {
                    self.drain(slot);
                    if std::ptr::eq(slot.head[class].get(), &raw const self.no_span)
                        && !self.adopt_span(slot, class)
                        && !self.new_span(slot, class)
                    {
                        return 0;
                    }
                    continue;
                }
            };
            if span.free.get() != 0 || collect(span) || self.carve(span) {
                let block = span.free.get();
                span.free.set(link(block));
                span.used.store(span.used.load(Relaxed) + 1, Relaxed);
                return block;
            }
            if mark_full(span) {
                self.unqueue(slot, span);
            }
        }
    }

    /// After a free: a full span has room again, an empty one may not be needed.
    #[inline(never)]
    fn settle(self, slot: &Slot, span: &Span) {
        if span.flags.get() & SPAN_FULL != 0 {
            span.flags.set(span.flags.get() & !SPAN_FULL);
            // Where another thread was first, the span is in the list `returned` too; then nothing is to be done when it is taken off.
            span.remote.fetch_and(!REMOTE_FULL, Relaxed);
            self.queue(slot, span);
        }
        if span.used.load(Relaxed) == 0 && !is_alone(span) {
            self.release_span(slot, span);
        }
    }

    /// Frees a block of a span of another slot.
    #[inline(never)]
    pub(crate) fn give_remotely(self, span: &Span, block: usize) {
        let mut old = span.remote.load(Relaxed);
        loop {
            set_link(block, old & !REMOTE_BITS);
            let tells = old & REMOTE_BITS == REMOTE_FULL;
            let bits = if tells { REMOTE_QUEUED } else { old & REMOTE_BITS };
            match span.remote.compare_exchange_weak(old, block | bits, AcqRel, Relaxed) {
                Ok(_) if tells => return self.return_span(span),
                Ok(_) => return,
                Err(now) => old = now,
            }
        }
    }

    /// Puts a span, for which the caller set `REMOTE_QUEUED`, into its owner's list.
    fn return_span(self, span: &Span) {
        let owner = self.slot(span.owner.load(Acquire) as usize - 1);
        let mut old = owner.returned.load(Relaxed);
        loop {
            span.returned_next.set(old);
            match owner.returned.compare_exchange_weak(
                old,
                std::ptr::from_ref(span).cast_mut(),
                Release,
                Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => old = now,
            }
        }
    }

    /// Takes all spans off the slot's list `returned`; those that were full have room again.
    pub(crate) fn drain(self, slot: &Slot) {
        let mut next = entry(slot.returned.swap(null::<Span>().cast_mut(), Acquire).cast_const());
        while let Some(span) = next {
            next = entry(span.returned_next.get());
            if span.owner.load(Acquire) != slot.id.get() {
                self.return_span(span);
                continue;
            }
            span.remote.fetch_and(!REMOTE_BITS, AcqRel);
            if span.flags.get() & SPAN_FULL != 0 {
                span.flags.set(span.flags.get() & !SPAN_FULL);
                self.queue(slot, span);
                collect(span);
            }
        }
    }

    /// Makes further blocks of a span free. `false` where it has no more.
    fn carve(self, span: &Span) -> bool {
        let class = usize::from(span.class.get());
        let (bytes, carved, blocks) = (block_bytes(class), span.carved.get(), span_blocks(class));
        if carved == blocks {
            return false;
        }
        let count = (CARVE_BYTES / bytes).max(1).min(usize::from(blocks - carved));
        let first = self.slice_address(self.slice_of(span)) + usize::from(carved) * bytes;
        let last = first + (count - 1) * bytes;
        if self.is_debug() && bytes >= 32 {
            (first..=last).step_by(bytes).for_each(crate::debug::carved);
        }
        // Not all classes begin at the first line of a page: the blocks that a program uses most would be in each other's way in the
        // processor's cache, which looks at that part of the address.
        let begin = first + (class * LINE_BYTES % CARVE_BYTES / bytes).min(count - 1) * bytes;
        for block in (begin..last).step_by(bytes).chain((first..begin).step_by(bytes)) {
            set_link(block, block + bytes);
        }
        if begin != first {
            set_link(last, first);
            set_link(begin - bytes, span.free.get());
        } else {
            set_link(last, span.free.get());
        }
        span.free.set(begin);
        span.carved.set(carved + count as u16);
        true
    }

    /// A fresh span at the head of its queue.
    fn new_span(self, slot: &Slot, class: usize) -> bool {
        let len = span_slices(class);
        let run = {
            let _held = self.process.pages.hold();
            let Some(run) = self.take_run(len, SLICE_BYTES) else { return false };
            // Under the lock: who walks must find a run as a whole.
            for back in 0..len {
                let part = self.span(run.slice + back);
                part.back.set(back);
                part.state.set(if back == 0 { SMALL } else { SMALL_PART });
            }
            self.span(run.slice).len.set(len);
            run
        };
        let span = self.span(run.slice);
        span.free.set(0);
        span.remote.store(0, Relaxed);
        span.class.set(class as u8);
        span.block_bytes.set(block_bytes(class) as u32);
        span.used.store(0, Relaxed);
        span.carved.set(0);
        span.flags.set(0);
        span.owner.store(slot.id.get(), Release);
        self.queue(slot, span);
        true
    }

    /// Gives an empty span's slices back, unless it is in a list `returned`.
    fn release_span(self, slot: &Slot, span: &Span) {
        // No block is live, so nobody can set the bit any more.
        if span.remote.load(Acquire) != 0 {
            return;
        }
        self.unqueue(slot, span);
        span.owner.store(0, Relaxed);
        span.free.set(0);
        let (slice, len) = (self.slice_of(span), span.len.get());
        let _held = self.process.pages.hold();
        for part in slice..slice + len {
            let part = self.span(part);
            part.back.set(0);
            part.state.set(NOTHING);
        }
        self.give_run(slice, len);
    }

    /// Takes a span with room over from a slot that has no thread.
    fn adopt_span(self, slot: &Slot, class: usize) -> bool {
        if self.slots_orphaned.load(Relaxed) == 0 {
            return false;
        }
        let _held = self.process.slots.hold();
        // The first slot is that of those who have none, and always in use.
        for index in 1..self.slots_used.load(Relaxed) as usize {
            if self.is_owned(index) {
                continue;
            }
            let orphan = self.slot(index);
            self.drain(orphan);
            let Some(span) = entry(orphan.head[class].get()) else { continue };
            if std::ptr::eq(span, &raw const self.no_span) {
                continue;
            }
            self.unqueue(orphan, span);
            span.owner.store(slot.id.get(), Release);
            self.queue(slot, span);
            return true;
        }
        false
    }

    /// Puts a span at the end of its queue.
    fn queue(self, slot: &Slot, span: &Span) {
        let class = usize::from(span.class.get());
        let none = &raw const self.no_span;
        span.next.set(null());
        match entry(slot.tail[class].get()) {
            Some(tail) if !std::ptr::eq(tail, none) => {
                span.prev.set(tail);
                tail.next.set(span);
            }
            _ => {
                span.prev.set(null());
                slot.head[class].set(span);
            }
        }
        slot.tail[class].set(span);
    }

    /// Takes a span out of the list of those with room.
    fn unqueue(self, slot: &Slot, span: &Span) {
        let class = usize::from(span.class.get());
        let none = &raw const self.no_span;
        let (next, prev) = (span.next.get(), span.prev.get());
        match entry(next) {
            Some(next) => next.prev.set(prev),
            None => slot.tail[class].set(if prev.is_null() { none } else { prev }),
        }
        match entry(prev) {
            Some(prev) => prev.next.set(next),
            None => slot.head[class].set(if next.is_null() { none } else { next }),
        }
        span.next.set(null());
        span.prev.set(null());
    }

    /// Gives the caller a slot; `None` where all are in use.
    pub(crate) fn acquire_slot<'a>(self) -> Option<&'a Slot> {
        let _held = self.process.slots.hold();
        let used = self.slots_used.load(Relaxed) as usize;
        let orphan = (1..used).find(|index| !self.is_owned(*index));
        let index = match orphan {
            Some(index) => index,
            None if used < SLOTS_MAX => used,
            None => return None,
        };
        let slot = self.slot(index);
        match orphan {
            Some(_) => {
                self.slots_orphaned.fetch_sub(1, Relaxed);
            }
            None => {
                self.prepare_slot(index);
                self.slots_used.store(used as u32 + 1, Relaxed);
            }
        }
        self.process.owned[index / 64].fetch_or(1 << (index % 64), Relaxed);
        Some(slot)
    }

    /// Takes the slot of a thread that ends. What is empty goes back; what has room can be had by others.
    pub(crate) fn release_slot(self, slot: &Slot) {
        let _held = self.process.slots.hold();
        self.drain(slot);
        for class in 0..CLASSES {
            let mut next = entry(slot.head[class].get());
            while let Some(span) = next {
                next = entry(span.next.get());
                if std::ptr::eq(span, &raw const self.no_span) {
                    break;
                }
                collect(span);
                if span.used.load(Relaxed) == 0 {
                    self.release_span(slot, span);
                }
            }
        }
        let index = slot.id.get() as usize - 1;
        self.process.owned[index / 64].fetch_and(!(1 << (index % 64)), Relaxed);
        self.slots_orphaned.fetch_add(1, Relaxed);
    }

    /// Makes a slot usable that never was used.
    pub(crate) fn prepare_slot(self, index: usize) {
        let slot = self.slot(index);
        for class in 0..CLASSES {
            slot.head[class].set(&raw const self.no_span);
            slot.tail[class].set(&raw const self.no_span);
        }
        slot.id.set(index as u32 + 1);
    }

    fn is_owned(self, index: usize) -> bool {
        self.process.owned[index / 64].load(Relaxed) & (1 << (index % 64)) != 0
    }
}

/// A block of the first span of the caller's slot; 0 where that has none at hand.
#[inline(always)]
pub(crate) fn take_ready(slot: &Slot, class: usize) -> usize {
    debug_assert!(class < CLASSES);
    // SAFETY: who calls has the class from `class_of`, which knows no other ones.
    let head = unsafe { slot.head.get_unchecked(class) }.get();
    // SAFETY: a slot's heads are never null once it has an owner, and entries stay mapped.
    let span = unsafe { &*head };
    let block = span.free.get();
    if block != 0 {
        span.free.set(link(block));
        span.used.store(span.used.load(Relaxed) + 1, Relaxed);
    }
    block
}

/// Whether it is the only one in its queue.
#[inline(always)]
fn is_alone(span: &Span) -> bool {
    span.next.get() as usize | span.prev.get() as usize == 0
}

/// Takes what other threads freed. `false` where that is nothing.
fn collect(span: &Span) -> bool {
    let mut old = span.remote.load(Relaxed);
    while old & !REMOTE_BITS != 0 {
        match span.remote.compare_exchange_weak(old, old & REMOTE_BITS, AcqRel, Relaxed) {
            Err(now) => old = now,
            Ok(_) => {
                let first = old & !REMOTE_BITS;
                let (mut last, mut count) = (first, 1);
                while link(last) != 0 {
                    last = link(last);
                    count += 1;
                }
                set_link(last, span.free.get());
                span.free.set(first);
                span.used.store(span.used.load(Relaxed) - count, Relaxed);
                return true;
            }
        }
    }
    false
}

/// Says to other threads that the span is full, unless one of them freed a block meanwhile.
fn mark_full(span: &Span) -> bool {
    let mut old = span.remote.load(Relaxed);
    while old & !REMOTE_BITS == 0 {
        match span.remote.compare_exchange_weak(old, old | REMOTE_FULL, AcqRel, Relaxed) {
            Ok(_) => {
                span.flags.set(span.flags.get() | SPAN_FULL);
                return true;
            }
            Err(now) => old = now,
        }
    }
    false
}
