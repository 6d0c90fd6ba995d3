//! Code that makes an interrupted call again with the time that remained, then puts the program's own argument
//! back and goes on behind the program's `syscall` instruction.

use crate::ptrace::UserRegisters;

/// Stands at both ends of an area of trampolines, by which they are known again at the next restore.
pub const TRAMPOLINE_MARK: &[u8; 16] = b"brant trampoline";

/// Bytes of one trampoline's slot, its time-out included.
pub const TRAMPOLINE_BYTES: usize = 128;

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
    let originals = [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9];
    // mov r64, imm64 for rdi, rsi, rdx, r10, r8, r9
    let moves: [[u8; 2]; 6] =
        [[0x48, 0xbf], [0x48, 0xbe], [0x48, 0xba], [0x49, 0xba], [0x49, 0xb8], [0x49, 0xb9]];
    let (argument, changed) = match form {
        TimeoutForm::Milliseconds { argument } => (argument, remaining_ns.div_ceil(1_000_000)),
        TimeoutForm::Timespec { argument } => (argument, at + TIMESPEC_AT as u64),
    };
    let mut code = Vec::with_capacity(TRAMPOLINE_BYTES);
    code.extend([0x48, 0xb8]);
    code.extend(registers.rax.to_le_bytes()); // mov rax, number
    code.extend(moves[argument]);
    code.extend(changed.to_le_bytes());
    code.extend([0x0f, 0x05]); // syscall
    code.extend(moves[argument]);
    code.extend(originals[argument].to_le_bytes());
    code.extend([0xff, 0x25, 0, 0, 0, 0]); // jmp [rip + 0]
    code.extend((registers.rip + 2).to_le_bytes());
    let mut slot = [0xcc; TRAMPOLINE_BYTES];
    slot[..code.len()].copy_from_slice(&code);
    slot[TIMESPEC_AT..TIMESPEC_AT + 8].copy_from_slice(&(remaining_ns / 1_000_000_000).to_le_bytes());
    slot[TIMESPEC_AT + 8..].copy_from_slice(&(remaining_ns % 1_000_000_000).to_le_bytes());
    slot
}
