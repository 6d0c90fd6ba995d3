//! TARGET on the command line: a job's name or a pid.

use brant_base::Pid;

use crate::failure::{Failure, exit};
use crate::job::{Job, Runtime, stat};

/// What a user named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Job(Box<Job>),
    /// A process that brant did not start.
    Process(Pid),
}

impl Target {
    /// Finds what `text` names. The pid of a job's root process names the job.
    pub(crate) fn find(text: &str) -> Result<Target, Failure> {
        let runtime = Runtime::open()?;
        let Ok(number) = text.parse::<i32>() else {
            return runtime.job(text).map(|job| Target::Job(Box::new(job))).ok_or_else(|| no_job(text));
        };
        let pid = Pid(number);
        let is_root = |job: &Job| job.meta.root.is_some_and(|root| root.pid() == pid && root.is_alive());
        if let Some(job) = runtime.jobs().into_iter().find(is_root) {
            return Ok(Target::Job(Box::new(job)));
        }
        match stat(pid).filter(|stat| number > 0 && stat.is_alive()) {
            Some(_) => Ok(Target::Process(pid)),
            None => Err(Failure::new("B-0201", exit::NO_TARGET, format!("there is no process {number}"))
                .why("it has ended, or it is in a place that you cannot see")
                .next("brant ps, or: ps -u $USER")),
        }
    }

    /// Only a job will do.
    pub(crate) fn find_job(text: &str) -> Result<Job, Failure> {
        match Target::find(text)? {
            Target::Job(job) => Ok(*job),
            Target::Process(pid) => {
                Err(Failure::new("B-0201", exit::NO_TARGET, format!("process {pid} is not a job"))
                    .why("only what was started by brant run or brant restore has a keeper")
                    .next("brant ps -a"))
            }
        }
    }

    /// The job, where it is one.
    pub(crate) fn job(&self) -> Option<&Job> {
        match self {
            Target::Job(job) => Some(job),
            Target::Process(_) => None,
        }
    }

    /// What to type for it.
    pub(crate) fn word(&self) -> String {
        match self {
            Target::Job(job) => job.name().to_string(),
            Target::Process(pid) => pid.to_string(),
        }
    }

    /// The processes whose trees make up the target, by the user's numbers.
    pub(crate) fn roots(&self) -> Result<Vec<Pid>, Failure> {
        match self {
            Target::Process(pid) => Ok(vec![*pid]),
            Target::Job(job) => match job.roots() {
                roots if roots.is_empty() => Err(ended(job)),
                roots => Ok(roots),
            },
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Job(job) => write!(f, "job \"{}\"", job.name()),
            Target::Process(pid) => write!(f, "process {pid}"),
        }
    }
}

/// The job is there but nothing of it runs.
pub(crate) fn ended(job: &Job) -> Failure {
    Failure::new("B-0110", exit::NO_TARGET, format!("the job \"{}\" does not run", job.name()))
        .why(crate::report::state(job))
        .next("brant ps -a")
}

fn no_job(text: &str) -> Failure {
    Failure::new("B-0201", exit::NO_TARGET, format!("no job is called \"{}\"", text.escape_debug()))
        .why("it never ran, ended more than a day ago, or belongs to another user")
        .next("brant ps -a")
}
