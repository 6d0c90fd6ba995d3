//! How much memory, and how many processes, may still be taken before the kernel would end somebody or refuse the program
//! something: what is available on the host, and the limits of cgroups, versions 1 and 2, up the hierarchy (cgroups(7),
//! `Documentation/admin-guide/cgroup-v2.rst`).
//!
//! While copies stand, each page that the program writes to is kept twice, and charged to the program's own groups. So
//! copies are made only where there is room for all of it, and a [`Guard`] ends them when room gets short, before a limit
//! could hit the program.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use brant_base::Pid;
use brant_kernel::proc::{self, Mount};
use brant_kernel::task;

use crate::error::Error;

/// What must be left: copies end where there is less, and twice as much must be left over at their beginning.
const RESERVE_BYTES: u64 = 32 << 20;
/// How long the guard sleeps between two looks. In this time a CPU writes to some 4,000 copied pages (16 MiB).
const LOOK_PAUSE: Duration = Duration::from_millis(4);

/// Processes that the program may still make while copies stand; each copy takes one, and another one for a moment.
const RESERVE_PROCESSES: u64 = 64;

/// Everything that limits the memory of some processes, and their number.
#[derive(Debug, Clone, Default)]
pub(crate) struct Headroom {
    /// Memory cgroups that have a limit.
    groups: BTreeSet<Group>,
    /// Those of processes.
    process_groups: BTreeSet<Group>,
    /// The smallest RLIMIT_NPROC.
    processes_max: u64,
}

/// A cgroup.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    folder: PathBuf,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    One,
    Two,
}

impl Headroom {
    /// That of these processes (host numbers).
    pub(crate) fn of(pids: impl Iterator<Item = Pid>) -> Headroom {
        let mounts = proc::mounts(Pid(std::process::id() as i32)).unwrap_or_default();
        let mut headroom = Headroom { processes_max: u64::MAX, ..Headroom::default() };
        for pid in pids {
            let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            let groups = groups_of(&text, &mounts, "memory").into_iter();
            headroom.groups.extend(groups.filter(|group| group.limit().is_some()));
            headroom.process_groups.extend(groups_of(&text, &mounts, "pids"));
            let limits = proc::limits(pid);
            let own = limits.map_or(u64::MAX, |limits| limits[libc::RLIMIT_NPROC as usize].soft);
            headroom.processes_max = headroom.processes_max.min(own);
        }
        headroom
    }

    /// Why there should be no `copies` copies of processes that have `bytes` of anonymous memory.
    pub(crate) fn too_little_for(&self, copies: u64, bytes: u64) -> Option<String> {
        self.too_few_processes_for(copies).or_else(|| self.too_little_memory_for(bytes))
    }

    /// A copy must not take what the program itself may want next.
    fn too_few_processes_for(&self, copies: u64) -> Option<String> {
        let needed = 2 * copies + RESERVE_PROCESSES;
        for group in &self.process_groups {
            let (Some(max), Some(now)) = (group.number("pids.max"), group.number("pids.current")) else {
                continue;
            };
            if max < now + needed {
                let place = group.folder.display();
                return Some(format!("the cgroup {place} has {now} of at most {max} processes and threads"));
            }
        }
        // Everybody's, as those of one user are not counted anywhere.
        let near = all_tasks().is_none_or(|now| self.processes_max < now + needed);
        near.then(|| format!("at most {} processes and threads of its user are allowed", self.processes_max))
    }

    /// Bytes that may still be taken, and what sets this limit. `None` where nothing that can be read does.
    fn bytes(&self) -> Option<(u64, String)> {
        let host = available_on_host().map(|bytes| (bytes, "on this host".to_owned()));
        let groups = self.groups.iter().filter_map(|group| {
            let used = group.used()?;
            Some((group.limit()?.saturating_sub(used), format!("in the cgroup {}", group.folder.display())))
        });
        groups.chain(host).min_by_key(|(bytes, _)| *bytes)
    }

    fn too_little_memory_for(&self, bytes: u64) -> Option<String> {
        if overcommit_is_strict() {
            return Some("the host promises no more memory than it has (vm.overcommit_memory)".to_owned());
        }
        let (left, place) = self.bytes()?;
        // With the page tables of the copies.
        let mut needed = bytes + bytes / 256 + 2 * RESERVE_BYTES;
        if self.groups.iter().any(Group::ends_as_one) {
            // There the program would end with its copy, should the guard ever come too late.
            needed += bytes + 8 * RESERVE_BYTES;
        }
        let mib = |bytes: u64| bytes >> 20;
        (left < needed).then(|| {
            format!("{} MiB of memory are left {place}, and a copy may need {} MiB", mib(left), mib(needed))
        })
    }

    fn is_short(&self) -> bool {
        self.bytes().is_some_and(|(left, _)| left < RESERVE_BYTES)
    }
}

impl Group {
    fn number(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.folder.join(file)).ok()?.trim().parse().ok()
    }

    /// In bytes; `None` without one.
    fn limit(&self) -> Option<u64> {
        // Version 1 writes "none" as the largest whole number of pages.
        const NONE: u64 = 1 << 62;
        match self.version {
            Version::One => self.number("memory.limit_in_bytes").filter(|bytes| *bytes < NONE),
            Version::Two => ["memory.max", "memory.high"].iter().filter_map(|file| self.number(file)).min(),
        }
    }

    /// Whether all of it is killed where one of it would be.
    fn ends_as_one(&self) -> bool {
        self.number("memory.oom.group") == Some(1)
    }

    /// What is charged to it, without the pages of files that the kernel gives back by itself.
    fn used(&self) -> Option<u64> {
        let (file, keys) = match self.version {
            Version::One => ("memory.usage_in_bytes", ["total_inactive_file", "total_active_file"]),
            Version::Two => ("memory.current", ["inactive_file", "active_file"]),
        };
        let all = self.number(file)?;
        let stat = fs::read_to_string(self.folder.join("memory.stat")).unwrap_or_default();
        let of_files = stat.lines().filter_map(|line| line.split_once(' '));
        let of_files =
            of_files.filter(|(key, _)| keys.contains(key)).filter_map(|(_, n)| n.parse::<u64>().ok());
        Some(all.saturating_sub(of_files.sum()))
    }
}

/// The cgroups of a process that `controller` knows, from the innermost to the root: `text` is its `/proc/PID/cgroup`.
fn groups_of(text: &str, mounts: &[Mount], controller: &str) -> Vec<Group> {
    let mut groups = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let version = match (number, controllers) {
            ("0", "") => Version::Two,
            (_, controllers) if controllers.split(',').any(|name| name == controller) => Version::One,
            _ => continue,
        };
        let Some(mount) = mounts.iter().find(|mount| holds(mount, version, controller)) else { continue };
        let root = Path::new(std::ffi::OsStr::from_bytes(&mount.root));
        // Outside of what is mounted here, or of our cgroup namespace, nothing can be read.
        let Ok(inside) = Path::new(path).strip_prefix(root) else { continue };
        if inside.components().any(|part| part == std::path::Component::ParentDir) {
            continue;
        }
        let point = Path::new(std::ffi::OsStr::from_bytes(&mount.point));
        for part in inside.ancestors() {
            groups.push(Group { folder: point.join(part), version });
        }
    }
    groups
}

fn holds(mount: &Mount, version: Version, controller: &str) -> bool {
    let mut options = mount.super_options.split(|byte| *byte == b',');
    match version {
        Version::Two => mount.file_system == b"cgroup2",
        Version::One => {
            mount.file_system == b"cgroup" && options.any(|option| option == controller.as_bytes())
        }
    }
}

/// A copy's memory would be taken off what the program may still ask for.
fn overcommit_is_strict() -> bool {
    const NEVER: &str = "2";
    fs::read_to_string("/proc/sys/vm/overcommit_memory").is_ok_and(|mode| mode.trim() == NEVER)
}

/// Processes and threads on this host.
fn all_tasks() -> Option<u64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').nth(3)?.split_once('/')?.1.parse().ok()
}

fn available_on_host() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// Ends copies when memory gets short. Lasts until it is dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    struck: AtomicBool,
    done: AtomicBool,
}

impl Guard {
    pub(crate) fn start(headroom: Headroom, copies: &[Pid]) -> Result<Guard, Error> {
        let failed =
            |error| Error::Descriptor { what: "watching over the memory of copies".to_owned(), error };
        let copies: Result<Vec<OwnedFd>, _> = copies.iter().map(|pid| task::pidfd_open(*pid)).collect();
        let copies = copies.map_err(failed)?;
        let shared = Arc::new(Shared::default());
        let watched = Arc::clone(&shared);
        let watch = move || {
            while !watched.done.load(Ordering::Acquire) {
                if headroom.is_short() {
                    watched.struck.store(true, Ordering::Release);
                    for copy in &copies {
                        // One that has ended needs no end.
                        let _ = task::pidfd_send_signal(copy, libc::SIGKILL);
                    }
                    return;
                }
                std::thread::park_timeout(LOOK_PAUSE);
            }
        };
        let thread = std::thread::Builder::new().name("brant-guard".into()).spawn(watch).map_err(failed)?;
        Ok(Guard { shared, thread: Some(thread) })
    }

    /// Whether it has ended the copies.
    pub(crate) fn has_struck(&self) -> bool {
        self.shared.struck.load(Ordering::Acquire)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shared.done.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(file_system: &str, root: &str, point: &str, super_options: &str) -> Mount {
        Mount {
            file_system: file_system.into(),
            root: root.into(),
            point: point.into(),
            super_options: super_options.into(),
            ..Mount::default()
        }
    }

    #[test]
    fn groups_are_found_up_to_the_root() {
        let mounts = [
            mount("cgroup", "/", "/sys/fs/cgroup/cpu", "rw,cpu"),
            mount("cgroup", "/", "/sys/fs/cgroup/memory", "rw,memory"),
            mount("cgroup2", "/", "/sys/fs/cgroup/unified", "rw"),
        ];
        let groups = groups_of("4:memory:/a/b\n1:cpu:/\n0::/u\n", &mounts, "memory");
        let folders: Vec<_> = groups.iter().map(|group| group.folder.to_str().unwrap()).collect();
        let memory = "/sys/fs/cgroup/memory";
        let expected = [format!("{memory}/a/b"), format!("{memory}/a"), format!("{memory}/")];
        assert_eq!(folders[..3], expected);
        assert_eq!(folders[3..], ["/sys/fs/cgroup/unified/u", "/sys/fs/cgroup/unified/"]);
    }

    #[test]
    fn a_container_sees_a_part_of_the_hierarchy() {
        let mounts = [mount("cgroup", "/docker/x", "/sys/fs/cgroup/memory", "rw,memory")];
        assert_eq!(groups_of("4:memory:/docker/x/y\n", &mounts, "memory").len(), 2);
        assert!(groups_of("4:memory:/other\n", &mounts, "memory").is_empty());
        let mounts = [mount("cgroup2", "/", "/sys/fs/cgroup", "rw")];
        assert!(groups_of("0::/../outside\n", &mounts, "memory").is_empty());
    }

    #[test]
    fn a_host_has_memory() {
        assert!(available_on_host().is_some_and(|bytes| bytes > RESERVE_BYTES));
        assert!(all_tasks().is_some_and(|tasks| tasks > 1));
        let headroom = Headroom { processes_max: u64::MAX, ..Headroom::default() };
        assert!(headroom.too_little_for(1, u64::MAX / 4).is_some());
        assert_eq!(headroom.too_few_processes_for(1), None);
        assert!(Headroom { processes_max: 1, ..headroom }.too_few_processes_for(1).is_some());
    }
}
