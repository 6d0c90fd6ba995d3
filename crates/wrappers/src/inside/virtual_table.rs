//! `virtual`: where the table is (`brant_identity`), and how the mediators look at it.
//!
//! It is memory that all processes of the program share and none of them writes to. A restore writes it while none of them runs.

use core::ffi::CStr;

use brant_identity::{Address, AddressPair, HEAD_BYTES, Kind, NAME, TABLE_BYTES, Table};

use super::system::{self, Once};
use crate::options::{self, PATH_BYTES_MAX, value};

static TABLE: Once<&'static [u8]> = Once::new();

/// Texts that options give.
const TEXTS_BYTES_MAX: usize = 8192;
const MEMORY: &CStr = c"brant-identities";

pub(super) fn prepare(options: &str) -> Result<(), &'static str> {
    const { assert!(MEMORY.count_bytes() == NAME.len()) };
    let file = match value(options, "table") {
        Some(path) => open(path)?,
        None => make(options)?,
    };
    let mapped = system::map_shared(file, TABLE_BYTES);
    system::close(file);
    let bytes = mapped.ok_or("the table cannot be mapped")?;
    Table::read(bytes).ok_or("the table is none")?;
    system::always_ask_for_process();
    TABLE.set(bytes);
    Ok(())
}

fn open(path: &str) -> Result<usize, &'static str> {
    let mut room = [0; PATH_BYTES_MAX + 1];
    room.get_mut(..path.len()).ok_or("the table's path is too long")?.copy_from_slice(path.as_bytes());
    system::open_to_read(&room[..=path.len()]).map_err(|_| "the table cannot be opened")
}

/// A table in which numbers stand for themselves, with the names that options give.
fn make(options: &str) -> Result<usize, &'static str> {
    let mut room = [0; HEAD_BYTES + TEXTS_BYTES_MAX];
    let mut used = HEAD_BYTES;
    let mut put = |kind: Kind, from: &[u8], to: &[u8]| {
        let lengths = [from.len() as u16, to.len() as u16].map(u16::to_le_bytes);
        let parts = [&[kind.number()], &lengths[0][..], &lengths[1][..], from, to];
        for part in parts {
            let place = room.get_mut(used..used + part.len()).ok_or("its maps are too long")?;
            place.copy_from_slice(part);
            used += part.len();
        }
        Ok::<(), &'static str>(())
    };
    for (key, value) in options::each(options) {
        match (key, value) {
            ("host", Some(name)) => put(Kind::Host, name.as_bytes(), b"")?,
            ("map", Some(pair)) => {
                let (from, to) = pair.split_once('=').ok_or("a map is no pair")?;
                let [from, to] = [from, to].map(|path| path.trim_end_matches('/').as_bytes());
                put(Kind::Path, from, to)?;
            }
            ("address", Some(pair)) => {
                let pair = AddressPair::parse(pair).ok_or("a pair of addresses is none")?;
                let [(from, from_bytes), (to, to_bytes)] = [pair.from, pair.to].map(Address::encode);
                put(Kind::Address, &from[..from_bytes], &to[..to_bytes])?;
            }
            _ => {}
        }
    }
    room[..HEAD_BYTES].copy_from_slice(&brant_identity::head(0, used - HEAD_BYTES));
    let file = system::memory_file(MEMORY, TABLE_BYTES).map_err(|_| "it cannot make its table")?;
    match system::write_all(file, &room[..used]) {
        true => Ok(file),
        false => {
            system::close(file);
            Err("it cannot write its table")
        }
    }
}

/// The table as it is now. Reading it anew costs nothing, and it changes with every restore.
pub(super) fn table() -> Table<'static> {
    TABLE.get().and_then(|bytes| Table::read(bytes)).unwrap_or(Table::SAME)
}

/// What the kernel calls a process or thread; what is no number of one stays.
pub(super) fn real(number: usize) -> usize {
    match number as i32 {
        named if named > 0 => table().real(named) as usize,
        _ => number,
    }
}

/// As [`real`], where a negative number is a group.
pub(super) fn real_or_group(number: usize) -> usize {
    match number as i32 {
        group if group < -1 && group != i32::MIN => -(table().real(-group) as isize) as usize,
        _ => real(number),
    }
}

/// What the program calls a process or thread; errors and zero stay.
pub(super) fn apparent(number: isize) -> isize {
    match i32::try_from(number) {
        Ok(named) if named > 0 => table().apparent(named) as isize,
        _ => number,
    }
}

/// Changes a number of a process in the program's memory to what the program calls it: at an address that the kernel has
/// just written to.
///
/// # Safety
///
/// The kernel has written four bytes there within this call.
pub(super) unsafe fn show(at: usize) {
    let place = at as *mut i32;
    // SAFETY: promised by the caller.
    let found = unsafe { place.read_unaligned() };
    let shown = apparent(found as isize) as i32;
    if shown != found {
        // SAFETY: promised by the caller.
        unsafe { place.write_unaligned(shown) };
    }
}
