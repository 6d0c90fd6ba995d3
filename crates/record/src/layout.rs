//! The tables in the memory of a recorded program, version 1.
//!
//! The library that is loaded exports [`Head`] as [`SYMBOL`]. It leads to one region of memory with all tables; a table is
//! entries of one size. An entry that begins with `sequence` is guarded by it: odd while it is being written, another even
//! number afterwards, 0 where it was never used. Everything else is single numbers.
//!
//! All numbers are little-endian. Layouts are only ever added to with another [`VERSION`].

use core::mem::offset_of;

/// What the library exports.
pub const SYMBOL: &[u8] = b"BRANT_RECORD";
pub const MAGIC: [u8; 8] = *b"BRANTREC";
pub const VERSION: u32 = 1;

/// A type of fixed size of which all bytes are valid.
pub trait Plain: Sized {
    fn at(bytes: &[u8], offset: usize) -> Option<Self>;
}

macro_rules! plain {
    ($($kind:ty)+) => {
        $(impl Plain for $kind {
            fn at(bytes: &[u8], offset: usize) -> Option<Self> {
                let end = offset.checked_add(size_of::<$kind>())?;
                Some(<$kind>::from_le_bytes(bytes.get(offset..end)?.try_into().ok()?))
            }
        })+
    };
}
plain!(u8 u16 u32 i32 u64 i64);

impl<const N: usize> Plain for [u8; N] {
    fn at(bytes: &[u8], offset: usize) -> Option<Self> {
        bytes.get(offset..offset.checked_add(N)?)?.try_into().ok()
    }
}

impl<const N: usize> Plain for [u64; N] {
    fn at(bytes: &[u8], offset: usize) -> Option<Self> {
        let mut words = [0; N];
        for (index, word) in words.iter_mut().enumerate() {
            *word = u64::at(bytes, offset + index * 8)?;
        }
        Some(words)
    }
}

/// Declares a struct with the layout of C, and how it is read from bytes.
macro_rules! layout {
    ($(#[$about:meta])* $name:ident, $bytes:literal { $($(#[$doc:meta])* $field:ident: $kind:ty,)+ }) => {
        $(#[$about])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy)]
        pub struct $name { $($(#[$doc])* pub $field: $kind,)+ }

        impl $name {
            pub const BYTES: usize = $bytes;

            /// From its bytes; `None` where they are too few.
            pub fn decode(bytes: &[u8]) -> Option<$name> {
                Some($name { $($field: <$kind as Plain>::at(bytes, offset_of!($name, $field))?,)+ })
            }
        }

        const _: () = assert!(size_of::<$name>() == $bytes);
    };
}

layout! {
    /// What the symbol names.
    Head, 32 {
        magic: [u8; 8],
        version: u32,
        /// Of [`Summary`].
        summary_bytes: u32,
        /// Where the tables are, each at its [`TABLES`] place; 0: there are none.
        region: u64,
        region_bytes: u64,
    }
}

/// A table: where it is in the region, and how large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    pub offset: usize,
    pub entry_bytes: usize,
    pub capacity: usize,
    /// The oldest entries are written over.
    pub is_ring: bool,
}

pub const SUMMARY: usize = 0;
/// By descriptor number.
pub const FILES: usize = 1;
/// Descriptors that were closed.
pub const CLOSED: usize = 2;
pub const PROCESSES: usize = 3;
pub const THREADS: usize = 4;
pub const REGIONS: usize = 5;
pub const SLEEPERS: usize = 6;
/// What became of descriptors 0, 1 and 2.
pub const STANDARD: usize = 7;
pub const HEAP: usize = 8;
pub const TABLE_COUNT: usize = 9;

/// Entry size, capacity, whether it is a ring.
const SHAPES: [(usize, usize, bool); TABLE_COUNT] = [
    (Summary::BYTES, 1, false),
    (File::BYTES, 8192, false),
    (File::BYTES, 1024, true),
    (Process::BYTES, 1024, false),
    (Thread::BYTES, 2048, false),
    (Region::BYTES, 4096, false),
    (Sleeper::BYTES, 1024, false),
    (Standard::BYTES, 64, true),
    (Heap::BYTES, 1025, false),
];

/// All tables, one behind the other on pages of their own.
pub const TABLES: [Table; TABLE_COUNT] = {
    let mut tables = [Table { offset: 0, entry_bytes: 0, capacity: 0, is_ring: false }; TABLE_COUNT];
    let (mut index, mut offset) = (0, 0);
    while index < TABLE_COUNT {
        let (entry_bytes, capacity, is_ring) = SHAPES[index];
        tables[index] = Table { offset, entry_bytes, capacity, is_ring };
        offset = (offset + entry_bytes * capacity).next_multiple_of(4096);
        index += 1;
    }
    tables
};

pub const REGION_BYTES: usize = {
    let last = TABLES[TABLE_COUNT - 1];
    (last.offset + last.entry_bytes * last.capacity).next_multiple_of(4096)
};

/// [`Summary::state`].
pub const ON: u64 = 1;
pub const OFF: u64 = 2;

/// [`Summary::origin`]: since the program's first instruction, since the wrapper was put on, since the fork that made it.
pub const FROM_START: u64 = 1;
pub const FROM_WRAP: u64 = 2;
pub const FROM_FORK: u64 = 3;

layout! {
    /// Numbers, each for itself.
    Summary, 512 {
        state: u64,
        origin: u64,
        pid: u64,
        parent: u64,
        /// Since when, and until when: nanoseconds since 1970.
        since_ns: u64,
        off_ns: u64,
        /// Events that were not recorded, as the place for them was being written.
        lost: u64,
        opened: u64,
        open_failed: u64,
        closed: u64,
        /// Descriptors with numbers beyond the table.
        files_not_kept: u64,
        connect_failed: u64,
        processes_made: u64,
        processes_not_kept: u64,
        exec_failed: u64,
        threads_made: u64,
        threads_not_kept: u64,
        regions_made: u64,
        regions_not_kept: u64,
        break_calls: u64,
        break_now: u64,
        sleeps: u64,
        sleep_asked_ns: u64,
        slept_ns: u64,
        sleeps_cut_short: u64,
        sleepers_not_kept: u64,
        /// 1 where sizes of blocks are known, 0 where only calls are counted.
        heap_has_bytes: u64,
        /// How the descriptor's number was given to this process.
        next_description: u64,
        /// One beyond the last entry of each table that was ever used; of rings: entries ever written.
        used: [u64; 12],
        reserved: [u64; 24],
    }
}

/// [`File::kind`].
pub mod kind {
    pub const FILE: u8 = 1;
    pub const FOLDER: u8 = 2;
    pub const PIPE: u8 = 3;
    pub const SOCKET: u8 = 4;
    pub const EVENTFD: u8 = 5;
    pub const TIMERFD: u8 = 6;
    pub const SIGNALFD: u8 = 7;
    pub const EPOLL: u8 = 8;
    pub const MEMFD: u8 = 9;
    pub const INOTIFY: u8 = 10;
    pub const PIDFD: u8 = 11;
    /// The text is what /proc says.
    pub const OTHER: u8 = 12;
}

/// [`File::state`]. Of sockets the ones from `BOUND` on.
pub mod state {
    pub const CLOSED: u8 = 0;
    pub const OPEN: u8 = 1;
    pub const BOUND: u8 = 2;
    pub const LISTENING: u8 = 3;
    pub const CONNECTING: u8 = 4;
    pub const CONNECTED: u8 = 5;
    pub const ACCEPTED: u8 = 6;
    pub const PAIR: u8 = 7;
    /// A connection that could not be made.
    pub const FAILED: u8 = 8;
}

/// [`File::marks`], and those of the other entries.
pub mod mark {
    /// It was there before the recording began.
    pub const BEFORE: u8 = 1;
    /// The parent had it.
    pub const INHERITED: u8 = 2;
    pub const CLOSE_ON_EXEC: u8 = 4;
    /// The text was longer.
    pub const CUT: u8 = 8;
    /// It was closed in a way that was not seen.
    pub const CLOSED_UNSEEN: u8 = 16;
    pub const SHUT_READ: u8 = 32;
    pub const SHUT_WRITE: u8 = 64;
}

pub const TEXT_BYTES: usize = 328;
/// A socket's own address stands at the beginning of the text, that of its peer here.
pub const PEER_AT: usize = 128;

layout! {
    /// A descriptor.
    File, 384 {
        sequence: u32,
        number: i32,
        kind: u8,
        state: u8,
        /// One of `CALLS`.
        call: u8,
        marks: u8,
        /// As open(2) takes them.
        flags: u32,
        tid: u32,
        /// Descriptors with the same one share position and flags.
        description: u32,
        opened_ns: u64,
        closed_ns: u64,
        /// Of a socket: family, type, protocol. Of a pipe: the other end, as a number.
        family: i32,
        socket_type: u16,
        protocol: u16,
        /// Of a socket: of its own address. Of others: of the text.
        text_bytes: u16,
        peer_bytes: u16,
        text: [u8; 328],
        reserved: u32,
    }
}

pub const PROCESS_TEXT_BYTES: usize = 160;
/// [`Process::state`].
pub const RUNNING: u8 = 1;
pub const ENDED: u8 = 2;

layout! {
    /// A child.
    Process, 224 {
        sequence: u32,
        pid: i32,
        state: u8,
        call: u8,
        marks: u8,
        unused: u8,
        /// As wait(2) gives it.
        status: i32,
        tid: u32,
        text_bytes: u32,
        begun_ns: u64,
        ended_ns: u64,
        /// Of popen: the stream.
        handle: u64,
        text: [u8; 160],
        reserved: [u64; 2],
    }
}

layout! {
    /// A thread.
    Thread, 96 {
        sequence: u32,
        tid: u32,
        state: u8,
        call: u8,
        marks: u8,
        name_bytes: u8,
        creator: u32,
        handle: u64,
        routine: u64,
        begun_ns: u64,
        ended_ns: u64,
        name: [u8; 16],
        reserved: [u64; 4],
    }
}

pub const REGION_TEXT_BYTES: usize = 128;

layout! {
    /// A part of the address space.
    Region, 192 {
        sequence: u32,
        protection: u32,
        flags: u32,
        /// -1: none.
        file: i32,
        start: u64,
        end: u64,
        offset: u64,
        since_ns: u64,
        call: u8,
        marks: u8,
        text_bytes: u16,
        unused: u32,
        text: [u8; 128],
        reserved: u64,
    }
}

layout! {
    /// A thread that sleeps.
    Sleeper, 64 {
        sequence: u32,
        tid: u32,
        /// 0: it does not sleep.
        call: u8,
        marks: u8,
        unused: u16,
        reserved: u32,
        since_ns: u64,
        asked_ns: u64,
        /// The stack pointer of its call.
        frame: u64,
        key: u64,
        spare: [u64; 2],
    }
}

pub const STANDARD_TEXT_BYTES: usize = 96;

layout! {
    /// A descriptor 0, 1 or 2 that became something else.
    Standard, 128 {
        sequence: u32,
        number: i32,
        call: u8,
        kind: u8,
        text_bytes: u16,
        tid: u32,
        time_ns: u64,
        text: [u8; 96],
        reserved: u64,
    }
}

layout! {
    /// What one thread did with the C library's heap; the last entry is for all those that have none.
    Heap, 64 {
        key: u64,
        allocations: u64,
        releases: u64,
        bytes_in: u64,
        bytes_out: u64,
        failed: u64,
        spare: [u64; 2],
    }
}

/// Declares the functions by number.
macro_rules! calls {
    ($($name:ident = $number:literal,)+) => {
        /// The functions by which something came to be.
        #[allow(non_upper_case_globals)]
        pub mod call {
            $(pub const $name: u8 = $number;)+
        }

        /// The name of a call's number.
        pub fn call_name(number: u8) -> &'static str {
            match number {
                $($number => stringify!($name),)+
                _ => "unknown",
            }
        }
    };
}

calls! {
    before = 1, open = 2, openat = 3, creat = 4, fopen = 5, freopen = 6, opendir = 7, dup = 8, dup2 = 9, dup3 = 10,
    fcntl = 11, pipe = 12, pipe2 = 13, socket = 14, socketpair = 15, accept = 16, accept4 = 17, eventfd = 18,
    timerfd_create = 19, signalfd = 20, memfd_create = 21, epoll_create = 22, epoll_create1 = 23, inotify_init = 24,
    inotify_init1 = 25, pidfd_open = 26, shm_open = 27, tmpfile = 28, recvmsg = 29, close = 30, fclose = 31,
    close_range = 32, closefrom = 33, closedir = 34, fdopendir = 35, popen = 36, pclose = 37, syscall = 38,
    fork = 50, posix_spawn = 51, posix_spawnp = 52, system = 53, execve = 54, forkpty = 55, wait = 56, clone = 57,
    pthread_create = 70, pthread_exit = 71, pthread_join = 72,
    mmap = 80, mremap = 81, shmat = 82, mprotect = 83,
    sleep = 100, usleep = 101, nanosleep = 102, clock_nanosleep = 103,
}
