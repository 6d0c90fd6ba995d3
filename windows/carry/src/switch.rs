//! From the program's stack to the system's and back, and the ways in and out of the program's code.
//!
//! A thunk comes here with the number of its function in r11 (bit 16: the function neither waits nor calls back, so its caller's registers need not be
//! kept). The thread's record is in a TLS slot of ours; a thread without one, or one that is in a function already (a callback), goes
//! straight on. TEB fields that say where the stack is change with it, as they do for fibers.

use std::arch::global_asm;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::thread::Thread;

/// Where the TEB has the slot, from its beginning.
#[unsafe(no_mangle)]
static BRANT_CARRY_SLOT: AtomicU64 = AtomicU64::new(0);

global_asm!(
    // Arguments from here on: handles of the program become the system's.
    ".macro brant_translate arguments",
    "movaps [rsp + 0x20], xmm0",
    "movaps [rsp + 0x30], xmm1",
    "movaps [rsp + 0x40], xmm2",
    "movaps [rsp + 0x50], xmm3",
    "mov [rsp + 0x60], r11",
    "lea rcx, [rsp + \\arguments]",
    "call brant_carry_translate",
    "movaps xmm0, [rsp + 0x20]",
    "movaps xmm1, [rsp + 0x30]",
    "movaps xmm2, [rsp + 0x40]",
    "movaps xmm3, [rsp + 0x50]",
    "mov r11, [rsp + 0x60]",
    ".endm",
    ".macro brant_common translates",
    "btr r11d, 16",
    "sbb eax, eax",
    "movabs r10, {called}",
    "mov byte ptr [r10 + r11], 1",
    "mov r10, [rip + BRANT_CARRY_SLOT]",
    "mov r10, gs:[r10]",
    "test r10, r10",
    "jz 5f",
    "cmp dword ptr [r10], 0",
    "jne 5f",
    "mov [r10 + 72], rbx",
    "mov [r10 + 64], rsp",
    "lea ebx, [r11 + 1]",
    "mov [r10], ebx",
    "test eax, eax",
    "jnz 4f",
    "mov [r10 + 80], rbp",
    "mov [r10 + 88], rsi",
    "mov [r10 + 96], rdi",
    "mov [r10 + 104], r12",
    "mov [r10 + 112], r13",
    "mov [r10 + 120], r14",
    "mov [r10 + 128], r15",
    "mov [r10 + 136], rcx",
    "mov [r10 + 144], rdx",
    "mov [r10 + 152], r8",
    "mov [r10 + 160], r9",
    "stmxcsr [r10 + 168]",
    "fnstcw [r10 + 172]",
    "movaps [r10 + 176], xmm0",
    "movaps [r10 + 192], xmm1",
    "movaps [r10 + 208], xmm2",
    "movaps [r10 + 224], xmm3",
    "movaps [r10 + 272], xmm6",
    "movaps [r10 + 288], xmm7",
    "movaps [r10 + 304], xmm8",
    "movaps [r10 + 320], xmm9",
    "movaps [r10 + 336], xmm10",
    "movaps [r10 + 352], xmm11",
    "movaps [r10 + 368], xmm12",
    "movaps [r10 + 384], xmm13",
    "movaps [r10 + 400], xmm14",
    "movaps [r10 + 416], xmm15",
    "4:",
    "mov rbx, r10",
    "mov rax, [rbx + 16]",
    "mov gs:[8], rax",
    "mov rax, [rbx + 24]",
    "mov gs:[0x10], rax",
    "mov rax, [rbx + 32]",
    "mov gs:[0x1478], rax",
    "mov rax, rsp",
    "mov rsp, [rbx + 8]",
    "sub rsp, 0x80",
    "movups xmm4, [rax + 0x28]",
    "movups [rsp + 0x20], xmm4",
    "movups xmm5, [rax + 0x38]",
    "movups [rsp + 0x30], xmm5",
    "movups xmm4, [rax + 0x48]",
    "movups [rsp + 0x40], xmm4",
    "movups xmm5, [rax + 0x58]",
    "movups [rsp + 0x50], xmm5",
    "movups xmm4, [rax + 0x68]",
    "movups [rsp + 0x60], xmm4",
    "movups xmm5, [rax + 0x78]",
    "movups [rsp + 0x70], xmm5",
    ".if \\translates",
    "mov [rsp], rcx",
    "mov [rsp + 8], rdx",
    "mov [rsp + 0x10], r8",
    "mov [rsp + 0x18], r9",
    "sub rsp, 0x70",
    "brant_translate 0x70",
    "add rsp, 0x70",
    "mov rcx, [rsp]",
    "mov rdx, [rsp + 8]",
    "mov r8, [rsp + 0x10]",
    "mov r9, [rsp + 0x18]",
    ".endif",
    "movabs r10, {targets}",
    "call [r10 + r11 * 8]",
    "mov r10, [rbx + 40]",
    "mov gs:[8], r10",
    "mov r10, [rbx + 48]",
    "mov gs:[0x10], r10",
    "mov r10, [rbx + 56]",
    "mov gs:[0x1478], r10",
    "mov r10, rbx",
    "mov rsp, [r10 + 64]",
    "mov rbx, [r10 + 72]",
    "mov dword ptr [r10], 0",
    "ret",
    "5:",
    ".if \\translates",
    "mov [rsp + 8], rcx",
    "mov [rsp + 0x10], rdx",
    "mov [rsp + 0x18], r8",
    "mov [rsp + 0x20], r9",
    "sub rsp, 0x78",
    "brant_translate 0x80",
    "add rsp, 0x78",
    "mov rcx, [rsp + 8]",
    "mov rdx, [rsp + 0x10]",
    "mov r8, [rsp + 0x18]",
    "mov r9, [rsp + 0x20]",
    ".endif",
    "movabs r10, {targets}",
    "jmp [r10 + r11 * 8]",
    ".endm",
    ".globl brant_carry_common",
    "brant_carry_common:",
    "brant_common 0",
    ".globl brant_carry_unknown",
    "brant_carry_unknown:",
    "brant_common 1",
    // What a way in keeps, and how it comes out again.
    ".macro brant_keep",
    "push rbx",
    "push rbp",
    "push rsi",
    "push rdi",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "sub rsp, 0xa8",
    "movaps [rsp], xmm6",
    "movaps [rsp + 0x10], xmm7",
    "movaps [rsp + 0x20], xmm8",
    "movaps [rsp + 0x30], xmm9",
    "movaps [rsp + 0x40], xmm10",
    "movaps [rsp + 0x50], xmm11",
    "movaps [rsp + 0x60], xmm12",
    "movaps [rsp + 0x70], xmm13",
    "movaps [rsp + 0x80], xmm14",
    "movaps [rsp + 0x90], xmm15",
    "mov [rcx + 8], rsp",
    ".endm",
    ".macro brant_own_stack",
    "mov rax, [rcx + 40]",
    "mov gs:[8], rax",
    "mov rax, [rcx + 48]",
    "mov gs:[0x10], rax",
    "mov rax, [rcx + 56]",
    "mov gs:[0x1478], rax",
    ".endm",
    // (thread, function, first, second, third) -> its result
    ".globl brant_carry_call",
    "brant_carry_call:",
    "mov rax, [rsp + 0x28]",
    "mov r10, rax",
    "brant_keep",
    "brant_own_stack",
    "mov r11, rdx",
    "mov rdx, r9",
    "mov r9, rcx",
    "mov rcx, r8",
    "mov r8, r10",
    "mov rsp, [r9 + 40]",
    "sub rsp, 0x120",
    "movabs rax, {back}",
    "push rax",
    "mov dword ptr [r9], 0",
    "jmp r11",
    // Where the function's `ret` leads, by the thunk {back}.
    ".globl brant_carry_back",
    "brant_carry_back:",
    "mov r10, [rip + BRANT_CARRY_SLOT]",
    "mov r10, gs:[r10]",
    "mov dword ptr [r10], 0xffff",
    "mov rcx, [r10 + 16]",
    "mov gs:[8], rcx",
    "mov rcx, [r10 + 24]",
    "mov gs:[0x10], rcx",
    "mov rcx, [r10 + 32]",
    "mov gs:[0x1478], rcx",
    "mov rsp, [r10 + 8]",
    "cld",
    "movaps xmm6, [rsp]",
    "movaps xmm7, [rsp + 0x10]",
    "movaps xmm8, [rsp + 0x20]",
    "movaps xmm9, [rsp + 0x30]",
    "movaps xmm10, [rsp + 0x40]",
    "movaps xmm11, [rsp + 0x50]",
    "movaps xmm12, [rsp + 0x60]",
    "movaps xmm13, [rsp + 0x70]",
    "movaps xmm14, [rsp + 0x80]",
    "movaps xmm15, [rsp + 0x90]",
    "add rsp, 0xa8",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rdi",
    "pop rsi",
    "pop rbp",
    "pop rbx",
    "ret",
    // (thread) -> the result of its outermost function
    ".globl brant_carry_resume",
    "brant_carry_resume:",
    "brant_keep",
    "jmp brant_carry_load",
    // (thread): goes on as its registers say, on the native stack that it had.
    ".globl brant_carry_load",
    "brant_carry_load:",
    "mov eax, -1",
    "mov edx, -1",
    "xrstor64 [rcx + 576]",
    "brant_own_stack",
    "mov rax, [rcx + 464]",
    "lea rsp, [rax - 16]",
    "mov rax, [rcx + 560]",
    "mov [rsp + 8], rax",
    "mov rax, [rcx + 568]",
    "mov [rsp], rax",
    "mov rdx, [rcx + 448]",
    "mov rbx, [rcx + 456]",
    "mov rbp, [rcx + 472]",
    "mov rsi, [rcx + 480]",
    "mov rdi, [rcx + 488]",
    "mov r8, [rcx + 496]",
    "mov r9, [rcx + 504]",
    "mov r10, [rcx + 512]",
    "mov r11, [rcx + 520]",
    "mov r12, [rcx + 528]",
    "mov r13, [rcx + 536]",
    "mov r14, [rcx + 544]",
    "mov r15, [rcx + 552]",
    "mov rax, [rcx + 432]",
    "mov dword ptr [rcx], 0",
    "mov rcx, [rcx + 440]",
    "popfq",
    "ret",
    // A thread that was in its own code is sent here, with its record in rcx; its general registers are kept already.
    ".globl brant_carry_stand",
    "brant_carry_stand:",
    "mov eax, -1",
    "mov edx, -1",
    "xsave64 [rcx + 576]",
    "mov rax, [rcx + 16]",
    "mov gs:[8], rax",
    "mov rax, [rcx + 24]",
    "mov gs:[0x10], rax",
    "mov rax, [rcx + 32]",
    "mov gs:[0x1478], rax",
    "mov rsp, [rcx + 8]",
    "sub rsp, 0x40",
    "mov [rsp + 0x30], rcx",
    "cld",
    "call brant_carry_stood",
    "mov rcx, [rsp + 0x30]",
    "jmp brant_carry_load",
    called = const crate::places::STATE + std::mem::offset_of!(crate::state::State, called),
    targets = const crate::places::TARGETS,
    back = const crate::thunk::BACK,
);

unsafe extern "system" {
    fn brant_carry_common();
    fn brant_carry_unknown();
    fn brant_carry_back();
    fn brant_carry_stand();
    fn brant_carry_call(
        thread: *mut Thread,
        function: usize,
        first: usize,
        second: usize,
        third: usize,
    ) -> usize;
    fn brant_carry_resume(thread: *mut Thread) -> usize;
}

/// Where thunks lead, those of unknown functions as well, and where the outermost function of a thread returns to.
pub(crate) fn entries() -> [usize; 3] {
    let entries =
        [brant_carry_common as *const (), brant_carry_unknown as *const (), brant_carry_back as *const ()];
    entries.map(|entry| entry as usize)
}

/// Where a thread is sent to stand still.
pub(crate) fn stand() -> usize {
    brant_carry_stand as *const () as usize
}

pub(crate) fn use_slot(slot: u32) {
    /// TEB.TlsSlots.
    const TLS_SLOTS: u64 = 0x1480;
    BRANT_CARRY_SLOT.store(TLS_SLOTS + 8 * u64::from(slot), Ordering::Release);
}

/// Calls a function of the program on the thread's own stack. Its result.
///
/// # Safety
/// The thread is the calling one, and is in no function of the program's; `function` takes these arguments.
pub(crate) unsafe fn call(thread: &Thread, function: usize, arguments: [usize; 3]) -> usize {
    let [first, second, third] = arguments;
    // SAFETY: the caller's promise.
    unsafe { brant_carry_call(thread.at(), function, first, second, third) }
}

/// Lets the thread go on as its registers say. The result of its outermost function.
///
/// # Safety
/// The thread is the calling one; its registers and its stack are the program's.
pub(crate) unsafe fn resume(thread: &Thread) -> usize {
    // SAFETY: the caller's promise.
    unsafe { brant_carry_resume(thread.at()) }
}
