//! The process table, as far as jobs need it: who is whose child, since when, in what state.
//!
//! /proc/PID/stat is world-readable also for processes that may not be inspected otherwise. Its start time is
//! shifted by the reader's time namespace: compare only what the same namespace has read.

use brant_base::Pid;
use brant_kernel::proc;

/// What /proc/PID/stat says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) pid: Pid,
    pub(crate) parent: Pid,
    /// R, S, D, T (stopped), t (traced), Z (zombie), X.
    pub(crate) state: char,
    pub(crate) threads: i64,
    /// Since boot, in clock ticks.
    pub(crate) start_ticks: u64,
}

impl Stat {
    /// Whether it runs, as opposed to a zombie. One whose main thread has ended shows as a zombie too, but its other
    /// threads go on.
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X') || self.threads > 1
    }
}

/// The state of process `pid`, or `None` where there is none.
pub(crate) fn stat(pid: Pid) -> Option<Stat> {
    proc::stat(pid).ok().map(Stat::from)
}

impl From<proc::Stat> for Stat {
    fn from(stat: proc::Stat) -> Stat {
        Stat {
            pid: stat.pid,
            parent: stat.ppid,
            state: char::from(stat.state),
            threads: stat.num_threads,
            start_ticks: stat.starttime_ticks,
        }
    }
}

/// Every process that can be seen.
fn all() -> Vec<Stat> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| stat(Pid(pid)))
        .collect()
}

/// The children of `pid`, zombies too.
pub(crate) fn children(pid: Pid) -> Vec<Pid> {
    all().iter().filter(|stat| stat.parent == pid).map(|stat| stat.pid).collect()
}

/// All living descendants of `pid`, parents before their children. A snapshot: the tree may change meanwhile.
pub(crate) fn descendants(pid: Pid) -> Vec<Pid> {
    let all = all();
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        let children =
            all.iter().filter(|stat| stat.parent == parent && stat.is_alive()).map(|stat| stat.pid);
        let new: Vec<Pid> = children.filter(|child| !found.contains(child)).collect();
        found.extend(new);
        next += 1;
    }
    found.remove(0);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_line_with_a_hostile_name() {
        let line = "7 (a) b (c) S 3 7 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1 \
                    0 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0";
        let stat = Stat::from(proc::parse_stat(line.as_bytes()).unwrap());
        assert_eq!((stat.parent, stat.state, stat.threads, stat.start_ticks), (Pid(3), 'S', 1, 4711));
    }
}
