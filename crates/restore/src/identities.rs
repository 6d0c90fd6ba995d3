//! What a restored program without namespaces calls its processes, its host, its terminals and paths: the table
//! (`brant_identity`) that mediators in it look at.
//!
//! A program that was restored so before has one in its image, and so has each program that was executed since: what it calls a
//! process then stands there beside the number that the kernel had for it in the image. The rest has the image's own
//! numbers: so has a process without a table, in a tree where others have one. It was executed without mediators, and knows
//! the kernel's numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use brant_base::{Pid, Tid};
use brant_identity::{Builder, Kind, NAME, TABLE_BYTES, Table, TooLarge};
use brant_image::model::*;
use brant_kernel::make;

use crate::build::files::FdStore;
use crate::{Error, Plan};

/// A process of the tree, stopped, with its true state in all its threads, which the calling thread traces. Nothing of it
/// has run.
#[derive(Debug)]
pub struct Standing {
    /// By its number now.
    pub pid: Pid,
    /// All its threads that have not ended.
    pub threads: Vec<Tid>,
    /// Where it can open a table, if it has none.
    pub table: PathBuf,
    /// It has mediators already, which look at the table. What they were doing when it was frozen, they did with numbers of the image.
    pub is_mediated: bool,
    /// The numbers of the image, and what the kernel calls them now.
    pub numbers: BTreeMap<i32, i32>,
}

/// Why mediators cannot be put on a process.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct Unmediated {
    pub code: &'static str,
    pub why: String,
}

/// The tables of a tree that is being built.
pub(crate) struct Identities {
    known: Vec<Known>,
    /// For processes without one.
    new: OwnedFd,
}

/// A table that the image has.
struct Known {
    id: SharedMemoryId,
    memory: OwnedFd,
    /// As the image had it.
    before: Vec<u8>,
}

/// Whether a process of an image has mediators that look at a table.
pub(crate) fn has_table(checkpoint: &Checkpoint, body: &ProcessBody) -> bool {
    let is_table = |memory: &SharedMemory| is_named(memory) && is_mapped(memory.id, body);
    checkpoint.shared_memory.iter().any(is_table)
}

fn is_named(memory: &SharedMemory) -> bool {
    let is_it = matches!(&memory.kind, SharedMemoryKind::Memfd { name, .. } if name == NAME.as_bytes());
    is_it && memory.bytes == TABLE_BYTES as u64
}

fn is_mapped(wanted: SharedMemoryId, body: &ProcessBody) -> bool {
    let is_it =
        |mapping: &Mapping| matches!(mapping.backing, Backing::Shared { memory, .. } if memory == wanted);
    body.memory.mappings.iter().any(is_it)
}

const MAKING: &str = "making the table of process numbers";
const MODE: u32 = 0o600;

impl Known {
    fn table(&self) -> Table<'_> {
        Table::read(&self.before).unwrap_or(Table::SAME)
    }

    /// All that the image has. Shared memory has been filled.
    fn all(store: &FdStore) -> Result<Vec<Known>, Error> {
        let mut all = Vec::new();
        for memory in &store.checkpoint.shared_memory {
            let fd = store.shared_memory(memory.id, true).and_then(|number| store.borrow(number));
            let Some(fd) = fd.filter(|_| is_named(memory)) else { continue };
            let file = File::from(fd.try_clone_to_owned().map_err(Error::builder(MAKING))?);
            let mut before = vec![0; TABLE_BYTES];
            file.read_exact_at(&mut before, 0).map_err(Error::builder(MAKING))?;
            // A program may call its own memory so.
            if Table::read(&before).is_some() {
                all.push(Known { id: memory.id, memory: file.into(), before });
            }
        }
        Ok(all)
    }
}

/// Where numbers stay, programs that have a table hand it on by this host's brant.
pub(crate) fn renew_brant(store: &FdStore, brant: Option<&Path>) -> Result<(), Error> {
    for known in Known::all(store)? {
        let builder = Builder::same_numbers(&known.table(), brant.map(|path| path.as_os_str().as_bytes()));
        put(&known.memory, &builder)?;
    }
    Ok(())
}

fn put(memory: &OwnedFd, builder: &Builder) -> Result<(), Error> {
    let too_large = |TooLarge| Error::builder(MAKING)(io::ErrorKind::StorageFull.into());
    let bytes = builder.encode().map_err(too_large)?;
    let file = File::from(memory.try_clone().map_err(Error::builder(MAKING))?);
    file.write_all_at(&bytes, 0).map_err(Error::builder(MAKING))
}

impl Identities {
    /// The image's own tables, and a new one. Shared memory has been filled.
    pub(crate) fn open(store: &FdStore) -> Result<Identities, Error> {
        let new = make::memfd(NAME.as_bytes(), TABLE_BYTES as u64, MODE).map_err(Error::builder(MAKING))?;
        Ok(Identities { known: Known::all(store)?, new })
    }

    /// The numbers of all that the image knows, and what the kernel calls them now.
    pub(crate) fn numbers(store: &FdStore) -> BTreeMap<i32, i32> {
        let now = |image: i32| Some((image, store.numbers.find(image)?));
        numbers_of(&store.checkpoint).into_iter().filter_map(now).collect()
    }

    /// What a process calls what had this number in the image.
    pub(crate) fn apparent(&self, body: &ProcessBody, image: i32) -> i32 {
        self.of(body).map_or(Table::SAME, Known::table).apparent(image)
    }

    /// The table that this process has in the image.
    fn of(&self, body: &ProcessBody) -> Option<&Known> {
        self.known.iter().find(|known| is_mapped(known.id, body))
    }

    /// Whether this process has mediators already, which look at a table.
    pub(crate) fn are_known_to(&self, body: &ProcessBody) -> bool {
        self.of(body).is_some()
    }

    /// Where a process of this user that has no table can open one.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.new.as_raw_fd()))
    }

    /// Writes the numbers and names that all tasks of the tree have now.
    pub(crate) fn write(&self, store: &FdStore, plan: &Plan) -> Result<(), Error> {
        put(&self.new, &table_of_now(store, plan, Table::SAME)?)?;
        self.known.iter().try_for_each(|known| put(&known.memory, &table_of_now(store, plan, known.table())?))
    }
}

/// The table of now for whoever had `before`.
fn table_of_now(store: &FdStore, plan: &Plan, before: Table<'_>) -> Result<Builder, Error> {
    let mut builder = Builder::default();
    for image in numbers_of(&store.checkpoint) {
        if let Some(real) = store.numbers.find(image) {
            builder.number(before.apparent(image), real);
        }
    }
    let host =
        before.texts(Kind::Host).next().map_or(store.checkpoint.host.name.as_bytes(), |(name, _)| name);
    if host != plan.host_name.as_bytes() {
        builder.text(Kind::Host, host, b"");
    }
    for (from, to) in before.texts(Kind::Path) {
        builder.text(Kind::Path, from, &plan.path(to));
    }
    for (from, to) in &plan.map_paths {
        builder.text(Kind::Path, trimmed(from), trimmed(to));
    }
    for pair in before.addresses() {
        pair.followed(&plan.map_addresses, |pair| builder.address(&pair));
    }
    plan.map_addresses.iter().for_each(|pair| builder.address(pair));
    for (from, to) in terminals(store, before)? {
        builder.text(Kind::Terminal, &terminal_path(from), &terminal_path(to));
    }
    if let Some(brant) = &plan.brant {
        builder.brant(brant.as_os_str().as_bytes());
    }
    Ok(builder)
}

/// Without a slash at the end.
fn trimmed(path: &[u8]) -> &[u8] {
    path.strip_suffix(b"/").unwrap_or(path)
}

/// Every number of the image that is somebody's: of processes and threads, and of groups, sessions and parents that stand-ins
/// have.
fn numbers_of(checkpoint: &Checkpoint) -> BTreeSet<i32> {
    let threads = checkpoint.processes.iter().flat_map(|p| &p.body).flat_map(|body| &body.threads);
    let processes = checkpoint.processes.iter().flat_map(|p| [p.pid.0, p.ppid.0, p.pgid.0, p.sid.0]);
    threads.map(|thread| thread.tid.0).chain(processes).filter(|number| *number > 0).collect()
}

fn terminal_path(index: u32) -> Vec<u8> {
    format!("/dev/pts/{index}").into_bytes()
}

/// What the program calls its terminals, and the numbers that they have now: as for processes, nobody else has a number that the
/// program knows as another's.
fn terminals(store: &FdStore, before: Table<'_>) -> Result<Vec<(u32, u32)>, Error> {
    let index = |path: &[u8]| std::str::from_utf8(path.strip_prefix(b"/dev/pts/")?).ok()?.parse::<u32>().ok();
    let known: BTreeMap<u32, u32> =
        before.texts(Kind::Terminal).filter_map(|(from, to)| Some((index(to)?, index(from)?))).collect();
    let mut numbers = Builder::default();
    for terminal in &store.checkpoint.terminals {
        let slave = store.terminal_slave(terminal.id).and_then(|number| store.borrow(number));
        let (Some(image), Some(slave)) = (terminal.index, slave) else { continue };
        let link = format!("/proc/self/fd/{}", slave.as_fd().as_raw_fd());
        let now = std::fs::read_link(link).map_err(Error::builder("looking for a pseudo-terminal"))?;
        let now = index(now.as_os_str().as_bytes());
        if let Some(now) = now {
            numbers.number(*known.get(&image).unwrap_or(&image) as i32, now as i32);
        }
    }
    let bytes = numbers.encode().unwrap_or_default();
    let pairs = Table::read(&bytes).into_iter().flat_map(|table| table.pairs());
    Ok(pairs.map(|(from, to)| (from as u32, to as u32)).collect())
}
