//! `/proc/locks` and the `lock:` lines of fdinfo.

use brant_base::Pid;

use super::maps::Device;
use super::text::{Fields, ParseError, lines, unsigned, unsigned_32};
use super::{ProcError, Subject, read_parsed};

/// A lock that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockEntry {
    pub kind: LockKind,
    /// A write lock, a write lease.
    pub exclusive: bool,
    /// Who took it, in the reader's pid namespace; -1 for OFD locks, which no process owns. A flock lock
    /// belongs to the description whoever took it.
    pub owner: Pid,
    pub device: Device,
    pub inode: u64,
    /// First byte.
    pub start: u64,
    /// Last byte; `None` is up to the end of the file however it grows.
    pub last: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// flock(2)
    Flock,
    /// F_SETLK: owned by the process.
    Posix,
    /// F_OFD_SETLK: owned by the open file description.
    Ofd,
    /// F_SETLEASE, delegations and kinds that are not known here.
    Lease,
}

impl LockEntry {
    /// Bytes from `start`; 0 is up to the end of the file, as in `struct flock`.
    pub fn length(&self) -> u64 {
        match self.last {
            Some(last) => last.saturating_sub(self.start).saturating_add(1),
            None => 0,
        }
    }
}

/// Every lock that is held on this machine and visible in our pid namespace. Those who wait are left out.
pub fn locks() -> Result<Vec<LockEntry>, ProcError> {
    read_parsed(Subject::System, "locks", parse_locks)
}

/// Parses the file.
pub fn parse_locks(bytes: &[u8]) -> Result<Vec<LockEntry>, ParseError> {
    let mut entries = Vec::new();
    for (number, line) in lines(bytes) {
        entries.extend(parse_lock(line).map_err(|error| error.at(number))?);
    }
    Ok(entries)
}

/// Parses `1: POSIX  ADVISORY  READ 12315 fe:00:10010815 5 14`. `None` for one that waits (`1: -> ...`).
pub fn parse_lock(line: &[u8]) -> Result<Option<LockEntry>, ParseError> {
    let mut fields = Fields::new(line);
    fields.word("a number")?;
    let kind = match fields.word("a kind of lock")? {
        b"->" => return Ok(None),
        b"FLOCK" => LockKind::Flock,
        b"POSIX" | b"ACCESS" => LockKind::Posix,
        b"OFDLCK" => LockKind::Ofd,
        _ => LockKind::Lease,
    };
    fields.word("a mode")?;
    let exclusive = fields.word("READ or WRITE")? == b"WRITE";
    let owner = fields.signed("an owner")?.try_into().map_err(|_| ParseError::new(1, "an owner"))?;
    let (device, inode) = parse_file(fields.word("a file")?).ok_or(ParseError::new(1, "a file"))?;
    let start = fields.number(10, "a start")?;
    let last = match fields.word("an end")? {
        b"EOF" => None,
        word => Some(unsigned(word, 10).ok_or(ParseError::new(1, "an end"))?),
    };
    Ok(Some(LockEntry { kind, exclusive, owner: Pid(owner), device, inode, start, last }))
}

/// `fe:00:10010815`, or `<none>` for a file that is going away.
fn parse_file(word: &[u8]) -> Option<(Device, u64)> {
    if word.starts_with(b"<none>") {
        return Some((Device::default(), 0));
    }
    let mut parts = word.split(|&byte| byte == b':');
    let major = unsigned_32(parts.next()?, 16)?;
    let minor = unsigned_32(parts.next()?, 16)?;
    let inode = unsigned(parts.next()?, 10)?;
    Some((Device { major, minor }, inode))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SAMPLE: &[u8] = b"1: OFDLCK ADVISORY  READ -1 fe:00:10010815 100 EOF\n\
        2: POSIX  ADVISORY  READ 12315 fe:00:10010815 5 14\n\
        2: -> POSIX  ADVISORY  WRITE 12316 fe:00:10010815 5 14\n\
        3: FLOCK  ADVISORY  WRITE 12315 fe:00:10010815 0 EOF\n\
        4: LEASE  ACTIVE    READ  12315 fe:00:10010815 0 EOF\n";

    #[test]
    fn all_kinds_are_told_apart() {
        let entries = parse_locks(SAMPLE).unwrap();
        let kinds: Vec<_> = entries.iter().map(|entry| entry.kind).collect();
        assert_eq!(kinds, [LockKind::Ofd, LockKind::Posix, LockKind::Flock, LockKind::Lease]);
        assert_eq!((entries[0].owner, entries[0].start, entries[0].length()), (Pid(-1), 100, 0));
        assert_eq!((entries[1].exclusive, entries[1].start, entries[1].length()), (false, 5, 10));
        assert_eq!((entries[2].exclusive, entries[2].inode), (true, 10010815));
        assert_eq!(entries[2].device, Device { major: 254, minor: 0 });
    }

    #[test]
    fn the_systems_are_read() {
        locks().unwrap();
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse_locks(&bytes);
        }
    }
}
