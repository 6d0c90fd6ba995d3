//! A copy of a program's private memory that stays as it was at one moment, while the program runs on: a fork of it
//! that never runs.
//!
//! The program must not notice it, and it must not outlive us. So the program's own child is only a *helper* that shares
//! its memory, forks the copy and ends; the program's own code waits for the helper in the next instruction. The copy is
//! an orphan then: init adopts it, or a subreaper, which must not be a part of the program (the caller sees to that). It
//! has no descriptor, is in a session of its own, blocks every signal, and stands in a ptrace stop. Helper and copy
//! are born traced, and get *exit kill* before they execute an instruction.
//!
//! State of the target if brant is killed: its thread runs on through the wait and its return thunk. Helper and copy
//! are killed, or, where we did not come to say so, run straight to their ends: no path of theirs leads into the program.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use brant_base::{PAGE_SIZE, PageRange, Pid, Tid, fault};

use super::hand::{Hand, ROOM_BYTES, ptrace_error};
use super::thunk::thunk;
use super::{CALL_TIMEOUT, Memory, RemoteError, call_result};
use crate::patience::Patience;
use crate::ptrace::{self, Options, Stop, UserRegisters, Waiter};
use crate::thread;

/// What the program forks: it shares memory and descriptors, the program's thread sleeps until it ends, and its end
/// sends no signal.
const HELPER_FLAGS: i32 = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES;
/// -ERESTARTNOINTR: a fork that something has interrupted.
const RESTART: i64 = -513;
const FORK_TRIES_MAX: u32 = 20;
/// How long a killed copy may take to be gone; the kernel gives its pages back meanwhile.
const END_TIMEOUT: Duration = Duration::from_secs(10);
const END_PAUSE: Duration = Duration::from_micros(100);
/// Calls of the copy before it stands: close_range, setsid, chdir, prctl. The first two must succeed.
const COPY_CALLS: [(i64, bool); 4] = [
    (libc::SYS_close_range, true),
    (libc::SYS_setsid, true),
    (libc::SYS_chdir, false),
    (libc::SYS_prctl, false),
];
/// The kernel ends those with this first when memory is short.
const OOM_SCORE_ADJ_MAX: &str = "1000";

/// A copy of a process. It ends when this is dropped, and when brant ends.
#[derive(Debug)]
pub struct Copied {
    tid: Tid,
    memory: Memory,
    is_ending: AtomicBool,
}

impl Copied {
    /// Its number in our pid namespace.
    pub fn pid(&self) -> Pid {
        Pid(self.tid.0)
    }

    /// The program's memory as it was.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Whether it is still there. What was read before a `true` is what the program had; of a copy that was killed
    /// anything may be read.
    pub fn stands(&self) -> bool {
        ptrace::registers(self.tid).is_ok()
    }

    /// Ends it without waiting for that: the kernel may need a while to take its memory back.
    pub fn end_soon(&self) {
        // One that has ended already was not waited for, so its number is still its own.
        let _ = thread::kill(self.pid());
        self.is_ending.store(true, Ordering::Relaxed);
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        if self.is_ending.load(Ordering::Relaxed) {
            // Nobody needs to wait while the kernel takes its memory back; whoever has adopted it takes note of its end
            // if we do not.
            ptrace::reap_ended(self.tid);
        } else {
            end(self.tid);
        }
    }
}

/// Ends a tracee of ours that is no part of any program, and takes note of its end.
fn end(tid: Tid) {
    let _ = thread::kill(Pid(tid.0));
    let mut patience = Patience::new(END_TIMEOUT);
    while !ptrace::reap_ended(tid) && !patience.is_over() {
        std::thread::sleep(END_PAUSE);
    }
}

impl Hand<'_> {
    /// Forks a copy of the process, by its first thread. Calls that the kernel refused are [`RemoteError::Call`]; then,
    /// and after every other error but [`RemoteError::Ended`], the process is as it was.
    pub fn copy(&mut self) -> Result<Copied, RemoteError> {
        let tid = self.slots[0].thread.tid;
        let code = self.copy_code()?;
        let follow = Options { follow_children: true, ..Options::default() };
        ptrace::set_options(tid, follow).map_err(|e| ptrace_error(tid, "following forks", e))?;
        let copied = self.fork_helper(code).and_then(|helper| {
            fault::reach("copy.helper-born");
            let copied = drive_helper(self.waiter, helper);
            if copied.is_err() {
                end(helper);
            }
            // The fork's end, the wait's beginning and end. Here the helper is reaped in any case.
            (0..3).try_for_each(|_| self.run_to_syscall_stop(0))?;
            copied
        });
        ptrace::set_options(tid, Options::default())
            .map_err(|e| ptrace_error(tid, "following no forks", e))?;
        let copied = copied?;
        // Here our own code began; the program's page had zeros.
        copied
            .memory
            .write_by_force(self.bootstrap_room, &[0; ROOM_BYTES])
            .map_err(|e| ptrace_error(copied.tid, "clearing the bootstrap slot", e))?;
        Ok(copied)
    }

    /// A page for the code of program, helper and copy, mapped on first use.
    fn copy_code(&mut self) -> Result<PageRange, RemoteError> {
        if let Some(code) = self.copy_code {
            return Ok(code);
        }
        let page = self.map_pages(PAGE_SIZE, libc::PROT_READ | libc::PROT_EXEC)?;
        self.copy_code = Some(page);
        let thread = &self.slots[0].thread;
        let code = fork_code(&thunk(&thread.registers, thread.mask));
        assert!(code.len() as u64 <= PAGE_SIZE);
        self.memory
            .write_by_force(page.start(), &code)
            .map_err(|e| ptrace_error(thread.tid, "writing the code of a copy", e))?;
        Ok(page)
    }

    /// Runs the first thread into the fork. It stands in the event of a helper's birth then.
    fn fork_helper(&mut self, code: PageRange) -> Result<Tid, RemoteError> {
        let thread = self.slots[0].thread;
        let tid = thread.tid;
        for _ in 0..FORK_TRIES_MAX {
            let start = UserRegisters {
                rip: code.start().0,
                rax: libc::SYS_clone as u64,
                orig_rax: u64::MAX,
                rdi: HELPER_FLAGS as u64,
                rsi: 0,
                rdx: 0,
                r10: 0,
                r8: 0,
                ..thread.registers
            };
            ptrace::set_registers(tid, &start).map_err(|e| ptrace_error(tid, "setting registers", e))?;
            self.run_to_syscall_stop(0)?;
            match self.run_to_stop(0)? {
                Stop::Event(_) => {
                    let message = ptrace::event_message(tid)
                        .map_err(|e| ptrace_error(tid, "asking for a child's number", e))?;
                    return Ok(Tid(message as i32));
                }
                Stop::Syscall => {}
                stop => return Err(RemoteError::Unexpected { tid, stop }),
            }
            let after = ptrace::registers(tid).map_err(|e| ptrace_error(tid, "reading registers", e))?;
            if after.rax as i64 != RESTART {
                call_result(tid, libc::SYS_clone, after.rax)?;
                break;
            }
        }
        let error = io::Error::from_raw_os_error(libc::EAGAIN);
        Err(RemoteError::Call { tid, number: libc::SYS_clone, error })
    }
}

/// From the helper's birth to its end, by which the copy has become an orphan, and stands.
fn drive_helper(waiter: &Waiter, helper: Tid) -> Result<Copied, RemoteError> {
    expect_first_stop(waiter, helper)?;
    // It hands this down to its child.
    let options = Options { exit_kill: true, follow_children: true, ..Options::default() };
    ptrace::set_options(helper, options).map_err(|e| ptrace_error(helper, "tying it to us", e))?;
    let copy = match next_stop(waiter, helper, ptrace::resume)? {
        Stop::Event(_) => ptrace::event_message(helper)
            .map(|message| Tid(message as i32))
            .map_err(|e| ptrace_error(helper, "asking for a child's number", e))?,
        // It ends with the errno of its fork.
        Stop::Ended(status) if libc::WIFEXITED(status) => {
            let error = io::Error::from_raw_os_error(libc::WEXITSTATUS(status));
            return Err(RemoteError::Call { tid: helper, number: libc::SYS_clone, error });
        }
        Stop::Ended(status) => return Err(RemoteError::Ended { tid: helper, status }),
        stop => return Err(RemoteError::Unexpected { tid: helper, stop }),
    };
    fault::reach("copy.born");
    let standing = orphan(waiter, helper).and_then(|()| stand(waiter, copy));
    // One whose end was reported may be gone, and its number another's.
    let gone = |error: &RemoteError| matches!(error, RemoteError::Ended { tid, .. } if *tid == copy);
    standing.inspect_err(|error| {
        if !gone(error) {
            end(copy)
        }
    })?;
    let memory = Memory::open(Pid(copy.0)).map_err(|e| {
        end(copy);
        ptrace_error(copy, "opening its memory", e)
    })?;
    Ok(Copied { tid: copy, memory, is_ending: AtomicBool::new(false) })
}

fn orphan(waiter: &Waiter, helper: Tid) -> Result<(), RemoteError> {
    match next_stop(waiter, helper, ptrace::resume)? {
        Stop::Ended(_) => Ok(()),
        stop => Err(RemoteError::Unexpected { tid: helper, stop }),
    }
}

/// Lets the copy give up what it shares with the program.
fn stand(waiter: &Waiter, copy: Tid) -> Result<(), RemoteError> {
    fault::reach("copy.orphaned");
    expect_first_stop(waiter, copy)?;
    for (number, must_succeed) in COPY_CALLS {
        for _entry_and_exit in 0..2 {
            match next_stop(waiter, copy, ptrace::resume_to_syscall)? {
                Stop::Syscall => {}
                Stop::Ended(status) => return Err(RemoteError::Ended { tid: copy, status }),
                stop => return Err(RemoteError::Unexpected { tid: copy, stop }),
            }
        }
        let after = ptrace::registers(copy).map_err(|e| ptrace_error(copy, "reading registers", e))?;
        if must_succeed {
            call_result(copy, number, after.rax)?;
        }
    }
    let refused = |error| RemoteError::Call { tid: copy, number: libc::SYS_write, error };
    std::fs::write(format!("/proc/{copy}/oom_score_adj"), OOM_SCORE_ADJ_MAX).map_err(refused)?;
    fault::reach("copy.standing");
    Ok(())
}

fn expect_first_stop(waiter: &Waiter, tid: Tid) -> Result<(), RemoteError> {
    match waiter.wait(tid, CALL_TIMEOUT)? {
        Stop::Interrupt | Stop::Group(_) => Ok(()),
        Stop::Ended(status) => Err(RemoteError::Ended { tid, status }),
        stop => Err(RemoteError::Unexpected { tid, stop }),
    }
}

/// Runs a task of ours to what it stops for. Signals that were meant for the program's group go no further.
fn next_stop(waiter: &Waiter, tid: Tid, resume: fn(Tid, i32) -> io::Result<()>) -> Result<Stop, RemoteError> {
    loop {
        resume(tid, 0).map_err(|e| ptrace_error(tid, "resuming", e))?;
        match waiter.wait(tid, CALL_TIMEOUT)? {
            Stop::Interrupt | Stop::Group(_) | Stop::Signal(_) => {}
            stop => return Ok(stop),
        }
    }
}

/// The code of all three. The program's thread begins at its start with the call in its registers, and ends in
/// `return_thunk`, whose first instruction is a call that it does not need.
fn fork_code(return_thunk: &[u8]) -> Vec<u8> {
    const SYSCALL: [u8; 2] = [0x0f, 0x05];
    let mut code = Vec::new();
    code.extend(SYSCALL); // clone
    code.extend([0x85, 0xc0]); // test eax, eax
    code.extend([0x78, 25]); // js, over the wait
    code.extend([0x0f, 0x84]); // jz helper
    let helper_reference = code.len();
    code.extend([0; 4]);
    code.extend([0x89, 0xc7]); // mov edi, eax
    code.extend([0x31, 0xf6]); // xor esi, esi
    code.extend([0xba, 0, 0, 0, 0x40]); // mov edx, __WALL
    code.extend([0x45, 0x31, 0xd2]); // xor r10d, r10d
    code.extend([0xb8, 61, 0, 0, 0]); // mov eax, wait4
    code.extend(SYSCALL);
    code.extend(&return_thunk[SYSCALL.len()..]);
    let helper = code.len();
    code[helper_reference..helper_reference + 4]
        .copy_from_slice(&((helper - helper_reference - 4) as u32).to_le_bytes());
    code.extend([0xb8, 56, 0, 0, 0]); // mov eax, clone
    code.extend([0xbf, 0, 0x04, 0, 0]); // mov edi, CLONE_FILES: no copy of a table that is emptied at once
    code.extend([0x31, 0xf6, 0x31, 0xd2]); // xor esi, esi; xor edx, edx
    code.extend([0x45, 0x31, 0xd2, 0x45, 0x31, 0xc0]); // xor r10d, r10d; xor r8d, r8d
    code.extend(SYSCALL);
    code.extend([0x85, 0xc0]); // test eax, eax
    code.extend([0x74, 16]); // jz copy
    code.extend([0x78, 2]); // js, over the next
    code.extend([0x31, 0xc0]); // xor eax, eax
    code.extend([0xf7, 0xd8]); // neg eax
    code.extend([0x89, 0xc7]); // mov edi, eax
    code.extend([0xb8, 60, 0, 0, 0]); // mov eax, exit
    code.extend(SYSCALL);
    code.push(0xf4); // hlt
    copy_code(code)
}

fn copy_code(mut code: Vec<u8>) -> Vec<u8> {
    const SYSCALL: [u8; 2] = [0x0f, 0x05];
    const TEXTS: &[u8] = b"/\0brant-copy\0";
    code.extend([0xb8, 0xb4, 0x01, 0, 0]); // mov eax, close_range
    code.extend([0x31, 0xff]); // xor edi, edi
    code.extend([0xbe, 0xff, 0xff, 0xff, 0xff]); // mov esi, the last
    code.extend([0xba, 0x02, 0, 0, 0]); // mov edx, CLOSE_RANGE_UNSHARE
    code.extend(SYSCALL);
    code.extend([0xb8, 112, 0, 0, 0]); // mov eax, setsid
    code.extend(SYSCALL);
    code.extend([0xb8, 80, 0, 0, 0]); // mov eax, chdir
    code.extend([0x48, 0x8d, 0x3d]); // lea rdi, [rip + to "/"]
    let root_reference = code.len();
    code.extend([0; 4]);
    code.extend(SYSCALL);
    code.extend([0xb8, 157, 0, 0, 0]); // mov eax, prctl
    code.extend([0xbf, 15, 0, 0, 0]); // mov edi, PR_SET_NAME
    code.extend([0x48, 0x8d, 0x35]); // lea rsi, [rip + to the name]
    let name_reference = code.len();
    code.extend([0; 4]);
    code.extend([0x31, 0xd2, 0x45, 0x31, 0xd2, 0x45, 0x31, 0xc0]); // xor edx, edx; r10d; r8d
    code.extend(SYSCALL);
    code.extend([0x31, 0xff]); // xor edi, edi
    code.extend([0xb8, 231, 0, 0, 0]); // mov eax, exit_group
    code.extend(SYSCALL);
    code.push(0xf4); // hlt
    let texts = code.len();
    for (reference, text) in [(root_reference, texts), (name_reference, texts + 2)] {
        code[reference..reference + 4].copy_from_slice(&((text - reference - 4) as u32).to_le_bytes());
    }
    code.extend(TEXTS);
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_lead_where_they_say() {
        let thunk = [0x90; 256];
        let code = fork_code(&thunk);
        // js: over jz (6 bytes) and the wait (19 bytes), to the thunk.
        let wait_end = 6 + code[5] as usize;
        assert_eq!(&code[wait_end - 2..wait_end], &[0x0f, 0x05]);
        assert_eq!(code[wait_end], 0x90);
        let helper = 12 + u32::from_le_bytes(code[8..12].try_into().unwrap()) as usize;
        assert_eq!(helper, wait_end + 254);
        assert_eq!(&code[helper..helper + 2], &[0xb8, 56]);
        let branch = helper + 5 + 5 + 4 + 6 + 2 + 2;
        assert_eq!(code[branch], 0x74);
        let copy = branch + 2 + code[branch + 1] as usize;
        assert_eq!(&code[copy - 1..copy + 5], &[0xf4, 0xb8, 0xb4, 0x01, 0, 0]);
        let failed = branch + 4 + code[branch + 3] as usize;
        assert_eq!(&code[failed..failed + 2], &[0xf7, 0xd8]);
        assert!(code.ends_with(b"/\0brant-copy\0"));
    }
}
