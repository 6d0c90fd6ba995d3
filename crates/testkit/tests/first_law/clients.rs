//! Clients of a job, killed: a foreground `run` and an `attach`. The job does not notice.

use std::process::Child;

use brant_testkit::{Outcome, Program, Sandbox, Who, wait_until};

use crate::kills::{Kill, Operation};
use crate::restore::{ends_by_itself, expect_nothing_or_whole};
use crate::witness::{ARGUMENTS, Witness, beat, forget};

const NAME: &str = "law";

/// `brant run` in the foreground: the program starts, runs, and ends by itself.
pub(crate) struct Run {
    sandbox: Sandbox,
    fails: bool,
}

impl Run {
    pub(crate) fn new() -> Run {
        Run { sandbox: Sandbox::new(Who::Plain), fails: false }
    }

    /// It is to say that it cannot start the program.
    pub(crate) fn expect_failure(&mut self) {
        self.fails = true;
    }
}

impl Operation for Run {
    const NAME: &'static str = "killed in a foreground run";

    fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    fn codes(&self) -> &[i32] {
        if self.fails { &[125] } else { &[0] }
    }

    fn start(&mut self, kill: &Kill) -> (Child, u32) {
        forget(&self.sandbox);
        let _ = std::fs::remove_file(self.sandbox.path("f.beat"));
        self.sandbox.write("f.go", "go");
        // Every second has a terminal of its own.
        let how: &[&str] = if ends_by_itself(kill) { &["-t"] } else { &[] };
        let command = command(&self.sandbox);
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        self.sandbox.spawn_brant(&[&["run", "-n", NAME], how, &["--"], &words].concat())
    }

    fn judge(&mut self, _kill: &Kill, outcome: &Outcome) {
        expect_nothing_or_whole(&self.sandbox);
        if self.fails {
            assert!(!self.sandbox.path("f.ready").exists(), "the program began");
            return;
        }
        let is_done = self.sandbox.text("f.result") == "ok";
        assert!(outcome.code == 137 || outcome.code == 0 && is_done, "{outcome:?}");
        let began = self.sandbox.path("f.ready").exists();
        assert!(is_done || !began, "the program began, and neither runs nor came to its end");
    }
}

/// `brant attach` to a job with a terminal or with a log, which speaks all the time.
pub(crate) struct Attach {
    pub(crate) sandbox: Sandbox,
    pub(crate) witness: Witness,
    /// The keeper's descriptors after the first client.
    descriptors: Option<usize>,
}

impl Attach {
    pub(crate) fn new(how: &[&str]) -> Attach {
        Attach::in_sandbox(Sandbox::new(Who::Plain), how)
    }

    pub(crate) fn in_sandbox(sandbox: Sandbox, how: &[&str]) -> Attach {
        let command = command(&sandbox);
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let run = sandbox.brant(&[&["run", "-n", NAME, "-d"], how, &["--"], &words, &["aloud"]].concat());
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert!(
            wait_until(60, || beat(&sandbox) > 0),
            "the program did not start: {}",
            sandbox.text("f.result")
        );
        let witness = Witness::job(&sandbox, NAME).expect("it is a job");
        Attach { sandbox, witness, descriptors: None }
    }
}

impl Operation for Attach {
    const NAME: &'static str = "killed in an attach";

    fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    fn start(&mut self, _kill: &Kill) -> (Child, u32) {
        self.sandbox.spawn_brant(&["attach", NAME])
    }

    /// It would last as long as the program: what is measured is the time until it hears it.
    fn is_over(&mut self, _brant: &mut Child, number: u32) -> bool {
        self.sandbox.text(&format!("brant-{number}.out")).lines().count() >= 3
    }

    fn judge(&mut self, _kill: &Kill, outcome: &Outcome) {
        assert_eq!(outcome.code, 137, "{}", outcome.stderr);
        self.witness.expect_unharmed(&self.sandbox);
        let open =
            || std::fs::read_dir(format!("/proc/{}/fd", self.witness.keeper())).map_or(0, Iterator::count);
        let usual = *self.descriptors.get_or_insert_with(open);
        assert!(wait_until(20, || open() <= usual), "the keeper holds {} descriptors, not {usual}", open());
    }
}

/// The fixture and its arguments.
fn command(sandbox: &Sandbox) -> Vec<String> {
    let text = |path: std::path::PathBuf| path.to_str().expect("test paths are UTF-8").to_owned();
    let mut words = vec![text(sandbox.place_fixture(&Program::fixture("busy"))), text(sandbox.path("f"))];
    words.extend(ARGUMENTS.iter().map(|word| (*word).to_owned()));
    words
}
