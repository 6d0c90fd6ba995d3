//! What is under way in a pseudo-terminal: typed and not read, written and not shown.
//!
//! A terminal has nothing like MSG_PEEK: its queues are read out and filled again. So that nothing is lost where this
//! process is killed in between, a child of its own session does both; it lives for some milliseconds and depends on
//! nobody. While the queues are out, both sides' users have to stand still.
//!
//! Facts relied upon (drivers/tty/n_tty.c, pty.c of Linux 6.18): a terminal that is not one's own can be read and set
//! from any process (`__tty_check_change`); what is written to a master is taken in by the slave's line discipline
//! according to its settings at that moment; a switch of ICANON forgets where lines end, but no bytes; an end of file
//! that was typed is a NUL byte in the queue.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use libc::{c_int, termios2};

use super::checked;

/// Bytes in both queues of a terminal.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct TerminalQueues {
    /// Written to the master, not yet read from the slave. In canonical mode an end of file is a NUL byte.
    pub input: Vec<u8>,
    /// Written to the slave, not yet read from the master.
    pub output: Vec<u8>,
}

/// More than the buffers of a terminal hold (8 KiB on their way and 4 KiB arrived).
const QUEUE_BYTES_MAX: usize = 64 << 10;
/// What a line discipline shows to its reader at most.
const ARRIVED_BYTES_MAX: usize = 4095;
/// How long the child may take, and how long we wait for it.
const STEP_TIMEOUT_MS: u64 = 500;
const CHILD_TIMEOUT_MS: c_int = 5_000;
/// For the kernel's worker to take in half a line, which nothing shows.
const HALF_LINE_PAUSE: Duration = Duration::from_millis(5);

/// Memory that the child and we share.
#[repr(C)]
struct Exchange {
    input_bytes: usize,
    output_bytes: usize,
    input: [u8; QUEUE_BYTES_MAX],
    output: [u8; QUEUE_BYTES_MAX],
}

/// Copies what is in both queues of the terminal that `master` is the master side of. On return, and if we are killed,
/// the terminal is as it was.
pub fn copy_terminal_queues(master: BorrowedFd<'_>) -> io::Result<TerminalQueues> {
    let length = size_of::<Exchange>();
    // SAFETY: a new mapping, wherever there is place.
    let area = unsafe {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    };
    if area == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let exchange = area.cast::<Exchange>();
    let fd = master.as_raw_fd();
    // SAFETY: the child makes system calls and touches its stack and the shared memory only, then ends: so it does
    // not matter what other threads of ours held at this moment.
    let copied = match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: valid, zeroed memory of that size; the parent looks at it when this child has ended.
            let errno = copy_in_child(fd, unsafe { &mut *exchange });
            // SAFETY: plain number.
            unsafe { libc::_exit(errno) }
        }
        child => await_child(child),
    };
    let queues = copied.map(|()| {
        // SAFETY: the child has ended; the memory is ours alone now.
        let exchange = unsafe { &*exchange };
        TerminalQueues {
            input: exchange.input[..exchange.input_bytes.min(QUEUE_BYTES_MAX)].to_vec(),
            output: exchange.output[..exchange.output_bytes.min(QUEUE_BYTES_MAX)].to_vec(),
        }
    });
    // SAFETY: no reference to it is left.
    unsafe { libc::munmap(area, length) };
    queues
}

/// Fills the queues of a terminal that nobody else uses yet. Its settings stay as they are.
pub fn fill_terminal_queues(master: BorrowedFd<'_>, queues: &TerminalQueues) -> io::Result<()> {
    let master = master.as_raw_fd();
    let filled = open_peer(master).and_then(|slave| {
        let filled = settings(slave).and_then(|usual| {
            let filled = fill(master, slave, &usual, &queues.input, &queues.output);
            filled.and(set(slave, &usual))
        });
        // SAFETY: opened by `open_peer` for us alone.
        unsafe { libc::close(slave) };
        filled
    });
    filled.map_err(io::Error::from_raw_os_error)
}

fn await_child(child: libc::pid_t) -> io::Result<()> {
    // SAFETY: plain numbers.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, child, 0) } as c_int;
    let mut polled = libc::pollfd { fd: pidfd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one live entry; without a pidfd poll waits for its time-out only.
    let ended = unsafe { libc::poll(&mut polled, 1, CHILD_TIMEOUT_MS) };
    if pidfd >= 0 {
        // SAFETY: ours alone.
        unsafe { libc::close(pidfd) };
    }
    if ended == 0 {
        return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
    }
    let mut status = 0;
    // SAFETY: a live int. __WALL: whatever its exit signal.
    checked(unsafe { libc::waitpid(child, &mut status, libc::__WALL) })?;
    match (libc::WIFEXITED(status), libc::WEXITSTATUS(status)) {
        (true, 0) => Ok(()),
        (true, errno) => Err(io::Error::from_raw_os_error(errno)),
        _ => Err(io::Error::other("the process that copies a terminal's contents was killed")),
    }
}

/// In the child: system calls only. Answers an errno, 0 for success.
fn copy_in_child(master: c_int, exchange: &mut Exchange) -> c_int {
    // SAFETY: plain numbers, and a live signal set: nothing but SIGKILL shall end this process.
    unsafe {
        libc::setsid();
        let mut all = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::sigprocmask(libc::SIG_BLOCK, &all, std::ptr::null_mut());
    }
    let slave = match open_peer(master) {
        Ok(slave) => slave,
        Err(errno) => return errno,
    };
    match settings(slave).and_then(|usual| copy_and_refill(master, slave, &usual, exchange)) {
        Ok(()) => 0,
        Err(errno) => errno,
    }
}

fn copy_and_refill(
    master: c_int,
    slave: c_int,
    usual: &termios2,
    exchange: &mut Exchange,
) -> Result<(), c_int> {
    // Looking makes the kernel take in what is on its way.
    is_ready(slave, libc::POLLIN, 0);
    is_ready(master, libc::POLLIN, 0);
    let packets = packet_mode(master);
    set_packet_mode(master, false);
    exchange.output_bytes = drain(master, &mut exchange.output);
    let set_up = set(slave, &plain(usual));
    if set_up.is_ok() {
        exchange.input_bytes = drain(slave, &mut exchange.input);
    }
    let held_up = if exchange.output_bytes > 0 { release(slave, usual) } else { HeldUp::No };
    let input = &exchange.input[..exchange.input_bytes];
    let filled = fill(master, slave, usual, input, &exchange.output[..exchange.output_bytes]);
    let back = set(slave, usual);
    match held_up {
        HeldUp::No => {}
        HeldUp::ByKey => drop(write_all(master, &[usual.c_cc[libc::VSTOP]])),
        HeldUp::ByCall => flow(slave, libc::TCOOFF),
    }
    if packets {
        set_packet_mode(master, true);
    }
    set_up.and(filled).and(back)
}

/// Whether output to a terminal is stopped.
enum HeldUp {
    No,
    /// ^S
    ByKey,
    /// tcflow(3)
    ByCall,
}

/// Lets output to an emptied terminal go on, as it has to be put back.
fn release(slave: c_int, usual: &termios2) -> HeldUp {
    let is_writable = || is_ready(slave, libc::POLLOUT, libc::POLLOUT);
    if is_writable() {
        return HeldUp::No;
    }
    // Without IXON nothing can hold it up (n_tty_set_termios); the plain settings leave that as it was.
    let mut released = plain(usual);
    released.c_iflag = 0;
    if set(slave, &released).is_ok() && is_writable() {
        return HeldUp::ByKey;
    }
    flow(slave, libc::TCOON);
    HeldUp::ByCall
}

/// TCXONC
fn flow(slave: c_int, action: c_int) {
    // SAFETY: plain numbers.
    unsafe { libc::ioctl(slave, libc::TCXONC, action) };
}

/// Takes everything that can be read without waiting.
fn drain(fd: c_int, into: &mut [u8]) -> usize {
    let mut taken = 0;
    while taken < into.len() && is_ready(fd, libc::POLLIN, libc::POLLIN) {
        let rest = &mut into[taken..];
        // SAFETY: a live buffer of that length.
        let count = unsafe { libc::read(fd, rest.as_mut_ptr().cast(), rest.len()) };
        if count <= 0 {
            break;
        }
        taken += count as usize;
    }
    taken
}

/// Puts bytes into both queues as they are to be found there. Leaves settings behind that are not `usual`.
fn fill(master: c_int, slave: c_int, usual: &termios2, input: &[u8], output: &[u8]) -> Result<(), c_int> {
    if !output.is_empty() {
        set(slave, &plain(usual))?;
        write_all(slave, output)?;
    }
    if input.is_empty() {
        return Ok(());
    }
    let canonical = usual.c_lflag & libc::ICANON != 0;
    let mut passing = *usual;
    passing.c_iflag &= libc::IXON;
    passing.c_lflag &= libc::ICANON | libc::EXTPROC;
    for special in
        [libc::VERASE, libc::VKILL, libc::VWERASE, libc::VLNEXT, libc::VREPRINT, libc::VSTART, libc::VSTOP]
    {
        passing.c_cc[special] = 0;
    }
    // A byte that means the end of a file and is not among those to be put.
    let end_of_file = (1..=255).rev().find(|byte| {
        !input.contains(byte)
            && *byte != usual.c_cc[libc::VEOL]
            && *byte != usual.c_cc[libc::VEOL2]
            && *byte != b'\n'
    });
    passing.c_cc[libc::VEOF] = end_of_file.filter(|_| canonical).unwrap_or(0);
    set(slave, &passing)?;
    match end_of_file.filter(|_| canonical) {
        None => write_all(master, input)?,
        Some(mark) => {
            let mut rest = input;
            while let Some(at) = rest.iter().position(|byte| *byte == 0) {
                write_all(master, &rest[..at])?;
                write_all(master, &[mark])?;
                rest = &rest[at + 1..];
            }
            write_all(master, rest)?;
        }
    }
    await_arrival(slave, usual, input, canonical)
}

/// The settings count at the moment when the bytes are taken in: waits for that.
fn await_arrival(slave: c_int, usual: &termios2, input: &[u8], canonical: bool) -> Result<(), c_int> {
    let ends_line = |byte: u8| {
        byte == b'\n' || byte == 0 || byte == usual.c_cc[libc::VEOL] || byte == usual.c_cc[libc::VEOL2]
    };
    let lines = input.iter().rposition(|byte| ends_line(*byte)).map_or(0, |at| at + 1);
    let whole = if canonical { lines } else { input.len() };
    // FIONREAD counts no ends of files.
    let counted = input[..whole].iter().filter(|byte| !canonical || **byte != 0).count();
    let deadline = Instant::now() + Duration::from_millis(STEP_TIMEOUT_MS);
    while readable(slave) < counted.min(ARRIVED_BYTES_MAX) {
        if Instant::now() > deadline {
            return Err(libc::ETIMEDOUT);
        }
        is_ready(slave, libc::POLLIN, 0);
        std::thread::sleep(Duration::from_micros(50));
    }
    if canonical && whole < input.len() {
        // Without a whole line, looking makes the kernel take in what is on its way; with one it does not.
        is_ready(slave, libc::POLLIN, 0);
        if whole > 0 {
            std::thread::sleep(HALF_LINE_PAUSE);
        }
    }
    Ok(())
}

/// Settings under which bytes pass as they are.
fn plain(usual: &termios2) -> termios2 {
    let mut plain = *usual;
    plain.c_iflag &= libc::IXON;
    plain.c_oflag &= !libc::OPOST;
    plain.c_lflag &= libc::EXTPROC;
    plain.c_cc[libc::VMIN] = 1;
    plain.c_cc[libc::VTIME] = 0;
    plain
}

fn write_all(fd: c_int, bytes: &[u8]) -> Result<(), c_int> {
    let deadline = Instant::now() + Duration::from_millis(STEP_TIMEOUT_MS);
    let mut rest = bytes;
    while !rest.is_empty() {
        if !is_ready(fd, libc::POLLOUT, libc::POLLOUT) {
            if Instant::now() > deadline {
                return Err(libc::ETIMEDOUT);
            }
            std::thread::sleep(Duration::from_micros(50));
            continue;
        }
        // SAFETY: a live buffer of that length.
        let count = unsafe { libc::write(fd, rest.as_ptr().cast(), rest.len().min(1024)) };
        if count < 0 {
            let error = errno();
            if error != libc::EAGAIN && error != libc::EINTR {
                return Err(error);
            }
            if Instant::now() > deadline {
                return Err(error);
            }
            continue;
        }
        rest = &rest[count as usize..];
    }
    Ok(())
}

fn errno() -> c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

fn open_peer(master: c_int) -> Result<c_int, c_int> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK | libc::O_CLOEXEC;
    // SAFETY: plain numbers.
    let slave = unsafe { libc::ioctl(master, libc::TIOCGPTPEER, flags) };
    if slave < 0 { Err(errno()) } else { Ok(slave) }
}

fn settings(slave: c_int) -> Result<termios2, c_int> {
    // SAFETY: plain numbers: all zeros is a valid value.
    let mut settings: termios2 = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one `struct termios2`.
    if unsafe { libc::ioctl(slave, libc::TCGETS2, &raw mut settings) } < 0 {
        Err(errno())
    } else {
        Ok(settings)
    }
}

fn set(slave: c_int, settings: &termios2) -> Result<(), c_int> {
    // SAFETY: the kernel reads one `struct termios2`.
    if unsafe { libc::ioctl(slave, libc::TCSETS2, &raw const *settings) } < 0 { Err(errno()) } else { Ok(()) }
}

fn packet_mode(master: c_int) -> bool {
    let mut on: c_int = 0;
    // SAFETY: a live int.
    unsafe { libc::ioctl(master, libc::TIOCGPKT, &raw mut on) == 0 && on != 0 }
}

fn set_packet_mode(master: c_int, on: bool) {
    let on = c_int::from(on);
    // SAFETY: a live int. Fails for no master, and this is one.
    unsafe { libc::ioctl(master, libc::TIOCPKT, &raw const on) };
}

/// FIONREAD
fn readable(fd: c_int) -> usize {
    let mut count: c_int = 0;
    // SAFETY: a live int.
    if unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut count) } < 0 { 0 } else { count.max(0) as usize }
}

/// Whether one of `wanted` holds now; looks for `events`.
fn is_ready(fd: c_int, events: i16, wanted: i16) -> bool {
    let mut polled = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: one live entry.
    unsafe { libc::poll(&mut polled, 1, 0) > 0 && polled.revents & wanted != 0 }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use super::*;

    fn pair() -> (File, File) {
        let pair = nix::pty::openpty(None, None).unwrap();
        (pair.master.into(), pair.slave.into())
    }

    fn settle(fd: &File) {
        std::thread::sleep(Duration::from_millis(20));
        is_ready(fd.as_raw_fd(), libc::POLLIN, 0);
    }

    fn read_now(file: &File) -> Vec<u8> {
        let mut got = vec![0; 8192];
        if !is_ready(file.as_raw_fd(), libc::POLLIN, libc::POLLIN) {
            return Vec::new();
        }
        let count = (&*file).read(&mut got).unwrap();
        got.truncate(count);
        got
    }

    #[test]
    fn both_queues_stay_as_they_were() {
        let (mut master, mut slave) = pair();
        let usual = settings(slave.as_raw_fd()).unwrap();
        set(slave.as_raw_fd(), &plain(&usual)).unwrap();
        master.write_all(b"in\rput\x03\x04").unwrap();
        slave.write_all(b"out\nput").unwrap();
        settle(&slave);
        for _ in 0..3 {
            let queues = copy_terminal_queues(master.as_fd()).unwrap();
            assert_eq!((&queues.input[..], &queues.output[..]), (&b"in\rput\x03\x04"[..], &b"out\nput"[..]));
        }
        assert_eq!(read_now(&slave), b"in\rput\x03\x04");
        assert_eq!(read_now(&master), b"out\nput");
    }

    #[test]
    fn lines_stay_lines() {
        let (mut master, slave) = pair();
        master.write_all(b"one\ntwo\rx\x04half").unwrap();
        settle(&slave);
        assert_eq!(read_now(&master), b"one\r\ntwo\r\nxhalf");
        let before = settings(slave.as_raw_fd()).unwrap();
        for _ in 0..3 {
            let queues = copy_terminal_queues(master.as_fd()).unwrap();
            assert_eq!((&queues.input[..], &queues.output[..]), (&b"one\ntwo\nx\0half"[..], &b""[..]));
        }
        let after = settings(slave.as_raw_fd()).unwrap();
        assert_eq!((before.c_lflag, before.c_iflag, before.c_cc), (after.c_lflag, after.c_iflag, after.c_cc));
        assert_eq!(read_now(&slave), b"one\n");
        assert_eq!(read_now(&slave), b"two\n");
        assert_eq!(read_now(&slave), b"x");
        assert_eq!(read_now(&slave), b"");
        master.write_all(b"\n").unwrap();
        settle(&slave);
        assert_eq!(read_now(&slave), b"half\n");
        assert_eq!(read_now(&master), b"\r\n");
    }

    #[test]
    fn a_new_terminal_is_filled() {
        let (master, slave) = pair();
        let queues = TerminalQueues { input: b"a line\nhalf".to_vec(), output: b"shown\r\n".to_vec() };
        fill_terminal_queues(master.as_fd(), &queues).unwrap();
        assert_eq!(read_now(&slave), b"a line\n");
        assert_eq!(read_now(&slave), b"");
        assert_eq!(read_now(&master), b"shown\r\n");
        let again = copy_terminal_queues(master.as_fd()).unwrap();
        assert_eq!((&again.input[..], &again.output[..]), (&b"half"[..], &b""[..]));
    }

    #[test]
    fn stopped_output_stays_stopped() {
        let (mut master, mut slave) = pair();
        slave.write_all(b"before").unwrap();
        master.write_all(b"\x13").unwrap();
        settle(&slave);
        let is_writable = |slave: &File| is_ready(slave.as_raw_fd(), libc::POLLOUT, libc::POLLOUT);
        assert!(!is_writable(&slave));
        assert_eq!(copy_terminal_queues(master.as_fd()).unwrap().output, b"before");
        settle(&slave);
        assert!(!is_writable(&slave));
        master.write_all(b"\x11").unwrap();
        settle(&slave);
        assert!(is_writable(&slave));
        flow(slave.as_raw_fd(), libc::TCOOFF);
        assert_eq!(copy_terminal_queues(master.as_fd()).unwrap().output, b"before");
        assert!(!is_writable(&slave));
        flow(slave.as_raw_fd(), libc::TCOON);
        assert!(is_writable(&slave));
        assert_eq!(read_now(&master), b"before");
    }

    #[test]
    fn much_output_is_copied() {
        let (master, mut slave) = pair();
        let bytes: Vec<u8> = (0..10_000u32).map(|index| b'a' + (index % 26) as u8).collect();
        slave.write_all(&bytes).unwrap();
        settle(&master);
        assert_eq!(copy_terminal_queues(master.as_fd()).unwrap().output, bytes);
        let mut all = Vec::new();
        while all.len() < bytes.len() {
            settle(&master);
            all.extend(read_now(&master));
        }
        assert_eq!(all, bytes);
    }
}
