//! `virtual`: system calls that take or give numbers of processes, threads, groups and sessions.
//!
//! Results are the kernel's own: an error is a negative number. What a call reads from the program's memory is copied first
//! where a number in it must be another one; an address that is none is left for the kernel to refuse.

use super::system;
use super::virtual_table::{apparent, real, real_or_group, show, table};

const SYS_GETTID: usize = 186;
const SYS_GET_ROBUST_LIST: usize = 274;

/// A value of the program's at an address that may be none.
pub(super) fn peek<const N: usize>(at: usize) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    system::read_bytes(at, &mut bytes).then_some(bytes)
}

pub(super) fn word(bytes: &[u8], at: usize) -> i32 {
    i32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The calling thread's number, as the kernel and as the program has it.
pub(super) fn own_thread() -> (i32, i32) {
    // SAFETY: takes nothing and cannot fail.
    let number = unsafe { system::call(SYS_GETTID, [0; 6]) } as i32;
    (number, table().apparent(number))
}

brant_mediator::mediator! {
    /// getpid, gettid, getppid, getpgrp, setsid, set_tid_address: the result is a number.
    fn virtual_result(call, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
        apparent(call.inner())
    }

    /// The first argument is one: sched_*, prlimit64, tkill, rt_sigqueueinfo, pidfd_open, process_vm_* ...
    fn virtual_first(call, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
        // SAFETY: as the program called it, with another number.
        unsafe { call.inner_fn()(real(a), b, c, d, e, f) }
    }

    /// getpgid, getsid.
    fn virtual_first_and_result(call, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
        // SAFETY: as the program called it, with another number.
        apparent(unsafe { call.inner_fn()(real(a), b, c, d, e, f) })
    }

    /// tgkill, rt_tgsigqueueinfo, setpgid, kcmp.
    fn virtual_two(call, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
        // SAFETY: as the program called it, with other numbers.
        unsafe { call.inner_fn()(real(a), real(b), c, d, e, f) }
    }

    /// ptrace, perf_event_open.
    fn virtual_second(call, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
        // SAFETY: as the program called it, with another number.
        unsafe { call.inner_fn()(a, real(b), c, d, e, f) }
    }

    /// A negative number is a group.
    fn virtual_kill(call, pid: usize, signal: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
        // SAFETY: as the program called it, with another number.
        unsafe { call.inner_fn()(real_or_group(pid), signal, c, d, e, f) }
    }

    /// getpriority and setpriority: of a process or group, not of a user.
    fn virtual_priority(call, which: usize, who: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
        const USER: usize = 2;
        let who = if which < USER { real(who) } else { who };
        // SAFETY: as the program called it, with another number.
        unsafe { call.inner_fn()(which, who, c, d, e, f) }
    }

    /// ioprio_get and ioprio_set, which count from 1.
    fn virtual_io_priority(call, which: usize, who: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
        const USER: usize = 3;
        let who = if which < USER { real(who) } else { who };
        // SAFETY: as the program called it, with another number.
        unsafe { call.inner_fn()(which, who, c, d, e, f) }
    }

    fn virtual_wait4(call, pid: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
        // SAFETY: as the program called it, with another number.
        apparent(unsafe { call.inner_fn()(real_or_group(pid), b, c, d, e, f) })
    }

    fn virtual_waitid(call, which: usize, id: usize, info: usize, d: usize, e: usize, f: usize) -> isize {
        const P_PID: usize = 1;
        const P_PGID: usize = 2;
        let id = if [P_PID, P_PGID].contains(&which) { real(id) } else { id };
        // SAFETY: as the program called it, with another number.
        let result = unsafe { call.inner_fn()(which, id, info, d, e, f) };
        if result == 0 && info != 0 {
            // SAFETY: the kernel has written it; 0 where there was nothing.
            unsafe { show(info + INFO_PID_AT) };
        }
        result
    }

    fn virtual_sigtimedwait(call, set: usize, info: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
        let result = call.inner();
        if result > 0 && info != 0 && peek::<16>(info).is_some_and(|head| is_of_kernel(&head)) {
            // SAFETY: the kernel has written it.
            unsafe { show(info + INFO_PID_AT) };
        }
        result
    }

    fn virtual_fcntl(call, file: usize, command: usize, argument: usize, d: usize, e: usize, f: usize) -> isize {
        fcntl(command as i32, argument, |argument| {
            // SAFETY: as the program called it, with another number.
            unsafe { call.inner_fn()(file, command, argument, d, e, f) }
        })
    }

    fn virtual_semctl(call, set: usize, which: usize, command: usize, d: usize, e: usize, f: usize) -> isize {
        const GETPID: usize = 11;
        let result = call.inner();
        if command & 0xff == GETPID { apparent(result) } else { result }
    }

    fn virtual_shmctl(call, memory: usize, command: usize, about: usize, d: usize, e: usize, f: usize) -> isize {
        shown_ipc(call.inner(), command, about, [80, 84])
    }

    fn virtual_msgctl(call, queue: usize, command: usize, about: usize, d: usize, e: usize, f: usize) -> isize {
        shown_ipc(call.inner(), command, about, [96, 100])
    }

    /// fork and vfork.
    fn virtual_fork(call, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
        apparent(call.inner())
    }

    fn virtual_clone(call, flags: usize, stack: usize, parent: usize, child: usize, e: usize, f: usize) -> isize {
        made(call.inner(), flags, (parent, child))
    }

    fn virtual_clone3(call, arguments: usize, bytes: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
        let given = peek::<32>(arguments);
        let result = call.inner();
        let Some(given) = given.filter(|_| bytes >= 32) else { return result };
        let word = |at: usize| usize::from_ne_bytes(given[at..at + 8].try_into().unwrap_or_default());
        made(result, word(0), (word(24), word(16)))
    }

    /// exit and exit_group: the kernel looks for the thread's own number in mutexes that it still holds.
    fn virtual_exit(call, status: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
        give_up_mutexes();
        call.inner()
    }
}

/// Where a `siginfo_t` has the number of a process.
const INFO_PID_AT: usize = 16;

/// Whether the number in a `siginfo_t` is the kernel's own; who queues a signal fills in its own.
fn is_of_kernel(head: &[u8; 16]) -> bool {
    const SIGCHLD: i32 = 17;
    const SI_USER: i32 = 0;
    const SI_MESGQ: i32 = -3;
    const SI_TKILL: i32 = -6;
    let (signal, code) = (word(head, 0), word(head, 8));
    [SI_USER, SI_MESGQ, SI_TKILL].contains(&code) || (signal == SIGCHLD && code > 0)
}

fn fcntl(command: i32, argument: usize, inner: impl FnOnce(usize) -> isize) -> isize {
    const F_GETLK: i32 = 5;
    const F_SETOWN: i32 = 8;
    const F_GETOWN: i32 = 9;
    const F_SETOWN_EX: i32 = 15;
    const F_GETOWN_EX: i32 = 16;
    const F_OFD_GETLK: i32 = 36;
    const EBADF: isize = -9;
    match command {
        F_SETOWN => inner(real_or_group(argument)),
        F_GETOWN => match inner(argument) {
            EBADF => EBADF,
            group if group < 0 => -apparent(-group),
            process => apparent(process),
        },
        F_SETOWN_EX => match peek::<8>(argument) {
            Some(owner) => {
                let own = [word(&owner, 0), real(word(&owner, 4) as usize) as i32];
                inner(own.as_ptr() as usize)
            }
            None => inner(argument),
        },
        F_GETOWN_EX => {
            let result = inner(argument);
            if result == 0 {
                // SAFETY: the kernel has written it.
                unsafe { show(argument + 4) };
            }
            result
        }
        F_GETLK | F_OFD_GETLK => {
            const PID_AT: usize = 24;
            const F_UNLCK: i32 = 2;
            let result = inner(argument);
            let is_locked = peek::<4>(argument).is_some_and(|head| word(&head, 0) & 0xffff != F_UNLCK);
            if result == 0 && is_locked {
                // SAFETY: the kernel has written it.
                unsafe { show(argument + PID_AT) };
            }
            result
        }
        _ => inner(argument),
    }
}

/// IPC_STAT has the numbers of two processes, at these places.
fn shown_ipc(result: isize, command: usize, about: usize, places: [usize; 2]) -> isize {
    const IPC_STAT: usize = 2;
    if result == 0 && command & 0xff == IPC_STAT {
        for at in places {
            // SAFETY: the kernel has written the whole of it.
            unsafe { show(about + at) };
        }
    }
    result
}

/// A new process or thread has the number that the kernel gave it, unless that is another's: then it is told otherwise.
fn made(result: isize, flags: usize, (parent, child): (usize, usize)) -> isize {
    const CLONE_VM: usize = 0x100;
    const CLONE_PARENT_SETTID: usize = 0x10_0000;
    const CLONE_CHILD_SETTID: usize = 0x100_0000;
    let shown = apparent(result);
    if result == 0 {
        if flags & CLONE_CHILD_SETTID != 0 && flags & CLONE_VM == 0 {
            // SAFETY: the kernel has written the child's number there.
            unsafe { show(child) };
        }
    } else if shown != result {
        if flags & CLONE_PARENT_SETTID != 0 {
            // SAFETY: the kernel has written the child's number there.
            unsafe { show(parent) };
        }
        if flags & CLONE_CHILD_SETTID != 0 && flags & CLONE_VM != 0 && child != parent {
            // SAFETY: as above; the child has this memory too.
            unsafe { show(child) };
        }
    }
    shown
}

/// Writes the thread's real number into the robust mutexes that it holds, so that the kernel marks them as given up.
fn give_up_mutexes() {
    const HOLD_MAX: usize = 2048;
    const TID: i32 = 0x3fff_ffff;
    let (number, shown) = own_thread();
    if number == shown {
        return;
    }
    let (mut head, mut bytes) = (0usize, 0usize);
    let arguments = [0, &raw mut head as usize, &raw mut bytes as usize, 0, 0, 0];
    // SAFETY: writes the two words.
    if unsafe { system::call(SYS_GET_ROBUST_LIST, arguments) } != 0 || head == 0 {
        return;
    }
    let word_at = |at: usize| peek::<8>(at).map(usize::from_ne_bytes);
    let (Some(mut entry), Some(offset)) = (word_at(head), word_at(head + 8)) else { return };
    for _ in 0..HOLD_MAX {
        // The lowest bit tells mutexes with priority inheritance.
        let mutex = entry & !1;
        if mutex == head || mutex == 0 {
            return;
        }
        let place = mutex.wrapping_add(offset);
        if let Some(held) = peek::<4>(place).map(i32::from_ne_bytes).filter(|held| held & TID == shown) {
            let own = (held & !TID) | number;
            // SAFETY: it could be read, and mutexes are written to by all who lock them.
            let mutex = unsafe { core::sync::atomic::AtomicI32::from_ptr(place as *mut i32) };
            let relaxed = core::sync::atomic::Ordering::Relaxed;
            let _ = mutex.compare_exchange(held, own, relaxed, relaxed);
        }
        let Some(next) = word_at(mutex) else { return };
        entry = next;
    }
}
