//! The frames of a stopped thread, by the frame descriptions of its modules (.eh_frame, DWARF 5 section 6.4, as the Linux
//! Standard Base has it).
//!
//! Words of a stack alone do not tell what is on it: old return addresses lie in the unused room of live frames. Where a
//! frame has no description (generated code, some assembly), the rest of the stack is unknown, and said to be so.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use brant_base::Addr;
use brant_hook::symbols::{self, PROGRAM_HEADER_BYTES};
use brant_kernel::proc::{MapEntry, MapKind};
use brant_kernel::ptrace::UserRegisters;
use brant_kernel::remote::Memory;
use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, Encoding, EndianSlice, EvaluationResult, Expression, Format,
    LittleEndian, Register, RegisterRule, UnwindContext, UnwindExpression, UnwindSection, Value, X86_64,
};

const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
const FRAMES_MAX: usize = 4096;
const DESCRIPTIONS_BYTES_MAX: u64 = 256 << 20;
/// The general registers by DWARF's numbers, and the return address.
const REGISTERS: usize = 17;

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// What was found on a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trace {
    /// Where each frame goes on, the innermost first.
    pub(crate) frames: Vec<u64>,
    /// The stack from this address on could not be read.
    pub(crate) unknown_from: Option<u64>,
}

/// Frame descriptions of modules, read once.
#[derive(Default)]
pub(crate) struct Descriptions {
    modules: Mutex<HashMap<u64, Option<Arc<Module>>>>,
}

struct Module {
    header: Vec<u8>,
    header_at: u64,
    descriptions: Vec<u8>,
    descriptions_at: u64,
}

#[derive(Clone, Copy)]
struct State {
    registers: [Option<u64>; REGISTERS],
}

impl State {
    fn get(&self, register: Register) -> Option<u64> {
        self.registers.get(usize::from(register.0)).copied().flatten()
    }

    fn set(&mut self, register: Register, value: Option<u64>) {
        if let Some(place) = self.registers.get_mut(usize::from(register.0)) {
            *place = value;
        }
    }
}

impl Descriptions {
    /// Follows the frames of a thread with these registers.
    pub(crate) fn trace(&self, memory: &Memory, maps: &[MapEntry], registers: &UserRegisters) -> Trace {
        let r = registers;
        let known = [
            r.rax, r.rdx, r.rcx, r.rbx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
            r.r14, r.r15, r.rip,
        ];
        let mut state = State { registers: known.map(Some) };
        let mut frames = Vec::new();
        let mut is_interrupted = true;
        loop {
            let (Some(at), Some(stack)) = (state.get(X86_64::RA), state.get(X86_64::RSP)) else {
                return Trace { frames, unknown_from: Some(0) };
            };
            if at == 0 {
                return Trace { frames, unknown_from: None };
            }
            frames.push(at);
            // A call may be the last instruction of its function.
            let looked_up = if is_interrupted { at } else { at - 1 };
            match self.step(memory, maps, &mut state, looked_up) {
                Some(Step::Caller { is_signal }) if frames.len() < FRAMES_MAX => is_interrupted = is_signal,
                Some(Step::End) => return Trace { frames, unknown_from: None },
                _ => return Trace { frames, unknown_from: Some(stack) },
            }
        }
    }

    /// From a frame to its caller's. `None` where that is not known; the state is as before then.
    fn step(&self, memory: &Memory, maps: &[MapEntry], state: &mut State, address: u64) -> Option<Step> {
        let module = self.module_at(memory, maps, address)?;
        let bases =
            BaseAddresses::default().set_eh_frame_hdr(module.header_at).set_eh_frame(module.descriptions_at);
        let header = EhFrameHdr::new(&module.header, LittleEndian).parse(&bases, 8).ok()?;
        let section = EhFrame::new(&module.descriptions, LittleEndian);
        let table = header.table()?;
        let description = table.fde_for_address(&section, &bases, address, EhFrame::cie_from_offset).ok()?;
        let mut context = UnwindContext::new();
        let row = description.unwind_info_for_address(&section, &bases, &mut context, address).ok()?;
        let encoding = description.cie().encoding();
        let evaluate = |expression: &UnwindExpression<usize>, first: Option<u64>| {
            evaluate(memory, state, expression.get(&section).ok()?, encoding, first)
        };
        let cfa = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => {
                state.get(*register)?.wrapping_add_signed(*offset)
            }
            CfaRule::Expression(expression) => evaluate(expression, None)?,
        };
        let mut caller = *state;
        caller.set(X86_64::RSP, Some(cfa));
        let read = |at: u64| memory.read_value::<u64>(Addr(at)).ok();
        let mut has_caller = false;
        for (register, rule) in row.registers() {
            let value = match rule {
                RegisterRule::Undefined => None,
                RegisterRule::SameValue => state.get(*register),
                RegisterRule::Offset(offset) => Some(read(cfa.wrapping_add_signed(*offset))?),
                RegisterRule::ValOffset(offset) => Some(cfa.wrapping_add_signed(*offset)),
                RegisterRule::Register(other) => state.get(*other),
                RegisterRule::Expression(expression) => Some(read(evaluate(expression, Some(cfa))?)?),
                RegisterRule::ValExpression(expression) => Some(evaluate(expression, Some(cfa))?),
                _ => return None,
            };
            has_caller |= *register == X86_64::RA && value.is_some();
            caller.set(*register, value);
        }
        if !has_caller {
            return Some(Step::End);
        }
        *state = caller;
        Some(Step::Caller { is_signal: description.is_signal_trampoline() })
    }

    fn module_at(&self, memory: &Memory, maps: &[MapEntry], address: u64) -> Option<Arc<Module>> {
        let at = maps.partition_point(|entry| entry.range.end().0 <= address);
        let entry = maps.get(at).filter(|entry| entry.range.contains(Addr(address)))?;
        let is_first = |other: &&MapEntry| {
            other.offset == 0
                && (other.device, other.inode, &other.kind) == (entry.device, entry.inode, &entry.kind)
        };
        let has_file = entry.inode != 0 || entry.kind == MapKind::Vdso;
        let start = maps[..=at].iter().rev().find(is_first).filter(|_| has_file)?.range.start().0;
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        modules.entry(start).or_insert_with(|| Module::read(memory, start).map(Arc::new)).clone()
    }
}

enum Step {
    Caller { is_signal: bool },
    End,
}

impl Module {
    /// Reads the descriptions of the module whose first byte is at `start`.
    fn read(memory: &Memory, start: u64) -> Option<Module> {
        let header: [u8; 64] = memory.read_value(Addr(start)).ok()?;
        if header[..5] != *b"\x7fELF\x02" {
            return None;
        }
        let headers_at = u64::from_le_bytes(header[32..40].try_into().ok()?);
        let count = usize::from(u16::from_le_bytes([header[56], header[57]]));
        let headers = read(memory, start.checked_add(headers_at)?, (count * PROGRAM_HEADER_BYTES) as u64)?;
        let loaded = || symbols::segments(&headers).filter(|segment| segment.kind == symbols::PT_LOAD);
        let bias = start.wrapping_sub(loaded().map(|segment| segment.address & !0xfff).min()?);
        let own = symbols::segments(&headers).find(|segment| segment.kind == PT_GNU_EH_FRAME)?;
        let header_at = bias.wrapping_add(own.address);
        let header = read(memory, header_at, own.memory_bytes)?;
        let bases = BaseAddresses::default().set_eh_frame_hdr(header_at);
        let parsed = EhFrameHdr::new(&header, LittleEndian).parse(&bases, 8).ok()?;
        let gimli::Pointer::Direct(descriptions_at) = parsed.eh_frame_ptr() else { return None };
        let inside = descriptions_at.wrapping_sub(bias);
        let segment = loaded()
            .find(|segment| (segment.address..segment.address + segment.file_bytes).contains(&inside))?;
        let descriptions = read(memory, descriptions_at, segment.address + segment.file_bytes - inside)?;
        Some(Module { header, header_at, descriptions, descriptions_at })
    }
}

fn read(memory: &Memory, at: u64, bytes: u64) -> Option<Vec<u8>> {
    if bytes > DESCRIPTIONS_BYTES_MAX {
        return None;
    }
    let mut buffer = vec![0; bytes as usize];
    memory.read(Addr(at), &mut buffer).ok()?;
    Some(buffer)
}

/// The value of an expression over the registers and memory of the frame.
fn evaluate(
    memory: &Memory,
    state: &State,
    expression: Expression<Slice<'_>>,
    encoding: Encoding,
    first: Option<u64>,
) -> Option<u64> {
    debug_assert!(encoding.format == Format::Dwarf32 || encoding.format == Format::Dwarf64);
    let mut evaluation = expression.evaluation(encoding);
    evaluation.set_max_iterations(1000);
    if let Some(first) = first {
        evaluation.set_initial_value(first);
    }
    let mut result = evaluation.evaluate().ok()?;
    loop {
        result = match result {
            EvaluationResult::Complete => break,
            EvaluationResult::RequiresRegister { register, .. } => {
                evaluation.resume_with_register(Value::Generic(state.get(register)?)).ok()?
            }
            EvaluationResult::RequiresMemory { address, size: 8, .. } => {
                let value = memory.read_value::<u64>(Addr(address)).ok()?;
                evaluation.resume_with_memory(Value::Generic(value)).ok()?
            }
            _ => return None,
        };
    }
    match evaluation.as_result().last()?.location {
        gimli::Location::Address { address } => Some(address),
        _ => None,
    }
}
