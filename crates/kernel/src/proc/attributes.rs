//! The small files: cmdline, comm, auxv, sched, syscall, personality, scores; and the links exe, cwd, root, fd/N.

use std::path::PathBuf;

use brant_base::{Addr, Pid};

use super::text::{Fields, ParseError, lines, signed, split_once, trim, unsigned};
use super::{ProcError, Subject, read, read_parsed};

/// The arguments; empty for a zombie. A program may write anything there.
pub fn cmdline(pid: Pid) -> Result<Vec<Vec<u8>>, ProcError> {
    let bytes = read(pid.into(), "cmdline")?;
    let body = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    if body.is_empty() {
        return Ok(Vec::new());
    }
    Ok(body.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect())
}

/// The name of a process's first thread, or of a thread: at most 15 bytes.
pub fn comm(of: impl Into<Subject>) -> Result<Vec<u8>, ProcError> {
    let mut name = read(of.into(), "comm")?;
    if name.last() == Some(&b'\n') {
        name.pop();
    }
    Ok(name)
}

/// The auxiliary vector as pairs of type and value, without the closing AT_NULL.
pub fn auxv(pid: Pid) -> Result<Vec<(u64, u64)>, ProcError> {
    read_parsed(pid.into(), "auxv", parse_auxv)
}

/// Parses the file of a 64-bit process.
pub fn parse_auxv(bytes: &[u8]) -> Result<Vec<(u64, u64)>, ParseError> {
    let mut pairs = Vec::new();
    for chunk in bytes.chunks(16) {
        let Ok(pair) = <[u8; 16]>::try_from(chunk) else {
            return Err(ParseError::new(1, "pairs of 16 bytes"));
        };
        let pair = u128::from_le_bytes(pair);
        let (kind, value) = (pair as u64, (pair >> 64) as u64);
        if kind == libc::AT_NULL {
            break;
        }
        pairs.push((kind, value));
    }
    Ok(pairs)
}

/// What a thread is doing (`syscall`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CurrentCall {
    /// On a CPU.
    Running,
    /// Stopped or waiting outside a system call.
    Outside { sp: Addr, pc: Addr },
    /// In a system call.
    Inside { number: i64, arguments: [u64; 6], sp: Addr, pc: Addr },
}

/// Reads that of a process's first thread or of a thread.
pub fn current_call(of: impl Into<Subject>) -> Result<CurrentCall, ProcError> {
    read_parsed(of.into(), "syscall", parse_current_call)
}

/// Parses the file.
pub fn parse_current_call(bytes: &[u8]) -> Result<CurrentCall, ParseError> {
    let mut fields = Fields::new(bytes);
    let first = fields.word("a system call's number")?;
    if first == b"running" {
        return Ok(CurrentCall::Running);
    }
    let number = signed(first).ok_or(ParseError::new(1, "a system call's number"))?;
    let mut value = || {
        let word = fields.word("an argument")?;
        word.strip_prefix(b"0x")
            .and_then(|digits| unsigned(digits, 16))
            .ok_or(ParseError::new(1, "an argument"))
    };
    if number == -1 {
        return Ok(CurrentCall::Outside { sp: Addr(value()?), pc: Addr(value()?) });
    }
    let mut arguments = [0; 6];
    for argument in &mut arguments {
        *argument = value()?;
    }
    Ok(CurrentCall::Inside { number, arguments, sp: Addr(value()?), pc: Addr(value()?) })
}

/// When the thread last began or was charged for running, in nanoseconds of the scheduler's clock
/// (`se.exec_start` of `sched`, CONFIG_SCHED_DEBUG).
pub fn exec_start_ns(of: impl Into<Subject>) -> Result<u64, ProcError> {
    read_parsed(of.into(), "sched", parse_exec_start)
}

/// Parses the file.
pub fn parse_exec_start(bytes: &[u8]) -> Result<u64, ParseError> {
    let parse = |value: &[u8]| {
        let (milliseconds, rest) = split_once(trim(value), b'.')?;
        let fraction = if rest.len() == 6 { unsigned(rest, 10)? } else { return None };
        unsigned(milliseconds, 10)?.checked_mul(1_000_000)?.checked_add(fraction)
    };
    for (number, line) in lines(bytes) {
        if let Some((key, value)) = split_once(line, b':')
            && trim(key) == b"se.exec_start"
        {
            return parse(value).ok_or(ParseError::new(number, "milliseconds with six decimals"));
        }
    }
    Err(ParseError::new(1, "an se.exec_start line"))
}

/// How much later than asked the thread's timers may fire. [`ProcError::Denied`] for a plain user who asks of
/// any thread but the reading one (CAP_SYS_NICE): such a one has to ask by prctl(2) in the thread.
pub fn timer_slack_ns(of: Pid) -> Result<u64, ProcError> {
    read_parsed(of.into(), "timerslack_ns", |bytes| {
        unsigned(trim(bytes), 10).ok_or(ParseError::new(1, "nanoseconds"))
    })
}

/// -1000 to 1000.
pub fn oom_score_adj(pid: Pid) -> Result<i32, ProcError> {
    read_parsed(pid.into(), "oom_score_adj", |bytes| {
        signed(trim(bytes)).and_then(|value| value.try_into().ok()).ok_or(ParseError::new(1, "a score"))
    })
}

/// personality(2). Needs the right to trace.
pub fn personality(of: impl Into<Subject>) -> Result<u64, ProcError> {
    read_parsed(of.into(), "personality", |bytes| {
        unsigned(trim(bytes), 16).ok_or(ParseError::new(1, "hexadecimal flags"))
    })
}

/// The text of a link such as `exe`, `cwd`, `root` or `fd/3`. Ends in " (deleted)" where the name is gone.
pub fn link(of: impl Into<Subject>, file: &str) -> Result<PathBuf, ProcError> {
    let of = of.into();
    std::fs::read_link(of.path(file)).map_err(|error| ProcError::from_io(of, file, error))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn own() -> Pid {
        Pid(std::process::id() as i32)
    }

    #[test]
    fn our_own_are_read() {
        let arguments: Vec<Vec<u8>> = std::env::args().map(String::into_bytes).collect();
        assert_eq!(cmdline(own()).unwrap(), arguments);
        assert!(!comm(own()).unwrap().is_empty());
        let page = auxv(own()).unwrap().iter().find(|pair| pair.0 == libc::AT_PAGESZ).map(|pair| pair.1);
        assert_eq!(page, Some(4096));
        assert!(exec_start_ns(own()).unwrap() > 0);
        match timer_slack_ns(own()) {
            Ok(slack_ns) => assert!(slack_ns > 0),
            Err(ProcError::Denied { .. }) => eprintln!("skipped: timerslack_ns needs CAP_SYS_NICE"),
            Err(error) => panic!("{error}"),
        }
        assert!((-1000..=1000).contains(&oom_score_adj(own()).unwrap()));
        assert_eq!(personality(own()).unwrap() & 0xff, 0);
        assert_eq!(link(own(), "exe").unwrap(), std::env::current_exe().unwrap());
        current_call(own()).unwrap();
    }

    #[test]
    fn calls_are_told_apart() {
        let inside = b"0 0xc 0x55a9cf172710 0x2000 0x1000 0x0 0x0 0x7ffda80f43c8 0x7fb289d162ad\n";
        let expected = CurrentCall::Inside {
            number: 0,
            arguments: [12, 0x55a9cf172710, 0x2000, 0x1000, 0, 0],
            sp: Addr(0x7ffda80f43c8),
            pc: Addr(0x7fb289d162ad),
        };
        assert_eq!(parse_current_call(inside), Ok(expected));
        assert_eq!(parse_current_call(b"running\n"), Ok(CurrentCall::Running));
        assert_eq!(
            parse_current_call(b"-1 0x1 0x2\n"),
            Ok(CurrentCall::Outside { sp: Addr(1), pc: Addr(2) })
        );
    }

    #[test]
    fn the_schedulers_time_is_in_nanoseconds() {
        let text = b"x (1, #threads: 1)\n----\nse.exec_start      :       2350567.982589\n";
        assert_eq!(parse_exec_start(text), Ok(2350567982589));
        assert!(parse_exec_start(b"se.exec_start : 5.12\n").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            let _ = parse_auxv(&bytes);
            let _ = parse_current_call(&bytes);
            let _ = parse_exec_start(&bytes);
        }
    }
}
