//! Wrappers on running programs: every kind of signature, exceptions, programs under stress, and what is refused.
#![forbid(unsafe_code)]

mod native;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use brant_testkit::{
    Outcome, Program, Sandbox, Started, Who, have_command, is_full, repository, skip, wait_until,
};

const PROMPT_S: u64 = 60;

/// Compiles a fixture of `fixtures/connect` into the sandbox.
fn compile(sandbox: &Sandbox, source: &str, name: &str, flags: &[&str]) -> PathBuf {
    let compiler = if source.ends_with(".cc") { "c++" } else { "cc" };
    let source = format!("connect/{source}");
    sandbox.compile(compiler, &[&source], name, flags).expect("a compiler starts")
}

fn start(sandbox: &Sandbox, program: &Path, args: &[&str]) -> Started {
    let mut command = sandbox.command(program);
    command.arg(sandbox.path("f")).args(args);
    sandbox.launch(command, false)
}

/// What the mediators that count stand before.
const COUNT: &str =
    "wrapper count implementation \"libcount.so\"\nwrap tick in libtick with my_tick size 8\n";

/// A program whose threads call `tick` of a library all the while, and mediators as `libcount.so`.
fn make_stress(sandbox: &Sandbox, mediators: &str) -> PathBuf {
    compile(sandbox, "stress_library.c", "libtick.so", &[]);
    compile(sandbox, mediators, "libcount.so", &[]);
    compile(sandbox, "stress.c", "stress", &["-ltick"])
}

/// The numbers in the program's state file.
fn state(sandbox: &Sandbox) -> Vec<i64> {
    sandbox.text("f.state").split_whitespace().map_while(|word| word.parse().ok()).collect()
}

/// Waits until the state's numbers are as wanted.
fn expect(sandbox: &Sandbox, what: &str, wanted: impl Fn(&[i64]) -> bool) {
    let is_so = wait_until(PROMPT_S, || {
        let state = state(sandbox);
        !state.is_empty() && wanted(&state)
    });
    assert!(is_so, "{what}: {}\n{}", sandbox.text("f.state"), sandbox.text("err"));
}

fn wrap(sandbox: &Sandbox, definition: &str, program: &Started) -> Outcome {
    let path = sandbox.path(definition);
    sandbox.brant(&["wrap", path.to_str().expect("test paths are UTF-8"), &program.pid().to_string()])
}

fn unwrap(sandbox: &Sandbox, name: &str, program: &Started) -> Outcome {
    sandbox.brant(&["unwrap", name, &program.pid().to_string(), "--json"])
}

/// Whether an unwrap has unloaded the implementation.
fn is_unloaded(outcome: &Outcome) -> bool {
    let said: serde_json::Value = serde_json::from_str(&outcome.expect(0).stdout).expect("it is JSON");
    said["unloaded"].as_bool().expect("it is said")
}

/// Every function is called with its arguments and gives its result, bare, through one layer and through two; with
/// signatures, with sizes, and where nothing is said.
#[test]
fn every_signature_passes_one_layer_and_two() {
    let sandbox = Sandbox::new(Who::Plain);
    compile(&sandbox, "matrix_library.c", "libmatrix.so", &[]);
    compile(&sandbox, "matrix_mediators.c", "libone.so", &[]);
    compile(&sandbox, "matrix_mediators.c", "libtwo.so", &[]);
    let matrix = compile(&sandbox, "matrix.c", "matrix", &["-lmatrix", "-rdynamic"]);
    for (kind, name, library) in
        [("sig", "one", "libone.so"), ("sig", "two", "libtwo.so"), ("none", "plain", "libone.so")]
    {
        let output =
            Command::new(&matrix).args(["--define", kind, name, library]).output().expect("it starts");
        sandbox.write(&format!("{name}.wrap"), &String::from_utf8_lossy(&output.stdout));
    }
    let mut program = start(&sandbox, &matrix, &[]);
    expect(&sandbox, "bare", |state| state[0] > 3);
    let functions = state(&sandbox)[1];
    assert!(functions >= 50, "{functions} functions");
    let is_so =
        |once: i64, twice: i64| move |state: &[i64]| state[2] == once && state[3] == twice && state[4] == 0;
    wrap(&sandbox, "one.wrap", &program).expect(0);
    expect(&sandbox, "one layer", is_so(functions, 0));
    wrap(&sandbox, "two.wrap", &program).expect(0);
    expect(&sandbox, "two layers", is_so(0, functions));
    let listed = sandbox.brant(&["wrappers", &program.pid().to_string()]);
    assert!(listed.expect(0).stdout.contains("/libmatrix.so  behind 1 other"), "{}", listed.stdout);
    unwrap(&sandbox, "one", &program).expect(0);
    expect(&sandbox, "the outer layer", is_so(functions, 0));
    unwrap(&sandbox, "two", &program).expect(0);
    expect(&sandbox, "bare again", is_so(0, 0));
    wrap(&sandbox, "plain.wrap", &program).expect(0);
    expect(&sandbox, "without signatures", |state| state[2] == 17 && state[3] == 0 && state[4] == 0);
    let outcome = unwrap(&sandbox, "plain", &program);
    assert!(is_unloaded(&outcome), "{}", outcome.stdout);
    expect(&sandbox, "bare in the end", is_so(0, 0));
    assert_eq!(program.ended(), None, "{}", sandbox.text("err"));
}

#[test]
fn exceptions_and_jumps_pass_mediators() {
    let sandbox = Sandbox::new(Who::Plain);
    compile(&sandbox, "throwing_library.cc", "libthrowing.so", &[]);
    compile(&sandbox, "throwing_mediators.cc", "libpass.so", &[]);
    let throwing = compile(&sandbox, "throwing.cc", "throwing", &["-lthrowing"]);
    sandbox.write(
        "pass.wrap",
        "wrapper pass implementation \"libpass.so\"\n\
         wrap may_throw in libthrowing with my_throw sig \"int(int, int *)\"\n\
         wrap may_jump in libthrowing with my_jump size 16\n",
    );
    let mut program = start(&sandbox, &throwing, &[]);
    expect(&sandbox, "bare", |state| state[0] > 3);
    wrap(&sandbox, "pass.wrap", &program).expect(0);
    // 1 + 2 + 3 by exceptions, one by a jump, one from deeper on the stack.
    expect(&sandbox, "mediated", |state| state[1] == 8);
    let before = state(&sandbox)[0];
    expect(&sandbox, "mediated for some time", |state| {
        state[0] > before + 50 && state[1] == 8 && state[2] == 0
    });
    unwrap(&sandbox, "pass", &program).expect(0);
    expect(&sandbox, "bare again", |state| state[1] == 0 && state[2] == 0);
    assert_eq!(program.ended(), None, "{}", sandbox.text("err"));
}

/// A program whose threads are in malloc, dlopen, printf, fork, and handlers at 1 kHz: wrapped and unwrapped over and over, it
/// loses no call, and each call is mediated or not as it should be.
#[test]
fn programs_under_stress_are_wrapped_and_unwrapped() {
    let rounds = if is_full() { 250 } else { 15 };
    for kinds in ["aaw", "lw", "ppfs", "alpfs", "offs"] {
        let sandbox = Sandbox::new(Who::Plain);
        let stress = make_stress(&sandbox, "stress_mediators.c");
        sandbox.write("count.wrap", COUNT);
        let mut program = start(&sandbox, &stress, &[kinds]);
        expect(&sandbox, "bare", |state| state[0] > 3);
        let mut refused = 0;
        let mut dormant = 0;
        for _ in 0..rounds {
            let wrapped = wrap(&sandbox, "count.wrap", &program);
            if wrapped.stderr.contains("B-1108") {
                refused += 1;
                continue;
            }
            wrapped.expect(0);
            let before = state(&sandbox);
            expect(&sandbox, "mediated", |state| state[1] > before[1] + 1);
            let mut unwrapped = unwrap(&sandbox, "count", &program);
            while unwrapped.stderr.contains("B-1108") {
                refused += 1;
                unwrapped = unwrap(&sandbox, "count", &program);
            }
            dormant += i32::from(!is_unloaded(&unwrapped));
            let before = state(&sandbox);
            expect(&sandbox, "bare", |state| state[2] > before[2] + 1);
        }
        let state = state(&sandbox);
        println!("{kinds}: {state:?}, refused {refused}, dormant {dormant}");
        assert_eq!(program.ended(), None, "{kinds}: {}", sandbox.text("err"));
        assert_eq!(state[4], 0, "{kinds}: calls were lost");
        assert!(state[3] <= 2 * i64::from(rounds), "{kinds}: {} batches were mediated in part", state[3]);
        assert!(refused <= rounds, "{kinds}: {refused} of {rounds} were refused");
        assert!(dormant <= rounds / 3, "{kinds}: {dormant} of {rounds} stayed");
    }
}

/// Makes a shared library of a mediator in Rust.
fn compile_rust(sandbox: &Sandbox, source: &str, name: &str) {
    let sdk = sandbox.path("libbrant_mediator.rlib");
    let run = |command: &mut Command| {
        let output = command.args(["--edition", "2024", "-O"]).output().expect("a compiler starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let crate_root = repository().join("crates/mediator/src/lib.rs");
    run(Command::new("rustc")
        .args(["--crate-name", "brant_mediator", "--crate-type", "rlib", "-o"])
        .arg(&sdk)
        .arg(crate_root));
    run(Command::new("rustc")
        .args(["--crate-name", "mediators", "--crate-type", "cdylib", "--extern"])
        .arg(format!("brant_mediator={}", sdk.display()))
        .arg("-o")
        .arg(sandbox.path(name))
        .arg(repository().join("fixtures/connect").join(source)));
}

#[test]
fn mediators_are_written_in_rust() {
    let sandbox = Sandbox::new(Who::Plain);
    compile(&sandbox, "stress_library.c", "libtick.so", &[]);
    compile_rust(&sandbox, "count_in_rust.rs", "libcount.so");
    let stress = compile(&sandbox, "stress.c", "stress", &["-ltick"]);
    sandbox.write(
        "count.wrap",
        "wrapper count implementation \"libcount.so\"\nwrap tick in libtick with my_tick sig \"void(long *)\"\n",
    );
    let mut program = start(&sandbox, &stress, &["a"]);
    expect(&sandbox, "bare", |state| state[0] > 3);
    wrap(&sandbox, "count.wrap", &program).expect(0);
    let before = state(&sandbox);
    expect(&sandbox, "mediated", |state| state[1] > before[1] + 2 && state[4] == 0);
    assert!(is_unloaded(&unwrap(&sandbox, "count", &program)));
    let before = state(&sandbox);
    expect(&sandbox, "bare again", |state| state[2] > before[2] + 2 && state[4] == 0);
    assert_eq!(program.ended(), None, "{}", sandbox.text("err"));
}

#[test]
fn c_programs_wrap_and_unwrap() {
    let sandbox = Sandbox::new(Who::Plain);
    let stress = make_stress(&sandbox, "stress_mediators.c");
    sandbox.write("count.wrap", COUNT);
    let library = built_library();
    let wrapping = compile(
        &sandbox,
        "wrapping.c",
        "wrapping",
        &[library.to_str().expect("a plain path"), "-lm", "-lgcc_s"],
    );
    let mut program = start(&sandbox, &stress, &["a"]);
    expect(&sandbox, "bare", |state| state[0] > 3);
    let definition = sandbox.path("count.wrap");
    let pid = program.pid().to_string();
    let run = |name: &str| {
        let output = sandbox
            .command(&wrapping)
            .arg(&definition)
            .args([name, &pid])
            .env("WRAPPING_LOG", sandbox.path("log"))
            .output()
            .expect("it starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(run("count"), "0 \n0 \n");
    let log = sandbox.text("log");
    assert!(log.contains(" off count tick ") && log.lines().count() == 1, "{log}");
    assert!(state(&sandbox)[1] > 1 && state(&sandbox)[4] == 0, "{:?}", state(&sandbox));
    let said = run("other");
    assert!(said.starts_with("0 \n1113 ") && said.contains("not wrapped by \"other\""), "{said}");
    unwrap(&sandbox, "count", &program).expect(0);
    assert_eq!(program.ended(), None, "{}", sandbox.text("err"));
}

/// The library for C, built.
fn built_library() -> PathBuf {
    let here = std::env::current_exe().expect("a test binary knows its path");
    let target = here.ancestors().nth(3).expect("a test binary lies in target/PROFILE/deps").to_owned();
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--quiet", "--package", "brant-connect-c", "--target-dir"]).arg(&target);
    assert!(command.current_dir(repository()).status().expect("cargo starts").success());
    target.join("debug/libbrant_connect.a")
}

/// A wrapped program is checkpointed with its wrappers in place, restored with them, unwrapped and wrapped again.
#[test]
fn wrapped_programs_are_checkpointed_and_restored() {
    let sandbox = Sandbox::new(Who::Plain);
    let stress = make_stress(&sandbox, "stress_mediators.c");
    let text = |path: &Path| path.to_str().expect("test paths are UTF-8").to_owned();
    sandbox.write("count.wrap", COUNT);
    let (definition, image) = (text(&sandbox.path("count.wrap")), text(&sandbox.path("image")));
    let base = text(&sandbox.path("f"));
    sandbox.brant(&["run", "-d", "-n", "first", "--", &text(&stress), &base, "aw"]).expect(0);
    expect(&sandbox, "bare", |state| state[0] > 3);
    sandbox.brant(&["wrap", &definition, "first"]).expect(0);
    expect(&sandbox, "mediated", |state| state[1] > 3);
    sandbox.brant(&["checkpoint", "first", "--stop", "-o", &image]).expect(0);
    let before = state(&sandbox);
    sandbox.brant(&["restore", &image, "-d", "-n", "second"]).expect(0);
    expect(&sandbox, "restored and mediated", |state| state[1] > before[1] + 3 && state[2] == before[2]);
    let listed = sandbox.brant(&["wrappers", "second"]);
    assert!(listed.expect(0).stdout.contains("tick in"), "{}", listed.stdout);
    sandbox.brant(&["unwrap", "count", "second"]).expect(0);
    let before = state(&sandbox);
    expect(&sandbox, "bare again", |state| state[2] > before[2] + 2);
    sandbox.brant(&["wrap", &definition, "second"]).expect(0);
    let before = state(&sandbox);
    expect(&sandbox, "mediated again", |state| state[1] > before[1] + 2 && state[4] == 0);
    sandbox.brant(&["kill", "second"]).expect(0);
    sandbox.expect_no_leftovers();
}

/// An interpreter with threads, and one that generates code: their allocator is mediated, under load.
#[test]
fn real_programs_are_wrapped() {
    const PYTHON: &str = "import threading, time, os, sys\n\
        def work():\n    while True: [bytes(i) for i in range(2000)]\n\
        for i in range(3): threading.Thread(target=work, daemon=True).start()\n\
        n = 0\n\
        while True:\n    n += 1\n    open(sys.argv[1] + '.p', 'w').write('%d 0' % n)\n    \
        os.rename(sys.argv[1] + '.p', sys.argv[1] + '.state')\n    time.sleep(0.01)\n";
    const NODE: &str = "const fs = require('fs'); const base = process.argv[2]; let n = 0; setInterval(() => {\n\
        let a = []; for (let i = 0; i < 20000; i++) a.push({ x: i, s: 'v' + i }); a.sort((p, q) => q.x - p.x);\n\
        fs.writeFileSync(base + '.p', ++n + ' 0'); fs.renameSync(base + '.p', base + '.state');\n\
        fs.readFile('/etc/passwd', () => {}); }, 5);\n";
    for (interpreter, script) in [("python3", PYTHON), ("node", NODE)] {
        if !have_command(interpreter) {
            skip(interpreter);
            continue;
        }
        let sandbox = Sandbox::new(Who::Plain);
        compile(&sandbox, "bench_mediators.c", "libpass.so", &[]);
        sandbox.write(
            "pass.wrap",
            "wrapper pass implementation \"libpass.so\"\n\
             wrap malloc in libc with my_malloc sig \"void *malloc(size_t size)\"\n\
             wrap free in libc with my_free sig \"void free(void *ptr)\"\n",
        );
        sandbox.write("script", script);
        let mut command = sandbox.command(interpreter);
        command.arg(sandbox.path("script")).arg(sandbox.path("f"));
        let mut program = sandbox.launch(command, false);
        expect(&sandbox, interpreter, |state| state[0] > 3);
        for _ in 0..5 {
            for is_wrap in [true, false] {
                let change = || match is_wrap {
                    true => wrap(&sandbox, "pass.wrap", &program),
                    false => unwrap(&sandbox, "pass", &program),
                };
                let mut outcome = change();
                for _ in 0..5 {
                    // Every thread may be in the allocator for a while.
                    if outcome.stderr.contains("B-1108") {
                        outcome = change();
                    }
                }
                outcome.expect(0);
                let before = state(&sandbox)[0];
                expect(&sandbox, interpreter, |state| state[0] > before + 5);
            }
        }
        assert_eq!(program.ended(), None, "{interpreter}: {}", sandbox.text("err"));
    }
}

/// Siblings of memcpy branch behind its first instruction, so that there is only room for a short jump: to padding nearby.
#[test]
fn functions_without_room_for_a_long_jump_are_wrapped_under_load() {
    let sandbox = Sandbox::new(Who::Plain);
    compile(&sandbox, "stress_library.c", "libtick.so", &[]);
    compile(&sandbox, "copy_mediators.c", "libcopy.so", &[]);
    let stress = compile(&sandbox, "stress.c", "stress", &["-ltick"]);
    sandbox.write(
        "copy.wrap",
        "wrapper copy implementation \"libcopy.so\"\n\
         wrap memcpy in libc with my_copy sig \"void *(void *, const void *, size_t)\"\n\
         wrap memmove in libc with my_copy sig \"void *(void *, const void *, size_t)\"\n\
         wrap tick in libtick with my_tick sig \"void(long *)\"\n",
    );
    let mut program = start(&sandbox, &stress, &["aappsfw"]);
    expect(&sandbox, "bare", |state| state[0] > 3);
    for _ in 0..10 {
        wrap(&sandbox, "copy.wrap", &program).expect(0);
        let before = state(&sandbox);
        expect(&sandbox, "mediated", |state| state[1] > before[1] + 2 && state[4] == 0);
        let listed = sandbox.brant(&["wrappers", &program.pid().to_string()]);
        assert!(listed.expect(0).stdout.contains("memcpy in libc.so.6"), "{}", listed.stdout);
        unwrap(&sandbox, "copy", &program).expect(0);
        let before = state(&sandbox);
        expect(&sandbox, "bare again", |state| state[2] > before[2] + 2 && state[4] == 0);
    }
    assert_eq!(program.ended(), None, "{}", sandbox.text("err"));
}

/// A thread's exec ends all others: whoever holds them must not be in its way.
#[test]
fn programs_that_execute_themselves_are_not_held_up() {
    let sandbox = Sandbox::new(Who::Plain);
    compile(&sandbox, "stress_mediators.c", "libcount.so", &[]);
    sandbox.write(
        "count.wrap",
        "wrapper count implementation \"libcount.so\"\nwrap usleep in libc with my_pass size 8\n",
    );
    let mut program = sandbox.start(&Program::fixture("churn").with_args(&["exec"]));
    assert!(wait_until(PROMPT_S, || sandbox.path("f.ready").exists()), "{}", sandbox.text("f.result"));
    for _ in 0..20 {
        let begin = Instant::now();
        let outcome = wrap(&sandbox, "count.wrap", &program);
        assert!(outcome.code == 0 || outcome.stderr.contains("B-"), "{}", outcome.stderr);
        assert!(begin.elapsed() < Duration::from_secs(PROMPT_S), "{}", outcome.stderr);
    }
    assert_eq!(program.ended(), None, "{}", sandbox.text("err"));
}

/// A program of musl, whose loader and allocator are the C library itself and which never unloads.
#[test]
fn programs_of_musl_are_wrapped() {
    if !have_command("musl-gcc") {
        return skip("musl-gcc");
    }
    let sandbox = Sandbox::new(Who::Plain);
    let build = |source: &str, name: &str, flags: &[&str]| {
        let source = format!("connect/{source}");
        sandbox.compile("musl-gcc", &[&source], name, flags).expect("a compiler starts")
    };
    build("stress_library.c", "libtick.so", &[]);
    build("stress_mediators.c", "libcount.so", &[]);
    let stress = build("stress.c", "stress", &["-ltick"]);
    sandbox.write("count.wrap", COUNT);
    let mut program = start(&sandbox, &stress, &["psw"]);
    expect(&sandbox, "bare", |state| state[0] > 3);
    for _ in 0..3 {
        wrap(&sandbox, "count.wrap", &program).expect(0);
        let before = state(&sandbox);
        expect(&sandbox, "mediated", |state| state[1] > before[1] + 2 && state[4] == 0);
        assert!(!is_unloaded(&unwrap(&sandbox, "count", &program)), "musl cannot unload");
        let before = state(&sandbox);
        expect(&sandbox, "bare again", |state| state[2] > before[2] + 2 && state[4] == 0);
    }
    assert_eq!(program.ended(), None, "{}", sandbox.text("err"));
}

/// A program that is started with a wrapper has it before its first instruction; its children have it too.
#[test]
fn programs_are_wrapped_from_their_first_instruction_on() {
    let sandbox = Sandbox::new(Who::Plain);
    let stress = make_stress(&sandbox, "stress_mediators.c");
    let text = |path: &Path| path.to_str().expect("test paths are UTF-8").to_owned();
    let (stress, base) = (text(&stress), text(&sandbox.path("f")));
    let define = |function: &str| {
        let line = format!("wrap {function} in libtick with my_tick size 8");
        sandbox.write("count.wrap", &format!("wrapper count implementation \"libcount.so\"\n{line}\n"));
    };
    define("tick");
    let path = text(&sandbox.path("count.wrap"));
    sandbox.brant(&["run", "-d", "-n", "ticker", "--wrap", &path, "--", &stress, &base, "aps"]).expect(0);
    expect(&sandbox, "mediated", |state| state[0] > 5 && state[1] == state[0] && state[4] == 0);
    let listed = sandbox.brant(&["wrappers", "ticker"]);
    assert!(listed.expect(0).stdout.contains("tick in"), "{}", listed.stdout);
    sandbox.brant(&["unwrap", "count", "ticker"]).expect(0);
    let before = state(&sandbox);
    expect(&sandbox, "bare", |state| state[2] > before[2] + 1 && state[4] == 0);
    sandbox.brant(&["kill", "ticker"]).expect(0);
    define("nothing");
    let outcome = sandbox.brant(&["run", "-d", "--wrap", &path, "--", &stress, &base, "w"]);
    assert!(outcome.code == 125 && outcome.stderr.contains("B-1111"), "{}", outcome.stderr);
    let outcome = sandbox.brant(&["run", "-d", "--wrap", &path, "--", "/nowhere"]);
    assert!(outcome.code == 127 && outcome.stderr.contains("B-0101"), "{}", outcome.stderr);
    sandbox.expect_no_leftovers();
}

/// brant is killed at random instants of putting wrappers on and taking them off: the program runs on with every call
/// reaching its function once, and a wrapper can be taken off, or put on, afterwards.
#[test]
fn the_program_survives_kills_at_any_instant() {
    let kills = if is_full() { 300 } else { 24 };
    let sandbox = Sandbox::new(Who::Plain);
    let stress = make_stress(&sandbox, "stress_mediators.c");
    sandbox.write("count.wrap", COUNT);
    let mut program = start(&sandbox, &stress, &["aps"]);
    expect(&sandbox, "bare", |state| state[0] > 3);
    let pid = program.pid().to_string();
    let definition = sandbox.path("count.wrap");
    let definition = definition.to_str().expect("test paths are UTF-8");
    let verbs = [["wrap", definition, &pid], ["unwrap", "count", &pid]];
    let mut durations = [Duration::ZERO; 2];
    for (verb, duration) in verbs.iter().zip(&mut durations) {
        let begin = Instant::now();
        sandbox.brant(verb).expect(0);
        *duration = begin.elapsed();
    }
    let mut seed = std::process::id() as u64;
    for number in 0..kills {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let which = number % 2;
        let (mut brant, output) = sandbox.spawn_brant(&verbs[which]);
        std::thread::sleep(durations[which].mul_f64((seed >> 40) as f64 / (1u64 << 24) as f64 * 1.2));
        let _ = brant.kill();
        let status = brant.wait().expect("our own child can be waited for");
        let said = sandbox.outcome(output, status).stderr;
        let before = state(&sandbox);
        expect(&sandbox, "it runs on", |state| state[0] > before[0] + 2);
        assert_eq!(
            program.ended(),
            None,
            "kill {number} in {:?}: {said} {}",
            verbs[which],
            sandbox.text("err")
        );
        assert_eq!(state(&sandbox)[4], 0, "kill {number}: calls were lost");
        // Now and then everything is put in order.
        if number % 5 == 4 {
            wait_until(PROMPT_S, || {
                let outcome = unwrap(&sandbox, "count", &program);
                outcome.code == 0 || outcome.stderr.contains("B-1113")
            });
            let listed = sandbox.brant(&["wrappers", &pid]);
            assert!(!listed.expect(0).stdout.contains(" in lib"), "kill {number}: {}", listed.stdout);
            let before = state(&sandbox);
            expect(&sandbox, "bare", |state| state[2] > before[2] + 1);
        }
    }
    assert_eq!(program.ended(), None, "{}", sandbox.text("err"));
}

#[test]
fn what_cannot_be_wrapped_is_refused_with_its_reason() {
    let sandbox = Sandbox::new(Who::Plain);
    let stress = make_stress(&sandbox, "stress_mediators.c");
    let mut program = start(&sandbox, &stress, &["w"]);
    expect(&sandbox, "started", |state| state[0] > 1);
    let define = |line: &str| {
        sandbox.write("bad.wrap", &format!("wrapper bad implementation \"libcount.so\"\n{line}\n"))
    };
    for (line, code, exit, word) in [
        ("wrap vfork in libc with my_tick", "B-1111", 3, "returns twice"),
        ("wrap dlopen in libc with my_tick", "B-1111", 3, "who calls it"),
        ("wrap nothing in libc with my_tick", "B-1111", 3, "does not export it"),
        ("wrap tick in libtick with nothing", "B-1110", 1, "nothing"),
        ("wrap vfork in kernel with my_tick", "B-1117", 3, "in kernel"),
        ("wrap tick in libtick wiht my_tick", "B-1007", 2, "wiht"),
    ] {
        define(line);
        let outcome = wrap(&sandbox, "bad.wrap", &program);
        assert_eq!(outcome.code, exit, "{line}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(code) && outcome.stderr.contains(word), "{line}: {}", outcome.stderr);
    }
    sandbox.write("bad.wrap", "wrapper bad implementation \"bad.wrap\"\nwrap tick in libtick with my_tick\n");
    let outcome = wrap(&sandbox, "bad.wrap", &program);
    assert!(outcome.code == 1 && outcome.stderr.contains("B-1109"), "{}", outcome.stderr);
    let outcome = unwrap(&sandbox, "bad", &program);
    assert!(outcome.code == 1 && outcome.stderr.contains("B-1113"), "{}", outcome.stderr);
    let outcome = sandbox.brant(&["wrap", "nobody", &program.pid().to_string()]);
    assert!(outcome.code == 2 && outcome.stderr.contains("B-1101"), "{}", outcome.stderr);
    // Nothing of all that is left on.
    let before = state(&sandbox);
    expect(&sandbox, "bare", |state| state[0] > before[0] + 5 && state[1] == 0 && state[4] == 0);
    assert_eq!(program.ended(), None, "{}", sandbox.text("err"));
    drop(program);
    let started = sandbox.start(&Program::fixture("busy").linked_statically());
    assert!(wait_until(PROMPT_S, || sandbox.path("f.ready").exists()), "{}", sandbox.text("f.result"));
    define("wrap read in libc with my_tick");
    let outcome = wrap(&sandbox, "bad.wrap", &started);
    assert!(outcome.code == 3 && outcome.stderr.contains("B-1103"), "{}", outcome.stderr);
}
