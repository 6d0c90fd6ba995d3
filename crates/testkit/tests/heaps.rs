//! Heaps that outlive their process, end to end: programs in Rust, C and C++ in a terminal, the second execution in another root file system.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use brant_testkit::{OtherRoot, Sandbox, Who, repository, skip, wait_until};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::openpty;

const PROMPT_S: u64 = 30;

/// Where cargo put the libraries and the example.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args([
            "build",
            "--quiet",
            "--release",
            "-p",
            "brant-heap-malloc",
            "-p",
            "brant-heap",
            "-p",
            "brant-heap-c",
        ]);
        command.args(["--lib", "--example", "two_executions"]);
        assert!(command.current_dir(repository()).status().expect("cargo starts").success());
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or(repository().join("target"), |at| repository().join(at));
        target.join("release")
    })
}

/// Compiles a program of `fixtures/heap` against one of the libraries; with the static one, the program needs no file of ours.
fn compile(sandbox: &Sandbox, source: &str, library: &str, flags: &[&str]) -> PathBuf {
    let to = sandbox.path(&source.replace('.', "-"));
    let mut command = Command::new(if source.ends_with(".cc") { "c++" } else { "cc" });
    command.args(["-O1", "-Wall", "-Werror", "-pthread", "-I"]).arg(repository().join("include"));
    command.arg("-o").arg(&to).arg(repository().join("fixtures/heap").join(source));
    command.arg(built().join(format!("lib{library}.a"))).args(["-ldl", "-lm", "-lgcc_s"]).args(flags);
    let output = command.output().expect("the compiler starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    to
}

/// A person in front of a terminal in which a program runs.
struct Person {
    terminal: File,
    child: Child,
    seen: String,
}

impl Person {
    fn start(mut command: Command) -> Person {
        let pty = openpty(None, None).expect("a terminal is free");
        fcntl(&pty.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("it is ours");
        let end = || Stdio::from(pty.slave.try_clone().expect("a descriptor is free"));
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("the program starts");
        Person { terminal: File::from(pty.master), child, seen: String::new() }
    }

    fn read(&mut self) {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = self.terminal.read(&mut bytes) {
            self.seen.push_str(&String::from_utf8_lossy(&bytes[..count]).replace('\r', ""));
        }
    }

    /// Waits for a question, then types an answer. What was said until then.
    fn answer(&mut self, question: &str, answer: &str) -> String {
        let is_asked = wait_until(PROMPT_S, || {
            self.read();
            self.seen.ends_with(question)
        });
        assert!(is_asked, "no {question:?} in {:?}", self.seen);
        writeln!(self.terminal, "{answer}").expect("the terminal takes it");
        std::mem::take(&mut self.seen)
    }

    /// All that it said to its end.
    fn end(mut self) -> String {
        let mut status = None;
        wait_until(PROMPT_S, || {
            self.read();
            status = self.child.try_wait().expect("it is ours");
            status.is_some()
        });
        self.read();
        assert!(status.is_some_and(|status| status.success()), "{status:?} {}", self.seen);
        std::mem::take(&mut self.seen)
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const FIRST: [(&str, &str); 3] = [("first text", "10"), ("second, of another heap", "3000000"), ("3", "0")];

/// Two executions: here, and in `again`; what the first was told, the second says.
fn two_executions(sandbox: &Sandbox, program: &Path, again: impl Fn(&Path, &Path) -> Command) {
    let image = sandbox.path("image");
    let mut command = sandbox.command(program);
    command.arg(&image);
    let mut person = Person::start(command);
    person.answer("How many heaps? ", "3");
    for (number, (text, bytes)) in FIRST.iter().enumerate() {
        person.answer(&format!("Text for heap-{}: ", number + 1), text);
        person.answer(&format!("Bytes to allocate in heap-{} besides: ", number + 1), bytes);
    }
    let first = person.end();
    let wanted = |number: usize| {
        format!("heap-{}: \"{}\" and {} bytes\n", number + 1, FIRST[number].0, FIRST[number].1)
    };
    assert!(first.contains("3 heaps\n") && (0..3).all(|number| first.contains(&wanted(number))), "{first}");

    let mut person = Person::start(again(program, &image));
    person.answer("? [y/n] ", "y");
    let said = person.answer("Text for heap-1: ", "a new one");
    assert!(said.contains("3 heaps\n") && (0..3).all(|number| said.contains(&wanted(number))), "{said}");
    person.answer("besides: ", "77");
    person.answer("Text for heap-2: ", "more");
    person.answer("besides: ", "200000");
    person.answer("Text for heap-3: ", "");
    person.answer("besides: ", "1");
    let second = person.end();
    assert!((0..3).all(|number| second.contains(&wanted(number))), "{second}");
    assert!(second.contains("heap-1: \"a new one\" and 77 bytes\n"), "{second}");
    std::fs::remove_file(image).expect("it was saved");
}

/// A copy in the sandbox, where its user may run it.
fn place(sandbox: &Sandbox, program: &Path) -> PathBuf {
    let to = sandbox.path("two_executions");
    assert!(Command::new("cp").arg(program).arg(&to).status().expect("cp is there").success());
    to
}

#[test]
fn the_second_execution_says_what_the_first_was_told() {
    let sandbox = Sandbox::new(Who::Plain);
    let programs = [
        place(&sandbox, &built().join("examples/two_executions")),
        compile(&sandbox, "two_executions.c", "brant_heap_malloc", &[]),
        compile(&sandbox, "two_executions.cc", "brant_heap_malloc", &["-std=c++17"]),
    ];
    for program in &programs {
        two_executions(&sandbox, program, |program, image| {
            let mut command = sandbox.command(program);
            command.arg(image).env("LANG", "tlh").env("MORE", "x".repeat(50_000)).env_remove("HOME");
            command
        });
    }
    let other = match OtherRoot::open(&sandbox) {
        Ok(other) => other,
        Err(lacking) => return skip(lacking),
    };
    for program in &programs {
        two_executions(&sandbox, program, |program, image| {
            let words = [program, image].map(|path| path.to_str().expect("test paths are UTF-8"));
            other.command(&words)
        });
    }
}

/// Runs a program to its end; its output.
fn run(sandbox: &Sandbox, program: &Path, args: &[&str]) -> String {
    let mut command = sandbox.command(program);
    let output = command.args(args).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{:?} {said} {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

const MUSL: &str = "x86_64-unknown-linux-musl";

/// A static program of musl from `fixtures/heap`; `None` where this host cannot make one.
fn compile_with_musl(sandbox: &Sandbox, source: &str, library: &str) -> Option<PathBuf> {
    let print = ["--print", "target-libdir", "--target", MUSL];
    let output = Command::new("rustc").args(print).current_dir(repository()).output().ok()?;
    let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let has_compiler = Command::new("musl-gcc").arg("--version").output().is_ok();
    if !output.status.success() || !Path::new(&folder).is_dir() || !has_compiler {
        skip("host: musl-gcc, and Rust's library for musl (rustup target add x86_64-unknown-linux-musl)");
        return None;
    }
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args([
        "build",
        "--quiet",
        "--release",
        "--target",
        MUSL,
        "-p",
        "brant-heap-c",
        "-p",
        "brant-heap-malloc",
    ]);
    command.env("CC_x86_64_unknown_linux_musl", "musl-gcc").current_dir(repository());
    assert!(command.status().expect("cargo starts").success());
    let built = built().parent().expect("it has one").join(MUSL).join("release");
    let to = sandbox.path(&format!("musl-{}", source.replace('.', "-")));
    let mut command = Command::new("musl-gcc");
    command.args(["-static", "-O1", "-Wall", "-Werror", "-I"]).arg(repository().join("include"));
    command.arg("-o").arg(&to).arg(repository().join("fixtures/heap").join(source));
    // Debian's library for unwinding is made for glibc; Rust has its own.
    command
        .arg(built.join(format!("lib{library}.a")))
        .arg(Path::new(&folder).join("self-contained/libunwind.a"));
    let output = command.output().expect("the compiler starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(to)
}

/// An image depends on no C library: what a program of glibc has saved, one of musl goes on with, and the other way round.
#[test]
fn images_go_from_glibc_to_musl_and_back() {
    let sandbox = Sandbox::new(Who::Plain);
    let Some(musl) = compile_with_musl(&sandbox, "two_executions.c", "brant_heap_malloc") else { return };
    let glibc = compile(&sandbox, "two_executions.c", "brant_heap_malloc", &[]);
    for (first, second) in [(&glibc, &musl), (&musl, &glibc), (&musl, &musl)] {
        two_executions(&sandbox, first, |_, image| {
            let mut command = sandbox.command(second);
            command.arg(image);
            command
        });
    }
    for library in ["brant_heap_c", "brant_heap_malloc"] {
        let Some(program) = compile_with_musl(&sandbox, "api.c", library) else { return };
        assert_eq!(run(&sandbox, &program, &["image"]), "all as it should be\n");
        sandbox.brant(&["heap", "verify", "./image"]).expect(0);
        std::fs::remove_file(sandbox.path("image")).expect("it was saved");
    }
}

#[test]
fn c_has_every_call() {
    let sandbox = Sandbox::new(Who::Plain);
    for library in ["brant_heap_c", "brant_heap_malloc"] {
        let program = compile(&sandbox, "api.c", library, &[]);
        assert_eq!(run(&sandbox, &program, &["image"]), "all as it should be\n");
        let verified = sandbox.brant(&["heap", "verify", "./image"]);
        verified.expect(0);
        std::fs::remove_file(sandbox.path("image")).expect("it was saved");
    }
}

/// Two executions, answered from a file: two heaps with a text and some bytes each.
fn execute(sandbox: &Sandbox, program: &Path, answers: &str) {
    std::fs::write(sandbox.path("answers"), answers).expect("the sandbox is ours");
    let mut command = sandbox.command(program);
    command.arg("image").stdin(File::open(sandbox.path("answers")).expect("it was written"));
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn brant_looks_into_images() {
    let sandbox = Sandbox::new(Who::Plain);
    let program = compile(&sandbox, "two_executions.cc", "brant_heap_malloc", &["-std=c++17"]);
    execute(&sandbox, &program, "2\nhello\n100000\na second heap\n5\n");
    // By the user whose image it is: it has mode 0600.
    run(&sandbox, Path::new("/bin/cp"), &["image", "before"]);
    execute(&sandbox, &program, "y\nmore\n300000\nx\n5\n");

    let shown = sandbox.brant(&["heap", "inspect", "./image"]);
    let words = [
        "./image: 2 heaps",
        "generation 2",
        "heap heap-1 at 0x45e100000000",
        "  root records: 48 bytes at 0x",
    ];
    assert!(words.iter().all(|words| shown.expect(0).stdout.contains(words)), "{}", shown.stdout);
    assert!(shown.stdout.contains("  2 larger blocks of 390.6 KiB"), "{}", shown.stdout);
    let json = |args: &[&str]| -> serde_json::Value {
        let outcome = sandbox.brant(&[&["heap"], args, &["--json"]].concat());
        serde_json::from_str(&outcome.expect(0).stdout).expect("it is JSON")
    };
    let image = json(&["inspect", "./image"]);
    assert_eq!((&image["generation"], image["heaps"].as_array().map(Vec::len)), (&2.into(), Some(2)));
    let heap = &image["heaps"][0];
    assert_eq!((&heap["name"], &heap["roots"][0]["name"]), (&"heap-1".into(), &"records".into()));
    assert_eq!((&heap["large_blocks"], &heap["large_bytes"]), (&2.into(), &400_000.into()));
    assert_eq!(json(&["verify", "./image"])["groups"].as_u64().map(|groups| groups > 10), Some(true));

    let differences = json(&["diff", "./before", "./image"]);
    let heap = &differences["heaps"][0];
    assert_eq!((&heap["name"], &heap["freed"]["blocks"]), (&"heap-1".into(), &0.into()));
    assert!(heap["allocated"]["bytes"].as_u64().is_some_and(|bytes| bytes > 300_000), "{heap}");
    // The root is the list itself; it and its one record have another neighbour now.
    assert_eq!((&heap["roots"], &heap["changed"]["blocks"]), (&serde_json::json!([]), &2.into()));
    let same = sandbox.brant(&["heap", "diff", "./image", "./image"]);
    assert!(same.expect(0).stdout.contains("heap heap-2: 0 blocks of 0 B came"), "{}", same.stdout);

    let mut bytes = std::fs::read(sandbox.path("image")).expect("it was saved");
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0xee);
    std::fs::write(sandbox.path("image"), &bytes).expect("the sandbox is ours");
    for verb in ["verify", "inspect"] {
        let outcome = sandbox.brant(&["heap", verb, "./image"]);
        assert!(outcome.expect(6).stderr.contains("B-1223"), "{}", outcome.stderr);
    }
    assert!(sandbox.brant(&["heap", "inspect", "./answers"]).expect(5).stderr.contains("B-1221"));
    assert!(sandbox.brant(&["heap", "inspect", "./none"]).expect(7).stderr.contains("B-1224"));
}

#[test]
fn a_map_of_the_standard_library_comes_back() {
    let sandbox = Sandbox::new(Who::Plain);
    let program = compile(&sandbox, "map.cc", "brant_heap_malloc", &["-std=c++17"]);
    let count = if brant_testkit::is_full() { "10000000" } else { "300000" };
    println!("{}", run(&sandbox, &program, &["image", count]));
    for _ in 0..2 {
        let said = run(&sandbox, &program, &["image", count]);
        println!("{said}");
        assert!(said.contains("entries remain"), "{said}");
    }
}

#[test]
fn sqlite_takes_its_memory_from_a_heap() {
    let sandbox = Sandbox::new(Who::Plain);
    let header = "/usr/include/sqlite3.h";
    if !Path::new(header).is_file() {
        return skip(header);
    }
    let program = compile(&sandbox, "sqlite.c", "brant_heap_c", &["-lsqlite3"]);
    let first = run(&sandbox, &program, &["image"]);
    assert!(first.starts_with("50000 1250025000 word 9999\n4711\nok\n"), "{first}");
    assert_eq!(run(&sandbox, &program, &["image"]), first);
}
