//! Valid checkpoints from a seed: every kind of record, every field that nothing constrains at random.

use brant_base::{Addr, PageRange, Pid, Redacted, Tid};
use brant_image::model::*;

use super::Pages;

/// A source of numbers, texts and records. The same seed gives the same.
pub struct Generator(pub u64);

impl Generator {
    /// splitmix64.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn flag(&mut self) -> bool {
        self.below(2) == 1
    }

    /// Any number, the extremes more often than chance would have it.
    pub fn u64(&mut self) -> u64 {
        match self.below(4) {
            0 => [0, 1, u64::MAX, 1 << 63, 127, 128][self.below(6) as usize],
            1 => self.below(300),
            _ => self.next(),
        }
    }

    pub fn u32(&mut self) -> u32 {
        self.u64() as u32
    }

    pub fn i32(&mut self) -> i32 {
        self.u64() as i32
    }

    pub fn i64(&mut self) -> i64 {
        self.u64() as i64
    }

    pub fn bytes(&mut self, length_max: u64) -> Vec<u8> {
        let length = self.below(length_max + 1);
        (0..length).map(|_| self.next() as u8).collect()
    }

    pub fn secret(&mut self, length_max: u64) -> Redacted<Vec<u8>> {
        Redacted(self.bytes(length_max))
    }

    /// Without NUL.
    pub fn name(&mut self, length_max: u64) -> Vec<u8> {
        self.bytes(length_max).into_iter().map(|byte| byte.max(1)).collect()
    }

    pub fn text(&mut self) -> String {
        let letters = ["a", "ß", "\u{10ffff}", "/", " ", "\"", "\n"];
        (0..self.below(6)).map(|_| letters[self.below(7) as usize]).collect()
    }

    pub fn path(&mut self) -> Vec<u8> {
        [b"/".to_vec(), self.name(20)].concat()
    }

    pub fn one_of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }

    pub fn many<T>(&mut self, count_max: u64, mut make: impl FnMut(&mut Self, u32) -> T) -> Vec<T> {
        (0..self.below(count_max + 1)).map(|index| make(self, index as u32)).collect()
    }

    pub fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.flag().then(|| make(self))
    }

    pub fn signal(&mut self) -> i32 {
        1 + self.below(64) as i32
    }

    pub fn pid(&mut self) -> Pid {
        Pid(self.below(1 << 22) as i32)
    }

    fn addr(&mut self) -> Addr {
        Addr(self.u64())
    }

    /// A whole checkpoint.
    pub fn checkpoint(&mut self) -> Checkpoint {
        let mut checkpoint = Checkpoint {
            host: self.host(),
            clocks: Clocks { realtime_ns: self.i64(), monotonic_ns: self.i64(), boottime_ns: self.i64() },
            command: self.many(3, |g, _| g.bytes(12)),
            job: self.maybe(Self::text),
            ..Default::default()
        };
        self.tables(&mut checkpoint);
        let count = 1 + self.below(4) as i32;
        for index in 0..count {
            // Room for threads' numbers between those of processes.
            let pid = Pid(100 * (index + 1));
            let ppid = match index {
                0 => Pid(1),
                _ => Pid(100 * (1 + self.below(index as u64) as i32)),
            };
            let process = self.process(pid, ppid, &checkpoint);
            checkpoint.processes.push(process);
        }
        checkpoint.root = Pid(100);
        self.open_files(&mut checkpoint);
        for index in 0..checkpoint.processes.len() {
            self.descriptors(index, &mut checkpoint);
        }
        checkpoint
    }

    /// The checkpoint of a Windows program.
    pub fn windows(&mut self) -> Checkpoint {
        let range = |start: u64, pages: u64| PageRange::new(start, start + pages * 4096).unwrap();
        let mut start = 0x10000;
        let regions = self.many(4, |g, _| {
            let range = range(start, 1 + g.below(3));
            start = range.end().0 + 4096 * g.below(3);
            WindowsRegion { range, protection: g.u32() }
        });
        let state = range(start, 2);
        let regions = [regions, vec![WindowsRegion { range: state, protection: 4 }]].concat();
        let program = self.text();
        let module =
            |path: &str| WindowsModule { path: path.into(), range: range(1 << 32, 3), digest: [9; 32] };
        let windows = Windows {
            pid: 4 * (1 + self.below(1000) as u32),
            release: self.text(),
            command_line: self.text(),
            directory: self.text(),
            environment: self.many(3, |g, _| g.text()),
            state_version: self.u32(),
            state: state.start(),
            modules: vec![module(&program), module("C:\\x.dll")],
            heaps: if self.below(2) == 0 { Vec::new() } else { vec![range(0x10000, 16), range(0x40000, 2)] },
            regions,
            threads: vec![WindowsThread { number: self.u32(), function: self.text() }],
            handles: self.many(3, |g, _| WindowsHandle { value: g.u64(), what: g.text() }),
            program,
        };
        Checkpoint {
            root: Pid(windows.pid as i32),
            host: self.host(),
            windows: Some(windows),
            ..Default::default()
        }
    }

    /// A few pages of every owner that has any.
    pub fn pages(&mut self, checkpoint: &Checkpoint) -> Vec<Pages> {
        let mut pages = Vec::new();
        for process in &checkpoint.processes {
            for mapping in process.body.iter().flat_map(|body| &body.memory.mappings) {
                let first_page = mapping.range.start().0 / 4096;
                pages.push((PageOwner::Process(process.pid), first_page, self.page()));
            }
        }
        for region in checkpoint.windows.iter().flat_map(|windows| &windows.regions) {
            let first_page = region.range.start().0 / 4096;
            pages.push((PageOwner::Process(checkpoint.root), first_page, self.page()));
        }
        for memory in checkpoint.shared_memory.iter().filter(|memory| memory.bytes > 0) {
            pages.push((PageOwner::Shared(memory.id), (memory.bytes - 1) / 4096, self.page()));
        }
        for file in checkpoint.disk_files.iter().filter(|file| file.stored && file.size > 0) {
            pages.push((PageOwner::File(file.id), 0, self.page()));
        }
        pages
    }

    fn page(&mut self) -> Option<Vec<u8>> {
        let byte = self.next() as u8;
        self.maybe(|_| vec![byte; 4096])
    }

    fn host(&mut self) -> Host {
        Host {
            name: self.text(),
            kernel_release: self.text(),
            machine: "x86_64".to_owned(),
            xstate_features: self.u64(),
            xstate_layout: (2..2 + self.below(4) as u32)
                .map(|number| XstateComponent { number, offset: 576 + 256 * number, bytes: 8 * number })
                .collect(),
            cpu_flags: self.many(3, |g, _| g.text()),
            vdso: vec![self.next() as u8; 4096 * self.below(2) as usize],
        }
    }

    fn process(&mut self, pid: Pid, ppid: Pid, tables: &Checkpoint) -> Process {
        let state = match self.below(4) {
            0 => ProcessState::Zombie { status: self.i32() },
            1 => ProcessState::Stopped { signal: self.signal(), announced: self.below(2) == 0 },
            _ => ProcessState::Running,
        };
        let ended = matches!(state, ProcessState::Zombie { .. });
        Process {
            pid,
            ppid,
            pgid: self.pid(),
            sid: self.pid(),
            exit_signal: self.below(65) as i32,
            state,
            terminal: self.maybe(|g| g.known(&tables.terminals, |terminal| terminal.id)).flatten(),
            body: (!ended).then(|| self.body(pid, tables)),
            name: self.name(15),
        }
    }

    /// The id of one of the entries, if there are any.
    pub fn known<T, Id>(&mut self, entries: &[T], id: impl Fn(&T) -> Id) -> Option<Id> {
        let index = self.next() as usize % entries.len().max(1);
        entries.get(index).map(id)
    }

    fn body(&mut self, pid: Pid, tables: &Checkpoint) -> ProcessBody {
        let threads = self.threads(pid);
        ProcessBody {
            executable: tables.disk_files[0].id,
            cwd: self.path(),
            root: self.path(),
            umask: self.below(0o1000) as u32,
            credentials: Credentials {
                uids: std::array::from_fn(|_| self.u32()),
                gids: std::array::from_fn(|_| self.u32()),
                groups: self.many(3, |g, _| g.u32()),
                capabilities: std::array::from_fn(|_| self.u64()),
                securebits: self.u32(),
                no_new_privs: self.flag(),
            },
            limits: (0..16).map(|_| self.limit()).collect(),
            memory: self.memory(tables),
            descriptors: Vec::new(),
            actions: (0..64).map(|_| self.action()).collect(),
            pending: self.many(2, |g, _| g.queued()),
            interval_timers: std::array::from_fn(|_| IntervalTimer {
                value_ns: self.u64(),
                interval_ns: self.u64(),
            }),
            posix_timers: self.many(3, |g, id| g.posix_timer(id as i32, &threads)),
            record_locks: Vec::new(),
            threads,
            leader_exited: self.flag(),
            personality: self.u64(),
            dumpable: self.i32(),
            child_subreaper: self.flag(),
            oom_score_adj: self.i32(),
            thp_disabled: self.flag(),
            membarrier_registrations: self.u64(),
        }
    }

    fn limit(&mut self) -> Limit {
        let (a, b) = (self.u64(), self.u64());
        Limit { soft: a.min(b), hard: a.max(b) }
    }

    fn action(&mut self) -> SignalAction {
        if self.flag() {
            return SignalAction::default();
        }
        SignalAction { handler: self.addr(), flags: self.u64(), restorer: self.addr(), mask: self.u64() }
    }

    fn queued(&mut self) -> QueuedSignal {
        QueuedSignal { signal: self.signal(), info: Redacted(vec![self.next() as u8; 128]) }
    }

    fn posix_timer(&mut self, id: i32, threads: &[Thread]) -> PosixTimer {
        PosixTimer {
            id,
            clock: self.i32(),
            notify: self.i32(),
            signal: self.below(65) as i32,
            value: self.u64(),
            thread: self.maybe(|g| g.known(threads, |thread| thread.tid)).flatten(),
            remaining_ns: self.u64(),
            interval_ns: self.u64(),
            overrun: self.i32(),
        }
    }

    fn threads(&mut self, pid: Pid) -> Vec<Thread> {
        let count = 1 + self.below(3) as i32;
        (0..count).map(|index| self.thread(Tid(pid.0 + index))).collect()
    }

    fn thread(&mut self, tid: Tid) -> Thread {
        Thread {
            tid,
            name: self.name(15),
            registers: self.registers(),
            xstate: Redacted(vec![self.next() as u8; [0, 576, 2696][self.below(3) as usize]]),
            signal_mask: self.u64(),
            pending: self.many(2, |g, _| g.queued()),
            alternate_stack: AlternateStack { base: self.addr(), flags: self.i32(), bytes: self.u64() },
            rseq: self.maybe(|g| Rseq { area: g.addr(), bytes: g.u32(), signature: g.u32(), flags: g.u32() }),
            robust_list: self.maybe(|g| RobustList { head: g.addr(), bytes: g.u64() }),
            clear_tid: self.addr(),
            scheduling: Scheduling {
                policy: self.u32(),
                reset_on_fork: self.flag(),
                priority: self.u32(),
                nice: self.i32(),
                timer_slack_ns: self.u64(),
                affinity: self.many(3, |g, _| g.u32()),
                io_priority: self.u32(),
            },
            parent_death_signal: self.below(65) as i32,
            interrupted: self.maybe(|g| InterruptedCall { number: g.u64(), remaining_ns: g.u64() }),
        }
    }

    fn registers(&mut self) -> Registers {
        Registers {
            r15: self.u64(),
            r14: self.u64(),
            r13: self.u64(),
            r12: self.u64(),
            rbp: self.u64(),
            rbx: self.u64(),
            r11: self.u64(),
            r10: self.u64(),
            r9: self.u64(),
            r8: self.u64(),
            rax: self.u64(),
            rcx: self.u64(),
            rdx: self.u64(),
            rsi: self.u64(),
            rdi: self.u64(),
            rip: self.u64(),
            eflags: self.u64(),
            rsp: self.u64(),
            fs_base: self.u64(),
            gs_base: self.u64(),
        }
    }

    fn memory(&mut self, tables: &Checkpoint) -> AddressSpace {
        let mut pair = || (self.addr(), self.addr());
        let (code, data, (a, b), arguments, environment) = (pair(), pair(), pair(), pair(), pair());
        let layout = MemoryLayout {
            code,
            data,
            brk: (a.min(b), a.max(b)),
            stack_start: self.addr(),
            arguments,
            environment,
        };
        let mut mappings = Vec::new();
        let mut start = 0x1_0000 + 4096 * self.below(16);
        for _ in 0..self.below(6) {
            let end = start + 4096 * (1 + self.below(1 << 20));
            mappings.push(self.mapping(PageRange::new(start, end).unwrap(), tables));
            start = end + 4096 * self.below(3);
        }
        AddressSpace { layout, auxv: vec![self.next() as u8; 16 * self.below(4) as usize], mappings }
    }

    fn mapping(&mut self, range: PageRange, tables: &Checkpoint) -> Mapping {
        let offset = 4096 * self.below(1 << 30);
        let writable = self.flag();
        let file = Backing::File { file: tables.disk_files[0].id, offset, writable };
        let shared = self.known(&tables.shared_memory, |memory| memory.id);
        let shared = shared.map_or(file, |memory| Backing::Shared { memory, offset, writable });
        let backing = self.one_of(&[Backing::Anonymous, file, shared, Backing::Vdso, Backing::Vvar]);
        let private = self.flag() || backing == Backing::Anonymous;
        Mapping {
            range,
            protection: Protection { read: self.flag(), write: self.flag(), execute: self.flag() },
            sharing: if private { Sharing::Private } else { Sharing::Shared },
            backing,
            flags: MappingFlags {
                grows_down: self.flag(),
                no_reserve: self.flag(),
                locked: self.flag(),
                dont_fork: self.flag(),
                wipe_on_fork: self.flag(),
                dont_dump: self.flag(),
                mergeable: self.flag(),
                huge_page: self.flag(),
                no_huge_page: self.flag(),
                sequential: self.flag(),
                random: self.flag(),
                droppable: self.flag(),
            },
            name: self.maybe(|g| g.name(79)),
        }
    }
}
