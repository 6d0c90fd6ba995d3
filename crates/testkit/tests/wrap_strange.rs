//! Programs of which there are few, and which wrapping could harm: with an allocator of their own, without a main thread, with the
//! smallest stacks, with calls in calls, stopped, with a thread that cannot be, or with a library that has been replaced on disk.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use brant_testkit::{Outcome, Sandbox, Started, Who, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PROMPT_S: u64 = 60;

/// A program of `fixtures/connect/strange.c`.
struct Strange {
    sandbox: Sandbox,
    program: Started,
}

fn compile(sandbox: &Sandbox, sources: &[&str], name: &str, flags: &[&str]) -> PathBuf {
    let flags = [&["-fno-builtin"], flags].concat();
    sandbox.compile("cc", sources, name, &flags).expect("a compiler starts")
}

impl Strange {
    fn start(kind: &str, allocator: Option<&str>) -> Strange {
        let sandbox = Sandbox::new(Who::Plain);
        compile(&sandbox, &["connect/stress_library.c"], "libtick.so", &[]);
        compile(&sandbox, &["connect/stress_mediators.c"], "libcount.so", &[]);
        let (sources, flags): (&[&str], &[&str]) = match allocator {
            Some("program") => (&["connect/strange.c", "connect/allocator.c"], &["-ltick", "-rdynamic"]),
            _ => (&["connect/strange.c"], &["-ltick"]),
        };
        let program = compile(&sandbox, sources, "strange", flags);
        let mut command = sandbox.command(program);
        command.arg(sandbox.path("f")).arg(kind);
        if allocator == Some("library") {
            command.env("LD_PRELOAD", compile(&sandbox, &["connect/allocator.c"], "liballocator.so", &[]));
        }
        sandbox.write(
            "count.wrap",
            "wrapper count implementation \"libcount.so\"\n\
             wrap tick in libtick with my_tick sig \"void(long *)\"\n\
             wrap tick_within in libtick with my_tick_within sig \"void(long *, void *)\"\n",
        );
        let program = sandbox.launch(command, false);
        let strange = Strange { sandbox, program };
        strange.expect("bare", |state| state[0] > 3);
        strange
    }

    fn state(&self) -> Vec<i64> {
        let text = self.sandbox.text("f.state");
        text.split_whitespace().map_while(|word| word.parse().ok()).collect()
    }

    fn expect(&self, what: &str, wanted: impl Fn(&[i64]) -> bool) {
        let is_so = wait_until(PROMPT_S, || {
            let state = self.state();
            state.len() == 5 && wanted(&state)
        });
        assert!(is_so, "{what}: {:?} {}", self.state(), self.sandbox.text("err"));
    }

    /// It goes on, bare or mediated, and has lost no call.
    fn expect_more(&self, place: usize) {
        let before = self.state();
        self.expect("it goes on", |state| state[place] > before[place] + 2 && state[4] == 0);
    }

    fn brant(&self, verb: &str, what: &str) -> Outcome {
        self.sandbox.brant(&[verb, what, &self.program.pid().to_string()])
    }

    fn wrap(&self) -> Outcome {
        self.brant("wrap", self.sandbox.path("count.wrap").to_str().expect("test paths are UTF-8"))
    }

    /// So many rounds, each of which finds every call mediated, and then none.
    fn rounds(&mut self, rounds: u32) {
        for _ in 0..rounds {
            self.wrap().expect(0);
            self.expect_more(1);
            self.brant("unwrap", "count").expect(0);
            self.expect_more(2);
        }
        assert_eq!(self.program.ended(), None, "{}", self.sandbox.text("err"));
    }
}

/// A thread that holds a lock of its allocator must not be made to load a library, which allocates.
#[test]
fn allocators_of_other_libraries_are_not_interrupted() {
    Strange::start("allocating", Some("library")).rounds(20);
}

#[test]
fn an_allocator_in_the_program_itself_is_not_interrupted() {
    let mut strange = Strange::start("allocating", Some("program"));
    let outcome = strange.wrap();
    assert!(outcome.code != 0 && outcome.stderr.contains("B-1108"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("part of the program itself"), "{}", outcome.stderr);
    strange.expect_more(2);
    assert_eq!(strange.program.ended(), None, "{}", strange.sandbox.text("err"));
    // Where it waits for something, it is known to be elsewhere.
    Strange::start("waiting", Some("program")).rounds(3);
}

#[test]
fn a_program_without_a_main_thread_is_refused() {
    let strange = Strange::start("leaderless", None);
    let outcome = strange.wrap();
    assert!(outcome.code == 3 && outcome.stderr.contains("B-1104"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("main thread"), "{}", outcome.stderr);
    strange.expect_more(2);
}

#[test]
fn small_stacks_and_calls_in_calls_have_room() {
    Strange::start("tiny", None).rounds(3);
    Strange::start("deep", None).rounds(3);
}

/// A job that its shell has stopped is wrapped and stays stopped.
#[test]
fn a_stopped_program_is_wrapped_and_stays_stopped() {
    let mut strange = Strange::start("tiny", None);
    let pid = strange.program.pid();
    let is_stopped = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    };
    for (verb, what, place) in [("wrap", "count.wrap", 1), ("unwrap", "count", 2)] {
        kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("it is ours");
        assert!(wait_until(PROMPT_S, is_stopped));
        let path = strange.sandbox.path(what);
        let what = if place == 1 { path.to_str().expect("test paths are UTF-8") } else { what };
        strange.brant(verb, what).expect(0);
        assert!(wait_until(PROMPT_S, is_stopped), "it went on");
        kill(Pid::from_raw(pid), Signal::SIGCONT).expect("it is ours");
        strange.expect_more(place);
    }
    assert_eq!(strange.program.ended(), None, "{}", strange.sandbox.text("err"));
}

/// An upgrade puts another file in a library's place; the program has the old one.
#[test]
fn a_library_that_was_replaced_on_disk_is_wrapped() {
    let mut strange = Strange::start("tiny", None);
    std::fs::remove_file(strange.sandbox.path("libtick.so")).expect("it is ours");
    compile(&strange.sandbox, &["connect/stress_mediators.c"], "libtick.so", &[]);
    strange.rounds(2);
}

/// Neither does it stop, nor can it be let go, for longer than one try takes; as with a thread that gets no processor.
#[test]
fn a_program_that_does_not_stop_for_a_while_is_wrapped_then() {
    let sandbox = Sandbox::new(Who::Plain);
    let program = compile(&sandbox, &["connect/vforking.c"], "vforking", &[]);
    let program = sandbox.launch(sandbox.command(program), false);
    assert!(wait_until(PROMPT_S, || sandbox.text("out").contains("up")), "{}", sandbox.text("err"));
    let wrapper = format!("procs:out={}", sandbox.path("procs.txt").display());
    let pid = program.pid().to_string();
    // The child of vfork is found by its parent.
    let children = format!("/proc/{pid}/task/{pid}/children");
    let is_in_vfork = || std::fs::read_to_string(&children).is_ok_and(|children| !children.is_empty());
    assert!(wait_until(PROMPT_S, is_in_vfork));
    sandbox.brant(&["wrap", &wrapper, &pid]).expect(0);
    assert!(wait_until(PROMPT_S, || sandbox.text("out").contains("back")), "{}", sandbox.text("err"));
    sandbox.brant(&["unwrap", "procs", &pid]).expect(0);
}
