//! `/proc/PID/fd` and `/proc/PID/fdinfo/N`: the open descriptors of a process.
//!
//! Which keys a description has tells what it is. Formats: `Documentation/filesystems/proc.rst` and the
//! `show_fdinfo` operations of Linux 6.18. Keys that are not known are kept, so that nothing is lost silently.

use brant_base::Pid;

use super::locks::{LockEntry, parse_lock};
use super::maps::Device;
use super::text::{Fields, ParseError, lines, signed, signed_32, split_once, trim, unsigned, unsigned_32};
use super::{ProcError, Subject, read_parsed, tree};

/// What the kernel says of one descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FdInfo {
    /// In bytes; means nothing for what cannot be sought.
    pub position: i64,
    /// As F_GETFL gives them, with O_CLOEXEC where that is set on the descriptor.
    pub flags: u32,
    pub mount: i32,
    /// 0 on kernels before 5.14.
    pub inode: u64,
    /// Locks that were taken through this description or, POSIX ones, by this process on the file.
    pub locks: Vec<LockEntry>,
    pub eventfd_count: Option<u64>,
    /// `None` on kernels before 6.5, where the key is missing.
    pub eventfd_semaphore: Option<bool>,
    pub epoll: Vec<EpollTarget>,
    pub timerfd: Option<TimerFdInfo>,
    /// Of a signalfd: the signals it takes, signal 1 in bit 0.
    pub signal_mask: Option<u64>,
    pub inotify: Vec<InotifyMark>,
    /// Of a pidfd: the process in the reader's pid namespace; -1 where it was reaped, 0 where it is not visible.
    pub pidfd: Option<i32>,
    /// Of a pidfd: the process in each pid namespace, the reader's first.
    pub pidfd_ns: Vec<i32>,
    /// Of /dev/ptmx: the number under /dev/pts.
    pub tty_index: Option<u32>,
    /// Of a unix socket: descriptors in flight towards it.
    pub scm_fds: Option<u32>,
    /// Every line that is none of these, whole.
    pub unknown: Vec<Vec<u8>>,
}

/// An interest of an epoll instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EpollTarget {
    /// The descriptor's number when it was added.
    pub number: i32,
    pub events: u32,
    pub data: u64,
    pub position: i64,
    pub inode: u64,
    pub device: Device,
}

/// Of a timerfd. The remaining time is 0 where it is disarmed or has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimerFdInfo {
    pub clock: i32,
    /// Expirations not yet read.
    pub ticks: u64,
    pub settime_flags: u32,
    pub value_ns: u64,
    pub interval_ns: u64,
}

/// A watch of an inotify instance.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InotifyMark {
    pub descriptor: i32,
    pub inode: u64,
    pub device: Device,
    pub mask: u32,
    /// Type and bytes of the file handle (name_to_handle_at(2)); empty where the file system has none.
    pub handle: Option<(i32, Vec<u8>)>,
}

/// The numbers of the open descriptors, ascending.
pub fn open_descriptors(pid: Pid) -> Result<Vec<i32>, ProcError> {
    tree::list_numbers(pid.into(), "fd")
}

/// Reads that of descriptor `number`. [`ProcError::Absent`] where it was closed.
pub fn fdinfo(pid: Pid, number: i32) -> Result<FdInfo, ProcError> {
    read_parsed(Subject::Process(pid), &format!("fdinfo/{number}"), parse_fdinfo)
}

/// Parses the file.
pub fn parse_fdinfo(bytes: &[u8]) -> Result<FdInfo, ParseError> {
    let mut info = FdInfo::default();
    for (number, line) in lines(bytes) {
        let known = set_structured(&mut info, line).map_err(|error| error.at(number))?;
        if known {
            continue;
        }
        let known = match split_once(line, b':') {
            Some((key, value)) => set(&mut info, key, trim(value))
                .ok_or(ParseError::new(number, "a value that fits its key"))?,
            None => false,
        };
        if !known && !line.is_empty() {
            info.unknown.push(line.to_vec());
        }
    }
    Ok(info)
}

/// Lines that hold more than one value. Answers whether this is one.
fn set_structured(info: &mut FdInfo, line: &[u8]) -> Result<bool, ParseError> {
    if let Some(rest) = line.strip_prefix(b"lock:") {
        info.locks.extend(parse_lock(rest)?);
    } else if line.starts_with(b"tfd:") {
        info.epoll.push(parse_epoll(line).ok_or(ParseError::new(1, "an epoll target"))?);
    } else if let Some(rest) = line.strip_prefix(b"inotify ") {
        info.inotify.push(parse_inotify(rest).ok_or(ParseError::new(1, "an inotify watch"))?);
    } else {
        return Ok(false);
    }
    Ok(true)
}

fn set(info: &mut FdInfo, key: &[u8], value: &[u8]) -> Option<bool> {
    match key {
        b"pos" => info.position = signed(value)?,
        b"flags" => info.flags = unsigned_32(value, 8)?,
        b"mnt_id" => info.mount = signed_32(value)?,
        b"ino" => info.inode = unsigned(value, 10)?,
        b"eventfd-count" => info.eventfd_count = Some(unsigned(value, 16)?),
        b"eventfd-semaphore" => info.eventfd_semaphore = Some(value == b"1"),
        b"eventfd-id" => {}
        b"sigmask" => info.signal_mask = Some(unsigned(value, 16)?),
        b"Pid" => info.pidfd = Some(signed_32(value)?),
        b"NSpid" => info.pidfd_ns = Fields::new(value).map(signed_32).collect::<Option<_>>()?,
        b"tty-index" => info.tty_index = Some(unsigned_32(value, 10)?),
        b"scm_fds" => info.scm_fds = Some(unsigned_32(value, 10)?),
        _ => return set_timerfd(info, key, value),
    }
    Some(true)
}

fn set_timerfd(info: &mut FdInfo, key: &[u8], value: &[u8]) -> Option<bool> {
    if key == b"clockid" {
        info.timerfd = Some(TimerFdInfo { clock: signed_32(value)?, ..TimerFdInfo::default() });
        return Some(true);
    }
    let Some(timer) = info.timerfd.as_mut() else { return Some(false) };
    match key {
        b"ticks" => timer.ticks = unsigned(value, 10)?,
        b"settime flags" => timer.settime_flags = unsigned_32(value, 8)?,
        b"it_value" => timer.value_ns = parse_time(value)?,
        b"it_interval" => timer.interval_ns = parse_time(value)?,
        _ => return Some(false),
    }
    Some(true)
}

/// `(SECONDS, NANOSECONDS)`
fn parse_time(value: &[u8]) -> Option<u64> {
    let inner = value.strip_prefix(b"(")?.strip_suffix(b")")?;
    let (seconds, nanoseconds) = split_once(inner, b',')?;
    unsigned(seconds, 10)?.checked_mul(1_000_000_000)?.checked_add(unsigned(trim(nanoseconds), 10)?)
}

/// `tfd:        4 events:       19 data:                4  pos:0 ino:3d6b sdev:f`; kernels before 4.14 stop
/// after the data.
fn parse_epoll(line: &[u8]) -> Option<EpollTarget> {
    let mut target = EpollTarget::default();
    let mut fields = Fields::new(line);
    while let Some(word) = fields.next() {
        let (key, inline) = split_once(word, b':')?;
        let value = if inline.is_empty() { fields.next()? } else { inline };
        match key {
            b"tfd" => target.number = signed_32(value)?,
            b"events" => target.events = unsigned_32(value, 16)?,
            b"data" => target.data = unsigned(value, 16)?,
            b"pos" => target.position = signed(value)?,
            b"ino" => target.inode = unsigned(value, 16)?,
            b"sdev" => target.device = Device::from_kernel(unsigned_32(value, 16)?),
            _ => {}
        }
    }
    Some(target)
}

/// `wd:1 ino:3c4a7 sdev:fe00000 mask:102 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:a7c403...`
fn parse_inotify(rest: &[u8]) -> Option<InotifyMark> {
    let mut mark = InotifyMark::default();
    let mut handle_type = 0;
    for word in Fields::new(rest) {
        let (key, value) = split_once(word, b':')?;
        match key {
            b"wd" => mark.descriptor = unsigned(value, 16)?.try_into().ok()?,
            b"ino" => mark.inode = unsigned(value, 16)?,
            b"sdev" => mark.device = Device::from_kernel(unsigned_32(value, 16)?),
            b"mask" => mark.mask = unsigned_32(value, 16)?,
            b"fhandle-type" => handle_type = unsigned(value, 16)? as i32,
            b"f_handle" => mark.handle = Some((handle_type, parse_hex(value)?)),
            _ => {}
        }
    }
    Some(mark)
}

fn parse_hex(text: &[u8]) -> Option<Vec<u8>> {
    let pairs = text.chunks(2).map(|pair| unsigned(pair, 16).map(|byte| byte as u8));
    if text.len().is_multiple_of(2) { pairs.collect() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proc::LockKind;

    const HEAD: &str = "pos:\t0\nflags:\t02000002\nmnt_id:\t17\nino:\t1038\n";

    fn parse(tail: &str) -> FdInfo {
        let info = parse_fdinfo(format!("{HEAD}{tail}").as_bytes()).unwrap();
        assert_eq!((info.position, info.flags, info.mount, info.inode), (0, 0o2000002, 17, 1038));
        info
    }

    #[test]
    fn every_known_kind_is_understood() {
        let epoll =
            parse("tfd:        4 events:       19 data: ffffffff00000004  pos:0 ino:3d6b sdev:fe00001\n");
        let expected = EpollTarget {
            number: 4,
            events: 0x19,
            data: 0xffff_ffff_0000_0004,
            position: 0,
            inode: 0x3d6b,
            device: Device { major: 254, minor: 1 },
        };
        assert_eq!(epoll.epoll, [expected]);
        let eventfd = parse("eventfd-count: fffffffffffffffe\neventfd-id: 1\neventfd-semaphore: 1\n");
        assert_eq!(eventfd.eventfd_count, Some(u64::MAX - 1));
        assert_eq!(eventfd.eventfd_semaphore, Some(true));
        let timer = parse("clockid: 7\nticks: 5\nsettime flags: 01\nit_value: (1, 5)\nit_interval: (0, 9)\n");
        let expected =
            TimerFdInfo { clock: 7, ticks: 5, settime_flags: 1, value_ns: 1_000_000_005, interval_ns: 9 };
        assert_eq!(timer.timerfd, Some(expected));
        assert_eq!(parse("sigmask:\t0000000000000202\n").signal_mask, Some(0x202));
        let pidfd = parse("Pid:\t-1\nNSpid:\t8457\t12\n");
        assert_eq!((pidfd.pidfd, pidfd.pidfd_ns), (Some(-1), vec![8457, 12]));
        assert_eq!(parse("tty-index:\t3\n").tty_index, Some(3));
        assert_eq!(parse("scm_fds: 2\n").scm_fds, Some(2));
        let locked = parse("lock:\t2: POSIX  ADVISORY  READ 12315 fe:00:10010815 5 14\n");
        assert_eq!(locked.locks[0].kind, LockKind::Posix);
    }

    #[test]
    fn inotify_and_unknown_lines_are_kept() {
        let info = parse(
            "inotify wd:a ino:3c4a7 sdev:fe00000 mask:102 ignored_mask:0 fhandle-bytes:2 fhandle-type:1 f_handle:a7c4\n\
             SqMask:\t0x3\nno colon\n",
        );
        let mark = &info.inotify[0];
        assert_eq!((mark.descriptor, mark.inode, mark.mask), (10, 0x3c4a7, 0x102));
        assert_eq!(mark.device, Device { major: 254, minor: 0 });
        assert_eq!(mark.handle, Some((1, vec![0xa7, 0xc4])));
        assert_eq!(info.unknown, [b"SqMask:\t0x3".to_vec(), b"no colon".to_vec()]);
    }

    #[test]
    fn our_own_descriptors_are_read() {
        let own = Pid(std::process::id() as i32);
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&file);
        assert!(open_descriptors(own).unwrap().contains(&number));
        assert_ne!(fdinfo(own, number).unwrap().flags & libc::O_CLOEXEC as u32, 0);
        assert!(matches!(fdinfo(own, 1 << 20), Err(ProcError::Absent { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse_fdinfo(&bytes);
        }

        #[test]
        fn any_values_are_survived(
            key in "(pos|lock|tfd|inotify wd|clockid|it_value|Pid|f_handle|sigmask)",
            value in "[-0-9a-f:(), A-Z]{0,40}",
        ) {
            let _ = parse_fdinfo(format!("clockid: 1\n{key}:{value}\n{key}: {value}\n").as_bytes());
        }
    }
}
