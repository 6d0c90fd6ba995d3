//! Whether threads that are in the way go on, between two looks at them.
//!
//! A thread in the way goes on as soon as it gets a processor, and where others are busy, or a quota is used up, it may get none for
//! seconds. Tries that are counted meanwhile see the same thing again and say nothing of the program; so only those count before
//! which something had changed. And who is asked to stop again before it got a processor stops where it stood: after a look in
//! vain the next one comes later.
//!
//! State of the target: nothing is changed here.

use std::collections::BTreeMap;
use std::time::Duration;

use brant_base::{Addr, Tid};
use brant_kernel::remote::{HandThread, Memory};

const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// How long a thread may get no processor.
const IN_VAIN_MAX: Duration = Duration::from_secs(20);
/// The longest pause after a look in vain.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Looks at threads, with pauses between them.
pub(crate) struct Progress {
    /// Where each was seen last.
    seen: BTreeMap<Tid, [u64; 4]>,
    /// The next pause.
    pause: Duration,
    /// What was waited since something had changed.
    in_vain: Duration,
}

impl Progress {
    /// `pause` is the first one.
    pub(crate) fn new(pause: Duration) -> Progress {
        Progress { seen: BTreeMap::new(), pause, in_vain: Duration::ZERO }
    }

    /// Whether another look at one of these stopped threads was worth it: it has moved since the last one, or it is not a
    /// processor that it waits for. So it was where there is none of them.
    pub(crate) fn is_made<'a>(
        &mut self,
        memory: &Memory,
        threads: impl IntoIterator<Item = &'a HandThread>,
    ) -> bool {
        let (mut is_any, mut is_made) = (false, false);
        for thread in threads {
            is_any = true;
            let registers = &thread.registers;
            let now = [registers.rip, registers.rsp, registers.rax, registers.rcx];
            let has_moved = self.seen.insert(thread.tid, now) != Some(now);
            is_made |= has_moved || is_in_call(memory, thread);
        }
        is_made || !is_any
    }

    /// Waits for the next look, after one that was worth it (`is_made`) or not. Pauses grow up to `pause_max` in the first case. Tells
    /// whether there is to be another one.
    pub(crate) fn wait(&mut self, is_made: bool, pause_max: Duration) -> bool {
        self.in_vain = if is_made { Duration::ZERO } else { self.in_vain + self.pause };
        if self.in_vain > IN_VAIN_MAX {
            return false;
        }
        std::thread::sleep(self.pause);
        self.pause = match is_made {
            false => (self.pause * 2).min(PAUSE_MAX),
            // It was needed, and may be again.
            true if self.pause > pause_max => self.pause / 2,
            true => (self.pause * 2).min(pause_max),
        };
        true
    }
}

/// Whether it was stopped in a system call; one that was put back is about to be made.
fn is_in_call(memory: &Memory, thread: &HandThread) -> bool {
    let registers = &thread.registers;
    registers.orig_rax != u64::MAX
        || memory.read_value::<[u8; 2]>(Addr(registers.rip)).is_ok_and(|code| code == SYSCALL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use brant_base::Pid;
    use brant_kernel::ptrace::UserRegisters;

    fn thread(rip: u64, orig_rax: u64) -> HandThread {
        HandThread { tid: Tid(7), registers: UserRegisters { rip, orig_rax, ..Default::default() }, mask: 0 }
    }

    #[test]
    fn only_who_waits_for_a_processor_makes_none() {
        let memory = Memory::open(Pid(std::process::id() as i32)).unwrap();
        let mut progress = Progress::new(Duration::from_millis(1));
        let code = [0x90u8, 0x90, 0x0f, 0x05];
        let at = code.as_ptr() as u64;
        let mut is_made = |threads: &[HandThread]| progress.is_made(&memory, threads);
        assert!(is_made(&[thread(at, u64::MAX)]), "it was not seen before");
        assert!(!is_made(&[thread(at, u64::MAX)]));
        assert!(is_made(&[thread(at + 1, u64::MAX)]), "it has moved");
        assert!(!is_made(&[thread(at + 1, u64::MAX)]));
        assert!(is_made(&[thread(at + 1, 0)]), "it waits in a call");
        assert!(
            is_made(&[thread(at + 2, u64::MAX)]) && is_made(&[thread(at + 2, u64::MAX)]),
            "before its call"
        );
        assert!(is_made(&[]), "there is nobody");
    }

    #[test]
    fn looks_in_vain_come_later_and_end() {
        let mut progress = Progress::new(Duration::from_millis(1));
        for _ in 0..4 {
            assert!(progress.wait(false, Duration::from_millis(2)));
        }
        assert_eq!(
            (progress.pause, progress.in_vain),
            (Duration::from_millis(16), Duration::from_millis(15))
        );
        assert!(progress.wait(true, Duration::from_millis(2)));
        assert_eq!((progress.pause, progress.in_vain), (Duration::from_millis(8), Duration::ZERO));
        progress.in_vain = IN_VAIN_MAX;
        assert!(!progress.wait(false, Duration::from_millis(2)));
    }
}
