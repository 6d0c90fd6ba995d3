//! What descriptors and mappings share: files on disk and shared memory, one entry an inode.
//!
//! A file whose name is gone has its contents in the image. Where nobody has it open, and this user may not open it
//! through `/proc/PID/map_files` (that takes a capability), the contents are put together from what the tree has
//! mapped: nothing else of it can be reached any more.

mod carry;
mod contents;
mod facts;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use brant_base::{Pid, Refusal};
use brant_image::Writer;
use brant_image::model::*;
use brant_kernel::descriptor::{Described, FileStatus};
use brant_kernel::proc::{MapEntry, MapKind, VmFlags};

use crate::error::Error;
use crate::refusals::text;
use crate::tree::{self, Member};
pub use carry::Carry;
use contents::{Contents, MappedPart};

/// The registries of a checkpoint that is being taken.
#[derive(Default)]
pub(crate) struct Tables {
    /// Read once, in the first process.
    pub(crate) clocks: Option<Clocks>,
    /// The mappings of each process, by its host number: to list them with their flags the kernel walks all page tables.
    pub(crate) mappings: HashMap<Pid, Vec<MapEntry>>,
    carry: Carry,
    files: Vec<FileEntry>,
    file_index: HashMap<FileKey, usize>,
    memory: Vec<MemoryEntry>,
    memory_index: HashMap<(u64, u64), usize>,
}

/// Files of /proc and /sys have no lasting inode: they are known by path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum FileKey {
    Inode(u64, u64),
    Path(Vec<u8>),
}

struct FileEntry {
    file: DiskFile,
    contents: Contents,
    /// Mapped: its build id is worth looking for.
    mapped: bool,
    /// A descriptor refers to it.
    opened: bool,
}

struct MemoryEntry {
    memory: SharedMemory,
    contents: Contents,
}

impl Tables {
    pub(crate) fn new(carry: Carry) -> Tables {
        Tables { carry, ..Tables::default() }
    }

    /// The shared memory below a mapping of it. A later part of it may make it larger.
    pub(crate) fn mapped_memory(
        &mut self,
        member: &Member,
        entry: &MapEntry,
    ) -> Result<SharedMemoryId, Error> {
        let key = (entry.device.to_stat(), entry.inode);
        let part = MappedPart::of(member, entry);
        let index = match self.memory_index.get(&key) {
            Some(index) => *index,
            None => {
                let kind = match &entry.kind {
                    // Nobody has it open any more, so its seals bind nobody but by their effect on mappings.
                    MapKind::Memfd(name) => {
                        SharedMemoryKind::Memfd { name: name.clone(), seals: 0, mode: 0o777 }
                    }
                    _ => SharedMemoryKind::Anonymous,
                };
                self.add_memory(key, kind, 0, Contents::Mapped(Vec::new()))
            }
        };
        let known = &mut self.memory[index];
        if let Contents::Mapped(parts) = &mut known.contents {
            known.memory.bytes = known.memory.bytes.max(part.end());
            parts.push(part);
        }
        Ok(known.memory.id)
    }

    /// A memfd that is open at `place` (a path under /proc that can be opened).
    pub(crate) fn memfd(
        &mut self,
        described: &Described,
        name: &[u8],
        seals: u32,
        place: PathBuf,
    ) -> SharedMemoryId {
        let key = (described.status.device.to_stat(), described.status.inode);
        let index = match self.memory_index.get(&key) {
            Some(index) => *index,
            None => {
                let mode = described.status.mode & 0o7777;
                let kind = SharedMemoryKind::Memfd { name: name.to_vec(), seals, mode };
                self.add_memory(key, kind, described.status.bytes, Contents::Place(place))
            }
        };
        self.memory[index].memory.id
    }

    fn add_memory(
        &mut self,
        key: (u64, u64),
        kind: SharedMemoryKind,
        bytes: u64,
        contents: Contents,
    ) -> usize {
        let index = self.memory.len();
        let id = SharedMemoryId(index as u32 + 1);
        self.memory.push(MemoryEntry { memory: SharedMemory { id, bytes, kind }, contents });
        self.memory_index.insert(key, index);
        index
    }

    /// The file below a mapping.
    pub(crate) fn mapped_file(&mut self, member: &Member, entry: &MapEntry) -> Result<DiskFileId, Error> {
        let part = MappedPart::of(member, entry);
        let deleted = entry.deleted && !is_at_longer_path(member, entry);
        let path = if entry.deleted && !deleted { with_suffix(&entry.path) } else { entry.path.clone() };
        let index = self.mapped_index(member, entry, path, deleted);
        let known = &mut self.files[index];
        known.mapped = true;
        known.file.written |= entry.shared && entry.flags.has(VmFlags::MAY_WRITE) && is_writable(entry);
        if let Contents::Mapped(parts) = &mut known.contents {
            known.file.size = known.file.size.max(part.end());
            parts.push(part);
        }
        Ok(known.file.id)
    }

    fn mapped_index(&mut self, member: &Member, entry: &MapEntry, path: Vec<u8>, deleted: bool) -> usize {
        let status = if deleted { None } else { status_at(member, &path) };
        // Some file systems (btrfs, overlay) show one device in maps and another one in stat.
        let device =
            status.filter(|status| status.inode == entry.inode).map_or(entry.device, |status| status.device);
        let key = FileKey::Inode(device.to_stat(), entry.inode);
        let by_other_device =
            || self.files.iter().position(|known| known.file.inode == entry.inode && known.file.path == path);
        if let Some(index) = self.file_index.get(&key).copied().or_else(by_other_device) {
            return index;
        }
        let status = status.unwrap_or(FileStatus { device, inode: entry.inode, ..FileStatus::default() });
        let contents = if deleted { Contents::Mapped(Vec::new()) } else { Contents::OnDisk };
        self.add_file(key, path, deleted, &status, contents)
    }

    /// Refuses a mapping whose file is not where its path says.
    pub(crate) fn mapped_file_check(&mut self, member: &Member, entry: &MapEntry) -> Result<(), Refusal> {
        if is_zero_device(entry) || entry.deleted && !is_at_longer_path(member, entry) {
            return Ok(());
        }
        let path = if entry.deleted { with_suffix(&entry.path) } else { entry.path.clone() };
        let found = fs::metadata(OsStr::from_bytes(&path)).map(|metadata| FileStatus::from(&metadata));
        let what = format!("the mapping {} of {}", entry.range, text(&path));
        let same = |status: &FileStatus| {
            // Device numbers without a major part are made up by their file systems.
            status.inode == entry.inode
                && (status.device == entry.device || (status.device.major == 0 && entry.device.major == 0))
        };
        match found {
            Ok(status) if !same(&status) => Err(elsewhere(member.host, what, "another file is there now")),
            Err(error) => Err(elsewhere(member.host, what, &format!("it cannot be found there: {error}"))),
            Ok(_) => {
                // Registered now, so that what is slow about it is done before the tree stands still.
                if let Ok(id) = self.mapped_file(member, entry) {
                    let entry = &self.files[id.0 as usize - 1];
                    facts::warm_up(&entry.file, self.carry.wants(entry) == Carried::Copy);
                }
                Ok(())
            }
        }
    }

    /// The executable of a process.
    pub(crate) fn executable(&mut self, member: &Member) -> Result<DiskFileId, Error> {
        let place = PathBuf::from(format!("/proc/{}/exe", tree::living_task(member)));
        let failed = |error| Error::Descriptor { what: format!("looking at {}", place.display()), error };
        let status = FileStatus::from(&fs::metadata(&place).map_err(failed)?);
        let link = fs::read_link(&place).map_err(failed)?.into_os_string().into_vec();
        let (path, deleted) = split_deleted(member, link, &status);
        let key = FileKey::Inode(status.device.to_stat(), status.inode);
        let index = match self.file_index.get(&key) {
            Some(index) => *index,
            None => self.add_file(key, path, deleted, &status, Contents::OnDisk),
        };
        let known = &mut self.files[index];
        known.mapped = true;
        if known.file.deleted {
            // It can be opened, so what is mapped is not needed.
            known.contents = Contents::Place(place);
            known.file.size = status.bytes;
            known.file.mode = status.mode;
        }
        Ok(known.file.id)
    }

    /// A regular file that is open at `place` (a path under /proc that can be opened).
    pub(crate) fn open_file(&mut self, described: &Described, writable: bool, place: PathBuf) -> DiskFileId {
        let status = &described.status;
        let key = FileKey::Inode(status.device.to_stat(), status.inode);
        let by_path = |known: &FileEntry| {
            let file = &known.file;
            (file.inode, &file.path, file.deleted) == (status.inode, &described.path, described.deleted)
        };
        let known = self.file_index.get(&key).copied().or_else(|| self.files.iter().position(by_path));
        let index = match known {
            Some(index) => index,
            None => self.add_file(key, described.path.clone(), described.deleted, status, Contents::OnDisk),
        };
        let known = &mut self.files[index];
        known.file.written |= writable;
        known.opened = true;
        if known.file.deleted {
            known.contents = Contents::Place(place);
            known.file.size = status.bytes;
            known.file.mode = status.mode;
        }
        known.file.id
    }

    /// A file of /proc or /sys. It has no lasting facts: device, inode, size and time are 0.
    pub(crate) fn kernel_file(&mut self, path: &[u8], mode: u32) -> DiskFileId {
        let key = FileKey::Path(path.to_vec());
        let index = match self.file_index.get(&key) {
            Some(index) => *index,
            None => {
                let status = FileStatus { mode, ..FileStatus::default() };
                self.add_file(key, path.to_vec(), false, &status, Contents::OnDisk)
            }
        };
        self.files[index].file.id
    }

    fn add_file(
        &mut self,
        key: FileKey,
        path: Vec<u8>,
        deleted: bool,
        status: &FileStatus,
        contents: Contents,
    ) -> usize {
        let index = self.files.len();
        let file = DiskFile {
            id: DiskFileId(index as u32 + 1),
            path,
            deleted,
            stored: deleted,
            carried: Carried::No,
            written: false,
            size: status.bytes,
            mode: status.mode,
            device: status.device.to_stat(),
            inode: status.inode,
            modified_ns: status.modified_ns,
            build_id: Vec::new(),
            digest: Vec::new(),
        };
        self.files.push(FileEntry { file, contents, mapped: false, opened: false });
        self.file_index.insert(key, index);
        index
    }

    /// Fills `disk_files` and `shared_memory`. What is known of each file is read again: it is what the frozen tree
    /// sees.
    pub(crate) fn fill(&mut self, checkpoint: &mut Checkpoint) -> Result<(), Error> {
        for entry in &mut self.files {
            let carried = self.carry.wants(entry);
            let known = &mut entry.file;
            match &mut entry.contents {
                Contents::OnDisk if known.inode != 0 => {
                    let opened = facts::complete(known, entry.mapped, carried != Carried::No);
                    if carried != Carried::No {
                        entry.carry(carried, opened)?;
                    }
                }
                Contents::OnDisk => {}
                contents => contents.measure(&mut known.size)?,
            }
        }
        for entry in &mut self.memory {
            entry.contents.measure(&mut entry.memory.bytes)?;
        }
        checkpoint.disk_files = self.files.iter().map(|entry| entry.file.clone()).collect();
        checkpoint.shared_memory = self.memory.iter().map(|entry| entry.memory.clone()).collect();
        Ok(())
    }

    /// Writes shared memory and the contents of files that travel, but for those that are only mapped for reading.
    pub(crate) fn write_contents<W: Write>(&mut self, writer: &mut Writer<W>) -> Result<(), Error> {
        self.write_carried(Carried::File, writer)?;
        for entry in self.files.iter().filter(|entry| entry.file.deleted) {
            entry.contents.write(PageOwner::File(entry.file.id), entry.file.size, writer)?;
        }
        for entry in &self.memory {
            entry.contents.write(PageOwner::Shared(entry.memory.id), entry.memory.bytes, writer)?;
        }
        Ok(())
    }
}

/// A private mapping of /dev/zero is anonymous memory by another name.
pub(crate) fn is_zero_device(entry: &MapEntry) -> bool {
    entry.kind == MapKind::File && !entry.shared && !entry.deleted && entry.path == b"/dev/zero"
}

/// Without smaps' flags (they were read from maps) a shared mapping counts as writable by its protection.
fn is_writable(entry: &MapEntry) -> bool {
    entry.permissions.write || entry.flags.has(VmFlags::SHARED)
}

/// Whether a file really lies at a path that ends in " (deleted)".
fn is_at_longer_path(member: &Member, entry: &MapEntry) -> bool {
    status_at(member, &with_suffix(&entry.path)).is_some_and(|status| status.inode == entry.inode)
}

fn with_suffix(path: &[u8]) -> Vec<u8> {
    [path, b" (deleted)"].concat()
}

fn status_at(member: &Member, path: &[u8]) -> Option<FileStatus> {
    let mut full = PathBuf::from(format!("/proc/{}/root", tree::living_task(member)));
    full.push(OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path)));
    fs::symlink_metadata(full).ok().map(|metadata| FileStatus::from(&metadata))
}

fn split_deleted(member: &Member, link: Vec<u8>, status: &FileStatus) -> (Vec<u8>, bool) {
    let at_full = status_at(member, &link).is_some_and(|found| found.inode == status.inode);
    match link.strip_suffix(b" (deleted)") {
        Some(shorter) if !at_full => (shorter.to_vec(), true),
        _ => (link, false),
    }
}

pub(crate) fn elsewhere(pid: Pid, resource: String, why: &str) -> Refusal {
    Refusal {
        code: "B-0341",
        pid: Some(pid),
        resource,
        why: why.to_owned(),
        hint: "unmount what lies over it, or restart the program where it sees the same files as you do"
            .to_owned(),
    }
}

/// Opens a file for reading without waiting (it might have become a fifo) and without a change of its access time.
fn open_quietly(path: &Path) -> io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let open = |flags| fs::OpenOptions::new().read(true).custom_flags(flags).open(path);
    open(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOATIME)
        .or_else(|_| open(libc::O_NONBLOCK | libc::O_NOCTTY))
}
