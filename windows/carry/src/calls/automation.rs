//! Strings and variants of OLE automation, whose blocks are the program's.

use super::heaps::{process_heap, space};
use super::ours;
use crate::state::block;

ours! {
    SysAllocString SysAllocStringLen SysAllocStringByteLen SysFreeString SysStringLen SysStringByteLen VariantInit VariantClear
    VariantCopy;
}

/// The length in bytes stands before the text; a block begins eight bytes before that.
const HEAD_BYTES: usize = 16;

/// Their ordinals in oleaut32, by which programs import them.
pub(crate) fn name_of(ordinal: &str) -> Option<&'static str> {
    Some(match ordinal {
        "#2" => "SysAllocString",
        "#4" => "SysAllocStringLen",
        "#6" => "SysFreeString",
        "#7" => "SysStringLen",
        "#8" => "VariantInit",
        "#9" => "VariantClear",
        "#10" => "VariantCopy",
        "#149" => "SysStringByteLen",
        "#150" => "SysAllocStringByteLen",
        _ => return None,
    })
}

fn allocate(from: usize, bytes: usize) -> usize {
    let at = space().allocate(process_heap(), HEAD_BYTES + bytes + 2, true) as usize;
    if at == 0 {
        return 0;
    }
    let text = at + HEAD_BYTES;
    // SAFETY: the block is new, and the length stands within its head.
    unsafe { ((text - 4) as *mut u32).write(bytes as u32) };
    if from != 0 {
        // SAFETY: the program's text has so many bytes, and so has the block.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, text as *mut u8, bytes) };
    }
    text
}

extern "system" fn SysAllocString(text: usize) -> usize {
    if text == 0 {
        return 0;
    }
    // SAFETY: the program's text ends with a zero.
    let length = (0..).find(|&index| unsafe { (text as *const u16).add(index).read() } == 0).unwrap_or(0);
    allocate(text, 2 * length)
}

extern "system" fn SysAllocStringLen(text: usize, length: u32) -> usize {
    allocate(text, 2 * length as usize)
}

extern "system" fn SysAllocStringByteLen(text: usize, bytes: u32) -> usize {
    allocate(text, bytes as usize)
}

extern "system" fn SysFreeString(text: usize) {
    if text != 0 && !space().free(process_heap(), text - HEAD_BYTES) {
        block("it has a string of OLE automation that the system gave it");
    }
}

extern "system" fn SysStringByteLen(text: usize) -> u32 {
    // SAFETY: a string has its length before it.
    if text == 0 { 0 } else { unsafe { ((text - 4) as *const u32).read() } }
}

extern "system" fn SysStringLen(text: usize) -> u32 {
    SysStringByteLen(text) / 2
}

/// VARIANT: 24 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
struct Variant {
    kind: u16,
    reserved: [u16; 3],
    value: usize,
    more: usize,
}

const EMPTY: Variant = Variant { kind: 0, reserved: [0; 3], value: 0, more: 0 };
const STRING: u16 = 8;
/// VT_DISPATCH, VT_VARIANT, VT_UNKNOWN, VT_RECORD, and the bits of arrays and references: what has a life of its own.
fn is_other(kind: u16) -> bool {
    matches!(kind & 0xfff, 9 | 12 | 13 | 36) || kind & 0xf000 != 0
}

extern "system" fn VariantInit(variant: *mut Variant) {
    // SAFETY: the program has room for a variant.
    unsafe { variant.write(EMPTY) };
}

extern "system" fn VariantClear(variant: *mut Variant) -> i32 {
    // SAFETY: the program's variant.
    let old = unsafe { variant.read() };
    if is_other(old.kind) {
        block("it has objects of OLE automation");
    } else if old.kind == STRING {
        SysFreeString(old.value);
    }
    // SAFETY: as above.
    unsafe { (&raw mut (*variant).kind).write(0) };
    0
}

extern "system" fn VariantCopy(into: *mut Variant, from: *const Variant) -> i32 {
    VariantClear(into);
    // SAFETY: the program's variant.
    let mut new = unsafe { from.read() };
    if is_other(new.kind) {
        block("it has objects of OLE automation");
    } else if new.kind == STRING && new.value != 0 {
        new.value = allocate(new.value, SysStringByteLen(new.value) as usize);
    }
    // SAFETY: as above.
    unsafe { into.write(new) };
    0
}
