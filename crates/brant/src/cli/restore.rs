//! `brant restore`.
//!
//! The client forks the builder (see `build`), which makes the job and reports through a pipe.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use brant_base::{Pid, fault};
use brant_image::inspect::readable;
use brant_kernel::facts::HostFacts;
use brant_restore::{AddressPair, FilesPolicy, Options, Way};
use brant_store::Store;
use nix::unistd::{dup2_stdin, dup2_stdout};
use serde_json::json;

use super::Done;
use super::attach::finish;
use super::build::{Prepared, not_built, start, stdio};
use super::check::after_restore;
use super::checkpoint::{open_image, open_store, store_failed};
use super::image::receive;
use super::stream;
use crate::client::{Blocked, Foreground, Link};
use crate::failure::{Failure, exit};
use crate::handover::{check_restore, settle_restored};
use crate::job::{Meta, Process, Runtime};
use crate::report::Report;

/// Bring a program back from an image; it goes on where it was
///
/// In the foreground brant is the program's terminal, passes signals and the exit code, and may itself be
/// killed without the program noticing. Ctrl-P Ctrl-Q leaves a program with a terminal alone.
#[derive(Debug, clap::Args)]
pub(super) struct Restore {
    /// A path, a job's name (its newest image), the beginning of an image's id, or - for standard input
    ///
    /// An image from standard input is first put into your store, whole and verified; there it stays, whatever
    /// happens. The program then reads /dev/null instead.
    image: OsString,
    /// Run in the background, with input from /dev/null and output into the job's log
    #[arg(short, long)]
    detach: bool,
    /// The job's name; by default the one it had
    #[arg(short, long)]
    name: Option<String>,
    /// Write the root's pid to this file once it runs
    #[arg(long, value_name = "F")]
    pid_file: Option<PathBuf>,
    /// What to do about files that have changed: refuse, take them as they are, or cut off what has only grown
    #[arg(long, value_enum, default_value_t)]
    files: Files,
    /// Look for paths that begin with A at B instead
    #[arg(long, value_name = "A=B", value_parser = parse_map)]
    map_path: Vec<(PathBuf, PathBuf)>,
    /// Bind sockets to NEW that were bound to OLD, each of them ADDRESS or ADDRESS:PORT
    ///
    /// Without namespaces (--any-pid) the program goes on to see OLD, and to reach NEW by it.
    #[arg(long, value_name = "OLD=NEW", value_parser = parse_addresses)]
    map_address: Vec<AddressPair>,
    /// Make no namespaces: the program gets new process numbers, which the wrapper `virtual` hides from it, and it keeps its
    /// groups and its right to run programs as another user
    ///
    /// That is done by itself where user namespaces are not to be had. Asked for by name, it also brings back a static
    /// program of one thread, for which nothing can translate numbers.
    #[arg(long)]
    any_pid: bool,
    /// Bring an image back although a migration that was broken off may have left its program running elsewhere
    #[arg(long)]
    take_over: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
pub(super) enum Files {
    #[default]
    Strict,
    Keep,
    Rewind,
}

impl From<Files> for FilesPolicy {
    fn from(files: Files) -> FilesPolicy {
        match files {
            Files::Strict => FilesPolicy::Strict,
            Files::Keep => FilesPolicy::Keep,
            Files::Rewind => FilesPolicy::Rewind,
        }
    }
}

impl Restore {
    pub(super) fn run(self, report: &Report) -> Done {
        if !stream::is_standard(Path::new(&self.image)) {
            let path = open_store()?.find(&self.image).map_err(|error| store_failed(&error))?;
            return self.restore(&path, report, |failure| failure);
        }
        let path = receive(stream::incoming()?)?.path;
        stream::close_incoming().map_err(|error| kept(not_built("closing standard input", &error), &path))?;
        report.note(&format!("received {}", path.display()));
        self.restore(&path, report, |failure| kept(failure, &path))
    }

    /// `unless_built` adds to what a failure says that has left nothing behind.
    fn restore(self, path: &Path, report: &Report, unless_built: impl Fn(Failure) -> Failure) -> Done {
        let prepared = self.prepare(path).map_err(&unless_built)?;
        if self.dry_run {
            return Ok(self.tell_plan(report, &prepared));
        }
        let id = prepared.image.id().to_string();
        fault::reach("restore.opened");
        check_restore(&id, path, self.take_over).map_err(&unless_built)?;
        let checkpoint = prepared.image.checkpoint();
        let command: Vec<String> = checkpoint.command.iter().map(|word| readable(word)).collect();
        let name = self.name.as_deref().or(checkpoint.job.as_deref());
        let reserve = || Runtime::open()?.reserve(name, &command);
        let reservation = reserve().map_err(&unless_built)?;
        let relays_terminal = prepared.relays_terminal;
        let is_in_namespaces = prepared.plan.way() == Way::Namespaces;
        let blocked =
            Blocked::new(true).map_err(|error| unless_built(not_built("blocking signals", &error)))?;
        let (meta, stream) = start(reservation, prepared, self.detach, report).map_err(&unless_built)?;
        if let Some(left) = settle_restored(&id) {
            report.note(&left);
        }
        self.write_pid_file(&meta)?;
        if let Some(change) = after_restore().filter(|_| is_in_namespaces) {
            report.detail(&change);
        }
        if self.detach {
            announce(report, &meta);
            return Ok(0);
        }
        let link = Link::new(stream).map_err(|error| not_built("reaching its keeper", &error).into_own())?;
        let outcome = if relays_terminal {
            Foreground::relay(link, blocked).run(true, true)
        } else {
            if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
                let _ = dup2_stdin(&null).and_then(|()| dup2_stdout(&null));
            }
            Foreground::waiter(link, blocked, None).run(false, false)
        };
        finish(report, &meta, outcome)
    }

    fn prepare(&self, path: &Path) -> Result<Prepared, Failure> {
        let image = open_image(path)?;
        let relays_terminal = image.checkpoint().terminals.iter().any(|terminal| !terminal.inside);
        let (stdio, output) = stdio(self.detach).map_err(|error| not_built("making pipes", &error))?;
        let bytes = |path: &PathBuf| path.as_os_str().as_bytes().to_vec();
        let options = Options {
            detached: self.detach,
            files: self.files.into(),
            map_paths: self.map_path.iter().map(|(from, to)| (bytes(from), bytes(to))).collect(),
            map_addresses: self.map_address.clone(),
            copies_folder: Store::default_copies_folder().map_err(|error| store_failed(&error))?,
            stdio,
            any_pid: self.any_pid,
            brant: brant_connect::follow::own_program(),
            redirect_vdso: false,
        };
        let facts = HostFacts::probe().map_err(|error| not_built("looking at this host", &error))?;
        let plan = brant_restore::plan(&image, &facts, &options).map_err(|refusals| {
            Failure::does_not_fit(format!("{} cannot be restored here", path.display()), refusals)
        })?;
        Ok(Prepared { image, path: path.to_path_buf(), plan, options, relays_terminal, output })
    }

    fn tell_plan(&self, report: &Report, prepared: &Prepared) -> u8 {
        let checkpoint = prepared.image.checkpoint();
        let processes = checkpoint.processes.len();
        if report.json {
            report.json(json!({
                "image": prepared.path, "processes": processes, "root": checkpoint.root.0,
                "terminal": prepared.relays_terminal, "detach": self.detach,
                "steps": prepared.plan.to_string().lines().collect::<Vec<_>>(),
            }));
        } else {
            let path = prepared.path.display();
            report.data(&format!(
                "would restore {path}: {processes} processes, the root as {} inside",
                checkpoint.root
            ));
            report.data(&prepared.plan.to_string());
        }
        0
    }

    fn write_pid_file(&self, meta: &Meta) -> Result<(), Failure> {
        let Some(path) = &self.pid_file else { return Ok(()) };
        let pid = meta.root.map_or(0, |root| root.pid);
        std::fs::write(path, format!("{pid}\n")).map_err(|error| {
            Failure::new("B-0113", exit::OWN, format!("the pid file {} could not be written", path.display()))
                .why(format!("{error}\nthe program runs as process {pid}"))
                .next(format!("brant ps, or: brant stop {}", meta.name))
        })
    }
}

/// Says how the job is called, with both numbers of its root.
fn announce(report: &Report, meta: &Meta) {
    let pid = meta.root.map_or(Pid(0), Process::pid);
    if report.json {
        report.json(json!({
            "name": meta.name, "pid": pid.0, "inside_pid": meta.inside_pid, "keeper_pid": meta.keeper.pid,
        }));
        return;
    }
    report.data(&meta.name);
    let inside = meta.inside_pid.unwrap_or_default();
    report.note(&format!("restored {}: process {pid}, which is {inside} to itself", meta.name));
}

/// A failure after which the image that came through the pipe, perhaps the only copy, is in the store.
fn kept(failure: Failure, path: &Path) -> Failure {
    let next = format!("the image is kept as {}; once all fits: brant restore {0}", path.display());
    let next = if failure.next.is_empty() { next } else { format!("{}\n{next}", failure.next) };
    failure.next(next)
}

fn parse_addresses(text: &str) -> Result<AddressPair, String> {
    AddressPair::parse(text).ok_or_else(|| {
        "it is OLD=NEW with two addresses of one kind, with a port or without: 10.0.0.1:80=10.0.0.2:80; the address of all \
         interfaces has only another port: 0.0.0.0:80=0.0.0.0:8080"
            .to_string()
    })
}

pub(super) fn parse_map(text: &str) -> Result<(PathBuf, PathBuf), String> {
    match text.split_once('=') {
        Some((from, to)) if from.starts_with('/') && to.starts_with('/') => Ok((from.into(), to.into())),
        _ => Err("it is A=B with two absolute paths".to_string()),
    }
}
