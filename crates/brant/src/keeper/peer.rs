//! One client of a keeper. Nothing that a client does or leaves undone can make the keeper wait.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::protocol::{Decoder, Event, Message, Request};

/// Above this many queued bytes, the program's output is left where it is for a moment.
const QUEUE_BYTES_MAX: usize = 256 * 1024;
/// How long a client may take nothing before the program no longer waits for it.
const STALL_MS_MAX: u64 = 2000;

/// A connection.
pub(super) struct Peer {
    stream: UnixStream,
    decoder: Decoder,
    queue: VecDeque<u8>,
    /// Wants output.
    pub(super) attached: bool,
    /// Wants news of the root process.
    pub(super) watching: bool,
    /// It reads too slowly: its output is dropped until it has caught up.
    skipping: bool,
    progress: Instant,
    /// It has just caught up after its output had been dropped: the program must draw itself anew.
    pub(super) caught_up: bool,
    pub(super) gone: bool,
}

impl Peer {
    /// A connection whose other end was the same user's (or root's) when it was made; else `None`.
    pub(super) fn new(stream: UnixStream) -> Option<Peer> {
        let uid = getsockopt(&stream, PeerCredentials).ok()?.uid();
        if uid != nix::unistd::geteuid().as_raw() && uid != 0 {
            return None;
        }
        stream.set_nonblocking(true).ok()?;
        Some(Peer {
            stream,
            decoder: Decoder::default(),
            queue: VecDeque::new(),
            attached: false,
            watching: false,
            skipping: false,
            progress: Instant::now(),
            caught_up: false,
            gone: false,
        })
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Whether bytes wait to be sent.
    pub(super) fn has_queue(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether the program's output should wait for this client.
    pub(super) fn is_congested(&self) -> bool {
        self.attached && !self.skipping && self.queue.len() > QUEUE_BYTES_MAX
    }

    /// Gives up on a client that has taken nothing for too long.
    pub(super) fn check_stall(&mut self, now: Instant) {
        if self.is_congested() && now.duration_since(self.progress) > Duration::from_millis(STALL_MS_MAX) {
            self.skipping = true;
        }
    }

    /// Reads what has come, at most one buffer of it, and returns the requests in it. A client that breaks
    /// the protocol is gone.
    pub(super) fn receive(&mut self) -> Vec<Request> {
        let mut buffer = [0; 16 * 1024];
        match (&self.stream).read(&mut buffer) {
            Ok(0) => self.gone = true,
            Ok(count) => self.decoder.feed(&buffer[..count]),
            Err(error) if is_transient(&error) => {}
            Err(_) => self.gone = true,
        }
        let mut requests = Vec::new();
        loop {
            match self.decoder.next() {
                Ok(Some(request)) => requests.push(request),
                Ok(None) => return requests,
                Err(_) => {
                    self.gone = true;
                    return requests;
                }
            }
        }
    }

    /// Queues `event` and sends what can be sent at once.
    pub(super) fn send(&mut self, event: &Event) {
        let is_output = matches!(event, Event::Output(_));
        if self.gone || (is_output && self.skipping) || self.queue.len() > 2 * QUEUE_BYTES_MAX {
            return;
        }
        if self.queue.is_empty() {
            self.progress = Instant::now();
        }
        self.queue.extend(event.frame());
        self.flush();
    }

    /// Sends what can be sent without waiting.
    pub(super) fn flush(&mut self) {
        while !self.queue.is_empty() {
            match (&self.stream).write(self.queue.as_slices().0) {
                Ok(0) => break,
                Ok(count) => {
                    self.queue.drain(..count);
                    self.progress = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.gone = true;
                    self.queue.clear();
                }
            }
        }
        self.caught_up |= std::mem::take(&mut self.skipping);
    }
}

/// Whether trying again later may help.
pub(super) fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
