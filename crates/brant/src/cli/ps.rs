//! `brant ps`.

use serde_json::{Value, json};

use super::Done;
use crate::job::{Ended, Job, Runtime, State};
use crate::report::{Report, ago, command_line, state, table, wait_status};

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
        if report.json {
            report.json(json!({ "jobs": jobs.iter().map(as_json).collect::<Vec<Value>>() }));
            return Ok(0);
        }
        let head = ["NAME", "PID", "INSIDE-PID", "STATE", "STARTED", "COMMAND"];
        let mut rows = vec![head.map(String::from).to_vec()];
        rows.extend(jobs.iter().map(row));
        let listed = table(&rows);
        match terminal_columns() {
            Some(columns) => listed.lines().for_each(|line| report.data(&cut(line, columns))),
            None => report.data(&listed),
        }
        Ok(0)
    }
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
