//! Restores without namespaces (`--any-pid`), where user namespaces are denied.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use brant_base::fault::POINTS;
use brant_testkit::{Program, Sandbox, Started, Who, is_root, skip, wait_until};

const TIMEOUT_S: u64 = 60;

/// A shell with a job in the background and a pipeline in the foreground: groups, pipes and several processes. Everything that
/// it does after `f.go` is without numbers that it remembers.
const TREE: &str = r#"set -m
(while [ ! -e f.go ]; do echo beat >> beats; sleep 0.05; done; echo first >> ends) &
(while [ ! -e f.go ]; do echo line; sleep 0.05; done; echo last) | (grep last; echo second >> ends)
while [ "$(wc -l < ends)" -lt 2 ]; do sleep 0.05; done
echo ok > f.new; mv f.new f.result
while [ -e f.go ]; do sleep 0.05; done
"#;

/// What it is seen by: its number, its program, and its groups.
const LOOK: &str = r#"while [ ! -e f.go ]; do
read -r own rest < /proc/self/stat
echo "$own $PPID $(readlink /proc/$own/exe) $(id -G)" > seen.new; mv seen.new seen; sleep 0.05
done
echo ok > f.result
"#;

fn path(sandbox: &Sandbox, name: &str) -> String {
    sandbox.path(name).to_str().expect("test paths are UTF-8").to_owned()
}

fn start(sandbox: &Sandbox, script: &str) -> Started {
    let mut command = sandbox.command("bash");
    command.args(["-c", script]);
    sandbox.launch(command, true)
}

/// Writes the program down and ends it.
fn stop(sandbox: &Sandbox, pid: i32) -> PathBuf {
    let image = sandbox.path("x.img");
    sandbox
        .brant(&["checkpoint", &pid.to_string(), "--stop", "--force", "-o", &path(sandbox, "x.img")])
        .expect(0);
    assert!(wait_until(TIMEOUT_S, || sandbox.leftovers().is_empty()), "left: {:?}", sandbox.leftovers());
    image
}

/// Brings it back and gives its number.
fn restore(sandbox: &Sandbox) -> i32 {
    let file = path(sandbox, "pid");
    let outcome = sandbox.brant(&[
        "restore",
        "-d",
        "--any-pid",
        "--files",
        "keep",
        "--pid-file",
        &file,
        &path(sandbox, "x.img"),
    ]);
    outcome.expect(0);
    assert!(outcome.stderr.contains("other numbers"), "{}", outcome.stderr);
    sandbox.text("pid").trim().parse().expect("a number")
}

fn beats(sandbox: &Sandbox) -> usize {
    sandbox.text("beats").lines().count()
}

fn expect_good_end(sandbox: &Sandbox) {
    sandbox.write("f.go", "go");
    assert!(wait_until(TIMEOUT_S, || sandbox.text("f.result") == "ok\n"), "{:?}", sandbox.leftovers());
    let _ = std::fs::remove_file(sandbox.path("f.go"));
    sandbox.expect_no_leftovers();
}

/// A sandbox in which user namespaces are denied, where that can be made.
fn denied(has_faults: bool) -> Option<Sandbox> {
    if !is_root() {
        skip("root");
        return None;
    }
    let sandbox = if has_faults { Sandbox::with_faults(Who::Denied) } else { Sandbox::new(Who::Denied) };
    Some(sandbox)
}

#[test]
fn a_program_comes_back_with_another_number_and_its_own_program() {
    let Some(sandbox) = denied(false) else { return };
    let mut program = start(&sandbox, LOOK);
    let seen = || sandbox.text("seen");
    assert!(wait_until(TIMEOUT_S, || !seen().is_empty()));
    let words = |text: &str| text.split_whitespace().skip(2).map(String::from).collect::<Vec<_>>();
    let before = words(&seen());
    assert!(before[0].ends_with("/bash"), "{before:?}");
    let mut last = program.pid();
    for _ in 0..2 {
        stop(&sandbox, last);
        program.wait(TIMEOUT_S);
        let refused = sandbox.brant(&["restore", "-d", "--files", "keep", &path(&sandbox, "x.img")]);
        refused.expect(5);
        assert!(refused.stderr.contains("--any-pid"), "{}", refused.stderr);
        let _ = std::fs::remove_file(sandbox.path("seen"));
        let pid = restore(&sandbox);
        assert_ne!(pid, last);
        assert!(wait_until(TIMEOUT_S, || !seen().is_empty()));
        assert_eq!(words(&seen()), before);
        last = pid;
    }
    let shown = sandbox.brant(&["ps"]).stdout;
    assert!(shown.contains(&last.to_string()), "{shown}");
    expect_good_end(&sandbox);
}

#[test]
fn a_tree_with_jobs_and_pipes_goes_on() {
    let Some(sandbox) = denied(false) else { return };
    let mut program = start(&sandbox, TREE);
    assert!(wait_until(TIMEOUT_S, || beats(&sandbox) > 1));
    let mut last = program.pid();
    for _ in 0..2 {
        stop(&sandbox, last);
        program.wait(TIMEOUT_S);
        let before = beats(&sandbox);
        last = restore(&sandbox);
        assert!(wait_until(TIMEOUT_S, || beats(&sandbox) > before + 2), "it does not go on");
    }
    // Ended as a whole.
    let job = sandbox
        .brant(&["ps"])
        .stdout
        .lines()
        .nth(1)
        .expect("a job")
        .split(' ')
        .next()
        .expect("a name")
        .to_owned();
    stop(&sandbox, last);
    restore(&sandbox);
    sandbox.brant(&["kill", &job]).expect(0);
    sandbox.expect_no_leftovers();
    restore(&sandbox);
    expect_good_end(&sandbox);
}

#[test]
fn what_cannot_be_had_is_refused_by_name() {
    let Some(sandbox) = denied(false) else { return };
    let mut threads = sandbox.start_ready(&Program::fixture("threads"));
    sandbox.stop(&mut threads, &[]);
    let refused = sandbox.brant(&["restore", "-d", "--any-pid", &path(&sandbox, "x.img")]);
    refused.expect(5);
    assert!(refused.stderr.contains("B-0422") && refused.stderr.contains("threads"), "{}", refused.stderr);
    let explained = sandbox.brant(&["explain", "B-0422"]);
    explained.expect(0);
    sandbox.expect_no_leftovers();
}

#[test]
fn a_restore_that_ends_at_any_point_leaves_nothing_or_all() {
    let Some(sandbox) = denied(true) else { return };
    let mut program = start(&sandbox, TREE);
    assert!(wait_until(TIMEOUT_S, || beats(&sandbox) > 1));
    stop(&sandbox, program.pid());
    program.wait(TIMEOUT_S);
    let image = path(&sandbox, "x.img");
    // There are no namespaces to be entered.
    let others = |point: &&&str| {
        **point != "restore.entered" && (point.starts_with("restore.") || **point == "keeper.adopting")
    };
    for point in POINTS.iter().filter(others) {
        let _ = std::fs::remove_file(sandbox.path("f.result"));
        let _ = std::fs::remove_file(sandbox.path("ends"));
        let before = beats(&sandbox);
        let fault = format!("{point}=kill");
        let (outcome, made) =
            sandbox.brant_with_fault(&fault, &["restore", "-d", "--any-pid", "--files", "keep", &image]);
        assert!(made, "{fault} was not reached: {}", outcome.stderr);
        if !wait_until(2, || sandbox.leftovers().is_empty()) {
            assert!(wait_until(TIMEOUT_S, || beats(&sandbox) > before), "{fault}: {:?}", sandbox.leftovers());
            expect_good_end(&sandbox);
        }
        sandbox.expect_no_leftovers();
    }
}
