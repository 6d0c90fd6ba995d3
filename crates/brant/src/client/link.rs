//! A client's end of the connection to a keeper.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};

use crate::protocol::{Decoder, Event, Message, Request};

/// How long a keeper, which never waits for anything, may take to accept what it is sent. It stops reading
/// while the program does not read what was typed, so this is long.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// The connection.
pub(crate) struct Link {
    stream: UnixStream,
    decoder: Decoder,
}

/// What one look at the connection gave.
pub(crate) enum Received {
    Event(Event),
    /// Nothing whole yet.
    Nothing,
    /// The keeper has closed it or is dead.
    Closed,
}

impl Link {
    /// Takes over a connection.
    pub(crate) fn new(stream: UnixStream) -> io::Result<Link> {
        stream.set_write_timeout(Some(SEND_TIMEOUT))?;
        Ok(Link { stream, decoder: Decoder::default() })
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Sends one request. An error means that the keeper is gone or stuck.
    pub(crate) fn send(&mut self, request: &Request) -> io::Result<()> {
        self.stream.write_all(&request.frame())
    }

    /// An event that is already here, without waiting.
    pub(crate) fn pending(&mut self) -> Received {
        match self.decoder.next() {
            Ok(Some(event)) => Received::Event(event),
            Ok(None) => Received::Nothing,
            Err(_) => Received::Closed,
        }
    }

    /// Reads once; call where the descriptor is readable. False: closed.
    pub(crate) fn fill(&mut self) -> bool {
        let mut buffer = [0; 32 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.decoder.feed(&buffer[..count]);
                true
            }
            Err(error) => matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock),
        }
    }

    /// The next event, waiting for it until `deadline`; `None` when that has passed or the keeper closed.
    pub(crate) fn next(&mut self, deadline: Instant) -> Option<Event> {
        loop {
            match self.pending() {
                Received::Event(event) => return Some(event),
                Received::Closed => return None,
                Received::Nothing => {}
            }
            let left_ms = deadline.saturating_duration_since(Instant::now()).as_millis();
            if left_ms == 0 {
                return None;
            }
            let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
            if let Ok(1..) = poll(&mut fds, left_ms.min(60_000) as u16)
                && !self.fill()
            {
                return None;
            }
        }
    }
}
