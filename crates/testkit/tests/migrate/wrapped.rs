//! A wrapped program that is moved: its wrapper goes with it, and each call is recorded once, here or there.

use brant_testkit::{Sandbox, Who, wait_until};

use crate::hosts::{Hosts, LIFE_TIMEOUT_S};

#[test]
fn a_wrapped_program_is_recorded_without_a_gap() {
    let hosts = Hosts::new(Sandbox::new(Who::Plain));
    let sandbox = &hosts.sandbox;
    let beat = sandbox.compile("cc", &["connect/beat.c"], "beat", &[]).expect("a compiler starts");
    let mut command = sandbox.command(&beat);
    command.arg(sandbox.path("f")).arg("2");
    let mut program = sandbox.launch(command, false);
    let pid = program.pid().to_string();
    let called = |process: usize| -> Vec<i64> {
        let text = sandbox.text(&format!("f.count.{process}"));
        text.lines().map(|line| line.parse().expect("a number")).collect()
    };
    let recorded = || -> Vec<i64> {
        let number = |line: &str| -> Option<i64> {
            line.split_once(" access(\"/beat/0/")?.1.split_once('"')?.0.parse().ok()
        };
        sandbox.text("t.txt").lines().filter_map(number).collect()
    };
    let expect_more = |what: &str| {
        let before = [called(0).len(), called(1).len()];
        let is_so = || (0..2).all(|process| called(process).len() > before[process] + 50);
        assert!(wait_until(LIFE_TIMEOUT_S, is_so), "{what}: {}", sandbox.text("err"));
    };
    expect_more("bare");
    let wrapper = format!("trace:out={}", sandbox.path("t.txt").display());
    let wrapped = sandbox.brant(&["wrap", &wrapper, &pid]);
    assert_eq!(wrapped.code, 0, "{}", wrapped.stderr);
    expect_more("wrapped");
    let moved = sandbox.brant(&[&hosts.migrate_words(&pid)[..], &["-v"]].concat());
    assert_eq!(moved.code, 0, "{}", moved.stderr);
    assert!(moved.stderr.contains(&format!("process {pid}: its wrapper was told")), "{}", moved.stderr);
    assert!(program.wait(LIFE_TIMEOUT_S).is_some(), "it runs on here");
    expect_more("there");
    let jobs = hosts.listed(&hosts.far(&["ps", "--json"]), "jobs");
    let name = jobs[0]["name"].as_str().expect("a job has a name").to_owned();
    let listed = hosts.far(&["wrappers", &name]);
    assert!(listed.stdout.contains("access in libc.so.6"), "{} {}", listed.stdout, listed.stderr);
    sandbox.write("f.go", "");
    assert!(wait_until(LIFE_TIMEOUT_S, || sandbox.leftovers().is_empty()), "{:?}", sandbox.leftovers());
    let recorded = recorded();
    let wanted: Vec<i64> = called(0).into_iter().filter(|number| *number >= recorded[0]).collect();
    assert_eq!(recorded, wanted);
    sandbox.expect_no_leftovers();
}
