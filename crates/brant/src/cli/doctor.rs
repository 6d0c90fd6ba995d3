//! `brant doctor`.
//!
//! Nothing is guessed from versions: what can be tried is tried, in child processes that are thrown away.

use brant_base::{Addr, Pid, Tid};
use brant_image::inspect::size;
use brant_kernel::facts::{Ability, HostFacts};
use brant_kernel::ptrace;
use brant_kernel::remote::Memory;
use brant_kernel::task::{self, Fork};
use brant_store::Store;
use serde_json::{Value, json};

use super::Done;
use super::check::known;
use crate::failure::exit;
use crate::report::{Report, Style};

/// Say what this host can do, and what is missing
#[derive(Debug, clap::Args)]
pub(super) struct Doctor {}

/// One thing that was looked at.
struct Finding {
    /// For machines.
    key: &'static str,
    name: &'static str,
    verdict: Verdict,
    detail: String,
    /// What does not work without it.
    needed_for: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Works,
    /// It is missing, and something works less well.
    Limited,
    /// It is missing, and what it is needed for cannot work.
    Missing,
    /// A fact, neither good nor bad.
    Fact,
}

impl Doctor {
    pub(super) fn run(self, report: &Report) -> Done {
        let facts = known(HostFacts::probe())?;
        let mut findings = host(&facts);
        findings.extend(tracing(&facts));
        findings.extend(isolation(&facts));
        findings.extend(disk());
        let broken = |what: &str| {
            findings.iter().any(|finding| finding.verdict == Verdict::Missing && finding.needed_for == what)
        };
        let (checkpoint, restore) = (!broken(CHECKPOINT), !broken(RESTORE));
        if report.json {
            report.json(json!({
                "checkpoint": checkpoint, "restore": restore,
                "findings": findings.iter().map(Finding::as_json).collect::<Vec<Value>>(),
            }));
        } else {
            let style = report.out_style();
            findings.iter().for_each(|finding| report.data(&finding.line(style)));
            let verdict = |works: bool| if works { style.bold("yes") } else { style.bad("no") };
            report.data(&format!("\ncheckpoint {}   restore {}", verdict(checkpoint), verdict(restore)));
        }
        Ok(if checkpoint && restore { 0 } else { exit::INCOMPATIBLE })
    }
}

const CHECKPOINT: &str = "checkpoint";
const RESTORE: &str = "restore";

impl Finding {
    fn line(&self, style: Style) -> String {
        let mark = match self.verdict {
            Verdict::Works => style.bold("yes"),
            Verdict::Limited => "no ".to_string(),
            Verdict::Missing => style.bad("NO "),
            Verdict::Fact => "   ".to_string(),
        };
        let needed = match self.verdict {
            Verdict::Missing => format!("; no {} without it", self.needed_for),
            _ => String::new(),
        };
        format!("{mark}  {:<29} {}{needed}", self.name, self.detail).trim_end().to_string()
    }

    fn as_json(&self) -> Value {
        let verdict = match self.verdict {
            Verdict::Works => json!(true),
            Verdict::Limited | Verdict::Missing => json!(false),
            Verdict::Fact => Value::Null,
        };
        json!({
            "key": self.key, "name": self.name, "works": verdict, "detail": self.detail,
            "needed_for": self.needed_for, "required": self.verdict == Verdict::Missing,
        })
    }
}

fn host(facts: &HostFacts) -> Vec<Finding> {
    let fact =
        |key, name, detail: String| Finding { key, name, verdict: Verdict::Fact, detail, needed_for: "" };
    let who = if facts.is_privileged() { ", privileged" } else { "" };
    let machine = Finding {
        key: "machine",
        name: "machine",
        verdict: if facts.machine == "x86_64" { Verdict::Works } else { Verdict::Missing },
        detail: facts.machine.clone(),
        needed_for: CHECKPOINT,
    };
    vec![
        fact("kernel", "kernel", format!("Linux {}", facts.kernel_release)),
        fact("user", "user", format!("uid {}, gid {}{who}", facts.uid, facts.gid)),
        machine,
        fact("cpus", "CPUs", format!("{}, state components {:#x}", facts.cpus, facts.xstate_features)),
        fact("pid_max", "pid_max", format!("{}: an image with higher pids cannot come here", facts.pid_max)),
    ]
}

/// What a checkpoint does to a process, tried on a child.
fn tracing(facts: &HostFacts) -> Vec<Finding> {
    let (traced, read) = match with_child(|child| {
        let traced = ptrace::seize(Tid::from(child), ptrace::Options::default());
        let mut byte = [0];
        let own = (&raw const TRACED_BYTE).addr() as u64;
        let read = Memory::open(child).and_then(|memory| memory.read(Addr(own), &mut byte));
        (traced, read)
    }) {
        Ok(results) => results,
        Err(error) => (Err(error), Err(std::io::ErrorKind::NotFound.into())),
    };
    let tried = |key, name, result: std::io::Result<()>, needed_for| Finding {
        key,
        name,
        verdict: if result.is_ok() { Verdict::Works } else { Verdict::Missing },
        detail: result.err().map_or(String::new(), |error| error.to_string()),
        needed_for,
    };
    let yama = match facts.yama_scope {
        None | Some(0) => (Verdict::Works, "any process of yours".to_string()),
        Some(1) => (
            Verdict::Limited,
            "Yama: only descendants of brant, so start programs with brant run".to_string(),
        ),
        Some(scope) => {
            (Verdict::Missing, format!("Yama's ptrace_scope is {scope}: nobody without CAP_SYS_PTRACE"))
        }
    };
    let (verdict, detail) = if facts.is_privileged() { (Verdict::Works, yama.1) } else { yama };
    let seccomp = Finding {
        key: "seccomp",
        name: "no seccomp filter on brant",
        verdict: if facts.seccomp == 0 { Verdict::Works } else { Verdict::Limited },
        detail: if facts.seccomp == 0 { String::new() } else { "calls may be forbidden here".to_string() },
        needed_for: CHECKPOINT,
    };
    vec![
        tried("ptrace", "ptrace", traced, CHECKPOINT),
        Finding {
            key: "ptrace_others",
            name: "ptrace of other processes",
            verdict,
            detail,
            needed_for: CHECKPOINT,
        },
        tried("process_vm", "reading another's memory", read, CHECKPOINT),
        ability("pidfd_getfd", "pidfd_getfd", facts.pidfd_getfd, CHECKPOINT, true),
        ability("kcmp", "kcmp", facts.kcmp, CHECKPOINT, true),
        ability("unix_diag", "sock_diag for unix sockets", facts.unix_diag, CHECKPOINT, false),
        yes_no("pagemap_scan", "PAGEMAP_SCAN (Linux 6.7)", facts.pagemap_scan, "slower search for pages"),
        yes_no(
            "timer_ids",
            "POSIX timers by id (Linux 6.15)",
            facts.timer_restore_ids,
            "timer ids are found by trying",
        ),
        seccomp,
    ]
}

/// Read in a child's memory: a fork has it at the same address.
static TRACED_BYTE: u8 = 42;

/// Runs `probe` on a child that does nothing, and ends it.
fn with_child<T>(probe: impl FnOnce(Pid) -> T) -> std::io::Result<T> {
    match task::fork()? {
        Fork::Child => {
            let _ = task::set_parent_death_signal(libc::SIGKILL);
            std::thread::sleep(std::time::Duration::from_secs(60));
            task::exit_now(0)
        }
        Fork::Parent { child } => {
            let result = probe(child);
            let pidfd = task::pidfd_open(child)?;
            task::pidfd_send_signal(&pidfd, libc::SIGKILL)?;
            let _ = task::wait_for(child);
            Ok(result)
        }
    }
}

/// What a restore needs, tried in a child.
fn isolation(facts: &HostFacts) -> Vec<Finding> {
    let tried = &facts.isolation;
    let privileged = facts.is_privileged();
    // Without any, restores go another way.
    let is_without = brant_restore::lacks_namespaces(facts);
    let needs = |key, name, ability| self::ability(key, name, ability, RESTORE, !is_without);
    let needs_user =
        |key, name, ability| self::ability(key, name, ability, RESTORE, !is_without && !privileged);
    let without = Finding {
        key: "any_pid",
        name: "restores without namespaces",
        verdict: Verdict::Fact,
        detail: "programs get new process numbers, which the wrapper \"virtual\" hides from them; static ones only with \
                 --any-pid"
            .into(),
        needed_for: "",
    };
    let mut findings = vec![
        needs_user("user_namespace", "user namespace", tried.user_namespace),
        needs_user("id_map", "own uid in it", tried.id_map),
        needs("mount_namespace", "mount namespace", tried.mount_namespace),
        needs("pid_namespace", "pid namespace", tried.pid_namespace),
        needs("time_namespace", "time namespace", tried.time_namespace),
        needs("mount_proc", "a fresh /proc", tried.mount_proc),
        self::ability(
            "mount_devpts",
            "a fresh /dev/pts",
            tried.mount_devpts,
            "programs with terminals",
            false,
        ),
        needs("chosen_pids", "pids of one's choice", tried.chosen_pids),
    ];
    findings.extend(is_without.then_some(without));
    findings
}

fn ability(
    key: &'static str,
    name: &'static str,
    ability: Ability,
    needed_for: &'static str,
    is_required: bool,
) -> Finding {
    let missing = if is_required { Verdict::Missing } else { Verdict::Limited };
    let (verdict, detail) = match ability {
        Ability::Yes => (Verdict::Works, String::new()),
        Ability::Untried => (missing, "not tried, as something before it failed".to_string()),
        Ability::No { .. } => (missing, ability.error().map_or(String::new(), |error| error.to_string())),
    };
    Finding { key, name, verdict, detail, needed_for }
}

fn yes_no(key: &'static str, name: &'static str, works: bool, without: &str) -> Finding {
    Finding {
        key,
        name,
        verdict: if works { Verdict::Works } else { Verdict::Limited },
        detail: if works { String::new() } else { without.to_string() },
        needed_for: "",
    }
}

/// Room for images.
fn disk() -> Option<Finding> {
    let folder = Store::default_folder().ok()?;
    let mut existing = folder.as_path();
    while !existing.exists() {
        existing = existing.parent()?;
    }
    let space = nix::sys::statvfs::statvfs(existing).ok()?;
    let free_bytes = space.blocks_available().saturating_mul(space.fragment_size());
    let is_writable = nix::unistd::access(existing, nix::unistd::AccessFlags::W_OK).is_ok();
    Some(Finding {
        key: "disk",
        name: "room for images",
        verdict: if is_writable && free_bytes > 0 { Verdict::Works } else { Verdict::Limited },
        detail: format!(
            "{} free in {}{}",
            size(free_bytes),
            folder.display(),
            if is_writable { "" } else { ", which is not writable" }
        ),
        needed_for: CHECKPOINT,
    })
}
