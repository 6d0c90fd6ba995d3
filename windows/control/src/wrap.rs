//! What is done with wrappers on processes: the calls behind the command line and behind `WrapProcess`.

use std::path::Path;

use brant_windows::record::Shown;
use brant_windows::{
    AGENT_FILE, Callers, Code, Interception, Left, Listed, Refused, Reply, Request, Spec, VirtualHandle,
    Wrapped,
};

use crate::process::{ANSWER_LIMIT_MS, Process};
use crate::{Log, definitions};

/// Puts a wrapper on a running process. `home` is the folder where the agent lies.
pub fn wrap_process(
    name: &str,
    pid: u32,
    callers: Callers,
    home: &Path,
    log: &Log,
) -> Result<Wrapped, Refused> {
    let act = || {
        let spec = definitions::find(name, callers, home)?;
        let process = Process::open(pid)?;
        process.load_agent(&home.join(AGENT_FILE))?;
        wrap(&process, spec, log)
    };
    act().inspect_err(|refused| log.refused(pid, name, refused))
}

/// Puts a wrapper on a process that has the agent.
pub fn wrap(process: &Process, spec: Spec, log: &Log) -> Result<Wrapped, Refused> {
    let name = spec.name.clone();
    let is_shipped = spec.shipped().is_some();
    match process.ask(&Request::Wrap(spec), ANSWER_LIMIT_MS)? {
        Reply::Wrapped(mut wrapped) => {
            // A wrapper that ships is for all that a program might load: what it does not is no news.
            if is_shipped {
                wrapped.missing.clear();
            }
            log.all(process.pid(), "on", &name, &wrapped.interceptions);
            Ok(wrapped)
        }
        other => Err(unexpected(&other)),
    }
}

/// Takes a wrapper off a process.
pub fn unwrap_process(name: &str, pid: u32, log: &Log) -> Result<(Vec<Interception>, Left), Refused> {
    let act = || match Process::open(pid)?.ask(&Request::Unwrap { name: name.to_owned() }, ANSWER_LIMIT_MS)? {
        Reply::Unwrapped { interceptions, left } => {
            log.all(pid, "off", name, &interceptions);
            Ok((interceptions, left))
        }
        other => Err(unexpected(&other)),
    };
    act().inspect_err(|refused| log.refused(pid, name, refused))
}

/// The wrappers that a process has.
pub fn wrappers(pid: u32) -> Result<Vec<Listed>, Refused> {
    let process = Process::open(pid)?;
    if !process.has_agent() {
        return Ok(Vec::new());
    }
    match process.ask(&Request::Wrappers, ANSWER_LIMIT_MS)? {
        Reply::Wrappers(wrappers) => Ok(wrappers),
        other => Err(unexpected(&other)),
    }
}

/// What the wrapper `record` has kept of a process.
pub fn show(pid: u32) -> Result<Shown, Refused> {
    let process = Process::open(pid)?;
    if !process.has_agent() {
        return Err(Refused::new(Code::NotRecorded, format!("process {pid} keeps no record"))
            .next(format!("brant.exe wrap record {pid}")));
    }
    match process.ask(&Request::Show, ANSWER_LIMIT_MS)? {
        Reply::Shown(shown) => Ok(*shown),
        other => Err(unexpected(&other)),
    }
}

/// The virtual handles of a process, which stand for new real ones afterwards if they are renewed.
pub fn handles(pid: u32, renew: bool) -> Result<Vec<VirtualHandle>, Refused> {
    match Process::open(pid)?.ask(&Request::Handles { renew }, ANSWER_LIMIT_MS)? {
        Reply::Handles(handles) => Ok(handles),
        other => Err(unexpected(&other)),
    }
}

pub(crate) fn unexpected(reply: &Reply) -> Refused {
    Refused::new(Code::OtherAgent, "the agent gave another answer than was asked for")
        .why(format!("{reply:?}"))
}
