//! Wrappers that are handed on to programs that a wrapped program executes: these are wrapped, and find themselves as they
//! would without that, whatever becomes of brant.
#![forbid(unsafe_code)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use brant_testkit::{Outcome, Random, Sandbox, Who, have_command, is_full, skip, wait_until};

const PROMPT_S: u64 = 60;
const COMPILERS: [&str; 2] = ["cc", "musl-gcc"];
const WAYS: [&str; 15] = [
    "execve",
    "execvp",
    "execl",
    "no-words",
    "fexecve",
    "execveat",
    "thread",
    "fork",
    "vfork",
    "vforks",
    "no-children",
    "posix_spawn",
    "posix_spawnp",
    "system",
    "popen",
];

fn compile(sandbox: &Sandbox, compiler: &str, source: &str, name: &str, flags: &[&str]) -> PathBuf {
    let source = format!("connect/{source}");
    let flags = [&["-Wno-nonnull"], flags].concat();
    sandbox.compile(compiler, &[&source], name, &flags).expect("a compiler starts")
}

/// A sandbox with the two programs and a definition that records `access`.
fn prepared(compiler: &str) -> Option<Sandbox> {
    if !have_command(compiler) {
        skip(compiler);
        return None;
    }
    let sandbox = Sandbox::new(Who::Plain);
    compile(&sandbox, compiler, "executing.c", "executing", &[]);
    compile(&sandbox, compiler, "seen.c", "seen", &[]);
    sandbox.write(
        "seen.wrap",
        "wrapper seen implementation \"brant:trace\"\n\
         wrap access in libc with trace_call sig \"int(const char *path, int mode)\"\n",
    );
    Some(sandbox)
}

/// Runs a command as a job, bare or with wrappers that are handed on: its output and its code.
fn run(sandbox: &Sandbox, wrappers: &[&str], words: &[&str]) -> Outcome {
    let mut command = sandbox.command(sandbox.path("brant"));
    let root = sandbox.path("").display().to_string();
    command.env("PATH", format!("{}:/usr/bin:/bin", root.trim_end_matches('/')));
    command.current_dir(&root).arg("run");
    for wrapper in wrappers {
        command.args(["--wrap", wrapper]);
    }
    if !wrappers.is_empty() {
        command.args(["--follow-exec", "--log", "log"]);
    }
    let output = command.arg("--").args(words).output().expect("it starts");
    Outcome {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// What is different in every process.
fn without_numbers(text: &str) -> String {
    let is_number = |line: &str| line.starts_with("word ") && line[5..].parse::<u32>().is_ok();
    text.lines().filter(|line| !is_number(line)).collect::<Vec<_>>().join("\n")
}

fn count(text: &str, what: &str) -> usize {
    text.matches(what).count()
}

const SEEN: &str = "./seen.wrap:out=seen.txt";

#[test]
fn executed_programs_are_wrapped_and_find_themselves_as_without() {
    for compiler in COMPILERS {
        let Some(sandbox) = prepared(compiler) else { continue };
        let seen = sandbox.path("seen").display().to_string();
        for way in WAYS {
            let bare = run(&sandbox, &[], &["executing", way, &seen]);
            if bare.code == 9 {
                // musl has no execveat.
                continue;
            }
            assert!(
                bare.stdout.contains("child none\n") && bare.stdout.len() > 1000,
                "{way}: {}{}",
                bare.stdout,
                bare.stderr
            );
            for name in ["seen.txt", "procs.txt", "log"] {
                let _ = std::fs::remove_file(sandbox.path(name));
            }
            let followed = run(&sandbox, &["procs:out=procs.txt", SEEN], &["executing", way, &seen]);
            assert_eq!(followed.stdout, bare.stdout, "{compiler} {way}: {}", sandbox.text("log"));
            assert_eq!((followed.code, &followed.stderr), (bare.code, &bare.stderr), "{compiler} {way}");
            let times = if way == "vforks" { 20 } else { 1 };
            let (log, records) = (sandbox.text("log"), sandbox.text("seen.txt"));
            assert_eq!(count(&records, "access(\"/seen\", 0) = -1 ENOENT"), times, "{way}: {records} {log}");
            assert_eq!(count(&log, &format!(" followed follow-exec {seen}\n")), times, "{way}: {log}");
            assert!(!log.contains("refused"), "{way}: {log}");
            // The program that is executed has the other wrapper too, and the one that hands them on.
            assert!(sandbox.text("procs.txt").contains(" exit("), "{way}");
        }
        assert!(wait_until(PROMPT_S, || sandbox.leftovers().is_empty()), "{:?}", sandbox.leftovers());
        sandbox.expect_no_leftovers();
    }
}

#[test]
fn executions_that_fail_tell_what_they_would_tell() {
    for compiler in COMPILERS {
        let Some(sandbox) = prepared(compiler) else { continue };
        sandbox.write("not-a-program", "echo hello\n");
        sandbox.write("no-interpreter", "#!/no/such\n");
        sandbox.write("of-a-folder", "#!/usr\n");
        sandbox.write("broken", &format!("\x7fELF\u{2}\u{1}\u{1}{}", "x".repeat(200)));
        for name in ["being-written", "no-rights"] {
            let copied = sandbox.command("cp").arg("/bin/true").arg(sandbox.path(name)).status();
            assert!(copied.expect("cp starts").success());
        }
        let mode = |name: &str, mode| {
            let to = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(sandbox.path(name), to).expect("it is ours");
        };
        mode("no-rights", 0o644);
        let seen = sandbox.path("seen").display().to_string();
        let bare = run(&sandbox, &[], &["executing", "failures", &seen]);
        assert!(bare.stdout.contains("15: -1 26\n16: -1 13\n"), "{}{}", bare.stdout, bare.stderr);
        let followed = run(&sandbox, &[SEEN], &["executing", "failures", &seen]);
        assert_eq!(followed.stdout, bare.stdout, "{compiler}");
        let log = sandbox.text("log");
        assert!(!log.contains(" followed "), "{compiler}: {log}");
    }
}

/// What cannot be wrapped is executed without wrappers, with all its rights, and that is noted.
#[test]
fn programs_that_cannot_be_wrapped_run_without() {
    let Some(sandbox) = prepared("cc") else { return };
    compile(&sandbox, "cc", "seen.c", "static-seen", &["-static"]);
    let with_mode = |name: &str, mode| {
        std::fs::copy(sandbox.path("seen"), sandbox.path(name)).expect("it is there");
        std::fs::set_permissions(sandbox.path(name), std::fs::Permissions::from_mode(mode)).expect("ours");
    };
    with_mode("setuid-seen", 0o4755);
    with_mode("setgid-seen", 0o2755);
    with_mode("unreadable-seen", 0o711);
    sandbox.write("script-seen", &format!("#!{}\n", sandbox.path("setuid-seen").display()));
    for (name, code) in [
        ("static-seen", "B-1103"),
        ("setuid-seen", "B-1151"),
        ("setgid-seen", "B-1151"),
        ("script-seen", "B-1151"),
        ("unreadable-seen", "B-1151"),
    ] {
        let program = sandbox.path(name).display().to_string();
        let bare = run(&sandbox, &[], &["executing", "execve", &program]);
        assert!(bare.code == 7, "{name}: {} {}", bare.stdout, bare.stderr);
        let _ = std::fs::remove_file(sandbox.path("log"));
        let followed = run(&sandbox, &[SEEN], &["executing", "execve", &program]);
        assert_eq!(without_numbers(&followed.stdout), without_numbers(&bare.stdout), "{name}");
        assert_eq!(followed.code, bare.code, "{name}");
        let log = sandbox.text("log");
        let noted = format!(" unfollowed follow-exec {program} {code} ");
        assert!(log.contains(&noted), "{name}: {log}");
    }
    // Neither is anything that brant is not there for any more.
    std::fs::rename(sandbox.path("brant"), sandbox.path("gone")).expect("it is there");
    std::fs::copy(sandbox.path("gone"), sandbox.path("brant")).expect("it was there");
    std::fs::set_permissions(sandbox.path("brant"), std::fs::Permissions::from_mode(0o755)).expect("ours");
    let seen = sandbox.path("seen").display().to_string();
    let script = format!("rm -f brant; exec {seen} 1");
    let _ = std::fs::remove_file(sandbox.path("seen.txt"));
    let alone = run(&sandbox, &[SEEN], &["sh", "-c", &script]);
    assert!(alone.code == 7 && !sandbox.path("brant").exists(), "{} {}", alone.stdout, alone.stderr);
    assert!(!sandbox.text("seen.txt").contains("/seen"), "{}", sandbox.text("seen.txt"));
}

/// Shells, make, an interpreter: their output and codes are as without, and records of every program are there.
#[test]
fn programs_of_programs_are_traced() {
    let sandbox = Sandbox::new(Who::Plain);
    sandbox.write("Makefile", "all: one two\n\t@cat one two\none two:\n\t@echo $@ > $@; ls -d $@ | cat\n");
    sandbox.write(
        "script.py",
        "import os, subprocess, sys\n\
         out = subprocess.run(['sh', '-c', 'ls -d /usr | cat; exit 3'], capture_output=True, text=True)\n\
         print(out.returncode, out.stdout.strip())\n\
         print(subprocess.check_output('echo a b | wc -w', shell=True).decode().strip())\n\
         print(os.popen('ls -d /bin').read().strip())\n\
         try:\n    subprocess.run(['/does/not/exist'])\nexcept FileNotFoundError as error:\n    print(error.errno)\n\
         os.execvp('ls', ['ls', '-d', '/tmp'])\n",
    );
    let git = "rm -rf repo && git init -q repo && cd repo && git -c user.name=a -c user.email=b@c commit -q --allow-empty \
               -m one && git log --format=%s | cat";
    for (tool, words, programs) in [
        ("sh", &["sh", "-c", "ls -d /usr /bin | wc -l; ls -d /nowhere; echo $?"][..], &["ls", "wc"][..]),
        (
            "bash",
            &[
                "bash",
                "-c",
                "set -o pipefail; for i in 1 2 3; do echo $i; done | sort -r | head -n 2; x=$(ls -d /usr); echo $x; cat <(echo in)",
            ],
            &["sort", "head", "ls", "cat"],
        ),
        ("make", &["make", "-s", "all"], &["ls", "cat"]),
        ("python3", &["python3", "script.py"], &["ls", "cat", "wc"]),
        ("git", &["sh", "-c", git], &["rm", "git", "cat"]),
        ("env", &["env", "-i", "/bin/sh", "-c", "/bin/ls -d /usr"], &["ls"]),
        ("xargs", &["sh", "-c", "echo /usr /bin | xargs -n1 ls -d | nice cat"], &["xargs", "ls", "cat"]),
    ] {
        if !have_command(tool) {
            skip(tool);
            continue;
        }
        let clean = || {
            for name in ["one", "two", "t.txt", "log"] {
                let _ = std::fs::remove_file(sandbox.path(name));
            }
        };
        clean();
        let bare = run(&sandbox, &[], words);
        clean();
        let traced = run(&sandbox, &["trace:out=t.txt"], words);
        assert_eq!(
            (traced.code, &traced.stdout),
            (bare.code, &bare.stdout),
            "{tool}: {}",
            sandbox.text("log")
        );
        assert_eq!(traced.stderr, bare.stderr, "{tool}");
        let (log, records) = (sandbox.text("log"), sandbox.text("t.txt"));
        assert!(!log.contains("unfollowed") && !log.contains("refused"), "{tool}: {log}");
        for program in programs {
            let line = log
                .lines()
                .find(|line| line.contains(" followed ") && line.ends_with(&format!("/{program}")));
            let line = line.unwrap_or_else(|| panic!("{tool}: {program} was not followed: {log}"));
            let pid = line.split(' ').nth(1).expect("a pid");
            assert!(records.contains(&format!(" {pid} exit")), "{tool}: no records of {program}");
        }
    }
    assert!(wait_until(PROMPT_S, || sandbox.leftovers().is_empty()), "{:?}", sandbox.leftovers());
}

/// A running program hands on what was put on it so, until it is taken off.
#[test]
fn running_programs_hand_wrappers_on() {
    let Some(sandbox) = prepared("cc") else { return };
    sandbox.write(
        "loop.sh",
        &format!(
            "while [ ! -e f.go ]; do {} 1 > out.now; sleep 0.01; done\n",
            sandbox.path("seen").display()
        ),
    );
    let mut command = sandbox.command("sh");
    command.arg("loop.sh").current_dir(sandbox.path(""));
    let mut program = sandbox.launch(command, false);
    assert!(wait_until(PROMPT_S, || sandbox.path("out.now").exists()), "{}", sandbox.text("err"));
    let pid = program.pid().to_string();
    let path = |name: &str| sandbox.path(name).display().to_string();
    let done = |outcome: Outcome| assert_eq!(outcome.code, 0, "{} {}", outcome.stdout, outcome.stderr);
    let wrap = |name: &str, out: &str, flags: &[&str]| {
        let wrapper = format!("{}:out={}", path(name), path(out));
        done(sandbox.brant(&[&["wrap", &wrapper, &pid][..], flags].concat()));
    };
    let seen = |out: &str| count(&sandbox.text(out), "/seen");
    sandbox.write("again.wrap", &sandbox.text("seen.wrap").replace("wrapper seen", "wrapper again"));
    wrap("seen.wrap", "one.txt", &[]);
    wrap("again.wrap", "two.txt", &["--follow-exec"]);
    assert!(wait_until(PROMPT_S, || seen("two.txt") > 2), "{}", sandbox.text("err"));
    assert_eq!(seen("one.txt"), 0, "it was not to be handed on");
    done(sandbox.brant(&["unwrap", "seen", &pid]));
    wrap("seen.wrap", "one.txt", &["-f"]);
    assert!(wait_until(PROMPT_S, || seen("one.txt") > 2), "{}", sandbox.text("err"));
    let listed = sandbox.brant(&["wrappers", &pid]);
    assert!(listed.stdout.contains("execve in libc.so.6"), "{}", listed.stdout);
    done(sandbox.brant(&["unwrap", "again", &pid]));
    // One may have been started before; they are executed one after the other.
    let off = seen("one.txt");
    assert!(wait_until(PROMPT_S, || seen("one.txt") > off + 1), "{}", sandbox.text("err"));
    let before = (seen("one.txt"), seen("two.txt"));
    assert!(wait_until(PROMPT_S, || seen("one.txt") > before.0 + 3), "{}", sandbox.text("err"));
    assert_eq!(seen("two.txt"), before.1);
    done(sandbox.brant(&["unwrap", "seen", &pid]));
    let listed = sandbox.brant(&["wrappers", &pid]);
    assert!(!listed.stdout.contains("execve in libc.so.6"), "{}", listed.stdout);
    assert_eq!(program.ended(), None);
    sandbox.write("f.go", "");
    assert_eq!(program.wait(PROMPT_S), Some(0), "{}", sandbox.text("err"));
}

/// Whoever puts the wrappers on is killed at random instants: every program runs all the same.
#[test]
fn programs_survive_kills_of_who_wraps_them() {
    let kills = if is_full() { 300 } else { 40 };
    let Some(sandbox) = prepared("cc") else { return };
    let (seen, brant) =
        (sandbox.path("seen").display().to_string(), sandbox.path("brant").display().to_string());
    sandbox.write(
        "loop.sh",
        "n=0; while [ ! -e f.go ]; do \"$1\" 1 > out.now; r=$?; [ $r = 7 ] || { echo $n: $r; exit 1; }\n\
         n=$((n+1)); echo $n > f.count; done; echo good\n",
    );
    let mut command = sandbox.command(&brant);
    command
        .current_dir(sandbox.path(""))
        .args(["run", "--wrap", SEEN, "-f", "--log", "log", "--", "sh", "loop.sh", &seen]);
    let mut job = sandbox.launch(command, false);
    let counted = || -> u64 { sandbox.text("f.count").trim().parse().unwrap_or(0) };
    assert!(wait_until(PROMPT_S, || counted() > 3), "{}", sandbox.text("err"));
    let mut random = Random::new(u64::from(std::process::id()));
    let helper = || -> Option<i32> {
        std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let words = std::fs::read(entry.path().join("cmdline")).ok()?;
            words.starts_with(format!("{brant}\0follow-exec\0").as_bytes()).then_some(pid)
        })
    };
    let mut killed = 0;
    let deadline = Instant::now() + Duration::from_secs(10 * PROMPT_S);
    while killed < kills && Instant::now() < deadline {
        let Some(pid) = helper() else { continue };
        std::thread::sleep(Duration::from_micros(random.below(30_000)));
        killed += u32::from(kill(pid));
        let before = counted();
        assert!(wait_until(PROMPT_S, || counted() > before), "kill {killed}: {}", sandbox.text("out"));
    }
    assert_eq!(killed, kills);
    sandbox.write("f.go", "");
    assert_eq!(job.wait(PROMPT_S), Some(0), "{}", sandbox.text("out"));
    assert!(sandbox.text("log").contains(" followed "), "{}", sandbox.text("log"));
}

/// Whether it was still there.
fn kill(pid: i32) -> bool {
    Command::new("kill")
        .args(["-9", &pid.to_string()])
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// What a program records of itself, its programs record of themselves.
#[test]
fn the_record_is_handed_on() {
    let sandbox = Sandbox::new(Who::Plain);
    let done = |outcome: &Outcome| assert_eq!(outcome.code, 0, "{} {}", outcome.stdout, outcome.stderr);
    done(&sandbox.brant(&["run", "-d", "-n", "it", "--record", "-f", "--", "sh", "-c", "sleep 300; :"]));
    let listed = sandbox.brant(&["ps", "--json"]);
    let jobs: serde_json::Value = serde_json::from_str(&listed.stdout).expect("it is JSON");
    let shell = jobs["jobs"][0]["pid"].as_i64().expect("a pid");
    let child = || -> Option<String> {
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).ok()?;
        let child = children.split_whitespace().next()?.to_owned();
        let name = std::fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
        (name == "sleep\n").then_some(child)
    };
    let is_recorded = || {
        child().is_some_and(|child| {
            let shown = sandbox.brant(&["show", &child]);
            shown.code == 0 && shown.stdout.contains("recorded from its first instruction")
        })
    };
    assert!(wait_until(PROMPT_S, is_recorded), "{:?}", child().map(|child| sandbox.brant(&["show", &child])));
    done(&sandbox.brant(&["kill", "it"]));
    sandbox.expect_no_leftovers();
}
