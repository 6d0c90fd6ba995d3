//! Pipes and fifos with what is in flight.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use brant_image::model::*;
use brant_kernel::make;

use super::disk::path_error;
use super::files::FdStore;
use crate::Error;

const ACCESS_MODE: u32 = libc::O_ACCMODE as u32;

/// Makes every pipe, fills it, and opens the descriptions of its ends.
pub(super) fn make_all(store: &mut FdStore) -> Result<BTreeMap<OpenFileId, OwnedFd>, Error> {
    let mut made = BTreeMap::new();
    for pipe in &store.checkpoint.pipes {
        let ends: Vec<&OpenFile> = store
            .checkpoint
            .open_files
            .iter()
            .filter(|file| matches!(file.kind, FileKind::Pipe { pipe: id } if id == pipe.id))
            .collect();
        let (reader, writer) = open_both(pipe)?;
        fill(pipe, &writer)?;
        for file in ends {
            let end = match file.flags & ACCESS_MODE {
                0 => &reader,
                _ => &writer,
            };
            let flags = file.flags as i32 & !libc::O_CREAT;
            let fd = make::reopen(end, flags & !libc::O_DIRECT | libc::O_NONBLOCK)
                .map_err(Error::builder("opening an end of a pipe"))?;
            make::set_status(&fd, flags).map_err(Error::builder("setting a pipe's flags"))?;
            made.insert(file.id, fd);
        }
    }
    Ok(made)
}

fn open_both(pipe: &Pipe) -> Result<(OwnedFd, OwnedFd), Error> {
    let failed = || Error::builder("making a pipe");
    let (reader, writer) = match &pipe.fifo {
        None => make::pipe().map_err(failed())?,
        Some(path) => {
            let path = PathBuf::from(std::ffi::OsString::from_vec(path.clone()));
            let both =
                make::open(&path, libc::O_RDWR | libc::O_NONBLOCK).map_err(path_error("opening", &path))?;
            let reader = make::reopen(&both, libc::O_RDONLY | libc::O_NONBLOCK).map_err(failed())?;
            let writer = make::reopen(&both, libc::O_WRONLY | libc::O_NONBLOCK).map_err(failed())?;
            (reader, writer)
        }
    };
    make::set_pipe_capacity(&writer, pipe.capacity_bytes).map_err(failed())?;
    Ok((reader, writer))
}

fn fill(pipe: &Pipe, writer: &OwnedFd) -> Result<(), Error> {
    let failed = || Error::builder("putting bytes back into a pipe");
    let packets = if pipe.packets { libc::O_DIRECT } else { 0 };
    make::set_status(writer, libc::O_NONBLOCK | packets).map_err(failed())?;
    for piece in &pipe.in_flight {
        make::write_all(writer, &piece.0).map_err(failed())?;
    }
    make::set_status(writer, 0).map_err(failed())
}
