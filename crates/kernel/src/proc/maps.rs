//! `/proc/PID/maps` and `/proc/PID/smaps`: the mappings of an address space.
//!
//! Both list mappings by address. In a stopped process the list is exact; in a running one each entry is true
//! at its own moment (`Documentation/filesystems/proc.rst`). smaps walks all page tables, maps does not.

use brant_base::{PageRange, Pid};

use super::text::{Fields, ParseError, lines, split_once, trim, unescape_newlines, unsigned, unsigned_32};
use super::{ProcError, read_parsed};

/// The mapping that x86 kernels show at the top of every address space.
const VSYSCALL_START: u64 = 0xffff_ffff_ff60_0000;

/// One mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapEntry {
    pub range: PageRange,
    pub permissions: Permissions,
    /// Made with MAP_SHARED. Where the descriptor was opened for reading only, [`VmFlags::MAY_WRITE`] is not set.
    pub shared: bool,
    /// In bytes, into the file or shared memory.
    pub offset: u64,
    pub device: Device,
    pub inode: u64,
    /// The name column, with newlines unescaped, without " (deleted)"; empty for anonymous memory.
    pub path: Vec<u8>,
    /// The name ended in " (deleted)". A file may be called so: compare device and inode with what lies at
    /// the longer path.
    pub deleted: bool,
    pub kind: MapKind,
    /// From smaps; empty from maps.
    pub flags: VmFlags,
    /// From smaps: kibibytes of it that are swapped out, for shared memory those of the memory below.
    pub swap_kib: u64,
    /// From smaps: the memory protection key, 0 where none was set.
    pub protection_key: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Permissions {
    pub read: bool,
    pub write: bool,
    pub execute: bool,
}

/// A device number as its two parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Device {
    pub major: u32,
    pub minor: u32,
}

impl Device {
    /// From `st_dev` or `st_rdev` of stat(2).
    pub fn from_stat(number: u64) -> Device {
        Device { major: libc::major(number), minor: libc::minor(number) }
    }

    /// From the kernel's own numbering, which fdinfo shows as `sdev`.
    pub fn from_kernel(number: u32) -> Device {
        Device { major: number >> 20, minor: number & 0xf_ffff }
    }

    /// As `st_dev` of stat(2).
    pub fn to_stat(self) -> u64 {
        libc::makedev(self.major, self.minor)
    }
}

/// What the name column says a mapping is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MapKind {
    /// Anonymous and private, without a name.
    Anonymous,
    /// `[heap]`
    Heap,
    /// `[stack]`
    Stack,
    /// `[anon:NAME]`, private (PR_SET_VMA_ANON_NAME).
    AnonymousNamed(Vec<u8>),
    /// MAP_SHARED | MAP_ANONYMOUS, and shared mappings of /dev/zero: `/dev/zero (deleted)`, with the name of
    /// `[anon_shmem:NAME]` where it has one. Device and inode tell which memory.
    SharedAnonymous(Option<Vec<u8>>),
    /// memfd_create(2), with the name it was given.
    Memfd(Vec<u8>),
    /// `/SYSVxxxxxxxx (deleted)`: shmget(2).
    SystemV,
    /// A file of a file system.
    File,
    /// `[vdso]`
    Vdso,
    /// `[vvar]`, `[vvar_vclock]`: data pages of the vdso.
    Vvar,
    /// `[vsyscall]`: the same in every process, not part of the address space.
    Vsyscall,
    /// `anon_inode:...`: io_uring rings, perf buffers and the like.
    AnonymousInode(Vec<u8>),
    /// Another name in brackets, such as `[uprobes]` and `[shstk]`.
    Other(Vec<u8>),
}

/// The `VmFlags` line of smaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VmFlags {
    bits: u64,
    unknown: bool,
}

macro_rules! vm_flags {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        #[repr(u8)]
        enum Index { $($name),* }

        impl VmFlags {
            $($(#[$doc])* pub const $name: VmFlags = VmFlags { bits: 1 << Index::$name as u8, unknown: false };)*

            fn from_code(code: &[u8]) -> Option<VmFlags> {
                $(if code == $code { return Some(VmFlags::$name); })*
                None
            }
        }
    };
}

vm_flags! {
    READ = b"rd";
    WRITE = b"wr";
    EXECUTE = b"ex";
    /// VM_SHARED: a shared mapping whose file was opened for writing.
    SHARED = b"sh";
    MAY_READ = b"mr";
    MAY_WRITE = b"mw";
    MAY_EXECUTE = b"me";
    /// VM_MAYSHARE: made with MAP_SHARED, whatever the file was opened for.
    SHARED_MAY = b"ms";
    GROWS_DOWN = b"gd";
    PFN_MAP = b"pf";
    LOCKED = b"lo";
    LOCK_ON_FAULT = b"lf";
    IO = b"io";
    SEQUENTIAL = b"sr";
    RANDOM = b"rr";
    DONT_COPY = b"dc";
    DONT_EXPAND = b"de";
    ACCOUNTED = b"ac";
    NO_RESERVE = b"nr";
    HUGETLB = b"ht";
    SYNC = b"sf";
    ARCH_1 = b"ar";
    WIPE_ON_FORK = b"wf";
    DONT_DUMP = b"dd";
    SOFT_DIRTY = b"sd";
    MIXED_MAP = b"mm";
    HUGE_PAGE = b"hg";
    NO_HUGE_PAGE = b"nh";
    MERGEABLE = b"mg";
    UFFD_MISSING = b"um";
    UFFD_WRITE_PROTECT = b"uw";
    UFFD_MINOR = b"ui";
    SHADOW_STACK = b"ss";
    SEALED = b"sl";
    DROPPABLE = b"dp";
    GUARDS_MAYBE = b"gu";
}

impl VmFlags {
    /// Whether every flag of `other` is set.
    pub fn has(self, other: VmFlags) -> bool {
        self.bits & other.bits == other.bits
    }

    /// Whether the kernel showed a flag that is not known here.
    pub fn has_unknown(self) -> bool {
        self.unknown
    }

    fn with(self, other: VmFlags) -> VmFlags {
        VmFlags { bits: self.bits | other.bits, unknown: self.unknown | other.unknown }
    }
}

impl MapEntry {
    /// Whether private pages of it are anonymous memory from the start (no file below).
    pub fn is_private_anonymous(&self) -> bool {
        !self.shared
            && self.inode == 0
            && matches!(
                self.kind,
                MapKind::Anonymous | MapKind::Heap | MapKind::Stack | MapKind::AnonymousNamed(_)
            )
    }
}

/// The mappings, without flags.
pub fn maps(pid: Pid) -> Result<Vec<MapEntry>, ProcError> {
    read_parsed(pid.into(), "maps", parse_maps)
}

/// The mappings with their flags, at the price of a walk over the page tables.
pub fn smaps(pid: Pid) -> Result<Vec<MapEntry>, ProcError> {
    read_parsed(pid.into(), "smaps", parse_maps)
}

/// Parses the text of either file.
pub fn parse_maps(bytes: &[u8]) -> Result<Vec<MapEntry>, ParseError> {
    let mut entries: Vec<MapEntry> = Vec::new();
    for (number, line) in lines(bytes) {
        // Headers start with an address; the lines of smaps that follow one start with a capital letter.
        match line.first() {
            Some(b'A'..=b'Z') => match entries.last_mut() {
                Some(entry) => add_detail(entry, line).map_err(|error| error.at(number))?,
                None => return Err(ParseError::new(number, "a mapping before its details")),
            },
            _ => entries.push(parse_entry(line).map_err(|error| error.at(number))?),
        }
    }
    Ok(entries)
}

fn add_detail(entry: &mut MapEntry, line: &[u8]) -> Result<(), ParseError> {
    if let Some(codes) = line.strip_prefix(b"VmFlags:") {
        let unknown = VmFlags { bits: 0, unknown: true };
        entry.flags = Fields::new(codes)
            .fold(VmFlags::default(), |flags, code| flags.with(VmFlags::from_code(code).unwrap_or(unknown)));
    } else if let Some(value) = line.strip_prefix(b"Swap:") {
        entry.swap_kib = Fields::new(value).number(10, "kibibytes in swap")?;
    } else if let Some(value) = line.strip_prefix(b"ProtectionKey:") {
        entry.protection_key =
            unsigned_32(trim(value), 10).ok_or(ParseError::new(1, "a memory protection key"))?;
    }
    Ok(())
}

fn parse_entry(line: &[u8]) -> Result<MapEntry, ParseError> {
    let mut fields = Fields::new(line);
    let range = parse_range(fields.word("an address range")?)
        .ok_or(ParseError::new(1, "an address range of whole pages"))?;
    let (permissions, shared) =
        parse_permissions(fields.word("permissions")?).ok_or(ParseError::new(1, "permissions"))?;
    let offset = fields.number(16, "an offset")?;
    let device =
        parse_device(fields.word("a device number")?).ok_or(ParseError::new(1, "a device number"))?;
    let inode = fields.number(10, "an inode number")?;
    let name = fields.rest();
    let (name, deleted) = match name.strip_suffix(b" (deleted)") {
        Some(shorter) if shorter.starts_with(b"/") => (shorter, true),
        _ => (name, false),
    };
    let path = unescape_newlines(name);
    let kind = classify(range, shared, deleted, &path);
    Ok(MapEntry {
        range,
        permissions,
        shared,
        offset,
        device,
        inode,
        path,
        deleted,
        kind,
        flags: VmFlags::default(),
        swap_kib: 0,
        protection_key: 0,
    })
}

fn parse_range(word: &[u8]) -> Option<PageRange> {
    let (start, end) = split_once(word, b'-')?;
    PageRange::new(unsigned(start, 16)?, unsigned(end, 16)?).ok()
}

fn parse_permissions(word: &[u8]) -> Option<(Permissions, bool)> {
    let [read, write, execute, sharing] = *word else { return None };
    let permissions = Permissions {
        read: is_set(read, b'r')?,
        write: is_set(write, b'w')?,
        execute: is_set(execute, b'x')?,
    };
    match sharing {
        b's' => Some((permissions, true)),
        b'p' => Some((permissions, false)),
        _ => None,
    }
}

fn is_set(byte: u8, letter: u8) -> Option<bool> {
    match byte {
        b'-' => Some(false),
        _ if byte == letter => Some(true),
        _ => None,
    }
}

/// `fe:00`, both in hexadecimal.
pub(super) fn parse_device(word: &[u8]) -> Option<Device> {
    let (major, minor) = split_once(word, b':')?;
    Some(Device { major: unsigned_32(major, 16)?, minor: unsigned_32(minor, 16)? })
}

fn classify(range: PageRange, shared: bool, deleted: bool, path: &[u8]) -> MapKind {
    match path {
        b"" => MapKind::Anonymous,
        b"[heap]" => MapKind::Heap,
        b"[stack]" => MapKind::Stack,
        b"[vdso]" => MapKind::Vdso,
        b"[vsyscall]" if range.start().0 == VSYSCALL_START => MapKind::Vsyscall,
        b"/dev/zero" if deleted => MapKind::SharedAnonymous(None),
        _ if path.starts_with(b"[vvar") => MapKind::Vvar,
        _ if path.starts_with(b"/memfd:") && deleted => MapKind::Memfd(path[b"/memfd:".len()..].to_vec()),
        _ if path.starts_with(b"/SYSV") && deleted && path.len() == 13 => MapKind::SystemV,
        _ if path.starts_with(b"/") => MapKind::File,
        _ => classify_named(shared, path),
    }
}

fn classify_named(shared: bool, path: &[u8]) -> MapKind {
    if let Some(name) = bracketed(path, b"[anon:") {
        MapKind::AnonymousNamed(name)
    } else if let Some(name) = bracketed(path, b"[anon_shmem:").filter(|_| shared) {
        MapKind::SharedAnonymous(Some(name))
    } else if let Some(name) = path.strip_prefix(b"anon_inode:") {
        MapKind::AnonymousInode(name.to_vec())
    } else {
        MapKind::Other(path.to_vec())
    }
}

fn bracketed(path: &[u8], opening: &[u8]) -> Option<Vec<u8>> {
    Some(path.strip_prefix(opening)?.strip_suffix(b"]")?.to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SAMPLE: &[u8] = include_bytes!("samples/smaps");

    #[test]
    fn a_real_smaps_is_understood() {
        let entries = parse_maps(SAMPLE).unwrap();
        let first = &entries[0];
        assert_eq!(first.path, b"/usr/bin/cat");
        assert_eq!(first.kind, MapKind::File);
        assert_eq!((first.device, first.inode), (Device { major: 0xfe, minor: 0 }, 247030));
        assert!(first.flags.has(VmFlags::READ) && !first.flags.has(VmFlags::WRITE));
        assert!(entries.iter().all(|entry| !entry.flags.has_unknown()));
        for kind in [MapKind::Heap, MapKind::Stack, MapKind::Vdso, MapKind::Vvar, MapKind::Anonymous] {
            assert!(entries.iter().any(|entry| entry.kind == kind), "{kind:?}");
        }
        let stack = entries.iter().find(|entry| entry.kind == MapKind::Stack).unwrap();
        assert!(stack.flags.has(VmFlags::GROWS_DOWN) && stack.is_private_anonymous());
    }

    #[test]
    fn names_are_classified() {
        let kind = |permissions: &str, name: &str| {
            let line = format!("7f0000000000-7f0000001000 {permissions} 00000000 00:01 77 {name}\n");
            let mut entries = parse_maps(line.as_bytes()).unwrap();
            let entry = entries.remove(0);
            (entry.kind, entry.path, entry.deleted)
        };
        assert_eq!(kind("rw-s", "/dev/zero (deleted)").0, MapKind::SharedAnonymous(None));
        assert_eq!(kind("rw-s", "[anon_shmem:a b]").0, MapKind::SharedAnonymous(Some(b"a b".to_vec())));
        assert_eq!(kind("rw-p", "[anon:x]").0, MapKind::AnonymousNamed(b"x".to_vec()));
        assert_eq!(kind("rw-s", "/memfd:two words (deleted)").0, MapKind::Memfd(b"two words".to_vec()));
        assert_eq!(kind("rw-s", "/SYSV00001234 (deleted)").0, MapKind::SystemV);
        assert_eq!(kind("rw-s", "anon_inode:[io_uring]").0, MapKind::AnonymousInode(b"[io_uring]".to_vec()));
        assert_eq!(kind("r--p", r"/a\012b  c (deleted)"), (MapKind::File, b"/a\nb  c".to_vec(), true));
        assert_eq!(kind("r--p", "[vvar_vclock]").0, MapKind::Vvar);
        assert_eq!(kind("r--p", "[uprobes]").0, MapKind::Other(b"[uprobes]".to_vec()));
        let top = "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";
        assert_eq!(parse_maps(top.as_bytes()).unwrap()[0].kind, MapKind::Vsyscall);
    }

    #[test]
    fn our_own_mappings_are_sorted_and_disjoint() {
        let own = Pid(std::process::id() as i32);
        for entries in [maps(own).unwrap(), smaps(own).unwrap()] {
            assert!(entries.windows(2).all(|pair| pair[0].range.end() <= pair[1].range.start()));
            let here = our_own_mappings_are_sorted_and_disjoint as *const () as u64;
            let code = entries.iter().find(|entry| entry.range.contains(brant_base::Addr(here))).unwrap();
            assert!(code.permissions.execute && code.kind == MapKind::File);
        }
    }

    #[test]
    fn thousands_of_mappings_are_listed() {
        const PAGES: usize = 5000;
        let (bytes, flags) = (PAGES * 4096, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        for page in (0..PAGES).step_by(2) {
            // SAFETY: inside our own mapping.
            let place = unsafe { start.byte_add(page * 4096) };
            // SAFETY: a page of our own mapping.
            assert_eq!(unsafe { libc::mprotect(place, 4096, libc::PROT_READ) }, 0);
        }
        let began = std::time::Instant::now();
        let entries = smaps(Pid(std::process::id() as i32)).unwrap();
        eprintln!("{} mappings with flags in {:?}", entries.len(), began.elapsed());
        let range = PageRange::new(start as u64, start as u64 + bytes as u64).unwrap();
        assert_eq!(entries.iter().filter(|entry| range.covers(entry.range)).count(), PAGES);
        // SAFETY: our own mapping, which nobody uses any more.
        unsafe { libc::munmap(start, bytes) };
    }

    #[test]
    fn broken_lines_are_named() {
        let bad =
            b"7f0000000000-7f0000001000 r--p 00000000 00:01 77 /a\n7f0000001000-7f0000001001 r--p 0 0:1 7\n";
        assert_eq!(parse_maps(bad).unwrap_err().line, 2);
        assert!(parse_maps(b"Size: 4 kB\n").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = parse_maps(&bytes);
        }

        #[test]
        fn damaged_samples_are_survived(at in 0..SAMPLE.len(), byte: u8, cut in 0..SAMPLE.len()) {
            let mut bytes = SAMPLE.to_vec();
            bytes[at] = byte;
            let _ = parse_maps(&bytes);
            let _ = parse_maps(&SAMPLE[..cut]);
        }
    }
}
