//! The wrappers that ship, on live programs of glibc and musl: what they write is exact, the program sees no difference that
//! it should not see, and once they are off it is as before.
#![forbid(unsafe_code)]

use std::process::Command;

use brant_testkit::{Outcome, Sandbox, Started, Who, repository, wait_until};

const PROMPT_S: u64 = 60;

/// A program that waits for its first phase.
struct Calls {
    sandbox: Sandbox,
    program: Started,
}

impl Calls {
    fn start(compiler: &str, phases: u32, count: u64) -> Option<Calls> {
        let sandbox = Sandbox::new(Who::Plain);
        let path = sandbox.compile(compiler, &["wrappers/calls.c"], "calls", &[])?;
        sandbox.write("f.in", "content\n");
        sandbox.write("other.in", "OTHER\n");
        let mut command = sandbox.command(path);
        command.arg(sandbox.path("f")).arg(phases.to_string()).arg(count.to_string());
        command.env("CALLS_VALUE", "a \"value\"");
        let program = sandbox.launch(command, false);
        Some(Calls { sandbox, program })
    }

    /// What the program says of a phase.
    fn phase(&self, number: u32) -> String {
        self.sandbox.write(&format!("f.go{number}"), "");
        let said = format!("f.said{number}");
        assert!(wait_until(PROMPT_S, || self.sandbox.path(&said).exists()), "phase {number}");
        self.sandbox.text(&said)
    }

    fn brant(&self, verb: &str, wrapper: &str) -> Outcome {
        self.sandbox.brant(&[verb, wrapper, &self.program.pid().to_string(), "--json"])
    }

    fn wrap(&self, wrapper: &str) {
        let outcome = self.brant("wrap", wrapper);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    }

    /// Whether it was unloaded too.
    fn unwrap(&self, wrapper: &str) {
        let outcome = self.brant("unwrap", wrapper);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.program.pid())).unwrap_or_default();
        if !maps.contains("musl") {
            assert!(outcome.stdout.replace(' ', "").contains("\"unloaded\":true"), "{}", outcome.stdout);
            assert!(!maps.contains(&format!("brant-wrapper-{wrapper}")), "{maps}");
        }
    }

    fn end(&mut self) {
        assert_eq!(self.program.wait(PROMPT_S), Some(5), "{}", self.sandbox.text("err"));
    }

    /// The descriptors that the program has open.
    fn files(&self) -> Vec<String> {
        let folder = std::fs::read_dir(format!("/proc/{}/fd", self.program.pid())).expect("it runs");
        let mut names: Vec<String> =
            folder.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

/// Lines of a text record without time, thread, duration, and with every long number as `PTR`.
fn bare_lines(text: &str, root: &str) -> Vec<String> {
    let bare = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let (time, thread) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        assert!(time.contains('.') && thread.parse::<u32>().is_ok(), "{line}");
        let rest = words.next().unwrap_or("");
        let rest =
            rest.rsplit_once(" <").filter(|(_, took)| took.ends_with('>')).map_or(rest, |(rest, _)| rest);
        let mut pieces = rest.split("0x");
        let mut bare = pieces.next().unwrap_or("").to_owned();
        for piece in pieces {
            let digits = piece.bytes().take_while(u8::is_ascii_hexdigit).count();
            bare.push_str(if digits > 4 { "PTR" } else { "0x" });
            bare.push_str(if digits > 4 { &piece[digits..] } else { piece });
        }
        bare.replace(root, "ROOT")
    };
    text.lines().map(bare).collect()
}

const COMPILERS: [&str; 2] = ["cc", "musl-gcc"];

#[test]
fn trace_writes_every_call_with_arguments_and_results() {
    for compiler in COMPILERS {
        let Some(mut calls) = Calls::start(compiler, 4, 0) else { continue };
        let root = calls.sandbox.path("f").display().to_string();
        let bare = calls.phase(0);
        let files = calls.files();
        assert!(bare.contains("open 1 errno 77\nread 8 content"), "{bare}");
        calls.wrap("trace:out=trace.txt,strings=200");
        assert_eq!(calls.phase(1), bare, "{compiler}");
        assert_eq!(calls.files(), files);
        calls.unwrap("trace");
        assert_eq!(calls.phase(2), bare, "{compiler}");
        let lines = bare_lines(&calls.sandbox.text("trace.txt"), &root);
        let wanted = [
            "read(3, PTR, 8) = 8",
            r#"open("/does/not/exist \"x\"\n", 0, ...) = -1 ENOENT"#,
            "open(0x8, 0, ...) = -1 EFAULT",
            r#"fopen("ROOT.in", "r") = PTR"#,
            "fclose(PTR) = 0",
            r#"opendir("/proc/self") = PTR"#,
            r#"getenv("CALLS_VALUE") = "a \"value\"""#,
            r#"access("/in/the/child", 0) = -1 ENOENT"#,
            "_exit(3) = ?",
        ];
        for line in wanted {
            let count = lines.iter().filter(|found| found.as_str() == line).count();
            assert_eq!(count, 1, "{compiler}: {line}\n{}", lines.join("\n"));
        }
        // That of fopen is seen where it goes by open itself: in glibc.
        let count = lines.iter().filter(|line| *line == "open(\"ROOT.in\", 0, ...) = 3").count();
        assert_eq!(count, if compiler == "cc" { 2 } else { 1 }, "{}", lines.join("\n"));
        let begins: Vec<&String> = lines.iter().filter(|line| line.starts_with("fork()")).collect();
        assert_eq!(begins.len(), 2, "in either process: {begins:?}");
        // Again, as JSON: every line stands for itself.
        calls.wrap("trace:out=trace.json,json");
        assert_eq!(calls.phase(3), bare, "{compiler}");
        // What is buffered is written when the program ends, wrapped.
        calls.end();
        let text = calls.sandbox.text("trace.json");
        let records: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        let of = |name: &str| records.iter().filter(|record| record["function"] == name).collect::<Vec<_>>();
        assert_eq!(of("getenv")[0]["result"], "a \"value\"", "{text}");
        assert_eq!(of("getenv")[0]["arguments"][0], "CALLS_VALUE", "{text}");
        let failed = of("open").into_iter().find(|record| record["errno"] == "EFAULT").expect(&text);
        assert_eq!((&failed["arguments"][0], &failed["result"]), (&"0x8".into(), &(-1).into()));
        assert_eq!(of("exit").len(), 1, "{text}");
    }
}

#[test]
fn trace_loses_no_call_of_four_threads() {
    const COUNT: u64 = 100_000;
    let Some(mut calls) = Calls::start("cc", 2, COUNT) else { return };
    calls.phase(0);
    calls.wrap("trace:out=many.txt");
    let begin = std::time::Instant::now();
    calls.phase(1);
    println!("{:.0} calls/s", 4.0 * COUNT as f64 / begin.elapsed().as_secs_f64());
    calls.end();
    let text = calls.sandbox.text("many.txt");
    let count = text.lines().filter(|line| line.contains(" access(\"/many\", 0) = -1 ENOENT <")).count();
    assert_eq!(count as u64, 4 * COUNT, "{}", text.lines().last().unwrap_or(""));
}

#[test]
fn files_tells_what_is_opened_and_opens_others() {
    for compiler in COMPILERS {
        let Some(mut calls) = Calls::start(compiler, 3, 0) else { continue };
        let root = calls.sandbox.path("f").display().to_string();
        let bare = calls.phase(0);
        let other = calls.sandbox.path("other.in").display().to_string();
        calls.wrap(&format!("files:out=files.txt,map={root}.in={other}"));
        let mapped = calls.phase(1);
        calls.unwrap("files");
        assert_eq!(
            mapped.replace("read 6 OTHER", "read 8 content").replace("OTHER", "content"),
            bare,
            "{compiler}"
        );
        assert!(mapped.contains("read 6 OTHER"), "{mapped}");
        let lines = bare_lines(&calls.sandbox.text("files.txt"), &root);
        let other = other.replace(&root, "ROOT");
        assert_eq!(
            lines,
            [
                format!("open \"ROOT.in\" -> \"{other}\" = 3"),
                r#"open "/does/not/exist \"x\"\n" = ENOENT"#.to_owned(),
                "open 0x8 = EFAULT".to_owned(),
                format!("fopen \"ROOT.in\" -> \"{other}\" = opened"),
                r#"opendir "/proc/self" = opened"#.to_owned(),
            ],
            "{compiler}"
        );
        assert_eq!(calls.phase(2), bare, "{compiler}");
        calls.end();
    }
}

#[test]
fn faults_fail_the_call_that_they_name() {
    for compiler in COMPILERS {
        let Some(mut calls) = Calls::start(compiler, 4, 0) else { continue };
        let bare = calls.phase(0);
        calls.wrap("faults:open=1:EMFILE,fopen=1:ENOMEM,fork=2+:EAGAIN");
        let failed = calls.phase(1);
        assert!(failed.starts_with("open 0 errno 24\n"), "{compiler}: {failed}");
        assert!(failed.contains("fopen 0 -\n"), "{compiler}: {failed}");
        assert!(failed.contains("child 3\n"), "{compiler}: {failed}");
        let second = calls.phase(2);
        assert_eq!(second.replace("child 0\n", "child 3\n"), bare, "only forks fail now: {compiler}");
        assert!(second.contains("child 0\n"), "{compiler}: {second}");
        calls.unwrap("faults");
        assert_eq!(calls.phase(3), bare, "{compiler}");
        calls.end();
    }
}

#[test]
fn wrappers_stack_and_wrong_options_touch_nothing() {
    let Some(mut calls) = Calls::start("cc", 2, 0) else { return };
    let bare = calls.phase(0);
    for (wrapper, code) in [
        ("trace", "B-1132"),
        ("trace:out=t,jsn", "B-1132"),
        ("faults:open=1:EFOO", "B-1132"),
        ("files:map=a=b", "B-1132"),
        ("trice", "B-1101"),
        ("trace:out=none/t", "B-1131"),
    ] {
        let outcome = calls.sandbox.brant(&["wrap", wrapper, &calls.program.pid().to_string()]);
        assert!(outcome.code != 0 && outcome.stderr.contains(code), "{wrapper}: {}", outcome.stderr);
    }
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", calls.program.pid())).expect("it runs");
    assert!(!maps.contains("brant-wrapper"), "{maps}");
    // The one that is put on last is the outermost, so it sees the fault's result.
    calls.wrap("faults:open=1:EDQUOT");
    calls.wrap("trace:out=t");
    let listed = calls.sandbox.brant(&["wrappers", &calls.program.pid().to_string()]);
    assert!(listed.stdout.contains("open in libc.so.6  behind 1 other"), "{}", listed.stdout);
    assert_ne!(calls.phase(1), bare);
    calls.end();
    assert!(calls.sandbox.text("t").contains(".in\", 0, ...) = -1 EDQUOT <"), "{}", calls.sandbox.text("t"));
    let listed = calls.sandbox.brant(&["wrappers"]);
    for name in ["trace ", "files ", "net ", "procs ", "faults "] {
        assert!(listed.stdout.contains(name), "{}", listed.stdout);
    }
}

/// A definition of the user's own, with the implementation that ships.
#[test]
fn trace_serves_definitions_of_users() {
    let Some(mut calls) = Calls::start("cc", 1, 0) else { return };
    calls.sandbox.write(
        "mine.wrap",
        "wrapper mine implementation \"brant:trace\"\n\
         wrap memchr in libc with trace_call sig \"void *(const char *text, int byte, size_t bytes)\"\n\
         wrap closedir in libc with trace_call sig \"int(DIR *folder)\"\n",
    );
    let outcome = calls.brant("wrap", "./mine.wrap:out=mine.txt");
    // memchr has several versions for several processors, which are found by its resolver.
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    calls.phase(0);
    calls.end();
    let text = calls.sandbox.text("mine.txt");
    assert!(text.contains(" closedir(0x") && text.contains(") = 0 <"), "{text}");
}

/// What python does over the network, in processes and in threads.
const PYTHON: &str = r#"
import os, socket, sys, threading, time
base = sys.argv[1]
open(base + ".ready", "w").close()
while not os.path.exists(base + ".go0"):
    time.sleep(0.01)
server = socket.socket()
server.bind(("127.0.0.1", 0))
server.listen()
name = server.getsockname()
client = socket.create_connection(name)
accepted, other = server.accept()
refused = socket.socket(socket.AF_INET6)
refused.connect_ex(("::1", 1))
local = socket.socket(socket.AF_UNIX)
local.connect_ex(base + ".none")
thread = threading.Thread(target=lambda: None)
thread.start()
thread.join()
child = os.fork()
if child == 0:
    os._exit(7)
status = os.waitpid(child, 0)[1]
print(name[1], other[1], child, os.waitstatus_to_exitcode(status), flush=True)
sys.exit(9)
"#;

#[test]
fn net_and_procs_tell_what_python_does() {
    let sandbox = Sandbox::new(Who::Plain);
    sandbox.write("p.py", PYTHON);
    let mut command = sandbox.command("/usr/bin/python3");
    command.arg(sandbox.path("p.py")).arg(sandbox.path("f"));
    let mut program = sandbox.launch(command, false);
    assert!(wait_until(PROMPT_S, || sandbox.path("f.ready").exists()), "{}", sandbox.text("err"));
    for wrapper in ["net:out=net.txt", "procs:out=procs.txt"] {
        let outcome = sandbox.brant(&["wrap", wrapper, &program.pid().to_string()]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    }
    sandbox.write("f.go0", "");
    assert_eq!(program.wait(PROMPT_S), Some(9), "{}", sandbox.text("err"));
    let said = sandbox.text("out");
    let [port, other, child, status] = said.split_whitespace().collect::<Vec<_>>()[..] else {
        panic!("{said}")
    };
    assert_eq!(status, "7");
    let root = sandbox.path("f").display().to_string();
    // The port that bind chose is known afterwards only.
    let wanted = [
        "bind 3 \"127.0.0.1:0\" = 0".to_owned(),
        format!("connect 4 \"127.0.0.1:{port}\" = 0"),
        format!("accept4 3 \"127.0.0.1:{other}\" = 5"),
        "connect 6 \"[::1]:1\" = -1 ECONNREFUSED".to_owned(),
        "connect 7 \"unix:ROOT.none\" = -1 ENOENT".to_owned(),
    ];
    assert_eq!(bare_lines(&sandbox.text("net.txt"), &root), wanted);
    let lines = bare_lines(&sandbox.text("procs.txt"), &root);
    for line in [
        format!("fork() = {child}"),
        "fork() = 0".to_owned(),
        "_exit(7) = ?".to_owned(),
        "exit(9) = ?".to_owned(),
    ] {
        assert_eq!(lines.iter().filter(|found| **found == line).count(), 1, "{line}: {}", lines.join("\n"));
    }
    assert!(lines.iter().any(|line| line.starts_with("pthread_create(PTR, ")), "{}", lines.join("\n"));
}

/// The example of the SDK in Rust, with std in it.
#[test]
fn a_mediator_in_rust_gets_its_options() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let folder = std::env::temp_dir().join(format!("brant-mediator-{}", std::process::id()));
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "brant-mediator", "--example", "environment"]);
    command.arg("--target-dir").arg(&folder).current_dir(repository());
    assert!(command.status().expect("cargo starts").success());
    let Some(mut calls) = Calls::start("cc", 3, 0) else { return };
    std::fs::copy(folder.join("debug/examples/libenvironment.so"), calls.sandbox.path("libenvironment.so"))
        .expect("it was built");
    std::fs::remove_dir_all(&folder).expect("ours");
    calls.sandbox.write(
        "environment.wrap",
        "wrapper environment implementation \"libenvironment.so\"\n\
         wrap getenv in libc with environment_getenv sig \"char *(const char *name)\"\n",
    );
    let bare = calls.phase(0);
    let declined = calls.brant("wrap", "./environment.wrap:nothing");
    assert!(declined.stderr.contains("it takes NAME=VALUE"), "{} {}", declined.stdout, declined.stderr);
    calls.wrap("./environment.wrap:CALLS_VALUE=another one");
    assert_eq!(calls.phase(1), bare.replace("a \"value\"", "another one"));
    let unwrapped = calls.brant("unwrap", "environment");
    assert_eq!(unwrapped.code, 0, "{}", unwrapped.stderr);
    assert_eq!(calls.phase(2), bare);
    calls.end();
}

/// From the first instruction on, several of them, each with its own library in memory.
#[test]
fn wrappers_are_on_from_the_start() {
    let sandbox = Sandbox::new(Who::Plain);
    sandbox.write("x.in", "content\n");
    let path = sandbox.path("x.in").display().to_string();
    let brant = |wrappers: &[&str]| {
        let mut words = vec!["run"];
        wrappers.iter().for_each(|wrapper| words.extend(["--wrap", wrapper]));
        words.extend(["--", "/bin/cat", path.as_str()]);
        sandbox.brant(&words)
    };
    let outcome = brant(&["trace:out=trace.txt", "files:out=files.txt"]);
    assert_eq!(
        (outcome.code, outcome.stdout.replace('\r', "").as_str()),
        (0, "content\n"),
        "{}",
        outcome.stderr
    );
    let wanted = format!("open \"{path}\" = 3");
    let lines = bare_lines(&sandbox.text("files.txt"), "ROOT");
    assert_eq!(lines.iter().filter(|line| **line == wanted).count(), 1, "{}", lines.join("\n"));
    let lines = bare_lines(&sandbox.text("trace.txt"), "ROOT");
    let wanted = format!("open(\"{path}\", 0, ...) = 3");
    assert_eq!(lines.iter().filter(|line| **line == wanted).count(), 1, "{}", lines.join("\n"));
    assert!(lines.iter().any(|line| line.starts_with("read(3, PTR, ") && line.ends_with(" = 8")));
    let outcome = brant(&["faults:open=1:EIO"]);
    assert_eq!(outcome.code, 1, "{} {}", outcome.stdout, outcome.stderr);
    assert!((outcome.stdout + &outcome.stderr).contains("Input/output error"));
    sandbox.expect_no_leftovers();
}
