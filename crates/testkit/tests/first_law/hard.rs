//! A checkpoint, killed, beside programs that are hard to stop and under conditions that leave little room. Each verifies
//! itself at its end.

use std::path::{Path, PathBuf};
use std::process::Child;

use brant_testkit::{Outcome, Program, Sandbox, Who};

use crate::cgroup::Group;
use crate::kills::{Kill, Operation};
use crate::witness::{ARGUMENTS, Witness, expect_whole_images};

/// In nested handlers, deep in their stack, at its very end, on stacks of their own, under storms of signals and of
/// children, in vfork, with hundreds of threads.
pub(crate) const PROGRAMS: &[(&str, &[&str])] = &[
    ("in_handler", &[]),
    ("onstack", &[]),
    ("deep_stack", &[]),
    ("stack_sliver", &[]),
    ("coroutines", &[]),
    ("itimer_storm", &[]),
    ("fork_storm", &[]),
    ("vfork", &[]),
    ("futex_storm", &["20000"]),
];

/// Options of prlimit(1) that leave a program little more than it has. `AS` stands for its address space: with no byte more a
/// checkpoint is refused. Of what is more, every kill within a remote call takes a few pages that stay mapped
/// (`brant_kernel::remote`), and there are hundreds of kills; the rest is for what the program itself maps.
pub(crate) const LIMITS: &[(&str, &str)] = &[
    ("busy", "--as=AS+16777216:"),
    ("in_handler", "--as=AS:"),
    ("busy", "--data=AS:"),
    ("busy", "--nofile=4:"),
    ("busy", "--fsize=4096:"),
    ("busy", "--stack=8192:"),
    ("busy", "--memlock=0:"),
    ("in_handler", "--sigpending=0:"),
    ("onstack", "--nproc=0:"),
];

/// A checkpoint of one program.
pub(crate) struct Hard {
    pub(crate) sandbox: Sandbox,
    pub(crate) witness: Witness,
    has_beat: bool,
    /// Where the image goes.
    image: PathBuf,
    /// How a checkpoint may end that is not killed.
    codes: &'static [i32],
    /// Removed after the program has ended.
    group: Option<Group>,
    brant_joins: bool,
}

impl Hard {
    pub(crate) fn new(fixture: &'static str, args: &[&str]) -> Hard {
        Hard::with(fixture, args, |_| {})
    }

    /// Has `prepare` do something to the program's first process as soon as that exists.
    pub(crate) fn with(fixture: &'static str, args: &[&str], prepare: impl FnOnce(i32)) -> Hard {
        let sandbox = Sandbox::new(Who::Plain);
        sandbox.make_folder("images");
        let has_beat = fixture == "busy";
        let program = Program::fixture(fixture).with_args(if has_beat { ARGUMENTS } else { args });
        let witness = Witness::start_in(&sandbox, &program, prepare);
        // A child of vfork has its parent's memory: a checkpoint waits for it in vain now and then, and says so.
        let codes: &[i32] = if fixture == "vfork" { &[0, 3] } else { &[0] };
        let image = sandbox.path("images/x");
        Hard { sandbox, witness, has_beat, image, codes, group: None, brant_joins: false }
    }

    pub(crate) fn limited(fixture: &'static str, option: &str) -> Hard {
        let mut hard = Hard::new(fixture, &[]);
        let pid = hard.witness.target();
        if option == "--as=AS:" {
            hard.codes = &[3];
        }
        let option = match option.split_once("AS") {
            None => option.to_owned(),
            Some((name, more)) => {
                let more = more.trim_end_matches(':').trim_start_matches('+').parse().unwrap_or(0);
                format!("{name}{}:", address_space_bytes(&pid) + more)
            }
        };
        hard.set_limit(&option);
        hard
    }

    /// By the program's own user: not every root may do it.
    fn set_limit(&self, option: &str) {
        let set = self.sandbox.command("prlimit").args(["--pid", &self.witness.target(), option]).status();
        assert!(set.is_ok_and(|status| status.success()), "prlimit {option}");
    }

    /// As the checkpoint goes to a disk that is full, it fails when it is not killed before.
    pub(crate) fn with_image_on(mut self, folder: &Path) -> Hard {
        (self.image, self.codes) = (folder.join("x"), &[7]);
        self
    }

    /// The program is in this group; `brant_joins`: brant shall be, too.
    pub(crate) fn in_group(mut self, group: Group, brant_joins: bool) -> Hard {
        (self.group, self.brant_joins) = (Some(group), brant_joins);
        self
    }

    /// Lets the program verify itself. Limits that its last words need are lifted.
    pub(crate) fn finish(mut self) {
        self.set_limit("--nofile=64:");
        self.witness.finish(&self.sandbox);
    }
}

impl Operation for Hard {
    const NAME: &'static str = "killed beside hard programs";

    fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    fn codes(&self) -> &[i32] {
        self.codes
    }

    fn start(&mut self, _kill: &Kill) -> (Child, u32) {
        let _ = std::fs::remove_file(&self.image);
        let image = self.image.to_str().expect("test paths are UTF-8").to_owned();
        let started = self.sandbox.spawn_brant(&["checkpoint", &self.witness.target(), "-o", &image]);
        if let Some(group) = self.group.as_ref().filter(|_| self.brant_joins) {
            group.add(started.0.id() as i32);
        }
        started
    }

    fn judge(&mut self, _kill: &Kill, _outcome: &Outcome) {
        match self.has_beat {
            true => self.witness.expect_unharmed(&self.sandbox),
            false => self.witness.expect_in_order(&self.sandbox),
        }
        let folder = self.image.parent().expect("an image lies in a folder");
        expect_whole_images(&self.sandbox, folder, if self.codes == [7] { &[] } else { &["x"] });
    }
}

fn address_space_bytes(pid: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).expect("a program has memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("it is a number") << 10
}
