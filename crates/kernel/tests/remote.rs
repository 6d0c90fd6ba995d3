//! The remote hand on real processes.

use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use brant_base::{Addr, PageRange, Pid, Tid};
use brant_kernel::ptrace::{self, Options, Stop, UserRegisters, Waiter};
use brant_kernel::remote::{Call, Errand, Fork, Hand, HandThread, Puppet, StubPlace};

const STOP_TIMEOUT: Duration = Duration::from_secs(10);

fn vdso_of(pid: i32) -> PageRange {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let line = maps.lines().find(|line| line.ends_with("[vdso]")).unwrap();
    let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
    PageRange::new(u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap()).unwrap()
}

fn freeze(waiter: &Waiter, tid: Tid) -> HandThread {
    ptrace::seize(tid, Options::default()).unwrap();
    ptrace::interrupt(tid).unwrap();
    assert_eq!(waiter.wait(tid, STOP_TIMEOUT).unwrap(), Stop::Interrupt);
    HandThread { tid, registers: ptrace::registers(tid).unwrap(), mask: ptrace::signal_mask(tid).unwrap() }
}

fn sleeper() -> Child {
    let child = Command::new("sleep").arg("1.5").stdin(Stdio::null()).spawn().unwrap();
    // It sleeps once it has executed the program and hangs in the call.
    let place = format!("/proc/{}/wchan", child.id());
    let deadline = Instant::now() + STOP_TIMEOUT;
    while !std::fs::read_to_string(&place).is_ok_and(|place| place.contains("nanosleep")) {
        assert!(Instant::now() < deadline, "sleep does not sleep");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

#[test]
fn a_sleeping_program_makes_calls_for_us_and_sleeps_on() {
    let waiter = Waiter::new().unwrap();
    let mut child = sleeper();
    let pid = Pid(child.id() as i32);
    let thread = freeze(&waiter, pid.into());
    let vdso = vdso_of(pid.0);
    let mut hand = Hand::open(&waiter, pid, &[thread], &[vdso]).unwrap();
    assert_eq!(hand.call(0, libc::SYS_getpid, [0; 6]).unwrap(), pid.0 as u64);
    let data = hand.data();
    hand.call(0, libc::SYS_sigaltstack, [0, data.start().0, 0, 0, 0, 0]).unwrap();
    let error = hand.call(0, libc::SYS_close, [999, 0, 0, 0, 0, 0]).unwrap_err();
    assert_eq!(error.errno(), Some(libc::EBADF));
    hand.finish().unwrap();
    assert_eq!(ptrace::registers(pid.into()).unwrap(), thread.registers);
    ptrace::detach(pid.into(), 0).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_thread_let_go_in_the_middle_of_a_call_finds_its_own_way_back() {
    let waiter = Waiter::new().unwrap();
    let mut child = sleeper();
    let pid = Pid(child.id() as i32);
    let thread = freeze(&waiter, pid.into());
    let mut hand = Hand::open(&waiter, pid, &[thread], &[vdso_of(pid.0)]).unwrap();
    hand.call(0, libc::SYS_getpid, [0; 6]).unwrap();
    std::mem::forget(hand);
    // As the kernel does for a tracer that was killed.
    ptrace::detach(pid.into(), 0).unwrap();
    assert!(child.wait().unwrap().success());
}

/// Where the C library begins in a process.
fn library_of(pid: u32) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let line = maps.lines().find(|line| line.contains("libc.so.6") || line.contains("/libc-")).unwrap();
    u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap()
}

/// It may hold a lock in the middle of its function, which nobody else would ever give back.
#[test]
fn a_thread_that_does_not_come_back_in_time_ends_its_call_before_it_goes_on() {
    let waiter = Waiter::new().unwrap();
    let mut child = sleeper();
    let pid = Pid(child.id() as i32);
    let thread = freeze(&waiter, pid.into());
    let (mut errand, ()) = Errand::open(&waiter, pid, thread, &[vdso_of(pid.0)], 4096, |_| Ok(())).unwrap();
    let sleep = libc::sleep as *const () as u64 - library_of(std::process::id()) + library_of(child.id());
    let call =
        |errand: &mut Errand<'_>| errand.call(Addr(sleep), [1, 0, 0, 0, 0, 0], Duration::from_millis(100));
    assert!(call(&mut errand).is_err());
    assert!(errand.is_lost());
    // In the stops of its call, too, it is left where it is.
    assert!(call(&mut errand).is_err());
    let called = ptrace::interrupt(pid.into())
        .and_then(|()| waiter.wait(pid.into(), STOP_TIMEOUT).map_err(std::io::Error::other));
    assert!(called.is_ok(), "{called:?}");
    let before = ptrace::registers(pid.into()).unwrap();
    assert!(errand.close(|_| Ok(())).is_err());
    assert_eq!(ptrace::registers(pid.into()).unwrap(), before);
    ptrace::detach(pid.into(), 0).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_copy_keeps_the_memory_of_one_moment_and_nothing_else() {
    let waiter = Waiter::new().unwrap();
    let mut child = sleeper();
    let pid = Pid(child.id() as i32);
    let thread = freeze(&waiter, pid.into());
    let mut hand = Hand::open(&waiter, pid, &[thread], &[vdso_of(pid.0)]).unwrap();
    let mut stack = [0u8; 256];
    hand.memory().read(Addr(thread.registers.rsp), &mut stack).unwrap();
    let first = hand.copy().unwrap();
    let second = hand.copy().unwrap();
    hand.finish().unwrap();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    assert_eq!(children, "", "the program has a child");
    assert_eq!(ptrace::registers(pid.into()).unwrap(), thread.registers);
    let numbers = [first.pid(), second.pid()];
    for copy in [first, second] {
        let of = |file: &str| format!("/proc/{}/{file}", copy.pid());
        assert_eq!(std::fs::read_dir(of("fd")).unwrap().count(), 0, "it has descriptors");
        assert_eq!(std::fs::read_to_string(of("comm")).unwrap(), "brant-copy\n");
        assert_eq!(std::fs::read_to_string(of("oom_score_adj")).unwrap(), "1000\n");
        let stat = brant_kernel::proc::stat(copy.pid()).unwrap();
        assert_eq!((stat.session, stat.pgrp), (copy.pid(), copy.pid()));
        assert_ne!(stat.ppid, pid);
        let mut copied = [0u8; 256];
        copy.memory().read(Addr(thread.registers.rsp), &mut copied).unwrap();
        assert_eq!(copied, stack);
        assert!(copy.stands());
    }
    for copy in numbers {
        let gone = brant_kernel::proc::stat(copy).map_or(true, |stat| stat.state == b'Z');
        assert!(gone, "a dropped copy goes on");
    }
    ptrace::detach(pid.into(), 0).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_copy_that_was_killed_says_so() {
    let waiter = Waiter::new().unwrap();
    let mut child = sleeper();
    let pid = Pid(child.id() as i32);
    let thread = freeze(&waiter, pid.into());
    let mut hand = Hand::open(&waiter, pid, &[thread], &[vdso_of(pid.0)]).unwrap();
    let copy = hand.copy().unwrap();
    hand.finish().unwrap();
    // SAFETY: plain numbers.
    unsafe { libc::kill(copy.pid().0, libc::SIGKILL) };
    assert!(!copy.stands());
    drop(copy);
    ptrace::detach(pid.into(), 0).unwrap();
    assert!(child.wait().unwrap().success());
}

/// Without room for the helper, and without room for its child.
#[test]
fn a_copy_that_is_refused_leaves_no_trace() {
    for room in [1, 2] {
        let waiter = Waiter::new().unwrap();
        let mut child = sleeper();
        let pid = Pid(child.id() as i32);
        let folder = std::path::PathBuf::from(format!("/sys/fs/cgroup/pids/brant-remote-{pid}"));
        if std::fs::create_dir(&folder).is_err() {
            println!("skipped: no pids cgroup");
            child.kill().unwrap();
            child.wait().unwrap();
            return;
        }
        std::fs::write(folder.join("cgroup.procs"), pid.to_string()).unwrap();
        std::fs::write(folder.join("pids.max"), room.to_string()).unwrap();
        let thread = freeze(&waiter, pid.into());
        let mut hand = Hand::open(&waiter, pid, &[thread], &[vdso_of(pid.0)]).unwrap();
        let refused = hand.copy().unwrap_err();
        assert_eq!(refused.errno(), Some(libc::EAGAIN), "{refused}");
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        assert_eq!(children, "", "the program has a child");
        hand.finish().unwrap();
        assert_eq!(ptrace::registers(pid.into()).unwrap(), thread.registers);
        ptrace::detach(pid.into(), 0).unwrap();
        assert!(child.wait().unwrap().success());
        std::fs::remove_dir(&folder).unwrap();
    }
}

/// A fork of the test process that waits for ever.
fn fork_of_us() -> Tid {
    // SAFETY: the child only makes async-signal-safe system calls.
    match unsafe { libc::fork() } {
        0 => loop {
            // SAFETY: no arguments.
            unsafe { libc::pause() };
        },
        pid => Tid(pid),
    }
}

#[test]
fn a_puppet_forks_threads_and_children_from_an_empty_address_space() {
    let waiter = Rc::new(Waiter::new().unwrap());
    let root = fork_of_us();
    let place = StubPlace { range: PageRange::new(0x10000, 0x10000 + StubPlace::PAGES * 4096).unwrap() };
    let mut puppet = Puppet::from_fork(waiter.clone(), root, place, &[]).unwrap();
    assert_eq!(puppet.call(libc::SYS_getpid, &[]).unwrap(), root.0 as u64);
    let calls = [Call::new(libc::SYS_getpid, &[]), Call::new(libc::SYS_close, &[999])];
    let results = puppet.batch(&calls).unwrap();
    assert_eq!(results, [root.0 as u64, -libc::EBADF as i64 as u64]);
    let maps = std::fs::read_to_string(format!("/proc/{root}/maps")).unwrap();
    assert!(maps.lines().filter(|line| !line.contains("[vsyscall]")).count() <= 2, "{maps}");
    let is_root = std::fs::read_to_string("/proc/self/status").unwrap().contains("CapEff:\t000001ff");
    if !is_root {
        println!("skipped: choosing pids needs CAP_CHECKPOINT_RESTORE");
        puppet.end(0).unwrap();
        return;
    }
    let mut child = puppet.fork(Fork::Child { exit_signal: libc::SIGCHLD }, Some(31_000)).unwrap();
    assert_eq!(child.call(libc::SYS_getpid, &[]).unwrap(), 31_000);
    assert_eq!(child.call(libc::SYS_getppid, &[]).unwrap(), root.0 as u64);
    let mut thread = child.fork(Fork::Thread, Some(31_001)).unwrap();
    assert_eq!(thread.call(libc::SYS_gettid, &[]).unwrap(), 31_001);
    assert_eq!(thread.call(libc::SYS_getpid, &[]).unwrap(), 31_000);
    assert_eq!(child.call(libc::SYS_gettid, &[]).unwrap(), 31_000);
    let zombie = puppet.fork(Fork::Child { exit_signal: libc::SIGCHLD }, Some(31_002)).unwrap();
    zombie.end(7 << 8).unwrap();
    let room = puppet.arguments().start();
    assert_eq!(puppet.call(libc::SYS_wait4, &[31_002, room.0, 0, 0]).unwrap(), 31_002);
    let mut status = [0u8; 4];
    puppet.read_memory(room, &mut status).unwrap();
    assert_eq!(i32::from_le_bytes(status), 7 << 8);
    let zombie = puppet.fork(Fork::Child { exit_signal: libc::SIGCHLD }, Some(31_003)).unwrap();
    zombie.end(libc::SIGTERM).unwrap();
    puppet.call(libc::SYS_wait4, &[31_003, room.0, 0, 0]).unwrap();
    puppet.read_memory(room, &mut status).unwrap();
    assert_eq!(i32::from_le_bytes(status), libc::SIGTERM);
    drop((thread, child));
    let _ = (Addr(0), UserRegisters::default());
    // The test's end kills what is left.
}
