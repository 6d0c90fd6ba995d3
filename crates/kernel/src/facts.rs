//! What this host can do, found out once and passed down. No other place checks kernel versions.
//!
//! Abilities are tried rather than guessed from sysctls, as distributions and containers forbid the same thing
//! in many ways: a child process makes the namespaces of a restore, mounts what a restore mounts, and ends.

mod isolation;

use std::io;

use brant_base::Pid;

pub use isolation::Isolation;

use crate::descriptor::{self, PidFd};
use crate::proc::{self, Pagemap};

/// Whether something works here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ability {
    #[default]
    Yes,
    /// Tried, and the kernel answered this.
    No { errno: i32 },
    /// Not tried, as something that it needs does not work.
    Untried,
}

impl Ability {
    /// Whether it works.
    pub fn is_yes(self) -> bool {
        self == Ability::Yes
    }

    /// The kernel's answer, where it was asked and refused.
    pub fn error(self) -> Option<io::Error> {
        match self {
            Ability::No { errno } => Some(io::Error::from_raw_os_error(errno)),
            Ability::Yes | Ability::Untried => None,
        }
    }

    fn of<T>(result: io::Result<T>) -> Ability {
        match result {
            Ok(_) => Ability::Yes,
            Err(error) => Ability::No { errno: error.raw_os_error().unwrap_or(libc::EIO) },
        }
    }
}

/// Which anonymous memory gets transparent huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HugePages {
    Always,
    /// What asks by madvise(2).
    Advised,
    Never,
}

/// How this host is set; `None` where it does not say.
pub fn huge_pages() -> Option<HugePages> {
    let text = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok()?;
    parse_huge_pages(&text)
}

fn parse_huge_pages(text: &str) -> Option<HugePages> {
    let (_, rest) = text.split_once('[')?;
    match rest.split_once(']')?.0 {
        "always" => Some(HugePages::Always),
        "madvise" => Some(HugePages::Advised),
        "never" => Some(HugePages::Never),
        _ => None,
    }
}

/// The facts of this host. The default is a host that can do everything and has no CPU features: for tests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostFacts {
    /// `uname -n`
    pub host_name: String,
    /// `uname -r`
    pub kernel_release: String,
    /// The first two numbers of the release.
    pub kernel_version: (u32, u32),
    /// `uname -m`
    pub machine: String,
    pub page_bytes: u64,
    pub cpus: u32,
    /// The flags of /proc/cpuinfo, sorted.
    pub cpu_flags: Vec<String>,
    /// XCR0: the state components that CPU and kernel have enabled. 0 without XSAVE.
    pub xstate_features: u64,
    /// Where each of them lies in a state in the standard XSAVE layout, by number: it differs between CPU vendors.
    pub xstate_layout: Vec<XstateComponent>,
    /// Effective ids of this process.
    pub uid: u32,
    pub gid: u32,
    /// Effective capabilities of this process.
    pub capabilities: u64,
    /// Seccomp mode of this process: 0 off, 1 strict, 2 filter.
    pub seccomp: u32,
    /// The first pid that is never given, here in our own pid namespace.
    pub pid_max: u32,
    /// `kernel.yama.ptrace_scope`; `None` without Yama. 1: descendants only, 2: nobody without a capability,
    /// 3: nobody.
    pub yama_scope: Option<u32>,
    /// What a namespace of one's own gives.
    pub isolation: Isolation,
    /// The PAGEMAP_SCAN ioctl.
    pub pagemap_scan: bool,
    pub pidfd_getfd: Ability,
    pub kcmp: Ability,
    /// PR_TIMER_CREATE_RESTORE_IDS: POSIX timers can be made with a wanted id.
    pub timer_restore_ids: bool,
    /// unix sockets are listed with their peers (sock_diag).
    pub unix_diag: Ability,
}

/// A state component beyond x87 and SSE, whose places are fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XstateComponent {
    /// The bit in XCR0.
    pub number: u32,
    /// Both in bytes.
    pub offset: u32,
    pub bytes: u32,
}

impl HostFacts {
    /// Finds them out. Takes some milliseconds: one child process is made and waited for.
    pub fn probe() -> io::Result<HostFacts> {
        Ok(HostFacts { isolation: Isolation::probe()?, ..HostFacts::observe()? })
    }

    /// What needs no trial: `isolation` stays untried. Enough for a checkpoint.
    pub fn observe() -> io::Result<HostFacts> {
        let name = nix::sys::utsname::uname()?;
        let own = Pid(std::process::id() as i32);
        let status = proc::status(own).map_err(io::Error::other)?;
        let text = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
        let kernel_release = text(name.release());
        Ok(HostFacts {
            host_name: text(name.nodename()),
            kernel_version: parse_version(&kernel_release),
            kernel_release,
            machine: text(name.machine()),
            page_bytes: configured(libc::_SC_PAGESIZE),
            cpus: configured(libc::_SC_NPROCESSORS_ONLN) as u32,
            cpu_flags: parse_cpu_flags(&std::fs::read("/proc/cpuinfo")?),
            xstate_features: xstate_features(),
            xstate_layout: xstate_layout(),
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            capabilities: status.capabilities[2],
            seccomp: status.seccomp,
            pid_max: number("/proc/sys/kernel/pid_max").unwrap_or(32768),
            yama_scope: number("/proc/sys/kernel/yama/ptrace_scope"),
            isolation: Isolation::UNTRIED,
            pagemap_scan: Pagemap::open(own).is_ok_and(|map| map.has_scan()),
            pidfd_getfd: probe_pidfd_getfd(own),
            kcmp: Ability::of(descriptor::kcmp(own, own, descriptor::Kcmp::Memory)),
            timer_restore_ids: has_timer_restore_ids(),
            unix_diag: Ability::of(crate::sockdiag::unix_sockets()),
        })
    }

    /// Whether this process may do all that root may: it then needs no user namespace.
    pub fn is_privileged(&self) -> bool {
        const CAP_SYS_ADMIN: u32 = 21;
        self.uid == 0 && self.capabilities & (1 << CAP_SYS_ADMIN) != 0
    }
}

fn configured(name: i32) -> u64 {
    // SAFETY: a plain number.
    let value = unsafe { libc::sysconf(name) };
    u64::try_from(value).unwrap_or(1)
}

fn number(path: &str) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn parse_version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|word| word.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The flags of the first CPU, sorted.
fn parse_cpu_flags(cpuinfo: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(cpuinfo);
    let line = text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "flags").then_some(value)
    });
    let mut flags: Vec<String> =
        line.unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect();
    flags.sort_unstable();
    flags.dedup();
    flags
}

#[cfg(target_arch = "x86_64")]
fn xstate_features() -> u64 {
    // This asks for OSXSAVE too: the kernel has to have switched XSAVE on.
    if !std::arch::is_x86_feature_detected!("xsave") {
        return 0;
    }
    // SAFETY: the CPU has the instruction and the kernel has enabled it; XCR0 always exists then.
    unsafe { std::arch::x86_64::_xgetbv(0) }
}

#[cfg(not(target_arch = "x86_64"))]
fn xstate_features() -> u64 {
    0
}

/// The layout of the components that are enabled, from CPUID leaf 13.
#[cfg(target_arch = "x86_64")]
pub fn xstate_layout() -> Vec<XstateComponent> {
    const FIRST: u32 = 2;
    const LEAF: u32 = 0xd;
    let features = xstate_features();
    let enabled = (FIRST..63).filter(|number| features & 1 << number != 0);
    enabled
        .map(|number| {
            let found = std::arch::x86_64::__cpuid_count(LEAF, number);
            XstateComponent { number, offset: found.ebx, bytes: found.eax }
        })
        .collect()
}

#[cfg(not(target_arch = "x86_64"))]
pub fn xstate_layout() -> Vec<XstateComponent> {
    Vec::new()
}

fn probe_pidfd_getfd(own: Pid) -> Ability {
    let duplicate = || {
        let (reader, _writer) = io::pipe()?;
        PidFd::open(own)?.descriptor(std::os::fd::AsRawFd::as_raw_fd(&reader))
    };
    Ability::of(duplicate())
}

fn has_timer_restore_ids() -> bool {
    const PR_TIMER_CREATE_RESTORE_IDS: i32 = 77;
    const GET: libc::c_ulong = 2;
    // SAFETY: plain numbers; only asks.
    unsafe { libc::prctl(PR_TIMER_CREATE_RESTORE_IDS, GET, 0, 0, 0) >= 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_huge_pages() {
        assert_eq!(parse_huge_pages("always [madvise] never\n"), Some(HugePages::Advised));
        assert_eq!(parse_huge_pages("[always] madvise never\n"), Some(HugePages::Always));
        assert_eq!(parse_huge_pages("always madvise [never]\n"), Some(HugePages::Never));
        assert_eq!(parse_huge_pages("always [some] never\n"), None);
        assert_eq!(parse_huge_pages(""), None);
    }

    #[test]
    fn this_host_is_probed() {
        let facts = HostFacts::probe().unwrap();
        assert_eq!((facts.machine.as_str(), facts.page_bytes), (std::env::consts::ARCH, 4096));
        assert!(facts.kernel_version >= (5, 4) && facts.cpus >= 1 && facts.pid_max > 300);
        assert!(facts.cpu_flags.windows(2).all(|pair| pair[0] < pair[1]));
        if facts.cpu_flags.iter().any(|flag| flag == "avx") {
            assert_eq!(facts.xstate_features & 0b111, 0b111);
            // The upper halves of YMM have the same place on every CPU.
            assert_eq!(facts.xstate_layout[0], XstateComponent { number: 2, offset: 576, bytes: 256 });
        }
        eprintln!("{:?}", facts.isolation);
    }

    #[test]
    fn versions_and_flags_are_parsed() {
        assert_eq!(parse_version("6.18.44-fc-v595"), (6, 18));
        assert_eq!(parse_version("6"), (6, 0));
        assert_eq!(
            parse_cpu_flags(b"processor : 0\nflags\t\t: sse fpu avx\n\nflags : other\n"),
            ["avx", "fpu", "sse"]
        );
        assert!(parse_cpu_flags(b"").is_empty());
    }

    #[test]
    fn an_ability_tells_why_not() {
        assert!(Ability::of(Ok(())).is_yes());
        let refused = Ability::of::<()>(Err(io::Error::from_raw_os_error(libc::EPERM)));
        assert_eq!(refused.error().unwrap().raw_os_error(), Some(libc::EPERM));
    }
}
