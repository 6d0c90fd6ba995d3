//! Mediated system calls: each with its arguments and its result through one layer and two, counted exactly, with every
//! register as it was; programs whose threads wait in calls that are interrupted all the time; and brant killed meanwhile.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use brant_testkit::{Outcome, Sandbox, Started, Who, have_command, is_full, repository, skip, wait_until};

const PROMPT_S: u64 = 60;
const HEADER: &str = "/usr/include/x86_64-linux-gnu/asm/unistd_64.h";

fn compile(sandbox: &Sandbox, compiler: &str, sources: &[&str], name: &str, flags: &[&str]) -> PathBuf {
    sandbox.compile(compiler, sources, name, flags).expect("a compiler starts")
}

/// A program that makes calls, and definitions of two wrappers for all of them.
struct Calls {
    sandbox: Sandbox,
    program: Started,
    /// The numbers of the calls, as options of the mediators.
    numbers: String,
}

impl Calls {
    fn start(compiler: &str, kinds: &str) -> Calls {
        let sandbox = Sandbox::new(Who::Plain);
        let (path, numbers) = prepare(&sandbox, compiler, &[]);
        let mut command = sandbox.command(path);
        command.arg(sandbox.path("f")).arg(kinds);
        let program = sandbox.launch(command, false);
        Calls { sandbox, program, numbers }
    }

    fn wrap(&self, name: &str) -> Outcome {
        let path = self.sandbox.path(&format!("{name}.wrap"));
        self.sandbox.brant(&[
            "wrap",
            &format!("{}:{}", path.display(), self.numbers),
            &self.program.pid().to_string(),
        ])
    }

    fn unwrap(&self, name: &str) -> Outcome {
        self.sandbox.brant(&["unwrap", name, &self.program.pid().to_string()])
    }

    fn state(&self) -> State {
        state(&self.sandbox)
    }

    /// Waits until some rounds were made with so many layers, all of them as a whole and right, and all threads went on.
    fn expect(&mut self, layers: i64) {
        assert!(wait_until(PROMPT_S, || self.state().rounds > 0), "{}", self.sandbox.text("err"));
        wait_until(PROMPT_S, || self.state().layers == layers);
        let before = self.state();
        let is_so = wait_until(PROMPT_S, || {
            let now = self.state();
            let fitting = if layers == 0 { now.bare - before.bare } else { now.whole - before.whole };
            now.layers == layers && fitting > 2 && (before.work == 0 || now.work > before.work)
        });
        let now = self.state();
        let err = self.sandbox.text("err");
        assert!(is_so, "{layers} layers: {before:?} {now:?} {:?}\n{err}", self.program.ended());
        assert_eq!((now.wrong, now.registers), (0, 0), "{now:?}\n{err}");
        assert_eq!(self.program.ended(), None, "{err}");
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct State {
    rounds: i64,
    whole: i64,
    bare: i64,
    partly: i64,
    wrong: i64,
    registers: i64,
    work: i64,
    layers: i64,
}

fn state(sandbox: &Sandbox) -> State {
    let text = sandbox.text("f.state");
    let numbers: Vec<i64> = text.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let [rounds, whole, bare, partly, wrong, registers, work, layers] = numbers[..] else {
        return State::default();
    };
    State { rounds, whole, bare, partly, wrong, registers, work, layers }
}

/// The program, the implementations of two wrappers and their definitions; and the numbers of the calls as their options.
fn prepare(sandbox: &Sandbox, compiler: &str, flags: &[&str]) -> (PathBuf, String) {
    for name in ["libone.so", "libtwo.so"] {
        compile(sandbox, "cc", &["connect/calls_mediators.c"], name, &["-shared", "-fPIC"]);
    }
    (
        compile(sandbox, compiler, &["connect/calls.c", "connect/calls_registers.S"], "calls", flags),
        define(sandbox),
    )
}

/// Writes `one.wrap` and `two.wrap` for every call that the fixture makes, and gives their numbers in that order.
fn define(sandbox: &Sandbox) -> String {
    let source = std::fs::read_to_string(repository().join("fixtures/connect/calls.c")).expect("it is there");
    let header = std::fs::read_to_string(HEADER).expect("the kernel's headers are there");
    let number = |line: &str| {
        let mut words = line.strip_prefix("#define __NR_")?.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    };
    let numbers: BTreeMap<String, String> = header.lines().filter_map(number).collect();
    let mut names: Vec<&str> = source
        .split("(SYS_")
        .skip(1)
        .filter_map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next())
        .collect();
    names.push("getppid");
    names.sort_unstable();
    names.dedup();
    assert!(names.len() > 50, "{names:?}");
    for (name, mediator) in [("one", "my_call"), ("two", "my_call_by_function")] {
        let mut text = format!("wrapper {name} implementation \"lib{name}.so\"\n");
        names.iter().for_each(|call| text.push_str(&format!("wrap {call} in kernel with {mediator}\n")));
        sandbox.write(&format!("{name}.wrap"), &text);
    }
    names.iter().map(|name| numbers[*name].as_str()).collect::<Vec<_>>().join(".")
}

fn compilers() -> Vec<&'static str> {
    if have_command("musl-gcc") {
        return vec!["cc", "musl-gcc"];
    }
    skip("musl-gcc");
    vec!["cc"]
}

/// 56 calls by the C library, by syscall() and by an instruction of the program's own.
#[test]
fn every_call_passes_one_layer_and_two() {
    for compiler in compilers() {
        let mut calls = Calls::start(compiler, "");
        calls.expect(0);
        calls.wrap("one").expect(0);
        calls.expect(1);
        calls.wrap("two").expect(0);
        calls.expect(2);
        let listed = calls.sandbox.brant(&["wrappers", &calls.program.pid().to_string()]);
        assert!(listed.expect(0).stdout.contains("openat in kernel  behind 1 other"), "{}", listed.stdout);
        calls.unwrap("one").expect(0);
        calls.expect(1);
        calls.unwrap("two").expect(0);
        calls.expect(0);
        calls.wrap("two").expect(0);
        calls.expect(1);
    }
}

/// Threads wait in reads, sleeps and futexes, and are interrupted at 1 kHz by signals that end calls and by signals after which
/// they go on; others make threads and processes. All of them go on, bare and mediated.
#[test]
fn threads_that_wait_in_calls_are_wrapped_and_unwrapped() {
    let rounds = if is_full() { 250 } else { 12 };
    let refused = |outcome: &Outcome| outcome.stderr.contains("B-1108") || outcome.stderr.contains("B-1115");
    for (compiler, kinds) in
        compilers().into_iter().flat_map(|compiler| [(compiler, "rnfi"), (compiler, "rnftkpi")])
    {
        let mut calls = Calls::start(compiler, kinds);
        calls.expect(0);
        let mut tried = 0;
        let mut on = 0;
        while on < rounds && tried < 4 * rounds {
            tried += 1;
            let wrapped = calls.wrap("one");
            if refused(&wrapped) {
                continue;
            }
            wrapped.expect(0);
            on += 1;
            calls.expect(1);
            while refused(&calls.unwrap("one")) {
                tried += 1;
                assert!(tried < 4 * rounds, "{compiler} {kinds}: it cannot be taken off");
            }
            calls.expect(0);
        }
        let state = calls.state();
        println!("{compiler} {kinds}: {on} rounds of {tried}, {state:?}");
        assert_eq!(on, rounds, "{compiler} {kinds}: {state:?}");
        assert!(state.partly <= 2 * i64::from(rounds), "{state:?}");
    }
}

/// brant is killed at random instants: the program runs on, with its calls mediated or not.
#[test]
fn a_killed_brant_leaves_calls_as_they_should_be() {
    let kills = if is_full() { 200 } else { 15 };
    let mut calls = Calls::start("cc", "rnfki");
    calls.expect(0);
    let begin = Instant::now();
    calls.wrap("one").expect(0);
    calls.unwrap("one").expect(0);
    let both = begin.elapsed();
    let path = calls.sandbox.path("one.wrap");
    let target = calls.program.pid().to_string();
    let named = format!("{}:{}", path.display(), calls.numbers);
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    for kill in 0..kills {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let verb: [&str; 3] =
            if kill % 2 == 0 { ["wrap", &named, &target] } else { ["unwrap", "one", &target] };
        let (mut brant, _) = calls.sandbox.spawn_brant(&verb);
        std::thread::sleep(Duration::from_nanos(((seed >> 33) * (both.as_nanos() as u64 / 2)) >> 31));
        let _ = brant.kill();
        let _ = brant.wait();
        let before = calls.state();
        let is_going_on = wait_until(PROMPT_S, || {
            let now = calls.state();
            now.rounds > before.rounds + 2 && now.work > before.work
        });
        let err = calls.sandbox.text("err");
        assert!(is_going_on, "kill {kill}: {:?} {:?}\n{err}", calls.state(), calls.program.ended());
        let state = calls.state();
        assert_eq!((state.wrong, state.registers), (0, 0), "kill {kill}: {err}");
    }
    let is_off = wait_until(PROMPT_S, || {
        let outcome = calls.unwrap("one");
        outcome.code == 0 || outcome.stderr.contains("B-1113")
    });
    assert!(is_off);
    calls.expect(0);
}

/// A library that makes calls by instructions of its own, loaded and unloaded over and over while the wrapper is on.
#[test]
fn calls_of_libraries_that_are_loaded_later_are_mediated() {
    for compiler in compilers() {
        let sandbox = Sandbox::new(Who::Plain);
        let (_, numbers) = prepare(&sandbox, "cc", &[]);
        let library = compile(
            &sandbox,
            compiler,
            &["connect/calls_library.c"],
            "liblater.so",
            &["-shared", "-fPIC", "-O2"],
        );
        let path = compile(&sandbox, compiler, &["connect/calls_later.c"], "later", &["-ldl"]);
        let mut command = sandbox.command(path);
        command.arg(sandbox.path("f")).arg(library);
        let mut program = sandbox.launch(command, false);
        let pid = program.pid().to_string();
        // Rounds; of these mediated as a whole, not at all, and in part.
        let state = || -> Vec<i64> {
            sandbox.text("f.state").split_whitespace().map_while(|word| word.parse().ok()).collect()
        };
        let grows = |place: usize| {
            let before = state();
            let is_so = wait_until(PROMPT_S, || {
                let now = state();
                now.len() == 4 && before.len() == 4 && now[place] > before[place] + 20
            });
            assert!(is_so, "{compiler}: {before:?} {:?} {}", state(), sandbox.text("err"));
        };
        assert!(wait_until(PROMPT_S, || state().len() == 4), "{}", sandbox.text("err"));
        grows(2);
        let named = format!("{}:{numbers}", sandbox.path("one.wrap").display());
        sandbox.brant(&["wrap", &named, &pid]).expect(0);
        grows(1);
        let listed = sandbox.brant(&["wrappers", &pid]);
        assert!(!listed.expect(0).stdout.contains("liblater"), "{}", listed.stdout);
        sandbox.brant(&["unwrap", "one", &pid]).expect(0);
        grows(2);
        assert!(state()[3] <= 2, "{:?}", state());
        assert_eq!(program.ended(), None);
    }
}

/// From the first instruction on, and with the calls of who is checkpointed and restored.
#[test]
fn calls_are_mediated_from_the_start_and_after_a_restore() {
    let text = |path: &Path| path.to_str().expect("test paths are UTF-8").to_owned();
    let sandbox = &Sandbox::new(Who::Plain);
    let (program, numbers) = prepare(sandbox, "cc", &[]);
    let (image, base) = (text(&sandbox.path("image")), text(&sandbox.path("f")));
    let named = format!("{}:{}", text(&sandbox.path("one.wrap")), numbers);
    let program = text(&program);
    sandbox.brant(&["run", "-d", "-n", "first", "--wrap", &named, "--", &program, &base, "rnfki"]).expect(0);
    let is_whole = |least: i64| {
        let is_so = wait_until(PROMPT_S, || state(sandbox).whole > least && state(sandbox).work > least);
        let now = state(sandbox);
        assert!(is_so && now.bare == 0 && now.partly == 0 && now.wrong == 0, "{now:?}");
    };
    is_whole(3);
    sandbox.brant(&["checkpoint", "first", "--stop", "-o", &image]).expect(0);
    let before = state(sandbox).whole;
    sandbox.brant(&["restore", &image, "-d", "-n", "second"]).expect(0);
    is_whole(before + 3);
    sandbox.brant(&["unwrap", "one", "second"]).expect(0);
    let before = state(sandbox);
    let is_bare = wait_until(PROMPT_S, || state(sandbox).bare > before.bare + 2);
    assert!(is_bare, "{before:?} {:?}", state(sandbox));
    sandbox.brant(&["kill", "second"]).expect(0);
    sandbox.expect_no_leftovers();
}

/// The wrapper that ships: its records are those of the calls that were made, no more and no fewer.
#[test]
fn calls_are_traced() {
    let sandbox = Sandbox::new(Who::Plain);
    let out = sandbox.path("calls.txt");
    let named = format!("syscalls:out={}", out.display());
    let script = "i=0; while [ $i -lt 50 ]; do : < /etc/hostname; i=$((i+1)); done; : < /nonexistent";
    let outcome = sandbox.brant(&["run", "--wrap", &named, "--", "sh", "-c", script]);
    assert_ne!(outcome.code, 0, "{}", outcome.stderr);
    let text = sandbox.text("calls.txt");
    let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
    let opened = count(" open(\"/etc/hostname\", ") + count(" openat(-100, \"/etc/hostname\", ");
    assert_eq!(opened, 50, "{text}");
    assert_eq!(count("\"/nonexistent\", 0, 0) = -1 ENOENT <"), 1, "{text}");
    assert_eq!(count(" exit_group("), 1, "{text}");
    for compiler in compilers() {
        let mut calls = Calls::start(compiler, "");
        calls.expect(0);
        let pid = calls.program.pid().to_string();
        let out = calls.sandbox.path("live.txt");
        let named = format!("syscalls:out={},json,direct", out.display());
        calls.sandbox.brant(&["wrap", &named, &pid]).expect(0);
        let before = calls.state().rounds;
        assert!(wait_until(PROMPT_S, || calls.state().rounds > before + 5));
        calls.sandbox.brant(&["unwrap", "syscalls", &pid]).expect(0);
        let records = calls.sandbox.text("live.txt");
        let of = |function: &str| {
            let parse = |line| serde_json::from_str::<serde_json::Value>(line).expect("a record is JSON");
            records.lines().map(parse).filter(|record| record["function"] == function).collect::<Vec<_>>()
        };
        let advised = of("madvise");
        assert!(advised.len() >= 10, "{} of {}", advised.len(), records.lines().count());
        for record in advised {
            assert_eq!(record["arguments"], serde_json::json!(["0x7e0000000000", 8192, 4]), "{record}");
            assert_eq!(
                (&record["result"], &record["errno"]),
                (&0.into(), &serde_json::Value::Null),
                "{record}"
            );
        }
        let failed = of("munmap").into_iter().filter(|record| record["errno"] == "EINVAL").count();
        assert!(failed >= 10, "{failed}");
        assert_eq!((calls.state().wrong, calls.state().registers), (0, 0));
    }
}

#[test]
fn calls_that_cannot_be_mediated_are_refused_with_their_reason() {
    let calls = Calls::start("cc", "");
    for (line, word) in [
        ("wrap vfork in kernel with my_call", "returns twice"),
        ("wrap rt_sigreturn in kernel with my_call", "signal handler"),
        ("wrap restart_syscall in kernel with my_call", "the kernel alone"),
        ("wrap nothing in kernel with my_call", "no system call of this name"),
        ("wrap read in kernel with my_call native", "native"),
    ] {
        calls.sandbox.write("bad.wrap", &format!("wrapper bad implementation \"libone.so\"\n{line}\n"));
        let path = calls.sandbox.path("bad.wrap");
        let path = path.to_str().expect("test paths are UTF-8");
        let outcome = calls.sandbox.brant(&["wrap", path, &calls.program.pid().to_string()]);
        assert_eq!(outcome.code, 3, "{line}: {}", outcome.stderr);
        assert!(
            outcome.stderr.contains("B-1117") && outcome.stderr.contains(word),
            "{line}: {}",
            outcome.stderr
        );
    }
}

/// Stacks of goroutines have no room for mediators; those of C functions that they call do.
#[test]
fn calls_of_go_are_refused_and_functions_are_not() {
    if !have_command("go") {
        return skip("go");
    }
    let sandbox = Sandbox::new(Who::Plain);
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(sandbox.path("goes"));
    build.arg(repository().join("fixtures/connect/calls.go"));
    build.env("CGO_ENABLED", "1").env("GO111MODULE", "off").env("GOFLAGS", "");
    build.env("GOCACHE", sandbox.path("go-cache"));
    assert!(build.status().expect("go starts").success(), "go build failed");
    let mut program = sandbox.launch(sandbox.command(sandbox.path("goes")), false);
    assert!(wait_until(60, || sandbox.text("out") == "up\n"), "{}", sandbox.text("err"));
    let pid = program.pid().to_string();
    let refused = sandbox.brant(&["wrap", "syscalls:out=calls.txt", &pid]);
    assert!(refused.code == 3 && refused.stderr.contains("B-1117"), "{}", refused.stderr);
    sandbox.brant(&["wrap", "heap:out=heap.txt", &pid]).expect(0);
    sandbox.brant(&["unwrap", "heap", &pid]).expect(0);
    assert_eq!(program.ended(), None, "{}", sandbox.text("err"));
}
