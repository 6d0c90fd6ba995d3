//! Hooked functions and the layers before them.
//!
//! A slot's chain of links is what is true: brant changes it from outside, by the writes of a plan. For functions of a library
//! that is just being loaded the runtime itself does (`late`). Nothing here is freed while the module of a function is there: when
//! it has gone, no call of it can be under way.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicPtr, Ordering};

use brant_hook::exchange::{Shape, Word, Write};
use brant_hook::{Refusal, Relocated, TRAMPOLINE_BYTES_MAX, jump, relocate, relocate_short, short_jump};

use crate::areas::{Areas, note_code};
use crate::modules::{Identity, Module};
use crate::thunk::Kind;
use crate::{system, thunk};

/// What a call can be passed to: with its own address in r11 at `code`, or as a plain function at `entry`.
#[repr(C)]
pub(crate) struct Link {
    code: usize,
    entry: usize,
}

/// A mediator before a function. The thunks and `brant/mediator.h` know its layout.
#[repr(C)]
pub(crate) struct Layer {
    link: Link,
    next: AtomicPtr<Link>,
    mediator: usize,
    inner: usize,
    /// Which `wrap` of the definition it is for.
    index: usize,
    words: *const i32,
    word_count: u32,
    stack_bytes: u32,
    wrapper: u64,
    /// Code that jumps to the next link: the inner function of a native mediator.
    past: usize,
    is_native: bool,
}

/// What a layer is for.
pub(crate) struct Use<'a> {
    pub(crate) wrapper: u32,
    pub(crate) mediator: u64,
    /// The mediator is jumped to as it is.
    pub(crate) is_native: bool,
    pub(crate) is_guarded: bool,
    /// Which `wrap` of the definition.
    pub(crate) index: usize,
    pub(crate) shape: &'a Shape,
}

impl Layer {
    /// The next link as a function.
    pub(crate) fn past(&self) -> u64 {
        self.past as u64
    }

    /// Where a layer of `wrapper` is the next one: the write that makes it the one behind, where that is another's. `own` are that
    /// wrapper's layers.
    pub(crate) fn step_over(&self, own: &[*const Layer]) -> Option<Write> {
        let first = self.next.load(Ordering::Relaxed);
        let mut next = first;
        while own.iter().any(|layer| layer.cast::<Link>() == next.cast_const()) {
            // SAFETY: it is a layer, and these are not freed.
            next = unsafe { (*next.cast::<Layer>()).next.load(Ordering::Relaxed) };
        }
        // SAFETY: a link, which is not freed either.
        (next != first && !next.is_null()).then(|| pointer_write(&self.next, unsafe { &*next }))
    }

    pub(crate) fn wrapper(&self) -> u32 {
        self.wrapper as u32
    }

    /// Which `wrap` of its definition it is for.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// Makes the link at the address that is given as bytes the next one.
    pub(crate) fn go_before(&self, next: &[u8]) {
        let next = next.try_into().map_or(0, u64::from_le_bytes);
        self.next.store(next as *mut Link, Ordering::Relaxed);
    }
}

/// Bytes of a function that are overwritten while it is hooked.
pub(crate) struct Patch {
    pub(crate) at: u64,
    old: Vec<u8>,
    new: Vec<u8>,
}

/// A hooked function.
pub(crate) struct Slot {
    pub(crate) library: Vec<u8>,
    pub(crate) name: Vec<u8>,
    /// The module that it is in.
    pub(crate) module: Identity,
    /// The function's own address.
    pub(crate) address: u64,
    /// In the order in which they are written; taken back in the other one.
    pub(crate) patches: Vec<Patch>,
    /// What the trampoline stands for, and where that is.
    prologue: (u64, Vec<u8>),
    pub(crate) moves: Vec<(u64, u64)>,
    /// The first link; the gate reads it.
    first: AtomicPtr<Link>,
    original: Link,
}

const GATE_BYTES: usize = 16;
const BLOCK_BYTES: usize = GATE_BYTES + TRAMPOLINE_BYTES_MAX;

/// A function that is to be hooked.
pub(crate) struct Wanted<'a> {
    pub(crate) library: &'a [u8],
    pub(crate) name: &'a [u8],
    pub(crate) function: brant_hook::Function<'a>,
}

/// Makes slots for functions of one module. Nothing jumps to them yet.
pub(crate) fn make_slots(
    areas: &mut Areas,
    wanted: &[Wanted<'_>],
    module: &Module,
) -> Option<Vec<Result<Box<Slot>, Refusal>>> {
    let bytes = (wanted.len() * BLOCK_BYTES).next_multiple_of(system::PAGE);
    let Some(pages) = areas.take(module, bytes)? else {
        return Some(wanted.iter().map(|_| Err(Refusal::TooFar)).collect());
    };
    let made = wanted
        .iter()
        .enumerate()
        // SAFETY: there is room for as many blocks.
        .map(|(index, wanted)| make_slot(wanted, module, unsafe { pages.add(index * BLOCK_BYTES) }))
        .collect();
    // SAFETY: nothing writes there any more.
    unsafe { system::seal(pages, bytes) }.then_some(())?;
    Some(made)
}

/// Code that jumps to the link that a place names.
fn jump_by(place: u64) -> [u8; GATE_BYTES] {
    let mut code = [0xcc; GATE_BYTES];
    code[..2].copy_from_slice(&[0x49, 0xbb]); // mov r11, the address of the place
    code[2..10].copy_from_slice(&place.to_le_bytes());
    code[10..13].copy_from_slice(&[0x4d, 0x8b, 0x1b]); // mov r11, [r11]
    code[13..16].copy_from_slice(&[0x41, 0xff, 0x23]); // jmp [r11]
    code
}

fn make_slot(wanted: &Wanted<'_>, module: &Module, block: *mut u8) -> Result<Box<Slot>, Refusal> {
    let gate = block as u64;
    let relocated = relocate(wanted.function, gate + GATE_BYTES as u64)?;
    let new = jump(relocated.at, gate).ok_or(Refusal::TooFar)?;
    let patch = Patch { at: relocated.at, old: relocated.old.clone(), new: new.to_vec() };
    Ok(fill_slot(wanted, module, block, relocated, vec![patch]))
}

/// Makes a slot for a function in whose first bytes there is only room for a short jump: to `padding`, which holds the long one.
pub(crate) fn make_short_slot(
    areas: &mut Areas,
    wanted: &Wanted<'_>,
    module: &Module,
    padding: (u64, &[u8]),
) -> Result<Box<Slot>, Refusal> {
    let block = areas.take(module, system::PAGE).flatten().ok_or(Refusal::TooFar)?;
    let gate = block as u64;
    let (place, old) = padding;
    let made = relocate_short(wanted.function, gate + GATE_BYTES as u64).and_then(|relocated| {
        let long = jump(place, gate).ok_or(Refusal::TooFar)?.to_vec();
        let short = short_jump(relocated.at, place).ok_or(Refusal::TooFar)?.to_vec();
        let patches = vec![
            Patch { at: place, old: old.to_vec(), new: long },
            Patch { at: relocated.at, old: relocated.old.clone(), new: short },
        ];
        Ok(fill_slot(wanted, module, block, relocated, patches))
    });
    // SAFETY: nothing writes there any more.
    match unsafe { system::seal(block, system::PAGE) } {
        true => made,
        false => Err(Refusal::TooFar),
    }
}

/// Makes a slot of a relocated prologue: the gate and the trampoline are written into their block, which nobody
/// runs yet.
fn fill_slot(
    wanted: &Wanted<'_>,
    module: &Module,
    block: *mut u8,
    relocated: Relocated,
    patches: Vec<Patch>,
) -> Box<Slot> {
    let Relocated { at, length, trampoline: code, moves, .. } = relocated;
    let trampoline = block as usize + GATE_BYTES;
    let skipped = (at - wanted.function.address) as usize;
    let prologue = wanted.function.code[skipped..skipped + length].to_vec();
    let mut slot = Box::new(Slot {
        library: wanted.library.to_vec(),
        name: wanted.name.to_vec(),
        module: Identity::of(module),
        address: wanted.function.address,
        patches,
        prologue: (at, prologue),
        moves,
        first: AtomicPtr::new(core::ptr::null_mut()),
        original: Link { code: trampoline, entry: trampoline },
    });
    *slot.first.get_mut() = &raw mut slot.original;
    let gate_code = jump_by(&raw const slot.first as u64);
    // SAFETY: the block is ours alone, writable, and as large as both; a trampoline is never longer than was said.
    unsafe {
        core::ptr::copy_nonoverlapping(gate_code.as_ptr(), block, GATE_BYTES);
        core::ptr::write_bytes(block.add(GATE_BYTES), 0xcc, TRAMPOLINE_BYTES_MAX);
        core::ptr::copy_nonoverlapping(
            code.as_ptr(),
            block.add(GATE_BYTES),
            code.len().min(TRAMPOLINE_BYTES_MAX),
        );
    }
    slot
}

impl Patch {
    /// # Safety
    ///
    /// There is memory.
    unsafe fn is_old(&self) -> bool {
        // SAFETY: promised by the caller.
        unsafe { core::slice::from_raw_parts(self.at as *const u8, self.old.len()) == self.old }
    }

    /// # Safety
    ///
    /// There is memory.
    unsafe fn is_new(&self) -> bool {
        // SAFETY: promised by the caller.
        unsafe { core::slice::from_raw_parts(self.at as *const u8, self.new.len()) == self.new }
    }

    fn write(&self) -> Write {
        Write { address: self.at, is_code: true, old: self.old.clone(), new: self.new.clone() }
    }

    /// # Safety
    ///
    /// `module` is mapped, and no other thread can run this code yet.
    unsafe fn put(&self, module: &Module, bytes: &[u8]) -> Result<(), Refusal> {
        // SAFETY: promised by the caller.
        unsafe { put(module, self.at, bytes) }
    }
}

/// Writes code of a module that is just being loaded.
///
/// # Safety
///
/// `module` is mapped, and no other thread can run this code yet.
pub(crate) unsafe fn put(module: &Module, at: u64, bytes: &[u8]) -> Result<(), Refusal> {
    let (segment, range) = module.segment_at(at).ok_or(Refusal::Unwritable)?;
    let range = range.start as usize..range.end as usize;
    // SAFETY: it is one segment of a module.
    if !unsafe { system::protect(range.clone(), segment.is_readable, true) } {
        return Err(Refusal::Unwritable);
    }
    // SAFETY: within that segment, which can be written now; nobody else looks at it.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), at as *mut u8, bytes.len()) };
    // SAFETY: it is one segment of a module. Where this fails the code stays writable, which it bears.
    unsafe { system::protect(range, segment.is_readable, segment.is_writable) };
    Ok(())
}

/// How a slot's function looks now.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    Bare,
    Hooked,
    /// Other bytes: its module has gone, or somebody else has changed it.
    Other,
}

impl Slot {
    /// The slot of a system call, which the function at `bare` makes. It has no bytes that are hooked, and is in no module.
    pub(crate) fn of_call(name: &[u8], bare: u64) -> Box<Slot> {
        let mut slot = Box::new(Slot {
            library: b"kernel".to_vec(),
            name: name.to_vec(),
            module: Identity { base: 0, dynamic: 0 },
            address: bare,
            patches: Vec::new(),
            prologue: (0, Vec::new()),
            moves: Vec::new(),
            first: AtomicPtr::new(core::ptr::null_mut()),
            original: Link { code: bare as usize, entry: bare as usize },
        });
        *slot.first.get_mut() = &raw mut slot.original;
        slot
    }

    /// Where its first link is named.
    pub(crate) fn first_place(&self) -> usize {
        self.first.as_ptr() as usize
    }

    /// What its jumps have overwritten.
    pub(crate) fn overwritten(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.patches.iter().map(|patch| (patch.at, patch.old.as_slice()))
    }

    /// From now on it stays until [`Layers::give_back_all`].
    pub(crate) fn keep(self: Box<Self>) -> &'static Slot {
        let slot = Box::into_raw(self);
        slot.expose_provenance();
        // SAFETY: it is valid, and only shared from now on.
        unsafe { &*slot }
    }

    /// # Safety
    ///
    /// The module in which the function was made a slot is mapped, or another one in its place.
    pub(crate) unsafe fn look(&self) -> Look {
        // SAFETY: promised by the caller.
        let is_as_before = self.patches.iter().all(|patch| unsafe { patch.is_old() || patch.is_new() });
        let is_patched = |address: u64| {
            let covers = |patch: &Patch| (patch.at..patch.at + patch.old.len() as u64).contains(&address);
            self.patches.iter().any(covers)
        };
        let (start, prologue) = &self.prologue;
        let is_same = (*start..).zip(prologue).all(|(address, byte)| {
            // SAFETY: promised by the caller.
            is_patched(address) || unsafe { *(address as *const u8) } == *byte
        });
        let Some(last) = self.patches.last().filter(|_| is_as_before && is_same) else { return Look::Other };
        // SAFETY: promised by the caller.
        if unsafe { last.is_new() } { Look::Hooked } else { Look::Bare }
    }

    /// The writes that are missing.
    ///
    /// # Safety
    ///
    /// The function's module is mapped.
    pub(crate) unsafe fn arm(&self) -> Vec<Write> {
        // SAFETY: promised by the caller.
        let missing = self.patches.iter().filter(|patch| unsafe { !patch.is_new() });
        missing.map(Patch::write).collect()
    }

    /// Whether it writes to any of these bytes.
    pub(crate) fn covers(&self, range: &Range<u64>) -> bool {
        let meets = |patch: &Patch| patch.at < range.end && range.start < patch.at + patch.new.len() as u64;
        self.patches.iter().any(meets)
    }

    /// Where the bytes are that it writes.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        self.patches.iter().map(|patch| patch.at..patch.at + patch.new.len() as u64)
    }

    pub(crate) fn disarm(&self) -> impl Iterator<Item = Write> {
        self.patches.iter().rev().map(|patch| {
            let write = patch.write();
            Write { old: write.new, new: write.old, ..write }
        })
    }

    /// The same as the writes of [`Slot::arm`], by this thread itself, which runs as others do.
    ///
    /// # Safety
    ///
    /// The module is mapped, and no other thread can run this code yet.
    pub(crate) unsafe fn arm_here(&self, module: &Module) -> Result<(), Refusal> {
        // SAFETY: promised by the caller.
        self.patches.iter().try_for_each(|patch| unsafe { patch.put(module, &patch.new) })
    }

    /// Takes that back.
    ///
    /// # Safety
    ///
    /// As for [`Slot::arm_here`].
    pub(crate) unsafe fn disarm_here(&self, module: &Module) -> Result<(), Refusal> {
        // SAFETY: promised by the caller.
        self.patches.iter().rev().try_for_each(|patch| unsafe { patch.put(module, &patch.old) })
    }

    /// Makes `layer` the first at once: while nobody can call the function yet.
    /// `prepare` is done when what the layer leads to is known, and it can not be reached yet.
    pub(crate) fn put_first_here(&self, layer: &'static Layer, prepare: impl FnOnce()) {
        layer.next.store(self.first.load(Ordering::Relaxed), Ordering::Relaxed);
        prepare();
        self.first.store((&raw const layer.link).cast_mut(), Ordering::Release);
    }

    /// Makes `layer` the first.
    pub(crate) fn put_first(&self, layer: &Layer) -> Write {
        let old = self.first.load(Ordering::Relaxed);
        layer.next.store(old, Ordering::Relaxed);
        pointer_write(&self.first, &layer.link)
    }

    /// The layers, outermost first.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &Layer> {
        let mut next = self.first.load(Ordering::Relaxed);
        core::iter::from_fn(move || {
            if core::ptr::eq(next, &self.original) {
                return None;
            }
            // SAFETY: every link but the original is a layer, and layers are never freed.
            let layer = unsafe { &*next.cast::<Layer>() };
            next = layer.next.load(Ordering::Relaxed);
            Some(layer)
        })
    }

    /// Takes the layers of a wrapper out of the chain.
    pub(crate) fn take_out(&self, wrapper: u32) -> Vec<Write> {
        let mut writes = Vec::new();
        // The place that is to point to the next layer that stays.
        let mut place = &self.first;
        let mut is_changed = false;
        for layer in self.layers() {
            if layer.wrapper() == wrapper {
                is_changed = true;
                continue;
            }
            if is_changed {
                writes.push(pointer_write(place, &layer.link));
                is_changed = false;
            }
            place = &layer.next;
        }
        if is_changed {
            writes.push(pointer_write(place, &self.original));
        }
        writes
    }
}

fn pointer_write(place: &AtomicPtr<Link>, new: &Link) -> Write {
    let old = place.load(Ordering::Relaxed) as u64;
    Write {
        address: place.as_ptr() as u64,
        is_code: false,
        old: old.to_le_bytes().to_vec(),
        new: (&raw const *new as u64).to_le_bytes().to_vec(),
    }
}

/// Layers with their entries, and which of them are free.
pub(crate) struct Layers {
    free: Vec<*mut Layer>,
}

const SLAB_LAYERS: usize = system::PAGE / GATE_BYTES;

impl Layers {
    pub(crate) const fn new() -> Layers {
        Layers { free: Vec::new() }
    }

    /// A layer that is in no chain yet.
    pub(crate) fn take(&mut self, wanted: &Use<'_>) -> Option<&'static Layer> {
        let Use { wrapper, mediator, is_native, is_guarded, index, shape } = *wanted;
        if self.free.is_empty() {
            self.make_slab()?;
        }
        let layer = self.free.pop()?;
        let words: Vec<i32> = words(shape);
        // SAFETY: a free layer is in no chain and no thread is on its way through it.
        let layer = unsafe { &mut *layer };
        let kind = Kind {
            has_vectors: shape.has_vectors,
            is_guarded,
            is_sret: shape.is_sret,
            has_words: !words.is_empty(),
            has_stack: shape.stack_bytes > 0,
            registers: shape.registers,
        };
        layer.link.code = if is_native { mediator as usize } else { kind.thunk() };
        layer.mediator = mediator as usize;
        layer.index = index;
        layer.inner = kind.inner();
        layer.word_count = words.len() as u32;
        layer.words = Box::leak(words.into_boxed_slice()).as_ptr();
        layer.stack_bytes = shape.stack_bytes.next_multiple_of(16);
        layer.wrapper = u64::from(wrapper);
        layer.is_native = is_native;
        Some(layer)
    }

    /// Gives back a layer; but that of a native mediator is kept, as the mediator may have its inner function for ever.
    ///
    /// # Safety
    ///
    /// It is in no chain and no thread is on its way through it.
    pub(crate) unsafe fn give_back(&mut self, layer: *const Layer) {
        let layer = layer.cast_mut();
        // SAFETY: layers are never freed.
        if unsafe { (*layer).is_native && (*layer).wrapper != 0 } {
            return;
        }
        // SAFETY: promised by the caller; its words were leaked from a box of that length.
        unsafe {
            let words =
                core::ptr::slice_from_raw_parts_mut((*layer).words.cast_mut(), (*layer).word_count as usize);
            drop(Box::from_raw(words));
        }
        self.free.push(layer);
    }

    /// Gives back all layers of a slot, and the slot.
    ///
    /// # Safety
    ///
    /// It is of [`Slot::keep`]. Nothing leads to it any more, no thread is on its way through it, and it is not used afterwards.
    pub(crate) unsafe fn give_back_all(&mut self, slot: &'static Slot) {
        let layers: Vec<*const Layer> = slot.layers().map(core::ptr::from_ref).collect();
        let slot: *mut Slot = core::ptr::with_exposed_provenance_mut(core::ptr::from_ref(slot).addr());
        // SAFETY: promised by the caller; `keep` has exposed it.
        unsafe { drop(Box::from_raw(slot)) };
        // SAFETY: promised by the caller.
        layers.into_iter().for_each(|layer| unsafe { self.give_back(layer) });
    }

    /// Room for more layers, each with the two stubs by which it is entered and passed over.
    fn make_slab(&mut self) -> Option<()> {
        let bytes = (SLAB_LAYERS * size_of::<Layer>()).next_multiple_of(system::PAGE);
        let layers = system::map(bytes)?.cast::<Layer>();
        let code = system::map(2 * system::PAGE)?;
        for index in 0..SLAB_LAYERS {
            // SAFETY: both have room for as many, and all zeros is a valid layer.
            unsafe {
                let (layer, entry) = (layers.add(index), code.add(index * GATE_BYTES));
                let past = entry.add(system::PAGE);
                (*layer).link.entry = entry as usize;
                (*layer).past = past as usize;
                let stub = jump_by(&raw const (*layer).next as u64);
                core::ptr::copy_nonoverlapping(stub.as_ptr(), past, GATE_BYTES);
                let mut stub = [0xcc; GATE_BYTES];
                stub[..2].copy_from_slice(&[0x49, 0xbb]); // mov r11, the layer
                stub[2..10].copy_from_slice(&(layer as u64).to_le_bytes());
                stub[10..13].copy_from_slice(&[0x41, 0xff, 0x23]); // jmp [r11]
                core::ptr::copy_nonoverlapping(stub.as_ptr(), entry, GATE_BYTES);
                self.free.push(layer);
            }
        }
        // SAFETY: nothing writes there any more.
        unsafe { system::seal(code, 2 * system::PAGE) }.then_some(())?;
        note_code(code as u64, 2 * system::PAGE as u64)
    }
}

/// The mediator's stack words, as offsets from the end of the thunk's frame. Their number is even, for the alignment of the
/// stack: the last one may be any.
fn words(shape: &Shape) -> Vec<i32> {
    let mut words: Vec<i32> = shape
        .words
        .iter()
        .map(|word| match word {
            Word::Register(number) => thunk::REGISTERS_AT + 8 * i32::from(*number),
            Word::Stack(number) => thunk::ARGUMENTS_AT + 8 * i32::from(*number),
        })
        .collect();
    if words.len() % 2 == 1 {
        words.push(thunk::REGISTERS_AT);
    }
    words
}

const _: () = {
    assert!(core::mem::offset_of!(Layer, next) == 16);
    assert!(core::mem::offset_of!(Layer, mediator) == 24);
    assert!(core::mem::offset_of!(Layer, inner) == 32);
    assert!(core::mem::offset_of!(Layer, index) == 40);
    assert!(core::mem::offset_of!(Layer, words) == 48);
    assert!(core::mem::offset_of!(Layer, word_count) == 56);
    assert!(core::mem::offset_of!(Layer, stack_bytes) == 60);
    assert!(core::mem::offset_of!(Layer, wrapper) == 64);
    assert!(thunk::FRAME_BYTES == 224);
};
