//! Reaching the keeper of a job, which may end at any moment meanwhile: then the job has ended, and that is what is said.

use std::path::Path;
use std::time::{Duration, Instant};

use brant_base::fault;

use crate::client::Link;
use crate::failure::{Failure, exit};
use crate::job::{Job, Meta, State, connect};
use crate::target::ended;

/// How long a keeper that has closed its socket may take to be gone.
const END_TIMEOUT: Duration = Duration::from_secs(15);

/// Connects to the keeper of a job that runs.
pub(super) fn reach(job: &Job) -> Result<Link, Failure> {
    if let Some(failure) = not_kept(job) {
        return Err(failure);
    }
    fault::reach("job.found");
    let link = connect(&job.folder).and_then(Link::new).map_err(|error| unreachable(job, &error));
    fault::reach("job.reached");
    link
}

/// The connection to a keeper failed: it has ended since the job was looked up, or it is not to be reached.
pub(super) fn unreachable(job: &Job, error: &std::io::Error) -> Failure {
    let now = Job { state: settled(&job.folder, &job.meta), ..job.clone() };
    not_kept(&now).unwrap_or_else(|| {
        Failure::new("B-0107", exit::FAILED, format!("the keeper of \"{}\" cannot be reached", job.name()))
            .why(error)
            .next("brant ps -a")
    })
}

/// What a job is doing whose keeper took no connection or closed one, once that keeper has ended.
pub(super) fn settled(folder: &Path, meta: &Meta) -> State {
    meta.keeper.ends_before(Instant::now() + END_TIMEOUT);
    // The name may be another job's by now, which is none of ours.
    let found = Job::read(folder).filter(|job| job.meta.keeper == meta.keeper);
    found.map_or(State::Lost, |job| job.state)
}

/// The keeper of a job ended before the job did.
pub(super) fn keeper_lost(meta: &Meta) -> Failure {
    let failure = Failure::new("B-0107", exit::FAILED, format!("the keeper of \"{}\" is gone", meta.name));
    match meta.root.filter(|root| root.is_alive()) {
        Some(root) => failure
            .why(format!("somebody ended it; the program itself runs on as process {}", root.pid))
            .next(format!("brant stop {}", meta.name)),
        None => failure.why("somebody ended it, and the program with it").next("brant ps -a"),
    }
}

/// Why a job has no keeper, where it has none.
fn not_kept(job: &Job) -> Option<Failure> {
    match job.state {
        State::Exited(_) | State::Lost => Some(ended(job)),
        State::Unkept => Some(keeper_lost(&job.meta)),
        _ => None,
    }
}
