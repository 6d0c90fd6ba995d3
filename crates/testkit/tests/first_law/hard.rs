//! A checkpoint, killed, beside programs that are hard to stop: in nested handlers, deep in their stack, on stacks of their
//! own. Each verifies itself at its end.

use std::process::Child;

use brant_testkit::{Outcome, Program, Sandbox, Who};

use crate::kills::{Kill, Operation};
use crate::witness::{Witness, expect_whole_images};

pub(crate) const PROGRAMS: &[&str] = &["in_handler", "onstack", "deep_stack", "coroutines"];

pub(crate) struct Hard {
    pub(crate) sandbox: Sandbox,
    pub(crate) witness: Witness,
}

impl Hard {
    pub(crate) fn new(fixture: &'static str) -> Hard {
        let sandbox = Sandbox::new(Who::Plain);
        sandbox.make_folder("images");
        let witness = Witness::start_other(&sandbox, &Program::fixture(fixture));
        Hard { sandbox, witness }
    }
}

impl Operation for Hard {
    const NAME: &'static str = "killed beside hard programs";

    fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    fn start(&mut self, _kill: &Kill) -> (Child, u32) {
        let _ = std::fs::remove_file(self.sandbox.path("images/x"));
        let image = self.sandbox.path("images/x").to_str().expect("test paths are UTF-8").to_owned();
        self.sandbox.spawn_brant(&["checkpoint", &self.witness.target(), "-o", &image])
    }

    fn judge(&mut self, _kill: &Kill, _outcome: &Outcome) {
        self.witness.expect_in_order(&self.sandbox);
        expect_whole_images(&self.sandbox, "images", &["x"]);
    }
}
