//! A checkpoint, killed: the program runs on; with --stop it runs on or is gone as a whole, and then its image is safe.

use std::process::Child;

use brant_testkit::{Outcome, Sandbox, Who, wait_until};

use crate::kills::{Kill, Operation};
use crate::witness::{Witness, beat, expect_whole_images, forget};

/// How long a tree may take to go on or be gone after brant was killed.
const SETTLE_TIMEOUT_S: u64 = 90;

/// `brant checkpoint`, the program left running.
pub(crate) struct LeaveRunning {
    pub(crate) sandbox: Sandbox,
    pub(crate) witness: Witness,
}

impl LeaveRunning {
    pub(crate) fn new() -> LeaveRunning {
        let sandbox = folder_for_images();
        let witness = Witness::start(&sandbox);
        LeaveRunning { sandbox, witness }
    }
}

impl Operation for LeaveRunning {
    const NAME: &'static str = "killed in a checkpoint";

    fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    fn start(&mut self, kill: &Kill) -> (Child, u32) {
        let (target, image) = (self.witness.target(), image(&self.sandbox));
        // Every fourth replaces an earlier image.
        let force = (kill.dice.is_multiple_of(4)).then_some("--force");
        let usual = ["checkpoint", &target, "-o", &image];
        if force.is_none() {
            let _ = std::fs::remove_file(self.sandbox.path("images/x"));
        }
        self.sandbox.spawn_brant(&usual.into_iter().chain(force).collect::<Vec<_>>())
    }

    fn judge(&mut self, _kill: &Kill, _outcome: &Outcome) {
        self.witness.expect_unharmed(&self.sandbox);
        expect_whole_images(&self.sandbox, &self.sandbox.path("images"), &["x"]);
    }
}

/// `brant checkpoint --stop`.
pub(crate) struct Stop {
    pub(crate) sandbox: Sandbox,
    pub(crate) witness: Witness,
    /// How often the program was gone, and came back from its image.
    pub(crate) brought_back: u32,
}

impl Stop {
    pub(crate) fn new() -> Stop {
        let sandbox = folder_for_images();
        let witness = Witness::start(&sandbox);
        Stop { sandbox, witness, brought_back: 0 }
    }

    /// Nothing of the program is there any more: its image must be, and must bring it back.
    fn bring_back(&mut self) {
        let image = image(&self.sandbox);
        assert!(self.sandbox.path("images/x").exists(), "neither a program nor an image");
        self.brought_back += 1;
        let name = format!("law{}", self.brought_back);
        let restored = self.sandbox.brant(&["restore", "-d", "-n", &name, &image]);
        assert_eq!(restored.code, 0, "{}", restored.stderr);
        self.witness = Witness::job(&self.sandbox, &name).expect("a restored program is a job");
    }
}

impl Operation for Stop {
    const NAME: &'static str = "killed in a checkpoint that stops";

    fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    fn start(&mut self, _kill: &Kill) -> (Child, u32) {
        forget(&self.sandbox);
        let _ = std::fs::remove_file(self.sandbox.path("images/x"));
        let (target, image) = (self.witness.target(), image(&self.sandbox));
        self.sandbox.spawn_brant(&["checkpoint", &target, "--stop", "-o", &image])
    }

    fn judge(&mut self, _kill: &Kill, _outcome: &Outcome) {
        let before = beat(&self.sandbox);
        // One of its own threads may be at a beat while the tree ends: only two beats are a sign of life.
        wait_until(SETTLE_TIMEOUT_S, || {
            self.witness.has_ended() && self.sandbox.leftovers().is_empty()
                || beat(&self.sandbox) >= before + 2
                || self.sandbox.path("f.result").exists()
        });
        expect_whole_images(&self.sandbox, &self.sandbox.path("images"), &["x"]);
        let result = self.sandbox.text("f.result");
        assert!(result.is_empty(), "{result}");
        if self.witness.has_ended() && self.sandbox.leftovers().is_empty() {
            self.bring_back();
        }
        self.witness.expect_unharmed(&self.sandbox);
    }
}

fn folder_for_images() -> Sandbox {
    let sandbox = Sandbox::new(Who::Plain);
    sandbox.make_folder("images");
    sandbox
}

fn image(sandbox: &Sandbox) -> String {
    sandbox.path("images/x").to_str().expect("test paths are UTF-8").to_owned()
}
