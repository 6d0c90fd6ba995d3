//! Every fixture program, in every mode: never touched, checkpointed and left running, stopped and brought back.
#![forbid(unsafe_code)]

use brant_testkit::{Mode, Program, Verdict, Who, check, refused};

/// Programs that must be carried: three tests each.
macro_rules! carried {
    ($($name:ident: $program:expr;)*) => { $(
        mod $name {
            use super::*;
            #[test]
            fn control() {
                check(&$program, Who::Plain, Mode::Control.actions(), Verdict::expect_ok);
            }
            #[test]
            fn left_running() {
                check(&$program, Who::Plain, Mode::LeftRunning.actions(), Verdict::expect_ok);
            }
            #[test]
            fn restored() {
                check(&$program, Who::Plain, Mode::Restored.actions(), Verdict::expect_ok);
            }
        }
    )* };
}

/// Single rows in other modes or as root.
macro_rules! rows {
    ($($name:ident: $program:expr, $who:ident, $mode:ident;)*) => { $(
        #[test]
        fn $name() {
            if Who::$who == Who::Root && !brant_testkit::is_root() {
                return brant_testkit::skip("root");
            }
            check(&$program, Who::$who, Mode::$mode.actions(), Verdict::expect_ok);
        }
    )* };
}

/// Programs that must be refused by these words, or (`may`) carried whole.
macro_rules! refusals {
    ($($name:ident: $program:expr, [$($word:literal),*], $or_carried:literal;)*) => { $(
        mod $name {
            use super::*;
            #[test]
            fn control() {
                check(&$program, Who::Plain, Mode::Control.actions(), Verdict::expect_ok);
            }
            #[test]
            fn named() {
                refused(&$program, &[$($word),*], $or_carried);
            }
        }
    )* };
}

fn fixture(name: &'static str) -> Program {
    Program::fixture(name)
}

carried! {
    // Who they are.
    ids: fixture("ids");
    ids_own_session: fixture("ids").in_own_session();
    tree: fixture("tree");
    zombies: fixture("zombies");
    slow_end: fixture("slow_end");
    child_signal: fixture("child_signal");
    stopped: fixture("stopped");
    prctls: fixture("prctls");
    proc_self: fixture("proc_self");
    scheduling: fixture("scheduling");
    rlimits: fixture("rlimits");
    low_nofile: fixture("low_nofile");
    cwd_umask: fixture("cwd_umask");
    // Threads and registers.
    threads: fixture("threads");
    leader_exited: fixture("leader_exited");
    join: fixture("join");
    registers: fixture("registers");
    avx512: fixture("avx512");
    fpenv: fixture("fpenv");
    rseq: fixture("rseq");
    robust: fixture("robust");
    // With a rest: without one the kernel lets it have all processors for a minute now and then, and the test itself stands still.
    futex_storm: fixture("futex_storm").with_args(&["5000"]);
    coroutines: fixture("coroutines");
    deep_stack: fixture("deep_stack");
    vdso: fixture("vdso");
    busy: fixture("busy");
    // Signals and time.
    signals: fixture("signals");
    in_handler: fixture("in_handler");
    onstack: fixture("onstack");
    pending: fixture("pending");
    itimers: fixture("itimers");
    posix_timers: fixture("posix_timers");
    clocks: fixture("clocks");
    sleeps: fixture("sleeps");
    blocked: fixture("blocked");
    // Memory.
    memory_anon: fixture("memory_anon");
    huge_pages: fixture("huge_pages");
    sparse: fixture("sparse");
    growsdown: fixture("growsdown");
    madvise: fixture("madvise");
    mlock: fixture("mlock");
    brk: fixture("brk");
    zeroing: fixture("zeroing");
    jit: fixture("jit");
    maps4000: fixture("maps4000");
    file_private: fixture("file_private");
    shared_anon: fixture("shared_anon");
    memfd: fixture("memfd");
    deleted_map: fixture("deleted_map");
    shared_file: fixture("shared_file");
    // Files.
    files: fixture("files");
    dup_share: fixture("dup_share");
    cloexec: fixture("cloexec");
    unlinked: fixture("unlinked");
    dirfd: fixture("dirfd");
    locks: fixture("locks");
    devices: fixture("devices");
    // Pipes, sockets, terminals, event descriptors.
    pipe_bytes: fixture("pipe_bytes");
    pipe_blocked: fixture("pipe_blocked");
    pipe_packet: fixture("pipe_packet");
    fifo: fixture("fifo");
    socketpair: fixture("socketpair");
    unix_shutdown: fixture("unix_shutdown");
    unix_stream: fixture("unix_stream");
    tcp_listen: fixture("tcp_listen");
    eventfd: fixture("eventfd");
    epoll: fixture("epoll");
    timerfd: fixture("timerfd");
    signalfd: fixture("signalfd");
    pty: fixture("pty");
    pty_cooked: fixture("pty_cooked");
    ctty: fixture("ctty");
    // Linked statically.
    static_ids: fixture("ids").linked_statically();
    static_threads: fixture("threads").linked_statically();
    static_memory: fixture("memory_anon").linked_statically();
    static_brk: fixture("brk").linked_statically();
    static_signals: fixture("signals").linked_statically();
    static_vdso: fixture("vdso").linked_statically();
}

rows! {
    foreground_ids: fixture("ids"), Plain, RestoredForeground;
    foreground_tree: fixture("tree"), Plain, RestoredForeground;
    foreground_busy: fixture("busy"), Plain, RestoredForeground;
    twice_ids: fixture("ids"), Plain, RestoredTwice;
    twice_tree: fixture("tree"), Plain, RestoredTwice;
    twice_clocks: fixture("clocks"), Plain, RestoredTwice;
    twice_busy: fixture("busy"), Plain, RestoredTwice;
    root_ids: fixture("ids"), Root, Restored;
    root_tree: fixture("tree"), Root, Restored;
    root_threads: fixture("threads"), Root, Restored;
    root_files: fixture("files"), Root, Restored;
    root_clocks: fixture("clocks"), Root, Restored;
    root_busy_left_running: fixture("busy"), Root, LeftRunning;
}

refusals! {
    seccomp: fixture("blockers").with_args(&["seccomp"]), ["seccomp"], false;
    pid_namespace: fixture("blockers").with_args(&["pidns"]), ["namespace"], false;
    io_uring: fixture("blockers").with_args(&["io_uring"]), ["io_uring"], false;
    userfaultfd: fixture("blockers").with_args(&["userfaultfd"]), ["userfaultfd"], false;
    perf: fixture("blockers").with_args(&["perf"]), ["perf"], false;
    sysv_shm: fixture("blockers").with_args(&["shm"]), ["System V"], false;
    netlink: fixture("blockers").with_args(&["netlink"]), ["netlink"], false;
    traced: fixture("blockers").with_args(&["ptrace"]), ["trace"], false;
    no_room: fixture("blockers").with_args(&["room"]), ["no room", "B-0313", "prlimit"], false;
    many_at_once: fixture("blockers").with_args(&["perf", "shm", "userfaultfd", "netlink", "seccomp"]),
        ["perf", "System V", "userfaultfd", "netlink", "seccomp"], false;
    tcp_inside: fixture("tcp_inside"), ["TCP"], true;
    udp: fixture("udp"), ["UDP"], true;
    inotify: fixture("inotify"), ["inotify"], true;
    pidfd: fixture("pidfd"), ["pidfd"], true;
    proc_fds: fixture("proc_fds"), ["/proc"], true;
    unix_rights: fixture("unix_rights"), ["SCM_RIGHTS"], true;
    unix_dgram: fixture("unix_dgram"), ["unix"], true;
    epoll_dup: fixture("epoll_dup"), ["epoll"], true;
    semtimedop: fixture("semtimedop"), ["System V"], true;
    vfork: fixture("vfork"), ["memory shared with process"], true;
    clone_files: fixture("clone_parts").with_args(&["files"]), ["descriptor table shared"], true;
    clone_fs: fixture("clone_parts").with_args(&["fs"]), ["working directory shared"], true;
    clone_vm: fixture("clone_parts").with_args(&["vm"]), ["memory shared"], true;
    clone_sighand: fixture("clone_parts").with_args(&["sighand"]), ["shared"], true;
}
