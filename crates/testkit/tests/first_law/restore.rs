//! A restore, killed: nothing of the program is there, or all of it runs.

use std::process::Child;

use brant_testkit::{Outcome, Program, Sandbox, Who, wait_until};

use crate::kills::{Kill, Operation};
use crate::witness::{ARGUMENTS, Witness, beat, expect_swept, expect_whole_images, forget, states};

/// How long a killed restore may take to go away, or its program to show that it lives.
const SETTLE_TIMEOUT_S: u64 = 90;
const NAME: &str = "law";

/// `brant restore` in the foreground or with -d, of a program that goes on or ends by itself soon.
pub(crate) struct Restore<const DETACHED: bool> {
    sandbox: Sandbox,
    fails: bool,
    /// It has no beat: only its end tells that it ran.
    always_ends: bool,
}

impl<const DETACHED: bool> Restore<DETACHED> {
    pub(crate) fn new() -> Self {
        Restore { always_ends: !DETACHED, ..Restore::of("busy", ARGUMENTS) }
    }

    /// Of any program that can be carried.
    pub(crate) fn of(fixture: &'static str, args: &[&str]) -> Self {
        let sandbox = Sandbox::new(Who::Plain);
        sandbox.make_folder("images");
        let program = Program::fixture(fixture).with_args(args);
        let mut witness = Witness::start_in(&sandbox, &program, |_| {});
        let stopped = sandbox.brant(&["checkpoint", &witness.target(), "--stop", "-o", &image(&sandbox)]);
        assert_eq!(stopped.code, 0, "{}", stopped.stderr);
        assert!(wait_until(20, || witness.has_ended()), "--stop left the program running");
        Restore { sandbox, fails: false, always_ends: true }
    }

    /// It is to say that it cannot bring the program back.
    pub(crate) fn expect_failure(&mut self) {
        self.fails = true;
    }
}

impl<const DETACHED: bool> Operation for Restore<DETACHED> {
    const NAME: &'static str =
        if DETACHED { "killed in a restore" } else { "killed in a foreground restore" };

    fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    fn codes(&self) -> &[i32] {
        if self.fails { &[1, 125] } else { &[0] }
    }

    fn start(&mut self, kill: &Kill) -> (Child, u32) {
        forget(&self.sandbox);
        self.sandbox.write("f.beat", "0\n");
        if ends_by_itself(kill) || self.always_ends {
            self.sandbox.write("f.go", "go");
        }
        let image = image(&self.sandbox);
        let usual = ["restore", "-n", NAME, "--files", "keep", &image];
        self.sandbox.spawn_brant(&usual.into_iter().chain(DETACHED.then_some("-d")).collect::<Vec<_>>())
    }

    fn victims(&self, brant: i32, kill: &Kill) -> Vec<i32> {
        // Whoever builds, keeps or waits, and what is being built; a program that runs has another name.
        let is_ours = |name: &str| name.starts_with("brant");
        let others =
            || self.sandbox.leftovers().into_iter().filter(|(_, name)| is_ours(name)).map(|(pid, _)| pid);
        match kill.dice % 4 {
            // All at once, or one of them.
            0 => others().chain([brant]).collect(),
            1 => others().nth((kill.dice >> 8) as usize % 4).map_or(vec![brant], |pid| vec![pid]),
            _ => vec![brant],
        }
    }

    fn judge(&mut self, _kill: &Kill, _outcome: &Outcome) {
        assert!(!self.fails || beat(&self.sandbox) == 0, "the program runs");
        expect_nothing_or_whole(&self.sandbox);
        expect_whole_images(&self.sandbox, &self.sandbox.path("images"), &["x"]);
    }
}

/// Whether the program finds its word to go on at once, and so ends within the operation.
pub(crate) fn ends_by_itself(kill: &Kill) -> bool {
    kill.dice >> 16 & 1 == 1
}

/// Either nothing was started, or the job [`NAME`] is there and comes to its good end.
pub(crate) fn expect_nothing_or_whole(sandbox: &Sandbox) {
    let has_settled = wait_until(SETTLE_TIMEOUT_S, || {
        sandbox.leftovers().is_empty() || beat(sandbox) > 0 || sandbox.path("f.result").exists()
    });
    assert!(has_settled, "something is left that is no program\n{}", states(sandbox));
    let lives = || beat(sandbox) > 0 || sandbox.path("f.result").exists();
    if !sandbox.leftovers().is_empty() && lives() && !sandbox.path("f.go").exists() {
        match Witness::job(sandbox, NAME) {
            Some(mut witness) => witness.expect_unharmed(sandbox),
            // Its keeper was killed after its first beat, and it goes with it.
            None => drop(wait_until(SETTLE_TIMEOUT_S, || sandbox.leftovers().is_empty())),
        }
    }
    sandbox.write("f.go", "go");
    let has_ended = wait_until(SETTLE_TIMEOUT_S, || sandbox.leftovers().is_empty());
    assert!(has_ended, "it does not end\n{}", states(sandbox));
    let result = sandbox.text("f.result");
    assert!(result.is_empty() || result == "ok", "{result}");
    sandbox.expect_no_leftovers();
    expect_swept(sandbox);
}

fn image(sandbox: &Sandbox) -> String {
    sandbox.path("images/x").to_str().expect("test paths are UTF-8").to_owned()
}
