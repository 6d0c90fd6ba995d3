//! The modules of this process, by dl_iterate_phdr(3) of its libc, which holds the loader's lock meanwhile.

use alloc::vec::Vec;
use core::ffi::{CStr, c_char, c_void};

use brant_hook::symbols::{self, Dynamic, PROGRAM_HEADER_BYTES, SYMBOL_BYTES, Segment, Tables};

/// A module that is mapped.
pub(crate) struct Module {
    pub(crate) base: u64,
    pub(crate) path: &'static [u8],
    pub(crate) soname: Option<&'static [u8]>,
    pub(crate) tables: Tables<'static>,
    segments: Vec<Segment>,
}

/// `struct dl_phdr_info`, as far as it is used.
#[repr(C)]
struct Information {
    base: u64,
    name: *const c_char,
    headers: *const u8,
    header_count: u16,
}

type Visit<'a> = &'a mut dyn FnMut(Module);
type Callback = unsafe extern "C" fn(*const Information, usize, *mut c_void) -> i32;

/// Shows every module to `visit`. None of them is unloaded meanwhile.
///
/// # Safety
///
/// `iterate` is dl_iterate_phdr, and this thread may call it.
pub(crate) unsafe fn each(iterate: u64, mut visit: impl FnMut(Module)) {
    // SAFETY: promised by the caller.
    let iterate: unsafe extern "C" fn(Callback, *mut c_void) -> i32 =
        unsafe { core::mem::transmute(iterate as usize) };
    let mut visit: Visit<'_> = &mut visit;
    // SAFETY: the callback gets what it expects.
    unsafe { iterate(show, (&raw mut visit).cast()) };
}

unsafe extern "C" fn show(information: *const Information, _: usize, visit: *mut c_void) -> i32 {
    // SAFETY: dl_iterate_phdr gives valid information, and `each` the visit.
    let (information, visit) = unsafe { (&*information, &mut *visit.cast::<Visit<'_>>()) };
    let bytes = usize::from(information.header_count) * PROGRAM_HEADER_BYTES;
    // SAFETY: so many program headers are there while the module is loaded.
    let headers = unsafe { core::slice::from_raw_parts(information.headers, bytes) };
    let segments: Vec<Segment> = symbols::segments(headers).collect();
    let path: &[u8] = match information.name.is_null() {
        true => &[],
        // SAFETY: a string of the loader's that lives as long as the module.
        false => unsafe { CStr::from_ptr(information.name) }.to_bytes(),
    };
    let dynamic = segments.iter().find(|segment| segment.kind == symbols::PT_DYNAMIC);
    // In musl programs never call the kernel's own module, which has that name there.
    if let Some(dynamic) = dynamic.filter(|_| !path.starts_with(b"linux-gate")) {
        let at = information.base.wrapping_add(dynamic.address);
        // SAFETY: the loader shows modules that are mapped as their headers say.
        visit(unsafe { Module::new(information.base, path, at, dynamic.memory_bytes as usize, segments) });
    }
    0
}

impl Module {
    /// # Safety
    ///
    /// The module is mapped and stays so as long as the result is used.
    unsafe fn new(
        base: u64,
        path: &'static [u8],
        dynamic: u64,
        bytes: usize,
        segments: Vec<Segment>,
    ) -> Module {
        // SAFETY: promised by the caller.
        let (tables, soname) = unsafe { tables(base, dynamic, bytes) };
        Module { base, path, soname, tables, segments }
    }

    /// Where its segments lie, from the first byte to the last.
    pub(crate) fn range(&self) -> (u64, u64) {
        let loaded = || self.segments.iter().filter(|segment| segment.kind == symbols::PT_LOAD);
        let start = loaded().map(|segment| segment.address).min().unwrap_or(0);
        let end = loaded().map(|segment| segment.address + segment.memory_bytes).max().unwrap_or(0);
        (self.base.wrapping_add(start), self.base.wrapping_add(end))
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

/// What dlopen gave: in glibc and musl alike it begins with the base, the name and the dynamic section.
#[repr(C)]
struct Handle {
    base: u64,
    name: *const c_char,
    dynamic: u64,
}

/// The address of what a loaded library exports under this name.
///
/// # Safety
///
/// `handle` is what dlopen gave.
pub(crate) unsafe fn exported(handle: u64, name: &[u8]) -> Option<u64> {
    const DYNAMIC_BYTES_MAX: usize = 16 * 128;
    // SAFETY: promised by the caller.
    let handle = unsafe { &*(handle as *const Handle) };
    // SAFETY: a loaded library's dynamic section ends with an entry of zeros, long before that.
    let (tables, _) = unsafe { tables(handle.base, handle.dynamic, DYNAMIC_BYTES_MAX) };
    tables.value_of(name).map(|value| handle.base.wrapping_add(value))
}

/// # Safety
///
/// The module is mapped as its dynamic section says, which ends with an entry of zeros or after so many bytes.
unsafe fn tables(base: u64, dynamic: u64, bytes_max: usize) -> (Tables<'static>, Option<&'static [u8]>) {
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
        return (Tables::default(), None);
    }
    let tables = Tables {
        symbols: part(dynamic.symbols, count * SYMBOL_BYTES),
        strings: part(dynamic.strings, dynamic.string_bytes),
        versions: dynamic.versions.map_or(&[], |at| part(at, count * 2)),
        version_definitions: dynamic.version_definitions.map_or(&[], |(at, entries)| part(at, entries * 64)),
    };
    (tables, dynamic.soname.and_then(|at| tables.string(at)))
}
