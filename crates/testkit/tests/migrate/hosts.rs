//! Two "hosts" of one machine: two homes of one user, and a stand-in for ssh between them.

use brant_testkit::{Outcome, Program, Sandbox, Started, wait_until};

/// For a program to show signs of life, in seconds.
pub(crate) const LIFE_TIMEOUT_S: u64 = 60;

/// Runs its second argument in a shell of another home, after the chatter of a login.
const STAND_IN: &str = r#"#!/bin/sh
shift
echo "Welcome to the other host"
export HOME=@/far XDG_STATE_HOME=@/far/state XDG_RUNTIME_DIR=@/far/run
exec /bin/sh -c "$*"
"#;

/// As the stand-in, with processes of its own that carry the bytes. It ends when and as what it ran, as ssh does: also where
/// the one that carries the bytes there still waits for some.
pub(crate) const RELAY: &str = r#"#!/bin/bash
shift
echo "Welcome to the other host"
export HOME=@/far XDG_STATE_HOME=@/far/state XDG_RUNTIME_DIR=@/far/run
exec 3<&0
/bin/sh -c "$*" < <(exec cat <&3 3<&-) > >(exec cat 3<&-) 3<&-
exit $?
"#;

pub(crate) struct Hosts {
    pub(crate) sandbox: Sandbox,
    /// The stand-in for ssh, and brant at the other end.
    pub(crate) rsh: String,
    pub(crate) far_brant: String,
}

impl Hosts {
    pub(crate) fn new(sandbox: Sandbox) -> Hosts {
        let text = |name: &str| sandbox.path(name).to_str().expect("test paths are UTF-8").to_owned();
        let (rsh, far_brant) = (text("rsh"), text("brant"));
        sandbox.write("rsh", &STAND_IN.replace('@', text("").trim_end_matches('/')));
        let made = sandbox.command("mkdir").args(["-m", "700", "far", "far/state", "far/run"]).status();
        assert!(made.expect("mkdir starts").success());
        Hosts { sandbox, rsh, far_brant }
    }

    /// The same two with another stand-in for ssh.
    pub(crate) fn with_stand_in(self, script: &str) -> Hosts {
        self.sandbox.write(
            "rsh",
            &script.replace('@', self.sandbox.path("").to_string_lossy().trim_end_matches('/')),
        );
        self
    }

    pub(crate) fn migrate_words<'a>(&'a self, target: &'a str) -> Vec<&'a str> {
        vec!["migrate", target, "elsewhere", "-e", &self.rsh, "--remote-path", &self.far_brant]
    }

    /// brant at the other end.
    pub(crate) fn far(&self, args: &[&str]) -> Outcome {
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

    pub(crate) fn begin(&self, fixture: &'static str) -> Started {
        self.sandbox.start_ready(&Program::fixture(fixture))
    }

    /// A busy program that leaves room for others and bears that a killed capture may end a call of its with EINTR, as
    /// Ctrl-Z does (docs/decisions/0002).
    pub(crate) fn begin_beside_kills(&self) -> Started {
        self.sandbox.start_ready(&Program::fixture("busy").with_args(&["1", "1000", "killed"]))
    }

    /// The restored program finds itself whole.
    pub(crate) fn expect_good_end(&self, when: &str) {
        self.sandbox.write("f.go", "go");
        let ended = wait_until(LIFE_TIMEOUT_S, || self.sandbox.path("f.result").exists());
        assert!(ended, "{when}: the program says nothing: {:?}", self.sandbox.leftovers());
        assert_eq!(self.sandbox.text("f.result"), "ok", "{when}");
    }

    pub(crate) fn listed(&self, outcome: &Outcome, list: &str) -> Vec<serde_json::Value> {
        let said: serde_json::Value = serde_json::from_str(&outcome.stdout)
            .unwrap_or_else(|error| panic!("{error}: {} {}", outcome.stdout, outcome.stderr));
        said[list].as_array().cloned().unwrap_or_default()
    }

    /// One copy runs or can be resumed by what `ps` names. Tidies up; the program is here, or was brought to its end.
    pub(crate) fn expect_one_copy(&self, program: &mut Started, when: &str) -> bool {
        // Keepers have other names, placeholders no command line.
        assert!(
            wait_until(LIFE_TIMEOUT_S, || self.at_work("").is_none()),
            "{when}: brant still works: {:?}",
            self.sandbox.leftovers()
        );
        // What was told to end has ended, or nothing was told: two more beats are a sign of that, one may be the last.
        let before = self.beat();
        wait_until(LIFE_TIMEOUT_S, || program.ended().is_some() || self.beat() >= before + 2);
        let is_here = program.ended().is_none();
        let mut far = self.far(&["ps", "--json"]);
        // What was built there and never let go ends with its connection; that may be under way yet.
        let starts = |far: &Outcome| self.listed(far, "jobs").iter().any(|job| job["state"] == "starting");
        wait_until(LIFE_TIMEOUT_S, || {
            let is_settled = !starts(&far) && (!is_here || self.listed(&far, "jobs").is_empty());
            if !is_settled {
                far = self.far(&["ps", "--json"]);
            }
            is_settled
        });
        let near = self.sandbox.brant(&["ps", "--json"]);
        let jobs = self.listed(&far, "jobs");
        let is_there = !jobs.is_empty();
        let (out, held) = (self.listed(&near, "handed_out"), self.listed(&far, "held"));
        let told = format!("{when}: here {is_here}, there {jobs:?}; {out:?}; {held:?}");
        assert!(!(is_here && is_there), "two copies, {told}");
        let of = |record: &serde_json::Value, key: &str| record[key].as_str().unwrap_or_default().to_owned();
        if is_here {
            if let Some(record) = held.first() {
                // The program goes on writing to its files, which is to be no reason.
                let refused = self.far(&["restore", "-d", "--files", "keep", &of(record, "image")]);
                assert_ne!(refused.code, 0, "a copy that may be a second one was let go, {told}");
                assert!(refused.stderr.contains("B-0910"), "{}, {told}", refused.stderr);
            }
            assert!(out.iter().all(|record| of(record, "whereabouts") == "here"), "{told}");
            let before = self.beat();
            let moves = wait_until(LIFE_TIMEOUT_S, || self.beat() >= before + 2);
            let result = self.sandbox.text("f.result");
            let left = self.sandbox.leftovers();
            assert!(moves && result.is_empty(), "harmed, moves {moves}, {result:?}, {left:?}, {told}");
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

    /// What carries the bytes, where the stand-in is [`RELAY`].
    pub(crate) fn transport(&self) -> Vec<i32> {
        let carries = |(pid, name): (i32, String)| {
            let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            (name == "cat" || words.contains(&self.rsh)).then_some(pid).filter(|_| name != "brant")
        };
        self.sandbox.leftovers().into_iter().filter_map(carries).collect()
    }

    pub(crate) fn beat(&self) -> u64 {
        self.sandbox.text("f.beat").trim().parse().unwrap_or(0)
    }

    /// A brant that works at one end (`migrate`, `receive`) or at either.
    pub(crate) fn at_work(&self, end: &str) -> Option<i32> {
        let works = |(pid, name): (i32, String)| {
            let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let is_meant =
                ["receive", "migrate"].iter().any(|verb| verb.contains(end) && words.contains(verb));
            (name == "brant" && is_meant).then_some(pid)
        };
        self.sandbox.leftovers().into_iter().filter_map(works).min()
    }
}
