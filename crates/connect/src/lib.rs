//! Mediating connectors: a *wrapper* puts *mediators* before functions of libraries in a running program, and is taken off
//! again.
//!
//! [`wrap`] reads as a list of steps: look, borrow a thread, load the implementation, plan, commit. The same in
//! [`unwrap_process`], backwards. What lives in the program is `brant-runtime`; this crate only loads it, asks it, and writes
//! what it plans while no thread runs.
//!
//! State of the target: each module says it. Killed at any instant, brant leaves the program running: without the wrapper,
//! with it, or with a part of it, which [`unwrap_process`] takes off.
#![forbid(unsafe_code)]

pub mod definitions;

mod allocator;
mod alone;
mod error;
mod free_memory;
mod go;
mod log;
mod numbers;
mod progress;
mod shape;
mod target;

mod stack;
mod stop;
mod unwind;

mod by_hand;
mod carried;
mod commit;
mod entry;
pub mod follow;
mod in_flight;
mod launch;
mod runtime;
mod saving;
mod session;
mod standing;
mod turn;

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use brant_base::{Addr, Pid, Tid};
use brant_hook::exchange::{Event, INNER_PREFIX, NO_EVENTS, Reply, Request};
pub use brant_hook::exchange::{
    Function, Listed, Mediation, MissedSite, Missing, Outcome, Shape, SiteCounts, Word,
};
use brant_kernel::patience::Patience;
use brant_kernel::proc;
use brant_kernel::ptrace::Waiter;
use brant_kernel::remote::Memory;

use commit::{Inside, commit};
pub use error::{Error, Unhookable};
pub use free_memory::free_memory;
pub use in_flight::translating;
pub use launch::Launch;
pub use log::{Log, VARIABLE as LOG_VARIABLE};
pub use numbers::call_name;
use progress::Progress;
pub use saving::tell_of_checkpoint;
use session::Session;
pub use standing::{revise_standing, wrap_standing};
use stop::{by_thread_that_ends, while_stopped};
use target::Target;
use turn::Turn;

/// A set of mediators and the functions that they are for.
#[derive(Debug, Clone)]
pub struct Wrapper {
    pub name: String,
    /// The library with the mediators, by a path that is absolute in the program's file system.
    pub implementation: PathBuf,
    /// The library itself, where it is no file but travels with brant. Its path is a name only.
    pub carried: Option<&'static [u8]>,
    /// What [`definitions::again`] finds its definition by, from any folder.
    pub definition: Option<String>,
    /// For the implementation, which learns them when it is loaded.
    pub options: Vec<u8>,
    /// Functions and libraries that the program does not have are left out. Otherwise the wrapper is refused for one.
    pub skips_missing: bool,
    /// A mediator's own calls of the wrapper's functions are mediated too.
    pub is_unguarded: bool,
    pub mediations: Vec<Mediation>,
}

impl Wrapper {
    /// What a definition says, with the path at which its implementation was found.
    pub fn new(definition: &brant_definition::Wrapper, implementation: PathBuf) -> Result<Wrapper, Error> {
        let name = definition.name.as_str().to_owned();
        let mediations = definition.wraps.iter().map(shape::mediation).collect::<Result<_, _>>()?;
        Ok(Wrapper {
            name,
            implementation,
            carried: None,
            definition: None,
            options: Vec::new(),
            skips_missing: false,
            is_unguarded: false,
            mediations,
        })
    }
}

impl Wrapper {
    /// The name of the library in the program, and what it is, where it travels with brant.
    pub(crate) fn carried_as(&self) -> Option<(&[u8], &'static [u8])> {
        let name = self.implementation.as_os_str().as_bytes();
        self.carried.map(|library| (name.strip_prefix(b"/memfd:").unwrap_or(name), library))
    }
}

/// A wrapper that was put on.
#[derive(Debug, Clone)]
pub struct Wrapped {
    /// How many functions each mediation is for: one that a library exports in several versions counts several times.
    pub functions: Vec<u32>,
    /// Each function that is mediated now.
    pub interceptions: Vec<Function>,
    /// Functions whose library is not loaded: they are mediated as soon as it is. Those of a wrapper that leaves out what
    /// is missing are not told.
    pub waiting: Vec<Unhookable>,
    /// Where system calls are mediated; all zeros where none is.
    pub sites: SiteCounts,
    /// For how long the program stood still.
    pub pause: Duration,
}

impl Wrapped {
    /// What of the wrapper's system calls is not mediated, a line each; nothing where all is.
    pub fn gaps(&self, wrapper: &Wrapper) -> Vec<String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let calls = wrapper.mediations.iter().filter(|mediation| mediation.call.is_some());
        let answered = calls.map(|mediation| text(&mediation.function));
        let answered: Vec<String> = answered.filter(|name| numbers::is_answered_by_vdso(name)).collect();
        let answered = (!answered.is_empty())
            .then(|| format!("{}: the vDSO answers most of them without a call", answered.join(", ")));
        answered.into_iter().chain(self.sites.missed.iter().map(missed)).collect()
    }
}

/// One place that cannot be patched, for people.
fn missed(site: &MissedSite) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let call = match call_name(site.number) {
        Some(name) => name.to_owned(),
        None => "calls".to_owned(),
    };
    let function = match site.function.is_empty() {
        true => String::new(),
        false => format!(" in {}", text(&site.function)),
    };
    format!("{call} at {}+{:#x}{function}: {}", text(&site.library), site.offset, site.refusal)
}

/// What became of the implementation of a wrapper that was taken off: no new call reaches it in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Implementation {
    Unloaded,
    /// A thread is still inside of it, or that cannot be told.
    InUse,
    /// The program's loader keeps it: musl's never unloads, and others may use it.
    KeptByLoader,
}

/// A wrapper that was taken off.
#[derive(Debug, Clone)]
pub struct Unwrapped {
    pub implementation: Implementation,
    /// Each function that is not mediated by it any more.
    pub interceptions: Vec<Function>,
    /// For how long the program stood still for the change.
    pub pause: Duration,
}

/// How often taking a wrapper off looks for calls that are under way, two seconds or so. A look counts where a thread that is inside has
/// moved since the last, and so had a chance to get out.
const QUIET_LOOKS: u32 = 25;
const QUIET_PAUSE: Duration = Duration::from_millis(5);
const QUIET_PAUSE_MAX: Duration = Duration::from_millis(100);
/// How long a program may take to have its C library loaded.
const LOADING_TIMEOUT: Duration = Duration::from_secs(1);
const LOADING_PAUSE: Duration = Duration::from_millis(5);
/// How often a plan is made anew because a library has come or gone meanwhile, and after which pauses.
const PLAN_TRIES: u32 = 100;
const PLAN_PAUSE: Duration = Duration::from_millis(1);
const PLAN_PAUSE_MAX: Duration = Duration::from_millis(50);

/// Puts the wrapper that `name` leads to on a running process: see [`definitions::find`] and [`wrap`]. The log is the one
/// that the environment names.
pub fn wrap_process(name: &str, pid: Pid) -> Result<Wrapped, Error> {
    wrap(&definitions::find(name)?, pid, &Log::from_environment()?)
}

/// Takes a wrapper off a running process. The log is the one that the environment names.
pub fn unwrap_process(name: &str, pid: Pid) -> Result<Unwrapped, Error> {
    unwrap(name, pid, &Log::from_environment()?)
}

/// Puts a wrapper on a running process: on every function that it names, or on none.
pub fn wrap(wrapper: &Wrapper, pid: Pid, log: &Log) -> Result<Wrapped, Error> {
    let done = by_thread_that_ends(|| wrap_running(wrapper, pid));
    log.put_on(pid, &wrapper.name, &done);
    done
}

/// Takes a wrapper off a running process.
pub fn unwrap(name: &str, pid: Pid, log: &Log) -> Result<Unwrapped, Error> {
    let done = by_thread_that_ends(|| unwrap_running(name, pid));
    log.taken_off(pid, name, &done.as_ref().map(|(unwrapped, _)| unwrapped));
    let (unwrapped, following) = done?;
    // What it hands on to programs that it executes.
    if let Some(options) = following.filter(|_| name != follow::NAME) {
        follow::remove(pid, &options, name, log)?;
    }
    Ok(unwrapped)
}

/// As [`wrap`]; and programs that the process executes get the wrapper too, from the brant at the path `brant`, as the process
/// sees it ([`follow::own_path`]).
pub fn wrap_and_follow(wrapper: &Wrapper, pid: Pid, brant: &Path, log: &Log) -> Result<Wrapped, Error> {
    let wrapped = wrap(wrapper, pid, log)?;
    if let Err(error) = follow::add(pid, wrapper, brant, log) {
        // On for all that was asked for, or for nothing.
        let _ = unwrap(&wrapper.name, pid, log);
        return Err(error);
    }
    Ok(wrapped)
}

fn wrap_running(wrapper: &Wrapper, pid: Pid) -> Result<Wrapped, Error> {
    let _turn = Turn::take(pid)?;
    let waiter = waiter(pid)?;
    let target = inspect_loaded(pid)?;
    if target.is_alone {
        return alone::wrap(&waiter, &target, wrapper);
    }
    let session = Session::open(&waiter, &target, true, std::slice::from_ref(wrapper))?;
    put_on_and_close(&target, session, wrapper)
}

/// A program that was executed a moment ago may not have its C library yet.
fn inspect_loaded(pid: Pid) -> Result<Target, Error> {
    let mut patience = Patience::new(LOADING_TIMEOUT);
    loop {
        match Target::inspect(pid) {
            Err(Error::NoLoader(_)) if !patience.is_over() => std::thread::sleep(LOADING_PAUSE),
            other => return other,
        }
    }
}

fn put_on_and_close(target: &Target, mut session: Session<'_>, wrapper: &Wrapper) -> Result<Wrapped, Error> {
    let done = put_on(target, &mut session, wrapper);
    session.close_after(done)
}

/// Loads the implementation, asks the runtime for a plan, and carries it out. The refusals that need a look into
/// the program come before the first of these.
fn put_on(target: &Target, session: &mut Session<'_>, wrapper: &Wrapper) -> Result<Wrapped, Error> {
    let name = wrapper.name.as_bytes();
    let known = listed(session)?;
    if known.iter().any(|known| known.name == name && known.is_on) {
        return Err(Error::AlreadyWrapped { pid: target.pid, name: wrapper.name.clone() });
    }
    let is_of_calls = wrapper.mediations.iter().any(|mediation| mediation.call.is_some());
    if is_of_calls && go::is_in(session.memory(), &target.maps) {
        return Err(Error::SmallStacks(target.pid));
    }
    let path = wrapper.implementation.as_os_str().as_bytes();
    let handle = match wrapper.carried {
        Some(_) => {
            let handles: Vec<u64> = known.iter().map(|known| known.handle).collect();
            session.load_carried(wrapper, &handles)?
        }
        None => session.load(path)?,
    };
    let request = Request::Wrap {
        name: name.to_vec(),
        path: path.to_vec(),
        handle,
        iterate: session.iterate().0,
        debug: target.loader.debug,
        is_unguarded: wrapper.is_unguarded,
        options: wrapper.options.clone(),
        mediations: wrapper.mediations.clone(),
    };
    let reply = session.ask(&request)?;
    let (Reply::Plan { wrapper: id, .. } | Reply::Loading { wrapper: id }) = reply else {
        session.unload(handle)?;
        return Err(Error::Runtime(target.pid));
    };
    let committed = carry_out(target, session, wrapper, (id, reply));
    if committed.is_err() {
        // No call has reached it.
        session.unload(handle)?;
        session.ask(&Request::Settle { wrapper: id, is_unloaded: true })?;
    }
    let wrapped = committed?;
    let known = listed(session)?.into_iter().find(|known| known.id == id);
    Ok(Wrapped { interceptions: known.map_or(Vec::new(), |known| known.functions), ..wrapped })
}

/// Carries a plan out, or a newer one where something has changed before.
fn carry_out(
    target: &Target,
    session: &mut Session<'_>,
    wrapper: &Wrapper,
    (id, mut reply): (u32, Reply),
) -> Result<Wrapped, Error> {
    let mut is_told = false;
    let mut pause = PLAN_PAUSE;
    for _ in 0..PLAN_TRIES {
        match reply {
            Reply::Plan { writes, moves, outcomes, sites, .. } => {
                let (functions, waiting) = all_planned(wrapper, &outcomes)?;
                if !is_told {
                    tell_load(session, wrapper, id)?;
                    is_told = true;
                }
                match commit(target, session, &writes, &moves, |_, _| ()) {
                    Ok((committed, ())) => {
                        let (interceptions, pause) = (Vec::new(), committed.pause);
                        return Ok(Wrapped { functions, interceptions, waiting, sites, pause });
                    }
                    Err(Error::Stale(_)) => {}
                    Err(error) => return give_up(session, id, error),
                }
            }
            Reply::Loading { .. } => {}
            _ => return Err(Error::Runtime(target.pid)),
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(PLAN_PAUSE_MAX);
        reply = session.ask(&Request::Replan { wrapper: id })?;
    }
    match is_told {
        true => give_up(session, id, Error::Stale(target.pid)),
        false => Err(Error::Stale(target.pid)),
    }
}

/// The implementation has agreed, but its mediators stand before nothing.
fn give_up<T>(session: &mut Session<'_>, id: u32, error: Error) -> Result<T, Error> {
    session.ask(&Request::Tell { wrapper: id, event: Event::Unload })?;
    Err(error)
}

/// Lets the implementation agree.
fn tell_load(session: &mut Session<'_>, wrapper: &Wrapper, id: u32) -> Result<(), Error> {
    let name = || wrapper.name.clone();
    match session.ask(&Request::Tell { wrapper: id, event: Event::Load })? {
        Reply::Told(why) if why.is_empty() => Ok(()),
        Reply::Told(why) if why == NO_EVENTS => match wrapper.options.is_empty() {
            true => Ok(()),
            false => Err(Error::NoOptions(name())),
        },
        Reply::Told(why) => {
            Err(Error::Declined { name: name(), why: String::from_utf8_lossy(&why).into_owned() })
        }
        _ => Err(Error::Runtime(Pid(session.thread.tid.0))),
    }
}

/// The counts, and what waits for its library, where every mediation has found its function or will.
fn all_planned(wrapper: &Wrapper, outcomes: &[Outcome]) -> Result<(Vec<u32>, Vec<Unhookable>), Error> {
    let (mut functions, mut waiting) = (Vec::new(), Vec::new());
    let mut unhookable = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    for (mediation, outcome) in wrapper.mediations.iter().zip(outcomes) {
        match outcome {
            Outcome::Planned(count) => functions.push(*count),
            // Whoever leaves out what is missing names libraries that a program need not have.
            Outcome::NoFunction | Outcome::NoLibrary | Outcome::Waits if wrapper.skips_missing => {
                functions.push(0);
            }
            Outcome::NoMediator => {
                let path = wrapper.implementation.display().to_string();
                return Err(Error::NoMediator { path, missing: text(&mediation.mediator) });
            }
            Outcome::NoInner => {
                let path = wrapper.implementation.display().to_string();
                let missing = format!("{}{}", text(INNER_PREFIX), text(&mediation.mediator));
                return Err(Error::NoMediator { path, missing: missing + ", for a native mediator" });
            }
            outcome => {
                let function = Unhookable {
                    library: text(&mediation.library),
                    function: text(&mediation.function),
                    outcome: *outcome,
                };
                match outcome {
                    Outcome::Waits => {
                        functions.push(0);
                        waiting.push(function);
                    }
                    _ => unhookable.push(function),
                }
            }
        }
    }
    if unhookable.is_empty() { Ok((functions, waiting)) } else { Err(Error::Unhookable(unhookable)) }
}

/// Gives the options of its `follow-exec` besides.
fn unwrap_running(name: &str, pid: Pid) -> Result<(Unwrapped, Option<Vec<u8>>), Error> {
    let _turn = Turn::take(pid)?;
    let waiter = waiter(pid)?;
    let target = Target::inspect(pid)?;
    in_flight::check_hides_nothing(pid, name)?;
    let missing = || Error::NotWrapped { pid, name: name.to_owned() };
    if runtime::Runtime::find(pid)?.is_none() {
        return Err(missing());
    }
    let mut session = Session::open(&waiter, &target, false, &[])?;
    let taken = take_off(&target, &mut session, name);
    let TakenOff { wrapper, following, is_quiet, pause } = match taken {
        Ok(taken) => taken,
        Err(error) => return session.close_after(Err(error)),
    };
    let unload_and_close = |mut session: Session<'_>| {
        let unloaded = unload(&target, &mut session, &wrapper);
        session.close_after(unloaded)
    };
    let implementation = if is_quiet {
        unload_and_close(session)?
    } else {
        session.close()?;
        match wait_until_quiet(&target, &wrapper)? {
            true => unload_and_close(Session::open(&waiter, &target, false, &[])?)?,
            false => Implementation::InUse,
        }
    };
    Ok((Unwrapped { implementation, interceptions: wrapper.functions, pause }, following))
}

/// A wrapper whose layers are out.
struct TakenOff {
    wrapper: Listed,
    /// The options of `follow-exec`, where the process has it.
    following: Option<Vec<u8>>,
    /// No thread was inside at that moment.
    is_quiet: bool,
    pause: Duration,
}

/// Takes the wrapper's layers out.
fn take_off(target: &Target, session: &mut Session<'_>, name: &str) -> Result<TakenOff, Error> {
    let mut known = listed(session)?;
    let is_following = |known: &&Listed| known.name == follow::NAME.as_bytes() && known.is_on;
    let following = known.iter().find(is_following).map(|known| known.options.clone());
    known.retain(|known| known.name == name.as_bytes());
    // Dormant ones may have the same name.
    known.sort_by_key(|known| (known.is_on, known.id));
    let wrapper = known.pop().ok_or_else(|| Error::NotWrapped { pid: target.pid, name: name.to_owned() })?;
    let runtime = session.runtime.clone().ok_or(Error::Runtime(target.pid))?;
    let memory = Memory::open(target.pid).map_err(|error| Error::NotAllowed(target.pid, error))?;
    let inside = Inside {
        runtime: &runtime,
        wrapper: wrapper.id,
        implementation: code_of(target, &memory, &wrapper)?,
    };
    let mut pause = PLAN_PAUSE;
    for attempt in 0..PLAN_TRIES {
        let request = Request::Unwrap { wrapper: wrapper.id, holds: attempt > 0 };
        let Reply::Plan { writes, .. } = session.ask(&request)? else {
            return Err(Error::Runtime(target.pid));
        };
        let look = |threads: &[_], maps: &[_]| inside.is_empty(target, &memory, threads, maps);
        match commit(target, session, &writes, &[], look) {
            Ok((committed, is_quiet)) => {
                session.ask(&Request::Tell { wrapper: wrapper.id, event: Event::Off })?;
                return Ok(TakenOff { wrapper, following, is_quiet, pause: committed.pause });
            }
            Err(Error::Stale(_)) => {}
            Err(error) => return Err(error),
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(PLAN_PAUSE_MAX);
    }
    Err(Error::Stale(target.pid))
}

/// Stops the process now and then to see whether no thread is inside any more.
fn wait_until_quiet(target: &Target, wrapper: &Listed) -> Result<bool, Error> {
    let runtime = runtime::Runtime::find(target.pid)?.ok_or(Error::Runtime(target.pid))?;
    let memory = Memory::open(target.pid).map_err(|error| Error::NotAllowed(target.pid, error))?;
    let inside =
        Inside { runtime: &runtime, wrapper: wrapper.id, implementation: code_of(target, &memory, wrapper)? };
    let mut progress = Progress::new(QUIET_PAUSE);
    let (mut looks, mut is_made) = (0, true);
    // What was seen when it was taken off was the first look.
    while looks < QUIET_LOOKS && progress.wait(is_made, QUIET_PAUSE_MAX) {
        let (is_quiet, _) = while_stopped(target.pid, &[], |held| {
            let maps = proc::maps(target.pid).map_err(|error| Error::looking(target.pid, error))?;
            let threads: Vec<_> = held.threads().collect();
            let Some(seen) = inside.threads(target, &memory, &threads, &maps) else { return Ok(false) };
            let is_quiet = seen.is_empty() && inside.is_unaccounted(&memory);
            is_made = progress.is_made(&memory, seen);
            looks += u32::from(is_made);
            Ok(is_quiet)
        })?;
        if is_quiet {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Unloads an implementation in which no thread is.
fn unload(target: &Target, session: &mut Session<'_>, wrapper: &Listed) -> Result<Implementation, Error> {
    let file = file_of(target, session.memory(), wrapper)?.0;
    session.ask(&Request::Tell { wrapper: wrapper.id, event: Event::Unload })?;
    session.unload(wrapper.handle)?;
    session.ask(&Request::Settle { wrapper: wrapper.id, is_unloaded: true })?;
    let maps = proc::maps(target.pid).map_err(|error| Error::looking(target.pid, error))?;
    let is_there = maps.iter().any(|entry| (entry.device, entry.inode) == file);
    Ok(if is_there { Implementation::KeptByLoader } else { Implementation::Unloaded })
}

/// The file of a wrapper's implementation, and the mappings of the process.
fn file_of(
    target: &Target,
    memory: &Memory,
    wrapper: &Listed,
) -> Result<((proc::Device, u64), Vec<proc::MapEntry>), Error> {
    // What dlopen gave begins with the base, the name, and the address of the dynamic section.
    let dynamic: u64 = memory
        .read_value(Addr(wrapper.handle + 16))
        .map_err(|error| Error::thread(Tid(target.pid.0), "reading where a library is", error))?;
    let maps = proc::maps(target.pid).map_err(|error| Error::looking(target.pid, error))?;
    let Some(own) = maps.iter().find(|entry| entry.range.contains(Addr(dynamic))) else {
        return Err(Error::Changed { pid: target.pid, what: "the implementation is not loaded any more" });
    };
    Ok(((own.device, own.inode), maps))
}

/// The executable mappings of a wrapper's implementation.
fn code_of(target: &Target, memory: &Memory, wrapper: &Listed) -> Result<Vec<std::ops::Range<u64>>, Error> {
    let (file, maps) = file_of(target, memory, wrapper)?;
    Ok(target::code_of(&maps, file).collect())
}

/// The wrappers that are in a process, the dormant ones too.
pub fn wrappers(pid: Pid) -> Result<Vec<Listed>, Error> {
    by_thread_that_ends(|| wrappers_of(pid))
}

fn wrappers_of(pid: Pid) -> Result<Vec<Listed>, Error> {
    let _turn = Turn::take(pid)?;
    let waiter = waiter(pid)?;
    let target = Target::inspect(pid)?;
    if runtime::Runtime::find(pid)?.is_none() {
        return Ok(Vec::new());
    }
    let mut session = Session::open(&waiter, &target, false, &[])?;
    let known = listed(&mut session);
    session.close_after(known)
}

fn listed(session: &mut Session<'_>) -> Result<Vec<Listed>, Error> {
    match session.ask(&Request::List)? {
        Reply::List(wrappers) => Ok(wrappers),
        _ => Err(Error::Runtime(Pid(session.thread.tid.0))),
    }
}

fn waiter(pid: Pid) -> Result<Waiter, Error> {
    Waiter::new().map_err(|error| Error::thread(Tid(pid.0), "starting the clock of waits", error))
}
