//! Reading the tables of a process that runs on: nothing of it is stopped, and nothing runs in it.
//!
//! An entry is read three times. Where its sequence was the same even number the first and the last time, it was not
//! written meanwhile, so the second reading is whole.

use brant_base::{Addr, Pid};
use brant_hook::symbols::{self, Dynamic, PROGRAM_HEADER_BYTES, SYMBOL_BYTES, Tables};
use brant_kernel::proc::{self, MapEntry, ProcError};
use brant_kernel::remote::Memory;

use crate::layout::{
    self, FILES, HEAP, Head, MAGIC, REGION_BYTES, SUMMARY, Summary, TABLE_COUNT, TABLES, VERSION,
};
use crate::snapshot::Snapshot;

/// How often an entry that is being written is tried again.
const TRIES: usize = 64;
/// What every library that brant carries is called in a program, a restored one too.
/// Most are files in memory, others were files for a moment.
const LIBRARY_NAME: &[u8] = b"brant-wrapper-";
const HEADERS_MAX: usize = 64;
const STRING_BYTES_MAX: u64 = 1 << 20;
const SYMBOLS_MAX: u64 = 1 << 14;

/// Why a process's record cannot be read.
#[derive(Debug)]
pub enum ReadError {
    Gone(Pid),
    NotAllowed(Pid, std::io::Error),
    /// Of a brant whose layout is another.
    Version {
        pid: Pid,
        found: u32,
    },
    /// What is there cannot be what a wrapper wrote.
    Damaged(Pid),
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ReadError::Gone(pid) => write!(f, "process {pid} has ended"),
            ReadError::NotAllowed(pid, error) => {
                write!(f, "the memory of process {pid} may not be read: {error}")
            }
            ReadError::Version { pid, found } => write!(
                f,
                "process {pid} is recorded by another brant (layout {found}; this one reads {VERSION})"
            ),
            ReadError::Damaged(pid) => write!(f, "what process {pid} has in the place of its record is none"),
        }
    }
}

impl std::error::Error for ReadError {}

/// What a process has recorded; `None` where it is not recorded. `task` is one of its threads that has not ended.
pub fn read(task: Pid) -> Result<Option<Snapshot>, ReadError> {
    let failed = |error: ProcError| match error.is_gone() {
        true => ReadError::Gone(task),
        false => ReadError::NotAllowed(task, std::io::Error::other(error.to_string())),
    };
    let maps = proc::maps(task).map_err(failed)?;
    let memory = match Memory::open(task) {
        Ok(memory) => memory,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(ReadError::Gone(task)),
        Err(error) => return Err(ReadError::NotAllowed(task, error)),
    };
    let is_begin = |entry: &&MapEntry| is_library(&entry.path) && entry.offset == 0 && entry.permissions.read;
    let found = heads(&memory, maps.iter().filter(is_begin));
    let mut best: Option<(bool, u64, Head)> = None;
    let mut other_version = None;
    for head in found {
        if head.version != VERSION || head.summary_bytes as usize != Summary::BYTES {
            other_version = Some(head.version);
            continue;
        }
        if head.region == 0 {
            continue;
        }
        if head.region_bytes != REGION_BYTES as u64 {
            return Err(ReadError::Damaged(task));
        }
        let summary = read_bytes(&memory, head.region, Summary::BYTES).ok_or(ReadError::Damaged(task))?;
        let summary = Summary::decode(&summary).ok_or(ReadError::Damaged(task))?;
        let rank = (summary.state == layout::ON, summary.since_ns);
        if best.as_ref().is_none_or(|(is_on, since, _)| (*is_on, *since) < rank) {
            best = Some((rank.0, rank.1, head));
        }
    }
    match (best, other_version) {
        (Some((_, _, head)), _) => snapshot(&memory, head.region).map(Some).ok_or(ReadError::Damaged(task)),
        (None, Some(found)) => Err(ReadError::Version { pid: task, found }),
        (None, None) => Ok(None),
    }
}

fn is_library(path: &[u8]) -> bool {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    name.strip_prefix(b"memfd:").unwrap_or(name).starts_with(LIBRARY_NAME)
}

/// What the symbol of each library leads to.
fn heads<'a>(memory: &Memory, entries: impl Iterator<Item = &'a MapEntry>) -> Vec<Head> {
    let head = |entry: &MapEntry| {
        let address = symbol(memory, entry.range.start().0)?;
        Head::decode(&read_bytes(memory, address, Head::BYTES)?).filter(|head| head.magic == MAGIC)
    };
    entries.filter_map(head).collect()
}

/// The address of the symbol in the library that begins at `base`.
fn symbol(memory: &Memory, base: u64) -> Option<u64> {
    let header = read_bytes(memory, base, 64)?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let headers_at = u64::from_le_bytes(header[32..40].try_into().ok()?);
    let count = usize::from(u16::from_le_bytes([header[56], header[57]])).min(HEADERS_MAX);
    let headers = read_bytes(memory, base.checked_add(headers_at)?, count * PROGRAM_HEADER_BYTES)?;
    let dynamic = symbols::segments(&headers).find(|segment| segment.kind == symbols::PT_DYNAMIC)?;
    let section_bytes = usize::try_from(dynamic.memory_bytes.min(16 * 128)).ok()?;
    let section = read_bytes(memory, base.checked_add(dynamic.address)?, section_bytes)?;
    let dynamic = Dynamic::parse(&section, base);
    let word = |at: u64| Some(u32::from_le_bytes(read_bytes(memory, at, 4)?.try_into().ok()?));
    let count = match (dynamic.hash, dynamic.gnu_hash) {
        (Some(hash), _) => u64::from(word(hash.checked_add(4)?)?),
        (None, Some(hash)) => symbols::count_by_gnu_hash(|at| word(hash.checked_add(at)?))?,
        (None, None) => return None,
    };
    if count > SYMBOLS_MAX || dynamic.string_bytes > STRING_BYTES_MAX {
        return None;
    }
    let entries = read_bytes(memory, dynamic.symbols, (count * SYMBOL_BYTES) as usize)?;
    let strings = read_bytes(memory, dynamic.strings, dynamic.string_bytes as usize)?;
    let tables = Tables { symbols: &entries, strings: &strings, ..Tables::default() };
    base.checked_add(tables.value_of(layout::SYMBOL)?)
}

fn snapshot(memory: &Memory, region: u64) -> Option<Snapshot> {
    let summary_bytes = read_bytes(memory, region, Summary::BYTES)?;
    let summary = Summary::decode(&summary_bytes)?;
    let mut snapshot = Snapshot { tables: [const { Vec::new() }; TABLE_COUNT], torn: 0 };
    for (index, table) in TABLES.iter().enumerate().skip(SUMMARY + 1) {
        let used = (summary.used[index]).min(table.capacity as u64) as usize;
        let at = region.checked_add(table.offset as u64)?;
        let readings: [Vec<u8>; 3] =
            std::array::from_fn(|_| read_bytes(memory, at, used * table.entry_bytes).unwrap_or_default());
        if readings.iter().any(|reading| reading.len() != used * table.entry_bytes) {
            return None;
        }
        for place in 0..used {
            let part = place * table.entry_bytes..(place + 1) * table.entry_bytes;
            let parts = [&readings[0][part.clone()], &readings[1][part.clone()], &readings[2][part]];
            match entry(memory, index, at + (place * table.entry_bytes) as u64, parts) {
                Entry::Whole(bytes) => snapshot.tables[index].push((place as u32, bytes)),
                Entry::Unused => {}
                Entry::Torn => snapshot.torn += 1,
            }
        }
    }
    // Last, so that it counts no less than what was found.
    snapshot.tables[SUMMARY].push((0, read_bytes(memory, region, Summary::BYTES)?));
    Some(snapshot)
}

enum Entry {
    Whole(Vec<u8>),
    Unused,
    Torn,
}

fn entry(memory: &Memory, table: usize, at: u64, [first, second, third]: [&[u8]; 3]) -> Entry {
    if table == HEAP {
        return if second.iter().all(|byte| *byte == 0) {
            Entry::Unused
        } else {
            Entry::Whole(second.to_vec())
        };
    }
    let sequence = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let is_whole = |before: &[u8], after: &[u8]| {
        sequence(before) == sequence(after) && sequence(before).is_multiple_of(2)
    };
    let mut found = is_whole(first, third).then(|| second.to_vec());
    for _ in 0..TRIES {
        if found.is_some() {
            break;
        }
        let again = || read_bytes(memory, at, second.len());
        let (Some(before), Some(bytes), Some(after)) = (again(), again(), again()) else {
            return Entry::Torn;
        };
        found = is_whole(&before, &after).then_some(bytes);
    }
    match found {
        Some(bytes) if is_unused(table, &bytes) => Entry::Unused,
        Some(bytes) => Entry::Whole(bytes),
        None => Entry::Torn,
    }
}

/// Entries that hold nothing need not travel.
fn is_unused(table: usize, bytes: &[u8]) -> bool {
    let sequence = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let is_closed = || layout::File::decode(bytes).is_some_and(|file| file.state == layout::state::CLOSED);
    let sleeps_not = || layout::Sleeper::decode(bytes).is_some_and(|sleeper| sleeper.call == 0);
    let is_free = || layout::Region::decode(bytes).is_some_and(|region| region.end == 0);
    sequence == 0
        || table == FILES && is_closed()
        || table == layout::SLEEPERS && sleeps_not()
        || table == layout::REGIONS && is_free()
}

fn read_bytes(memory: &Memory, at: u64, bytes: usize) -> Option<Vec<u8>> {
    // No address of a program is that high.
    at.checked_add(bytes as u64).filter(|end| *end < 1 << 47)?;
    let mut buffer = vec![0; bytes];
    memory.read(Addr(at), &mut buffer).ok()?;
    Some(buffer)
}
