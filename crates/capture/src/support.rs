//! What a capture carries and what it refuses, in one table: the support matrix of the documentation.
//!
//! A refusal's code leads to its text in [`EXPLANATIONS`](crate::EXPLANATIONS). That nothing is missing is seen to by the compiler and by the tests
//! below: every kind of open file and of mapping that an image knows has a row that is carried, every code of a
//! refusal has a row, and every program that a row names is in `fixtures/programs`, where the end-to-end tests run it.

/// One kind of thing that a program may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Support {
    pub area: Area,
    /// `timerfd`, `a TCP socket that listens`.
    pub what: &'static str,
    pub verdict: Verdict,
    /// Programs of `fixtures/programs`, without their ending, that show it.
    pub shown_by: &'static [&'static str],
}

/// The part of a program that a row is about; its `Display` is the heading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Area {
    Processes,
    Threads,
    Signals,
    Memory,
    Files,
    Channels,
    Terminals,
    Surroundings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it was; the text says how, where that is not plain.
    Carried(&'static str),
    /// Named before anything is touched, by this code.
    Refused(&'static str),
}

impl std::fmt::Display for Area {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Area::Processes => "Processes",
            Area::Threads => "Threads",
            Area::Signals => "Signals and time",
            Area::Memory => "Memory",
            Area::Files => "Files",
            Area::Channels => "Pipes, sockets and event descriptors",
            Area::Terminals => "Terminals and descriptors that lead outside",
            Area::Surroundings => "What a process lives in",
        })
    }
}

const fn carried(
    area: Area,
    what: &'static str,
    how: &'static str,
    shown_by: &'static [&'static str],
) -> Support {
    Support { area, what, verdict: Verdict::Carried(how), shown_by }
}

const fn refused(
    area: Area,
    what: &'static str,
    code: &'static str,
    shown_by: &'static [&'static str],
) -> Support {
    Support { area, what, verdict: Verdict::Refused(code), shown_by }
}

use Area::*;

/// All of it, by area; what is carried stands before what is refused.
pub const SUPPORT: &[Support] = &[
    carried(
        Processes,
        "the whole tree with its numbers",
        "sessions and process groups too",
        &["ids", "tree"],
    ),
    carried(Processes, "children that have ended and were not waited for", "", &["zombies", "slow_end"]),
    carried(Processes, "stopped processes", "", &["stopped"]),
    carried(
        Processes,
        "a process in vfork",
        "where its child executes or ends before the freeze gives up",
        &["vfork"],
    ),
    carried(
        Processes,
        "working directory, umask, limits, prctl settings",
        "",
        &["cwd_umask", "rlimits", "prctls"],
    ),
    refused(
        Processes,
        "memory, descriptors or signal actions shared between processes",
        "B-0311",
        &["clone_parts"],
    ),
    refused(Processes, "parents and sessions of a shape that no order of forks gives", "B-0312", &[]),
    refused(Processes, "code that is not 64-bit x86", "B-0305", &[]),
    refused(Processes, "a process that a debugger holds", "B-0301", &["blockers"]),
    refused(Processes, "limits that leave no room for a few pages", "B-0313", &["blockers"]),
    carried(
        Threads,
        "all threads with their full registers",
        "x87, SSE, AVX and AVX-512 where the CPU has them",
        &["threads", "registers", "fpenv", "avx512"],
    ),
    carried(Threads, "a first thread that has ended before the others", "", &["leader_exited"]),
    carried(Threads, "scheduling policy, niceness and affinity", "", &["scheduling"]),
    carried(
        Threads,
        "robust lists, restartable sequences, futex waits",
        "",
        &["robust", "rseq", "futex_storm"],
    ),
    carried(
        Threads,
        "stacks of any kind: coroutines, goroutines, alternate signal stacks",
        "",
        &["coroutines", "goroutines", "onstack"],
    ),
    refused(Threads, "the scheduling policy SCHED_DEADLINE", "B-0308", &[]),
    refused(Threads, "a shadow stack (Intel CET)", "B-0303", &[]),
    carried(
        Signals,
        "handlers, masks, pending signals with their data",
        "",
        &["signals", "pending", "in_handler"],
    ),
    carried(
        Signals,
        "interrupted system calls",
        "they go on for the time that remained",
        &["sleeps", "blocked", "waits"],
    ),
    carried(Signals, "interval timers and POSIX timers", "", &["itimers", "posix_timers"]),
    carried(Signals, "a monotonic clock that goes on", "by a time namespace", &["clocks"]),
    carried(
        Memory,
        "private anonymous memory",
        "comes back anonymous",
        &["memory_anon", "sparse", "madvise"],
    ),
    carried(Memory, "the heap of brk, stacks that grow", "", &["brk", "growsdown"]),
    carried(Memory, "transparent huge pages", "", &["huge_pages"]),
    carried(Memory, "locked memory", "", &["mlock"]),
    carried(
        Memory,
        "private mappings of files",
        "pages that were changed are in the image",
        &["file_private", "jit"],
    ),
    carried(Memory, "shared mappings of files", "the file keeps the contents", &["shared_file"]),
    carried(Memory, "shared anonymous memory", "shared again by the same processes", &["shared_anon"]),
    carried(Memory, "mappings of files that were deleted", "the contents travel", &["deleted_map"]),
    carried(Memory, "the kernel's own pages (vDSO, vvar)", "those of the new kernel", &["vdso"]),
    refused(Memory, "a vDSO that was changed", "B-0329", &[]),
    refused(Memory, "System V shared memory", "B-0320", &["blockers"]),
    refused(Memory, "rings of io_uring and other buffers shared with the kernel", "B-0321", &["blockers"]),
    refused(Memory, "a kind of mapping that is not known", "B-0322", &[]),
    refused(Memory, "pages of hugetlbfs", "B-0323", &[]),
    refused(Memory, "memory of a device", "B-0324", &[]),
    refused(Memory, "memory served by userfaultfd", "B-0325", &["blockers"]),
    refused(Memory, "memory with a protection key", "B-0326", &[]),
    refused(Memory, "sealed mappings (mseal)", "B-0327", &[]),
    refused(Memory, "guard regions (MADV_GUARD_INSTALL)", "B-0328", &[]),
    carried(
        Files,
        "regular files: position, flags, sharing",
        "by path; must be as they were",
        &["files", "dup_share", "cloexec"],
    ),
    carried(Files, "files that were deleted while open", "the contents travel", &["unlinked"]),
    carried(Files, "directories and paths (O_PATH)", "", &["dirfd"]),
    carried(Files, "locks: flock, open file description, record", "", &["locks"]),
    carried(Files, "the devices null, zero, full, random, urandom, tty", "", &["devices"]),
    carried(Files, "files of /proc about the tree itself", "", &["proc_fds", "proc_self"]),
    refused(Files, "any other device", "B-0331", &[]),
    refused(Files, "a path that leads to another file than the open one", "B-0341", &[]),
    refused(Files, "something deleted that is no regular file or cannot be read", "B-0342", &[]),
    refused(Files, "a file of /proc about a process outside of the tree", "B-0343", &["proc_fds"]),
    refused(Files, "a lease", "B-0344", &[]),
    refused(Files, "contents that shall travel and cannot be read", "B-0350", &[]),
    carried(
        Channels,
        "pipes and fifos",
        "with what is in flight",
        &["pipe_bytes", "pipe_blocked", "pipe_packet", "fifo"],
    ),
    carried(
        Channels,
        "unix sockets within the tree",
        "with what is in flight, descriptors too",
        &["socketpair", "unix_stream", "unix_dgram", "unix_shutdown", "unix_rights"],
    ),
    carried(Channels, "TCP sockets that listen or are not connected", "", &["tcp_listen"]),
    carried(Channels, "UDP sockets", "", &["udp"]),
    carried(Channels, "eventfd", "", &["eventfd"]),
    carried(Channels, "epoll", "", &["epoll", "epoll_dup"]),
    carried(Channels, "timerfd", "", &["timerfd"]),
    carried(Channels, "signalfd", "", &["signalfd"]),
    carried(Channels, "inotify", "where no event waits unread", &["inotify"]),
    carried(Channels, "memfd", "with its seals", &["memfd"]),
    carried(Channels, "pidfd of a process of the tree", "", &["pidfd"]),
    refused(Channels, "an established TCP connection", "B-0333", &["tcp_inside"]),
    refused(Channels, "sockets of other families: netlink, packet, raw, vsock", "B-0334", &["blockers"]),
    refused(Channels, "a unix socket whose peer is outside of the tree", "B-0335", &[]),
    refused(Channels, "something that is on its way at that moment", "B-0336", &["inotify"]),
    refused(Channels, "an epoll instance that watches what nobody has open", "B-0338", &[]),
    refused(Channels, "a watched file whose path is not found", "B-0339", &[]),
    refused(Channels, "a pidfd of a process outside of the tree, or of a thread", "B-0340", &[]),
    refused(Channels, "a filter (BPF) on a socket", "B-0347", &[]),
    refused(
        Channels,
        "io_uring, userfaultfd, perf, bpf, fanotify, namespaces, secret memory",
        "B-0330",
        &["blockers"],
    ),
    carried(
        Terminals,
        "terminals whose master the tree holds",
        "with settings and what is in flight",
        &["pty", "pty_cooked"],
    ),
    carried(Terminals, "the terminal that the program runs on", "restore gives a fresh one", &["ctty"]),
    carried(
        Terminals,
        "descriptors 0, 1 and 2 that lead outside",
        "connected to those of restore, or the job's log",
        &["busy"],
    ),
    refused(Terminals, "a terminal that belongs to others", "B-0337", &[]),
    refused(Terminals, "a pipe whose other end is outside", "B-0332", &[]),
    refused(Terminals, "a pipe, socket or memory that an outsider holds too", "B-0346", &[]),
    refused(Terminals, "a descriptor whose signals go to an outsider", "B-0345", &[]),
    refused(Surroundings, "a seccomp filter", "B-0302", &["blockers"]),
    refused(Surroundings, "the first process of a pid namespace", "B-0304", &["blockers"]),
    refused(Surroundings, "a root directory of its own", "B-0306", &[]),
    refused(Surroundings, "capabilities that a plain user cannot give back", "B-0307", &[]),
    refused(Surroundings, "namespaces that are not brant's own", "B-0309", &[]),
    refused(Surroundings, "a tree that spans namespaces", "B-0310", &["blockers"]),
    refused(Surroundings, "a kernel without kcmp, pidfd_getfd or unix_diag", "B-0348", &[]),
    refused(Surroundings, "a descriptor that could not be looked at", "B-0349", &[]),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use brant_image::model::{Backing, FileKind};

    use super::*;

    /// The row of a kind of open file. A kind without one does not compile.
    fn row_of_file(kind: &FileKind) -> &'static str {
        match kind {
            FileKind::Regular { .. } => "regular files: position, flags, sharing",
            FileKind::Directory { .. } | FileKind::PathOnly { .. } => "directories and paths (O_PATH)",
            FileKind::Device { .. } => "the devices null, zero, full, random, urandom, tty",
            FileKind::Pipe { .. } => "pipes and fifos",
            FileKind::UnixSocket { .. } => "unix sockets within the tree",
            FileKind::InetSocket { .. } => "TCP sockets that listen or are not connected",
            FileKind::EventFd { .. } => "eventfd",
            FileKind::Epoll { .. } => "epoll",
            FileKind::TimerFd(_) => "timerfd",
            FileKind::SignalFd { .. } => "signalfd",
            FileKind::Inotify { .. } => "inotify",
            FileKind::Memfd { .. } => "memfd",
            FileKind::TerminalMaster { .. } => "terminals whose master the tree holds",
            FileKind::TerminalSlave { .. } => "the terminal that the program runs on",
            FileKind::PidFd { .. } => "pidfd of a process of the tree",
            FileKind::Outside { .. } => "descriptors 0, 1 and 2 that lead outside",
        }
    }

    /// The same for mappings.
    fn row_of_mapping(backing: &Backing) -> &'static str {
        match backing {
            Backing::Anonymous => "private anonymous memory",
            Backing::File { .. } => "private mappings of files",
            Backing::Shared { .. } => "shared anonymous memory",
            Backing::Vdso | Backing::Vvar => "the kernel's own pages (vDSO, vvar)",
        }
    }

    fn carried_rows() -> BTreeSet<&'static str> {
        let is_carried = |row: &&Support| matches!(row.verdict, Verdict::Carried(_));
        SUPPORT.iter().filter(is_carried).map(|row| row.what).collect()
    }

    #[test]
    fn every_kind_of_an_image_is_carried() {
        let rows = carried_rows();
        let terminal = brant_image::model::TerminalId(0);
        let files = [
            FileKind::Regular { file: Default::default() },
            FileKind::Directory { path: Vec::new() },
            FileKind::Device { path: Vec::new(), major: 0, minor: 0 },
            FileKind::Pipe { pipe: Default::default() },
            FileKind::UnixSocket { socket: Default::default() },
            FileKind::InetSocket { socket: Default::default() },
            FileKind::EventFd { counter: 0, semaphore: false },
            FileKind::Epoll { watches: Vec::new() },
            FileKind::TimerFd(Default::default()),
            FileKind::SignalFd { mask: 0 },
            FileKind::Inotify { watches: Vec::new() },
            FileKind::Memfd { memory: Default::default() },
            FileKind::TerminalMaster { terminal },
            FileKind::TerminalSlave { terminal },
            FileKind::PidFd { pid: brant_base::Pid(1) },
            FileKind::Outside {
                stream: brant_image::model::StandardStream::Input,
                description: String::new(),
            },
        ];
        for kind in &files {
            assert!(rows.contains(row_of_file(kind)), "{kind:?}");
        }
        let mappings = [
            Backing::Anonymous,
            Backing::File { file: Default::default(), offset: 0, writable: false },
            Backing::Shared { memory: Default::default(), offset: 0, writable: false },
            Backing::Vdso,
        ];
        for backing in &mappings {
            assert!(rows.contains(row_of_mapping(backing)), "{backing:?}");
        }
    }

    #[test]
    fn every_code_of_a_refusal_has_a_row_and_a_text() {
        let explained: BTreeSet<&str> = crate::EXPLANATIONS.iter().map(|(code, _)| *code).collect();
        let code = |row: &Support| match row.verdict {
            Verdict::Refused(code) => Some(code),
            Verdict::Carried(_) => None,
        };
        let named: BTreeSet<&str> = SUPPORT.iter().filter_map(code).collect();
        assert_eq!(explained, named);
    }

    #[test]
    fn programs_that_show_a_row_exist_and_none_is_named_twice_in_it() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/programs");
        let stems: BTreeSet<String> = std::fs::read_dir(folder)
            .expect("the fixtures are there")
            .flatten()
            .filter_map(|entry| Some(entry.path().file_stem()?.to_str()?.to_owned()))
            .collect();
        for row in SUPPORT {
            let missing: Vec<_> = row.shown_by.iter().filter(|name| !stems.contains(**name)).collect();
            assert!(missing.is_empty(), "{}: {missing:?}", row.what);
            assert_eq!(
                row.shown_by.iter().collect::<BTreeSet<_>>().len(),
                row.shown_by.len(),
                "{}",
                row.what
            );
        }
    }

    #[test]
    fn rows_stand_by_area_and_carried_before_refused() {
        let key = |row: &Support| (row.area, matches!(row.verdict, Verdict::Refused(_)));
        assert!(SUPPORT.windows(2).all(|pair| key(&pair[0]) <= key(&pair[1])));
    }
}
