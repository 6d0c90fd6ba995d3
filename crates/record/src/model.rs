//! What a record says. Everything in a snapshot may be wrong; nothing here believes a number that it indexes by.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use crate::layout::{self, File, call_name, kind, mark, state};
use crate::snapshot::Snapshot;

/// From when on a process is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// The program's first instruction.
    Start,
    /// The wrapper was put on.
    Wrap,
    /// The fork that made it.
    Fork,
}

/// The external state of one process.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub begin: Begin,
    /// By the number that the program knows.
    pub pid: i32,
    pub parent: i32,
    /// Nanoseconds since 1970, as all times here.
    pub since_ns: u64,
    /// When it ended, where the wrapper was taken off.
    pub off_ns: Option<u64>,
    /// Events that are missing, and entries that could not be read whole.
    pub lost: u64,
    pub torn: u64,
    /// Open ones, by number.
    pub descriptors: Vec<Descriptor>,
    pub descriptors_not_kept: u64,
    pub opened: u64,
    pub open_failed: u64,
    /// Closed ones that are kept, in the order of their end, and how many there were.
    pub closed: Vec<Descriptor>,
    pub closed_count: u64,
    pub connect_failed: u64,
    pub redirections: Vec<Redirection>,
    pub redirection_count: u64,
    pub children: Vec<Child>,
    pub child_count: u64,
    pub children_not_kept: u64,
    pub exec_failed: u64,
    pub threads: Vec<Task>,
    pub thread_count: u64,
    pub threads_not_kept: u64,
    pub heap: HeapTotals,
    pub regions: Vec<Mapped>,
    pub region_count: u64,
    pub regions_not_kept: u64,
    pub sleeping: Vec<Sleeping>,
    pub sleeps: SleepTotals,
}

/// A descriptor.
#[derive(Debug, Clone, PartialEq)]
pub struct Descriptor {
    pub number: i32,
    pub what: What,
    /// The function that gave it.
    pub call: &'static str,
    /// As open(2) takes them.
    pub flags: u32,
    pub close_on_exec: bool,
    /// It was there before the recording began.
    pub is_before: bool,
    /// The parent had it.
    pub is_inherited: bool,
    /// Those with the same number share position and flags.
    pub description: u32,
    pub opened_ns: u64,
    pub closed_ns: u64,
    /// It was closed in a way that the record did not see.
    pub is_closed_unseen: bool,
}

/// What a descriptor is.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    File(Text),
    Folder(Text),
    Pipe {
        is_writing: bool,
        /// The descriptor of its other end when it was made.
        other: Option<i32>,
        /// As /proc calls it, where it was there before.
        name: Text,
    },
    Socket {
        family: i32,
        kind: u16,
        protocol: u16,
        state: SocketState,
        own: Address,
        peer: Address,
        shut_read: bool,
        shut_write: bool,
    },
    Memory(Text),
    Event,
    Timer,
    Signals,
    Epoll,
    Inotify,
    Process(Text),
    Other(Text),
}

/// Bytes of a name, and whether there were more of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Text {
    pub bytes: Vec<u8>,
    pub is_cut: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketState {
    New,
    Bound,
    Listening,
    Connecting,
    /// By connect.
    Connected,
    /// By accept.
    Accepted,
    Pair,
    /// A connection that could not be made.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    None,
    Inet(SocketAddr),
    Path(Vec<u8>),
    Abstract(Vec<u8>),
    /// A family that is not told apart.
    Other(u16),
}

/// A display that a socket is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Display {
    X11(u32),
    Wayland(Vec<u8>),
}

/// Descriptor 0, 1 or 2 became something else.
#[derive(Debug, Clone, PartialEq)]
pub struct Redirection {
    pub number: i32,
    pub call: &'static str,
    pub time_ns: u64,
    pub name: Vec<u8>,
}

/// A process that was started.
#[derive(Debug, Clone, PartialEq)]
pub struct Child {
    pub pid: i32,
    pub call: &'static str,
    pub command: Text,
    pub begun_ns: u64,
    /// As wait(2) gives it, and when it was waited for.
    pub ended: Option<(i32, u64)>,
    pub is_before: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// 0: not known.
    pub tid: u32,
    pub name: Vec<u8>,
    pub call: &'static str,
    pub creator: u32,
    pub routine: u64,
    pub begun_ns: u64,
    pub ended_ns: Option<u64>,
    pub is_before: bool,
}

/// The C library's heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeapTotals {
    pub allocations: u64,
    pub releases: u64,
    pub failed: u64,
    /// Of what was allocated and released; `None` where sizes are not known.
    pub bytes: Option<(u64, u64)>,
    pub break_calls: u64,
    pub break_now: u64,
}

/// A part of the address space.
#[derive(Debug, Clone, PartialEq)]
pub struct Mapped {
    pub start: u64,
    pub end: u64,
    /// PROT_ bits.
    pub protection: u32,
    /// MAP_ bits.
    pub flags: u32,
    pub name: Text,
    pub offset: u64,
    pub call: &'static str,
    pub since_ns: u64,
    pub is_before: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sleeping {
    pub tid: u32,
    pub call: &'static str,
    pub since_ns: u64,
    pub asked_ns: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SleepTotals {
    pub count: u64,
    pub asked_ns: u64,
    pub slept_ns: u64,
    pub cut_short: u64,
    pub not_kept: u64,
}

impl Record {
    pub fn of(snapshot: &Snapshot) -> Record {
        // A snapshot without a summary cannot be made.
        let summary = snapshot
            .summary()
            .unwrap_or_else(|| layout::Summary::decode(&[0; layout::Summary::BYTES]).expect("long enough"));
        let entries = |table: usize| snapshot.tables[table].iter().map(|(_, bytes)| &bytes[..]);
        let decoded = |table| entries(table).filter_map(File::decode).map(|file| descriptor(&file));
        let mut descriptors: Vec<Descriptor> = decoded(layout::FILES).collect();
        descriptors.sort_by_key(|descriptor| descriptor.number);
        let mut closed: Vec<Descriptor> = decoded(layout::CLOSED).collect();
        closed.sort_by_key(|descriptor| descriptor.closed_ns);
        let mut redirections: Vec<Redirection> = entries(layout::STANDARD)
            .filter_map(layout::Standard::decode)
            .map(|event| redirection(&event))
            .collect();
        redirections.sort_by_key(|event| event.time_ns);
        let processes = entries(layout::PROCESSES).filter_map(layout::Process::decode);
        let mut children: Vec<Child> =
            processes.filter(|process| process.pid != 0).map(|process| child(&process)).collect();
        children.sort_by_key(|child| (child.begun_ns, child.pid));
        let mut threads: Vec<Task> =
            entries(layout::THREADS).filter_map(layout::Thread::decode).map(|thread| task(&thread)).collect();
        threads.sort_by_key(|task| (task.begun_ns, task.tid));
        let mut regions: Vec<Mapped> = entries(layout::REGIONS)
            .filter_map(layout::Region::decode)
            .map(|region| mapped(&region))
            .collect();
        regions.sort_by_key(|region| region.start);
        let mut sleeping: Vec<Sleeping> = entries(layout::SLEEPERS)
            .filter_map(layout::Sleeper::decode)
            .map(|sleeper| sleeping_one(&sleeper))
            .collect();
        sleeping.sort_by_key(|sleeper| sleeper.since_ns);
        Record {
            begin: match summary.origin {
                layout::FROM_START => Begin::Start,
                layout::FROM_FORK => Begin::Fork,
                _ => Begin::Wrap,
            },
            pid: summary.pid as i32,
            parent: summary.parent as i32,
            since_ns: summary.since_ns,
            off_ns: (summary.state == layout::OFF).then_some(summary.off_ns),
            lost: summary.lost,
            torn: snapshot.torn,
            descriptors,
            descriptors_not_kept: summary.files_not_kept,
            opened: summary.opened,
            open_failed: summary.open_failed,
            closed,
            closed_count: summary.closed,
            connect_failed: summary.connect_failed,
            redirections,
            redirection_count: summary.used[layout::STANDARD],
            children,
            child_count: summary.processes_made,
            children_not_kept: summary.processes_not_kept,
            exec_failed: summary.exec_failed,
            threads,
            thread_count: summary.threads_made,
            threads_not_kept: summary.threads_not_kept,
            heap: heap(&summary, entries(layout::HEAP).filter_map(layout::Heap::decode)),
            regions,
            region_count: summary.regions_made,
            regions_not_kept: summary.regions_not_kept,
            sleeping,
            sleeps: SleepTotals {
                count: summary.sleeps,
                asked_ns: summary.sleep_asked_ns,
                slept_ns: summary.slept_ns,
                cut_short: summary.sleeps_cut_short,
                not_kept: summary.sleepers_not_kept,
            },
        }
    }
}

fn text(room: &[u8], bytes: usize, marks: u8) -> Text {
    Text { bytes: room[..bytes.min(room.len())].to_vec(), is_cut: marks & mark::CUT != 0 }
}

fn descriptor(file: &File) -> Descriptor {
    Descriptor {
        number: file.number,
        what: what(file),
        call: call_name(file.call),
        flags: file.flags,
        close_on_exec: file.marks & mark::CLOSE_ON_EXEC != 0,
        is_before: file.marks & mark::BEFORE != 0,
        is_inherited: file.marks & mark::INHERITED != 0,
        description: file.description,
        opened_ns: file.opened_ns,
        closed_ns: file.closed_ns,
        is_closed_unseen: file.marks & mark::CLOSED_UNSEEN != 0,
    }
}

fn what(file: &File) -> What {
    const O_ACCMODE: u32 = 3;
    let name = || text(&file.text, file.text_bytes.into(), file.marks);
    match file.kind {
        kind::FILE => What::File(name()),
        kind::FOLDER => What::Folder(name()),
        kind::PIPE => What::Pipe {
            is_writing: file.flags & O_ACCMODE != 0,
            other: (file.text_bytes == 0).then_some(file.family),
            name: name(),
        },
        kind::SOCKET => {
            let (own, peer) = file.text.split_at(layout::PEER_AT);
            let address = |room: &[u8], bytes: u16| address(&room[..usize::from(bytes).min(layout::PEER_AT)]);
            What::Socket {
                family: file.family,
                kind: file.socket_type,
                protocol: file.protocol,
                state: socket_state(file.state),
                own: address(own, file.text_bytes),
                peer: address(peer, file.peer_bytes),
                shut_read: file.marks & mark::SHUT_READ != 0,
                shut_write: file.marks & mark::SHUT_WRITE != 0,
            }
        }
        kind::EVENTFD => What::Event,
        kind::TIMERFD => What::Timer,
        kind::SIGNALFD => What::Signals,
        kind::EPOLL => What::Epoll,
        kind::MEMFD => What::Memory(name()),
        kind::INOTIFY => What::Inotify,
        kind::PIDFD => What::Process(name()),
        _ => What::Other(name()),
    }
}

fn socket_state(number: u8) -> SocketState {
    match number {
        state::BOUND => SocketState::Bound,
        state::LISTENING => SocketState::Listening,
        state::CONNECTING => SocketState::Connecting,
        state::CONNECTED => SocketState::Connected,
        state::ACCEPTED => SocketState::Accepted,
        state::PAIR => SocketState::Pair,
        state::FAILED => SocketState::Failed,
        _ => SocketState::New,
    }
}

const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// `struct sockaddr` of any family.
fn address(bytes: &[u8]) -> Address {
    let Some(family) = bytes.get(..2).map(|word| u16::from_le_bytes([word[0], word[1]])) else {
        return Address::None;
    };
    let port = || bytes.get(2..4).map(|port| u16::from_be_bytes([port[0], port[1]]));
    match family {
        AF_INET => match (port(), bytes.get(4..8)) {
            (Some(port), Some(ip)) => {
                let ip = Ipv4Addr::new(ip[0], ip[1], ip[2], ip[3]);
                Address::Inet(SocketAddr::V4(SocketAddrV4::new(ip, port)))
            }
            _ => Address::None,
        },
        AF_INET6 => match (port(), bytes.get(8..24).and_then(|ip| <[u8; 16]>::try_from(ip).ok())) {
            (Some(port), Some(ip)) => {
                Address::Inet(SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, 0)))
            }
            _ => Address::None,
        },
        AF_UNIX => match &bytes[2..] {
            [] => Address::None,
            [0, name @ ..] => Address::Abstract(name.to_vec()),
            path => Address::Path(path.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()),
        },
        other => Address::Other(other),
    }
}

impl Descriptor {
    /// The display that it is a connection to.
    pub fn display(&self) -> Option<Display> {
        const X11_PORTS: std::ops::Range<u16> = 6000..6100;
        const FOLDER: &[u8] = b"/tmp/.X11-unix/X";
        let What::Socket { peer, state, .. } = &self.what else { return None };
        if !matches!(state, SocketState::Connected | SocketState::Connecting) {
            return None;
        }
        match peer {
            Address::Inet(peer) if X11_PORTS.contains(&peer.port()) => {
                Some(Display::X11(u32::from(peer.port() - X11_PORTS.start)))
            }
            Address::Path(path) | Address::Abstract(path) => {
                if let Some(number) = path.strip_prefix(FOLDER) {
                    return std::str::from_utf8(number).ok()?.parse().ok().map(Display::X11);
                }
                let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
                name.starts_with(b"wayland-").then(|| Display::Wayland(name.to_vec()))
            }
            _ => None,
        }
    }

    /// The path of a graphics device.
    pub fn graphics_device(&self) -> Option<&[u8]> {
        let What::File(path) = &self.what else { return None };
        let is_device = |begin: &[u8]| path.bytes.starts_with(begin);
        let devices: [&[u8]; 4] = [b"/dev/dri/", b"/dev/nvidia", b"/dev/fb", b"/dev/kfd"];
        devices.into_iter().any(is_device).then_some(&path.bytes[..])
    }
}

fn redirection(event: &layout::Standard) -> Redirection {
    Redirection {
        number: event.number,
        call: call_name(event.call),
        time_ns: event.time_ns,
        name: text(&event.text, event.text_bytes.into(), 0).bytes,
    }
}

fn child(process: &layout::Process) -> Child {
    Child {
        pid: process.pid,
        call: call_name(process.call),
        command: text(&process.text, process.text_bytes as usize, process.marks),
        begun_ns: process.begun_ns,
        ended: (process.state == layout::ENDED).then_some((process.status, process.ended_ns)),
        is_before: process.marks & mark::BEFORE != 0,
    }
}

fn task(thread: &layout::Thread) -> Task {
    Task {
        tid: thread.tid,
        name: text(&thread.name, thread.name_bytes.into(), 0).bytes,
        call: call_name(thread.call),
        creator: thread.creator,
        routine: thread.routine,
        begun_ns: thread.begun_ns,
        ended_ns: (thread.state == layout::ENDED).then_some(thread.ended_ns),
        is_before: thread.marks & (mark::BEFORE | mark::INHERITED) != 0,
    }
}

fn mapped(region: &layout::Region) -> Mapped {
    Mapped {
        start: region.start,
        end: region.end,
        protection: region.protection,
        flags: region.flags,
        name: text(&region.text, region.text_bytes.into(), region.marks),
        offset: region.offset,
        call: call_name(region.call),
        since_ns: region.since_ns,
        is_before: region.marks & mark::BEFORE != 0,
    }
}

fn sleeping_one(sleeper: &layout::Sleeper) -> Sleeping {
    Sleeping {
        tid: sleeper.tid,
        call: call_name(sleeper.call),
        since_ns: sleeper.since_ns,
        asked_ns: sleeper.asked_ns,
    }
}

fn heap(summary: &layout::Summary, shards: impl Iterator<Item = layout::Heap>) -> HeapTotals {
    let mut totals = HeapTotals {
        break_calls: summary.break_calls,
        break_now: summary.break_now,
        ..HeapTotals::default()
    };
    let (mut bytes_in, mut bytes_out) = (0u64, 0u64);
    for shard in shards {
        totals.allocations = totals.allocations.wrapping_add(shard.allocations);
        totals.releases = totals.releases.wrapping_add(shard.releases);
        totals.failed = totals.failed.wrapping_add(shard.failed);
        bytes_in = bytes_in.wrapping_add(shard.bytes_in);
        bytes_out = bytes_out.wrapping_add(shard.bytes_out);
    }
    totals.bytes = (summary.heap_has_bytes != 0).then_some((bytes_in, bytes_out));
    totals
}
