//! `/proc/PID/status` and `/proc/PID/task/TID/status`.

use brant_base::{Pid, Tid};

use super::text::{Fields, ParseError, lines, signed_32, split_once, trim, unescape, unsigned, unsigned_32};
use super::{ProcError, Subject, read_parsed};

/// What the file says. Ids are in the reader's user namespace; signal masks have signal 1 in bit 0.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    pub name: Vec<u8>,
    /// `None` for a zombie.
    pub umask: Option<u32>,
    /// As in [`super::Stat`].
    pub state: u8,
    pub tgid: Pid,
    pub pid: Pid,
    pub ppid: Pid,
    /// 0 for none.
    pub tracer: Pid,
    /// Real, effective, saved, file system.
    pub uids: [u32; 4],
    /// Real, effective, saved, file system.
    pub gids: [u32; 4],
    pub groups: Vec<u32>,
    /// The thread group's number in each pid namespace, the reader's first, the innermost last.
    pub ns_tgid: Vec<i32>,
    /// The thread's number, as above.
    pub ns_pid: Vec<i32>,
    /// The process group's number, as above; 0 where its leader is outside that namespace.
    pub ns_pgid: Vec<i32>,
    /// The session's number, as above.
    pub ns_sid: Vec<i32>,
    pub is_kernel_thread: bool,
    /// 0 for a zombie and a kernel thread, which have no address space.
    pub vm_size_kib: u64,
    pub vm_rss_kib: u64,
    /// The anonymous part of it.
    pub rss_anonymous_kib: u64,
    pub vm_swap_kib: u64,
    pub core_dumping: bool,
    /// `None` where the kernel does not say.
    pub thp_enabled: Option<bool>,
    pub threads: u32,
    /// Pending for the thread.
    pub signals_pending: u64,
    /// Pending for the process.
    pub signals_pending_shared: u64,
    pub signals_blocked: u64,
    pub signals_ignored: u64,
    pub signals_caught: u64,
    /// Inheritable, permitted, effective, bounding, ambient.
    pub capabilities: [u64; 5],
    pub no_new_privs: bool,
    /// 0 off, 1 strict, 2 filter.
    pub seccomp: u32,
    pub seccomp_filters: u32,
    /// How often the thread has gone to sleep (or stopped) by itself.
    pub voluntary_switches: u64,
    /// Words such as `shstk`; empty where there are none.
    pub x86_thread_features: Vec<Vec<u8>>,
}

impl Status {
    /// The process's number in its own pid namespace.
    pub fn inner_pid(&self) -> Pid {
        self.ns_tgid.last().map_or(self.tgid, |&pid| Pid(pid))
    }

    /// The thread's number in its own pid namespace.
    pub fn inner_tid(&self) -> Tid {
        Tid(self.ns_pid.last().copied().unwrap_or(self.pid.0))
    }

    /// Whether it has ended and waits for its parent.
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

/// Reads that of a process or a thread.
pub fn status(of: impl Into<Subject>) -> Result<Status, ProcError> {
    read_parsed(of.into(), "status", parse_status)
}

/// Parses the file. Keys that are not known are passed over, as kernels add new ones.
pub fn parse_status(bytes: &[u8]) -> Result<Status, ParseError> {
    let mut status = Status::default();
    for (number, line) in lines(bytes) {
        let (key, value) = split_once(line, b':').ok_or(ParseError::new(number, "a key and a value"))?;
        set(&mut status, key, trim(value)).ok_or(ParseError::new(number, "a value that fits its key"))?;
    }
    if status.pid == Pid(0) || status.state == 0 {
        return Err(ParseError::new(1, "a Pid line and a State line"));
    }
    Ok(status)
}

fn set(status: &mut Status, key: &[u8], value: &[u8]) -> Option<()> {
    match key {
        b"Name" => status.name = unescape_name(value),
        b"Umask" => status.umask = Some(unsigned_32(value, 8)?),
        b"State" => status.state = *value.first()?,
        b"Tgid" => status.tgid = Pid(signed_32(value)?),
        b"Pid" => status.pid = Pid(signed_32(value)?),
        b"PPid" => status.ppid = Pid(signed_32(value)?),
        b"TracerPid" => status.tracer = Pid(signed_32(value)?),
        b"Uid" => status.uids = ids(value)?.try_into().ok()?,
        b"Gid" => status.gids = ids(value)?.try_into().ok()?,
        b"Groups" => status.groups = ids(value)?,
        b"NStgid" => status.ns_tgid = numbers(value)?,
        b"NSpid" => status.ns_pid = numbers(value)?,
        b"NSpgid" => status.ns_pgid = numbers(value)?,
        b"NSsid" => status.ns_sid = numbers(value)?,
        b"Kthread" => status.is_kernel_thread = value == b"1",
        b"VmSize" => status.vm_size_kib = kib(value)?,
        b"VmRSS" => status.vm_rss_kib = kib(value)?,
        b"RssAnon" => status.rss_anonymous_kib = kib(value)?,
        b"VmSwap" => status.vm_swap_kib = kib(value)?,
        b"CoreDumping" => status.core_dumping = value == b"1",
        b"THP_enabled" => status.thp_enabled = Some(value == b"1"),
        b"Threads" => status.threads = unsigned_32(value, 10)?,
        b"NoNewPrivs" => status.no_new_privs = value == b"1",
        b"Seccomp" => status.seccomp = unsigned_32(value, 10)?,
        b"Seccomp_filters" => status.seccomp_filters = unsigned_32(value, 10)?,
        b"voluntary_ctxt_switches" => status.voluntary_switches = unsigned(value, 10)?,
        b"x86_Thread_features" => {
            status.x86_thread_features = Fields::new(value).map(<[u8]>::to_vec).collect();
        }
        _ => set_mask(status, key, value)?,
    }
    Some(())
}

fn set_mask(status: &mut Status, key: &[u8], value: &[u8]) -> Option<()> {
    let place = match key {
        b"SigPnd" => &mut status.signals_pending,
        b"ShdPnd" => &mut status.signals_pending_shared,
        b"SigBlk" => &mut status.signals_blocked,
        b"SigIgn" => &mut status.signals_ignored,
        b"SigCgt" => &mut status.signals_caught,
        b"CapInh" => &mut status.capabilities[0],
        b"CapPrm" => &mut status.capabilities[1],
        b"CapEff" => &mut status.capabilities[2],
        b"CapBnd" => &mut status.capabilities[3],
        b"CapAmb" => &mut status.capabilities[4],
        _ => return Some(()),
    };
    *place = unsigned(value, 16)?;
    Some(())
}

/// The kernel writes a newline in a name as `\n` and a backslash as `\\`, others that do not print in octal.
fn unescape_name(value: &[u8]) -> Vec<u8> {
    let mut octal = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&first, tail)) = rest.split_first() {
        match (first, tail.first()) {
            (b'\\', Some(b'n')) => octal.extend_from_slice(b"\\012"),
            (b'\\', Some(b'\\')) => octal.extend_from_slice(b"\\134"),
            _ => {
                octal.push(first);
                rest = tail;
                continue;
            }
        }
        rest = &tail[1..];
    }
    unescape(&octal)
}

fn ids(value: &[u8]) -> Option<Vec<u32>> {
    Fields::new(value).map(|word| unsigned_32(word, 10)).collect()
}

fn numbers(value: &[u8]) -> Option<Vec<i32>> {
    Fields::new(value).map(signed_32).collect()
}

fn kib(value: &[u8]) -> Option<u64> {
    Fields::new(value).number(10, "kibibytes").ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SAMPLE: &[u8] = include_bytes!("samples/status");

    #[test]
    fn a_real_status_is_understood() {
        let status = parse_status(SAMPLE).unwrap();
        assert_eq!(status.name, b"two words");
        assert_eq!((status.state, status.umask), (b'S', Some(0o22)));
        assert_eq!(status.uids, [4001; 4]);
        assert_eq!(status.groups, [29, 4001]);
        assert_eq!(status.ns_pid.len(), 2);
        assert_eq!(status.inner_pid(), Pid(*status.ns_pid.last().unwrap()));
        assert_eq!((status.seccomp, status.thp_enabled, status.threads), (0, Some(true), 1));
        assert_eq!(status.capabilities[3] & 1, 1);
    }

    #[test]
    fn names_are_unescaped() {
        assert_eq!(unescape_name(br"a\nb\\c\\n\001"), b"a\nb\\c\\n\x01");
        assert_eq!(unescape_name(br"\"), br"\");
    }

    #[test]
    fn our_own_is_read() {
        let own = Pid(std::process::id() as i32);
        let status = status(own).unwrap();
        assert_eq!(status.tgid, own);
        assert_eq!(status.uids[0], nix::unistd::getuid().as_raw());
        assert!(status.vm_rss_kib > 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse_status(&bytes);
        }

        #[test]
        fn damaged_samples_are_survived(at in 0..SAMPLE.len(), byte: u8, cut in 0..SAMPLE.len()) {
            let mut bytes = SAMPLE.to_vec();
            bytes[at] = byte;
            let _ = parse_status(&bytes);
            let _ = parse_status(&SAMPLE[..cut]);
        }
    }
}
