//! `brant wrap`.

use brant_base::Pid;
use brant_connect::Wrapper;
use serde_json::json;

use super::Done;
use crate::failure::Failure;
use crate::report::Report;
use crate::target::Target;

/// Put a wrapper on a running program: its mediators stand before functions of libraries from now on
///
/// The program is stopped for some milliseconds at most. Every function that the wrapper names is mediated, or none.
/// Children that it forks from now on are wrapped too, programs that it executes are not.
#[derive(Debug, clap::Args)]
pub(super) struct Wrap {
    /// The path of a definition, or a name (`brant wrappers` tells which there are), and options behind a colon:
    /// trace:out=FILE,json
    wrapper: String,
    /// A job's name or a pid
    target: String,
    /// A mediator's own calls of functions that the wrapper mediates are mediated too. Calls cost less
    #[arg(long)]
    no_guard: bool,
}

impl Wrap {
    pub(super) fn run(self, report: &Report) -> Done {
        let mut wrapper = defined(&self.wrapper)?;
        wrapper.is_unguarded = self.no_guard;
        let target = Target::find(&self.target)?;
        let pid = only_process(&target)?;
        let wrapped = brant_connect::wrap(&wrapper, pid)
            .map_err(|error| failed(&format!("{target} was not wrapped"), &target, &error))?;
        let functions: u32 = wrapped.functions.iter().sum();
        let pause_us = wrapped.pause.as_micros() as u64;
        if report.json {
            report.json(json!({
                "wrapper": wrapper.name, "pid": pid.0, "functions": functions, "pause_us": pause_us,
            }));
        } else {
            let things = if functions == 1 { "function" } else { "functions" };
            report.note(&format!(
                "wrapped {functions} {things} of {target} by \"{}\"; it stood still for {:.1} ms",
                wrapper.name,
                pause_us as f64 / 1000.0
            ));
        }
        Ok(0)
    }
}

/// What a user named.
pub(super) fn defined(text: &str) -> Result<Wrapper, Failure> {
    brant_connect::definitions::find(text).map_err(|error| {
        let failure = Failure::of_error(
            error.code(),
            format!("the wrapper \"{}\" cannot be used", text.escape_debug()),
            &error,
        );
        match error {
            brant_connect::Error::NoSuchName { .. } => {
                failure.next("brant wrappers, or name the file by its path: ./NAME.wrap")
            }
            brant_connect::Error::NoDefinition { path, .. } => failure.next(format!("ls -l {path}")),
            _ => failure,
        }
    })
}

/// The process that is wrapped: a job's root.
pub(super) fn only_process(target: &Target) -> Result<Pid, Failure> {
    Ok(target.roots()?.first().copied().unwrap_or_default())
}

/// What a failure means for its user. The program runs on in every case.
pub(super) fn failed(what: &str, target: &Target, error: &brant_connect::Error) -> Failure {
    let failure = Failure::of_error(error.code(), what, error);
    match error {
        brant_connect::Error::Unhookable(functions) => {
            let lines: Vec<String> = functions.iter().map(ToString::to_string).collect();
            failure.why(lines.join("\n"))
        }
        brant_connect::Error::Gone(_) => failure.next("brant ps"),
        brant_connect::Error::AlreadyWrapped { name, .. } => {
            failure.next(format!("brant unwrap {name} {}", target.word()))
        }
        brant_connect::Error::NotWrapped { .. } => failure.next(format!("brant wrappers {}", target.word())),
        brant_connect::Error::Gate { .. } | brant_connect::Error::Busy(_) => {
            failure.next("try again: it depends on what the program is doing at that moment")
        }
        _ => failure,
    }
}
