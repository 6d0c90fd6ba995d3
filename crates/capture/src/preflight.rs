//! What stands in the way of a checkpoint: all of it at once, with a reason and a remedy, before anything is touched.
//!
//! Runs before the freeze and once more after it, when what has come into being since leads to a thaw.

use std::time::Duration;

use brant_base::{Pid, Refusal, Refusals};
use brant_kernel::facts::HostFacts;
use brant_kernel::patience::Patience;
use brant_kernel::proc::{self, MapEntry, MapKind, Namespaces, PageKind, Status, VmFlags};
use brant_kernel::remote::{Hand, Memory};
use brant_kernel::{descriptor, thread};

use crate::error::Error;
use crate::files::{self, Survey};
use crate::mounts;
use crate::refusals;
use crate::tables::Tables;
use crate::tree::{self, Member};

/// Two processes share a part of themselves.
pub(crate) const SHARED_BY_CLONE: &str = "B-0311";
/// Code of the kernel's in the program was changed.
const CHANGED_VDSO: &str = "B-0329";

/// Looks at every process and every descriptor.
pub(crate) fn look(
    members: &[Member],
    tables: &mut Tables,
    facts: &HostFacts,
) -> Result<(Survey, Refusals), Error> {
    let mut refusals = Refusals::default();
    for member in members.iter().filter(|member| !member.zombie) {
        look_at(member, &members[0], tables)?.0.into_iter().for_each(|refusal| refusals.push(refusal));
    }
    shared_tables(members, &mut refusals);
    let (survey, found) = files::survey(members, tables, facts);
    found.0.into_iter().for_each(|refusal| refusals.push(refusal));
    Ok((survey, refusals))
}

/// Looks at one process. One that is on its way out stands in nobody's way: what is gone at the freeze is no member, and
/// the freeze waits for what is not gone yet. One that executes another program, or whose main thread ends, is half there
/// for a moment.
fn look_at(member: &Member, root: &Member, tables: &mut Tables) -> Result<Refusals, Error> {
    const TIMEOUT: Duration = Duration::from_millis(500);
    const PAUSE: Duration = Duration::from_millis(2);
    let mut patience = Patience::new(TIMEOUT);
    loop {
        let mut refusals = Refusals::default();
        let looked = may_trace(member)
            .and_then(|()| process(member, &mut refusals))
            .and_then(|()| room(member, &mut refusals))
            .and_then(|()| mappings(member, tables, &mut refusals))
            .and_then(|()| namespaces(member, root, &mut refusals));
        match looked {
            Ok(()) => return Ok(refusals),
            Err(_) if tree::ends(member.host) => return Ok(Refusals::default()),
            Err(error) if patience.is_over() => return Err(error),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// The kernel's own answer to whether we may trace it: the same check guards this file.
fn may_trace(member: &Member) -> Result<(), Error> {
    let opened = std::fs::File::open(format!("/proc/{}/mem", tree::living_task(member)));
    opened.map(drop).map_err(|error| Error::Permission { pid: member.host, error })
}

/// What a process is as a whole: who traces it, filters, namespaces, root, capabilities, scheduling.
fn process(member: &Member, refusals: &mut Refusals) -> Result<(), Error> {
    let pid = member.host;
    let status = proc::status(pid)?;
    if status.tracer != Pid(0) && !is_own_thread(status.tracer) {
        refusals.push(traced(pid, status.tracer));
    }
    let mut refuse = |code, resource: String, why: &str, hint: &str| {
        refusals.push(Refusal { code, pid: Some(pid), resource, why: why.to_owned(), hint: hint.to_owned() });
    };
    if has_filter(pid, &status) {
        refuse(
            "B-0302",
            "a seccomp filter".to_owned(),
            "a plain user can neither read the filter nor make calls past it",
            "start the program without its sandbox",
        );
    }
    if status.x86_thread_features.iter().any(|feature| feature == b"shstk") {
        refuse(
            "B-0303",
            "a shadow stack".to_owned(),
            "its contents cannot be put back",
            "start the program with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off",
        );
    }
    if status.inner_pid() == Pid(1) {
        refuse(
            "B-0304",
            "the first process of a pid namespace".to_owned(),
            "a restored tree has brant's keeper in this place",
            "name a process below it",
        );
    }
    if !is_64_bit(member.task()) {
        refuse(
            "B-0305",
            "a program that is not 64-bit".to_owned(),
            "only x86-64 code is carried",
            "use a 64-bit build of the program",
        );
    }
    if std::fs::read_link(format!("/proc/{}/root", member.task())).is_ok_and(|root| root.as_os_str() != "/") {
        refuse(
            "B-0306",
            "a changed root directory".to_owned(),
            "paths would mean other files after a restore",
            "start the program without chroot",
        );
    }
    if let Some(why) = working_directory_gone(member) {
        refuse("B-0342", "its working directory".to_owned(), &why, "let the program change to another one");
    }
    if status.capabilities[2] != 0 && !is_root() && own_user_namespace(pid) {
        refuse(
            "B-0307",
            "capabilities".to_owned(),
            "a plain user cannot give them back",
            "run brant as root, or the program without them",
        );
    }
    let deadline = 6;
    for tid in proc::tasks(pid)? {
        if thread::scheduling_policy(tid).is_ok_and(|policy| policy & 0xff == deadline) {
            refuse(
                "B-0308",
                format!("SCHED_DEADLINE of thread {tid}"),
                "its parameters are not carried",
                "give it another policy with chrt",
            );
        }
    }
    Ok(())
}

/// Whether its address space is limited to so little that nothing more can be mapped. Other limits show when it is tried, at
/// the freeze.
fn room(member: &Member, found: &mut Refusals) -> Result<(), Error> {
    let limit = proc::limits(member.task())?[libc::RLIMIT_AS as usize].soft;
    let threads = proc::tasks(member.host)?.len();
    if proc::stat(member.task())?.vsize_bytes.saturating_add(Hand::room_bytes(threads)) > limit {
        let why = format!("its address space may have {limit} bytes");
        found.push(refusals::no_room(member.host, &why));
    }
    Ok(())
}

/// Somebody else holds the process: a debugger, or another brant that takes a checkpoint of it.
pub(crate) fn traced(pid: Pid, tracer: Pid) -> Refusal {
    let name = proc::comm(tracer).unwrap_or_default();
    let name = String::from_utf8_lossy(&name).escape_debug().to_string();
    let hint = match name.as_str() {
        "brant" => "wait until that checkpoint is done",
        _ => "detach the debugger or strace first",
    };
    Refusal {
        code: "B-0301",
        pid: Some(pid),
        resource: format!("a tracer, process {tracer} ({name})"),
        why: "a process has one tracer at a time".to_owned(),
        hint: hint.to_owned(),
    }
}

/// Why the working directory could not be entered again by its path.
fn working_directory_gone(member: &Member) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let place = format!("/proc/{}/cwd", tree::living_task(member));
    let path = std::fs::read_link(&place).ok()?;
    let own = std::fs::metadata(&place).ok()?;
    match std::fs::metadata(&path) {
        // Inodes of /proc do not last.
        Ok(found) if (found.dev(), found.ino()) == (own.dev(), own.ino()) || path.starts_with("/proc") => {
            None
        }
        Ok(_) => Some(format!("another directory is at {} now", path.display())),
        Err(error) => Some(format!("{} cannot be found: {error}", path.display())),
    }
}

/// The kernel shows the thread that traces.
pub(crate) fn is_own_thread(tid: Pid) -> bool {
    std::path::Path::new(&format!("/proc/self/task/{tid}")).exists()
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether the process is in our own user namespace, where its capabilities would be real.
fn own_user_namespace(pid: Pid) -> bool {
    let of = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/user")).ok();
    of("self") == of(&pid.to_string())
}

/// Whether a thread has a filter: each has its own.
fn has_filter(pid: Pid, status: &Status) -> bool {
    let filtered = |status: &Status| status.seccomp != 0 && !under_our_filter(status);
    let others = proc::tasks(pid).unwrap_or_default();
    filtered(status) || others.into_iter().any(|tid| proc::status((pid, tid)).is_ok_and(|one| filtered(&one)))
}

/// Whether all its filters are those that we inherited ourselves (a container's): then what we may call, it may too.
fn under_our_filter(status: &Status) -> bool {
    let own = proc::status(Pid(std::process::id() as i32));
    own.is_ok_and(|own| own.seccomp == status.seccomp && own.seccomp_filters == status.seccomp_filters)
}

fn is_64_bit(pid: Pid) -> bool {
    use std::io::Read;
    const ELF_CLASS_64: u8 = 2;
    const MACHINE_X86_64: [u8; 2] = [62, 0];
    let mut head = [0u8; 20];
    let read = std::fs::File::open(format!("/proc/{pid}/exe")).and_then(|mut exe| exe.read_exact(&mut head));
    // Where the executable cannot be read, the registers tell once it is stopped.
    read.is_err() || (head[4] == ELF_CLASS_64 && head[18..20] == MACHINE_X86_64)
}

/// Every mapping of a process; each that cannot be carried is named, and the others' files are noted.
fn mappings(member: &Member, tables: &mut Tables, refusals: &mut Refusals) -> Result<(), Error> {
    let entries = proc::smaps(member.task())?;
    for entry in &entries {
        if entry.kind == MapKind::Vdso && is_changed(member, entry) {
            refusals.push(Refusal {
                code: CHANGED_VDSO,
                pid: Some(member.host),
                resource: "code of the kernel's own (the vDSO) that was changed".to_owned(),
                why: "a restored program gets its kernel's own again, without the change".to_owned(),
                hint: "take the wrapper that has changed it off before: brant unwrap time TARGET".to_owned(),
            });
        }
        let Some((code, what, why, hint)) = blocker(entry) else {
            if let MapKind::File = entry.kind
                && let Err(refusal) = tables.mapped_file_check(member, entry)
            {
                refusals.push(refusal);
            }
            continue;
        };
        refusals.push(Refusal {
            code,
            pid: Some(member.host),
            resource: format!("the mapping {} ({what})", entry.range),
            why: why.to_owned(),
            hint: hint.to_owned(),
        });
    }
    tables.mappings.insert(member.host, entries);
    Ok(())
}

/// Whether the kernel's code in the process is other than in this one. Only where the process has pages of its own there it is
/// read: what a wrapper has changed stays its own when it has been changed back.
fn is_changed(member: &Member, entry: &MapEntry) -> bool {
    let runs = proc::populated_pages(member.task(), entry.range);
    // What cannot be read has ended meanwhile, which the next look sees.
    if !runs.is_ok_and(|runs| runs.iter().any(|run| run.kind == PageKind::Anonymous)) {
        return false;
    }
    // Behind its code are zeros, where a brant that was killed has left its thunk (`brant_kernel::remote::Hand`).
    let code = own_vdso().map(|own| own[..own.len() - zeros_behind(&own)].to_vec());
    let theirs = vdso_of(member.task(), entry);
    theirs.zip(code).is_none_or(|(theirs, code)| !theirs.starts_with(&code))
}

fn zeros_behind(bytes: &[u8]) -> usize {
    bytes.iter().rev().take_while(|byte| **byte == 0).count()
}

fn own_vdso() -> Option<Vec<u8>> {
    let own = Pid(std::process::id() as i32);
    let maps = proc::maps(own).ok()?;
    vdso_of(own, maps.iter().find(|entry| entry.kind == MapKind::Vdso)?)
}

fn vdso_of(pid: Pid, entry: &MapEntry) -> Option<Vec<u8>> {
    let mut bytes = vec![0; entry.range.bytes() as usize];
    Memory::open(pid).ok()?.read(entry.range.start(), &mut bytes).ok()?;
    Some(bytes)
}

type Blocker = (&'static str, String, &'static str, &'static str);

/// Why a mapping cannot be carried: code, what it is, reason and remedy.
fn blocker(entry: &MapEntry) -> Option<Blocker> {
    let has = |flag| entry.flags.has(flag);
    let path = String::from_utf8_lossy(&entry.path).into_owned();
    match &entry.kind {
        MapKind::Vsyscall | MapKind::Vdso | MapKind::Vvar => return None,
        MapKind::SystemV => {
            return Some((
                "B-0320",
                format!("System V shared memory {path}"),
                "segments of shmget outlive their processes and may have other users",
                "use memory of mmap or shm_open",
            ));
        }
        MapKind::AnonymousInode(name) => {
            let name = String::from_utf8_lossy(name).into_owned();
            return Some((
                "B-0321",
                format!("rings or buffers of {name}"),
                "the kernel shares them with a descriptor that cannot be carried",
                "start the program with this feature off",
            ));
        }
        MapKind::Other(name) => {
            let name = String::from_utf8_lossy(name).into_owned();
            return Some(("B-0322", name, "a kind of mapping that is not known", "report it"));
        }
        _ => {}
    }
    if entry.deleted && entry.path == b"/[aio]" {
        return Some((
            "B-0321",
            "a ring of asynchronous I/O (io_setup)".to_owned(),
            "the kernel's side of it cannot be put back",
            "start the program with this feature off",
        ));
    }
    if has(VmFlags::HUGETLB) {
        return Some((
            "B-0323",
            format!("hugetlbfs pages {path}"),
            "reserved huge pages are not carried",
            "use transparent huge pages",
        ));
    }
    if has(VmFlags::PFN_MAP) || has(VmFlags::IO) {
        return Some((
            "B-0324",
            format!("memory of a device {path}"),
            "what lies behind it is hardware",
            "let the program release the device",
        ));
    }
    if has(VmFlags::UFFD_MISSING) || has(VmFlags::UFFD_WRITE_PROTECT) || has(VmFlags::UFFD_MINOR) {
        return Some((
            "B-0325",
            "userfaultfd".to_owned(),
            "who serves its faults cannot be put back",
            "start the program with this feature off",
        ));
    }
    if has(VmFlags::GUARDS_MAYBE) {
        return Some((
            "B-0328",
            "guard regions".to_owned(),
            "those of MADV_GUARD_INSTALL are not carried",
            "use a build of the program that makes its guards with mprotect",
        ));
    }
    if entry.protection_key != 0 {
        return Some(("B-0326", "a protection key".to_owned(), "keys are not carried", "none known"));
    }
    if has(VmFlags::SEALED) {
        return Some((
            "B-0327",
            "a sealed mapping".to_owned(),
            "seals of mseal are not carried",
            "none known",
        ));
    }
    if has(VmFlags::SHADOW_STACK) {
        return Some((
            "B-0303",
            "a shadow stack".to_owned(),
            "its contents cannot be put back",
            "start the program with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off",
        ));
    }
    None
}

/// All members must live in the same namespaces, and in ours but for those that a restored job has of its own.
fn namespaces(member: &Member, root: &Member, refusals: &mut Refusals) -> Result<(), Error> {
    let mut refuse = |code, resource: String, why: &str, hint: &str| {
        let (why, hint) = (why.to_owned(), hint.to_owned());
        refusals.push(Refusal { code, pid: Some(member.host), resource, why, hint });
    };
    let theirs = proc::namespaces(member.task())?;
    if member == root {
        let own = proc::namespaces(Pid(std::process::id() as i32))?;
        for (name, ours, theirs) in kinds(&own, &theirs) {
            if ours == theirs || matches!(name, "user" | "pid" | "time") {
                continue;
            }
            let mut resource = format!("a {name} namespace that is not this one");
            if name == "mnt" {
                let Some(point) = mounts::foreign_point(member.task())? else { continue };
                resource.push_str(&format!(": what it has at {} is not here", point.escape_ascii()));
            }
            refuse(
                "B-0309",
                resource,
                "it would have to be rebuilt around the program",
                "run brant inside of it",
            );
        }
        return Ok(());
    }
    for (name, expected, theirs) in kinds(&proc::namespaces(root.task())?, &theirs) {
        if expected != theirs {
            refuse(
                "B-0310",
                format!("a {name} namespace of its own"),
                "all processes of a tree must live in the same namespaces",
                "name a process inside of that namespace, or one of a tree without it",
            );
        }
    }
    Ok(())
}

fn kinds(a: &Namespaces, b: &Namespaces) -> [(&'static str, u64, u64); 8] {
    [
        ("user", a.user, b.user),
        ("pid", a.pid, b.pid),
        ("time", a.time, b.time),
        ("mnt", a.mount, b.mount),
        ("net", a.network, b.network),
        ("ipc", a.ipc, b.ipc),
        ("uts", a.uts, b.uts),
        ("cgroup", a.cgroup, b.cgroup),
    ]
}

/// Processes and threads that share a part of themselves in a way that fork and pthread_create do not make.
fn shared_tables(members: &[Member], refusals: &mut Refusals) {
    let mut refuse = |pid, other: String, what: &str| {
        refusals.push(Refusal {
            code: SHARED_BY_CLONE,
            pid: Some(pid),
            resource: format!("{what} shared with {other}"),
            why: "such sharing by clone is not carried".to_owned(),
            hint: "none but to let one of them end".to_owned(),
        });
    };
    let living: Vec<Pid> = members.iter().filter(|member| !member.zombie).map(|member| member.host).collect();
    for (what, kind) in SHAREABLE {
        // Kept in the kernel's order, so that large trees need few comparisons.
        let mut known: Vec<Pid> = Vec::with_capacity(living.len());
        for pid in &living {
            match known.binary_search_by(|other| descriptor::resource_order(*other, *pid, kind)) {
                // To the kernel, two that have nothing left have the same.
                Ok(_) if tree::ends(*pid) => {}
                Ok(at) if tree::ends(known[at]) => known[at] = *pid,
                Ok(at) => refuse(*pid, format!("process {}", known[at]), what),
                Err(at) => known.insert(at, *pid),
            }
        }
    }
    for a in &living {
        for tid in proc::tasks(*a).unwrap_or_default().into_iter().filter(|tid| tid.0 != a.0) {
            for (what, kind) in &SHAREABLE[1..] {
                // A thread that has ended, or is about to, shares nothing any more.
                let ends = || tree::thread_ends(*a, (*a).into()) || tree::thread_ends(*a, tid);
                if !descriptor::same_resource(*a, Pid(tid.0), *kind) && !ends() {
                    refuse(*a, format!("not with its thread {tid}"), what);
                }
            }
        }
    }
}

const SHAREABLE: [(&str, descriptor::Shared); 3] = [
    ("memory", descriptor::Shared::Memory),
    ("a descriptor table", descriptor::Shared::Files),
    ("a working directory", descriptor::Shared::FileSystem),
];
