//! The code of a task that is being built: position-independent, without a stack or libc.
//!
//! It lies in brant's own text, so that a fork of brant can run it where it is, and is copied into a page of
//! the new task, so that everything else can be unmapped.

use brant_base::Addr;

std::arch::global_asm!(
    ".pushsection .text",
    // Global, since an optimised build may put this text and its users into different objects.
    ".global brant_stub_begin, brant_stub_batch, brant_stub_parent, brant_stub_pause, brant_stub_flags, brant_stub_end",
    ".hidden brant_stub_begin, brant_stub_batch, brant_stub_parent, brant_stub_pause, brant_stub_flags, brant_stub_end",
    ".balign 64",
    "brant_stub_begin:",
    // One call: registers hold it, int3 reports back.
    "syscall",
    "int3",
    ".balign 16",
    // A batch: rbx points to records of eight words (number, six arguments, result), rbp counts them.
    "brant_stub_batch:",
    "2: test rbp, rbp",
    "jz 3f",
    "mov rax, [rbx]",
    "mov rdi, [rbx + 8]",
    "mov rsi, [rbx + 16]",
    "mov rdx, [rbx + 24]",
    "mov r10, [rbx + 32]",
    "mov r8, [rbx + 40]",
    "mov r9, [rbx + 48]",
    "syscall",
    "mov [rbx + 56], rax",
    "add rbx, 64",
    "dec rbp",
    "jmp 2b",
    "3: int3",
    ".balign 16",
    // A placeholder for a parent: reaps its children. The status of the child in ebp is written to the
    // descriptor in r12 as four bytes; rbx points to four bytes of room. Ends when no child is left.
    "brant_stub_parent:",
    "4: mov eax, 61",
    "mov rdi, -1",
    "mov rsi, rbx",
    // __WALL: children with any exit signal.
    "mov edx, 0x40000000",
    "xor r10d, r10d",
    "syscall",
    "cmp rax, -4",
    "je 4b",
    "test rax, rax",
    "js 5f",
    "cmp eax, ebp",
    "jne 4b",
    "mov eax, 1",
    "mov rdi, r12",
    "mov rsi, rbx",
    "mov edx, 4",
    "syscall",
    "jmp 4b",
    "5: mov eax, 231",
    "xor edi, edi",
    "syscall",
    "hlt",
    ".balign 16",
    // A placeholder that only waits to be killed: pause for ever.
    "brant_stub_pause:",
    "6: mov eax, 34",
    "syscall",
    "jmp 6b",
    ".balign 16",
    // Takes flags from the stack: some, such as ID, no other way can set.
    "brant_stub_flags:",
    "popfq",
    "int3",
    ".balign 16",
    "brant_stub_end:",
    ".popsection",
);

unsafe extern "C" {
    static brant_stub_begin: u8;
    static brant_stub_batch: u8;
    static brant_stub_parent: u8;
    static brant_stub_pause: u8;
    static brant_stub_flags: u8;
    static brant_stub_end: u8;
}

/// Room that the stub takes at the start of its page.
pub const STUB_BYTES: usize = 512;

/// An entry point of the stub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StubEntry {
    /// One system call, then int3.
    Call,
    /// A batch of calls, then int3.
    Batch,
    /// Reap children for ever; see [`super::Puppet::become_parent`].
    Parent,
    /// Sleep for ever.
    Pause,
    /// Pop the flags, then int3.
    Flags,
}

impl StubEntry {
    /// Offset from the stub's start in bytes.
    pub(crate) fn offset(self) -> u64 {
        let begin = &raw const brant_stub_begin as u64;
        let entry = match self {
            StubEntry::Call => &raw const brant_stub_begin,
            StubEntry::Batch => &raw const brant_stub_batch,
            StubEntry::Parent => &raw const brant_stub_parent,
            StubEntry::Pause => &raw const brant_stub_pause,
            StubEntry::Flags => &raw const brant_stub_flags,
        };
        entry as u64 - begin
    }
}

/// Where the stub lies in our own text, and so in a fork of us.
pub(crate) fn own_stub() -> Addr {
    Addr(&raw const brant_stub_begin as u64)
}

/// The stub's bytes.
pub(crate) fn stub_code() -> Vec<u8> {
    let length = &raw const brant_stub_end as usize - &raw const brant_stub_begin as usize;
    assert!(length <= STUB_BYTES);
    // SAFETY: begin and end enclose code in our own text, which is readable and never changes.
    unsafe { std::slice::from_raw_parts(&raw const brant_stub_begin, length) }.to_vec()
}
