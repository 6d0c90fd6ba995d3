//! What can go wrong. No error holds memory of an allocator: they come up while the program's own heap is being saved.

use std::fmt;

/// Text of a bounded length, cut where it is longer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Label {
    bytes: [u8; 63],
    len: u8,
}

impl Label {
    pub(crate) fn new(text: &[u8]) -> Label {
        let mut label = Label { bytes: [0; 63], len: 0 };
        for byte in text.iter().take(label.bytes.len()) {
            label.bytes[usize::from(label.len)] =
                if byte.is_ascii_graphic() || *byte == b' ' { *byte } else { b'?' };
            label.len += 1;
        }
        label
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or("")
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.text(), f)
    }
}

/// Why something could not be done with a heap or an image of heaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A name is empty, too long or not printable.
    Name,
    /// There is a heap of that name.
    Exists(Label),
    /// Something lies where the heap must lie.
    Taken { start: usize, end: usize, by: Label, by_start: usize, by_end: usize },
    /// The kernel gives no address space or memory.
    NoMemory { bytes: usize, errno: i32 },
    /// The process has as many heaps as it can.
    TooMany,
    /// There is no heap of that name.
    NoHeap(Label),
    /// A size or an address of a range is out of bounds.
    Range { bytes: usize },
    /// There is no root of that name.
    NoRoot(Label),
    /// The root is there, but of another kind or size.
    RootKind { root: Label, wanted: &'static str },
    /// A root must lie in its heap.
    RootOutside(Label),
    /// All roots are in use.
    RootsFull,
    /// A fault that debug mode found.
    Fault(Fault),
    /// The heap lies where the kernel put it.
    Private,
    /// The file is not an image of heaps.
    NotAnImage,
    /// A format or layout of another version.
    Version { found: u32, known: u32 },
    /// The image is damaged.
    Damaged { what: &'static str, at: u64 },
    /// Too many heaps for one image.
    TooManyForImage,
    /// A file could not be opened or read.
    Read { errno: i32 },
    /// A file could not be written.
    Write { errno: i32 },
    /// Another process has been writing this image for too long.
    Busy,
    /// Something that is not an image has the name that the image should get.
    InTheWay,
    /// Another thread used a heap while it was saved.
    InUse(Label),
    /// Blocks hold addresses of code or of a library's data.
    CodePointers { count: usize, block: usize, offset: usize, value: usize, module: Label },
}

/// What debug mode finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It was freed before.
    DoubleFree { address: usize },
    /// Bytes behind the block were written.
    Overrun { address: usize, bytes: usize },
    /// Bytes before the block were written.
    Underrun { address: usize },
    /// It is no block of this heap.
    Foreign { address: usize },
    /// A free block was written.
    WriteAfterFree { address: usize },
}

impl Error {
    /// The stable code that `brant explain` expands.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Name => "B-1201",
            Error::Exists(_) => "B-1202",
            Error::Taken { .. } => "B-1203",
            Error::NoMemory { .. } => "B-1204",
            Error::TooMany | Error::TooManyForImage | Error::RootsFull => "B-1205",
            Error::NoHeap(_) => "B-1206",
            Error::Range { .. } => "B-1207",
            Error::NoRoot(_) => "B-1208",
            Error::RootKind { .. } | Error::RootOutside(_) => "B-1209",
            Error::Fault(fault) => fault.code(),
            Error::Private => "B-1220",
            Error::NotAnImage => "B-1221",
            Error::Version { .. } => "B-1222",
            Error::Damaged { .. } => "B-1223",
            Error::Read { .. } => "B-1224",
            Error::Write { .. } => "B-1225",
            Error::Busy => "B-1226",
            Error::InTheWay => "B-1227",
            Error::CodePointers { .. } => "B-1228",
            Error::InUse(_) => "B-1229",
        }
    }
}

impl Fault {
    /// The stable code that `brant explain` expands.
    pub fn code(&self) -> &'static str {
        match self {
            Fault::DoubleFree { .. } => "B-1211",
            Fault::Overrun { .. } => "B-1212",
            Fault::Underrun { .. } => "B-1213",
            Fault::Foreign { .. } => "B-1214",
            Fault::WriteAfterFree { .. } => "B-1215",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Name => {
                f.write_str("a name has 1 to 63 (a root's: 39) printable characters without a space")
            }
            Error::Exists(name) => write!(f, "there is a heap {name:?} in this process"),
            Error::Taken { start, end, by, by_start, by_end } => {
                write!(
                    f,
                    "the heap must lie at {start:#x}-{end:#x}, but {by} lies at {by_start:#x}-{by_end:#x}"
                )
            }
            Error::NoMemory { bytes, errno } => {
                write!(f, "the kernel gives no {bytes} bytes: {}", Errno(*errno))
            }
            Error::TooMany => f.write_str("a process can have 1000 heaps"),
            Error::NoHeap(name) => write!(f, "there is no heap {name:?}"),
            Error::Range { bytes } => {
                write!(
                    f,
                    "a heap's range has 4 MiB to 1 TiB and begins at a multiple of 2 MiB; {bytes:#x} does not do"
                )
            }
            Error::NoRoot(name) => write!(f, "there is no root {name:?}"),
            Error::RootKind { root, wanted } => write!(f, "the root {root:?} is no {wanted}"),
            Error::RootOutside(root) => {
                write!(f, "what the root {root:?} names does not lie in a live block of its heap")
            }
            Error::RootsFull => f.write_str("a heap can have 128 roots"),
            Error::Fault(fault) => fault.fmt(f),
            Error::Private => f.write_str("the heap lies where the kernel put it, so it cannot be saved"),
            Error::NotAnImage => f.write_str("this is not an image of heaps"),
            Error::Version { found, known } => write!(f, "it has version {found}; this brant knows {known}"),
            Error::Damaged { what, at } => write!(f, "damaged at {at:#x}: {what}"),
            Error::TooManyForImage => f.write_str("an image can have 256 heaps"),
            Error::Read { errno } => write!(f, "the image cannot be read: {}", Errno(*errno)),
            Error::Write { errno } => write!(f, "the image cannot be written: {}", Errno(*errno)),
            Error::Busy => f.write_str("another process has been writing this image for half a minute"),
            Error::InTheWay => f.write_str("a file that is no image of heaps has this name"),
            Error::InUse(heap) => {
                write!(f, "another thread allocated from heap {heap:?}, or freed, while it was saved")
            }
            Error::CodePointers { count, block, offset, value, module } => write!(
                f,
                "{count} words in live blocks are addresses in loaded modules, the first one {value:#x} of {module} at offset \
                 {offset} of the block at {block:#x}"
            ),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::DoubleFree { address } => write!(f, "the block at {address:#x} was freed twice"),
            Fault::Overrun { address, bytes } => {
                write!(f, "bytes behind the block of {bytes} bytes at {address:#x} were written")
            }
            Fault::Underrun { address } => write!(f, "bytes before the block at {address:#x} were written"),
            Fault::Foreign { address } => {
                write!(f, "{address:#x} is not the address of a block of this heap")
            }
            Fault::WriteAfterFree { address } => write!(f, "the free block at {address:#x} was written"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Error {
        Error::Fault(fault)
    }
}

/// An error number in words.
struct Errno(i32);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }
}
