//! `/proc/PID/ns/*`, `/proc/PID/uid_map`, `/proc/PID/gid_map`.

use std::os::unix::ffi::OsStrExt;

use brant_base::Pid;

use super::text::{Fields, ParseError, lines, split_once, unsigned, unsigned_32};
use super::{ProcError, Subject, attributes, read_parsed};

/// The inode numbers that name the namespaces of a process; 0 for a kind that the kernel does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Namespaces {
    pub cgroup: u64,
    pub ipc: u64,
    pub mount: u64,
    pub network: u64,
    pub pid: u64,
    pub pid_for_children: u64,
    pub time: u64,
    pub time_for_children: u64,
    pub user: u64,
    pub uts: u64,
}

/// Reads them all. [`ProcError::Denied`] for those who may not trace the process. A zombie has none
/// ([`ProcError::Absent`]).
pub fn namespaces(of: impl Into<Subject>) -> Result<Namespaces, ProcError> {
    let of = of.into();
    Ok(Namespaces {
        cgroup: optional(of, "ns/cgroup")?,
        ipc: optional(of, "ns/ipc")?,
        mount: namespace(of, "ns/mnt")?,
        network: optional(of, "ns/net")?,
        pid: optional(of, "ns/pid")?,
        // Unset between unshare(CLONE_NEWPID) and the first child.
        pid_for_children: optional(of, "ns/pid_for_children")?,
        time: optional(of, "ns/time")?,
        time_for_children: optional(of, "ns/time_for_children")?,
        user: optional(of, "ns/user")?,
        uts: optional(of, "ns/uts")?,
    })
}

fn optional(of: Subject, file: &str) -> Result<u64, ProcError> {
    match namespace(of, file) {
        Err(ProcError::Absent { .. }) => Ok(0),
        other => other,
    }
}

/// `mnt:[4026531832]`
fn namespace(of: Subject, file: &str) -> Result<u64, ProcError> {
    let text = attributes::link(of, file)?;
    let inode = split_once(text.as_os_str().as_bytes(), b'[')
        .and_then(|(_, rest)| unsigned(rest.strip_suffix(b"]")?, 10))
        .ok_or(ParseError::new(1, "a namespace and its inode"));
    inode.map_err(|source| ProcError::Malformed { subject: of, file: file.to_owned(), source })
}

/// A line of an id map: `count` ids from `inside` on are those from `outside` on in the reader's namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IdMapLine {
    pub inside: u32,
    pub outside: u32,
    pub count: u32,
}

impl IdMapLine {
    /// The id inside that `outside` is shown as, where this line covers it.
    pub fn to_inside(self, outside: u32) -> Option<u32> {
        let distance = outside.checked_sub(self.outside)?;
        if distance < self.count { self.inside.checked_add(distance) } else { None }
    }

    /// The opposite.
    pub fn to_outside(self, inside: u32) -> Option<u32> {
        let distance = inside.checked_sub(self.inside)?;
        if distance < self.count { self.outside.checked_add(distance) } else { None }
    }
}

/// The user ids of the process's user namespace.
pub fn uid_map(pid: Pid) -> Result<Vec<IdMapLine>, ProcError> {
    read_parsed(pid.into(), "uid_map", parse_id_map)
}

/// The group ids of the process's user namespace.
pub fn gid_map(pid: Pid) -> Result<Vec<IdMapLine>, ProcError> {
    read_parsed(pid.into(), "gid_map", parse_id_map)
}

/// Parses either file.
pub fn parse_id_map(bytes: &[u8]) -> Result<Vec<IdMapLine>, ParseError> {
    let parse = |line| {
        let mut fields = Fields::new(line).map(|word| unsigned_32(word, 10));
        Some(IdMapLine { inside: fields.next()??, outside: fields.next()??, count: fields.next()?? })
    };
    lines(bytes).map(|(number, line)| parse(line).ok_or(ParseError::new(number, "three numbers"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_are_read() {
        let own = Pid(std::process::id() as i32);
        let namespaces = namespaces(own).unwrap();
        assert!(
            namespaces.mount != 0 && namespaces.user != 0 && namespaces.pid == namespaces.pid_for_children
        );
        assert!(!uid_map(own).unwrap().is_empty() && !gid_map(own).unwrap().is_empty());
    }

    #[test]
    fn ids_are_translated() {
        let map =
            parse_id_map(b"         0       4001          1\n      1000     100000      65536\n").unwrap();
        assert_eq!(map.iter().find_map(|line| line.to_inside(4001)), Some(0));
        assert_eq!(map.iter().find_map(|line| line.to_inside(4002)), None);
        assert_eq!(map.iter().find_map(|line| line.to_outside(1001)), Some(100001));
        assert!(parse_id_map(b"0 1\n").is_err());
    }
}
