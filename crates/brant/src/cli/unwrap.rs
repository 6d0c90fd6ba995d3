//! `brant unwrap`.

use std::path::PathBuf;

use brant_connect::Implementation;
use serde_json::json;

use super::Done;
use super::wrap::{failed, function_json, only_process, open_log, tell_functions, tell_lost};
use crate::report::Report;
use crate::target::Target;

/// Take a wrapper off a running program
///
/// From now on no new call is mediated. The wrapper's library is unloaded once no thread is inside of it; where that
/// does not come about within two seconds it stays in the program, dormant, and that is said.
#[derive(Debug, clap::Args)]
pub(super) struct Unwrap {
    /// The wrapper's name, as `brant wrappers TARGET` shows it
    wrapper: String,
    /// A job's name or a pid
    target: String,
    /// Append a line for each function that is not mediated any more to this file
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

impl Unwrap {
    pub(super) fn run(self, report: &Report) -> Done {
        let log = open_log(self.log.as_deref())?;
        let target = Target::find(&self.target)?;
        let pid = only_process(&target)?;
        let unwrapped = brant_connect::unwrap(&self.wrapper, pid, &log)
            .map_err(|error| failed(&format!("{target} was not unwrapped"), &target, &error))?;
        tell_lost(report, &log);
        let pause_us = unwrapped.pause.as_micros() as u64;
        if report.json {
            report.json(json!({
                "wrapper": self.wrapper, "pid": pid.0, "unloaded": unwrapped.implementation == Implementation::Unloaded, "pause_us": pause_us,
                "interceptions": unwrapped.interceptions.iter().map(function_json).collect::<Vec<_>>(),
            }));
        } else {
            let rest = match unwrapped.implementation {
                Implementation::Unloaded => "",
                Implementation::InUse => {
                    "; its library stays loaded, dormant: a thread is inside of it, or that cannot be told"
                }
                Implementation::KeptByLoader => "; the program's loader keeps its library, dormant",
            };
            report.note(&format!("took \"{}\" off {target}{rest}", self.wrapper));
            tell_functions(report, "off", &unwrapped.interceptions);
        }
        Ok(0)
    }
}
