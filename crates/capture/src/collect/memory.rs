//! Address spaces: the list of mappings, and which of their pages an image must hold.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use brant_base::{Addr, PAGE_SIZE, PageRange, Pid};
use brant_image::model::*;
use brant_image::{ImageError, PageSource, SourceRun, Writer};
use brant_kernel::proc::{self, MapEntry, MapKind, PageKind, Pagemap, Stat, VmFlags};
use brant_kernel::remote::Memory;

use crate::beholder;
use crate::error::Error;
use crate::tables::{self, Tables};
use crate::tree::Member;

/// The address space of a frozen process. `current_break` is what brk(0) gives.
pub(crate) fn address_space(
    member: &Member,
    entries: &[MapEntry],
    stat: &Stat,
    current_break: u64,
    tables: &mut Tables,
) -> Result<AddressSpace, Error> {
    let mut mappings = Vec::with_capacity(entries.len());
    for entry in entries {
        if entry.kind == MapKind::Vsyscall {
            continue;
        }
        mappings.push(mapping(member, entry, tables)?);
    }
    let layout = MemoryLayout {
        code: (stat.start_code, stat.end_code),
        data: (stat.start_data, stat.end_data),
        brk: (stat.start_brk, Addr(current_break)),
        stack_start: stat.start_stack,
        arguments: (stat.arg_start, stat.arg_end),
        environment: (stat.env_start, stat.env_end),
    };
    Ok(AddressSpace { layout, auxv: auxv(member)?, mappings })
}

fn auxv(member: &Member) -> Result<Vec<u8>, Error> {
    let words = proc::auxv(member.task())?;
    Ok(words.iter().flat_map(|(key, value)| [key.to_le_bytes(), value.to_le_bytes()]).flatten().collect())
}

/// A mapping and what is behind it.
fn mapping(member: &Member, entry: &MapEntry, tables: &mut Tables) -> Result<Mapping, Error> {
    let shared = entry.shared;
    let may_write = shared && entry.flags.has(VmFlags::MAY_WRITE);
    let (backing, name) = match &entry.kind {
        MapKind::Anonymous | MapKind::Heap | MapKind::Stack => (Backing::Anonymous, None),
        MapKind::File if tables::is_zero_device(entry) => (Backing::Anonymous, None),
        MapKind::AnonymousNamed(name) => (Backing::Anonymous, Some(name.clone())),
        MapKind::Vdso => (Backing::Vdso, None),
        MapKind::Vvar => (Backing::Vvar, None),
        MapKind::SharedAnonymous(_) | MapKind::Memfd(_) => {
            let memory = tables.mapped_memory(member, entry)?;
            (Backing::Shared { memory, offset: entry.offset, writable: may_write }, None)
        }
        _ => {
            let file = tables.mapped_file(member, entry)?;
            (Backing::File { file, offset: entry.offset, writable: may_write }, None)
        }
    };
    Ok(Mapping {
        range: entry.range,
        protection: Protection {
            read: entry.permissions.read,
            write: entry.permissions.write,
            execute: entry.permissions.execute,
        },
        sharing: if shared { Sharing::Shared } else { Sharing::Private },
        backing,
        flags: flags(entry),
        name,
    })
}

/// What madvise and mlock have set, from the flags of /proc/PID/smaps.
fn flags(entry: &MapEntry) -> MappingFlags {
    let has = |flag| entry.flags.has(flag);
    MappingFlags {
        grows_down: has(VmFlags::GROWS_DOWN),
        no_reserve: has(VmFlags::NO_RESERVE),
        locked: has(VmFlags::LOCKED),
        dont_fork: has(VmFlags::DONT_COPY),
        wipe_on_fork: has(VmFlags::WIPE_ON_FORK),
        dont_dump: has(VmFlags::DONT_DUMP),
        mergeable: has(VmFlags::MERGEABLE),
        huge_page: has(VmFlags::HUGE_PAGE),
        no_huge_page: has(VmFlags::NO_HUGE_PAGE),
        sequential: has(VmFlags::SEQUENTIAL),
        random: has(VmFlags::RANDOM),
        droppable: has(VmFlags::DROPPABLE),
    }
}

/// Which of a process's private pages are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    All,
    /// Those that a fork has, too.
    Forked,
    /// The others: MADV_DONTFORK and MADV_WIPEONFORK.
    NotForked,
}

impl Part {
    fn has(self, mapping: &Mapping) -> bool {
        let forked = !mapping.flags.dont_fork && !mapping.flags.wipe_on_fork;
        match self {
            Part::All => true,
            Part::Forked => forked,
            Part::NotForked => !forked,
        }
    }
}

/// The runs of private pages of `task` that differ from what the mappings give by themselves.
fn private_pages(task: Pid, space: &AddressSpace, part: Part) -> Result<Vec<PageRange>, Error> {
    let pagemap = Pagemap::open(task)?;
    let mut runs = Vec::new();
    for mapping in space.mappings.iter().filter(|mapping| part.has(mapping)) {
        let kernels = matches!(mapping.backing, Backing::Vdso | Backing::Vvar);
        if kernels || mapping.sharing == Sharing::Shared || mapping.flags.droppable {
            continue;
        }
        let populated = pagemap.populated(mapping.range)?;
        runs.extend(populated.iter().filter(|run| run.kind == PageKind::Anonymous).map(|run| run.range));
    }
    Ok(runs)
}

/// Copies the private pages of a process into the image, as `task` has them: a thread of it, or its copy. A page of zeros
/// is left out where nothing lies below it, and so are those of `unread`.
pub(crate) fn write_private<W: std::io::Write>(
    (member, space): (&Member, &AddressSpace),
    unread: &[PageRange],
    (task, memory): (Pid, &Memory),
    part: Part,
    writer: &mut Writer<W>,
) -> Result<(), Error> {
    let mut mappings = space.mappings.iter().peekable();
    let mut runs = Vec::new();
    for run in beholder::without(private_pages(task, space, part)?, unread) {
        while mappings.peek().is_some_and(|mapping| mapping.range.end() <= run.start()) {
            mappings.next();
        }
        let keep_zeros = mappings.peek().is_some_and(|mapping| mapping.backing != Backing::Anonymous);
        runs.push(SourceRun { first_page: run.start().0 / PAGE_SIZE, pages: run.pages(), keep_zeros });
    }
    writer.pages_from(PageOwner::Process(member.pid), &runs, &Target { memory, part }).map_err(|error| {
        match error {
            ImageError::Source { error, .. } => Error::Memory { pid: member.host, error },
            other => other.into(),
        }
    })
}

/// The memory of a process by pages.
struct Target<'a> {
    memory: &'a Memory,
    part: Part,
}

impl PageSource for Target<'_> {
    fn read(&self, first_page: u64, into: &mut [u8]) -> io::Result<()> {
        let at = Addr(first_page * PAGE_SIZE);
        match self.part {
            Part::Forked => self.memory.read_in_common(at, into),
            Part::All | Part::NotForked => self.memory.read(at, into),
        }
    }
}

/// Writes whole pages, those of zeros as zero runs or, unless `keep_zeros`, not at all.
pub(crate) fn write_pages<W: std::io::Write>(
    writer: &mut Writer<W>,
    owner: PageOwner,
    first_page: u64,
    bytes: &[u8],
    keep_zeros: bool,
) -> Result<(), Error> {
    const PAGE: usize = PAGE_SIZE as usize;
    let pages = bytes.len() / PAGE;
    let page = |index: usize| &bytes[index * PAGE..(index + 1) * PAGE];
    let mut from = 0;
    while from < pages {
        let zero = brant_image::is_zero_page(page(from));
        let run = (from..pages).take_while(|index| brant_image::is_zero_page(page(*index)) == zero).count();
        let first = first_page + from as u64;
        if !zero {
            writer.pages(owner, first, &bytes[from * PAGE..(from + run) * PAGE])?;
        } else if keep_zeros {
            writer.zero_pages(owner, first, run as u64)?;
        }
        from += run;
    }
    Ok(())
}

/// Copies a file's or a shared memory's extents that hold data. The last page is filled up with zeros.
pub(crate) fn write_extents<W: std::io::Write>(
    owner: PageOwner,
    file: &std::fs::File,
    writer: &mut Writer<W>,
) -> Result<(), Error> {
    let failed =
        |error| Error::Descriptor { what: "reading contents that travel in the image".to_owned(), error };
    let size = file.metadata().map_err(failed)?.len();
    let mut runs: Vec<SourceRun> = Vec::new();
    for extent in proc::data_extents(file.as_fd()).map_err(failed)? {
        // Extents are no multiples of pages everywhere.
        let before = runs.last().map_or(0, |run| run.first_page + run.pages);
        let (first_page, end) = (before.max(extent.start / PAGE_SIZE), extent.end.div_ceil(PAGE_SIZE));
        if first_page < end {
            runs.push(SourceRun { first_page, pages: end - first_page, keep_zeros: false });
        }
    }
    writer.pages_from(owner, &runs, &Contents { file, size }).map_err(|error| match error {
        ImageError::Source { error, .. } => failed(error),
        other => other.into(),
    })
}

/// A file by pages; behind its end there are zeros.
struct Contents<'a> {
    file: &'a std::fs::File,
    size: u64,
}

impl PageSource for Contents<'_> {
    fn read(&self, first_page: u64, into: &mut [u8]) -> io::Result<()> {
        let at = first_page * PAGE_SIZE;
        let present = into.len().min(self.size.saturating_sub(at) as usize);
        self.file.read_exact_at(&mut into[..present], at)?;
        into[present..].fill(0);
        Ok(())
    }
}
