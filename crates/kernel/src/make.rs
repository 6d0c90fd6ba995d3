//! Makers of descriptors: safe wrappers of the system calls that a restore opens things with.
//!
//! All results are close-on-exec in our own process; the flags in a target are set where they are placed.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn checked(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(result: i64) -> io::Result<OwnedFd> {
    let fd = checked(result)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Raises the soft limit of descriptors to the hard one.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` outlives both calls.
    checked(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } as i64)?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    checked(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } as i64)?;
    Ok(limit.rlim_cur)
}

/// open(2).
pub fn open(path: &Path, flags: i32) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path is a live string with a NUL.
    owned(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) } as i64)
}

/// A new description of what `fd` refers to.
pub fn reopen(fd: impl AsFd, flags: i32) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    open(Path::new(&path), flags & !libc::O_NOFOLLOW)
}

/// Another number, at least `floor`, for the same description.
pub fn duplicate_at_least(fd: impl AsFd, floor: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers.
    owned(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_DUPFD_CLOEXEC, floor) } as i64)
}

/// Makes `number`, which the caller has open, another descriptor of what `fd` refers to.
pub fn replace(fd: impl AsFd, number: RawFd) -> io::Result<()> {
    // SAFETY: whoever owns `number` goes on to own an open descriptor.
    checked(unsafe { libc::dup3(fd.as_fd().as_raw_fd(), number, libc::O_CLOEXEC) } as i64).map(drop)
}

/// F_SETFL.
pub fn set_status(fd: impl AsFd, flags: i32) -> io::Result<()> {
    // SAFETY: plain numbers.
    checked(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_SETFL, flags) } as i64).map(drop)
}

/// memfd_create(2) of this size, open to seals.
pub fn memfd(name: &[u8], bytes: u64, mode: u32) -> io::Result<OwnedFd> {
    let name = CString::new(name)?;
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is a live string with a NUL.
    let fd = owned(unsafe { libc::memfd_create(name.as_ptr(), flags) } as i64)?;
    // SAFETY: plain numbers.
    checked(unsafe { libc::ftruncate(fd.as_raw_fd(), bytes as i64) } as i64)?;
    // SAFETY: plain numbers.
    checked(unsafe { libc::fchmod(fd.as_raw_fd(), mode & 0o7777) } as i64)?;
    Ok(fd)
}

/// pipe2(2): the end to read from and the end to write to.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: the array has room for both.
    checked(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } as i64)?;
    Ok((owned(ends[0] as i64)?, owned(ends[1] as i64)?))
}

/// F_SETPIPE_SZ.
pub fn set_pipe_capacity(fd: impl AsFd, bytes: u32) -> io::Result<()> {
    // SAFETY: plain numbers.
    checked(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_SETPIPE_SZ, bytes) } as i64).map(drop)
}

/// Writes all, in one call where it fits.
pub fn write_all(fd: impl AsFd, bytes: &[u8]) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let rest = &bytes[done..];
        // SAFETY: `rest` is live and only read.
        done +=
            checked(unsafe { libc::write(fd.as_fd().as_raw_fd(), rest.as_ptr().cast(), rest.len()) } as i64)?
                as usize;
    }
    Ok(())
}

/// flock(2) where `range` is `None`, else an open-file-description lock on (start, length).
pub fn lock_description(fd: impl AsFd, range: Option<(u64, u64)>, exclusive: bool) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    let Some((start, length)) = range else {
        let operation = if exclusive { libc::LOCK_EX } else { libc::LOCK_SH };
        // SAFETY: plain numbers.
        return checked(unsafe { libc::flock(fd, operation | libc::LOCK_NB) } as i64).map(drop);
    };
    let lock = libc::flock {
        l_type: if exclusive { libc::F_WRLCK } else { libc::F_RDLCK } as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: start as i64,
        l_len: length as i64,
        l_pid: 0,
    };
    // SAFETY: `lock` outlives the call.
    checked(unsafe { libc::fcntl(fd, libc::F_OFD_SETLK, &lock) } as i64).map(drop)
}

/// eventfd(2).
pub fn eventfd(counter: u64, semaphore: bool, flags: i32) -> io::Result<OwnedFd> {
    let semaphore = if semaphore { libc::EFD_SEMAPHORE } else { 0 };
    // SAFETY: plain numbers.
    let fd = owned(unsafe { libc::eventfd(0, flags | semaphore | libc::EFD_CLOEXEC) } as i64)?;
    if counter > 0 {
        write_all(&fd, &counter.to_ne_bytes())?;
    }
    Ok(fd)
}

/// epoll_create1(2).
pub fn epoll() -> io::Result<OwnedFd> {
    // SAFETY: plain numbers.
    owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) } as i64)
}

/// timerfd_create(2).
pub fn timerfd(clock: i32, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers.
    owned(unsafe { libc::timerfd_create(clock, flags | libc::TFD_CLOEXEC) } as i64)
}

/// signalfd(2) for a mask in the kernel's form.
pub fn signalfd(mask: u64, flags: i32) -> io::Result<OwnedFd> {
    let flags = (flags | libc::SFD_CLOEXEC) as i64;
    // SAFETY: the mask outlives the call.
    owned(unsafe { libc::syscall(libc::SYS_signalfd4, -1, &mask, size_of::<u64>(), flags) })
}

/// inotify_init1(2).
pub fn inotify(flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers.
    owned(unsafe { libc::inotify_init1(flags | libc::IN_CLOEXEC) } as i64)
}

/// Adds a watch under the number `wanted`. The kernel counts upwards, so watches in between are made and removed.
pub fn inotify_watch(fd: impl AsFd, path: &[u8], mask: u32, wanted: i32) -> io::Result<()> {
    let path = CString::new(path)?;
    let fd = fd.as_fd().as_raw_fd();
    loop {
        // SAFETY: the path is a live string with a NUL.
        let number = checked(unsafe { libc::inotify_add_watch(fd, path.as_ptr(), mask) } as i64)? as i32;
        if number == wanted {
            return Ok(());
        }
        if number > wanted {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        // SAFETY: plain numbers.
        checked(unsafe { libc::inotify_rm_watch(fd, number) } as i64)?;
    }
}

/// Reads and forgets what can be read at once.
pub fn drain(fd: impl AsFd) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    let mut buffer = [0u8; 4096];
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one live entry; no waiting.
    while checked(unsafe { libc::poll(&mut poll, 1, 0) } as i64)? > 0 {
        // SAFETY: a live buffer of that size.
        checked(unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) } as i64)?;
    }
    Ok(())
}

/// socketpair(2) of unix sockets.
pub fn socket_pair(kind: i32) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    let kind = kind | libc::SOCK_CLOEXEC;
    // SAFETY: the array has room for both.
    checked(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) } as i64)?;
    Ok((owned(ends[0] as i64)?, owned(ends[1] as i64)?))
}

/// A unix socket.
pub fn unix_socket(kind: i32) -> io::Result<OwnedFd> {
    inet_socket(libc::AF_UNIX, kind, 0)
}

/// socket(2).
pub fn inet_socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers.
    owned(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) } as i64)
}

/// setsockopt(2) with the value's bytes.
pub fn set_socket_option(fd: impl AsFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: `value` is live and only read.
    checked(unsafe { libc::setsockopt(fd, level, name, value.as_ptr().cast(), value.len() as u32) } as i64)
        .map(drop)
}

/// The `struct sockaddr_un` of `sun_path`, a leading NUL for an abstract name.
pub fn unix_address(path: &[u8]) -> Vec<u8> {
    let mut address = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
    address.extend(path);
    if path.first() != Some(&0) {
        address.push(0);
    }
    address
}

/// accept4(2), of a connection that waits already.
pub fn accept(fd: impl AsFd) -> io::Result<OwnedFd> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: no address is asked for.
    owned(unsafe { libc::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC) } as i64)
}

/// bind(2) to `sun_path`, a leading NUL for an abstract name. A name in the file system that nobody listens at any more
/// is taken over.
pub fn bind_unix(fd: impl AsFd, path: &[u8]) -> io::Result<()> {
    let address = unix_address(path);
    let named = path.first() != Some(&0);
    match bind_raw(&fd, &address) {
        Err(error) if named && error.raw_os_error() == Some(libc::EADDRINUSE) => {
            let probe = unix_socket(libc::SOCK_STREAM)?;
            let dead = connect_raw(&probe, &address).err().and_then(|error| error.raw_os_error());
            if dead != Some(libc::ECONNREFUSED) {
                return Err(error);
            }
            std::fs::remove_file(Path::new(std::ffi::OsStr::from_bytes(path)))?;
            bind_raw(&fd, &address)
        }
        other => other,
    }
}

/// bind(2) to a whole `struct sockaddr`.
pub fn bind_raw(fd: impl AsFd, address: &[u8]) -> io::Result<()> {
    // SAFETY: `address` is live and only read.
    checked(
        unsafe { libc::bind(fd.as_fd().as_raw_fd(), address.as_ptr().cast(), address.len() as u32) } as i64
    )
    .map(drop)
}

/// connect(2) to a whole `struct sockaddr`.
pub fn connect_raw(fd: impl AsFd, address: &[u8]) -> io::Result<()> {
    // SAFETY: `address` is live and only read.
    checked(unsafe { libc::connect(fd.as_fd().as_raw_fd(), address.as_ptr().cast(), address.len() as u32) }
        as i64)
    .map(drop)
}

/// listen(2).
pub fn listen(fd: impl AsFd, backlog: u32) -> io::Result<()> {
    // SAFETY: plain numbers.
    checked(unsafe { libc::listen(fd.as_fd().as_raw_fd(), backlog as i32) } as i64).map(drop)
}

/// shutdown(2): bit 0 is receiving, bit 1 sending.
pub fn shutdown(fd: impl AsFd, bits: u32) -> io::Result<()> {
    let how = match bits & 3 {
        1 => libc::SHUT_RD,
        2 => libc::SHUT_WR,
        _ => libc::SHUT_RDWR,
    };
    // SAFETY: plain numbers.
    checked(unsafe { libc::shutdown(fd.as_fd().as_raw_fd(), how) } as i64).map(drop)
}

/// One message with descriptors (SCM_RIGHTS), without waiting.
pub fn send_message(fd: impl AsFd, bytes: &[u8], files: &[RawFd]) -> io::Result<()> {
    send_message_to(fd, bytes, files, &[])
}

/// As [`send_message`], to a whole `struct sockaddr`; empty for the peer.
pub fn send_message_to(fd: impl AsFd, bytes: &[u8], files: &[RawFd], address: &[u8]) -> io::Result<()> {
    const FILES_MAX: usize = 253;
    if files.len() > FILES_MAX {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let vector = libc::iovec { iov_base: bytes.as_ptr() as *mut _, iov_len: bytes.len() };
    let mut control = vec![0u64; 256];
    // SAFETY: an all-zero msghdr is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw const vector as *mut _;
    message.msg_iovlen = 1;
    if !address.is_empty() {
        message.msg_name = address.as_ptr() as *mut _;
        message.msg_namelen = address.len() as u32;
    }
    if !files.is_empty() {
        let payload = size_of_val(files) as u32;
        message.msg_control = control.as_mut_ptr().cast();
        // SAFETY: CMSG_SPACE is arithmetic; 253 descriptors need 1,032 of the 2,048 bytes.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(payload) } as usize;
        // SAFETY: the control buffer is large enough and aligned for a header and the descriptors.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(payload) as usize;
            std::ptr::copy_nonoverlapping(files.as_ptr(), libc::CMSG_DATA(header).cast(), files.len());
        }
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `message` and all that it points to are live.
    let sent = checked(unsafe { libc::sendmsg(fd.as_fd().as_raw_fd(), &message, flags) } as i64)?;
    if sent as usize == bytes.len() { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EMSGSIZE)) }
}

/// A new pseudo-terminal of /dev/ptmx: master and slave.
pub fn terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    let master = open(Path::new("/dev/ptmx"), libc::O_RDWR | libc::O_NOCTTY)?;
    let unlocked: libc::c_int = 0;
    // SAFETY: the value outlives the call.
    checked(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &unlocked) } as i64)?;
    let slave = crate::task::open_slave(&master)?;
    Ok((master, slave))
}

/// Only the master: its number is taken.
pub fn terminal_master() -> io::Result<OwnedFd> {
    open(Path::new("/dev/ptmx"), libc::O_RDWR | libc::O_NOCTTY)
}

/// TIOCEXCL.
pub fn set_terminal_exclusive(fd: impl AsFd) -> io::Result<()> {
    // SAFETY: takes no argument.
    checked(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCEXCL) } as i64).map(drop)
}

/// Waits until what was written to the other side has arrived on this one (poll(2) of a terminal sees to that).
pub fn settle_terminal(fd: impl AsFd) -> io::Result<()> {
    let mut poll = libc::pollfd { fd: fd.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one live entry; no waiting.
    checked(unsafe { libc::poll(&mut poll, 1, 0) } as i64).map(drop)
}

/// TCSETS2 with the 44 bytes of `struct termios2`.
pub fn set_terminal_settings(fd: impl AsFd, settings: &[u8]) -> io::Result<()> {
    const TCSETS2: libc::Ioctl = 0x402c_542b;
    assert_eq!(settings.len(), 44);
    // SAFETY: the kernel reads 44 bytes.
    checked(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), TCSETS2, settings.as_ptr()) } as i64).map(drop)
}

/// TIOCSWINSZ: rows, columns, x and y pixels.
pub fn set_window(fd: impl AsFd, window: [u16; 4]) -> io::Result<()> {
    // SAFETY: the kernel reads a `struct winsize`, which is these four numbers.
    checked(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCSWINSZ, window.as_ptr()) } as i64)
        .map(drop)
}

/// TIOCSPTLCK and TIOCPKT on a master.
pub fn set_terminal_switches(master: impl AsFd, locked: bool, packet_mode: bool) -> io::Result<()> {
    let (locked, packet_mode) = (locked as libc::c_int, packet_mode as libc::c_int);
    let fd = master.as_fd().as_raw_fd();
    // SAFETY: the value outlives the call.
    checked(unsafe { libc::ioctl(fd, libc::TIOCPKT, &packet_mode) } as i64)?;
    // SAFETY: the value outlives the call.
    checked(unsafe { libc::ioctl(fd, libc::TIOCSPTLCK, &locked) } as i64).map(drop)
}
