//! Entering the namespaces of a restore.

use brant_image::model::Checkpoint;
use brant_kernel::namespace::{self, ClockStart, Entered, InsideIdentity};

use crate::Error;

/// Moves the builder into fresh namespaces for `checkpoint`: its children see the pids, the clocks and (for a
/// plain user) the uid of the image. On failure the builder has changed but nothing else has.
pub(crate) fn enter(checkpoint: &Checkpoint) -> Result<Entered, Error> {
    let credentials = checkpoint
        .processes
        .iter()
        .find(|process| process.pid == checkpoint.root)
        .and_then(|process| process.body.as_ref())
        .map(|body| body.credentials.clone())
        .unwrap_or_default();
    let inside = InsideIdentity { uid: credentials.uids[1], gid: credentials.gids[1] };
    let clocks = ClockStart {
        monotonic_ns: checkpoint.clocks.monotonic_ns,
        boottime_ns: checkpoint.clocks.boottime_ns,
    };
    Ok(namespace::enter(inside, clocks)?)
}
