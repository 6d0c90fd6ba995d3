//! System calls of programs that are linked statically: all of them counted, in threads, children and handlers; what cannot be
//! served is refused by name; and such a program is checkpointed and restored with its wrapper on.
#![forbid(unsafe_code)]

use std::process::Command;

use brant_testkit::{Outcome, Sandbox, Started, Who, have_command, repository, skip, wait_until};

const PROMPT_S: u64 = 60;
/// Compilers with the flags for each kind of program.
const KINDS: [(&str, &[&str]); 3] =
    [("cc", &["-static"]), ("cc", &["-static-pie"]), ("musl-gcc", &["-static"])];

fn compile(sandbox: &Sandbox, compiler: &str, flags: &[&str], name: &str) -> String {
    let to = sandbox.path(name);
    let mut command = Command::new(compiler);
    command.args(["-O1", "-Wall", "-pthread"]).args(flags).arg("-o").arg(&to);
    let output = command
        .arg(repository().join("fixtures/connect/static_calls.c"))
        .output()
        .expect("a compiler starts");
    assert!(output.status.success(), "{flags:?}: {}", String::from_utf8_lossy(&output.stderr));
    to.display().to_string()
}

fn run(sandbox: &Sandbox, wrapper: &str, words: &[&str]) -> Outcome {
    let wrapper = wrapper.replace("OUT", &sandbox.path("out.txt").display().to_string());
    sandbox.brant(&[&["run", "--wrap", &wrapper, "--"], words].concat())
}

/// How often the calls are in the file.
fn count(sandbox: &Sandbox, call: &str) -> usize {
    sandbox.text("out.txt").lines().filter(|line| line.contains(&format!(" {call}("))).count()
}

#[test]
fn every_call_of_a_static_program_is_mediated() {
    for (compiler, flags) in KINDS {
        if !have_command(compiler) {
            skip(&format!("no {compiler}"));
            continue;
        }
        let sandbox = Sandbox::new(Who::Plain);
        let program = compile(&sandbox, compiler, flags, "calls");
        let outcome = run(&sandbox, "syscalls:out=OUT", &[&program, "4", "3000"]);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (7, "12000 100\n"), "{}", outcome.stderr);
        // Two in each round of four threads and one child.
        assert_eq!(count(&sandbox, "getppid"), 2 * 3000 * 5, "{compiler} {flags:?}");
        assert_eq!(count(&sandbox, "wait4"), 1, "{compiler} {flags:?}");
        // The program's and the child's; and the first calls of all, before there is a thread pointer.
        assert_eq!(count(&sandbox, "exit_group"), 2, "{compiler} {flags:?}");
        assert_eq!(count(&sandbox, "brk") > 2, compiler == "cc", "{compiler} {flags:?}");
    }
}

#[test]
fn what_static_programs_cannot_have_is_refused() {
    let sandbox = Sandbox::new(Who::Plain);
    let program = compile(&sandbox, "cc", &["-static"], "calls");
    let bare = compile(&sandbox, "cc", &["-static", "-s"], "bare");
    sandbox.write(
        "start.s",
        ".global _start\n_start: mov $231, %eax\nsyscall\n.type _start, @function\n.size _start, .-_start\n",
    );
    let naked = sandbox.path("naked").display().to_string();
    let mut command = Command::new("cc");
    command.args(["-nostdlib", "-static", "-o", &naked]).arg(sandbox.path("start.s"));
    assert!(command.status().expect("a compiler starts").success());
    let loader = "/lib64/ld-linux-x86-64.so.2";
    let own = "wrapper own implementation \"own.so\"\nwrap getppid in kernel with my_getppid\n";
    sandbox.write("own.wrap", own);
    sandbox.write("own.so", "");
    let own = sandbox.path("own.wrap").display().to_string();
    for (wrapper, words, why) in [
        ("trace:out=OUT", &[program.as_str(), "1", "1"][..], "system calls alone"),
        (own.as_str(), &[&program, "1", "1"], "no loader for the library"),
        ("syscalls:out=OUT", &[&bare, "1", "1"], "where its functions begin"),
        ("syscalls:out=OUT", &[&naked], "no C library"),
        ("syscalls:out=OUT", &[loader, "/bin/true"], "itself a loader"),
    ] {
        let outcome = run(&sandbox, wrapper, words);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (125, ""), "{words:?}");
        assert!(outcome.stderr.contains("B-1103") && outcome.stderr.contains(why), "{}", outcome.stderr);
    }
}

/// A static program that waits with its wrapper on.
fn waiting(sandbox: &Sandbox) -> Started {
    let program = compile(sandbox, "cc", &["-static"], "calls");
    let mut command = sandbox.command(sandbox.path("brant"));
    let wrapper = format!("syscalls:out={}", sandbox.path("out.txt").display());
    command.args(["run", "--name", "calls", "--wrap", &wrapper, "--", &program, "1", "10"]);
    command.arg(sandbox.path("end"));
    let started = sandbox.launch(command, false);
    // Records of a thread are written some at a time.
    let is_waiting = || sandbox.text("out").contains("10 100");
    assert!(wait_until(PROMPT_S, is_waiting), "{} {}", sandbox.text("out"), sandbox.text("err"));
    started
}

#[test]
fn a_static_program_is_unwrapped_while_it_runs() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut started = waiting(&sandbox);
    for (wrapper, code) in [("syscalls:out=/dev/null", "B-1112"), ("time:scale=2", "B-1103")] {
        let outcome = sandbox.brant(&["wrap", wrapper, "calls"]);
        assert!(outcome.code != 0 && outcome.stderr.contains(code), "{}", outcome.stderr);
    }
    let listed = sandbox.brant(&["wrappers", "calls"]);
    assert!(listed.code == 0 && listed.stdout.contains("getppid in kernel"), "{}", listed.stderr);
    let outcome = sandbox.brant(&["unwrap", "syscalls", "calls"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(count(&sandbox, "getppid") == 2 * 10 * 2, "{}", sandbox.text("out.txt"));
    let before = sandbox.text("out.txt");
    sandbox.write("end", "");
    assert_eq!(started.wait(PROMPT_S), Some(7), "{}", sandbox.text("err"));
    let after = sandbox.text("out.txt");
    assert!(after.len() >= before.len() && count(&sandbox, "exit_group") == 1, "{after}");
}

#[test]
fn static_programs_are_wrapped_while_they_run() {
    for (compiler, flags) in KINDS {
        if !have_command(compiler) {
            skip(&format!("no {compiler}"));
            continue;
        }
        let sandbox = Sandbox::new(Who::Plain);
        let program = compile(&sandbox, compiler, flags, "calls");
        let mut command = sandbox.command(program);
        command.args(["3", "0"]).arg(sandbox.path("end"));
        let mut started = sandbox.launch(command, false);
        let pid = started.pid().to_string();
        let tasks = format!("/proc/{pid}/task");
        let runs = || std::fs::read_dir(&tasks).is_ok_and(|tasks| tasks.count() > 4);
        assert!(wait_until(PROMPT_S, runs), "{}", sandbox.text("err"));
        let wrapper = format!("syscalls:out={}", sandbox.path("out.txt").display());
        sandbox.brant(&["unwrap", "syscalls", &pid]).expect(1);
        for round in 1..=10 {
            sandbox.brant(&["wrap", &wrapper, &pid]).expect(0);
            let before = count(&sandbox, "getppid");
            let are_mediated = || count(&sandbox, "getppid") > before + 100;
            assert!(wait_until(PROMPT_S, are_mediated), "round {round}: {}", sandbox.text("out.txt"));
            sandbox.brant(&["unwrap", "syscalls", &pid]).expect(0);
            std::fs::remove_file(sandbox.path("out.txt")).expect("records");
        }
        // Two wrappers' worth of what stands for a loader, and no thread that has lost its way.
        sandbox.brant(&["wrap", &wrapper, &pid]).expect(0);
        sandbox.write("end", "");
        assert_eq!(started.wait(PROMPT_S), Some(7), "{compiler} {flags:?}: {}", sandbox.text("err"));
        assert!(count(&sandbox, "exit_group") >= 1, "{compiler} {flags:?}");
    }
}

#[test]
fn a_static_program_keeps_its_wrapper_where_it_is_restored() {
    let sandbox = Sandbox::new(Who::Plain);
    let _started = waiting(&sandbox);
    let image = sandbox.path("image").display().to_string();
    for words in [
        &["checkpoint", "calls", "--stop", "-o", &image][..],
        &["restore", &image, "-d", "-n", "second"],
        &["wrappers", "second"],
    ] {
        let outcome = sandbox.brant(words);
        assert_eq!(outcome.code, 0, "{words:?}: {}", outcome.stderr);
    }
    assert_eq!(count(&sandbox, "exit_group"), 1, "the child's");
    sandbox.write("end", "");
    let has_ended = || count(&sandbox, "exit_group") == 2;
    assert!(wait_until(PROMPT_S, has_ended), "{}", sandbox.text("out.txt"));
}
