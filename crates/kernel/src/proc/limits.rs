//! `/proc/PID/limits`. Unlike prlimit(2) it can be read without the right to trace.

use brant_base::Pid;

use super::text::{Fields, ParseError, lines, unsigned};
use super::{ProcError, read_parsed};

/// The value of a limit that is none (RLIM_INFINITY).
pub const UNLIMITED: u64 = u64::MAX;

/// The kernel's names of all limits, in the order of their RLIMIT_ numbers.
pub const LIMITS: [&str; 16] = [
    "Max cpu time",
    "Max file size",
    "Max data size",
    "Max stack size",
    "Max core file size",
    "Max resident set",
    "Max processes",
    "Max open files",
    "Max locked memory",
    "Max address space",
    "Max file locks",
    "Max pending signals",
    "Max msgqueue size",
    "Max nice priority",
    "Max realtime priority",
    "Max realtime timeout",
];

/// One limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LimitPair {
    pub soft: u64,
    pub hard: u64,
}

/// All 16, by RLIMIT_ number.
pub fn limits(pid: Pid) -> Result<[LimitPair; 16], ProcError> {
    read_parsed(pid.into(), "limits", parse_limits)
}

/// Parses the file.
pub fn parse_limits(bytes: &[u8]) -> Result<[LimitPair; 16], ParseError> {
    let mut limits = [None; 16];
    for (number, line) in lines(bytes).skip(1) {
        let Some(index) = LIMITS.iter().position(|name| line.starts_with(name.as_bytes())) else { continue };
        let mut fields = Fields::new(&line[LIMITS[index].len()..]);
        let mut value = || match fields.next() {
            Some(b"unlimited") => Ok(UNLIMITED),
            Some(word) => unsigned(word, 10).ok_or(ParseError::new(number, "a limit")),
            None => Err(ParseError::new(number, "a limit")),
        };
        limits[index] = Some(LimitPair { soft: value()?, hard: value()? });
    }
    let mut all = [LimitPair::default(); 16];
    for (place, limit) in all.iter_mut().zip(limits) {
        *place = limit.ok_or(ParseError::new(1, "all 16 limits"))?;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn our_own_are_those_of_getrlimit() {
        let limits = limits(Pid(std::process::id() as i32)).unwrap();
        for (number, limit) in limits.iter().enumerate() {
            let mut real = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: `real` is a live structure of the right type.
            assert_eq!(unsafe { libc::getrlimit(number as _, &mut real) }, 0);
            assert_eq!((limit.soft, limit.hard), (real.rlim_cur, real.rlim_max), "{}", LIMITS[number]);
        }
    }

    #[test]
    fn a_missing_limit_is_an_error() {
        assert!(parse_limits(b"Limit Soft Hard Units\nMax cpu time unlimited 5 seconds\n").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse_limits(&bytes);
        }
    }
}
