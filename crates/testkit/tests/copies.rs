//! Programs that are left running are written from copies: no program notices them, no copy stays, and what they hold is
//! one instant.
#![forbid(unsafe_code)]

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use brant_testkit::{Outcome, Program, Random, Sandbox, Started, Who, is_full, is_root, skip, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const READY_TIMEOUT_S: u64 = 60;
const RESULT_TIMEOUT_S: u64 = 120;
const BEAT_TIMEOUT_S: u64 = 90;
const KILLS_SHORT: u32 = 20;
const KILLS_FULL: u32 = 300;

fn start(sandbox: &Sandbox, program: &Program) -> Started {
    let mut started = sandbox.start(program);
    let ready = || sandbox.path("f.ready").exists() || sandbox.path("f.result").exists();
    wait_until(READY_TIMEOUT_S, || started.ended().is_some() || ready());
    assert!(sandbox.path("f.ready").exists(), "{}: {}", program.fixture, sandbox.text("f.result"));
    started
}

fn image(sandbox: &Sandbox) -> String {
    sandbox.path("image").to_str().expect("test paths are UTF-8").to_owned()
}

/// A whole checkpoint that leaves the program running; the reasons for which it stood still.
fn checkpoint(sandbox: &Sandbox, program: &Started) -> String {
    checkpoint_of(sandbox, &program.pid().to_string())
}

fn checkpoint_of(sandbox: &Sandbox, target: &str) -> String {
    let outcome = sandbox.brant(&["checkpoint", target, "--json", "--force", "-o", &image(sandbox)]);
    assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
    let (_, reasons) = outcome.stdout.split_once("\"copied_while_stopped\":").expect("a list of reasons");
    let (reasons, _) = reasons.split_once(']').expect("a list ends");
    format!("{}]", reasons.trim())
}

fn finish(sandbox: &Sandbox) {
    sandbox.write("f.go", "go paused_ms=0");
    let ended = wait_until(RESULT_TIMEOUT_S, || sandbox.path("f.result").exists());
    assert!(ended, "no result; left: {:?}", sandbox.leftovers());
    assert_eq!(sandbox.text("f.result"), "ok");
    sandbox.expect_no_leftovers();
}

fn end_tree(sandbox: &Sandbox, mut program: Started) {
    // Where its main thread has ended it shows as a zombie.
    let all = sandbox.leftovers().into_iter().map(|(pid, _)| pid).chain([program.pid()]);
    all.for_each(end);
    assert!(program.wait(20).is_some(), "a killed program goes on");
    sandbox.expect_no_leftovers();
}

fn end(pid: i32) {
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

fn copies(sandbox: &Sandbox) -> Vec<i32> {
    sandbox.leftovers().into_iter().filter(|(_, name)| name == "brant-copy").map(|(pid, _)| pid).collect()
}

fn status_line(pid: i32, key: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    line.trim_start_matches(key).trim().to_owned()
}

/// Children of all threads, ended ones included.
fn children(pid: i32) -> String {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok()).collect()
}

fn expect_beats(sandbox: &Sandbox, program: &mut Started, when: &str) {
    let beat = || sandbox.text("f.beat").trim().parse::<u64>().unwrap_or(0);
    sandbox.write("f.beats", "");
    let before = beat();
    let moves = wait_until(BEAT_TIMEOUT_S, || beat() >= before + 2 || sandbox.path("f.result").exists());
    let result = sandbox.text("f.result");
    assert!(moves && result.is_empty(), "{when}: {result}; beat {before} -> {}", beat());
    assert_eq!(program.ended(), None, "{when}: the program ended");
}

/// A checkpoint whose reader takes nothing: copies stand, the program runs.
struct Writing {
    brant: Child,
}

impl Writing {
    fn begin(sandbox: &Sandbox, program: &Started) -> Writing {
        let mut command = sandbox.command(sandbox.path("brant"));
        command.args(["checkpoint", &program.pid().to_string(), "--compress", "none", "-o", "-"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let brant = command.spawn().expect("brant starts");
        let stands = || !copies(sandbox).is_empty() && status_line(program.pid(), "TracerPid:") == "0";
        assert!(wait_until(READY_TIMEOUT_S, stands), "no copy stands: {:?}", sandbox.leftovers());
        Writing { brant }
    }

    /// Takes the image, and what brant says at its end.
    fn take(mut self) -> (Vec<u8>, Outcome) {
        let (mut image, mut stderr) = (Vec::new(), String::new());
        let _ = self.brant.stdout.take().expect("piped").read_to_end(&mut image);
        let _ = self.brant.stderr.take().expect("piped").read_to_string(&mut stderr);
        let status = self.brant.wait().expect("our own child can be waited for");
        (image, Outcome { code: status.code().unwrap_or(-1), stdout: String::new(), stderr })
    }
}

/// Checkpointed and left running, killed, and brought back from what its copies held.
macro_rules! carried_by_copies {
    ($($name:ident: $program:expr;)*) => { $(
        #[test]
        fn $name() {
            let sandbox = Sandbox::new(Who::Plain);
            let program = start(&sandbox, &$program);
            assert_eq!(checkpoint(&sandbox, &program), "[]");
            end_tree(&sandbox, program);
            let outcome = sandbox.brant(&["restore", "-d", &image(&sandbox)]);
            assert_eq!(outcome.code, 0, "{}", outcome.stderr);
            finish(&sandbox);
        }
    )* };
}

carried_by_copies! {
    memory_anon: Program::fixture("memory_anon");
    huge_pages: Program::fixture("huge_pages");
    sparse: Program::fixture("sparse");
    growsdown: Program::fixture("growsdown");
    madvise: Program::fixture("madvise");
    fork_advice: Program::fixture("fork_advice");
    mlock: Program::fixture("mlock");
    brk: Program::fixture("brk");
    zeroing: Program::fixture("zeroing");
    jit: Program::fixture("jit");
    maps4000: Program::fixture("maps4000");
    file_private: Program::fixture("file_private");
    shared_anon: Program::fixture("shared_anon");
    memfd: Program::fixture("memfd");
    deleted_map: Program::fixture("deleted_map");
    threads: Program::fixture("threads");
    leader_exited: Program::fixture("leader_exited");
    rseq: Program::fixture("rseq");
    static_memory: Program::fixture("memory_anon").linked_statically();
    one_instant_of_threads: Program::fixture("instant");
    one_instant_of_processes: Program::fixture("instant").with_args(&["64", "processes"]);
}

/// Who waits for children sees nobody else's, however often.
#[test]
fn no_wait_finds_a_copy() {
    for how in ["poll", "plain"] {
        let sandbox = Sandbox::new(Who::Plain);
        let program = start(&sandbox, &Program::fixture("waits").with_args(&[how]));
        for _ in 0..10 {
            assert_eq!(checkpoint(&sandbox, &program), "[]", "{how}");
        }
        assert_eq!(program_children(&program), 1, "{how}");
        finish_own(&sandbox, program);
    }
}

fn program_children(program: &Started) -> usize {
    children(program.pid()).split_whitespace().count()
}

fn finish_own(sandbox: &Sandbox, mut program: Started) {
    sandbox.write("f.go", "go paused_ms=0");
    assert_eq!(program.wait(RESULT_TIMEOUT_S), Some(0), "{}", sandbox.text("f.result"));
    finish(sandbox);
}

/// Where somebody could find it there is none, and the report says why.
#[test]
fn who_would_find_a_copy_stands_still() {
    for (how, why) in [("block", "__WALL"), ("reaper", "adopts orphans")] {
        let sandbox = Sandbox::new(Who::Plain);
        let program = start(&sandbox, &Program::fixture("waits").with_args(&[how]));
        for _ in 0..5 {
            let reasons = checkpoint(&sandbox, &program);
            assert!(reasons.contains(why), "{how}: {reasons}");
        }
        finish_own(&sandbox, program);
    }
}

/// A pipe's reader sees its end, a lock is free, and a name is free, although copies stand.
#[test]
fn the_last_end_of_a_descriptor_is_the_last() {
    let sandbox = Sandbox::new(Who::Plain);
    let program = start(&sandbox, &Program::fixture("last_end"));
    let writing = Writing::begin(&sandbox, &program);
    sandbox.write("f.close", "");
    let closed = wait_until(60, || sandbox.path("f.closed").exists() || sandbox.path("f.result").exists());
    assert!(closed && sandbox.text("f.result").is_empty(), "{}", sandbox.text("f.result"));
    assert!(!copies(&sandbox).is_empty(), "no copy stands any more");
    let (bytes, outcome) = writing.take();
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    std::fs::write(sandbox.path("image"), bytes).expect("the sandbox is writable");
    let verified = sandbox.brant(&["image", "verify", &image(&sandbox)]);
    assert_eq!(verified.code, 0, "{}", verified.stderr);
    finish_own(&sandbox, program);
}

#[test]
fn copies_end_with_brant() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = start(&sandbox, &Program::fixture("instant").with_args(&["64", "processes"]));
    for signal in [Signal::SIGKILL, Signal::SIGINT] {
        let mut writing = Writing::begin(&sandbox, &program);
        assert_eq!(copies(&sandbox).len(), 2);
        let brant = brant_below(writing.brant.id() as i32);
        kill(Pid::from_raw(brant), signal).expect("brant runs");
        let ended = wait_until(30, || writing.brant.try_wait().is_ok_and(|status| status.is_some()));
        assert!(ended, "brant goes on after {signal}");
        assert!(wait_until(20, || copies(&sandbox).is_empty()), "left: {:?}", sandbox.leftovers());
        assert_eq!(program_children(&program), 1);
        expect_beats(&sandbox, &mut program, "after the end of brant");
    }
    finish_own(&sandbox, program);
}

/// The number of brant itself: a shell may stand before it.
fn brant_below(pid: i32) -> i32 {
    let of = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let mut at = pid;
    while of(at).trim() != "brant" {
        at = children(at).split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("brant runs");
    }
    at
}

#[test]
fn a_copy_that_was_killed_is_noticed() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = start(&sandbox, &Program::fixture("instant"));
    let writing = Writing::begin(&sandbox, &program);
    copies(&sandbox).into_iter().for_each(end);
    let (_, outcome) = writing.take();
    assert_eq!(outcome.code, 1, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("B-0705"), "{}", outcome.stderr);
    expect_beats(&sandbox, &mut program, "after the end of a copy");
    finish_own(&sandbox, program);
}

/// An image that goes to a file is begun once more, and the program stands still.
#[test]
fn after_a_lost_copy_the_program_stands_still() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = start(&sandbox, &Program::fixture("instant").with_args(&["256"]));
    let pid = program.pid().to_string();
    let mut was_caught = false;
    for _ in 0..10 {
        let (mut brant, log) = sandbox.spawn_brant(&["checkpoint", &pid, "--force", "-o", &image(&sandbox)]);
        let own = Pid::from_raw(brant.id() as i32);
        let until = Instant::now() + Duration::from_secs(20);
        let mut caught = Vec::new();
        let runs_on = || status_line(program.pid(), "TracerPid:") == "0";
        while caught.is_empty() && Instant::now() < until && matches!(brant.try_wait(), Ok(None)) {
            caught = copies(&sandbox);
            // It is copied several times: only what is killed once the program runs on counts as lost.
            caught.retain(|_| runs_on());
        }
        caught.into_iter().for_each(end);
        let mut status = None;
        wait_until(60, || {
            status = brant.try_wait().expect("our own child can be waited for");
            status.is_some()
        });
        let outcome = sandbox.outcome(log, status.unwrap_or_else(|| panic!("brant {own} goes on")));
        expect_beats(&sandbox, &mut program, "after a lost copy");
        was_caught |= outcome.stderr.contains("once more");
        if was_caught {
            assert_eq!(outcome.code, 0, "{}", outcome.stderr);
            break;
        }
    }
    assert!(was_caught, "no copy could be killed in time");
    let verified = sandbox.brant(&["image", "verify", &image(&sandbox)]);
    assert_eq!(verified.code, 0, "{}", verified.stderr);
    finish_own(&sandbox, program);
}

#[test]
fn killed_at_random_instants() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = start(&sandbox, &Program::fixture("instant").with_args(&["64", "processes"]));
    let begin = Instant::now();
    assert_eq!(checkpoint(&sandbox, &program), "[]");
    let span_us = begin.elapsed().as_micros() as u64;
    let pid = program.pid().to_string();
    let mut random = Random::new(0x6272_616e_7409);
    for number in 0..if is_full() { KILLS_FULL } else { KILLS_SHORT } {
        let (mut brant, _) = sandbox.spawn_brant(&["checkpoint", &pid, "--force", "-o", &image(&sandbox)]);
        std::thread::sleep(Duration::from_micros(random.below(span_us)));
        let _ = brant.kill();
        let _ = brant.wait();
        assert!(wait_until(20, || copies(&sandbox).is_empty()), "kill {number}: {:?}", sandbox.leftovers());
        let own = || program_children(&program) == 1 && status_line(program.pid(), "TracerPid:") == "0";
        assert!(wait_until(20, own), "kill {number}: children {:?}", children(program.pid()));
        expect_beats(&sandbox, &mut program, &format!("kill {number}"));
    }
    let _ = std::fs::remove_file(sandbox.path("image"));
    finish_own(&sandbox, program);
}

/// The keeper takes note of the end of what it adopts.
#[test]
fn a_jobs_keeper_keeps_no_zombies() {
    let sandbox = Sandbox::new(Who::Plain);
    let program = Program::fixture("instant");
    let mut placed = start(&sandbox, &program);
    sandbox.write("f.go", "go");
    placed.wait(RESULT_TIMEOUT_S);
    for name in ["f.go", "f.ready", "f.result"] {
        let _ = std::fs::remove_file(sandbox.path(name));
    }
    let path = |name: &str| sandbox.path(name).to_str().expect("test paths are UTF-8").to_owned();
    let run = sandbox.brant(&["run", "-d", "--name", "kept", "--", &path("instant"), &path("f")]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(wait_until(READY_TIMEOUT_S, || sandbox.path("f.ready").exists()), "the job is not ready");
    for _ in 0..3 {
        assert_eq!(checkpoint_of(&sandbox, "kept"), "[]");
    }
    let job = sandbox.leftovers().into_iter().find(|(_, name)| name == "instant").expect("the job runs").0;
    let keeper: i32 = status_line(job, "PPid:").parse().expect("a job has a keeper");
    let only_the_job = || children(keeper).split_whitespace().eq([job.to_string().as_str()]);
    assert!(wait_until(20, only_the_job), "the keeper has {}", children(keeper));
    finish(&sandbox);
}

#[test]
fn a_full_disk_ends_the_copies() {
    if !is_root() {
        return skip("root");
    }
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = start(&sandbox, &Program::fixture("instant"));
    let folder = sandbox.path("small");
    std::fs::create_dir(&folder).expect("the sandbox is writable");
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=8m,mode=777", "tmpfs"]).arg(&folder);
    if !mount.status().is_ok_and(|status| status.success()) {
        return skip("host: mount");
    }
    let file = folder.join("x.img");
    let to = file.to_str().expect("test paths are UTF-8");
    let outcome = sandbox.brant(&["checkpoint", &program.pid().to_string(), "-o", to]);
    let unmounted = Command::new("umount").arg(&folder).status();
    assert!(unmounted.is_ok_and(|status| status.success()), "the small disk is still in use");
    assert_eq!(outcome.code, 7, "{}", outcome.stderr);
    assert!(copies(&sandbox).is_empty());
    expect_beats(&sandbox, &mut program, "after a full disk");
    finish_own(&sandbox, program);
}

/// A cgroup of version 1 or 2 that a program was moved into. It goes when its programs have ended.
struct Group {
    folder: PathBuf,
    is_first: bool,
}

impl Group {
    /// `None` where this host gives none with this controller.
    fn around(controller: &str, program: &Started) -> Option<Group> {
        let own = Path::new("/sys/fs/cgroup").join(controller);
        let is_first = own.is_dir();
        let above = if is_first { own } else { PathBuf::from("/sys/fs/cgroup") };
        let folder = above.join(format!("brant-test-{}", program.pid()));
        std::fs::create_dir(&folder).ok()?;
        let group = Group { folder, is_first };
        let limit = format!("{controller}.max");
        let has = is_first || group.folder.join(limit).exists();
        std::fs::write(group.folder.join("cgroup.procs"), program.pid().to_string()).ok()?;
        has.then_some(group)
    }

    fn write(&self, file: &str, value: u64) {
        std::fs::write(self.folder.join(file), value.to_string()).expect("root may set limits");
    }

    fn limit_memory(&self, bytes: u64) {
        self.write(if self.is_first { "memory.limit_in_bytes" } else { "memory.max" }, bytes);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        wait_until(20, || std::fs::remove_dir(&self.folder).is_ok());
    }
}

fn anonymous_bytes(pid: i32) -> u64 {
    let kib = status_line(pid, "RssAnon:");
    kib.trim_end_matches(" kB").parse::<u64>().expect("a process has memory") << 10
}

#[test]
fn a_tight_memory_group_gets_no_copy() {
    if !is_root() {
        return skip("root");
    }
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = start(&sandbox, &Program::fixture("instant"));
    let Some(group) = Group::around("memory", &program) else { return skip("host: memory cgroup") };
    // What it had before is charged elsewhere.
    group.limit_memory(anonymous_bytes(program.pid()) + (40 << 20));
    let reasons = checkpoint(&sandbox, &program);
    assert!(reasons.contains("memory are left in the cgroup"), "{reasons}");
    expect_beats(&sandbox, &mut program, "after a checkpoint in a tight group");
    finish_own(&sandbox, program);
    drop(group);
}

/// There is room at first, then the program takes it: the copy goes, not the program.
#[test]
fn a_copy_goes_before_the_program() {
    if !is_root() {
        return skip("root");
    }
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = start(&sandbox, &Program::fixture("instant"));
    let Some(group) = Group::around("memory", &program) else { return skip("host: memory cgroup") };
    // Too little for the memory that it had (charged here as it is written to), its double and its growth.
    group.limit_memory(3 * anonymous_bytes(program.pid()) + (4 << 20));
    let writing = Writing::begin(&sandbox, &program);
    sandbox.write("f.grow", "");
    assert!(wait_until(60, || sandbox.path("f.grown").exists()), "{}", sandbox.text("f.result"));
    // On a busy host it may be some time until brant looks again; a reader would let it finish meanwhile.
    assert!(wait_until(60, || copies(&sandbox).is_empty()), "the copy stands in a full group");
    let (_, outcome) = writing.take();
    assert_eq!(outcome.code, 1, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("B-0705"), "{}", outcome.stderr);
    expect_beats(&sandbox, &mut program, "after its copy went");
    finish_own(&sandbox, program);
    drop(group);
}

/// A copy takes nothing that the program could want: here it could make another process, and still can.
#[test]
fn near_a_limit_of_processes_there_is_no_copy() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = start(&sandbox, &Program::fixture("instant"));
    let limited =
        sandbox.command("prlimit").args(["--nproc=1:1", "--pid", &program.pid().to_string()]).status();
    assert!(limited.is_ok_and(|status| status.success()), "prlimit");
    let reasons = checkpoint(&sandbox, &program);
    assert!(reasons.contains("at most 1 processes"), "{reasons}");
    expect_beats(&sandbox, &mut program, "after a checkpoint near a limit");
    finish_own(&sandbox, program);
}

#[test]
fn a_group_without_room_for_processes_gets_no_copy() {
    if !is_root() {
        return skip("root");
    }
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = start(&sandbox, &Program::fixture("instant"));
    let Some(group) = Group::around("pids", &program) else { return skip("host: pids cgroup") };
    let threads: u64 = status_line(program.pid(), "Threads:").parse().expect("a number of threads");
    group.write("pids.max", threads + 2);
    let reasons = checkpoint(&sandbox, &program);
    assert!(reasons.contains("processes and threads"), "{reasons}");
    expect_beats(&sandbox, &mut program, "after a checkpoint near a limit");
    group.write("pids.max", threads + 100);
    assert_eq!(checkpoint(&sandbox, &program), "[]");
    finish_own(&sandbox, program);
    drop(group);
}
