//! brant's runtime in a process, as seen from outside.

use std::ops::Range;

use brant_base::{Addr, Pid};
use brant_hook::exchange::{MAGIC, RUNTIME_NAME, VERSION};
use brant_hook::symbols::{self, Dynamic, SYMBOL_BYTES, Tables};
use brant_kernel::remote::Memory;

use crate::error::Error;
use crate::session::runtime_mapping;

/// The runtime itself, which brant carries along.
pub(crate) static LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/runtime.so"));

const HEAD_SYMBOL: &[u8] = b"BRANT_RUNTIME_HEAD";
const HEAD_WORDS: usize = 18;
const STATE_BYTES: u64 = 128;
const ENTRY_BYTES: u64 = 16;
/// The first entries lie in the state itself, from here on.
const INLINE_AT: u64 = 32;
const INLINE_ENTRIES: u64 = 6;
const DEPTH_MAX: u64 = 1 << 20;

/// A runtime that was found.
#[derive(Debug, Clone)]
pub(crate) struct Runtime {
    pub(crate) serve: Addr,
    states: u64,
    states_max: u64,
    claimed: u64,
    claimed_count: u64,
    lost: u64,
    lost_max: u64,
    /// The code of thunks, and that by which system calls come to their first layer.
    thunks: [Range<u64>; 2],
    /// Where mediators and inner calls return to in it.
    returns: Vec<u64>,
    code: u64,
    code_count: u64,
    loading: u64,
}

/// The name of its file in memory: of this build.
pub(crate) fn file_name() -> String {
    // FNV-1a: it tells builds apart, no more.
    let hash = LIBRARY
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    format!("{RUNTIME_NAME}-{hash:016x}")
}

impl Runtime {
    /// Looks for the runtime of this build in a process.
    pub(crate) fn find(pid: Pid) -> Result<Option<Runtime>, Error> {
        let Some((base, name)) = runtime_mapping(pid)? else { return Ok(None) };
        if name != file_name().as_bytes() {
            return Err(Error::OtherRuntime(pid));
        }
        let memory = Memory::open(pid).map_err(|error| Error::NotAllowed(pid, error))?;
        let offset = exported(LIBRARY, HEAD_SYMBOL).ok_or(Error::Runtime(pid))?;
        let words: [u64; HEAD_WORDS] =
            memory.read_value(Addr(base.0 + offset)).map_err(|_| Error::Runtime(pid))?;
        let [magic, versions, serve, states, claimed, claimed_count, lost, lost_max, thunks @ ..] = words;
        let [thunks, thunks_end, returns, returns_end, code, code_count, ..] = thunks;
        let [.., loading, enter, enter_end, enter_back] = words;
        // Before it is relocated its pointers are of no use.
        if magic.to_le_bytes() != MAGIC || versions as u32 != VERSION || serve < base.0 {
            return Err(Error::Runtime(pid));
        }
        let mut addresses = vec![0; (returns_end.saturating_sub(returns)).min(1024) as usize];
        memory.read(Addr(returns), &mut addresses).map_err(|_| Error::Runtime(pid))?;
        Ok(Some(Runtime {
            serve: Addr(serve),
            states,
            states_max: versions >> 32,
            claimed,
            claimed_count,
            lost,
            lost_max,
            thunks: [thunks..thunks_end, enter..enter_end],
            returns: addresses
                .chunks_exact(8)
                .map(|word| u64::from_le_bytes(word.try_into().expect("eight")))
                .chain([enter_back])
                .collect(),
            code,
            code_count,
            loading,
        }))
    }

    /// Whether a thread is there that is on its way into a layer, or comes out of one.
    pub(crate) fn is_thunk(&self, address: u64) -> bool {
        self.thunks.iter().any(|range| range.contains(&address))
    }

    /// Whether a thread that returns there comes out of a mediator or an inner call.
    pub(crate) fn is_return(&self, address: u64) -> bool {
        self.returns.contains(&address)
    }

    /// The ranges of code that it has made.
    pub(crate) fn code(&self, memory: &Memory) -> Option<Vec<Range<u64>>> {
        let count: u32 = memory.read_value(Addr(self.code_count)).ok()?;
        (0..u64::from(count))
            .map(|index| {
                let [start, end] = memory.read_value::<[u64; 2]>(Addr(self.code + index * 16)).ok()?;
                Some(start..end)
            })
            .collect()
    }

    /// Whether a thread looks at a library that is being loaded, and may be about to tell an implementation of it.
    pub(crate) fn is_loading(&self, memory: &Memory) -> Option<bool> {
        memory.read_value::<u32>(Addr(self.loading)).ok().map(|count| count != 0)
    }

    /// Calls of a wrapper's mediators that are under way in any thread, and those of which that is not known.
    pub(crate) fn calls_under_way(&self, memory: &Memory, wrapper: u32) -> Option<u64> {
        let lost: u32 = memory.read_value(Addr(self.lost + u64::from(wrapper) % self.lost_max * 4)).ok()?;
        let mut found = u64::from(lost);
        let claimed: u32 = memory.read_value(Addr(self.claimed_count)).ok()?;
        for place in 0..u64::from(claimed).min(self.states_max) {
            let index: u16 = memory.read_value(Addr(self.claimed + place * 2)).ok()?;
            let state = self.states + u64::from(index) * STATE_BYTES;
            let [_, depth, further] = memory.read_value::<[u64; 3]>(Addr(state)).ok()?;
            let depth = (depth & 0xffff_ffff).min(DEPTH_MAX);
            for entry in 0..depth {
                let at = match entry.checked_sub(INLINE_ENTRIES) {
                    None => state + INLINE_AT + entry * ENTRY_BYTES,
                    Some(behind) => further + behind * ENTRY_BYTES,
                };
                let [_, word] = memory.read_value::<[u64; 2]>(Addr(at)).ok()?;
                found += u64::from(word as u32 == wrapper);
            }
        }
        Some(found)
    }
}

/// Where a library that brant carries has what it exports under this name, from the library's start.
pub(crate) fn exported(library: &[u8], symbol: &[u8]) -> Option<u64> {
    let u64_at = |at: usize| Some(u64::from_le_bytes(library.get(at..at + 8)?.try_into().ok()?));
    let headers = library.get(u64_at(32)? as usize..)?;
    let count = usize::from(u16::from_le_bytes([*library.get(56)?, *library.get(57)?]));
    let headers = headers.get(..count * symbols::PROGRAM_HEADER_BYTES)?;
    let dynamic = symbols::segments(headers).find(|segment| segment.kind == symbols::PT_DYNAMIC)?;
    let dynamic = Dynamic::parse(library.get(dynamic.offset as usize..)?, 0);
    // Symbols and strings are in the first segment, where addresses are offsets.
    let table = usize::try_from(dynamic.gnu_hash?).ok()?;
    let count = symbols::count_by_gnu_hash(|at| {
        let at = table + at as usize;
        Some(u32::from_le_bytes(library.get(at..at + 4)?.try_into().ok()?))
    })?;
    let part = |at: u64, bytes: u64| library.get(at as usize..(at + bytes) as usize);
    let tables = Tables {
        symbols: part(dynamic.symbols, count * SYMBOL_BYTES)?,
        strings: part(dynamic.strings, dynamic.string_bytes)?,
        ..Tables::default()
    };
    tables.value_of(symbol)
}
