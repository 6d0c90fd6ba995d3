//! Programs without a loader: linked statically, for which system calls alone can be mediated.
//!
//! They have no dlopen, so that what brant carries is mapped by hand; no dl_iterate_phdr, so that their headers are read by
//! brant; and mostly no descriptions of frames, so that functions are known by the symbols of the file (`.symtab`), which is
//! not in memory. All that is laid down in a block of the program's memory, with the few functions of a C library that brant's
//! own wrappers import: what these need of them before system calls is a clock and a place for errno, which they only read.
//!
//! At its entry point a program has no thread pointer yet, and the guard of mediators reads one. So it gets one that leads into the
//! block. Nothing that starts a program looks at the old one: a C library sets its own, before it uses it.
//!
//! In one that runs any thread may be borrowed for that: neither a loader nor an allocator is called, so no lock can be in the way.
//!
//! State of the target: stopped at its entry point, and of no use after an error; it ends with brant. Or running, as it does after
//! an error, but for one thread, which comes back by itself if brant is killed; what was mapped stays then.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use brant_base::{Addr, PAGE_SIZE, Pid};
use brant_hook::exchange::FUNCTIONS_SEGMENT;
use brant_hook::symbols::{self, Dynamic, PROGRAM_HEADER_BYTES, SYMBOL_BYTES, Segment};
use brant_kernel::proc::{self, MapEntry};
use brant_kernel::ptrace::Waiter;
use brant_kernel::remote::{Hand, HandThread, Memory};

use crate::allocator::Allocator;
use crate::carried;
use crate::error::Error;
use crate::go;
use crate::runtime;
use crate::session::{Session, pass_gate};
use crate::target::{Loader, Target};
use crate::unwind::Descriptions;
use crate::{Wrapped, Wrapper, put_on_and_close};

const AT_PHDR: u64 = 3;
const AT_PHNUM: u64 = 5;
const HEADER_BYTES: usize = 64;
const SECTION_BYTES: usize = 64;
const SHT_SYMTAB: u32 = 2;
const STT_FUNC: u8 = 2;
const PT_TLS: u32 = 7;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
/// Code, then data: the thread pointer, errno, the headers, the functions.
const DATA_AT: u64 = PAGE_SIZE;
const ERRNO_AT: u64 = DATA_AT + 512;
const HEADERS_AT: u64 = DATA_AT + 1024;
const HEADERS_MAX: usize = 48;

const CALLS_ONLY: &str = "system calls alone can be mediated in it, by wrap ... in kernel";
const CARRIED_ONLY: &str = "it has no loader for the library of a mediator: the wrapper syscalls of brant's own is for such programs";
const IN_RESTORE: &str = "wrappers are not put on it when it is brought back";
const IS_LOADER: &str =
    "it is itself a loader, whose libraries would not be mediated: run the program that it is to load";
const UNKNOWN_CODE: &str = "neither symbols nor descriptions of frames tell where its functions begin";
const NO_LIBRARY: &str =
    "no C library that is known here is in it, so that its threads may have no pointers of their own";
const NOT_READ: &str = "its headers or its file could not be read";

/// Whether a process, which is at its first instruction or later, was given no loader by the kernel.
pub(crate) fn is_alone(pid: Pid) -> Result<bool, Error> {
    const AT_BASE: u64 = 7;
    let auxv = proc::auxv(pid).map_err(|error| Error::looking(pid, error))?;
    Ok(!auxv.iter().any(|(kind, value)| *kind == AT_BASE && *value != 0))
}

/// Refuses what cannot be put on such a program while it is brought back.
pub(crate) fn refuse_restored(target: &Target) -> Result<(), Error> {
    if target.is_alone { Err(refused(target.pid, IN_RESTORE)) } else { Ok(()) }
}

/// Puts a wrapper on a running program of that kind.
pub(crate) fn wrap(waiter: &Waiter, target: &Target, wrapper: &Wrapper) -> Result<Wrapped, Error> {
    let wrappers = std::slice::from_ref(wrapper);
    check(target.pid, wrappers)?;
    // The thread is held for longer than the session lasts.
    let (_held, thread) = pass_gate(waiter, target)?;
    let (target, _) = lay_down(waiter, target.pid, thread)?;
    let session = Session::open_standing(waiter, &target, &[thread], wrappers)?;
    put_on_and_close(&target, session, wrapper)
}

/// Refuses wrappers that cannot be put on such a program at all.
pub(crate) fn check(pid: Pid, wrappers: &[Wrapper]) -> Result<(), Error> {
    for wrapper in wrappers {
        if wrapper.mediations.iter().any(|mediation| mediation.call.is_none()) {
            return Err(refused(pid, CALLS_ONLY));
        }
        if wrapper.carried.is_none() {
            return Err(refused(pid, CARRIED_ONLY));
        }
    }
    Ok(())
}

/// Prepares a program that is stopped at its entry point, with its only thread `thread`.
pub(crate) fn prepare(
    waiter: &Waiter,
    pid: Pid,
    mut thread: HandThread,
) -> Result<(Target, HandThread), Error> {
    Target::check(pid, Pid(std::process::id() as i32))?;
    if !thread.registers.is_64_bit() {
        return Err(Error::NotSupported(pid));
    }
    let (target, block) = lay_down(waiter, pid, thread)?;
    thread.registers.fs_base = block + DATA_AT;
    Ok((target, thread))
}

/// Maps what stands for a loader and a C library, by a stopped thread, and tells where.
fn lay_down(waiter: &Waiter, pid: Pid, thread: HandThread) -> Result<(Target, u64), Error> {
    carried::check_limit(pid, runtime::LIBRARY.len().max(brant_wrappers::LIBRARY.len()))?;
    let maps = proc::maps(pid).map_err(|error| Error::looking(pid, error))?;
    let memory = Memory::open(pid).map_err(|error| Error::NotAllowed(pid, error))?;
    if go::is_in(&memory, &maps) {
        return Err(Error::SmallStacks(pid));
    }
    let program = Program::read(pid, &memory)?;
    let mut target = target(pid, maps);
    let data_bytes = HEADERS_AT - DATA_AT
        + (program.headers.len() + PROGRAM_HEADER_BYTES + program.functions.len() * 16) as u64;
    let mut hand = Hand::open(waiter, pid, &[thread], &target.executable())?;
    let block = map(&mut hand, DATA_AT + data_bytes.next_multiple_of(PAGE_SIZE));
    hand.finish()?;
    let block = block?;
    let failed = |error| Error::thread(thread.tid, "writing what stands for its loader", error);
    let code = Code::at(block);
    memory.write_by_force(Addr(block), &code.bytes).map_err(failed)?;
    // Its own address, as C libraries have it.
    memory.write(Addr(block + DATA_AT), &(block + DATA_AT).to_le_bytes()).map_err(failed)?;
    let (headers, functions) = program.laid_down(block + HEADERS_AT);
    memory.write(Addr(block + HEADERS_AT), &headers).map_err(failed)?;
    memory.write(Addr(block + HEADERS_AT + headers.len() as u64), &functions).map_err(failed)?;
    let count = (headers.len() / PROGRAM_HEADER_BYTES) as u64;
    // Without a name, as the program itself has in every list of modules.
    target.listed = vec![[program.base, 0, block + HEADERS_AT, count, 0, 0, 0, 0]];
    target.exports = code.functions;
    Ok((target, block))
}

fn refused(pid: Pid, why: &'static str) -> Error {
    Error::Alone { pid, why }
}

/// Such a program, of which nothing is known yet.
pub(crate) fn target(pid: Pid, maps: Vec<MapEntry>) -> Target {
    let none = Addr(0);
    Target {
        pid,
        maps,
        loader: Loader { open: none, close: none, error: None, iterate: none, debug: 0, flags: 0 },
        is_alone: true,
        guarded: Vec::new(),
        library: Vec::new(),
        allocator: Allocator::Libc,
        descriptions: Descriptions::default(),
        exports: Vec::new(),
        listed: Vec::new(),
    }
}

/// A page of code, and data behind it.
fn map(hand: &mut Hand<'_>, bytes: u64) -> Result<u64, Error> {
    let code = (libc::PROT_READ | libc::PROT_EXEC) as u64;
    let at = hand.map_pages(bytes, libc::PROT_READ | libc::PROT_WRITE)?.start().0;
    hand.call(0, libc::SYS_mprotect, [at, PAGE_SIZE, code, 0, 0, 0])?;
    Ok(at)
}

/// What stands for a C library.
struct Code {
    bytes: Vec<u8>,
    functions: Vec<(Vec<u8>, u64)>,
}

impl Code {
    fn at(block: u64) -> Code {
        const CLOCK_AT: u64 = 16;
        const NONE_AT: u64 = 32;
        let mut bytes = vec![0x48, 0xb8]; // mov rax, the place of errno
        bytes.extend((block + ERRNO_AT).to_le_bytes());
        bytes.push(0xc3); // ret
        bytes.resize(CLOCK_AT as usize, 0xcc);
        bytes.extend([0xb8, 228, 0, 0, 0, 0x0f, 0x05, 0xc3]); // mov eax, clock_gettime; syscall; ret
        bytes.resize(NONE_AT as usize, 0xcc);
        bytes.extend([0x48, 0xc7, 0xc0, 0xff, 0xff, 0xff, 0xff, 0xc3]); // mov rax, -1; ret
        let mut functions =
            vec![(b"__errno_location".to_vec(), block), (b"clock_gettime".to_vec(), block + CLOCK_AT)];
        // Mediators of functions call these, which are not put on here.
        for name in ["dirfd", "fileno", "malloc_usable_size", "nanosleep", "ppoll", "setitimer"] {
            functions.push((name.as_bytes().to_vec(), block + NONE_AT));
        }
        Code { bytes, functions }
    }
}

/// What is known of the program from its headers and its file.
struct Program {
    base: u64,
    headers: Vec<u8>,
    /// Where functions begin and end.
    functions: Vec<(u64, u64)>,
}

impl Program {
    fn read(pid: Pid, memory: &Memory) -> Result<Program, Error> {
        let auxv = proc::auxv(pid).map_err(|error| Error::looking(pid, error))?;
        let value = |wanted| auxv.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
        let (Some(at), Some(count)) = (value(AT_PHDR), value(AT_PHNUM)) else {
            return Err(Error::NotSupported(pid));
        };
        let count = count as usize;
        if count == 0 || count > HEADERS_MAX {
            return Err(refused(pid, NOT_READ));
        }
        let mut headers = vec![0; count * PROGRAM_HEADER_BYTES];
        memory.read(Addr(at), &mut headers).map_err(|_| refused(pid, NOT_READ))?;
        let segments: Vec<Segment> = symbols::segments(&headers).collect();
        let file = File::open(format!("/proc/{pid}/exe")).map_err(|_| refused(pid, NOT_READ))?;
        let base = base(&file, &segments, at).ok_or_else(|| refused(pid, NOT_READ))?;
        let has = |kind| segments.iter().any(|segment| segment.kind == kind);
        if has(symbols::PT_INTERP) || is_library(memory, &segments, base) {
            return Err(refused(pid, IS_LOADER));
        }
        let Symbols { functions, has_start } = Symbols::read(&file, base).unwrap_or_default();
        if functions.is_empty() && !has(PT_GNU_EH_FRAME) {
            return Err(refused(pid, UNKNOWN_CODE));
        }
        if !has_start && !has(PT_TLS) {
            return Err(refused(pid, NO_LIBRARY));
        }
        Ok(Program { base, headers, functions })
    }

    /// Headers for `at` with one more for the functions, which are to lie behind them.
    fn laid_down(&self, at: u64) -> (Vec<u8>, Vec<u8>) {
        let mut functions = Vec::with_capacity(self.functions.len() * 16);
        for (start, end) in &self.functions {
            functions.extend(start.to_le_bytes());
            functions.extend(end.to_le_bytes());
        }
        let behind = at + (self.headers.len() + PROGRAM_HEADER_BYTES) as u64;
        let address = behind.wrapping_sub(self.base);
        let bytes = functions.len() as u64;
        let mut headers = self.headers.clone();
        headers.extend(FUNCTIONS_SEGMENT.to_le_bytes());
        headers.extend(0u32.to_le_bytes());
        [0, address, address, bytes, bytes, 8]
            .iter()
            .for_each(|word: &u64| headers.extend(word.to_le_bytes()));
        (headers, functions)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn part(file: &File, at: u64, bytes: u64) -> Option<Vec<u8>> {
    const PART_BYTES_MAX: u64 = 64 << 20;
    if bytes > PART_BYTES_MAX {
        return None;
    }
    let mut part = vec![0; bytes as usize];
    file.read_exact_at(&mut part, at).ok()?;
    Some(part)
}

/// How far the program lies from where it was linked for. `headers_at` is where its headers are.
fn base(file: &File, segments: &[Segment], headers_at: u64) -> Option<u64> {
    let header = part(file, 0, HEADER_BYTES as u64)?;
    let offset = word(&header, 32)?;
    let has = |segment: &&Segment| {
        segment.kind == symbols::PT_LOAD
            && (segment.offset..segment.offset + segment.file_bytes).contains(&offset)
    };
    let segment = segments.iter().find(has)?;
    Some(headers_at.wrapping_sub(segment.address + (offset - segment.offset)))
}

/// Whether it has a name as libraries have, and so is a loader that was executed.
fn is_library(memory: &Memory, segments: &[Segment], base: u64) -> bool {
    const DYNAMIC_BYTES_MAX: u64 = 1 << 16;
    let Some(dynamic) = segments.iter().find(|segment| segment.kind == symbols::PT_DYNAMIC) else {
        return false;
    };
    let mut section = vec![0; dynamic.memory_bytes.min(DYNAMIC_BYTES_MAX) as usize];
    match memory.read(Addr(base.wrapping_add(dynamic.address)), &mut section) {
        Ok(()) => Dynamic::parse(&section, base).soname.is_some(),
        Err(_) => true,
    }
}

/// What the symbols of a file say.
#[derive(Default)]
struct Symbols {
    /// Where functions begin and end.
    functions: Vec<(u64, u64)>,
    /// By `__libc_start_main` glibc and musl alike start a program.
    has_start: bool,
}

impl Symbols {
    fn read(file: &File, base: u64) -> Option<Symbols> {
        const START: &[u8] = b"__libc_start_main";
        let header = part(file, 0, HEADER_BYTES as u64)?;
        let (from, count) = (word(&header, 40)?, half(&header, 60)? & 0xffff);
        let sections = part(file, from, u64::from(count) * SECTION_BYTES as u64)?;
        let mut sections = sections.chunks_exact(SECTION_BYTES);
        let content = |section: &[u8]| part(file, word(section, 24)?, word(section, 32)?);
        let section = sections.clone().find(|section| half(section, 4) == Some(SHT_SYMTAB))?;
        let names = content(sections.nth(half(section, 40)? as usize)?)?;
        let symbols = content(section)?;
        let function = |symbol: &[u8]| {
            let (value, bytes) = (word(symbol, 8)?, word(symbol, 16)?);
            let start = base.wrapping_add(value);
            let is_it = symbol[4] & 0xf == STT_FUNC && symbol[6..8] != [0, 0] && bytes > 0;
            is_it.then(|| (start, start.saturating_add(bytes)))
        };
        let functions = symbols.chunks_exact(SYMBOL_BYTES as usize).filter_map(function).collect();
        let has_start = names.split(|byte| *byte == 0).any(|name| name == START);
        Some(Symbols { functions, has_start })
    }
}
