//! The program that brant is killed beside: it checks itself, and here it is checked from outside.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use brant_testkit::{Program, Sandbox, Started, wait_until};

/// It may take this long for two further beats before it counts as harmed.
const BEAT_TIMEOUT_S: u64 = 90;
/// How long what brant left may take to go away by itself.
const SETTLE_TIMEOUT_S: u64 = 20;
/// How long each of its threads rests after a step, in microseconds: several such programs run at once.
const REST_US: &str = "1000";

/// The arguments of the fixture `busy` for a quick beat.
pub(crate) const ARGUMENTS: &[&str] = &["1", REST_US, "killed"];

/// The fixture `busy`, as the test's own child or as a job.
pub(crate) struct Witness {
    child: Option<Started>,
    /// Its root process, by the host's number.
    pid: i32,
    /// Above what processes are its own: its root, or the keeper of the job.
    top: i32,
}

impl Witness {
    pub(crate) fn start(sandbox: &Sandbox) -> Witness {
        forget(sandbox);
        Witness::start_in(sandbox, &Program::fixture("busy").with_args(ARGUMENTS), |_| {})
    }

    /// Any fixture; `prepare` is told of its first process as soon as that exists. For one without a beat see
    /// [`Witness::expect_in_order`].
    pub(crate) fn start_in(sandbox: &Sandbox, program: &Program, prepare: impl FnOnce(i32)) -> Witness {
        let child = sandbox.start(program);
        prepare(child.pid());
        expect_ready(sandbox, program.fixture);
        Witness { pid: child.pid(), top: child.pid(), child: Some(child) }
    }

    /// The job of this name, if there is one that runs.
    pub(crate) fn job(sandbox: &Sandbox, name: &str) -> Option<Witness> {
        let listed = sandbox.brant(&["ps", "--json"]);
        assert_eq!(listed.code, 0, "{}", listed.stderr);
        let named = format!("\"name\":\"{name}\"");
        let plain = listed.stdout.replace([' ', '\n'], "");
        let job = plain.split('{').find(|job| job.contains(&named))?;
        let number = |key: &str| -> Option<i32> {
            let rest = job.split_once(&format!("\"{key}\":"))?.1;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        };
        Some(Witness { child: None, pid: number("pid")?, top: number("keeper_pid")? })
    }

    pub(crate) fn target(&self) -> String {
        self.pid.to_string()
    }

    pub(crate) fn keeper(&self) -> i32 {
        self.top
    }

    /// Whether its root process has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        match &mut self.child {
            Some(child) => child.ended().is_some(),
            None => has_ended(self.pid),
        }
    }

    /// All of it makes progress, it found nothing wrong with itself, and nothing of brant is left about it.
    pub(crate) fn expect_unharmed(&mut self, sandbox: &Sandbox) {
        let before = beat(sandbox);
        let moves = wait_until(BEAT_TIMEOUT_S, || {
            beat(sandbox) != before && beat(sandbox) != before + 1
                || sandbox.path("f.result").exists()
                || self.has_ended()
        });
        let result = sandbox.text("f.result");
        if !moves || !result.is_empty() || self.has_ended() {
            // First of all: who waits for what.
            let states = states(sandbox);
            panic!(
                "the program is harmed: {result}; has ended: {}; beat {before} -> {}; its stderr: {}\n{states}",
                self.has_ended(),
                beat(sandbox),
                sandbox.text("err"),
            );
        }
        self.expect_in_order(sandbox);
    }

    /// It lives, and nothing of brant is left about it.
    pub(crate) fn expect_in_order(&mut self, sandbox: &Sandbox) {
        let mut wrong = Vec::new();
        wait_until(SETTLE_TIMEOUT_S, || {
            wrong = self.wrong(sandbox);
            wrong.is_empty()
        });
        let result = sandbox.text("f.result");
        assert!(result.is_empty() && !self.has_ended(), "it ended: {result}{}", sandbox.text("err"));
        assert!(wrong.is_empty(), "{wrong:?}\n{}", states(sandbox));
    }

    /// Processes that are not the program's, and threads that are held.
    fn wrong(&self, sandbox: &Sandbox) -> Vec<String> {
        let own = descendants(self.top);
        let mut wrong = Vec::new();
        for (pid, name) in sandbox.leftovers() {
            let is_own = own.contains(&pid) && name != "brant-copy";
            // A short-lived child of the program may have come after the list was made.
            if !is_own && state(pid).is_some() && !descendants(self.top).contains(&pid) {
                wrong.push(format!("process {pid} {name} is not the program's"));
            }
        }
        for pid in own {
            wrong.extend(zombie(pid));
            wrong.extend(tasks(pid).into_iter().filter_map(held));
        }
        wrong
    }

    /// Lets it verify itself to its end.
    pub(crate) fn finish(&mut self, sandbox: &Sandbox) {
        sandbox.write("f.go", "go");
        let ended = wait_until(BEAT_TIMEOUT_S, || sandbox.path("f.result").exists());
        assert!(ended, "the program does not end\n{}", states(sandbox));
        assert_eq!(sandbox.text("f.result"), "ok");
        // docs/decisions/0002: what is left of a window that the kernel does not let us close.
        let ended_by_stops = sandbox.text("f.eintr");
        if !ended_by_stops.is_empty() {
            eprintln!("{ended_by_stops} of the program's calls ended with EINTR, as by Ctrl-Z");
        }
        if let Some(child) = &mut self.child {
            assert_eq!(child.wait(20), Some(0));
        }
        sandbox.expect_no_leftovers();
    }
}

fn expect_ready(sandbox: &Sandbox, fixture: &str) {
    if !wait_until(BEAT_TIMEOUT_S, || sandbox.path("f.ready").exists()) {
        let (result, err) = (sandbox.text("f.result"), sandbox.text("err"));
        panic!("{fixture} did not start: {result}{err}\n{}", states(sandbox));
    }
}

/// Takes away what an earlier run of the program wrote for the test.
pub(crate) fn forget(sandbox: &Sandbox) {
    for name in ["f.ready", "f.result", "f.go", "f.eintr"] {
        let _ = fs::remove_file(sandbox.path(name));
    }
}

pub(crate) fn beat(sandbox: &Sandbox) -> u64 {
    let text = sandbox.text("f.beat");
    text.lines().next().and_then(|line| line.parse().ok()).unwrap_or(0)
}

/// The runtime folder after a sweep holds jobs that run or have ended in order, whole; no folder is left of a job that
/// never was.
pub(crate) fn expect_swept(sandbox: &Sandbox) {
    let listed = sandbox.brant(&["ps"]);
    assert_eq!(listed.code, 0, "{}", listed.stderr);
    let Ok(jobs) = fs::read_dir(sandbox.path("run/brant/jobs")) else { return };
    for job in jobs.flatten() {
        let holds = |name: &str| job.path().join(name).exists();
        let lives = listed.stdout.lines().any(|line| line.split(' ').next() == job.file_name().to_str());
        assert!(holds("meta.json") && (lives || holds("ended.json")), "half a job: {:?}", job.path());
    }
}

/// Nothing but these files lies in the folder; each that is there is a whole image.
pub(crate) fn expect_whole_images(sandbox: &Sandbox, folder: &Path, names: &[&str]) {
    for entry in fs::read_dir(folder).expect("the folder is there").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        assert!(names.contains(&name.as_str()), "left behind: {:?}", entry.path());
        let path = entry.path().to_str().expect("test paths are UTF-8").to_owned();
        let verified = sandbox.brant(&["image", "verify", &path]);
        assert_eq!(verified.code, 0, "half an image: {}", verified.stderr);
    }
}

/// A process and all below it.
fn descendants(top: i32) -> BTreeSet<i32> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc is mounted").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        if let Some(parent) = stat(pid).and_then(|fields| fields.get(1)?.parse::<i32>().ok()) {
            parents.push((pid, parent));
        }
    }
    let mut own = BTreeSet::from([top]);
    loop {
        let before = own.len();
        own.extend(
            parents
                .iter()
                .filter(|(_, parent)| own.contains(parent))
                .map(|(pid, _)| *pid)
                .collect::<Vec<_>>(),
        );
        if own.len() == before {
            return own;
        }
    }
}

/// The fields of /proc/PID/stat from the state on.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(String::from).collect())
}

/// Whether a process has ended, reaped or not.
pub(crate) fn has_ended(pid: i32) -> bool {
    state(pid).is_none_or(|state| "ZX".contains(state))
}

fn state(pid: i32) -> Option<char> {
    stat(pid)?.first()?.chars().next()
}

fn zombie(pid: i32) -> Option<String> {
    (state(pid) == Some('Z')).then(|| format!("process {pid} is a zombie"))
}

fn tasks(pid: i32) -> Vec<String> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    tasks.flatten().map(|task| task.path().to_string_lossy().into_owned()).collect()
}

/// A thread that is stopped or has a tracer.
fn held(task: String) -> Option<String> {
    let status = fs::read_to_string(format!("{task}/status")).ok()?;
    let value = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.split_whitespace().nth(1).unwrap_or_default().to_owned()
    };
    let is_held = ["T", "t"].contains(&value("State:").as_str()) || value("TracerPid:") != "0";
    is_held.then(|| format!("{task} is held: {} by {}", value("State:"), value("TracerPid:")))
}

/// What every thread of every process of the sandbox does, for the message of a failure.
pub(crate) fn states(sandbox: &Sandbox) -> String {
    let mut text = String::new();
    for (pid, name) in sandbox.leftovers() {
        for task in tasks(pid) {
            let read = |file: &str| fs::read_to_string(format!("{task}/{file}")).unwrap_or_default();
            let wanted = ["State:", "TracerPid:", "SigPnd:", "ShdPnd:", "SigBlk:", "NSpid:"];
            let status = read("status");
            let status: Vec<&str> =
                status.lines().filter(|line| wanted.iter().any(|key| line.starts_with(key))).collect();
            text.push_str(&format!(
                "{task} {name}: {}; in {}; call {}; stat {}; stack {}\n",
                status.join(", "),
                read("wchan"),
                read("syscall").trim(),
                read("stat").trim(),
                read("stack").replace('\n', " "),
            ));
        }
    }
    text
}
