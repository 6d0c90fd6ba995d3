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
    let queues = match master {
        Some(place) => queues(place, slave, &state, handles, refusals)?,
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
        exclusive: state.exclusive,
    })
}

/// What is under way in a terminal inside of the tree. It has to be read out and put back, which is left alone where
/// there is nothing to be seen: half a line that was typed in canonical mode does not show.
fn queues(
    master: Place,
    slave: Option<Place>,
    state: &TerminalState,
    handles: &mut Handles,
    refusals: &mut Refusals,
) -> Result<TerminalQueues, Error> {
    let typed = match slave {
        Some(place) => {
            descriptor::terminal_state(handles.duplicate(place)?.as_fd()).map_or(0, |it| it.readable_bytes)
        }
        None => 0,
    };
    let visible = state.readable_bytes > 0 || typed > 0;
    if !visible && (slave.is_none() || !is_canonical(&state.settings)) {
        return Ok(TerminalQueues::default());
    }
    match descriptor::copy_terminal_queues(handles.duplicate(master)?.as_fd()) {
        Ok(queues) => Ok(queues),
        Err(_) if !visible => Ok(TerminalQueues::default()),
        Err(error) => {
            refusals.push(refusals::descriptor(
                "B-0336",
                master.holder,
                master.number,
                "a pseudo-terminal",
                format!("bytes in it wait to be read, which cannot be copied now: {error}"),
                "try again in a moment",
            ));
            Ok(TerminalQueues::default())
        }
    }
}

/// ICANON in `c_lflag`, the fourth word of `struct termios2`.
fn is_canonical(settings: &[u8]) -> bool {
    let local =
        settings.get(12..16).map_or(0, |word| u32::from_ne_bytes(word.try_into().expect("four bytes")));
    local & libc::ICANON != 0
}

/// A controlling terminal that no process of the tree has a descriptor of.
fn by_path(survey: &Survey, found: &TerminalFound) -> Result<OwnedFd, Error> {
    // A zombie's root directory cannot be reached.
    let mut living =
        found.controls.iter().map(|member| &survey.members[*member]).filter(|member| !member.zombie);
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
