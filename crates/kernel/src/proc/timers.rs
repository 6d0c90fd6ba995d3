//! `/proc/PID/timers`: POSIX timers (CONFIG_CHECKPOINT_RESTORE). How much time each has left is not said
//! here: that takes timer_gettime(2) in the process.

use brant_base::Pid;

use super::text::{ParseError, lines, signed_32, split_once, trim, unsigned};
use super::{ProcError, read_parsed};

/// One timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerEntry {
    pub id: i32,
    pub clock: i32,
    pub signal: i32,
    /// `sigev_value`
    pub value: u64,
    pub notify: TimerNotify,
    /// Whether SIGEV_THREAD_ID was asked for.
    pub to_thread: bool,
    /// Who is told, a process or, with `to_thread`, a thread, in the reader's pid namespace; 0 where it is gone.
    pub target: i32,
}

impl TimerEntry {
    /// `sigev_notify` as timer_create(2) took it.
    pub fn sigev_notify(&self) -> i32 {
        let how = match self.notify {
            TimerNotify::Signal => libc::SIGEV_SIGNAL,
            TimerNotify::None => libc::SIGEV_NONE,
            TimerNotify::Thread => libc::SIGEV_THREAD,
        };
        if self.to_thread { how | libc::SIGEV_THREAD_ID } else { how }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerNotify {
    Signal,
    None,
    Thread,
}

/// The timers of a process, by id.
pub fn timers(pid: Pid) -> Result<Vec<TimerEntry>, ProcError> {
    read_parsed(pid.into(), "timers", parse_timers)
}

/// Parses the file.
pub fn parse_timers(bytes: &[u8]) -> Result<Vec<TimerEntry>, ParseError> {
    let mut entries: Vec<TimerEntry> = Vec::new();
    for (number, line) in lines(bytes) {
        let (key, value) = split_once(line, b':').ok_or(ParseError::new(number, "a key and a value"))?;
        set(&mut entries, key, trim(value)).ok_or(ParseError::new(number, "a value that fits its key"))?;
    }
    entries.sort_by_key(|entry| entry.id);
    Ok(entries)
}

fn set(entries: &mut Vec<TimerEntry>, key: &[u8], value: &[u8]) -> Option<()> {
    if key == b"ID" {
        let (clock, signal, value_of_signal, target) = (0, 0, 0, 0);
        let notify = TimerNotify::Signal;
        let id = signed_32(value)?;
        let to_thread = false;
        entries.push(TimerEntry { id, clock, signal, value: value_of_signal, notify, to_thread, target });
        return Some(());
    }
    let entry = entries.last_mut()?;
    match key {
        b"signal" => {
            let (signal, pointer) = split_once(value, b'/')?;
            entry.signal = signed_32(signal)?;
            entry.value = unsigned(pointer.strip_prefix(b"0x").unwrap_or(pointer), 16)?;
        }
        b"notify" => {
            let (how, whom) = split_once(value, b'/')?;
            entry.notify = match how {
                b"signal" => TimerNotify::Signal,
                b"none" => TimerNotify::None,
                b"thread" => TimerNotify::Thread,
                _ => return None,
            };
            let (kind, number) = split_once(whom, b'.')?;
            entry.to_thread = kind == b"tid";
            entry.target = signed_32(number)?;
        }
        b"ClockID" => entry.clock = signed_32(value)?,
        _ => {}
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SAMPLE: &[u8] = b"ID: 2\nsignal: 14/000000000000dead\nnotify: signal/tid.12315\nClockID: 1\n\
        ID: 1\nsignal: 0/0000000000000000\nnotify: none/pid.12315\nClockID: -6\n";

    #[test]
    fn a_real_list_is_understood() {
        let timers = parse_timers(SAMPLE).unwrap();
        assert_eq!((timers[0].id, timers[0].notify, timers[0].clock), (1, TimerNotify::None, -6));
        let second = timers[1];
        assert_eq!((second.id, second.signal, second.value, second.target), (2, 14, 0xdead, 12315));
        assert_eq!(second.sigev_notify(), libc::SIGEV_THREAD_ID);
        assert_eq!(parse_timers(b"").unwrap(), []);
    }

    #[test]
    fn an_entry_needs_its_id() {
        assert_eq!(parse_timers(b"signal: 14/0\n").unwrap_err().line, 1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse_timers(&bytes);
        }
    }
}
