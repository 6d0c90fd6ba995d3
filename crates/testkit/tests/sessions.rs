//! The terminal sessions of the README and the guide, typed again: each document's commands print what it says.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Stdio;

use brant_testkit::{Sandbox, Session, Who, wait_until};

const SESSION_TIMEOUT_S: u64 = 180;

/// A second host, which shares the files of this one: the guide's `ssh far`.
const SSH: &str = r#"#!/bin/sh
# ssh HOST COMMAND...
[ "$1" = -o ] && shift 2
shift
export XDG_STATE_HOME="$FAR/state" XDG_RUNTIME_DIR="$FAR/run" HOME="$FAR"
exec sh -c "$*"
"#;

fn typed_again(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide").join(name);
    let document = std::fs::read_to_string(&path).expect("the guide has this page");
    let session = Session::of(&document);
    assert!(!session.steps.is_empty(), "{name} has no session");
    let sandbox = Sandbox::new(Who::Plain);
    // What `ls` shows is what the session itself has made.
    for folder in ["bin", "you", "far", "far/state", "far/run"] {
        sandbox.make_folder(folder);
    }
    for (file, text) in &session.files {
        sandbox.write(&format!("you/{file}"), text);
    }
    sandbox.write("bin/ssh", SSH);
    sandbox.write("script", &session.script());
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
    let differences = session.differences(&printed, home.to_str().expect("test paths are UTF-8"));
    assert!(differences.is_empty(), "{name}:\n\n{}", differences.join("\n\n"));
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
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide");
            for entry in std::fs::read_dir(folder).expect("the guide is there").flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let text = std::fs::read_to_string(entry.path()).expect("it is readable");
                if !Session::of(&text).steps.is_empty() {
                    assert!(typed.contains(&name.as_str()), "{name}");
                }
            }
        }
    };
}

sessions! {
    readme: "../../README.md";
    install: "install.md";
    ten_minutes: "ten-minutes.md";
    preemption: "preemption.md";
    moving: "move.md";
    rewinding: "rewind.md";
    wrapping: "wrap.md";
}
