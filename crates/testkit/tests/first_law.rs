//! The first law: whatever fails, the program runs on unharmed, and no half image takes the final name.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use brant_testkit::{Outcome, Program, Sandbox, Started, Who, is_full, is_root, skip, wait_until};

const KILLS_SHORT: u32 = 25;
/// Some come when the checkpoint has ended already: enough for a hundred that do not.
const KILLS_FULL: u32 = 250;
/// The busy program may take this long for two further beats before it counts as harmed.
const BEAT_TIMEOUT_S: u64 = 90;

/// A seeded sequence (xorshift), so that a failure's numbers can be told.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end.max(1)
    }
}

fn begin(sandbox: &Sandbox) -> Started {
    let started = sandbox.start(&Program::fixture("busy"));
    assert!(
        wait_until(60, || sandbox.path("f.ready").exists()),
        "busy did not start: {}",
        sandbox.text("f.result")
    );
    started
}

fn beat(sandbox: &Sandbox) -> u64 {
    sandbox.text("f.beat").trim().parse().unwrap_or(0)
}

/// Every thread of the program makes progress, and it found nothing wrong with itself.
fn expect_unharmed(sandbox: &Sandbox, program: &mut Started, when: &str) {
    let before = beat(sandbox);
    let moves =
        wait_until(BEAT_TIMEOUT_S, || beat(sandbox) >= before + 2 || sandbox.path("f.result").exists());
    let result = sandbox.text("f.result");
    assert!(moves && result.is_empty(), "{when}: {result}; beat {before} -> {}", beat(sandbox));
    assert_eq!(program.ended(), None, "{when}: the program ended");
}

fn expect_good_end(sandbox: &Sandbox, program: &mut Started) {
    sandbox.write("f.go", "go");
    assert_eq!(program.wait(60), Some(0), "{}", sandbox.text("f.result"));
    assert_eq!(sandbox.text("f.result"), "ok");
    sandbox.expect_no_leftovers();
}

fn pid(program: &Started) -> String {
    program.pid().to_string()
}

fn image(sandbox: &Sandbox, name: &str) -> String {
    sandbox.path(name).to_str().expect("test paths are UTF-8").to_owned()
}

#[test]
fn killed_at_random_instants_of_a_checkpoint() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = begin(&sandbox);
    let begin_whole = Instant::now();
    let whole = sandbox.brant(&["checkpoint", &pid(&program), "-o", &image(&sandbox, "whole.img")]);
    assert_eq!(whole.code, 0, "{}", whole.stderr);
    let span_us = begin_whole.elapsed().as_micros() as u64 * 11 / 10;
    expect_unharmed(&sandbox, &mut program, "after a whole checkpoint");
    let mut random = Random(0x6272_616e_7401);
    let kills = if is_full() { KILLS_FULL } else { KILLS_SHORT };
    let (mut cut_short, mut had_finished) = (0, 0);
    for number in 0..kills {
        let path = image(&sandbox, "killed.img");
        let args: &[&str] = if number % 4 == 3 { &["--stop"] } else { &[] };
        let target = pid(&program);
        let after_us = random.below(span_us);
        // With --stop, only instants before the image can be whole: afterwards the program's end is what was asked for.
        let after_us = if args.is_empty() { after_us } else { after_us / 3 };
        let (mut brant, log) = sandbox.spawn_brant(&[&["checkpoint", &target, "-o", &path], args].concat());
        std::thread::sleep(Duration::from_micros(after_us));
        let _ = brant.kill();
        let status = brant.wait().expect("our own child can be waited for");
        let outcome: Outcome = sandbox.outcome(log, status);
        let was_killed = outcome.code == 128 + 9;
        if was_killed {
            cut_short += 1
        } else {
            had_finished += 1
        }
        if !args.is_empty() && (outcome.code == 0 || program.ended().is_some()) {
            // It was quick enough to stop the program: the image must be there, whole.
            let verified = sandbox.brant(&["image", "verify", &path]);
            assert_eq!(verified.code, 0, "stopped without a whole image: {}", verified.stderr);
            program.wait(20);
            program = restart(&sandbox);
        } else {
            let when = format!("kill {number}, {after_us} us after the start ({})", outcome.code);
            expect_unharmed(&sandbox, &mut program, &when);
        }
        if sandbox.path("killed.img").exists() {
            let verified = sandbox.brant(&["image", "verify", &path]);
            assert_eq!(verified.code, 0, "half an image after kill {number}: {}", verified.stderr);
            std::fs::remove_file(sandbox.path("killed.img")).expect("the test may remove its images");
        }
    }
    eprintln!("{cut_short} checkpoints cut short, {had_finished} had finished, of {kills}; none harmed");
    expect_good_end(&sandbox, &mut program);
}

fn restart(sandbox: &Sandbox) -> Started {
    for name in ["f.ready", "f.result", "f.beat"] {
        let _ = std::fs::remove_file(sandbox.path(name));
    }
    begin(sandbox)
}

#[test]
fn killed_and_then_carried() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = begin(&sandbox);
    let mut random = Random(0x6272_616e_7402);
    for _ in 0..5 {
        let (mut brant, _) =
            sandbox.spawn_brant(&["checkpoint", &pid(&program), "-o", &image(&sandbox, "cut.img")]);
        std::thread::sleep(Duration::from_micros(random.below(60_000)));
        let _ = brant.kill();
        let _ = brant.wait();
        let _ = std::fs::remove_file(sandbox.path("cut.img"));
    }
    let whole = sandbox.brant(&["checkpoint", &pid(&program), "--stop", "-o", &image(&sandbox, "whole.img")]);
    assert_eq!(whole.code, 0, "{}", whole.stderr);
    assert!(program.wait(20).is_some(), "--stop left the program running");
    let restored = sandbox.brant(&["restore", "-d", &image(&sandbox, "whole.img")]);
    assert_eq!(restored.code, 0, "{}", restored.stderr);
    sandbox.write("f.go", "go");
    assert!(wait_until(60, || sandbox.path("f.result").exists()), "the restored program said nothing");
    assert_eq!(sandbox.text("f.result"), "ok");
    sandbox.expect_no_leftovers();
}

#[test]
fn a_restore_that_is_killed_leaves_nothing_or_a_whole_job() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = begin(&sandbox);
    let path = image(&sandbox, "whole.img");
    let stopped = sandbox.brant(&["checkpoint", &pid(&program), "--stop", "-o", &path]);
    assert_eq!(stopped.code, 0, "{}", stopped.stderr);
    assert!(program.wait(20).is_some(), "--stop left the program running");
    let begin_whole = Instant::now();
    let mut span_us = 300_000;
    let mut random = Random(0x6272_616e_7403);
    let kills = if is_full() { KILLS_FULL } else { KILLS_SHORT };
    for number in 0..kills {
        let _ = std::fs::remove_file(sandbox.path("f.go"));
        let _ = std::fs::remove_file(sandbox.path("f.result"));
        let (mut brant, _) = sandbox.spawn_brant(&["restore", "-d", &path]);
        if number == 0 {
            assert!(
                brant.wait().expect("our own child can be waited for").success(),
                "a restore without a kill fails"
            );
            span_us = begin_whole.elapsed().as_micros() as u64;
        } else {
            std::thread::sleep(Duration::from_micros(random.below(span_us)));
            let _ = brant.kill();
            let _ = brant.wait();
        }
        // Either nothing of it is left, or the job runs and is whole.
        let _ = wait_until(2, || sandbox.leftovers().is_empty());
        if !sandbox.leftovers().is_empty() {
            sandbox.write("f.go", "go");
            let ended = wait_until(60, || sandbox.path("f.result").exists());
            assert!(ended, "kill {number} left something that is no job: {:?}", sandbox.leftovers());
            assert_eq!(sandbox.text("f.result"), "ok");
        }
        sandbox.expect_no_leftovers();
    }
}

#[test]
fn a_file_size_limit_is_a_full_disk() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = begin(&sandbox);
    let path = image(&sandbox, "big.img");
    let mut command = sandbox.command("prlimit");
    command.arg("--fsize=65536").arg(sandbox.path("brant"));
    command.args(["checkpoint", &pid(&program), "--stop", "-o", &path]);
    let output = command.output().expect("prlimit starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{stderr}");
    assert!(!sandbox.path("big.img").exists(), "a failed checkpoint left an image");
    expect_unharmed(&sandbox, &mut program, "after a checkpoint that met a limit");
    expect_good_end(&sandbox, &mut program);
}

#[test]
fn a_full_disk() {
    if !is_root() {
        return skip("root");
    }
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = begin(&sandbox);
    let folder = sandbox.path("small");
    std::fs::create_dir(&folder).expect("the sandbox is writable");
    let mut mount = std::process::Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=128k,mode=777", "tmpfs"]).arg(&folder);
    if !mount.status().is_ok_and(|status| status.success()) {
        return skip("host: mount");
    }
    let outcome =
        sandbox.brant(&["checkpoint", &pid(&program), "--stop", "-o", &image(&sandbox, "small/x.img")]);
    let left: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder is there")
        .flatten()
        .map(|entry| entry.path())
        .collect();
    let unmounted = std::process::Command::new("umount").arg(&folder).status();
    assert!(unmounted.is_ok_and(|status| status.success()), "the small disk is still in use");
    assert_eq!(outcome.code, 7, "{}", outcome.stderr);
    assert!(left.is_empty(), "left on the full disk: {left:?}");
    expect_unharmed(&sandbox, &mut program, "after a full disk");
    expect_good_end(&sandbox, &mut program);
}
