//! A folder of its own for one test, with a user, processes, limits on every wait, and the search for leftovers.
//!
//! Every process started here has `BRANT_TEST=FOLDER` in its environment and runs a brant whose path lies in the
//! folder, so that what a test left behind can be told from everything else on the machine. Fixtures end by themselves
//! when no test touches `f.alive` any more: a test that is broken off leaves no program that spins for ever.

use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once, Weak};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ability::{SYSTEM_PATH, Who};
use crate::program::{Program, brant_binary, faulty_brant_binary, fixture_binary};

/// Closes what the test's own starter left open: a program under test must not inherit ends of foreign pipes.
const ONLY_STANDARD_DESCRIPTORS: &str =
    r#"for path in /proc/self/fd/*; do fd=${path##*/}; ((fd > 2)) && eval "exec $fd>&-"; done; exec "$@""#;

/// How long a brant command may take before the test gives up on it.
const COMMAND_TIMEOUT_S: u64 = 180;
/// How long a fixture may take to set up, or to verify itself.
const READY_TIMEOUT_S: u64 = 60;
/// How long processes may take to go away once the program has ended.
const LEFTOVER_TIMEOUT_S: u64 = 20;

/// What a finished command said.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The exit code; 128 and the signal's number for a death by signal.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A program that runs in a sandbox. Killed on drop if it still runs.
#[derive(Debug)]
pub struct Started {
    child: Child,
}

/// A folder, a user, and what runs there.
#[derive(Debug)]
pub struct Sandbox {
    root: PathBuf,
    who: Who,
    commands: Cell<u32>,
    /// As long as it lives, fixtures are told that their test does.
    _life: Arc<()>,
}

impl Sandbox {
    /// A fresh folder that belongs to `who`.
    pub fn new(who: Who) -> Sandbox {
        Sandbox::with_brant(who, &brant_binary())
    }

    /// A fresh folder whose brant has fault points.
    pub fn with_faults(who: Who) -> Sandbox {
        Sandbox::with_brant(who, &faulty_brant_binary())
    }

    fn with_brant(who: Who, brant: &Path) -> Sandbox {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static SESSION: Once = Once::new();
        SESSION.call_once(found_visible_session);
        let root = loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let root = std::env::temp_dir().join(format!("bt-{}-{number}", std::process::id()));
            match std::fs::create_dir(&root) {
                Ok(()) => break root,
                // A test that was killed has left it, and its number is used again.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("the temporary folder is not writable: {error}"),
            }
        };
        let life = Arc::new(());
        let sandbox = Sandbox { root, who, commands: Cell::new(0), _life: Arc::clone(&life) };
        sandbox.own(&sandbox.root, 0o755);
        sandbox.write("f.alive", "");
        tell_of_life(Arc::downgrade(&life), sandbox.path("f.alive"));
        for folder in ["home", "state", "run"] {
            sandbox.make_folder(folder);
        }
        place(brant, &sandbox.path("brant"));
        sandbox
    }

    /// A path in the sandbox.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Makes a folder that the sandbox's user owns, closed to others.
    pub fn make_folder(&self, name: &str) {
        let path = self.path(name);
        std::fs::create_dir(&path).expect("the sandbox is writable");
        self.own(&path, 0o700);
    }

    /// The text of a file in the sandbox; empty if there is none.
    pub fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.path(name)).unwrap_or_default()).into_owned()
    }

    /// Writes a file that the sandbox's user owns.
    pub fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        std::fs::write(&path, content).expect("the sandbox is writable");
        self.own(&path, 0o755);
    }

    /// A command that runs here as the sandbox's user, with a clean environment and stdin from /dev/null.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut words = self.who.prefix();
        words.push(program.as_ref().to_str().expect("test paths are UTF-8").to_owned());
        let mut command = self.bare_command(&words[0]);
        command.args(&words[1..]);
        command
    }

    /// As [`Sandbox::command`], as the test's own user.
    pub(crate) fn bare_command(&self, program: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-c", ONLY_STANDARD_DESCRIPTORS, "bash", program]);
        command.env_clear().current_dir(&self.root).stdin(Stdio::null());
        command.env("PATH", SYSTEM_PATH);
        command.env("HOME", self.path("home")).env("LANG", "C.UTF-8").env("TERM", "xterm");
        command.env("XDG_STATE_HOME", self.path("state")).env("XDG_RUNTIME_DIR", self.path("run"));
        command.env("BRANT_TEST", &self.root);
        command
    }

    /// Starts a fixture; its base path is `f` in the sandbox, its output goes to the files `out` and `err`.
    pub fn start(&self, program: &Program) -> Started {
        let binary = self.place_fixture(program);
        let mut command = self.command(&binary);
        command.arg(self.path("f")).args(&program.args);
        self.launch(command, program.has_own_session)
    }

    /// Puts a fixture's executable into the sandbox and gives its path.
    pub fn place_fixture(&self, program: &Program) -> PathBuf {
        let binary = self.path(program.fixture);
        if !binary.exists() {
            place(&fixture_binary(program.fixture, program.is_static), &binary);
        }
        binary
    }

    /// Starts any command of [`Sandbox::command`] with its output in the files `out` and `err`.
    pub fn launch(&self, mut command: Command, has_own_session: bool) -> Started {
        command.stdout(self.output("out")).stderr(self.output("err"));
        if has_own_session {
            let mut outer = Command::new("setsid");
            outer.arg(command.get_program()).args(command.get_args()).env_clear().current_dir(&self.root);
            outer.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
            outer.stdin(Stdio::null()).stdout(self.output("out")).stderr(self.output("err"));
            command = outer;
        } else {
            command.process_group(0);
        }
        Started::spawn(&mut command)
    }

    /// Runs brant to its end with one fault (`NAME=ACTION`, see `brant_base::fault`). Also tells whether the fault was
    /// made.
    pub fn brant_with_fault(&self, fault: &str, args: &[&str]) -> (Outcome, bool) {
        let (mut command, number) = self.faulty_brant(fault, args);
        let outcome = self.finish_brant(&mut command, number, args);
        (outcome, !self.text("faults").is_empty())
    }

    /// As [`Sandbox::spawn_brant`] with one fault; the file `faults` has its name once it is made.
    pub fn spawn_brant_with_fault(&self, fault: &str, args: &[&str]) -> (Child, u32) {
        let (mut command, number) = self.faulty_brant(fault, args);
        (command.spawn().expect("brant starts"), number)
    }

    fn faulty_brant(&self, fault: &str, args: &[&str]) -> (Command, u32) {
        let log = self.path("faults");
        let _ = std::fs::remove_file(&log);
        let (mut command, number) = self.prepared_brant(args);
        command.env("BRANT_FAULT", fault).env("BRANT_FAULT_LOG", &log);
        (command, number)
    }

    /// Runs brant to its end.
    pub fn brant(&self, args: &[&str]) -> Outcome {
        let (mut command, number) = self.prepared_brant(args);
        self.finish_brant(&mut command, number, args)
    }

    fn finish_brant(&self, command: &mut Command, number: u32, args: &[&str]) -> Outcome {
        let mut child = command.spawn().expect("brant starts");
        let status = wait_child(&mut child, COMMAND_TIMEOUT_S).unwrap_or_else(|| {
            panic!("brant {args:?} did not end; stderr: {}", self.text(&format!("brant-{number}.err")))
        });
        self.outcome(number, status)
    }

    /// Starts brant without waiting for it; the number tells its output files apart (see [`Sandbox::outcome`]).
    ///
    /// Its output goes to files, not pipes: a job's keeper may hold them open for long.
    pub fn spawn_brant(&self, args: &[&str]) -> (Child, u32) {
        let (mut command, number) = self.prepared_brant(args);
        (command.spawn().expect("brant starts"), number)
    }

    fn prepared_brant(&self, args: &[&str]) -> (Command, u32) {
        let mut command = self.command(self.path("brant"));
        command.args(args);
        self.direct(command)
    }

    /// Runs a command that is brant in another place, to its end.
    pub(crate) fn finish(&self, command: Command, args: &[&str]) -> Outcome {
        let (mut command, number) = self.direct(command);
        self.finish_brant(&mut command, number, args)
    }

    /// Output to numbered files.
    fn direct(&self, mut command: Command) -> (Command, u32) {
        let number = self.commands.get();
        self.commands.set(number + 1);
        command
            .stdout(self.output(&format!("brant-{number}.out")))
            .stderr(self.output(&format!("brant-{number}.err")));
        (command, number)
    }

    /// What the brant command of that number said.
    pub fn outcome(&self, number: u32, status: std::process::ExitStatus) -> Outcome {
        Outcome {
            code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: self.text(&format!("brant-{number}.out")),
            stderr: self.text(&format!("brant-{number}.err")),
        }
    }

    /// Processes that this test left behind: `PID NAME`, without zombies.
    pub fn leftovers(&self) -> Vec<(i32, String)> {
        // One that forks or executes something meanwhile is missed by a look: nothing is what two say.
        const BETWEEN_LOOKS: Duration = Duration::from_millis(5);
        let found = self.look();
        if !found.is_empty() {
            return found;
        }
        std::thread::sleep(BETWEEN_LOOKS);
        self.look()
    }

    fn look(&self) -> Vec<(i32, String)> {
        let mark = self.root.to_str().expect("test paths are UTF-8");
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("/proc is mounted").flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            if pid == std::process::id() as i32 || !is_marked(&entry.path(), mark) {
                continue;
            }
            let comm = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.push((pid, comm.trim().to_owned()));
        }
        found
    }

    /// Fails the test if anything of it still runs a while later, or is mounted.
    pub fn expect_no_leftovers(&self) {
        wait_until(LEFTOVER_TIMEOUT_S, || self.leftovers().is_empty());
        let left = self.leftovers();
        assert!(left.is_empty(), "left behind: {left:?}");
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
        let mark = self.root.to_str().expect("test paths are UTF-8");
        assert!(!mounts.contains(mark), "a mount was left behind");
    }

    fn output(&self, name: &str) -> File {
        let path = self.path(name);
        let file = File::options()
            .create(true)
            .append(true)
            .read(true)
            .open(&path)
            .expect("the sandbox is writable");
        self.own(&path, 0o644);
        file
    }

    /// The sandbox's user: uid and gid.
    pub(crate) fn owner(&self) -> (u32, u32) {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = std::fs::metadata(self.path("home")).expect("every sandbox has one");
        (metadata.uid(), metadata.gid())
    }

    fn own(&self, path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("the sandbox is ours");
        if let Some((uid, gid)) = self.who.owner() {
            chown(path, Some(uid), Some(gid)).expect("root may give a file away");
        }
    }
}

/// The usual course of a test with a fixture: it gets ready, is written down, and finds itself whole afterwards.
impl Sandbox {
    /// As [`Sandbox::start`], and waits until the fixture has set up. Forgets what an earlier one said.
    pub fn start_ready(&self, program: &Program) -> Started {
        for name in ["f.ready", "f.result", "f.beat", "f.go"] {
            let _ = std::fs::remove_file(self.path(name));
        }
        let started = self.start(program);
        let is_ready = wait_until(READY_TIMEOUT_S, || self.path("f.ready").exists());
        assert!(is_ready, "{} did not get ready: {}", program.fixture, self.text("f.result"));
        started
    }

    /// A checkpoint that ends the program; gives the image's path.
    pub fn stop(&self, program: &mut Started, flags: &[&str]) -> String {
        let image = self.path("x.img").to_str().expect("test paths are UTF-8").to_owned();
        let pid = program.pid().to_string();
        let args = [&["checkpoint", &pid, "--stop", "--force", "-o", &image], flags].concat();
        self.brant(&args).expect(0);
        assert!(program.wait(LEFTOVER_TIMEOUT_S).is_some(), "it was not ended");
        image
    }

    /// Lets the fixture that was restored go on to its end and verify itself.
    pub fn finish_fixture(&self) {
        self.write("f.go", "go");
        assert!(
            wait_until(READY_TIMEOUT_S, || self.path("f.result").exists()),
            "no result: {:?}",
            self.leftovers()
        );
        assert!(
            wait_until(LEFTOVER_TIMEOUT_S, || self.text("f.result") == "ok"),
            "{}",
            self.text("f.result")
        );
        self.expect_no_leftovers();
    }
}

impl Outcome {
    /// Fails the test, with what was said, unless this was the exit code.
    #[track_caller]
    pub fn expect(&self, code: i32) -> &Outcome {
        assert_eq!(self.code, code, "stdout: {} stderr: {}", self.stdout, self.stderr);
        self
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for (pid, _) in self.leftovers() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if std::thread::panicking() && std::env::var_os("BRANT_KEEP").is_some() {
            eprintln!("kept: {}", self.root.display());
            return;
        }
        if wait_until(5, || self.leftovers().is_empty()) {
            let _ = std::fs::remove_dir_all(&self.root);
        }
    }
}

impl Started {
    /// A command of the test's own. Its output goes where the command says.
    pub fn spawn(command: &mut Command) -> Started {
        Started { child: command.spawn().expect("the program starts") }
    }

    /// Its process id, as the host sees it.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// The exit code (128 and the signal for a death by signal) if it has ended.
    pub fn ended(&mut self) -> Option<i32> {
        let status = self.child.try_wait().expect("our own child can be waited for")?;
        Some(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
    }

    /// Waits for its end.
    pub fn wait(&mut self, timeout_s: u64) -> Option<i32> {
        let mut code = None;
        wait_until(timeout_s, || {
            code = self.ended();
            code.is_some()
        });
        code
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        // A child that something still traces cannot be waited for: no wait without a limit.
        self.wait(10);
    }
}

/// Touches `file` every second until the sandbox is gone.
fn tell_of_life(life: Weak<()>, file: PathBuf) {
    std::thread::spawn(move || {
        while life.strong_count() > 0 {
            let opened = File::options().write(true).open(&file);
            let _ = opened.and_then(|file| file.set_modified(SystemTime::now()));
            std::thread::sleep(Duration::from_secs(1));
        }
    });
}

/// Polls `condition` until it holds or the time is over; tells whether it held.
///
/// What a stretch between two polls has over a second does not count: then the machine stood still, and what is waited
/// for with it.
pub fn wait_until(timeout_s: u64, mut condition: impl FnMut() -> bool) -> bool {
    const STRETCH_MAX: Duration = Duration::from_secs(1);
    let mut left = Duration::from_secs(timeout_s);
    let mut polled_at = Instant::now();
    while !condition() {
        if left.is_zero() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
        let now = Instant::now();
        left = left.saturating_sub((now - polled_at).min(STRETCH_MAX));
        polled_at = now;
    }
    true
}

/// Waits for a child; kills it when the time is over.
fn wait_child(child: &mut Child, timeout_s: u64) -> Option<std::process::ExitStatus> {
    let mut status = None;
    wait_until(timeout_s, || {
        status = child.try_wait().expect("our own child can be waited for");
        status.is_some()
    });
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    status
}

/// Whether a live process belongs to the sandbox whose path is `mark`.
fn is_marked(proc: &Path, mark: &str) -> bool {
    let Ok(stat) = std::fs::read_to_string(proc.join("stat")) else { return false };
    if stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X'])) {
        return false;
    }
    let with_slash = format!("{mark}/");
    let exe = std::fs::read_link(proc.join("exe")).unwrap_or_default();
    if exe.to_string_lossy().starts_with(&with_slash) {
        return true;
    }
    let environment = std::fs::read(proc.join("environ")).unwrap_or_default();
    let wanted = format!("BRANT_TEST={mark}");
    environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
}

/// Puts an executable at `to`: a hard link, or a copy where that cannot be. Another process copies: a descriptor that
/// writes to it, inherited by whatever another test forks at this moment, would keep it from being executed.
pub(crate) fn place(from: &Path, to: &Path) {
    if std::fs::hard_link(from, to).is_err() {
        let copied = Command::new("cp").arg(from).arg(to).status().expect("cp is there");
        assert!(copied.success(), "{} cannot be copied", from.display());
    }
    let _ = std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o755));
}

/// Gives the tests a session with a number where theirs has none: its leader may be outside of this pid namespace.
///
/// Programs see such a session as 0, and as the number of a stand-in once they are restored.
fn found_visible_session() {
    if nix::unistd::getsid(None).is_ok_and(|session| session.as_raw() == 0) {
        // Refused to the leader of a group; the tests of numbers then say what they see.
        let _ = nix::unistd::setsid();
    }
}
