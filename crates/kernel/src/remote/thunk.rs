//! The return thunk: machine code that follows an injected `syscall` instruction and brings a thread back to
//! its true state by itself.
//!
//! It needs no stack and leaves the extended state alone, so it works for a thread near the end of its stack,
//! on a fiber's or goroutine's few bytes, and with shadow stacks. It first puts the signal mask back (remote calls
//! run with all signals blocked), then the flags, then the registers that a system call and its arguments
//! change, and jumps to the true instruction pointer. A call that was interrupted is made again by that jump:
//! the registers are those of [`UserRegisters::as_resumed_by_kernel`]. If brant is killed at any instant,
//! this is what the thread runs next.

use crate::ptrace::UserRegisters;

/// Bytes of one thunk's slot.
pub(crate) const THUNK_BYTES: usize = 256;

const FLAG_CARRY_TO_SIGN: u64 = 0xd5;
const FLAG_ALWAYS: u64 = 0x02;
const FLAG_DIRECTION: u64 = 1 << 10;
const FLAG_OVERFLOW: u64 = 1 << 11;

/// The thunk for a thread whose true state is `registers` and `mask`. It starts with the `syscall` instruction
/// that remote calls use, and may stand at any address.
pub(crate) fn thunk(registers: &UserRegisters, mask: u64) -> [u8; THUNK_BYTES] {
    let resumed = registers.as_resumed_by_kernel();
    let mut code = Vec::with_capacity(THUNK_BYTES);
    code.extend([0x0f, 0x05]); // syscall: the remote call
    code.extend([0xbf, 0x02, 0, 0, 0]); // mov edi, SIG_SETMASK
    code.extend([0x48, 0x8d, 0x35]); // lea rsi, [rip + to the mask]
    let mask_reference = code.len();
    code.extend([0; 4]);
    code.extend([0x31, 0xd2]); // xor edx, edx
    code.extend([0x41, 0xba, 0x08, 0, 0, 0]); // mov r10d, 8
    code.extend([0xb8, 0x0e, 0, 0, 0]); // mov eax, rt_sigprocmask
    code.extend([0x0f, 0x05]); // syscall
    let before_overflow = if resumed.eflags & FLAG_OVERFLOW != 0 { 0x7f } else { 0 };
    code.extend([0xb0, before_overflow, 0x04, 0x01]); // mov al, n; add al, 1: sets or clears OF
    code.extend([0xb4, (resumed.eflags & FLAG_CARRY_TO_SIGN | FLAG_ALWAYS) as u8, 0x9e]); // mov ah, n; sahf
    code.push(if resumed.eflags & FLAG_DIRECTION != 0 { 0xfd } else { 0xfc }); // std or cld
    let values: [([u8; 2], u64); 9] = [
        ([0x48, 0xb8], resumed.rax),
        ([0x48, 0xb9], resumed.rcx),
        ([0x48, 0xba], resumed.rdx),
        ([0x48, 0xbe], resumed.rsi),
        ([0x48, 0xbf], resumed.rdi),
        ([0x49, 0xb8], resumed.r8),
        ([0x49, 0xb9], resumed.r9),
        ([0x49, 0xba], resumed.r10),
        ([0x49, 0xbb], resumed.r11),
    ];
    go_on(&mut code, &values, resumed.rip, (mask_reference, mask));
    let mut slot = [0xcc; THUNK_BYTES];
    slot[..code.len()].copy_from_slice(&code);
    slot
}

/// The end of what brings a thread back: registers, each by its instruction's first bytes (mov r64, imm64), and the jump to
/// `rip`. Behind it lies the signal mask, which the code refers to at offset `mask.0`.
pub(super) fn go_on(code: &mut Vec<u8>, values: &[([u8; 2], u64)], rip: u64, mask: (usize, u64)) {
    for (opcode, value) in values {
        code.extend(opcode);
        code.extend(value.to_le_bytes());
    }
    code.extend([0xff, 0x25, 0, 0, 0, 0]); // jmp [rip + 0]
    code.extend(rip.to_le_bytes());
    let (reference, mask) = mask;
    let offset = (code.len() - (reference + 4)) as u32;
    code.extend(mask.to_le_bytes());
    code[reference..reference + 4].copy_from_slice(&offset.to_le_bytes());
}
