//! Real programs: each is run undisturbed, then checkpointed in mid-work and left running, then stopped and brought
//! back; what it has written in the end must be the same each time. With `BRANT_FULL=1` they are also brought back again and again.
#![forbid(unsafe_code)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use brant_testkit::{
    Sandbox, Started, Who, fixture_binary, have_command, is_full, repository, skip, wait_until,
};

const MIDPOINT_TIMEOUT_S: u64 = 120;
const END_TIMEOUT_S: u64 = 180;

/// A real program in mid-work.
struct Work {
    /// Packages' commands without which the test is skipped.
    needs: &'static [&'static str],
    /// Prepares the sandbox and says what to run there.
    command: fn(&Sandbox) -> Command,
    /// Whether it is in mid-work now.
    is_midway: fn(&Sandbox) -> bool,
    /// Done when it is brought back (or was left running).
    go_on: fn(&Sandbox),
    /// What counts in the end.
    result: fn(&Sandbox) -> Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Undisturbed,
    LeftRunning,
    Restored,
    /// Checkpointed twice, then stopped and brought back at once, and all of that again.
    RestoredAgainAndAgain,
}

/// How often at most.
const RESTORES: usize = 6;

fn same_result_each_way(work: &Work) {
    if let Some(missing) = work.needs.iter().find(|command| !have_command(command)) {
        return skip(missing);
    }
    let expected = run(work, Way::Undisturbed);
    assert!(!expected.is_empty(), "the undisturbed run has no result");
    let chain = is_full().then_some(Way::RestoredAgainAndAgain);
    for way in [Way::LeftRunning, Way::Restored].into_iter().chain(chain) {
        let got = run(work, way);
        if got != expected {
            let (expected, got) = (String::from_utf8_lossy(&expected), String::from_utf8_lossy(&got));
            let line = expected.lines().zip(got.lines()).position(|(left, right)| left != right);
            let tail: Vec<&str> = got.lines().rev().take(3).collect();
            panic!(
                "{way:?}: {} lines, not {}; first difference in line {line:?}; last: {tail:?}",
                got.lines().count(),
                expected.lines().count()
            );
        }
    }
}

fn run(work: &Work, way: Way) -> Vec<u8> {
    let sandbox = Sandbox::new(Who::Plain);
    let mut started = sandbox.launch((work.command)(&sandbox), false);
    let is_midway =
        wait_until(MIDPOINT_TIMEOUT_S, || (work.is_midway)(&sandbox) || started.ended().is_some());
    assert!(
        is_midway && started.ended().is_none(),
        "never in mid-work: {}{}",
        tail(&sandbox, "out"),
        tail(&sandbox, "err")
    );
    match way {
        Way::Undisturbed => {}
        Way::LeftRunning | Way::Restored => carry(&sandbox, &mut started, way == Way::Restored),
        Way::RestoredAgainAndAgain => {
            let restored = (0..RESTORES).take_while(|_| carry_on(&sandbox, &mut started)).count();
            assert!(restored > 0, "it was over before it was stopped once");
        }
    }
    (work.go_on)(&sandbox);
    let ended = wait_until(END_TIMEOUT_S, || {
        started.ended();
        sandbox.leftovers().is_empty()
    });
    assert!(
        ended,
        "{way:?}: did not end: {:?}; {}{}",
        sandbox.leftovers(),
        tail(&sandbox, "out"),
        tail(&sandbox, "err")
    );
    let errors = sandbox.text("err");
    assert!(errors.is_empty(), "{way:?}: wrote to stderr: {}", tail(&sandbox, "err"));
    (work.result)(&sandbox)
}

/// Checkpoints the program; with `stop`, ends it and brings it back.
fn carry(sandbox: &Sandbox, started: &mut Started, stop: bool) {
    let image = sandbox.path("x.img").to_str().expect("test paths are UTF-8").to_owned();
    let pid = started.pid().to_string();
    let mut args = vec!["checkpoint", &pid, "-o", &image];
    if stop {
        args.push("--stop");
    }
    let outcome = sandbox.brant(&args);
    assert_eq!(outcome.code, 0, "checkpoint: {}", outcome.stderr);
    if stop {
        assert!(started.wait(20).is_some(), "--stop left the program running");
        assert!(wait_until(10, || sandbox.leftovers().is_empty()), "--stop left {:?}", sandbox.leftovers());
        let outcome = sandbox.brant(&["restore", "-d", &image]);
        assert_eq!(outcome.code, 0, "restore: {}", outcome.stderr);
    }
}

/// Checkpoints the program twice, ends it, and brings it back; false where it has come to its end by itself.
fn carry_on(sandbox: &Sandbox, started: &mut Started) -> bool {
    let path = |name| sandbox.path(name).to_str().expect("test paths are UTF-8").to_owned();
    let (image, file) = (path("x.img"), path("pid"));
    let pid = std::fs::read_to_string(&file)
        .map_or_else(|_| started.pid().to_string(), |text| text.trim().to_owned());
    for options in [&[][..], &[], &["--stop"]] {
        let outcome = sandbox.brant(&[&["checkpoint", &pid, "--force", "-o", &image], options].concat());
        if outcome.code != 0 && wait_until(10, || is_over(sandbox, started)) {
            return false;
        }
        assert_eq!(outcome.code, 0, "checkpoint: {}", outcome.stderr);
    }
    assert!(wait_until(20, || is_over(sandbox, started)), "--stop left {:?}", sandbox.leftovers());
    let _ = std::fs::remove_file(&file);
    let outcome = sandbox.brant(&["restore", "-d", "--files", "keep", "--pid-file", &file, &image]);
    assert_eq!(outcome.code, 0, "restore: {}", outcome.stderr);
    true
}

fn is_over(sandbox: &Sandbox, started: &mut Started) -> bool {
    started.ended();
    sandbox.leftovers().is_empty()
}

fn tail(sandbox: &Sandbox, name: &str) -> String {
    let text = sandbox.text(name);
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// A program's source, copied into the sandbox.
fn source(sandbox: &Sandbox, name: &str) -> String {
    let text = std::fs::read_to_string(repository().join("fixtures/programs").join(name))
        .expect("the source is there");
    sandbox.write(name, &text);
    name.to_owned()
}

/// An executable, copied into the sandbox.
fn executable(sandbox: &Sandbox, from: &Path) -> std::path::PathBuf {
    let to = sandbox.path("program");
    std::fs::copy(from, &to).expect("the program is there");
    std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755)).expect("the copy is ours");
    to
}

fn command(sandbox: &Sandbox, program: &str, args: &[&str]) -> Command {
    let mut command = sandbox.command(program);
    command.args(args);
    command
}

fn lines_out(sandbox: &Sandbox) -> usize {
    sandbox.text("out").lines().count()
}

fn output(sandbox: &Sandbox) -> Vec<u8> {
    sandbox.text("out").into_bytes()
}

fn nothing(_: &Sandbox) {}

#[test]
fn python_threads_and_a_growing_heap() {
    same_result_each_way(&Work {
        needs: &["python3"],
        command: |sandbox| command(sandbox, "python3", &[&source(sandbox, "growing_heap.py")]),
        is_midway: |sandbox| lines_out(sandbox) > 30,
        go_on: nothing,
        result: output,
    });
}

#[test]
fn bash_pipeline_in_mid_stream() {
    same_result_each_way(&Work {
        needs: &["bash"],
        command: |sandbox| command(sandbox, "bash", &[&source(sandbox, "pipeline.sh")]),
        is_midway: |sandbox| lines_out(sandbox) > 40,
        go_on: nothing,
        result: output,
    });
}

#[test]
fn sqlite_in_a_transaction() {
    same_result_each_way(&Work {
        needs: &["sqlite3"],
        command: |sandbox| command(sandbox, "bash", &[&source(sandbox, "transaction.sh")]),
        is_midway: |sandbox| lines_out(sandbox) > 40,
        go_on: nothing,
        result: |sandbox| {
            let mut query = sandbox.command("sqlite3");
            query.args([
                "test.db",
                "SELECT count(*), sum(square * id), max(word) FROM t; PRAGMA integrity_check;",
            ]);
            let answer = query.output().expect("sqlite3 starts");
            [output(sandbox), answer.stdout].concat()
        },
    });
}

#[test]
fn perl() {
    same_result_each_way(&Work {
        needs: &["perl"],
        command: |sandbox| command(sandbox, "perl", &[&source(sandbox, "hash.pl")]),
        is_midway: |sandbox| lines_out(sandbox) > 30,
        go_on: nothing,
        result: output,
    });
}

#[test]
fn node_timers_and_a_worker() {
    same_result_each_way(&Work {
        needs: &["node"],
        command: |sandbox| command(sandbox, "node", &[&source(sandbox, "timers.js")]),
        is_midway: |sandbox| lines_out(sandbox) > 30,
        go_on: nothing,
        result: output,
    });
}

#[test]
fn java_thread_pool() {
    same_result_each_way(&Work {
        needs: &["java", "javac"],
        command: |sandbox| {
            source(sandbox, "Threads.java");
            let compiled = sandbox.command("javac").arg("Threads.java").status().expect("javac starts");
            assert!(compiled.success(), "javac failed");
            command(sandbox, "java", &["-cp", ".", "Threads"])
        },
        is_midway: |sandbox| lines_out(sandbox) > 30,
        go_on: nothing,
        result: output,
    });
}

#[test]
fn gcc_compiling() {
    same_result_each_way(&Work {
        needs: &["gcc"],
        command: |sandbox| {
            let mut text = String::new();
            for n in 0..1500 {
                let body = format!(
                    "for (int i = 0; i < n; i++) {{ s += i * {n} ^ (s >> 3); if (s % {} == 1) s -= n; }}",
                    n % 97 + 2
                );
                text.push_str(&format!("unsigned f{n}(int n, unsigned s) {{ {body} return s; }}\n"));
            }
            sandbox.write("big.c", &text);
            let mut compile = command(sandbox, "gcc", &["-O2", "-c", "big.c", "-o", "big.o"]);
            compile.env("TMPDIR", sandbox.path("run"));
            compile
        },
        // cc1 is under way once the driver has made its temporary files and some time has gone by.
        is_midway: |sandbox| {
            let is_compiling = sandbox.leftovers().iter().any(|(_, name)| name == "cc1");
            if is_compiling {
                std::thread::sleep(std::time::Duration::from_millis(400));
            }
            is_compiling
        },
        go_on: nothing,
        result: |sandbox| std::fs::read(sandbox.path("big.o")).unwrap_or_default(),
    });
}

#[test]
fn vim_in_a_terminal() {
    same_result_each_way(&Work {
        needs: &["vim", "python3"],
        command: |sandbox| {
            let driver = source(sandbox, "terminal.py");
            let folder =
                sandbox.path("").to_str().expect("test paths are UTF-8").trim_end_matches('/').to_owned();
            command(
                sandbox,
                "python3",
                &[&driver, &folder, "vim", "-n", "-u", "NONE", "-i", "NONE", "text.txt"],
            )
        },
        is_midway: |sandbox| sandbox.path("f.ready").exists(),
        go_on: |sandbox| sandbox.write("f.go", "go"),
        result: |sandbox| [output(sandbox), sandbox.text("text.txt").into_bytes()].concat(),
    });
}

#[test]
fn static_go_with_goroutines() {
    same_result_each_way(&Work {
        needs: &["go"],
        command: |sandbox| {
            let mut build = Command::new("go");
            build.args(["build", "-o"]).arg(sandbox.path("built"));
            build.arg(repository().join("fixtures/programs/goroutines.go"));
            build.env("CGO_ENABLED", "0").env("GO111MODULE", "off").env("GOFLAGS", "");
            build.env("GOCACHE", sandbox.path("run/go-cache"));
            assert!(build.status().expect("go starts").success(), "go build failed");
            let program = executable(sandbox, &sandbox.path("built"));
            sandbox.command(program)
        },
        is_midway: |sandbox| lines_out(sandbox) > 30,
        go_on: nothing,
        result: output,
    });
}

#[test]
fn rust_thread_pool() {
    same_result_each_way(&Work {
        needs: &[],
        command: |sandbox| {
            let program = executable(sandbox, &fixture_binary("thread_pool", false));
            sandbox.command(program)
        },
        is_midway: |sandbox| lines_out(sandbox) > 30,
        go_on: nothing,
        result: output,
    });
}

#[test]
fn redis_server_with_data() {
    same_result_each_way(&Work {
        needs: &["redis-server", "redis-cli"],
        command: |sandbox| {
            let mut server = sandbox.command("redis-server");
            server.args(["--port", "0", "--save", "", "--daemonize", "no", "--loglevel", "warning"]);
            server.arg("--unixsocket").arg(sandbox.path("redis.sock"));
            server
        },
        is_midway: |sandbox| {
            if redis(sandbox, &["PING"]).as_deref() != Some("PONG\n") {
                return false;
            }
            let fill = "for i = 1, 20000 do redis.call('SET', 'key' .. i, string.rep('v' .. i, i % 50)); redis.call('ZADD', 'z', i % 997, i) end";
            redis(sandbox, &["EVAL", fill, "0"]);
            redis(sandbox, &["DBSIZE"]).as_deref() == Some("20001\n")
        },
        go_on: |sandbox| {
            let after =
                "for i = 1, 500 do redis.call('APPEND', 'key' .. i, 'after') end return redis.call('DBSIZE')";
            let mut answers = String::new();
            for query in [
                &["EVAL", after, "0"][..],
                &["GET", "key777"],
                &["GET", "key77"],
                &["ZRANGE", "z", "500", "600"],
            ] {
                answers.push_str(&redis(sandbox, query).unwrap_or_default());
            }
            let sum = "local s = 0 for i = 1, 20000 do s = (s * 31 + #redis.call('GET', 'key' .. i)) % 1000000007 end return s";
            answers.push_str(&redis(sandbox, &["EVAL", sum, "0"]).unwrap_or_default());
            sandbox.write("answers", &answers);
            redis(sandbox, &["SHUTDOWN", "NOSAVE"]);
        },
        result: |sandbox| sandbox.text("answers").into_bytes(),
    });
}

/// What redis-cli answers, if the server does.
fn redis(sandbox: &Sandbox, args: &[&str]) -> Option<String> {
    let mut client = sandbox.command("redis-cli");
    client.arg("-s").arg(sandbox.path("redis.sock")).args(args);
    let answer = client.output().ok()?;
    answer.status.success().then(|| String::from_utf8_lossy(&answer.stdout).into_owned())
}
