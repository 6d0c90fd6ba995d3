//! What a restore of an image would do on this host, or every reason why it cannot.
//!
//! A plan looks and changes nothing; all reasons are found at once. What it promises can be gone a moment later
//! (a file can be changed, a port be taken): the builder meets that with an error of its own, before anything runs.

mod addresses;
mod any_pid;
mod copies;
mod files;
mod host;

pub(crate) use addresses::socket_address;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use brant_base::{Pid, Refusal, Refusals};
use brant_identity::AddressPair;
use brant_image::Image;
use brant_image::inspect::readable;
use brant_image::model::{Checkpoint, DiskFile, DiskFileId, Windows};
use brant_kernel::facts::{Ability, HostFacts};

use crate::{Error, Options};

/// What to do about files that are not as they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FilesPolicy {
    /// Refuse, naming each.
    #[default]
    Strict,
    /// Take them as they are.
    Keep,
    /// Cut files that have only grown to their recorded size.
    Rewind,
}

/// In what surroundings a tree is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Way {
    /// Namespaces of its own (user, pid, mount, time), in which it has the numbers that it had.
    #[default]
    Namespaces,
    /// Among the user's other processes, with whatever numbers the kernel gives.
    AnyPid,
}

/// A plan without refusals. It prints as what `--dry-run` shows.
#[derive(Debug, Default)]
pub struct Plan {
    pub(crate) map_paths: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) map_addresses: Vec<AddressPair>,
    rewinds: Vec<Rewind>,
    /// Carried files that are mapped from copies, and how those are called below [`Plan::copies_folder`].
    pub(crate) copies: BTreeMap<DiskFileId, PathBuf>,
    /// Where copies of carried files lie.
    pub(crate) copies_folder: PathBuf,
    /// Carried files that are made anew, and where.
    pub(crate) creations: BTreeMap<DiskFileId, PathBuf>,
    pub(crate) way: Way,
    /// Without namespaces: this host's name, and the processes in which nothing translates numbers.
    pub(crate) host_name: String,
    pub(crate) unmediated: BTreeSet<Pid>,
    /// Hands the table of numbers on to programs that are executed.
    pub(crate) brant: Option<PathBuf>,
    /// The tree may be given to any user.
    pub(crate) is_privileged: bool,
    /// What is otherwise for the program than with namespaces, for people.
    pub(crate) differences: Vec<String>,
    /// The program runs on meanwhile, and may write to its files.
    runs_on: bool,
    /// What the restore does, for people.
    steps: Vec<String>,
}

/// A file that is cut to its recorded size, once its tail was saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewind {
    pub path: PathBuf,
    /// In bytes.
    pub size: u64,
    /// Where what lies beyond is saved.
    pub tail: PathBuf,
}

impl Plan {
    /// Where a path of the image is on this host.
    pub(crate) fn path(&self, path: &[u8]) -> Vec<u8> {
        for (from, to) in &self.map_paths {
            if let Some(rest) = path.strip_prefix(&from[..])
                && (rest.is_empty() || rest.starts_with(b"/") || from.ends_with(b"/"))
            {
                return [to, rest].concat();
            }
        }
        path.to_vec()
    }

    /// The `struct sockaddr` that stands for one of the image on this host.
    pub(crate) fn address(&self, socket: &[u8]) -> Vec<u8> {
        let mut led = socket.to_vec();
        let _ = self.map_addresses.iter().any(|pair| pair.lead(&mut led));
        led
    }

    /// Where a file of the image is on this host.
    pub(crate) fn file_path(&self, file: &DiskFile) -> PathBuf {
        match self.copies.get(&file.id) {
            Some(copy) => self.copies_folder.join(copy),
            None => PathBuf::from(OsString::from_vec(self.path(&file.path))),
        }
    }

    /// In what surroundings the tree will be built.
    pub fn way(&self) -> Way {
        self.way
    }

    /// The files that will be cut.
    pub fn rewinds(&self) -> &[Rewind] {
        &self.rewinds
    }

    /// Saves tails and cuts files: the last thing before the tree is let go.
    pub(crate) fn rewind_files(&self) -> Result<(), Error> {
        self.rewinds.iter().try_for_each(files::rewind)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.steps.iter().chain(&self.differences).enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{step}")?;
        }
        Ok(())
    }
}

/// Looks at the image and the host and changes nothing.
pub fn plan(image: &Image, facts: &HostFacts, options: &Options) -> Result<Plan, Refusals> {
    let way = if options.any_pid { Way::AnyPid } else { Way::Namespaces };
    let plan = Plan {
        map_paths: options.map_paths.clone(),
        map_addresses: options.map_addresses.clone(),
        brant: options.brant.clone(),
        way,
        ..Plan::default()
    };
    let mut plan = finished(plan, image.checkpoint(), facts, options.files)?;
    plan.copies_folder = options.copies_folder.clone();
    let mut refusals = Refusals::default();
    if !plan.copies.is_empty() {
        copies::check_folder(&plan.copies_folder, &mut refusals);
    }
    refusals.into_result(plan)
}

/// As [`plan`], of what the image holds.
pub fn plan_of(
    checkpoint: &Checkpoint,
    facts: &HostFacts,
    policy: FilesPolicy,
    map_paths: &[(Vec<u8>, Vec<u8>)],
) -> Result<Plan, Refusals> {
    let plan = Plan { map_paths: map_paths.to_vec(), ..Plan::default() };
    finished(plan, checkpoint, facts, policy)
}

/// As [`plan_of`], of a program that runs on, here or elsewhere: files that it writes are not as they were.
pub fn plan_of_running(
    checkpoint: &Checkpoint,
    facts: &HostFacts,
    policy: FilesPolicy,
    map_paths: &[(Vec<u8>, Vec<u8>)],
) -> Result<Plan, Refusals> {
    let plan = Plan { map_paths: map_paths.to_vec(), runs_on: true, ..Plan::default() };
    finished(plan, checkpoint, facts, policy)
}

/// Adds every step and every refusal. Nothing of this host is changed.
fn finished(
    mut plan: Plan,
    checkpoint: &Checkpoint,
    facts: &HostFacts,
    policy: FilesPolicy,
) -> Result<Plan, Refusals> {
    let mut refusals = Refusals::default();
    if let Some(windows) = &checkpoint.windows {
        refusals.push(of_windows(windows));
        return refusals.into_result(plan);
    }
    plan.steps.push(outline(checkpoint));
    let is_asked = plan.way == Way::AnyPid;
    if lacks_namespaces(facts) {
        plan.way = Way::AnyPid;
    }
    plan.is_privileged = facts.is_privileged();
    plan.host_name = facts.host_name.clone();
    host::check(checkpoint, facts, plan.way, &mut refusals);
    if plan.way == Way::AnyPid {
        any_pid::check(checkpoint, facts, is_asked, &mut plan, &mut refusals);
    }
    files::check(checkpoint, policy, &mut plan, &mut refusals);
    addresses::check(checkpoint, facts, &plan, &mut refusals);
    addresses::tell_changes(&mut plan);
    refusals.into_result(plan)
}

/// Whether this user may make no namespaces at all.
pub fn lacks_namespaces(facts: &HostFacts) -> bool {
    let isolation = &facts.isolation;
    let needed =
        [isolation.user_namespace, isolation.id_map, isolation.mount_namespace, isolation.pid_namespace];
    !facts.is_privileged() && !needed.into_iter().all(Ability::is_yes)
}

/// Nothing of it can be looked at here.
fn of_windows(windows: &Windows) -> Refusal {
    refusal(
        "B-0424",
        format!("the Windows program {}", text(windows.program.as_bytes())),
        "this brant brings back Linux programs",
        "use brant.exe restore, on Windows or under Wine",
    )
}

fn outline(checkpoint: &Checkpoint) -> String {
    let words: Vec<String> = checkpoint.command.iter().map(|word| readable(word)).collect();
    let threads: usize =
        checkpoint.processes.iter().flat_map(|p| &p.body).map(|body| body.threads.len()).sum();
    let count =
        |count: usize, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
    format!(
        "build {} with {} of \"{}\", root process {}",
        count(checkpoint.processes.len(), "process", "processes"),
        count(threads, "thread", "threads"),
        words.join(" "),
        checkpoint.root
    )
}

fn refusal(code: &'static str, resource: String, why: impl Into<String>, hint: impl Into<String>) -> Refusal {
    Refusal { code, pid: None, resource, why: why.into(), hint: hint.into() }
}

fn text(path: &[u8]) -> String {
    brant_image::inspect::readable(path)
}
