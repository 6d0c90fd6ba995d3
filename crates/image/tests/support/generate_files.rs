//! The tables of files, sockets, pipes and terminals of a generated checkpoint.

use brant_base::{Pid, Tid};
use brant_image::model::*;

use super::generate::Generator;

impl Generator {
    /// Everything that open files refer to.
    pub(super) fn tables(&mut self, checkpoint: &mut Checkpoint) {
        checkpoint.disk_files = self.many(3, |g, index| g.disk_file(index));
        // The executables.
        let executable = self.disk_file(1000);
        checkpoint.disk_files.insert(0, executable);
        checkpoint.shared_memory = self.many(3, |g, index| SharedMemory {
            id: SharedMemoryId(7 * index),
            bytes: g.below(1 << 40),
            kind: match g.flag() {
                true => SharedMemoryKind::Anonymous,
                false => SharedMemoryKind::Memfd { name: g.name(20), seals: g.u32(), mode: g.u32() },
            },
        });
        checkpoint.pipes = self.many(3, |g, index| g.pipe(index));
        checkpoint.inet_sockets = self.many(3, |g, index| g.inet_socket(index));
        checkpoint.terminals = self.many(3, |g, index| g.terminal(index));
    }

    /// Open files, and the sockets whose messages may carry them.
    pub(super) fn open_files(&mut self, checkpoint: &mut Checkpoint) {
        self.unix_sockets(checkpoint);
        let count = 1 + self.below(20) as u32;
        for index in 0..count {
            let file = OpenFile {
                id: OpenFileId(index),
                flags: self.u32(),
                position: self.u64(),
                owner: self.maybe(Self::owner),
                kind: self.file_kind(index, checkpoint),
                locks: self.many(2, |g, _| FileLock {
                    kind: match g.flag() {
                        true => FileLockKind::Flock,
                        false => FileLockKind::Ofd { start: g.next() >> 1, length: g.next() >> 1 },
                    },
                    exclusive: g.flag(),
                }),
            };
            checkpoint.open_files.push(file);
        }
        for socket in &mut checkpoint.unix_sockets {
            socket.queue = self.many(2, |g, _| UnixMessage {
                bytes: g.secret(30),
                files: g.many(2, |g, _| OpenFileId(g.below(u64::from(count)) as u32)),
                sender: g.bytes(108),
            });
        }
    }

    /// Descriptors of one process, and locks on them.
    pub(super) fn descriptors(&mut self, index: usize, checkpoint: &mut Checkpoint) {
        let count = checkpoint.open_files.len() as u64;
        let Some(body) = &mut checkpoint.processes[index].body else { return };
        let mut number = 0;
        for _ in 0..self.below(8) {
            number += 1 + self.below(5) as i32;
            let file = OpenFileId(self.below(count) as u32);
            body.descriptors.push(Descriptor { number: number - 1, file, close_on_exec: self.flag() });
        }
        let Some(number) = self.known(&body.descriptors, |entry| entry.number) else { return };
        body.record_locks = self.many(2, |g, _| RecordLock {
            number,
            exclusive: g.flag(),
            start: g.next() >> 1,
            length: g.next() >> 1,
        });
    }

    fn owner(&mut self) -> FileOwner {
        let number = self.i32();
        let kinds = [
            FileOwnerKind::Thread(Tid(number)),
            FileOwnerKind::Process(Pid(number)),
            FileOwnerKind::Group(Pid(number)),
        ];
        FileOwner { kind: self.one_of(&kinds), signal: self.below(65) as i32 }
    }

    fn disk_file(&mut self, index: u32) -> DiskFile {
        let deleted = self.flag();
        let digest = vec![self.next() as u8; 32 * self.below(2) as usize];
        let stored = deleted || self.flag();
        let carried = match stored && !deleted && !digest.is_empty() {
            true => [Carried::No, Carried::Copy, Carried::File][self.below(3) as usize],
            false => Carried::No,
        };
        DiskFile {
            id: DiskFileId(10 + index),
            path: self.path(),
            deleted,
            stored,
            carried,
            written: self.flag(),
            size: self.next() >> 1,
            mode: self.u32(),
            device: self.u64(),
            inode: self.u64(),
            modified_ns: self.i64(),
            build_id: self.bytes(20),
            digest,
        }
    }

    fn pipe(&mut self, index: u32) -> Pipe {
        let packets = self.flag();
        Pipe {
            id: PipeId(index),
            fifo: self.maybe(Self::path),
            capacity_bytes: self.u32(),
            in_flight: self.many(if packets { 3 } else { 1 }, |g, _| g.secret(50)),
            packets,
        }
    }

    fn options(&mut self) -> SocketOptions {
        SocketOptions(self.many(3, |g, _| SocketOption { level: g.i32(), name: g.i32(), value: g.bytes(16) }))
    }

    fn inet_socket(&mut self, index: u32) -> InetSocket {
        let (family, length) = self.one_of(&[(2, 16), (10, 28)]);
        let kind = self.one_of(&[1, 2]);
        InetSocket {
            id: InetSocketId(index),
            family,
            kind,
            protocol: self.i32(),
            local: vec![self.next() as u8; length * self.below(2) as usize],
            peer: vec![self.next() as u8; length * self.below(2) as usize],
            listening: self.maybe(Self::u32).filter(|_| kind == 1),
            options: self.options(),
        }
    }

    /// Pairs, and single ones after them.
    fn unix_sockets(&mut self, checkpoint: &mut Checkpoint) {
        let pairs = self.below(3) as u32;
        let singles = self.below(3) as u32;
        for index in 0..2 * pairs + singles {
            let state = match self.below(3) {
                _ if index < 2 * pairs => UnixSocketState::Connected { peer: UnixSocketId(index ^ 1) },
                0 => UnixSocketState::Unconnected,
                1 => UnixSocketState::Listening { backlog: self.u32() },
                _ => UnixSocketState::PeerClosed,
            };
            let socket = UnixSocket {
                id: UnixSocketId(index),
                kind: [1, 2, 5][(index as usize / 2) % 3],
                address: self.bytes(108),
                address_deleted: self.flag(),
                state,
                queue: Vec::new(),
                shutdown: self.below(4) as u32,
                options: self.options(),
            };
            checkpoint.unix_sockets.push(socket);
        }
    }

    fn terminal(&mut self, index: u32) -> Terminal {
        Terminal {
            id: TerminalId(index),
            index: self.maybe(Self::u32),
            inside: self.flag(),
            settings: vec![self.next() as u8; 44],
            window: std::array::from_fn(|_| self.u64() as u16),
            session: self.pid(),
            foreground: self.pid(),
            input: self.secret(20),
            output: self.secret(20),
            locked: self.flag(),
            packet_mode: self.flag(),
            exclusive: self.flag(),
        }
    }

    fn file_kind(&mut self, own: u32, tables: &Checkpoint) -> FileKind {
        let memfds: Vec<_> = tables
            .shared_memory
            .iter()
            .filter(|memory| matches!(memory.kind, SharedMemoryKind::Memfd { .. }))
            .map(|memory| memory.id)
            .collect();
        let referring = match self.below(17) {
            0 => self.known(&tables.disk_files, |file| FileKind::Regular { file: file.id }),
            1 => self.known(&tables.pipes, |pipe| FileKind::Pipe { pipe: pipe.id }),
            2 => self.known(&tables.unix_sockets, |socket| FileKind::UnixSocket { socket: socket.id }),
            3 => self.known(&tables.inet_sockets, |socket| FileKind::InetSocket { socket: socket.id }),
            4 => self.known(&memfds, |&memory| FileKind::Memfd { memory }),
            5 => self.known(&tables.terminals, |entry| FileKind::TerminalMaster { terminal: entry.id }),
            6 => self.known(&tables.terminals, |entry| FileKind::TerminalSlave { terminal: entry.id }),
            7 => self.known(&tables.processes, |process| FileKind::PidFd { pid: process.pid }),
            _ => None,
        };
        referring.unwrap_or_else(|| self.plain_kind(own))
    }

    fn plain_kind(&mut self, own: u32) -> FileKind {
        match self.below(9) {
            0 => FileKind::Directory { path: self.path() },
            1 => FileKind::PathOnly { path: self.path() },
            2 => FileKind::Device { path: self.path(), major: self.u32(), minor: self.u32() },
            3 => FileKind::EventFd { counter: self.u64(), semaphore: self.flag() },
            4 => {
                // Only earlier ones are watched, so that no epoll watches itself.
                let count = if own == 0 { 0 } else { 3 };
                let watches = self.many(count, |g, number| EpollWatch {
                    number: number as i32,
                    file: OpenFileId(g.below(u64::from(own)) as u32),
                    events: g.u32(),
                    data: g.u64(),
                });
                FileKind::Epoll { watches }
            }
            5 => FileKind::TimerFd(TimerFd {
                clock: self.i32(),
                settime_flags: self.u32(),
                remaining_ns: self.u64(),
                interval_ns: self.u64(),
                ticks: self.u64(),
            }),
            6 => FileKind::SignalFd { mask: self.u64() },
            7 => FileKind::Inotify {
                watches: self.many(3, |g, _| InotifyWatch {
                    descriptor: g.i32(),
                    path: g.path(),
                    mask: g.u32(),
                }),
            },
            _ => FileKind::Outside {
                stream: self.one_of(&[StandardStream::Input, StandardStream::Output, StandardStream::Error]),
                description: self.text(),
            },
        }
    }
}
