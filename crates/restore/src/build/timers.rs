//! Interval timers and POSIX timers. They are armed with what was left of them when the tree was frozen.

use brant_base::Pid;
use brant_image::model::{PosixTimer, ProcessBody};
use brant_kernel::remote::Puppet;

use super::script::Script;
use crate::Error;
use crate::numbers::Numbers;

const NS_A_SECOND: u64 = 1_000_000_000;
const NS_A_MICROSECOND: u64 = 1000;
/// Lets timer_create(2) take the id that it is given (Linux 6.15).
const PR_TIMER_CREATE_RESTORE_IDS: u64 = 77;
/// Timers made and thrown away until the wanted id comes, on older kernels.
const ID_TRIES_MAX: i32 = 1 << 16;
const SIGEV_BYTES: usize = 64;

/// Arms ITIMER_REAL, VIRTUAL and PROF.
pub(crate) fn set_interval_timers(script: &mut Script, body: &ProcessBody) {
    for (which, timer) in (0u64..).zip(&body.interval_timers) {
        // One that has fired, and whose signal is still to come, starts its next round.
        let value_ns = if timer.value_ns == 0 { timer.interval_ns } else { timer.value_ns };
        if value_ns == 0 {
            continue;
        }
        let value_us = value_ns.div_ceil(NS_A_MICROSECOND);
        let interval_us = timer.interval_ns / NS_A_MICROSECOND;
        let words =
            [interval_us / 1_000_000, interval_us % 1_000_000, value_us / 1_000_000, value_us % 1_000_000];
        let at = script.put(&bytes_of(&words));
        script.must("setting an interval timer", libc::SYS_setitimer, &[which, at, 0]);
    }
}

fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Makes and arms the POSIX timers with their ids. All threads exist.
pub(crate) fn set_posix_timers(
    puppet: &mut Puppet,
    pid: Pid,
    body: &ProcessBody,
    numbers: &Numbers,
) -> Result<(), Error> {
    if body.posix_timers.is_empty() {
        return Ok(());
    }
    let failed = || Error::remote(pid, "making a POSIX timer");
    let by_id = puppet.call(libc::SYS_prctl, &[PR_TIMER_CREATE_RESTORE_IDS, 1, 0, 0, 0]).is_ok();
    for timer in &body.posix_timers {
        make(puppet, pid, timer, by_id, numbers)?;
    }
    if by_id {
        puppet.call(libc::SYS_prctl, &[PR_TIMER_CREATE_RESTORE_IDS, 0, 0, 0, 0]).map_err(failed())?;
    }
    let mut script = Script::new(puppet);
    for timer in body.posix_timers.iter().filter(|timer| timer.remaining_ns != 0) {
        const SETTING_BYTES: usize = 32;
        if !script.has_room(SETTING_BYTES) {
            script.run(puppet, pid, &mut Vec::new())?;
            script = Script::new(puppet);
        }
        let (interval, value) = (timer.interval_ns, timer.remaining_ns);
        let words =
            [interval / NS_A_SECOND, interval % NS_A_SECOND, value / NS_A_SECOND, value % NS_A_SECOND];
        let at = script.put(&bytes_of(&words));
        script.must("arming a POSIX timer", libc::SYS_timer_settime, &[timer.id as u64, 0, at, 0]);
    }
    script.run(puppet, pid, &mut Vec::new()).map(drop)
}

fn make(
    puppet: &mut Puppet,
    pid: Pid,
    timer: &PosixTimer,
    by_id: bool,
    numbers: &Numbers,
) -> Result<(), Error> {
    let thread = timer.thread.map(|thread| numbers.of(Pid(thread.0))).transpose()?;
    let failed = || Error::remote(pid, "making a POSIX timer");
    let mut event = vec![0u8; SIGEV_BYTES];
    event[0..8].copy_from_slice(&timer.value.to_le_bytes());
    event[8..12].copy_from_slice(&timer.signal.to_le_bytes());
    event[12..16].copy_from_slice(&timer.notify.to_le_bytes());
    event[16..20].copy_from_slice(&thread.map_or(0, |thread| thread.0).to_le_bytes());
    let room = puppet.arguments().start();
    let id_at = brant_base::Addr(room.0 + SIGEV_BYTES as u64);
    for _ in 0..if by_id { 1 } else { ID_TRIES_MAX } {
        puppet.write_memory(room, &event).map_err(failed())?;
        puppet.write_memory(id_at, &timer.id.to_le_bytes()).map_err(failed())?;
        let arguments = [timer.clock as u64, room.0, id_at.0];
        puppet.call(libc::SYS_timer_create, &arguments).map_err(failed())?;
        let mut id = [0; 4];
        puppet.read_memory(id_at, &mut id).map_err(failed())?;
        let id = i32::from_le_bytes(id);
        if id == timer.id {
            return Ok(());
        }
        puppet.call(libc::SYS_timer_delete, &[id as u64]).map_err(failed())?;
        if id > timer.id {
            break;
        }
    }
    Err(Error::Mismatch {
        pid,
        what: "a POSIX timer's id",
        found: "another".into(),
        wanted: timer.id.to_string(),
    })
}
