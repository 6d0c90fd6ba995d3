//! Restores where user namespaces are denied: without any, by the wrapper `virtual`.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use brant_base::fault::POINTS;
use brant_testkit::{Mode, Program, Sandbox, Started, Verdict, Who, check, is_root, skip, wait_until};

const TIMEOUT_S: u64 = 60;

/// A shell with a job in the background that it remembers by its number, and a pipeline in the foreground.
const TREE: &str = r#"set -m
(while [ ! -e f.go ]; do echo beat >> beats; sleep 0.05; done; echo first >> ends; exec sleep 1000) &
job=$!
(while [ ! -e f.go ]; do echo line; sleep 0.05; done; echo last) | (grep last; echo second >> ends)
while [ "$(wc -l < ends)" -lt 2 ]; do sleep 0.05; done
kill -0 $job && kill -TERM $job && wait $job
echo "ended $?" > job
jobs > jobs
echo ok > f.new; mv f.new f.result
while [ -e f.go ]; do sleep 0.05; done
"#;

/// What it sees of itself: its number, its parent's, its program, and its groups.
const LOOK: &str = r#"while [ ! -e f.go ]; do
echo "$$ $PPID $BASHPID $([ /proc/$$/exe -ef /proc/self/exe ] && echo own) $(id -G)" > seen.new; mv seen.new seen; sleep 0.05
done
echo ok > f.result
"#;

/// Threads and processes that python knows by their numbers, its own number everywhere that it is asked for, and locks.
const PYTHON: &str = r#"
import ctypes, multiprocessing, os, pathlib, signal, sys, threading, time
here = pathlib.Path(sys.argv[1])
libc = ctypes.CDLL(None)
got = []
signal.signal(signal.SIGUSR1, lambda *_: got.append(threading.get_native_id()))
lock = threading.RLock()
def work(queue, back):
    for task in iter(queue.get, None):
        back.put((task, os.getpid(), os.getppid()))
def tell(value, go):
    with lock:
        value.append((threading.get_native_id(), threading.get_ident()))
        go.wait()
        value.append((threading.get_native_id(), threading.get_ident()))
if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    queue, back = context.Queue(), context.Queue()
    workers = [context.Process(target=work, args=(queue, back)) for _ in range(2)]
    [worker.start() for worker in workers]
    go, told = threading.Event(), []
    thread = threading.Thread(target=tell, args=(told, go))
    thread.start()
    sleeper = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "1000")
    own = (os.getpid(), os.getppid(), os.getpgrp(), os.getsid(0), threading.get_native_id())
    (here / "f.ready").write_text("ready")
    while not (here / "f.go").exists():
        time.sleep(0.02)
    said = []
    def expect(what, found, wanted):
        if found != wanted:
            said.append(f"{what}: {found}, not {wanted}")
    expect("numbers", (os.getpid(), os.getppid(), os.getpgrp(), os.getsid(0), threading.get_native_id()), own)
    expect("own folder", os.readlink("/proc/self"), str(os.getpid()))
    expect("task", os.path.isdir(f"/proc/{os.getpid()}/task/{threading.get_native_id()}"), True)
    expect("program", os.readlink(f"/proc/{workers[0].pid}/exe"), os.readlink("/proc/self/exe"))
    for task in range(20):
        queue.put(task)
    answers = [back.get(timeout=30) for _ in range(20)]
    expect("tasks", sorted(answer[0] for answer in answers), list(range(20)))
    expect("workers", {answer[1] for answer in answers} <= {worker.pid for worker in workers}, True)
    expect("parents", {answer[2] for answer in answers}, {os.getpid()})
    signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGUSR1)
    libc.syscall(234, os.getpid(), threading.get_native_id(), signal.SIGUSR1)
    time.sleep(0.1)
    expect("signals", got, [own[4]] * 3)
    os.kill(sleeper, signal.SIGTERM)
    expect("wait", os.waitpid(sleeper, 0), (sleeper, signal.SIGTERM))
    go.set()
    thread.join()
    expect("thread", told[0], told[1])
    other = threading.Thread(target=lambda: told.append(threading.get_native_id()))
    other.start(); other.join()
    child = os.fork()
    if child == 0:
        os._exit(7 if os.getppid() == own[0] else 8)
    expect("fork", os.waitpid(child, 0), (child, 7 << 8))
    os.sched_setaffinity(workers[0].pid, os.sched_getaffinity(workers[0].pid))
    expect("priority", os.getpriority(os.PRIO_PROCESS, workers[1].pid), os.getpriority(os.PRIO_PROCESS, 0))
    [queue.put(None) for _ in workers]
    [worker.join(30) for worker in workers]
    expect("ends", [worker.exitcode for worker in workers], [0, 0])
    (here / "f.result").write_text("ok\n" if not said else "; ".join(said))
"#;

fn path(sandbox: &Sandbox, name: &str) -> String {
    sandbox.path(name).to_str().expect("test paths are UTF-8").to_owned()
}

fn start(sandbox: &Sandbox, script: &str) -> Started {
    let mut command = sandbox.command("bash");
    command.args(["-c", script]);
    sandbox.launch(command, true)
}

/// Writes the program down and ends it.
fn stop(sandbox: &Sandbox, pid: i32) -> PathBuf {
    let image = sandbox.path("x.img");
    sandbox
        .brant(&["checkpoint", &pid.to_string(), "--stop", "--force", "-o", &path(sandbox, "x.img")])
        .expect(0);
    assert!(wait_until(TIMEOUT_S, || sandbox.leftovers().is_empty()), "left: {:?}", sandbox.leftovers());
    image
}

/// Brings it back and gives its number.
fn restore(sandbox: &Sandbox) -> i32 {
    let file = path(sandbox, "pid");
    let outcome =
        sandbox.brant(&["restore", "-d", "--files", "keep", "--pid-file", &file, &path(sandbox, "x.img")]);
    outcome.expect(0);
    assert!(outcome.stderr.contains("new numbers"), "{}", outcome.stderr);
    sandbox.text("pid").trim().parse().expect("a number")
}

fn beats(sandbox: &Sandbox) -> usize {
    sandbox.text("beats").lines().count()
}

fn expect_good_end(sandbox: &Sandbox) {
    sandbox.write("f.go", "go");
    assert!(wait_until(TIMEOUT_S, || sandbox.text("f.result") == "ok\n"), "{:?}", sandbox.leftovers());
    let _ = std::fs::remove_file(sandbox.path("f.go"));
    sandbox.expect_no_leftovers();
}

/// A sandbox in which user namespaces are denied, where that can be made.
fn denied(has_faults: bool) -> Option<Sandbox> {
    if !is_root() {
        skip("root");
        return None;
    }
    let sandbox = if has_faults { Sandbox::with_faults(Who::Denied) } else { Sandbox::new(Who::Denied) };
    Some(sandbox)
}

#[test]
fn a_program_keeps_the_numbers_that_it_knows() {
    let Some(sandbox) = denied(false) else { return };
    let doctor = sandbox.brant(&["doctor"]);
    assert!(doctor.stdout.contains("restores without namespaces"), "{}", doctor.stdout);
    let mut program = start(&sandbox, LOOK);
    let seen = || sandbox.text("seen");
    assert!(wait_until(TIMEOUT_S, || !seen().is_empty()));
    let before = seen();
    let mut last = program.pid();
    assert!(before.starts_with(&last.to_string()) && before.contains(" own "), "{before}");
    for _ in 0..3 {
        stop(&sandbox, last);
        program.wait(TIMEOUT_S);
        let _ = std::fs::remove_file(sandbox.path("seen"));
        let pid = restore(&sandbox);
        assert_ne!(pid, last);
        assert!(wait_until(TIMEOUT_S, || !seen().is_empty()));
        assert_eq!(seen(), before);
        last = pid;
    }
    let job = sandbox
        .brant(&["ps"])
        .stdout
        .lines()
        .nth(1)
        .and_then(|line| line.split(' ').next().map(String::from));
    let kept = sandbox.brant(&["unwrap", "virtual", &job.expect("a job")]);
    assert!(kept.code != 0 && kept.stderr.contains("B-1160"), "{}", kept.stderr);
    let shown = sandbox.brant(&["ps"]).stdout;
    assert!(shown.contains(&last.to_string()) && shown.contains(&program.pid().to_string()), "{shown}");
    expect_good_end(&sandbox);
}

#[test]
fn threads_and_processes_of_python_know_each_other() {
    let Some(sandbox) = denied(false) else { return };
    sandbox.write("program.py", PYTHON);
    let mut command = sandbox.command("python3");
    command.arg(sandbox.path("program.py")).arg(sandbox.path(""));
    let mut program = sandbox.launch(command, true);
    assert!(wait_until(TIMEOUT_S, || sandbox.path("f.ready").exists()), "{}", sandbox.text("err"));
    let mut last = program.pid();
    for _ in 0..2 {
        stop(&sandbox, last);
        program.wait(TIMEOUT_S);
        last = restore(&sandbox);
    }
    sandbox.write("f.go", "go");
    let has_ended = wait_until(TIMEOUT_S, || sandbox.path("f.result").exists());
    assert!(has_ended, "{:?} {}", sandbox.leftovers(), sandbox.text("err"));
    assert_eq!(sandbox.text("f.result"), "ok\n");
    sandbox.expect_no_leftovers();
}

/// Fixtures that know themselves by numbers, brought back twice.
macro_rules! fixtures {
    ($($name:ident: $program:expr;)*) => { $(
        #[test]
        fn $name() {
            if !is_root() {
                return skip("root");
            }
            check(&$program, Who::Denied, Mode::RestoredTwice.actions(), Verdict::expect_ok);
        }
    )* };
}

fixtures! {
    ids: Program::fixture("ids");
    ids_own_session: Program::fixture("ids").in_own_session();
    tree: Program::fixture("tree");
    threads: Program::fixture("threads");
    many_threads: Program::fixture("futex_storm").with_args(&["30000"]);
    leader_exited: Program::fixture("leader_exited");
    join: Program::fixture("join");
    zombies: Program::fixture("zombies");
    stopped: Program::fixture("stopped");
    blocked: Program::fixture("blocked");
    pending: Program::fixture("pending");
    posix_timers: Program::fixture("posix_timers");
    robust: Program::fixture("robust");
    locks: Program::fixture("locks");
    pidfd: Program::fixture("pidfd");
    proc_self: Program::fixture("proc_self");
    terminal: Program::fixture("pty");
    controlling_terminal: Program::fixture("ctty");
    connections: Program::fixture("unix_stream");
    credentials_in_flight: Program::fixture("unix_rights");
    server: Program::fixture("tcp_listen");
    deleted_files: Program::fixture("deleted_map");
}

/// Some thread of it translates a number at nearly every moment. What is written down can be brought back all the same, or
/// nothing is.
#[test]
fn a_program_that_asks_for_numbers_all_the_time() {
    let Some(sandbox) = denied(false) else { return };
    sandbox.compile("cc", &["connect/asking.c"], "asking", &["-pthread"]).expect("a compiler starts");
    let mut command = sandbox.command(sandbox.path("asking"));
    command.current_dir(sandbox.path(""));
    let mut program = sandbox.launch(command, true);
    stop(&sandbox, program.pid());
    program.wait(TIMEOUT_S);
    let pid = restore(&sandbox).to_string();
    let image = path(&sandbox, "x.img");
    let second = sandbox.brant(&["checkpoint", &pid, "--stop", "--force", "-o", &image]);
    if second.code == 0 {
        assert!(wait_until(TIMEOUT_S, || sandbox.leftovers().is_empty()), "left: {:?}", sandbox.leftovers());
        restore(&sandbox);
    } else {
        assert!(second.stderr.contains("B-0708"), "{}", second.stderr);
    }
    expect_good_end(&sandbox);
}

#[test]
fn a_tree_with_jobs_and_pipes_goes_on() {
    let Some(sandbox) = denied(false) else { return };
    let mut program = start(&sandbox, TREE);
    assert!(wait_until(TIMEOUT_S, || beats(&sandbox) > 1));
    let mut last = program.pid();
    for _ in 0..2 {
        stop(&sandbox, last);
        program.wait(TIMEOUT_S);
        let before = beats(&sandbox);
        last = restore(&sandbox);
        assert!(wait_until(TIMEOUT_S, || beats(&sandbox) > before + 2), "it does not go on");
    }
    // Ended as a whole.
    let job = sandbox
        .brant(&["ps"])
        .stdout
        .lines()
        .nth(1)
        .expect("a job")
        .split(' ')
        .next()
        .expect("a name")
        .to_owned();
    stop(&sandbox, last);
    restore(&sandbox);
    sandbox.brant(&["kill", &job]).expect(0);
    sandbox.expect_no_leftovers();
    restore(&sandbox);
    expect_good_end(&sandbox);
    assert_eq!(sandbox.text("job"), "ended 143\n");
}

#[test]
fn what_cannot_be_had_is_refused_by_name() {
    let Some(sandbox) = denied(false) else { return };
    for (program, code, word) in [
        (Program::fixture("threads").linked_statically(), "B-0423", "threads"),
        (Program::fixture("child_signal"), "B-0422", "signal 10"),
        (Program::fixture("growsdown"), "B-0422", "MAP_GROWSDOWN"),
    ] {
        let mut started = sandbox.start_ready(&program);
        sandbox.stop(&mut started, &[]);
        let refused = sandbox.brant(&["restore", "-d", "--any-pid", &path(&sandbox, "x.img")]);
        refused.expect(5);
        assert!(refused.stderr.contains(code) && refused.stderr.contains(word), "{}", refused.stderr);
        sandbox.brant(&["explain", code]).expect(0);
        sandbox.expect_no_leftovers();
    }
}

#[test]
fn a_restore_that_ends_at_any_point_leaves_nothing_or_all() {
    let Some(sandbox) = denied(true) else { return };
    let mut program = start(&sandbox, TREE);
    assert!(wait_until(TIMEOUT_S, || beats(&sandbox) > 1));
    stop(&sandbox, program.pid());
    program.wait(TIMEOUT_S);
    let image = path(&sandbox, "x.img");
    // There are no namespaces to be entered.
    let others = |point: &&&str| {
        **point != "restore.entered" && (point.starts_with("restore.") || **point == "keeper.adopting")
    };
    for point in POINTS.iter().filter(others) {
        let _ = std::fs::remove_file(sandbox.path("f.result"));
        let _ = std::fs::remove_file(sandbox.path("ends"));
        let before = beats(&sandbox);
        let fault = format!("{point}=kill");
        let (outcome, made) = sandbox.brant_with_fault(&fault, &["restore", "-d", "--files", "keep", &image]);
        assert!(made, "{fault} was not reached: {}", outcome.stderr);
        if !wait_until(2, || sandbox.leftovers().is_empty()) {
            assert!(wait_until(TIMEOUT_S, || beats(&sandbox) > before), "{fault}: {:?}", sandbox.leftovers());
            expect_good_end(&sandbox);
        }
        sandbox.expect_no_leftovers();
    }
}
