//! What end-to-end tests share: a plain user, a folder of its own, and a brant that it can execute.
//!
//! Run by root, tests do their work as the user `tstu` (made where it is missing); run by anybody else, as
//! that user. Nothing here ever runs a tested program with privileges.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The user that root's tests run as.
const TEST_USER: &str = "tstu";

/// A folder that the plain user owns, with a runtime and a state folder of its own; removed at the end.
pub struct Place {
    folder: PathBuf,
    user: Option<User>,
}

struct User {
    uid: String,
    gid: String,
    home: String,
}

impl Place {
    /// A new place; `name` is for people who look at /tmp.
    pub fn new(name: &str) -> Place {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        static CLOSED: std::sync::Once = std::sync::Once::new();
        // Whoever runs the tests may hand down descriptors; a program under test would hold them as ends of strangers.
        CLOSED.call_once(|| brant_kernel::task::close_inherited().unwrap());
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("brant-test-{name}-{}-{count}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let user = is_root().then(test_user);
        for sub in ["", "run", "state", "config", "work", "bin"] {
            let path = folder.join(sub);
            fs::create_dir_all(&path).unwrap();
            let mode = if sub.is_empty() || sub == "bin" { 0o755 } else { 0o700 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            if let Some(user) = &user {
                let (uid, gid) = (user.uid.parse().unwrap(), user.gid.parse().unwrap());
                std::os::unix::fs::chown(&path, Some(uid), Some(gid)).unwrap();
            }
        }
        let brant = folder.join("bin/brant");
        // By another process: a descriptor that writes to the copy, inherited by whatever another test forks at this
        // moment, would keep it from being executed.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_brant")).arg(&brant).status().unwrap();
        assert!(copied.success());
        fs::set_permissions(&brant, fs::Permissions::from_mode(0o755)).unwrap();
        Place { folder, user }
    }

    /// The working folder of commands that run here.
    pub fn work(&self) -> PathBuf {
        self.folder.join("work")
    }

    /// The copy of brant that the plain user can execute.
    pub fn brant_path(&self) -> PathBuf {
        self.folder.join("bin/brant")
    }

    /// A command that runs as the plain user, in the working folder.
    pub fn as_user(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = match &self.user {
            None => Command::new(program),
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", &user.uid, "--regid", &user.gid, "--init-groups"]);
                command.args(["--inh-caps=-all", "--bounding-set=-all", "--"]).arg(program);
                command.env("PATH", "/usr/local/bin:/usr/bin:/bin").env_remove("LD_LIBRARY_PATH");
                command.env("HOME", &user.home).env("USER", TEST_USER).env("LOGNAME", TEST_USER);
                command
            }
        };
        command.current_dir(self.work());
        command.env("XDG_RUNTIME_DIR", self.folder.join("run"));
        command.env("XDG_STATE_HOME", self.folder.join("state"));
        command.env("XDG_CONFIG_HOME", self.folder.join("config"));
        command.env("TERM", "xterm").env_remove("NO_COLOR");
        command
    }

    /// brant with `arguments`, as the plain user.
    pub fn brant<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Command {
        let mut command = self.as_user(self.brant_path());
        command.args(arguments);
        command
    }

    /// Runs brant to its end; its input is empty.
    pub fn run<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Output {
        self.brant(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs brant, which must succeed, and returns what it printed.
    pub fn ok<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The root pid of job `name`, as `brant ps` gives it.
    pub fn pid_of(&self, name: &str) -> i32 {
        let jobs: serde_json::Value = serde_json::from_str(&self.ok(["ps", "-a", "--json"])).unwrap();
        let job = jobs["jobs"].as_array().unwrap().iter().find(|job| job["name"] == name);
        job.unwrap_or_else(|| panic!("no job {name}: {jobs}"))["pid"].as_i64().unwrap() as i32
    }

    /// One field of job `name` in `brant ps -a --json`; null where there is no such job.
    pub fn job(&self, name: &str) -> serde_json::Value {
        let jobs: serde_json::Value = serde_json::from_str(&self.ok(["ps", "-a", "--json"])).unwrap();
        let job = jobs["jobs"].as_array().unwrap().iter().find(|job| job["name"] == name);
        job.cloned().unwrap_or_default()
    }

    /// Puts a file into the working folder, owned by the plain user.
    pub fn write(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.work().join(name);
        fs::write(&path, contents).unwrap();
        if let Some(user) = &self.user {
            let (uid, gid) = (user.uid.parse().unwrap(), user.gid.parse().unwrap());
            std::os::unix::fs::chown(&path, Some(uid), Some(gid)).unwrap();
        }
        path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Whatever a failed test left running.
        if let Ok(output) = self.brant(["ps", "--json"]).stdin(Stdio::null()).output()
            && let Ok(jobs) = serde_json::from_slice::<serde_json::Value>(&output.stdout)
        {
            for job in jobs["jobs"].as_array().into_iter().flatten() {
                let _ = self.brant(["kill", "-q", job["name"].as_str().unwrap_or_default()]).output();
            }
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Asks `condition` again and again, for at most `seconds_max`.
#[track_caller]
pub fn eventually(what: &str, seconds_max: u64, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(seconds_max);
    while !condition() {
        assert!(Instant::now() < deadline, "not within {seconds_max} s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a process runs, as opposed to being gone or a zombie.
pub fn is_alive(pid: i32) -> bool {
    state_of(pid).is_some_and(|state| state != 'Z' && state != 'X')
}

/// The state letter of /proc/PID/stat.
pub fn state_of(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat[stat.rfind(')')? + 1..].trim_start().chars().next()
}

/// Sends a signal.
pub fn signal(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

/// Whether `program` is to be found; prints what is missing where not.
pub fn has(program: &str) -> bool {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .any(|folder| folder.join(program).is_file());
    if !found {
        println!("SKIPPED: this host lacks {program}");
    }
    found
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The plain user for root's tests.
fn test_user() -> User {
    let find = || {
        let text = fs::read_to_string("/etc/passwd").ok()?;
        let line = text.lines().find(|line| line.split(':').next() == Some(TEST_USER))?.to_string();
        let fields: Vec<&str> = line.split(':').collect();
        Some(User { uid: fields[2].into(), gid: fields[3].into(), home: fields[5].into() })
    };
    find().unwrap_or_else(|| {
        let made = Command::new("useradd").args(["-m", "-u", "4001", "-G", "audio", TEST_USER]).status();
        find().unwrap_or_else(|| panic!("user {TEST_USER} is needed and could not be made: {made:?}"))
    })
}

/// The folder of fixtures in the repository.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}
