//! Wrappers that are handed on over execve: what programs get that a wrapped program executes.
//!
//! The wrapper `follow-exec` (`brant_wrappers`, `inside::follow`) starts a brant before the program executes another one, with what
//! its options say: [`Spec`]. That brant does [`follow`]: it seizes the thread, lets it execute, stops the new program at its
//! entry point, puts the wrappers on, and ends.
//!
//! State of the target: traced without *exit kill*, from shortly before its execve until the new program's entry point. What
//! cannot be wrapped runs without wrappers; on an error, or killed at any instant, this leaves the program running, without
//! a wrapper, or with some of them.

mod numbers;
mod spec;
mod under_way;

use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use brant_base::{Pid, Tid};
use brant_kernel::patience::Patience;
use brant_kernel::ptrace::{self, Options, Stop, Waiter};
use brant_kernel::{executable, proc};
use brant_wrappers::follow::{DONE, GO, NOT, NUMBERS_BYTES, PERMIT, WAIT_S};

use crate::entry::{Entry, settled};
use crate::error::Error;
use crate::session::Session;
use crate::target::Target;
use crate::{Log, Turn, Wrapped, Wrapper, alone, put_on};
use numbers::Inherited;
pub(crate) use spec::Spec;
pub use under_way::{is_follower, is_under_way};

/// The name of the wrapper that hands others on.
pub const NAME: &str = "follow-exec";

/// How long the program may take from leave to execute to the end of its execve; more than it waits for that leave.
const EXEC_TIMEOUT: Duration = Duration::from_secs(WAIT_S + 5);
/// The kernel takes no longer path.
const PATH_BYTES_MAX: usize = 4096;
const EXEC_PAUSE: Duration = Duration::from_micros(50);
const EXEC_PAUSE_MAX: Duration = Duration::from_millis(2);
/// How long another tracer, such as a checkpoint, may hold the thread; less than it waits for us.
const SEIZE_TIMEOUT: Duration = Duration::from_secs(6);
const SEIZE_PAUSE: Duration = Duration::from_millis(5);
/// How long somebody else may change the wrappers of the new program.
const TURN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the new program's libraries may take to load.
const ENTRY_TIMEOUT: Duration = Duration::from_secs(60);

/// The wrapper that hands `wrappers` on, with the brant at `brant` as the program sees it. To be put on before them.
pub fn wrapper(brant: &Path, log: &Log, wrappers: &[Wrapper]) -> Result<Wrapper, Error> {
    let mut spec = Spec::new(brant, log);
    wrappers.iter().try_for_each(|wrapper| spec.add(wrapper))?;
    spec.wrapper()
}

/// The path of this program, which is brant, where there is one that others can execute it by.
pub fn own_program() -> Option<PathBuf> {
    own_path(Pid(std::process::id() as i32)).ok().filter(|path| path.as_os_str().len() < PATH_BYTES_MAX)
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

/// Follows one execve. `options` are those of the wrapper that has started us; none where only the table of numbers is handed on.
/// Whatever comes of it is logged, if there is a log.
pub fn follow(caller: Caller, options: &[u8]) {
    if !is_meant(&caller) {
        return;
    }
    let spec = if options.is_empty() { Some(Spec::nothing()) } else { Spec::parse(options) };
    let Some(spec) = spec else { return drop(say(&caller.socket, NOT)) };
    let log = spec.log.as_deref().and_then(|path| Log::open(path).ok()).unwrap_or_default();
    let program =
        std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&caller.file)));
    let program = program.unwrap_or_default();
    match follow_it(&caller, &spec, &program, &log) {
        // Nothing was executed.
        Ok(()) | Err(Error::Gone(_)) => {}
        Err(error) => {
            log.unfollowed(caller.pid, &program, &error);
            // It waits for us, unless it was executed. What it does next finds the line in the log.
            let _ = say(&caller.socket, NOT);
        }
    }
}

/// Whether the thread still has the numbers by which we were started: it may have been brought back from an image since.
fn is_meant(caller: &Caller) -> bool {
    let mut said = [0; NUMBERS_BYTES];
    let limited = caller.socket.set_read_timeout(Some(Duration::from_secs(WAIT_S)));
    let read = limited.and_then(|()| (&caller.socket).read_exact(&mut said));
    let own = [caller.pid.0, caller.tid.0].map(i32::to_le_bytes).concat();
    read.is_ok() && said[..] == own[..]
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
    let table = Inherited::of(pid, spec.has(numbers::WRAPPER))?;
    say(&caller.socket, GO)?;
    let mut wrappers = spec.load();
    if let Some(table) = &table {
        // Its mediators are called first: the others see what the kernel sees.
        wrappers.retain(|(name, _)| name != numbers::WRAPPER);
        wrappers.push((numbers::WRAPPER.to_owned(), table.wrapper()));
    }
    if !wait_for_exec(caller, &waiter)? {
        return Ok(());
    }
    let _turn = Turn::wait(pid, TURN_TIMEOUT)?;
    let done = match &table {
        Some(table) if alone::is_alone(pid)? => put_table_on(&waiter, pid, table, log),
        _ => {
            let (entry, thread) = Entry::reach(&waiter, pid, ENTRY_TIMEOUT)?;
            let done = put_all_on(&waiter, pid, thread, wrappers, log);
            let done = match (&table, done) {
                (Some(table), Ok(true)) => table.tell_library(pid),
                (_, done) => done.map(drop),
            };
            entry.leave(thread).and(done)
        }
    };
    if done.is_ok() {
        log.followed(pid, program);
    }
    ptrace::detach(tid_of(pid), 0).map_err(|error| Error::thread(tid, "letting it go", error))?;
    done
}

/// Puts the mediators of numbers on a program without a loader, which has run no instruction yet.
fn put_table_on(waiter: &Waiter, pid: Pid, table: &Inherited, log: &Log) -> Result<(), Error> {
    let thread = settled(waiter, tid_of(pid), ENTRY_TIMEOUT)?;
    let wrapper = table.wrapper()?;
    let (target, thread) = alone::prepare(waiter, pid, thread)?;
    let mut session = Session::open_standing(waiter, &target, &[thread], std::slice::from_ref(&wrapper))?;
    let done = put_on(&target, &mut session, &wrapper);
    log.put_on(pid, numbers::WRAPPER, &done);
    session.close_after(done).map(drop)
}

/// After an execve the thread has the process's number.
fn tid_of(pid: Pid) -> Tid {
    Tid(pid.0)
}

/// Whether the last one is on.
fn put_all_on(
    waiter: &Waiter,
    pid: Pid,
    thread: brant_kernel::remote::HandThread,
    wrappers: Vec<(String, Result<Wrapper, Error>)>,
    log: &Log,
) -> Result<bool, Error> {
    let target = Target::inspect_own(pid)?;
    let found: Vec<Wrapper> =
        wrappers.iter().filter_map(|(_, wrapper)| wrapper.as_ref().ok().cloned()).collect();
    let mut session = Session::open_with(waiter, &target, thread, &found)?;
    // Each for itself: a program may not have what one of them is for.
    let mut is_on = false;
    for (name, wrapper) in wrappers {
        let done = wrapper.and_then(|wrapper| put_on(&target, &mut session, &wrapper));
        log.put_on(pid, &name, &done);
        is_on = done.is_ok();
    }
    session.close().map(|()| is_on)
}

/// Seizes the thread, with its leave where Yama asks for that. Whoever else holds it may let it go: a checkpoint is soon over.
fn seize(caller: &Caller) -> Result<(), Error> {
    let Caller { pid, tid, .. } = *caller;
    let options = Options { stop_at_exec: true, ..Options::default() };
    let not_allowed = |error| Error::NotAllowed(pid, error);
    let mut patience = Patience::new(SEIZE_TIMEOUT);
    let mut has_asked = false;
    loop {
        let error = match ptrace::seize(tid, options) {
            Ok(()) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => error,
            Err(error) => return Err(not_allowed(error)),
        };
        let tracer = proc::status((pid, tid)).map_or(Pid(0), |status| status.tracer);
        if tracer != Pid(0) {
            // Another one of us does it already, or it is traced for good.
            if under_way::followed_by(tracer).is_some() || patience.is_over() {
                return Err(not_allowed(error));
            }
            std::thread::sleep(SEIZE_PAUSE);
        } else if has_asked {
            // Who held it may just have let it go.
            return ptrace::seize(tid, options).map_err(not_allowed);
        } else {
            has_asked = true;
            say(&caller.socket, PERMIT)?;
            let mut answer = [0];
            let limited = caller.socket.set_read_timeout(Some(Duration::from_secs(WAIT_S)));
            limited.and_then(|()| (&caller.socket).read_exact(&mut answer)).map_err(not_allowed)?;
        }
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
    let mut patience = Patience::new(EXEC_TIMEOUT);
    let mut pause = EXEC_PAUSE;
    while !patience.is_over() {
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
