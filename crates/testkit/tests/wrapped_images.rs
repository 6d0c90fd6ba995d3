//! Checkpoints of wrapped programs: the wrappers are in place afterwards with their state, what they record is in one copy
//! only, and they can be taken off and put on again, on another machine too.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::time::Instant;

use brant_testkit::{OtherRoot, Outcome, Random, Sandbox, Started, Who, is_full, skip, wait_until};

const PROMPT_S: u64 = 60;

/// Compiles a fixture of `fixtures/connect` into the sandbox.
fn compile(sandbox: &Sandbox, source: &str, name: &str, flags: &[&str]) -> PathBuf {
    let source = format!("connect/{source}");
    sandbox.compile("cc", &[&source], name, flags).expect("a compiler starts")
}

fn text(path: &Path) -> String {
    path.to_str().expect("test paths are UTF-8").to_owned()
}

/// `beat` with so many processes, traced to `t.txt`.
fn start_beats(sandbox: &Sandbox, processes: usize) -> Started {
    let beat = compile(sandbox, "beat.c", "beat", &[]);
    let mut command = sandbox.command(beat);
    command.arg(sandbox.path("f")).arg(processes.to_string());
    let program = sandbox.launch(command, false);
    expect_counts(sandbox, processes, 3);
    program
}

/// The numbers that a process has noted by itself.
fn counts(sandbox: &Sandbox, process: usize) -> Vec<i64> {
    let text = sandbox.text(&format!("f.count.{process}"));
    text.lines().map(|line| line.parse().expect("a number")).collect()
}

fn expect_counts(sandbox: &Sandbox, processes: usize, more: usize) {
    let before: Vec<usize> = (0..processes).map(|process| counts(sandbox, process).len()).collect();
    let have = || (0..processes).all(|process| counts(sandbox, process).len() > before[process] + more);
    assert!(wait_until(PROMPT_S, have), "{processes} processes do not beat: {}", sandbox.text("err"));
}

/// The numbers that the wrapper has recorded of a process, in the order of the file.
fn records(sandbox: &Sandbox, process: usize) -> Vec<i64> {
    let begin = format!(" access(\"/beat/{process}/");
    let number = |line: &str| -> Option<i64> { line.split_once(&begin)?.1.split_once('"')?.0.parse().ok() };
    sandbox.text("t.txt").lines().filter_map(number).collect()
}

/// What was recorded is what was called, each call once; the first calls may be from before the wrapper.
fn expect_all_recorded(sandbox: &Sandbox, process: usize, when: &str) {
    let (recorded, called) = (records(sandbox, process), counts(sandbox, process));
    let first = *recorded.first().unwrap_or_else(|| panic!("{when}: nothing of process {process}"));
    let wanted: Vec<i64> = called.into_iter().filter(|number| *number >= first).collect();
    assert_eq!(recorded, wanted, "{when}: process {process}");
}

fn traced(sandbox: &Sandbox) -> String {
    let definition = "wrapper beats implementation \"brant:trace\"\n\
                      wrap access in libc with trace_call sig \"int(const char *path, int mode)\"\n";
    sandbox.write("beats.wrap", definition);
    format!("{}:out={}", text(&sandbox.path("beats.wrap")), text(&sandbox.path("t.txt")))
}

/// Before a checkpoint ends a tree, all of its processes write their records; who is restored goes on where they end.
#[test]
fn records_are_written_before_a_program_ends_with_its_image() {
    let sandbox = Sandbox::new(Who::Plain);
    let beat = text(&compile(&sandbox, "beat.c", "beat", &[]));
    let (base, image, wrapper) = (text(&sandbox.path("f")), text(&sandbox.path("image")), traced(&sandbox));
    sandbox.brant(&["run", "-d", "-n", "first", "--wrap", &wrapper, "--", &beat, &base, "3"]).expect(0);
    expect_counts(&sandbox, 3, 20);
    let stopped = sandbox.brant(&["checkpoint", "first", "--stop", "-v", "-o", &image]);
    assert!(!stopped.expect(0).stderr.contains("warning"), "{}", stopped.stderr);
    assert_eq!(stopped.stderr.matches("its wrapper was told").count(), 3, "{}", stopped.stderr);
    for process in 0..3 {
        // The last call may have been under way when it was stopped.
        let (recorded, called) = (records(&sandbox, process), counts(&sandbox, process));
        let last = (recorded.last().copied().unwrap_or(0), called.last().copied().unwrap_or(0));
        assert!(last.0 + 1 >= last.1 && last.0 <= last.1 + 1, "process {process}: {last:?}");
    }
    sandbox.brant(&["restore", &image, "-d", "-n", "second"]).expect(0);
    expect_counts(&sandbox, 3, 20);
    sandbox.write("f.go", "");
    assert!(wait_until(PROMPT_S, || sandbox.leftovers().is_empty()), "{:?}", sandbox.leftovers());
    (0..3).for_each(|process| expect_all_recorded(&sandbox, process, "restored"));
    sandbox.expect_no_leftovers();
}

/// A program that is left running and the copies that are made of its image write no record of each other's: but one that was
/// on its way when the program was stopped.
#[test]
fn records_are_in_one_copy_only() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = start_beats(&sandbox, 1);
    let (image, pid) = (text(&sandbox.path("image")), program.pid().to_string());
    sandbox.brant(&["wrap", &traced(&sandbox), &pid]).expect(0);
    expect_counts(&sandbox, 1, 50);
    sandbox.brant(&["checkpoint", &pid, "-o", &image]).expect(0);
    expect_counts(&sandbox, 1, 50);
    sandbox.write("f.go", "");
    assert!(wait_until(PROMPT_S, || program.ended().is_some()), "{}", sandbox.text("err"));
    expect_all_recorded(&sandbox, 0, "left running");
    let (noted, recorded) = (counts(&sandbox, 0).len(), records(&sandbox, 0).len());
    // The last one has another number, by which the wrapper reads texts.
    for (name, flags) in [("second", &[][..]), ("third", &["--any-pid"])] {
        std::fs::remove_file(sandbox.path("f.go")).expect("it is there");
        std::fs::remove_file(sandbox.path("t.txt")).expect("it is there");
        let before = counts(&sandbox, 0).len();
        sandbox.brant(&[&["restore", &image, "-d", "-n", name], flags].concat()).expect(0);
        expect_counts(&sandbox, 1, 50);
        let listed = sandbox.brant(&["wrappers", name]);
        assert!(listed.expect(0).stdout.contains("access in libc.so.6"), "{}", listed.stdout);
        sandbox.write("f.go", "");
        assert!(wait_until(PROMPT_S, || sandbox.leftovers().is_empty()), "{:?}", sandbox.leftovers());
        let called = counts(&sandbox, 0).split_off(before);
        let again = records(&sandbox, 0);
        let is_under_way = again.first().is_some_and(|first| *first + 1 == called[0]);
        assert_eq!(again[usize::from(is_under_way)..], called, "{name}");
        assert!(called[0] as usize <= noted && recorded > 0, "{name} begins at {}", called[0]);
    }
    sandbox.expect_no_leftovers();
}

/// A mediator in C and its state move to another release of Debian, with its library in the image; the wrapper is taken off
/// there. Without the library it is named.
#[test]
fn wrapped_programs_move_to_another_machine() {
    let sandbox = Sandbox::new(Who::Plain);
    let other = match OtherRoot::open(&sandbox) {
        Ok(other) => other,
        Err(lacking) => return skip(lacking),
    };
    compile(&sandbox, "stress_library.c", "libtick.so", &[]);
    compile(&sandbox, "counting_mediators.c", "libcount.so", &[]);
    let stress = text(&compile(&sandbox, "stress.c", "stress", &["-ltick"]));
    sandbox.write(
        "count.wrap",
        "wrapper count implementation \"libcount.so\"\nwrap tick in libtick with my_tick size 8\n",
    );
    let state = || -> Vec<i64> {
        let text = sandbox.text("f.state");
        text.split_whitespace().map_while(|word| word.parse().ok()).collect()
    };
    let expect = |what: &str, wanted: &dyn Fn(&[i64]) -> bool| {
        let is_so = wait_until(PROMPT_S, || {
            Some(state()).filter(|state| state.len() == 5).is_some_and(|s| wanted(&s))
        });
        assert!(is_so, "{what}: {:?} {}", state(), sandbox.text("err"));
    };
    let counted = || -> i64 { sandbox.text("f.counted").trim().parse().unwrap_or(-1) };
    let (definition, base) = (text(&sandbox.path("count.wrap")), text(&sandbox.path("f")));
    let options = format!("{definition}:{}", text(&sandbox.path("f.counted")));
    let here = |name: &str| text(&sandbox.path(name));
    let brant = here("brant-static");
    let run = |args: &[&str]| -> Outcome {
        let output = sandbox.command(&brant).args(args).output().expect("it starts");
        Outcome {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    };
    run(&["run", "-d", "-n", "first", "--wrap", &options, "--", &stress, &base, "aw"]).expect(0);
    expect("mediated", &|state| state[0] > 5 && state[1] == state[0]);
    for (flags, image) in [(&[][..], "bare.img"), (&["--portable", "--stop"][..], "whole.img")] {
        run(&[&["checkpoint", "first", "-o", &here(image)], flags].concat()).expect(0);
    }
    // Told of the checkpoint, it has written its count.
    let before = (counted(), state());
    assert!(before.0 > 0, "{before:?}");
    std::fs::remove_file(sandbox.path("libcount.so")).expect("it is there");
    let refused = other.brant(&["restore", &here("bare.img"), "-d"]);
    assert!(
        refused.code == 5 && refused.stderr.contains("libcount.so"),
        "{} {}",
        refused.code,
        refused.stderr
    );
    other.brant(&["restore", &here("whole.img"), "-d", "-n", "second"]).expect(0);
    expect("restored and mediated", &|state| {
        state[0] > before.1[0] + 3 && state[1] == state[0] && state[4] == 0
    });
    let listed = other.brant(&["wrappers", "second"]);
    assert!(listed.expect(0).stdout.contains("tick in"), "{}", listed.stdout);
    let unwrapped = other.brant(&["unwrap", "count", "second", "--json"]);
    assert!(unwrapped.expect(0).stdout.contains("\"unloaded\": true"), "{}", unwrapped.stdout);
    // It has counted on, and is told so at its end.
    assert!(counted() > before.0, "{} after {before:?}", counted());
    let now = state();
    expect("bare again", &|state| state[2] > now[2] + 2 && state[4] == 0);
    compile(&sandbox, "counting_mediators.c", "libcount.so", &[]);
    other.brant(&["wrap", &options, "second"]).expect(0);
    let now = state();
    expect("mediated again", &|state| state[1] > now[1] + 2 && state[4] == 0);
    other.brant(&["kill", "second"]).expect(0);
    sandbox.expect_no_leftovers();
}

/// brant is killed at random instants of a checkpoint of a wrapped program, which tells the wrapper first: the program runs on
/// with its wrapper, and no call is lost.
#[test]
fn wrapped_programs_survive_kills_of_a_checkpoint() {
    let kills = if is_full() { 200 } else { 16 };
    let sandbox = Sandbox::new(Who::Plain);
    compile(&sandbox, "stress_library.c", "libtick.so", &[]);
    compile(&sandbox, "counting_mediators.c", "libcount.so", &[]);
    let stress = compile(&sandbox, "stress.c", "stress", &["-ltick"]);
    sandbox.write(
        "count.wrap",
        "wrapper count implementation \"libcount.so\"\nwrap tick in libtick with my_tick size 8\n",
    );
    let state = || -> Vec<i64> {
        let text = sandbox.text("f.state");
        text.split_whitespace().map_while(|word| word.parse().ok()).collect()
    };
    let expect = |what: &str, wanted: &dyn Fn(&[i64]) -> bool| {
        let is_so = wait_until(PROMPT_S, || {
            Some(state()).filter(|state| state.len() == 5).is_some_and(|state| wanted(&state))
        });
        assert!(is_so, "{what}: {:?} {}", state(), sandbox.text("err"));
    };
    let mut command = sandbox.command(stress);
    command.arg(sandbox.path("f")).arg("aps");
    let mut program = sandbox.launch(command, false);
    expect("bare", &|state| state[0] > 3);
    let (pid, image) = (program.pid().to_string(), text(&sandbox.path("image")));
    let options = format!("{}:{}", text(&sandbox.path("count.wrap")), text(&sandbox.path("f.counted")));
    sandbox.brant(&["wrap", &options, &pid]).expect(0);
    let verb = ["checkpoint", &pid, "-o", &image, "--force"];
    let begun = Instant::now();
    sandbox.brant(&verb).expect(0);
    let duration = begun.elapsed();
    let mut random = Random::new(u64::from(std::process::id()));
    for number in 0..kills {
        let (mut brant, output) = sandbox.spawn_brant(&verb);
        std::thread::sleep(duration.mul_f64(random.below(1200) as f64 / 1000.0));
        let _ = brant.kill();
        let status = brant.wait().expect("our own child can be waited for");
        let said = sandbox.outcome(output, status).stderr;
        let before = state();
        expect("it runs on", &|state| state[1] > before[1] + 2 && state[2] == before[2]);
        assert_eq!((program.ended(), state()[4]), (None, 0), "kill {number}: {said} {}", sandbox.text("err"));
    }
    sandbox.brant(&verb).expect(0);
    sandbox.brant(&["unwrap", "count", &pid]).expect(0);
    assert_eq!(program.ended(), None, "{}", sandbox.text("err"));
}
