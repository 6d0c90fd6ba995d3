//! The tables of one process at one moment, as bytes that travel.
//!
//! The encoding: the magic, version (u32), number of tables (u32), entries that could not be read whole (u64); then for each
//! table the size of an entry (u32), their number (u32), and each with its place (u32) before it.

use crate::layout::{MAGIC, Summary, TABLE_COUNT, TABLES, VERSION};

/// What was read of one process.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub(crate) tables: [Vec<(u32, Vec<u8>)>; TABLE_COUNT],
    /// Entries that were being written all the time.
    pub(crate) torn: u64,
}

/// Why bytes are no snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    NotARecord,
    /// Of another version of the layout.
    Version(u32),
    /// It contradicts itself, or is cut short.
    Damaged(&'static str),
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Malformed::NotARecord => f.write_str("it is no record"),
            Malformed::Version(found) => {
                write!(f, "it is a record of version {found}; this brant reads version {VERSION}")
            }
            Malformed::Damaged(what) => write!(f, "it is damaged: {what}"),
        }
    }
}

impl std::error::Error for Malformed {}

/// Contents are a program's memory, which never reaches a log.
impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let counts: Vec<usize> = self.tables.iter().map(Vec::len).collect();
        write!(f, "snapshot of {counts:?} entries")
    }
}

impl Snapshot {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(TABLE_COUNT as u32).to_le_bytes());
        out.extend_from_slice(&self.torn.to_le_bytes());
        for (entries, table) in self.tables.iter().zip(&TABLES) {
            out.extend_from_slice(&(table.entry_bytes as u32).to_le_bytes());
            out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
            for (index, bytes) in entries {
                out.extend_from_slice(&index.to_le_bytes());
                out.extend_from_slice(bytes);
            }
        }
        out
    }

    /// From bytes that may be anything.
    pub fn decode(bytes: &[u8]) -> Result<Snapshot, Malformed> {
        let mut rest = bytes;
        if take(&mut rest, MAGIC.len()).ok() != Some(&MAGIC[..]) {
            return Err(Malformed::NotARecord);
        }
        match take_u32(&mut rest)? {
            VERSION => {}
            other => return Err(Malformed::Version(other)),
        }
        if take_u32(&mut rest)? as usize != TABLE_COUNT {
            return Err(Malformed::Damaged("it has another number of tables"));
        }
        let torn = u64::from(take_u32(&mut rest)?) | u64::from(take_u32(&mut rest)?) << 32;
        let mut tables = [const { Vec::new() }; TABLE_COUNT];
        for (entries, table) in tables.iter_mut().zip(&TABLES) {
            let (entry_bytes, count) = (take_u32(&mut rest)? as usize, take_u32(&mut rest)? as usize);
            if entry_bytes != table.entry_bytes {
                return Err(Malformed::Damaged("its entries have another size"));
            }
            if count > table.capacity {
                return Err(Malformed::Damaged("a table has more entries than there is room for"));
            }
            let mut next = 0;
            for _ in 0..count {
                let index = take_u32(&mut rest)?;
                if index < next || index as usize >= table.capacity {
                    return Err(Malformed::Damaged("an entry is at no place of its table"));
                }
                next = index + 1;
                entries.push((index, take(&mut rest, entry_bytes)?.to_vec()));
            }
        }
        if !rest.is_empty() {
            return Err(Malformed::Damaged("bytes follow its end"));
        }
        let snapshot = Snapshot { tables, torn };
        snapshot.summary().ok_or(Malformed::Damaged("it has no summary"))?;
        Ok(snapshot)
    }

    pub(crate) fn summary(&self) -> Option<Summary> {
        Summary::decode(&self.tables[crate::layout::SUMMARY].first()?.1)
    }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], Malformed> {
    let (taken, left) = rest.split_at_checked(count).ok_or(Malformed::Damaged("it is cut short"))?;
    *rest = left;
    Ok(taken)
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, Malformed> {
    take(rest, 4).map(|word| u32::from_le_bytes(word.try_into().expect("four")))
}
