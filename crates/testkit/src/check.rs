//! The one driver of end-to-end tests: a program, the actions done to it, and what must hold afterwards.

use std::time::{Duration, Instant};

use crate::ability::Who;
use crate::program::Program;
use crate::sandbox::{Sandbox, Started, wait_until};

const READY_TIMEOUT_S: u64 = 60;
const RESULT_TIMEOUT_S: u64 = 120;
/// For how long a tree does not exist between its stop and its return.
const PAUSE_MS: u64 = 400;

/// One thing done to a program under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `brant checkpoint`, the program runs on.
    Checkpoint,
    /// `brant checkpoint --stop`, and then nothing of the program is left.
    CheckpointStop,
    /// Some time during which the program does not exist.
    Pause,
    /// `brant restore -d` of the newest image.
    RestoreDetached,
    /// `brant restore` of the newest image, with brant as the program's parent.
    RestoreForeground,
    /// `brant image verify` of the newest image.
    VerifyImage,
}

/// Ready-made lists of actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Never touched.
    Control,
    /// Checkpointed, and left running.
    LeftRunning,
    /// Stopped, brought back detached.
    Restored,
    /// Stopped, brought back with brant in the foreground.
    RestoredForeground,
    /// Stopped and brought back twice.
    RestoredTwice,
}

impl Mode {
    /// What is done to the program.
    pub fn actions(self) -> &'static [Action] {
        use Action::{Checkpoint, CheckpointStop, Pause, RestoreDetached, RestoreForeground, VerifyImage};
        match self {
            Mode::Control => &[],
            Mode::LeftRunning => &[Checkpoint, VerifyImage],
            Mode::Restored => &[CheckpointStop, Pause, RestoreDetached],
            Mode::RestoredForeground => &[CheckpointStop, Pause, RestoreForeground],
            Mode::RestoredTwice => &[CheckpointStop, Pause, RestoreDetached, CheckpointStop, RestoreDetached],
        }
    }
}

/// How a fixture ended.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The text of its result file.
    pub result: String,
    /// Its exit code, where the test or a foreground brant was its parent at the end.
    pub code: Option<i32>,
    /// All that brant wrote to stderr.
    pub stderr: String,
}

impl Verdict {
    /// The usual demand: the fixture found everything as it should be.
    pub fn expect_ok(self) {
        assert_eq!(self.result, "ok", "the program found a change; brant said: {}", self.stderr);
        assert!(matches!(self.code, None | Some(0)), "exit code {:?}", self.code);
    }
}

/// Starts `program` as `who`, does `actions` to it, lets it verify itself, and hands the verdict to `verify`.
///
/// Fails if a brant command fails, a wait is over its limit, or anything is left behind.
pub fn check(program: &Program, who: Who, actions: &[Action], verify: impl FnOnce(Verdict)) {
    let sandbox = Sandbox::new(who);
    let mut run = Run::begin(&sandbox, program);
    for action in actions {
        run.perform(*action);
    }
    verify(run.finish());
    sandbox.expect_no_leftovers();
}

/// Demands that `check` and `checkpoint` refuse the program with exit code 3, naming each of `words` at once, that no
/// image appears, and that the program runs on unharmed. With `or_carried`, a checkpoint that succeeds is as good,
/// if the program then survives the whole way.
pub fn refused(program: &Program, words: &[&str], or_carried: bool) {
    let sandbox = Sandbox::new(Who::Plain);
    let mut run = Run::begin(&sandbox, program);
    if run.is_skipped() {
        crate::skip(sandbox.text("f.skip").trim_start_matches("skip: "));
        return;
    }
    let pid = run.target();
    let checked = sandbox.brant(&["check", &pid]);
    if checked.code == 0 && or_carried {
        for action in Mode::Restored.actions() {
            run.perform(*action);
        }
    } else {
        let image = sandbox.path("refused.img");
        let image_text = image.to_str().expect("test paths are UTF-8").to_owned();
        let refused = sandbox.brant(&["checkpoint", &pid, "--stop", "-o", &image_text]);
        for outcome in [&checked, &refused] {
            assert_eq!(outcome.code, 3, "exit code; stderr: {}{}", outcome.stdout, outcome.stderr);
            let said = format!("{}{}", outcome.stdout, outcome.stderr).to_lowercase();
            for word in words {
                assert!(said.contains(&word.to_lowercase()), "{word:?} is not named in: {said}");
            }
        }
        assert!(!image.exists(), "a refused checkpoint left an image");
    }
    run.finish().expect_ok();
    sandbox.expect_no_leftovers();
}

/// A test in progress.
struct Run<'a> {
    sandbox: &'a Sandbox,
    /// The program while it is the test's own child.
    program: Option<Started>,
    /// The `brant restore` that is its parent.
    foreground: Option<(std::process::Child, u32)>,
    /// Where the tree is found now: a host pid.
    target: String,
    images: u32,
    paused: Duration,
    stopped_at: Option<Instant>,
    stderr: String,
}

impl<'a> Run<'a> {
    fn begin(sandbox: &'a Sandbox, program: &Program) -> Run<'a> {
        let mut started = sandbox.start(program);
        let mut code = None;
        wait_until(READY_TIMEOUT_S, || {
            code = started.ended();
            code.is_some() || sandbox.path("f.ready").exists() || sandbox.path("f.result").exists()
        });
        let is_set_up = sandbox.path("f.ready").exists() || sandbox.path("f.skip").exists();
        assert!(is_set_up, "{} did not get ready ({code:?}): {}", program.fixture, sandbox.text("f.result"));
        let target = started.pid().to_string();
        let (paused, stopped_at) = (Duration::ZERO, None);
        Run {
            sandbox,
            program: Some(started),
            foreground: None,
            target,
            images: 0,
            paused,
            stopped_at,
            stderr: String::new(),
        }
    }

    fn is_skipped(&self) -> bool {
        self.sandbox.path("f.skip").exists()
    }

    fn target(&self) -> String {
        self.target.clone()
    }

    fn image(&self) -> String {
        self.sandbox.path(&format!("{}.img", self.images)).to_str().expect("test paths are UTF-8").to_owned()
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Checkpoint => self.checkpoint(&[]),
            Action::CheckpointStop => {
                self.checkpoint(&["--stop"]);
                if let Some(mut program) = self.program.take() {
                    assert!(program.wait(20).is_some(), "--stop left the program running");
                }
                self.stopped_at = Some(Instant::now());
            }
            Action::Pause => std::thread::sleep(Duration::from_millis(PAUSE_MS)),
            Action::RestoreDetached => {
                self.count_pause();
                let file = self.sandbox.path("pid");
                let _ = std::fs::remove_file(&file);
                self.run(&["restore", &self.image(), "-d", "--pid-file", file.to_str().expect("UTF-8")]);
                self.target = self.sandbox.text("pid").trim().to_owned();
                assert!(!self.target.is_empty(), "restore wrote no pid file");
            }
            Action::RestoreForeground => {
                self.count_pause();
                self.foreground = Some(self.sandbox.spawn_brant(&["restore", &self.image()]));
            }
            Action::VerifyImage => self.run(&["image", "verify", &self.image()]),
        }
    }

    fn checkpoint(&mut self, options: &[&str]) {
        self.images += 1;
        let (target, image) = (self.target.clone(), self.image());
        let mut args = vec!["checkpoint", &target, "-o", &image];
        args.extend(options);
        self.run(&args);
        assert!(self.sandbox.path(&format!("{}.img", self.images)).exists(), "checkpoint left no image");
    }

    fn count_pause(&mut self) {
        self.paused += self.stopped_at.take().map_or(Duration::ZERO, |at| at.elapsed());
    }

    fn run(&mut self, args: &[&str]) {
        let outcome = self.sandbox.brant(args);
        self.stderr.push_str(&outcome.stderr);
        assert_eq!(outcome.code, 0, "brant {}: {}{}", args.join(" "), outcome.stdout, outcome.stderr);
    }

    /// Tells the program to go on and waits for what it says.
    fn finish(mut self) -> Verdict {
        self.sandbox.write("f.go", &format!("go paused_ms={}", self.paused.as_millis()));
        let mut code = None;
        wait_until(RESULT_TIMEOUT_S, || {
            code = code.or_else(|| self.program.as_mut().and_then(Started::ended));
            code.is_some() || self.sandbox.path("f.result").exists()
        });
        if let Some(program) = &mut self.program {
            code = code.or_else(|| program.wait(20));
            assert!(code.is_some(), "the program wrote its result and did not end");
        }
        if let Some((mut child, number)) = self.foreground.take() {
            let mut status = None;
            wait_until(20, || {
                status = child.try_wait().expect("our own child can be waited for");
                status.is_some()
            });
            let _ = child.kill();
            let status = status.or_else(|| child.wait().ok()).expect("a killed child can be waited for");
            let outcome = self.sandbox.outcome(number, status);
            self.stderr.push_str(&outcome.stderr);
            code = Some(outcome.code);
        }
        let result = match self.sandbox.text("f.result") {
            text if text.is_empty() => format!("no result (exit code {code:?}); {}", self.describe()),
            text => text,
        };
        Verdict { result, code, stderr: std::mem::take(&mut self.stderr) }
    }

    /// What a failure's message needs: who is left, and in what state.
    fn describe(&self) -> String {
        let mut text = format!("stderr of the program: {}", self.sandbox.text("err"));
        for (pid, name) in self.sandbox.leftovers() {
            let read =
                |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let status = read("status");
            let state = status.lines().find(|line| line.starts_with("State:")).unwrap_or_default().to_owned();
            text.push_str(&format!("; {pid} {name} {state} in {} {}", read("wchan"), read("syscall").trim()));
        }
        text
    }
}
