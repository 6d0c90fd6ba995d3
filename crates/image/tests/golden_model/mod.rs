//! The checkpoint in the golden images: two processes and one of everything. Numbers are arbitrary but fixed.

use brant_base::{Addr, PageRange, Pid, Redacted, Tid};
use brant_image::model::*;

use crate::support::Pages;

pub(crate) fn checkpoint() -> Checkpoint {
    Checkpoint {
        host: Host {
            name: "host".into(),
            kernel_release: "6.18.0".into(),
            machine: "x86_64".into(),
            xstate_features: 0x2e7,
            xstate_layout: Vec::new(),
            cpu_flags: vec!["avx".into(), "sse2".into()],
            vdso: vec![0x7f; 4096],
        },
        clocks: Clocks { realtime_ns: 1_700_000_000_000_000_000, monotonic_ns: 5, boottime_ns: -6 },
        command: vec![b"sim".to_vec(), b"--fast".to_vec(), b"\xff".to_vec()],
        job: Some("sim".into()),
        root: Pid(100),
        processes: vec![parent(), child()],
        open_files: open_files(),
        disk_files: disk_files(),
        shared_memory: shared_memory(),
        pipes: pipes(),
        unix_sockets: unix_sockets(),
        inet_sockets: inet_sockets(),
        terminals: terminals(),
        windows: None,
    }
}

pub(crate) fn pages() -> Vec<Pages> {
    let page = |byte| Some(vec![byte; 4096]);
    vec![
        (PageOwner::Process(Pid(100)), 0x400, page(1)),
        (PageOwner::Process(Pid(100)), 0x401, None),
        (PageOwner::Process(Pid(100)), 0x7ff0, page(2)),
        (PageOwner::Shared(SharedMemoryId(0)), 1, page(3)),
        (PageOwner::Shared(SharedMemoryId(1)), 0, page(4)),
        (PageOwner::File(DiskFileId(2)), 0, page(5)),
        (PageOwner::File(DiskFileId(2)), 2, None),
    ]
}

fn parent() -> Process {
    let memory = AddressSpace {
        layout: MemoryLayout {
            code: (Addr(0x40_0000), Addr(0x40_1000)),
            data: (Addr(0x40_1000), Addr(0x40_2000)),
            brk: (Addr(0x50_0000), Addr(0x50_1000)),
            stack_start: Addr(0x7ff_0800),
            arguments: (Addr(0x7ff_0800), Addr(0x7ff_0900)),
            environment: (Addr(0x7ff_0900), Addr(0x7ff_0a00)),
        },
        auxv: vec![9; 32],
        mappings: mappings(),
    };
    let body = ProcessBody {
        executable: DiskFileId(0),
        cwd: b"/home/user".to_vec(),
        root: b"/".to_vec(),
        umask: 0o22,
        credentials: Credentials {
            uids: [1000; 4],
            gids: [1000, 1000, 1000, 27],
            groups: vec![27, 1000],
            capabilities: [0, 0, 0, 0x1ff_ffff_ffff, 0],
            securebits: 0,
            no_new_privs: true,
        },
        limits: vec![Limit { soft: 1024, hard: u64::MAX }; 16],
        memory,
        descriptors: (0..17)
            .map(|id| Descriptor { number: id, file: OpenFileId(id as u32), close_on_exec: id > 10 })
            .collect(),
        actions: actions(),
        pending: vec![QueuedSignal { signal: 34, info: Redacted(vec![34; 128]) }],
        interval_timers: [
            IntervalTimer { value_ns: 1, interval_ns: 2 },
            IntervalTimer::default(),
            IntervalTimer { value_ns: u64::MAX, interval_ns: 0 },
        ],
        posix_timers: vec![PosixTimer {
            id: 3,
            clock: 1,
            notify: 4,
            signal: 35,
            value: 0xdead_beef,
            thread: Some(Tid(102)),
            remaining_ns: 7,
            interval_ns: 8,
            overrun: 9,
        }],
        record_locks: vec![RecordLock { number: 3, exclusive: true, start: 10, length: 0 }],
        threads: vec![main_thread(), Thread { tid: Tid(102), name: b"worker".to_vec(), ..main_thread() }],
        leader_exited: false,
        personality: 0x4_0000,
        dumpable: 1,
        child_subreaper: true,
        oom_score_adj: -5,
        thp_disabled: true,
        membarrier_registrations: 0x10,
    };
    Process {
        pid: Pid(100),
        ppid: Pid(1),
        pgid: Pid(100),
        sid: Pid(100),
        exit_signal: 17,
        state: ProcessState::Stopped { signal: 20, announced: true },
        terminal: Some(TerminalId(0)),
        body: Some(body),
        name: b"sim".to_vec(),
    }
}

fn child() -> Process {
    Process {
        pid: Pid(101),
        ppid: Pid(100),
        pgid: Pid(100),
        sid: Pid(100),
        exit_signal: 17,
        state: ProcessState::Zombie { status: 256 },
        terminal: None,
        body: None,
        name: b"child".to_vec(),
    }
}

fn actions() -> Vec<SignalAction> {
    let mut actions = vec![SignalAction::default(); 64];
    actions[0].handler = Addr(1);
    actions[63] = SignalAction {
        handler: Addr(0x40_0100),
        flags: 0x1400_0004,
        restorer: Addr(0x40_0200),
        mask: u64::MAX,
    };
    actions
}

fn main_thread() -> Thread {
    Thread {
        tid: Tid(100),
        name: b"sim".to_vec(),
        registers: Registers {
            r15: 15,
            r14: 14,
            r13: 13,
            r12: 12,
            rbp: 0x7ff_0700,
            rbx: 3,
            r11: 11,
            r10: 10,
            r9: 9,
            r8: 8,
            rax: 230,
            rcx: 2,
            rdx: 4,
            rsi: 5,
            rdi: 6,
            rip: 0x40_0010,
            eflags: 0x246,
            rsp: 0x7ff_0600,
            fs_base: 0x50_0040,
            gs_base: 0,
        },
        xstate: Redacted(vec![0x55; 2696]),
        signal_mask: 1 << 63,
        pending: vec![QueuedSignal { signal: 10, info: Redacted(vec![10; 128]) }],
        alternate_stack: AlternateStack { base: Addr(0x50_0000), flags: 2, bytes: 8192 },
        rseq: Some(Rseq { area: Addr(0x50_0100), bytes: 32, signature: 0x5305_3053, flags: 0 }),
        robust_list: Some(RobustList { head: Addr(0x50_0200), bytes: 24 }),
        clear_tid: Addr(0x50_0300),
        scheduling: Scheduling {
            policy: 3,
            reset_on_fork: true,
            priority: 0,
            nice: -7,
            timer_slack_ns: 50_000,
            affinity: vec![0, 1],
            io_priority: 4,
        },
        parent_death_signal: 15,
        interrupted: Some(InterruptedCall { number: 230, remaining_ns: 1_500_000_000 }),
    }
}

fn mappings() -> Vec<Mapping> {
    let mapping = |start: u64, pages: u64, backing| Mapping {
        range: PageRange::new(start, start + 4096 * pages).unwrap(),
        protection: Protection { read: true, write: true, execute: false },
        sharing: Sharing::Private,
        backing,
        flags: MappingFlags::default(),
        name: None,
    };
    let file = |id, offset| Backing::File { file: DiskFileId(id), offset, writable: false };
    let memory = |id| Backing::Shared { memory: SharedMemoryId(id), offset: 4096, writable: true };
    let flags = MappingFlags { grows_down: true, no_reserve: true, random: true, ..Default::default() };
    vec![
        Mapping {
            protection: Protection { execute: true, ..Default::default() },
            ..mapping(0x40_0000, 1, file(0, 0))
        },
        mapping(0x40_1000, 1, file(0, 4096)),
        Mapping { name: Some(b"heap".to_vec()), ..mapping(0x50_0000, 1, Backing::Anonymous) },
        Mapping { sharing: Sharing::Shared, ..mapping(0x60_0000, 2, memory(0)) },
        Mapping { sharing: Sharing::Shared, ..mapping(0x60_2000, 1, memory(1)) },
        Mapping { flags, ..mapping(0x7ff_0000, 1, Backing::Anonymous) },
        mapping(0x800_0000, 4, Backing::Vvar),
        mapping(0x800_4000, 2, Backing::Vdso),
    ]
}

fn open_files() -> Vec<OpenFile> {
    let watch = EpollWatch { number: 5, file: OpenFileId(5), events: 0x8000_0001, data: u64::MAX };
    let timer = TimerFd { clock: 1, settime_flags: 1, remaining_ns: 2, interval_ns: 3, ticks: 4 };
    let kinds = vec![
        FileKind::Outside { stream: StandardStream::Input, description: "a pipe".into() },
        FileKind::TerminalSlave { terminal: TerminalId(0) },
        FileKind::TerminalMaster { terminal: TerminalId(0) },
        FileKind::Regular { file: DiskFileId(1) },
        FileKind::Directory { path: b"/tmp".to_vec() },
        FileKind::Pipe { pipe: PipeId(0) },
        FileKind::UnixSocket { socket: UnixSocketId(0) },
        FileKind::InetSocket { socket: InetSocketId(0) },
        FileKind::EventFd { counter: 12, semaphore: true },
        FileKind::Epoll { watches: vec![watch] },
        FileKind::TimerFd(timer),
        FileKind::SignalFd { mask: 0x4000 },
        FileKind::Inotify {
            watches: vec![InotifyWatch { descriptor: 1, path: b"/tmp/w".to_vec(), mask: 0xfff }],
        },
        FileKind::Memfd { memory: SharedMemoryId(1) },
        FileKind::PidFd { pid: Pid(101) },
        FileKind::Device { path: b"/dev/null".to_vec(), major: 1, minor: 3 },
        FileKind::PathOnly { path: b"/etc".to_vec() },
    ];
    let file = |(id, kind)| OpenFile {
        id: OpenFileId(id as u32),
        flags: 0o2,
        position: 100 * id as u64,
        owner: None,
        kind,
        locks: Vec::new(),
    };
    let mut files: Vec<OpenFile> = kinds.into_iter().enumerate().map(file).collect();
    files[3].locks = vec![
        FileLock { kind: FileLockKind::Flock, exclusive: false },
        FileLock { kind: FileLockKind::Ofd { start: 1, length: 2 }, exclusive: true },
    ];
    files[5].owner = Some(FileOwner { kind: FileOwnerKind::Group(Pid(100)), signal: 29 });
    files
}

fn disk_files() -> Vec<DiskFile> {
    let file = |id, path: &[u8]| DiskFile {
        id: DiskFileId(id),
        path: path.to_vec(),
        size: 10_000,
        mode: 0o100_755,
        device: 0xfd00,
        inode: 40 + u64::from(id),
        modified_ns: -1,
        ..Default::default()
    };
    vec![
        DiskFile { build_id: vec![0xb1; 20], digest: vec![0xd1; 32], ..file(0, b"/usr/bin/sim") },
        DiskFile { written: true, ..file(1, b"/home/user/data") },
        DiskFile { deleted: true, stored: true, ..file(2, b"/tmp/gone\xff") },
    ]
}

fn shared_memory() -> Vec<SharedMemory> {
    let memfd = SharedMemoryKind::Memfd { name: b"buffer".to_vec(), seals: 7, mode: 0o777 };
    vec![
        SharedMemory { id: SharedMemoryId(0), bytes: 8192, kind: SharedMemoryKind::Anonymous },
        SharedMemory { id: SharedMemoryId(1), bytes: 100, kind: memfd },
    ]
}

fn pipes() -> Vec<Pipe> {
    vec![
        Pipe {
            id: PipeId(0),
            fifo: None,
            capacity_bytes: 65536,
            in_flight: vec![Redacted(b"one".to_vec()), Redacted(b"two".to_vec())],
            packets: true,
        },
        Pipe {
            id: PipeId(1),
            fifo: Some(b"/tmp/fifo".to_vec()),
            capacity_bytes: 4096,
            in_flight: vec![],
            packets: false,
        },
    ]
}

fn unix_sockets() -> Vec<UnixSocket> {
    let socket = |id, state| UnixSocket { id: UnixSocketId(id), kind: 1, state, ..Default::default() };
    let connected = |peer| UnixSocketState::Connected { peer: UnixSocketId(peer) };
    let option = SocketOption { level: 1, name: 16, value: vec![1, 0, 0, 0] };
    let message = UnixMessage {
        bytes: Redacted(b"hello".to_vec()),
        files: vec![OpenFileId(3)],
        sender: b"/tmp/s".to_vec(),
    };
    vec![
        UnixSocket { queue: vec![message], shutdown: 2, ..socket(0, connected(1)) },
        UnixSocket { options: SocketOptions(vec![option]), ..socket(1, connected(0)) },
        UnixSocket {
            address: b"\0abstract".to_vec(),
            ..socket(2, UnixSocketState::Listening { backlog: 5 })
        },
        UnixSocket {
            address: b"/tmp/x".to_vec(),
            address_deleted: true,
            ..socket(3, UnixSocketState::PeerClosed)
        },
        socket(4, UnixSocketState::Unconnected),
    ]
}

fn inet_sockets() -> Vec<InetSocket> {
    let listening = InetSocket {
        id: InetSocketId(0),
        family: 2,
        kind: 1,
        protocol: 6,
        local: vec![2, 0, 0x1f, 0x90, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        listening: Some(128),
        ..Default::default()
    };
    let datagram = InetSocket {
        id: InetSocketId(1),
        family: 10,
        kind: 2,
        protocol: 17,
        local: vec![10; 28],
        peer: vec![11; 28],
        ..Default::default()
    };
    vec![listening, datagram]
}

fn terminals() -> Vec<Terminal> {
    vec![Terminal {
        id: TerminalId(0),
        index: Some(4),
        inside: true,
        settings: vec![0x7e; 44],
        window: [24, 80, 0, 65535],
        session: Pid(100),
        foreground: Pid(100),
        input: Redacted(b"ls\n".to_vec()),
        output: Redacted(b"$ ".to_vec()),
        locked: true,
        packet_mode: true,
        exclusive: true,
    }]
}
