//! Where the allocator is that a program's loader uses.
//!
//! Facts relied upon: since glibc 2.31 the loader itself allocates by the malloc that the program's own calls go to, which is
//! the one of the first module in search order that exports it (dl-minimal.c, `__rtld_malloc_init_real`); a library that is
//! loaded allocates by it too. So a thread that holds a lock of jemalloc must not be borrowed for dlopen, any more than one
//! that holds a lock of libc's own malloc: no such lock can be taken twice.

use std::ops::Range;

use brant_base::Addr;
use brant_hook::symbols::{Dynamic, SYMBOL_BYTES};
use brant_kernel::proc::MapEntry;
use brant_kernel::ptrace::Interrupted;
use brant_kernel::remote::{HandThread, Memory};

use crate::target::{self, read, string, word, word_32};

const NAME: &[u8] = b"malloc";
const MODULES_MAX: usize = 65_536;
const SYSCALL: [u8; 2] = [0x0f, 0x05];
const CHAIN_MAX: u64 = 1 << 16;

/// Whose malloc is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Allocator {
    /// The C library's.
    Libc,
    /// That of another library, which has code here.
    Library(Vec<Range<u64>>),
    /// One that is part of the program itself: which of its code that is cannot be told.
    Program,
}

impl Allocator {
    /// Looks through the modules of `struct r_debug` in the order of the search.
    pub(crate) fn find(
        memory: &Memory,
        maps: &[MapEntry],
        debug: u64,
        is_libc: impl Fn(u64) -> bool,
    ) -> Allocator {
        let mut next = word(memory, debug + 8).unwrap_or(0);
        let program = next;
        for _ in 0..MODULES_MAX {
            if next == 0 {
                break;
            }
            let base = word(memory, next).unwrap_or(0);
            if is_libc(base) {
                break;
            }
            if exports_malloc(memory, next, base) {
                return if next == program { Allocator::Program } else { code_of(memory, maps, next) };
            }
            next = word(memory, next + 24).unwrap_or(0);
        }
        Allocator::Libc
    }
}

/// System calls in which a thread waits for what comes from outside, and which no allocator makes.
const WAITS: [i64; 21] = [
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_epoll_wait,
    libc::SYS_io_getevents,
    libc::SYS_pause,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_read,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_select,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_write,
];
const LARGEST_CLOCK: u64 = 4095;
/// Allocators sleep for less, where a lock is taken.
const LONG_SLEEP_NS: u64 = 10_000_000;

/// Whether our stop found a thread waiting in one of these calls, or in a long sleep.
pub(crate) fn is_waiting(memory: &Memory, thread: &HandThread) -> bool {
    waits(memory, thread, LONG_SLEEP_NS)
}

/// The same, or in any sleep: what no function of a C library does while it holds one of its own locks.
pub(crate) fn is_at_rest(memory: &Memory, thread: &HandThread) -> bool {
    waits(memory, thread, 0)
}

fn waits(memory: &Memory, thread: &HandThread, least_sleep_ns: u64) -> bool {
    let registers = &thread.registers;
    let number = match registers.interrupted() {
        Interrupted::Restart { number }
        | Interrupted::RestartBlock { number }
        | Interrupted::Eintr { number } => number,
        // It was put back already: the thread stands at the instruction that makes it.
        Interrupted::No if registers.orig_rax == u64::MAX => {
            match memory.read_value::<[u8; 2]>(Addr(registers.rip)) {
                Ok(SYSCALL) => registers.rax,
                _ => return false,
            }
        }
        Interrupted::No => return false,
    };
    let is_long = |at: u64| {
        let time = memory.read_value::<[u64; 2]>(Addr(at));
        time.is_ok_and(|[seconds, ns]| seconds > 0 || ns >= least_sleep_ns)
    };
    match number as i64 {
        libc::SYS_nanosleep => is_long(registers.rdi),
        libc::SYS_clock_nanosleep => is_long(registers.rdx),
        // A sleep that was stopped before; of calls that go on so only this one has a clock's number here.
        libc::SYS_restart_syscall => registers.rdi <= LARGEST_CLOCK && is_long(registers.rdx),
        number => WAITS.contains(&number),
    }
}

/// The code of the module with that `struct link_map`.
fn code_of(memory: &Memory, maps: &[MapEntry], link_map: u64) -> Allocator {
    let own =
        word(memory, link_map + 16).and_then(|at| maps.iter().find(|entry| entry.range.contains(Addr(at))));
    let Some(own) = own.filter(|own| own.inode != 0) else { return Allocator::Program };
    Allocator::Library(target::code_of(maps, (own.device, own.inode)).collect())
}

fn exports_malloc(memory: &Memory, link_map: u64, base: u64) -> bool {
    let section = word(memory, link_map + 16).and_then(|at| read(memory, at, 16 * 64));
    let Some(section) = section else { return false };
    let dynamic = Dynamic::parse(&section, base);
    let indices = match (dynamic.gnu_hash, dynamic.hash) {
        (Some(table), _) => by_gnu_hash(memory, table),
        (None, Some(table)) => by_hash(memory, table),
        (None, None) => None,
    };
    indices.unwrap_or_default().into_iter().any(|index| {
        let Some(entry) = read(memory, dynamic.symbols + index * SYMBOL_BYTES, SYMBOL_BYTES) else {
            return false;
        };
        let name_at = u64::from(u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]));
        let is_defined = entry[4] >> 4 != 0 && (entry[6], entry[7]) != (0, 0);
        is_defined && string(memory, dynamic.strings + name_at).is_some_and(|name| name == NAME)
    })
}

/// The symbols that may be called so, by a GNU hash table.
fn by_gnu_hash(memory: &Memory, table: u64) -> Option<Vec<u64>> {
    let hash = NAME.iter().fold(5381u32, |hash, byte| hash.wrapping_mul(33).wrapping_add(u32::from(*byte)));
    let (buckets, first) = (word_32(memory, table)?, u64::from(word_32(memory, table + 4)?));
    let buckets_at = table + 16 + u64::from(word_32(memory, table + 8)?) * 8;
    let chains_at = buckets_at + u64::from(buckets) * 4;
    let bucket = hash.checked_rem(buckets)?;
    let start = u64::from(word_32(memory, buckets_at + u64::from(bucket) * 4)?);
    let mut found = Vec::new();
    for index in (start..start + CHAIN_MAX).take_while(|index| *index >= first) {
        let of_symbol = word_32(memory, chains_at + (index - first) * 4)?;
        if of_symbol | 1 == hash | 1 {
            found.push(index);
        }
        if of_symbol & 1 == 1 {
            break;
        }
    }
    Some(found)
}

/// The same by a table of the System V kind.
fn by_hash(memory: &Memory, table: u64) -> Option<Vec<u64>> {
    let hash = NAME.iter().fold(0u32, |hash, byte| {
        let hash = (hash << 4).wrapping_add(u32::from(*byte));
        let high = hash & 0xf000_0000;
        (hash ^ high >> 24) & !high
    });
    let buckets = word_32(memory, table)?;
    let chains_at = table + 8 + u64::from(buckets) * 4;
    let mut index = u64::from(word_32(memory, table + 8 + u64::from(hash.checked_rem(buckets)?) * 4)?);
    let mut found = Vec::new();
    for _ in 0..CHAIN_MAX {
        if index == 0 {
            break;
        }
        found.push(index);
        index = u64::from(word_32(memory, chains_at + index * 4)?);
    }
    Some(found)
}
