//! fcntl(2) getters and FIONREAD.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{checked, ioctl_read};

/// F_GETFL: access mode and file status flags.
pub fn status_flags(fd: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: takes no further argument.
    checked(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) }).map(|flags| flags as u32)
}

/// Who gets SIGIO, in our pid namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub kind: OwnerKind,
    pub id: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerKind {
    Thread,
    Process,
    Group,
}

/// F_GETOWN_EX; `None` where nobody is set, or who was set is gone or not visible to us.
pub fn owner(fd: BorrowedFd<'_>) -> io::Result<Option<Owner>> {
    const F_GETOWN_EX: i32 = 16;
    let mut raw = [0i32; 2];
    // SAFETY: the call fills in `struct f_owner_ex`, which is two ints.
    checked(unsafe { libc::fcntl(fd.as_raw_fd(), F_GETOWN_EX, raw.as_mut_ptr()) })?;
    let [kind, id] = raw;
    let kind = match kind {
        0 => OwnerKind::Thread,
        1 => OwnerKind::Process,
        2 => OwnerKind::Group,
        _ => return Err(io::Error::other("F_GETOWN_EX answered an unknown kind of owner")),
    };
    Ok((id != 0).then_some(Owner { kind, id }))
}

/// F_GETSIG: the signal that is sent instead of SIGIO; 0 for SIGIO.
pub fn owner_signal(fd: BorrowedFd<'_>) -> io::Result<i32> {
    const F_GETSIG: i32 = 11;
    // SAFETY: takes no further argument.
    checked(unsafe { libc::fcntl(fd.as_raw_fd(), F_GETSIG) })
}

/// F_GET_SEALS of a memfd or tmpfs file; EINVAL for others.
pub fn seals(fd: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: takes no further argument.
    checked(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) }).map(|seals| seals as u32)
}

/// FIONREAD: bytes that can be read at once. For a datagram socket those of the first message.
pub fn queued_bytes(fd: BorrowedFd<'_>) -> io::Result<usize> {
    ioctl_read::<i32>(fd, libc::FIONREAD).map(|count| count.max(0) as usize)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn flags_owner_and_bytes_are_read() {
        let (reader, mut writer) = io::pipe().unwrap();
        assert_eq!(status_flags(reader.as_fd()).unwrap() & 3, libc::O_RDONLY as u32);
        assert_eq!(status_flags(writer.as_fd()).unwrap() & 3, libc::O_WRONLY as u32);
        writer.write_all(b"seven b").unwrap();
        assert_eq!(queued_bytes(reader.as_fd()).unwrap(), 7);
        assert_eq!(owner(reader.as_fd()).unwrap(), None);
        assert_eq!(owner_signal(reader.as_fd()).unwrap(), 0);
        let own = std::process::id() as i32;
        // SAFETY: plain numbers.
        unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_SETOWN, own) };
        let expected = Owner { kind: OwnerKind::Process, id: own };
        assert_eq!(owner(reader.as_fd()).unwrap(), Some(expected));
        assert!(seals(reader.as_fd()).is_err());
    }
}
