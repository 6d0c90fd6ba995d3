//! Functions in memory: where a name leads, what code its library has, and what a jump into it needs.

use std::ffi::{CString, c_void};
use std::ops::Range;

use brant_hook::{
    Function, JUMP_BYTES, PROLOGUE_BYTES_MAX, Refusal, Relocated, SHORT_JUMP_BYTES, TRAMPOLINE_BYTES_MAX,
    branches_into, jump, padding_near, relocate, relocate_short, short_jump,
};
use windows_sys::Win32::System::Diagnostics::Debug::RtlLookupFunctionEntry;
use windows_sys::Win32::System::LibraryLoader::GetProcAddress;
use windows_sys::Win32::System::Memory::{
    MEM_COMMIT, MEMORY_BASIC_INFORMATION, PAGE_EXECUTE, PAGE_EXECUTE_READ, PAGE_EXECUTE_READWRITE,
    PAGE_EXECUTE_WRITECOPY, VirtualQuery,
};

use super::call::ENTRY_BYTES_MAX;
use super::modules::Module;
use super::room::Room;

/// Jumps that lead on from an export to the function, at most.
const JUMPS_MAX: usize = 8;

/// Functions of Windows that no mediator can stand before.
pub(super) fn refused_by_name(name: &str) -> Option<&'static str> {
    match name {
        "__chkstk" | "_chkstk" | "___chkstk_ms" | "__alloca_probe" | "_alloca_probe" => {
            Some("it does not follow the calling convention")
        }
        "setjmp"
        | "_setjmp"
        | "_setjmpex"
        | "__intrinsic_setjmp"
        | "__intrinsic_setjmpex"
        | "RtlCaptureContext"
        | "RtlCaptureContext2" => Some("it looks at its caller's registers"),
        "LdrInitializeThunk"
        | "RtlUserThreadStart"
        | "KiUserExceptionDispatcher"
        | "KiUserApcDispatcher"
        | "KiUserCallbackDispatcher"
        | "KiRaiseUserExceptionDispatcher"
        | "NtContinue"
        | "ZwContinue"
        | "RtlRestoreContext"
        | "RtlRaiseException"
        | "RtlUnwindEx" => Some("Windows enters or leaves it in a way of its own"),
        _ => None,
    }
}

/// Where the export `name` of a library leads. Nothing: it does not export it.
pub(crate) fn resolve(module: &Module, name: &str) -> Option<Result<u64, String>> {
    let text = CString::new(name).ok()?;
    // SAFETY: a loaded library, and a text that ends with a zero byte.
    let address = unsafe { GetProcAddress(module.handle(), text.as_ptr().cast()) }? as usize as u64;
    if let Some(why) = refused_by_name(name) {
        return Some(Err(why.to_owned()));
    }
    if executable(address).is_none() {
        return Some(Err("it is no function".to_owned()));
    }
    Some(Ok(address))
}

/// Follows jumps to other libraries, as those of kernel32 to kernelbase, and within one, to the function itself. `is_slot` stops it: there is
/// a jump of our own.
pub(crate) fn follow(mut address: u64, modules: &[Module], is_slot: impl Fn(u64) -> bool) -> u64 {
    for _ in 0..JUMPS_MAX {
        if is_slot(address) {
            return address;
        }
        let code = bytes_at(address, 7);
        let near = |at: usize| {
            code.get(at..at + 4)
                .map(|word| i64::from(i32::from_le_bytes([word[0], word[1], word[2], word[3]])))
        };
        let next = match *code {
            [0xe9, ..] => near(1).map(|distance| address.wrapping_add_signed(5 + distance)),
            [0xff, 0x25, ..] => {
                near(2).and_then(|distance| pointer(address.wrapping_add_signed(6 + distance)))
            }
            [0x48, 0xff, 0x25, ..] => {
                near(3).and_then(|distance| pointer(address.wrapping_add_signed(7 + distance)))
            }
            _ => None,
        };
        let is_code =
            |next: &u64| modules.iter().any(|module| module.contains(*next)) && executable(*next).is_some();
        match next.filter(is_code) {
            Some(next) => address = next,
            None => return address,
        }
    }
    address
}

fn pointer(at: u64) -> Option<u64> {
    let (_, end) = readable(at)?;
    // SAFETY: readable up to there.
    (at + 8 <= end).then(|| unsafe { (at as *const u64).read_unaligned() })
}

fn query(at: u64) -> Option<MEMORY_BASIC_INFORMATION> {
    let mut told = MEMORY_BASIC_INFORMATION::default();
    // SAFETY: there is room for the answer.
    let bytes = unsafe { VirtualQuery(at as *const c_void, &raw mut told, size_of_val(&told)) };
    (bytes != 0 && told.State == MEM_COMMIT).then_some(told)
}

const CODE: u32 = PAGE_EXECUTE | PAGE_EXECUTE_READ | PAGE_EXECUTE_READWRITE | PAGE_EXECUTE_WRITECOPY;

/// The code around an address: where it begins and ends.
fn executable(at: u64) -> Option<(u64, u64)> {
    let told = query(at)?;
    let start = told.BaseAddress as u64;
    (told.Protect & CODE != 0).then_some((start, start + told.RegionSize as u64))
}

fn readable(at: u64) -> Option<(u64, u64)> {
    let told = query(at)?;
    let start = told.BaseAddress as u64;
    // 1 is no access, 0x100 a guard.
    (told.Protect & 0x101 == 0).then_some((start, start + told.RegionSize as u64))
}

/// Up to `most` bytes of code from an address on.
fn bytes_at(address: u64, most: usize) -> &'static [u8] {
    let Some((_, end)) = executable(address) else { return &[] };
    let bytes = most.min((end - address) as usize);
    // SAFETY: committed memory of a library that is loaded while the result is used.
    unsafe { std::slice::from_raw_parts(address as *const u8, bytes) }
}

/// How many bytes a function has, from the unwinder's table; 0 where it is not in it.
fn size(address: u64) -> u64 {
    let mut base = 0;
    // SAFETY: there is room for the base; the table needs none.
    let entry = unsafe { RtlLookupFunctionEntry(address, &raw mut base, std::ptr::null_mut()) };
    if entry.is_null() {
        return 0;
    }
    // SAFETY: an entry of a loaded library.
    let entry = unsafe { &*entry };
    if base + u64::from(entry.BeginAddress) != address {
        0
    } else {
        u64::from(entry.EndAddress - entry.BeginAddress)
    }
}

/// The code of a library, and which of its functions are branched into.
#[derive(Debug)]
pub(crate) struct Code {
    parts: Vec<(u64, &'static [u8])>,
    /// Places of long jumps that were looked for at once: a library has megabytes of code.
    known: Vec<(Range<u64>, bool)>,
}

impl Code {
    /// Of a library that stays loaded, for these functions.
    pub(crate) fn of(module: &Module, functions: &[u64]) -> Code {
        let mut code = Code { parts: parts_of(module), known: Vec::new() };
        let mut ranges: Vec<Range<u64>> = functions.iter().map(|at| *at..*at + JUMP_BYTES as u64).collect();
        ranges.sort_unstable_by_key(|range| range.start);
        ranges.dedup();
        let is_apart = ranges.windows(2).all(|pair| pair[0].end <= pair[1].start);
        if is_apart {
            let hits = code.hits(&ranges);
            code.known = ranges.into_iter().zip(hits).collect();
        }
        code
    }

    fn hits(&self, ranges: &[Range<u64>]) -> Vec<bool> {
        let mut hits = vec![false; ranges.len()];
        for (at, code) in &self.parts {
            let found = branches_into(code, *at, ranges);
            hits.iter_mut().zip(found).for_each(|(hit, found)| *hit |= found);
        }
        hits
    }

    fn is_branched_into(&self, range: &Range<u64>) -> bool {
        match self.known.iter().find(|(known, _)| known == range) {
            Some((_, is_hit)) => *is_hit,
            None => self.hits(std::slice::from_ref(range)).contains(&true),
        }
    }
}

/// All code of a library, as it is in memory now.
fn parts_of(module: &Module) -> Vec<(u64, &'static [u8])> {
    let mut at = module.base;
    let mut found = Vec::new();
    while at < module.base + module.bytes {
        let Some(told) = query(at) else { break };
        let start = told.BaseAddress as u64;
        let end = start + told.RegionSize as u64;
        if told.Protect & CODE != 0 {
            let end = end.min(module.base + module.bytes);
            found.push((start, bytes_at(start, (end - start) as usize)));
        }
        at = end;
    }
    found
}

/// What is to be written to hook one function.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The function.
    pub(crate) address: u64,
    /// Where the entry is to be written, and behind it the trampoline.
    pub(crate) entry: u64,
    pub(crate) relocated: Relocated,
    /// Each place, what stands there, and what is to be written; the jump of the function itself is the last.
    pub(crate) writes: Vec<Write>,
}

/// Bytes of code that are changed.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub(crate) at: u64,
    pub(crate) old: Vec<u8>,
    pub(crate) new: Vec<u8>,
}

impl Write {
    fn range(&self) -> Range<u64> {
        self.at..self.at + self.new.len() as u64
    }
}

/// Plans a hook. `taken` are the places of those that there are.
pub(crate) fn plan(address: u64, code: &Code, room: &mut Room, taken: &[Write]) -> Result<Plan, Refusal> {
    let function = Function { address, code: bytes_at(address, PROLOGUE_BYTES_MAX), bytes: size(address) };
    let bytes = (ENTRY_BYTES_MAX + TRAMPOLINE_BYTES_MAX) as u64;
    let entry = room.take(address, bytes).ok_or(Refusal::TooFar)?;
    let trampoline = entry + ENTRY_BYTES_MAX as u64;
    let is_free = |range: &Range<u64>| {
        let is_apart =
            taken.iter().all(|write| write.range().end <= range.start || range.end <= write.range().start);
        is_apart && !code.is_branched_into(range)
    };
    let long = relocate(function, trampoline).and_then(|relocated| {
        let range = relocated.at..relocated.at + JUMP_BYTES as u64;
        if is_free(&range) { Ok(relocated) } else { Err(Refusal::BranchInto) }
    });
    match long {
        Ok(relocated) => {
            let new = jump(relocated.at, entry).ok_or(Refusal::TooFar)?.to_vec();
            let writes = vec![Write { at: relocated.at, old: relocated.old.clone(), new }];
            Ok(Plan { address, entry, relocated, writes })
        }
        Err(refusal @ (Refusal::TooShort | Refusal::BranchInto)) => {
            short(function, entry, trampoline, &code.parts, is_free).ok_or(refusal)
        }
        Err(refusal) => Err(refusal),
    }
}

/// A hook by a jump of two bytes, to padding nearby that holds the long one.
fn short(
    function: Function<'_>,
    entry: u64,
    trampoline: u64,
    code: &[(u64, &'static [u8])],
    is_free: impl Fn(&Range<u64>) -> bool,
) -> Option<Plan> {
    let relocated = relocate_short(function, trampoline).ok()?;
    let at = relocated.at;
    if !is_free(&(at..at + SHORT_JUMP_BYTES as u64)) {
        return None;
    }
    let (start, code) =
        code.iter().find(|(start, code)| (*start..*start + code.len() as u64).contains(&at))?;
    // Far enough on both sides for a short jump, and some to be in step with the instructions.
    let first = (at - start).saturating_sub(1024);
    let last = ((at - start) + 1024).min(code.len() as u64);
    for place in padding_near(&code[first as usize..last as usize], start + first, at) {
        let padding = place..place + JUMP_BYTES as u64;
        let (Some(near), Some(far)) = (short_jump(at, place), jump(place, entry)) else { continue };
        if is_free(&(place - 1..padding.end)) {
            let old = code[(place - start) as usize..(padding.end - start) as usize].to_vec();
            let writes = vec![
                Write { at: place, old, new: far.to_vec() },
                Write { at, old: relocated.old.clone(), new: near.to_vec() },
            ];
            return Some(Plan { address: function.address, entry, relocated, writes });
        }
    }
    None
}
