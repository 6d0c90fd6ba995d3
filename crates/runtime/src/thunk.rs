//! The code between a call and its mediator, and between a mediator and the function: the only code on the path of a
//! wrapped call.
//!
//! A *thunk* is entered with the layer in r11 and everything else as the caller of the function left it. It makes a frame that
//! holds the argument registers, notes in the thread's state that the mediator runs, calls the mediator with the frame's
//! address (`icall`) as its first argument, and returns what that returns. A call that the mediator itself makes of a
//! function of its own wrapper is passed on to the next link as if there were no layer (`guard`).
//!
//! An *inner call* is entered from a mediator with `icall` as its argument. It repeats the registers and the bytes of stack and
//! calls the next link; rax, rdx, xmm0, xmm1, st0 and st1 come back untouched.
//!
//! Both have frame descriptions, so that exceptions, cancellation and backtraces pass through. Registers that a function may
//! change are given back as they were, as far as they are general ones: code of the same compilation as the function may
//! rely on what that leaves alone (gcc's -fipa-ra).
//!
//! The frame, from `icall` (rbp - 224) on: layer; state (0: none); index of the entry in it; unused; rdi, rsi, rdx, rcx, r8, r9,
//! rax, r10; xmm0 to xmm7. Behind it: rbp, the return address, the stack arguments.

use core::arch::global_asm;

/// Bytes from `icall` to the function's stack arguments.
pub(crate) const FRAME_BYTES: i32 = 224;
/// Offset of a general argument register from the frame's end.
pub(crate) const REGISTERS_AT: i32 = -192;
/// Offset of the function's stack arguments from the frame's end.
pub(crate) const ARGUMENTS_AT: i32 = 16;

global_asm!(
    ".macro BRANT_VECTORS operation",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7",
    ".if \\operation",
    "movaps xmm\\n, [rbp - 128 + 16 * \\n]",
    ".else",
    "movaps [rbp - 128 + 16 * \\n], xmm\\n",
    ".endif",
    ".endr",
    ".endm",
    ".macro BRANT_ARGUMENTS base",
    "mov rdi, [\\base - 192]",
    "mov rsi, [\\base - 184]",
    "mov rdx, [\\base - 176]",
    "mov rcx, [\\base - 168]",
    "mov r8, [\\base - 160]",
    "mov r9, [\\base - 152]",
    ".endm",
    ".macro BRANT_THUNK name, vectors, guarded, sret, words",
    ".p2align 6",
    ".global \\name",
    ".hidden \\name",
    ".type \\name, @function",
    "\\name:",
    ".cfi_startproc",
    "push rbp",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset rbp, -16",
    "mov rbp, rsp",
    ".cfi_def_cfa_register rbp",
    "sub rsp, 224",
    "mov [rbp - 224], r11",
    "mov [rbp - 192], rdi",
    "mov [rbp - 184], rsi",
    "mov [rbp - 176], rdx",
    "mov [rbp - 168], rcx",
    "mov [rbp - 160], r8",
    "mov [rbp - 152], r9",
    "mov [rbp - 144], rax",
    "mov [rbp - 136], r10",
    ".if \\vectors",
    "BRANT_VECTORS 0",
    ".endif",
    ".if \\guarded",
    // The thread's state is the one of its thread pointer, at the place of its hash; see `guard`.
    "mov r10, qword ptr fs:[0]",
    "imul rax, r10, -1640531535",
    "shr rax, 50",
    "shl rax, 7",
    "lea rcx, [rip + brant_states]",
    "add rax, rcx",
    "cmp [rax], r10",
    "jne 20f",
    "cmp dword ptr [rax + 8], 0",
    "jne 20f",
    // The depth first: a handler that interrupts this finds an empty entry, and its own lie behind it.
    "mov dword ptr [rax + 8], 1",
    "mov [rbp - 216], rax",
    "mov qword ptr [rbp - 208], 0",
    "mov rcx, [rax + 16]",
    "lea r10, [rbp - 224]",
    "mov [rcx], r10",
    "mov r10, [r11 + 64]",
    "mov [rcx + 8], r10",
    "mov rcx, [rbp - 168]",
    ".else",
    "mov qword ptr [rbp - 216], 0",
    ".endif",
    "10:",
    "mov r9, r8",
    "mov r8, rcx",
    "mov rcx, rdx",
    "mov rdx, rsi",
    ".if \\sret",
    "lea rsi, [rbp - 224]",
    ".else",
    "mov rsi, rdi",
    "lea rdi, [rbp - 224]",
    ".endif",
    ".if \\words",
    "mov eax, [r11 + 56]",
    // The mediator's stack arguments, the last one first.
    "40:",
    "mov r10, [r11 + 48]",
    "movsxd r10, dword ptr [r10 + rax * 4 - 4]",
    "push qword ptr [rbp + r10]",
    "dec eax",
    "jnz 40b",
    ".endif",
    ".if \\words + \\guarded",
    "mov rax, [rbp - 144]",
    "mov r10, [rbp - 136]",
    ".endif",
    "call [r11 + 24]",
    ".global \\name\\()_back",
    ".hidden \\name\\()_back",
    "\\name\\()_back:",
    ".if \\guarded",
    "mov rcx, [rbp - 216]",
    "test rcx, rcx",
    "jz 12f",
    "mov r8, [rbp - 208]",
    "mov rsi, [rcx + 16]",
    "mov r9, r8",
    "shl r9, 4",
    "mov qword ptr [rsi + r9 + 8], 0",
    "mov [rcx + 8], r8d",
    "12:",
    ".endif",
    "mov rcx, [rbp - 168]",
    "mov rsi, [rbp - 184]",
    "mov rdi, [rbp - 192]",
    "mov r8, [rbp - 160]",
    "mov r9, [rbp - 152]",
    "mov r10, [rbp - 136]",
    "leave",
    ".cfi_def_cfa rsp, 8",
    "ret",
    ".cfi_def_cfa rbp, 16",
    ".if \\guarded",
    "20:",
    ".if \\vectors == 0",
    "BRANT_VECTORS 0",
    ".endif",
    "lea rdi, [rbp - 224]",
    "call {enter}",
    "BRANT_VECTORS 1",
    "test eax, eax",
    "mov r11, [rbp - 224]",
    "BRANT_ARGUMENTS rbp",
    "jz 10b",
    "mov rax, [rbp - 144]",
    "mov r10, [rbp - 136]",
    "mov r11, [r11 + 16]",
    "leave",
    ".cfi_def_cfa rsp, 8",
    "jmp [r11]",
    ".endif",
    ".cfi_endproc",
    ".size \\name, . - \\name",
    ".endm",
    ".macro BRANT_INNER name, vectors, guarded, sret, stack",
    ".p2align 6",
    ".global \\name",
    ".hidden \\name",
    ".type \\name, @function",
    "\\name:",
    ".cfi_startproc",
    "push rbp",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset rbp, -16",
    "mov rbp, rsp",
    ".cfi_def_cfa_register rbp",
    "push rbx",
    "push r12",
    ".cfi_offset rbx, -24",
    ".cfi_offset r12, -32",
    ".if \\sret",
    // The mediator gives room of its own for the result.
    "mov r12, rdi",
    "mov rbx, rsi",
    ".else",
    "mov rbx, rdi",
    ".endif",
    "mov r11, [rbx]",
    ".if \\guarded",
    "mov rax, [rbx + 8]",
    "test rax, rax",
    "jz 10f",
    "mov rcx, [rbx + 16]",
    "shl rcx, 4",
    "mov rdx, [rax + 16]",
    "mov dword ptr [rdx + rcx + 12], 1",
    "10:",
    ".endif",
    ".if \\stack",
    "mov ecx, [r11 + 60]",
    "sub rsp, rcx",
    "lea rsi, [rbx + 240]",
    "11:",
    "movups xmm15, [rsi + rcx - 16]",
    "movaps [rsp + rcx - 16], xmm15",
    "sub rcx, 16",
    "jnz 11b",
    ".endif",
    ".if \\vectors",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7",
    "movaps xmm\\n, [rbx + 96 + 16 * \\n]",
    ".endr",
    ".endif",
    ".if \\sret",
    "mov rdi, r12",
    ".else",
    "mov rdi, [rbx + 32]",
    ".endif",
    "mov rsi, [rbx + 40]",
    "mov rdx, [rbx + 48]",
    "mov rcx, [rbx + 56]",
    "mov r8, [rbx + 64]",
    "mov r9, [rbx + 72]",
    "mov rax, [rbx + 80]",
    "mov r10, [rbx + 88]",
    "mov r11, [r11 + 16]",
    "call [r11]",
    ".global \\name\\()_back",
    ".hidden \\name\\()_back",
    "\\name\\()_back:",
    ".if \\guarded",
    "mov r8, [rbx + 8]",
    "test r8, r8",
    "jz 13f",
    "mov rcx, [rbx + 16]",
    "shl rcx, 4",
    "mov r9, [r8 + 16]",
    "mov dword ptr [r9 + rcx + 12], 0",
    "13:",
    ".endif",
    "lea rsp, [rbp - 16]",
    "pop r12",
    "pop rbx",
    "pop rbp",
    ".cfi_def_cfa rsp, 8",
    "ret",
    ".cfi_endproc",
    ".size \\name, . - \\name",
    ".endm",
    ".pushsection .text.brant_thunks, \"ax\", @progbits",
    ".p2align 6",
    ".global brant_thunks, brant_thunks_end",
    ".hidden brant_thunks, brant_thunks_end",
    "brant_thunks:",
    "BRANT_THUNK brant_thunk_0, 0, 0, 0, 0",
    "BRANT_THUNK brant_thunk_1, 1, 0, 0, 0",
    "BRANT_THUNK brant_thunk_2, 0, 1, 0, 0",
    "BRANT_THUNK brant_thunk_3, 1, 1, 0, 0",
    "BRANT_THUNK brant_thunk_4, 0, 0, 1, 0",
    "BRANT_THUNK brant_thunk_5, 1, 0, 1, 0",
    "BRANT_THUNK brant_thunk_6, 0, 1, 1, 0",
    "BRANT_THUNK brant_thunk_7, 1, 1, 1, 0",
    "BRANT_THUNK brant_thunk_8, 0, 0, 0, 1",
    "BRANT_THUNK brant_thunk_9, 1, 0, 0, 1",
    "BRANT_THUNK brant_thunk_10, 0, 1, 0, 1",
    "BRANT_THUNK brant_thunk_11, 1, 1, 0, 1",
    "BRANT_THUNK brant_thunk_12, 0, 0, 1, 1",
    "BRANT_THUNK brant_thunk_13, 1, 0, 1, 1",
    "BRANT_THUNK brant_thunk_14, 0, 1, 1, 1",
    "BRANT_THUNK brant_thunk_15, 1, 1, 1, 1",
    "BRANT_INNER brant_inner_0, 0, 0, 0, 0",
    "BRANT_INNER brant_inner_1, 1, 0, 0, 0",
    "BRANT_INNER brant_inner_2, 0, 1, 0, 0",
    "BRANT_INNER brant_inner_3, 1, 1, 0, 0",
    "BRANT_INNER brant_inner_4, 0, 0, 1, 0",
    "BRANT_INNER brant_inner_5, 1, 0, 1, 0",
    "BRANT_INNER brant_inner_6, 0, 1, 1, 0",
    "BRANT_INNER brant_inner_7, 1, 1, 1, 0",
    "BRANT_INNER brant_inner_8, 0, 0, 0, 1",
    "BRANT_INNER brant_inner_9, 1, 0, 0, 1",
    "BRANT_INNER brant_inner_10, 0, 1, 0, 1",
    "BRANT_INNER brant_inner_11, 1, 1, 0, 1",
    "BRANT_INNER brant_inner_12, 0, 0, 1, 1",
    "BRANT_INNER brant_inner_13, 1, 0, 1, 1",
    "BRANT_INNER brant_inner_14, 0, 1, 1, 1",
    "BRANT_INNER brant_inner_15, 1, 1, 1, 1",
    "brant_thunks_end:",
    ".popsection",
    ".pushsection .data.rel.ro.brant_returns, \"aw\", @progbits",
    ".p2align 3",
    ".global brant_thunk_table, brant_inner_table, brant_returns, brant_returns_end",
    ".hidden brant_thunk_table, brant_inner_table, brant_returns, brant_returns_end",
    "brant_thunk_table:",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    ".quad brant_thunk_\\n",
    ".endr",
    "brant_inner_table:",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    ".quad brant_inner_\\n",
    ".endr",
    "brant_returns:",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    ".quad brant_thunk_\\n\\()_back",
    ".endr",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    ".quad brant_inner_\\n\\()_back",
    ".endr",
    "brant_returns_end:",
    ".popsection",
    ".pushsection .bss.brant_states, \"aw\", @nobits",
    ".p2align 7",
    ".global brant_states",
    ".hidden brant_states",
    "brant_states:",
    ".zero {states_bytes}",
    ".popsection",
    enter = sym crate::guard::enter,
    states_bytes = const crate::guard::STATES_MAX * size_of::<crate::guard::State>(),
);

unsafe extern "C" {
    static brant_thunks: u8;
    static brant_thunks_end: u8;
    static brant_thunk_table: [usize; 16];
    static brant_inner_table: [usize; 16];
    static brant_returns: u64;
    static brant_returns_end: u64;
}

pub(crate) const fn begin() -> *const u8 {
    &raw const brant_thunks
}

pub(crate) const fn end() -> *const u8 {
    &raw const brant_thunks_end
}

pub(crate) const fn returns() -> *const u64 {
    &raw const brant_returns
}

pub(crate) const fn returns_end() -> *const u64 {
    &raw const brant_returns_end
}

/// What a thunk and an inner call must do.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    /// Keep vector registers.
    pub(crate) has_vectors: bool,
    pub(crate) is_guarded: bool,
    pub(crate) is_sret: bool,
    /// The mediator has stack arguments; the function has.
    pub(crate) has_words: bool,
    pub(crate) has_stack: bool,
}

impl Kind {
    fn number(self, has_stack: bool) -> usize {
        usize::from(self.has_vectors)
            | usize::from(self.is_guarded) << 1
            | usize::from(self.is_sret) << 2
            | usize::from(has_stack) << 3
    }

    /// The thunk for such a layer.
    pub(crate) fn thunk(self) -> usize {
        // SAFETY: a table in our own read-only data.
        unsafe { brant_thunk_table[self.number(self.has_words)] }
    }

    /// The inner call for such a layer.
    pub(crate) fn inner(self) -> usize {
        // SAFETY: a table in our own read-only data.
        unsafe { brant_inner_table[self.number(self.has_stack)] }
    }
}
