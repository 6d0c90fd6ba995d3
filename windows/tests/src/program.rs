//! Programs under Wine.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Folder, user};

/// No command takes longer, on a machine that has a lot to do.
const LIMIT_S: &str = "120";
/// No program that a test drives runs longer.
const RUNNING_LIMIT_S: &str = "300";
/// How long it is waited for what a program prints.
const WAIT_LIMIT: Duration = Duration::from_secs(100);
const POLL: Duration = Duration::from_millis(20);

/// A prefix, and where brant.exe is.
#[derive(Debug)]
pub struct Wine {
    prefix: PathBuf,
    bin: PathBuf,
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    /// The low eight bits.
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    /// The output of a command that succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }
}

impl Wine {
    /// The prefix of this Windows version: win10, win7, winxp64.
    pub fn new(version: &str) -> Wine {
        let of = |name: &str| {
            PathBuf::from(
                std::env::var_os(name)
                    .unwrap_or_else(|| panic!("{name} is not set: cargo xtask windows sets it")),
            )
        };
        Wine { prefix: of("BRANT_WINE").join(version), bin: of("BRANT_WINDOWS_BIN") }
    }

    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// Where brant.exe and its libraries are.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// A command under Wine that is ended when it takes too long.
    pub fn command(&self, program: &Path) -> Command {
        self.limited(program, LIMIT_S)
    }

    fn limited(&self, program: &Path, limit_s: &str) -> Command {
        let mut command = user::command("timeout");
        command.args(["-k", "5", limit_s, "wine"]).arg(program);
        self.in_prefix(&mut command);
        command
    }

    /// A command under Wine whose process is the program itself: `timeout` would end before what it started.
    pub fn direct(&self, program: &Path) -> Command {
        let mut command = user::command("wine");
        command.arg(program);
        self.in_prefix(&mut command);
        command
    }

    /// A script of bash that calls Wine by itself, with a limit.
    pub fn script(&self, script: &str, limit_s: &str) -> Command {
        let mut command = user::command("timeout");
        command.args(["-k", "5", limit_s, "bash", script]);
        self.in_prefix(&mut command);
        command
    }

    fn in_prefix(&self, command: &mut Command) {
        command.env("WINEPREFIX", &self.prefix).env("WINEDEBUG", "-all").env_remove("DISPLAY");
        command.stdin(Stdio::null());
    }

    /// Runs `brant.exe` to its end.
    pub fn brant<A: AsRef<OsStr>>(&self, folder: &Folder, arguments: &[A]) -> Said {
        let mut command = self.command(&self.bin.join("brant.exe"));
        said(command.args(arguments).current_dir(folder.path()), "")
    }

    /// The same with something to read.
    pub fn brant_with<A: AsRef<OsStr>>(&self, folder: &Folder, arguments: &[A], input: &str) -> Said {
        let mut command = self.command(&self.bin.join("brant.exe"));
        said(command.args(arguments).current_dir(folder.path()), input)
    }

    /// Runs a program to its end.
    pub fn run<A: AsRef<OsStr>>(
        &self,
        folder: &Folder,
        program: &Path,
        arguments: &[A],
        input: &str,
    ) -> Said {
        said(self.command(program).args(arguments).current_dir(folder.path()), input)
    }

    /// Starts a program that says `pid NUMBER` first, and waits until it has.
    pub fn start<A: AsRef<OsStr>>(&self, folder: &Folder, program: &Path, arguments: &[A]) -> Running {
        let mut command = self.limited(program, RUNNING_LIMIT_S);
        Running::new(command.args(arguments).current_dir(folder.path()), folder)
    }

    /// The same by `brant.exe run --pid-file`, for a program that says nothing.
    pub fn start_unannounced<A: AsRef<OsStr>>(
        &self,
        folder: &Folder,
        arguments: &[A],
        pid_file: &str,
    ) -> Running {
        let mut command = self.limited(&self.bin.join("brant.exe"), RUNNING_LIMIT_S);
        Running::unannounced(command.args(arguments).current_dir(folder.path()), folder, pid_file)
    }

    /// The same by `brant.exe run`.
    pub fn start_by_brant<A: AsRef<OsStr>>(&self, folder: &Folder, arguments: &[A]) -> Running {
        let mut command = self.limited(&self.bin.join("brant.exe"), RUNNING_LIMIT_S);
        Running::new(command.args(arguments).current_dir(folder.path()), folder)
    }
}

fn said(command: &mut Command, input: &str) -> Said {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("wine");
    // A program that does not read is none of our concern.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("its end");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\r', "");
    Said { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
}

/// A program that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    input: Option<ChildStdin>,
    out: PathBuf,
    pid: u32,
}

impl Running {
    fn new(command: &mut Command, folder: &Folder) -> Running {
        let mut running = Running::spawn(command, folder);
        let first = running.wait_for("pid ");
        let number =
            first.lines().find_map(|line| line.split_once("pid ")).map(|(_, rest)| rest.trim().to_owned());
        running.pid = number.and_then(|number| number.split(' ').next()?.parse().ok()).expect("a number");
        running
    }

    /// One that does not say its number, which `brant.exe` writes to a file.
    fn unannounced(command: &mut Command, folder: &Folder, pid_file: &str) -> Running {
        let mut running = Running::spawn(command, folder);
        let begin = Instant::now();
        while running.pid == 0 {
            running.pid = folder.read(pid_file).trim().parse().unwrap_or(0);
            assert!(begin.elapsed() < WAIT_LIMIT, "no number in time: {}", running.output());
            std::thread::sleep(POLL);
        }
        running
    }

    fn spawn(command: &mut Command, folder: &Folder) -> Running {
        let out = folder.path().join("out.txt");
        let file = File::create(&out).expect("a file");
        command.stdin(Stdio::piped()).stdout(file.try_clone().expect("a file")).stderr(file);
        let mut child = command.spawn().expect("wine");
        let input = child.stdin.take();
        Running { child, input, out, pid: 0 }
    }

    /// Its number in Windows.
    pub fn pid(&self) -> String {
        self.pid.to_string()
    }

    /// What it has printed so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.out).unwrap_or_default()).replace('\r', "")
    }

    /// Waits until it has printed this in a whole line. All that it has printed.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        let begin = Instant::now();
        loop {
            let output = self.output();
            if output.split_inclusive('\n').any(|line| line.ends_with('\n') && line.contains(text)) {
                return output;
            }
            let is_over = self.child.try_wait().expect("its state").is_some();
            assert!(!is_over, "it ended without {text:?}: {output}{}", self.output());
            assert!(begin.elapsed() < WAIT_LIMIT, "no {text:?} in time: {output}");
            std::thread::sleep(POLL);
        }
    }

    /// Gives it a line to read.
    pub fn say(&mut self, line: &str) {
        let input = self.input.as_mut().expect("its input is open");
        input.write_all(format!("{line}\n").as_bytes()).and_then(|()| input.flush()).expect("it reads");
    }

    /// Closes its input and waits for its end. The low eight bits of its code, and all that it has printed.
    pub fn end(mut self) -> (i32, String) {
        drop(self.input.take());
        let status = self.child.wait().expect("its end");
        (status.code().unwrap_or(-1), self.output())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // `timeout` hands the signal on to what it started.
        if let Ok(None) = self.child.try_wait() {
            let _ = Command::new("kill").arg(self.child.id().to_string()).status();
            let _ = self.child.wait();
        }
    }
}
