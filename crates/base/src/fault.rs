//! Named fault points: places where a test lets this process be killed, fail or wait.
//!
//! They exist in builds with debug assertions only; elsewhere every call is empty. The environment says what happens:
//! `BRANT_FAULT=NAME=ACTION` or `NAME#N=ACTION` (the N-th time that this process reaches it), several separated by
//! commas. Actions: `kill` (it ends at once with
//! nothing cleaned up, as by SIGKILL; also where it is process 1 of a namespace, which no signal of its own kills), `pause:MS`, and, where the place can fail, `fail:ERRNO` with its number.
//! `BRANT_FAULT_LOG` names a file that gets a line for each fault that is made. The action `hold` waits until that file is
//! gone again, so that a test need not be in time.

use std::io;

/// Every point, in the order of the work. Where two processes are at work the name says which one reaches it.
pub const POINTS: &[&str] = &[
    "wrap.memory-file",
    "hand.room-marked",
    "hand.thunk-written",
    "hand.registers-set",
    "hand.signals-blocked",
    "hand.in-call",
    "hand.after-call",
    "hand.before-leaving",
    "hand.mask-back",
    "hand.registers-back",
    "copy.helper-born",
    "copy.born",
    "copy.orphaned",
    "copy.standing",
    "capture.frozen",
    "capture.described",
    "capture.copied",
    "capture.thawed",
    "capture.written",
    "capture.before-end",
    "capture.ending",
    "capture.ended",
    "store.write",
    "store.before-sync",
    "store.synced",
    "store.linked",
    "store.named",
    "carried.written",
    "carried.synced",
    "carried.named",
    "restore.opened",
    "restore.entered",
    "restore.keeper-forked",
    "restore.keeper-mounted",
    "restore.hosted",
    "restore.in-call",
    "restore.grown",
    "restore.memory-filled",
    "restore.files-placed",
    "restore.threads-made",
    "restore.mediated",
    "restore.ready",
    "restore.announced",
    "restore.half-independent",
    "restore.independent",
    "restore.told-keeper",
    "restore.half-released",
    "restore.released",
    "keeper.adopting",
    "keeper.forked",
    "keeper.published",
    "keeper.program-forked",
    "keeper.ready",
    "job.told-end",
    "job.judged",
    "job.found",
    "job.reached",
    "migrate.send",
    "migrate.sent",
    "migrate.heard-ready",
    "migrate.recorded",
    "migrate.ended",
    "migrate.given",
    "migrate.heard-running",
    "migrate.finishing",
    "receive.asked",
    "receive.planned",
    "receive.noted",
    "receive.held",
    "receive.building",
    "receive.stands",
    "receive.said-ready",
    "receive.heard-go",
    "receive.ours",
    "receive.runs",
    "receive.said-running",
];

/// A point at which the process can be killed or made to wait.
#[inline]
pub fn reach(name: &'static str) {
    #[cfg(debug_assertions)]
    let _ = active::meet(name);
    let _ = name;
}

/// A point that can also fail, with the error that the test names.
#[inline]
pub fn check(name: &'static str) -> io::Result<()> {
    #[cfg(debug_assertions)]
    return active::meet(name);
    #[cfg(not(debug_assertions))]
    {
        let _ = name;
        Ok(())
    }
}

#[cfg(debug_assertions)]
mod active {
    use std::collections::HashMap;
    use std::io::{self, Write};
    use std::sync::{Mutex, OnceLock, PoisonError};
    use std::time::Duration;

    use super::POINTS;

    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Action {
        Kill,
        Pause(Duration),
        Hold,
        Fail(i32),
    }

    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Fault {
        name: String,
        /// From 1.
        occasion: u64,
        action: Action,
    }

    fn parse(text: &str) -> Option<Fault> {
        let (place, action) = text.split_once('=')?;
        let (name, occasion) = place.split_once('#').unwrap_or((place, "1"));
        let action = match action.split_once(':') {
            None if action == "kill" => Action::Kill,
            None if action == "hold" => Action::Hold,
            Some(("pause", ms)) => Action::Pause(Duration::from_millis(ms.parse().ok()?)),
            Some(("fail", errno)) => Action::Fail(errno.parse().ok()?),
            _ => return None,
        };
        Some(Fault { name: name.to_owned(), occasion: occasion.parse().ok()?, action })
    }

    fn faults() -> &'static [Fault] {
        static FAULTS: OnceLock<Vec<Fault>> = OnceLock::new();
        FAULTS.get_or_init(|| {
            let text = std::env::var("BRANT_FAULT").unwrap_or_default();
            let parts = text.split(',').filter(|part| !part.is_empty());
            parts
                .map(|part| {
                    let fault = parse(part).unwrap_or_else(|| panic!("BRANT_FAULT: {part} is no fault"));
                    assert!(POINTS.contains(&&*fault.name), "BRANT_FAULT: there is no point {}", fault.name);
                    fault
                })
                .collect()
        })
    }

    pub(super) fn meet(name: &'static str) -> io::Result<()> {
        static TIMES: Mutex<Option<HashMap<&'static str, u64>>> = Mutex::new(None);
        assert!(POINTS.contains(&name), "the fault point {name} is not in the list");
        let faults = faults();
        if faults.is_empty() {
            return Ok(());
        }
        let times = {
            let mut times = TIMES.lock().unwrap_or_else(PoisonError::into_inner);
            let times = times.get_or_insert_default().entry(name).or_default();
            *times += 1;
            *times
        };
        match faults.iter().find(|fault| fault.name == name && fault.occasion == times) {
            Some(fault) => make(fault),
            None => Ok(()),
        }
    }

    fn make(fault: &Fault) -> io::Result<()> {
        note(&fault.name);
        match fault.action {
            Action::Pause(pause) => std::thread::sleep(pause),
            Action::Hold => hold(),
            Action::Fail(errno) => return Err(io::Error::from_raw_os_error(errno)),
            Action::Kill => std::process::abort(),
        }
        Ok(())
    }

    /// Nobody waits for a test that was broken off.
    fn hold() {
        const LOOKS_MAX: u32 = 12_000;
        const BETWEEN_LOOKS: Duration = Duration::from_millis(5);
        let Some(log) = std::env::var_os("BRANT_FAULT_LOG") else { return };
        for _ in 0..LOOKS_MAX {
            if !std::path::Path::new(&log).exists() {
                return;
            }
            std::thread::sleep(BETWEEN_LOOKS);
        }
    }

    fn note(name: &str) {
        let Some(path) = std::env::var_os("BRANT_FAULT_LOG") else { return };
        if let Ok(mut log) = std::fs::File::options().append(true).create(true).open(path) {
            let _ = writeln!(log, "{name}");
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn faults_are_read() {
            let kill = Fault { name: "a.b".into(), occasion: 1, action: Action::Kill };
            assert_eq!(parse("a.b=kill"), Some(kill));
            let hold = Fault { name: "a".into(), occasion: 2, action: Action::Hold };
            assert_eq!(parse("a#2=hold"), Some(hold));
            let fail = Fault { name: "a".into(), occasion: 3, action: Action::Fail(28) };
            assert_eq!(parse("a#3=fail:28"), Some(fail));
            assert_eq!(parse("a=never"), None);
            assert_eq!(parse("a"), None);
        }

        #[test]
        fn names_are_unique() {
            let names: std::collections::BTreeSet<_> = POINTS.iter().collect();
            assert_eq!(names.len(), POINTS.len());
        }
    }
}
