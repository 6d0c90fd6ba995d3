//! What is known of a process from outside: its loader, its C library, and where code must not be interrupted.
//!
//! Facts relied upon: the program's `DT_DEBUG` leads to `struct r_debug`, whose list of `struct link_map` has every module
//! of the main namespace (gABI, link.h of glibc and musl). It is read while the program runs, so that any of it may be of
//! two moments; what is found is checked again in the process itself.

use std::ops::Range;

use brant_base::{Addr, PageRange, Pid};
use brant_hook::symbols::{self, Dynamic, PROGRAM_HEADER_BYTES, SYMBOL_BYTES, Tables, is_library};
use brant_kernel::proc::{self, Device, MapEntry, MapKind};
use brant_kernel::remote::Memory;

use crate::allocator::Allocator;
use crate::alone;
use crate::error::Error;
use crate::unwind::Descriptions;

const AT_PHDR: u64 = 3;
const AT_PHNUM: u64 = 5;
const AT_BASE: u64 = 7;
const MODULES_MAX: usize = 65_536;
const TABLE_BYTES_MAX: u64 = 64 << 20;

/// A process that can be wrapped.
pub(crate) struct Target {
    pub(crate) pid: Pid,
    pub(crate) maps: Vec<MapEntry>,
    pub(crate) loader: Loader,
    /// It has no loader: what stands for that are zeros.
    pub(crate) is_alone: bool,
    /// Code that holds locks which dlopen needs.
    pub(crate) guarded: Vec<Range<u64>>,
    /// All code of its C library, much of which holds locks for a moment.
    pub(crate) library: Vec<Range<u64>>,
    pub(crate) allocator: Allocator,
    pub(crate) descriptions: Descriptions,
    /// Functions of its C library, which libraries need that brant carries.
    pub(crate) exports: Vec<(Vec<u8>, u64)>,
    /// What dl_iterate_phdr would show: `struct dl_phdr_info` of each module.
    pub(crate) listed: Vec<[u64; 8]>,
}

/// Functions of its C library.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Loader {
    pub(crate) open: Addr,
    pub(crate) close: Addr,
    /// Absent before glibc 2.34 where no libdl is loaded.
    pub(crate) error: Option<Addr>,
    pub(crate) iterate: Addr,
    /// Its `struct r_debug`.
    pub(crate) debug: u64,
    /// RTLD_NOW, with what an internal function wants besides.
    pub(crate) flags: u64,
}

struct Module {
    base: u64,
    path: Vec<u8>,
    soname: Vec<u8>,
    functions: Functions,
}

/// Exported functions: where they begin and end, by their names.
pub(crate) type Functions = Vec<(Vec<u8>, Range<u64>)>;

impl Target {
    /// Looks at a process. Nothing of it is changed or stopped.
    pub(crate) fn inspect(pid: Pid) -> Result<Target, Error> {
        Target::look(pid, Pid(0))
    }

    /// The same for a process that we trace.
    pub(crate) fn inspect_own(pid: Pid) -> Result<Target, Error> {
        Target::look(pid, Pid(std::process::id() as i32))
    }

    /// Refuses a process in which nothing may be changed.
    pub(crate) fn check(pid: Pid, tracer: Pid) -> Result<(), Error> {
        let status = proc::status(pid).map_err(|error| Error::looking(pid, error))?;
        if status.is_zombie() {
            let others = proc::tasks(pid).unwrap_or_default().into_iter().filter(|tid| tid.0 != pid.0);
            let goes_on = |tid| {
                proc::status((pid, tid)).is_ok_and(|status| !status.is_zombie() && status.state != b'X')
            };
            return Err(if others.into_iter().any(goes_on) {
                Error::NoMainThread(pid)
            } else {
                Error::Gone(pid)
            });
        }
        if status.tracer != tracer {
            return Err(Error::Traced { pid, tracer: status.tracer });
        }
        if status.seccomp != 0 {
            return Err(Error::Seccomp(pid));
        }
        if status.x86_thread_features.iter().any(|feature| feature == b"shstk") {
            return Err(Error::ShadowStack(pid));
        }
        Ok(())
    }

    /// Reads what the auxiliary vector, the maps and the loader's list say. A program without an interpreter is
    /// told by itself.
    fn look(pid: Pid, tracer: Pid) -> Result<Target, Error> {
        Target::check(pid, tracer)?;
        let memory = Memory::open(pid).map_err(|error| Error::NotAllowed(pid, error))?;
        let maps = proc::maps(pid).map_err(|error| Error::looking(pid, error))?;
        let auxv = proc::auxv(pid).map_err(|error| Error::looking(pid, error))?;
        let entry = |wanted| auxv.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
        let (Some(headers), Some(count)) = (entry(AT_PHDR), entry(AT_PHNUM)) else {
            return Err(Error::NotSupported(pid));
        };
        let Some(interpreter) = entry(AT_BASE).filter(|base| *base != 0) else {
            return Ok(alone::target(pid, maps));
        };
        let debug = debug_address(&memory, headers, count).ok_or(Error::NoLoader(pid))?;
        let modules = modules(&memory, debug);
        let loader = find_loader(&modules, debug).ok_or(Error::NoLoader(pid))?;
        let guarded = guarded_code(&modules, &maps, interpreter);
        let library = library_code(&modules, &maps);
        let libc = modules.iter().find(|module| module.is(b"libc")).map(|module| module.base);
        let allocator = Allocator::find(&memory, &maps, debug, |base| Some(base) == libc);
        let listed = listed(&memory, debug, (headers, count));
        let is_libc = |module: &Module| module.is(b"libc");
        let libc = modules.into_iter().find(is_libc);
        let exports = libc.map_or(Vec::new(), |libc| {
            libc.functions.into_iter().map(|(name, range)| (name, range.start)).collect()
        });
        Ok(Target {
            pid,
            maps,
            loader,
            is_alone: false,
            guarded,
            library,
            allocator,
            descriptions: Descriptions::default(),
            exports,
            listed,
        })
    }

    /// Its executable private mappings, the vdso first: places for return thunks.
    pub(crate) fn executable(&self) -> Vec<PageRange> {
        let mut ranges: Vec<&MapEntry> =
            self.maps.iter().filter(|entry| entry.permissions.execute && !entry.shared).collect();
        ranges.retain(|entry| entry.kind != MapKind::Vsyscall);
        ranges.sort_by_key(|entry| entry.kind != MapKind::Vdso);
        ranges.iter().map(|entry| entry.range).collect()
    }
}

/// `struct r_debug`, by the dynamic section of the program.
fn debug_address(memory: &Memory, headers: u64, count: u64) -> Option<u64> {
    let bytes = read(memory, headers, count.checked_mul(PROGRAM_HEADER_BYTES as u64)?)?;
    let find = |kind| symbols::segments(&bytes).find(move |segment| segment.kind == kind);
    let bias = find(symbols::PT_PHDR).map_or(0, |own| headers.wrapping_sub(own.address));
    let dynamic = find(symbols::PT_DYNAMIC)?;
    let section = read(memory, bias.wrapping_add(dynamic.address), dynamic.memory_bytes)?;
    Dynamic::parse(&section, bias).debug
}

/// The modules of the list with their program headers: those of the program itself are `own`.
fn listed(memory: &Memory, debug: u64, own: (u64, u64)) -> Vec<[u64; 8]> {
    const HEADERS_AT: u64 = 32;
    const COUNT_AT: u64 = 56;
    let mut found = Vec::new();
    let mut next = word(memory, debug + 8).unwrap_or(0);
    while next != 0 && found.len() < MODULES_MAX {
        let (base, name) = (word(memory, next).unwrap_or(0), word(memory, next + 8).unwrap_or(0));
        let of_file = || {
            let magic = word_32(memory, base).filter(|magic| magic.to_le_bytes() == *b"\x7fELF");
            let headers = base + word(memory, base + HEADERS_AT).filter(|_| magic.is_some())?;
            Some((headers, u64::from(word_32(memory, base + COUNT_AT)? & 0xffff)))
        };
        let headers = if found.is_empty() { Some(own) } else { of_file() };
        if let Some((headers, count)) = headers {
            found.push([base, name, headers, count, 0, 0, 0, 0]);
        }
        next = word(memory, next + 24).unwrap_or(0);
    }
    found
}

/// The modules of the list, each with its exported functions.
fn modules(memory: &Memory, debug: u64) -> Vec<Module> {
    let mut found = Vec::new();
    let mut next = word(memory, debug + 8).unwrap_or(0);
    while next != 0 && found.len() < MODULES_MAX {
        if let Some(module) = module(memory, next) {
            found.push(module);
        }
        next = word(memory, next + 24).unwrap_or(0);
    }
    found
}

/// A module of the loader's list, with the symbols of its dynamic section; only those that may have what is looked
/// for.
fn module(memory: &Memory, link_map: u64) -> Option<Module> {
    let base = word(memory, link_map)?;
    let path = string(memory, word(memory, link_map + 8)?)?;
    // Only a C library's functions are asked for here.
    let is_wanted = [&b"libc"[..], b"libdl", b"libpthread"].iter().any(|name| is_library(name, None, &path));
    let file = path.rsplit(|byte| *byte == b'/').next().unwrap_or(&path);
    if !is_wanted && !file.starts_with(b"libc") {
        return None;
    }
    let section = read(memory, word(memory, link_map + 16)?, 16 * 64)?;
    let dynamic = Dynamic::parse(&section, base);
    let (functions, strings) = exported(memory, &dynamic, base)?;
    let tables = Tables { strings: &strings, ..Tables::default() };
    let soname = dynamic.soname.and_then(|at| tables.string(at)).unwrap_or_default().to_vec();
    Some(Module { base, path, soname, functions })
}

/// The functions that a library at `base` exports, and the strings of its symbols.
fn exported(memory: &Memory, dynamic: &Dynamic, base: u64) -> Option<(Functions, Vec<u8>)> {
    let count = match (dynamic.hash, dynamic.gnu_hash) {
        (Some(hash), _) => u64::from(word_32(memory, hash + 4)?),
        (None, Some(hash)) => {
            let table = read_up_to(memory, hash, 1 << 20);
            symbols::count_by_gnu_hash(|at| {
                let at = usize::try_from(at).ok()?;
                Some(u32::from_le_bytes(table.get(at..at + 4)?.try_into().ok()?))
            })?
        }
        (None, None) => return None,
    };
    let (entries, strings) = (
        read(memory, dynamic.symbols, count.checked_mul(SYMBOL_BYTES)?)?,
        read(memory, dynamic.strings, dynamic.string_bytes)?,
    );
    let tables = Tables { symbols: &entries, strings: &strings, ..Tables::default() };
    let range = |symbol: symbols::Symbol<'_>| {
        let start = base.wrapping_add(symbol.value);
        (symbol.name.to_vec(), start..start.saturating_add(symbol.bytes))
    };
    let functions = tables.functions().map(range).collect();
    Some((functions, strings))
}

impl Module {
    fn address_of(&self, name: &[u8]) -> Option<u64> {
        self.functions.iter().find(|(known, _)| known == name).map(|(_, range)| range.start)
    }

    /// Where the next exported function begins.
    fn end_behind(&self, start: u64) -> u64 {
        let behind = self.functions.iter().map(|(_, range)| range.start).filter(|other| *other > start).min();
        behind.unwrap_or(start + 4096)
    }

    fn is(&self, name: &[u8]) -> bool {
        is_library(name, Some(&self.soname), &self.path)
    }
}

/// The functions by which a library is loaded: dlopen and dlclose, or what older glibc has in their place.
fn find_loader(modules: &[Module], debug: u64) -> Option<Loader> {
    const RTLD_NOW: u64 = 2;
    const RTLD_DLOPEN: u64 = 0x8000_0000;
    let libc = modules.iter().find(|module| module.is(b"libc"))?;
    let iterate = Addr(libc.address_of(b"dl_iterate_phdr")?);
    let candidates = [Some(libc), modules.iter().find(|module| module.is(b"libdl"))];
    for module in candidates.into_iter().flatten() {
        if let (Some(open), Some(close)) = (module.address_of(b"dlopen"), module.address_of(b"dlclose")) {
            let error = module.address_of(b"dlerror").map(Addr);
            let (open, close) = (Addr(open), Addr(close));
            return Some(Loader { open, close, error, iterate, debug, flags: RTLD_NOW });
        }
    }
    let open = Addr(libc.address_of(b"__libc_dlopen_mode")?);
    let close = Addr(libc.address_of(b"__libc_dlclose")?);
    Some(Loader { open, close, error: None, iterate, debug, flags: RTLD_NOW | RTLD_DLOPEN })
}

/// The functions that the library exports whose first page is at `base`.
pub(crate) fn exported_ranges(memory: &Memory, base: u64) -> Option<Functions> {
    let from = base + word(memory, base + 32)?;
    let headers =
        read(memory, from, u64::from(word_32(memory, base + 56)? & 0xffff) * PROGRAM_HEADER_BYTES as u64)?;
    let dynamic = symbols::segments(&headers).find(|segment| segment.kind == symbols::PT_DYNAMIC)?;
    let section = read(memory, base + dynamic.address, dynamic.memory_bytes)?;
    let dynamic = Dynamic::parse(&section, base);
    exported(memory, &dynamic, base).map(|(functions, _)| functions)
}

/// The loader's code, where it is a file of its own, that of the C library's allocator, and what holds other locks that a
/// library needs which comes or goes, or holds what others wait for who have these. musl is its own loader: there, the
/// functions around dlopen.
fn guarded_code(modules: &[Module], maps: &[MapEntry], interpreter: u64) -> Vec<Range<u64>> {
    const ALLOCATOR: [&[u8]; 8] = [
        b"malloc",
        b"free",
        b"realloc",
        b"calloc",
        b"memalign",
        b"malloc_usable_size",
        b"malloc_info",
        b"posix_memalign",
    ];
    const LOADER: [&[u8]; 6] = [b"dlopen", b"dlclose", b"dlsym", b"dladdr", b"dl_iterate_phdr", b"dlinfo"];
    /// The list of open files, which fork waits for while it has the list of its handlers, which dlclose waits for.
    const FILES: [&[u8]; 5] =
        [b"_IO_link_in", b"_IO_un_link", b"_IO_flush_all", b"_IO_flush_all_linebuffered", b"_IO_list_lock"];
    /// The lists that dlclose takes a library's entries from.
    const HANDLERS: [&[u8]; 3] = [b"__cxa_atexit", b"__register_atfork", b"__cxa_finalize"];
    let mut guarded = Vec::new();
    let is_musl = modules.iter().any(|module| module.base == interpreter && module.is(b"libc"));
    let at = maps.iter().find(|entry| entry.range.contains(Addr(interpreter)));
    if let Some(first) = at.filter(|_| !is_musl) {
        guarded.extend(code_of(maps, (first.device, first.inode)));
    }
    if let Some(libc) = modules.iter().find(|module| module.is(b"libc")) {
        guarded.extend(around(libc, &ALLOCATOR));
        // It holds every lock of the allocator, whosever that is, from before it forks to behind that.
        guarded.extend(from(libc, b"fork"));
        guarded.extend(FILES.iter().chain(&HANDLERS).filter_map(|name| with_static(libc, name)));
        if is_musl {
            LOADER.iter().for_each(|name| guarded.extend(around(libc, &[name])));
        }
    }
    guarded
}

/// The code of the C library, and of libpthread where that is another.
fn library_code(modules: &[Module], maps: &[MapEntry]) -> Vec<Range<u64>> {
    let is_one = |module: &&Module| module.is(b"libc") || module.is(b"libpthread");
    let of = |module: &Module| maps.iter().find(|entry| entry.range.contains(Addr(module.base)));
    let files = modules.iter().filter(is_one).filter_map(of);
    files.flat_map(|entry| code_of(maps, (entry.device, entry.inode))).collect()
}

/// The executable mappings of a file.
pub(crate) fn code_of(maps: &[MapEntry], file: (Device, u64)) -> impl Iterator<Item = Range<u64>> {
    let own = maps.iter().filter(move |entry| (entry.device, entry.inode) == file);
    own.filter(|entry| entry.permissions.execute).map(|entry| entry.range.start().0..entry.range.end().0)
}

/// From the exported function before these ones, which lie together, to the one behind them: the static functions of the
/// same source lie there too.
fn around(libc: &Module, names: &[&[u8]]) -> Option<Range<u64>> {
    let addresses: Vec<u64> = names.iter().filter_map(|name| libc.address_of(name)).collect();
    let (first, last) = (*addresses.iter().min()?, *addresses.iter().max()?);
    let before = libc.functions.iter().map(|(_, range)| range.start).filter(|start| *start < first).max();
    Some(before.unwrap_or(first)..libc.end_behind(last))
}

/// From the end of the exported function before this one to the one behind it: a static function that does its work lies
/// before it as a rule, and may be all that is on the stack.
fn with_static(libc: &Module, name: &[u8]) -> Option<Range<u64>> {
    let own = from(libc, name)?;
    let before = libc.functions.iter().filter(|(_, range)| range.start < own.start);
    let end = before.map(|(_, range)| range.end.min(own.start)).max().unwrap_or(own.start);
    Some(end..own.end)
}

/// From an exported function to the next one.
fn from(libc: &Module, name: &[u8]) -> Option<Range<u64>> {
    let first = libc.address_of(name)?;
    Some(first..libc.end_behind(first))
}

pub(crate) fn read(memory: &Memory, at: u64, bytes: u64) -> Option<Vec<u8>> {
    if bytes > TABLE_BYTES_MAX {
        return None;
    }
    let mut buffer = vec![0; bytes as usize];
    memory.read(Addr(at), &mut buffer).ok()?;
    Some(buffer)
}

/// As much as is mapped.
fn read_up_to(memory: &Memory, at: u64, bytes: u64) -> Vec<u8> {
    const PIECE: u64 = 4096;
    let mut all = Vec::new();
    while (all.len() as u64) < bytes {
        let here = at + all.len() as u64;
        let Some(piece) = read(memory, here, PIECE - here % PIECE) else { break };
        all.extend(piece);
    }
    all
}

pub(crate) fn word(memory: &Memory, at: u64) -> Option<u64> {
    memory.read_value(Addr(at)).ok()
}

pub(crate) fn word_32(memory: &Memory, at: u64) -> Option<u32> {
    memory.read_value(Addr(at)).ok()
}

/// A string that ends with a zero byte.
pub(crate) fn string(memory: &Memory, at: u64) -> Option<Vec<u8>> {
    const STRING_BYTES_MAX: u64 = 8192;
    let bytes = read_up_to(memory, at, STRING_BYTES_MAX);
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some(bytes[..end].to_vec())
}
