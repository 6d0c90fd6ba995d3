//! The modules of this process: all of them by dl_iterate_phdr(3) of its libc, or one by what the loader's own list says.

use alloc::vec::Vec;
use core::ffi::{CStr, c_char, c_void};
use core::ops::Range;

use brant_hook::exchange::FUNCTIONS_SEGMENT;
use brant_hook::symbols::{
    self, Dynamic, PROGRAM_HEADER_BYTES, R_RELATIVE, RELOCATION_BYTES, SYMBOL_BYTES, Segment, Tables,
};
use brant_hook::{Refusal, frames};

use crate::system;

/// A module that is mapped.
pub(crate) struct Module {
    pub(crate) base: u64,
    pub(crate) path: &'static [u8],
    pub(crate) soname: Option<&'static [u8]>,
    pub(crate) tables: Tables<'static>,
    pub(crate) dynamic: Dynamic,
    /// Where its dynamic section is.
    pub(crate) dynamic_at: u64,
    segments: Vec<Segment>,
}

/// What tells modules apart that are mapped at the same time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) base: u64,
    pub(crate) dynamic: u64,
}

impl Identity {
    pub(crate) fn of(module: &Module) -> Identity {
        Identity { base: module.base, dynamic: module.dynamic_at }
    }
}

/// `struct dl_phdr_info`, as far as it is used.
#[repr(C)]
struct Information {
    base: u64,
    name: *const c_char,
    headers: *const u8,
    header_count: u16,
}

/// `struct link_map`, as far as debuggers know it. What dlopen gives is one, too.
#[repr(C)]
pub(crate) struct LinkMap {
    pub(crate) base: u64,
    pub(crate) name: *const c_char,
    pub(crate) dynamic: u64,
    pub(crate) next: *const LinkMap,
}

type Act<'a> = &'a mut dyn FnMut(Vec<Module>);
type Callback = unsafe extern "C" fn(*const Information, usize, *mut c_void) -> i32;
type Iterate = unsafe extern "C" fn(Callback, *mut c_void) -> i32;

struct Visit<'a> {
    iterate: Iterate,
    act: Act<'a>,
}

/// Shows all modules to `act`. In glibc none of them is unloaded meanwhile: it runs within the loader's callback, and so under
/// its lock. musl has no such lock, and unloads nothing but what it could not load as a whole.
///
/// `act` is called within the first callback and all further ones are left out: musl takes a lock between them, which a
/// thread may hold that waits for what `act` holds.
///
/// # Safety
///
/// `iterate` is dl_iterate_phdr, and this thread may call it.
pub(crate) unsafe fn with_all<T>(iterate: u64, act: impl FnOnce(Vec<Module>) -> T) -> Option<T> {
    // SAFETY: promised by the caller.
    let iterate: Iterate = unsafe { core::mem::transmute(iterate as usize) };
    let (mut act, mut result) = (Some(act), None);
    let mut once = |modules| result = act.take().map(|act| act(modules));
    let mut visit = Visit { iterate, act: &mut once };
    // SAFETY: the callback gets what it expects.
    unsafe { iterate(within, (&raw mut visit).cast()) };
    result
}

unsafe extern "C" fn within(_: *const Information, _: usize, visit: *mut c_void) -> i32 {
    // SAFETY: `with_all` gives it.
    let visit = unsafe { &mut *visit.cast::<Visit<'_>>() };
    let mut modules: Vec<Module> = Vec::new();
    // SAFETY: the callback gets what it expects; the loader's lock may be taken again by who has it.
    unsafe { (visit.iterate)(note, (&raw mut modules).cast()) };
    (visit.act)(modules);
    1
}

unsafe extern "C" fn note(information: *const Information, _: usize, modules: *mut c_void) -> i32 {
    // SAFETY: dl_iterate_phdr gives valid information, and `within` the list.
    let (information, modules) = unsafe { (&*information, &mut *modules.cast::<Vec<Module>>()) };
    let bytes = usize::from(information.header_count) * PROGRAM_HEADER_BYTES;
    // SAFETY: so many program headers are there while the module is loaded.
    let headers = unsafe { core::slice::from_raw_parts(information.headers, bytes) };
    let segments: Vec<Segment> = symbols::segments(headers).collect();
    // SAFETY: a string of the loader's that lives as long as the module.
    let path = unsafe { text(information.name) };
    let dynamic = segments.iter().find(|segment| segment.kind == symbols::PT_DYNAMIC);
    // In musl programs never call the kernel's own module, which has that name there.
    if let Some(dynamic) = dynamic.filter(|_| !path.starts_with(b"linux-gate")) {
        let at = information.base.wrapping_add(dynamic.address);
        // SAFETY: the loader shows modules that are mapped as their headers say.
        modules.push(unsafe {
            Module::new(information.base, path, at, dynamic.memory_bytes as usize, segments)
        });
    } else if segments.iter().any(|segment| segment.kind == FUNCTIONS_SEGMENT) {
        modules.push(Module::bare(information.base, path, segments));
    }
    0
}

/// The kernel's own module, which has no file and is there from the beginning.
pub(crate) fn is_kernels(path: &[u8]) -> bool {
    path.starts_with(b"linux-vdso") || path.starts_with(b"linux-gate")
}

/// # Safety
///
/// Null, or a string that lives as long as the result is used.
pub(crate) unsafe fn text(at: *const c_char) -> &'static [u8] {
    match at.is_null() {
        true => &[],
        // SAFETY: promised by the caller.
        false => unsafe { CStr::from_ptr(at) }.to_bytes(),
    }
}

impl Module {
    /// # Safety
    ///
    /// The module is mapped and stays so as long as the result is used.
    unsafe fn new(
        base: u64,
        path: &'static [u8],
        dynamic_at: u64,
        bytes: usize,
        segments: Vec<Segment>,
    ) -> Module {
        // SAFETY: promised by the caller.
        let (dynamic, tables, soname) = unsafe { tables(base, dynamic_at, bytes) };
        Module { base, path, soname, tables, dynamic, dynamic_at, segments }
    }

    /// One that has no dynamic section: a program that was linked statically.
    fn bare(base: u64, path: &'static [u8], segments: Vec<Segment>) -> Module {
        let (tables, dynamic) = (Tables::default(), Dynamic::default());
        Module { base, path, soname: None, tables, dynamic, dynamic_at: 0, segments }
    }

    /// A module that the loader's list has. Its headers are looked for where they are in every library that a linker made: at
    /// its first byte.
    ///
    /// # Safety
    ///
    /// It is mapped, and stays so as long as the result is used.
    pub(crate) unsafe fn of(listed: &LinkMap) -> Result<Module, Refusal> {
        const HEADER_BYTES: usize = 64;
        let base = listed.base as usize;
        if base == 0 || !system::is_mapped(base) {
            return Err(Refusal::Headers);
        }
        // SAFETY: a page is mapped there.
        let page = unsafe { core::slice::from_raw_parts(base as *const u8, system::PAGE) };
        let at = u64::from_le_bytes(page[32..40].try_into().unwrap_or_default()) as usize;
        let count = usize::from(u16::from_le_bytes([page[56], page[57]]));
        let headers = page.get(at..at + count * PROGRAM_HEADER_BYTES).filter(|_| at >= HEADER_BYTES);
        let headers = headers.filter(|_| page.starts_with(b"\x7fELF\x02")).ok_or(Refusal::Headers)?;
        let segments: Vec<Segment> = symbols::segments(headers).collect();
        let is_own = |segment: &&Segment| {
            segment.kind == symbols::PT_DYNAMIC && listed.base.wrapping_add(segment.address) == listed.dynamic
        };
        let bytes = segments.iter().find(is_own).ok_or(Refusal::Headers)?.memory_bytes as usize;
        // SAFETY: these are its own headers; the rest is promised by the caller.
        Ok(unsafe { Module::new(listed.base, text(listed.name), listed.dynamic, bytes, segments) })
    }

    /// By what wrappers call it.
    pub(crate) fn name(&self) -> &'static [u8] {
        self.soname.unwrap_or(self.path)
    }

    /// Whether the loader has relocated it; `None` where that cannot be told.
    pub(crate) fn is_relocated(&self) -> Option<bool> {
        let is_done = |place: u64, addend: u64| {
            // SAFETY: the module's own data, where the loader writes.
            let value = unsafe { (self.base.wrapping_add(place) as *const u64).read_unaligned() };
            // What the program has changed since has been relocated.
            value == self.base.wrapping_add(addend) || (value != addend && value != 0)
        };
        if self.base == 0 {
            return Some(true);
        }
        if let Some((at, bytes)) = self.dynamic.relocations {
            // SAFETY: the loader reads them there.
            let all = unsafe { core::slice::from_raw_parts(at as *const u8, bytes as usize) };
            let word = |entry: &[u8], at: usize| {
                u64::from_le_bytes(entry[at..at + 8].try_into().unwrap_or_default())
            };
            let mut entries = all.chunks_exact(RELOCATION_BYTES);
            if let Some(entry) = entries.find(|entry| word(entry, 8) as u32 == R_RELATIVE) {
                return Some(is_done(word(entry, 0), word(entry, 16)));
            }
        }
        let at = self.dynamic.relative?;
        // SAFETY: the first word of the list is an offset.
        let place = unsafe { (at as *const u64).read() };
        // SAFETY: the module's own data, where the loader writes.
        let value = unsafe { (self.base.wrapping_add(place) as *const u64).read_unaligned() };
        Some(value >= self.base)
    }

    /// Where its segments lie, from the first byte to the last.
    pub(crate) fn range(&self) -> (u64, u64) {
        let loaded = || self.segments.iter().filter(|segment| segment.kind == symbols::PT_LOAD);
        let start = loaded().map(|segment| segment.address).min().unwrap_or(0);
        let end = loaded().map(|segment| segment.address + segment.memory_bytes).max().unwrap_or(0);
        (self.base.wrapping_add(start), self.base.wrapping_add(end))
    }

    /// The segment that an address of its code is in.
    pub(crate) fn segment_at(&self, address: u64) -> Option<(&Segment, Range<u64>)> {
        let range = |segment: &Segment| {
            let start = self.base.wrapping_add(segment.address);
            start..start + segment.file_bytes
        };
        let is_it = |segment: &&Segment| {
            segment.kind == symbols::PT_LOAD && segment.is_executable && range(segment).contains(&address)
        };
        self.segments.iter().find(is_it).map(|segment| (segment, range(segment)))
    }

    /// Whether a pointer at this address can be written.
    pub(crate) fn is_variable(&self, address: u64) -> bool {
        let is_in = |segment: &Segment| {
            let start = self.base.wrapping_add(segment.address);
            (start..start + segment.memory_bytes).contains(&address)
        };
        let is_writable = |segment: &Segment| segment.kind == symbols::PT_LOAD && segment.is_writable;
        self.segments.iter().any(|segment| is_writable(segment) && is_in(segment))
            && !self.segments.iter().any(|segment| segment.kind == symbols::PT_GNU_RELRO && is_in(segment))
    }

    /// Its functions, as far as they are described; ascending.
    pub(crate) fn functions(&self) -> Vec<Range<u64>> {
        let header = self.segments.iter().find(|segment| segment.kind == frames::PT_GNU_EH_FRAME);
        let described = header.map_or(Vec::new(), |header| {
            let at = self.base.wrapping_add(header.address);
            // SAFETY: mapped and readable, as the loader mapped what the headers say.
            let bytes = unsafe { core::slice::from_raw_parts(at as *const u8, header.memory_bytes as usize) };
            frames::described(bytes, at, |at| self.rest_of_segment(at))
        });
        let named = self.tables.functions().filter(|symbol| symbol.bytes > 0 && !symbol.is_ifunc);
        let range = |start: u64, bytes: u64| start..start.saturating_add(bytes);
        frames::merged(
            described,
            named.map(|symbol| range(self.base.wrapping_add(symbol.value), symbol.bytes)).chain(self.told()),
        )
    }

    /// Functions that brant tells of.
    fn told(&self) -> Vec<Range<u64>> {
        let Some(segment) = self.segments.iter().find(|segment| segment.kind == FUNCTIONS_SEGMENT) else {
            return Vec::new();
        };
        let (at, count) = (self.base.wrapping_add(segment.address), segment.memory_bytes as usize / 16);
        // SAFETY: brant has put them there, and they stay.
        let told = unsafe { core::slice::from_raw_parts(at as *const [u64; 2], count) };
        told.iter().map(|[start, end]| *start..*end).collect()
    }

    /// The bytes from an address to the end of its segment.
    fn rest_of_segment(&self, at: u64) -> Option<&'static [u8]> {
        let inside = at.wrapping_sub(self.base);
        let has = |segment: &&Segment| {
            segment.kind == symbols::PT_LOAD
                && (segment.address..segment.address + segment.file_bytes).contains(&inside)
        };
        let segment = self.segments.iter().find(has)?;
        let rest = segment.address + segment.file_bytes - inside;
        // SAFETY: as above.
        Some(unsafe { core::slice::from_raw_parts(at as *const u8, rest as usize) })
    }

    /// Its executable segments.
    pub(crate) fn code(&self) -> impl Iterator<Item = (u64, &'static [u8])> + '_ {
        let is_code = |segment: &&Segment| segment.kind == symbols::PT_LOAD && segment.is_executable;
        self.segments.iter().filter(is_code).map(|segment| {
            let at = self.base.wrapping_add(segment.address);
            // SAFETY: mapped and readable, as the loader mapped what the headers say.
            (at, unsafe { core::slice::from_raw_parts(at as *const u8, segment.file_bytes as usize) })
        })
    }
}

/// The address of what a loaded library exports under this name.
///
/// # Safety
///
/// `handle` is what dlopen gave: in glibc and musl alike it begins as a `struct link_map`.
pub(crate) unsafe fn exported(handle: u64, name: &[u8]) -> Option<u64> {
    const DYNAMIC_BYTES_MAX: usize = 16 * 128;
    // SAFETY: promised by the caller.
    let handle = unsafe { &*(handle as *const LinkMap) };
    // SAFETY: a loaded library's dynamic section ends with an entry of zeros, long before that.
    let (_, tables, _) = unsafe { tables(handle.base, handle.dynamic, DYNAMIC_BYTES_MAX) };
    tables.value_of(name).map(|value| handle.base.wrapping_add(value))
}

/// # Safety
///
/// The module is mapped as its dynamic section says, which ends with an entry of zeros or after so many bytes.
unsafe fn tables(
    base: u64,
    dynamic: u64,
    bytes_max: usize,
) -> (Dynamic, Tables<'static>, Option<&'static [u8]>) {
    let part = |at: u64, bytes: u64| -> &'static [u8] {
        // SAFETY: the loader itself reads these tables there.
        unsafe { core::slice::from_raw_parts(at as *const u8, bytes as usize) }
    };
    let mut bytes = 0;
    // SAFETY: read entry by entry, up to the one of zeros.
    while bytes < bytes_max && unsafe { ((dynamic as usize + bytes) as *const u64).read() } != 0 {
        bytes += 16;
    }
    let dynamic = Dynamic::parse(part(dynamic, bytes as u64), base);
    // SAFETY: as above.
    let word = |at: u64| unsafe { (at as *const u32).read() };
    let count = match (dynamic.hash, dynamic.gnu_hash) {
        (Some(hash), _) => u64::from(word(hash + 4)),
        (None, Some(hash)) => symbols::count_by_gnu_hash(|at| Some(word(hash + at))).unwrap_or(0),
        (None, None) => 0,
    };
    if dynamic.symbols == 0 || dynamic.strings == 0 {
        return (dynamic, Tables::default(), None);
    }
    let tables = Tables {
        symbols: part(dynamic.symbols, count * SYMBOL_BYTES),
        strings: part(dynamic.strings, dynamic.string_bytes),
        versions: dynamic.versions.map_or(&[], |at| part(at, count * 2)),
        version_definitions: dynamic.version_definitions.map_or(&[], |(at, entries)| part(at, entries * 64)),
    };
    (dynamic, tables, dynamic.soname.and_then(|at| tables.string(at)))
}
