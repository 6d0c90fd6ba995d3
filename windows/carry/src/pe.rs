//! A module in memory: its headers, imports, exports, TLS.

use std::ffi::CStr;

/// A module that is mapped as its headers say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Module {
    base: usize,
}

/// The TLS directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tls {
    pub(crate) index: usize,
    /// Of a block.
    pub(crate) bytes: usize,
}

/// One imported function.
#[derive(Debug)]
pub(crate) struct Import {
    pub(crate) dll: String,
    /// Or `#` and an ordinal.
    pub(crate) name: String,
    /// Where its address is kept.
    pub(crate) place: usize,
}

/// Where an export leads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Export {
    At(usize),
    /// `dll.name`.
    Forward(String),
}

/// A section, from the module's beginning.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Section {
    pub(crate) start: usize,
    pub(crate) bytes: usize,
    pub(crate) file_start: usize,
    pub(crate) file_bytes: usize,
    pub(crate) flags: u32,
}

const EXPORTS: usize = 0;
const IMPORTS: usize = 1;
const UNWIND: usize = 3;
const RELOCATIONS: usize = 5;
const TLS: usize = 9;

const SECTION_EXECUTE: u32 = 0x2000_0000;
const SECTION_WRITE: u32 = 0x8000_0000;

impl Section {
    /// One of the PAGE_ constants.
    pub(crate) fn protection(&self) -> u32 {
        match (self.flags & SECTION_EXECUTE != 0, self.flags & SECTION_WRITE != 0) {
            (true, true) => 0x40,
            (true, false) => 0x20,
            (false, true) => 0x04,
            (false, false) => 0x02,
        }
    }
}

impl Module {
    /// The module at an address. It must be mapped, with its headers.
    pub(crate) fn at(base: usize) -> Module {
        Module { base }
    }

    pub(crate) fn base(self) -> usize {
        self.base
    }

    fn read<T: Copy>(self, offset: usize) -> T {
        // SAFETY: offsets come from the headers of a module that the loader, or we, have mapped.
        unsafe { ((self.base + offset) as *const T).read_unaligned() }
    }

    fn text(self, offset: usize) -> String {
        // SAFETY: as above; names end with a zero.
        unsafe { CStr::from_ptr((self.base + offset) as *const _) }.to_string_lossy().into_owned()
    }

    fn header(self) -> usize {
        self.read::<u32>(0x3c) as usize
    }

    pub(crate) fn bytes(self) -> usize {
        self.read::<u32>(self.header() + 24 + 56) as usize
    }

    pub(crate) fn header_bytes(self) -> usize {
        self.read::<u32>(self.header() + 24 + 60) as usize
    }

    pub(crate) fn preferred_base(self) -> usize {
        self.read::<u64>(self.header() + 24 + 24) as usize
    }

    pub(crate) fn entry(self) -> usize {
        self.base + self.read::<u32>(self.header() + 24 + 16) as usize
    }

    pub(crate) fn stack_bytes(self) -> usize {
        self.read::<u64>(self.header() + 24 + 72) as usize
    }

    fn directory(self, which: usize) -> (usize, usize) {
        let at = self.header() + 24 + 112 + 8 * which;
        (self.read::<u32>(at) as usize, self.read::<u32>(at + 4) as usize)
    }

    pub(crate) fn sections(self) -> Vec<Section> {
        let header = self.header();
        let count = self.read::<u16>(header + 6) as usize;
        let first = header + 24 + self.read::<u16>(header + 20) as usize;
        let section = |index: usize| {
            let at = first + 40 * index;
            let word = |offset: usize| self.read::<u32>(at + offset);
            Section {
                start: word(12) as usize,
                bytes: (word(8).max(word(16)) as usize).next_multiple_of(4096),
                file_start: word(20) as usize,
                file_bytes: word(16) as usize,
                flags: word(36),
            }
        };
        (0..count).map(section).collect()
    }

    pub(crate) fn tls(self) -> Option<Tls> {
        let (at, bytes) = self.directory(TLS);
        if bytes == 0 {
            return None;
        }
        let start = self.read::<u64>(at);
        let end = self.read::<u64>(at + 8);
        // SAFETY: the loader has written the index where the directory says.
        let index = unsafe { (self.read::<u64>(at + 16) as *const u32).read() } as usize;
        let zeroes = self.read::<u32>(at + 32) as usize;
        Some(Tls { index, bytes: (end - start) as usize + zeroes })
    }

    /// The table of functions by which stacks are unwound, and how many entries it has.
    pub(crate) fn unwind_table(self) -> (usize, usize) {
        let (at, bytes) = self.directory(UNWIND);
        (self.base + at, bytes / 12)
    }

    pub(crate) fn imports(self) -> Vec<Import> {
        let (mut at, bytes) = self.directory(IMPORTS);
        let mut imports = Vec::new();
        if bytes == 0 {
            return imports;
        }
        loop {
            let [names, name, places] = [0, 12, 16].map(|offset| self.read::<u32>(at + offset) as usize);
            if name == 0 || places == 0 {
                return imports;
            }
            let dll = self.text(name);
            let names = if names == 0 { places } else { names };
            for index in 0.. {
                let entry = self.read::<u64>(names + 8 * index);
                if entry == 0 {
                    break;
                }
                let name = match entry >> 63 {
                    1 => format!("#{}", entry & 0xffff),
                    _ => self.text(entry as usize + 2),
                };
                imports.push(Import { dll: dll.clone(), name, place: self.base + places + 8 * index });
            }
            at += 20;
        }
    }

    /// An export by its name, or by `#` and its ordinal.
    pub(crate) fn export(self, name: &str) -> Option<Export> {
        let (at, bytes) = self.directory(EXPORTS);
        if bytes == 0 {
            return None;
        }
        let word = |offset: usize| self.read::<u32>(at + offset) as usize;
        let [first, functions, names, addresses, texts, ordinals] = [16, 20, 24, 28, 32, 36].map(word);
        let index = match name.strip_prefix('#') {
            Some(ordinal) => ordinal.parse::<usize>().ok()?.checked_sub(first)?,
            None => {
                let found = (0..names)
                    .find(|index| self.text(self.read::<u32>(texts + 4 * index) as usize) == name)?;
                self.read::<u16>(ordinals + 2 * found) as usize
            }
        };
        if index >= functions {
            return None;
        }
        let leads = self.read::<u32>(addresses + 4 * index) as usize;
        if leads == 0 {
            return None;
        }
        if (at..at + bytes).contains(&leads) {
            return Some(Export::Forward(self.text(leads)));
        }
        Some(Export::At(self.base + leads))
    }

    /// Where functions of this module begin, from its exports.
    pub(crate) fn export_addresses(self) -> Vec<usize> {
        let (at, bytes) = self.directory(EXPORTS);
        if bytes == 0 {
            return Vec::new();
        }
        let functions = self.read::<u32>(at + 20) as usize;
        let addresses = self.read::<u32>(at + 28) as usize;
        let all = (0..functions).map(|index| self.read::<u32>(addresses + 4 * index) as usize);
        all.filter(|&leads| leads != 0 && !(at..at + bytes).contains(&leads))
            .map(|leads| self.base + leads)
            .collect()
    }

    /// Places with addresses in them, from the module's beginning. Nothing where it cannot be moved.
    pub(crate) fn relocations(self) -> Option<Vec<usize>> {
        let (start, bytes) = self.directory(RELOCATIONS);
        if bytes == 0 {
            return None;
        }
        let mut places = Vec::new();
        let mut at = start;
        while at < start + bytes {
            let (page, length) = (self.read::<u32>(at) as usize, self.read::<u32>(at + 4) as usize);
            if length < 8 {
                break;
            }
            for index in 0..(length - 8) / 2 {
                let entry = self.read::<u16>(at + 8 + 2 * index);
                match entry >> 12 {
                    0 => {}
                    10 => places.push(page + (entry & 0xfff) as usize),
                    _ => return None,
                }
            }
            at += length;
        }
        Some(places)
    }
}
