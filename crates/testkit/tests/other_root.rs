//! Other root file systems than the one that programs were checkpointed in.
#![forbid(unsafe_code)]

use std::process::{Command, Stdio};

use brant_testkit::{OtherRoot, Program, Sandbox, Who, is_root, skip, static_brant_binary, wait_until};

/// The other root, unless this machine lacks something for it.
macro_rules! other_root_or_skip {
    ($sandbox:expr) => {
        match OtherRoot::open($sandbox) {
            Ok(other) => other,
            Err(lacking) => return skip(lacking),
        }
    };
}

#[test]
fn threads_move_with_their_libraries() {
    let sandbox = Sandbox::new(Who::Plain);
    let other = other_root_or_skip!(&sandbox);
    for (fixture, flags) in [("threads", &["--portable"][..]), ("files", &["--portable", "--with-files"])] {
        let mut program = sandbox.start_ready(&Program::fixture(fixture));
        let image = sandbox.stop(&mut program, flags);
        if fixture == "files" {
            for name in ["f.append", "f.plain", "f.sync", "f.beyond"] {
                std::fs::remove_file(sandbox.path(name)).expect("the fixture made it");
            }
        }
        // What comes from this side is copied; the executable lies on both.
        other.brant(&["restore", &image, "-d", "-n", "it"]).expect(0);
        let libraries = other.brant(&["image", "gc", "--json"]);
        assert!(!libraries.stdout.contains("\"used\": 0"), "no copies: {}", libraries.stdout);
        // It is checkpointed there, as an ordinary program, and moves on to where its copies are not.
        other.brant(&["checkpoint", "it", "--stop"]).expect(0);
        std::fs::remove_dir_all(sandbox.path("other-state/brant/files")).expect("ours");
        other.brant(&["restore", "it", "-d"]).expect(0);
        sandbox.finish_fixture();
    }
}

#[test]
fn a_static_program_needs_nothing() {
    let sandbox = Sandbox::new(Who::Plain);
    let other = other_root_or_skip!(&sandbox);
    let mut program = sandbox.start_ready(&Program::fixture("threads").linked_statically());
    let image = sandbox.stop(&mut program, &[]);
    other.brant(&["restore", &image, "-d"]).expect(0);
    sandbox.finish_fixture();
}

const COUNTER: &str = "
import os, sys, threading, time
log = open('count.txt', 'w')
text = {number: str(number) * 10 for number in range(10000)}
def check():
    while True:
        assert all(text[number] == str(number) * 10 for number in range(0, 10000, 7))
        time.sleep(0.01)
threading.Thread(target=check, daemon=True).start()
count = 0
while not os.path.exists('f.go'):
    count += 1
    print(count, file=log, flush=True)
    time.sleep(0.02)
print('ended', file=log, flush=True)
";

fn count(sandbox: &Sandbox) -> u64 {
    sandbox.text("count.txt").lines().filter_map(|line| line.parse().ok()).max().unwrap_or(0)
}

#[test]
fn python_moves_and_comes_back() {
    let sandbox = Sandbox::new(Who::Plain);
    let other = other_root_or_skip!(&sandbox);
    sandbox.write("count.py", COUNTER);
    let mut command = sandbox.command("python3");
    command.arg("count.py");
    let mut program = sandbox.launch(command, false);
    assert!(wait_until(60, || count(&sandbox) > 10), "it does not count: {}", sandbox.text("err"));

    // Without its files: told before anything starts, each one named.
    let pid = program.pid().to_string();
    let bare = sandbox.path("bare.img").to_str().expect("UTF-8").to_owned();
    sandbox.brant(&["checkpoint", &pid, "-o", &bare]).expect(0);
    let refused = other.brant(&["restore", &bare, "-d"]);
    refused.expect(5);
    for named in
        ["the executable /usr/bin/python3", "libc.so.6", "ld-linux-x86-64.so.2", "count.txt", "--portable"]
    {
        assert!(refused.stderr.contains(named), "{named} is not in: {}", refused.stderr);
    }

    let image = sandbox.stop(&mut program, &["--portable", "--with-files"]);
    let before = sandbox.text("count.txt");
    std::fs::remove_file(sandbox.path("count.txt")).expect("it was there");
    other.brant(&["restore", &image, "-d", "-n", "counter"]).expect(0);
    let reached = count(&sandbox);
    assert!(sandbox.text("count.txt").starts_with(&before), "the file was not made as it was");
    assert!(wait_until(60, || count(&sandbox) > reached + 10), "it does not go on: {}", sandbox.text("err"));
    assert!(other.brant(&["ps"]).stdout.contains("counter"));

    // From there back to here through a pipe: what it runs from travels by itself.
    let mut sender = other.command(&["./brant-static", "checkpoint", "counter", "--stop", "-o", "-"]);
    let mut sender = sender.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("brant starts");
    let stream = sender.stdout.take().expect("it is piped");
    let mut receiver = sandbox.command(sandbox.path("brant"));
    receiver.args(["restore", "-", "-d"]).stdin(stream);
    let received = receiver.stdout(Stdio::null()).status().expect("brant starts");
    let sent = sender.wait_with_output().expect("it is ours");
    assert!(sent.status.success() && received.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    let reached = count(&sandbox);
    assert!(wait_until(60, || count(&sandbox) > reached + 10), "it does not go on: {}", sandbox.text("err"));
    sandbox.write("f.go", "go");
    assert!(wait_until(60, || sandbox.text("count.txt").ends_with("ended\n")), "it does not end");
    let counted: Vec<String> = sandbox.text("count.txt").lines().map(str::to_owned).collect();
    let wanted: Vec<String> =
        (1..counted.len()).map(|number| number.to_string()).chain(["ended".into()]).collect();
    assert_eq!(counted, wanted, "a step was lost or made twice");
    sandbox.expect_no_leftovers();
}

#[test]
fn the_static_brant_needs_no_other_file() {
    if !is_root() {
        return skip("root");
    }
    let sandbox = Sandbox::new(Who::Root);
    let root = sandbox.path("empty");
    std::fs::create_dir(&root).expect("the sandbox is writable");
    std::fs::copy(static_brant_binary(), root.join("brant")).expect("the sandbox is writable");
    let run = |args: &[&str]| {
        let output = Command::new("chroot")
            .arg(&root)
            .arg("/brant")
            .args(args)
            .env_clear()
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .output();
        output.expect("chroot starts")
    };
    let version = run(&["--version"]);
    assert!(version.status.success(), "{version:?}");
    assert!(String::from_utf8_lossy(&version.stdout).starts_with("brant "), "{version:?}");
    // Without /proc it can do nothing, and says so.
    let check = run(&["check", "1"]);
    assert!(matches!(check.status.code(), Some(1 | 4)), "{check:?}");
    assert!(String::from_utf8_lossy(&check.stderr).contains("B-0"), "{check:?}");
    let doctor = run(&["doctor"]);
    assert!(doctor.status.code().is_some(), "{doctor:?}");
}
