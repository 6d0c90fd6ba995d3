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
use std::time::Duration;

use libc::{c_int, termios2};

use super::checked;
use crate::patience::Patience;

/// Bytes in both queues of a terminal.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct TerminalQueues {
    /// Written to the master, not yet read from the slave. In canonical mode an end of file is a NUL byte.
    pub input: Vec<u8>,
    /// Written to the slave, not yet read from the master.
    pub output: Vec<u8>,
    /// A NUL that was typed in canonical mode: `input` does not tell it from an end of file.
    pub has_typed_nul: bool,
}

/// More than the buffers of a terminal hold (8 KiB on their way and 4 KiB arrived).
const QUEUE_BYTES_MAX: usize = 64 << 10;
/// What a line discipline shows to its reader at most.
const ARRIVED_BYTES_MAX: usize = 4095;
/// So much place has to be left in a queue that is not taken for full.
const SPARE_BYTES: usize = 64;
/// How long the child may take, and how long we wait for it.
const STEP_TIMEOUT: Duration = Duration::from_secs(1);
const CHILD_TIMEOUT_MS: c_int = 10_000;
/// For the kernel's worker to take in half a line where nothing can show it.
const HALF_LINE_PAUSE: Duration = Duration::from_millis(5);

/// Memory that the child and we share.
#[repr(C)]
struct Exchange {
    input_bytes: usize,
    /// How many of them the line discipline had taken in; the rest is as it was typed.
    arrived_bytes: usize,
    canonical: bool,
    output_bytes: usize,
    input: [u8; QUEUE_BYTES_MAX],
    /// Which bytes of `input` stand for an end of file.
    ends: [bool; QUEUE_BYTES_MAX],
    output: [u8; QUEUE_BYTES_MAX],
}

/// Copies what is in both queues of the terminal that `master` is the master side of. On return, and if we are killed,
/// the terminal is as it was. `slave`, where there is one, is needed for a terminal in exclusive mode. EAGAIN where a
/// status for a reader in packet mode waits, which would be lost; EBADMSG where less than before can be read now.
pub fn copy_terminal_queues(
    master: BorrowedFd<'_>,
    slave: Option<BorrowedFd<'_>>,
) -> io::Result<TerminalQueues> {
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
    let slave = slave.map(|slave| slave.as_raw_fd());
    // SAFETY: the child makes system calls and touches its stack and the shared memory only, then ends: so it does
    // not matter what other threads of ours held at this moment.
    let copied = match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: valid, zeroed memory of that size; the parent looks at it when this child has ended.
            let errno = copy_in_child(fd, slave, unsafe { &mut *exchange });
            // SAFETY: plain number.
            unsafe { libc::_exit(errno) }
        }
        child => await_child(child),
    };
    let queues = copied.map(|()| {
        // SAFETY: the child has ended; the memory is ours alone now.
        let exchange = unsafe { &*exchange };
        let input = &exchange.input[..exchange.input_bytes.min(QUEUE_BYTES_MAX)];
        TerminalQueues {
            input: input.to_vec(),
            output: exchange.output[..exchange.output_bytes.min(QUEUE_BYTES_MAX)].to_vec(),
            has_typed_nul: exchange.canonical
                && input.iter().zip(&exchange.ends).any(|(byte, end)| *byte == 0 && !end),
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
            let canonical = is_canonical(&usual);
            let ends: Vec<bool> = queues.input.iter().map(|byte| canonical && *byte == 0).collect();
            let arrived = queues.input.len().min(ARRIVED_BYTES_MAX);
            let filled = write_output(slave, &usual, &queues.output).and(type_in(
                master,
                slave,
                &usual,
                &queues.input[..arrived],
                &ends[..arrived],
            ));
            filled.and(set(slave, &usual)).and(write_all(master, &queues.input[arrived..]))
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
fn copy_in_child(master: c_int, duplicate: Option<c_int>, exchange: &mut Exchange) -> c_int {
    // SAFETY: plain numbers, and a live signal set: nothing but SIGKILL shall end this process.
    unsafe {
        libc::setsid();
        let mut all = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::sigprocmask(libc::SIG_BLOCK, &all, std::ptr::null_mut());
    }
    let slave = match open_slave(master, duplicate) {
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
    let packets = packet_mode(master);
    if packets && is_ready(master, libc::POLLPRI, libc::POLLPRI) {
        return Err(libc::EAGAIN);
    }
    is_ready(master, libc::POLLIN, 0);
    let readable_before = readable(slave);
    set_packet_mode(master, false);
    exchange.output_bytes = drain(master, &mut exchange.output);
    exchange.canonical = is_canonical(usual);
    let lines = if exchange.canonical { drain_lines(slave, usual, exchange) } else { 0 };
    let set_up = set(slave, &plain(usual));
    exchange.input_bytes = lines;
    exchange.arrived_bytes = lines;
    if set_up.is_ok() {
        exchange.arrived_bytes += readable(slave);
        exchange.input_bytes += drain(slave, &mut exchange.input[lines..]);
        exchange.arrived_bytes = exchange.arrived_bytes.min(exchange.input_bytes);
    }
    let held_up = if exchange.output_bytes > 0 { release(slave, usual) } else { HeldUp::No };
    let written = write_output(slave, usual, &exchange.output[..exchange.output_bytes]);
    let (arrived, all) = (exchange.arrived_bytes, exchange.input_bytes);
    let typed = type_in(master, slave, usual, &exchange.input[..arrived], &exchange.ends[..arrived]);
    let back = set(slave, usual);
    let same = if readable(slave) == readable_before { Ok(()) } else { Err(libc::EBADMSG) };
    // What had no place yet is taken in when there is, by the settings of then.
    let rest = write_all(master, &exchange.input[arrived..all]);
    match held_up {
        HeldUp::No => {}
        HeldUp::ByKey => drop(write_all(master, &[usual.c_cc[libc::VSTOP]])),
        HeldUp::ByCall => flow(slave, libc::TCOOFF),
    }
    if packets {
        set_packet_mode(master, true);
    }
    set_up.and(written).and(typed).and(back).and(rest).and(same)
}

/// Whether input is made of lines.
fn is_canonical(settings: &termios2) -> bool {
    settings.c_lflag & (libc::ICANON | libc::EXTPROC) == libc::ICANON
}

fn ends_line(settings: &termios2, byte: u8) -> bool {
    let extended = settings.c_lflag & libc::IEXTEN != 0;
    byte == b'\n'
        || byte != 0 && byte == settings.c_cc[libc::VEOL]
        || byte != 0 && extended && byte == settings.c_cc[libc::VEOL2]
}

/// Takes whole lines, each by a call of its own: one without a line's end was ended by an end of file.
fn drain_lines(slave: c_int, usual: &termios2, exchange: &mut Exchange) -> usize {
    let mut taken = 0;
    while taken + ARRIVED_BYTES_MAX < QUEUE_BYTES_MAX && is_ready(slave, libc::POLLIN, libc::POLLIN) {
        let rest = &mut exchange.input[taken..];
        // SAFETY: a live buffer of that length.
        let count = unsafe { libc::read(slave, rest.as_mut_ptr().cast(), rest.len()) };
        if count < 0 {
            break;
        }
        taken += count as usize;
        if count == 0 || !ends_line(usual, exchange.input[taken - 1]) {
            exchange.input[taken] = 0;
            exchange.ends[taken] = true;
            taken += 1;
        }
    }
    taken
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

/// Puts bytes on the way to the master. Leaves settings behind that are not `usual`.
fn write_output(slave: c_int, usual: &termios2, output: &[u8]) -> Result<(), c_int> {
    if output.is_empty() {
        return Ok(());
    }
    set(slave, &plain(usual))?;
    write_all(slave, output)
}

/// Puts bytes that were taken in by the line discipline where they were. `ends`: which of them are ends of files.
/// Leaves settings behind that are not `usual`.
fn type_in(master: c_int, slave: c_int, usual: &termios2, input: &[u8], ends: &[bool]) -> Result<(), c_int> {
    if input.is_empty() {
        return Ok(());
    }
    let canonical = is_canonical(usual);
    let mut passing = *usual;
    passing.c_iflag &= libc::IXON;
    passing.c_lflag &= libc::ICANON | libc::EXTPROC | libc::IEXTEN;
    for special in [libc::VERASE, libc::VKILL, libc::VWERASE, libc::VLNEXT, libc::VREPRINT, libc::VEOF] {
        passing.c_cc[special] = 0;
    }
    passing.c_cc[libc::VSTART] = 0;
    passing.c_cc[libc::VSTOP] = 0;
    // Bytes that are not to be put, to mean things.
    let mut free = (1..=255u8).rev().filter(|byte| {
        !input.contains(byte)
            && *byte != b'\n'
            && *byte != usual.c_cc[libc::VEOL]
            && *byte != usual.c_cc[libc::VEOL2]
    });
    let end_of_file = if canonical { free.next().unwrap_or(0) } else { 0 };
    passing.c_cc[libc::VEOF] = end_of_file;
    let stop_start = free.next().zip(free.next()).filter(|_| canonical);
    // Where a queue is full such bytes count before their turn, and stay.
    let can_tell =
        input.len() + SPARE_BYTES < ARRIVED_BYTES_MAX && is_ready(slave, libc::POLLOUT, libc::POLLOUT);
    let stop_start = stop_start.filter(|_| can_tell);
    if let Some((stop, start)) = stop_start {
        passing.c_iflag |= libc::IXON;
        passing.c_cc[libc::VSTOP] = stop;
        passing.c_cc[libc::VSTART] = start;
    }
    set(slave, &passing)?;
    let mut from = 0;
    for end in ends.iter().enumerate().filter(|(_, end)| **end).map(|(at, _)| at) {
        write_all(master, &input[from..end])?;
        write_all(master, &[end_of_file])?;
        from = end + 1;
    }
    write_all(master, &input[from..])?;
    match stop_start {
        Some((stop, start)) => await_taken_in(master, slave, stop, start),
        None => await_arrival(slave, usual, input, ends),
    }
}

/// The settings count at the moment when the bytes are taken in, in their order: waits until the last one is, which is
/// one that stops output.
fn await_taken_in(master: c_int, slave: c_int, stop: u8, start: u8) -> Result<(), c_int> {
    let await_output = |goes_on: bool| {
        let mut patience = Patience::new(STEP_TIMEOUT);
        while is_ready(slave, libc::POLLOUT, libc::POLLOUT) != goes_on {
            if patience.is_over() {
                return Err(libc::ETIMEDOUT);
            }
            std::thread::sleep(Duration::from_micros(20));
        }
        Ok(())
    };
    let stopped = write_all(master, &[stop]).and_then(|()| await_output(false));
    let started = write_all(master, &[start]).and_then(|()| await_output(true));
    stopped.and(started)
}

/// The same where output cannot show it: by the count of what can be read.
fn await_arrival(slave: c_int, usual: &termios2, input: &[u8], ends: &[bool]) -> Result<(), c_int> {
    let canonical = is_canonical(usual);
    let last = input.iter().zip(ends).rposition(|(byte, end)| *end || ends_line(usual, *byte));
    let whole = if canonical { last.map_or(0, |at| at + 1) } else { input.len() };
    // FIONREAD counts no ends of files.
    let counted = ends[..whole].iter().filter(|end| !**end).count();
    let mut patience = Patience::new(STEP_TIMEOUT);
    while readable(slave) < counted.min(ARRIVED_BYTES_MAX) {
        if patience.is_over() {
            return Err(libc::ETIMEDOUT);
        }
        is_ready(slave, libc::POLLIN, 0);
        std::thread::sleep(Duration::from_micros(50));
    }
    is_ready(slave, libc::POLLIN, 0);
    if canonical {
        std::thread::sleep(HALF_LINE_PAUSE);
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
    let mut patience = Patience::new(STEP_TIMEOUT);
    let mut rest = bytes;
    while !rest.is_empty() {
        if !is_ready(fd, libc::POLLOUT, libc::POLLOUT) {
            if patience.is_over() {
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
            if patience.is_over() {
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

/// Opens the slave for ourselves: also one that its users locked, or took for themselves by TIOCEXCL.
fn open_slave(master: c_int, duplicate: Option<c_int>) -> Result<c_int, c_int> {
    match (open_peer(master), duplicate) {
        (Err(libc::EBUSY), Some(duplicate)) => {
            exclusive(duplicate, libc::TIOCNXCL);
            let opened = open_peer(master);
            exclusive(duplicate, libc::TIOCEXCL);
            opened
        }
        (Err(libc::EIO), _) if is_locked(master) => {
            lock(master, false);
            let opened = open_peer(master);
            lock(master, true);
            opened
        }
        (opened, _) => opened,
    }
}

fn exclusive(slave: c_int, request: libc::Ioctl) {
    // SAFETY: takes no argument.
    unsafe { libc::ioctl(slave, request) };
}

fn is_locked(master: c_int) -> bool {
    let mut locked: c_int = 0;
    // SAFETY: a live int.
    unsafe { libc::ioctl(master, libc::TIOCGPTLCK, &raw mut locked) == 0 && locked != 0 }
}

fn lock(master: c_int, on: bool) {
    let on = c_int::from(on);
    // SAFETY: reads a live int.
    unsafe { libc::ioctl(master, libc::TIOCSPTLCK, &raw const on) };
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
            let queues = copy_terminal_queues(master.as_fd(), None).unwrap();
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
            let queues = copy_terminal_queues(master.as_fd(), None).unwrap();
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
        let queues = TerminalQueues {
            input: b"a line\nhalf".to_vec(),
            output: b"shown\r\n".to_vec(),
            has_typed_nul: false,
        };
        fill_terminal_queues(master.as_fd(), &queues).unwrap();
        assert_eq!(read_now(&slave), b"a line\n");
        assert_eq!(read_now(&slave), b"");
        assert_eq!(read_now(&master), b"shown\r\n");
        let again = copy_terminal_queues(master.as_fd(), None).unwrap();
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
        assert_eq!(copy_terminal_queues(master.as_fd(), None).unwrap().output, b"before");
        settle(&slave);
        assert!(!is_writable(&slave));
        master.write_all(b"\x11").unwrap();
        settle(&slave);
        assert!(is_writable(&slave));
        flow(slave.as_raw_fd(), libc::TCOOFF);
        assert_eq!(copy_terminal_queues(master.as_fd(), None).unwrap().output, b"before");
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
        assert_eq!(copy_terminal_queues(master.as_fd(), None).unwrap().output, bytes);
        let mut all = Vec::new();
        while all.len() < bytes.len() {
            settle(&master);
            all.extend(read_now(&master));
        }
        assert_eq!(all, bytes);
    }

    #[test]
    fn typed_nuls_and_ends_of_files_are_told_apart() {
        let (mut master, slave) = pair();
        let mut usual = settings(slave.as_raw_fd()).unwrap();
        usual.c_cc[libc::VEOL2] = b'%';
        set(slave.as_raw_fd(), &usual).unwrap();
        master.write_all(b"a\0b\nc%\x04\x04d\x04\0e").unwrap();
        settle(&slave);
        for _ in 0..3 {
            let queues = copy_terminal_queues(master.as_fd(), Some(slave.as_fd())).unwrap();
            assert_eq!(queues.input, b"a\0b\nc%\0\0d\0\0e");
            assert!(queues.has_typed_nul);
        }
        for line in [&b"a\0b\n"[..], b"c%", b"", b"", b"d"] {
            assert_eq!(read_now(&slave), line);
        }
        assert!(!is_ready(slave.as_raw_fd(), libc::POLLIN, libc::POLLIN));
        master.write_all(b"\n").unwrap();
        settle(&slave);
        assert_eq!(read_now(&slave), b"\0e\n");
    }

    #[test]
    fn ends_of_files_alone_are_kept() {
        let (mut master, slave) = pair();
        master.write_all(b"\x04").unwrap();
        settle(&slave);
        for _ in 0..50 {
            let queues = copy_terminal_queues(master.as_fd(), None).unwrap();
            assert_eq!(queues.input, b"\0");
            assert!(!queues.has_typed_nul);
        }
        assert_eq!(read_now(&slave), b"");
        assert!(!is_ready(slave.as_raw_fd(), libc::POLLIN, libc::POLLIN));
    }

    #[test]
    fn what_had_no_place_is_taken_in_later_by_the_settings_of_then() {
        let (mut master, slave) = pair();
        let mut usual = settings(slave.as_raw_fd()).unwrap();
        usual.c_lflag &= !(libc::ICANON | libc::ECHO);
        set(slave.as_raw_fd(), &usual).unwrap();
        master.write_all(&[b'\r'; 6000]).unwrap();
        settle(&slave);
        let queues = copy_terminal_queues(master.as_fd(), None).unwrap();
        assert_eq!(queues.input.len(), 6000);
        let mut all = Vec::new();
        while all.len() < 6000 {
            settle(&slave);
            all.extend(read_now(&slave));
        }
        assert_eq!(all, [b'\n'; 6000]);
        assert_eq!(read_now(&master), b"");
    }

    #[test]
    fn full_buffers_of_lines_are_kept() {
        let (mut master, slave) = pair();
        let mut usual = settings(slave.as_raw_fd()).unwrap();
        usual.c_lflag &= !libc::ECHO;
        set(slave.as_raw_fd(), &usual).unwrap();
        let lines: Vec<u8> = b"0123456\n".repeat(511);
        master.write_all(&lines).unwrap();
        master.write_all(b"abcdefg").unwrap();
        settle(&slave);
        for _ in 0..3 {
            let queues = copy_terminal_queues(master.as_fd(), None).unwrap();
            assert!(queues.input == [&lines[..], b"abcdefg"].concat());
        }
        for _ in 0..511 {
            assert_eq!(read_now(&slave), b"0123456\n");
        }
        master.write_all(b"\n").unwrap();
        settle(&slave);
        assert_eq!(read_now(&slave), b"abcdefg\n");
    }

    #[test]
    fn a_locked_exclusive_terminal_in_packet_mode_is_copied() {
        let (mut master, slave) = pair();
        exclusive(slave.as_raw_fd(), libc::TIOCEXCL);
        lock(master.as_raw_fd(), true);
        set_packet_mode(master.as_raw_fd(), true);
        master.write_all(b"line\n").unwrap();
        settle(&slave);
        let queues = copy_terminal_queues(master.as_fd(), Some(slave.as_fd())).unwrap();
        assert_eq!((&queues.input[..], &queues.output[..]), (&b"line\n"[..], &b"line\r\n"[..]));
        assert!(is_locked(master.as_raw_fd()) && packet_mode(master.as_raw_fd()));
        assert_eq!(read_now(&master), b"\0line\r\n");
        // SAFETY: plain numbers.
        assert_eq!(unsafe { libc::ioctl(master.as_raw_fd(), libc::TCFLSH, libc::TCIFLUSH) }, 0);
        flow(slave.as_raw_fd(), libc::TCOOFF);
        let refused = copy_terminal_queues(master.as_fd(), Some(slave.as_fd()));
        assert_eq!(refused.err().and_then(|error| error.raw_os_error()), Some(libc::EAGAIN));
    }
}
