//! The vdso: the kernel's code and data in every address space, and the gap in which brant builds.
//!
//! On the kernel that the image comes from, the fresh vdso is moved to where the old one was. On another one the
//! old code comes back as plain memory with every entry point made a jump to the new vdso, which stays in
//! the gap. Its data pages come back as zeros, which old code takes as "ask the kernel" (`VDSO_CLOCKMODE_NONE`).

use std::fs::File;
use std::os::unix::fs::FileExt;

use brant_base::{Addr, PAGE_SIZE, PageRange, Pid};
use brant_image::model::{AddressSpace, Backing, Checkpoint, Thread};
use brant_kernel::proc::{self, MapEntry, MapKind};
use brant_kernel::remote::{Call, Puppet, StubPlace};

use super::trampolines;
use crate::Error;

/// The kernel's own mappings of this process, data before code, and the code's bytes.
#[derive(Debug, Clone)]
pub(crate) struct OwnVdso {
    parts: Vec<(PageRange, bool)>,
    code: Vec<u8>,
}

/// The addresses in which the tree is built: free in every address space of the image and in ours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gap {
    pub(crate) stub: StubPlace,
    /// Where the fresh vdso waits, data before code, and stays if it is not the old one.
    vdso: PageRange,
    /// Room for trampolines, which stay.
    pub(crate) trampolines: PageRange,
}

impl OwnVdso {
    /// Finds it in our own address space, which the first task inherits.
    pub(crate) fn find() -> Result<OwnVdso, Error> {
        let own = Pid(std::process::id() as i32);
        let mut parts = Vec::new();
        let mut code = Vec::new();
        for entry in proc::maps(own)? {
            match entry.kind {
                MapKind::Vvar => parts.push((entry.range, false)),
                MapKind::Vdso => {
                    code = vec![0; entry.range.bytes() as usize];
                    File::open("/proc/self/mem")
                        .and_then(|memory| memory.read_exact_at(&mut code, entry.range.start().0))
                        .map_err(Error::builder("reading our vdso"))?;
                    parts.push((entry.range, true));
                }
                _ => {}
            }
        }
        Ok(OwnVdso { parts, code })
    }

    /// The same in another place, as a task that has executed a program has it.
    pub(crate) fn moved_to(&self, kernels: &[MapEntry]) -> OwnVdso {
        let part = |entry: &MapEntry| (entry.range, entry.kind == MapKind::Vdso);
        OwnVdso { parts: kernels.iter().map(part).collect(), code: self.code.clone() }
    }

    /// The ranges that the first task keeps from us.
    pub(crate) fn ranges(&self) -> Vec<PageRange> {
        self.parts.iter().map(|(range, _)| *range).collect()
    }

    fn span(&self) -> Option<PageRange> {
        let (first, last) = (self.parts.first()?, self.parts.last()?);
        PageRange::new(first.0.start().0, last.0.end().0).ok()
    }

    /// Whether the image's vdso is this one, in the same shape, for this address space.
    fn is_same(&self, checkpoint: &Checkpoint, old: &[(PageRange, bool)]) -> bool {
        let shape = |parts: &[(PageRange, bool)]| -> Vec<(u64, u64, bool)> {
            let start = parts.first().map_or(0, |(range, _)| range.start().0);
            parts.iter().map(|(range, code)| (range.start().0 - start, range.bytes(), *code)).collect()
        };
        self.code == checkpoint.host.vdso && shape(&self.parts) == shape(old)
    }
}

/// The kernel's own mappings of an address space of the image.
fn old_parts(space: &AddressSpace) -> Vec<(PageRange, bool)> {
    let kernels = space.mappings.iter().filter_map(|mapping| match mapping.backing {
        Backing::Vdso => Some((mapping.range, true)),
        Backing::Vvar => Some((mapping.range, false)),
        _ => None,
    });
    kernels.collect()
}

impl Gap {
    /// Looks for room that is free everywhere, with a margin to whatever grows.
    pub(crate) fn find(checkpoint: &Checkpoint, own: &OwnVdso) -> Result<Gap, Error> {
        const MARGIN: u64 = 16 << 20;
        const HIGHEST: u64 = 0x7000_0000_0000;
        const LOWEST: u64 = 0x1000_0000;
        const STEP: u64 = 1 << 30;
        let bodies = checkpoint.processes.iter().filter_map(|process| process.body.as_ref());
        let threads = bodies.clone().map(|body| body.threads.len()).max().unwrap_or(0);
        let vdso_bytes = own.span().map_or(0, PageRange::bytes);
        let sizes =
            [StubPlace::PAGES * PAGE_SIZE, vdso_bytes.max(PAGE_SIZE), trampolines::area_bytes(threads)];
        let bytes: u64 = sizes.iter().sum();
        let mut taken: Vec<PageRange> =
            bodies.flat_map(|body| body.memory.mappings.iter().map(|mapping| mapping.range)).collect();
        let own_maps = proc::maps(Pid(std::process::id() as i32))?;
        taken.extend(own_maps.iter().map(|entry| entry.range));
        let is_free = |start: u64| {
            let wanted = PageRange::new(start - MARGIN, start + bytes + MARGIN).expect("whole pages");
            !taken.iter().any(|range| range.overlaps(wanted))
        };
        let coarse = (LOWEST / STEP + 1..=HIGHEST / STEP).rev().map(|step| step * STEP);
        let fine = (1..=4096).map(|step| LOWEST + step * 2 * MARGIN);
        let mut candidates = coarse.take(4096).chain(fine);
        let start =
            candidates.find(|start| is_free(*start)).ok_or(Error::NoGap { pages: bytes / PAGE_SIZE })?;
        let mut at = start;
        let [stub, vdso, trampolines] = sizes.map(|size| {
            at += size;
            PageRange::new(at - size, at).expect("whole pages")
        });
        Ok(Gap { stub: StubPlace { range: stub }, vdso, trampolines })
    }

    /// All of it.
    pub(crate) fn range(&self) -> PageRange {
        PageRange::new(self.stub.range.start().0, self.trampolines.end().0).expect("in order")
    }

    fn moved(&self, own: &OwnVdso, range: PageRange) -> PageRange {
        let base = own.span().expect("it has this range").start().0;
        let start = self.vdso.start().0 + (range.start().0 - base);
        PageRange::new(start, start + range.bytes()).expect("whole pages")
    }

    /// Moves the first task's vdso into the gap.
    pub(crate) fn take_vdso(&self, puppet: &mut Puppet, pid: Pid, own: &OwnVdso) -> Result<(), Error> {
        let calls: Vec<Call> =
            own.ranges().into_iter().map(|range| move_call(range, self.moved(own, range))).collect();
        puppet.batch_all(&calls).map(drop).map_err(Error::remote(pid, "moving the vdso into the gap"))
    }
}

fn move_call(from: PageRange, to: PageRange) -> Call {
    let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
    Call::new(libc::SYS_mremap, &[from.start().0, from.bytes(), to.bytes(), flags, to.start().0])
}

/// Gives an address space its vdso, and says where a `syscall` instruction lies that will not go away.
pub(crate) fn restore(
    puppet: &mut Puppet,
    pid: Pid,
    (checkpoint, space, threads): (&Checkpoint, &AddressSpace, &[Thread]),
    (own, gap): (&OwnVdso, &Gap),
    always_redirect: bool,
) -> Result<Option<Addr>, Error> {
    let old = old_parts(space);
    let failed = || Error::remote(pid, "putting the vdso in its place");
    let waiting: Vec<PageRange> = own.ranges().into_iter().map(|range| gap.moved(own, range)).collect();
    if old.is_empty() {
        // The program has unmapped it.
        let calls: Vec<Call> = waiting
            .iter()
            .map(|range| Call::new(libc::SYS_munmap, &[range.start().0, range.bytes()]))
            .collect();
        puppet.batch_all(&calls).map_err(failed())?;
        return Ok(None);
    }
    if !always_redirect && own.is_same(checkpoint, &old) {
        let calls: Vec<Call> =
            waiting.iter().zip(&old).map(|(from, (to, _))| move_call(*from, *to)).collect();
        puppet.batch_all(&calls).map_err(failed())?;
        let code = old.iter().find(|(_, code)| *code).map(|(range, _)| range.start());
        return Ok(code.and_then(|code| find_call(&own.code, code)));
    }
    let Some(new_code) = own.parts.iter().find(|(_, code)| *code).map(|(range, _)| gap.moved(own, *range))
    else {
        return Ok(None);
    };
    redirect(puppet, &old, checkpoint, threads, (own, new_code.start())).map_err(failed())?;
    Ok(find_call(&own.code, new_code.start()))
}

/// The address of a `syscall` instruction in `code`, which is mapped at `at`.
fn find_call(code: &[u8], at: Addr) -> Option<Addr> {
    const SYSCALL: [u8; 2] = [0x0f, 0x05];
    let offset = code.windows(SYSCALL.len()).position(|bytes| bytes == SYSCALL)?;
    at.checked_add(offset as u64)
}

fn redirect(
    puppet: &mut Puppet,
    old: &[(PageRange, bool)],
    checkpoint: &Checkpoint,
    threads: &[Thread],
    (own, new_code): (&OwnVdso, Addr),
) -> Result<(), brant_kernel::remote::RemoteError> {
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
    let calls: Vec<Call> = old
        .iter()
        .map(|(range, code)| {
            let protection = if *code { libc::PROT_READ | libc::PROT_EXEC } else { libc::PROT_READ };
            let arguments = [range.start().0, range.bytes(), protection as u64, flags, u64::MAX, 0];
            Call::new(libc::SYS_mmap, &arguments)
        })
        .collect();
    puppet.batch_all(&calls)?;
    let Some((range, _)) = old.iter().find(|(_, code)| *code) else { return Ok(()) };
    let mut code = checkpoint.host.vdso.clone();
    code.truncate(range.bytes() as usize);
    let inside: Vec<u64> =
        threads.iter().filter_map(|thread| thread.registers.rip.checked_sub(range.start().0)).collect();
    patch(&mut code, &own.code, new_code, &inside);
    puppet.memory().write_by_force(range.start(), &code).map_err(|error| {
        brant_kernel::remote::RemoteError::Ptrace {
            tid: puppet.tid(),
            operation: "writing the old vdso",
            error,
        }
    })
}

/// Makes every function of `old` that `new` has too a jump into `new`, which lies at `new_at`. A function whose
/// first bytes a thread is just executing (offsets in `inside`) stays as it is.
fn patch(old: &mut [u8], new: &[u8], new_at: Addr, inside: &[u64]) {
    const JUMP_BYTES: usize = 14;
    let targets = functions(new);
    for function in functions(old) {
        let Some(target) = targets.iter().find(|target| target.name == function.name) else { continue };
        let range = function.offset..function.offset.saturating_add(JUMP_BYTES as u64);
        let is_busy = inside.iter().any(|at| range.contains(at));
        let Some(room) = old.get_mut(range.start as usize..range.end as usize) else { continue };
        if is_busy || (function.bytes as usize) < JUMP_BYTES {
            continue;
        }
        room[..6].copy_from_slice(&[0xff, 0x25, 0, 0, 0, 0]); // jmp [rip + 0]
        room[6..].copy_from_slice(&new_at.0.wrapping_add(target.offset).to_le_bytes());
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Function {
    name: Vec<u8>,
    offset: u64,
    bytes: u64,
}

/// The dynamic symbols of a vdso that are functions; none where it is no ELF file that we can read.
fn functions(elf: &[u8]) -> Vec<Function> {
    parse_functions(elf).unwrap_or_default()
}

fn parse_functions(elf: &[u8]) -> Option<Vec<Function>> {
    const SECTION_DYNSYM: u32 = 11;
    const SYMBOL_BYTES: usize = 24;
    const TYPE_FUNCTION: u8 = 2;
    let word = |at: usize| Some(u64::from_le_bytes(elf.get(at..at.checked_add(8)?)?.try_into().ok()?));
    let half = |at: usize| Some(u32::from_le_bytes(elf.get(at..at.checked_add(4)?)?.try_into().ok()?));
    let quarter = |at: usize| Some(u16::from_le_bytes(elf.get(at..at.checked_add(2)?)?.try_into().ok()?));
    let (sections, size, count) =
        (word(0x28)? as usize, usize::from(quarter(0x3a)?), usize::from(quarter(0x3c)?));
    let header = |index: usize| sections.checked_add(index.checked_mul(size)?);
    let symbols =
        (0..count).filter_map(header).find(|at| at.checked_add(4).and_then(half) == Some(SECTION_DYNSYM))?;
    if symbols >= elf.len() {
        return None;
    }
    let strings = header(half(symbols + 0x28)? as usize).filter(|at| *at < elf.len())?;
    let (strings_at, symbols_at) = (word(strings + 0x18)? as usize, word(symbols + 0x18)? as usize);
    let symbols_bytes = word(symbols + 0x20)? as usize;
    let table = elf.get(symbols_at..symbols_at.checked_add(symbols_bytes)?)?;
    let mut all = Vec::new();
    for (index, symbol) in table.chunks_exact(SYMBOL_BYTES).enumerate() {
        let at = symbols_at + index * SYMBOL_BYTES;
        let offset = word(at + 8)?;
        if symbol[4] & 0xf != TYPE_FUNCTION || offset == 0 {
            continue;
        }
        let name = elf.get(strings_at.checked_add(half(at)? as usize)?..)?;
        let end = name.iter().position(|byte| *byte == 0)?;
        all.push(Function { name: name[..end].to_vec(), offset, bytes: word(at + 16)? });
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_vdso_has_the_clock_and_a_call() {
        let own = OwnVdso::find().unwrap();
        let names: Vec<_> = functions(&own.code).into_iter().map(|function| function.name).collect();
        assert!(names.iter().any(|name| name == b"__vdso_clock_gettime"), "{names:?}");
        assert!(find_call(&own.code, Addr(0x1000)).is_some());
        let mut old = own.code.clone();
        patch(&mut old, &own.code, Addr(0x10000), &[]);
        assert_ne!(old, own.code);
    }

    #[test]
    fn broken_files_have_no_functions() {
        let own = OwnVdso::find().unwrap();
        for length in (0..own.code.len()).step_by(97) {
            functions(&own.code[..length]);
        }
        assert!(functions(&[]).is_empty());
    }
}
