//! The code between a system call of the program and its mediators, and between a mediator and the kernel.
//!
//! A site's stub comes to `brant_call_enter` with the number in rax, the arguments where the kernel wants them, and the
//! site's [`Record`] in r11; rcx is free, as the call itself would change both. Nobody expects a function call there: all other
//! registers, the flags, the vector and x87 state and the 128 bytes below the stack pointer are in use and come back as they
//! were. So the state is saved in a frame below those bytes, and the first link before that number is called as a C
//! function of six integers. Its result is the call's.
//!
//! The last link is `brant_call_bare`: a C function that makes the system call. rax holds the frame and r10 the record on the way
//! there, as thunks and inner calls pass both on; by InnerFn they hold anything, so that the record is believed only where it
//! is one. Where `ret` follows the site's own instruction it is called there: C libraries that cancel threads look whether
//! a thread is at that very instruction. Everywhere else it is an instruction of this code, which has frame descriptions, so
//! that a thread that is cancelled is unwound through mediators.
//!
//! A thread that a call makes comes to life behind the `syscall` instruction, on a stack of its own, and with the registers of
//! the site: `brant_call_clone` lays them on the new stack first, and lets the new thread take them from there.

use core::arch::global_asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Numbers of system calls that can be mediated.
pub(crate) const CALLS_MAX: usize = 512;
/// Sites of one process.
pub(crate) const RECORDS_MAX: usize = 1 << 14;

/// What the code needs to know of a site.
#[repr(C)]
pub(crate) struct Record {
    /// `brant_call_enter`.
    pub(crate) code: AtomicUsize,
    /// The `syscall` instruction, which unwinders take for where a call returns to.
    pub(crate) site: AtomicU64,
    /// Where a mediated call goes on.
    pub(crate) back: AtomicU64,
    /// Where a call is made that is not mediated after all.
    pub(crate) bare: AtomicU64,
    /// 1: `ret` follows the instruction.
    pub(crate) flags: AtomicU64,
    unused: AtomicU64,
}

impl Record {
    const fn new() -> Record {
        Record {
            code: AtomicUsize::new(0),
            site: AtomicU64::new(0),
            back: AtomicU64::new(0),
            bare: AtomicU64::new(0),
            flags: AtomicU64::new(0),
            unused: AtomicU64::new(0),
        }
    }
}

pub(crate) static RECORDS: [Record; RECORDS_MAX] = [const { Record::new() }; RECORDS_MAX];
/// By the lower half of eax: not 0 where such a call is mediated.
pub(crate) static FLAGS: [AtomicU8; 1 << 16] = [const { AtomicU8::new(0) }; 1 << 16];
/// By number: where the first link is named.
pub(crate) static FIRST: [AtomicUsize; CALLS_MAX] = [const { AtomicUsize::new(0) }; CALLS_MAX];
/// How the extended state is saved: 0 by fxsave, 1 by xsave, 2 by xsavec; and which parts.
pub(crate) static XSTATE_KIND: AtomicU32 = AtomicU32::new(0);
pub(crate) static XSTATE_MASK: AtomicU32 = AtomicU32::new(0);

/// x87, SSE, AVX, and the three parts of AVX-512. Not the protection keys, which a call may change. Tiles and what else there
/// may be is left alone by compiled code.
const XSTATE_PARTS: u32 = 0xe7;
/// Room for these, wherever they lie.
const XSTATE_BYTES: usize = 2752;

global_asm!(
    ".pushsection .text.brant_thunks, \"ax\", @progbits",
    ".p2align 6",
    ".global brant_call_enter, brant_call_enter_back, brant_call_enter_end",
    ".hidden brant_call_enter, brant_call_enter_back, brant_call_enter_end",
    ".type brant_call_enter, @function",
    "brant_call_enter:",
    ".cfi_startproc",
    ".cfi_def_cfa rsp, 0",
    // The return address: at r11 + 8.
    ".cfi_escape 0x10, 0x10, 0x02, 0x7b, 0x08",
    "lea rsp, [rsp - 136]",
    ".cfi_def_cfa_offset 136",
    "mov rcx, [r11 + 8]",
    "mov [rsp], rcx",
    ".cfi_offset rip, -136",
    "push rbp",
    ".cfi_def_cfa_offset 144",
    ".cfi_offset rbp, -144",
    "mov rbp, rsp",
    ".cfi_def_cfa_register rbp",
    "pushfq",
    "push r11",
    "push rdi",
    "push rsi",
    "push rdx",
    "push r10",
    "push r8",
    "push r9",
    "push rax",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "cld",
    // Only the lower half of rax counts for the kernel.
    "cmp eax, {calls_max}",
    "jae 80f",
    "mov ecx, eax",
    "lea r11, [rip + {first}]",
    "mov rcx, [r11 + rcx * 8]",
    "test rcx, rcx",
    "jz 80f",
    // One that shares the memory and the stack: its child would leave our frames to the parent.
    "cmp eax, 56",
    "jne 20f",
    "test rsi, rsi",
    "jnz 30f",
    "test edi, 0x100",
    "jnz 80f",
    "jmp 30f",
    "20:",
    "cmp eax, 435",
    "jne 30f",
    "cmp rsi, 64",
    "jb 80f",
    "cmp rdi, 4096",
    "jb 80f",
    "cmp qword ptr [rdi + 40], 0",
    "jne 30f",
    "test qword ptr [rdi], 0x100",
    "jnz 80f",
    "30:",
    "mov rcx, [rcx]",
    "push rcx",
    "and rsp, -64",
    "sub rsp, {xstate_bytes}",
    "mov ecx, [rip + {xstate_kind}]",
    "mov eax, [rip + {xstate_mask}]",
    "test ecx, ecx",
    "jnz 40f",
    "fxsave64 [rsp]",
    "jmp 42f",
    "40:",
    // The header, which says what was saved, must be zeros before.
    "xor edx, edx",
    ".irp n, 512, 520, 528, 536, 544, 552, 560, 568",
    "mov [rsp + \\n], rdx",
    ".endr",
    "cmp ecx, 1",
    "jne 41f",
    "xsave64 [rsp]",
    "jmp 42f",
    "41:",
    "xsavec64 [rsp]",
    "42:",
    "mov rdx, [rbp - 40]",
    "mov rcx, [rbp - 48]",
    "mov r11, [rbp - 120]",
    "mov r10, [rbp - 16]",
    "mov rax, rbp",
    "call [r11]",
    "brant_call_enter_back:",
    "mov [rbp - 72], rax",
    "mov ecx, [rip + {xstate_kind}]",
    "test ecx, ecx",
    "jnz 50f",
    "fxrstor64 [rsp]",
    "jmp 51f",
    "50:",
    "mov eax, [rip + {xstate_mask}]",
    "xor edx, edx",
    "xrstor64 [rsp]",
    "51:",
    "mov r11, [rbp - 16]",
    "mov r11, [r11 + 16]",
    "60:",
    "mov rdi, [rbp - 24]",
    "mov rsi, [rbp - 32]",
    "mov rdx, [rbp - 40]",
    "mov r10, [rbp - 48]",
    "mov r8, [rbp - 56]",
    "mov r9, [rbp - 64]",
    "mov rax, [rbp - 72]",
    "lea rsp, [rbp - 8]",
    "popfq",
    "pop rbp",
    ".cfi_def_cfa rsp, 136",
    ".cfi_same_value rbp",
    "lea rsp, [rsp + 136]",
    ".cfi_def_cfa rsp, 0",
    "jmp r11",
    ".cfi_def_cfa rbp, 144",
    ".cfi_offset rbp, -144",
    // Not mediated.
    "80:",
    "mov r11, [rbp - 16]",
    "mov r11, [r11 + 24]",
    "jmp 60b",
    ".cfi_endproc",
    ".size brant_call_enter, . - brant_call_enter",
    "brant_call_enter_end:",
    ".popsection",
    // What follows leads into no layer: threads may be in it while wrappers are unloaded.
    ".pushsection .text.brant_calls, \"ax\", @progbits",
    ".p2align 6",
    ".global brant_call_bare, brant_call_last, brant_call_clone, brant_call_clone3",
    ".hidden brant_call_bare, brant_call_last, brant_call_clone, brant_call_clone3",
    ".type brant_call_bare, @function",
    "brant_call_bare:",
    ".cfi_startproc",
    "mov eax, r11d",
    // Is r10 a record? Their bytes are 48, and their number a power of two.
    "lea r11, [rip + {records}]",
    "sub r10, r11",
    "cmp r10, {records_bytes}",
    "jae 10f",
    "mov r11, [r11 + r10 + 32]",
    "test r11d, 1",
    "jz 10f",
    "lea r11, [rip + {records}]",
    "mov r11, [r11 + r10 + 8]",
    "mov r10, rcx",
    "call r11",
    "ret",
    "10:",
    "mov r10, rcx",
    "syscall",
    "ret",
    ".cfi_endproc",
    ".size brant_call_bare, . - brant_call_bare",
    // The end of this thread.
    ".type brant_call_last, @function",
    "brant_call_last:",
    ".cfi_startproc",
    "push rdi",
    ".cfi_def_cfa_offset 16",
    "push rsi",
    ".cfi_def_cfa_offset 24",
    "push r11",
    ".cfi_def_cfa_offset 32",
    "call {leave}",
    "pop rax",
    ".cfi_def_cfa_offset 24",
    "pop rsi",
    ".cfi_def_cfa_offset 16",
    "pop rdi",
    ".cfi_def_cfa_offset 8",
    "syscall",
    "ret",
    ".cfi_endproc",
    ".size brant_call_last, . - brant_call_last",
    // From the frame at rax: the registers of the site, below the new stack, which rsi holds; rsi becomes that place.
    ".macro BRANT_CHILD",
    "mov r9, rsi",
    "sub rsi, 128",
    "and rsi, -16",
    "mov [rsi + 112], r9",
    "mov r9, [r10 + 16]",
    "mov [rsi], r9",
    ".irp n, 0, 8, 24, 32, 40, 48, 56, 64, 80, 88, 96, 104, 112",
    "mov r9, [rax - \\n]",
    "mov [rsi + 8 + BRANT_PLACE_\\n], r9",
    ".endr",
    ".endm",
    // The places of what the frame holds at these distances: rbp, the flags, rdi, rsi, rdx, r10, r8, r9, rbx, r12 to r15.
    ".set BRANT_PLACE_0, 0",
    ".set BRANT_PLACE_8, 8",
    ".set BRANT_PLACE_24, 16",
    ".set BRANT_PLACE_32, 24",
    ".set BRANT_PLACE_40, 32",
    ".set BRANT_PLACE_48, 40",
    ".set BRANT_PLACE_56, 48",
    ".set BRANT_PLACE_64, 56",
    ".set BRANT_PLACE_80, 64",
    ".set BRANT_PLACE_88, 72",
    ".set BRANT_PLACE_96, 80",
    ".set BRANT_PLACE_104, 88",
    ".set BRANT_PLACE_112, 96",
    // Goes to 90 where rax and r10 are not a frame and its record.
    ".macro BRANT_FRAME",
    "lea r9, [rip + {records}]",
    "neg r9",
    "add r9, r10",
    "cmp r9, {records_bytes}",
    "jae 90f",
    "mov r9, rax",
    "sub r9, rsp",
    "jb 90f",
    "cmp r9, 0x40000",
    "ja 90f",
    "cmp [rax - 16], r10",
    "jne 90f",
    ".endm",
    ".type brant_call_clone, @function",
    "brant_call_clone:",
    ".cfi_startproc",
    "test rsi, rsi",
    "jz brant_call_bare",
    "BRANT_FRAME",
    "BRANT_CHILD",
    "mov r10, rcx",
    "mov eax, r11d",
    "syscall",
    "test eax, eax",
    "jz 70f",
    "ret",
    "70:",
    ".cfi_undefined rip",
    "jmp brant_call_child",
    // By InnerFn: ENOSYS.
    "90:",
    "mov rax, -38",
    "ret",
    ".cfi_endproc",
    ".size brant_call_clone, . - brant_call_clone",
    ".type brant_call_clone3, @function",
    "brant_call_clone3:",
    ".cfi_startproc",
    "cmp qword ptr [rdi + 40], 0",
    "jz brant_call_bare",
    "BRANT_FRAME",
    "cmp rsi, 128",
    "ja 90b",
    "sub rsp, 136",
    ".cfi_def_cfa_offset 144",
    "mov rdx, rsi",
    "mov rcx, rsi",
    "mov rsi, rdi",
    "mov rdi, rsp",
    "rep movsb",
    "mov rsi, [rsp + 40]",
    "add rsi, [rsp + 48]",
    "BRANT_CHILD",
    "sub rsi, [rsp + 40]",
    "mov [rsp + 48], rsi",
    "mov rdi, rsp",
    "mov rsi, rdx",
    "mov eax, r11d",
    "syscall",
    "test eax, eax",
    "jz 70f",
    "add rsp, 136",
    ".cfi_def_cfa_offset 8",
    "ret",
    "70:",
    ".cfi_undefined rip",
    "jmp brant_call_child",
    "90:",
    "mov rax, -38",
    "ret",
    ".cfi_endproc",
    ".size brant_call_clone3, . - brant_call_clone3",
    ".type brant_call_child, @function",
    "brant_call_child:",
    ".cfi_startproc",
    ".cfi_undefined rip",
    "mov rbp, [rsp + 8]",
    "push qword ptr [rsp + 16]",
    "popfq",
    "mov rdi, [rsp + 24]",
    "mov rsi, [rsp + 32]",
    "mov rdx, [rsp + 40]",
    "mov r10, [rsp + 48]",
    "mov r8, [rsp + 56]",
    "mov r9, [rsp + 64]",
    "mov rbx, [rsp + 72]",
    "mov r12, [rsp + 80]",
    "mov r13, [rsp + 88]",
    "mov r14, [rsp + 96]",
    "mov r15, [rsp + 104]",
    "mov eax, 0",
    "mov r11, [rsp]",
    "mov rsp, [rsp + 112]",
    "jmp r11",
    ".cfi_endproc",
    ".size brant_call_child, . - brant_call_child",
    ".popsection",
    calls_max = const CALLS_MAX,
    first = sym FIRST,
    xstate_kind = sym XSTATE_KIND,
    xstate_mask = sym XSTATE_MASK,
    xstate_bytes = const XSTATE_BYTES,
    records = sym RECORDS,
    records_bytes = const RECORDS_MAX * size_of::<Record>(),
    leave = sym crate::guard::leave,
);

unsafe extern "C" {
    static brant_call_enter: u8;
    static brant_call_bare: u8;
    static brant_call_last: u8;
    static brant_call_clone: u8;
    static brant_call_clone3: u8;
    static brant_call_enter_back: u8;
    static brant_call_enter_end: u8;
}

pub(crate) fn enter() -> usize {
    &raw const brant_call_enter as usize
}

/// Its code, from which layers are entered.
pub(crate) const fn enter_begin() -> *const u8 {
    &raw const brant_call_enter
}

/// Where mediators return to in it.
pub(crate) const fn enter_back() -> *const u8 {
    &raw const brant_call_enter_back
}

pub(crate) const fn enter_end() -> *const u8 {
    &raw const brant_call_enter_end
}

/// The function that makes a call of this number, which it finds in r11.
fn bare(number: u32) -> usize {
    const CLONE: u32 = 56;
    const EXIT: u32 = 60;
    const CLONE3: u32 = 435;
    match number {
        CLONE => &raw const brant_call_clone as usize,
        CLONE3 => &raw const brant_call_clone3 as usize,
        EXIT => &raw const brant_call_last as usize,
        _ => &raw const brant_call_bare as usize,
    }
}

/// Bytes of [`bare_stub`].
pub(crate) const BARE_BYTES: usize = 20;

/// The C function that makes the call, as code that stands anywhere.
pub(crate) fn bare_stub(number: u32) -> [u8; BARE_BYTES] {
    let mut code = [0; BARE_BYTES];
    code[..2].copy_from_slice(&[0x41, 0xbb]); // mov r11d, the number
    code[2..6].copy_from_slice(&number.to_le_bytes());
    code[6..12].copy_from_slice(&[0xff, 0x25, 0, 0, 0, 0]); // jmp [rip + 0]
    code[12..].copy_from_slice(&(bare(number) as u64).to_le_bytes());
    code
}

/// Finds out how this processor saves the extended state.
pub(crate) fn prepare() {
    const OSXSAVE: u32 = 1 << 27;
    const XSAVEC: u32 = 1 << 1;
    const EXTENDED_STATE: u32 = 0xd;
    if __cpuid(1).ecx & OSXSAVE == 0 {
        return;
    }
    let enabled: u32;
    // SAFETY: the processor has it, as the system says that xsave is on. It changes eax and edx.
    unsafe {
        core::arch::asm!("xgetbv", in("ecx") 0, out("eax") enabled, out("edx") _, options(nostack, nomem));
    }
    let has_xsavec = __cpuid_count(EXTENDED_STATE, 1).eax & XSAVEC != 0;
    XSTATE_MASK.store(enabled & XSTATE_PARTS, Ordering::Relaxed);
    XSTATE_KIND.store(if has_xsavec { 2 } else { 1 }, Ordering::Relaxed);
}

const _: () = {
    assert!(size_of::<Record>() == 48);
    assert!(core::mem::offset_of!(Record, site) == 8);
    assert!(core::mem::offset_of!(Record, back) == 16);
    assert!(core::mem::offset_of!(Record, bare) == 24);
    assert!(core::mem::offset_of!(Record, flags) == 32);
};
