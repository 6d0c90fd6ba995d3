//! Padding between functions: bytes that are never run, in which a jump has room to which a shorter one leads.

use alloc::vec::Vec;

use iced_x86::{Decoder, DecoderOptions, FlowControl};

use crate::JUMP_BYTES;
use crate::relocate::is_nop;

/// Bytes over which a short jump reaches, either way.
const REACH: u64 = 128;

/// Functions begin at multiples of this. One may begin with nops of its own, for those who patch programs: so padding is
/// only what lies between an end and the next such place.
const ALIGNMENT: u64 = 16;

/// Where in `code`, which lies at `address`, a jump has room to which a short one at `at` reaches, the nearest place first. Only
/// what compilers put behind an instruction that never goes on counts: nops and breakpoints. Whether a branch leads there is
/// for the caller to see.
pub fn padding_near(code: &[u8], address: u64, at: u64) -> Vec<u64> {
    let mut found = Vec::new();
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NO_INVALID_CHECK);
    let mut run: Option<u64> = None;
    let mut is_ended = false;
    while decoder.can_decode() {
        let start = decoder.position();
        let here = address + start as u64;
        if here > at + REACH {
            break;
        }
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            let Ok(()) = decoder.set_position(start + 1) else { break };
            decoder.set_ip(here + 1);
            (run, is_ended) = (None, false);
            continue;
        }
        let is_breakpoint = code[start] == 0xcc;
        if is_nop(instruction.code()) || is_breakpoint {
            if run.is_none() && is_ended {
                run = Some(here);
            }
            let end = here + instruction.len() as u64;
            let is_room = |first: &u64| {
                let is_within = (1..=ALIGNMENT - JUMP_BYTES as u64).contains(&(first % ALIGNMENT));
                is_within && end - first >= JUMP_BYTES as u64 && first + REACH > at
            };
            if let Some(first) = run.filter(is_room) {
                found.push(first);
                (run, is_ended) = (None, false);
            }
            continue;
        }
        run = None;
        is_ended = matches!(
            instruction.flow_control(),
            FlowControl::Return | FlowControl::UnconditionalBranch | FlowControl::IndirectBranch
        );
    }
    found.sort_by_key(|place| place.abs_diff(at));
    found
}
