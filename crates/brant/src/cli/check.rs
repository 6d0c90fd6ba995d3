//! `brant check`.

use std::time::{Duration, Instant};

use brant_kernel::facts::HostFacts;
use serde_json::{Value, json};

use super::Done;
use crate::failure::{Failure, exit, refusal_json};
use crate::job::stat;
use crate::report::{Report, refusal_lines};
use crate::target::Target;

/// How long after an unexpected failure the target is watched: its end may be the reason.
const END_WAIT: Duration = Duration::from_secs(2);
const END_PAUSE: Duration = Duration::from_millis(5);

/// Say whether a target can be checkpointed, and name everything that stands in the way; change nothing
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// A job's name or a pid
    target: String,
}

impl Check {
    pub(super) fn run(self, report: &Report) -> Done {
        let target = Target::find(&self.target)?;
        let facts = host_facts()?;
        let refusals = brant_capture::check(&target.roots()?, &facts, &crate::beholder::Binary)
            .map_err(|error| failed(&target, error))?;
        let able = refusals.is_empty();
        if report.json {
            let refusals: Vec<Value> = refusals.0.iter().map(refusal_json).collect();
            report.json(json!({ "target": target.to_string(), "possible": able, "refusals": refusals }));
        } else if able {
            report.data(&format!("{target} can be checkpointed"));
            if let Some(change) = after_restore() {
                report.note(&change);
            }
        } else {
            let style = report.out_style();
            report.data(&format!("{target} cannot be checkpointed:"));
            refusals.0.iter().for_each(|refusal| report.data(&refusal_lines(refusal, style)));
        }
        Ok(if able { 0 } else { exit::UNSUPPORTED })
    }
}

/// What is different for a program that a plain user restored; root needs no user namespace.
pub(super) fn after_restore() -> Option<String> {
    let is_plain = !nix::unistd::geteuid().is_root();
    let lacks = || HostFacts::probe().is_ok_and(|facts| brant_restore::lacks_namespaces(&facts));
    if is_plain && lacks() {
        let change = "restored here, it gets new process numbers, as user namespaces are not to be had; the wrapper \"virtual\" \
                      hides them from it, and programs that it executes afterwards see the new ones";
        return Some(change.into());
    }
    is_plain.then(|| {
        "restored, it lives in a user namespace of its own: files of other users show as nobody's, setuid programs \
         such as sudo do not work from inside, and its groups are fixed"
            .to_string()
    })
}

/// What a checkpoint must know of this host.
pub(super) fn host_facts() -> Result<HostFacts, Failure> {
    known(HostFacts::observe())
}

/// The facts, or why there are none.
pub(super) fn known(facts: std::io::Result<HostFacts>) -> Result<HostFacts, Failure> {
    facts.map_err(|error| {
        Failure::new("B-0703", exit::FAILED, "this host could not be looked at")
            .why(error)
            .next("brant doctor")
    })
}

/// What a failure of the capture means for its user. The program runs on in every case.
pub(super) fn failed(target: &Target, error: brant_capture::Error) -> Failure {
    let is_broken = error.code() == "B-0700";
    let gone = has_ended(target, if is_broken { END_WAIT } else { Duration::ZERO });
    let runs_on = if gone { "It has ended meanwhile." } else { "It runs on as before." };
    let code = if gone && is_broken { "B-0702" } else { error.code() };
    let what = format!("{target} could not be checkpointed");
    match error {
        brant_capture::Error::Refused(refusals) => {
            let count = refusals.0.len();
            let things =
                if count == 1 { "one thing stands".to_string() } else { format!("{count} things stand") };
            Failure::refused(
                format!("{target} cannot be checkpointed: {things} in the way. {runs_on}"),
                refusals,
            )
            .next(format!("remedy what is named, then: brant check {}", target.word()))
        }
        brant_capture::Error::NoTarget(_) => Failure::of_error(code, what, &error).next("brant ps"),
        brant_capture::Error::OwnTree(_) => Failure::of_error(code, format!("{what}. {runs_on}"), &error)
            .next(format!(
                "from another terminal, or outside of the job: brant checkpoint {}",
                target.word()
            )),
        error => Failure::of_error(code, format!("{what}. {runs_on}"), &error),
    }
}

/// Whether nothing of the target lives. One that was killed needs a moment until it shows.
fn has_ended(target: &Target, patience: Duration) -> bool {
    let ended = || match target {
        Target::Process(pid) => {
            let is_last = || brant_kernel::proc::tasks(*pid).is_ok_and(|tasks| tasks.len() <= 1);
            stat(*pid).is_none_or(|stat| !stat.is_alive() && is_last())
        }
        Target::Job(job) => job.roots().is_empty(),
    };
    let until = Instant::now() + patience;
    loop {
        if ended() {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(END_PAUSE);
    }
}
