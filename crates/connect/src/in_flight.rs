//! System calls that mediators of process numbers were making when their process was frozen.
//!
//! Such a call has the kernel's number already. A process that is brought back under other numbers makes it anew with the number
//! of now. Whoever is in the middle of a mediator elsewhere has a number somewhere in registers or on its stack, where nobody
//! finds it: it is refused.

use std::ops::Range;

use brant_base::{Addr, Pid, Tid};
use brant_hook::exchange::RUNTIME_NAME;
use brant_identity::{NAME, Table};
use brant_kernel::proc::{self, MapEntry, MapKind};
use brant_kernel::ptrace::{self, UserRegisters};
use brant_kernel::remote::{HandThread, Memory, TRAMPOLINE_MARK};

use crate::error::Error;
use crate::runtime::Runtime;
use crate::stack::Stacks;
use crate::target;
use crate::unwind::Descriptions;

/// The name of the mediators' library in memory.
const MEDIATORS: &[u8] = b"brant-wrapper-virtual";
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// Which arguments of a call are numbers of processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbers {
    First,
    FirstTwo,
    Second,
    /// Negative: a group.
    FirstOrGroup,
    /// As the first argument says.
    Waited,
}

/// The calls that take numbers in registers; the others take none, or do not wait.
fn numbers(call: u64) -> Option<Numbers> {
    Some(match call as i64 {
        libc::SYS_wait4 | libc::SYS_kill => Numbers::FirstOrGroup,
        libc::SYS_waitid => Numbers::Waited,
        libc::SYS_tgkill | libc::SYS_rt_tgsigqueueinfo | libc::SYS_setpgid | libc::SYS_kcmp => {
            Numbers::FirstTwo
        }
        libc::SYS_ptrace | libc::SYS_perf_event_open => Numbers::Second,
        libc::SYS_getpgid
        | libc::SYS_getsid
        | libc::SYS_tkill
        | libc::SYS_rt_sigqueueinfo
        | libc::SYS_pidfd_open
        | libc::SYS_sched_setparam
        | libc::SYS_sched_getparam
        | libc::SYS_sched_setscheduler
        | libc::SYS_sched_getscheduler
        | libc::SYS_sched_rr_get_interval
        | libc::SYS_sched_setaffinity
        | libc::SYS_sched_getaffinity
        | libc::SYS_sched_setattr
        | libc::SYS_sched_getattr
        | libc::SYS_prlimit64
        | libc::SYS_get_robust_list
        | libc::SYS_process_vm_readv
        | libc::SYS_process_vm_writev
        | libc::SYS_migrate_pages
        | libc::SYS_move_pages => Numbers::First,
        _ => return None,
    })
}

/// Calls with numbers in memory or among other arguments, which are over at once: that of a lock, which may wait, has none.
fn is_unknown(registers: &UserRegisters) -> bool {
    let locks = [libc::F_SETLK, libc::F_SETLKW, libc::F_OFD_SETLK, libc::F_OFD_SETLKW];
    let call = registers.rax as i64;
    if call == libc::SYS_fcntl {
        return !locks.contains(&(registers.rsi as i32));
    }
    [
        libc::SYS_getpriority,
        libc::SYS_setpriority,
        libc::SYS_ioprio_get,
        libc::SYS_ioprio_set,
        libc::SYS_ioctl,
        libc::SYS_sendmsg,
    ]
    .contains(&call)
}

/// Where mediators of this process are.
struct Places {
    mediators: Vec<Range<u64>>,
    /// Each of them by its name.
    named: Vec<(Vec<u8>, Range<u64>)>,
    runtime: Vec<Range<u64>>,
}

impl Places {
    fn find(memory: &Memory, maps: &[MapEntry], runtime: Option<&Runtime>) -> Places {
        let named = |prefix: &[u8]| -> Vec<Range<u64>> {
            let is_it = |entry: &&MapEntry| {
                entry.permissions.execute
                    && matches!(&entry.kind, MapKind::Memfd(name) if name.starts_with(prefix))
            };
            maps.iter().filter(is_it).map(|entry| entry.range.start().0..entry.range.end().0).collect()
        };
        let mut own = named(RUNTIME_NAME.as_bytes());
        own.extend(runtime.and_then(|runtime| runtime.code(memory)).unwrap_or_default());
        let base = maps.iter().find(|entry| {
            entry.offset == 0 && matches!(&entry.kind, MapKind::Memfd(name) if name.starts_with(MEDIATORS))
        });
        let ranges = base.and_then(|entry| target::exported_ranges(memory, entry.range.start().0));
        Places { mediators: named(MEDIATORS), named: ranges.unwrap_or_default(), runtime: own }
    }

    /// The mediator that a thread is in: the innermost on its stack.
    fn mediator(&self, memory: &Memory, registers: &UserRegisters) -> Option<&[u8]> {
        const WORDS_MAX: u64 = 4096;
        let name = |address: u64| {
            let found = self.named.iter().find(|(_, range)| range.contains(&address));
            found.map(|(name, _)| name.as_slice())
        };
        if let Some(name) = name(registers.rip) {
            return Some(name);
        }
        let from = registers.rsp & !7;
        (0..WORDS_MAX).map_while(|index| memory.read_value::<u64>(Addr(from + index * 8)).ok()).find_map(name)
    }

    fn is_in(ranges: &[Range<u64>], address: u64) -> bool {
        ranges.iter().any(|range| range.contains(&address))
    }
}

/// Whether a wrapper may be taken off: not the one that hides numbers which have changed.
pub(crate) fn check_hides_nothing(pid: Pid, wrapper: &str) -> Result<(), Error> {
    if wrapper != "virtual" {
        return Ok(());
    }
    let memory = Memory::open(pid).map_err(|error| Error::NotAllowed(pid, error))?;
    let maps = proc::maps(pid).map_err(|error| Error::looking(pid, error))?;
    let hides = any_table(&memory, &maps, |table| !table.is_same());
    if hides { Err(Error::Hides(pid)) } else { Ok(()) }
}

/// Whether a process has a table of that kind.
fn any_table(memory: &Memory, maps: &[MapEntry], is_it: impl Fn(&Table<'_>) -> bool) -> bool {
    let is_table = |entry: &&MapEntry| matches!(&entry.kind, MapKind::Memfd(name) if name == NAME.as_bytes());
    maps.iter().filter(is_table).any(|entry| {
        let mut bytes = vec![0; entry.range.bytes() as usize];
        let read = memory.read(entry.range.start(), &mut bytes);
        read.is_ok() && Table::read(&bytes).is_some_and(|table| is_it(&table))
    })
}

/// What it means for a thread to be in a mediator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// It handles no numbers.
    None,
    /// The result of its call is a number.
    Result,
    /// Numbers are only given to the kernel.
    Given,
    /// The kernel writes numbers into memory, or they are elsewhere.
    Elsewhere,
}

/// `leads`: whether any address leads to another; where none does, those who translate them do nothing.
fn part(mediator: &[u8], leads: bool) -> Part {
    match mediator {
        b"virtual_address"
        | b"virtual_sendto"
        | b"virtual_getsockname"
        | b"virtual_peer"
        | b"virtual_recvfrom"
            if !leads =>
        {
            Part::None
        }
        // Who starts a brant tells it its numbers anew, and the path of the program is translated after that.
        b"virtual_futex" | b"virtual_exit" | b"virtual_uname" | b"virtual_execve" | b"virtual_execveat" => {
            Part::None
        }
        b"virtual_result"
        | b"virtual_first_and_result"
        | b"virtual_wait4"
        | b"virtual_fork"
        | b"virtual_clone"
        | b"virtual_clone3" => Part::Result,
        b"virtual_first"
        | b"virtual_two"
        | b"virtual_second"
        | b"virtual_kill"
        | b"virtual_priority"
        | b"virtual_io_priority" => Part::Given,
        _ => Part::Elsewhere,
    }
}

/// Lets calls that mediators are making have the numbers of now.
pub(crate) fn revise(pid: Pid, threads: &[Tid], now: &dyn Fn(i32) -> Option<i32>) -> Result<(), Error> {
    for (tid, registers) in revised(pid, threads, now)? {
        ptrace::set_registers(tid, &registers)
            .map_err(|error| Error::thread(tid, "setting registers", error))?;
    }
    Ok(())
}

/// The threads of a process that could not go on under other numbers as they stand, stopped by the caller: each is in the middle of
/// a mediator that handles one.
pub fn translating(pid: Pid) -> Vec<Tid> {
    let maps = std::fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
    if !maps.windows(NAME.len()).any(|part| part == NAME.as_bytes()) {
        return Vec::new();
    }
    let Ok(process) = Mediated::look(pid) else { return Vec::new() };
    let is_translating = |tid: &Tid| {
        // A call that was interrupted is made anew where it is brought back.
        let registers = ptrace::registers(*tid).map(UserRegisters::as_resumed_by_kernel);
        let revised = registers.map(|registers| process.revised(*tid, registers, &|_| None));
        matches!(revised, Ok(Err(Error::InMediator(_))))
    };
    proc::tasks(pid).unwrap_or_default().into_iter().filter(is_translating).collect()
}

/// The threads that must go on with other registers, and these.
fn revised(
    pid: Pid,
    threads: &[Tid],
    now: &dyn Fn(i32) -> Option<i32>,
) -> Result<Vec<(Tid, UserRegisters)>, Error> {
    let process = Mediated::look(pid)?;
    let mut all = Vec::new();
    for tid in threads {
        let registers =
            ptrace::registers(*tid).map_err(|error| Error::thread(*tid, "reading registers", error))?;
        all.extend(process.revised(*tid, registers, now)?.map(|registers| (*tid, registers)));
    }
    Ok(all)
}

/// What is looked at in a process whose threads may be in mediators.
struct Mediated {
    pid: Pid,
    memory: Memory,
    maps: Vec<MapEntry>,
    places: Places,
    descriptions: Descriptions,
    /// Whether any address leads to another.
    leads: bool,
}

impl Mediated {
    fn look(pid: Pid) -> Result<Mediated, Error> {
        let memory = Memory::open(pid).map_err(|error| Error::NotAllowed(pid, error))?;
        let maps = proc::maps(pid).map_err(|error| Error::looking(pid, error))?;
        let runtime = Runtime::find(pid)?;
        let places = Places::find(&memory, &maps, runtime.as_ref());
        let leads = any_table(&memory, &maps, |table| table.has_addresses());
        Ok(Mediated { pid, memory, maps, places, descriptions: Descriptions::default(), leads })
    }

    /// The registers that a thread must go on with, where these are others than `registers`.
    fn revised(
        &self,
        tid: Tid,
        registers: UserRegisters,
        now: &dyn Fn(i32) -> Option<i32>,
    ) -> Result<Option<UserRegisters>, Error> {
        let Mediated { pid, memory, maps, places, leads, .. } = self;
        let (pid, leads) = (*pid, *leads);
        let about_to = makes_call(memory, places, &registers, 0);
        let is_known = !is_unknown(&registers)
            && !names_process(memory, &registers)
            && !names_address(memory, &registers);
        let is_execution = [libc::SYS_execve, libc::SYS_execveat].contains(&(registers.rax as i64));
        if about_to && is_execution && !is_known {
            return Err(Error::InMediator(pid));
        }
        if about_to && is_known {
            return Ok(numbers(registers.rax).and_then(|kind| translated(&registers, kind, now)));
        }
        let mask =
            ptrace::signal_mask(tid).map_err(|error| Error::thread(tid, "reading its signal mask", error))?;
        let thread = HandThread { tid, registers, mask };
        if waits_for_time(memory, maps, registers.rip) || !self.is_inside(&thread) {
            return Ok(None);
        }
        let has_called = makes_call(memory, places, &registers, SYSCALL.len() as u64);
        let part = places.mediator(memory, &registers).map_or(Part::Elsewhere, |name| part(name, leads));
        match (part, has_called) {
            (Part::None, _) | (Part::Given, true) => Ok(None),
            (Part::Result, true) => Ok(with_result(&registers, now)),
            _ => Err(Error::InMediator(pid)),
        }
    }

    /// Whether a thread is in a mediator, and not only in one that no harm comes to.
    fn is_inside(&self, thread: &HandThread) -> bool {
        let Mediated { memory, maps, places, leads, descriptions, .. } = self;
        let over = calls_under(memory, maps, places, &thread.registers);
        let is_harmless = |interrupted: &UserRegisters| {
            let has_called = makes_call(memory, places, interrupted, SYSCALL.len() as u64);
            let part = places.mediator(memory, interrupted).map(|name| part(name, *leads));
            // One that gives the call's result as it is may be on the stack no more.
            part == Some(Part::None) || (matches!(part, None | Some(Part::Given)) && has_called)
        };
        let stacks = Stacks { memory, maps, descriptions };
        over.is_none_or(|over| !over.iter().all(is_harmless))
            && stacks.is_inside(thread, |address| Places::is_in(&places.mediators, address))
    }
}

/// The calls of mediators that a thread is in without being at them, as signals have interrupted them; `None` where it may be at one.
///
/// These mediators call nothing of the program but an instruction for their own call, so that there are no others on its stack. What
/// else looks like it was left by an earlier call.
fn calls_under(
    memory: &Memory,
    maps: &[MapEntry],
    places: &Places,
    registers: &UserRegisters,
) -> Option<Vec<UserRegisters>> {
    let is_own =
        |address| Places::is_in(&places.mediators, address) || Places::is_in(&places.runtime, address);
    let is_at_one = |registers: &UserRegisters| {
        let returns_to = memory.read_value::<u64>(Addr(registers.rsp)).unwrap_or(0);
        is_own(registers.rip) || is_own(returns_to)
    };
    if is_at_one(registers) {
        return None;
    }
    let mut found = interrupted(memory, maps, registers.rsp)?;
    found.retain(is_at_one);
    Some(found)
}

/// Where signals have interrupted a thread whose stack pointer this is, and what looks like that; `None` where too much would have
/// to be looked at.
fn interrupted(memory: &Memory, maps: &[MapEntry], stack: u64) -> Option<Vec<UserRegisters>> {
    const SEARCHED_BYTES_MAX: u64 = 16 << 20;
    const STACKS_MAX: usize = 64;
    /// From the instruction's place in the frame of a signal on, in words; the stack pointer is before it.
    const SEGMENTS_BEHIND: usize = 2;
    /// Of code and of the stack, as the kernel writes them since 4.6; and what flags always have.
    const USER_SEGMENTS: u64 = 0x2b_0000_0000_0033;
    const FLAGS_SET: u64 = 2;
    const FLAGS_END: u64 = 1 << 22;
    let mapping = |address: u64| maps.iter().find(|entry| entry.range.contains(Addr(address)));
    let mut found = Vec::new();
    // Where each stack was searched from: a handler may run on a stack of its own.
    let mut searched: Vec<(Addr, u64)> = Vec::new();
    let mut waiting = vec![stack & !7];
    while let Some(from) = waiting.pop() {
        let Some(entry) = mapping(from) else { continue };
        let known = searched.iter().find(|(start, _)| *start == entry.range.start());
        if known.is_some_and(|(_, at)| *at <= from) {
            continue;
        }
        let bytes = entry.range.end().0 - from;
        if bytes > SEARCHED_BYTES_MAX || searched.len() == STACKS_MAX {
            return None;
        }
        searched.retain(|(start, _)| *start != entry.range.start());
        searched.push((entry.range.start(), from));
        let mut buffer = vec![0; bytes as usize];
        memory.read(Addr(from), &mut buffer).ok()?;
        let words: Vec<u64> = buffer
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
            .collect();
        for frame in words.windows(2 + SEGMENTS_BEHIND) {
            let [before, at, flags, segments] = frame else { continue };
            let is_code = || mapping(*at).is_some_and(|entry| entry.permissions.execute);
            let has_flags = flags & FLAGS_SET != 0 && *flags < FLAGS_END;
            if *segments == USER_SEGMENTS && has_flags && mapping(*before).is_some() && is_code() {
                found.push(UserRegisters { rip: *at, rsp: *before, ..UserRegisters::default() });
                waiting.push(before & !7);
            }
        }
    }
    Some(found)
}

/// Whether one of the first arguments is a path that may have a number in it.
fn names_process(memory: &Memory, registers: &UserRegisters) -> bool {
    let is_of_proc = |at: u64| memory.read_value::<[u8; 6]>(Addr(at)).is_ok_and(|head| head == *b"/proc/");
    numbers(registers.rax).is_none() && (is_of_proc(registers.rdi) || is_of_proc(registers.rsi))
}

/// Whether it gives the kernel an internet address, which may be that of another host.
fn names_address(memory: &Memory, registers: &UserRegisters) -> bool {
    let at = match registers.rax as i64 {
        libc::SYS_bind | libc::SYS_connect => registers.rsi,
        libc::SYS_sendto => registers.r8,
        _ => return false,
    };
    let family = memory.read_value::<u16>(Addr(at)).map_or(0, i32::from);
    at != 0 && [libc::AF_INET, libc::AF_INET6].contains(&family)
}

/// A call has just given a number.
fn with_result(registers: &UserRegisters, now: &dyn Fn(i32) -> Option<i32>) -> Option<UserRegisters> {
    let number = i32::try_from(registers.rax as i64).ok().filter(|number| *number > 0)?;
    Some(UserRegisters { rax: now(number)? as u64, ..*registers })
}

/// Whether a thread is where a restore lets it make a call with what is left of its time-out: none of these has numbers.
fn waits_for_time(memory: &Memory, maps: &[MapEntry], address: u64) -> bool {
    let Some(own) = maps.iter().find(|entry| entry.range.contains(Addr(address))) else { return false };
    let mark = memory.read_value::<[u8; TRAMPOLINE_MARK.len()]>(own.range.start());
    own.permissions.execute && own.inode == 0 && mark.is_ok_and(|mark| mark == *TRAMPOLINE_MARK)
}

/// Whether a thread is about to make a call for a mediator, or has made it so many bytes before.
fn makes_call(memory: &Memory, places: &Places, registers: &UserRegisters, behind: u64) -> bool {
    let at = registers.rip.wrapping_sub(behind);
    let at_call = memory.read_value::<[u8; 2]>(Addr(at)).is_ok_and(|bytes| bytes == SYSCALL);
    let returns_to = memory.read_value::<u64>(Addr(registers.rsp)).unwrap_or(0);
    at_call
        && (Places::is_in(&places.runtime, at)
            || Places::is_in(&places.runtime, returns_to)
            || Places::is_in(&places.mediators, at))
}

/// Registers with other numbers; `None` where none of them has changed.
fn translated(
    registers: &UserRegisters,
    kind: Numbers,
    now: &dyn Fn(i32) -> Option<i32>,
) -> Option<UserRegisters> {
    const P_PID: u64 = 1;
    const P_PGID: u64 = 2;
    let number = |word: u64| match word as i32 {
        named if named > 0 => now(named).map_or(word, |found| found as u64),
        _ => word,
    };
    let group = |word: u64| match word as i32 {
        named if named < -1 && named != i32::MIN => {
            now(-named).map_or(word, |found| i64::from(-found) as u64)
        }
        _ => number(word),
    };
    let mut revised = *registers;
    match kind {
        Numbers::First => revised.rdi = number(registers.rdi),
        Numbers::FirstTwo => {
            revised.rdi = number(registers.rdi);
            revised.rsi = number(registers.rsi);
        }
        Numbers::Second => revised.rsi = number(registers.rsi),
        Numbers::FirstOrGroup => revised.rdi = group(registers.rdi),
        Numbers::Waited if [P_PID, P_PGID].contains(&registers.rdi) => revised.rsi = number(registers.rsi),
        Numbers::Waited => {}
    }
    (revised.rdi != registers.rdi || revised.rsi != registers.rsi).then_some(revised)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_with_addresses_of_the_internet_are_known() {
        let memory = Memory::open(Pid(std::process::id() as i32)).unwrap();
        let [inet, unix] = [libc::AF_INET as u16, libc::AF_UNIX as u16].map(Box::new);
        let at = |place: &u16| std::ptr::from_ref(place) as u64;
        let names = |call: i64, rsi, r8| {
            let registers = UserRegisters { rax: call as u64, rsi, r8, ..UserRegisters::default() };
            names_address(&memory, &registers)
        };
        assert!(names(libc::SYS_connect, at(&inet), 0) && names(libc::SYS_sendto, 0, at(&inet)));
        assert!(!names(libc::SYS_connect, at(&unix), 0) && !names(libc::SYS_sendto, at(&inet), 0));
        assert!(!names(libc::SYS_accept, at(&inet), at(&inet)));
        let parts = [false, true].map(|leads| part(b"virtual_recvfrom", leads));
        assert_eq!(parts, [Part::None, Part::Elsewhere]);
    }

    #[test]
    fn what_a_signal_has_interrupted_is_found_on_every_stack() {
        let own = Pid(std::process::id() as i32);
        let memory = Memory::open(own).unwrap();
        let code = interrupted as *const () as u64;
        // Both are mappings of their own, as they are large.
        let mut other = vec![0u64; 1 << 17];
        let at = |words: &[u64], index: usize| std::ptr::from_ref(&words[index]) as u64;
        let segments = 0x2b_0000_0000_0033;
        let mut stack = vec![0u64; 1 << 17];
        let inner = at(&other, 400);
        other[500..504].copy_from_slice(&[inner, code + 1, 0x246, segments]);
        stack[9..13].copy_from_slice(&[inner, code, 0x246, segments]);
        stack[20..24].copy_from_slice(&[inner, 1, 0x246, segments]);
        let maps = proc::maps(own).unwrap();
        let found = interrupted(&memory, &maps, at(&stack, 1)).unwrap();
        let found: Vec<u64> = found.iter().map(|registers| registers.rip).collect();
        assert!(found.contains(&code) && found.contains(&(code + 1)) && !found.contains(&1));
    }

    #[test]
    fn arguments_are_translated_as_their_calls_have_them() {
        let now = |number: i32| (number == 100).then_some(4711);
        let with = |rdi: i64, rsi: i64| UserRegisters {
            rdi: rdi as u64,
            rsi: rsi as u64,
            ..UserRegisters::default()
        };
        let revised =
            |kind, rdi, rsi| translated(&with(rdi, rsi), kind, &now).map(|r| (r.rdi as i64, r.rsi as i64));
        assert_eq!(revised(Numbers::FirstOrGroup, 100, 0), Some((4711, 0)));
        assert_eq!(revised(Numbers::FirstOrGroup, -100, 0), Some((-4711, 0)));
        assert_eq!(revised(Numbers::FirstOrGroup, -1, 0), None);
        assert_eq!(revised(Numbers::FirstTwo, 100, 100), Some((4711, 4711)));
        assert_eq!(revised(Numbers::Waited, 1, 100), Some((1, 4711)));
        assert_eq!(revised(Numbers::Waited, 0, 100), None);
        assert_eq!(revised(Numbers::First, 101, 100), None);
    }
}
