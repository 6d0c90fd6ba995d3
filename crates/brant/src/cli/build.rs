//! The builder of a restored job: a process of its own, which makes the tree and reports through pipes.
//!
//! Until the job is written down, the end of either process takes everything with it: the builder dies with the client, and
//! the tree with the builder. From there on the client's end is nothing to the builder, which lets the tree go.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use brant_base::Pid;
use brant_image::Image;
use brant_kernel::task::{self, Fork};
use brant_restore::{Options, Plan, Restored};
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use serde_json::{Value, json};

use super::mediate::mediate;
use crate::failure::{Failure, exit};
use crate::job::{Job, Meta, Process, Reservation};
use crate::keeper::{Inheritance, adopt};
use crate::report::Report;

/// No signal.
const NONE: i32 = 0;
/// How long a keeper whose builder was killed before the commit may take to end.
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(10);

/// Before the program's first instruction: what both processes need.
pub(super) struct Prepared {
    pub(super) image: Image,
    pub(super) path: PathBuf,
    pub(super) plan: Plan,
    pub(super) options: Options,
    pub(super) relays_terminal: bool,
    /// The read end of what a detached job writes.
    pub(super) output: Option<OwnedFd>,
}

/// Who goes with the tree's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Manner {
    /// A client is attached from the job's first byte on.
    pub(super) attached: bool,
    /// The tree stands, stopped, until [`Building::go`].
    pub(super) gated: bool,
}

/// A tree that is being built by a child of ours. Dropped, nothing is left of it.
pub(super) struct Building {
    child: Option<Pid>,
    /// A line comes when the tree stands; the end when it cannot.
    ready: File,
    go: File,
    result: File,
    stream: Option<UnixStream>,
    reservation: Option<Reservation>,
}

/// Forks the builder and waits for what it says. Returns when the job runs.
pub(super) fn start(
    reservation: Reservation,
    prepared: Prepared,
    detached: bool,
    report: &Report,
) -> Result<(Meta, UnixStream), Failure> {
    let manner = Manner { attached: !detached, gated: false };
    Building::begin(reservation, prepared, manner)?.finish(report)
}

impl Building {
    /// Forks the builder.
    pub(super) fn begin(
        mut reservation: Reservation,
        mut prepared: Prepared,
        manner: Manner,
    ) -> Result<Building, Failure> {
        let fault = |error: io::Error| not_built("starting the builder", &error);
        let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|error| fault(error.into()));
        let (ours, theirs) = UnixStream::pair().map_err(fault)?;
        let ((result_read, result_write), (ready_read, ready_write), (go_read, go_write)) =
            (pipe()?, pipe()?, pipe()?);
        let client = nix::unistd::getpid();
        match task::fork().map_err(fault)? {
            Fork::Child => {
                drop((ours, result_read, ready_read, go_write));
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
                    client: manner.attached.then_some(theirs),
                });
                let gate = manner.gated.then(|| Gate { ready: ready_write.into(), go: go_read.into() });
                let built =
                    inheritance.and_then(|inheritance| build(&mut reservation, prepared, inheritance, gate));
                let said = match &built {
                    Ok(restored) => json!({ "warnings": restored.warnings }),
                    Err(failure) => json!({ "failure": failure.to_json() }),
                };
                let _ = result.write_all(said.to_string().as_bytes());
                task::exit_now(if built.is_ok() { 0 } else { 1 });
            }
            Fork::Parent { child } => Ok(Building {
                child: Some(child),
                ready: ready_read.into(),
                go: go_write.into(),
                result: result_read.into(),
                stream: Some(ours),
                reservation: Some(reservation),
            }),
        }
    }

    /// Becomes readable when a gated tree stands, or cannot.
    pub(super) fn news(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }

    /// Waits until the tree stands; gives what there is to say of it.
    pub(super) fn ready(&mut self) -> Result<Vec<String>, Failure> {
        let mut line = String::new();
        let _ = BufReader::new(&self.ready).read_line(&mut line);
        match serde_json::from_str(&line) {
            Ok(warnings) => Ok(warnings),
            Err(_) => {
                let said = self.said();
                Err(if said["failure"].is_null() {
                    broken_off()
                } else {
                    Failure::from_json(&said["failure"])
                })
            }
        }
    }

    /// Lets a gated tree go.
    pub(super) fn go(&mut self) -> io::Result<()> {
        self.go.write_all(&[1])
    }

    /// Waits for the job to run; gives it, and the client's connection.
    pub(super) fn finish(mut self, report: &Report) -> Result<(Meta, UnixStream), Failure> {
        let said = self.said();
        let (Some(reservation), Some(stream)) = (self.reservation.take(), self.stream.take()) else {
            return Err(broken_off());
        };
        hear(reservation, &said, report).map(|meta| (meta, stream))
    }

    /// All that the builder says, and its end.
    fn said(&mut self) -> Value {
        let mut said = String::new();
        let _ = self.result.read_to_string(&mut said);
        if let Some(child) = self.child.take() {
            let _ = task::wait_for(child);
        }
        serde_json::from_str(&said).unwrap_or_default()
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            if let Ok(pidfd) = task::pidfd_open(child) {
                let _ = task::pidfd_send_signal(&pidfd, libc::SIGKILL);
            }
            let _ = task::wait_for(child);
        }
    }
}

/// Where the builder of a gated tree waits.
struct Gate {
    ready: File,
    go: File,
}

impl Gate {
    fn pass(mut self, warnings: &[String]) -> io::Result<()> {
        self.ready.write_all(format!("{}\n", json!(warnings)).as_bytes())?;
        self.go.read_exact(&mut [0])
    }
}

/// In the builder: makes the job, and writes down where it is.
fn build(
    reservation: &mut Reservation,
    prepared: Prepared,
    inheritance: Inheritance,
    gate: Option<Gate>,
) -> Result<Restored, Failure> {
    let Prepared { image, path, plan, options, relays_terminal, .. } = prepared;
    let detached = options.detached;
    let image_path = path.to_string_lossy().into_owned();
    let announce = |restored: &Restored| {
        let meta = reservation.meta_mut();
        meta.keeper = Process::now(restored.keeper_host).unwrap_or(meta.keeper);
        meta.image = Some(image_path);
        meta.terminal = relays_terminal;
        meta.logged = detached || relays_terminal;
        let publish = |reservation: &Reservation| {
            reservation.publish().map_err(|failure| io::Error::other(failure.why))
        };
        if let Some(gate) = gate {
            // A job without a root is shown as starting.
            publish(reservation)?;
            gate.pass(&restored.warnings)?;
        }
        if !restored.sleepers.is_empty() {
            crate::job::write_placeholders(reservation.folder(), &restored.sleepers)?;
        }
        let meta = reservation.meta_mut();
        meta.root = Process::now(restored.root_host);
        meta.inside_pid = Some(restored.root_inside.0);
        publish(reservation)?;
        // What comes next should not be cut short (`brant_restore`, the commit).
        task::set_parent_death_signal(NONE)
    };
    let keeper = |handoff| adopt(inheritance, handoff);
    brant_restore::restore(&image, plan, options, keeper, &mut mediate, announce).map_err(|error| {
        let what = format!("{} could not be restored; nothing of it is left", path.display());
        match error {
            brant_restore::Error::Refused(refusals) => Failure::refused(what, refusals),
            error => Failure::of_error(error.code(), what, &error),
        }
    })
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
        None => return Err(broken_off()),
    };
    for warning in warnings.iter().filter_map(Value::as_str) {
        report.note(&format!("warning: {warning}"));
    }
    let folder = reservation.folder().to_path_buf();
    report.detail(&format!("the job's folder is {}", folder.display()));
    let handed = reservation.hand_over();
    Ok(Job::read(&folder).map_or(handed, |job| job.meta))
}

fn broken_off() -> Failure {
    Failure::new("B-0806", exit::FAILED, "the restore was broken off; nothing of it is left")
        .why("the process that builds the program has ended without a word: somebody killed it, or it ran out of memory")
        .next("try again; if it stays so, report it with: brant doctor --json")
}

/// Whether the keeper outlives the builder, which has ended: it does only if it was told that the tree is whole.
fn runs_alone(reservation: &Reservation) -> bool {
    let own = Pid(nix::unistd::getpid().as_raw());
    let Some(job) = Job::read(reservation.folder()).filter(|job| job.meta.keeper.pid() != own) else {
        return false;
    };
    !job.meta.keeper.ends_before(Instant::now() + ORPHAN_TIMEOUT)
}

/// What descriptors 0 to 2 become where their other ends were outside the tree; and the log's end of them.
pub(super) fn stdio(detached: bool) -> io::Result<([OwnedFd; 3], Option<OwnedFd>)> {
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

pub(super) fn not_built(operation: &str, error: &io::Error) -> Failure {
    Failure::new("B-0801", exit::FAILED, "the program could not be restored; nothing of it is left")
        .why(format!("{operation}: {error}"))
        .next("brant doctor")
}
