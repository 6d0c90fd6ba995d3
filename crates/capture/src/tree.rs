//! The processes of a tree: who they are, parents first.

use std::collections::VecDeque;

use brant_base::Pid;

/// One process as discovery found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its number in our own pid namespace.
    pub host: Pid,
    /// Its number in its innermost pid namespace: the one that it knows and that an image holds.
    pub pid: Pid,
    /// It has ended and waits to be reaped: it has neither memory nor descriptors.
    pub zombie: bool,
}

/// Everything that descends from `roots` (host numbers), parents before children. `children` lists a process's children,
/// `member` looks one up; both give `None` for a process that has gone.
pub(crate) fn discover(
    roots: &[Pid],
    children: impl Fn(Pid) -> Vec<Pid>,
    member: impl Fn(Pid) -> Option<Member>,
) -> Vec<Member> {
    let mut found = Vec::<Member>::new();
    let mut queue: VecDeque<Pid> = roots.iter().copied().collect();
    while let Some(host) = queue.pop_front() {
        if found.iter().any(|known| known.host == host) {
            continue;
        }
        let Some(process) = member(host) else { continue };
        queue.extend(children(host));
        found.push(process);
    }
    found
}
