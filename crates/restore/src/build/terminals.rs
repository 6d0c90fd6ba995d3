//! Pseudo-terminals: in an instance of their own, under their old numbers.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use brant_image::model::*;
use brant_kernel::make;

use super::files::FdStore;
use crate::Error;

/// Opens a terminal for each of the image. /dev/pts is the tree's own and empty.
pub(super) fn open_all(store: &mut FdStore) -> Result<(), Error> {
    if store.checkpoint.terminals.is_empty() {
        return Ok(());
    }
    let failed = || Error::builder("opening a pseudo-terminal");
    let wanted: BTreeMap<u32, Terminal> = store
        .checkpoint
        .terminals
        .iter()
        .map(|terminal| (terminal.index.unwrap_or(u32::MAX), terminal.clone()))
        .collect();
    let largest = wanted.keys().copied().filter(|index| *index != u32::MAX).max().unwrap_or(0);
    // The kernel gives out the lowest free number; those in between are closed again.
    let mut between: Vec<(OwnedFd, OwnedFd)> = Vec::new();
    for index in 0..=largest {
        let (master, slave) = make::terminal().map_err(failed())?;
        match wanted.get(&index) {
            Some(terminal) => finish(store, terminal, master, slave)?,
            None => between.push((master, slave)),
        }
    }
    if let Some(terminal) = wanted.get(&u32::MAX) {
        let (master, slave) = make::terminal().map_err(failed())?;
        finish(store, terminal, master, slave)?;
    }
    Ok(())
}

fn finish(store: &mut FdStore, terminal: &Terminal, master: OwnedFd, slave: OwnedFd) -> Result<(), Error> {
    let failed = || Error::builder("setting up a pseudo-terminal");
    if terminal.settings.len() == 44 {
        make::set_terminal_settings(&slave, &terminal.settings).map_err(failed())?;
    }
    make::set_window(&slave, terminal.window).map_err(failed())?;
    make::set_terminal_switches(&master, terminal.locked, terminal.packet_mode).map_err(failed())?;
    store.put_terminal(terminal.id, master, slave)
}
