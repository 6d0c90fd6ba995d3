//! The table of process numbers (`brant_identity`) of a program without namespaces, for a program that it executes.
//!
//! The new program gets a copy in memory of its own, as nobody can open memory that another process has only mapped. A restore
//! writes each table of a tree, so that they say the same.
//!
//! Its C library has asked for the thread's number before anything was mediated, and keeps it. There the number is put that the
//! program is told from then on.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

use brant_base::{Addr, Pid, Tid};
use brant_identity::{NAME, TABLE_BYTES, Table};
use brant_kernel::proc::{self, MapKind};
use brant_kernel::remote::Memory;
use brant_kernel::{make, ptrace};

use crate::Wrapper;
use crate::definitions;
use crate::error::Error;

/// The wrapper that looks at a table.
pub(super) const WRAPPER: &str = "virtual";

/// A table, in memory that another process can open as long as this is there.
pub(super) struct Inherited {
    bytes: Vec<u8>,
    memory: File,
}

impl Inherited {
    /// Copies the table of a process, where it has one that is to be handed on: `is_asked`, or because a restore wants it.
    pub(super) fn of(pid: Pid, is_asked: bool) -> Result<Option<Inherited>, Error> {
        let memory = Memory::open(pid).map_err(|error| Error::NotAllowed(pid, error))?;
        let maps = proc::maps(pid).map_err(|error| Error::looking(pid, error))?;
        let tables = maps.iter().filter(|entry| {
            let is_named = matches!(&entry.kind, MapKind::Memfd(name) if name == NAME.as_bytes());
            is_named && entry.range.bytes() == TABLE_BYTES as u64
        });
        for entry in tables {
            let mut bytes = vec![0; TABLE_BYTES];
            let read = memory.read(entry.range.start(), &mut bytes);
            let is_wanted = |table: Table<'_>| is_asked || table.brant().is_some();
            if read.is_err() || !Table::read(&bytes).is_some_and(is_wanted) {
                continue;
            }
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            let failed = |error| Error::thread(Tid(pid.0), "copying its table of numbers", error);
            let memory = make::memfd(NAME.as_bytes(), TABLE_BYTES as u64, 0o600).map_err(failed)?;
            let memory = File::from(memory);
            memory.write_all_at(&bytes[..used], 0).map_err(failed)?;
            return Ok(Some(Inherited { bytes, memory }));
        }
        Ok(None)
    }

    /// What looks at it in the new program.
    pub(super) fn wrapper(&self) -> Result<Wrapper, Error> {
        let options = format!("table=/proc/{}/fd/{}", std::process::id(), self.memory.as_raw_fd());
        definitions::shipped(WRAPPER, &options)
    }

    /// Puts the number that the only thread of `pid` is told where its C library keeps the kernel's.
    pub(super) fn tell_library(&self, pid: Pid) -> Result<(), Error> {
        // `tid` of `struct pthread`, from the thread pointer on: in glibc, and in musl.
        const PLACES: [u64; 2] = [0x2d0, 0x30];
        let shown = Table::read(&self.bytes).unwrap_or(Table::SAME).apparent(pid.0);
        if shown == pid.0 {
            return Ok(());
        }
        let tid = Tid(pid.0);
        let failed = |error| Error::thread(tid, "telling its C library its number", error);
        let memory = Memory::open(pid).map_err(|error| Error::NotAllowed(pid, error))?;
        let base = ptrace::registers(tid).map_err(failed)?.fs_base;
        let has_it = |at: &u64| memory.read_value::<i32>(Addr(*at)).is_ok_and(|kept| kept == pid.0);
        let place = PLACES.iter().map(|offset| base + offset).find(has_it);
        let unknown = || Error::Follow("where its C library keeps its number is not known".to_owned());
        memory.write(Addr(place.ok_or_else(unknown)?), &shown.to_le_bytes()).map_err(failed)
    }
}
