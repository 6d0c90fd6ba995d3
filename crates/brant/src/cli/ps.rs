//! `brant ps`.

use serde_json::{Value, json};

use super::Done;
use crate::handover::{Got, Handovers, Incoming, Outgoing, Whereabouts, short};
use crate::job::{Ended, Job, Runtime, State};
use crate::report::{Report, ago, command_line, harmless, state, table, wait_status};

/// List jobs that run
#[derive(Debug, clap::Args)]
pub(super) struct Ps {
    /// Also jobs that have ended
    #[arg(short, long)]
    all: bool,
}

impl Ps {
    pub(super) fn run(self, report: &Report) -> Done {
        let runtime = Runtime::open()?;
        runtime.sweep(&runtime.lock()?);
        let jobs: Vec<Job> =
            runtime.jobs().into_iter().filter(|job| self.all || job.state.is_live()).collect();
        let handovers = Handovers::open()?;
        let (outgoing, incoming) = (handovers.outgoing(), handovers.incoming());
        if report.json {
            report.json(json!({
                "jobs": jobs.iter().map(as_json).collect::<Vec<Value>>(),
                "handed_out": outgoing.iter().map(outgoing_json).collect::<Vec<Value>>(),
                "held": incoming.iter().map(incoming_json).collect::<Vec<Value>>(),
            }));
            return Ok(0);
        }
        let head = ["NAME", "PID", "INSIDE-PID", "STATE", "STARTED", "COMMAND"];
        let mut rows = vec![head.map(String::from).to_vec()];
        rows.extend(jobs.iter().map(row));
        rows.extend(
            outgoing
                .iter()
                .filter(|record| record.whereabouts() != Whereabouts::Here)
                .map(|record| handover_row(&record.name, "handed over", record.unix_ms, &record.command)),
        );
        rows.extend(
            incoming.iter().map(|record| handover_row(&record.name, "held", record.unix_ms, &record.command)),
        );
        let listed = table(&rows);
        match terminal_columns() {
            Some(columns) => listed.lines().for_each(|line| report.data(&cut(line, columns))),
            None => report.data(&listed),
        }
        outgoing.iter().for_each(|record| report.note(&outgoing_note(record)));
        incoming.iter().for_each(|record| report.note(&incoming_note(record)));
        Ok(0)
    }
}

fn handover_row(name: &str, state: &str, unix_ms: u64, command: &[String]) -> Vec<String> {
    let dash = || "-".to_string();
    vec![
        name.to_string(),
        dash(),
        dash(),
        state.to_string(),
        format!("{} ago", ago(unix_ms)),
        command_line(command),
    ]
}

/// What a hand-over from here that is not done means, and what to do about it.
fn outgoing_note(record: &Outgoing) -> String {
    let (name, host, image) = (harmless(&record.name), harmless(&record.host), short(&record.image));
    let path = record.path.display();
    match record.whereabouts() {
        Whereabouts::Here => format!(
            "{name}: a move to {host} was broken off; it still runs here. {host} may hold a copy: there, brant image rm {image}; then here: brant image rm {image}"
        ),
        Whereabouts::Nowhere => format!(
            "{name}: ended here for a move to {host}, which was not told to run it. Resume it in one place only: here, brant restore {path}; or there, brant restore {image} --take-over"
        ),
        Whereabouts::There => format!(
            "{name}: given to {host}, not known to run there. Look there: brant ps; if it does not run: brant restore {image} --take-over (there). This host's copy: {path}; once it runs: brant image rm {image} (here)"
        ),
    }
}

/// What an image that came from elsewhere means, and what to do about it.
fn incoming_note(record: &Incoming) -> String {
    let (name, from, image) = (harmless(&record.name), harmless(&record.from), short(&record.image));
    match record.state {
        Got::Held => format!(
            "{name}: held for {from}, where it may still run. Look there: brant ps; if it runs there: brant image rm {image}; if it is gone there: brant restore {image} --take-over"
        ),
        Got::Ours => format!(
            "{name}: taken over from {from}. If it does not run here: brant restore {image}; if it does: brant image rm {image}"
        ),
    }
}

fn outgoing_json(record: &Outgoing) -> Value {
    json!({
        "image": record.image, "path": record.path, "host": record.host, "name": record.name,
        "command": record.command, "unix_ms": record.unix_ms, "state": record.state,
        "whereabouts": match record.whereabouts() {
            Whereabouts::Here => "here",
            Whereabouts::Nowhere => "nowhere",
            Whereabouts::There => "there",
        },
    })
}

fn incoming_json(record: &Incoming) -> Value {
    json!({
        "image": record.image, "path": record.path, "from": record.from, "name": record.name,
        "command": record.command, "unix_ms": record.unix_ms, "state": record.state,
    })
}

/// The width of stdout, where it is a terminal.
fn terminal_columns() -> Option<usize> {
    let window = brant_kernel::task::window(std::io::stdout()).ok()?;
    Some(usize::from(window.columns)).filter(|columns| *columns >= 40)
}

/// At most `columns` characters of a line.
fn cut(line: &str, columns: usize) -> String {
    if line.chars().count() <= columns {
        return line.to_string();
    }
    line.chars().take(columns - 1).chain(['…']).collect()
}

fn row(job: &Job) -> Vec<String> {
    let is_live = job.state.is_live();
    let number = |pid: Option<i32>| pid.filter(|_| is_live).map_or("-".to_string(), |pid| pid.to_string());
    vec![
        job.name().to_string(),
        number(job.meta.root.map(|root| root.pid)),
        number(job.meta.inside_pid),
        state(job),
        format!("{} ago", ago(job.meta.started_unix_ms)),
        command_line(&job.meta.command),
    ]
}

fn as_json(job: &Job) -> Value {
    let (word, ended): (&str, Option<Ended>) = match job.state {
        State::Starting => ("starting", None),
        State::Running => ("running", None),
        State::Stopped => ("stopped", None),
        State::Orphans(ended) => ("orphans", Some(ended)),
        State::Exited(ended) => ("exited", Some(ended)),
        State::Unkept => ("unkept", None),
        State::Lost => ("lost", None),
    };
    json!({
        "name": job.meta.name,
        "pid": job.meta.root.map(|root| root.pid),
        "inside_pid": job.meta.inside_pid,
        "keeper_pid": job.meta.keeper.pid,
        "state": word,
        "exit_code": ended.map(|ended| wait_status(ended.wait_status)),
        "ended_unix_ms": ended.map(|ended| ended.ended_unix_ms),
        "started_unix_ms": job.meta.started_unix_ms,
        "terminal": job.meta.terminal,
        "image": job.meta.image,
        "command": job.meta.command,
    })
}
