//! What a descriptor is, from the text of its link and from stat(2) of what is behind it.

use std::fs::Metadata;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use brant_base::Pid;

use crate::proc::{self, Device, ProcError, Subject};

/// What a descriptor refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DescriptorKind {
    Regular,
    Directory,
    /// Only with O_PATH | O_NOFOLLOW.
    SymbolicLink,
    CharacterDevice(Device),
    BlockDevice(Device),
    /// pipe(2), by inode.
    Pipe(u64),
    /// A pipe with a path.
    Fifo,
    /// By inode; sock_diag says more.
    Socket(u64),
    /// A bound unix socket in the file system, opened with O_PATH.
    SocketPath,
    EventFd,
    Epoll,
    TimerFd,
    SignalFd,
    Inotify,
    PidFd,
    /// memfd_create(2), with the name it was given.
    Memfd(Vec<u8>),
    /// memfd_secret(2): nobody else may read it.
    SecretMemory,
    /// A handle of a namespace, such as `mnt:[4026531832]`.
    Namespace(Vec<u8>),
    /// Another kind without a name in the file system: io_uring, userfaultfd, perf_event, bpf-map, ... The
    /// name is without brackets.
    Anonymous(Vec<u8>),
}

/// A descriptor of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    pub kind: DescriptorKind,
    /// The text of the link, without " (deleted)": a path in the target's view, or a name such as `pipe:[7]`.
    pub path: Vec<u8>,
    /// The name is gone.
    pub deleted: bool,
    pub status: FileStatus,
}

/// stat(2) in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileStatus {
    pub device: Device,
    pub inode: u64,
    /// Type and permissions.
    pub mode: u32,
    pub links: u64,
    pub uid: u32,
    pub gid: u32,
    /// The device that a device node stands for.
    pub special: Device,
    pub bytes: u64,
    pub modified_ns: i64,
}

impl FileStatus {
    /// The S_IF part of the mode.
    pub fn file_type(&self) -> u32 {
        self.mode & libc::S_IFMT
    }
}

impl From<&Metadata> for FileStatus {
    fn from(metadata: &Metadata) -> FileStatus {
        FileStatus {
            device: Device::from_stat(metadata.dev()),
            inode: metadata.ino(),
            mode: metadata.mode(),
            links: metadata.nlink(),
            uid: metadata.uid(),
            gid: metadata.gid(),
            special: Device::from_stat(metadata.rdev()),
            bytes: metadata.size(),
            modified_ns: metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec()),
        }
    }
}

/// stat(2) of a descriptor of ours.
pub fn file_status(fd: BorrowedFd<'_>) -> io::Result<FileStatus> {
    std::fs::metadata(format!("/proc/self/fd/{}", fd.as_raw_fd())).map(|metadata| FileStatus::from(&metadata))
}

/// Looks at a descriptor of a target without opening or duplicating it. [`ProcError::Absent`] where it has
/// none of that number.
pub fn describe(pid: Pid, number: i32) -> Result<Described, ProcError> {
    let subject = Subject::Process(pid);
    let file = format!("fd/{number}");
    let text = proc::link(pid, &file)?.into_os_string().into_vec();
    let status = proc::file_status(subject, &file)?;
    let (path, deleted) = match text.strip_suffix(b" (deleted)") {
        Some(shorter) if text.starts_with(b"/") && !is_at(pid, &text, &status) => (shorter.to_vec(), true),
        _ => (text, false),
    };
    Ok(Described { kind: classify(&path, deleted, &status), path, deleted, status })
}

/// Whether the file lies at `path` as the target sees it: one may be called "x (deleted)".
fn is_at(pid: Pid, path: &[u8], status: &FileStatus) -> bool {
    let mut full = PathBuf::from(format!("/proc/{pid}/root"));
    full.push(std::ffi::OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path)));
    std::fs::symlink_metadata(full).is_ok_and(|found| {
        let found = FileStatus::from(&found);
        (found.device, found.inode) == (status.device, status.inode)
    })
}

fn classify(path: &[u8], deleted: bool, status: &FileStatus) -> DescriptorKind {
    if let Some(name) = path.strip_prefix(b"anon_inode:") {
        return classify_anonymous(name);
    }
    let named = path.starts_with(b"/");
    match status.file_type() {
        libc::S_IFDIR => DescriptorKind::Directory,
        libc::S_IFLNK => DescriptorKind::SymbolicLink,
        libc::S_IFCHR => DescriptorKind::CharacterDevice(status.special),
        libc::S_IFBLK => DescriptorKind::BlockDevice(status.special),
        libc::S_IFIFO if named => DescriptorKind::Fifo,
        libc::S_IFIFO => DescriptorKind::Pipe(status.inode),
        libc::S_IFSOCK if named => DescriptorKind::SocketPath,
        libc::S_IFSOCK => DescriptorKind::Socket(status.inode),
        _ if path.starts_with(b"pidfd:") => DescriptorKind::PidFd,
        _ if deleted && path.starts_with(b"/memfd:") => DescriptorKind::Memfd(path[7..].to_vec()),
        _ if deleted && path == b"/secretmem" => DescriptorKind::SecretMemory,
        _ if named => DescriptorKind::Regular,
        _ => classify_unnamed(path),
    }
}

fn classify_anonymous(name: &[u8]) -> DescriptorKind {
    let plain = name.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]")).unwrap_or(name);
    match plain {
        b"eventfd" => DescriptorKind::EventFd,
        b"eventpoll" => DescriptorKind::Epoll,
        b"timerfd" => DescriptorKind::TimerFd,
        b"signalfd" => DescriptorKind::SignalFd,
        b"inotify" => DescriptorKind::Inotify,
        b"pidfd" => DescriptorKind::PidFd,
        other => DescriptorKind::Anonymous(other.to_vec()),
    }
}

/// `NAME:[INODE]`: namespaces are the only files so named that are regular ones.
fn classify_unnamed(path: &[u8]) -> DescriptorKind {
    const NAMESPACES: [&[u8]; 9] =
        [b"cgroup", b"ipc", b"mnt", b"net", b"pid", b"pid_for_children", b"time", b"user", b"uts"];
    let name = path.split(|&byte| byte == b':').next().unwrap_or_default();
    if NAMESPACES.contains(&name) || name == b"time_for_children" {
        DescriptorKind::Namespace(path.to_vec())
    } else {
        DescriptorKind::Anonymous(path.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::{AsFd, FromRawFd, OwnedFd};

    use super::*;

    fn own(fd: &impl AsRawFd) -> Described {
        describe(Pid(std::process::id() as i32), fd.as_raw_fd()).unwrap()
    }

    fn fresh(raw: i32) -> OwnedFd {
        assert!(raw >= 0, "{}", io::Error::last_os_error());
        // SAFETY: made for this test alone.
        unsafe { OwnedFd::from_raw_fd(raw) }
    }

    #[test]
    fn kinds_without_a_name_are_told_apart() {
        let (reader, _writer) = io::pipe().unwrap();
        assert!(matches!(own(&reader).kind, DescriptorKind::Pipe(inode) if inode > 0));
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(matches!(own(&socket).kind, DescriptorKind::Socket(inode) if inode > 0));
        // SAFETY: plain numbers and constant names, here and below.
        assert_eq!(own(&fresh(unsafe { libc::eventfd(0, 0) })).kind, DescriptorKind::EventFd);
        // SAFETY: as above.
        assert_eq!(own(&fresh(unsafe { libc::epoll_create1(0) })).kind, DescriptorKind::Epoll);
        // SAFETY: as above.
        assert_eq!(own(&fresh(unsafe { libc::timerfd_create(1, 0) })).kind, DescriptorKind::TimerFd);
        // SAFETY: as above.
        assert_eq!(own(&fresh(unsafe { libc::inotify_init1(0) })).kind, DescriptorKind::Inotify);
        // SAFETY: as above.
        let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, std::process::id(), 0) } as i32;
        assert_eq!(own(&fresh(pidfd)).kind, DescriptorKind::PidFd);
        // SAFETY: as above.
        let memfd = own(&fresh(unsafe { libc::memfd_create(c"two words".as_ptr(), 0) }));
        assert_eq!(memfd.kind, DescriptorKind::Memfd(b"two words".to_vec()));
        let namespace = own(&File::open("/proc/self/ns/uts").unwrap()).kind;
        assert!(matches!(namespace, DescriptorKind::Namespace(name) if name.starts_with(b"uts:[")));
    }

    #[test]
    fn files_are_described() {
        let directory = std::env::temp_dir().join(format!("brant-kind-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let path = directory.join("odd (deleted)");
        let file = File::create(&path).unwrap();
        assert_eq!(own(&file).kind, DescriptorKind::Regular);
        assert_eq!((own(&file).path, own(&file).deleted), (path.as_os_str().as_bytes().to_vec(), false));
        assert_eq!(file_status(file.as_fd()).unwrap(), own(&file).status);
        fs::remove_file(&path).unwrap();
        let described = own(&file);
        assert_eq!((described.path, described.deleted), (path.as_os_str().as_bytes().to_vec(), true));
        assert_eq!(described.status.links, 0);
        let opened = File::open(&directory).unwrap();
        assert_eq!(own(&opened).kind, DescriptorKind::Directory);
        fs::remove_dir(&directory).unwrap();
        assert!(own(&opened).deleted);
    }

    #[test]
    fn devices_are_numbered() {
        let null = own(&File::open("/dev/null").unwrap());
        assert_eq!(null.kind, DescriptorKind::CharacterDevice(Device { major: 1, minor: 3 }));
        let absent = describe(Pid(std::process::id() as i32), 1 << 20);
        assert!(matches!(absent, Err(ProcError::Absent { .. })));
    }
}
