//! Who holds something besides the tree: the links under /proc of all other processes that this user may look at.

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;

use brant_base::Pid;
use brant_kernel::proc;

use super::Survey;
use crate::refusals::text;

/// A descriptor of a process outside of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outsider {
    pub(super) pid: Pid,
    pub(super) number: i32,
}

impl Outsider {
    /// `process 12 (NAME)`
    pub(super) fn name(self) -> String {
        let name = proc::comm(self.pid).unwrap_or_default();
        format!("process {} ({})", self.pid, text(&name))
    }

    /// Whether its descriptor can be read from and written to.
    pub(super) fn access(self) -> (bool, bool) {
        let flags = proc::fdinfo(self.pid, self.number).map_or(libc::O_RDWR, |info| info.flags as i32);
        let mode = flags & libc::O_ACCMODE;
        (mode != libc::O_WRONLY, mode != libc::O_RDONLY)
    }
}

/// Descriptors of others, by the texts of their links.
#[derive(Default)]
pub(super) struct Outsiders(HashMap<Vec<u8>, Vec<Outsider>>);

impl Outsiders {
    /// Looks for `wanted` link texts, such as `pipe:[7]`.
    pub(super) fn find(survey: &Survey, wanted: &HashSet<Vec<u8>>) -> Outsiders {
        let mut found = Outsiders::default();
        if wanted.is_empty() {
            return found;
        }
        let own = Pid(std::process::id() as i32);
        let inside: HashSet<Pid> = survey.members.iter().map(|member| member.host).chain([own]).collect();
        for pid in proc::processes().unwrap_or_default().into_iter().filter(|pid| !inside.contains(pid)) {
            // Those of other users may not be looked at.
            for number in proc::open_descriptors(pid).unwrap_or_default() {
                let Ok(link) = std::fs::read_link(format!("/proc/{pid}/fd/{number}")) else { continue };
                let link = link.as_os_str().as_bytes();
                if wanted.contains(link) {
                    found.0.entry(link.to_vec()).or_default().push(Outsider { pid, number });
                }
            }
        }
        found
    }

    pub(super) fn of(&self, link: &[u8]) -> &[Outsider] {
        self.0.get(link).map_or(&[], Vec::as_slice)
    }
}
