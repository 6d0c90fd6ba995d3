//! One end of a connection, over two descriptors. Every wait has a limit.
//!
//! Both descriptors are read and written without blocking, so that a peer that takes nothing, a signal and a loss are
//! seen whatever we wait for. A side that works for long lets a thread of its own say that it lives ([`Link::alive`]).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{RecvTimeoutError, Sender as ChannelSender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::Error;
use crate::wire::{self, Body, DATA_BYTES_MAX, DataKind, Decoder, Frame, Greeting};

/// How long a connection may do nothing.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The other side says nothing at all, not even that it lives.
    pub silence_max: Duration,
    /// The other side takes nothing.
    pub stall_max: Duration,
    /// How often a side that works says that it lives.
    pub alive_every: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        let long = Duration::from_secs(120);
        Limits { silence_max: long, stall_max: long, alive_every: Duration::from_secs(5) }
    }
}

/// One end of a connection. Clones are the same end.
#[derive(Clone)]
pub struct Link {
    sender: Arc<Mutex<Sender>>,
    receiver: Arc<Mutex<Receiver>>,
    limits: Limits,
}

struct Receiver {
    input: File,
    decoder: Decoder,
    /// What a writer of the image met: more than an `io::Error` can say.
    failure: Option<Error>,
    interruption: Option<Interruption>,
}

struct Sender {
    output: File,
    stall_max: Duration,
    sent_at: Instant,
    interruption: Option<Interruption>,
    /// A frame was broken off, so that no other can follow.
    is_broken: bool,
}

/// Becomes readable when somebody wants us to end.
#[derive(Clone)]
pub struct Interruption(Arc<OwnedFd>);

impl From<OwnedFd> for Interruption {
    fn from(descriptor: OwnedFd) -> Interruption {
        Interruption(Arc::new(descriptor))
    }
}

/// What came first.
#[derive(Debug, PartialEq)]
pub enum Waited {
    Frame(Frame),
    /// The other descriptor has something.
    Other,
    /// The time is over.
    Nothing,
}

/// How long one poll lasts where something else has to be looked at too.
const SLICE_MS: u64 = 1000;

impl Link {
    /// An end that reads from `input` and writes to `output`. Both become non-blocking.
    pub fn new(input: OwnedFd, output: OwnedFd, limits: Limits) -> io::Result<Link> {
        for fd in [&input, &output] {
            let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
            fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        }
        let sender = Sender {
            output: output.into(),
            stall_max: limits.stall_max,
            sent_at: Instant::now(),
            interruption: None,
            is_broken: false,
        };
        let receiver =
            Receiver { input: input.into(), decoder: Decoder::default(), failure: None, interruption: None };
        let receiver = Arc::new(Mutex::new(receiver));
        Ok(Link { sender: Arc::new(Mutex::new(sender)), receiver, limits })
    }

    /// From now on a wait ends with [`Error::Interrupted`] once somebody wants that; `None`: no more. Gives what did so.
    pub fn interrupt_by(&self, interruption: Option<Interruption>) -> Option<Interruption> {
        locked(&self.sender).interruption = interruption.clone();
        std::mem::replace(&mut locked(&self.receiver).interruption, interruption)
    }

    /// Says the magic line.
    pub fn say_magic(&self) -> Result<(), Error> {
        locked(&self.sender).write_all(&wire::magic_line())
    }

    /// Waits for the magic line, for as long as the connection lives: whoever makes it may ask for a password first.
    pub fn await_magic(&self) -> Result<(), Error> {
        let mut receiver = locked(&self.receiver);
        let mut greeting = Greeting::default();
        loop {
            receiver.wait_readable(None, None)?;
            let Some(bytes) = receiver.read(4096)? else { return Err(Error::NoAnswer) };
            match greeting.feed(&bytes)? {
                Some((wire::PROTOCOL, rest)) => {
                    receiver.decoder.feed(&rest);
                    return Ok(());
                }
                Some((theirs, _)) => return Err(Error::Protocol { theirs, ours: wire::PROTOCOL }),
                None => {}
            }
        }
    }

    /// Sends a message.
    pub fn send(&self, body: Body) -> Result<(), Error> {
        locked(&self.sender).write_all(&wire::encode(&Frame::Message(body)))
    }

    /// Sends bytes, cut as the wire wants them.
    pub fn send_data(&self, kind: DataKind, bytes: &[u8]) -> Result<(), Error> {
        for part in bytes.chunks(DATA_BYTES_MAX) {
            let mut sender = locked(&self.sender);
            sender.write_all(&wire::data_head(kind, part.len()))?;
            sender.write_all(part)?;
        }
        Ok(())
    }

    /// The next frame that says something; waits for it.
    pub fn receive(&self) -> Result<Frame, Error> {
        match self.receive_or(None)? {
            Waited::Frame(frame) => Ok(frame),
            Waited::Other | Waited::Nothing => unreachable!("there is nothing else to wait for"),
        }
    }

    /// The next message; a failure of the other side is an error.
    pub fn receive_message(&self, wanted: &'static str) -> Result<Body, Error> {
        message(self.receive()?, wanted)
    }

    /// As [`Link::receive_message`]; `None` where it has not come within this time.
    pub fn receive_message_within(
        &self,
        patience: Duration,
        wanted: &'static str,
    ) -> Result<Option<Body>, Error> {
        match self.wait(None, Some(Instant::now() + patience))? {
            Waited::Frame(frame) => message(frame, wanted).map(Some),
            Waited::Other | Waited::Nothing => Ok(None),
        }
    }

    /// The next frame, or that `other` is readable, whichever comes first. Says meanwhile that we live.
    pub fn receive_or(&self, other: Option<BorrowedFd<'_>>) -> Result<Waited, Error> {
        self.wait(other, None)
    }

    fn wait(&self, other: Option<BorrowedFd<'_>>, until: Option<Instant>) -> Result<Waited, Error> {
        let mut silent_since = Instant::now();
        loop {
            let mut receiver = locked(&self.receiver);
            match receiver.decoder.next_frame()? {
                Some(Frame::Alive) => {
                    silent_since = Instant::now();
                    continue;
                }
                Some(frame) => return Ok(Waited::Frame(frame)),
                None => {}
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let slice_ms = left.map_or(SLICE_MS, |left| SLICE_MS.min(left.as_millis() as u64));
            let (from_peer, from_other) = receiver.wait_readable(other, Some(slice_ms))?;
            if from_peer {
                let wanted = receiver.decoder.wanted_bytes();
                match receiver.read(wanted)? {
                    Some(bytes) => receiver.decoder.feed(&bytes),
                    None => return Err(Error::Lost),
                }
                silent_since = Instant::now();
            } else if from_other {
                return Ok(Waited::Other);
            } else if left.is_some_and(|left| left.as_millis() == 0) {
                return Ok(Waited::Nothing);
            } else if silent_since.elapsed() >= self.limits.silence_max {
                return Err(Error::Silent(self.limits.silence_max));
            }
            drop(receiver);
            locked(&self.sender).say_alive(self.limits.alive_every)?;
        }
    }

    /// What has come already, without waiting: the other side may have given up.
    pub fn look(&self) -> Result<Option<Frame>, Error> {
        let mut receiver = locked(&self.receiver);
        loop {
            match receiver.decoder.next_frame()? {
                Some(Frame::Alive) => continue,
                Some(frame) => return Ok(Some(frame)),
                None => {}
            }
            if !receiver.wait_readable(None, Some(0))?.0 {
                return Ok(None);
            }
            match receiver.read(64 << 10)? {
                Some(bytes) => receiver.decoder.feed(&bytes),
                None => return Err(Error::Lost),
            }
        }
    }

    /// Why sending failed: what the other side still said, else `error` itself.
    pub fn last_words(&self, error: Error) -> Error {
        if !matches!(error, Error::Lost | Error::Io(_) | Error::Stalled(_)) {
            return error;
        }
        loop {
            match self.receive() {
                Ok(Frame::Message(Body::Failure(failure))) => return Error::Peer(Box::new(failure)),
                Ok(_) => {}
                Err(_) => return error,
            }
        }
    }

    /// Says that we live, from a thread of its own, until the guard is dropped: for work that does not use the link.
    pub fn alive(&self) -> AliveGuard {
        let (stop, stopped) = channel();
        let (sender, every) = (Arc::clone(&self.sender), self.limits.alive_every);
        let work = move || {
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                if locked(&sender).say_alive(every).is_err() {
                    break;
                }
            }
        };
        // Without a thread the other side's patience has to do.
        let thread = std::thread::Builder::new().name("brant-alive".into()).spawn(work).ok();
        AliveGuard { stop: Some(stop), thread }
    }

    /// A writer that sends the image, and stops early where the other side gives up.
    pub fn image_stream(&self) -> ImageStream {
        ImageStream { link: self.clone(), bytes: Vec::with_capacity(DATA_BYTES_MAX), sent_bytes: 0 }
    }

    /// What a writer of the image met, once.
    pub fn take_failure(&self) -> Option<Error> {
        locked(&self.receiver).failure.take()
    }

    /// The same end, on which the other side may be silent for ever: people type when they like.
    pub fn without_silence_limit(mut self) -> Link {
        self.limits.silence_max = Duration::MAX;
        self
    }
}

fn message(frame: Frame, wanted: &'static str) -> Result<Body, Error> {
    match frame {
        Frame::Message(Body::Failure(failure)) => Err(Error::Peer(Box::new(failure))),
        Frame::Message(body) => Ok(body),
        other => Err(Error::Unexpected { got: other.name(), wanted }),
    }
}

fn locked<T>(half: &Mutex<T>) -> MutexGuard<'_, T> {
    half.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Receiver {
    /// Waits until the connection or `other` is readable, or the time is over; an interruption is an error.
    fn wait_readable(
        &self,
        other: Option<BorrowedFd<'_>>,
        timeout_ms: Option<u64>,
    ) -> Result<(bool, bool), Error> {
        let mut fds = vec![PollFd::new(self.input.as_fd(), PollFlags::POLLIN)];
        let interruption = self.interruption.as_ref().map(|Interruption(fd)| {
            fds.push(PollFd::new(fd.as_fd(), PollFlags::POLLIN));
            fds.len() - 1
        });
        let other = other.map(|fd| {
            fds.push(PollFd::new(fd, PollFlags::POLLIN));
            fds.len() - 1
        });
        let timeout = timeout_ms.map_or(PollTimeout::NONE, |ms| PollTimeout::from(ms as u16));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        let ready = |index: usize| fds[index].any().unwrap_or(false);
        if interruption.is_some_and(ready) {
            return Err(Error::Interrupted);
        }
        Ok((ready(0), other.is_some_and(ready)))
    }

    /// What is there, at most so many bytes; `None` at the end.
    fn read(&mut self, bytes_max: usize) -> Result<Option<Vec<u8>>, Error> {
        let mut bytes = vec![0; bytes_max];
        match self.input.read(&mut bytes) {
            Ok(0) => Ok(None),
            Ok(count) => {
                bytes.truncate(count);
                Ok(Some(bytes))
            }
            Err(error) if is_transient(&error) => Ok(Some(Vec::new())),
            Err(error) => Err(error.into()),
        }
    }
}

impl Sender {
    fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        if self.is_broken {
            return Err(Error::Lost);
        }
        let mut stalled_since = Instant::now();
        while !bytes.is_empty() {
            match self.output.write(bytes) {
                Ok(0) => return Err(Error::Lost),
                Ok(count) => {
                    bytes = &bytes[count..];
                    stalled_since = Instant::now();
                }
                Err(error) if is_transient(&error) => {
                    if stalled_since.elapsed() >= self.stall_max {
                        return Err(Error::Stalled(self.stall_max));
                    }
                    self.wait_writable()?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.sent_at = Instant::now();
        Ok(())
    }

    fn wait_writable(&mut self) -> Result<(), Error> {
        let mut fds = vec![PollFd::new(self.output.as_fd(), PollFlags::POLLOUT)];
        if let Some(Interruption(fd)) = &self.interruption {
            fds.push(PollFd::new(fd.as_fd(), PollFlags::POLLIN));
        }
        let _ = poll(&mut fds, PollTimeout::from(SLICE_MS as u16));
        if fds.get(1).is_some_and(|fd| fd.any().unwrap_or(false)) {
            self.is_broken = true;
            return Err(Error::Interrupted);
        }
        Ok(())
    }

    fn say_alive(&mut self, every: Duration) -> Result<(), Error> {
        if self.sent_at.elapsed() < every {
            return Ok(());
        }
        self.write_all(&wire::encode(&Frame::Alive))
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// See [`Link::alive`].
pub struct AliveGuard {
    stop: Option<ChannelSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for AliveGuard {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// See [`Link::image_stream`]. What is written is sent in whole frames, and at a flush.
pub struct ImageStream {
    link: Link,
    bytes: Vec<u8>,
    sent_bytes: u64,
}

impl ImageStream {
    /// Bytes that were taken over for sending.
    pub fn bytes(&self) -> u64 {
        self.sent_bytes + self.bytes.len() as u64
    }

    fn send(&mut self) -> Result<(), Error> {
        match self.link.look()? {
            Some(Frame::Message(Body::Failure(failure))) => return Err(Error::Peer(Box::new(failure))),
            Some(other) => return Err(Error::Unexpected { got: other.name(), wanted: "silence" }),
            None => {}
        }
        let sent = self.link.send_data(DataKind::Image, &self.bytes);
        sent.map_err(|error| self.link.last_words(error))?;
        self.sent_bytes += self.bytes.len() as u64;
        self.bytes.clear();
        Ok(())
    }

    fn send_or_note(&mut self) -> io::Result<()> {
        self.send().map_err(|error| {
            let text = error.to_string();
            locked(&self.link.receiver).failure = Some(error);
            io::Error::other(text)
        })
    }
}

impl Write for ImageStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() == DATA_BYTES_MAX {
            self.send_or_note()?;
        }
        let count = bytes.len().min(DATA_BYTES_MAX - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.bytes.is_empty() { Ok(()) } else { self.send_or_note() }
    }
}
