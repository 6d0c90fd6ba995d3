//! Thunks: what the program has instead of addresses of functions of the system. They lie at the same places in every process.

use std::sync::atomic::Ordering;

use windows_sys::Win32::System::Memory::{
    MEM_COMMIT, MEM_RESERVE, PAGE_EXECUTE_READ, PAGE_READWRITE, VirtualAlloc, VirtualProtect,
};

use crate::calls;
use crate::catalog::{self, How};
use crate::places::{FUNCTIONS_MAX, TARGETS, THUNK_BYTES, THUNKS, THUNKS_BYTES};
use crate::state::{lock, state};
use crate::switch;

/// The first words of the thunks' pages: where the entries of [`switch`] are.
const COMMON: usize = THUNKS;
const COMMON_BACK: usize = THUNKS + 8;
const UNKNOWN: usize = THUNKS + 24;
/// The thunk that the outermost function of a thread returns to.
pub(crate) const BACK: usize = THUNKS + 16;
const FIRST: usize = THUNKS + 0x1000;
/// The bit of a number that says that a function is quick.
const QUICK: u32 = 1 << 16;

/// Makes the pages. False where something is there already.
pub(crate) fn make() -> bool {
    // SAFETY: asks for pages at an address.
    let at =
        unsafe { VirtualAlloc(THUNKS as *const _, THUNKS_BYTES, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE) };
    if at as usize != THUNKS {
        return false;
    }
    let [common, unknown, back] = switch::entries();
    put(COMMON, &common.to_le_bytes());
    put(UNKNOWN, &unknown.to_le_bytes());
    put(COMMON_BACK, &back.to_le_bytes());
    put(BACK, &jump_by(BACK, COMMON_BACK));
    true
}

/// Code may be run, and targets be changed by us only.
pub(crate) fn protect() -> bool {
    let mut old = 0;
    // SAFETY: the pages are ours.
    unsafe { VirtualProtect(THUNKS as *const _, TARGETS - THUNKS, PAGE_EXECUTE_READ, &raw mut old) != 0 }
}

fn unprotect() {
    let mut old = 0;
    // SAFETY: the pages are ours; other threads run in them meanwhile.
    unsafe { VirtualProtect(THUNKS as *const _, TARGETS - THUNKS, 0x40, &raw mut old) };
}

fn put(at: usize, bytes: &[u8]) {
    // SAFETY: `at` is in the thunks' pages, which are writable now.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at as *mut u8, bytes.len()) };
}

/// `jmp [rip + ...]`.
fn jump_by(at: usize, pointer: usize) -> [u8; 6] {
    let distance = (pointer.wrapping_sub(at + 6)) as u32;
    let [a, b, c, d] = distance.to_le_bytes();
    [0xff, 0x25, a, b, c, d]
}

/// The thunk of a function; the same for the same name. Nothing where there are too many.
pub(crate) fn of(dll: &str, name: &str) -> Option<usize> {
    let is_automation = dll.eq_ignore_ascii_case("oleaut32.dll");
    let name = calls::automation::name_of(name).filter(|_| is_automation).unwrap_or(name);
    let full: Vec<u16> = format!("{}!{name}", dll.to_ascii_lowercase()).encode_utf16().collect();
    let held = lock();
    let count = state().functions.load(Ordering::Acquire) as usize;
    let known = state().function_records[..count].iter().position(|function| function.name.get() == full);
    if let Some(known) = known {
        return Some(address(known));
    }
    let target = catalog::target(dll, name)?;
    if count == FUNCTIONS_MAX || !state().function_records[count].name.set(&full) {
        return None;
    }
    unprotect();
    write(count, name, target);
    protect();
    state().functions.store(count as u32 + 1, Ordering::Release);
    drop(held);
    Some(address(count))
}

fn address(index: usize) -> usize {
    FIRST + index * THUNK_BYTES
}

pub(crate) fn address_of(index: usize) -> usize {
    address(index)
}

fn write(index: usize, name: &str, target: usize) {
    let at = address(index);
    let pointer = TARGETS + index * 8;
    put(pointer, &target.to_le_bytes());
    let number = match catalog::how(name) {
        How::Direct => {
            put(at, &jump_by(at, pointer));
            return;
        }
        // They do not come back where the caller's registers would be wanted.
        How::Quick | How::Plain | How::Unknown => index as u32 | QUICK,
        How::Waiting => index as u32,
    };
    let entry = if catalog::how(name) == How::Unknown { UNKNOWN } else { COMMON };
    let mut code = [0x41, 0xbb, 0, 0, 0, 0];
    code[2..].copy_from_slice(&number.to_le_bytes());
    put(at, &code);
    put(at + 6, &jump_by(at + 6, entry));
}

/// `dll` and `name` of a function.
pub(crate) fn name_of(index: usize) -> (String, String) {
    let full = state().function_records[index].name.string();
    let (dll, name) = full.split_once('!').unwrap_or(("", &full));
    (dll.to_owned(), name.to_owned())
}

/// Makes all thunks anew in another process. The name of a function that this Windows has not.
pub(crate) fn bring_back() -> Result<(), String> {
    for index in 0..state().functions.load(Ordering::Acquire) as usize {
        let (dll, name) = name_of(index);
        let target = catalog::target(&dll, &name).ok_or_else(|| format!("{name} of {dll}"))?;
        write(index, &name, target);
    }
    Ok(())
}

/// Functions that the program has called and of which nobody knows what they leave behind.
pub(crate) fn unknown_called() -> Vec<(String, String)> {
    let count = state().functions.load(Ordering::Acquire) as usize;
    (0..count)
        .filter(|&index| state().called[index].load(Ordering::Acquire) == 1)
        .map(name_of)
        .filter(|(_, name)| catalog::how(name) == How::Unknown)
        .collect()
}
