//! The general registers as ptrace exchanges them, and what an interrupted call makes of them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct user_regs_struct` of x86-64 (sys/user.h).
#[derive(Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UserRegisters {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub orig_rax: u64,
    pub rip: u64,
    pub cs: u64,
    pub eflags: u64,
    pub rsp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
}

impl std::fmt::Debug for UserRegisters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "UserRegisters {{ rip: {:#x}, rsp: {:#x}, .. }}", self.rip, self.rsp)
    }
}

/// Where a stop caught a thread with respect to system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupted {
    /// In user code, or after a call that has its final result.
    No,
    /// The call simply restarts: -ERESTARTSYS, -ERESTARTNOINTR, -ERESTARTNOHAND.
    Restart { number: u64 },
    /// The kernel keeps the rest of a time-out: -ERESTART_RESTARTBLOCK.
    RestartBlock { number: u64 },
    /// The call gave EINTR, which nothing but our stop may have caused.
    Eintr { number: u64 },
}

const EINTR: i64 = -4;
const ERESTARTSYS: i64 = -512;
const ERESTARTNOINTR: i64 = -513;
const ERESTARTNOHAND: i64 = -514;
const ERESTART_RESTARTBLOCK: i64 = -516;
const NR_RESTART_SYSCALL: u64 = 219;
/// Bytes of a `syscall` or `int 0x80` instruction.
const SYSCALL_BYTES: u64 = 2;
const USER_CS_64: u64 = 0x33;

impl UserRegisters {
    /// Whether the thread runs 64-bit code.
    pub fn is_64_bit(&self) -> bool {
        self.cs == USER_CS_64
    }

    /// The arguments of the system call that the thread is in or makes next.
    pub fn arguments(&self) -> [u64; 6] {
        [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9]
    }

    /// What the thread was doing, from registers read at an event stop.
    pub fn interrupted(&self) -> Interrupted {
        if (self.orig_rax as i64) < 0 {
            return Interrupted::No;
        }
        let number = self.orig_rax;
        match self.rax as i64 {
            ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND => Interrupted::Restart { number },
            ERESTART_RESTARTBLOCK => Interrupted::RestartBlock { number },
            EINTR => Interrupted::Eintr { number },
            _ => Interrupted::No,
        }
    }

    /// These registers with the interrupted call put back, to be made again from the start: the instruction
    /// pointer stands at the call and rax holds `number`.
    pub fn with_call_again(mut self, number: u64) -> UserRegisters {
        self.rax = number;
        self.rip = self.rip.wrapping_sub(SYSCALL_BYTES);
        self.orig_rax = u64::MAX;
        self
    }

    /// What the thread would go on with in user mode by itself: a restart is made explicit, so that code that
    /// merely sets these registers has the same effect as the kernel's own way out of the call.
    pub fn as_resumed_by_kernel(self) -> UserRegisters {
        match self.interrupted() {
            Interrupted::Restart { number } => self.with_call_again(number),
            Interrupted::RestartBlock { .. } => self.with_call_again(NR_RESTART_SYSCALL),
            Interrupted::Eintr { .. } | Interrupted::No => UserRegisters { orig_rax: u64::MAX, ..self },
        }
    }
}

/// Where a thread inside a restartable sequence must go on: `area` is the first 32 bytes of its `struct rseq`,
/// `section` reads the 32 bytes of `struct rseq_cs` at an address. The kernel aborts a sequence when the thread
/// is interrupted; as foreign instructions make it forget, the abort is made by hand.
pub fn in_rseq_section(area: &[u8; 32], section: impl Fn(u64) -> Option<[u8; 32]>, rip: u64) -> Option<u64> {
    let word = |bytes: &[u8; 32], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let pointer = word(area, 8);
    if pointer == 0 {
        return None;
    }
    let descriptor = section(pointer)?;
    let (start, length, abort) = (word(&descriptor, 8), word(&descriptor, 16), word(&descriptor, 24));
    (rip.wrapping_sub(start) < length).then_some(abort)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_are_made_explicit() {
        let stopped = UserRegisters { orig_rax: 35, rax: -516i64 as u64, rip: 0x1002, ..Default::default() };
        let resumed = stopped.as_resumed_by_kernel();
        assert_eq!((resumed.rip, resumed.rax, resumed.orig_rax), (0x1000, 219, u64::MAX));
        let running = UserRegisters { orig_rax: u64::MAX, rax: -516i64 as u64, ..Default::default() };
        assert_eq!(running.as_resumed_by_kernel(), running);
    }

    #[test]
    fn a_sequence_is_aborted_only_inside_of_it() {
        let mut area = [0u8; 32];
        area[8..16].copy_from_slice(&0x5000u64.to_le_bytes());
        let mut descriptor = [0u8; 32];
        descriptor[8..16].copy_from_slice(&0x100u64.to_le_bytes());
        descriptor[16..24].copy_from_slice(&0x10u64.to_le_bytes());
        descriptor[24..32].copy_from_slice(&0x900u64.to_le_bytes());
        let read = |at| (at == 0x5000).then_some(descriptor);
        assert_eq!(in_rseq_section(&area, read, 0x108), Some(0x900));
        assert_eq!(in_rseq_section(&area, read, 0x110), None);
        assert_eq!(in_rseq_section(&[0; 32], read, 0x108), None);
    }
}
