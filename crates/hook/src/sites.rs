//! System calls in code: where `syscall` instructions stand, which number each carries, and which bytes before or behind one
//! can hold a jump.
//!
//! Two bytes that look like the instruction may be a part of another one, or data. So code is decoded from the starts of
//! functions that the module describes. Where it describes none, code must prove itself: every way of decoding leads to the
//! instruction, and nothing around it is what compilers do not write. What stays in doubt is never touched, and told.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register,
};

use crate::relocate::{JUMP_BYTES, PROLOGUE_BYTES_MAX, copy, jump, relocate};
use crate::{ENDBR, Function, Refusal};

/// `syscall`.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// How far around an instruction code must look like code.
const WINDOW_BEFORE: u64 = 192;
const WINDOW_BEHIND: u64 = 48;
/// So many things that compilers do not write, in some two hundred bytes, are in no code.
const ODD_IN_DATA: usize = 3;
/// Code comes into step while it is decoded from anywhere.
const STEP_BYTES: u64 = 64;
/// Bytes before a `syscall` that are moved at most: a jump covers the last instructions.
const BEFORE_BYTES_MAX: u64 = 4 + 15;
/// A stub is at most this long.
pub const STUB_BYTES_MAX: usize = 128;

/// One `syscall` instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    pub address: u64,
    /// What eax holds there, where that is the same on every way that is known.
    pub number: Option<u32>,
    /// Whether `ret` follows.
    pub returns: bool,
    /// The first byte of each instruction before it that leads to it and nowhere else, the nearest last.
    before: Vec<u64>,
    /// Addresses near it that other code branches to, or that begin a function, with the first bytes that a hook of the
    /// function needs.
    targets: Vec<u64>,
    entries: Vec<Range<u64>>,
    /// Bytes that are there from the call on, as far as they may be needed.
    behind: u64,
    /// Where the code ends that belongs together with it; 0 where that is not known.
    end: u64,
}

/// What there is in one piece of code.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sites {
    pub sites: Vec<Site>,
    /// Where two bytes may or may not be a `syscall` instruction.
    pub doubtful: Vec<u64>,
}

/// Finds the system calls in `code`, which lies at `address` and has these functions (ascending; what is between them is
/// not described).
pub fn find_sites(code: &[u8], address: u64, functions: &[Range<u64>]) -> Sites {
    let candidates: Vec<u64> = code
        .windows(2)
        .enumerate()
        .filter(|(at, pair)| *pair == SYSCALL && !is_sigreturn(&code[..*at]))
        .map(|(at, _)| address + at as u64)
        .collect();
    let mut found = Sites::default();
    if candidates.is_empty() {
        return found;
    }
    let text = Text { code, address, functions };
    let branches = text.branches(&candidates);
    for at in candidates {
        match text.decode_to(at) {
            Decoded::Other => {}
            Decoded::Doubtful => found.doubtful.push(at),
            Decoded::Steps(steps) => found.sites.push(text.site(at, &steps, &branches)),
        }
    }
    found
}

/// Whether the call behind this code is the end of a signal handler, which nobody may mediate. Its descriptions begin a byte
/// early, so that it would be in doubt.
fn is_sigreturn(code: &[u8]) -> bool {
    code.ends_with(&[0xb8, 15, 0, 0, 0]) || code.ends_with(&[0x48, 0xc7, 0xc0, 15, 0, 0, 0])
}

/// Where the jump goes, and what the code does that it leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    /// Where the jump is written, what is there, and the jump.
    pub at: u64,
    pub old: [u8; JUMP_BYTES],
    pub new: [u8; JUMP_BYTES],
    /// The code of the stub.
    pub stub: Vec<u8>,
    /// Where a thread goes on that stands inside of the jump, or is in the system call and will come back there.
    pub moves: Vec<(u64, u64)>,
    /// Where a mediated call goes on.
    pub back: u64,
    /// Where a call that is not mediated after all is made.
    pub bare: u64,
}

/// What a stub refers to.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    /// The stub itself.
    pub stub: u64,
    /// A byte for each of the 65536 lower halves of eax: not 0 where such a call is mediated.
    pub flags: u64,
    /// What r11 holds when the stub jumps to the address in its first word.
    pub record: u64,
}

impl Site {
    /// The code that [`Site::patch`] looks at.
    pub fn surroundings(&self) -> Range<u64> {
        let first = self.before.first().copied().unwrap_or(self.address);
        first..self.address + self.behind
    }

    /// Plans a jump before the call, or over it. `code` lies at `address`.
    ///
    /// Best is a jump over the instructions before the call: a thread that waits in the call comes back behind it, and makes
    /// it again at it, and both are as before. A jump over the call itself covers where threads come back to, so that they
    /// must be moved. A function's first bytes are left to who hooks the function, where that can be.
    pub fn patch(&self, code: &[u8], address: u64, places: Places) -> Result<Patch, Refusal> {
        let before = self.before_call(code, address, places);
        let is_entry = |patch: &Patch| {
            let range = patch.at..patch.at + JUMP_BYTES as u64;
            self.entries.iter().any(|entry| entry.start < range.end && range.start < entry.end)
        };
        match before {
            Ok(patch) if !is_entry(&patch) => Ok(patch),
            Ok(patch) => Ok(self.over_call(code, address, places).unwrap_or(patch)),
            Err(_) => self.over_call(code, address, places),
        }
    }

    fn before_call(&self, code: &[u8], address: u64, places: Places) -> Result<Patch, Refusal> {
        let is_long = |at: &&u64| self.address - **at >= JUMP_BYTES as u64;
        let at = *self.before.iter().rev().find(is_long).ok_or(Refusal::TooShort)?;
        if self.targets.iter().any(|target| at < *target && *target <= self.address) {
            return Err(Refusal::BranchInto);
        }
        let bytes = slice(code, address, at..self.address).ok_or(Refusal::TooShort)?;
        let mut stub = Vec::with_capacity(STUB_BYTES_MAX);
        let mut moves = Vec::new();
        let mut decoder = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE);
        while decoder.can_decode() {
            let start = decoder.position();
            let instruction = decoder.decode();
            if start > 0 && start < JUMP_BYTES {
                moves.push((at + start as u64, places.stub + stub.len() as u64));
            }
            let own = &bytes[start..start + instruction.len()];
            if copy(&decoder, &instruction, own, at + JUMP_BYTES as u64, places.stub, &mut stub)? {
                return Err(Refusal::Instruction);
            }
        }
        // A long instruction may be followed by others before the call, which are moved too: who is there stays there.
        check(&mut stub, places);
        let back = jump(places.stub + stub.len() as u64, self.address).ok_or(Refusal::TooFar)?;
        stub.extend(back);
        finish(at, bytes, stub, moves, places, (self.address + SYSCALL.len() as u64, self.address))
    }

    fn over_call(&self, code: &[u8], address: u64, places: Places) -> Result<Patch, Refusal> {
        let at = self.address;
        if self.targets.iter().any(|target| at < *target && *target < at + JUMP_BYTES as u64) {
            return Err(Refusal::BranchInto);
        }
        let mut stub = Vec::with_capacity(STUB_BYTES_MAX);
        check(&mut stub, places);
        let bare = places.stub + stub.len() as u64;
        let room = at..(at + PROLOGUE_BYTES_MAX as u64).min(address + code.len() as u64);
        let bytes = slice(code, address, room).ok_or(Refusal::TooShort)?;
        let known = self.end.saturating_sub(at);
        let moved = relocate(Function { address: at, code: bytes, bytes: known }, bare)?;
        stub.extend(moved.trampoline);
        finish(at, bytes, stub, moved.moves, places, (bare + SYSCALL.len() as u64, bare))
    }
}

fn finish(
    at: u64,
    bytes: &[u8],
    stub: Vec<u8>,
    moves: Vec<(u64, u64)>,
    places: Places,
    (back, bare): (u64, u64),
) -> Result<Patch, Refusal> {
    let old = bytes.get(..JUMP_BYTES).and_then(|old| old.try_into().ok()).ok_or(Refusal::TooShort)?;
    let new = jump(at, places.stub).ok_or(Refusal::TooFar)?;
    if stub.len() > STUB_BYTES_MAX {
        return Err(Refusal::Instruction);
    }
    Ok(Patch { at, old, new, stub, moves, back, bare })
}

/// Goes on behind this code where the call in eax is not mediated. Changes what the call itself does: rcx and r11; flags
/// and stack stay.
fn check(stub: &mut Vec<u8>, places: Places) {
    stub.extend([0x0f, 0xb7, 0xc8]); // movzx ecx, ax
    stub.extend([0x49, 0xbb]); // mov r11, the flags
    stub.extend(places.flags.to_le_bytes());
    stub.extend([0x41, 0x0f, 0xb6, 0x0c, 0x0b]); // movzx ecx, byte ptr [r11 + rcx]
    stub.extend([0xe3, 13]); // jrcxz behind the jump
    stub.extend([0x49, 0xbb]); // mov r11, the record
    stub.extend(places.record.to_le_bytes());
    stub.extend([0x41, 0xff, 0x23]); // jmp [r11]
}

/// Where in a stub it is told whether a call is mediated, with the number in eax and everything else as the call has it.
pub fn call_check(stub: &[u8]) -> Option<Range<usize>> {
    const BEGIN: [u8; 5] = [0x0f, 0xb7, 0xc8, 0x49, 0xbb];
    const END: [u8; 3] = [0x41, 0xff, 0x23];
    let mut model = Vec::new();
    check(&mut model, Places { stub: 0, flags: 0, record: 0 });
    let found =
        stub.windows(model.len()).position(|bytes| bytes.starts_with(&BEGIN) && bytes.ends_with(&END))?;
    Some(found..found + model.len())
}

fn slice(code: &[u8], address: u64, range: Range<u64>) -> Option<&[u8]> {
    let start = usize::try_from(range.start.checked_sub(address)?).ok()?;
    code.get(start..usize::try_from(range.end.checked_sub(address)?).ok()?)
}

/// Code with what is known of it.
struct Text<'a> {
    code: &'a [u8],
    address: u64,
    functions: &'a [Range<u64>],
}

/// What decoding says of two bytes.
enum Decoded {
    /// No instruction.
    Other,
    Doubtful,
    /// A `syscall` instruction, behind these.
    Steps(Vec<Instruction>),
}

impl Text<'_> {
    fn end(&self) -> u64 {
        self.address + self.code.len() as u64
    }

    /// Direct branches that lead near one of the candidates; ascending by where.
    fn branches(&self, candidates: &[u64]) -> Vec<Branch> {
        let mut branches = Vec::new();
        let mut note = |branch: Branch| {
            let next = candidates.partition_point(|at| *at + WINDOW_BEHIND < branch.to);
            if candidates.get(next).is_some_and(|at| at.saturating_sub(WINDOW_BEFORE) <= branch.to) {
                branches.push(branch);
            }
        };
        // Each function is decoded from its start, so that data before it does no harm.
        let starts = self.functions.iter().map(|function| function.start);
        let mut begin = self.address;
        for next in starts.filter(|start| *start > self.address).chain([self.end()]) {
            let next = next.min(self.end());
            if let Some(piece) = slice(self.code, self.address, begin..next) {
                each_branch(piece, begin, &mut note);
            }
            begin = next;
        }
        branches.sort_unstable();
        branches.dedup();
        branches
    }

    fn decode_to(&self, at: u64) -> Decoded {
        let next = self.functions.partition_point(|function| function.start <= at);
        let known = next.checked_sub(1).map(|last| &self.functions[last]);
        if let Some(function) = known.filter(|function| at < function.end) {
            let until = function.end.min(self.end());
            return match self.steps(function.start.max(self.address), at) {
                None => Decoded::Other,
                Some(steps) if self.is_clean(&steps, at, until) => Decoded::Steps(steps),
                Some(_) => Decoded::Doubtful,
            };
        }
        if let Some(steps) = known.and_then(|function| self.steps_past(function, at)) {
            return Decoded::Steps(steps);
        }
        let lower = known.map_or(self.address, |function| function.end.max(self.address));
        let upper = self.functions.get(next).map_or(self.end(), |function| function.start.min(self.end()));
        self.decode_unknown(at, lower, upper)
    }

    /// A description may end before its function does: nobody unwinds from where a thread begins.
    fn steps_past(&self, function: &Range<u64>, at: u64) -> Option<Vec<Instruction>> {
        let steps = self.steps(function.start.max(self.address), at)?;
        let is_near = at - function.end < STEP_BYTES / 2;
        let goes_on = steps.iter().rev().take_while(|step| step.ip() + 1 >= function.end);
        let mut ends = steps.iter().rev().skip(goes_on.clone().count()).take(1).chain(goes_on);
        let is_one =
            ends.all(|step| step.flow_control() == FlowControl::Next && step.mnemonic() != Mnemonic::Nop);
        (is_near && is_one && self.is_clean(&steps, at, at + WINDOW_BEHIND)).then_some(steps)
    }

    /// The same where no function is described: between `lower` and `upper` anything may be.
    fn decode_unknown(&self, at: u64, lower: u64, upper: u64) -> Decoded {
        let (mut landed, mut missed) = (0, 0);
        for start in (STEP_BYTES / 2..WINDOW_BEFORE).map(|back| at.saturating_sub(back)) {
            match self.steps(start, at).filter(|_| start >= lower) {
                Some(steps) if steps.iter().any(Instruction::is_invalid) => {}
                Some(_) => landed += 1,
                None => missed += u32::from(start >= lower),
            }
        }
        let first = lower.max(at.saturating_sub(WINDOW_BEFORE + STEP_BYTES));
        let last = if first == lower { lower + 1 } else { first + 15 };
        let is_beginning = at - lower < STEP_BYTES;
        let is_in_step = landed >= 8 * missed && (landed > 0 || is_beginning);
        let mut is_data = true;
        for start in first..last.min(at) {
            let Some(steps) = self.steps(start, at) else { continue };
            if is_in_step && self.is_clean(&steps, at, upper) {
                return Decoded::Steps(steps);
            }
            is_data &= steps.iter().filter(|step| is_odd(step)).count() >= ODD_IN_DATA;
        }
        if is_data || landed == 0 && !is_beginning { Decoded::Other } else { Decoded::Doubtful }
    }

    /// The instructions from `start` to `at`, where one begins there.
    fn steps(&self, start: u64, at: u64) -> Option<Vec<Instruction>> {
        let code = slice(self.code, self.address, start..self.end())?;
        let mut decoder = Decoder::with_ip(64, code, start, DecoderOptions::NO_INVALID_CHECK);
        let mut steps = Vec::new();
        while decoder.ip() < at && decoder.can_decode() {
            let position = decoder.position();
            let instruction = decoder.decode();
            if instruction.is_invalid() {
                // One byte of what is no code.
                decoder.set_position(position + 1).ok()?;
                decoder.set_ip(start + position as u64 + 1);
            }
            steps.push(instruction);
        }
        (decoder.ip() == at).then_some(steps)
    }

    /// Whether everything around looks as compilers and people write it.
    fn is_clean(&self, steps: &[Instruction], at: u64, until: u64) -> bool {
        let near = steps.iter().filter(|step| step.ip() + WINDOW_BEFORE >= at);
        if near.clone().any(is_odd) {
            return false;
        }
        let until = until.min(at + WINDOW_BEHIND);
        let Some(code) = slice(self.code, self.address, at..self.end()) else { return false };
        let mut decoder = Decoder::with_ip(64, code, at, DecoderOptions::NO_INVALID_CHECK);
        while decoder.ip() < until && decoder.can_decode() {
            let begin = decoder.ip();
            let instruction = decoder.decode();
            if decoder.ip() > until && begin < until {
                break;
            }
            // Behind an end may be anything.
            if matches!(instruction.flow_control(), FlowControl::Return | FlowControl::UnconditionalBranch) {
                return true;
            }
            if is_odd(&instruction) {
                // A call that does not return may be the last of its function.
                return matches!(instruction.code(), Code::Hlt | Code::Ud2);
            }
        }
        true
    }

    fn site(&self, at: u64, steps: &[Instruction], branches: &[Branch]) -> Site {
        let near = at.saturating_sub(WINDOW_BEFORE)..at + JUMP_BYTES as u64;
        let from = branches.partition_point(|branch| branch.to < near.start);
        let to = branches.partition_point(|branch| branch.to < near.end);
        let branches = &branches[from..to];
        let mut targets: Vec<u64> = branches.iter().map(|branch| branch.to).collect();
        targets.dedup();
        let next = self.functions.partition_point(|function| function.start <= at);
        let function = next.checked_sub(1).map(|last| self.functions[last].clone());
        let mut before = vec![];
        for step in steps.iter().rev() {
            let is_plain = step.flow_control() == FlowControl::Next && !step.is_invalid();
            if !is_plain || at - step.ip() > BEFORE_BYTES_MAX {
                break;
            }
            before.push(step.ip());
            if targets.binary_search(&step.ip()).is_ok() {
                break;
            }
        }
        before.reverse();
        let entry = |start: u64| {
            let has_mark = slice(self.code, self.address, start..start + 4).is_some_and(|code| code == ENDBR);
            let start = if has_mark { start + ENDBR.len() as u64 } else { start };
            start..start + JUMP_BYTES as u64
        };
        let behind = slice(self.code, self.address, at + 2..at + 3);
        Site {
            address: at,
            number: number(steps, at, branches),
            returns: behind == Some(&[0xc3]),
            before,
            behind: (self.end() - at).min(PROLOGUE_BYTES_MAX as u64),
            entries: function.iter().map(|function| entry(function.start)).collect(),
            end: function.filter(|function| at < function.end).map_or(0, |function| function.end),
            targets,
        }
    }
}

/// A direct branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Branch {
    to: u64,
    from: u64,
}

/// What eax holds behind `steps`, where every way to `at` leads through the instruction that says it.
fn number(steps: &[Instruction], at: u64, branches: &[Branch]) -> Option<u32> {
    let mut factory = InstructionInfoFactory::new();
    let mut wanted = Register::RAX;
    // From here on backward another register holds it, which the call leaves alone.
    let mut copied_at = None;
    for step in steps.iter().rev().take_while(|step| at - step.ip() <= WINDOW_BEFORE) {
        let is_call =
            step.code() == Code::Syscall && !matches!(wanted, Register::RAX | Register::RCX | Register::R11);
        let goes_on = matches!(step.flow_control(), FlowControl::Next | FlowControl::ConditionalBranch);
        if step.is_invalid() || !goes_on && !is_call {
            return None;
        }
        let is_it = step.op_count() > 0 && step.op0_register().full_register() == wanted;
        let is_copied = step.op_count() == 2 && step.op1_kind() == OpKind::Register;
        let found = match step.code() {
            Code::Mov_r32_imm32 | Code::Mov_rm32_imm32 | Code::Mov_rm64_imm32 | Code::Mov_r64_imm64
                if is_it =>
            {
                Some(u32::try_from(step.immediate(1)).ok()?)
            }
            Code::Xor_rm32_r32 | Code::Xor_r32_rm32 | Code::Xor_rm64_r64 | Code::Xor_r64_rm64
                if is_it && is_copied && step.op0_register() == step.op1_register() =>
            {
                Some(0)
            }
            Code::Mov_r32_rm32 | Code::Mov_rm32_r32 | Code::Mov_r64_rm64 | Code::Mov_rm64_r64
                if is_it && is_copied =>
            {
                wanted = step.op1_register().full_register();
                let is_kept = !matches!(wanted, Register::RAX | Register::RCX | Register::R11);
                copied_at = Some(step.ip()).filter(|_| is_kept);
                continue;
            }
            _ => None,
        };
        if found.is_some() {
            // A loop that begins behind this and ends with a jump right behind the call does not change it.
            let is_inside = |branch: &Branch| match branch.from.checked_sub(at) {
                None => branch.from >= step.ip(),
                Some(behind) => behind == 2 && copied_at.is_some_and(|copied| branch.to <= copied),
            };
            let mut others = branches.iter().filter(|branch| branch.to > step.ip() && branch.to <= at);
            return found.filter(|_| others.all(is_inside));
        }
        let is_changed = factory.info(step).used_registers().iter().any(|used| {
            used.register().full_register() == wanted
                && !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None)
        });
        if is_changed {
            return None;
        }
    }
    None
}

fn each_branch(code: &[u8], address: u64, note: &mut impl FnMut(Branch)) {
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NO_INVALID_CHECK);
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        let start = decoder.position();
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            if decoder.set_position(start + 1).is_err() {
                break;
            }
            decoder.set_ip(address + start as u64 + 1);
            continue;
        }
        if matches!(
            instruction.op0_kind(),
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64
        ) {
            note(Branch { to: instruction.near_branch_target(), from: instruction.ip() });
        }
    }
}

/// What is in no program, or hardly ever: zeros, and what needs privileges.
fn is_odd(instruction: &Instruction) -> bool {
    if instruction.is_invalid() || instruction.is_privileged() && instruction.code() != Code::Hlt {
        return true;
    }
    match instruction.mnemonic() {
        Mnemonic::Int
        | Mnemonic::Iret
        | Mnemonic::Iretd
        | Mnemonic::Iretq
        | Mnemonic::Enter
        | Mnemonic::Xlatb
        | Mnemonic::Retf
        | Mnemonic::Cmc
        | Mnemonic::Loop
        | Mnemonic::Loope
        | Mnemonic::Loopne
        | Mnemonic::Popf
        | Mnemonic::Popfq
        | Mnemonic::In
        | Mnemonic::Out
        | Mnemonic::Sysenter
        | Mnemonic::Sysexit => true,
        // Two zero bytes.
        Mnemonic::Add => {
            instruction.code() == Code::Add_rm8_r8
                && instruction.len() == 2
                && instruction.memory_base() == Register::RAX
                && instruction.op1_register() == Register::AL
        }
        _ => false,
    }
}
