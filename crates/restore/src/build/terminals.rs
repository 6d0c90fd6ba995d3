//! Pseudo-terminals: in an instance of their own, under their old numbers, with what was under way in them. Without mounts of
//! the tree's own they are the host's, under numbers of its choice.
//!
//! Facts relied upon (ioctl_tty(2)): the kernel gives out the lowest free number. A locked slave cannot be opened, so
//! locks and the like are set last.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use brant_image::model::*;
use brant_kernel::descriptor::{TerminalQueues, fill_terminal_queues};
use brant_kernel::make;

use super::files::FdStore;
use crate::Error;

/// `struct termios2`: four flag words of four bytes, the line discipline, 19 control characters, two speeds.
const SETTINGS_BYTES: usize = 44;

/// Opens a terminal for each of the image. /dev/pts is the tree's own and empty.
pub(super) fn open_all(store: &mut FdStore) -> Result<(), Error> {
    let failed = || Error::builder("opening a pseudo-terminal");
    let terminals = store.checkpoint.terminals.clone();
    let wanted: BTreeMap<u32, &Terminal> =
        terminals.iter().filter_map(|terminal| Some((terminal.index?, terminal))).collect();
    if store.numbers.are_given() {
        for terminal in &terminals {
            let (master, slave) = make::terminal().map_err(failed())?;
            prepare(store, terminal, master, slave)?;
        }
        return Ok(());
    }
    let mut between: Vec<OwnedFd> = Vec::new();
    for index in 0..wanted.last_key_value().map_or(0, |(last, _)| last + 1) {
        match wanted.get(&index) {
            Some(terminal) => {
                let (master, slave) = make::terminal().map_err(failed())?;
                prepare(store, terminal, master, slave)?;
            }
            None => between.push(make::terminal_master().map_err(failed())?),
        }
    }
    // The console and its like come back as pseudo-terminals with a number of the kernel's choice.
    for terminal in terminals.iter().filter(|terminal| terminal.index.is_none()) {
        let (master, slave) = make::terminal().map_err(failed())?;
        prepare(store, terminal, master, slave)?;
    }
    Ok(())
}

fn prepare(store: &mut FdStore, terminal: &Terminal, master: OwnedFd, slave: OwnedFd) -> Result<(), Error> {
    let failed = || Error::builder("setting up a pseudo-terminal");
    if terminal.settings.len() == SETTINGS_BYTES {
        make::set_terminal_settings(&slave, &terminal.settings).map_err(failed())?;
        put_back(terminal, &master).map_err(Error::builder("putting bytes back into a pseudo-terminal"))?;
    }
    make::set_window(&slave, terminal.window).map_err(failed())?;
    store.put_terminal(terminal.id, master, slave)
}

/// What was under way, as the settings have it.
fn put_back(terminal: &Terminal, master: &OwnedFd) -> io::Result<()> {
    if terminal.input.0.is_empty() && terminal.output.0.is_empty() {
        return Ok(());
    }
    let (input, output) = (terminal.input.0.clone(), terminal.output.0.clone());
    let queues = TerminalQueues { input, output, has_typed_nul: false };
    fill_terminal_queues(master.as_fd(), &queues)
}

/// What would be in the way of opening: the last thing that is set.
pub(super) fn lock(store: &FdStore) -> Result<(), Error> {
    let failed = || Error::builder("locking a pseudo-terminal");
    for terminal in &store.checkpoint.terminals {
        let side = |number: Option<i32>| number.and_then(|number| store.borrow(number));
        let Some(master) = side(store.terminal_master(terminal.id)) else { continue };
        if terminal.locked || terminal.packet_mode {
            make::set_terminal_switches(master.as_fd(), terminal.locked, terminal.packet_mode)
                .map_err(failed())?;
        }
        if let Some(slave) = side(store.terminal_slave(terminal.id))
            && terminal.exclusive
        {
            make::set_terminal_exclusive(slave).map_err(failed())?;
        }
    }
    Ok(())
}
