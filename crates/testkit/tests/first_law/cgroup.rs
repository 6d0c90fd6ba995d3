//! Control groups of either version, for programs that are to have little room.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use brant_testkit::wait_until;

/// How long the kernel may need to see that a group is empty.
const EMPTY_TIMEOUT_S: u64 = 20;

/// A group of its own, removed on drop.
#[derive(Debug)]
pub(crate) struct Group {
    folder: PathBuf,
    is_version_1: bool,
}

impl Group {
    /// A group of `controller`; `None` where this host lets the test make none.
    pub(crate) fn new(controller: &str) -> Option<Group> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("brant-test-{}-{number}", std::process::id());
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for line in mounts.lines() {
            let [_, point, kind, options, ..] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
            let is_version_1 = kind == "cgroup" && options.split(',').any(|option| option == controller);
            if !is_version_1 && kind != "cgroup2" {
                continue;
            }
            if kind == "cgroup2" {
                let _ = fs::write(format!("{point}/cgroup.subtree_control"), format!("+{controller}"));
            }
            let folder = PathBuf::from(point).join(&name);
            if fs::create_dir(&folder).is_err() {
                continue;
            }
            let group = Group { folder, is_version_1 };
            // Without the controller the folder has no such file.
            let first = if controller == "pids" { "pids.current" } else { group.memory_files().0 };
            if group.number(first).is_some() {
                return Some(group);
            }
        }
        None
    }

    pub(crate) fn add(&self, pid: i32) {
        // It may have ended already.
        let _ = fs::write(self.folder.join("cgroup.procs"), pid.to_string());
    }

    /// Allows so much more memory than is used now.
    pub(crate) fn limit_memory(&self, more_bytes: u64) {
        let (used, limit) = self.memory_files();
        self.set(limit, self.number(used).expect("the controller is there") + more_bytes);
    }

    /// Allows so many more processes and threads than there are.
    pub(crate) fn limit_processes(&self, more: u64) {
        self.set("pids.max", self.number("pids.current").expect("the controller is there") + more);
    }

    fn memory_files(&self) -> (&'static str, &'static str) {
        if self.is_version_1 {
            ("memory.usage_in_bytes", "memory.limit_in_bytes")
        } else {
            ("memory.current", "memory.max")
        }
    }

    fn number(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.folder.join(file)).ok()?.trim().parse().ok()
    }

    fn set(&self, file: &str, value: u64) {
        fs::write(self.folder.join(file), value.to_string())
            .unwrap_or_else(|error| panic!("{file} of {}: {error}", self.folder.display()));
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        wait_until(EMPTY_TIMEOUT_S, || fs::remove_dir(&self.folder).is_ok());
    }
}
