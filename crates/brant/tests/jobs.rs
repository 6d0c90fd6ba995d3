//! Jobs without a terminal: run, ps, logs, stop, kill, and what happens when their keepers and clients die.

mod support;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::{Place, eventually, is_alive, signal, state_of};

#[test]
fn the_program_s_exit_code_is_brant_s() {
    let place = Place::new("codes");
    for (command, code) in [
        (&["sh", "-c", "exit 0"][..], 0),
        (&["sh", "-c", "exit 3"], 3),
        (&["sh", "-c", "kill -9 $$"], 137),
        (&["sh", "-c", "kill -15 $$"], 143),
        (&["no-such-program"], 127),
        (&["/etc/passwd"], 126),
    ] {
        for flags in [&["run"][..], &["run", "-t"]] {
            let output = place.run(flags.iter().chain(&["--"]).chain(command));
            assert_eq!(output.status.code(), Some(code), "{flags:?} {command:?}: {output:?}");
        }
    }
    let output = place.run(["run", "-d", "--", "no-such-program"]);
    assert_eq!(output.status.code(), Some(127));
    assert!(String::from_utf8_lossy(&output.stderr).contains("B-0101"), "{output:?}");
    assert_eq!(place.run(["run"]).status.code(), Some(2));
}

#[test]
fn a_program_in_a_pipe_reads_and_writes_the_pipe_itself() {
    let place = Place::new("pipe");
    let mut brant = place.brant(["run", "--", "cat"]);
    let mut child = brant.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
    let mut stdin = child.stdin.take().unwrap();
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent));
    let mut back = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut back).unwrap();
    writer.join().unwrap().unwrap();
    assert!(back == bytes, "{} bytes of {}", back.len(), bytes.len());
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_reader_sees_the_end_when_the_program_closes_not_when_brant_ends() {
    let place = Place::new("eof");
    let mut brant = place.brant(["run", "-n", "eof", "--", "sh", "-c", "echo out; exec >&-; sleep 60"]);
    let mut child = brant.stdout(Stdio::piped()).spawn().unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "out\n");
    place.ok(["kill", "eof"]);
    assert_eq!(child.wait().unwrap().code(), Some(137));
}

#[test]
fn the_name_of_a_job_that_has_ended_is_free_at_once() {
    if !has_fault_points() {
        return;
    }
    let place = Place::new("again");
    for _ in 0..3 {
        let mut brant = place.brant(["run", "-n", "again", "--", "true"]);
        // Its keeper has told of the end, and is not gone yet.
        let output = brant.env("BRANT_FAULT", "job.told-end=pause:200").output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn a_detached_job_is_listed_logged_and_stopped() {
    let place = Place::new("detached");
    let script = "trap 'echo bye; exit 7' TERM; echo hello; echo world >&2; while :; do sleep 0.05; done";
    assert_eq!(place.ok(["run", "-d", "-n", "sim", "--", "sh", "-c", script]), "sim\n");
    eventually("output in the log", 5, || place.ok(["logs", "sim"]) == "hello\nworld\n");
    assert_eq!(place.job("sim")["state"], "running");
    let again = place.run(["run", "-d", "-n", "sim", "--", "true"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("B-0103"), "{again:?}");

    let pid = place.pid_of("sim");
    place.ok(["stop", "sim"]);
    assert!(!is_alive(pid));
    assert_eq!(place.ok(["logs", "sim"]), "hello\nworld\nbye\n");
    let job = place.job("sim");
    assert_eq!((job["state"].as_str(), job["exit_code"].as_i64()), (Some("exited"), Some(7)));
    assert!(!place.ok(["ps"]).contains("sim"));
    assert_eq!(place.run(["stop", "sim"]).status.code(), Some(4));
    place.ok(["run", "-d", "-n", "sim", "--", "sleep", "60"]);
}

#[test]
fn two_at_once_never_get_the_same_name() {
    let place = Place::new("names");
    let start = |name: &'static str| {
        let mut brant = place.brant(["run", "-d", "-n", name, "--", "sleep", "60"]);
        brant.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let children: Vec<_> = (0..8).map(|_| start("same")).collect();
    let won =
        children.into_iter().filter_map(|mut child| child.wait().unwrap().success().then_some(())).count();
    assert_eq!(won, 1);
    let unnamed: Vec<_> =
        (0..4).map(|_| place.brant(["run", "-d", "sleep", "60"]).spawn().unwrap()).collect();
    for mut child in unnamed {
        assert!(child.wait().unwrap().success());
    }
    let listed = place.ok(["ps"]);
    for name in ["sleep ", "sleep-2", "sleep-3", "sleep-4"] {
        assert!(listed.contains(name), "{listed}");
    }
}

#[test]
fn stop_ends_what_ignores_it_and_what_its_root_left_behind() {
    let place = Place::new("stubborn");
    place.ok(["run", "-d", "-n", "deaf", "--", "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]);
    std::thread::sleep(Duration::from_millis(200));
    let pid = place.pid_of("deaf");
    place.ok(["stop", "--time", "1", "deaf"]);
    assert!(!is_alive(pid));
    assert_eq!(place.job("deaf")["exit_code"], 137);

    let script = "setsid sh -c 'trap \"\" TERM HUP; echo $$; exec sleep 60' & sleep 0.3; exit 5";
    place.ok(["run", "-d", "-n", "parent", "--", "sh", "-c", script]);
    eventually("the root ends, its child lives", 5, || place.job("parent")["state"] == "orphans");
    let orphan: i32 = place.ok(["logs", "parent"]).trim().parse().unwrap();
    assert!(is_alive(orphan));
    place.ok(["kill", "parent"]);
    assert!(!is_alive(orphan));
    assert_eq!(place.job("parent")["exit_code"], 5);
}

#[test]
fn the_job_outlives_its_client() {
    let place = Place::new("client");
    let script = "while :; do echo x >> ticks; sleep 0.05; done";
    for flags in [&["run", "-n", "j"][..], &["run", "-t", "-n", "j"]] {
        let mut client =
            place.brant(flags).args(["--", "sh", "-c", script]).stdin(Stdio::null()).spawn().unwrap();
        eventually("it runs", 5, || place.job("j")["state"] == "running");
        client.kill().unwrap();
        client.wait().unwrap();
        let size = || std::fs::metadata(place.work().join("ticks")).map_or(0, |found| found.len());
        let before = size();
        eventually("it goes on", 5, || size() > before + 4);
        assert_eq!(place.job("j")["state"], "running");
        place.ok(["stop", "j"]);
    }
}

#[test]
fn a_client_killed_at_any_instant_leaves_a_job_or_nothing() {
    const STEPS: u32 = 40;
    let place = Place::new("instants");
    let begun = Instant::now();
    place.ok(["run", "-d", "-n", "whole", "--", "sleep", "30"]);
    let span = begun.elapsed();
    for step in 0..STEPS {
        let name = format!("j{step}");
        let mut brant = place.brant(["run", "-n", &name, "--", "sleep", "30"]);
        let mut client = brant.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(span * step / STEPS);
        client.kill().unwrap();
        client.wait().unwrap();
        eventually("running or gone", 5, || {
            let job = place.job(&name);
            job.is_null() || job["state"] == "running"
        });
        if !place.job(&name).is_null() {
            place.ok(["kill", &name]);
        }
    }
}

/// Whoever finds the killed client's job lost and removes it may be overtaken by the keeper that the client has just
/// forked: there must be no program then that nobody lists.
#[test]
fn a_job_that_is_found_lost_while_its_keeper_begins_does_not_run() {
    if !has_fault_points() {
        return;
    }
    let place = Place::new("overtaken");
    let script = ": > began; sleep 30";
    let mut client = Held::at("keeper.forked", &place, &["run", "-n", "j", "--", "sh", "-c", script]);
    client.child.kill().unwrap();
    client.child.wait().unwrap();
    let mut sweeper = Held::at("job.judged", &place, &["ps"]);
    client.let_go();
    // Time for a keeper that does not wait for the sweeper.
    std::thread::sleep(Duration::from_secs(1));
    sweeper.let_go();
    assert!(sweeper.child.wait().unwrap().success());
    assert!(place.job("j").is_null());
    std::thread::sleep(Duration::from_millis(500));
    assert!(place.job("j").is_null());
    assert!(!place.work().join("began").exists(), "a program runs that is no job");
    place.ok(["run", "-d", "-n", "j", "--", "sleep", "60"]);
}

/// Between the look at a job and the word to its keeper: the end of the job is told as such, and without its keeper the
/// program is not said to have ended while it runs.
#[test]
fn what_ends_while_it_is_being_told_to() {
    if !has_fault_points() {
        return;
    }
    let place = Place::new("between");
    let begin = || {
        place.ok(["run", "-d", "-n", "j", "--", "sleep", "60"]);
        (place.pid_of("j"), place.job("j")["keeper_pid"].as_i64().unwrap() as i32)
    };
    for verb in [&["kill", "j"][..], &["stop", "j"], &["kill", "-s", "USR1", "j"], &["attach", "j"]] {
        let (pid, _) = begin();
        let held = Held::at("job.found", &place, verb);
        signal(pid, Signal::SIGTERM);
        eventually("it ends", 10, || place.job("j")["state"] == "exited");
        let output = held.finish();
        assert_eq!(output.status.code(), Some(4), "{verb:?}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("B-0110"), "{verb:?}: {output:?}");
    }
    for (verb, code) in [(&["kill", "j"][..], 0), (&["stop", "j"], 0), (&["attach", "j"], 143)] {
        let (pid, _) = begin();
        let held = Held::at("job.reached", &place, verb);
        signal(pid, Signal::SIGTERM);
        eventually("it ends", 10, || place.job("j")["state"] == "exited");
        let output = held.finish();
        assert_eq!(output.status.code(), Some(code), "{verb:?}: {output:?}");
    }
    for point in ["job.found", "job.reached"] {
        let (pid, keeper) = begin();
        let held = Held::at(point, &place, &["kill", "j"]);
        signal(keeper, Signal::SIGKILL);
        eventually("it is seen to be unkept", 5, || place.job("j")["state"] == "unkept");
        let output = held.finish();
        let is_said = String::from_utf8_lossy(&output.stderr).contains("B-0107");
        assert_eq!(
            (output.status.success(), is_said),
            (!is_alive(pid), is_alive(pid)),
            "{point}: {output:?}"
        );
        if is_alive(pid) {
            place.ok(["stop", "j"]);
        }
    }
}

fn has_fault_points() -> bool {
    if !cfg!(debug_assertions) {
        println!("SKIPPED: this build has no fault points");
    }
    cfg!(debug_assertions)
}

/// A brant that waits at a fault point.
struct Held {
    child: Child,
    log: PathBuf,
}

impl Held {
    fn at(point: &str, place: &Place, arguments: &[&str]) -> Held {
        let log = place.work().join(point);
        let mut brant = place.brant(arguments);
        brant.env("BRANT_FAULT", format!("{point}=hold")).env("BRANT_FAULT_LOG", &log);
        brant.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = brant.spawn().unwrap();
        eventually(point, 10, || log.exists());
        Held { child, log }
    }

    fn let_go(&mut self) {
        std::fs::remove_file(&self.log).unwrap();
    }

    fn finish(mut self) -> Output {
        self.let_go();
        self.child.wait_with_output().unwrap()
    }
}

#[test]
fn a_killed_keeper_is_noticed_and_the_program_goes_on() {
    let place = Place::new("keeper");
    let mut brant = place.brant(["run", "-n", "j", "--", "sleep", "60"]);
    let mut client = brant.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("it runs", 5, || place.job("j")["state"] == "running");
    let pid = place.pid_of("j");
    signal(place.job("j")["keeper_pid"].as_i64().unwrap() as i32, Signal::SIGKILL);
    assert_eq!(client.wait().unwrap().code(), Some(125));
    assert!(is_alive(pid));
    eventually("it is seen to be unkept", 5, || place.job("j")["state"] == "unkept");
    place.ok(["stop", "j"]);
    assert!(!is_alive(pid));
    assert!(place.job("j").is_null());
}

#[test]
fn signals_reach_the_program_once() {
    let place = Place::new("signals");
    let script = "trap 'echo got >> got' USR1; trap 'echo end >> got; exit 9' TERM; : > ready; while :; do sleep 0.05; done";
    let mut brant = place.brant(["run", "-n", "j", "--", "sh", "-c", script]);
    let mut client = brant.stdin(Stdio::null()).spawn().unwrap();
    eventually("ready", 5, || place.work().join("ready").exists());
    let got = || std::fs::read_to_string(place.work().join("got")).unwrap_or_default();
    signal(client.id() as i32, Signal::SIGUSR1);
    eventually("it came", 5, || got() == "got\n");
    place.ok(["kill", "-s", "usr1", "j"]);
    eventually("it came", 5, || got() == "got\ngot\n");
    signal(client.id() as i32, Signal::SIGTERM);
    assert_eq!(client.wait().unwrap().code(), Some(9));
    assert_eq!(got(), "got\ngot\nend\n");
    assert_eq!(place.run(["kill", "-s", "NOPE", "1"]).status.code(), Some(2));
}

#[test]
fn plain_processes_are_targets_too() {
    let place = Place::new("plain");
    let mut sleep = place.as_user("sleep").arg("60").spawn().unwrap();
    let pid = sleep.id().to_string();
    let reaper = std::thread::spawn(move || sleep.wait().unwrap());
    std::thread::sleep(Duration::from_millis(100));
    place.ok(["stop", &pid]);
    assert!(!reaper.join().unwrap().success());
    assert_eq!(place.run(["stop", &pid]).status.code(), Some(4));
    assert_eq!(place.run(["stop", "1"]).status.code(), Some(4));
    assert_eq!(place.run(["attach", "1"]).status.code(), Some(4));
}

#[test]
fn an_unsafe_runtime_folder_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new("unsafe");
    place.ok(["ps"]);
    let folder = place.work().parent().unwrap().join("run/brant");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = place.run(["ps"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("B-0105"), "{output:?}");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_stuck_client_does_not_hold_the_job_up() {
    let place = Place::new("stuck");
    let script = "i=0; while [ $i -lt 60000 ]; do echo 01234567890123456789012345678901234567890123456789; i=$((i+1)); done; : > done; sleep 60";
    place.ok(["run", "-d", "-n", "j", "--", "sh", "-c", script]);
    let mut brant = place.brant(["attach", "j"]);
    let mut stuck = brant.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    eventually("the program gets through", 30, || place.work().join("done").exists());
    assert_eq!(place.job("j")["state"], "running");
    stuck.kill().unwrap();
    stuck.wait().unwrap();
    assert_ne!(state_of(place.pid_of("j")), None);
}
