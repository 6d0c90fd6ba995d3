//! Whether a tree in a mount namespace of its own sees the same file systems at the same places as we do.
//!
//! A restored job has one that was a copy of ours, but for /proc and terminals. The host goes on to mount and unmount things, which
//! reaches the copy only where mounts are shared (mount_namespaces(7)). What has been mounted here since does no harm: a file
//! that it hides is found by its path (B-0341). What is mounted only there may be the program's own, and would be missed.

use std::path::Path;

use brant_base::Pid;
use brant_kernel::proc::{self, Device};

use crate::error::Error;

/// Where a mount is, what of a file system it shows, and which.
type Place = (Vec<u8>, Vec<u8>, Device);

/// A mount point of a process at which something else is to be seen here.
pub(crate) fn foreign_point(pid: Pid) -> Result<Option<Vec<u8>>, Error> {
    // Something may be mounted between the looks at the two of us, so it counts only if it is seen again.
    let first = foreign(pid)?;
    if first.is_empty() {
        return Ok(None);
    }
    Ok(foreign(pid)?.into_iter().find(|place| first.contains(place)).map(|(point, ..)| point))
}

fn foreign(pid: Pid) -> Result<Vec<Place>, Error> {
    let own = places(Pid(std::process::id() as i32))?;
    let mut theirs = places(pid)?;
    theirs.retain(|place| !own.contains(place) && !is_gone(&place.0));
    Ok(theirs)
}

/// Whether a mount point was taken away here with what was mounted: nobody has put anything else over it.
fn is_gone(point: &[u8]) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    let found = Path::new(std::ffi::OsStr::from_bytes(point)).symlink_metadata();
    found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

fn places(pid: Pid) -> Result<Vec<Place>, Error> {
    let is_renewed = |point: &[u8]| {
        point == b"/proc"
            || point.starts_with(b"/proc/")
            || point.starts_with(b"/dev/pts")
            || point == b"/dev/ptmx"
    };
    let mounts = proc::mounts(pid)?.into_iter().filter(|mount| !is_renewed(&mount.point));
    Ok(mounts.map(|mount| (mount.point, mount.root, mount.device)).collect())
}
