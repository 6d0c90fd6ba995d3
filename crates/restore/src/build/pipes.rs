//! Pipes and fifos with what is in flight.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use brant_image::model::*;
use brant_kernel::{descriptor, make};

use super::disk::path_error;
use super::files::FdStore;
use crate::{Error, Plan};

const ACCESS_MODE: u32 = libc::O_ACCMODE as u32;
const MAKING: &str = "making a pipe";

/// Makes every pipe, fills it, and opens the descriptions of its ends.
pub(super) fn make_all(store: &FdStore, plan: &Plan) -> Result<BTreeMap<OpenFileId, OwnedFd>, Error> {
    let mut made = BTreeMap::new();
    for pipe in &store.checkpoint.pipes {
        let (reader, writer) = open_both(pipe, plan)?;
        set_capacity(store, pipe, &writer);
        fill(pipe, &writer).map_err(Error::builder("putting bytes back into a pipe"))?;
        let is_end = |file: &&OpenFile| file.kind == FileKind::Pipe { pipe: pipe.id };
        let ends = || store.checkpoint.open_files.iter().filter(is_end);
        let first = |mode: u32| ends().find(|file| file.flags & ACCESS_MODE == mode);
        for file in ends() {
            let mode = file.flags & ACCESS_MODE;
            let end = if mode == libc::O_RDONLY as u32 { &reader } else { &writer };
            let flags = file.flags as i32 & !super::disk::OPEN_ONCE;
            // What pipe(2) made is taken as it is; another description of an end comes from open(2).
            let is_as_made = pipe.fifo.is_none()
                && mode != libc::O_RDWR as u32
                && first(mode).is_some_and(|first| first.id == file.id);
            let fd = if is_as_made {
                make::duplicate_at_least(end, 0)
            } else {
                // Opening never waits for the other end: it is open.
                make::reopen(end, flags & !libc::O_DIRECT | libc::O_NONBLOCK)
            };
            let fd = fd.map_err(Error::builder("opening an end of a pipe"))?;
            make::set_status(&fd, flags).map_err(Error::builder("setting a pipe's flags"))?;
            made.insert(file.id, fd);
        }
    }
    Ok(made)
}

fn open_both(pipe: &Pipe, plan: &Plan) -> Result<(OwnedFd, OwnedFd), Error> {
    let Some(path) = &pipe.fifo else { return make::pipe().map_err(Error::builder(MAKING)) };
    let path = PathBuf::from(OsString::from_vec(plan.path(path)));
    let opening = || path_error("opening", &path);
    let both = make::open(&path, libc::O_RDWR | libc::O_NONBLOCK).map_err(opening())?;
    let reader = make::reopen(&both, libc::O_RDONLY | libc::O_NONBLOCK).map_err(opening())?;
    let writer = make::reopen(&both, libc::O_WRONLY | libc::O_NONBLOCK).map_err(opening())?;
    Ok((reader, writer))
}

/// A plain user may not make pipes as large as root may, nor many large ones; what is in flight decides then.
fn set_capacity(store: &FdStore, pipe: &Pipe, writer: &OwnedFd) {
    if descriptor::pipe_capacity_bytes(writer.as_fd()).is_ok_and(|now| now == pipe.capacity_bytes) {
        return;
    }
    if let Err(error) = make::set_pipe_capacity(writer, pipe.capacity_bytes) {
        store.warn(format!("a pipe of {} bytes came out smaller: {error}", pipe.capacity_bytes));
    }
}

fn fill(pipe: &Pipe, writer: &OwnedFd) -> io::Result<()> {
    let packets = if pipe.packets { libc::O_DIRECT } else { 0 };
    make::set_status(writer, libc::O_NONBLOCK | packets)?;
    pipe.in_flight.iter().try_for_each(|piece| make::write_all(writer, &piece.0))
}
