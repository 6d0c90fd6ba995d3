//! `brant kill`.

use std::time::Duration;

use brant_kernel::task;
use nix::sys::signal::Signal;

use super::Done;
use super::reach::{reach, unreachable};
use super::stop::{end_job, no_signal};
use crate::failure::{Failure, exit};
use crate::job::State;
use crate::protocol::Request;
use crate::report::{Report, signal_name};
use crate::target::Target;

/// End every process of a job at once, or send a signal to its root process
#[derive(Debug, clap::Args)]
pub(super) struct Kill {
    /// The job's name or a pid
    target: String,
    /// The signal, by name or number
    #[arg(short, long, default_value = "KILL")]
    signal: String,
}

impl Kill {
    pub(super) fn run(self, report: &Report) -> Done {
        let signal = parse_signal(&self.signal)?;
        match Target::find(&self.target)? {
            Target::Job(job) if signal == libc::SIGKILL => {
                end_job(&job, &Request::Kill, Duration::ZERO)?;
                report.note(&format!("killed {}", job.name()));
            }
            Target::Job(job) if job.state != State::Unkept => {
                let mut link = reach(&job)?;
                link.send(&Request::Signal(signal)).map_err(|error| unreachable(&job, &error))?;
                report.note(&format!("sent {} to {}", signal_name(signal), job.name()));
            }
            target => {
                let pid = match &target {
                    Target::Job(job) => job.meta.root.map(|root| root.pid()).unwrap_or_default(),
                    Target::Process(pid) => *pid,
                };
                let process = task::pidfd_open(pid).map_err(|error| no_signal(pid, &error))?;
                task::pidfd_send_signal(&process, signal).map_err(|error| no_signal(pid, &error))?;
                report.note(&format!("sent {} to process {pid}", signal_name(signal)));
            }
        }
        Ok(0)
    }
}

/// `TERM`, `sigterm` or `15`.
fn parse_signal(text: &str) -> Result<i32, Failure> {
    let number = text.parse::<i32>().ok().filter(|number| (1..=64).contains(number));
    let name = text.to_ascii_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    number.or_else(|| name.parse::<Signal>().ok().map(|signal| signal as i32)).ok_or_else(|| {
        Failure::new("B-0109", exit::USAGE, format!("there is no signal \"{}\"", text.escape_debug()))
            .why("a signal is a name such as TERM or USR1, or a number from 1 to 64")
            .next("kill -l")
    })
}
