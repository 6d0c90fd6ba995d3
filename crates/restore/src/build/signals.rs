//! Signal actions and pending signals.
//!
//! While a process is built all its signals but SIGTRAP are blocked. What the building itself queued (a zombie's
//! SIGCHLD) is drained before the image's signals are queued to the task by itself, which alone may forge them
//! (rt_sigqueueinfo(2)).

use brant_base::Pid;
use brant_image::model::{ProcessBody, QueuedSignal, SignalAction};
use brant_kernel::remote::Puppet;

use super::script::Script;
use crate::Error;
use crate::numbers::Numbers;

const MASK_BYTES: u64 = 8;
/// Signals drained in one run, and runs.
const DRAIN_BATCH: usize = 8;
const DRAIN_RUNS_MAX: usize = 1024;

/// The kernel's `struct sigaction` of an action.
pub(crate) fn action_bytes(action: &SignalAction) -> Vec<u8> {
    [action.handler.0, action.flags, action.restorer.0, action.mask]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect()
}

/// Sets all actions but SIGTRAP's, which the stub needs as it is.
pub(crate) fn set_actions(script: &mut Script, body: &ProcessBody) {
    for (signal, action) in (1..).zip(&body.actions) {
        if [libc::SIGKILL, libc::SIGSTOP, libc::SIGTRAP].contains(&signal) {
            continue;
        }
        let at = script.put(&action_bytes(action));
        script.must("setting signal actions", libc::SYS_rt_sigaction, &[signal as u64, at, 0, MASK_BYTES]);
    }
}

/// Takes off every signal that the building has queued.
pub(crate) fn drain(puppet: &mut Puppet, pid: Pid) -> Result<(), Error> {
    for _ in 0..DRAIN_RUNS_MAX {
        let mut script = Script::new(puppet);
        let mask = script.put(&u64::MAX.to_le_bytes());
        let no_time = script.put(&[0; 16]);
        for _ in 0..DRAIN_BATCH {
            let arguments = [mask, 0, no_time, MASK_BYTES];
            script.any("draining signals", libc::SYS_rt_sigtimedwait, &arguments);
        }
        let results = script.run(puppet, pid, &mut Vec::new())?;
        if results.last().is_some_and(|result| *result as i64 == -i64::from(libc::EAGAIN)) {
            return Ok(());
        }
    }
    Err(Error::Mismatch {
        pid,
        what: "its queue of signals",
        found: "endless".into(),
        wanted: "empty".into(),
    })
}

/// Whether the task itself can queue this signal while it is a puppet. A pending SIGSTOP is the process's state.
fn can_queue(signal: &QueuedSignal) -> bool {
    ![libc::SIGKILL, libc::SIGSTOP, libc::SIGTRAP].contains(&signal.signal)
}

/// Queues signals of the process (`thread` is `None`; the caller must be the main thread) or of one thread.
pub(crate) fn queue(
    puppet: &mut Puppet,
    (pid, thread): (Pid, Option<i32>),
    numbers: &Numbers,
    signals: &[QueuedSignal],
) -> Result<(), Error> {
    const INFO_BYTES: usize = 128;
    let process = numbers.of(pid)?;
    let thread = thread.map(|thread| numbers.of(Pid(thread))).transpose()?;
    let mut script = Script::new(puppet);
    for signal in signals.iter().filter(|signal| can_queue(signal)) {
        if !script.has_room(INFO_BYTES) {
            script.run(puppet, pid, &mut Vec::new())?;
            script = Script::new(puppet);
        }
        let mut info = signal.info.0.clone();
        info.resize(INFO_BYTES, 0);
        name_sender(&mut info, numbers);
        let at = script.put(&info);
        let (own, number) = (process.0 as u64, signal.signal as u64);
        match thread {
            None => script.must("queueing a signal", libc::SYS_rt_sigqueueinfo, &[own, number, at]),
            Some(tid) => {
                let arguments = [own, tid.0 as u64, number, at];
                script.must("queueing a signal", libc::SYS_rt_tgsigqueueinfo, &arguments);
            }
        }
    }
    script.run(puppet, pid, &mut Vec::new()).map(drop)
}

/// Where the kernel has filled in the sender, it is one that it knows now.
fn name_sender(info: &mut [u8], numbers: &Numbers) {
    const PID: std::ops::Range<usize> = 16..20;
    const SI_MESGQ: i32 = -3;
    const SI_TKILL: i32 = -6;
    let word = |info: &[u8], at: usize| i32::from_le_bytes(info[at..at + 4].try_into().expect("four bytes"));
    let (signal, code) = (word(info, 0), word(info, 8));
    let is_of_kernel =
        [libc::SI_USER, SI_MESGQ, SI_TKILL].contains(&code) || (signal == libc::SIGCHLD && code > 0);
    if is_of_kernel {
        let known = word(info, PID.start);
        let sender = numbers.find(known).unwrap_or(known);
        info[PID].copy_from_slice(&sender.to_le_bytes());
    }
}
