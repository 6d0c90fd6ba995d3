//! `record`: the program's external state, kept in tables in its own memory, which brant reads from outside.
//!
//! The layout is that of `brant-record`. Nothing here allocates or waits: a place that is being written by another thread is
//! tried for some time, then the event is counted as lost. A closed descriptor is noted before it is closed, an open one after it
//! was opened, so that no other thread can have the number in between.
//!
//! **Forks.** The child of a fork has a copy of the tables. It begins its own record at its first event, by a page that a fork
//! leaves empty. A child that shares its parent's memory until it executes a program (vfork, posix_spawn) is told by its number,
//! and only what it executes is noted: its descriptors are its own.

mod before;
mod calls;
mod files;
mod memory;
mod processes;
mod sleeps;
mod sockets;
mod tables;
mod threads;

use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use brant_record::layout;

use super::system;
use tables::{Tables, field};

/// Holds this process's number; a fork leaves it empty.
static OWN: AtomicPtr<AtomicU32> = AtomicPtr::new(core::ptr::null_mut());
const OWN_BYTES: usize = 4096;

/// Who a caller is.
enum Caller {
    /// The process whose record this is.
    Own(Tables),
    /// A child that has its memory in common with it.
    Sharing(Tables),
}

/// Makes the tables, and notes what there is already.
pub(super) fn prepare(options: &str) -> Result<(), &'static str> {
    let own = system::map_wiped_on_fork(OWN_BYTES);
    let own = own.ok_or("there is no memory that a fork leaves empty (Linux 4.14)")?.cast::<AtomicU32>();
    let tables = Tables::make().ok_or("there is no memory for its tables")?;
    let pid = calls::pid();
    // SAFETY: new memory of zeros, which stays.
    unsafe { &*own }.store(pid, Ordering::Relaxed);
    OWN.store(own, Ordering::Release);
    let is_start = crate::options::value(options, "start").is_some();
    tables.set(field!(origin), if is_start { layout::FROM_START } else { layout::FROM_WRAP });
    begin(tables, pid);
    memory::prepare(tables);
    threads::prepare();
    before::look(tables, is_start);
    tables.set(field!(state), layout::ON);
    tables.publish();
    Ok(())
}

fn begin(tables: Tables, pid: u32) {
    tables.set(field!(pid), pid.into());
    tables.set(field!(parent), calls::parent().into());
    tables.set(field!(since_ns), system::wall_ns());
}

/// No new call comes.
pub(super) fn stop() {
    if let Some(tables) = Tables::current() {
        tables.set(field!(off_ns), system::wall_ns());
        tables.set(field!(state), layout::OFF);
    }
}

/// Nobody is inside any more.
pub(super) fn close() {
    Tables::unmake();
    let own = OWN.swap(core::ptr::null_mut(), Ordering::AcqRel);
    if !own.is_null() {
        // SAFETY: mapped by `prepare`, and nobody uses it.
        unsafe { system::unmap(own.cast(), OWN_BYTES) };
    }
}

/// Who calls; `None` where nothing is to be recorded.
fn caller() -> Option<Caller> {
    let tables = Tables::current()?;
    let own = OWN.load(Ordering::Acquire);
    if own.is_null() {
        return None;
    }
    // SAFETY: it stays as long as mediators run.
    let own = unsafe { &*own };
    let pid = calls::pid();
    let known = own.load(Ordering::Relaxed);
    if known == pid {
        return Some(Caller::Own(tables));
    }
    if known == 0 {
        if own.compare_exchange(0, pid, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            begin_as_child(tables, pid);
        }
        return Some(Caller::Own(tables));
    }
    // Where the kernel does not say: whoever began this one waits for it, and is there.
    let shares = calls::shares_memory(known, pid);
    if shares.unwrap_or_else(|| calls::parent() == known || calls::is_there(known)) {
        return Some(Caller::Sharing(tables));
    }
    // Restored with another number.
    own.store(pid, Ordering::Relaxed);
    tables.set(field!(pid), pid.into());
    Some(Caller::Own(tables))
}

/// The tables, where the caller's descriptors, children and threads are those of the record.
fn own() -> Option<Tables> {
    match caller()? {
        Caller::Own(tables) => Some(tables),
        Caller::Sharing(_) => None,
    }
}

/// A fork: descriptors, regions and the heap are copies of the parent's; processes, threads, sleeps and history begin anew.
fn begin_as_child(tables: Tables, pid: u32) {
    let torn = tables.release_all();
    tables.set(field!(lost), torn.into());
    for field in [
        field!(opened),
        field!(open_failed),
        field!(closed),
        field!(files_not_kept),
        field!(connect_failed),
        field!(processes_made),
        field!(processes_not_kept),
        field!(exec_failed),
        field!(threads_made),
        field!(threads_not_kept),
        field!(sleeps),
        field!(sleep_asked_ns),
        field!(slept_ns),
        field!(sleeps_cut_short),
        field!(sleepers_not_kept),
        field!(break_calls),
    ] {
        tables.set(field, 0);
    }
    for table in [layout::CLOSED, layout::PROCESSES, layout::THREADS, layout::SLEEPERS, layout::STANDARD] {
        tables.clear(table);
    }
    tables.set(field!(origin), layout::FROM_FORK);
    begin(tables, pid);
    files::inherit(tables);
    threads::note_own(tables);
}
