//! `brant show`.

mod gather;
mod json;
mod text;

use std::ffi::{OsStr, OsString};

use serde_json::json;

use super::Done;
use super::checkpoint::{open_image, open_store, store_failed};
use brant_store::StoreError;

use crate::failure::{Failure, exit};
use crate::report::Report;
use crate::target::Target;
use gather::Shown;

/// Show the external state that a program has recorded: files, connections, processes, memory
///
/// A program is recorded by `brant run --record` or `brant wrap record TARGET`. It is not stopped for this, and nothing runs
/// in it. The record of a program travels in its images.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// A job's name or a pid: it and everything that descends from it. Or an image: a path, a job's name where that does not
    /// run (its newest image), or the beginning of an image's id
    #[arg(value_name = "TARGET|IMAGE")]
    target: OsString,
    /// List also what is closed and has ended, and every region
    #[arg(short, long)]
    all: bool,
    /// Take the name for that of an image, although such a job runs
    #[arg(long)]
    image: bool,
}

impl Show {
    pub(super) fn run(self, report: &Report) -> Done {
        let (what, processes) = match self.live()? {
            Some(target) => (target.to_string(), gather::of_target(&target)?),
            None => {
                let path = open_store()?.find(&self.target).map_err(|error| self.not_found(&error))?;
                let image = open_image(&path)?;
                (format!("the image {}", path.display()), gather::of_image(&image, &path)?)
            }
        };
        if processes.iter().all(|shown| shown.state.is_none()) {
            return Err(not_recorded(&what, &self.target, &processes));
        }
        if report.json {
            report.json(json!({
                "target": what, "processes": processes.iter().map(json::process).collect::<Vec<_>>(),
            }));
        } else {
            let style = report.out_style();
            let all: Vec<String> =
                processes.iter().map(|shown| text::process(shown, self.all, style)).collect();
            report.data(all.join("\n\n").trim_end());
        }
        Ok(0)
    }

    fn not_found(&self, error: &StoreError) -> Failure {
        match error {
            StoreError::NoSuchImage { name, .. } if !self.image => {
                let what =
                    format!("neither a job that runs nor an image is called \"{}\"", name.escape_debug());
                Failure::new("B-0201", exit::NO_TARGET, what).why(error).next("brant ps, or: brant image ls")
            }
            _ => store_failed(error),
        }
    }

    /// The running program that is meant; `None` where it is an image.
    fn live(&self) -> Result<Option<Target>, Failure> {
        let word = self.target.to_string_lossy();
        let is_number = word.parse::<i32>().is_ok();
        if self.image || !is_number && is_path(&self.target) {
            return Ok(None);
        }
        match Target::find(&word) {
            Ok(Target::Job(job)) if !is_number && !job.state.is_live() => Ok(None),
            Ok(target) => Ok(Some(target)),
            Err(failure) if is_number => Err(failure),
            // No job: it may be an image's name or id; the store says what it looked for.
            Err(_) => Ok(None),
        }
    }
}

fn is_path(text: &OsStr) -> bool {
    text.as_encoded_bytes().contains(&b'/') || std::fs::symlink_metadata(text).is_ok()
}

fn not_recorded(what: &str, word: &OsStr, processes: &[Shown]) -> Failure {
    let word = word.to_string_lossy();
    let failure = Failure::new("B-1161", exit::FAILED, format!("{what} has no record"));
    if processes.iter().any(|shown| shown.is_from_image) {
        let why = "none of its processes was recorded when it was taken";
        return failure.why(why).next("record the program first: brant run --record -- CMD");
    }
    let why = "none of its processes is recorded";
    failure
        .why(why)
        .next(format!("brant wrap record {word}, or from the beginning: brant run --record -- CMD"))
}
