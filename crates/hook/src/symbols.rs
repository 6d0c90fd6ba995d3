//! The dynamic symbols of a module that is in memory (elf(5), gABI chapter 5, and the GNU extensions for hashes and versions).
//!
//! The bytes come from the target, so every offset is checked.

use alloc::vec::Vec;

pub const PT_LOAD: u32 = 1;
pub const PT_DYNAMIC: u32 = 2;
pub const PT_INTERP: u32 = 3;
pub const PT_PHDR: u32 = 6;
pub const PT_GNU_RELRO: u32 = 0x6474_e552;
/// Bytes of a program header.
pub const PROGRAM_HEADER_BYTES: usize = 56;
/// Bytes of a symbol.
pub const SYMBOL_BYTES: u64 = 24;

const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_STRSZ: u64 = 10;
const DT_RELA: u64 = 7;
const DT_RELASZ: u64 = 8;
const DT_INIT: u64 = 12;
const DT_SONAME: u64 = 14;
const DT_DEBUG: u64 = 21;
const DT_TEXTREL: u64 = 22;
const DT_FLAGS: u64 = 30;
const DT_RELR: u64 = 36;
const DF_TEXTREL: u64 = 4;
const DT_GNU_HASH: u64 = 0x6fff_fef5;
const DT_VERSYM: u64 = 0x6fff_fff0;
const DT_VERDEF: u64 = 0x6fff_fffc;
const DT_VERDEFNUM: u64 = 0x6fff_fffd;

const STT_FUNC: u8 = 2;
const STT_NOTYPE: u8 = 0;
const STT_GNU_IFUNC: u8 = 10;
const VERSION_HIDDEN: u16 = 0x8000;
const VERSION_MASK: u16 = 0x7fff;
/// Bytes of a relocation, and the kind of one that adds the module's base.
pub const RELOCATION_BYTES: usize = 24;
pub const R_RELATIVE: u32 = 8;
/// Symbols that are looked at in one module at most.
pub const SYMBOLS_MAX: u64 = 1 << 20;

/// A program header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub kind: u32,
    pub is_executable: bool,
    pub is_readable: bool,
    pub is_writable: bool,
    pub offset: u64,
    pub address: u64,
    pub file_bytes: u64,
    pub memory_bytes: u64,
}

/// The program headers in `bytes`.
pub fn segments(bytes: &[u8]) -> impl Iterator<Item = Segment> + '_ {
    bytes.chunks_exact(PROGRAM_HEADER_BYTES).map(|header| Segment {
        kind: u32_at(header, 0).unwrap_or(0),
        is_executable: u32_at(header, 4).unwrap_or(0) & 1 != 0,
        is_readable: u32_at(header, 4).unwrap_or(0) & 4 != 0,
        is_writable: u32_at(header, 4).unwrap_or(0) & 2 != 0,
        offset: u64_at(header, 8).unwrap_or(0),
        address: u64_at(header, 16).unwrap_or(0),
        file_bytes: u64_at(header, 32).unwrap_or(0),
        memory_bytes: u64_at(header, 40).unwrap_or(0),
    })
}

/// What a dynamic section says. glibc adds the module's base to addresses in memory and musl does not; they are
/// given with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dynamic {
    pub symbols: u64,
    pub strings: u64,
    pub string_bytes: u64,
    /// Offset in the strings.
    pub soname: Option<u64>,
    pub gnu_hash: Option<u64>,
    pub hash: Option<u64>,
    pub versions: Option<u64>,
    pub version_definitions: Option<(u64, u64)>,
    /// `struct r_debug` of the dynamic linker.
    pub debug: Option<u64>,
    /// What is called first when the module is initialised.
    pub init: Option<u64>,
    /// Relocations of [`RELOCATION_BYTES`] each, and the bytes of all.
    pub relocations: Option<(u64, u64)>,
    /// Relative relocations in the short form.
    pub relative: Option<u64>,
    /// The loader changes code when it relocates the module.
    pub has_text_relocations: bool,
}

impl Dynamic {
    /// Reads the entries of a dynamic section of the module at `base`.
    pub fn parse(bytes: &[u8], base: u64) -> Dynamic {
        let mut found = Dynamic::default();
        let absolute = |value: u64| if value < base { base.wrapping_add(value) } else { value };
        let mut definitions = (None, 0);
        let mut relocations = (None, 0);
        for entry in bytes.chunks_exact(16) {
            let (tag, value) = (u64_at(entry, 0).unwrap_or(0), u64_at(entry, 8).unwrap_or(0));
            match tag {
                0 => break,
                DT_SYMTAB => found.symbols = absolute(value),
                DT_STRTAB => found.strings = absolute(value),
                DT_STRSZ => found.string_bytes = value,
                DT_SONAME => found.soname = Some(value),
                DT_GNU_HASH => found.gnu_hash = Some(absolute(value)),
                DT_HASH => found.hash = Some(absolute(value)),
                DT_VERSYM => found.versions = Some(absolute(value)),
                DT_VERDEF => definitions.0 = Some(absolute(value)),
                DT_VERDEFNUM => definitions.1 = value,
                DT_INIT => found.init = Some(base.wrapping_add(value)),
                DT_RELA => relocations.0 = Some(absolute(value)),
                DT_RELASZ => relocations.1 = value,
                DT_RELR => found.relative = Some(absolute(value)),
                DT_TEXTREL => found.has_text_relocations = true,
                DT_FLAGS => found.has_text_relocations |= value & DF_TEXTREL != 0,
                DT_DEBUG => found.debug = Some(value).filter(|value| *value != 0),
                _ => {}
            }
        }
        found.relocations = relocations.0.map(|address| (address, relocations.1));
        found.version_definitions = definitions.0.map(|address| (address, definitions.1));
        found
    }
}

/// The number of symbols, from the header and the rest of a GNU hash table: the header is 16 bytes; `read` gives 4 bytes
/// at an offset of the table.
pub fn count_by_gnu_hash(read: impl Fn(u64) -> Option<u32>) -> Option<u64> {
    let (buckets, first, bloom) = (u64::from(read(0)?), u64::from(read(4)?), u64::from(read(8)?));
    if buckets > SYMBOLS_MAX || bloom > SYMBOLS_MAX {
        return None;
    }
    let buckets_at = 16 + bloom * 8;
    let mut last = 0;
    for bucket in 0..buckets {
        last = last.max(u64::from(read(buckets_at + bucket * 4)?));
    }
    if last < first {
        return Some(first);
    }
    let chains_at = buckets_at + buckets * 4;
    while read(chains_at + (last - first) * 4)? & 1 == 0 {
        last += 1;
        if last > SYMBOLS_MAX {
            return None;
        }
    }
    Some(last + 1)
}

/// A module's tables, as bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tables<'a> {
    pub symbols: &'a [u8],
    pub strings: &'a [u8],
    /// Two bytes a symbol; empty where the module has no versions.
    pub versions: &'a [u8],
    pub version_definitions: &'a [u8],
}

/// A function that a module exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol<'a> {
    pub name: &'a [u8],
    /// Relative to the module's base.
    pub value: u64,
    pub bytes: u64,
    /// Its address is what the function at `value` returns.
    pub is_ifunc: bool,
    /// Index of its version, with the flag for one that is not the default.
    version: u16,
}

impl<'a> Tables<'a> {
    /// The exported functions.
    pub fn functions(self) -> impl Iterator<Item = Symbol<'a>> {
        self.defined()
            .filter(|(kind, _)| matches!(*kind, STT_FUNC | STT_GNU_IFUNC | STT_NOTYPE))
            .map(|(_, symbol)| symbol)
    }

    /// Everything that is exported, with its type.
    fn defined(self) -> impl Iterator<Item = (u8, Symbol<'a>)> {
        self.symbols.chunks_exact(SYMBOL_BYTES as usize).enumerate().filter_map(move |(index, entry)| {
            let (kind, binding) = (entry[4] & 0xf, entry[4] >> 4);
            let section = u16::from_le_bytes([entry[6], entry[7]]);
            // Local symbols and undefined ones.
            if binding == 0 || section == 0 {
                return None;
            }
            let version =
                self.versions.get(index * 2..index * 2 + 2).map_or(1, |v| u16::from_le_bytes([v[0], v[1]]));
            let symbol = Symbol {
                name: self.string(u64::from(u32_at(entry, 0)?))?,
                value: u64_at(entry, 8)?,
                bytes: u64_at(entry, 16)?,
                is_ifunc: kind == STT_GNU_IFUNC,
                version,
            };
            Some((kind, symbol))
        })
    }

    /// The value of the exported symbol `name`, whatever it names: the default version, else any.
    pub fn value_of(self, name: &[u8]) -> Option<u64> {
        let mut found = None;
        for (_, symbol) in self.defined().filter(|(_, symbol)| symbol.name == name) {
            if symbol.version & VERSION_HIDDEN == 0 {
                return Some(symbol.value);
            }
            found = Some(symbol.value);
        }
        found
    }

    /// The functions called `name`, of `version` or of every one.
    pub fn named(self, name: &'a [u8], version: Option<&'a [u8]>) -> Vec<Symbol<'a>> {
        let matches = |symbol: &Symbol<'a>| {
            symbol.name == name && version.is_none_or(|version| self.version_name(symbol) == Some(version))
        };
        self.functions().filter(matches).collect()
    }

    /// The name of a symbol's version.
    pub fn version_name(self, symbol: &Symbol<'_>) -> Option<&'a [u8]> {
        let wanted = symbol.version & VERSION_MASK;
        let mut at = 0usize;
        // The list cannot be longer than its bytes.
        for _ in 0..self.version_definitions.len() / 20 {
            let entry = self.version_definitions.get(at..at + 20)?;
            let index = u16::from_le_bytes([entry[4], entry[5]]) & VERSION_MASK;
            if index == wanted {
                let name_at = at.checked_add(u32_at(entry, 12)? as usize)?;
                return self.string(u64::from(u32_at(self.version_definitions.get(name_at..)?, 0)?));
            }
            match u32_at(entry, 16)? {
                0 => return None,
                next => at = at.checked_add(next as usize)?,
            }
        }
        None
    }

    /// The string at an offset.
    pub fn string(self, offset: u64) -> Option<&'a [u8]> {
        let rest = self.strings.get(usize::try_from(offset).ok()?..)?;
        rest.split(|byte| *byte == 0).next()
    }
}

/// Whether a module is the library that a definition names `wanted`: a path, a whole name such as "libc.so.6", or a
/// short one such as "libc", which is what stands before ".so" or a version and means musl's too.
pub fn is_library(wanted: &[u8], soname: Option<&[u8]>, path: &[u8]) -> bool {
    if wanted.contains(&b'/') {
        return wanted == path;
    }
    let file = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    soname.into_iter().chain([file]).any(|name| name == wanted || is_short_of(wanted, name))
}

fn is_short_of(short: &[u8], name: &[u8]) -> bool {
    if short == b"libc" && name.starts_with(b"ld-musl-") {
        return true;
    }
    let Some(rest) = name.strip_prefix(short) else { return false };
    let is_versioned = |rest: &[u8]| {
        let version = rest.strip_suffix(b".so").and_then(|rest| rest.strip_prefix(b"-"));
        version.and_then(|version| version.first()).is_some_and(u8::is_ascii_digit)
    };
    rest == b".so"
        || rest.starts_with(b".so.")
        || is_versioned(rest)
        || short == b"libc" && rest.starts_with(b".musl-")
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}
