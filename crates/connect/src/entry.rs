//! A program that has just been executed, stopped at its entry point without our being needed for it to go on.
//!
//! The loader jumps to the entry point that it finds in the auxiliary vector on the stack (AT_ENTRY, in glibc and musl alike). That
//! is made to lead to a page of our own, which makes a system call that we wait for, puts the vector right, and jumps to the
//! program. A breakpoint in its place would end the program where nobody is there any more to take the signal.
//!
//! State of the target: stopped before and after [`Entry::reach`]. On an error, or killed at any instant, it goes through the
//! page to its entry point, and the page stays mapped, which nothing refers to then.

use std::time::{Duration, Instant};

use brant_base::{Addr, PAGE_SIZE, PageRange, Pid, Tid};
use brant_kernel::proc::{self, MapKind};
use brant_kernel::ptrace::{self, Stop, Waiter};
use brant_kernel::remote::{Hand, HandThread, Memory};

use crate::error::Error;

const AT_NULL: u64 = 0;
const AT_BASE: u64 = 7;
const AT_ENTRY: u64 = 9;
/// getppid, which changes nothing.
const NR_REPORT: u32 = 110;
/// What a program passes its executed file: the kernel allows 6 MiB of strings and pointers (fs/exec.c).
const STACK_BYTES_MAX: u64 = 16 << 20;

/// The page in the program.
pub(crate) struct Entry<'w> {
    waiter: &'w Waiter,
    pid: Pid,
    page: PageRange,
}

impl<'w> Entry<'w> {
    /// Runs the program, which is in the stop of its execve, to its entry point. Gives its thread as it is there.
    pub(crate) fn reach(
        waiter: &'w Waiter,
        pid: Pid,
        timeout: Duration,
    ) -> Result<(Entry<'w>, HandThread), Error> {
        let tid = Tid(pid.0);
        let failed = |operation| move |error| Error::thread(tid, operation, error);
        let thread = settled(waiter, tid, timeout)?;
        if !thread.registers.is_64_bit() {
            return Err(Error::NotSupported(pid));
        }
        let auxv = proc::auxv(pid).map_err(|error| Error::looking(pid, error))?;
        let value = |wanted| auxv.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
        value(AT_BASE).filter(|base| *base != 0).ok_or(Error::Static(pid))?;
        let entry = value(AT_ENTRY).ok_or(Error::NotSupported(pid))?;
        let memory = Memory::open(pid).map_err(|error| Error::NotAllowed(pid, error))?;
        let place = place_of_entry(&memory, pid, thread.registers.rsp, entry)?;
        let page = map_page(waiter, pid, thread)?;
        let (code, reported) = code(page.start(), place, entry);
        memory.write_by_force(page.start(), &code).map_err(failed("writing its way in"))?;
        memory.write(place, &page.start().0.to_le_bytes()).map_err(failed("writing its way in"))?;
        run_to_report(waiter, pid, reported, timeout)?;
        // As it came to the page.
        let mut registers = ptrace::registers(tid).map_err(failed("reading registers"))?;
        let saved: [u64; 4] = memory.read_value(Addr(registers.rsp)).map_err(failed("reading its stack"))?;
        memory.write(place, &entry.to_le_bytes()).map_err(failed("putting its entry point back"))?;
        registers.rsp += 32;
        (registers.eflags, registers.r11, registers.rcx, registers.rax) =
            (saved[0], saved[1], saved[2], saved[3]);
        (registers.rip, registers.orig_rax) = (entry, u64::MAX);
        ptrace::set_registers(tid, &registers).map_err(failed("setting registers"))?;
        let thread = settled(waiter, tid, timeout)?;
        Ok((Entry { waiter, pid, page }, thread))
    }

    /// Takes the page out of the stopped program.
    pub(crate) fn leave(self, thread: HandThread) -> Result<(), Error> {
        let mut hand = Hand::open(self.waiter, self.pid, &[thread], &executable(self.pid)?)?;
        let range = [self.page.start().0, self.page.bytes(), 0, 0, 0, 0];
        let done = hand.call(0, libc::SYS_munmap, range);
        hand.finish()?;
        done?;
        Ok(())
    }
}

/// In a stop at which the program's own state can be changed, before its next instruction.
pub(crate) fn settled(waiter: &Waiter, tid: Tid, timeout: Duration) -> Result<HandThread, Error> {
    let failed = |operation| move |error| Error::thread(tid, operation, error);
    ptrace::interrupt(tid).map_err(failed("interrupting"))?;
    ptrace::resume(tid, 0).map_err(failed("interrupting"))?;
    let deadline = Instant::now() + timeout;
    loop {
        match wait(waiter, tid, deadline)? {
            Stop::Interrupt => break,
            Stop::Signal(signal) => ptrace::resume(tid, signal).map_err(failed("interrupting"))?,
            // A job-control stop lasts as long as its user wants.
            Stop::Group(_) => ptrace::listen(tid).map_err(failed("waiting with it"))?,
            _ => ptrace::resume(tid, 0).map_err(failed("interrupting"))?,
        }
    }
    let registers = ptrace::registers(tid).map_err(failed("reading registers"))?;
    let mask = ptrace::signal_mask(tid).map_err(failed("reading its signal mask"))?;
    Ok(HandThread { tid, registers, mask })
}

fn wait(waiter: &Waiter, tid: Tid, deadline: Instant) -> Result<Stop, Error> {
    let rest = deadline.saturating_duration_since(Instant::now());
    match waiter.wait(tid, rest) {
        Ok(Stop::Ended(_)) => Err(Error::Gone(Pid(tid.0))),
        Ok(stop) => Ok(stop),
        Err(_) => Err(Error::DoesNotStop(tid)),
    }
}

fn executable(pid: Pid) -> Result<Vec<PageRange>, Error> {
    let maps = proc::maps(pid).map_err(|error| Error::looking(pid, error))?;
    let mut ranges: Vec<_> = maps.iter().filter(|entry| entry.permissions.execute && !entry.shared).collect();
    ranges.retain(|entry| entry.kind != MapKind::Vsyscall);
    ranges.sort_by_key(|entry| entry.kind != MapKind::Vdso);
    Ok(ranges.iter().map(|entry| entry.range).collect())
}

fn map_page(waiter: &Waiter, pid: Pid, thread: HandThread) -> Result<PageRange, Error> {
    let mut hand = Hand::open(waiter, pid, &[thread], &executable(pid)?)?;
    let page = hand.map_pages(PAGE_SIZE, libc::PROT_READ | libc::PROT_EXEC);
    hand.finish()?;
    Ok(page?)
}

/// Where the auxiliary vector has the entry point. It follows the arguments and the environment, from the stack pointer on.
fn place_of_entry(memory: &Memory, pid: Pid, stack: u64, entry: u64) -> Result<Addr, Error> {
    let maps = proc::maps(pid).map_err(|error| Error::looking(pid, error))?;
    let mapping = maps.iter().find(|entry| entry.range.contains(Addr(stack)));
    let bytes = mapping.map_or(0, |mapping| mapping.range.end().0 - stack).min(STACK_BYTES_MAX);
    let mut words = vec![0; bytes as usize];
    let failed = |error| Error::thread(Tid(pid.0), "reading its stack", error);
    memory.read(Addr(stack), &mut words).map_err(failed)?;
    let mut words = words.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight")));
    let mut at = stack;
    let mut next = || {
        at += 8;
        words.next().ok_or(Error::NotSupported(pid)).map(|word| (at - 8, word))
    };
    let (_, count) = next()?;
    // The arguments and their end, then the environment up to its own.
    for _ in 0..count.saturating_add(1) {
        next()?;
    }
    while next()?.1 != 0 {}
    loop {
        let ((_, kind), (place, value)) = (next()?, next()?);
        match kind {
            AT_ENTRY if value == entry => return Ok(Addr(place)),
            AT_NULL => return Err(Error::NotSupported(pid)),
            _ => {}
        }
    }
}

/// The page's code, and where the system call returns to.
fn code(at: Addr, place: Addr, entry: u64) -> (Vec<u8>, u64) {
    let mut code = vec![0x50, 0x51, 0x41, 0x53, 0x9c]; // push rax; push rcx; push r11; pushfq
    code.push(0xb8); // mov eax, getppid
    code.extend(NR_REPORT.to_le_bytes());
    code.extend([0x0f, 0x05]); // syscall
    let reported = at.0 + code.len() as u64;
    code.extend([0x48, 0xb8]); // mov rax, the place in the vector
    code.extend(place.0.to_le_bytes());
    code.extend([0x48, 0xb9]); // mov rcx, the entry point
    code.extend(entry.to_le_bytes());
    code.extend([0x48, 0x89, 0x08]); // mov [rax], rcx
    code.extend([0x9d, 0x41, 0x5b, 0x59, 0x58]); // popfq; pop r11; pop rcx; pop rax
    code.extend([0xff, 0x25, 0, 0, 0, 0]); // jmp [rip]
    code.extend(entry.to_le_bytes());
    (code, reported)
}

/// Runs to the exit of the page's system call.
fn run_to_report(waiter: &Waiter, pid: Pid, reported: u64, timeout: Duration) -> Result<(), Error> {
    let tid = Tid(pid.0);
    let deadline = Instant::now() + timeout;
    let mut signal = 0;
    let mut is_entered = false;
    let failed = |error| Error::thread(tid, "running it to its entry point", error);
    ptrace::resume_to_syscall(tid, signal).map_err(failed)?;
    loop {
        signal = 0;
        match wait(waiter, tid, deadline)? {
            Stop::Syscall => {
                let registers = ptrace::registers(tid).map_err(failed)?;
                if registers.rip == reported && is_entered {
                    return Ok(());
                }
                is_entered = registers.rip == reported;
            }
            Stop::Signal(number) => signal = number,
            Stop::Group(_) => {
                ptrace::listen(tid).map_err(failed)?;
                continue;
            }
            // A constructor has executed another program.
            Stop::Event(libc::PTRACE_EVENT_EXEC) => {
                return Err(Error::Changed { pid, what: "it executed another program before it began" });
            }
            _ => {}
        }
        ptrace::resume_to_syscall(tid, signal).map_err(failed)?;
    }
}
