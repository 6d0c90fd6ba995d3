//! Named roots: how a later process finds what lies in a heap.
//!
//! A root is a pointer into a live block, with the size of what is there and a number that says what it is. [`Heap::put`] and [`Heap::get`] copy values
//! of types of which any bytes are a value, and so are safe; everything else, pointers first of all, is `unsafe` and the program's own word.

use std::ptr::NonNull;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::core::Core;
use crate::error::{Error, Label};
use crate::heap::Heap;
use crate::layout::{ROOT_NAME_BYTES_MAX, Root};
use crate::registry;

/// What [`Heap::put`] made.
const KIND_VALUE: u64 = u64::from_le_bytes(*b"value\0\0\0");

/// A number for a Rust type: its name, size and alignment, and the compiler. Types of the same name in two versions of a crate are not told
/// apart; a program that changes such a type changes the root's name.
pub fn kind_of<T>() -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let words = [std::any::type_name::<T>(), env!("BRANT_HEAP_RUSTC")];
    let numbers = [size_of::<T>() as u64, align_of::<T>() as u64];
    let bytes = words
        .iter()
        .flat_map(|word| word.bytes())
        .chain(numbers.iter().flat_map(|number| number.to_le_bytes()));
    bytes.for_each(|byte| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    hash
}

impl Heap {
    /// Stores a value under a name, in place of one of the same name that [`Heap::put`] made.
    pub fn put<T: IntoBytes + Immutable>(self, name: &str, value: &T) -> Result<(), Error> {
        let bytes = value.as_bytes();
        let _held = self.0.process.roots.hold();
        let root = free_or_named(self.0, name)?;
        let old = root.address.get();
        let is_new = old == 0;
        if !is_new && (root.kind.get() != KIND_VALUE || root.bytes.get() != bytes.len() as u64) {
            return Err(Error::RootKind { root: Label::new(name.as_bytes()), wanted: "value of this size" });
        }
        let address =
            if is_new { self.0.allocate(bytes.len(), align_of::<T>().max(16)) } else { old as usize };
        if address == 0 {
            return Err(Error::NoMemory { bytes: bytes.len(), errno: libc::ENOMEM });
        }
        // SAFETY: the block is that of the root, which `get` and `put` alone touch, under the lock, and has so many bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
        if is_new {
            set(root, name, address as u64, KIND_VALUE, bytes.len() as u64);
        }
        Ok(())
    }

    /// A copy of the value that [`Heap::put`] stored under a name.
    pub fn get<T: FromBytes>(self, name: &str) -> Result<T, Error> {
        let _held = self.0.process.roots.hold();
        let root = named(self.0, name)?;
        let address = checked(self.0, root, name)?;
        if root.kind.get() != KIND_VALUE || root.bytes.get() != size_of::<T>() as u64 {
            return Err(Error::RootKind {
                root: Label::new(name.as_bytes()),
                wanted: "value of this type's size",
            });
        }
        // SAFETY: the bytes lie in a live block, `put` alone writes them, under the lock, and any bytes are a `T`.
        Ok(unsafe { (address as *const T).read_unaligned() })
    }

    /// Names a place in a live block: `bytes` from `address` on, which are of the program's kind `kind`. An old root of the name is replaced;
    /// what it named stays.
    pub fn set_root(self, name: &str, address: NonNull<u8>, bytes: usize, kind: u64) -> Result<(), Error> {
        let _held = self.0.process.roots.hold();
        let root = free_or_named(self.0, name)?;
        let address = address.as_ptr() as usize;
        if kind == KIND_VALUE || (root.address.get() != 0 && root.kind.get() == KIND_VALUE) {
            return Err(Error::RootKind { root: Label::new(name.as_bytes()), wanted: "place of a block" });
        }
        if !lies_in_a_block(self.0, address, bytes) {
            return Err(Error::RootOutside(Label::new(name.as_bytes())));
        }
        set(root, name, address as u64, kind, bytes as u64);
        Ok(())
    }

    /// What [`Heap::set_root`] named: its address and size. `kind` must be the one that was said then.
    pub fn root(self, name: &str, kind: u64) -> Result<(NonNull<u8>, usize), Error> {
        let _held = self.0.process.roots.hold();
        let root = named(self.0, name)?;
        let address = checked(self.0, root, name)?;
        if root.kind.get() != kind {
            return Err(Error::RootKind { root: Label::new(name.as_bytes()), wanted: "place of this kind" });
        }
        let address =
            NonNull::new(address as *mut u8).ok_or(Error::RootOutside(Label::new(name.as_bytes())))?;
        Ok((address, root.bytes.get() as usize))
    }

    /// Moves a value of any type into the heap and names it, with the type's [`kind_of`].
    pub fn keep<T>(self, name: &str, value: T) -> Result<NonNull<T>, Error> {
        let bytes = size_of::<T>();
        let block = self.allocate_aligned(bytes, align_of::<T>().max(16));
        let block = block.ok_or(Error::NoMemory { bytes, errno: libc::ENOMEM })?.cast::<T>();
        // SAFETY: the block is fresh, aligned and large enough.
        unsafe { block.write(value) };
        if let Err(error) = self.set_root(name, block.cast(), bytes, kind_of::<T>()) {
            // SAFETY: the block was allocated above, and nobody else has it.
            unsafe {
                block.drop_in_place();
                let _ = self.free(block.cast());
            }
            return Err(error);
        }
        Ok(block)
    }

    /// What [`Heap::keep`] put there, in this process or one before.
    ///
    /// # Safety
    ///
    /// This program has the same `T` as the one that kept it, all that `T` points to was in heaps that were saved and loaded together, and
    /// nothing in it is the address of code, a static or a `dyn` type. No other reference to the value may be in use.
    pub unsafe fn kept<'a, T>(self, name: &str) -> Result<&'a mut T, Error> {
        let (address, bytes) = self.root(name, kind_of::<T>())?;
        if bytes != size_of::<T>() || !address.cast::<T>().is_aligned() {
            return Err(Error::RootKind { root: Label::new(name.as_bytes()), wanted: "value of this type" });
        }
        // SAFETY: it lies in a live block of this size and alignment; the rest is promised by the caller.
        Ok(unsafe { address.cast::<T>().as_mut() })
    }

    /// Takes a name away. What it named stays, but for a value of [`Heap::put`].
    pub fn remove_root(self, name: &str) -> Result<(), Error> {
        let _held = self.0.process.roots.hold();
        let root = named(self.0, name)?;
        let address = root.address.replace(0) as usize;
        if root.kind.get() == KIND_VALUE && lies_in_a_block(self.0, address, root.bytes.get() as usize) {
            self.0.free(address)?;
        }
        Ok(())
    }

    /// Calls `visit` with name, address, size and kind of each root. Roots must not be changed by it.
    pub fn each_root(self, mut visit: impl FnMut(&str, usize, usize, u64)) {
        let _held = self.0.process.roots.hold();
        for root in self.0.roots.iter().filter(|root| root.address.get() != 0) {
            let name = root.name.get();
            let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
            let text = std::str::from_utf8(&name[..end]).unwrap_or("");
            visit(text, root.address.get() as usize, root.bytes.get() as usize, root.kind.get());
        }
    }
}

fn set(root: &Root, name: &str, address: u64, kind: u64, bytes: u64) {
    let mut text = [0; ROOT_NAME_BYTES_MAX + 1];
    text[..name.len()].copy_from_slice(name.as_bytes());
    root.name.set(text);
    root.kind.set(kind);
    root.bytes.set(bytes);
    root.address.set(address);
}

fn has_name(root: &Root, name: &str) -> bool {
    let text = root.name.get();
    root.address.get() != 0 && text.starts_with(name.as_bytes()) && text[name.len()] == 0
}

fn named<'a>(core: Core, name: &str) -> Result<&'a Root, Error> {
    registry::check_name(name.as_bytes(), ROOT_NAME_BYTES_MAX)?;
    find(core, |root| has_name(root, name)).ok_or(Error::NoRoot(Label::new(name.as_bytes())))
}

fn free_or_named<'a>(core: Core, name: &str) -> Result<&'a Root, Error> {
    registry::check_name(name.as_bytes(), ROOT_NAME_BYTES_MAX)?;
    find(core, |root| has_name(root, name))
        .or_else(|| find(core, |root| root.address.get() == 0))
        .ok_or(Error::RootsFull)
}

fn find<'a>(core: Core, is_it: impl Fn(&Root) -> bool) -> Option<&'a Root> {
    core.header().roots.iter().find(|root| is_it(root))
}

fn checked(core: Core, root: &Root, name: &str) -> Result<usize, Error> {
    let address = root.address.get() as usize;
    if lies_in_a_block(core, address, root.bytes.get() as usize) {
        return Ok(address);
    }
    Err(Error::RootOutside(Label::new(name.as_bytes())))
}

fn lies_in_a_block(core: Core, address: usize, bytes: usize) -> bool {
    core.contains(address)
        && core.find(address).is_some_and(|found| bytes <= found.block + found.bytes - address)
}
