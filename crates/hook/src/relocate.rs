//! Moving a function's first instructions elsewhere.
//!
//! Only a decoder is needed: an instruction is copied as it is, but for a displacement from the instruction pointer,
//! which is adjusted, and a direct branch or call, which is written anew. The trampoline must be within 2 GiB of
//! the function, as the jump to it must.

use alloc::vec::Vec;

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction};

use crate::Refusal;

/// Bytes of the jump that is written over a function's first instructions.
pub const JUMP_BYTES: usize = 5;
/// Bytes of a short jump, to padding that holds the long one.
pub const SHORT_JUMP_BYTES: usize = 2;
/// Bytes of a function that are looked at, at most.
pub const PROLOGUE_BYTES_MAX: usize = 4 + JUMP_BYTES + 15;
/// A trampoline is at most this long.
pub const TRAMPOLINE_BYTES_MAX: usize = 64;
/// `endbr64`: stays where it is, as indirect calls land on it.
pub const ENDBR: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];

const INT3: u8 = 0xcc;

/// A function as it is in memory.
#[derive(Debug, Clone, Copy)]
pub struct Function<'a> {
    pub address: u64,
    /// From its first byte on: [`PROLOGUE_BYTES_MAX`] of them, or up to the end of the code.
    pub code: &'a [u8],
    /// From its symbol; 0 where that does not say.
    pub bytes: u64,
}

/// The first instructions of a function, moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relocated {
    /// Where the jump is to be written: at the function's first byte, or behind its `endbr64`.
    pub at: u64,
    /// What stands there, as long as the jump.
    pub old: Vec<u8>,
    /// How many bytes from there on the trampoline stands for.
    pub length: usize,
    /// The code of the trampoline.
    pub trampoline: Vec<u8>,
    /// Where a thread goes on that stands at an instruction inside of the jump: its address, and that in the trampoline.
    pub moves: Vec<(u64, u64)>,
}

/// Moves the first instructions of `function` to a trampoline at address `to`. Branches from elsewhere are not
/// looked at: see [`crate::branches_into`].
pub fn relocate(function: Function<'_>, to: u64) -> Result<Relocated, Refusal> {
    relocate_for(function, to, JUMP_BYTES)
}

/// The same for a jump of [`SHORT_JUMP_BYTES`].
pub fn relocate_short(function: Function<'_>, to: u64) -> Result<Relocated, Refusal> {
    relocate_for(function, to, SHORT_JUMP_BYTES)
}

/// Moves as many instructions as a jump of that many bytes overwrites. What cannot be moved, or is too short, is a
/// refusal.
fn relocate_for(function: Function<'_>, to: u64, jump_bytes: usize) -> Result<Relocated, Refusal> {
    let skipped = if function.code.starts_with(&ENDBR) { ENDBR.len() } else { 0 };
    let at = function.address + skipped as u64;
    let code = &function.code[skipped..];
    let old = code.get(..jump_bytes).ok_or(Refusal::TooShort)?.to_vec();
    let mut trampoline = Vec::with_capacity(TRAMPOLINE_BYTES_MAX);
    let mut moves = Vec::new();
    let mut decoder = Decoder::with_ip(64, code, at, DecoderOptions::NONE);
    let mut is_ended = false;
    while decoder.position() < jump_bytes {
        let start = decoder.position();
        let instruction = decoder.decode();
        let bytes = &code[start..start + instruction.len()];
        if bytes.first() == Some(&INT3) {
            return Err(Refusal::Breakpoint);
        }
        if instruction.is_invalid() {
            return Err(Refusal::Instruction);
        }
        if start > 0 {
            moves.push((at + start as u64, to + trampoline.len() as u64));
        }
        let end = at + jump_bytes as u64;
        is_ended = match call_by_pointer(&instruction, bytes, end, to, &mut trampoline) {
            Some(done) => done.map(|()| true)?,
            None => copy(&decoder, &instruction, bytes, end, to, &mut trampoline)?,
        };
        if is_ended {
            break;
        }
    }
    let length = decoder.position();
    if is_ended {
        // What follows is overwritten only where it is padding.
        let size = function.bytes.saturating_sub(skipped as u64) as usize;
        if length < jump_bytes
            && (size > length || !is_padding(&code[length..], at + length as u64, jump_bytes - length))
        {
            return Err(Refusal::TooShort);
        }
    } else {
        if function.bytes != 0 && ((length + skipped) as u64) > function.bytes {
            return Err(Refusal::TooShort);
        }
        trampoline.extend(jump(to + trampoline.len() as u64, at + length as u64).ok_or(Refusal::TooFar)?);
    }
    Ok(Relocated { at, old, length, trampoline, moves })
}

/// `jmp` from `from` to `to`, where it reaches.
pub fn jump(from: u64, to: u64) -> Option<[u8; JUMP_BYTES]> {
    let distance = displacement(from.wrapping_add(JUMP_BYTES as u64), to)?;
    let [a, b, c, d] = distance.to_le_bytes();
    Some([0xe9, a, b, c, d])
}

/// `jmp` from `from` to `to` in two bytes, where it reaches.
pub fn short_jump(from: u64, to: u64) -> Option<[u8; SHORT_JUMP_BYTES]> {
    let distance = to.wrapping_sub(from.wrapping_add(SHORT_JUMP_BYTES as u64)) as i64;
    i8::try_from(distance).ok().map(|distance| [0xeb, distance as u8])
}

/// Copies one instruction to the end of the trampoline at `to`; the jump will end at `end`. Tells whether nothing follows.
pub(crate) fn copy(
    decoder: &Decoder<'_>,
    instruction: &Instruction,
    bytes: &[u8],
    end: u64,
    to: u64,
    trampoline: &mut Vec<u8>,
) -> Result<bool, Refusal> {
    let here = to + trampoline.len() as u64;
    match instruction.flow_control() {
        FlowControl::ConditionalBranch => {
            let condition = match bytes {
                [code @ 0x70..=0x7f, _] => code & 0xf,
                [0x0f, code @ 0x80..=0x8f, ..] => code & 0xf,
                _ => return Err(Refusal::Instruction),
            };
            let target = displacement(here.wrapping_add(6), instruction.near_branch_target())
                .ok_or(Refusal::TooFar)?;
            trampoline.extend([0x0f, 0x80 | condition]);
            trampoline.extend(target.to_le_bytes());
            Ok(false)
        }
        FlowControl::UnconditionalBranch if instruction.is_jmp_short_or_near() => {
            trampoline.extend(jump(here, instruction.near_branch_target()).ok_or(Refusal::TooFar)?);
            Ok(true)
        }
        FlowControl::Call if instruction.code() == Code::Syscall => {
            trampoline.extend(bytes);
            Ok(false)
        }
        FlowControl::Call if instruction.is_call_near() => {
            // It returns into the function itself, where it is known how to unwind.
            let back = instruction.next_ip();
            if back < end {
                return Err(Refusal::Call);
            }
            push(back, trampoline);
            let here = to + trampoline.len() as u64;
            trampoline.extend(jump(here, instruction.near_branch_target()).ok_or(Refusal::TooFar)?);
            Ok(true)
        }
        FlowControl::Call | FlowControl::IndirectCall => Err(Refusal::Call),
        flow @ (FlowControl::Next | FlowControl::IndirectBranch | FlowControl::Return) => {
            copy_plain(decoder, instruction, bytes, here, trampoline)?;
            Ok(flow != FlowControl::Next)
        }
        _ => Err(Refusal::Instruction),
    }
}

/// Pushes an address.
fn push(address: u64, trampoline: &mut Vec<u8>) {
    trampoline.push(0x68); // push the lower half, sign-extended
    trampoline.extend((address as u32).to_le_bytes());
    trampoline.extend([0xc7, 0x44, 0x24, 0x04]); // mov dword ptr [rsp + 4], the upper half
    trampoline.extend(((address >> 32) as u32).to_le_bytes());
}

/// `call [rip + ...]`, by which libraries of Windows call each other, where it returns behind the jump: it returns into the function itself.
/// Nothing for other instructions.
fn call_by_pointer(
    instruction: &Instruction,
    bytes: &[u8],
    end: u64,
    to: u64,
    trampoline: &mut Vec<u8>,
) -> Option<Result<(), Refusal>> {
    let &[0xff, 0x15, _, _, _, _] = bytes else { return None };
    let back = instruction.next_ip();
    if back < end {
        return Some(Err(Refusal::Call));
    }
    push(back, trampoline);
    let behind = to + trampoline.len() as u64 + bytes.len() as u64;
    let Some(distance) = displacement(behind, instruction.ip_rel_memory_address()) else {
        return Some(Err(Refusal::TooFar));
    };
    trampoline.extend([0xff, 0x25]);
    trampoline.extend(distance.to_le_bytes());
    Some(Ok(()))
}

/// Copies an instruction that may refer to memory relative to itself.
fn copy_plain(
    decoder: &Decoder<'_>,
    instruction: &Instruction,
    bytes: &[u8],
    here: u64,
    trampoline: &mut Vec<u8>,
) -> Result<(), Refusal> {
    let start = trampoline.len();
    trampoline.extend(bytes);
    if instruction.is_ip_rel_memory_operand() {
        let offsets = decoder.get_constant_offsets(instruction);
        if !offsets.has_displacement() || offsets.displacement_size() != 4 {
            return Err(Refusal::Instruction);
        }
        let end = here.wrapping_add(bytes.len() as u64);
        let distance = displacement(end, instruction.ip_rel_memory_address()).ok_or(Refusal::TooFar)?;
        let field = start + offsets.displacement_offset();
        trampoline[field..field + 4].copy_from_slice(&distance.to_le_bytes());
    }
    Ok(())
}

fn displacement(from: u64, to: u64) -> Option<i32> {
    i32::try_from(to.wrapping_sub(from) as i64).ok()
}

/// Whether at least `wanted` bytes are what compilers and linkers put between functions.
fn is_padding(code: &[u8], address: u64, wanted: usize) -> bool {
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    while decoder.position() < wanted {
        let start = decoder.position();
        if matches!(code.get(start), Some(&INT3)) || code.get(start..start + 2) == Some(&[0, 0]) {
            let Ok(()) = decoder.set_position(start + 1) else { return false };
            continue;
        }
        if !is_nop(decoder.decode().code()) {
            return false;
        }
    }
    true
}

pub(crate) fn is_nop(code: Code) -> bool {
    matches!(code, Code::Nopw | Code::Nopd | Code::Nopq | Code::Nop_rm16 | Code::Nop_rm32 | Code::Nop_rm64)
}
