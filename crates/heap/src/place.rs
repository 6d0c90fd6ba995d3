//! Where heaps lie: addresses that nothing else on x86-64 Linux uses.
//!
//! A heap lies at the same address in every process, on every host. What must be kept clear of, with 47 bits of address (with five-level
//! paging the kernel gives more only to who asks for it, and other hosts have less):
//!
//! | addresses | whose |
//! |---|---|
//! | 0x400000, and what follows | programs without PIE, their brk; Java's heap below 32 GiB |
//! | 0x7fff8000-0x10007fff8000 | shadow of AddressSanitizer |
//! | 0x8000000000-0x100000000000 and more | ThreadSanitizer, MemorySanitizer: shadow |
//! | 0xc000000000, and each 0x10000000000 from there | arenas of Go |
//! | 0x20000000000-0x1e0000000000 | mimalloc's aligned memory |
//! | 0x100000000000 and below | Valgrind |
//! | 0-0x3fffffffffff, anywhere | V8 and PartitionAlloc, which draw addresses of 46 bits |
//! | 0x2aaaaaaab000-0x3aaaaaaab000, upwards | mmap without a limit for the stack: a third of the space, and 16 TiB at random |
//! | 0x500000000000, 0x600000000000 | heap of AddressSanitizer and LeakSanitizer |
//! | 0x555555554000-0x655555556000, and brk behind it | PIE: two thirds of the space, and 16 TiB at random where mmap_rnd_bits is 32 |
//! | 0x6fff00000000-0x7fffffffffff | stack, vdso, mmap from the top: libraries, the loader, malloc of glibc, jemalloc |
//!
//! What remains is 0x400000000000-0x500000000000: 16 TiB. The C library, the loader and the vdso never come there, with any setting of
//! ASLR. The place in it is drawn from the heap's name, so that heaps of different programs are unlikely to be in each other's way;
//! where a new heap's place is taken, the next one is tried. A loaded heap has its place, or is refused.
//!
//! ThreadSanitizer and Valgrind leave no such range; a heap is refused there, unless it is told another address (`Options::at`).

/// The range of addresses for heaps.
pub(crate) const ZONE: std::ops::Range<usize> = 0x4000_0000_0000..0x5000_0000_0000;
/// Heaps begin at a multiple of this.
const STEP_BYTES: usize = 1 << 30;
/// How many places are tried for a new heap.
pub(crate) const TRIES: usize = 64;
/// A heap that is told its address begins at a multiple of this.
pub(crate) const BASE_ALIGN: usize = 2 << 20;

/// The address that is tried as number `attempt` for a heap of `bytes`, which are at most an eighth of the zone.
pub(crate) fn address(name: &str, bytes: usize, attempt: usize) -> usize {
    let places = (ZONE.len() - bytes) / STEP_BYTES + 1;
    // FNV-1a: what it is does not matter, but it must stay as it is.
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let further = attempt * bytes.div_ceil(STEP_BYTES);
    let place = ((hash ^ (hash >> 29)) as usize % places + further) % places;
    ZONE.start + place * STEP_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_in_the_zone_and_differ() {
        for bytes in [4 << 20, 64 << 30, 1 << 40] {
            for name in ["a", "b", "main", "something longer"] {
                let tries: Vec<usize> = (0..TRIES).map(|attempt| address(name, bytes, attempt)).collect();
                assert!(
                    tries
                        .iter()
                        .all(|at| ZONE.contains(at) && at + bytes <= ZONE.end && at % STEP_BYTES == 0)
                );
                assert_ne!(tries[0], tries[1]);
            }
        }
        // Images depend on it only through what they say themselves, but programs may be told apart by it.
        assert_eq!(address("main", 64 << 30, 0), address("main", 64 << 30, 0));
        assert_ne!(address("a", 64 << 30, 0), address("b", 64 << 30, 0));
    }
}
