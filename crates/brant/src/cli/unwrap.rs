//! `brant unwrap`.

use serde_json::json;

use super::Done;
use super::wrap::{failed, only_process};
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
}

impl Unwrap {
    pub(super) fn run(self, report: &Report) -> Done {
        let target = Target::find(&self.target)?;
        let pid = only_process(&target)?;
        let unwrapped = brant_connect::unwrap_process(&self.wrapper, pid)
            .map_err(|error| failed(&format!("{target} was not unwrapped"), &target, &error))?;
        let pause_us = unwrapped.pause.as_micros() as u64;
        if report.json {
            report.json(json!({
                "wrapper": self.wrapper, "pid": pid.0, "unloaded": unwrapped.is_unloaded, "pause_us": pause_us,
            }));
        } else if unwrapped.is_unloaded {
            report.note(&format!("took \"{}\" off {target}", self.wrapper));
        } else {
            report.note(&format!(
                "took \"{}\" off {target}; its library stays loaded, dormant: a thread may still be inside of it",
                self.wrapper
            ));
        }
        Ok(0)
    }
}
