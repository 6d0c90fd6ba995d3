//! `/proc/PID/mountinfo`.

use super::maps::Device;
use super::text::{Fields, ParseError, lines, split_once, unescape, unsigned_32};
use super::{ProcError, Subject, read_parsed};

/// One mount of the process's mount namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mount {
    pub id: i32,
    pub parent: i32,
    pub device: Device,
    /// The directory of the file system that is its root.
    pub root: Vec<u8>,
    /// Where it is mounted, seen from the process's root.
    pub point: Vec<u8>,
    /// Options of the mount, separated by commas.
    pub options: Vec<u8>,
    /// `shared:N`, `master:N`, `propagate_from:N`, `unbindable`.
    pub propagation: Vec<Vec<u8>>,
    pub file_system: Vec<u8>,
    pub source: Vec<u8>,
    /// Options of the file system, separated by commas.
    pub super_options: Vec<u8>,
}

/// The mounts that a process sees, in mount order.
pub fn mounts(of: impl Into<Subject>) -> Result<Vec<Mount>, ProcError> {
    read_parsed(of.into(), "mountinfo", parse_mounts)
}

/// Parses the file.
pub fn parse_mounts(bytes: &[u8]) -> Result<Vec<Mount>, ParseError> {
    lines(bytes).map(|(number, line)| parse_mount(line).map_err(|error| error.at(number))).collect()
}

fn parse_mount(line: &[u8]) -> Result<Mount, ParseError> {
    let mut fields = Fields::new(line);
    let mut mount = Mount {
        id: number(fields.signed("a mount id")?)?,
        parent: number(fields.signed("a parent's id")?)?,
        ..Mount::default()
    };
    mount.device = parse_device(fields.word("a device")?).ok_or(ParseError::new(1, "a device"))?;
    mount.root = unescape(fields.word("a root")?);
    mount.point = unescape(fields.word("a mount point")?);
    mount.options = fields.word("mount options")?.to_vec();
    loop {
        match fields.word("a dash")? {
            b"-" => break,
            word => mount.propagation.push(word.to_vec()),
        }
    }
    mount.file_system = unescape(fields.word("a file system")?);
    // The source may be empty: then two blanks follow each other, and the options come next.
    let mut rest: Vec<&[u8]> = fields.collect();
    mount.super_options = rest.pop().ok_or(ParseError::new(1, "options of the file system"))?.to_vec();
    mount.source = rest.pop().map(unescape).unwrap_or_default();
    Ok(mount)
}

fn number(value: i64) -> Result<i32, ParseError> {
    value.try_into().map_err(|_| ParseError::new(1, "a mount id"))
}

/// `254:0`, both in decimal.
fn parse_device(word: &[u8]) -> Option<Device> {
    let (major, minor) = split_once(word, b':')?;
    Some(Device { major: unsigned_32(major, 10)?, minor: unsigned_32(minor, 10)? })
}

#[cfg(test)]
mod tests {
    use brant_base::Pid;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn optional_fields_and_escapes_are_understood() {
        let line =
            br"36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue
27 1 0:25 / / rw - tmpfs  rw,size=4k
";
        let mounts = parse_mounts(line).unwrap();
        assert_eq!(mounts[0].point, b"/mnt 2");
        assert_eq!(mounts[0].propagation, [b"master:1".to_vec(), b"shared:7".to_vec()]);
        assert_eq!((&mounts[0].file_system[..], &mounts[0].source[..]), (&b"ext3"[..], &b"/dev/root"[..]));
        assert_eq!((&mounts[1].source[..], &mounts[1].super_options[..]), (&b""[..], &b"rw,size=4k"[..]));
    }

    #[test]
    fn our_own_have_a_root() {
        let mounts = mounts(Pid(std::process::id() as i32)).unwrap();
        assert!(mounts.iter().any(|mount| mount.point == b"/"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse_mounts(&bytes);
        }
    }
}
