//! Terminals: settings, size, sessions, and what is under way in those inside of the tree.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use brant_base::{Pid, Redacted, Refusals};
use brant_image::model::Terminal;
use brant_kernel::descriptor::{self, TerminalState};

use super::files::Handles;
use crate::error::Error;
use crate::files::{Survey, TerminalFound};
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
    if found.is_inside() {
        let slave_state = match slave {
            Some(place) => descriptor::terminal_state(handles.duplicate(place)?.as_fd()).map_err(failed)?,
            None => TerminalState::default(),
        };
        if state.readable_bytes > 0 || slave_state.readable_bytes > 0 {
            let place = master.unwrap_or_else(|| unreachable!("inside: the master is in the tree"));
            refusals.push(refusals::descriptor(
                "B-0336",
                place.holder,
                place.number,
                "a pseudo-terminal",
                "bytes in it wait to be read",
                "try again in a moment",
            ));
        }
    }
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
        input: Redacted::default(),
        output: Redacted::default(),
        locked: state.locked,
        packet_mode: state.packet_mode,
        exclusive: state.exclusive,
    })
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
