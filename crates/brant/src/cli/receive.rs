//! `brant receive`: the destination's side of a hand-over, started by `brant migrate` on the other host through ssh.
//!
//! Standard input and output are the connection; nothing else may be written there.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use brant_base::fault;
use brant_image::Head;
use brant_image::inspect::readable;
use brant_kernel::facts::HostFacts;
use brant_kernel::task;
use brant_migrate::wire::{self, Asked, Planned, Ready, Refused, Running};
use brant_migrate::{Destination, Error, Limits, Link, Taken, take_over};
use brant_restore::{FilesPolicy, Options};
use brant_store::{Pending, Store};

use super::Done;
use super::build::{Building, Manner, Prepared, not_built, stdio};
use super::check::known;
use super::checkpoint::{open_image, open_store};
use super::migrate::{attached, own_hello};
use crate::failure::{Failure, exit, exit_of};
use crate::handover::{Got, Handovers, Incoming, NamelessRecord};
use crate::job::{Reservation, Runtime, unix_ms};
use crate::report::Report;

/// Take a program over that brant migrate sends
#[derive(Debug, clap::Args)]
pub(super) struct Receive {}

impl Receive {
    pub(super) fn run(self, report: &Report) -> Done {
        task::ignore_signal(libc::SIGXFSZ);
        let link = standard_link().map_err(|error| {
            Failure::new("B-0903", exit::STORE, "standard input and output cannot be used as a connection")
                .why(error)
                .next("this verb is for brant migrate, not for people")
        })?;
        let facts = known(HostFacts::probe())?;
        let hello = own_hello(&facts);
        let mut receiver = Receiver {
            report,
            facts,
            handovers: Handovers::open()?,
            asked: Asked::default(),
            from: String::new(),
            store: None,
            pending: None,
            head: None,
            steps: Vec::new(),
            reservation: None,
            held: None,
            ours: None,
            client: None,
        };
        let from = |theirs: &wire::Hello| format!("{}@{}", theirs.user, theirs.host);
        match take_over(&link, hello, &mut receiver, from) {
            Ok(Taken::Running(_)) => {
                if let Some(client) = receiver.client.take() {
                    attached::carry(&link.without_silence_limit(), client);
                }
                Ok(0)
            }
            Ok(Taken::Planned) => Ok(0),
            // The source has been told, and tells its user.
            Err(Trouble(failure)) => {
                report.detail(&failure.what);
                Ok(failure.exit)
            }
        }
    }
}

/// Our descriptors 0 and 1 as a link; both numbers become /dev/null, so that nothing else speaks there.
fn standard_link() -> std::io::Result<Link> {
    let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned();
    let (input, output): (OwnedFd, OwnedFd) =
        (own(std::io::stdin().as_fd())?, own(std::io::stdout().as_fd())?);
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    Link::new(input, output, Limits::default())
}

/// Why a step failed here.
struct Trouble(Box<Failure>);

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        Trouble(Box::new(failure))
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        let failure = match &error {
            Error::Peer(peer) => {
                Failure::new(crate::failure::known_code(&peer.code), peer.exit as u8, peer.what.clone())
            }
            error => Failure::of_error(error.code(), "the hand-over was broken off", error),
        };
        failure.into()
    }
}

impl From<Trouble> for wire::Failure {
    fn from(Trouble(failure): Trouble) -> wire::Failure {
        wire::Failure {
            code: failure.code.to_string(),
            exit: u32::from(failure.exit),
            what: failure.what,
            why: failure.why,
            next: failure.next,
            refusals: failure.refusals.iter().map(Refused::from).collect(),
        }
    }
}

/// What comes, and what has been made of it.
struct Receiver<'a> {
    report: &'a Report,
    facts: HostFacts,
    handovers: Handovers,
    asked: Asked,
    /// `USER@HOST`.
    from: String,
    store: Option<Store>,
    pending: Option<Pending>,
    head: Option<Head>,
    /// What a restore would do.
    steps: Vec<String>,
    reservation: Option<Reservation>,
    /// The record of the image that is held.
    held: Option<Incoming>,
    /// The record that the program is ours, without its name.
    ours: Option<NamelessRecord>,
    /// The program's terminal, as a client of its keeper has it.
    client: Option<UnixStream>,
}

impl Receiver<'_> {
    fn policy(&self) -> FilesPolicy {
        match self.asked.files.as_str() {
            "keep" => FilesPolicy::Keep,
            "rewind" => FilesPolicy::Rewind,
            _ => FilesPolicy::Strict,
        }
    }

    fn map_paths(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.asked.map_paths.iter().map(|map| (map.from.clone(), map.to.clone())).collect()
    }

    /// The head is there: refuses what cannot run here, and takes the job's name.
    fn look(&mut self, head: Head) -> Result<(), Failure> {
        let checkpoint = &head.checkpoint;
        let plan = if self.asked.dry_run { brant_restore::plan_of_running } else { brant_restore::plan_of };
        let plan = plan(checkpoint, &self.facts, self.policy(), &self.map_paths());
        let plan =
            plan.map_err(|refusals| Failure::does_not_fit("the program cannot run there", refusals))?;
        self.steps = plan.to_string().lines().map(String::from).collect();
        if !self.asked.dry_run {
            let command: Vec<String> = checkpoint.command.iter().map(|word| readable(word)).collect();
            let name = self.asked.name.as_deref().or(checkpoint.job.as_deref());
            let reservation = Runtime::open().and_then(|runtime| runtime.reserve(name, &command));
            self.reservation = Some(reservation.map_err(|failure| match failure.code {
                "B-0103" => failure.next("give it another name there: -n NAME"),
                _ => failure,
            })?);
        }
        self.head = Some(head);
        fault::reach("receive.planned");
        Ok(())
    }

    fn prepare(&self, path: &std::path::Path) -> Result<Prepared, Failure> {
        let image = open_image(path)?;
        let relays_terminal = image.checkpoint().terminals.iter().any(|terminal| !terminal.inside);
        let (stdio, output) = stdio(true).map_err(|error| not_built("making pipes", &error))?;
        let options = Options {
            detached: true,
            files: self.policy(),
            map_paths: self.map_paths(),
            map_addresses: Vec::new(),
            copies_folder: Store::default_copies_folder().map_err(|error| store_failed(&error))?,
            stdio,
            any_pid: false,
            brant: brant_connect::follow::own_program(),
            redirect_vdso: false,
        };
        let plan = brant_restore::plan(&image, &self.facts, &options)
            .map_err(|refusals| Failure::refused("the program cannot run there", refusals))?;
        Ok(Prepared { image, path: path.to_path_buf(), plan, options, relays_terminal, output })
    }

    fn remove(&mut self) {
        if let Some(held) = self.held.take() {
            let _ = std::fs::remove_file(&held.path);
            self.handovers.forget(&held.image);
        }
    }
}

/// A tree on its way, and whether it has a terminal that is wanted.
struct Standing {
    building: Building,
    attaches: bool,
}

impl Destination for Receiver<'_> {
    type Failure = Trouble;
    type Building = Standing;

    fn begin(&mut self, asked: Asked, from: String) -> Result<(), Trouble> {
        let store = open_store()?;
        let bytes = asked.expected_bytes;
        let begin = || {
            let mut pending = store.begin(bytes)?;
            if !asked.dry_run {
                pending.check_space(bytes)?;
            }
            Ok(pending)
        };
        self.pending = Some(begin().map_err(|error| store_failed(&error))?);
        (self.store, self.asked, self.from) = (Some(store), asked, from);
        fault::reach("receive.asked");
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        let Some(pending) = &mut self.pending else { return Err(Error::Lost.into()) };
        pending.write_all(bytes).map_err(|error| store_failed(&pending.write_fault(error)))?;
        if self.head.is_none()
            && let Some(head) = pending.head().map_err(|error| damaged(&error))?
        {
            self.look(head)?;
        }
        Ok(())
    }

    fn plan(&mut self) -> Result<Planned, Trouble> {
        if self.head.is_none() {
            return Err(Error::Unexpected { got: "END", wanted: "an image's head" }.into());
        }
        Ok(Planned { steps: std::mem::take(&mut self.steps) })
    }

    fn hold(&mut self) -> Result<(), Trouble> {
        let (Some(pending), Some(head), Some(store)) = (self.pending.take(), &self.head, &self.store) else {
            return Err(Error::Unexpected { got: "END", wanted: "an image's head" }.into());
        };
        let (file_name, summary) = pending.verified().map_err(|error| damaged(&error))?;
        let name = self.reservation.as_mut().map(|reservation| reservation.meta_mut().name.clone());
        let held = Incoming {
            schema_version: 1,
            image: summary.id.to_string(),
            path: store.folder().join(&file_name),
            from: self.from.clone(),
            name: name.unwrap_or_default(),
            command: head.checkpoint.command.iter().map(|word| readable(word)).collect(),
            unix_ms: unix_ms(),
            state: Got::Held,
        };
        // The mark comes before the name: nobody ever finds the image without it.
        let write = || -> io::Result<NamelessRecord> {
            self.handovers.prepare_incoming(&held)?.publish()?;
            // Once GO has come there must be room for this one.
            self.handovers.prepare_incoming(&Incoming { state: Got::Ours, ..held.clone() })
        };
        self.ours = Some(write().map_err(|error| {
            self.handovers.forget(&held.image);
            unmarked(&error)
        })?);
        fault::reach("receive.noted");
        if let Err(error) = pending.commit(&file_name) {
            if error.code() != "B-0605" {
                self.handovers.forget(&held.image);
            }
            return Err(store_failed(&error).into());
        }
        self.held = Some(held);
        fault::reach("receive.held");
        Ok(())
    }

    fn build(&mut self) -> Result<Standing, Trouble> {
        let path: PathBuf = self.held.as_ref().map(|held| held.path.clone()).unwrap_or_default();
        let prepared = self.prepare(&path)?;
        let Some(reservation) = self.reservation.take() else { return Err(Error::Lost.into()) };
        let attaches = self.asked.attach && prepared.relays_terminal;
        let manner = Manner { attached: attaches, gated: true };
        let building = Building::begin(reservation, prepared, manner)?;
        fault::reach("receive.building");
        Ok(Standing { building, attaches })
    }

    fn news(standing: &Standing) -> BorrowedFd<'_> {
        standing.building.news()
    }

    fn ready(&mut self, standing: &mut Standing) -> Result<Ready, Trouble> {
        let warnings = standing.building.ready()?;
        fault::reach("receive.stands");
        let image = self.held.as_ref().map(|held| held.image.clone()).unwrap_or_default();
        Ok(Ready { image, warnings })
    }

    fn is_ready(&mut self) {
        fault::reach("receive.said-ready");
    }

    fn run(&mut self, mut standing: Standing) -> Result<Running, Trouble> {
        fault::reach("receive.heard-go");
        if let Some(ours) = self.ours.take() {
            ours.publish().map_err(|error| unmarked(&error))?;
        }
        fault::reach("receive.ours");
        standing.building.go().map_err(|error| not_built("letting it go", &error))?;
        let (meta, client) = standing.building.finish(&self.report.quietly())?;
        fault::reach("receive.runs");
        if standing.attaches {
            self.client = Some(client);
        }
        Ok(Running {
            name: meta.name,
            pid: meta.root.map_or(0, |root| root.pid),
            inside_pid: meta.inside_pid.unwrap_or(0),
            keeper_pid: meta.keeper.pid,
            attached: standing.attaches,
        })
    }

    fn finish(&mut self) {
        fault::reach("receive.said-running");
        self.remove();
    }

    fn discard(&mut self) {
        self.remove();
    }
}

fn damaged(error: &brant_store::StoreError) -> Failure {
    let failure = store_failed(error);
    match exit_of(failure.code) {
        exit::CORRUPT => Failure { what: "what came is not a whole image".to_string(), ..failure },
        _ => failure,
    }
}

/// What the source's user is to type on this host where its disk is full.
const FREE_THERE: &str = "free some space there (brant image ls, brant image rm), or set XDG_STATE_HOME there to a folder on another disk";

/// As the source's user reads it.
fn store_failed(error: &brant_store::StoreError) -> Failure {
    let failure = crate::cli::checkpoint::store_failed(error);
    let next = if failure.code == "B-0603" { FREE_THERE.to_string() } else { failure.next };
    Failure { next, ..failure }
}

fn unmarked(error: &io::Error) -> Failure {
    let (code, what) = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ("B-0603", "the disk is full: the record of the move could not be written")
        }
        _ => ("B-0604", "the record of the move could not be written"),
    };
    Failure::new(code, exit::STORE, what).why(error).next(FREE_THERE)
}
