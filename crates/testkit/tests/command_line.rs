//! The command line's contract: spelling, exit codes, jobs, and what is written where.
#![forbid(unsafe_code)]

use brant_testkit::{Outcome, Program, Sandbox, Started, Who, wait_until};

fn plain() -> Sandbox {
    Sandbox::new(Who::Plain)
}

fn text(sandbox: &Sandbox, name: &str) -> String {
    sandbox.path(name).to_str().expect("test paths are UTF-8").to_owned()
}

fn started(sandbox: &Sandbox) -> Started {
    let started = sandbox.start(&Program::fixture("ids"));
    assert!(wait_until(60, || sandbox.path("f.ready").exists()), "the fixture did not get ready");
    started
}

fn expect(outcome: &Outcome, code: i32) {
    assert_eq!(outcome.code, code, "stdout: {} stderr: {}", outcome.stdout, outcome.stderr);
}

#[test]
fn usage_is_2() {
    let sandbox = plain();
    expect(&sandbox.brant(&["no-such-verb"]), 2);
    expect(&sandbox.brant(&["checkpoint"]), 2);
    expect(&sandbox.brant(&["checkpoint", "1", "--no-such-flag"]), 2);
    expect(&sandbox.brant(&["--help"]), 0);
    expect(&sandbox.brant(&["--version"]), 0);
}

#[test]
fn no_such_target_is_4() {
    let sandbox = plain();
    for verb in ["checkpoint", "check"] {
        let outcome = sandbox.brant(&[verb, "4194304"]);
        expect(&outcome, 4);
        assert!(outcome.stderr.contains("B-02"), "no code in: {}", outcome.stderr);
        expect(&sandbox.brant(&[verb, "no-such-job"]), 4);
    }
    // Pid 1 is nobody's own.
    expect(&sandbox.brant(&["checkpoint", "1"]), 4);
}

#[test]
fn restore_of_nothing_and_of_rubbish() {
    let sandbox = plain();
    let missing = sandbox.brant(&["restore", &text(&sandbox, "no-such.img")]);
    assert!(matches!(missing.code, 4 | 7), "{}: {}", missing.code, missing.stderr);
    sandbox.write("rubbish.img", &"this is no image ".repeat(1000));
    expect(&sandbox.brant(&["restore", &text(&sandbox, "rubbish.img")]), 6);
    expect(&sandbox.brant(&["image", "verify", &text(&sandbox, "rubbish.img")]), 6);
    sandbox.write("empty.img", "");
    expect(&sandbox.brant(&["restore", &text(&sandbox, "empty.img")]), 6);
}

#[test]
fn damaged_images_are_6_and_start_nothing() {
    let sandbox = plain();
    let mut program = started(&sandbox);
    let image = text(&sandbox, "x.img");
    expect(&sandbox.brant(&["checkpoint", &program.pid().to_string(), "--stop", "-o", &image]), 0);
    program.wait(20);
    let whole = std::fs::read(sandbox.path("x.img")).expect("the image is there");
    for part in 0..24 {
        let at = whole.len() * part / 24;
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (part % 8);
        std::fs::write(sandbox.path("bad.img"), &damaged).expect("the sandbox is writable");
        expect(&sandbox.brant(&["image", "verify", &text(&sandbox, "bad.img")]), 6);
        std::fs::write(sandbox.path("bad.img"), &whole[..at]).expect("the sandbox is writable");
        expect(&sandbox.brant(&["restore", "-d", &text(&sandbox, "bad.img")]), 6);
    }
    sandbox.expect_no_leftovers();
}

#[test]
fn an_image_is_private_and_never_overwritten() {
    use std::os::unix::fs::PermissionsExt as _;
    let sandbox = plain();
    let program = started(&sandbox);
    let (pid, image) = (program.pid().to_string(), text(&sandbox, "x.img"));
    expect(&sandbox.brant(&["checkpoint", &pid, "-o", &image]), 0);
    let mode = std::fs::metadata(&image).expect("the image is there").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let before = std::fs::read(&image).expect("root or the owner may read it");
    let again = sandbox.brant(&["checkpoint", &pid, "-o", &image]);
    assert!(again.code != 0, "an image was overwritten without --force");
    assert!(
        std::fs::read(&image).expect("the image is there") == before,
        "a refused overwrite changed the image"
    );
    expect(&sandbox.brant(&["checkpoint", &pid, "-o", &image, "--force"]), 0);
    sandbox.write("f.go", "go");
    let mut program = program;
    assert_eq!(program.wait(60), Some(0), "{}", sandbox.text("f.result"));
}

#[test]
fn run_passes_exit_codes() {
    let sandbox = plain();
    expect(&sandbox.brant(&["run", "--", "sh", "-c", "exit 7"]), 7);
    expect(&sandbox.brant(&["run", "--", "/no/such/program"]), 127);
    sandbox.write("not-executable", "x");
    std::fs::set_permissions(
        sandbox.path("not-executable"),
        std::os::unix::fs::PermissionsExt::from_mode(0o644),
    )
    .expect("ours");
    expect(&sandbox.brant(&["run", "--", &text(&sandbox, "not-executable")]), 126);
    let killed = sandbox.brant(&["run", "--", "sh", "-c", "kill -TERM $$"]);
    expect(&killed, 128 + 15);
    let said = sandbox.brant(&["run", "--", "sh", "-c", "echo out; echo err >&2"]);
    expect(&said, 0);
    assert_eq!(said.stdout, "out\n");
    assert!(said.stderr.contains("err"));
    sandbox.expect_no_leftovers();
}

#[test]
fn a_job_from_run_to_kill() {
    let sandbox = plain();
    let script = "i=0; while :; do i=$((i + 1)); echo line $i; sleep 0.05; done";
    expect(&sandbox.brant(&["run", "-d", "-n", "sim", "--", "sh", "-c", script]), 0);
    let listed = sandbox.brant(&["ps"]);
    expect(&listed, 0);
    assert!(listed.stdout.contains("sim"), "{}", listed.stdout);
    assert!(
        wait_until(20, || sandbox.brant(&["logs", "sim"]).stdout.contains("line 5\n")),
        "the log lacks line 5"
    );
    // A name is taken only once.
    assert!(sandbox.brant(&["run", "-d", "-n", "sim", "--", "true"]).code != 0);
    // Checkpoint by name, stop, and back by name.
    expect(&sandbox.brant(&["checkpoint", "sim", "--stop"]), 0);
    let images = sandbox.brant(&["image", "ls"]);
    expect(&images, 0);
    assert!(images.stdout.contains("sim"), "{}", images.stdout);
    expect(&sandbox.brant(&["image", "verify", "sim"]), 0);
    expect(&sandbox.brant(&["image", "inspect", "sim"]), 0);
    expect(&sandbox.brant(&["restore", "sim", "-d"]), 0);
    let lines = |log: &str| {
        log.lines().filter_map(|line| line.strip_prefix("line ")?.parse::<u32>().ok()).max().unwrap_or(0)
    };
    let before = lines(&sandbox.brant(&["logs", "sim"]).stdout);
    assert!(
        wait_until(20, || lines(&sandbox.brant(&["logs", "sim"]).stdout) > before + 3),
        "the restored job says nothing new"
    );
    expect(&sandbox.brant(&["stop", "sim"]), 0);
    assert!(wait_until(20, || sandbox.leftovers().is_empty()), "left after stop: {:?}", sandbox.leftovers());
    expect(&sandbox.brant(&["image", "rm", "sim"]), 0);
    expect(&sandbox.brant(&["run", "-d", "-n", "sim2", "--", "sleep", "1000"]), 0);
    expect(&sandbox.brant(&["kill", "sim2"]), 0);
    sandbox.expect_no_leftovers();
}

#[test]
fn json_has_a_schema_version() {
    let sandbox = plain();
    for args in [&["ps", "--json"][..], &["doctor", "--json"], &["image", "ls", "--json"]] {
        let outcome = sandbox.brant(args);
        assert!(
            outcome.stdout.contains("\"schema_version\""),
            "{args:?}: {}{}",
            outcome.stdout,
            outcome.stderr
        );
    }
}

#[test]
fn changed_files_are_5_and_named() {
    let sandbox = plain();
    let mut program = sandbox.start(&Program::fixture("files"));
    assert!(wait_until(60, || sandbox.path("f.ready").exists()), "the fixture did not get ready");
    let image = text(&sandbox, "x.img");
    expect(&sandbox.brant(&["checkpoint", &program.pid().to_string(), "--stop", "-o", &image]), 0);
    program.wait(20);
    sandbox.write("f.append", "one\nand more that was not there\n");
    let refused = sandbox.brant(&["restore", &image]);
    expect(&refused, 5);
    assert!(refused.stderr.contains("f.append"), "{}", refused.stderr);
    assert!(refused.stderr.contains("--files"), "no remedy in: {}", refused.stderr);
    sandbox.expect_no_leftovers();
    expect(&sandbox.brant(&["restore", "-d", "--files", "keep", &image]), 0);
    // What was appended stays, and the program finds it: a change, said by its own check.
    sandbox.write("f.go", "go");
    assert!(wait_until(60, || sandbox.path("f.result").exists()), "no result");
    sandbox.expect_no_leftovers();
}

#[test]
fn rewind_cuts_what_has_only_grown() {
    let sandbox = plain();
    let mut program = sandbox.start(&Program::fixture("files"));
    assert!(wait_until(60, || sandbox.path("f.ready").exists()), "the fixture did not get ready");
    let image = text(&sandbox, "x.img");
    expect(&sandbox.brant(&["checkpoint", &program.pid().to_string(), "--stop", "-o", &image]), 0);
    program.wait(20);
    let grown = format!("{}grown since\n", sandbox.text("f.append"));
    std::fs::write(sandbox.path("f.append"), grown).expect("the sandbox is writable");
    expect(&sandbox.brant(&["restore", "-d", "--files", "rewind", &image]), 0);
    sandbox.write("f.go", "go");
    assert!(wait_until(60, || sandbox.path("f.result").exists()), "no result");
    assert_eq!(sandbox.text("f.result"), "ok");
    sandbox.expect_no_leftovers();
}

#[test]
fn restore_in_the_foreground_is_the_parent() {
    let sandbox = plain();
    let mut command = sandbox.command("sh");
    command.args(["-c", "echo before; while [ ! -e f.go ]; do sleep 0.05; done; echo after; exit 42"]);
    let mut program = sandbox.launch(command, false);
    assert!(wait_until(20, || sandbox.text("out").contains("before")), "the shell said nothing");
    let image = text(&sandbox, "x.img");
    expect(&sandbox.brant(&["checkpoint", &program.pid().to_string(), "--stop", "-o", &image]), 0);
    program.wait(20);
    sandbox.write("f.go", "go");
    expect(&sandbox.brant(&["restore", &image]), 42);
    assert_eq!(sandbox.text("out"), "before\nafter\n");
    sandbox.expect_no_leftovers();
}

#[test]
fn outside_pipes_become_restores_own() {
    let sandbox = plain();
    // The program's stdout is a pipe whose reader is no member of the tree. Its stderr is not the outer shell's, which
    // says there that the program was killed: a file that changed since.
    let script = "(sh -c 'echo $$ > inner; echo before; while [ ! -e f.go ]; do sleep 0.05; done; echo after; exit 9' 2> /dev/null) | cat > before.txt";
    let mut command = sandbox.command("sh");
    command.args(["-c", script]);
    let mut outer = sandbox.launch(command, false);
    assert!(wait_until(20, || sandbox.text("before.txt").contains("before")), "the shell said nothing");
    let (pid, image) = (sandbox.text("inner").trim().to_owned(), text(&sandbox, "x.img"));
    expect(&sandbox.brant(&["checkpoint", &pid, "--stop", "-o", &image]), 0);
    outer.wait(20);
    sandbox.write("f.go", "go");
    let restored = sandbox.brant(&["restore", &image]);
    expect(&restored, 9);
    assert_eq!(restored.stdout, "after\n");
    assert_eq!(sandbox.text("before.txt"), "before\n");
    sandbox.expect_no_leftovers();
}

#[test]
fn demo_and_doctor() {
    let sandbox = plain();
    let doctor = sandbox.brant(&["doctor"]);
    expect(&doctor, 0);
    let demo = sandbox.brant(&["demo"]);
    expect(&demo, 0);
    sandbox.expect_no_leftovers();
}

#[test]
fn check_changes_nothing_and_says_yes() {
    let sandbox = plain();
    let mut program = started(&sandbox);
    expect(&sandbox.brant(&["check", &program.pid().to_string()]), 0);
    expect(&sandbox.brant(&["checkpoint", &program.pid().to_string(), "--dry-run"]), 0);
    sandbox.write("f.go", "go");
    assert_eq!(program.wait(60), Some(0), "{}", sandbox.text("f.result"));
}
