//! Files that have their names and travel in the image all the same.
//!
//! Those that the program may write are copied while it stands still. Executables and libraries are only mapped, and nobody
//! writes to them: they are copied when it runs again. Of each the digest was recorded before; contents that have
//! changed since make the checkpoint fail, as the image would not be what it says.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use brant_base::{PAGE_SIZE, Refusal, Refusals};
use brant_image::Writer;
use brant_image::model::{Carried, PageOwner};

use super::contents::Contents;
use super::{FileEntry, Tables};
use crate::collect::memory::write_pages;
use crate::error::Error;
use crate::refusals::text;

/// Bytes that are copied at once; whole pages.
const COPY_BYTES: u64 = 1 << 20;

/// Which files that have their names travel in the image.
#[derive(Debug, Clone, Default)]
pub struct Carry {
    /// Everything that is mapped and not written: executables and libraries.
    pub mapped: bool,
    /// Regular files that are open, or mapped for writing.
    pub opened: bool,
    /// What is mapped from below this folder, in any case: copies that a restore made of what an image carried.
    pub always_below: Vec<u8>,
}

impl Carry {
    pub(super) fn wants(&self, entry: &FileEntry) -> Carried {
        let file = &entry.file;
        if file.deleted || file.inode == 0 {
            return Carried::No;
        }
        let is_copy = || {
            let rest =
                file.path.strip_prefix(&self.always_below[..]).filter(|_| !self.always_below.is_empty());
            rest.is_some_and(|rest| rest.starts_with(b"/"))
        };
        match () {
            () if self.opened && (entry.opened || file.written) => Carried::File,
            () if entry.mapped && !file.written && (self.mapped || is_copy()) => Carried::Copy,
            () => Carried::No,
        }
    }
}

impl FileEntry {
    /// Makes it travel. `opened` is the file, where it may be read.
    pub(super) fn carry(&mut self, carried: Carried, opened: Option<File>) -> Result<(), Error> {
        let file = &mut self.file;
        let Some(opened) = opened.filter(|_| !file.digest.is_empty()) else {
            return Err(Error::Refused(Refusals(vec![Refusal {
                code: "B-0350",
                pid: None,
                resource: format!("the file {}", text(&file.path)),
                why: "its contents shall travel in the image, and it cannot be read".to_owned(),
                hint: "make it readable (chmod u+r), or leave away --portable and --with-files".to_owned(),
            }])));
        };
        file.stored = true;
        file.carried = carried;
        self.contents = Contents::Carried(opened);
        Ok(())
    }
}

impl Tables {
    /// Of the files that would travel, as far as they are known.
    pub(crate) fn carried_bytes(&self) -> u64 {
        let wanted = self.files.iter().filter(|entry| self.carry.wants(entry) != Carried::No);
        wanted.map(|entry| entry.file.size).sum()
    }

    /// Writes the contents of carried files of this kind, each contents once.
    pub(crate) fn write_carried<W: Write>(&self, kind: Carried, writer: &mut Writer<W>) -> Result<(), Error> {
        // Contents belong to the first carried file that has them, whatever its kind.
        let mut seen = HashSet::new();
        for entry in &self.files {
            let Contents::Carried(opened) = &entry.contents else { continue };
            let file = &entry.file;
            if !seen.insert((file.size, &file.digest)) || file.carried != kind {
                continue;
            }
            let digest = write(PageOwner::File(file.id), opened, file.size, writer)?;
            if digest.as_bytes()[..] != file.digest {
                return Err(Error::Changed { path: text(&file.path) });
            }
        }
        Ok(())
    }
}

/// Writes `bytes` bytes of a file and gives their digest.
fn write<W: Write>(
    owner: PageOwner,
    file: &File,
    bytes: u64,
    writer: &mut Writer<W>,
) -> Result<blake3::Hash, Error> {
    let failed =
        |error| Error::Descriptor { what: "reading a file that travels in the image".to_owned(), error };
    let mut hasher = blake3::Hasher::new();
    let mut part = vec![0; bytes.next_multiple_of(PAGE_SIZE).min(COPY_BYTES) as usize];
    let mut at = 0;
    while at < bytes {
        let length = COPY_BYTES.min(bytes - at) as usize;
        let whole = length.next_multiple_of(PAGE_SIZE as usize);
        file.read_exact_at(&mut part[..length], at).map_err(failed)?;
        part[length..whole].fill(0);
        hasher.update(&part[..length]);
        write_pages(writer, owner, at / PAGE_SIZE, &part[..whole], false)?;
        at += length as u64;
    }
    Ok(hasher.finalize())
}
