//! The terminal sessions of the README and of the guide's pages, typed again: each document's commands print what it says. And no block of
//! a page escapes: what is not typed is declared, with a reason (`crates/testkit/src/document.rs`).
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::{Command, Stdio};

use brant_testkit::{Prompt, Sandbox, Session, Who, faults_of_blocks, repository, wait_until};

const SESSION_TIMEOUT_S: u64 = 180;

/// Where the guide has its pages from: the folders that `site/src/guide.rs` takes.
const FOLDERS: [&str; 3] = ["docs/guide", "docs", "docs/decisions"];

/// Types the sessions of Windows pages.
const WINDOWS_TEST: &str = "windows/tests/tests/sessions.rs";

/// A second host, which shares the files of this one: the guide's `ssh far`.
const SSH: &str = r#"#!/bin/sh
# ssh HOST COMMAND...
[ "$1" = -o ] && shift 2
shift
export XDG_STATE_HOME="$FAR/.local/state" XDG_RUNTIME_DIR="$FAR/run" HOME="$FAR"
exec sh -c "$*"
"#;

/// Waits until a process executes what it was started for, and has begun to wait for something.
const SETTLED: &str = r#"#!/bin/sh
# settled PID NAME
until grep -qx "$2" /proc/$1/comm && grep -q '^State:.S' /proc/$1/status; do sleep 0.05; done
"#;

/// What cargo has built, in a terminal, where somebody answers each question with the next line of the file `answers`.
const CARGO: &str = r#"#!/usr/bin/env python3
import os, pty, sys
name, rest = sys.argv[sys.argv.index("--example") + 1], sys.argv[sys.argv.index("--") + 1:]
answers = open("answers").read().splitlines()
child, terminal = pty.fork()
if child == 0:
    path = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(sys.argv[0]))), name)
    os.execv(path, [path] + rest)
seen = b""
while True:
    try:
        part = os.read(terminal, 4096)
    except OSError:
        break
    seen += part
    sys.stdout.write(part.decode().replace("\r", ""))
    sys.stdout.flush()
    if seen.endswith((b"? ", b": ", b"] ")) and answers:
        os.write(terminal, answers.pop(0).encode() + b"\n")
open("answers", "w").write("".join(answer + "\n" for answer in answers))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"#;

fn typed_again(name: &str) {
    let document = std::fs::read_to_string(repository().join(name)).expect("the repository has this page");
    let session = Session::of(&document);
    assert!(!session.steps.is_empty(), "{name} has no session");
    let sandbox = Sandbox::new(Who::Plain);
    prepare(&sandbox, &session);
    let home = sandbox.path("you");
    let begin = format!(
        "cd you; export PATH={0}/bin:{0}:$PATH HOME={0}/you XDG_STATE_HOME={0}/you/.local/state FAR={0}/far; exec bash ../script",
        sandbox.path("").display().to_string().trim_end_matches('/')
    );
    let mut command = sandbox.command("bash");
    command.args(["-c", &begin]);
    let output = std::fs::File::create(sandbox.path("printed")).expect("the sandbox is writable");
    command.stdout(output).stderr(Stdio::null());
    let mut child = command.spawn().expect("bash starts");
    let has_ended = wait_until(SESSION_TIMEOUT_S, || child.try_wait().expect("it is our child").is_some());
    let _ = child.kill();
    let _ = child.wait();
    let printed = sandbox.text("printed");
    assert!(has_ended, "{name} did not end: {printed}");
    // Who uses both hosts has the same home there.
    let printed = printed.replace(sandbox.path("far").to_str().expect("test paths are UTF-8"), "/home/you");
    let differences = session.differences(&printed, home.to_str().expect("test paths are UTF-8"));
    assert!(differences.is_empty(), "{name}:\n\n{}", differences.join("\n\n"));
}

/// A home with the session's files, and beside it what it needs from elsewhere: the other host, cargo, headers, examples.
fn prepare(sandbox: &Sandbox, session: &Session) {
    // What `ls` shows is what the session itself has made.
    for folder in ["bin", "you", "far", "far/run", "include", "include/brant"] {
        sandbox.make_folder(folder);
    }
    for (file, text) in &session.files {
        sandbox.write(&format!("you/{file}"), text);
    }
    sandbox.write("bin/ssh", SSH);
    sandbox.write("bin/cargo", CARGO);
    sandbox.write("bin/settled", SETTLED);
    sandbox.write("script", &session.script());
    for header in std::fs::read_dir(repository().join("include/brant")).expect("headers are there").flatten()
    {
        let text = std::fs::read_to_string(header.path()).expect("headers are text");
        sandbox.write(&format!("include/brant/{}", header.file_name().display()), &text);
    }
    if session.steps.iter().any(|step| step.command.contains("--example two_executions")) {
        let to = sandbox.path("two_executions");
        // By another process, as a program that somebody has open for writing is not executed.
        let copied = Command::new("install").args(["-m", "755"]).arg(example()).arg(&to).status();
        assert!(copied.expect("install is there").success());
    }
}

/// The example of the heaps, built.
fn example() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--release", "-p", "brant-heap", "--example", "two_executions"]);
    assert!(command.current_dir(repository()).status().expect("cargo starts").success());
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or(repository().join("target"), |folder| repository().join(folder));
    target.join("release/examples/two_executions")
}

/// Every page of the guide, and the README: path in the repository, and text.
fn pages() -> Vec<(String, String)> {
    let mut names = vec!["README.md".to_owned()];
    for folder in FOLDERS {
        for entry in std::fs::read_dir(repository().join(folder)).expect("the guide is there").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            names.extend(name.ends_with(".md").then(|| format!("{folder}/{name}")));
        }
    }
    names.sort();
    let read = |name: &String| std::fs::read_to_string(repository().join(name)).expect("it is readable");
    names.into_iter().map(|name| (name.clone(), read(&name))).collect()
}

/// A block is typed, drawn, or says why not.
#[test]
fn no_block_of_the_guide_escapes() {
    let pages = pages();
    assert!(pages.len() > 30, "{} pages", pages.len());
    let faults: Vec<String> =
        pages.iter().flat_map(|(name, text)| faults_of_blocks(name, text, &repository())).collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// What is typed at Windows's prompt is typed by a test of the Windows part.
#[test]
fn every_session_of_windows_is_typed() {
    let test =
        std::fs::read_to_string(repository().join(WINDOWS_TEST)).expect("the Windows part has this test");
    for (name, text) in pages() {
        if !Session::typed_at(Prompt::Windows, &text).steps.is_empty() {
            assert!(test.contains(&format!("\"{name}\"")), "{name}");
        }
    }
}

macro_rules! sessions {
    ($($name:ident: $document:literal;)*) => {
        $(
            #[test]
            fn $name() {
                typed_again($document);
            }
        )*

        /// No document has a session that nobody types.
        #[test]
        fn every_document_with_a_session_is_typed() {
            let typed = [$($document),*];
            for (name, text) in pages() {
                if !Session::of(&text).steps.is_empty() {
                    assert!(typed.contains(&name.as_str()), "{name}");
                }
            }
        }
    };
}

sessions! {
    readme: "README.md";
    install: "docs/guide/install.md";
    ten_minutes: "docs/guide/ten-minutes.md";
    preemption: "docs/guide/preemption.md";
    moving: "docs/guide/move.md";
    rewinding: "docs/guide/rewind.md";
    wrapping: "docs/guide/wrap.md";
    saving_heaps: "docs/guide/save-heaps.md";
    heaps: "docs/heaps.md";
    connectors: "docs/connectors.md";
    definitions: "docs/definitions.md";
    wrappers: "docs/wrappers.md";
    recording: "docs/recording.md";
    streams: "docs/streams.md";
}
