//! Moves between two "hosts" of one machine: two homes of one user behind a stand-in for ssh, and two users behind a
//! real sshd. Whatever fails, one copy runs or can be resumed, and `ps` says how.
#![forbid(unsafe_code)]

use std::process::Command;
use std::time::{Duration, Instant};

use brant_base::fault::POINTS;
use brant_testkit::{
    Outcome, Program, Sandbox, Started, Who, have_command, is_full, is_root, skip, wait_until,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// For a program to show signs of life, in seconds.
const LIFE_TIMEOUT_S: u64 = 60;
/// At each end.
const KILLS_SHORT: u32 = 40;
const KILLS_FULL: u32 = 300;

/// Runs its second argument in a shell of another home, after the chatter of a login.
const STAND_IN: &str = r#"#!/bin/sh
shift
echo "Welcome to the other host"
export HOME=@/far XDG_STATE_HOME=@/far/state XDG_RUNTIME_DIR=@/far/run
exec /bin/sh -c "$*"
"#;

struct Hosts {
    sandbox: Sandbox,
    /// The stand-in for ssh, and brant at the other end.
    rsh: String,
    far_brant: String,
}

impl Hosts {
    fn new(sandbox: Sandbox) -> Hosts {
        let text = |name: &str| sandbox.path(name).to_str().expect("test paths are UTF-8").to_owned();
        let (rsh, far_brant) = (text("rsh"), text("brant"));
        sandbox.write("rsh", &STAND_IN.replace('@', text("").trim_end_matches('/')));
        let made = sandbox.command("mkdir").args(["-m", "700", "far", "far/state", "far/run"]).status();
        assert!(made.expect("mkdir starts").success());
        Hosts { sandbox, rsh, far_brant }
    }

    fn migrate_words<'a>(&'a self, target: &'a str) -> Vec<&'a str> {
        vec!["migrate", target, "elsewhere", "-e", &self.rsh, "--remote-path", &self.far_brant]
    }

    /// brant at the other end.
    fn far(&self, args: &[&str]) -> Outcome {
        let mut command = self.sandbox.command(&self.rsh);
        let words: Vec<String> = args.iter().map(|word| format!("'{word}'")).collect();
        let output = command.arg("elsewhere").arg(format!("{} {}", self.far_brant, words.join(" "))).output();
        let output = output.expect("the stand-in starts");
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        Outcome {
            code: output.status.code().unwrap_or(-1),
            stdout: stdout.split_once('\n').map_or(String::new(), |(_chatter, rest)| rest.to_owned()),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn begin(&self, fixture: &'static str) -> Started {
        for name in ["f.ready", "f.result", "f.beat", "f.go"] {
            let _ = std::fs::remove_file(self.sandbox.path(name));
        }
        let started = self.sandbox.start(&Program::fixture(fixture));
        let is_ready = wait_until(LIFE_TIMEOUT_S, || self.sandbox.path("f.ready").exists());
        assert!(is_ready, "{fixture} did not start: {}", self.sandbox.text("f.result"));
        started
    }

    /// The restored program finds itself whole.
    fn expect_good_end(&self, when: &str) {
        self.sandbox.write("f.go", "go");
        let ended = wait_until(LIFE_TIMEOUT_S, || self.sandbox.path("f.result").exists());
        assert!(ended, "{when}: the program says nothing: {:?}", self.sandbox.leftovers());
        assert_eq!(self.sandbox.text("f.result"), "ok", "{when}");
    }

    fn listed(&self, outcome: &Outcome, list: &str) -> Vec<serde_json::Value> {
        let said: serde_json::Value = serde_json::from_str(&outcome.stdout)
            .unwrap_or_else(|error| panic!("{error}: {} {}", outcome.stdout, outcome.stderr));
        said[list].as_array().cloned().unwrap_or_default()
    }

    /// One copy runs or can be resumed by what `ps` names. Tidies up; the program is here, or was brought to its end.
    fn expect_one_copy(&self, program: &mut Started, when: &str) -> bool {
        // Keepers have other names, placeholders no command line.
        assert!(
            wait_until(LIFE_TIMEOUT_S, || self.at_work("").is_none()),
            "{when}: brant still works: {:?}",
            self.sandbox.leftovers()
        );
        // What was told to end has ended, or nothing was told.
        wait_until(1, || program.ended().is_some() || self.beat() > 0);
        let is_here = program.ended().is_none();
        let (near, far) = (self.sandbox.brant(&["ps", "--json"]), self.far(&["ps", "--json"]));
        let is_there = !self.listed(&far, "jobs").is_empty();
        let (out, held) = (self.listed(&near, "handed_out"), self.listed(&far, "held"));
        let told = format!("{when}: here {is_here}, there {is_there}; {out:?}; {held:?}");
        assert!(!(is_here && is_there), "two copies, {told}");
        let of = |record: &serde_json::Value, key: &str| record[key].as_str().unwrap_or_default().to_owned();
        if is_here {
            if let Some(record) = held.first() {
                let refused = self.far(&["restore", "-d", &of(record, "image")]);
                assert_ne!(refused.code, 0, "a copy that may be a second one was let go, {told}");
            }
            assert!(out.iter().all(|record| of(record, "whereabouts") == "here"), "{told}");
            let before = self.beat();
            let moves = wait_until(LIFE_TIMEOUT_S, || self.beat() >= before + 2);
            assert!(moves && !self.sandbox.path("f.result").exists(), "harmed, {told}");
        } else {
            if !is_there {
                let record = out.first().unwrap_or_else(|| panic!("no copy and no word of it, {told}"));
                let resumed = if held.is_empty() {
                    self.sandbox.brant(&["restore", "-d", &of(record, "path")])
                } else {
                    self.far(&["restore", "-d", "--take-over", &of(record, "image")])
                };
                assert_eq!(resumed.code, 0, "{}, {told}", resumed.stderr);
            }
            self.expect_good_end(&told);
        }
        for record in &out {
            self.sandbox.brant(&["image", "rm", &of(record, "image")]);
        }
        for record in &held {
            self.far(&["image", "rm", &of(record, "image")]);
        }
        if !is_here {
            self.sandbox.expect_no_leftovers();
        }
        is_here
    }

    fn beat(&self) -> u64 {
        self.sandbox.text("f.beat").trim().parse().unwrap_or(0)
    }

    /// A brant that works at one end (`migrate`, `receive`) or at either.
    fn at_work(&self, end: &str) -> Option<i32> {
        let works = |(pid, name): (i32, String)| {
            let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let is_meant =
                ["receive", "migrate"].iter().any(|verb| verb.contains(end) && words.contains(verb));
            (name == "brant" && is_meant).then_some(pid)
        };
        self.sandbox.leftovers().into_iter().filter_map(works).min()
    }

    /// Kills one end at random instants of many moves.
    fn kill_often(&self, end: &str, seed: u64) {
        let kills = if is_full() { KILLS_FULL } else { KILLS_SHORT };
        let mut state = seed;
        let mut random = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let mut program = self.begin("busy");
        let begun = Instant::now();
        let whole = self.sandbox.brant(&self.migrate_words(&program.pid().to_string()));
        let span_us = begun.elapsed().as_micros() as u64 * 11 / 10;
        assert_eq!(whole.code, 0, "{}", whole.stderr);
        let (mut here, mut gone) = (self.expect_one_copy(&mut program, "a whole move"), 0);
        for number in 1..=kills {
            if !here {
                program = self.begin("busy");
            }
            let after_us = random(span_us);
            let (mut brant, _) = self.sandbox.spawn_brant(&self.migrate_words(&program.pid().to_string()));
            std::thread::sleep(Duration::from_micros(after_us));
            match end {
                "migrate" => drop(brant.kill()),
                end => {
                    if let Some(pid) = self.at_work(end) {
                        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                    }
                }
            }
            let _ = brant.wait();
            here = self.expect_one_copy(&mut program, &format!("kill {number} of {end}, {after_us} us"));
            gone += u32::from(!here);
        }
        eprintln!(
            "{kills} kills of {end}: {gone} programs were moved or resumed, the others ran on; none harmed"
        );
        if here {
            self.expect_good_end("at last");
            assert_eq!(program.wait(LIFE_TIMEOUT_S), Some(0));
        }
        self.sandbox.expect_no_leftovers();
    }
}

#[test]
fn the_source_is_killed_at_random_instants() {
    Hosts::new(Sandbox::new(Who::Plain)).kill_often("migrate", 0x6272_616e_7411);
}

#[test]
fn the_destination_is_killed_at_random_instants() {
    Hosts::new(Sandbox::new(Who::Plain)).kill_often("receive", 0x6272_616e_7412);
}

#[test]
fn a_program_goes_on_at_the_other_end() {
    let hosts = Hosts::new(Sandbox::new(Who::Plain));
    for fixture in ["busy", "tree", "threads"] {
        let mut program = hosts.begin(fixture);
        let target = program.pid().to_string();
        let dry = hosts.sandbox.brant(&[&hosts.migrate_words(&target)[..], &["--dry-run"]].concat());
        assert_eq!(dry.code, 0, "{fixture}: {}", dry.stderr);
        assert_eq!(program.ended(), None, "{fixture}: a dry run ended it");
        let moved = hosts.sandbox.brant(&[&hosts.migrate_words(&target)[..], &["--json"]].concat());
        assert_eq!(moved.code, 0, "{fixture}: {}", moved.stderr);
        assert!(program.wait(LIFE_TIMEOUT_S).is_some(), "{fixture} runs on here");
        assert_eq!(hosts.listed(&hosts.far(&["ps", "--json"]), "jobs").len(), 1, "{fixture}");
        hosts.expect_good_end(fixture);
        hosts.sandbox.expect_no_leftovers();
        for images in [hosts.sandbox.brant(&["image", "ls"]), hosts.far(&["image", "ls"])] {
            assert!(images.stdout.lines().count() <= 1, "{fixture} left an image: {}", images.stdout);
        }
    }
}

#[test]
fn either_end_stops_at_any_point() {
    let hosts = Hosts::new(Sandbox::with_faults(Who::Plain));
    let is_ours = |point: &&&str| point.starts_with("migrate.") || point.starts_with("receive.");
    for point in POINTS.iter().filter(is_ours) {
        let mut program = hosts.begin("busy");
        let target = program.pid().to_string();
        let fault = format!("{point}=kill");
        let attempt = || hosts.sandbox.brant_with_fault(&fault, &hosts.migrate_words(&target));
        let (mut outcome, mut made) = attempt();
        // Under load a child of `busy` that is about to end can refuse to be traced (exit code 4): the program runs on, and
        // the next attempt is as good.
        for _ in 0..3 {
            if !made && outcome.code == 4 {
                (outcome, made) = attempt();
            }
        }
        assert!(made, "{fault} was not reached: {}", outcome.stderr);
        if hosts.expect_one_copy(&mut program, &fault) {
            hosts.expect_good_end(&fault);
            assert_eq!(program.wait(LIFE_TIMEOUT_S), Some(0), "{fault}");
            hosts.sandbox.expect_no_leftovers();
        }
    }
}

#[test]
fn what_is_refused_there_is_told_before_anything_ends() {
    let hosts = Hosts::new(Sandbox::new(Who::Plain));
    let mut program = hosts.begin("busy");
    let target = program.pid().to_string();
    let elsewhere = format!("{}=/nowhere", hosts.sandbox.path("busy").display());
    for how in [&["--dry-run"][..], &[]] {
        let args = [&hosts.migrate_words(&target)[..], &["--map-path", &elsewhere], how].concat();
        let refused = hosts.sandbox.brant(&args);
        assert_eq!(refused.code, 5, "{}{}", refused.stdout, refused.stderr);
        assert!(format!("{}{}", refused.stdout, refused.stderr).contains("/nowhere"), "{}", refused.stderr);
        assert_eq!(program.ended(), None, "the program ended");
    }
    hosts.sandbox.write("rsh", "#!/bin/sh\nhead -c 300000 /dev/zero\n");
    let hostile = hosts.sandbox.brant(&hosts.migrate_words(&target));
    assert_eq!(hostile.code, 7, "{}", hostile.stderr);
    hosts.sandbox.write("rsh", "#!/bin/sh\nexit 127\n");
    let missing = hosts.sandbox.brant(&["migrate", &target, "elsewhere", "-e", &hosts.rsh]);
    assert_eq!(missing.code, 7, "{}", missing.stderr);
    hosts.sandbox.write("f.go", "go");
    assert_eq!(program.wait(LIFE_TIMEOUT_S), Some(0));
    hosts.sandbox.expect_no_leftovers();
}

const OTHER_USER: &str = "brant-far";

/// From one user's account into another's, whose uid differs, over a real sshd.
#[test]
fn into_another_account_over_ssh() {
    if !is_root() {
        return skip("root");
    }
    if !have_command("sshd") || !have_command("ssh-keygen") {
        return skip("command: sshd");
    }
    let sandbox = Sandbox::new(Who::Plain);
    let text = |name: &str| sandbox.path(name).to_str().expect("test paths are UTF-8").to_owned();
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().expect("it starts");
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    // It may be there from another time.
    let _ = Command::new("useradd").args(["--create-home", "--shell", "/bin/sh", OTHER_USER]).output();
    run("usermod", &["--password", "*", OTHER_USER]);
    let generated =
        sandbox.command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", "key"]).status();
    assert!(generated.expect("ssh-keygen starts").success());
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &text("hostkey")]);
    let probe = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback is up");
    let port = probe.local_addr().expect("it is bound").port();
    drop(probe);
    let settings = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nPidFile none\nUsePAM no\nStrictModes no\nAuthorizedKeysFile {}\n",
        text("hostkey"),
        text("key.pub")
    );
    std::fs::write(sandbox.path("sshd.conf"), settings).expect("the sandbox is writable");
    let _ = std::fs::create_dir("/run/sshd");
    let mut daemon =
        Command::new("/usr/sbin/sshd").args(["-D", "-f", &text("sshd.conf")]).spawn().expect("sshd");
    assert!(
        wait_until(20, || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()),
        "sshd does not listen"
    );

    let ssh = format!(
        "ssh -p {port} -i {} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o BatchMode=yes",
        text("key")
    );
    let far = |line: &str| {
        let mut command = sandbox.command("ssh");
        command.args(ssh.split(' ').skip(1)).arg(format!("{OTHER_USER}@127.0.0.1")).arg(line);
        let output = command.output().expect("ssh starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let name = format!("over-{}", std::process::id());
    let count = "import time\ni=0\nwhile True:\n    i+=1\n    print(i,flush=True)\n    time.sleep(.05)\n";
    let started = sandbox.brant(&["run", "-d", "-n", &name, "--", "/usr/bin/python3", "-c", count]);
    assert_eq!(started.code, 0, "{}", started.stderr);
    assert!(wait_until(LIFE_TIMEOUT_S, || sandbox.brant(&["logs", &name]).stdout.lines().count() > 3));
    let brant = text("brant");
    let words = ["migrate", &name, &format!("{OTHER_USER}@127.0.0.1"), "-e", &ssh, "--remote-path", &brant];
    let moved = sandbox.brant(&words);
    let last_here: u64 =
        sandbox.brant(&["logs", &name]).stdout.lines().last().map_or(0, |n| n.parse().unwrap_or(0));
    let log = || far(&format!("{brant} logs {name}"));
    let goes_on = wait_until(LIFE_TIMEOUT_S, || log().lines().count() > 3);
    let (first_there, owner) = (
        log(),
        far(&format!(
            "ps -o user= -p $({brant} ps --json | tr ',{{' '\\n\\n' | sed -n 's/^ *\"pid\": *//p')"
        )),
    );
    far(&format!("{brant} kill {name}"));
    let _ = daemon.kill();
    let _ = daemon.wait();
    assert_eq!(moved.code, 0, "{}", moved.stderr);
    assert!(goes_on, "it says nothing there: {first_there}");
    let first: u64 = first_there.lines().next().map_or(0, |n| n.parse().unwrap_or(0));
    assert_eq!(first, last_here + 1, "lines were lost or said twice");
    assert!(owner.trim().starts_with("brant-f"), "it runs as {owner}");
    sandbox.expect_no_leftovers();
}
