//! A checkpoint as plain data. One file for each kind; capture's and restore's folders mirror the names.
//!
//! All process and thread numbers are the job's own (the innermost pid namespace's), all paths are as the
//! program sees them. Things that several processes share (open files, shared memory, disk files) lie in
//! tables of the [`Checkpoint`] and are named by id; an id is the entry's `id` field, unique in its table.

mod files;
mod memory;
mod process;
mod signals;
mod sockets;
mod terminals;
mod thread;
mod timers;
mod windows;

pub use files::*;
pub use memory::*;
pub use process::*;
pub use signals::*;
pub use sockets::*;
pub use terminals::*;
pub use thread::*;
pub use timers::*;
pub use windows::*;

/// A whole checkpoint, without the bulk bytes: pages and blobs lie in sections of their own, named by
/// [`PageOwner`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Checkpoint {
    /// The host that it was taken on.
    pub host: Host,
    /// The clocks as the program saw them when it was frozen.
    pub clocks: Clocks,
    /// The command line of the root process, for people.
    pub command: Vec<Vec<u8>>,
    /// The job's name, where it had one.
    pub job: Option<String>,
    /// The root of the tree; its entry is in `processes`, or it is `windows`.
    pub root: brant_base::Pid,
    /// Parents stand before their children.
    pub processes: Vec<Process>,
    /// Open file descriptions, shared by descriptors (and by descriptors in flight).
    pub open_files: Vec<OpenFile>,
    /// Files on disk that are open or mapped.
    pub disk_files: Vec<DiskFile>,
    /// Shared memory: anonymous shared mappings and memfds.
    pub shared_memory: Vec<SharedMemory>,
    /// Pipes and fifos.
    pub pipes: Vec<Pipe>,
    /// Unix sockets.
    pub unix_sockets: Vec<UnixSocket>,
    /// Internet sockets.
    pub inet_sockets: Vec<InetSocket>,
    /// Pseudo-terminals, inside the tree or relayed.
    pub terminals: Vec<Terminal>,
    /// A Windows program instead of `processes` and all that is theirs.
    pub windows: Option<Windows>,
}

impl Checkpoint {
    /// Whose pages hold the contents of a stored file: those of carried files with the same contents are stored once.
    pub fn contents_of(&self, file: &DiskFile) -> PageOwner {
        let same = |other: &&DiskFile| {
            other.carried != Carried::No && (other.size, &other.digest) == (file.size, &file.digest)
        };
        let first = self.disk_files.iter().find(same).filter(|_| file.carried != Carried::No);
        PageOwner::File(first.unwrap_or(file).id)
    }
}

/// Where the checkpoint was taken.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Host {
    /// `uname -n`.
    pub name: String,
    /// `uname -r`.
    pub kernel_release: String,
    /// `uname -m`; only `x86_64` so far.
    pub machine: String,
    /// XCR0: the state components that the CPU and kernel had enabled.
    pub xstate_features: u64,
    /// Where they lie in [`Thread::xstate`]; empty in an image whose CPU had the usual places of this host.
    pub xstate_layout: Vec<XstateComponent>,
    /// CPU flags of /proc/cpuinfo, sorted.
    pub cpu_flags: Vec<String>,
    /// The vdso's bytes (page multiple), as mapped in the root process.
    pub vdso: Vec<u8>,
}

/// A component of the CPU's extended state beyond x87 and SSE, whose places are fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct XstateComponent {
    /// The bit in XCR0; 2 to 62.
    pub number: u32,
    /// Both in bytes.
    pub offset: u32,
    pub bytes: u32,
}

/// Clock readings in nanoseconds, as the program saw them (its time namespace).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Clocks {
    pub realtime_ns: i64,
    pub monotonic_ns: i64,
    pub boottime_ns: i64,
}

/// Whose bytes a run of pages is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PageOwner {
    /// Private memory of a process; page numbers are addresses / 4096.
    Process(brant_base::Pid),
    /// Shared memory; page numbers are offsets / 4096.
    Shared(SharedMemoryId),
    /// Contents of a disk file that travels in the image; page numbers are offsets / 4096.
    File(DiskFileId),
}
