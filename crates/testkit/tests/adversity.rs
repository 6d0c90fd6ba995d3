//! Targets that move while they are looked at, rivals, signals to brant itself, and images that make no sense.
#![forbid(unsafe_code)]

use std::fs::File;
use std::time::{Duration, Instant};

use brant_base::{Addr, PageRange, Pid, Tid};
use brant_image::model::*;
use brant_image::{Codec, Image, Writer};
use brant_testkit::{Outcome, Program, Sandbox, Started, Who, wait_until};

/// No command here may take longer, in seconds.
const PROMPT_S: u64 = 30;

fn start(sandbox: &Sandbox, fixture: &'static str, args: &[&str]) -> Started {
    let started = sandbox.start(&Program::fixture(fixture).with_args(args));
    assert!(wait_until(60, || sandbox.path("f.ready").exists()), "{}", sandbox.text("f.result"));
    started
}

fn path(sandbox: &Sandbox, name: &str) -> String {
    sandbox.path(name).to_str().expect("test paths are UTF-8").to_owned()
}

fn checkpoint(sandbox: &Sandbox, pid: i32) -> Outcome {
    let begin = Instant::now();
    let outcome = sandbox.brant(&["checkpoint", &pid.to_string(), "--force", "-o", &path(sandbox, "image")]);
    assert!(begin.elapsed() < Duration::from_secs(PROMPT_S), "{:?}: {}", begin.elapsed(), outcome.stderr);
    outcome
}

/// A test that is broken off must not leave a program behind that spins for ever.
#[test]
fn a_program_whose_test_is_gone_ends_by_itself() {
    const GONE: i32 = 96;
    let sandbox = Sandbox::new(Who::Plain);
    let binary = sandbox.place_fixture(&Program::fixture("busy"));
    let silent = sandbox.command("touch").args(["-d", "1 hour ago"]).arg(sandbox.path("g.alive")).status();
    assert!(silent.is_ok_and(|status| status.success()));
    let mut command = sandbox.command(&binary);
    command.arg(sandbox.path("g"));
    let mut program = sandbox.launch(command, false);
    assert_eq!(program.wait(60), Some(GONE), "{}", sandbox.text("g.result"));
    sandbox.expect_no_leftovers();
}

/// A thread's exec ends all others, and the tracer must have reaped those that it holds.
#[test]
fn a_target_that_executes_itself_from_a_thread() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = start(&sandbox, "churn", &["exec"]);
    let pid = program.pid();
    let done = (0..15).filter(|_| checkpoint(&sandbox, pid).code == 0).count();
    assert!(done >= 10, "only {done} of 15 checkpoints were taken");
    assert_eq!(program.ended(), None, "{}", sandbox.text("err"));
}

#[test]
fn targets_that_make_threads_and_processes() {
    for mode in ["threads", "forks", "many"] {
        let sandbox = Sandbox::new(Who::Plain);
        let mut program = start(&sandbox, "churn", &[mode]);
        for _ in 0..4 {
            let outcome = checkpoint(&sandbox, program.pid());
            assert_eq!(outcome.code, 0, "{mode}: {}", outcome.stderr);
        }
        assert_eq!(program.ended(), None, "{mode}: {}", sandbox.text("err"));
    }
}

#[test]
fn brant_refuses_the_tree_that_it_is_in() {
    let sandbox = Sandbox::new(Who::Plain);
    let line = format!("{} checkpoint $$ -o {}; exit $?", path(&sandbox, "brant"), path(&sandbox, "image"));
    let output = sandbox.command("sh").args(["-c", &line]).output().expect("a shell starts");
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("B-0203"));
    assert!(!sandbox.path("image").exists());
}

#[test]
fn of_two_at_once_each_succeeds_or_says_who_was_first() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = start(&sandbox, "churn", &["many"]);
    let pid = program.pid().to_string();
    let rivals: Vec<_> = (0..4)
        .map(|number| {
            sandbox.spawn_brant(&["checkpoint", &pid, "-o", &path(&sandbox, &format!("image{number}"))])
        })
        .collect();
    let mut done = 0;
    for (mut rival, number) in rivals {
        let status = rival.wait().expect("our own child can be waited for");
        let outcome = sandbox.outcome(number, status);
        match outcome.code {
            0 => done += 1,
            3 => assert!(outcome.stderr.contains("B-0301"), "{}", outcome.stderr),
            code => panic!("{code}: {}", outcome.stderr),
        }
    }
    assert!(done > 0);
    assert_eq!(checkpoint(&sandbox, program.pid()).code, 0);
    assert_eq!(program.ended(), None);
}

#[test]
fn an_interrupted_checkpoint_leaves_the_program_and_no_image() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = start(&sandbox, "busy", &[]);
    let pid = program.pid().to_string();
    for number in 0..8 {
        let (mut brant, _) = sandbox.spawn_brant(&["checkpoint", &pid, "-o", &path(&sandbox, "image")]);
        std::thread::sleep(Duration::from_millis(5 + 9 * number));
        let signal = nix::sys::signal::Signal::SIGINT;
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(brant.id() as i32), signal);
        let status = brant.wait().expect("our own child can be waited for");
        assert_eq!(sandbox.path("image").exists(), status.success());
        let _ = std::fs::remove_file(sandbox.path("image"));
        assert_eq!(program.ended(), None);
    }
    sandbox.write("f.go", "go");
    assert_eq!(program.wait(60), Some(0), "{}", sandbox.text("f.result"));
}

#[test]
fn a_stopped_target_stays_stopped() {
    use nix::sys::signal::{Signal, kill};
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = start(&sandbox, "churn", &["many"]);
    let pid = nix::unistd::Pid::from_raw(program.pid());
    kill(pid, Signal::SIGSTOP).expect("our own child can be signalled");
    assert_eq!(checkpoint(&sandbox, program.pid()).code, 0);
    std::thread::sleep(Duration::from_millis(100));
    let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(state().contains(") T "), "{}", state());
    kill(pid, Signal::SIGCONT).expect("our own child can be signalled");
    assert!(wait_until(5, || !state().contains(") T ")));
    assert_eq!(program.ended(), None);
}

type Twist = fn(&mut Checkpoint);

fn body(checkpoint: &mut Checkpoint) -> &mut ProcessBody {
    checkpoint.processes[0].body.as_mut().expect("the fixture runs")
}

fn thread(checkpoint: &mut Checkpoint) -> &mut Thread {
    &mut body(checkpoint).threads[0]
}

fn map(checkpoint: &mut Checkpoint, start: u64, end: u64) {
    let mappings = &mut body(checkpoint).memory.mappings;
    let range = PageRange::new(start, end).expect("a range of pages");
    let anonymous = mappings.iter().find(|mapping| mapping.backing == Backing::Anonymous);
    let mut mapping = anonymous.expect("there is a heap or stack").clone();
    mappings.retain(|mapping| !mapping.range.overlaps(range));
    mapping.range = range;
    mappings.push(mapping);
    mappings.sort_by_key(|mapping| mapping.range.start());
}

fn renumber(checkpoint: &mut Checkpoint, number: i32) {
    checkpoint.root = Pid(number);
    checkpoint.processes[0].pid = Pid(number);
    thread(checkpoint).tid = Tid(number);
}

/// What passes the validation and makes no sense to a kernel.
const TWISTS: &[(&str, Twist)] = &[
    ("a mapping at address 0", |c| map(c, 0, 0x1000)),
    ("a mapping of the last user page", |c| map(c, 0x7fff_ffff_e000, 0x7fff_ffff_f000)),
    ("a mapping beyond the user's half", |c| map(c, 0x7fff_ffff_f000, 0x8000_0000_1000)),
    ("a mapping of nearly everything", |c| map(c, 0x1_0000, 0x7fff_0000_0000)),
    ("a mapping of literally everything", |c| map(c, 0, 0x7fff_ffff_f000)),
    ("a descriptor of a milliard", |c| {
        body(c).descriptors.last_mut().expect("it has descriptors").number = 1_000_000_000;
    }),
    ("the largest descriptor", |c| {
        body(c).descriptors.last_mut().expect("it has descriptors").number = i32::MAX;
    }),
    ("a pid above every pid_max", |c| renumber(c, 2_000_000_000)),
    ("the largest pid", |c| renumber(c, i32::MAX)),
    ("pid 1", |c| renumber(c, 1)),
    ("a parent above every pid_max", |c| c.processes[0].ppid = Pid(i32::MAX)),
    ("a session and a group of nobody", |c| {
        c.processes[0].sid = Pid(i32::MAX);
        c.processes[0].pgid = Pid(i32::MAX - 1);
    }),
    ("a group that is in another session", |c| {
        c.processes[0].sid = c.processes[0].pid;
        c.processes[0].pgid = Pid(77);
    }),
    ("registers in the kernel's half", |c| thread(c).registers.rip = 0xffff_8000_0000_0000),
    ("a non-canonical fs base", |c| thread(c).registers.fs_base = 0x8000_0000_0000_0000),
    ("all flags", |c| thread(c).registers.eflags = u64::MAX),
    ("an extended state of ones", |c| thread(c).xstate.0.fill(0xff)),
    ("rseq in the kernel's half", |c| {
        thread(c).rseq = Some(Rseq { area: Addr(u64::MAX - 31), bytes: 32, signature: 0, flags: 0 });
    }),
    ("clocks at the beginning of time", |c| {
        c.clocks.monotonic_ns = i64::MIN;
        c.clocks.boottime_ns = i64::MIN;
    }),
    ("clocks at the end of time", |c| {
        c.clocks.monotonic_ns = i64::MAX;
        c.clocks.boottime_ns = i64::MAX;
    }),
    ("endless timers", |c| {
        body(c).interval_timers = [IntervalTimer { value_ns: u64::MAX, interval_ns: u64::MAX }; 3];
    }),
    ("a POSIX timer of a far number", |c| {
        let timer = PosixTimer { id: i32::MAX, remaining_ns: u64::MAX, ..PosixTimer::default() };
        body(c).posix_timers = vec![timer];
    }),
    ("an endless remainder of a sleep", |c| {
        thread(c).interrupted = Some(InterruptedCall { number: 35, remaining_ns: u64::MAX });
    }),
    ("a break of everything", |c| body(c).memory.layout.brk = (Addr(0), Addr(u64::MAX))),
    ("no vdso", |c| c.host.vdso.clear()),
    ("a vdso of ones", |c| c.host.vdso.fill(0xff)),
    ("a working directory with escapes", |c| body(c).cwd = b"/nowhere/\x1b[31m/../..\n".to_vec()),
    ("an executable with escapes", |c| c.disk_files[0].path = b"/nowhere/\x1b[31m\n".to_vec()),
    ("no limits at all", |c| {
        body(c).limits.iter_mut().for_each(|limit| *limit = Limit { soft: 0, hard: 0 });
    }),
    ("another user", |c| body(c).credentials.uids = [u32::MAX; 4]),
    ("an absurd personality", |c| body(c).personality = u64::MAX),
    ("an absurd oom_score_adj", |c| body(c).oom_score_adj = i32::MAX),
    ("a main thread that is said to be gone", |c| body(c).leader_exited = true),
    ("CPUs that are not there", |c| thread(c).scheduling.affinity = vec![u32::MAX, 8191]),
    ("signal frames of any sort", |c| {
        for action in &mut body(c).actions {
            action.flags = u64::MAX;
        }
    }),
];

/// Writes `checkpoint` as an image without any page.
fn forge(sandbox: &Sandbox, checkpoint: &Checkpoint) -> Option<String> {
    let image = path(sandbox, "forged");
    let _ = std::fs::remove_file(&image);
    let file = File::create_new(&image).expect("the sandbox is writable");
    let writer = Writer::create(file, checkpoint, Codec::Raw).ok()?;
    writer.finish().ok()?;
    let script = format!("chmod 644 {image}");
    assert!(std::process::Command::new("sh").args(["-c", &script]).status().is_ok_and(|done| done.success()));
    Some(image)
}

#[test]
fn images_that_make_no_sense_are_refused_in_order() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = start(&sandbox, "sleeps", &[]);
    let whole = path(&sandbox, "whole");
    let stopped = sandbox.brant(&["checkpoint", &program.pid().to_string(), "--stop", "-o", &whole]);
    assert_eq!(stopped.code, 0, "{}", stopped.stderr);
    program.wait(20);
    let image = Image::open(File::open(&whole).expect("it was written")).expect("it is whole");
    let mut faults = Vec::new();
    for (name, twist) in TWISTS {
        let mut checkpoint = image.checkpoint().clone();
        twist(&mut checkpoint);
        // What the validation finds is found by every reader, too.
        let Some(forged) = forge(&sandbox, &checkpoint) else { continue };
        let begin = Instant::now();
        let outcome = sandbox.brant(&["restore", "-d", "-n", "forged", &forged]);
        eprintln!("{name}: {} in {:?}\n{}", outcome.code, begin.elapsed(), outcome.stderr);
        let sound = [0, 1, 3, 4, 5, 6, 7].contains(&outcome.code)
            && !outcome.stderr.contains("panicked")
            && !outcome.stderr.contains("B-0806")
            && !outcome.stderr.contains("B-0803")
            && !outcome.stderr.contains('\x1b')
            && begin.elapsed() < Duration::from_secs(PROMPT_S);
        if !sound {
            faults.push(*name);
        }
        let _ = sandbox.brant(&["kill", "forged"]);
        if !wait_until(5, || sandbox.leftovers().is_empty()) {
            faults.push(*name);
        }
    }
    assert!(faults.is_empty(), "{faults:?}");
}

/// A sleep that was interrupted before goes on under another number, and in some kernels in a place that does not tell which
/// call it was.
#[test]
fn sleeps_go_on_after_a_second_checkpoint() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = sandbox.start(&Program::fixture("sleeps"));
    assert!(wait_until(60, || sandbox.path("f.ready").exists()), "it did not start");
    let pid = program.pid().to_string();
    sandbox.brant(&["checkpoint", &pid, "-o", "./first.img"]).expect(0);
    sandbox.brant(&["checkpoint", &pid, "--stop", "-o", "./second.img"]).expect(0);
    assert!(program.wait(60).is_some(), "--stop left the program running");
    sandbox.brant(&["restore", "-d", "./second.img"]).expect(0);
    sandbox.write("f.go", "go");
    assert!(wait_until(60, || sandbox.path("f.result").exists()), "it does not go on");
    assert_eq!(sandbox.text("f.result"), "ok");
}

/// What is left of a sleep goes through code that each restore maps anew: it leads to the program, not to that of an earlier
/// restore, which is unmapped.
#[test]
fn sleeps_go_on_after_many_restores() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = sandbox.start(&Program::fixture("sleeps"));
    assert!(wait_until(60, || sandbox.path("f.ready").exists()), "it did not start");
    let mut pid = program.pid().to_string();
    for _ in 0..5 {
        sandbox.brant(&["checkpoint", &pid, "--stop", "--force", "-o", "./image"]).expect(0);
        assert!(program.wait(60).is_some(), "--stop left the program running");
        sandbox.brant(&["restore", "-d", "--pid-file", "./pid", "./image"]).expect(0);
        pid = sandbox.text("pid").trim().to_owned();
        std::fs::remove_file(sandbox.path("pid")).expect("the file of its number");
    }
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("it runs");
    let own_code = maps.lines().filter(|line| line.contains(" r-xp ") && line.contains(" 00:00 0 "));
    let nameless = own_code.filter(|line| !line.contains('[')).count();
    assert!(nameless <= 1, "{maps}");
    sandbox.write("f.go", "go");
    assert!(
        wait_until(60, || sandbox.path("f.result").exists()),
        "it does not go on: {} {}",
        sandbox.text("out"),
        sandbox.text("err")
    );
    assert_eq!(sandbox.text("f.result"), "ok");
}

/// The kernel tells some sleepers what is left, at every stop, and may write that over what they asked for.
#[test]
fn sleeps_that_are_told_their_rest_are_not_cut_short() {
    const MOST_OF_IT: Duration = Duration::from_millis(2500);
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = sandbox.start_ready(&Program::fixture("sleeps"));
    std::thread::sleep(MOST_OF_IT);
    let image = sandbox.stop(&mut program, &[]);
    sandbox.brant(&["restore", "-d", &image]).expect(0);
    sandbox.finish_fixture();
}
