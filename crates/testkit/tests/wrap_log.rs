//! The log of interceptions: what is put on, taken off and refused is in it, whoever did it.
#![forbid(unsafe_code)]

use std::os::unix::fs::PermissionsExt as _;

use brant_testkit::{Program, Sandbox, Who, wait_until};

const PROMPT_S: u64 = 60;

/// The words of each line behind its time.
fn lines(sandbox: &Sandbox, name: &str) -> Vec<Vec<String>> {
    let text = sandbox.text(name);
    let words = |line: &str| -> Vec<String> { line.split(' ').map(str::to_owned).collect() };
    let lines: Vec<Vec<String>> = text.lines().map(words).collect();
    let is_time =
        |word: &str| word.split_once('.').is_some_and(|(s, f)| s.parse::<u64>().is_ok() && f.len() == 6);
    assert!(lines.iter().all(|line| is_time(&line[0])), "{text}");
    lines.into_iter().map(|line| line[1..].to_vec()).collect()
}

#[test]
fn each_interception_is_logged() {
    let sandbox = Sandbox::new(Who::Plain);
    let program = sandbox.start(&Program::fixture("busy"));
    assert!(wait_until(PROMPT_S, || sandbox.path("f.ready").exists()), "{}", sandbox.text("f.result"));
    let pid = program.pid().to_string();
    let path = |name: &str| sandbox.path(name).to_str().expect("test paths are UTF-8").to_owned();
    sandbox.write(
        "two.wrap",
        "wrapper two implementation \"brant:trace\"\n\
         wrap read in libc with trace_call sig \"ssize_t(int, void *, size_t)\"\n\
         wrap fopen@GLIBC_2.2.5 in libc with trace_call sig \"FILE *(const char *, const char *)\"\n",
    );
    let wrapper = format!("{}:out={}", path("two.wrap"), path("t.txt"));
    let log = path("log");
    let wrapped = sandbox.brant(&["wrap", &wrapper, &pid, "--log", &log, "--json"]);
    let said: serde_json::Value = serde_json::from_str(&wrapped.expect(0).stdout).expect("it is JSON");
    let told = said["interceptions"].as_array().expect("a list").clone();
    assert_eq!(told.len(), 2, "{said}");
    for (line, told) in lines(&sandbox, "log").iter().zip(&told) {
        let word = |key: &str| told[key].as_str().expect("a text").to_owned();
        let name = match word("version").as_str() {
            "" => word("name"),
            version => format!("{}@{version}", word("name")),
        };
        let wanted = [&pid, "on", "two", &name, "libc.so.6", &word("address"), "trace_call", "0"];
        assert_eq!(line.as_slice(), wanted, "{said}");
    }
    assert!(lines(&sandbox, "log").iter().any(|line| line[3] == "fopen@GLIBC_2.2.5"));
    let mode = std::fs::metadata(sandbox.path("log")).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Another one before the same function, which cannot be put before a second one.
    sandbox.write(
        "other.wrap",
        "wrapper other implementation \"brant:trace\"\n\
         wrap read in libc with trace_call sig \"ssize_t(int, void *, size_t)\"\n\
         wrap nothing in libc with trace_call sig \"int(void)\"\n",
    );
    let other = format!("{}:out={}", path("other.wrap"), path("t.txt"));
    let outcome = sandbox.brant(&["wrap", &other, &pid, "--log", &log]);
    assert_eq!(outcome.code, 3, "{}", outcome.stderr);
    let refused = lines(&sandbox, "log")[2..].to_vec();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(refused[0][1..5], ["refused", "other", "B-1111", "nothing:"], "{refused:?}");
    let said = sandbox.brant(&["unwrap", "two", &pid, "--log", &log, "-v"]);
    assert!(said.expect(0).stderr.contains("off: read in libc.so.6 at 0x"), "{}", said.stderr);
    let off = lines(&sandbox, "log")[3..].to_vec();
    assert_eq!(off.len(), 2, "{off:?}");
    assert!(
        off.iter().all(|line| line[1] == "off" && line[2] == "two" && line[6] == "trace_call"),
        "{off:?}"
    );
    let missing = sandbox.brant(&["wrap", &wrapper, &pid, "--log", &path("nowhere/log")]);
    assert!(missing.code != 0 && missing.stderr.contains("B-1150"), "{}", missing.stderr);
}

#[test]
fn programs_that_are_started_are_logged() {
    let sandbox = Sandbox::new(Who::Plain);
    let path = |name: &str| sandbox.path(name).to_str().expect("test paths are UTF-8").to_owned();
    let wrapper = format!("procs:out={}", path("t.txt"));
    sandbox.brant(&["run", "--wrap", &wrapper, "--log", &path("log"), "--", "true"]).expect(0);
    let on = lines(&sandbox, "log");
    assert!(on.len() >= 10 && on.iter().all(|line| line[1..3] == ["on", "procs"]), "{on:?}");
    let before = on.len();
    let refused =
        sandbox.brant(&["run", "--wrap", "trace:out=/nowhere/t", "--log", &path("log"), "--", "true"]);
    assert!(refused.code == 125 && refused.stderr.contains("B-1131"), "{}", refused.stderr);
    let after = lines(&sandbox, "log");
    assert_eq!(
        after[before..].iter().map(|line| line[1..4].join(" ")).collect::<Vec<_>>(),
        ["refused trace B-1131"]
    );
    sandbox.expect_no_leftovers();
}
