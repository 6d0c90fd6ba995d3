//! Attributes of another thread that plain system calls give, by its number in our pid namespace.

use std::io;

use brant_base::{Pid, Tid};

/// Largest number of CPUs that is asked about.
const CPUS_MAX: usize = 8192;

fn number(result: i64) -> io::Result<u64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as u64) }
}

/// get_robust_list(2): the head's address and the length, both 0 for none.
pub fn robust_list(tid: Tid) -> io::Result<(u64, u64)> {
    let (mut head, mut bytes) = (0u64, 0u64);
    // SAFETY: both results outlive the call.
    number(unsafe { libc::syscall(libc::SYS_get_robust_list, tid.0, &mut head, &mut bytes) })?;
    Ok((head, bytes))
}

/// sched_getscheduler(2), SCHED_RESET_ON_FORK included.
pub fn scheduling_policy(tid: Tid) -> io::Result<u32> {
    // SAFETY: plain numbers.
    number(unsafe { libc::syscall(libc::SYS_sched_getscheduler, tid.0) }).map(|policy| policy as u32)
}

/// The CPUs that it may use; empty where those are all that are online.
pub fn affinity(tid: Tid) -> io::Result<Vec<u32>> {
    let mut bits = [0u8; CPUS_MAX / 8];
    // SAFETY: the kernel fills at most the given length.
    let filled =
        number(unsafe { libc::syscall(libc::SYS_sched_getaffinity, tid.0, bits.len(), bits.as_mut_ptr()) })?
            as usize;
    let cpus: Vec<u32> =
        (0..filled as u32 * 8).filter(|cpu| bits[*cpu as usize / 8] & (1 << (cpu % 8)) != 0).collect();
    // SAFETY: plain number.
    let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    Ok(if cpus.len() as i64 >= online { Vec::new() } else { cpus })
}

/// ioprio_get(2) of one thread.
pub fn io_priority(tid: Tid) -> io::Result<u32> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    // SAFETY: plain numbers.
    number(unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid.0) })
        .map(|value| value as u32)
}

/// Ends a process with SIGKILL. One that has gone is no error.
pub fn kill(pid: Pid) -> io::Result<()> {
    // SAFETY: plain numbers.
    match number(unsafe { libc::kill(pid.0, libc::SIGKILL) } as i64) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other.map(drop),
    }
}

/// For how long a thread that sleeps has not run, in nanoseconds: the difference between our own and its
/// `se.exec_start` on the CPU where it last ran. `read_exec_start` reads that of a thread (0 is our own), `cpu`
/// is the CPU. Our affinity is as before afterwards.
pub fn asleep_for_ns(
    tid: Tid,
    cpu: u32,
    read_exec_start: impl Fn(Option<Tid>) -> Option<u64>,
) -> Option<u64> {
    let mut before = [0u8; CPUS_MAX / 8];
    let mut only = [0u8; CPUS_MAX / 8];
    *only.get_mut(cpu as usize / 8)? |= 1 << (cpu % 8);
    // SAFETY: the kernel fills at most the given length.
    let filled = unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, before.len(), before.as_mut_ptr()) };
    let filled = usize::try_from(filled).ok()?;
    // SAFETY: the mask outlives the call.
    let moved = unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, only.len(), only.as_ptr()) };
    let elapsed = (moved == 0).then(|| {
        // Being switched in sets our own value to now.
        std::thread::yield_now();
        Some(read_exec_start(None)?.saturating_sub(read_exec_start(Some(tid))?))
    });
    // SAFETY: the mask is what the kernel gave.
    unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, filled, before.as_ptr()) };
    elapsed.flatten()
}
