//! `brant wrap`.

use std::path::{Path, PathBuf};

use brant_base::Pid;
use brant_connect::{Function, Log, Unhookable, Wrapper, follow};
use serde_json::{Value, json};

use super::Done;
use crate::failure::Failure;
use crate::report::Report;
use crate::target::Target;

/// Put a wrapper on a running program: its mediators stand before functions of libraries from now on
///
/// The program is stopped for some milliseconds at most. Every function that the wrapper names is mediated, or none; those of
/// a library that is not loaded yet are mediated from when it is, which is said.
/// Children that it forks from now on are wrapped too; programs that it executes are with --follow-exec.
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
    /// Programs that it executes get the wrapper too. Those that cannot be wrapped are executed without it
    #[arg(short = 'f', long)]
    follow_exec: bool,
    /// Append a line for each function that is mediated now to this file; BRANT_CONNECT_LOG names it for every verb
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

impl Wrap {
    pub(super) fn run(self, report: &Report) -> Done {
        let mut wrapper = defined(&self.wrapper)?;
        wrapper.is_unguarded |= self.no_guard;
        let log = open_log(self.log.as_deref())?;
        let target = Target::find(&self.target)?;
        let pid = only_process(&target)?;
        let wrapped = if self.follow_exec {
            follow::own_path(pid)
                .and_then(|brant| brant_connect::wrap_and_follow(&wrapper, pid, &brant, &log))
        } else {
            brant_connect::wrap(&wrapper, pid, &log)
        };
        let wrapped =
            wrapped.map_err(|error| failed(&format!("{target} was not wrapped"), &target, &error))?;
        tell_lost(report, &log);
        let functions: u32 = wrapped.functions.iter().sum();
        let pause_us = wrapped.pause.as_micros() as u64;
        let gaps = wrapped.gaps(&wrapper);
        if report.json {
            report.json(json!({
                "wrapper": wrapper.name, "pid": pid.0, "functions": functions, "pause_us": pause_us,
                "waiting": wrapped.waiting.iter().map(waiting_json).collect::<Vec<_>>(),
                "interceptions": wrapped.interceptions.iter().map(function_json).collect::<Vec<_>>(),
                "sites": { "found": wrapped.sites.found, "patched": wrapped.sites.patched }, "not_mediated": gaps,
            }));
        } else {
            let things = if functions == 1 { "function" } else { "functions" };
            report.note(&format!(
                "wrapped {functions} {things} of {target} by \"{}\"; it stood still for {:.1} ms",
                wrapper.name,
                pause_us as f64 / 1000.0
            ));
            tell_functions(report, "on", &wrapped.interceptions);
            wrapped.waiting.iter().for_each(|function| report.note(&format!("waits: {function}")));
            gaps.iter().for_each(|gap| report.note(&format!("not mediated: {}", gap.escape_debug())));
        }
        Ok(0)
    }
}

fn waiting_json(function: &Unhookable) -> Value {
    json!({ "name": function.function, "library": function.library })
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

/// The log that a user wants.
pub(super) fn open_log(path: Option<&Path>) -> Result<Log, Failure> {
    let log = path.map_or_else(Log::from_environment, Log::open);
    log.map_err(|error| Failure::of_error(error.code(), error.to_string(), &error))
}

/// What a log has not taken.
pub(super) fn tell_lost(report: &Report, log: &Log) {
    if let (1.., Some(path)) = (log.lost(), log.path()) {
        report.note(&format!("warning: {} lines could not be written to {}", log.lost(), path.display()));
    }
}

/// Each function, for those who want to know more.
pub(super) fn tell_functions(report: &Report, what: &str, functions: &[Function]) {
    for function in functions {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).escape_debug().to_string();
        report.detail(&format!(
            "  {what}: {} in {} at {:#x} by {}, depth {}",
            text(&function.name),
            text(&function.library),
            function.address,
            text(&function.mediator),
            function.depth
        ));
    }
}

pub(super) fn function_json(function: &Function) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    json!({
        "name": text(&function.name), "version": text(&function.version), "library": text(&function.library),
        "address": format!("{:#x}", function.address), "mediator": text(&function.mediator), "depth": function.depth,
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
