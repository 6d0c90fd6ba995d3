//! Fields of the thread environment block, whose places have not changed since Windows XP for x64.

use std::arch::asm;

const STACK_BASE: usize = 0x08;
const STACK_LIMIT: usize = 0x10;
const STACK_ALLOCATION: usize = 0x1478;
const TLS_BLOCKS: usize = 0x58;

fn field(offset: usize) -> usize {
    let value: usize;
    // SAFETY: a read of the calling thread's own block.
    unsafe {
        asm!("mov {}, gs:[{}]", out(reg) value, in(reg) offset, options(nostack, readonly, preserves_flags))
    };
    value
}

/// Where the stack begins, how far it is committed, and where its memory begins.
pub(crate) fn stack() -> (u64, u64, u64) {
    (field(STACK_BASE) as u64, field(STACK_LIMIT) as u64, field(STACK_ALLOCATION) as u64)
}

/// Where the address of the calling thread's TLS block of a module stands.
pub(crate) fn tls_block(index: usize) -> Option<*mut usize> {
    let list = field(TLS_BLOCKS) as *mut usize;
    // SAFETY: the list has an entry for each index that the loader has given.
    (!list.is_null()).then(|| unsafe { list.add(index) })
}
