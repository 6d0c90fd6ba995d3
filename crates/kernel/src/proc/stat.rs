//! `/proc/PID/stat` and `/proc/PID/task/TID/stat`: one line of 52 fields.
//!
//! Addresses and the exit code read 0 for those who may not trace the target.

use brant_base::{Addr, Pid};

use super::text::{Fields, ParseError};
use super::{ProcError, Subject, read_parsed};

/// What the line says. Fields that no longer mean anything are left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stat {
    pub pid: Pid,
    /// At most 15 bytes; any byte but NUL.
    pub comm: Vec<u8>,
    /// R, S, D, T (stopped), t (tracing stop), Z, X, I.
    pub state: u8,
    pub ppid: Pid,
    pub pgrp: Pid,
    pub session: Pid,
    /// The controlling terminal's device in the kernel's old coding; 0 for none.
    pub tty_nr: i32,
    /// The terminal's foreground group; -1 for none.
    pub tpgid: i32,
    /// PF_ flags of the kernel.
    pub flags: u64,
    pub utime_ticks: u64,
    pub stime_ticks: u64,
    pub cutime_ticks: i64,
    pub cstime_ticks: i64,
    pub priority: i64,
    pub nice: i64,
    pub num_threads: i64,
    /// Clock ticks since boot; with the pid it names a process for good.
    pub starttime_ticks: u64,
    pub vsize_bytes: u64,
    pub rss_pages: i64,
    pub start_code: Addr,
    pub end_code: Addr,
    pub start_stack: Addr,
    pub esp: Addr,
    pub eip: Addr,
    /// The signal that the parent gets; -1 for a thread that is not the first.
    pub exit_signal: i32,
    /// The CPU it last ran on.
    pub processor: i32,
    pub rt_priority: u32,
    pub policy: u32,
    pub start_data: Addr,
    pub end_data: Addr,
    pub start_brk: Addr,
    pub arg_start: Addr,
    pub arg_end: Addr,
    pub env_start: Addr,
    pub env_end: Addr,
    /// As wait(2) gives it.
    pub exit_code: i32,
}

/// PF_EXITING of the kernel (include/linux/sched.h), which nothing takes back.
const EXITING: u64 = 0x4;

impl Stat {
    /// Whether it has ended or is on its way out: it executes no instruction of its program any more, and gives up its
    /// memory, its descriptors and at last its number, which can take long. Without its memory its files in /proc are
    /// root's (`task_dump_owner` in fs/proc/base.c), so that looks at it fail with EACCES.
    pub fn is_ending(&self) -> bool {
        matches!(self.state, b'Z' | b'X') || self.flags & EXITING != 0
    }

    /// The controlling terminal as major and minor, or `None`.
    pub fn terminal(&self) -> Option<super::Device> {
        let number = self.tty_nr as u32;
        // include/linux/kdev_t.h, new_encode_dev.
        (number != 0).then_some(super::Device {
            major: (number >> 8) & 0xfff,
            minor: (number & 0xff) | ((number >> 12) & 0xf_ff00),
        })
    }
}

/// Reads that of a process or a thread.
pub fn stat(of: impl Into<Subject>) -> Result<Stat, ProcError> {
    read_parsed(of.into(), "stat", parse_stat)
}

/// Parses the line.
pub fn parse_stat(bytes: &[u8]) -> Result<Stat, ParseError> {
    // The name may hold blanks and parentheses; the last one closes it.
    let name_start = bytes.iter().position(|&byte| byte == b'(').ok_or(ParseError::new(1, "a name"))?;
    let name_end = bytes.iter().rposition(|&byte| byte == b')').ok_or(ParseError::new(1, "a name"))?;
    let comm = bytes.get(name_start + 1..name_end).ok_or(ParseError::new(1, "a name"))?;
    let pid = Line(Fields::new(&bytes[..name_start])).int("a pid")?;
    let mut line = Line(Fields::new(&bytes[name_end + 1..]));
    let [state] = *line.0.word("a state")? else { return Err(ParseError::new(1, "a state of one letter")) };
    let mut stat = Stat { pid: Pid(pid), comm: comm.to_vec(), state, ..Stat::default() };
    parse_place_and_times(&mut line, &mut stat)?;
    parse_memory_and_end(&mut line, &mut stat)?;
    Ok(stat)
}

/// Fields 4 to 24 of proc(5).
fn parse_place_and_times(line: &mut Line<'_>, stat: &mut Stat) -> Result<(), ParseError> {
    stat.ppid = Pid(line.int("a parent")?);
    stat.pgrp = Pid(line.int("a process group")?);
    stat.session = Pid(line.int("a session")?);
    stat.tty_nr = line.int("a terminal")?;
    stat.tpgid = line.int("a foreground group")?;
    stat.flags = line.0.number(10, "flags")?;
    line.skip(4)?;
    stat.utime_ticks = line.0.number(10, "a user time")?;
    stat.stime_ticks = line.0.number(10, "a system time")?;
    stat.cutime_ticks = line.0.signed("a user time of children")?;
    stat.cstime_ticks = line.0.signed("a system time of children")?;
    stat.priority = line.0.signed("a priority")?;
    stat.nice = line.0.signed("a nice value")?;
    stat.num_threads = line.0.signed("a count of threads")?;
    line.skip(1)?;
    stat.starttime_ticks = line.0.number(10, "a start time")?;
    stat.vsize_bytes = line.0.number(10, "a size")?;
    stat.rss_pages = line.0.signed("a resident size")?;
    Ok(())
}

/// Fields 25 to 52 of proc(5).
fn parse_memory_and_end(line: &mut Line<'_>, stat: &mut Stat) -> Result<(), ParseError> {
    line.skip(1)?;
    stat.start_code = line.addr()?;
    stat.end_code = line.addr()?;
    stat.start_stack = line.addr()?;
    stat.esp = line.addr()?;
    stat.eip = line.addr()?;
    line.skip(7)?;
    stat.exit_signal = line.int("an exit signal")?;
    stat.processor = line.int("a processor")?;
    stat.rt_priority = line.int("a real-time priority")?;
    stat.policy = line.int("a policy")?;
    line.skip(3)?;
    stat.start_data = line.addr()?;
    stat.end_data = line.addr()?;
    stat.start_brk = line.addr()?;
    stat.arg_start = line.addr()?;
    stat.arg_end = line.addr()?;
    stat.env_start = line.addr()?;
    stat.env_end = line.addr()?;
    stat.exit_code = line.int("an exit code")?;
    Ok(())
}

struct Line<'a>(Fields<'a>);

impl Line<'_> {
    fn int<T: TryFrom<i64>>(&mut self, expected: &'static str) -> Result<T, ParseError> {
        self.0.signed(expected)?.try_into().map_err(|_| ParseError::new(1, expected))
    }

    fn addr(&mut self) -> Result<Addr, ParseError> {
        self.0.number(10, "an address").map(Addr)
    }

    fn skip(&mut self, count: usize) -> Result<(), ParseError> {
        (0..count).try_for_each(|_| self.0.word("52 fields").map(drop))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SAMPLE: &[u8] = b"8446 (a) b (c) R 8439 8438 5076 34817 -1 4194304 103 0 0 0 7 8 -9 0 20 -5 3 0 196783 \
        3133440 412 18446744073709551615 94228875149312 94228875169193 140731673564208 1 2 0 0 0 0 0 0 0 17 1 0 \
        3 0 0 0 94228875185200 94228875186816 94229768667136 140731673569950 140731673570036 140731673570037 \
        140731673571307 256\n";

    #[test]
    fn a_name_may_hold_parentheses() {
        let stat = parse_stat(SAMPLE).unwrap();
        assert_eq!(stat.comm, b"a) b (c");
        assert_eq!(
            (stat.pid, stat.ppid, stat.pgrp, stat.session),
            (Pid(8446), Pid(8439), Pid(8438), Pid(5076))
        );
        assert_eq!(stat.terminal(), Some(crate::proc::Device { major: 136, minor: 1 }));
        assert_eq!((stat.nice, stat.num_threads, stat.starttime_ticks), (-5, 3, 196783));
        assert_eq!((stat.exit_signal, stat.processor, stat.policy), (17, 1, 3));
        assert_eq!(stat.start_stack, Addr(140731673564208));
        assert_eq!((stat.env_start, stat.env_end), (Addr(140731673570037), Addr(140731673571307)));
        assert_eq!(stat.exit_code, 256);
    }

    #[test]
    fn our_own_is_read() {
        let own = Pid(std::process::id() as i32);
        let stat = stat(own).unwrap();
        assert_eq!(stat.pid, own);
        assert!(stat.start_code.0 > 0 && stat.arg_start < stat.arg_end);
    }

    #[test]
    fn a_process_that_is_gone_is_told_apart() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = Pid(child.id() as i32);
        child.wait().unwrap();
        assert!(stat(pid).unwrap_err().is_gone());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse_stat(&bytes);
        }

        #[test]
        fn damaged_samples_are_survived(at in 0..SAMPLE.len(), byte: u8, cut in 0..SAMPLE.len()) {
            let mut bytes = SAMPLE.to_vec();
            bytes[at] = byte;
            let _ = parse_stat(&bytes);
            let _ = parse_stat(&SAMPLE[..cut]);
        }
    }
}
