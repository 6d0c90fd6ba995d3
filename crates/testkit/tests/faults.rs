//! The first law at every named fault point (`brant_base::fault`): brant ends there as if it were killed, or a write
//! fails. Every point of the list is walked, and each must really be reached.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::process::Child;

use brant_base::fault::POINTS;
use brant_testkit::{Outcome, Program, Sandbox, Started, Who, wait_until};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What the death of the process that meets the fault looks like: SIGABRT.
const ABORTED: i32 = 128 + 6;
/// For a program to show signs of life, in seconds.
const LIFE_TIMEOUT_S: u64 = 60;

/// Which points each test walks; together they are all.
fn points(prefixes: &[&str]) -> Vec<&'static str> {
    let is_meant = |point: &&&str| prefixes.iter().any(|prefix| point.starts_with(prefix));
    POINTS.iter().filter(is_meant).copied().collect()
}

const CAPTURE: [&str; 4] = ["hand.", "copy.", "capture.", "store."];
/// Reached only where the program is to end.
const STOP: [&str; 3] = ["capture.before-end", "capture.ending", "capture.ended"];
/// Reached only where an earlier image is replaced.
const REPLACE: &str = "store.linked";
const RESTORE: [&str; 2] = ["restore.", "keeper.adopting"];
/// The two ends of a move, and files that travel: walked by the tests of those.
const MOVE: [&str; 3] = ["migrate.", "receive.", "carried."];
/// Walked by the tests of wrapping without memory files.
const WRAP: [&str; 1] = ["wrap."];
/// Walked by the tests of jobs, beside the binary.
const JOB: [&str; 1] = ["job."];
const RUN: [&str; 4] = ["keeper.forked", "keeper.published", "keeper.program-forked", "keeper.ready"];

#[test]
fn every_point_is_walked() {
    let walked: BTreeSet<&str> =
        [&CAPTURE[..], &RESTORE, &RUN, &MOVE, &WRAP, &JOB].iter().flat_map(|part| points(part)).collect();
    let all: BTreeSet<&str> = POINTS.iter().copied().collect();
    assert_eq!(walked, all);
}

fn begin(sandbox: &Sandbox, fixture: &'static str) -> Started {
    for name in ["f.ready", "f.result", "f.beat", "f.go"] {
        let _ = std::fs::remove_file(sandbox.path(name));
    }
    let started = sandbox.start(&Program::fixture(fixture));
    assert!(wait_until(LIFE_TIMEOUT_S, || sandbox.path("f.ready").exists()), "{fixture} did not start");
    started
}

fn image(sandbox: &Sandbox) -> String {
    sandbox.path("f.img").to_str().expect("test paths are UTF-8").to_owned()
}

/// An image under its name is whole; and it is taken away.
fn expect_whole_or_none(sandbox: &Sandbox, when: &str) {
    if sandbox.path("f.img").exists() {
        let verified = sandbox.brant(&["image", "verify", &image(sandbox)]);
        assert_eq!(verified.code, 0, "half an image, {when}: {}", verified.stderr);
        std::fs::remove_file(sandbox.path("f.img")).expect("the test may remove its images");
    }
    let hidden: Vec<_> = std::fs::read_dir(sandbox.path(""))
        .expect("the sandbox is there")
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(".brant"))
        .collect();
    assert!(hidden.len() <= 1, "{when}: {hidden:?}");
}

fn expect_beats(sandbox: &Sandbox, program: &mut Started, when: &str) {
    let beat = || sandbox.text("f.beat").trim().parse::<u64>().unwrap_or(0);
    let before = beat();
    let moves = wait_until(LIFE_TIMEOUT_S, || beat() >= before + 2 || sandbox.path("f.result").exists());
    let result = sandbox.text("f.result");
    assert!(moves && result.is_empty(), "{when}: {result}; beat {before} -> {}", beat());
    assert_eq!(program.ended(), None, "{when}: the program ended");
}

fn expect_good_end(sandbox: &Sandbox, program: &mut Started) {
    sandbox.write("f.go", "go");
    assert_eq!(program.wait(LIFE_TIMEOUT_S), Some(0), "{}", sandbox.text("f.result"));
    assert_eq!(sandbox.text("f.result"), "ok");
    sandbox.expect_no_leftovers();
}

fn expect_made((outcome, made): (Outcome, bool), fault: &str) -> Outcome {
    assert!(made, "{fault} was not reached: {}", outcome.stderr);
    outcome
}

#[test]
fn a_checkpoint_that_ends_at_any_point() {
    let sandbox = Sandbox::with_faults(Who::Plain);
    let mut program = begin(&sandbox, "busy");
    let target = program.pid().to_string();
    let path = image(&sandbox);
    let apart = |point: &&str| STOP.contains(point) || *point == REPLACE;
    for point in points(&CAPTURE).into_iter().filter(|point| !apart(point)) {
        // The hand's points are met by every call: some of the first ones, of other threads, too.
        let occasions: &[u32] = if point.starts_with("hand.") { &[1, 2, 3, 5, 8] } else { &[1] };
        for occasion in occasions {
            let fault = format!("{point}#{occasion}=kill");
            let args = ["checkpoint", &target, "-o", &path];
            let (outcome, made) = sandbox.brant_with_fault(&fault, &args);
            // Not every point is met so often.
            assert!(made || *occasion > 1, "{fault} was not reached: {}", outcome.stderr);
            assert_eq!(outcome.code, if made { ABORTED } else { 0 }, "{fault}: {}", outcome.stderr);
            expect_beats(&sandbox, &mut program, &fault);
            expect_whole_or_none(&sandbox, &fault);
        }
    }
    expect_good_end(&sandbox, &mut program);
}

/// Both images are whole then, and the next one in the folder takes away what is left under a hidden name.
#[test]
fn a_checkpoint_that_ends_while_it_replaces_an_image() {
    let sandbox = Sandbox::with_faults(Who::Plain);
    sandbox.make_folder("images");
    let mut program = begin(&sandbox, "busy");
    let target = program.pid().to_string();
    let path = sandbox.path("images/x").to_str().expect("test paths are UTF-8").to_owned();
    let args = ["checkpoint", &target, "--force", "-o", &path];
    assert_eq!(sandbox.brant(&args).code, 0);
    let fault = format!("{REPLACE}=kill");
    assert_eq!(expect_made(sandbox.brant_with_fault(&fault, &args), &fault).code, ABORTED);
    let names = || {
        let entries = std::fs::read_dir(sandbox.path("images")).expect("the folder is there").flatten();
        entries.map(|entry| entry.file_name().into_string().expect("a name of ours")).collect::<Vec<_>>()
    };
    assert_eq!(names().len(), 2, "{:?}", names());
    for name in names() {
        let path = sandbox.path("images").join(name);
        let verified = sandbox.brant(&["image", "verify", path.to_str().expect("test paths are UTF-8")]);
        assert_eq!(verified.code, 0, "{}", verified.stderr);
        // Left some time ago.
        let dated = sandbox.command("touch").args(["-d", "1 hour ago"]).arg(&path).status();
        assert!(dated.is_ok_and(|status| status.success()));
    }
    expect_beats(&sandbox, &mut program, &fault);
    assert_eq!(sandbox.brant(&args).code, 0);
    assert_eq!(names(), ["x"]);
    expect_good_end(&sandbox, &mut program);
}

#[test]
fn a_checkpoint_whose_writes_fail() {
    let sandbox = Sandbox::with_faults(Who::Plain);
    let mut program = begin(&sandbox, "busy");
    let target = program.pid().to_string();
    let path = image(&sandbox);
    for (errno, code) in [(Errno::ENOSPC, 7), (Errno::EDQUOT, 7), (Errno::EIO, 7)] {
        for stop in [&[][..], &["--stop"]] {
            for occasion in [1, 2] {
                let fault = format!("store.write#{occasion}=fail:{}", errno as i32);
                let args = [&["checkpoint", &target, "-o", &path], stop].concat();
                let outcome = expect_made(sandbox.brant_with_fault(&fault, &args), &fault);
                assert_eq!(outcome.code, code, "{fault}: {}", outcome.stderr);
                assert!(outcome.stderr.contains("runs on as before"), "{fault}: {}", outcome.stderr);
                assert!(!sandbox.path("f.img").exists(), "{fault}: an image was left");
                expect_beats(&sandbox, &mut program, &fault);
            }
        }
    }
    expect_good_end(&sandbox, &mut program);
}

/// A tree of several processes ends as a whole or not at all, and only when its image is safe.
#[test]
fn the_end_of_a_tree_that_is_interrupted() {
    for point in ["store.before-sync", "store.synced", "store.named"].into_iter().chain(STOP) {
        let sandbox = Sandbox::with_faults(Who::Plain);
        let mut program = begin(&sandbox, "tree");
        let path = image(&sandbox);
        let fault = format!("{point}=kill");
        let args = ["checkpoint", &program.pid().to_string(), "--stop", "-o", &path];
        let outcome = expect_made(sandbox.brant_with_fault(&fault, &args), &fault);
        assert_eq!(outcome.code, ABORTED, "{fault}: {}", outcome.stderr);
        if ["capture.ending", "capture.ended"].contains(&point) {
            assert!(program.wait(LIFE_TIMEOUT_S).is_some(), "{fault}: the program runs on");
            sandbox.expect_no_leftovers();
            let restored = sandbox.brant(&["restore", "-d", &path]);
            assert_eq!(restored.code, 0, "{fault}: {}", restored.stderr);
            sandbox.write("f.go", "go");
            assert!(
                wait_until(LIFE_TIMEOUT_S, || sandbox.path("f.result").exists()),
                "{fault}: it says nothing"
            );
            assert_eq!(sandbox.text("f.result"), "ok", "{fault}");
        } else {
            expect_whole_or_none(&sandbox, &fault);
            expect_good_end(&sandbox, &mut program);
        }
        sandbox.expect_no_leftovers();
    }
}

#[test]
fn a_restore_that_ends_at_any_point() {
    let sandbox = Sandbox::with_faults(Who::Plain);
    for fixture in ["busy", "tree"] {
        let mut program = begin(&sandbox, fixture);
        let path = image(&sandbox);
        let stopped = sandbox.brant(&["checkpoint", &program.pid().to_string(), "--stop", "-o", &path]);
        assert_eq!(stopped.code, 0, "{}", stopped.stderr);
        assert!(program.wait(LIFE_TIMEOUT_S).is_some(), "--stop left the program running");
        for point in points(&RESTORE) {
            let _ = std::fs::remove_file(sandbox.path("f.go"));
            let _ = std::fs::remove_file(sandbox.path("f.result"));
            let fault = format!("{point}=kill");
            expect_made(
                sandbox.brant_with_fault(&fault, &["restore", "-d", "--files", "keep", &path]),
                &fault,
            );
            expect_nothing_or_all(&sandbox, &fault);
        }
        std::fs::remove_file(sandbox.path("f.img")).expect("the test may remove its images");
    }
}

/// From the moment at which the job is written down its client is no part of it: the builder lets the tree go.
#[test]
fn a_client_that_is_killed_before_the_commit() {
    let sandbox = Sandbox::with_faults(Who::Plain);
    let mut program = begin(&sandbox, "tree");
    let path = image(&sandbox);
    let stopped = sandbox.brant(&["checkpoint", &program.pid().to_string(), "--stop", "-o", &path]);
    assert_eq!(stopped.code, 0, "{}", stopped.stderr);
    assert!(program.wait(LIFE_TIMEOUT_S).is_some(), "--stop left the program running");
    let fault = "restore.announced=pause:500";
    let (mut brant, _) = sandbox.spawn_brant_with_fault(fault, &["restore", "-d", &path]);
    let is_announced = wait_until(LIFE_TIMEOUT_S, || !sandbox.text("faults").is_empty());
    assert!(is_announced && brant.kill().is_ok(), "{fault} was not reached");
    let _ = brant.wait();
    sandbox.write("f.go", "go");
    assert!(wait_until(LIFE_TIMEOUT_S, || sandbox.path("f.result").exists()), "it went with its client");
    assert_eq!(sandbox.text("f.result"), "ok");
    sandbox.expect_no_leftovers();
}

/// The kernel ends all tasks with the keeper, but the keeper is not gone before who traces them has seen their ends: the
/// builder must not wait for a main thread that the kernel reports after all others.
#[test]
fn a_keeper_that_is_killed_in_the_middle_of_any_call() {
    /// Less than the limit of a remote call.
    const PROMPT_S: u64 = 15;
    let sandbox = Sandbox::with_faults(Who::Plain);
    let mut program = begin(&sandbox, "busy");
    let path = image(&sandbox);
    let stopped = sandbox.brant(&["checkpoint", &program.pid().to_string(), "--stop", "-o", &path]);
    assert_eq!(stopped.code, 0, "{}", stopped.stderr);
    assert!(program.wait(LIFE_TIMEOUT_S).is_some(), "--stop left the program running");
    let mut broken_off = 0;
    for occasion in (1..).step_by(23) {
        let fault = format!("restore.in-call#{occasion}=hold");
        let (mut brant, number) = sandbox.spawn_brant_with_fault(&fault, &["restore", "-d", &path]);
        let is_at_pause =
            wait_until(LIFE_TIMEOUT_S, || !sandbox.text("faults").is_empty() || has_ended(&mut brant));
        assert!(is_at_pause, "{fault}: neither reached nor at an end");
        if sandbox.text("faults").is_empty() {
            assert!(brant.wait().is_ok_and(|status| status.success()), "{fault} was not met, and it failed");
            expect_nothing_or_all(&sandbox, &fault);
            break;
        }
        // Beside the first calls it may not yet have its name.
        let keeper = || {
            sandbox.leftovers().into_iter().find_map(|(pid, name)| name.starts_with("brant:").then_some(pid))
        };
        assert!(wait_until(LIFE_TIMEOUT_S, || keeper().is_some()), "{fault}: no keeper");
        let keeper = keeper().expect("it was there and is held");
        assert_eq!(kill(Pid::from_raw(keeper), Signal::SIGKILL), Ok(()), "{fault}");
        assert!(wait_until(LIFE_TIMEOUT_S, || waits_for_its_namespace(keeper)), "{fault}: the keeper lives");
        std::fs::remove_file(sandbox.path("faults")).expect("the test may let brant go on");
        assert!(wait_until(PROMPT_S, || has_ended(&mut brant)), "{fault}: the builder waits for the dead");
        let status = brant.wait().expect("our own child can be waited for");
        let outcome = sandbox.outcome(number, status);
        assert_eq!(outcome.code, 1, "{fault}: {}", outcome.stderr);
        sandbox.expect_no_leftovers();
        broken_off += 1;
    }
    assert!(broken_off >= 4, "only {broken_off} calls were met");
}

/// Whether a first process that was killed has let go of its files, has killed all others and sleeps until they are gone. A
/// keeper that has been sent the signal but did not get a processor since would still take the builder's word.
fn waits_for_its_namespace(pid: i32) -> bool {
    const PF_EXITING: u64 = 4;
    const FLAGS: usize = 6;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let flags = fields.get(FLAGS).and_then(|flags| flags.parse::<u64>().ok()).unwrap_or(0);
    fields.first() == Some(&"S") && flags & PF_EXITING != 0
}

fn has_ended(brant: &mut Child) -> bool {
    brant.try_wait().expect("our own child can be waited for").is_some()
}

/// Either nothing of a restored job is left, or all of it runs and finds itself whole.
fn expect_nothing_or_all(sandbox: &Sandbox, when: &str) {
    if !wait_until(2, || sandbox.leftovers().is_empty()) {
        sandbox.write("f.go", "go");
        let ended = wait_until(LIFE_TIMEOUT_S, || sandbox.path("f.result").exists());
        assert!(ended, "{when}: something is left that is no job: {:?}", sandbox.leftovers());
        assert_eq!(sandbox.text("f.result"), "ok", "{when}");
    }
    sandbox.expect_no_leftovers();
    expect_no_job(sandbox, when);
}

/// A keeper that is about to be gone may still be seen for a moment.
fn expect_no_job(sandbox: &Sandbox, when: &str) {
    let listed = || sandbox.brant(&["ps"]).stdout;
    assert!(wait_until(10, || listed().lines().count() == 1), "{when}: {}", listed());
}

#[test]
fn a_keeper_that_ends_at_any_point() {
    let sandbox = Sandbox::with_faults(Who::Plain);
    for point in points(&RUN) {
        let fault = format!("{point}=kill");
        let outcome =
            expect_made(sandbox.brant_with_fault(&fault, &["run", "-d", "--", "sleep", "1"]), &fault);
        assert_eq!(outcome.code, 125, "{fault}: {}", outcome.stderr);
        sandbox.expect_no_leftovers();
        expect_no_job(&sandbox, &fault);
    }
}
