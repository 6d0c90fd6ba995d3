//! `brant attach`.

use std::time::{Duration, Instant};

use super::Done;
use crate::client::{Blocked, Foreground, Link, Outcome};
use crate::failure::{Failure, exit};
use crate::job::{Job, Meta, Moved, Runtime, State, connect};
use crate::report::{Report, wait_status};
use crate::target::{Target, ended};

/// Bring a job into the foreground: its terminal or output, its signals, its exit code
///
/// Ctrl-P Ctrl-Q leaves a job with a terminal alone again. Several may attach at once.
#[derive(Debug, clap::Args)]
pub(super) struct Attach {
    /// The job's name or its pid
    target: String,
}

impl Attach {
    pub(super) fn run(self, report: &Report) -> Done {
        let job = Target::find_job(&self.target).map_err(Failure::into_own)?;
        let link = reach(&job).map_err(Failure::into_own)?;
        let blocked =
            Blocked::new(job.meta.terminal).map_err(|error| unreachable(&job, &error).into_own())?;
        if job.meta.terminal {
            report.note(&format!("attached to {}; Ctrl-P Ctrl-Q leaves it alone", job.name()));
        } else if !job.meta.logged {
            report.note(&format!(
                "{} writes straight to where it was started; waiting for its end",
                job.name()
            ));
        }
        let outcome = Foreground::relay(link, blocked).run(job.meta.terminal, true);
        finish(report, &job.meta, outcome)
    }
}

/// Connects to the keeper of a job that runs.
pub(super) fn reach(job: &Job) -> Result<Link, Failure> {
    match job.state {
        State::Exited(_) | State::Lost => Err(ended(job)),
        State::Unkept => Err(keeper_lost(&job.meta)),
        _ => connect(&job.folder).and_then(Link::new).map_err(|error| unreachable(job, &error)),
    }
}

fn unreachable(job: &Job, error: &std::io::Error) -> Failure {
    Failure::new("B-0107", exit::FAILED, format!("the keeper of \"{}\" cannot be reached", job.name()))
        .why(error)
        .next("brant ps -a")
}

fn keeper_lost(meta: &Meta) -> Failure {
    let failure = Failure::new("B-0107", exit::FAILED, format!("the keeper of \"{}\" is gone", meta.name));
    match meta.root.filter(|root| root.is_alive()) {
        Some(root) => failure
            .why(format!("somebody ended it; the program itself runs on as process {}", root.pid))
            .next(format!("brant stop {}", meta.name)),
        None => failure.why("somebody ended it, and the program with it").next("brant ps -a"),
    }
}

/// How long a move may take from the program's end here until it is written down.
const MOVED_TIMEOUT: Duration = Duration::from_secs(5);
const MOVED_PAUSE: Duration = Duration::from_millis(10);

/// The host that a job was given to, where that is why it ended here.
fn moved_to(meta: &Meta, status: i32) -> Option<String> {
    let folder = Runtime::open().ok()?.folder(&meta.name);
    let until = Instant::now() + MOVED_TIMEOUT;
    if status != libc::SIGKILL {
        return None;
    }
    loop {
        let moved = Moved::read(&folder)?;
        if moved.given {
            return Some(moved.host);
        }
        if Instant::now() >= until {
            return None;
        }
        std::thread::sleep(MOVED_PAUSE);
    }
}

/// Turns the end of a foreground into brant's own.
pub(super) fn finish(report: &Report, meta: &Meta, outcome: Outcome) -> Done {
    match outcome {
        Outcome::Exited { status } => match moved_to(meta, status) {
            Some(host) => {
                report.note(&format!(
                    "{} was moved to {host}, where it goes on: brant attach {} (there)",
                    meta.name, meta.name
                ));
                Ok(exit::MOVED)
            }
            None => Ok(wait_status(status)),
        },
        Outcome::Detached => {
            report
                .note(&format!("\ndetached; {} goes on. Back to it: brant attach {}", meta.name, meta.name));
            Ok(0)
        }
        Outcome::HungUp => Ok(128 + libc::SIGHUP as u8),
        Outcome::Lost => Err(keeper_lost(meta).into_own()),
    }
}
