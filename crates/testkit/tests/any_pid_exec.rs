//! Programs that are executed by programs without namespaces: the wrapper `virtual` is handed on to them.
#![forbid(unsafe_code)]

use std::process::{Command, Stdio};
use std::time::Duration;

use brant_testkit::{
    Outcome, Random, Sandbox, Started, Who, have_command, is_full, is_root, skip, wait_until,
};

const TIMEOUT_S: u64 = 60;

/// A shell that lets other programs look at its numbers, and at those of its job.
const SCRIPT: &str = r#"sleep 1000 & job=$!
while [ ! -e f.go ]; do
while [ -e f.pause ]; do >f.paused; sleep 0.02; done
{ ./numbers $$; echo "numbers $?"
/bin/kill -0 $job && echo kill
sh -c "kill -0 $$ $job" && echo sh
[ "$(cat /proc/$job/comm)" = sleep ] && echo proc
python3 -c "import os,subprocess,sys
print(os.getppid() == $$, subprocess.run([sys.executable, '-c', f'import os; print(os.getppid() == {os.getpid()})'],
capture_output=True, text=True).stdout.strip())"
cat shown/name; [ -e f.stay ] && [ -z "$stay" ] && { ./numbers $$ 0 stay > stays 2>&1 & stay=$!; }; } > seen.new 2>&1; mv seen.new seen
done
kill $job; wait $job; echo "ended $?" > job
rm -f f.stay; wait $stay; echo "stayed $?" >> stays
(exec ./numbers $$ $BASHPID) > last 2>&1; echo "last $?" >> last
rm -f f.go; echo ok > f.new; mv f.new f.result
"#;
const SEEN: &str = "numbers 0\nkill\nsh\nproc\nTrue True\nhere\n";

fn path(sandbox: &Sandbox, name: &str) -> String {
    sandbox.path(name).to_str().expect("test paths are UTF-8").to_owned()
}

/// A sandbox with the program that looks.
fn prepared(who: Who, compiler: &str, flags: &[&str]) -> Option<Sandbox> {
    for tool in ["bash", "python3", compiler] {
        if !have_command(tool) {
            skip(tool);
            return None;
        }
    }
    if !is_root() {
        skip("root");
        return None;
    }
    let sandbox = Sandbox::new(who);
    sandbox.compile(compiler, &["connect/numbers.c"], "numbers", flags).expect("a compiler starts");
    sandbox.write("name", "here\n");
    Some(sandbox)
}

fn start(sandbox: &Sandbox, script: &str) -> Started {
    let mut command = sandbox.command("bash");
    command.args(["-c", script]).current_dir(sandbox.path(""));
    sandbox.launch(command, true)
}

/// Writes the program down and ends it.
fn stop(sandbox: &Sandbox, pid: i32) {
    let image = path(sandbox, "x.img");
    sandbox.brant(&["checkpoint", &pid.to_string(), "--stop", "--force", "-o", &image]).expect(0);
    assert!(wait_until(TIMEOUT_S, || sandbox.leftovers().is_empty()), "left: {:?}", sandbox.leftovers());
}

/// Brings it back and gives its number.
fn restore(sandbox: &Sandbox, options: &[&str]) -> i32 {
    let (file, image) = (path(sandbox, "pid"), path(sandbox, "x.img"));
    let words = [&["restore", "-d", "--files", "keep", "--pid-file", &file], options, &[&image]].concat();
    let outcome: Outcome = sandbox.brant(&words);
    outcome.expect(0);
    let is_any = options.first().is_none_or(|first| *first != "--name");
    let says = outcome.stderr.contains("and from programs that they execute");
    assert_eq!(says, is_any, "{}", outcome.stderr);
    sandbox.text("pid").trim().parse().expect("a number")
}

/// What is seen the next time, two rounds from now on.
fn seen(sandbox: &Sandbox) -> String {
    for _ in 0..2 {
        let _ = std::fs::remove_file(sandbox.path("seen"));
        let has_come = wait_until(TIMEOUT_S, || sandbox.path("seen").exists());
        assert!(has_come, "{} {:?}", sandbox.text("seen.new"), sandbox.leftovers());
    }
    sandbox.text("seen")
}

fn expect_good_end(sandbox: &Sandbox) {
    sandbox.write("f.go", "go");
    assert!(wait_until(TIMEOUT_S, || sandbox.text("f.result") == "ok\n"), "{:?}", sandbox.leftovers());
    sandbox.expect_no_leftovers();
}

fn restored_three_times(compiler: &str, flags: &[&str], options: &[&str]) {
    let Some(sandbox) = prepared(Who::Denied, compiler, flags) else { return };
    let script = SCRIPT.replace("shown/name", &path(&sandbox, "name"));
    let mut program = start(&sandbox, &script);
    assert_eq!(seen(&sandbox), SEEN);
    let mut last = program.pid();
    if flags.contains(&"-static") {
        // A static program that has seen numbers of the kernel's is not brought back without namespaces.
        sandbox.write("f.pause", "");
        assert!(wait_until(TIMEOUT_S, || sandbox.path("f.paused").exists()), "{:?}", sandbox.leftovers());
    }
    for _ in 0..3 {
        stop(&sandbox, last);
        program.wait(TIMEOUT_S);
        let _ = std::fs::remove_file(sandbox.path("f.pause"));
        let pid = restore(&sandbox, options);
        assert_ne!(pid, last);
        assert_eq!(seen(&sandbox), SEEN);
        last = pid;
        sandbox.write("f.stay", "");
    }
    expect_good_end(&sandbox);
    assert_eq!(sandbox.text("stays"), "stayed 0\n");
    assert_eq!(sandbox.text("job"), "ended 143\n");
    assert_eq!(sandbox.text("last"), "last 0\n");
}

#[test]
fn executed_programs_see_the_numbers_that_their_parents_know() {
    restored_three_times("cc", &["-pthread"], &[]);
}

#[test]
fn so_do_programs_of_musl() {
    restored_three_times("musl-gcc", &[], &[]);
}

/// Its posix_spawn has a stack of 5 KiB.
#[test]
fn so_do_programs_of_musl_whose_paths_lead_elsewhere() {
    restored_three_times("musl-gcc", &[], &["--map-path", "/nowhere=/elsewhere"]);
}

#[test]
fn so_do_static_programs() {
    restored_three_times("cc", &["-pthread", "-static"], &[]);
}

#[test]
fn so_do_static_programs_of_musl() {
    restored_three_times("musl-gcc", &["-static"], &[]);
}

/// With namespaces, too, programs that are executed know what their parents know.
#[test]
fn namespaces_come_and_go() {
    let Some(sandbox) = prepared(Who::Plain, "cc", &["-pthread"]) else { return };
    let script = SCRIPT.replace("shown/name", &path(&sandbox, "name"));
    let mut program = start(&sandbox, &script);
    assert_eq!(seen(&sandbox), SEEN);
    let mut last = program.pid();
    for options in [&["--any-pid"][..], &["--name", "two"], &["--any-pid"], &["--name", "four"]] {
        stop(&sandbox, last);
        program.wait(TIMEOUT_S);
        last = restore(&sandbox, options);
        assert_eq!(seen(&sandbox), SEEN, "{options:?}");
    }
    expect_good_end(&sandbox);
    assert_eq!(sandbox.text("last"), "last 0\n");
}

/// Programs run whatever becomes of who hands the wrapper on: killed at random instants, and not there any more at last.
#[test]
fn programs_survive_without_who_hands_it_on() {
    let Some(sandbox) = prepared(Who::Denied, "cc", &["-pthread"]) else { return };
    let script = "n=0; while [ ! -e f.go ]; do /bin/true; r=$?; [ $r = 0 ] || { echo $n: $r > bad; exit 1; }; n=$((n+1)); \
                  echo $n > f.new; mv f.new f.count; done; rm f.go; echo ok > f.new; mv f.new f.result";
    let mut program = start(&sandbox, script);
    let counted = || -> u64 { sandbox.text("f.count").trim().parse().unwrap_or(0) };
    let goes_on = || {
        let before = counted();
        let does = wait_until(TIMEOUT_S, || counted() > before + 1);
        assert!(does, "{} {:?}", sandbox.text("bad"), sandbox.leftovers());
    };
    goes_on();
    stop(&sandbox, program.pid());
    program.wait(TIMEOUT_S);
    restore(&sandbox, &[]);
    let helper = format!("{}\0follow-exec\0", path(&sandbox, "brant"));
    let find = || -> Option<String> {
        std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
            let words = std::fs::read(entry.path().join("cmdline")).ok()?;
            words.starts_with(helper.as_bytes()).then(|| entry.file_name().to_string_lossy().into_owned())
        })
    };
    let mut random = Random::new(u64::from(std::process::id()));
    let mut killed = 0;
    let kills = if is_full() { 300 } else { 30 };
    assert!(
        wait_until(10 * TIMEOUT_S, || {
            let Some(pid) = find() else { return false };
            std::thread::sleep(Duration::from_micros(random.below(30_000)));
            let done = Command::new("kill").args(["-9", &pid]).stderr(Stdio::null()).status();
            killed += u32::from(done.is_ok_and(|done| done.success()));
            goes_on();
            killed >= kills
        }),
        "{killed} killed"
    );
    std::fs::rename(sandbox.path("brant"), sandbox.path("gone")).expect("it is there");
    goes_on();
    goes_on();
    std::fs::rename(sandbox.path("gone"), sandbox.path("brant")).expect("it was there");
    expect_good_end(&sandbox);
}

/// A program that was executed without the wrapper has been told the kernel's numbers, and keeps these from then on.
#[test]
fn who_was_told_the_kernels_numbers_keeps_them() {
    let Some(sandbox) = prepared(Who::Denied, "cc", &["-pthread"]) else { return };
    let script = "while [ ! -e f.hidden ]; do sleep 0.05; done\npython3 -c \"import os, time
while not os.path.exists('f.go'):
    open('shown.new', 'w').write(f'{os.getpid()} {os.getppid()}'); os.rename('shown.new', 'shown'); time.sleep(0.05)\"
rm f.go; echo ok > f.new; mv f.new f.result";
    let mut program = start(&sandbox, script);
    stop(&sandbox, program.pid());
    program.wait(TIMEOUT_S);
    let first = restore(&sandbox, &[]);
    std::fs::rename(sandbox.path("brant"), sandbox.path("gone")).expect("it is there");
    sandbox.write("f.hidden", "");
    let shown = || {
        let _ = std::fs::remove_file(sandbox.path("shown"));
        assert!(wait_until(TIMEOUT_S, || sandbox.path("shown").exists()), "{:?}", sandbox.leftovers());
        sandbox.text("shown")
    };
    let known = shown();
    std::fs::rename(sandbox.path("gone"), sandbox.path("brant")).expect("it was there");
    let (own, parent) = known.split_once(' ').expect("two numbers");
    let name = std::fs::read_to_string(format!("/proc/{own}/comm")).expect("it is the kernel's number");
    assert!(name.starts_with("python3") && parent == first.to_string(), "{name} {known}");
    for _ in 0..2 {
        stop(&sandbox, sandbox.text("pid").trim().parse().expect("a number"));
        assert_ne!(restore(&sandbox, &[]), first);
        assert_eq!(shown(), known);
    }
    expect_good_end(&sandbox);
}
