//! Wrappers that are handed on over execve: what programs get that a wrapped program executes.
//!
//! The wrapper `follow-exec` (`brant_wrappers`, `inside::follow`) starts a brant before the program executes another one, with what
//! its options say: [`Spec`]. That brant does [`follow`]: it seizes the thread, lets it execute, stops the new program at its
//! entry point, puts the wrappers on, and ends.
//!
//! State of the target: traced without *exit kill*, from shortly before its execve until the new program's entry point. What
//! cannot be wrapped runs without wrappers; on an error, or killed at any instant, this leaves the program running, without
//! a wrapper, or with some of them.

mod spec;

use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use brant_base::{Pid, Tid};
use brant_kernel::ptrace::{self, Options, Stop, Waiter};
use brant_kernel::{executable, proc};
use brant_wrappers::follow::{DONE, GO, PERMIT, WAIT_S};

use crate::entry::Entry;
use crate::error::Error;
use crate::session::Session;
use crate::target::Target;
use crate::{Log, Turn, Wrapped, Wrapper, put_on};
pub(crate) use spec::Spec;

/// The name of the wrapper that hands others on.
pub const NAME: &str = "follow-exec";

/// How long the program may take from leave to execute to the end of its execve; more than it waits for that leave.
const EXEC_TIMEOUT: Duration = Duration::from_secs(WAIT_S + 5);
const EXEC_PAUSE: Duration = Duration::from_micros(50);
const EXEC_PAUSE_MAX: Duration = Duration::from_millis(2);
/// How long the new program's libraries may take to load.
const ENTRY_TIMEOUT: Duration = Duration::from_secs(60);

/// The wrapper that hands `wrappers` on, with the brant at `brant` as the program sees it. To be put on before them.
pub fn wrapper(brant: &Path, log: &Log, wrappers: &[Wrapper]) -> Result<Wrapper, Error> {
    let mut spec = Spec::new(brant, log);
    wrappers.iter().try_for_each(|wrapper| spec.add(wrapper))?;
    spec.wrapper()
}

/// The path of this program, which is brant, where process `pid` finds it there too.
pub fn own_path(pid: Pid) -> Result<PathBuf, Error> {
    let why = |why: &str| Error::Follow(why.to_owned());
    let path = std::env::current_exe().map_err(|error| Error::Follow(error.to_string()))?;
    let own = std::fs::metadata("/proc/self/exe").map_err(|error| Error::Follow(error.to_string()))?;
    let below = path.strip_prefix("/").map_err(|_| why("the path of this brant is not known"))?;
    let there = Path::new("/proc").join(pid.to_string()).join("root").join(below);
    let is_same = |found: &std::fs::Metadata| {
        use std::os::unix::fs::MetadataExt as _;
        (found.dev(), found.ino()) == (own.dev(), own.ino())
    };
    match std::fs::metadata(&there) {
        Ok(found) if is_same(&found) => Ok(path),
        _ => Err(Error::Follow(format!("the program does not find this brant at {}", path.display()))),
    }
}

/// Lets a running process hand `wrapper` on, which is on already, besides those that it hands on.
pub(crate) fn add(pid: Pid, wrapper: &Wrapper, brant: &Path, log: &Log) -> Result<Wrapped, Error> {
    let mut spec = Spec::new(brant, log);
    if let Some(known) = known(pid)? {
        spec.wrappers = Spec::parse(&known).ok_or(Error::Runtime(pid))?.wrappers;
        spec.remove(&wrapper.name);
    }
    spec.add(wrapper)?;
    replace(pid, &spec, log)?.ok_or(Error::Runtime(pid))
}

/// Lets a running process not hand the wrapper of this name on any more; `options` are those of its `follow-exec`.
pub(crate) fn remove(pid: Pid, options: &[u8], name: &str, log: &Log) -> Result<(), Error> {
    let mut spec = Spec::parse(options).ok_or(Error::Runtime(pid))?;
    if !spec.remove(name) {
        return Ok(());
    }
    replace(pid, &spec, log).map(drop)
}

/// The options of its `follow-exec`.
fn known(pid: Pid) -> Result<Option<Vec<u8>>, Error> {
    let is_it = |known: &crate::Listed| known.name == NAME.as_bytes() && known.is_on;
    Ok(crate::wrappers(pid)?.into_iter().find(is_it).map(|known| known.options))
}

fn replace(pid: Pid, spec: &Spec, log: &Log) -> Result<Option<Wrapped>, Error> {
    let new = spec.wrapper()?;
    match crate::unwrap(NAME, pid, log) {
        Ok(_) | Err(Error::NotWrapped { .. }) => {}
        Err(error) => return Err(error),
    }
    match spec.wrappers.is_empty() {
        true => Ok(None),
        false => crate::wrap(&new, pid, log).map(Some),
    }
}

/// Who is about to execute what.
#[derive(Debug)]
pub struct Caller {
    pub pid: Pid,
    /// The thread.
    pub tid: Tid,
    /// What it listens to.
    pub socket: UnixStream,
    pub file: OwnedFd,
}

/// Follows one execve. `options` are those of the wrapper that has started us. Whatever comes of it is logged, if there is a
/// log.
pub fn follow(caller: Caller, options: &[u8]) {
    let Some(spec) = Spec::parse(options) else { return };
    let log = spec.log.as_deref().and_then(|path| Log::open(path).ok()).unwrap_or_default();
    let program =
        std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&caller.file)));
    let program = program.unwrap_or_default();
    match follow_it(&caller, &spec, &program, &log) {
        // Nothing was executed.
        Ok(()) | Err(Error::Gone(_)) => {}
        Err(error) => log.unfollowed(caller.pid, &program, &error),
    }
}

fn follow_it(caller: &Caller, spec: &Spec, program: &Path, log: &Log) -> Result<(), Error> {
    let Caller { pid, tid, .. } = *caller;
    let unable = |why: String| Error::Follow(why);
    // Numbers must be those of the /proc that there is.
    let own = std::fs::read_link("/proc/self").unwrap_or_default();
    if own.as_os_str() != std::process::id().to_string().as_str() {
        return Err(unable("its /proc is that of another pid namespace".to_owned()));
    }
    match executable::gains_rights(&caller.file) {
        Ok(false) => {}
        Ok(true) => return Err(unable("it gains rights when it is executed".to_owned())),
        Err(error) => return Err(unable(format!("it cannot be looked at: {error}"))),
    }
    let waiter = crate::waiter(pid)?;
    seize(caller)?;
    say(&caller.socket, GO)?;
    let wrappers = spec.load();
    if !wait_for_exec(caller, &waiter)? {
        return Ok(());
    }
    let _turn = Turn::take(pid)?;
    let (entry, thread) = Entry::reach(&waiter, pid, ENTRY_TIMEOUT)?;
    let done = put_all_on(&waiter, pid, thread, wrappers, log);
    if done.is_ok() {
        log.followed(pid, program);
    }
    entry.leave(thread)?;
    ptrace::detach(tid_of(pid), 0).map_err(|error| Error::thread(tid, "letting it go", error))?;
    done
}

/// After an execve the thread has the process's number.
fn tid_of(pid: Pid) -> Tid {
    Tid(pid.0)
}

fn put_all_on(
    waiter: &Waiter,
    pid: Pid,
    thread: brant_kernel::remote::HandThread,
    wrappers: Vec<(String, Result<Wrapper, Error>)>,
    log: &Log,
) -> Result<(), Error> {
    let target = Target::inspect_own(pid)?;
    let found: Vec<Wrapper> =
        wrappers.iter().filter_map(|(_, wrapper)| wrapper.as_ref().ok().cloned()).collect();
    let mut session = Session::open_with(waiter, &target, thread, &found)?;
    // Each for itself: a program may not have what one of them is for.
    for (name, wrapper) in wrappers {
        let done = wrapper.and_then(|wrapper| put_on(&target, &mut session, &wrapper));
        log.put_on(pid, &name, &done);
    }
    session.close()
}

/// Seizes the thread, with its leave where Yama asks for that.
fn seize(caller: &Caller) -> Result<(), Error> {
    let options = Options { stop_at_exec: true, ..Options::default() };
    let seize = || ptrace::seize(caller.tid, options);
    let not_allowed = |error| Error::NotAllowed(caller.pid, error);
    match seize() {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            say(&caller.socket, PERMIT)?;
            let mut answer = [0];
            let limited = caller.socket.set_read_timeout(Some(Duration::from_secs(WAIT_S)));
            limited.and_then(|()| (&caller.socket).read_exact(&mut answer)).map_err(not_allowed)?;
            seize().map_err(not_allowed)
        }
        other => other.map_err(not_allowed),
    }
}

fn say(mut socket: &UnixStream, byte: u8) -> Result<(), Error> {
    socket.write_all(&[byte]).map_err(|error| Error::Follow(format!("the program does not wait: {error}")))
}

/// Waits for the stop of the thread's execve. It may not come about; then nothing is to be done.
fn wait_for_exec(caller: &Caller, waiter: &Waiter) -> Result<bool, Error> {
    let Caller { pid, tid, .. } = *caller;
    let failed = |error| Error::thread(tid, "waiting for its execve", error);
    caller.socket.set_nonblocking(true).map_err(failed)?;
    let deadline = Instant::now() + EXEC_TIMEOUT;
    let mut pause = EXEC_PAUSE;
    while Instant::now() < deadline {
        // A thread that executes gets the number of its process.
        let stop = [tid, tid_of(pid)]
            .into_iter()
            .find_map(|tid| waiter.poll(tid).ok().flatten().map(|stop| (tid, stop)));
        match stop {
            Some((_, Stop::Event(libc::PTRACE_EVENT_EXEC))) => return Ok(true),
            Some((_, Stop::Ended(_))) => return Ok(false),
            Some((tid, Stop::Signal(signal))) => ptrace::resume(tid, signal).map_err(failed)?,
            Some((tid, Stop::Group(_))) => ptrace::listen(tid).map_err(failed)?,
            Some((tid, _)) => ptrace::resume(tid, 0).map_err(failed)?,
            None => {
                let mut said = [0];
                match (&caller.socket).read(&mut said) {
                    Ok(1) if said[0] == DONE => return let_go(tid, waiter).map(|()| false),
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(failed(error)),
                    // Its end is closed by the execve, which may be about to stop.
                    _ => {}
                }
                if proc::stat(pid).is_err() {
                    return Ok(false);
                }
                std::thread::sleep(pause);
                pause = (pause * 2).min(EXEC_PAUSE_MAX);
            }
        }
    }
    Err(Error::Slow(pid))
}

/// The execve failed, and the thread waits for our end. It is let go before that: its next execve may follow at once.
fn let_go(tid: Tid, waiter: &Waiter) -> Result<(), Error> {
    let failed = |error| Error::thread(tid, "letting it go", error);
    ptrace::interrupt(tid).map_err(failed)?;
    match waiter.wait(tid, EXEC_TIMEOUT).map_err(|_| Error::DoesNotStop(tid))? {
        Stop::Ended(_) => Ok(()),
        Stop::Signal(signal) => ptrace::detach(tid, signal).map_err(failed),
        _ => ptrace::detach(tid, 0).map_err(failed),
    }
}
