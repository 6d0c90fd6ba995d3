//! Where contents that travel in the image are read from.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use brant_base::{Addr, PAGE_SIZE, PageRange, Pid};
use brant_image::Writer;
use brant_image::model::PageOwner;
use brant_kernel::proc::{MapEntry, PageKind, Pagemap};
use brant_kernel::remote::Memory;

use super::open_quietly;
use crate::collect::memory;
use crate::error::Error;
use crate::tree::{self, Member};

/// Bytes that are copied at once.
const COPY_PAGES: u64 = 256;

pub(super) enum Contents {
    /// A file that has its name: it stays where it is.
    OnDisk,
    /// A path under /proc that leads to it.
    Place(PathBuf),
    /// A file that has its name, and is carried all the same.
    Carried(File),
    /// Only mapped. The parts may overlap.
    Mapped(Vec<MappedPart>),
}

/// A mapping of it in a process of the tree.
pub(super) struct MappedPart {
    host: Pid,
    range: PageRange,
    /// Of the range's start, in bytes.
    offset: u64,
    private: bool,
}

impl MappedPart {
    pub(super) fn of(member: &Member, entry: &MapEntry) -> MappedPart {
        let host = tree::living_task(member);
        MappedPart { host, range: entry.range, offset: entry.offset, private: !entry.shared }
    }

    /// One past the last byte that it shows.
    pub(super) fn end(&self) -> u64 {
        self.offset + self.range.bytes()
    }

    /// The whole of it, where this user has the capability to open it so (`proc_pid_map_files(5)`).
    fn open(&self) -> Option<File> {
        let (start, end) = (self.range.start().0, self.range.end().0);
        open_quietly(format!("/proc/{}/map_files/{start:x}-{end:x}", self.host).as_ref()).ok()
    }
}

impl Contents {
    /// The size in bytes, as it is now.
    pub(super) fn measure(&self, bytes: &mut u64) -> Result<(), Error> {
        let opened = match self {
            Contents::OnDisk | Contents::Carried(_) => return Ok(()),
            Contents::Place(_) => Some(self.open()?),
            Contents::Mapped(parts) => parts.iter().find_map(MappedPart::open),
        };
        if let Some(opened) = opened {
            let failed = |error| Error::Descriptor {
                what: "asking for the size of shared contents".to_owned(),
                error,
            };
            *bytes = opened.metadata().map_err(failed)?.len();
        }
        Ok(())
    }

    fn open(&self) -> Result<File, Error> {
        let Contents::Place(place) = self else { unreachable!("only a place is opened") };
        let failed = |error| Error::Descriptor { what: format!("opening {}", place.display()), error };
        open_quietly(place).map_err(failed)
    }

    /// Writes `bytes` bytes of it. Pages of zeros are left out.
    pub(super) fn write<W: Write>(
        &self,
        owner: PageOwner,
        bytes: u64,
        writer: &mut Writer<W>,
    ) -> Result<(), Error> {
        match self {
            Contents::OnDisk | Contents::Carried(_) => Ok(()),
            Contents::Place(_) => crate::write_file(owner, &self.open()?, writer),
            Contents::Mapped(parts) => match parts.iter().find_map(MappedPart::open) {
                Some(opened) => crate::write_file(owner, &opened, writer),
                None => write_parts(owner, bytes, parts, writer),
            },
        }
    }
}

/// Puts contents together from mappings. A page that every process has made its own copy of is not needed by
/// anybody; one behind the end of the file cannot be read. Both are left out.
fn write_parts<W: Write>(
    owner: PageOwner,
    bytes: u64,
    parts: &[MappedPart],
    writer: &mut Writer<W>,
) -> Result<(), Error> {
    let pages_max = bytes.div_ceil(PAGE_SIZE);
    let mut written = BTreeSet::new();
    for part in parts {
        let memory = Memory::open(part.host).map_err(|error| Error::Memory { pid: part.host, error })?;
        let own_copies = own_copies(part)?;
        let first = part.offset / PAGE_SIZE;
        let mut page = 0;
        while page < part.range.pages() {
            let wanted = |page: u64| {
                let address = Addr(part.range.start().0 + page * PAGE_SIZE);
                first + page < pages_max
                    && !written.contains(&(first + page))
                    && own_copies.iter().all(|range| !range.contains(address))
            };
            let run =
                (page..part.range.pages()).take(COPY_PAGES as usize).take_while(|page| wanted(*page)).count()
                    as u64;
            if run == 0 {
                page += 1;
                continue;
            }
            let mut buffer = vec![0; (run * PAGE_SIZE) as usize];
            let address = Addr(part.range.start().0 + page * PAGE_SIZE);
            let got = readable_pages(&memory, address, &mut buffer);
            buffer.truncate((got * PAGE_SIZE) as usize);
            memory::write_pages(writer, owner, first + page, &buffer, false)?;
            written.extend(first + page..first + page + got);
            page += if got == run { run } else { got + 1 };
        }
    }
    Ok(())
}

/// Pages of a private mapping that are the process's own by now.
fn own_copies(part: &MappedPart) -> Result<Vec<PageRange>, Error> {
    if !part.private {
        return Ok(Vec::new());
    }
    let runs = Pagemap::open(part.host)?.populated(part.range)?;
    Ok(runs.into_iter().filter(|run| run.kind != PageKind::FileOrShmem).map(|run| run.range).collect())
}

/// Fills as many whole pages as can be read; answers how many.
fn readable_pages(memory: &Memory, address: Addr, buffer: &mut [u8]) -> u64 {
    if memory.read(address, buffer).is_ok() {
        return buffer.len() as u64 / PAGE_SIZE;
    }
    let pages = buffer.chunks_mut(PAGE_SIZE as usize).enumerate();
    pages
        .map_while(|(index, page)| memory.read(Addr(address.0 + index as u64 * PAGE_SIZE), page).ok())
        .count() as u64
}
