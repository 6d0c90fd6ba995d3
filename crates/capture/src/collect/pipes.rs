//! Pipes and fifos with what is in flight in them. Nothing is taken out (tee(2)).

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use brant_base::Redacted;
use brant_image::model::Pipe;
use brant_kernel::descriptor::{peek_pipe, pipe_capacity_bytes, queued_bytes};

use super::files::Handles;
use crate::error::Error;
use crate::files::{PipeFound, Survey};

pub(crate) fn collect(survey: &Survey, handles: &mut Handles) -> Result<Vec<Pipe>, Error> {
    survey.pipes.iter().map(|found| one(survey, found, handles)).collect()
}

fn one(survey: &Survey, found: &PipeFound, handles: &mut Handles) -> Result<Pipe, Error> {
    let failed = |error: io::Error| Error::Descriptor {
        what: "reading what is in flight in a pipe".to_owned(),
        error,
    };
    let ends = || found.descriptions.iter().map(|id| survey.descriptions.get(*id));
    let reader = ends().find(|description| description.reads());
    let some = reader.unwrap_or_else(|| survey.descriptions.get(found.descriptions[0]));
    let duplicate = handles.duplicate(some.place)?;
    let capacity_bytes = pipe_capacity_bytes(duplicate.as_fd()).map_err(failed)?;
    let pieces = if queued_bytes(duplicate.as_fd()).map_err(failed)? == 0 {
        Vec::new()
    } else if reader.is_some() {
        peek_pipe(duplicate.as_fd()).map_err(failed)?
    } else if found.fifo.is_some() {
        // Nobody reads it now, but somebody may open it for that.
        peek_pipe(reopened(&duplicate).map_err(failed)?.as_fd()).map_err(failed)?
    } else {
        // Nobody can read from it any more.
        Vec::new()
    };
    let packet_mode = libc::O_DIRECT as u32;
    let packets = pieces.len() > 1 || ends().any(|end| end.writes() && end.flags() & packet_mode != 0);
    Ok(Pipe {
        id: found.id,
        fifo: found.fifo.clone(),
        capacity_bytes,
        in_flight: pieces.into_iter().map(Redacted).collect(),
        packets,
    })
}

/// A reader of ours for a moment.
fn reopened(duplicate: &OwnedFd) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(duplicate));
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    Ok(opened.into())
}
