//! Whether machine, kernel and user can carry the tree.

use brant_base::{Pid, Refusals};
use brant_image::model::*;
use brant_kernel::facts::{Ability, HostFacts};
use brant_kernel::proc;

use super::{Way, refusal};
use crate::build::threads::xstate_in_use;

pub(super) fn check(checkpoint: &Checkpoint, facts: &HostFacts, way: Way, refusals: &mut Refusals) {
    check_machine(checkpoint, facts, refusals);
    check_xstate(checkpoint, facts, refusals);
    check_kernel(checkpoint, facts, refusals);
    check_descriptors(checkpoint, refusals);
    if way == Way::Namespaces {
        check_isolation(checkpoint, facts, refusals);
        check_numbers(checkpoint, facts, refusals);
        check_users(checkpoint, facts, refusals);
    }
}

fn check_machine(checkpoint: &Checkpoint, facts: &HostFacts, refusals: &mut Refusals) {
    let machine = &checkpoint.host.machine;
    if *machine != facts.machine {
        refusals.push(refusal(
            "B-0403",
            format!("a program for {machine}"),
            format!("this machine is {}", facts.machine),
            format!("restore it on a {machine} machine"),
        ));
        return;
    }
    let missing: Vec<&str> = checkpoint
        .host
        .cpu_flags
        .iter()
        .map(String::as_str)
        .filter(|flag| is_instructions(flag) && !facts.cpu_flags.iter().any(|own| own == flag))
        .collect();
    if !missing.is_empty() {
        refusals.push(refusal(
            "B-0404",
            format!("the CPU features {}", missing.join(", ")),
            "this CPU lacks them, and the program may use them as it started on a CPU that has them",
            "restore it on such a CPU, or start the program anew with GLIBC_TUNABLES=glibc.cpu.hwcaps=-FEATURE",
        ));
    }
}

/// The state that threads have in the CPU's registers must have a place here.
fn check_xstate(checkpoint: &Checkpoint, facts: &HostFacts, refusals: &mut Refusals) {
    /// Memory protection keys: programs that use them are not checkpointed, and their register always counts as in use.
    const PKRU: u64 = 1 << 9;
    /// x87 and SSE: every CPU has them, where they are.
    const LEGACY: u64 = 0b11;
    let threads = checkpoint.processes.iter().flat_map(|p| &p.body).flat_map(|body| &body.threads);
    let in_use = threads.fold(0, |all, thread| all | xstate_in_use(&thread.xstate.0));
    let layout = &checkpoint.host.xstate_layout;
    let is_lost = |number: &u32| {
        if in_use & !PKRU & !LEGACY & 1u64 << number == 0 {
            return false;
        }
        let own = facts.xstate_layout.iter().find(|own| own.number == *number);
        let other = layout.iter().find(|other| other.number == *number);
        let fits =
            own.is_some_and(|own| layout.is_empty() || other.is_some_and(|other| other.bytes == own.bytes));
        facts.xstate_features & 1u64 << number == 0 || !fits
    };
    let lost: Vec<String> = (0..63).filter(is_lost).map(|number| number.to_string()).collect();
    if !lost.is_empty() {
        refusals.push(refusal(
            "B-0409",
            format!("the CPU state components {}", lost.join(", ")),
            "threads have something in registers that this CPU, or its kernel, does not have",
            "restore it on a CPU like the one that it was taken on",
        ));
    }
}

/// What only a newer kernel has.
fn check_kernel(checkpoint: &Checkpoint, facts: &HostFacts, refusals: &mut Refusals) {
    const DROPPABLE_SINCE: (u32, u32) = (6, 11);
    let mappings = checkpoint.processes.iter().flat_map(|p| &p.body).flat_map(|body| &body.memory.mappings);
    let droppable = mappings.filter(|mapping| mapping.flags.droppable).count();
    if droppable > 0 && facts.kernel_version < DROPPABLE_SINCE {
        refusals.push(refusal(
            "B-0421",
            format!("{droppable} mappings of memory that may be dropped (MAP_DROPPABLE)"),
            format!("this kernel is {}, and has no such memory", facts.kernel_release),
            "use Linux 6.11 or newer",
        ));
    }
}

/// Whether a flag of /proc/cpuinfo stands for instructions that programs choose by themselves.
fn is_instructions(flag: &str) -> bool {
    const SINGLE: [&str; 24] = [
        "abm",
        "adx",
        "aes",
        "bmi1",
        "bmi2",
        "cx16",
        "erms",
        "f16c",
        "fma",
        "fma4",
        "fsgsbase",
        "fsrm",
        "gfni",
        "movbe",
        "movdir64b",
        "movdiri",
        "pclmulqdq",
        "popcnt",
        "rdrand",
        "rdseed",
        "sha_ni",
        "ssse3",
        "vaes",
        "vpclmulqdq",
    ];
    const FAMILIES: [&str; 5] = ["avx", "sse", "amx", "xsave", "lzcnt"];
    SINGLE.contains(&flag) || FAMILIES.iter().any(|family| flag.starts_with(family))
}

fn check_isolation(checkpoint: &Checkpoint, facts: &HostFacts, refusals: &mut Refusals) {
    let isolation = &facts.isolation;
    let mut need = |ability: Ability, what: &str, hint: &str| {
        if let Some(error) = ability.error() {
            let why = format!("the kernel answers: {error}");
            refusals.push(refusal("B-0405", what.to_owned(), why, hint));
        }
    };
    let allow = "allow user namespaces (`brant doctor` says how), restore as root, or give up the process numbers: --any-pid";
    if !facts.is_privileged() {
        need(isolation.user_namespace, "a user namespace", allow);
        need(isolation.id_map, "a user of one's own in a user namespace", allow);
    }
    need(isolation.mount_namespace, "a mount namespace", allow);
    need(isolation.pid_namespace, "a pid namespace, for the process numbers of the image", allow);
    need(isolation.time_namespace, "a time namespace, for clocks that go on", "use Linux 5.6 or newer");
    need(
        isolation.mount_proc,
        "a fresh /proc",
        "parts of this /proc are masked, as in many containers: start the container with an unmasked /proc",
    );
    need(isolation.chosen_pids, "chosen process numbers (clone3 with set_tid)", "use Linux 5.5 or newer");
    if !checkpoint.terminals.is_empty() {
        need(isolation.mount_devpts, "terminals of its own (a fresh devpts)", allow);
    }
}

fn check_numbers(checkpoint: &Checkpoint, facts: &HostFacts, refusals: &mut Refusals) {
    /// From here on each pid namespace has a limit of its own, which starts at the largest possible.
    const OWN_LIMIT_SINCE: (u32, u32) = (6, 14);
    const LARGEST: u32 = 4 << 20;
    let threads = checkpoint.processes.iter().flat_map(|p| &p.body).flat_map(|body| &body.threads);
    let numbers = threads.map(|thread| thread.tid.0).chain(
        // Stand-ins take the numbers of those that stayed behind.
        checkpoint.processes.iter().flat_map(|p| [p.pid.0, p.ppid.0, p.pgid.0, p.sid.0]),
    );
    let largest = numbers.max().unwrap_or(0);
    let limit = if facts.kernel_version >= OWN_LIMIT_SINCE { LARGEST } else { facts.pid_max };
    if i64::from(largest) >= i64::from(limit) {
        refusals.push(refusal(
            "B-0406",
            format!("the process number {largest}"),
            format!("process numbers on this host end below {limit}"),
            format!("let the administrator raise it: sysctl kernel.pid_max={}", i64::from(largest) + 1),
        ));
    }
}

fn check_descriptors(checkpoint: &Checkpoint, refusals: &mut Refusals) {
    const OWN: u64 = 64;
    let bodies = checkpoint.processes.iter().flat_map(|process| &process.body);
    let largest = bodies.flat_map(|body| body.descriptors.last()).map(|last| last.number).max().unwrap_or(0);
    let once = checkpoint.open_files.len();
    let twice = checkpoint.disk_files.len() + checkpoint.shared_memory.len() + checkpoint.terminals.len();
    let needed = largest as u64 + OWN + (once + 2 * twice) as u64;
    let own = proc::limits(Pid(std::process::id() as i32));
    let Some(hard) = own.ok().map(|limits| limits[libc::RLIMIT_NOFILE as usize].hard) else { return };
    if needed > hard {
        refusals.push(refusal(
            "B-0407",
            format!("{needed} descriptors at once while the tree is built"),
            format!("the hard limit is {hard}"),
            "raise it (ulimit -Hn, LimitNOFILE=, /etc/security/limits.conf)",
        ));
    }
}

/// In a user namespace of one's own there is one user and one group.
fn check_users(checkpoint: &Checkpoint, facts: &HostFacts, refusals: &mut Refusals) {
    if facts.is_privileged() {
        return;
    }
    let credentials = |process: &Process| process.body.as_ref().map(|body| body.credentials.clone());
    let root = checkpoint.processes.iter().find(|process| process.pid == checkpoint.root);
    let Some(root) = root.and_then(credentials) else { return };
    for process in &checkpoint.processes {
        let Some(own) = credentials(process) else { continue };
        let uids = own.uids.iter().filter(|&&uid| uid != root.uids[1]);
        let gids = own.gids.iter().filter(|&&gid| gid != root.gids[1]);
        let foreign: Vec<String> =
            uids.map(|uid| format!("user {uid}")).chain(gids.map(|gid| format!("group {gid}"))).collect();
        if let Some(first) = foreign.first() {
            let mut found = refusal(
                "B-0408",
                format!("its {first}"),
                "a plain user can give a tree one user and one group, and its root process has others",
                "restore it as root",
            );
            found.pid = Some(process.pid);
            refusals.push(found);
        }
    }
}
