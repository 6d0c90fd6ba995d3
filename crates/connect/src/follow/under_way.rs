//! Whether a brant is just putting wrappers on a program that is about to be executed, or just has been.

use std::path::Path;

use brant_base::{Pid, Tid};
use brant_hook::exchange::RUNTIME_NAME;
use brant_kernel::proc;
use brant_wrappers::follow::VERB;

/// Whether a brant is at that in any of these processes.
///
/// Between the moments at which the mediator starts it and at which it is done, either it is there, or the process is in vfork.
pub fn is_under_way(processes: &[Pid]) -> bool {
    let may_be_followed = |pid: &&Pid| is_wrapped(**pid) || is_traced(**pid);
    if !processes.iter().any(|pid| may_be_followed(&pid)) {
        return false;
    }
    let helpers: Vec<(Pid, Pid)> = proc::processes()
        .unwrap_or_default()
        .into_iter()
        .filter_map(|helper| Some((helper, followed_by(helper)?.0)))
        .collect();
    let is_followed = |pid: Pid| {
        let Ok(status) = proc::status(pid) else { return false };
        let inner = status.inner_pid();
        helpers.iter().any(|(helper, followed)| *followed == inner && namespace(*helper) == namespace(pid))
    };
    !helpers.is_empty() && processes.iter().any(|pid| is_followed(*pid))
}

/// Whether this process is a brant that follows an execution: no part of any program.
pub fn is_follower(process: Pid) -> bool {
    followed_by(process).is_some()
}

/// Which thread a process follows, if it is a brant that does: its process and its number, as that brant sees them.
pub(super) fn followed_by(helper: Pid) -> Option<(Pid, Tid)> {
    let words = std::fs::read(format!("/proc/{helper}/cmdline")).ok()?;
    let mut words = words.split(|byte| *byte == 0).skip(1);
    if words.next()? != VERB.to_bytes() {
        return None;
    }
    let numbers = std::str::from_utf8(words.next()?).ok()?;
    let mut numbers = numbers.split(' ').map_while(|number| number.parse().ok());
    Some((Pid(numbers.next()?), Tid(numbers.next()?)))
}

fn namespace(pid: Pid) -> Option<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

fn is_wrapped(pid: Pid) -> bool {
    let name = RUNTIME_NAME.as_bytes();
    let maps = std::fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
    maps.windows(name.len()).any(|part| part == name)
}

/// By somebody who is not this process.
fn is_traced(pid: Pid) -> bool {
    let tracer = proc::status(pid).map_or(Pid(0), |status| status.tracer);
    tracer != Pid(0) && !Path::new(&format!("/proc/self/task/{tracer}")).exists()
}
