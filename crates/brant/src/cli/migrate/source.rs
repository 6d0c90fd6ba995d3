//! The source's part of a hand-over, on its own host.

use std::cell::RefCell;
use std::io::{self, Write};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use brant_base::{Pid, fault};
use brant_capture::{Captured, Options};
use brant_image::{Identity, section_memory_bytes};
use brant_kernel::facts::HostFacts;
use brant_migrate::wire::{Ready, Running};
use brant_migrate::{ImageStream, Phase, Source};
use brant_store::{Pending, Store, StoreError};

use super::progress::Progress;
use super::{Cause, memory_bytes};
use crate::cli::checkpoint::{expected_bytes, program_name, store_failed, wait_for_keeper};
use crate::cli::saving::tell_wrappers;
use crate::failure::{Failure, exit};
use crate::handover::{Handovers, NamelessRecord, Outgoing, Sent};
use crate::job::{Moved, Process, boot_id, unix_ms};
use crate::report::{Report, harmless};
use crate::target::Target;

/// The program that is moved.
pub(super) struct Mover<'a> {
    pub(super) report: &'a Report,
    pub(super) target: &'a Target,
    pub(super) roots: Vec<Pid>,
    pub(super) facts: &'a HostFacts,
    pub(super) options: Options,
    /// Of files that travel with it.
    pub(super) carried_bytes: u64,
    /// The destination, as it was typed.
    pub(super) host: String,
    pub(super) progress: Rc<RefCell<Progress>>,
    handovers: Handovers,
    store: Store,
    /// What is written down, once something is.
    record: Option<Outgoing>,
    /// The record that the program is gone here, without its name.
    given: Option<NamelessRecord>,
    frozen_at: Option<Instant>,
    /// For how long the program ran nowhere.
    pub(super) pause: Duration,
}

/// The image's two ways: into our own store and to the destination.
pub(super) struct Tee {
    pending: Option<Pending>,
    stream: ImageStream,
    progress: Rc<RefCell<Progress>>,
    /// What the own store met.
    fault: Rc<RefCell<Option<StoreError>>>,
}

impl<'a> Mover<'a> {
    pub(super) fn new(
        report: &'a Report,
        target: &'a Target,
        roots: Vec<Pid>,
        facts: &'a HostFacts,
        options: Options,
        host: String,
    ) -> Result<Mover<'a>, Failure> {
        let store =
            Store::default_folder().and_then(Store::open).map_err(|error| own_store_failed(&error))?;
        Ok(Mover {
            report,
            target,
            roots,
            facts,
            options,
            carried_bytes: 0,
            host,
            progress: Rc::new(RefCell::new(Progress::new(report))),
            handovers: Handovers::open()?,
            store,
            record: None,
            given: None,
            frozen_at: None,
            pause: Duration::ZERO,
        })
    }

    /// The image's path and id, once they are known.
    pub(super) fn image(&self) -> Option<(PathBuf, String)> {
        self.record.as_ref().map(|record| (record.path.clone(), record.image.clone()))
    }

    fn name(&self) -> String {
        match self.target {
            Target::Job(job) => job.name().to_string(),
            Target::Process(pid) => program_name(*pid),
        }
    }

    fn begin(&self) -> Result<Pending, StoreError> {
        let expected = expected_bytes(self.options.codec, memory_bytes(&self.roots), self.carried_bytes);
        let mut pending = self.store.begin(expected)?;
        pending.check_space(expected)?;
        Ok(pending)
    }

    fn capture_failed(&self, error: brant_capture::Error, fault: Option<StoreError>) -> Failure {
        if let Some(fault) = fault {
            return own_store_failed(&fault);
        }
        let mut failure = super::not_moved(self.target, error);
        failure.what = failure.what.replace(" It runs on as before.", "");
        failure
    }

    /// The job's folder, where it is a job.
    fn tell_job(&self, given: bool) {
        if let Some(job) = self.target.job() {
            let _ = Moved { host: self.host.clone(), given }.write(&job.folder);
        }
    }
}

impl Source for Mover<'_> {
    type Failure = Cause;
    type Captured = Captured<Tee>;

    fn enters(&mut self, phase: Phase) {
        let mut progress = self.progress.borrow_mut();
        let host = &self.host;
        match phase {
            Phase::Send => progress.phase("freezing"),
            Phase::Build => progress.phase(&format!("{host} verifies the image and builds the program")),
            Phase::Go => progress.phase(&format!("{host} lets it go")),
            Phase::Record | Phase::End | Phase::Given | Phase::Finish => {}
        }
        fault::reach(match phase {
            Phase::Send => "migrate.send",
            Phase::Build => "migrate.sent",
            Phase::Record => "migrate.heard-ready",
            Phase::End => "migrate.recorded",
            Phase::Given => "migrate.ended",
            Phase::Go => "migrate.given",
            Phase::Finish => "migrate.heard-running",
        });
    }

    fn capture(&mut self, stream: ImageStream) -> Result<(Self::Captured, u64), Cause> {
        let pending = self.begin().map_err(|error| own_store_failed(&error))?;
        let fault = Rc::new(RefCell::new(None));
        let tee = Tee {
            pending: Some(pending),
            stream,
            progress: Rc::clone(&self.progress),
            fault: Rc::clone(&fault),
        };
        let progress = Rc::clone(&self.progress);
        let (roots, carried_bytes) = (&self.roots, self.carried_bytes);
        let sink = || {
            progress.borrow_mut().begin(memory_bytes(roots) + carried_bytes);
            Ok(tee)
        };
        self.progress.borrow_mut().clear();
        tell_wrappers(self.report, &self.roots);
        let begun = Instant::now();
        let captured = brant_capture::checkpoint(roots, self.facts, &self.options, sink);
        let captured = captured.map_err(|error| self.capture_failed(error, fault.take()))?;
        self.frozen_at = Some(Instant::now().checked_sub(captured.pause).unwrap_or(begun));
        let bytes = captured.sink.stream.bytes();
        Ok((captured, bytes))
    }

    fn record(&mut self, captured: &mut Self::Captured, ready: &Ready) -> Result<(), Cause> {
        for warning in &ready.warnings {
            self.progress.borrow_mut().clear();
            self.report.note(&format!("{}: warning: {}", self.host, harmless(warning)));
        }
        let roots: Vec<Process> = self.roots.iter().filter_map(|pid| Process::now(*pid)).collect();
        self.handovers.forget_earlier(&roots);
        let identity = Identity { id: captured.summary.id, created_ns: 0 };
        let name = self.name();
        let file_name = Pending::own_name(&name, &identity);
        let record = Outgoing {
            schema_version: 1,
            image: captured.summary.id.to_string(),
            path: self.store.folder().join(&file_name),
            host: self.host.clone(),
            name,
            command: command_of(self.roots[0]),
            roots,
            boot_id: boot_id(),
            unix_ms: unix_ms(),
            state: Sent::Ending,
        };
        self.record = Some(record.clone());
        let write = || -> io::Result<NamelessRecord> {
            self.handovers.prepare_outgoing(&record)?.publish()?;
            // The program must not be gone before there is certainly room for this one.
            self.handovers.prepare_outgoing(&Outgoing { state: Sent::Given, ..record.clone() })
        };
        self.given = Some(write().map_err(|error| unwritten(&error))?);
        let pending = captured.sink.pending.take().expect("the capture gave its file back");
        pending.commit(&file_name).map_err(|error| own_store_failed(&error))?;
        self.tell_job(false);
        Ok(())
    }

    fn end(&mut self, captured: Self::Captured) -> Result<(), Cause> {
        let ended = captured.end().map(drop);
        ended.map_err(|error| {
            let what = format!("{} could not be ended", self.target);
            Cause::from(Failure::of_error(error.code(), what, &error))
        })
    }

    fn given(&mut self) -> Result<(), Cause> {
        if let Some(given) = self.given.take() {
            given.publish().map_err(|error| unwritten(&error))?;
        }
        self.tell_job(true);
        Ok(())
    }

    fn finish(&mut self, _running: &Running) -> Result<(), Cause> {
        self.pause = self.frozen_at.map_or(Duration::ZERO, |at| at.elapsed());
        fault::reach("migrate.finishing");
        let removed = self.remove_image();
        if let Some(record) = &self.record {
            self.handovers.forget(&record.image);
        }
        wait_for_keeper(self.target);
        removed
    }

    fn forget(&mut self) {
        let _ = self.remove_image();
        self.given = None;
        if let Some(record) = self.record.take() {
            self.handovers.forget(&record.image);
        }
        if let Some(job) = self.target.job() {
            Moved::remove(&job.folder);
        }
    }
}

impl Mover<'_> {
    fn remove_image(&self) -> Result<(), Cause> {
        let Some(record) = &self.record else { return Ok(()) };
        match std::fs::remove_file(&record.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let what = format!("{} could not be removed", record.path.display());
                Err(Failure::new("B-0604", exit::STORE, what).why(error).into())
            }
            _ => Ok(()),
        }
    }
}

/// What is to be typed where a disk of this host is full.
const FREE_HERE: &str = "free some space here (brant image ls, brant image rm), or set XDG_STATE_HOME to a folder on another disk";

/// The source keeps a copy of the image until the destination runs the program.
fn own_store_failed(error: &StoreError) -> Failure {
    let failure = store_failed(error);
    let next = if failure.code == "B-0603" { FREE_HERE.to_string() } else { failure.next };
    Failure { what: format!("on this host, {}", failure.what), next, ..failure }
}

fn unwritten(error: &io::Error) -> Cause {
    let (code, what) = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ("B-0603", "on this host, the disk is full: the record of the move could not be written")
        }
        _ => ("B-0604", "on this host, the record of the move could not be written"),
    };
    Failure::new(code, exit::STORE, what).why(error).next(FREE_HERE).into()
}

fn command_of(pid: Pid) -> Vec<String> {
    let words = brant_kernel::proc::cmdline(pid).unwrap_or_default();
    words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let pending = self.pending.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        let count = match pending.write(bytes) {
            Ok(count) => count,
            Err(error) => {
                let kind = error.kind();
                *self.fault.borrow_mut() = Some(pending.write_fault(error));
                return Err(kind.into());
            }
        };
        self.stream.write_all(&bytes[..count])?;
        let memory = section_memory_bytes(&bytes[..count]).unwrap_or(0);
        self.progress.borrow_mut().sent(self.stream.bytes(), memory);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(pending) = &mut self.pending {
            pending.flush()?;
        }
        self.stream.flush()
    }
}
