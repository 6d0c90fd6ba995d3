//! A job in the foreground of the user's terminal.
//!
//! Two kinds. With a relay (the job has a terminal or a log of its own) the client carries bytes, size and
//! signals. Without one the program has the user's descriptors itself, in the client's own process group, and
//! the client only waits: it stops when the program stops and hands on what kill(2) sent.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use brant_base::Pid;
use brant_kernel::task;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, raise};

use super::link::Received;
use super::raw::RawTerminal;
use super::signals::Asked;
use super::{Blocked, Link};
use crate::keeper::Modes;
use crate::protocol::{Event, Request};

/// Ctrl-P Ctrl-Q leaves the job alone, as with docker.
const DETACH_KEYS: [u8; 2] = [0x10, 0x11];
/// How long a Ctrl-P waits for its Ctrl-Q before it is passed on alone.
const DETACH_KEY_MS: u64 = 500;
/// How long a program must stay stopped until the client stops too. `fg` continues both at once, and the news
/// of the stop may still be on its way.
const STOP_SETTLES_MS: u64 = 100;

/// How a foreground ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The root process ended; `status` as wait(2) gives it.
    Exited { status: i32 },
    /// The user has left the job alone.
    Detached,
    /// The user's terminal or reader has gone; the job goes on.
    HungUp,
    /// The keeper is gone without a word.
    Lost,
}

/// What to do next.
type Step = Option<Outcome>;

/// The client's state.
pub(crate) struct Foreground {
    link: Link,
    blocked: Blocked,
    /// Whether bytes are carried.
    relays: bool,
    /// The root process by the user's number, where the program is in the client's own group.
    root: Option<Pid>,
    raw: Option<RawTerminal>,
    modes: Modes,
    reads_input: bool,
    /// A Ctrl-P that may become a detach.
    held_key: Option<Instant>,
    stopped_since: Option<Instant>,
}

impl Foreground {
    /// A client that carries the bytes of the job's terminal or log. `window` as in [`Request::Attach`].
    pub(crate) fn relay(link: Link, blocked: Blocked) -> Foreground {
        Foreground { relays: true, ..Foreground::waiter(link, blocked, None) }
    }

    /// A client that waits for a program which has the user's descriptors itself. With `root` (by the user's
    /// number) the program is in the client's process group and hears the terminal's signals itself.
    pub(crate) fn waiter(link: Link, blocked: Blocked, root: Option<Pid>) -> Foreground {
        Foreground {
            link,
            blocked,
            relays: false,
            root,
            raw: None,
            modes: Modes::default(),
            reads_input: false,
            held_key: None,
            stopped_since: None,
        }
    }

    /// Stays until the program ends or the user leaves. The user's terminal is as before when it returns.
    pub(crate) fn run(mut self, has_terminal: bool, redraw: bool) -> Outcome {
        if self.relays && has_terminal {
            self.reads_input = true;
            if io::stdin().is_terminal() {
                self.raw = RawTerminal::enter(io::stdin()).ok();
            }
        }
        let request = match self.relays {
            true => Request::Attach { window: own_window().filter(|_| has_terminal), redraw },
            false => Request::Watch,
        };
        // A keeper that has already gone may have said how the program ended.
        let _ = self.link.send(&request);
        let outcome = self.watch();
        to_terminal(&self.modes.leave());
        outcome
    }

    fn watch(&mut self) -> Outcome {
        loop {
            let (from_link, from_signals, from_user) = self.wait();
            let step = (from_link.then(|| self.take_events()).flatten())
                .or_else(|| from_signals.then(|| self.take_signals()).flatten())
                .or_else(|| from_user.then(|| self.take_input()).flatten())
                .or_else(|| self.tick());
            if let Some(outcome) = step {
                return outcome;
            }
        }
    }

    /// Waits and says which of connection, signals and user have something.
    fn wait(&self) -> (bool, bool, bool) {
        let stdin = io::stdin();
        let mut fds = vec![
            PollFd::new(self.link.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.blocked.as_fd(), PollFlags::POLLIN),
        ];
        if self.reads_input {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        let due = [
            self.held_key.map(|since| since + Duration::from_millis(DETACH_KEY_MS)),
            self.stopped_since.map(|since| since + Duration::from_millis(STOP_SETTLES_MS)),
        ];
        let timeout = due.into_iter().flatten().min().map_or(PollTimeout::NONE, |due| {
            let left_ms = due.saturating_duration_since(Instant::now()).as_millis() as u16;
            PollTimeout::from(left_ms + 1)
        });
        if poll(&mut fds, timeout).is_err() {
            return (false, true, false);
        }
        let ready = |index: usize| fds.get(index).is_some_and(|fd| fd.any().unwrap_or(false));
        (ready(0), ready(1), ready(2))
    }

    fn take_events(&mut self) -> Step {
        if !self.link.fill() {
            return Some(Outcome::Lost);
        }
        loop {
            match self.link.pending() {
                Received::Event(Event::Output(bytes)) => {
                    self.modes.scan(&bytes);
                    let mut stdout = io::stdout().lock();
                    if stdout.write_all(&bytes).and_then(|()| stdout.flush()).is_err() {
                        return Some(Outcome::HungUp);
                    }
                }
                Received::Event(Event::Exited { status }) => return Some(Outcome::Exited { status }),
                // SIGSTOP comes from elsewhere, and who sent it will continue the program, not us.
                Received::Event(Event::Stopped { signal }) if signal != libc::SIGSTOP => {
                    self.stopped_since = self.root.map(|_| Instant::now());
                }
                Received::Event(Event::Stopped { .. }) => {}
                Received::Event(Event::Continued) => self.stopped_since = None,
                Received::Nothing => return None,
                Received::Closed => return Some(Outcome::Lost),
            }
        }
    }

    fn take_signals(&mut self) -> Step {
        while let Some(asked) = self.blocked.next() {
            match asked {
                Asked::Forward(signal) => self.ask(&Request::Signal(signal))?,
                Asked::HangUp { .. } if self.relays => return Some(Outcome::HungUp),
                Asked::HangUp { from_kernel: false } => self.ask(&Request::Signal(libc::SIGHUP))?,
                Asked::Resize if self.raw.is_some() => {
                    if let Some(window) = own_window() {
                        self.ask(&Request::Resize(window))?;
                    }
                }
                Asked::Stop => {
                    if !self.relays {
                        self.ask(&Request::Keyboard(libc::SIGSTOP))?;
                    }
                    self.stop_self();
                }
                Asked::Continue => self.go_on()?,
                Asked::Keyboard(signal) if self.root.is_none() => self.ask(&Request::Keyboard(signal))?,
                Asked::HangUp { .. } | Asked::Resize | Asked::Keyboard(_) | Asked::Nothing => {}
            }
        }
        None
    }

    /// Sends a request; `None` ends the caller, as the connection is lost and the next read will say so.
    fn ask(&mut self, request: &Request) -> Option<()> {
        self.link.send(request).ok()
    }

    fn stop_self(&mut self) {
        to_terminal(&self.modes.leave());
        if let Some(raw) = &self.raw {
            raw.pause();
        }
        let _ = raise(Signal::SIGSTOP);
    }

    /// After a stop: the terminal was the shell's meanwhile.
    fn go_on(&mut self) -> Option<()> {
        self.stopped_since = None;
        if !self.relays {
            // A program in our own group has been continued with us.
            return match self.root {
                Some(_) => self.ask(&Request::Signal(libc::SIGCONT)),
                None => self.ask(&Request::Keyboard(libc::SIGCONT)),
            };
        }
        if let Some(raw) = &self.raw {
            let _ = raw.again();
            to_terminal(&self.modes.enter());
            self.ask(&Request::Attach { window: own_window(), redraw: true })?;
        }
        Some(())
    }

    fn take_input(&mut self) -> Step {
        let mut buffer = [0; 4096];
        let count = match nix::unistd::read(io::stdin(), &mut buffer) {
            Ok(0) => {
                self.reads_input = false;
                return self.raw.is_some().then_some(Outcome::HungUp);
            }
            Ok(count) => count,
            Err(nix::Error::EINTR | nix::Error::EAGAIN) => return None,
            Err(_) => return Some(Outcome::HungUp),
        };
        if self.raw.is_none() {
            return self.ask(&Request::Input(buffer[..count].to_vec())).is_none().then_some(Outcome::Lost);
        }
        let mut typed = Vec::with_capacity(count + 1);
        for &key in &buffer[..count] {
            if self.held_key.take().is_some() {
                if key == DETACH_KEYS[1] {
                    return Some(Outcome::Detached);
                }
                typed.push(DETACH_KEYS[0]);
            }
            if key == DETACH_KEYS[0] {
                self.held_key = Some(Instant::now());
            } else {
                typed.push(key);
            }
        }
        if !typed.is_empty() {
            self.ask(&Request::Input(typed)).is_none().then_some(Outcome::Lost)
        } else {
            None
        }
    }

    /// What is due by the clock.
    fn tick(&mut self) -> Step {
        if self.held_key.is_some_and(|since| since.elapsed().as_millis() as u64 >= DETACH_KEY_MS) {
            self.held_key = None;
            self.ask(&Request::Input(vec![DETACH_KEYS[0]]));
        }
        if self.stopped_since.is_some_and(|since| since.elapsed().as_millis() as u64 >= STOP_SETTLES_MS) {
            self.stopped_since = None;
            let state = self.root.and_then(crate::job::stat).map(|stat| stat.state);
            if state == Some('T') {
                let _ = raise(Signal::SIGSTOP);
            }
        }
        None
    }
}

/// Writes escape sequences where the user's terminal is there to understand them.
fn to_terminal(sequences: &[u8]) {
    let mut stdout = io::stdout().lock();
    if stdout.is_terminal() && !sequences.is_empty() {
        let _ = stdout.write_all(sequences).and_then(|()| stdout.flush());
    }
}

/// The size of the user's terminal, where there is one.
pub(crate) fn own_window() -> Option<task::Window> {
    task::window(io::stdin()).or_else(|_| task::window(io::stdout())).ok()
}
