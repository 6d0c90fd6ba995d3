//! `brant restore`.
//!
//! The client forks the builder, the builder makes the job and reports through a pipe. Until the job runs,
//! the end of either takes everything with it: the builder dies with the client, and the tree with the builder.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use brant_base::Pid;
use brant_image::Image;
use brant_image::inspect::readable;
use brant_kernel::facts::HostFacts;
use brant_kernel::task::{self, Fork};
use brant_restore::{FilesPolicy, Options, Plan, Restored};
use brant_store::Store;
use nix::fcntl::OFlag;
use nix::unistd::{dup2_stdin, dup2_stdout, pipe2};
use serde_json::{Value, json};

use super::Done;
use super::attach::finish;
use super::check::after_restore;
use super::checkpoint::{open_image, open_store, store_failed};
use super::image::receive;
use super::stop::ends_before;
use super::stream;
use crate::client::{Blocked, Foreground, Link};
use crate::failure::{Failure, exit};
use crate::job::{Job, Meta, Process, Reservation, Runtime};
use crate::keeper::{Inheritance, adopt};
use crate::report::Report;

/// How long a keeper whose builder was killed before the commit may take to end.
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(1);

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
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum Files {
    #[default]
    Strict,
    Keep,
    Rewind,
}

/// Before the program's first instruction: what both processes need.
struct Prepared {
    image: Image,
    path: PathBuf,
    plan: Plan,
    options: Options,
    relays_terminal: bool,
    /// The read end of what a detached job writes.
    output: Option<OwnedFd>,
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
        let checkpoint = prepared.image.checkpoint();
        let command: Vec<String> = checkpoint.command.iter().map(|word| readable(word)).collect();
        let name = self.name.as_deref().or(checkpoint.job.as_deref());
        let reserve = || Runtime::open()?.reserve(name, &command);
        let reservation = reserve().map_err(&unless_built)?;
        let relays_terminal = prepared.relays_terminal;
        let blocked =
            Blocked::new(true).map_err(|error| unless_built(not_built("blocking signals", &error)))?;
        let (meta, stream) = start(reservation, prepared, self.detach, report).map_err(&unless_built)?;
        self.write_pid_file(&meta)?;
        if let Some(change) = after_restore() {
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
            files: match self.files {
                Files::Strict => FilesPolicy::Strict,
                Files::Keep => FilesPolicy::Keep,
                Files::Rewind => FilesPolicy::Rewind,
            },
            map_paths: self.map_path.iter().map(|(from, to)| (bytes(from), bytes(to))).collect(),
            copies_folder: Store::default_copies_folder().map_err(|error| store_failed(&error))?,
            stdio,
            redirect_vdso: false,
        };
        let facts = HostFacts::probe().map_err(|error| not_built("looking at this host", &error))?;
        let plan = brant_restore::plan(&image, &facts, &options).map_err(|refusals| {
            let count = refusals.0.len();
            let things = if count == 1 { "one thing does".to_string() } else { format!("{count} things do") };
            Failure::refused(
                format!("{} cannot be restored here: {things} not fit", path.display()),
                refusals,
            )
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

/// Forks the builder and waits for what it says. Returns when the job runs.
fn start(
    mut reservation: Reservation,
    mut prepared: Prepared,
    detached: bool,
    report: &Report,
) -> Result<(Meta, UnixStream), Failure> {
    let fault = |error: io::Error| not_built("starting the builder", &error);
    let (ours, theirs) = UnixStream::pair().map_err(fault)?;
    let (result_read, result_write) = pipe2(OFlag::O_CLOEXEC).map_err(|error| fault(error.into()))?;
    let client = nix::unistd::getpid();
    match task::fork().map_err(fault)? {
        Fork::Child => {
            drop((ours, result_read));
            let mut result = File::from(result_write);
            let _ = task::set_parent_death_signal(libc::SIGKILL);
            if nix::unistd::getppid() != client {
                task::exit_now(1);
            }
            let inheritance = reservation.listener().map(|listener| Inheritance {
                folder: reservation.folder().to_path_buf(),
                name: reservation.meta_mut().name.clone(),
                listener,
                output: prepared.output.take(),
                client: (!detached).then_some(theirs),
            });
            let built = inheritance.and_then(|inheritance| build(&mut reservation, prepared, inheritance));
            let said = match &built {
                Ok(restored) => json!({ "warnings": restored.warnings }),
                Err(failure) => json!({ "failure": failure.to_json() }),
            };
            let _ = result.write_all(said.to_string().as_bytes());
            task::exit_now(if built.is_ok() { 0 } else { 1 });
        }
        Fork::Parent { child } => {
            drop((theirs, result_write, prepared));
            let mut said = String::new();
            let _ = File::from(result_read).read_to_string(&mut said);
            let _ = task::wait_for(child);
            let said: Value = serde_json::from_str(&said).unwrap_or_default();
            hear(reservation, &said, report).map(|meta| (meta, ours))
        }
    }
}

/// In the builder: makes the job, and writes down where it is.
fn build(
    reservation: &mut Reservation,
    prepared: Prepared,
    inheritance: Inheritance,
) -> Result<Restored, Failure> {
    let Prepared { image, path, plan, options, relays_terminal, .. } = prepared;
    let detached = options.detached;
    let image_path = path.to_string_lossy().into_owned();
    let announce = |restored: &Restored| {
        let meta = reservation.meta_mut();
        meta.keeper = Process::now(restored.keeper_host).unwrap_or(meta.keeper);
        meta.root = Process::now(restored.root_host);
        meta.inside_pid = Some(restored.root_inside.0);
        meta.image = Some(image_path);
        meta.terminal = relays_terminal;
        meta.logged = detached || relays_terminal;
        reservation.publish().map_err(|failure| io::Error::other(failure.why))
    };
    brant_restore::restore(&image, plan, options, |handoff| adopt(inheritance, handoff), announce).map_err(
        |error| {
            let what = format!("{} could not be restored; nothing of it is left", path.display());
            match error {
                brant_restore::Error::Refused(refusals) => Failure::refused(what, refusals),
                error => Failure::of_error(error.code(), what, &error),
            }
        },
    )
}

/// What the builder said.
fn hear(reservation: Reservation, said: &Value, report: &Report) -> Result<Meta, Failure> {
    if !said["failure"].is_null() {
        return Err(Failure::from_json(&said["failure"]));
    }
    let none = Vec::new();
    let warnings = match said["warnings"].as_array() {
        Some(warnings) => warnings,
        // It was killed right behind the commit: the job runs without it.
        None if runs_alone(&reservation) => &none,
        None => {
            return Err(Failure::new("B-0806", exit::FAILED, "the restore was broken off; nothing of it is left")
                .why("the process that builds the program has ended without a word: somebody killed it, or it ran out of memory")
                .next("try again; if it stays so, report it with: brant doctor --json"));
        }
    };
    for warning in warnings.iter().filter_map(Value::as_str) {
        report.note(&format!("warning: {warning}"));
    }
    let folder = reservation.folder().to_path_buf();
    report.detail(&format!("the job's folder is {}", folder.display()));
    let handed = reservation.hand_over();
    Ok(Job::read(&folder).map_or(handed, |job| job.meta))
}

/// Whether the keeper outlives the builder, which has ended: it does only if it was told that the tree is whole.
fn runs_alone(reservation: &Reservation) -> bool {
    let own = Pid(nix::unistd::getpid().as_raw());
    let Some(job) = Job::read(reservation.folder()).filter(|job| job.meta.keeper.pid() != own) else {
        return false;
    };
    let Ok(keeper) = task::pidfd_open(job.meta.keeper.pid()) else { return false };
    job.meta.keeper.is_alive() && !ends_before(&keeper, Instant::now() + ORPHAN_TIMEOUT)
}

/// What descriptors 0 to 2 become where their other ends were outside the tree; and the log's end of them.
fn stdio(detached: bool) -> io::Result<([OwnedFd; 3], Option<OwnedFd>)> {
    if !detached {
        let own = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned();
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        return Ok(([own(stdin.as_fd())?, own(stdout.as_fd())?, own(stderr.as_fd())?], None));
    }
    let null = OwnedFd::from(File::open("/dev/null")?);
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    let second = write.try_clone()?;
    Ok(([null, write, second], Some(read)))
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

fn not_built(operation: &str, error: &io::Error) -> Failure {
    Failure::new("B-0801", exit::FAILED, "the program could not be restored; nothing of it is left")
        .why(format!("{operation}: {error}"))
        .next("brant doctor")
}

fn parse_map(text: &str) -> Result<(PathBuf, PathBuf), String> {
    match text.split_once('=') {
        Some((from, to)) if from.starts_with('/') && to.starts_with('/') => Ok((from.into(), to.into())),
        _ => Err("it is A=B with two absolute paths".to_string()),
    }
}
