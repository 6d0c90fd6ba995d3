//! An image through a pipe: out of standard output and into standard input.
//!
//! A pipe acknowledges nothing. What can be known is that its reader lives and has taken every byte; where the program
//! is to end, brant waits for that. What the reader made of them it cannot know: `docs/streams.md` says what follows.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use brant_kernel::descriptor::{pipe_capacity_bytes, queued_bytes};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::dup2_stdin;

use crate::failure::{Failure, exit};

/// How long a reader may take nothing. The program may stand still for that long.
const STALL_MAX: Duration = Duration::from_secs(120);
/// How long one poll lasts: signals are looked at between.
const POLL_MS: u16 = 100;
/// As much as a pipe takes without blocking once it has said that it takes something (pipe(7)).
const CHUNK_BYTES: usize = 4096;
/// Bytes of a file that are read at a time.
const BLOCK_BYTES: usize = 1 << 20;
/// Between two looks at what is left in the pipe.
const DRAIN_PAUSE: Duration = Duration::from_millis(1);

/// Whether the path on the command line means a standard stream.
pub(super) fn is_standard(path: &std::path::Path) -> bool {
    path.as_os_str() == "-"
}

/// Standard output, which takes an image.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// Takes any length at once: a regular file.
    is_file: bool,
}

impl Outgoing {
    /// Refuses a terminal.
    pub(super) fn begin() -> Result<Outgoing, Failure> {
        if io::stdout().is_terminal() {
            let what = "an image is not written to a terminal";
            return Err(Failure::new("B-0115", exit::USAGE, what)
                .why("it is binary, and it holds the program's secrets; standard output is a terminal")
                .next("pipe it into something (| ssh HOST brant restore - -d), or name a file: -o PATH"));
        }
        let is_file = own_stdout().and_then(|file| file.metadata()).is_ok_and(|metadata| metadata.is_file());
        Ok(Outgoing { is_file })
    }

    /// Writes a part, once the reader takes something. Ends early when `is_asked_to_end` says so.
    pub(super) fn write(&mut self, bytes: &[u8], is_asked_to_end: impl Fn() -> bool) -> io::Result<usize> {
        let deadline = Instant::now() + STALL_MAX;
        while !is_ready(PollFlags::POLLOUT, POLL_MS)? {
            may_go_on(deadline, &is_asked_to_end)?;
        }
        let part = if self.is_file { bytes } else { &bytes[..bytes.len().min(CHUNK_BYTES)] };
        Ok(nix::unistd::write(io::stdout(), part)?)
    }

    /// Writes a whole file, as [`Outgoing::write`] and [`Outgoing::finish`] do.
    pub(super) fn copy(mut self, file: &mut File) -> io::Result<()> {
        let mut block = vec![0; BLOCK_BYTES];
        loop {
            let have = file.read(&mut block)?;
            if have == 0 {
                return self.finish(|| false);
            }
            let mut done = 0;
            while done < have {
                done += self.write(&block[done..have], || false)?;
            }
        }
    }

    /// Waits until the reader has taken everything, makes a file durable, and closes standard output.
    pub(super) fn finish(self, is_asked_to_end: impl Fn() -> bool) -> io::Result<()> {
        let mut deadline = Instant::now() + STALL_MAX;
        let mut before = None;
        while let Some(left) = left_in_pipe() {
            is_ready(PollFlags::empty(), 0)?;
            if left == 0 {
                break;
            }
            if before != Some(left) {
                (before, deadline) = (Some(left), Instant::now() + STALL_MAX);
            }
            may_go_on(deadline, &is_asked_to_end)?;
            std::thread::sleep(DRAIN_PAUSE);
        }
        if self.is_file {
            own_stdout()?.sync_all()?;
        }
        nix::unistd::close(1)?;
        // Number 1 must not become anything else.
        File::options().write(true).open("/dev/null").and_then(|null| Ok(nix::unistd::dup2_stdout(null)?))
    }
}

fn own_stdout() -> io::Result<File> {
    io::stdout().as_fd().try_clone_to_owned().map(File::from)
}

/// What the reader has not yet taken; `None` where standard output is no pipe, and does not tell.
fn left_in_pipe() -> Option<usize> {
    let stdout = io::stdout();
    pipe_capacity_bytes(stdout.as_fd()).and_then(|_| queued_bytes(stdout.as_fd())).ok()
}

/// Whether standard output has one of these; an error when its reader has gone.
fn is_ready(events: PollFlags, wait_ms: u16) -> io::Result<bool> {
    let stdout = io::stdout();
    let mut fds = [PollFd::new(stdout.as_fd(), events)];
    match poll(&mut fds, PollTimeout::from(wait_ms)) {
        Ok(0) | Err(nix::Error::EINTR) => return Ok(false),
        result => result?,
    };
    let found = fds[0].revents().unwrap_or(PollFlags::empty());
    if found.intersects(PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL) {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    Ok(found.intersects(events))
}

fn may_go_on(deadline: Instant, is_asked_to_end: &impl Fn() -> bool) -> io::Result<()> {
    if is_asked_to_end() {
        return Err(io::Error::other("interrupted by a signal"));
    }
    if Instant::now() >= deadline {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(())
}

/// A failed write of an image to standard output, as its user is told; `None` where the store's words fit.
pub(super) fn write_failed(error: &io::Error, what: String) -> Option<Failure> {
    let next = "look at what the reader said; -o PATH writes a file";
    match error.kind() {
        io::ErrorKind::BrokenPipe => Some(
            Failure::new("B-0614", exit::STORE, what)
                .why("the reader of standard output went away before it had taken the whole image")
                .next(next),
        ),
        io::ErrorKind::TimedOut => Some(
            Failure::new("B-0615", exit::STORE, what)
                .why(format!(
                    "the reader of standard output has taken nothing for {} seconds",
                    STALL_MAX.as_secs()
                ))
                .next(next),
        ),
        _ => None,
    }
}

/// Standard input, which brings an image; refuses a terminal.
pub(super) fn incoming() -> Result<impl Read, Failure> {
    if io::stdin().is_terminal() {
        return Err(Failure::new("B-0116", exit::USAGE, "an image is not typed in")
            .why("`-` reads an image from standard input, which is a terminal")
            .next("pipe an image into it, or name one: brant image ls"));
    }
    Ok(io::stdin().lock())
}

/// Standard input becomes /dev/null: the image is all that came through it.
pub(super) fn close_incoming() -> io::Result<()> {
    let null = File::open("/dev/null")?;
    Ok(dup2_stdin(null)?)
}
