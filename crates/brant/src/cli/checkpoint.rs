//! `brant checkpoint`.

use std::cell::Cell;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use brant_base::Pid;
use brant_capture::{Captured, Carry, CopiedStanding, Options};
use brant_image::inspect::size;
use brant_image::{Codec, Identity, ImageError};
use brant_kernel::task;
use brant_store::{Pending, Place, Store, StoreError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde_json::json;

use super::Done;
use super::check::{failed, host_facts};
use super::saving::tell_wrappers;
use super::stream::{self, Outgoing};
use crate::failure::{Failure, exit, exit_of};
use crate::job::descendants;
use crate::report::{Report, span};
use crate::target::Target;

/// How long the threads of a target may take to come to a stop.
pub(super) const FREEZE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a stopped job's keeper may take to see that it has ended.
const KEEPER_TIMEOUT: Duration = Duration::from_secs(5);

/// How an image is written, and what it carries.
#[derive(Debug, clap::Args)]
pub(super) struct Content {
    /// auto (by what the memory is like), none, lz4, or zstd with an optional level from 1 to 22, or from -1 down to -50: the
    /// lower, the faster
    #[arg(long, value_name = "auto|none|lz4|zstd[:LEVEL]", default_value = "auto", value_parser = parse_codec)]
    pub(super) compress: Codec,
    /// Let the image carry executable and libraries, so that a host with others can run it
    #[arg(long)]
    portable: bool,
    /// Let the image carry regular files that are open
    #[arg(long)]
    with_files: bool,
}

impl Content {
    /// What travels. Copies that a restore made of carried files do in any case: no other host has them.
    pub(super) fn carry(&self) -> Carry {
        let folder = Store::default_copies_folder().ok().and_then(|folder| folder.canonicalize().ok());
        let always_below = folder.map(|folder| folder.into_os_string().into_encoded_bytes());
        Carry {
            mapped: self.portable,
            opened: self.with_files,
            always_below: always_below.unwrap_or_default(),
        }
    }
}

/// Write a running program down as an image; it runs on, unless --stop
#[derive(Debug, clap::Args)]
pub(super) struct Checkpoint {
    /// A job's name or a pid: it and everything that descends from it
    target: String,
    /// Where the image goes: a file, a folder for a file of the image's own name, or - for standard output
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Overwrite the file of -o
    #[arg(long, requires = "output")]
    force: bool,
    /// End the program once the image is safe
    #[arg(long, conflicts_with = "leave_running")]
    stop: bool,
    /// Leave the program running (the default)
    #[arg(long)]
    leave_running: bool,
    #[command(flatten)]
    content: Content,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

impl Checkpoint {
    pub(super) fn run(self, report: &Report) -> Done {
        // A limit on file sizes is then an error of the write, as a full disk is, and no death.
        task::ignore_signal(libc::SIGXFSZ);
        let target = Target::find(&self.target)?;
        let roots = target.roots()?;
        let facts = host_facts()?;
        if self.dry_run {
            return self.plan(report, &target, &roots, &facts);
        }
        let interruption = Rc::new(Interruption::block().map_err(|error| {
            let what = format!("{target} could not be checkpointed");
            runs_on(Failure::new("B-0700", exit::FAILED, what).why(error))
        })?);
        let mut options = Options {
            freeze_timeout: FREEZE_TIMEOUT,
            stop: self.stop,
            copy: true,
            codec: self.content.compress,
            carry: self.content.carry(),
            job: target.job().map(|job| job.name().to_string()),
            never_restored: brant_restore::never_restored,
            beholder: &crate::beholder::Binary,
        };
        let carried_bytes = brant_capture::carried_bytes(&roots, &facts, &options.carry)
            .map_err(|error| failed(&target, error))?;
        tell_wrappers(report, &roots);
        let mut lost = Vec::new();
        let mut captured = loop {
            let written = Rc::new(Cell::new(0));
            let sink = Sink {
                destination: Some(self.begin(&roots, carried_bytes)?),
                written: Rc::clone(&written),
                interruption: Rc::clone(&interruption),
            };
            match brant_capture::checkpoint(&roots, &facts, &options, || Ok(sink)) {
                Ok(captured) => break captured,
                Err(_) if interruption.has_come() => return Err(interrupted(&target)),
                // What a pipe's reader has taken cannot be taken back.
                Err(error @ brant_capture::Error::CopyLost { .. })
                    if options.copy && (written.get() == 0 || !self.is_streamed()) =>
                {
                    report
                        .note(&format!("{error}; once more, and {target} stands still until all is written"));
                    let why = error.to_string();
                    lost.extend(roots.iter().map(|&pid| CopiedStanding { pid, why: why.clone() }));
                    options.copy = false;
                }
                Err(error) => return Err(self.explain(&target, error, written.get())),
            }
        };
        captured.copied_standing.extend(lost);
        if interruption.has_come() {
            return Err(interrupted(&target));
        }
        self.finish(report, &target, captured, &interruption)
    }

    fn plan(
        &self,
        report: &Report,
        target: &Target,
        roots: &[Pid],
        facts: &brant_kernel::facts::HostFacts,
    ) -> Done {
        let refusals = brant_capture::check(roots, facts, &crate::beholder::Binary)
            .map_err(|error| failed(target, error))?;
        refusals
            .into_result(())
            .map_err(|refusals| failed(target, brant_capture::Error::Refused(refusals)))?;
        let place = match &self.output {
            Some(path) => path.clone(),
            None => Store::default_folder().map_err(|error| store_failed(&error))?,
        };
        let processes: usize = roots.iter().map(|root| 1 + descendants(*root).len()).sum();
        if report.json {
            report.json(json!({ "target": target.to_string(), "processes": processes, "output": place, "stop": self.stop }));
        } else {
            let then = if self.stop { "then end it" } else { "and leave it running" };
            report.data(&format!(
                "would write {target} ({processes} processes) to {}, {then}",
                place.display()
            ));
        }
        Ok(0)
    }

    fn is_streamed(&self) -> bool {
        self.output.as_deref().is_some_and(stream::is_standard)
    }

    /// An image without a name yet, where there is room for it.
    fn begin(&self, roots: &[Pid], carried_bytes: u64) -> Result<Destination, Failure> {
        if self.is_streamed() {
            return Outgoing::begin().map(Destination::Stream);
        }
        let bytes = expected_bytes(self.content.compress, resident_bytes(roots), carried_bytes);
        let begin = || -> Result<Pending, StoreError> {
            let mut pending = match &self.output {
                Some(path) => Pending::begin(Place::from_option(path), self.force, bytes)?,
                None => Store::open(Store::default_folder()?)?.begin(bytes)?,
            };
            pending.check_space(bytes)?;
            Ok(pending)
        };
        begin().map(Destination::File).map_err(|error| runs_on(store_failed(&error)))
    }

    fn explain(&self, target: &Target, error: brant_capture::Error, written: u64) -> Failure {
        if let brant_capture::Error::Image(ImageError::Write(cause)) = &error
            && matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        {
            let what = format!("the disk is full: {target} could not be written");
            return runs_on(Failure::new("B-0603", exit::STORE, what))
                .why(format!(
                    "{} were written when the disk was full; nothing of the image is left",
                    size(written)
                ))
                .next("free some space (brant image ls, brant image rm), or choose another disk with -o");
        }
        if let brant_capture::Error::Image(ImageError::Write(cause)) = &error
            && let Some(failure) = stream::write_failed(cause, format!("{target} could not be checkpointed"))
        {
            return runs_on(failure);
        }
        failed(target, error)
    }

    /// The image gets its name, or its reader has taken it; only then the program may end.
    fn finish(
        &self,
        report: &Report,
        target: &Target,
        mut captured: Captured<Sink>,
        interruption: &Interruption,
    ) -> Done {
        let destination =
            captured.sink.destination.take().expect("a sink keeps it until it is finished here");
        let path = match destination {
            Destination::File(pending) => {
                let identity = Identity { id: captured.summary.id, created_ns: 0 };
                let name = match target {
                    Target::Job(job) => job.name().to_string(),
                    Target::Process(pid) => program_name(*pid),
                };
                let committed = pending.commit(&Pending::own_name(&name, &identity));
                Some(committed.map_err(|error| runs_on(store_failed(&error)))?)
            }
            Destination::Stream(stream) => {
                stream.finish(|| interruption.has_come()).map_err(|error| {
                    let what = || format!("{target} could not be checkpointed");
                    match interruption.has_come() {
                        true => interrupted(target),
                        false => runs_on(
                            stream::write_failed(&error, what())
                                .unwrap_or_else(|| Failure::new("B-0602", exit::STORE, what()).why(error)),
                        ),
                    }
                })?;
                None
            }
        };
        let (summary, pause) = (captured.summary, captured.pause);
        let (processes, threads) = (captured.processes, captured.threads);
        let standing = std::mem::take(&mut captured.copied_standing);
        if self.stop {
            captured.end().map_err(|error| {
                let place =
                    path.as_ref().map_or("written".to_string(), |path| format!("safe in {}", path.display()));
                let what = format!("the image is {place}, but {target} could not be ended");
                Failure::of_error(error.code(), what, &error).next(format!("brant kill {}", target.word()))
            })?;
            wait_for_keeper(target);
        }
        if report.json {
            let said = json!({
                "image": path, "id": summary.id.to_string(), "bytes": summary.bytes, "pages": summary.pages,
                "zero_pages": summary.zero_pages, "processes": processes, "threads": threads,
                "pause_ms": pause.as_millis() as u64, "stopped": self.stop,
                "copied_while_stopped": standing.iter().map(|one| json!({ "pid": one.pid.0, "why": one.why })).collect::<Vec<_>>(),
            });
            match path {
                Some(_) => report.json(said),
                None => report.json_aside(said),
            }
            return Ok(0);
        }
        if let Some(path) = &path {
            report.data(&path.display().to_string());
        }
        let (pages, zero_pages) = (summary.pages, summary.zero_pages);
        report.detail(&format!("image {}: {pages} pages with contents, {zero_pages} zero pages", summary.id));
        for one in &standing {
            report.detail(&format!(
                "process {} stood still while its memory was written: {}",
                one.pid, one.why
            ));
        }
        let count = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
        report.note(&format!(
            "wrote {target} ({}, {}) in {}; it stood still for {} and {}",
            count(processes, "process").replace("processs", "processes"),
            count(threads, "thread"),
            size(summary.bytes),
            span(pause),
            if self.stop { "has been ended" } else { "runs on" },
        ));
        Ok(0)
    }
}

/// Ctrl-C and its like while a program stands still. They are not acted upon but asked for, so that the program is let
/// go in order; Ctrl-Z has no effect, as it would leave the program frozen. Lasts until brant ends, which is soon.
pub(super) struct Interruption {
    asked: SignalFd,
}

impl Interruption {
    pub(super) fn block() -> nix::Result<Interruption> {
        let ending = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];
        let stopping = [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];
        let set = |signals: &[Signal]| signals.iter().copied().collect::<SigSet>();
        let blocked = set(&[&ending[..], &stopping[..]].concat());
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&blocked), None)?;
        let asked = SignalFd::with_flags(&set(&ending), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Interruption { asked })
    }

    /// Becomes readable when somebody wants brant to end.
    pub(super) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.asked.as_fd().try_clone_to_owned()
    }

    /// Whether somebody wants brant to end; the signal stays pending.
    pub(super) fn has_come(&self) -> bool {
        let mut fds = [PollFd::new(self.asked.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..))
    }
}

fn interrupted(target: &Target) -> Failure {
    runs_on(Failure::new("B-0704", exit::FAILED, format!("the checkpoint of {target} was interrupted")))
        .why("brant was told to end by a signal; nothing of the image is left")
        .next(format!("brant checkpoint {}", target.word()))
}

/// Where an image goes.
enum Destination {
    File(Pending),
    Stream(Outgoing),
}

/// The image on its way. The capture hands it back when all is written.
struct Sink {
    destination: Option<Destination>,
    written: Rc<Cell<u64>>,
    interruption: Rc<Interruption>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.interruption.has_come() {
            return Err(io::Error::other("interrupted by a signal"));
        }
        let count = match self.destination.as_mut().ok_or(io::ErrorKind::BrokenPipe)? {
            Destination::File(pending) => pending.write(bytes)?,
            Destination::Stream(stream) => stream.write(bytes, || self.interruption.has_come())?,
        };
        self.written.set(self.written.get() + count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.destination {
            Some(Destination::File(pending)) => pending.flush(),
            _ => Ok(()),
        }
    }
}

/// What a failure of the store means for its user.
pub(super) fn store_failed(error: &StoreError) -> Failure {
    let code = error.code();
    let failure = Failure::of_error(code, error.to_string(), error);
    let failure = match std::error::Error::source(error) {
        Some(cause) => failure.why(cause),
        None => failure.why(""),
    };
    match code {
        "B-0603" => {
            failure.next("free some space (brant image ls, brant image rm), or choose another disk with -o")
        }
        "B-0605" => failure.next("add --force, or choose another path"),
        "B-0606" => Failure { exit: exit::NO_TARGET, ..failure }.next("brant image ls"),
        "B-0607" => failure.next("type more of the id: brant image ls"),
        _ => failure,
    }
}

fn runs_on(mut failure: Failure) -> Failure {
    failure.what.push_str(". The program runs on as before");
    failure
}

fn parse_codec(text: &str) -> Result<Codec, String> {
    match text.split_once(':') {
        None if text == "auto" => Ok(Codec::Auto),
        None if text == "none" => Ok(Codec::Raw),
        None if text == "lz4" => Ok(Codec::Lz4),
        None if text == "zstd" => Ok(Codec::Zstd(1)),
        Some(("zstd", level)) => match level.parse() {
            Ok(level) if level != 0 && (Codec::ZSTD_LEVEL_MIN..=Codec::ZSTD_LEVEL_MAX).contains(&level) => {
                Ok(Codec::Zstd(level))
            }
            _ => Err("zstd has levels from 1 to 22 and from -1 to -50".to_string()),
        },
        _ => Err("it is auto, none, lz4, zstd, or zstd:LEVEL".to_string()),
    }
}

/// How long an image of so much will be at least, about.
pub(super) fn expected_bytes(codec: Codec, memory_bytes: u64, carried_bytes: u64) -> u64 {
    match codec {
        Codec::Raw => memory_bytes + carried_bytes,
        // Memory that compresses well may need a tenth, programs and libraries a third.
        _ => memory_bytes / 10 + carried_bytes / 4,
    }
}

/// Memory of the trees that is in RAM; shared pages count for each process.
pub(super) fn resident_bytes(roots: &[Pid]) -> u64 {
    let resident = |pid: Pid| -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
        Some(pages * brant_base::PAGE_SIZE)
    };
    let pids = roots.iter().flat_map(|&root| std::iter::once(root).chain(descendants(root)));
    pids.filter_map(resident).sum()
}

/// The name of a process's program, for the image's name.
pub(super) fn program_name(pid: Pid) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "image".to_string() } else { name.to_string() }
}

/// A job that was ended is not a running job any more when this returns: its name is free.
pub(super) fn wait_for_keeper(target: &Target) {
    if let Some(job) = target.job() {
        job.meta.keeper.ends_before(Instant::now() + KEEPER_TIMEOUT);
    }
}

/// The folder of images as this user has it.
pub(super) fn open_store() -> Result<Store, Failure> {
    Store::default_folder().and_then(Store::open).map_err(|error| store_failed(&error))
}

/// An image file that was found, opened and checked.
pub(super) fn open_image(path: &Path) -> Result<brant_image::Image, Failure> {
    let unreadable = |error: &dyn std::error::Error, code| {
        Failure::of_error(code, format!("the image {} cannot be used", path.display()), error)
    };
    let file = std::fs::File::open(path).map_err(|error| unreadable(&error, "B-0611"))?;
    brant_image::Image::open(file).map_err(|error| {
        let code = error.code();
        debug_assert_ne!(exit_of(code), 0);
        unreadable(&error, code)
    })
}
