//! Why a wrapper was not put on or taken off.

use brant_base::{Pid, Tid};
use brant_hook::exchange::Outcome;
use brant_kernel::proc::ProcError;
use brant_kernel::remote::RemoteError;

/// What went wrong. Except where it says so, the program runs on as before.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no wrapper \"{name}\": no {name}.wrap is in {folders}")]
    NoSuchName { name: String, folders: String },
    #[error("{path} cannot be read")]
    NoDefinition {
        path: String,
        #[source]
        error: std::io::Error,
    },
    #[error("{path} is not a definition of a wrapper\n{text}")]
    Definition { path: String, text: String, code: &'static str },
    #[error("{path} defines several wrappers, none called as the file: {names}")]
    SeveralWrappers { path: String, names: String },
    #[error("process {0} has ended")]
    Gone(Pid),
    #[error("the main thread of process {0} has ended while others go on: it cannot be looked at")]
    NoMainThread(Pid),
    #[error("looking at process {0}")]
    Look(Pid, #[source] ProcError),
    #[error("process {0} may not be traced")]
    NotAllowed(Pid, #[source] std::io::Error),
    #[error("process {0} is statically linked: it has no loader that could load a mediator")]
    Static(Pid),
    #[error("process {pid} is statically linked: {why}")]
    Alone { pid: Pid, why: &'static str },
    #[error("process {0} has Go code, whose stacks are too small for mediators of system calls")]
    SmallStacks(Pid),
    #[error(
        "a thread of process {0} was asking for or using a process number, a path or an address at the very moment of the checkpoint: take another one"
    )]
    InMediator(Pid),
    #[error(
        "\"virtual\" hides from process {0} that its process numbers have changed: without it, it would take others for its own"
    )]
    Hides(Pid),
    #[error("process {0} is not a 64-bit program")]
    NotSupported(Pid),
    #[error("process {0} has no dlopen: no C library that is known here is loaded in it")]
    NoLoader(Pid),
    #[error("process {pid} is traced by process {tracer}")]
    Traced { pid: Pid, tracer: Pid },
    #[error("another brant is changing the wrappers of process {0}")]
    Busy(Pid),
    #[error("process {0} has a seccomp filter, which the calls that load a mediator might violate")]
    Seccomp(Pid),
    #[error("process {0} has a shadow stack")]
    ShadowStack(Pid),
    #[error("no thread of process {pid} could load a library: {why}")]
    Gate { pid: Pid, why: &'static str },
    #[error("{path} could not be loaded: {why}")]
    Load { path: String, why: String },
    #[error("{path} exports no mediator: {missing}")]
    NoMediator { path: String, missing: String },
    #[error("not every function can be wrapped")]
    Unhookable(Vec<Unhookable>),
    #[error("{function}: {why}")]
    NotAble { function: String, why: &'static str },
    #[error("\"{name}\" declines: {why}")]
    Declined { name: String, why: String },
    #[error("the options of \"{name}\": {why}")]
    Options { name: String, why: String },
    #[error("\"{0}\" takes no options: its library does not export brant_event")]
    NoOptions(String),
    #[error("the log {path} cannot be opened")]
    Log {
        path: String,
        #[source]
        error: std::io::Error,
    },
    #[error("wrappers cannot be handed on to programs that it executes: {0}")]
    Follow(String),
    #[error(
        "process {pid} may not make a file of {bytes} bytes (RLIMIT_FSIZE), as it must to load a mediator"
    )]
    FileLimit { pid: Pid, bytes: u64 },
    #[error(
        "process {0} can make no file that its loader could load: not in memory, nor in /tmp, /var/tmp, /dev/shm or /run"
    )]
    NoFile(Pid, #[source] std::io::Error),
    #[error("process {pid} is already wrapped by \"{name}\"")]
    AlreadyWrapped { pid: Pid, name: String },
    #[error("process {pid} is not wrapped by \"{name}\"")]
    NotWrapped { pid: Pid, name: String },
    #[error("process {0} was wrapped by another version of brant")]
    OtherRuntime(Pid),
    #[error("process {pid} changed while its functions were being wrapped: {what}")]
    Changed { pid: Pid, what: &'static str },
    #[error(
        "process {0} changed while its functions were being wrapped: a library or a function is not as it was a moment ago"
    )]
    Stale(Pid),
    #[error("thread {0} could not be stopped")]
    DoesNotStop(Tid),
    #[error("a call in process {0} did not end in time; it ends by itself")]
    Slow(Pid),
    #[error("the runtime in process {0} does not answer as it should")]
    Runtime(Pid),
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error("thread {tid}: {operation}")]
    Thread {
        tid: Tid,
        operation: &'static str,
        #[source]
        error: std::io::Error,
    },
}

/// A function that cannot be wrapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unhookable {
    pub library: String,
    pub function: String,
    pub outcome: Outcome,
}

impl std::fmt::Display for Unhookable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Unhookable { library, function, outcome } = self;
        match outcome {
            Outcome::NoLibrary => write!(f, "{function}: {library} is not loaded"),
            Outcome::NoFunction => write!(f, "{function}: {library} does not export it"),
            Outcome::NoMediator => write!(f, "{function}: its mediator is missing"),
            Outcome::Refused(refusal) => write!(f, "{function} in {library}: {refusal}"),
            Outcome::NoInner => write!(f, "{function}: its native mediator has no variable for it"),
            Outcome::Waits => write!(f, "{function}: {library} is not loaded yet"),
            Outcome::Planned(_) => write!(f, "{function} in {library}"),
        }
    }
}

impl Error {
    /// The stable code that `brant explain` expands.
    pub fn code(&self) -> &'static str {
        match self {
            Error::NoSuchName { .. } | Error::NoDefinition { .. } => "B-1101",
            Error::SeveralWrappers { .. } => "B-1102",
            Error::Definition { code, .. } => code,
            Error::Gone(_) => "B-0201",
            Error::NotAllowed(..) => "B-0202",
            Error::Static(_) | Error::Alone { .. } => "B-1103",
            Error::NotSupported(_) | Error::NoMainThread(_) | Error::NoLoader(_) => "B-1104",
            Error::Traced { .. } | Error::Busy(_) => "B-1105",
            Error::Seccomp(_) => "B-1106",
            Error::ShadowStack(_) => "B-1107",
            Error::Gate { .. } | Error::InMediator(_) => "B-1108",
            Error::Hides(_) => "B-1160",
            Error::Load { .. } => "B-1109",
            Error::NoMediator { .. } => "B-1110",
            Error::Unhookable(_) => "B-1111",
            Error::NotAble { .. } | Error::SmallStacks(_) => "B-1117",
            Error::AlreadyWrapped { .. } => "B-1112",
            Error::Options { .. } => "B-1132",
            Error::Declined { .. } | Error::NoOptions(_) => "B-1131",
            Error::Log { .. } => "B-1150",
            Error::Follow(_) => "B-1151",
            Error::FileLimit { .. } => "B-1152",
            Error::NoFile(..) => "B-1153",
            Error::NotWrapped { .. } => "B-1113",
            Error::OtherRuntime(_) => "B-1114",
            Error::Changed { .. } | Error::Stale(_) => "B-1115",
            Error::Slow(_) => "B-1116",
            Error::Look(..)
            | Error::DoesNotStop(_)
            | Error::Runtime(_)
            | Error::Remote(_)
            | Error::Thread { .. } => "B-1100",
        }
    }

    pub(crate) fn looking(pid: Pid, error: ProcError) -> Error {
        if error.is_gone() { Error::Gone(pid) } else { Error::Look(pid, error) }
    }

    pub(crate) fn thread(tid: Tid, operation: &'static str, error: std::io::Error) -> Error {
        Error::Thread { tid, operation, error }
    }
}
