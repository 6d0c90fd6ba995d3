//! The keeper's loop.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use brant_base::{Pid, fault};
use brant_kernel::task::{self, Waited, Window};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::beginning::{await_go, end_descendants};
use super::log::Log;
use super::modes::Modes;
use super::peer::{Peer, is_transient};
use crate::job::{Ended, descendants};
use crate::protocol::{Event, Request};

/// More clients than this wait until others have gone.
const CLIENTS_MAX: usize = 32;
/// Typed bytes that wait for the program to read them; beyond it, clients wait.
const INPUT_BYTES_MAX: usize = 64 * 1024;
/// How long clients may take for the last output once the job has ended.
const LINGER_MS_MAX: u64 = 5000;
/// Between the two changes of size that make a program draw itself anew.
const REDRAW_MS: u64 = 60;
/// Between two rounds of SIGKILL.
const KILL_AGAIN_MS: u64 = 100;
/// The grace of a SIGTERM that was sent to the keeper itself.
const OWN_GRACE_MS: u32 = 10_000;

/// What a keeper needs to know. All numbers are those of the keeper's own pid namespace.
pub(crate) struct KeeperConfig {
    /// The job's folder; `ended.json` and the log are written there.
    pub(crate) folder: PathBuf,
    pub(crate) listener: UnixListener,
    /// Masters of pseudo-terminals. Clients attach to the first; others are drained into the log.
    pub(crate) terminals: Vec<OwnedFd>,
    /// Read ends of pipes that the program writes to.
    pub(crate) outputs: Vec<OwnedFd>,
    /// Connections that were made before the keeper was: attached from the first byte on.
    pub(crate) clients: Vec<UnixStream>,
    /// The root process; what is said with `go` takes its place.
    pub(crate) root: Pid,
    /// Where the root is not the keeper's child: its parent writes the raw wait status here, 4 bytes.
    pub(crate) status_pipe: Option<OwnedFd>,
    /// The builder's word (`brant_restore::go_message`): the job lives on its own; end of file before it and all is undone.
    pub(crate) go: Option<OwnedFd>,
    /// Whether the job ends with its root process; the rest is killed then.
    pub(crate) end_with_root: bool,
}

/// Keeps the job until it has ended, then ends this process. It wants no other thread in the process.
pub(crate) fn serve(mut config: KeeperConfig) -> ! {
    if let Some(go) = &config.go {
        match await_go(go) {
            Some(root) => config.root = root,
            None => {
                end_descendants();
                task::exit_now(1)
            }
        }
    }
    let code = match Keeper::new(config) {
        Ok(mut keeper) => {
            keeper.run();
            0
        }
        Err(_) => 1,
    };
    task::exit_now(code)
}

struct Keeper {
    folder: PathBuf,
    listener: UnixListener,
    signals: SignalFd,
    terminals: Vec<Terminal>,
    outputs: Vec<File>,
    status_pipe: Option<File>,
    peers: Vec<Peer>,
    log: Log,
    modes: Modes,
    root: Pid,
    root_pidfd: Option<OwnedFd>,
    /// Raw wait status, once the root process has ended.
    ended: Option<i32>,
    end_with_root: bool,
    has_children: bool,
    stopping: Option<Stopping>,
    /// Set while the first terminal has a wrong size for a moment.
    redraw: Option<(Instant, Window)>,
    done: bool,
}

struct Terminal {
    master: File,
    /// Held so that the master never hangs up while the job lives.
    _slave: Option<OwnedFd>,
    input: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Stopping {
    kill_at: Instant,
    /// SIGKILL has been sent once.
    killed: bool,
}

/// What a ready descriptor belongs to.
#[derive(Clone, Copy)]
enum Source {
    Signals,
    Listener,
    Status,
    Terminal(usize),
    Output(usize),
    Peer(usize),
}

impl Keeper {
    fn new(config: KeeperConfig) -> std::io::Result<Keeper> {
        let mask = SigSet::all();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None)?;
        let mut watched = SigSet::empty();
        watched.add(Signal::SIGCHLD);
        watched.add(Signal::SIGTERM);
        let signals = SignalFd::with_flags(&watched, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        config.listener.set_nonblocking(true)?;
        for fd in config.terminals.iter().chain(&config.outputs).chain(&config.status_pipe) {
            let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
            fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        }
        let terminals = config.terminals.into_iter().map(|master| Terminal {
            _slave: task::open_slave(&master).ok(),
            master: File::from(master),
            input: Vec::new(),
        });
        let mut peers: Vec<Peer> = config.clients.into_iter().filter_map(Peer::new).collect();
        for peer in &mut peers {
            peer.attached = true;
            peer.watching = true;
        }
        Ok(Keeper {
            log: Log::create(&config.folder),
            folder: config.folder,
            listener: config.listener,
            signals,
            terminals: terminals.collect(),
            outputs: config.outputs.into_iter().map(File::from).collect(),
            status_pipe: config.status_pipe.map(File::from),
            peers,
            modes: Modes::default(),
            root: config.root,
            root_pidfd: task::pidfd_open(config.root).ok(),
            ended: None,
            end_with_root: config.end_with_root,
            has_children: true,
            stopping: None,
            redraw: None,
            done: false,
        })
    }

    fn run(&mut self) {
        self.reap();
        while !self.done {
            for (source, flags) in self.wait() {
                self.handle(source, flags);
            }
            self.tick(Instant::now());
            self.peers.retain(|peer| !peer.gone);
        }
        if self.end_with_root {
            end_descendants();
        }
        self.linger();
        let _ = std::fs::remove_file(self.folder.join("socket"));
    }

    /// Waits for the next events, at most until the next deadline.
    fn wait(&self) -> Vec<(Source, PollFlags)> {
        let mut watched: Vec<(Source, BorrowedFd<'_>, PollFlags)> =
            vec![(Source::Signals, self.signals.as_fd(), PollFlags::POLLIN)];
        if self.peers.len() < CLIENTS_MAX {
            watched.push((Source::Listener, self.listener.as_fd(), PollFlags::POLLIN));
        }
        if let Some(pipe) = &self.status_pipe {
            watched.push((Source::Status, pipe.as_fd(), PollFlags::POLLIN));
        }
        let congested = self.peers.iter().any(Peer::is_congested);
        for (index, terminal) in self.terminals.iter().enumerate() {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, !congested);
            flags.set(PollFlags::POLLOUT, !terminal.input.is_empty());
            if !flags.is_empty() {
                watched.push((Source::Terminal(index), terminal.master.as_fd(), flags));
            }
        }
        for (index, output) in self.outputs.iter().enumerate().filter(|_| !congested) {
            watched.push((Source::Output(index), output.as_fd(), PollFlags::POLLIN));
        }
        let input_full =
            self.terminals.first().is_some_and(|terminal| terminal.input.len() > INPUT_BYTES_MAX);
        for (index, peer) in self.peers.iter().enumerate() {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, !(peer.attached && input_full));
            flags.set(PollFlags::POLLOUT, peer.has_queue());
            watched.push((Source::Peer(index), peer.stream().as_fd(), flags));
        }
        let mut fds: Vec<PollFd<'_>> =
            watched.iter().map(|(_, fd, flags)| PollFd::new(*fd, *flags)).collect();
        match poll(&mut fds, self.timeout(congested)) {
            Ok(_) | Err(Errno::EINTR) => {}
            // Out of memory: nothing is ready, so look again soon.
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
        let ready = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        // Indexes stay good: peers are removed after all events were handled, and outputs are read without waiting.
        watched
            .iter()
            .zip(ready)
            .filter(|(_, flags)| !flags.is_empty())
            .map(|((source, ..), flags)| (*source, flags))
            .collect()
    }

    fn timeout(&self, congested: bool) -> PollTimeout {
        let now = Instant::now();
        let mut wait_ms: Option<u64> = None;
        let mut at_most = |ms: u64| wait_ms = Some(wait_ms.map_or(ms, |other| other.min(ms)));
        if congested {
            at_most(200);
        }
        if let Some((when, _)) = self.redraw {
            at_most(when.saturating_duration_since(now).as_millis() as u64 + 1);
        }
        if let Some(stopping) = self.stopping {
            at_most(stopping.kill_at.saturating_duration_since(now).as_millis() as u64 + 1);
        }
        wait_ms
            .map_or(PollTimeout::NONE, |ms| PollTimeout::try_from(ms.min(60_000)).unwrap_or(PollTimeout::MAX))
    }

    fn handle(&mut self, source: Source, flags: PollFlags) {
        match source {
            Source::Signals => self.handle_signals(),
            Source::Listener => self.accept(),
            Source::Status => self.read_status(),
            Source::Terminal(index) => {
                if flags.contains(PollFlags::POLLOUT) {
                    self.write_input(index);
                }
                if flags.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
                    self.read_terminal(index);
                }
            }
            Source::Output(index) => drop(self.read_output(index)),
            Source::Peer(index) => {
                if flags.contains(PollFlags::POLLOUT) {
                    self.peers[index].flush();
                }
                if flags.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
                    for request in self.peers[index].receive() {
                        self.answer(index, request);
                    }
                }
            }
        }
    }

    fn handle_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo == Signal::SIGTERM as u32 {
                self.stop(OWN_GRACE_MS);
            }
        }
        self.reap();
    }

    /// Takes news of children until there is none.
    fn reap(&mut self) {
        loop {
            match task::wait_any() {
                Ok(Waited::Ended { pid, status }) if pid == self.root => self.root_ended(status),
                Ok(Waited::Stopped { pid, signal }) if pid == self.root => {
                    self.tell(&Event::Stopped { signal })
                }
                Ok(Waited::Continued { pid }) if pid == self.root => self.tell(&Event::Continued),
                Ok(Waited::Nothing) => break,
                Ok(Waited::NoChildren) => {
                    self.has_children = false;
                    break;
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }

    fn read_status(&mut self) {
        let mut status = [0; 4];
        let Some(pipe) = &mut self.status_pipe else { return };
        match pipe.read(&mut status) {
            Err(error) if is_transient(&error) => return,
            Ok(4) => self.root_ended(i32::from_le_bytes(status)),
            // The placeholder is gone without a word: somebody killed it, and the root's end is unknown.
            _ => self.root_ended(libc::SIGKILL),
        }
        self.status_pipe = None;
    }

    /// Writes down how the root process ended and tells everybody, after the last of its output.
    fn root_ended(&mut self, status: i32) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(status);
        self.root_pidfd = None;
        self.drain();
        let _ = Ended { wait_status: status, ended_unix_ms: crate::job::unix_ms() }.write(&self.folder);
        self.tell(&Event::Exited { status });
        fault::reach("job.told-end");
        if self.stopping.is_some() && !self.end_with_root {
            self.signal_all(Signal::SIGTERM as i32);
        }
    }

    /// Takes all output that has been written by now, however slow clients are.
    fn drain(&mut self) {
        for index in 0..self.terminals.len() {
            // A poll, unlike a read, makes the kernel move what is on its way through the terminal.
            while is_readable(self.terminals[index].master.as_fd()) && self.read_terminal(index) {}
        }
        for index in (0..self.outputs.len()).rev() {
            while self.read_output(index) {}
        }
    }

    fn tell(&mut self, event: &Event) {
        self.peers.iter_mut().filter(|peer| peer.watching).for_each(|peer| peer.send(event));
    }

    /// Whether there may be more.
    fn read_terminal(&mut self, index: usize) -> bool {
        let mut buffer = [0; 8192];
        match self.terminals[index].master.read(&mut buffer) {
            Ok(count) if count > 0 => {
                self.put_out(&buffer[..count], index == 0);
                true
            }
            Err(error) if is_transient(&error) => false,
            _ => {
                // Without a slave of its own the keeper sees a hang-up: the terminal is of no more use.
                std::thread::sleep(Duration::from_millis(1));
                false
            }
        }
    }

    /// Whether there may be more. A pipe that has ended is dropped.
    fn read_output(&mut self, index: usize) -> bool {
        let mut buffer = [0; 8192];
        let Some(output) = self.outputs.get_mut(index) else { return false };
        match output.read(&mut buffer) {
            Ok(count) if count > 0 => {
                self.put_out(&buffer[..count], true);
                true
            }
            Err(error) if is_transient(&error) => false,
            _ => {
                self.outputs.remove(index);
                false
            }
        }
    }

    fn put_out(&mut self, bytes: &[u8], to_clients: bool) {
        self.log.write(bytes);
        if !to_clients {
            return;
        }
        self.modes.scan(bytes);
        let event = Event::Output(bytes.to_vec());
        self.peers.iter_mut().filter(|peer| peer.attached).for_each(|peer| peer.send(&event));
    }

    fn write_input(&mut self, index: usize) {
        let terminal = &mut self.terminals[index];
        while !terminal.input.is_empty() {
            match terminal.master.write(&terminal.input) {
                Ok(count) if count > 0 => drop(terminal.input.drain(..count)),
                Err(error) if is_transient(&error) => return,
                _ => terminal.input.clear(),
            }
        }
    }

    fn accept(&mut self) {
        while self.peers.len() < CLIENTS_MAX {
            let Ok((stream, _)) = self.listener.accept() else { return };
            self.peers.extend(Peer::new(stream));
        }
    }

    fn answer(&mut self, index: usize, request: Request) {
        match request {
            Request::Attach { window, redraw } => self.attach(index, window, redraw),
            Request::Watch => self.watch(index),
            Request::Input(bytes) => {
                if let Some(terminal) = self.terminals.first_mut() {
                    terminal.input.extend_from_slice(&bytes);
                    self.write_input(0);
                }
            }
            Request::Resize(window) => self.resize(window),
            Request::Signal(signal) => self.signal_root(signal),
            Request::Keyboard(signal) => self.signal_group(signal),
            Request::Stop { grace_ms } => {
                self.watch(index);
                self.stop(grace_ms);
            }
            Request::Kill => {
                self.watch(index);
                self.stopping = Some(Stopping { kill_at: Instant::now(), killed: false });
            }
        }
    }

    fn watch(&mut self, index: usize) {
        if !self.peers[index].watching {
            self.peers[index].watching = true;
            if let Some(status) = self.ended {
                self.peers[index].send(&Event::Exited { status });
            }
        }
    }

    fn attach(&mut self, index: usize, window: Option<Window>, redraw: bool) {
        self.watch(index);
        let peer = &mut self.peers[index];
        let enter = self.modes.enter();
        if !std::mem::replace(&mut peer.attached, true) && !enter.is_empty() {
            peer.send(&Event::Output(enter));
        }
        if let Some(window) = window {
            self.resize(window);
        }
        if redraw {
            self.redraw();
        }
    }

    fn resize(&mut self, window: Window) {
        if window.rows == 0 || window.columns == 0 {
            return;
        }
        if let Some(terminal) = self.terminals.first() {
            self.redraw = None;
            let _ = task::set_window(&terminal.master, window);
        }
    }

    /// Makes the program draw itself anew: one row less for a moment, then the true size.
    fn redraw(&mut self) {
        let Some(terminal) = self.terminals.first() else { return };
        let Ok(window) = task::window(&terminal.master) else { return };
        if self.redraw.is_none() && window.rows > 1 {
            let _ = task::set_window(&terminal.master, Window { rows: window.rows - 1, ..window });
            self.redraw = Some((Instant::now() + Duration::from_millis(REDRAW_MS), window));
        }
    }

    fn signal_root(&self, signal: i32) {
        if let Some(pidfd) = &self.root_pidfd {
            let _ = task::pidfd_send_signal(pidfd, signal);
        }
    }

    /// As the terminal does it; a root in the keeper's own group is signalled alone.
    fn signal_group(&self, signal: i32) {
        let root = nix::unistd::Pid::from_raw(self.root.0);
        let own = nix::unistd::getpgrp();
        match (nix::unistd::getpgid(Some(root)), Signal::try_from(signal)) {
            (Ok(group), Ok(signal)) if self.ended.is_none() && group.as_raw() > 1 && group != own => {
                let _ = nix::sys::signal::killpg(group, signal);
            }
            _ => self.signal_root(signal),
        }
    }

    fn stop(&mut self, grace_ms: u32) {
        let kill_at = Instant::now() + Duration::from_millis(u64::from(grace_ms));
        self.stopping = Some(Stopping { kill_at, killed: false });
        if self.ended.is_none() {
            self.signal_root(Signal::SIGTERM as i32);
            self.signal_root(Signal::SIGCONT as i32);
        } else {
            self.signal_all(Signal::SIGTERM as i32);
        }
    }

    /// Signals every process of the job. They are looked up anew, as they may have changed.
    fn signal_all(&self, signal: i32) {
        let own = Pid(nix::unistd::getpid().as_raw());
        for pidfd in descendants(own).into_iter().filter_map(|pid| task::pidfd_open(pid).ok()) {
            let _ = task::pidfd_send_signal(&pidfd, signal);
            if signal != Signal::SIGKILL as i32 {
                let _ = task::pidfd_send_signal(&pidfd, Signal::SIGCONT as i32);
            }
        }
    }

    /// What is due by the clock, and whether the job has ended.
    fn tick(&mut self, now: Instant) {
        for peer in &mut self.peers {
            peer.check_stall(now);
        }
        if self.peers.iter_mut().any(|peer| std::mem::take(&mut peer.caught_up)) {
            let enter = self.modes.enter();
            self.peers
                .iter_mut()
                .filter(|peer| peer.attached)
                .for_each(|peer| peer.send(&Event::Output(enter.clone())));
            self.redraw();
        }
        if let Some((when, window)) = self.redraw
            && when <= now
        {
            self.resize(window);
        }
        if let Some(stopping) = self.stopping
            && stopping.kill_at <= now
        {
            self.signal_root(Signal::SIGKILL as i32);
            self.signal_all(Signal::SIGKILL as i32);
            self.done |= stopping.killed && self.end_with_root;
            let kill_at = now + Duration::from_millis(KILL_AGAIN_MS);
            self.stopping = Some(Stopping { kill_at, killed: true });
        }
        self.done |= self.ended.is_some() && (self.end_with_root || !self.has_children);
    }

    /// Gives clients a little time for the last of the output.
    fn linger(&mut self) {
        if self.ended.is_none() {
            self.root_ended(libc::SIGKILL);
        }
        self.drain();
        let until = Instant::now() + Duration::from_millis(LINGER_MS_MAX);
        self.accept();
        for index in 0..self.peers.len() {
            for request in self.peers[index].receive() {
                if matches!(
                    request,
                    Request::Attach { .. } | Request::Watch | Request::Stop { .. } | Request::Kill
                ) {
                    self.watch(index);
                }
            }
        }
        self.peers.retain(|peer| peer.has_queue() && !peer.gone);
        while !self.peers.is_empty() && Instant::now() < until {
            let mut fds: Vec<PollFd<'_>> = self
                .peers
                .iter()
                .map(|peer| PollFd::new(peer.stream().as_fd(), PollFlags::POLLOUT))
                .collect();
            let _ = poll(&mut fds, 200u16);
            self.peers.iter_mut().for_each(Peer::flush);
            self.peers.retain(|peer| peer.has_queue() && !peer.gone);
        }
    }
}

/// Whether a read would return something now.
fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(count) if count > 0)
        && fds[0].revents().is_some_and(|flags| flags.contains(PollFlags::POLLIN))
}
