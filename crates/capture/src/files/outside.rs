//! Who holds something besides the tree: the links under /proc of all other processes that this user may look at.

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;

use brant_base::{Pid, Refusal, Refusals};
use brant_kernel::proc::{self, MapKind};

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
        for pid in others(survey) {
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

/// Every process that is neither in the tree nor this one.
fn others(survey: &Survey) -> impl Iterator<Item = Pid> + use<> {
    let own = Pid(std::process::id() as i32);
    let inside: HashSet<Pid> = survey.members.iter().map(|member| member.host).chain([own]).collect();
    proc::processes().unwrap_or_default().into_iter().filter(move |pid| !inside.contains(pid))
}

/// Refuses memory that a process outside of the tree has mapped, too: after a restore each would have its own. Files
/// that have a name are shared through it. Not looked for once the tree is frozen: it takes long, and nothing is shared
/// with a process that was not forked from those that share it already.
pub(super) fn refuse_shared_memory(survey: &Survey, refusals: &mut Refusals) {
    let mut shared: HashMap<Vec<u8>, (Pid, String)> = HashMap::new();
    for member in survey.members.iter().filter(|member| !member.zombie) {
        if is_frozen(member.host) {
            return;
        }
        for entry in proc::maps(member.task()).unwrap_or_default() {
            let nameless = match entry.kind {
                MapKind::SharedAnonymous(_) | MapKind::Memfd(_) => true,
                MapKind::File => entry.deleted,
                _ => false,
            };
            if entry.shared && nameless {
                let (device, inode) = (entry.device, entry.inode);
                let columns = format!("{:02x}:{:02x} {inode}", device.major, device.minor).into_bytes();
                shared.entry(columns).or_insert_with(|| (member.host, entry.range.to_string()));
            }
        }
    }
    if shared.is_empty() {
        return;
    }
    for pid in others(survey) {
        for line in
            std::fs::read(format!("/proc/{pid}/maps")).unwrap_or_default().split(|byte| *byte == b'\n')
        {
            let Some((first, range)) = columns(line).and_then(|columns| shared.remove(columns)) else {
                continue;
            };
            let name = text(&proc::comm(pid).unwrap_or_default());
            refusals.push(Refusal {
                code: "B-0346",
                pid: Some(first),
                resource: format!("the shared memory at {range}"),
                why: format!("process {pid} ({name}), which is outside of the tree, shares it"),
                hint: "checkpoint a tree that has all who share it".to_owned(),
            });
        }
    }
}

/// `DEVICE INODE` of a line of maps whose file has no name any more.
fn columns(line: &[u8]) -> Option<&[u8]> {
    if !line.ends_with(b"(deleted)") {
        return None;
    }
    let mut blanks = line.iter().enumerate().filter(|(_, byte)| **byte == b' ').map(|(at, _)| at);
    let start = blanks.nth(2)? + 1;
    let end = blanks.nth(1)?;
    line.get(start..end)
}

fn is_frozen(pid: Pid) -> bool {
    proc::status(pid).is_ok_and(|status| {
        status.tracer != Pid(0)
            && std::path::Path::new(&format!("/proc/self/task/{}", status.tracer)).exists()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_and_inode_are_cut_out() {
        let line = b"7f00-7f01 rw-s 00000000 00:01 1039                       /dev/zero (deleted)";
        assert_eq!(columns(line).unwrap(), b"00:01 1039");
        assert_eq!(columns(b"7f00-7f01 r-xp 00000000 fe:00 12 /usr/bin/x"), None);
        assert_eq!(columns(b"(deleted)"), None);
    }
}
