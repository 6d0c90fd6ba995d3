//! Terminals: settings, size, sessions, and what is under way in those inside of the tree.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use brant_base::{Pid, Redacted, Refusals};
use brant_image::model::Terminal;
use brant_kernel::descriptor::{self, TerminalQueues, TerminalState};

use super::files::Handles;
use crate::error::Error;
use crate::files::{Place, Survey, TerminalFound};
use crate::refusals;

pub(crate) fn collect(
    survey: &Survey,
    handles: &mut Handles,
    refusals: &mut Refusals,
) -> Result<Vec<Terminal>, Error> {
    survey.terminals.iter().map(|found| one(survey, found, handles, refusals)).collect()
}

fn one(
    survey: &Survey,
    found: &TerminalFound,
    handles: &mut Handles,
    refusals: &mut Refusals,
) -> Result<Terminal, Error> {
    let failed = |error| Error::Descriptor { what: "reading the state of a terminal".to_owned(), error };
    let master = found.masters.first().map(|id| survey.descriptions.get(*id).place);
    let slave = found.slaves.first().map(|id| survey.descriptions.get(*id).place);
    let handle = match master.or(slave) {
        Some(place) => handles.duplicate(place)?,
        None => by_path(survey, found)?,
    };
    let state = descriptor::terminal_state(handle.as_fd()).map_err(failed)?;
    let slave_state = match slave {
        // EIO and the like: its state is the master's then.
        Some(place) => descriptor::terminal_state(handles.duplicate(place)?.as_fd()).ok(),
        None => None,
    };
    let queues = match master {
        Some(place) => {
            let typed = slave_state.as_ref().map(|state| state.readable_bytes);
            queues((place, slave), &state, typed, handles, refusals)?
        }
        None => TerminalQueues::default(),
    };
    let controlled = found.controls.first().copied();
    let session =
        controlled.and_then(|member| survey.sessions.places[member]).map_or(Pid(0), |place| place.session);
    Ok(Terminal {
        id: found.id,
        index: found.index,
        inside: found.is_inside(),
        settings: state.settings,
        window: state.window,
        session,
        foreground: controlled.map_or(Pid(0), |member| survey.sessions.foreground(member)),
        input: Redacted(queues.input),
        output: Redacted(queues.output),
        locked: state.locked,
        packet_mode: state.packet_mode,
        // Each side has a flag of its own, and a master's means nothing.
        exclusive: slave_state.is_some_and(|state| state.exclusive),
    })
}

/// What is under way in a terminal inside of the tree. It has to be read out and put back, which is left alone where
/// there is nothing to be seen: half a line that was typed in canonical mode does not show.
fn queues(
    (master, slave): (Place, Option<Place>),
    state: &TerminalState,
    typed_bytes: Option<usize>,
    handles: &mut Handles,
    refusals: &mut Refusals,
) -> Result<TerminalQueues, Error> {
    let visible = state.readable_bytes > 0 || typed_bytes.unwrap_or(0) > 0;
    if !visible && (slave.is_none() || !is_canonical(&state.settings)) {
        return Ok(TerminalQueues::default());
    }
    let slave = slave.map(|place| handles.duplicate(place)).transpose()?;
    let copied = descriptor::copy_terminal_queues(
        handles.duplicate(master)?.as_fd(),
        slave.as_ref().map(|slave| slave.as_fd()),
    );
    let why = match copied {
        Ok(queues) if !queues.has_typed_nul => return Ok(queues),
        Ok(_) => "a NUL was typed into it, which cannot be told from an end of file".to_owned(),
        // A slave that cannot be opened, where nothing is to be seen.
        Err(error) if !visible && matches!(error.raw_os_error(), Some(libc::EIO | libc::EBUSY)) => {
            return Ok(TerminalQueues::default());
        }
        Err(error) => format!("bytes in it wait to be read, which cannot be copied now: {error}"),
    };
    refusals.push(refusals::descriptor(
        "B-0336",
        master.holder,
        master.number,
        "a pseudo-terminal",
        why,
        "try again in a moment",
    ));
    Ok(TerminalQueues::default())
}

/// ICANON in `c_lflag`, the fourth word of `struct termios2`.
fn is_canonical(settings: &[u8]) -> bool {
    let local =
        settings.get(12..16).map_or(0, |word| u32::from_ne_bytes(word.try_into().expect("four bytes")));
    local & libc::ICANON != 0
}

/// A controlling terminal that no process of the tree has a descriptor of.
fn by_path(survey: &Survey, found: &TerminalFound) -> Result<OwnedFd, Error> {
    // A zombie's root directory cannot be reached. All of the tree have the same mounts; those whose terminal it is
    // may all have ended.
    let controlled = found.controls.iter().map(|member| &survey.members[*member]);
    let mut living = controlled.chain(&survey.members).filter(|member| !member.zombie);
    let holder = living.next().map_or(Pid(0), |member| member.host);
    let path = match found.index {
        Some(index) => format!("/proc/{holder}/root/dev/pts/{index}"),
        None => format!("/proc/{holder}/root/dev/console"),
    };
    let opened =
        std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK).open(&path);
    match opened {
        Ok(opened) => Ok(opened.into()),
        Err(error) => Err(Error::Descriptor { what: format!("opening the terminal {path}"), error }),
    }
}
