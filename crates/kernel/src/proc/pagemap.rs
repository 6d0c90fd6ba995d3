//! Which pages of a mapping hold something: the PAGEMAP_SCAN ioctl (Linux 6.7) or `/proc/PID/pagemap`.
//!
//! A plain user sees no frame numbers, but all that is needed here: present, in swap, file or anonymous
//! (`Documentation/admin-guide/mm/pagemap.rst`). Page tables do not tell of pages of shared memory that this
//! process has not touched or that were swapped out: those need [`data_extents`] or mincore(2).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use brant_base::{PAGE_SIZE, PageRange, Pid};

use super::{ProcError, Subject, open};

/// What lies in a run of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageKind {
    /// Anonymous memory, in RAM or swap: the process's own copy. Where the kernel cannot name zero pages
    /// (before 6.7) those are here too.
    Anonymous,
    /// A page of a file or of shared memory.
    FileOrShmem,
    /// The shared page of zeros: an anonymous page that was read and never written.
    Zero,
    /// MADV_GUARD_INSTALL: any access faults. Read as [`PageKind::Anonymous`] from a kernel that has such
    /// pages but does not show them (6.13 and 6.14).
    Guard,
}

/// Pages of one kind. Runs are sorted, disjoint and as long as they can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRun {
    pub range: PageRange,
    pub kind: PageKind,
}

/// The open page map of a process. It keeps to the address space that the process had when it was opened:
/// after an exec it reads as empty.
pub struct Pagemap {
    pid: Pid,
    file: File,
    scan: Option<u64>,
}

/// The pages of `range` that hold something.
pub fn populated_pages(pid: Pid, range: PageRange) -> Result<Vec<PageRun>, ProcError> {
    Pagemap::open(pid)?.populated(range)
}

const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_PFNZERO: u64 = 1 << 5;
/// Linux 6.15.
const PAGE_IS_GUARD: u64 = 1 << 8;
const BASIC_CATEGORIES: u64 = PAGE_IS_FILE | PAGE_IS_PRESENT | PAGE_IS_SWAPPED | PAGE_IS_PFNZERO;

/// `struct page_region` of linux/fs.h.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg` of linux/fs.h.
#[derive(Default)]
#[repr(C)]
struct ScanArguments {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `_IOWR('f', 16, struct pm_scan_arg)`
const PAGEMAP_SCAN: libc::Ioctl =
    (3 << 30) | ((size_of::<ScanArguments>() as libc::Ioctl) << 16) | (0x66 << 8) | 16;
const REGIONS_PER_SCAN: usize = 1024;
/// Entries of eight bytes that one read of the file takes: 256 MiB of address space.
const ENTRIES_PER_READ: u64 = 64 << 10;

impl Pagemap {
    /// Opens it. Needs the right to trace the process.
    pub fn open(pid: Pid) -> Result<Pagemap, ProcError> {
        let file = open(pid.into(), "pagemap")?;
        let scan = probe_scan(&file);
        Ok(Pagemap { pid, file, scan })
    }

    /// Whether this kernel has PAGEMAP_SCAN.
    pub fn has_scan(&self) -> bool {
        self.scan.is_some()
    }

    /// The pages of `range` that hold something. Pages outside every mapping hold nothing.
    pub fn populated(&self, range: PageRange) -> Result<Vec<PageRun>, ProcError> {
        let runs = match self.scan {
            Some(categories) => self.populated_by_scan(range, categories),
            None => self.populated_by_reading(range),
        };
        runs.map_err(|error| ProcError::from_io(Subject::Process(self.pid), "pagemap", error))
    }

    fn populated_by_scan(&self, range: PageRange, categories: u64) -> io::Result<Vec<PageRun>> {
        let mut runs = Runs::default();
        let mut regions = [PageRegion::default(); REGIONS_PER_SCAN];
        let mut start = range.start().0;
        while start < range.end().0 {
            let mut arguments = ScanArguments {
                start,
                end: range.end().0,
                category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
                return_mask: categories,
                ..ScanArguments::default()
            };
            let count = scan(&self.file, &mut arguments, &mut regions)?;
            for region in &regions[..count] {
                runs.add(region.start, region.end, kind_of_categories(region.categories));
            }
            // The kernel gathers 512 regions at a time, and where a later lot reaches the end it leaves the place
            // where the lot before it ended as `walk_end` (seen on 6.18). Room that is left means the end, too.
            let seen = regions[..count].last().map_or(0, |region| region.end);
            let next = arguments.walk_end.max(seen);
            if count < regions.len() {
                break;
            }
            if next <= start {
                return Err(io::Error::other("the kernel's page scan did not advance"));
            }
            start = next;
        }
        Ok(runs.0)
    }

    fn populated_by_reading(&self, range: PageRange) -> io::Result<Vec<PageRun>> {
        let mut runs = Runs::default();
        let mut buffer = vec![0u8; (ENTRIES_PER_READ.min(range.pages()) * 8) as usize];
        let mut page = range.start().0 / PAGE_SIZE;
        let last = range.end().0 / PAGE_SIZE;
        while page < last {
            let wanted = ((last - page).min(ENTRIES_PER_READ) * 8) as usize;
            let got = self.file.read_at(&mut buffer[..wanted], page * 8)? & !7;
            if got == 0 {
                // Beyond what a task may map, or the process has ended.
                break;
            }
            for entry in buffer[..got].chunks_exact(8) {
                let entry = u64::from_le_bytes(entry.try_into().expect("chunks of eight bytes"));
                if let Some(kind) = kind_of_entry(entry) {
                    runs.add(page * PAGE_SIZE, (page + 1) * PAGE_SIZE, kind);
                }
                page += 1;
            }
        }
        Ok(runs.0)
    }
}

/// The categories that this kernel can tell, or `None` where it has no PAGEMAP_SCAN.
fn probe_scan(file: &File) -> Option<u64> {
    [BASIC_CATEGORIES | PAGE_IS_GUARD, BASIC_CATEGORIES].into_iter().find(|&categories| {
        // An empty range: the kernel checks the arguments and walks nothing.
        let mut arguments = ScanArguments { return_mask: categories, ..ScanArguments::default() };
        scan(file, &mut arguments, &mut [PageRegion::default()]).is_ok()
    })
}

fn scan(file: &File, arguments: &mut ScanArguments, regions: &mut [PageRegion]) -> io::Result<usize> {
    arguments.size = size_of::<ScanArguments>() as u64;
    arguments.vec = regions.as_mut_ptr() as u64;
    arguments.vec_len = regions.len() as u64;
    // SAFETY: the structure has the size that it states, and `vec` points to `vec_len` writable regions that
    // outlive the call.
    let count = unsafe { libc::ioctl(file.as_raw_fd(), PAGEMAP_SCAN, &raw mut *arguments) };
    if count < 0 { Err(io::Error::last_os_error()) } else { Ok((count as usize).min(regions.len())) }
}

fn kind_of_categories(categories: u64) -> PageKind {
    if categories & PAGE_IS_GUARD != 0 {
        PageKind::Guard
    } else if categories & PAGE_IS_PFNZERO != 0 {
        PageKind::Zero
    } else if categories & PAGE_IS_FILE != 0 {
        PageKind::FileOrShmem
    } else {
        PageKind::Anonymous
    }
}

fn kind_of_entry(entry: u64) -> Option<PageKind> {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const FILE_OR_SHARED: u64 = 1 << 61;
    const GUARD: u64 = 1 << 58;
    if entry & GUARD != 0 {
        Some(PageKind::Guard)
    } else if entry & (PRESENT | SWAPPED) == 0 {
        None
    } else if entry & FILE_OR_SHARED != 0 {
        Some(PageKind::FileOrShmem)
    } else {
        Some(PageKind::Anonymous)
    }
}

#[derive(Default)]
struct Runs(Vec<PageRun>);

impl Runs {
    fn add(&mut self, start: u64, end: u64, kind: PageKind) {
        if let Some(last) = self.0.last_mut()
            && last.kind == kind
            && last.range.end().0 == start
            && let Ok(range) = PageRange::new(last.range.start().0, end)
        {
            last.range = range;
        } else if let Ok(range) = PageRange::new(start, end) {
            self.0.push(PageRun { range, kind });
        }
    }
}

/// A piece of a file that holds data, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub start: u64,
    pub end: u64,
}

/// The pieces of a file or of shared memory that are not holes (SEEK_DATA), in order. The file is opened
/// anew for it, so that the position of a description that is shared with others does not move.
pub fn data_extents(file: BorrowedFd<'_>) -> io::Result<Vec<Extent>> {
    let file = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let mut extents = Vec::new();
    let mut position = 0;
    while let Some(start) = seek(&file, position, libc::SEEK_DATA)? {
        let Some(end) = seek(&file, start, libc::SEEK_HOLE)?.filter(|&end| end > start) else { break };
        extents.push(Extent { start, end });
        position = end;
    }
    Ok(extents)
}

/// `None` where there is nothing more.
fn seek(file: &File, from: u64, whence: i32) -> io::Result<Option<u64>> {
    // SAFETY: plain numbers; the descriptor is ours.
    let found = unsafe { libc::lseek(file.as_raw_fd(), from as i64, whence) };
    if found >= 0 {
        return Ok(Some(found as u64));
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ENXIO) { Ok(None) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, FromRawFd};

    use super::*;

    /// A fresh mapping of ours.
    struct Area(*mut u8, usize);

    impl Area {
        fn new(pages: usize, flags: i32, file: i32) -> Area {
            let bytes = pages * PAGE_SIZE as usize;
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: a new mapping at an address of the kernel's choice.
            let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, file, 0) };
            assert_ne!(start, libc::MAP_FAILED);
            // SAFETY: our own new mapping.
            unsafe { libc::madvise(start, bytes, libc::MADV_NOHUGEPAGE) };
            Area(start.cast(), bytes)
        }

        fn range(&self) -> PageRange {
            PageRange::new(self.0 as u64, self.0 as u64 + self.1 as u64).unwrap()
        }

        fn write(&self, page: usize) {
            // SAFETY: inside our own mapping.
            unsafe { self.0.add(page * PAGE_SIZE as usize).write_volatile(1) };
        }

        fn read(&self, page: usize) -> u8 {
            // SAFETY: inside our own mapping.
            unsafe { self.0.add(page * PAGE_SIZE as usize).read_volatile() }
        }
    }

    impl Drop for Area {
        fn drop(&mut self) {
            // SAFETY: our own mapping, which nobody uses any more.
            unsafe { libc::munmap(self.0.cast(), self.1) };
        }
    }

    fn own() -> Pagemap {
        Pagemap::open(Pid(std::process::id() as i32)).unwrap()
    }

    fn shape(area: &Area, runs: &[PageRun]) -> Vec<(u64, u64, PageKind)> {
        let page = |addr: brant_base::Addr| (addr.0 - area.0 as u64) / PAGE_SIZE;
        runs.iter().map(|run| (page(run.range.start()), page(run.range.end()), run.kind)).collect()
    }

    #[test]
    fn anonymous_pages_are_found() {
        let area = Area::new(16, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1);
        [2, 3, 7].into_iter().for_each(|page| area.write(page));
        assert_eq!(area.read(10), 0);
        let read = own().populated_by_reading(area.range()).unwrap();
        let anonymous = |start, end| (start, end, PageKind::Anonymous);
        assert_eq!(shape(&area, &read), [anonymous(2, 4), anonymous(7, 8), anonymous(10, 11)]);
        if own().has_scan() {
            let scanned = own().populated(area.range()).unwrap();
            let expected = [anonymous(2, 4), anonymous(7, 8), (10, 11, PageKind::Zero)];
            assert_eq!(shape(&area, &scanned), expected);
        } else {
            eprintln!("skipped: this kernel has no PAGEMAP_SCAN");
        }
    }

    #[test]
    fn copied_pages_of_a_private_file_are_told_from_the_files() {
        let exe = File::open("/proc/self/exe").unwrap();
        let area = Area::new(8, libc::MAP_PRIVATE, exe.as_raw_fd());
        let _: Vec<u8> = (0..8).map(|page| area.read(page)).collect();
        area.write(5);
        let expected =
            [(0, 5, PageKind::FileOrShmem), (5, 6, PageKind::Anonymous), (6, 8, PageKind::FileOrShmem)];
        assert_eq!(shape(&area, &own().populated(area.range()).unwrap()), expected);
        assert_eq!(shape(&area, &own().populated_by_reading(area.range()).unwrap()), expected);
    }

    #[test]
    fn more_runs_than_one_scan_holds_are_joined() {
        let pages = 5 * REGIONS_PER_SCAN;
        let area = Area::new(pages, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1);
        (0..pages).step_by(2).for_each(|page| area.write(page));
        let runs = own().populated(area.range()).unwrap();
        assert_eq!(runs.len(), pages / 2);
        assert_eq!(runs, own().populated_by_reading(area.range()).unwrap());
        (0..pages).for_each(|page| area.write(page));
        assert_eq!(shape(&area, &own().populated(area.range()).unwrap()).len(), 1);
    }

    #[test]
    fn no_page_is_found_twice() {
        for pages in [1022, 1024, 1030, 1400, 2040, 2050, 3064, 3070, 4100] {
            let area = Area::new(pages, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1);
            (0..pages).step_by(2).for_each(|page| area.write(page));
            let runs = own().populated(area.range()).unwrap();
            assert_eq!(runs.len(), pages / 2);
            assert!(runs.windows(2).all(|pair| pair[0].range.end() < pair[1].range.start()), "{pages}");
        }
    }

    #[test]
    fn guards_are_not_mistaken_for_data() {
        const MADV_GUARD_INSTALL: i32 = 102;
        let area = Area::new(4, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1);
        area.write(1);
        // SAFETY: the first page of our own mapping.
        if unsafe { libc::madvise(area.0.cast(), PAGE_SIZE as usize, MADV_GUARD_INSTALL) } != 0 {
            return eprintln!("skipped: this kernel has no MADV_GUARD_INSTALL");
        }
        let expected = [(0, 1, PageKind::Guard), (1, 2, PageKind::Anonymous)];
        assert_eq!(shape(&area, &own().populated(area.range()).unwrap()), expected);
    }

    #[test]
    fn holes_of_shared_memory_are_found_without_moving_its_position() {
        // SAFETY: a constant name; the result is checked.
        let raw = unsafe { libc::memfd_create(c"holes".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(raw >= 0);
        // SAFETY: a new descriptor that nobody else owns.
        let file = unsafe { File::from_raw_fd(raw) };
        file.set_len(64 * PAGE_SIZE).unwrap();
        file.write_all_at(b"x", 3 * PAGE_SIZE).unwrap();
        file.write_all_at(b"y", 9 * PAGE_SIZE).unwrap();
        let page = |number| Extent { start: number * PAGE_SIZE, end: (number + 1) * PAGE_SIZE };
        assert_eq!(data_extents(file.as_fd()).unwrap(), [page(3), page(9)]);
        assert_eq!(seek(&file, 0, libc::SEEK_CUR).unwrap(), Some(0));
    }
}
