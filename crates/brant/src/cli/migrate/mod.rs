//! `brant migrate`.
//!
//! The source's side of a hand-over (`brant_migrate`): the connection, what is said to the user, and what is left to do
//! where it came to nothing. See `docs/protocol.md` for the phases and who holds what at each instant.

pub(super) mod attached;
mod progress;
mod source;
mod transport;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use brant_base::Pid;
use brant_capture::Options;
use brant_image::inspect::size;
use brant_image::{Codec, ImageError, Writer};
use brant_kernel::facts::HostFacts;
use brant_migrate::wire::{self, Asked, Hello, MapPath, Running};
use brant_migrate::{Error, GaveUp, ImageStream, Outcome, Standing, compare, greet, hand_over};
use serde_json::json;

use super::Done;
use super::check::{failed, host_facts};
use super::checkpoint::{Content, FREEZE_TIMEOUT, Interruption, expected_bytes};
use super::restore::{Files, parse_map};
use crate::failure::{Failure, exit, known_code};
use crate::handover::short;
use crate::job::descendants;
use crate::report::{Report, harmless, refusal_lines, span};
use crate::target::Target;
use progress::Progress;
use source::Mover;
use transport::{Connection, Transport, ask, is_static};

/// Move a running program to another host; it ends here only once that host holds it, built and stopped
///
/// The program's image streams through ssh while it is written. Whatever fails, the program runs in one place or can be
/// resumed in one: brant ps says so on both hosts. There it is a job; one with a terminal stays attached to yours unless
/// -d, and its exit code is passed on.
#[derive(Debug, clap::Args)]
pub(super) struct Migrate {
    /// A job's name or a pid: it and everything that descends from it
    target: String,
    /// Where to: a host as ssh knows it
    #[arg(value_name = "[USER@]HOST")]
    host: String,
    /// The command that makes the connection; it gets the host and a command for a shell there as two more arguments
    #[arg(short = 'e', long = "rsh", value_name = "COMMAND", default_value = "ssh")]
    command: String,
    /// The path of brant there; by default the one on the PATH, or a copy that was brought there
    #[arg(long, value_name = "BRANT")]
    remote_path: Option<String>,
    /// Where brant is missing there or of another kind, bring this one along without asking
    #[arg(long, conflicts_with = "remote_path")]
    copy_brant: bool,
    /// Leave a program with a terminal alone there instead of staying attached
    #[arg(short, long)]
    detach: bool,
    /// The job's name there; by default the one it has
    #[arg(short, long)]
    name: Option<String>,
    /// What to do there about files that differ: refuse, take them as they are, or cut off what has only grown
    #[arg(long, value_enum, default_value_t)]
    files: Files,
    /// Look there for paths that begin with A at B instead
    #[arg(long, value_name = "A=B", value_parser = parse_map)]
    map_path: Vec<(PathBuf, PathBuf)>,
    #[command(flatten)]
    content: Content,
    /// Compare the two hosts and name everything that stands in the way, on both; change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Why a step failed: on this host, or between the two.
#[derive(Debug)]
pub(super) enum Cause {
    Own(Box<Failure>),
    Link(Error),
}

impl From<Failure> for Cause {
    fn from(failure: Failure) -> Cause {
        Cause::Own(Box::new(failure))
    }
}

impl From<Error> for Cause {
    fn from(error: Error) -> Cause {
        Cause::Link(error)
    }
}

impl Migrate {
    pub(super) fn run(self, report: &Report) -> Done {
        brant_kernel::task::ignore_signal(libc::SIGXFSZ);
        let usage = |why: &str| {
            Failure::new("B-0909", exit::USAGE, "the destination cannot be used")
                .why(why)
                .next("brant migrate TARGET [USER@]HOST -e 'ssh -p 2222'")
        };
        if self.host.starts_with('-') || self.host.is_empty() {
            return Err(usage("a host's name does not begin with a dash"));
        }
        let transport = Transport::new(&self.command, &self.host, self.remote_path.clone())
            .map_err(|why| usage(&format!("-e: {why}")))?;
        let target = Target::find(&self.target)?;
        let roots = target.roots()?;
        let facts = host_facts()?;
        // What stands in the way here is said before anybody is called, unless the other host is to be asked as well.
        let refusals = brant_capture::check(&roots, &facts, &crate::beholder::Binary)
            .map_err(|error| not_moved(&target, error))?;
        if !self.dry_run {
            let refused = brant_capture::Error::Refused;
            refusals.clone().into_result(()).map_err(|refusals| not_moved(&target, refused(refusals)))?;
        }
        let interruption = Interruption::block().map_err(|error| {
            Failure::new("B-0700", exit::FAILED, format!("{target} could not be moved. It runs on as before"))
                .why(error)
        })?;
        let (connection, theirs) = self.reach(&transport, &interruption, &facts, report)?;
        report.detail(&format!(
            "{}: brant {}, {}@{}, {} {}",
            self.host, theirs.version, theirs.user, theirs.host, theirs.machine, theirs.kernel_release
        ));
        if self.dry_run {
            return self.compare(report, &target, &roots, &facts, connection, refusals.0);
        }
        self.hand_over(report, &target, roots, &facts, connection)
    }

    /// A connection to a brant that understands us; brings one along where the user wants it.
    fn reach(
        &self,
        transport: &Transport,
        interruption: &Interruption,
        facts: &HostFacts,
        report: &Report,
    ) -> Result<(Connection, Hello), Failure> {
        let mut has_copied = false;
        loop {
            let mut progress = Progress::new(report);
            progress.phase(&format!("connecting to {}", self.host));
            let connection = transport.connect().map_err(|error| {
                let what =
                    format!("{} cannot be started. The program runs on as before", transport.program());
                Failure::new("B-0901", exit::STORE, what)
                    .why(error)
                    .next("install it, or name another command with -e")
            })?;
            let waits =
                interruption.descriptor().map_err(|error| not_reached(transport, &Error::Io(error)))?;
            connection.link.interrupt_by(Some(waits.into()));
            // A password may be asked for on this terminal.
            progress.clear();
            let error = match greet(&connection.link, own_hello(facts)) {
                Ok(theirs) if theirs.image_format == brant_image::container::FORMAT_VERSION => {
                    return Ok((connection, theirs));
                }
                Ok(theirs) => {
                    let (theirs, ours) = (theirs.image_format, brant_image::container::FORMAT_VERSION);
                    Error::Protocol { theirs, ours }
                }
                Err(error) => error,
            };
            let status = connection.end();
            if !self.may_copy(transport, &error, status, has_copied)? {
                return Err(not_reached(transport, &error));
            }
            progress.phase(&format!("copying brant to {}", self.host));
            transport.copy_self().map_err(|error| {
                Failure::new("B-0908", exit::STORE, format!("brant could not be copied to {}", self.host))
                    .why(error)
                    .next("install brant there, and name it with --remote-path")
            })?;
            has_copied = true;
        }
    }

    /// Whether brant is missing there and the user wants it to be brought. An error where it is missing for good.
    fn may_copy(
        &self,
        transport: &Transport,
        error: &Error,
        status: Option<i32>,
        has_copied: bool,
    ) -> Result<bool, Failure> {
        let what = match (error, status) {
            (Error::NoAnswer, Some(127 | 126)) => match &self.remote_path {
                Some(path) => format!("there is no brant at {path} on {}", self.host),
                None => format!("there is no brant on {}", self.host),
            },
            (Error::NoAnswer, Some(2)) => format!("brant on {} is too old to receive programs", self.host),
            (Error::Protocol { .. }, _) => format!("brant on {} is of another kind", self.host),
            _ => return Ok(false),
        };
        let (code, exit) = match error {
            Error::Protocol { .. } => ("B-0902", exit::INCOMPATIBLE),
            _ => ("B-0908", exit::STORE),
        };
        let missing = |why: &str, next: String| {
            Err(Failure::new(code, exit, format!("{what}. The program runs on as before"))
                .why(format!("{error}\n{why}").trim_end())
                .next(next))
        };
        if transport.names_path() {
            let next = "name another path with --remote-path, or leave it away: then brant is looked for on the PATH there";
            return missing("", next.to_string());
        }
        let by_hand =
            "install brant there, and name it with --remote-path if it is not on the PATH".to_string();
        if has_copied {
            return missing("the copy that was brought there cannot be executed", by_hand);
        }
        if !is_static() {
            let why = "this brant could be brought there, but it needs libraries that may be missing there";
            return missing(why, format!("{by_hand}\nor use the static one: cargo xtask dist"));
        }
        if self.copy_brant {
            return Ok(true);
        }
        let question = format!("{what}. Copy this one to ~/.local/state/brant/bin there? [y/N] ");
        match ask(&question) {
            Some(true) => Ok(true),
            Some(false) => missing("it was not to be copied there", by_hand),
            None => missing(
                "it could be copied there, but there is no terminal to ask on",
                format!("add --copy-brant\nor {by_hand}"),
            ),
        }
    }

    fn asked(&self, target: &Target, expected_bytes: u64) -> Asked {
        use std::os::unix::ffi::OsStrExt;
        let bytes = |path: &PathBuf| path.as_os_str().as_bytes().to_vec();
        Asked {
            name: self.name.clone().or_else(|| target.job().map(|job| job.name().to_string())),
            files: match self.files {
                Files::Strict => "strict",
                Files::Keep => "keep",
                Files::Rewind => "rewind",
            }
            .to_string(),
            map_paths: self
                .map_path
                .iter()
                .map(|(from, to)| MapPath { from: bytes(from), to: bytes(to) })
                .collect(),
            dry_run: self.dry_run,
            attach: !self.detach,
            expected_bytes,
        }
    }

    fn options(&self, target: &Target) -> Options {
        Options {
            freeze_timeout: FREEZE_TIMEOUT,
            stop: true,
            copy: false,
            codec: self.content.compress,
            carry: self.content.carry(),
            job: target.job().map(|job| job.name().to_string()),
            never_restored: brant_restore::never_restored,
            beholder: &crate::beholder::Binary,
        }
    }

    /// The dry run: everything that stands in the way, on both hosts.
    fn compare(
        &self,
        report: &Report,
        target: &Target,
        roots: &[Pid],
        facts: &HostFacts,
        connection: Connection,
        mut here: Vec<brant_base::Refusal>,
    ) -> Done {
        let link = &connection.link;
        let mut there = Ok(Vec::new());
        if here.is_empty() {
            let send = |stream: ImageStream| self.send_head(target, roots, facts, stream);
            match compare::<Cause>(link, self.asked(target, 0), send) {
                Ok(planned) => there = Ok(planned.steps),
                Err(Cause::Own(failure)) if !failure.refusals.is_empty() => here = failure.refusals,
                Err(Cause::Link(Error::Peer(failure))) if !failure.refusals.is_empty() => {
                    there = Err(refusals_of(*failure));
                }
                Err(cause) => return Err(self.in_words(cause, "nothing was changed")),
            }
        }
        connection.end();
        self.tell_comparison(report, target, &here, &there)
    }

    fn send_head(
        &self,
        target: &Target,
        roots: &[Pid],
        facts: &HostFacts,
        mut stream: ImageStream,
    ) -> Result<u64, Cause> {
        let checkpoint = brant_capture::describe_only(roots, facts, &self.options(target))
            .map_err(|error| not_moved(target, error))?;
        let mut write = || -> Result<(), ImageError> {
            Writer::create(&mut stream, &checkpoint, Codec::Raw).map(drop)?;
            stream.flush().map_err(ImageError::Write)
        };
        write()
            .map_err(|error| Failure::of_error(error.code(), "the image's head could not be sent", &error))?;
        Ok(stream.bytes())
    }

    fn tell_comparison(
        &self,
        report: &Report,
        target: &Target,
        here: &[brant_base::Refusal],
        there: &Result<Vec<String>, Vec<brant_base::Refusal>>,
    ) -> Done {
        let code = match (here, there) {
            ([], Ok(_)) => 0,
            ([], Err(_)) => exit::INCOMPATIBLE,
            _ => exit::UNSUPPORTED,
        };
        if report.json {
            let list = |refusals: &[brant_base::Refusal]| {
                refusals.iter().map(crate::failure::refusal_json).collect::<Vec<_>>()
            };
            report.json(json!({
                "target": target.to_string(), "host": self.host, "possible": code == 0, "refusals_here": list(here),
                "refusals_there": there.as_ref().err().map(|refusals| list(refusals)),
                "steps": there.as_ref().ok(),
            }));
            return Ok(code);
        }
        let style = report.out_style();
        match there {
            Ok(steps) if code == 0 => {
                report.data(&format!("{target} can be moved to {}:", self.host));
                steps.iter().for_each(|step| report.data(&format!("  {}", harmless(step))));
            }
            _ => report.data(&format!("{target} cannot be moved to {}:", self.host)),
        }
        here.iter().for_each(|refusal| report.data(&refusal_lines(refusal, style)));
        if !here.is_empty() {
            report.note(&format!("{} can be asked once that is remedied", self.host));
        }
        for refusal in there.as_ref().err().into_iter().flatten() {
            report.data(&format!("{}:\n{}", self.host, refusal_lines(refusal, style)));
        }
        Ok(code)
    }

    fn hand_over(
        &self,
        report: &Report,
        target: &Target,
        roots: Vec<Pid>,
        facts: &HostFacts,
        connection: Connection,
    ) -> Done {
        let begun = Instant::now();
        let old_pid = roots[0];
        let options = self.options(target);
        let carried_bytes = brant_capture::carried_bytes(&roots, facts, &options.carry)
            .map_err(|error| not_moved(target, error))?;
        let expected_bytes = expected_bytes(options.codec, memory_bytes(&roots), carried_bytes);
        let asked = self.asked(target, expected_bytes);
        let mut mover = Mover::new(report, target, roots, facts, options, self.host.clone())?;
        mover.carried_bytes = carried_bytes;
        let result = hand_over(&connection.link, asked, &mut mover);
        mover.progress.borrow_mut().clear();
        let Outcome { running, bytes, untidy } =
            result.map_err(|gave_up| self.explain(gave_up, target, &mover))?;
        if let Some(cause) = untidy {
            report.note(&format!("warning: {}", self.in_words(cause, "the program runs there").what));
        }
        let seconds = begun.elapsed().as_secs_f64();
        if report.json {
            report.json(json!({
                "target": target.to_string(), "host": self.host, "pid": old_pid.0, "name": running.name,
                "remote_pid": running.pid, "remote_inside_pid": running.inside_pid,
                "remote_keeper_pid": running.keeper_pid, "bytes": bytes,
                "pause_ms": mover.pause.as_millis() as u64, "seconds": seconds,
            }));
        } else {
            report.note(&format!(
                "moved {target} to {}: job {}, process {} there; {} in {seconds:.1} s, it ran nowhere for {}",
                self.host,
                harmless(&running.name),
                running.pid,
                size(bytes),
                span(mover.pause)
            ));
        }
        drop(mover);
        self.leave(report, connection, &running)
    }

    /// The terminal, where there is one and it is wanted.
    fn leave(&self, report: &Report, connection: Connection, running: &Running) -> Done {
        if running.attached {
            return attached::stay(report, connection, running, &self.host);
        }
        connection.end();
        Ok(0)
    }

    /// What a hand-over that came to nothing means for its user.
    fn explain(&self, gave_up: GaveUp<Cause>, target: &Target, mover: &Mover<'_>) -> Failure {
        let host = &self.host;
        let GaveUp { standing, cause, .. } = gave_up;
        let mut failure = self.in_words(cause, "");
        let (path, image) = mover.image().unwrap_or_default();
        let (path, image) = (path.display(), short(&image).to_string());
        match standing {
            Standing::RunsHere { is_held_there } => {
                failure.what =
                    format!("{}. {target} runs on here as before", failure.what.trim_end_matches(". "));
                if is_held_there {
                    // A failure of this host has its own remedy.
                    let first =
                        if failure.exit == exit::GAVE_UP { "try again" } else { failure.next.as_str() };
                    failure.next = format!(
                        "{first}\n{host} may hold an image of it, which is of no use: there, brant ps shows it and brant image rm removes it"
                    );
                }
            }
            Standing::Ended => {
                failure.exit = exit::GAVE_UP;
                failure.code = "B-0913";
                failure.what =
                    format!("{target} was ended here, and {host} was not told to run it: {}", failure.what);
                failure.next = format!(
                    "resume it in one place only\nhere:     brant restore {path}\nor there: brant restore {image} --take-over"
                );
            }
            Standing::Given => {
                failure.exit = exit::GAVE_UP;
                failure.code = "B-0914";
                failure.what = format!(
                    "{target} was handed to {host}, and whether it runs there is not known: {}",
                    failure.what
                );
                failure.next = format!(
                    "look there with: brant ps\nif it does not run there: brant restore {image} --take-over (there)\nthis host's copy stays in {path}"
                );
            }
        }
        failure
    }

    /// A cause as a failure of its own. What the other host says is shown as its own words.
    fn in_words(&self, cause: Cause, state: &str) -> Failure {
        let mut failure = match cause {
            Cause::Own(failure) => *failure,
            Cause::Link(Error::Peer(peer)) => self.words_of(*peer),
            Cause::Link(error) => {
                let what = match error {
                    Error::Interrupted => "the move was interrupted".to_string(),
                    _ => format!("the connection to {} failed", self.host),
                };
                Failure { exit: exit::GAVE_UP, ..Failure::of_error(error.code(), what, &error) }
            }
        };
        if !state.is_empty() {
            failure.what = format!("{}; {state}", failure.what);
        }
        failure
    }

    fn words_of(&self, peer: wire::Failure) -> Failure {
        let known = |code: &str| crate::explain::find(code).map_or("B-0907", |entry| entry.code);
        let refusals: Vec<_> = peer.refusals.into_iter().map(|refused| refused.into_refusal(known)).collect();
        let incompatible = u32::from(exit::INCOMPATIBLE) == peer.exit;
        Failure {
            code: known(&peer.code),
            exit: if incompatible { exit::INCOMPATIBLE } else { exit::GAVE_UP },
            what: format!("{}: {}", self.host, peer.what),
            why: peer.why,
            next: peer.next,
            refusals,
        }
    }
}

/// What stands in the way here.
fn not_moved(target: &Target, error: brant_capture::Error) -> Failure {
    let failure = failed(target, error);
    let what = failure.what.replace("cannot be checkpointed", "cannot be moved");
    Failure { what: what.replace("could not be checkpointed", "could not be moved"), ..failure }
}

fn refusals_of(peer: wire::Failure) -> Vec<brant_base::Refusal> {
    peer.refusals.into_iter().map(|refused| refused.into_refusal(known_code)).collect()
}

fn not_reached(transport: &Transport, error: &Error) -> Failure {
    let what = format!("{} was not reached. The program runs on as before", transport.host());
    let failure = Failure { exit: exit::STORE, ..Failure::of_error(error.code(), what, error) };
    match error {
        Error::NoAnswer | Error::Chatter { .. } => failure.next(format!(
            "try by hand: {} brant --version\n-e names another command, --remote-path brant's place there",
            transport.shown()
        )),
        _ => failure,
    }
}

/// Who we are.
pub(super) fn own_hello(facts: &HostFacts) -> Hello {
    let uid = nix::unistd::geteuid();
    let user = nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name);
    Hello {
        version: env!("CARGO_PKG_VERSION").to_string(),
        image_format: brant_image::container::FORMAT_VERSION,
        host: facts.host_name.clone(),
        user: user.unwrap_or_else(|| uid.to_string()),
        uid: uid.as_raw(),
        machine: facts.machine.clone(),
        kernel_release: facts.kernel_release.clone(),
    }
}

/// Memory of the trees that no file holds: about what an image has to carry.
fn memory_bytes(roots: &[Pid]) -> u64 {
    let of = |pid: Pid| -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let kib = |key: &str| -> u64 {
            let line = text.lines().find(|line| line.starts_with(key));
            line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
        };
        Some((kib("RssAnon:") + kib("RssShmem:") + kib("VmSwap:")) << 10)
    };
    let pids = roots.iter().flat_map(|&root| std::iter::once(root).chain(descendants(root)));
    pids.filter_map(of).sum()
}
