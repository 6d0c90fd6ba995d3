//! Branches into bytes that are to be overwritten: a sibling of memcpy jumps to `memcpy+3`.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use iced_x86::{Decoder, DecoderOptions, FlowControl};

/// For each of `ranges` (ascending, apart), whether a direct branch or call in `code`, which lies at `address`, leads behind
/// its first byte and before its end. Data in the code is decoded too; x86 code is in step again after a few bytes.
pub fn branches_into(code: &[u8], address: u64, ranges: &[Range<u64>]) -> Vec<bool> {
    let mut found = vec![false; ranges.len()];
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NO_INVALID_CHECK);
    while decoder.can_decode() {
        let start = decoder.position();
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            let ip = address + start as u64 + 1;
            if decoder.set_position(start + 1).is_err() {
                break;
            }
            decoder.set_ip(ip);
            continue;
        }
        let is_direct = matches!(
            instruction.flow_control(),
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch | FlowControl::Call
        );
        if !is_direct {
            continue;
        }
        let target = instruction.near_branch_target();
        let index = ranges.partition_point(|range| range.end <= target);
        if ranges.get(index).is_some_and(|range| range.start < target && target < range.end) {
            found[index] = true;
        }
    }
    found
}
