//! What a library without imports needs: the memory functions that compiled code calls, and an end for what must not happen.
//!
//! The symbols are hidden: no program ever gets these.

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // A defect: an illegal instruction names the place in a core file.
    // SAFETY: never returns.
    unsafe { core::arch::asm!("ud2", options(noreturn)) }
}

// The last two are named by frame descriptions of the precompiled core library; as nothing here unwinds they are never called.
core::arch::global_asm!(
    ".hidden memcpy, memmove, memset, memcmp, bcmp, strlen, rust_eh_personality, _Unwind_Resume",
    ".global memcpy, memmove, memset, memcmp, bcmp, strlen, rust_eh_personality, _Unwind_Resume",
    "memmove: mov rax, rdi",
    "cmp rdi, rsi",
    "jbe 2f",
    "lea rcx, [rsi + rdx]",
    "cmp rdi, rcx",
    "jae 2f",
    "mov rcx, rdx",
    "lea rdi, [rdi + rdx - 1]",
    "lea rsi, [rsi + rdx - 1]",
    "std",
    "rep movsb",
    "cld",
    "ret",
    "memcpy: mov rax, rdi",
    "2: mov rcx, rdx",
    "rep movsb",
    "ret",
    "memset: mov r8, rdi",
    "mov eax, esi",
    "mov rcx, rdx",
    "rep stosb",
    "mov rax, r8",
    "ret",
    "bcmp: memcmp: xor eax, eax",
    "xor ecx, ecx",
    "3: cmp rcx, rdx",
    "jae 4f",
    "movzx eax, byte ptr [rdi + rcx]",
    "movzx r8d, byte ptr [rsi + rcx]",
    "inc rcx",
    "sub eax, r8d",
    "jz 3b",
    "4: ret",
    "strlen: xor eax, eax",
    "5: cmp byte ptr [rdi + rax], 0",
    "je 6f",
    "inc rax",
    "jmp 5b",
    "6: ret",
    "rust_eh_personality: _Unwind_Resume: ud2",
);
