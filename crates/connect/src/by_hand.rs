//! Libraries that brant carries, mapped by brant itself: where nothing of the program may run that its own loader would need.
//!
//! They need little: their segments, relocations to their own base, and a few functions of the C library. The program's loader
//! does not know them: it neither lists nor unloads them, and runs nothing of theirs at the program's end. A library is
//! known by what dlopen would give: a `struct link_map` in front of it.
//!
//! State of the target: a process that is being built; after an error it is of no use any more.

use brant_base::{Addr, PAGE_SIZE, Tid};
use brant_hook::symbols::{self, PROGRAM_HEADER_BYTES, SYMBOL_BYTES};
use brant_kernel::remote::{Hand, Memory, RemoteError};

const PT_GNU_RELRO: u32 = 0x6474_e552;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_RELA: u64 = 7;
const DT_RELASZ: u64 = 8;
const DT_PLTRELSZ: u64 = 2;
const DT_JMPREL: u64 = 23;
const DT_RELR: u64 = 36;
const RELA_BYTES: usize = 24;
const R_64: u32 = 1;
const R_GLOB_DAT: u32 = 6;
const R_JUMP_SLOT: u32 = 7;
const R_RELATIVE: u32 = 8;
/// In front of a library's first segment: its link_map, and its name.
const HEAD_BYTES: u64 = PAGE_SIZE;
const NAME_AT: u64 = 64;

/// Functions of the program's C library by their names.
pub(crate) type Resolve<'a> = dyn Fn(&[u8]) -> Option<u64> + 'a;

/// A library that was read.
pub(crate) struct Library<'a> {
    bytes: &'a [u8],
    segments: Vec<Loaded>,
    relro: Option<(u64, u64)>,
    dynamic: u64,
    span: u64,
}

struct Loaded {
    address: u64,
    offset: u64,
    file_bytes: u64,
    memory_bytes: u64,
    protection: u64,
}

fn word(bytes: &[u8], at: u64) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: u64) -> Option<u32> {
    let at = usize::try_from(at).ok()?;
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

impl<'a> Library<'a> {
    /// `None`: it is no library that can be mapped so.
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Library<'a>> {
        let from = usize::try_from(word(bytes, 32)?).ok()?;
        let count = usize::from(u16::from_le_bytes([*bytes.get(56)?, *bytes.get(57)?]));
        let headers = bytes.get(from..from + count * PROGRAM_HEADER_BYTES)?;
        let mut library = Library { bytes, segments: Vec::new(), relro: None, dynamic: 0, span: 0 };
        for (index, segment) in symbols::segments(headers).enumerate() {
            match segment.kind {
                symbols::PT_LOAD => {
                    let flags = half(headers, (index * PROGRAM_HEADER_BYTES) as u64 + 4)?;
                    let bit = |flag: u32, value: i32| if flags & flag != 0 { value as u64 } else { 0 };
                    let protection =
                        bit(4, libc::PROT_READ) | bit(2, libc::PROT_WRITE) | bit(1, libc::PROT_EXEC);
                    library.span = library.span.max(segment.address + segment.memory_bytes);
                    library.segments.push(Loaded {
                        address: segment.address,
                        offset: segment.offset,
                        file_bytes: segment.file_bytes,
                        memory_bytes: segment.memory_bytes,
                        protection,
                    });
                }
                symbols::PT_DYNAMIC => library.dynamic = segment.address,
                PT_GNU_RELRO => library.relro = Some((segment.address, segment.memory_bytes)),
                _ => {}
            }
        }
        library.span = library.span.next_multiple_of(PAGE_SIZE);
        (library.dynamic != 0).then_some(library)
    }

    /// Where in the file an address lies.
    fn offset(&self, address: u64) -> Option<u64> {
        let holds = |part: &&Loaded| (part.address..part.address + part.file_bytes).contains(&address);
        self.segments.iter().find(holds).map(|part| address - part.address + part.offset)
    }

    fn entry(&self, tag: u64) -> Option<u64> {
        let from = self.offset(self.dynamic)?;
        let entries = (0..256).map(|index| from + index * 16);
        let mut known = entries.map_while(|at| Some((word(self.bytes, at)?, word(self.bytes, at + 8)?)));
        known.find(|(found, _)| *found == tag).map(|(_, value)| value)
    }

    /// Every relocation: where, and what is written there.
    fn relocations(&self, base: u64, resolve: &Resolve<'_>) -> Option<Vec<(u64, u64)>> {
        let mut all = Vec::new();
        if self.entry(DT_RELR).is_some() {
            return None;
        }
        for (table, bytes) in [(DT_RELA, DT_RELASZ), (DT_JMPREL, DT_PLTRELSZ)] {
            let Some(table) = self.entry(table) else { continue };
            let from = self.offset(table)?;
            for index in 0..self.entry(bytes)? / RELA_BYTES as u64 {
                let at = from + index * RELA_BYTES as u64;
                let (place, info, addend) =
                    (word(self.bytes, at)?, word(self.bytes, at + 8)?, word(self.bytes, at + 16)?);
                let value = match info as u32 {
                    R_RELATIVE => base.wrapping_add(addend),
                    R_64 | R_GLOB_DAT | R_JUMP_SLOT => {
                        self.symbol(info >> 32, base, resolve)?.wrapping_add(addend)
                    }
                    _ => return None,
                };
                all.push((base.wrapping_add(place), value));
            }
        }
        Some(all)
    }

    fn symbol(&self, index: u64, base: u64, resolve: &Resolve<'_>) -> Option<u64> {
        const STRONG: u8 = 1;
        let at = self.offset(self.entry(DT_SYMTAB)?)? + index * SYMBOL_BYTES;
        let (value, section) = (word(self.bytes, at + 8)?, half(self.bytes, at + 4)? >> 16);
        if section != 0 {
            return Some(base.wrapping_add(value));
        }
        let name = self.offset(self.entry(DT_STRTAB)? + u64::from(half(self.bytes, at)?))? as usize;
        let name = self.bytes.get(name..)?.split(|byte| *byte == 0).next()?;
        let is_strong = *self.bytes.get(at as usize + 4)? >> 4 == STRONG;
        resolve(name).or((!is_strong).then_some(0))
    }

    /// Maps the library from its file `descriptor` in the target, relocates it, and gives what dlopen would give.
    pub(crate) fn map(
        &self,
        hand: &mut Hand<'_>,
        (tid, descriptor): (Tid, u64),
        name: &[u8],
        resolve: &Resolve<'_>,
    ) -> Result<u64, RemoteError> {
        let failed = |operation| move |error| RemoteError::Ptrace { tid, operation, error };
        let none = || failed("reading a library that brant carries")(std::io::ErrorKind::InvalidData.into());
        let anonymous = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
        let fixed = libc::MAP_FIXED as u64;
        let data = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let head = hand.call(0, libc::SYS_mmap, [0, HEAD_BYTES + self.span, data, anonymous, u64::MAX, 0])?;
        let base = head + HEAD_BYTES;
        for part in &self.segments {
            let skip = part.address % PAGE_SIZE;
            let (at, bytes) =
                (base + part.address - skip, (part.file_bytes + skip).next_multiple_of(PAGE_SIZE));
            let file = libc::MAP_PRIVATE as u64 | fixed;
            let offset = part.offset - skip;
            hand.call(0, libc::SYS_mmap, [at, bytes, part.protection, file, descriptor, offset])?;
            let (end, whole) = (base + part.address + part.file_bytes, at + bytes);
            if part.memory_bytes > part.file_bytes {
                let rest = vec![0; (whole - end) as usize];
                hand.memory().write_by_force(Addr(end), &rest).map_err(failed("writing a library"))?;
            }
        }
        for (at, value) in self.relocations(base, resolve).ok_or_else(none)? {
            hand.memory()
                .write_by_force(Addr(at), &value.to_le_bytes())
                .map_err(failed("relocating a library"))?;
        }
        if let Some((address, bytes)) = self.relro {
            let start = (base + address) & !(PAGE_SIZE - 1);
            let end = (base + address + bytes) & !(PAGE_SIZE - 1);
            if end > start {
                hand.call(0, libc::SYS_mprotect, [start, end - start, libc::PROT_READ as u64, 0, 0, 0])?;
            }
        }
        self.write_head(hand.memory(), head, name).map_err(failed("writing a library"))?;
        Ok(head)
    }

    fn write_head(&self, memory: &Memory, head: u64, name: &[u8]) -> std::io::Result<()> {
        let base = head + HEAD_BYTES;
        let words = [base, head + NAME_AT, base + self.dynamic, 0, 0];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.resize(NAME_AT as usize, 0);
        bytes.extend(&name[..name.len().min((HEAD_BYTES - NAME_AT) as usize - 1)]);
        bytes.push(0);
        memory.write_by_force(Addr(head), &bytes)
    }
}

/// Code that does for the modules in `list` what dl_iterate_phdr(3) does for those of the loader, followed by them: each is a
/// `struct dl_phdr_info`, the last one has no headers.
pub(crate) fn iteration(modules: &[[u64; 8]]) -> Vec<u8> {
    let mut code = Vec::with_capacity(LIST_AT * (modules.len() + 2));
    for instruction in [
        &[0x53, 0x41, 0x54, 0x41, 0x55][..],   // push rbx; push r12; push r13
        &[0x48, 0x89, 0xfb],                   // mov rbx, rdi
        &[0x49, 0x89, 0xf4],                   // mov r12, rsi
        &[0x4c, 0x8d, 0x2d, 46, 0, 0, 0],      // lea r13, [rip + to the list]
        &[0x31, 0xc0],                         // 18: xor eax, eax
        &[0x49, 0x83, 0x7d, 16, 0],            // cmp qword ptr [r13 + 16], 0
        &[0x74, 21],                           // je 48
        &[0x4c, 0x89, 0xef],                   // mov rdi, r13
        &[0xbe, 64, 0, 0, 0],                  // mov esi, 64
        &[0x4c, 0x89, 0xe2],                   // mov rdx, r12
        &[0xff, 0xd3],                         // call rbx
        &[0x49, 0x83, 0xc5, 64],               // add r13, 64
        &[0x85, 0xc0],                         // test eax, eax
        &[0x74, 0xe2],                         // je 18
        &[0x41, 0x5d, 0x41, 0x5c, 0x5b, 0xc3], // 48: pop r13; pop r12; pop rbx; ret
    ] {
        code.extend_from_slice(instruction);
    }
    code.resize(LIST_AT, 0xcc);
    for module in modules.iter().chain([&[0; 8]]) {
        module.iter().for_each(|word| code.extend(word.to_le_bytes()));
    }
    code
}

const LIST_AT: usize = 64;

/// Whether what is known of a library came from here.
pub(crate) fn is_by_hand(memory: &Memory, handle: u64) -> bool {
    memory.read_value::<u64>(Addr(handle + 8)).is_ok_and(|name| name == handle + NAME_AT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_brant_carries_can_be_mapped() {
        for bytes in [crate::runtime::LIBRARY, brant_wrappers::LIBRARY] {
            let library = Library::read(bytes).unwrap();
            let resolve = |_: &[u8]| Some(0x1000);
            let relocations = library.relocations(0x7000_0000, &resolve).unwrap();
            assert!(!relocations.is_empty());
            assert!(relocations.iter().all(|(at, _)| (0x7000_0000..0x7000_0000 + library.span).contains(at)));
            assert!(library.relocations(0, &|_| None).is_none() || bytes == crate::runtime::LIBRARY);
        }
    }

    #[test]
    fn the_code_is_as_long_as_its_branches_say() {
        let code = iteration(&[[7; 8]]);
        assert_eq!(code.len(), LIST_AT + 2 * 64);
        assert_eq!(code[48..54], [0x41, 0x5d, 0x41, 0x5c, 0x5b, 0xc3]);
        assert_eq!(&code[LIST_AT..LIST_AT + 8], &7u64.to_le_bytes());
    }
}
