//! Who is there: processes, their threads, their children.

use brant_base::{Pid, Tid};

use super::text::{Fields, ParseError, signed_32};
use super::{ProcError, Subject, read_parsed, stat};

/// Every process that is visible, ascending.
pub fn processes() -> Result<Vec<Pid>, ProcError> {
    Ok(list_numbers(Subject::System, "")?.into_iter().map(Pid).collect())
}

/// The threads of a process, ascending. In a running process the list may be old at once: repeat it until
/// nothing new appears.
pub fn tasks(pid: Pid) -> Result<Vec<Tid>, ProcError> {
    Ok(list_numbers(pid.into(), "task")?.into_iter().map(Tid).collect())
}

/// The children of all threads of a process, zombies among them, ascending. Reliable only while those are
/// stopped (proc(5), `children`).
pub fn children(pid: Pid) -> Result<Vec<Pid>, ProcError> {
    let mut all = Vec::new();
    for tid in tasks(pid)? {
        match read_parsed(Subject::Thread(pid, tid), "children", parse_numbers) {
            Ok(pids) => all.extend(pids.into_iter().map(Pid)),
            // This thread has ended; its children went to another.
            Err(ProcError::Gone(_)) => {}
            // A kernel without CONFIG_PROC_CHILDREN.
            Err(ProcError::Absent { .. }) => return children_by_parent(pid),
            Err(other) => return Err(other),
        }
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// The same by asking every process for its parent.
fn children_by_parent(parent: Pid) -> Result<Vec<Pid>, ProcError> {
    let mut all = Vec::new();
    for pid in processes()? {
        match stat::stat(pid) {
            Ok(stat) if stat.ppid == parent => all.push(pid),
            Ok(_) => {}
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// Parses numbers that are separated by blanks.
pub fn parse_numbers(bytes: &[u8]) -> Result<Vec<i32>, ParseError> {
    Fields::new(bytes).map(|word| signed_32(word).ok_or(ParseError::new(1, "a number"))).collect()
}

/// The entries of a directory whose names are numbers, ascending.
pub(super) fn list_numbers(subject: Subject, file: &str) -> Result<Vec<i32>, ProcError> {
    let fail = |error| ProcError::from_io(subject, file, error);
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(subject.path(file)).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        numbers.extend(signed_32(name.as_encoded_bytes()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_found_both_ways() {
        let own = Pid(std::process::id() as i32);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid(child.id() as i32);
        let (fast, slow) = (children(own).unwrap(), children_by_parent(own).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(fast.contains(&pid) && slow.contains(&pid));
        assert!(tasks(own).unwrap().contains(&Tid(own.0)));
        assert!(processes().unwrap().contains(&own));
        assert!(tasks(pid).unwrap_err().is_gone());
        assert!(children(pid).unwrap_err().is_gone());
    }
    #[test]
    fn a_zombie_is_read_without_a_panic() {
        let mut child = std::process::Command::new("false").spawn().unwrap();
        let pid = Pid(child.id() as i32);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while stat::stat(pid).unwrap().state != b'Z' {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        let status = crate::proc::status(pid).unwrap();
        assert!(status.is_zombie() && status.umask.is_none());
        assert!(children(Pid(std::process::id() as i32)).unwrap().contains(&pid));
        assert_eq!(stat::stat(pid).unwrap().exit_signal, libc::SIGCHLD);
        assert!(crate::proc::cmdline(pid).unwrap().is_empty());
        assert!(crate::proc::maps(pid).is_ok_and(|entries| entries.is_empty()));
        assert_eq!(crate::proc::comm(pid).unwrap(), b"false");
        assert!(crate::proc::open_descriptors(pid).map_or(true, |numbers| numbers.is_empty()));
        assert!(matches!(crate::proc::namespaces(pid), Err(ProcError::Absent { .. })));
        assert!(crate::proc::Pagemap::open(pid).is_err());
        child.wait().unwrap();
        assert!(stat::stat(pid).unwrap_err().is_gone());
    }
}
