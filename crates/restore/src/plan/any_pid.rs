//! What a tree cannot have, or has otherwise, where no namespace of its own is made for it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use brant_base::{Pid, Refusal, Refusals};
use brant_image::model::*;
use brant_kernel::facts::HostFacts;
use brant_kernel::sockdiag;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{AccessFlags, access};

use super::{Plan, refusal, text};

const CODE: &str = "B-0422";
const STATIC: &str = "B-0423";
const WITH_NAMESPACE: &str =
    "restore it with namespaces: without --any-pid, where user namespaces are allowed, or as root";

/// `is_asked`: the user has asked for it, and bears that numbers change where nothing can translate them.
pub(super) fn check(
    checkpoint: &Checkpoint,
    facts: &HostFacts,
    is_asked: bool,
    plan: &mut Plan,
    refusals: &mut Refusals,
) {
    check_tracing(facts, refusals);
    if !facts.is_privileged() {
        for process in &checkpoint.processes {
            let Some(body) = &process.body else { continue };
            check_user(process.pid, body, facts, refusals);
        }
    }
    check_clocks(&checkpoint.clocks, refusals);
    for process in &checkpoint.processes {
        check_signal(process, facts, refusals);
        if let Some(body) = &process.body {
            if !crate::identities::has_table(checkpoint, body) {
                check_static(process, body, is_asked, plan, refusals);
            }
            check_growth(process, body, plan, refusals);
        }
    }
    for file in &checkpoint.open_files {
        check_owner(checkpoint, file, refusals);
    }
    for socket in &checkpoint.unix_sockets {
        check_name(socket, refusals);
    }
    tell_differences(checkpoint, facts, plan);
}

fn of_process(pid: Pid, found: Refusal) -> Refusal {
    Refusal { pid: Some(pid), ..found }
}

/// A tree in our own user namespace is built by means of ptrace, as any program is looked at.
fn check_tracing(facts: &HostFacts, refusals: &mut Refusals) {
    const ADMINISTRATORS_ONLY: u32 = 2;
    if let Some(scope) =
        facts.yama_scope.filter(|scope| *scope >= ADMINISTRATORS_ONLY && !facts.is_privileged())
    {
        refusals.push(refusal(
            CODE,
            "building it with ptrace".into(),
            format!("Yama's ptrace_scope is {scope} here, and without a user namespace that forbids it"),
            WITH_NAMESPACE,
        ));
    }
}

/// A plain user can make nothing but processes of its own user.
fn check_user(pid: Pid, body: &ProcessBody, facts: &HostFacts, refusals: &mut Refusals) {
    let own = &body.credentials;
    let foreign = |ids: [u32; 4], own: u32, what: &str| {
        ids.into_iter().find(|id| *id != own).map(|id| format!("its {what} {id}"))
    };
    let user = foreign(own.uids, facts.uid, "user");
    if let Some(resource) = user.or_else(|| foreign(own.gids, facts.gid, "group")) {
        let (uid, gid) = (facts.uid, facts.gid);
        let why = format!("without a user namespace it can only be yours, user {uid} and group {gid}");
        let found = refusal("B-0408", resource, why, "restore it as that user, or as root");
        refusals.push(of_process(pid, found));
    }
    let [inheritable, permitted, effective, _, ambient] = own.capabilities;
    if (inheritable | permitted | effective | ambient) & !facts.capabilities != 0 {
        let why = "it had capabilities, which nobody but root can give it here";
        refusals.push(of_process(pid, refusal(CODE, "its capabilities".into(), why, "restore it as root")));
    }
    if !body.root.is_empty() && body.root != b"/" {
        let why = "it has changed its root directory, which nobody but root may without a user namespace";
        let resource = format!("its root directory {}", text(&body.root));
        refusals.push(of_process(pid, refusal(CODE, resource, why, WITH_NAMESPACE)));
    }
}

/// Clocks that only go forward must not go back. That they jump is as after a stop.
fn check_clocks(frozen: &Clocks, refusals: &mut Refusals) {
    const NS: i64 = 1_000_000_000;
    for (name, id, then) in [
        ("CLOCK_MONOTONIC", ClockId::CLOCK_MONOTONIC, frozen.monotonic_ns),
        ("CLOCK_BOOTTIME", ClockId::CLOCK_BOOTTIME, frozen.boottime_ns),
    ] {
        let now = clock_gettime(id).map_or(i64::MAX, |now| now.tv_sec() * NS + now.tv_nsec());
        if now < then {
            let back = (then - now) / NS;
            let why = format!(
                "it would go back by {back} s, as this host has been up for less, and no program bears that"
            );
            refusals.push(refusal(CODE, format!("the clock {name}"), why, WITH_NAMESPACE));
        }
    }
}

/// A plain user's process takes its program as its own by executing it, after which its end is told by the usual signal.
fn check_signal(process: &Process, facts: &HostFacts, refusals: &mut Refusals) {
    let is_usual = process.exit_signal == libc::SIGCHLD || process.body.is_none();
    if !is_usual && !facts.is_privileged() {
        let resource = format!("the signal {} by which its parent is told of its end", process.exit_signal);
        let why = "without a user namespace it could only be SIGCHLD";
        refusals.push(of_process(process.pid, refusal(CODE, resource, why, WITH_NAMESPACE)));
    }
}

/// Mediators need memory of their own, which the kernel puts where such memory might grow to.
fn check_growth(process: &Process, body: &ProcessBody, plan: &Plan, refusals: &mut Refusals) {
    let stack = body.memory.layout.stack_start;
    let grows = |mapping: &&Mapping| mapping.flags.grows_down && !mapping.range.contains(stack);
    if let Some(found) =
        body.memory.mappings.iter().find(grows).filter(|_| !plan.unmediated.contains(&process.pid))
    {
        let resource = format!("the memory at {}, which grows by itself (MAP_GROWSDOWN)", found.range);
        let why = "what translates its numbers needs memory too, and may lie where that would grow to";
        refusals.push(of_process(process.pid, refusal(CODE, resource, why, WITH_NAMESPACE)));
    }
}

/// Numbers are translated by mediators in the program, which a static one has no place for.
fn check_static(
    process: &Process,
    body: &ProcessBody,
    is_asked: bool,
    plan: &mut Plan,
    refusals: &mut Refusals,
) {
    if !is_static(&body.memory.auxv) {
        return;
    }
    plan.unmediated.insert(process.pid);
    let count = body.threads.len();
    if count > 1 {
        let why = "it is static, so that nothing translates their numbers, which its C library remembers: signals to them would \
                   go astray";
        refusals.push(of_process(
            process.pid,
            refusal(STATIC, format!("its {count} threads"), why, WITH_NAMESPACE),
        ));
    } else if !is_asked {
        let why = "the program is static, so that nothing can translate its numbers, and user namespaces are not to be had here";
        let hint = format!("{WITH_NAMESPACE}; or let its numbers change: --any-pid");
        refusals.push(of_process(process.pid, refusal(STATIC, "its process number".into(), why, hint)));
    }
}

/// Whether no loader was mapped with the program.
fn is_static(auxv: &[u8]) -> bool {
    const AT_BASE: u64 = 7;
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    let mut entries = auxv.chunks_exact(16).map(|entry| (word(&entry[..8]), word(&entry[8..])));
    !entries.any(|(key, value)| key == AT_BASE && value != 0)
}

/// Who gets the signals of a file is told to the kernel before there are threads.
fn check_owner(checkpoint: &Checkpoint, file: &OpenFile, refusals: &mut Refusals) {
    let numbers = || checkpoint.processes.iter().flat_map(|p| [p.pid, p.ppid, p.pgid, p.sid]);
    let (what, number, is_known) = match file.owner.map(|owner| owner.kind) {
        Some(FileOwnerKind::Thread(tid)) => {
            ("thread", tid.0, checkpoint.processes.iter().any(|process| process.pid.0 == tid.0))
        }
        Some(FileOwnerKind::Process(pid)) => ("process", pid.0, numbers().any(|known| known == pid)),
        Some(FileOwnerKind::Group(pid)) => ("process group", pid.0, numbers().any(|known| known == pid)),
        None => return,
    };
    if !is_known {
        let resource = format!("a file whose signals go to the {what} {number}");
        refusals.push(refusal(CODE, resource, "that number stands for nobody in the tree", WITH_NAMESPACE));
    }
}

/// The ends of connections get their names from a socket that has the name for a moment.
fn check_name(socket: &UnixSocket, refusals: &mut Refusals) {
    let is_connected = socket.kind != libc::SOCK_DGRAM
        && matches!(socket.state, UnixSocketState::Connected { .. } | UnixSocketState::PeerClosed);
    if !socket.address.starts_with(b"/") || !(is_connected || socket.address_deleted) {
        return;
    }
    let path = PathBuf::from(OsString::from_vec(socket.address.clone()));
    let folder = path.parent().unwrap_or(&path);
    if let Ok(found) = fs::symlink_metadata(&path) {
        let open = sockdiag::unix_sockets().unwrap_or_default();
        let is_used = open.iter().any(|other| other.file.is_some_and(|(_, inode)| inode == found.ino()));
        if is_used || !found.file_type().is_socket() {
            let resource = format!("the unix socket name {}", text(&socket.address));
            let hint = "end the program that uses it, or move away what is there";
            refusals.push(refusal("B-0418", resource, "something else has it now", hint));
        }
    }
    if let Err(error) = access(folder, AccessFlags::W_OK | AccessFlags::X_OK) {
        let why = format!("its folder must be one that you may write to: {error}");
        let resource = format!("the unix socket name {}", text(&socket.address));
        refusals.push(refusal(CODE, resource, why, WITH_NAMESPACE));
    }
}

fn tell_differences(checkpoint: &Checkpoint, facts: &HostFacts, plan: &mut Plan) {
    let executed = match plan.brant {
        Some(_) => "and from programs that they execute, where these can be wrapped",
        None => {
            "but programs that they execute from now on see the new ones, as they would not find this brant"
        }
    };
    plan.differences.push(format!(
        "no namespaces are made: its processes have new numbers, which the wrapper \"virtual\" hides from them, {executed}"
    ));
    plan.differences.push("the clocks that count since this host's start have gone on meanwhile".into());
    for pid in plan.unmediated.clone() {
        plan.differences.push(format!(
            "process {pid} is static: it sees its new number, and what it remembers of others is not true any more"
        ));
    }
    if checkpoint.processes.iter().any(|process| process.sid.0 == 0 || process.pgid.0 == 0) {
        plan.differences.push("sessions and process groups that showed as 0 have a number now".into());
    }
    let groups = |own: &[u32]| {
        let mut sorted = own.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        sorted
    };
    let Ok(own) = nix::unistd::getgroups() else { return };
    let own = groups(&own.iter().map(|group| group.as_raw()).collect::<Vec<u32>>());
    let differs = |body: &ProcessBody| {
        let with_first = |list: &[u32]| groups(&[list, &[facts.gid]].concat());
        with_first(&body.credentials.groups) != with_first(&own)
    };
    if !facts.is_privileged() && checkpoint.processes.iter().flat_map(|p| &p.body).any(differs) {
        plan.differences.push("its supplementary groups are yours, not those that it had".into());
    }
    if checkpoint.processes.iter().any(|process| process.ppid.0 == 1) {
        plan.differences
            .push("a parent that was process 1 is the job's keeper, with a number of its own".into());
    }
}
