//! `brant attach`.

use std::time::{Duration, Instant};

use super::Done;
use super::reach::{keeper_lost, reach, settled, unreachable};
use crate::client::{Blocked, Foreground, Outcome};
use crate::failure::{Failure, exit};
use crate::job::{Meta, Moved, Runtime, State};
use crate::report::{Report, wait_status};
use crate::target::Target;

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
    let outcome = match outcome {
        // A keeper that was about to end has nothing more to say to a client that came late.
        Outcome::Lost => match Runtime::open().map(|runtime| settled(&runtime.folder(&meta.name), meta)) {
            Ok(State::Exited(ended)) => Outcome::Exited { status: ended.wait_status },
            _ => Outcome::Lost,
        },
        outcome => outcome,
    };
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
