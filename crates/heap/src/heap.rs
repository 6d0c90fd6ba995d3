//! A heap as programs have it.

use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::Relaxed;

use crate::core::Core;
use crate::error::{Error, Fault, Label};
use crate::layout::{FLAG_DEBUG, FLAG_PRIVATE, Header, PAGE_BYTES, REGION, SLICE_BYTES, SLICE_SHIFT};
use crate::registry::{self, Making};

/// The address space of a heap, where nothing else is said.
pub(crate) const RANGE_BYTES_DEFAULT: usize = 64 << 30;

/// A named heap of this process. A copy is the same heap.
///
/// Every method may be called by any thread, but for what says otherwise.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Heap(pub(crate) Core);

/// What a new heap is to be like.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How much address space it has, and so how large it can become: 4 MiB to 1 TiB. Memory is taken as it is used.
    pub range_bytes: usize,
    /// Where its range begins: a multiple of 2 MiB. Without it, an address is drawn from the name, among those that nothing else uses.
    pub at: Option<usize>,
    /// Look for blocks that are freed twice, written before or behind, or after they were freed. Slow; stays with the heap in its image.
    pub debug: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { range_bytes: RANGE_BYTES_DEFAULT, at: None, debug: false }
    }
}

/// How full a heap is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Address space.
    pub range_bytes: usize,
    /// Spans of small blocks, large blocks and regions.
    pub used_bytes: usize,
    /// Free in between. Much of it has no memory of the host.
    pub free_bytes: usize,
}

impl Heap {
    /// A new heap of 64 GiB of address space at the address that its name leads to.
    pub fn create(name: &str) -> Result<Heap, Error> {
        Heap::create_with(name, &Options::default())
    }

    /// A new heap. Its name has 1 to 63 printable characters without a space, and is that of no other heap of the process.
    pub fn create_with(name: &str, options: &Options) -> Result<Heap, Error> {
        let flags = if options.debug { FLAG_DEBUG } else { 0 };
        let at = options.at.unwrap_or(0);
        registry::make(&Making { name, range_bytes: options.range_bytes, at, flags }).map(Heap)
    }

    /// The heap of that name.
    pub fn find(name: &str) -> Result<Heap, Error> {
        registry::by_name(name).map(Heap).ok_or(Error::NoHeap(Label::new(name.as_bytes())))
    }

    /// The heap whose range an address lies in.
    pub fn of_address(address: usize) -> Option<Heap> {
        registry::by_address(address).map(Heap)
    }

    /// Calls `visit` for each heap that can be saved, until it says `false`.
    pub fn each(mut visit: impl FnMut(Heap) -> bool) {
        registry::each(|core| core.flags.get() & FLAG_PRIVATE != 0 || visit(Heap(core)));
    }

    /// The heap that begins at an address: [`Heap::base`].
    ///
    /// # Safety
    ///
    /// A heap of this process begins there.
    #[inline(always)]
    pub unsafe fn at(base: usize) -> Heap {
        // SAFETY: promised by the caller.
        Heap(unsafe { Core::at(base as *const Header) })
    }

    /// Where its name lies in it, with a zero byte behind.
    pub fn name_address(self) -> usize {
        self.0.header().name.as_ptr() as usize
    }

    pub fn name(&self) -> &str {
        self.0.name_text()
    }

    /// Where its range begins, in every process.
    pub fn base(self) -> usize {
        self.0.address()
    }

    pub fn range_bytes(self) -> usize {
        self.0.range_bytes.get()
    }

    pub fn is_debug(self) -> bool {
        self.0.is_debug()
    }

    /// A block of at least `bytes`, aligned to 16 bytes. `None` where the range or the host has no more.
    #[inline(always)]
    pub fn allocate(self, bytes: usize) -> Option<NonNull<u8>> {
        NonNull::new(self.0.allocate(bytes, 16) as *mut u8)
    }

    /// The same, aligned to a power of two.
    pub fn allocate_aligned(self, bytes: usize, align: usize) -> Option<NonNull<u8>> {
        if !align.is_power_of_two() {
            return None;
        }
        NonNull::new(self.0.allocate(bytes, align) as *mut u8)
    }

    /// A block that is all zero.
    pub fn allocate_zeroed(self, bytes: usize) -> Option<NonNull<u8>> {
        NonNull::new(self.0.allocate_zeroed(bytes, 16) as *mut u8)
    }

    /// Memory by whole pages, all zero, aligned to 64 KiB: the counterpart of VirtualAlloc. `free` gives it back.
    pub fn allocate_region(self, bytes: usize) -> Option<NonNull<u8>> {
        let bytes = bytes.max(1).checked_next_multiple_of(PAGE_BYTES)?;
        let (address, is_zero) = self.0.allocate_large(bytes, SLICE_BYTES, REGION)?;
        if !is_zero {
            crate::large::fill_zero(address, bytes);
        }
        NonNull::new(address as *mut u8)
    }

    /// Makes a part of a region read as zero; its memory goes back to the host where whole 64 KiB are meant.
    ///
    /// # Safety
    ///
    /// Nobody uses what lies there.
    pub unsafe fn discard(self, region: NonNull<u8>, offset: usize, bytes: usize) -> Result<(), Error> {
        let address = region.as_ptr() as usize;
        let found = self.0.find(address).filter(|found| found.block == address);
        let found =
            found.filter(|found| found.span.state.get() == REGION).ok_or(Fault::Foreign { address })?;
        let end =
            offset.checked_add(bytes).filter(|end| *end <= found.bytes).ok_or(Error::Range { bytes })?;
        let first = offset.next_multiple_of(SLICE_BYTES).min(end);
        let last = (end & !(SLICE_BYTES - 1)).max(first);
        let slices = (last - first) >> SLICE_SHIFT;
        let is_discarded = {
            let _held = self.0.process.pages.hold();
            let slice = self.0.slice_of(found.span) + (first >> SLICE_SHIFT) as u32;
            slices != 0 && self.0.discard_slices(slice, slices as u32)
        };
        let parts = if is_discarded { [(offset, first), (last, end)] } else { [(offset, end), (end, end)] };
        parts.iter().for_each(|(from, to)| crate::large::fill_zero(address + from, to - from));
        Ok(())
    }

    /// Frees a block or a region. An error says that it is none, where that can be told: always in debug mode. Then nothing was done.
    ///
    /// # Safety
    ///
    /// The block was allocated by this heap, in this process or one before, and nobody uses it any more.
    #[inline(always)]
    pub unsafe fn free(self, block: NonNull<u8>) -> Result<(), Fault> {
        self.0.free(block.as_ptr() as usize)
    }

    /// Makes a block longer or shorter; what it held stays, its address may change. `None`: no memory, and the block is as it was.
    ///
    /// # Safety
    ///
    /// As for [`Heap::free`]; the old address may be used no more where another one is given.
    pub unsafe fn reallocate(self, block: NonNull<u8>, bytes: usize) -> Result<Option<NonNull<u8>>, Fault> {
        self.0.reallocate(block.as_ptr() as usize, bytes, 16).map(|address| NonNull::new(address as *mut u8))
    }

    /// Makes a block longer or shorter where it is; tells whether that could be done.
    ///
    /// # Safety
    ///
    /// As for [`Heap::free`].
    pub unsafe fn resize(self, block: NonNull<u8>, bytes: usize) -> bool {
        let address = block.as_ptr() as usize;
        let old = self.0.usable(address).filter(|_| !self.0.is_debug());
        old.is_some_and(|old| bytes <= old || self.0.resize(address, old, bytes))
    }

    /// How many bytes of a block may be used: those that were asked for, or some more. `None` where it is no block of this heap.
    pub fn usable(self, block: NonNull<u8>) -> Option<usize> {
        self.0.usable(block.as_ptr() as usize)
    }

    /// Looks at one block: that its guards are whole in debug mode, that it can be one at all otherwise.
    pub fn check_block(self, block: NonNull<u8>) -> Result<(), Fault> {
        let address = block.as_ptr() as usize;
        if self.0.is_debug() {
            let _held = self.0.process.shared.hold();
            return crate::debug::check(self.0, address).map(drop);
        }
        let found = self.0.find(address).filter(|found| found.block == address);
        found.map(drop).ok_or(Fault::Foreign { address })
    }

    /// Gives all memory that is free in whole 64 KiB back to the host.
    pub fn trim(self) {
        let _held = self.0.process.pages.hold();
        self.0.discard_idle();
    }

    pub fn figures(self) -> Figures {
        let _held = self.0.process.pages.hold();
        let used_bytes = (self.0.slices_live.get() as usize) << SLICE_SHIFT;
        let range_bytes = self.0.range_bytes.get();
        Figures { range_bytes, used_bytes, free_bytes: ((self.0.top() as usize) << SLICE_SHIFT) - used_bytes }
    }

    /// How many slots for threads were ever in use, for who wonders about memory.
    pub fn threads_at_most(self) -> usize {
        self.0.slots_used.load(Relaxed) as usize - 1
    }

    /// Ends the heap and unmaps its range. An image of it stays as it is.
    ///
    /// # Safety
    ///
    /// Nobody, in no thread, uses the heap, a copy of this handle or a block any more.
    pub unsafe fn destroy(self) {
        // SAFETY: promised by the caller.
        unsafe { registry::end(self.0) };
    }
}

impl fmt::Debug for Heap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Heap({:?} at {:#x})", self.name(), self.base())
    }
}
