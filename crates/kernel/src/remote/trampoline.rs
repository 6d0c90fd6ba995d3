//! Code that makes an interrupted call again with the time that remained, then puts the program's own argument
//! back and goes on behind the program's `syscall` instruction.

use crate::ptrace::UserRegisters;

/// Stands at both ends of an area of trampolines, by which they are known again at the next restore.
pub const TRAMPOLINE_MARK: &[u8; 16] = b"brant trampoline";

/// Bytes of one trampoline's slot, its time-out included.
pub const TRAMPOLINE_BYTES: usize = 128;

/// `mov r64, imm64` for rdi, rsi, rdx, r10, r8, r9.
const MOVES: [[u8; 2]; 6] =
    [[0x48, 0xbf], [0x48, 0xbe], [0x48, 0xba], [0x49, 0xba], [0x49, 0xb8], [0x49, 0xb9]];
const MOVE_TO_RAX: [u8; 2] = [0x48, 0xb8];
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// `jmp [rip + 0]`
const JUMP_TO_NEXT: [u8; 6] = [0xff, 0x25, 0, 0, 0, 0];
/// Bytes of a `mov` with its number, and where a trampoline makes its call.
const MOVE_BYTES: usize = 10;
const CALL_AT: usize = 2 * MOVE_BYTES;

/// How a call takes its time-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeoutForm {
    /// Milliseconds as a number in this argument (0 is the first).
    Milliseconds { argument: usize },
    /// A pointer to a `struct timespec` in this argument.
    Timespec { argument: usize },
}

/// Which argument of system call `number` is a *relative* time-out, for a call made with `arguments` (rdi, rsi, rdx,
/// r10, r8, r9). `None` where the call has none, none was given, or it is absolute.
pub fn timeout_form(number: i64, arguments: [u64; 6]) -> Option<TimeoutForm> {
    const FUTEX_COMMANDS: u64 = 0x7f;
    const FUTEX_WAIT: u64 = 0;
    const TIMER_ABSTIME: u64 = 1;
    let timespec = |argument: usize| (arguments[argument] != 0).then_some(TimeoutForm::Timespec { argument });
    let milliseconds =
        |argument: usize| (arguments[argument] as i32 > 0).then_some(TimeoutForm::Milliseconds { argument });
    match number {
        libc::SYS_nanosleep => timespec(0),
        libc::SYS_clock_nanosleep if arguments[1] & TIMER_ABSTIME == 0 => timespec(2),
        libc::SYS_poll => milliseconds(2),
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait => milliseconds(3),
        libc::SYS_epoll_pwait2 => timespec(3),
        libc::SYS_futex if arguments[1] & FUTEX_COMMANDS == FUTEX_WAIT => timespec(3),
        libc::SYS_rt_sigtimedwait => timespec(2),
        libc::SYS_semtimedop => timespec(3),
        _ => None,
    }
}

/// A trampoline at address `at` for a thread whose `registers` stand at the call (`rip` at the instruction, rax its
/// number). Returns its bytes; the thread starts at `at`. `form` and `remaining_ns` say what is left.
pub fn trampoline(
    at: u64,
    registers: &UserRegisters,
    form: TimeoutForm,
    remaining_ns: u64,
) -> [u8; TRAMPOLINE_BYTES] {
    const TIMESPEC_AT: usize = TRAMPOLINE_BYTES - 16;
    let originals = registers.arguments();
    let (argument, changed) = match form {
        TimeoutForm::Milliseconds { argument } => (argument, remaining_ns.div_ceil(1_000_000)),
        TimeoutForm::Timespec { argument } => (argument, at + TIMESPEC_AT as u64),
    };
    let mut code = Vec::with_capacity(TRAMPOLINE_BYTES);
    code.extend(MOVE_TO_RAX);
    code.extend(registers.rax.to_le_bytes()); // mov rax, number
    code.extend(MOVES[argument]);
    code.extend(changed.to_le_bytes());
    code.extend(SYSCALL);
    code.extend(MOVES[argument]);
    code.extend(originals[argument].to_le_bytes());
    code.extend(JUMP_TO_NEXT);
    code.extend((registers.rip + SYSCALL.len() as u64).to_le_bytes());
    let mut slot = [0xcc; TRAMPOLINE_BYTES];
    slot[..code.len()].copy_from_slice(&code);
    slot[TIMESPEC_AT..TIMESPEC_AT + 8].copy_from_slice(&(remaining_ns / 1_000_000_000).to_le_bytes());
    slot[TIMESPEC_AT + 8..].copy_from_slice(&(remaining_ns % 1_000_000_000).to_le_bytes());
    slot
}

/// The program's call that a trampoline stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgramCall {
    /// Which argument the trampoline has changed (0 is the first), and what the program gave.
    pub argument: usize,
    pub original: u64,
    /// Where the program's `syscall` instruction is.
    pub at: u64,
}

/// What the trampoline in `slot` stands for, if its own call is at `offset` of it.
pub fn call_of_program(slot: &[u8; TRAMPOLINE_BYTES], offset: usize) -> Option<ProgramCall> {
    let back = CALL_AT + SYSCALL.len();
    let jump = back + MOVE_BYTES;
    let target = jump + JUMP_TO_NEXT.len();
    let is_one = offset == CALL_AT
        && slot.starts_with(&MOVE_TO_RAX)
        && slot[CALL_AT..back] == SYSCALL
        && slot[jump..target] == JUMP_TO_NEXT;
    let argument = MOVES.iter().position(|code| slot[back..].starts_with(code)).filter(|_| is_one)?;
    let number = |at: usize| u64::from_le_bytes(slot[at..at + 8].try_into().expect("eight bytes"));
    let at = number(target).checked_sub(SYSCALL.len() as u64)?;
    Some(ProgramCall { argument, original: number(back + MOVES[argument].len()), at })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trampoline_says_what_it_stands_for() {
        let registers =
            UserRegisters { rip: 0x1234, rdi: 1, rsi: 2, rdx: 3, r10: 4, r8: 5, r9: 6, ..Default::default() };
        for (argument, original) in registers.arguments().into_iter().enumerate() {
            for form in [TimeoutForm::Timespec { argument }, TimeoutForm::Milliseconds { argument }] {
                let slot = trampoline(0x7000, &registers, form, 5);
                let call = ProgramCall { argument, original, at: 0x1234 };
                assert_eq!(call_of_program(&slot, CALL_AT), Some(call));
                assert_eq!(call_of_program(&slot, CALL_AT - 1), None);
            }
        }
        assert_eq!(call_of_program(&[0; TRAMPOLINE_BYTES], CALL_AT), None);
    }
}
