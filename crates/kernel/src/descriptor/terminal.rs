//! Terminals: what ioctl_tty(2) tells without a change.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{checked, ioctl_read};

/// `struct termios2`.
pub const TERMINAL_SETTINGS_BYTES: usize = 44;
const _: () = assert!(size_of::<libc::termios2>() == TERMINAL_SETTINGS_BYTES);

/// What can be asked of either side. Groups and sessions are in our pid namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TerminalState {
    /// `struct termios2` as TCGETS2 gives it.
    pub settings: Vec<u8>,
    /// Rows, columns, x pixels, y pixels.
    pub window: [u16; 4],
    /// TIOCGEXCL.
    pub exclusive: bool,
    /// Of a master: N of /dev/pts/N.
    pub index: Option<u32>,
    /// Of a master: TIOCGPTLCK.
    pub locked: bool,
    /// Of a master: TIOCGPKT.
    pub packet_mode: bool,
    /// TIOCGSID: the session that it controls. Answered of a master always, of a slave only to those whose
    /// terminal it is: else `None`.
    pub session: Option<i32>,
    /// TIOCGPGRP: the foreground group, as above.
    pub foreground: Option<i32>,
    /// Bytes that a reader of this side would get at once; what was just written is on its way for a moment.
    pub readable_bytes: usize,
    /// TIOCOUTQ: bytes written to this side that the other has not taken.
    pub unsent_bytes: usize,
}

/// Reads it all. ENOTTY for what is no terminal; EIO for a slave whose master has gone.
pub fn terminal_state(fd: BorrowedFd<'_>) -> io::Result<TerminalState> {
    let flag = |request| ioctl_read::<i32>(fd, request).is_ok_and(|value| value != 0);
    let count = |request| ioctl_read::<i32>(fd, request).map_or(0, |value| value.max(0) as usize);
    let number = |request| ioctl_read::<i32>(fd, request).ok().filter(|&value| value > 0);
    Ok(TerminalState {
        settings: terminal_settings(fd)?,
        window: ioctl_read(fd, libc::TIOCGWINSZ)?,
        exclusive: flag(libc::TIOCGEXCL),
        index: terminal_index(fd).ok(),
        locked: flag(libc::TIOCGPTLCK),
        packet_mode: flag(libc::TIOCGPKT),
        session: number(libc::TIOCGSID),
        foreground: number(libc::TIOCGPGRP),
        readable_bytes: count(libc::FIONREAD),
        unsent_bytes: count(libc::TIOCOUTQ),
    })
}

/// TCGETS2.
pub fn terminal_settings(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut settings = vec![0u8; TERMINAL_SETTINGS_BYTES];
    // SAFETY: room for one `struct termios2`, which the kernel copies byte by byte.
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TCGETS2, settings.as_mut_ptr()) })?;
    Ok(settings)
}

/// TIOCGPTN of a master: N of /dev/pts/N. ENOTTY for all others.
pub fn terminal_index(fd: BorrowedFd<'_>) -> io::Result<u32> {
    ioctl_read(fd, libc::TIOCGPTN)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_pseudo_terminal_is_read_from_both_sides() {
        let pair = nix::pty::openpty(None, None).unwrap();
        let window = [24u16, 80, 5, 6];
        // SAFETY: `struct winsize` is four shorts.
        assert_eq!(unsafe { libc::ioctl(pair.slave.as_raw_fd(), libc::TIOCSWINSZ, window.as_ptr()) }, 0);
        let packets = 1i32;
        // SAFETY: the request reads one int.
        assert_eq!(unsafe { libc::ioctl(pair.master.as_raw_fd(), libc::TIOCPKT, &packets) }, 0);
        nix::unistd::write(&pair.slave, b"abc").unwrap();
        // The kernel hands the bytes over by a worker thread of its own.
        let timeout_ms = 5000;
        let mut poll = libc::pollfd { fd: pair.master.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one live entry.
        assert_eq!(unsafe { libc::poll(&mut poll, 1, timeout_ms) }, 1);
        let (master, slave) =
            (terminal_state(pair.master.as_fd()).unwrap(), terminal_state(pair.slave.as_fd()).unwrap());
        assert_eq!((master.window, slave.window), (window, window));
        assert_eq!(master.settings, slave.settings);
        assert!(master.index.is_some() && slave.index.is_none());
        assert!(master.packet_mode && !slave.packet_mode && !master.locked && !master.exclusive);
        assert_eq!((slave.session, slave.foreground), (None, None));
        assert!(master.readable_bytes >= 3);
    }

    #[test]
    fn a_file_is_no_terminal() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert_eq!(terminal_state(file.as_fd()).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
    }
}
