//! Walking over the blocks of a heap of this process: for who counts them, for debug mode, and for the search for addresses of code.

use std::sync::atomic::Ordering::Relaxed;

use crate::core::Core;
use crate::debug;
use crate::error::{Error, Label};
use crate::heap::Heap;
use crate::maps;
use crate::survey::{self, Extent, Run, Source};
use crate::system::Buffer;

/// A live block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    pub address: usize,
    /// What may be used of it; in debug mode, what was asked for.
    pub bytes: usize,
    pub kind: BlockKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// One of a span of blocks of one size.
    Small,
    /// In slices of its own.
    Large,
    /// Of `allocate_region`.
    Region,
}

impl Heap {
    /// Calls `visit` for each live block, in order of addresses, until it says `false`. It must not allocate from this heap or free; no other
    /// thread may use the heap meanwhile. An error says that the heap is damaged.
    pub fn walk(self, visit: impl FnMut(Block) -> bool) -> Result<(), Error> {
        self.walk_after(0, visit)
    }

    /// As [`Heap::walk`], for the blocks behind a live block; 0 for all.
    pub fn walk_after(self, after: usize, mut visit: impl FnMut(Block) -> bool) -> Result<(), Error> {
        let process = &self.0.process;
        let _shared = process.shared.hold();
        let _slots = process.slots.hold();
        let _pages = process.pages.hold();
        let first = self.0.find(after).map_or(0, |found| self.0.slice_of(found.span));
        each_block(self.0, first, &mut |block| Ok(block.address <= after || visit(block)))
    }

    /// Looks through all of the heap: that its structure is whole and, in debug mode, each block's guards. As for [`Heap::walk`], no other
    /// thread may use the heap meanwhile.
    pub fn check(self) -> Result<(), Error> {
        let process = &self.0.process;
        let _shared = process.shared.hold();
        let _slots = process.slots.hold();
        let _pages = process.pages.hold();
        each_block(self.0, 0, &mut |block| {
            if self.0.is_debug() {
                debug::check(self.0, block.address)?;
            }
            Ok(true)
        })
    }

    /// Looks for words in live blocks that are addresses of code, or of data of a program or library: these mean nothing in another process.
    /// A number may look like one by chance. Done by a save in debug mode.
    pub fn check_code_pointers(self) -> Result<(), Error> {
        let modules = Modules::read()?;
        let mut found: Option<Error> = None;
        self.walk(|block| {
            for address in (block.address.next_multiple_of(8)..block.address + block.bytes).step_by(8) {
                if address + 8 > block.address + block.bytes {
                    break;
                }
                // SAFETY: the word lies in a live block, and other threads keep still.
                let value = unsafe { (address as *const usize).read() };
                if !modules.contains(value) {
                    continue;
                }
                match &mut found {
                    Some(Error::CodePointers { count, .. }) => *count += 1,
                    _ => {
                        let (block, offset) = (block.address, address - block.address);
                        let module = module_of(value);
                        found = Some(Error::CodePointers { count: 1, block, offset, value, module });
                    }
                }
            }
            true
        })?;
        found.map_or(Ok(()), Err)
    }
}

/// The memory of this process.
struct Live;

impl Source for Live {
    fn read(&self, address: usize, into: &mut [u8]) -> Result<(), Error> {
        // SAFETY: a survey asks for entries of slices that are in use and for blocks in them, all mapped; other threads keep still.
        unsafe { std::ptr::copy_nonoverlapping(address as *const u8, into.as_mut_ptr(), into.len()) };
        Ok(())
    }
}

fn each_block(
    core: Core,
    first: u32,
    visit: &mut dyn FnMut(Block) -> Result<bool, Error>,
) -> Result<(), Error> {
    let extent = Extent {
        base: core.address(),
        range_bytes: core.range_bytes.get(),
        top: core.top(),
        slots: core.slots_used.load(Relaxed),
    };
    let inner = |address: usize, bytes: usize, kind| -> Result<Block, Error> {
        let whole = Block { address, bytes, kind };
        if !core.is_debug() {
            return Ok(whole);
        }
        let (address, bytes) = debug::inner(address)
            .ok_or(Error::Damaged { what: "a live block has no head", at: address as u64 })?;
        Ok(Block { address, bytes, kind })
    };
    survey::survey(&Live, &extent, first, &mut |run| match run {
        Run::Free { .. } => Ok(true),
        Run::Large { address, bytes, is_region: true, .. } => {
            visit(Block { address: *address, bytes: *bytes, kind: BlockKind::Region })
        }
        Run::Large { address, bytes, .. } => visit(inner(*address, *bytes, BlockKind::Large)?),
        Run::Span { address, block_bytes, marks, .. } => {
            for index in marks.live() {
                if !visit(inner(address + index * block_bytes, *block_bytes, BlockKind::Small)?)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
    })
}

/// The mappings of programs and libraries: of files that are mapped executable somewhere.
struct Modules {
    table: Buffer,
    count: usize,
    low: usize,
    high: usize,
}

const ROW_BYTES: usize = 32;
const ROWS_MAX: usize = 16_384;

impl Modules {
    fn read() -> Result<Modules, Error> {
        let mut modules =
            Modules { table: Buffer::new(ROWS_MAX * ROW_BYTES)?, count: 0, low: usize::MAX, high: 0 };
        maps::visit(|mapping| {
            let is_module = mapping.name.first() == Some(&b'/') || mapping.name == b"[vdso]";
            if is_module && modules.count < ROWS_MAX {
                modules.set(
                    modules.count,
                    [mapping.start, mapping.end, hash(mapping.name), usize::from(mapping.is_executable)],
                );
                modules.count += 1;
            }
            true
        });
        // Rows of other files are no modules: their ends are made equal, and nothing lies in them.
        for row in 0..modules.count {
            let [start, end, name, is_executable] = modules.row(row);
            if (0..modules.count).any(|other| modules.row(other)[2..] == [name, 1]) {
                modules.low = modules.low.min(start);
                modules.high = modules.high.max(end);
            } else {
                modules.set(row, [start, start, name, is_executable]);
            }
        }
        Ok(modules)
    }

    fn row(&self, row: usize) -> [usize; 4] {
        let mut numbers = [0; 4];
        for (number, bytes) in
            numbers.iter_mut().zip(self.table[row * ROW_BYTES..][..ROW_BYTES].chunks_exact(8))
        {
            *number = crate::image::u64_at(bytes, 0) as usize;
        }
        numbers
    }

    fn set(&mut self, row: usize, numbers: [usize; 4]) {
        for (bytes, number) in self.table[row * ROW_BYTES..][..ROW_BYTES].chunks_exact_mut(8).zip(numbers) {
            bytes.copy_from_slice(&number.to_le_bytes());
        }
    }

    fn contains(&self, value: usize) -> bool {
        (self.low..self.high).contains(&value)
            && (0..self.count).map(|row| self.row(row)).any(|[start, end, ..]| (start..end).contains(&value))
    }
}

fn hash(name: &[u8]) -> usize {
    name.iter().fold(0xcbf2_9ce4_8422_2325usize, |hash, byte| {
        (hash ^ usize::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn module_of(address: usize) -> Label {
    let mut label = Label::new(b"a module");
    maps::visit(|mapping| {
        let is_it = (mapping.start..mapping.end).contains(&address);
        if is_it {
            label = Label::new(mapping.name);
        }
        !is_it
    });
    label
}
