//! Address spaces: the kernel's marks, the mappings, their contents.
//!
//! Anonymous memory comes back anonymous, file-private mappings are mapped from their file, shared memory is one
//! memfd that all its mappings share. Afterwards the kernel's list is compared with the image's.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use brant_base::{Addr, PAGE_SIZE, PageRange, Pid};
use brant_image::model::{
    AddressSpace, Backing, Checkpoint, Mapping, PageOwner, ProcessBody, SharedMemoryId, SharedMemoryKind,
    Sharing,
};
use brant_image::{Image, PageContent};
use brant_kernel::proc::{self, MapKind};
use brant_kernel::remote::{Call, Puppet, RemoteError};

use super::files::FdStore;
use crate::Error;

/// Sets the marks of the address space: code, data, heap, stack, arguments, auxiliary vector; the executable too, unless
/// the task has executed it.
pub(crate) fn set_marks(
    puppet: &mut Puppet,
    pid: Pid,
    body: &ProcessBody,
    store: &FdStore,
    has_executed: bool,
) -> Result<(), Error> {
    let layout = &body.memory.layout;
    let auxv = through_null(&body.memory.auxv);
    let room = puppet.arguments().start();
    let auxv_at = Addr(room.0 + PAGE_SIZE);
    let mut map = Vec::with_capacity(112);
    let fields = [
        layout.code.0,
        layout.code.1,
        layout.data.0,
        layout.data.1,
        layout.brk.0,
        layout.brk.1,
        layout.stack_start,
        layout.arguments.0,
        layout.arguments.1,
        layout.environment.0,
        layout.environment.1,
        auxv_at,
    ];
    fields.iter().for_each(|field| map.extend(field.0.to_le_bytes()));
    map.extend((auxv.len() as u32).to_le_bytes());
    let executable = store.disk_file(body.executable, false).filter(|_| !has_executed).unwrap_or(-1);
    map.extend((executable as u32).to_le_bytes());
    let arguments = [libc::PR_SET_MM as u64, libc::PR_SET_MM_MAP as u64, room.0, map.len() as u64, 0];
    puppet
        .write_memory(room, &map)
        .and_then(|()| puppet.write_memory(auxv_at, auxv))
        .and_then(|()| puppet.call(libc::SYS_prctl, &arguments))
        .map(drop)
        .map_err(Error::remote(pid, "setting the marks of its address space"))
}

/// The auxiliary vector up to and including its end mark: the kernel's array may be longer or shorter here.
fn through_null(auxv: &[u8]) -> &[u8] {
    const ENTRY_BYTES: usize = 16;
    let end = auxv.chunks_exact(ENTRY_BYTES).position(|entry| entry[..8] == [0; 8]);
    end.map_or(auxv, |index| &auxv[..(index + 1) * ENTRY_BYTES])
}

/// Makes every mapping but the kernel's own, with its final protection and flags, still without contents.
pub(crate) fn map(
    puppet: &mut Puppet,
    pid: Pid,
    space: &AddressSpace,
    store: &FdStore,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    let mappings: Vec<&Mapping> = space
        .mappings
        .iter()
        .filter(|mapping| !matches!(mapping.backing, Backing::Vdso | Backing::Vvar))
        .collect();
    let calls: Vec<Call> = mappings.iter().map(|mapping| map_call(mapping, store)).collect();
    let results = puppet.batch(&calls).map_err(Error::remote(pid, "mapping its memory"))?;
    for (mapping, result) in mappings.iter().zip(results) {
        if result != mapping.range.start().0 {
            return Err(Error::Mapping {
                pid,
                range: mapping.range,
                error: std::io::Error::from_raw_os_error(-(result as i64) as i32),
            });
        }
    }
    advise(puppet, pid, &mappings, warnings)?;
    name(puppet, &mappings).map_err(Error::remote(pid, "naming its memory"))
}

fn protection_bits(mapping: &Mapping) -> u64 {
    let mut bits = 0;
    for (is_set, bit) in [
        (mapping.protection.read, libc::PROT_READ),
        (mapping.protection.write, libc::PROT_WRITE),
        (mapping.protection.execute, libc::PROT_EXEC),
    ] {
        if is_set {
            bits |= bit as u64;
        }
    }
    bits
}

/// A third type of mapping beside shared and private (Linux 6.11).
const MAP_DROPPABLE: i32 = 0x08;

/// The mmap call that makes a mapping as it was.
fn map_call(mapping: &Mapping, store: &FdStore) -> Call {
    let mut flags = libc::MAP_FIXED_NOREPLACE;
    flags |= match mapping.sharing {
        Sharing::Private if mapping.flags.droppable => MAP_DROPPABLE,
        Sharing::Private => libc::MAP_PRIVATE,
        Sharing::Shared => libc::MAP_SHARED,
    };
    if mapping.flags.grows_down {
        flags |= libc::MAP_GROWSDOWN;
    }
    if mapping.flags.no_reserve {
        flags |= libc::MAP_NORESERVE;
    }
    let shared = mapping.sharing == Sharing::Shared;
    let (fd, offset) = match mapping.backing {
        Backing::File { file, offset, writable } => (store.disk_file(file, shared && writable), offset),
        Backing::Shared { memory, offset, writable } => {
            (store.shared_memory(memory, !shared || writable), offset)
        }
        Backing::Anonymous | Backing::Vdso | Backing::Vvar => {
            flags |= libc::MAP_ANONYMOUS;
            (None, 0)
        }
    };
    let (start, bytes) = (mapping.range.start().0, mapping.range.bytes());
    let fd = fd.map_or(u64::MAX, |fd| fd as u64);
    Call::new(libc::SYS_mmap, &[start, bytes, protection_bits(mapping), flags as u64, fd, offset])
}

/// The advice that a mapping's flags came from.
fn advice(mapping: &Mapping) -> impl Iterator<Item = i32> {
    let flags = mapping.flags;
    [
        (flags.dont_fork, libc::MADV_DONTFORK),
        (flags.wipe_on_fork, libc::MADV_WIPEONFORK),
        (flags.dont_dump, libc::MADV_DONTDUMP),
        (flags.mergeable, libc::MADV_MERGEABLE),
        (flags.huge_page, libc::MADV_HUGEPAGE),
        (flags.no_huge_page, libc::MADV_NOHUGEPAGE),
        (flags.sequential, libc::MADV_SEQUENTIAL),
        (flags.random, libc::MADV_RANDOM),
    ]
    .into_iter()
    .filter_map(|(is_set, advice)| is_set.then_some(advice))
}

/// What madvise and mlock had set. What the host does not grant is a warning where the program cannot tell.
fn advise(
    puppet: &mut Puppet,
    pid: Pid,
    mappings: &[&Mapping],
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    let mut calls = Vec::new();
    for mapping in mappings {
        let (start, bytes) = (mapping.range.start().0, mapping.range.bytes());
        calls.extend(
            advice(mapping).map(|advice| Call::new(libc::SYS_madvise, &[start, bytes, advice as u64])),
        );
        if mapping.flags.locked {
            calls.push(Call::new(libc::SYS_mlock, &[start, bytes]));
        }
    }
    let results = puppet.batch(&calls).map_err(Error::remote(pid, "advising on its memory"))?;
    let failed = calls.iter().zip(&results).filter(|(_, result)| (**result as i64) < 0).collect::<Vec<_>>();
    if let Some((call, result)) = failed.first() {
        let what = if call.number == libc::SYS_mlock { "locking memory" } else { "advice on memory" };
        let error = std::io::Error::from_raw_os_error(-(**result as i64) as i32);
        warnings.push(format!("process {pid}: {what} failed for {} ranges: {error}", failed.len()));
    }
    Ok(())
}

/// Gives anonymous mappings their names; a kernel without such names is no reason to fail.
fn name(puppet: &mut Puppet, mappings: &[&Mapping]) -> Result<(), RemoteError> {
    const NAME_BYTES_MAX: usize = 80;
    const PR_SET_VMA: u64 = 0x5356_4d41;
    let named: Vec<(&Mapping, &Vec<u8>)> =
        mappings.iter().filter_map(|mapping| Some((*mapping, mapping.name.as_ref()?))).collect();
    let room = puppet.arguments();
    for part in named.chunks(room.bytes() as usize / NAME_BYTES_MAX) {
        let mut names = vec![0u8; part.len() * NAME_BYTES_MAX];
        let mut calls = Vec::new();
        for (index, (mapping, name)) in part.iter().enumerate() {
            let length = name.len().min(NAME_BYTES_MAX - 1);
            names[index * NAME_BYTES_MAX..][..length].copy_from_slice(&name[..length]);
            let at = room.start().0 + (index * NAME_BYTES_MAX) as u64;
            let (start, bytes) = (mapping.range.start().0, mapping.range.bytes());
            calls.push(Call::new(libc::SYS_prctl, &[PR_SET_VMA, 0, start, bytes, at]));
        }
        puppet.write_memory(room.start(), &names)?;
        puppet.batch(&calls)?;
    }
    Ok(())
}

pub(super) fn is_kernels(mapping: &Mapping) -> bool {
    matches!(mapping.backing, Backing::Vdso | Backing::Vvar)
}

/// Fills all shared memory, before anybody maps it.
pub(crate) fn fill_shared(image: &Image, store: &FdStore) -> Result<(), Error> {
    for memory in &image.checkpoint().shared_memory {
        let Some(file) = open_shared(memory.id, store)? else { continue };
        image.visit_pages(PageOwner::Shared(memory.id), |run| {
            let PageContent::Bytes(bytes) = run.content else { return Ok(()) };
            // The last page may reach beyond the end, which is not a multiple of pages.
            let at = run.first_page * PAGE_SIZE;
            let length = bytes.len().min(memory.bytes.saturating_sub(at) as usize);
            file.write_all_at(&bytes[..length], at).map_err(Error::builder("filling shared memory"))
        })?;
    }
    Ok(())
}

fn open_shared(id: SharedMemoryId, store: &FdStore) -> Result<Option<File>, Error> {
    let Some(fd) = store.shared_memory(id, true) else { return Ok(None) };
    let path = format!("/proc/self/fd/{fd}");
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map(Some)
        .map_err(Error::builder("opening shared memory"))
}

/// Seals memfds as they were. `mapped` says that all mappings exist: only then may seals come that forbid new
/// writable mappings but keep old ones.
pub(crate) fn seal(checkpoint: &Checkpoint, store: &FdStore, mapped: bool) -> Result<(), Error> {
    for memory in &checkpoint.shared_memory {
        let SharedMemoryKind::Memfd { seals, .. } = memory.kind else { continue };
        let keeps_old = seals & libc::F_SEAL_FUTURE_WRITE as u32 != 0;
        if seals == 0 || keeps_old != mapped {
            continue;
        }
        let Some(file) = open_shared(memory.id, store)? else { continue };
        let seals = nix::fcntl::SealFlag::from_bits_retain(seals as i32);
        nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_ADD_SEALS(seals))
            .map_err(|error| Error::Builder { operation: "sealing a memfd", error: error.into() })?;
    }
    Ok(())
}

/// One line of a list of mappings, with neighbours that the kernel may merge made one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    range: PageRange,
    permissions: (bool, bool, bool),
    shared: bool,
    /// Into the file or shared memory; `None` for anonymous memory.
    offset: Option<u64>,
}

impl Line {
    fn continues(&self, before: &Line) -> bool {
        self.range.start() == before.range.end()
            && (self.permissions, self.shared) == (before.permissions, before.shared)
            && self.offset == before.offset.map(|offset| offset + before.range.bytes())
    }
}

fn merged(lines: impl Iterator<Item = Line>) -> Vec<Line> {
    let mut all: Vec<Line> = Vec::new();
    for line in lines {
        match all.last_mut() {
            Some(last) if line.continues(last) => {
                last.range = PageRange::new(last.range.start().0, line.range.end().0).expect("it grows");
            }
            _ => all.push(line),
        }
    }
    all
}

/// Compares the kernel's list of mappings with the image's; what lies in `ours` is brant's.
pub(crate) fn compare(puppet: &Puppet, pid: Pid, space: &AddressSpace, ours: PageRange) -> Result<(), Error> {
    let entries = proc::maps(Pid(puppet.tid().0)).map_err(Error::from)?;
    let found = merged(
        entries
            .iter()
            .filter(|entry| entry.kind != MapKind::Vsyscall && !ours.covers(entry.range))
            .flat_map(|entry| without_kernels(space, entry.range).into_iter().map(move |part| (entry, part)))
            .map(|(entry, range)| Line {
                range,
                permissions: (entry.permissions.read, entry.permissions.write, entry.permissions.execute),
                shared: entry.shared,
                offset: (!entry.is_private_anonymous()).then_some(entry.offset),
            }),
    );
    let wanted = merged(space.mappings.iter().filter(|mapping| !is_kernels(mapping)).map(|mapping| Line {
        range: mapping.range,
        permissions: (mapping.protection.read, mapping.protection.write, mapping.protection.execute),
        shared: mapping.sharing == Sharing::Shared,
        offset: match mapping.backing {
            Backing::File { offset, .. } | Backing::Shared { offset, .. } => Some(offset),
            _ => None,
        },
    }));
    let different = found.iter().zip(&wanted).find(|(found, wanted)| found != wanted);
    let (found, wanted) = match different {
        Some((found, wanted)) => (Some(found), Some(wanted)),
        None if found.len() == wanted.len() => return Ok(()),
        None => (found.get(wanted.len()), wanted.get(found.len())),
    };
    Err(Error::Mismatch {
        pid,
        what: "a mapping",
        found: format!("{found:x?}"),
        wanted: format!("{wanted:x?}"),
    })
}

/// What is left of `range` without the kernel's own mappings. Their stand-ins as plain memory are merged with what
/// they touch.
fn without_kernels(space: &AddressSpace, range: PageRange) -> Vec<PageRange> {
    let mut parts = Vec::new();
    let mut from = range.start().0;
    for mapping in space.mappings.iter().filter(|mapping| is_kernels(mapping)) {
        let Some(taken) = mapping.range.intersection(range) else { continue };
        parts.extend(PageRange::new(from, taken.start().0));
        from = taken.end().0;
    }
    parts.extend(PageRange::new(from, range.end().0));
    parts
}
