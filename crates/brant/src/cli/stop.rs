//! `brant stop`.

use std::time::{Duration, Instant};

use brant_base::Pid;
use brant_kernel::task;

use super::Done;
use super::reach::{reach, settled};
use crate::failure::{Failure, exit};
use crate::job::{Job, State, ends_before};
use crate::protocol::Request;
use crate::report::Report;
use crate::target::{Target, ended};

/// How much longer than its grace a job may take to end, SIGKILL included.
const END_TIMEOUT: Duration = Duration::from_secs(15);

/// End a job or process: SIGTERM, then SIGKILL after a grace
#[derive(Debug, clap::Args)]
pub(super) struct Stop {
    /// The job's name or a pid
    target: String,
    /// Seconds between SIGTERM and SIGKILL
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    time: u32,
}

impl Stop {
    pub(super) fn run(self, report: &Report) -> Done {
        let grace = Duration::from_secs(self.time.into());
        match Target::find(&self.target)? {
            Target::Job(job) => {
                let grace_ms = u32::try_from(grace.as_millis()).unwrap_or(u32::MAX);
                end_job(&job, &Request::Stop { grace_ms }, grace)?;
                report.note(&format!("stopped {}", job.name()));
            }
            Target::Process(pid) => {
                end_process(pid, grace)?;
                report.note(&format!("stopped process {pid}"));
            }
        }
        Ok(0)
    }
}

/// Has a job's keeper end it, and waits until all of it has ended.
pub(super) fn end_job(job: &Job, request: &Request, grace: Duration) -> Result<(), Failure> {
    match job.state {
        State::Exited(_) | State::Lost => return Err(ended(job)),
        State::Unkept => {
            return job.roots().into_iter().try_for_each(|pid| end_process(pid, grace));
        }
        _ => {}
    }
    let deadline = Instant::now() + grace + END_TIMEOUT;
    let keeper = task::pidfd_open(job.meta.keeper.pid());
    let mut link = reach(job)?;
    let still_there = || {
        Failure::new("B-0111", exit::FAILED, format!("the job \"{}\" has not ended", job.name()))
            .why("a process of it is in a system call that cannot be interrupted, or its keeper is stopped")
            .next(format!("brant kill {}", job.name()))
    };
    // One that cannot be told any more is ending, or the wait for its end will say that it is not.
    let _ = link.send(request);
    while link.next(deadline).is_some() {}
    match keeper {
        Ok(keeper) if !ends_before(&keeper, deadline) => Err(still_there()),
        // Somebody else may have killed it, and not the program.
        _ if settled(&job.folder, &job.meta) == State::Unkept => {
            job.roots().into_iter().try_for_each(|pid| end_process(pid, grace))
        }
        _ => Ok(()),
    }
}

/// SIGTERM, and SIGKILL after `grace`, to a process that is no job.
fn end_process(pid: Pid, grace: Duration) -> Result<(), Failure> {
    let process = task::pidfd_open(pid).map_err(|error| no_signal(pid, &error))?;
    task::pidfd_send_signal(&process, libc::SIGTERM).map_err(|error| no_signal(pid, &error))?;
    // A stopped one hears it only now; one that has ended already needs nothing more.
    let _ = task::pidfd_send_signal(&process, libc::SIGCONT);
    if ends_before(&process, Instant::now() + grace) {
        return Ok(());
    }
    let _ = task::pidfd_send_signal(&process, libc::SIGKILL);
    if ends_before(&process, Instant::now() + END_TIMEOUT) {
        return Ok(());
    }
    Err(Failure::new("B-0111", exit::FAILED, format!("process {pid} has not ended"))
        .why("it is in a system call that cannot be interrupted")
        .next(format!("ps -o pid,stat,wchan -p {pid}")))
}

/// A signal could not be sent.
pub(super) fn no_signal(pid: Pid, error: &std::io::Error) -> Failure {
    if error.raw_os_error() == Some(libc::ESRCH) {
        return Failure::new("B-0201", exit::NO_TARGET, format!("there is no process {pid}"))
            .why("it has just ended")
            .next("brant ps");
    }
    Failure::new("B-0202", exit::NO_TARGET, format!("process {pid} cannot be signalled"))
        .why(error)
        .next(format!("ps -o user,pid,args -p {pid}"))
}
