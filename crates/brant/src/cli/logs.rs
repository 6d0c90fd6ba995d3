//! `brant logs`.

use std::io;

use super::Done;
use crate::failure::{Failure, exit};
use crate::keeper::copy_log;
use crate::report::Report;
use crate::target::Target;

/// Print what a job has written, as far as it is kept (the last 4 to 8 MiB)
#[derive(Debug, clap::Args)]
pub(super) struct Logs {
    /// The job's name or its pid
    target: String,
}

impl Logs {
    pub(super) fn run(self, _report: &Report) -> Done {
        let job = Target::find_job(&self.target)?;
        if !job.meta.logged {
            return Err(Failure::new(
                "B-0108",
                exit::FAILED,
                format!("the job \"{}\" has no log", job.name()),
            )
            .why("it was started in the foreground and writes straight to where it was started")
            .next("start it with -d or -t to have its output kept"));
        }
        match copy_log(&job.folder, &mut io::stdout().lock()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(
                "B-0108",
                exit::FAILED,
                format!("the log of \"{}\" cannot be read", job.name()),
            )
            .why(error)
            .next("brant ps -a")),
            _ => Ok(0),
        }
    }
}
