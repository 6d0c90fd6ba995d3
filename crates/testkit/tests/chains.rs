//! Long chains: programs are stopped and brought back again and again, at random instants, nothing waits in between; at the
//! end they must find themselves whole, and the last restore must have left no more behind than the first.
//!
//! Here few programs are taken through few links; `BRANT_FULL=1` takes every fixture. `BRANT_SEED` draws the same instants again,
//! `BRANT_CHAIN` names the only fixtures to be taken. `programs` does the same with real programs.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use brant_testkit::{
    Program, Random, Sandbox, SmallDisk, Started, Who, is_full, is_root, repository, skip, wait_until,
};

const READY_TIMEOUT_S: u64 = 60;
const RESULT_TIMEOUT_S: u64 = 120;
const END_TIMEOUT_S: u64 = 30;

/// Fixtures that show what is refused, or what a chain cannot drive.
const OTHERS: &[&str] = &[
    "blockers",
    "tcp_inside",
    "udp",
    "inotify",
    "pidfd",
    "proc_fds",
    "unix_rights",
    "unix_dgram",
    "epoll_dup",
    "semtimedop",
    "vfork",
    "clone_parts",
    "churn",
    "fork_advice",
    "fork_storm",
    "instant",
    "itimer_storm",
    "last_end",
    "stack_sliver",
    "waits",
];

/// What is refused by name without namespaces, or goes on otherwise there: the clock of all is no one's own.
const NEED_NAMESPACES: &[&str] = &["child_signal", "growsdown", "clocks"];

/// The kernel passes over a datagram of no bytes that was looked at once (`peek_socket`): a second checkpoint of the same program misses it.
const LOOKED_AT_ONCE: &[&str] = &["socketpair"];

/// Whose threads, processes and mappings come and go.
const CHANGING: &[&str] = &["busy", "futex_storm", "slow_end", "zombies", "tree", "coroutines", "jit", "brk"];

/// A restored job has a copy of all mounts: it may have those of the test of mounts only in that test.
static MOUNTS: RwLock<()> = RwLock::new(());

fn seed() -> u64 {
    let given = std::env::var("BRANT_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| now.as_nanos() as u64 | 1)
    });
    eprintln!("BRANT_SEED={seed}");
    seed
}

fn every_fixture() -> Vec<String> {
    let folder = repository().join("fixtures/programs");
    let entries = std::fs::read_dir(folder).expect("the fixtures are there").flatten();
    let files = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = files.filter_map(|name| Some(name.strip_suffix(".c")?.to_owned())).collect();
    names.retain(|name| !OTHERS.contains(&name.as_str()));
    names.sort();
    names
}

/// The fixtures of a course: all, or `quick` ones.
fn chosen(course: Course, quick: &[&str]) -> Vec<String> {
    if let Ok(only) = std::env::var("BRANT_CHAIN") {
        return only.split(',').map(str::to_owned).collect();
    }
    if !is_full() {
        return quick.iter().map(|name| (*name).to_owned()).collect();
    }
    let has_namespaces = course.who != Who::Denied && course.options.is_empty();
    let mut names = every_fixture();
    names.retain(|name| has_namespaces || !NEED_NAMESPACES.contains(&name.as_str()));
    names.retain(|name| course.left_running == 0 || !LOOKED_AT_ONCE.contains(&name.as_str()));
    names
}

/// What a chain is made of.
#[derive(Clone, Copy, Debug)]
struct Course {
    who: Who,
    restores: u32,
    /// Checkpoints that leave the program running, before each stop.
    left_running: u32,
    /// Options of each restore.
    options: &'static [&'static str],
}

/// A program on its way through restores.
struct Chain<'a> {
    sandbox: &'a Sandbox,
    course: Course,
    /// While it is the test's own child.
    program: Option<Started>,
    target: String,
    paused: Duration,
    random: Random,
}

/// What a restored tree and brant have, by what may grow.
#[derive(Clone, Debug, Default)]
struct Size {
    processes: usize,
    counts: BTreeMap<&'static str, usize>,
    image_bytes: u64,
}

impl Size {
    /// What has grown from `earlier` on.
    fn growth(&self, earlier: &Size) -> Option<String> {
        const IMAGE_MARGIN_BYTES: u64 = 64 << 10;
        // A process whose threads were asleep has one more for them.
        let margin = |what: &str| if what == "mappings" { self.processes } else { 0 };
        let grown = self.counts.iter().find(|(what, count)| {
            let before = earlier.counts.get(*what).copied().unwrap_or_default();
            **count > before + margin(what)
        });
        if let Some((what, count)) = grown {
            return Some(format!("{what}: {count}, before: {:?}", earlier.counts.get(what)));
        }
        let image_max = earlier.image_bytes + earlier.image_bytes / 8 + IMAGE_MARGIN_BYTES;
        (self.image_bytes > image_max)
            .then(|| format!("bytes of the image: {}, before: {}", self.image_bytes, earlier.image_bytes))
    }
}

impl Chain<'_> {
    fn brant(&self, args: &[&str]) -> Result<(), String> {
        let outcome = self.sandbox.brant(args);
        if outcome.code == 0 {
            return Ok(());
        }
        Err(format!("brant {} gave {}: {}{}", args.join(" "), outcome.code, outcome.stdout, outcome.stderr))
    }

    fn rest(&mut self) {
        std::thread::sleep(Duration::from_micros(self.random.below(40_000)));
    }

    /// One stop and the restore.
    fn link(&mut self) -> Result<(), String> {
        for _ in 0..self.course.left_running {
            self.brant(&["checkpoint", &self.target, "--force", "-o", "./running.img"])?;
            self.rest();
        }
        self.brant(&["checkpoint", &self.target, "--stop", "--force", "-o", "./x.img"])?;
        let stopped_at = Instant::now();
        if let Some(mut program) = self.program.take() {
            program.wait(END_TIMEOUT_S).ok_or("--stop left the program running")?;
        }
        if !wait_until(END_TIMEOUT_S, || self.sandbox.leftovers().is_empty()) {
            return Err(format!("--stop left {:?}", self.sandbox.leftovers()));
        }
        self.paused += stopped_at.elapsed();
        let file = self.sandbox.path("pid");
        let _ = std::fs::remove_file(&file);
        let args = ["restore", "-d", "--files", "keep", "--pid-file", "./pid", "./x.img"];
        self.brant(&[&args, self.course.options].concat())?;
        self.target = self.sandbox.text("pid").trim().to_owned();
        Ok(())
    }

    fn size(&self) -> Size {
        let mut size = Size::default();
        let mut add = |what: &'static str, count: usize| *size.counts.entry(what).or_insert(0) += count;
        for (pid, name) in self.sandbox.leftovers() {
            if name.starts_with("brant") {
                add("processes of brant", 1);
                add("descriptors of brant", entries(&format!("/proc/{pid}/fd")));
                continue;
            }
            size.processes += 1;
            let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
            add("mappings", maps.lines().count());
            add("descriptors", entries(&format!("/proc/{pid}/fd")));
            add("threads", entries(&format!("/proc/{pid}/task")));
        }
        for folder in ["state", "run", "home"] {
            add("files of brant", files_below(&self.sandbox.path(folder)));
        }
        size.image_bytes = std::fs::metadata(self.sandbox.path("x.img")).map_or(0, |metadata| metadata.len());
        size
    }
}

fn entries(folder: &str) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

fn files_below(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries.flatten().map(|entry| 1 + files_below(&entry.path())).sum()
}

/// Takes one fixture through its chain.
fn fixture(name: &str, course: Course, seed: u64) -> Result<(), String> {
    let sandbox = Sandbox::new(course.who);
    let args: &[&str] = if name == "futex_storm" { &["5000"] } else { &[] };
    let program = Program::fixture(String::leak(name.to_owned())).with_args(args);
    let mut started = sandbox.start(&program);
    wait_until(READY_TIMEOUT_S, || {
        started.ended().is_some() || sandbox.path("f.ready").exists() || sandbox.path("f.result").exists()
    });
    if sandbox.path("f.skip").exists() {
        return Ok(());
    }
    if !sandbox.path("f.ready").exists() {
        return Err(format!("it did not get ready: {}", sandbox.text("f.result")));
    }
    let target = started.pid().to_string();
    let random = Random::new(seed);
    let mut chain =
        Chain { sandbox: &sandbox, course, program: Some(started), target, paused: Duration::ZERO, random };
    let mut sizes = Vec::new();
    for number in 1..=course.restores {
        chain.link().map_err(|error| format!("link {number}: {error}"))?;
        sizes.push(chain.size());
        chain.rest();
    }
    sandbox.write("f.go", &format!("go paused_ms={}", chain.paused.as_millis()));
    let has_result =
        wait_until(RESULT_TIMEOUT_S, || sandbox.path("f.result").exists() || sandbox.leftovers().is_empty());
    let result = sandbox.text("f.result");
    if !has_result || result != "ok" {
        return Err(format!("result {result:?}, left {:?}, {}", sandbox.leftovers(), sandbox.text("err")));
    }
    if !wait_until(END_TIMEOUT_S, || sandbox.leftovers().is_empty()) {
        return Err(format!("left behind: {:?}", sandbox.leftovers()));
    }
    // The first restore may bring something that stays: the wrapper `virtual`.
    let grown = sizes.last().and_then(|last| last.growth(sizes.get(1)?));
    match grown {
        Some(grown) if !CHANGING.contains(&name) => Err(grown),
        _ => Ok(()),
    }
}

fn all(course: Course, quick: &[&str]) {
    if course.who == Who::Denied && !is_root() {
        return skip("root");
    }
    let _no_mounts = MOUNTS.read().unwrap_or_else(PoisonError::into_inner);
    let seed = seed();
    let mut faults = Vec::new();
    for name in chosen(course, quick) {
        let begin = Instant::now();
        let done = fixture(&name, course, seed);
        eprintln!("{name}: {} in {:?}", done.as_ref().err().map_or("ok", |fault| fault), begin.elapsed());
        faults.extend(done.err().map(|fault| format!("{name}: {fault}")));
    }
    assert!(faults.is_empty(), "{course:?}\n{}", faults.join("\n"));
}

fn usual() -> Course {
    let restores = if is_full() { 6 } else { 4 };
    Course { who: Who::Plain, restores, left_running: 0, options: &[] }
}

#[test]
fn stopped_and_brought_back() {
    all(usual(), &["sleeps", "threads", "in_handler", "onstack", "posix_timers", "pty"]);
}

#[test]
fn left_running_before_each_stop() {
    all(Course { left_running: 2, ..usual() }, &["clocks", "epoll"]);
}

#[test]
fn without_namespaces() {
    all(Course { options: &["--any-pid"], ..usual() }, &["busy"]);
}

#[test]
fn where_namespaces_are_denied() {
    all(Course { who: Who::Denied, left_running: 1, ..usual() }, &["tree", "blocked"]);
}

/// A restored job has a copy of the mounts of its time, and the host goes on to mount and unmount things.
#[test]
fn whatever_the_host_mounts_meanwhile() {
    let _alone = MOUNTS.write().unwrap_or_else(PoisonError::into_inner);
    let sandbox = Sandbox::new(Who::Plain);
    let mount = |name: &str| {
        sandbox.make_folder(name);
        SmallDisk::mount(&sandbox.path(name), "size=64k")
    };
    let Some(earlier) = mount("earlier") else { return skip("mounts") };
    let mut program = sandbox.start_ready(&Program::fixture("ids"));
    let image = sandbox.stop(&mut program, &[]);
    let restore = || {
        let _ = std::fs::remove_file(sandbox.path("pid"));
        sandbox.brant(&["restore", "-d", "--pid-file", "./pid", &image]).expect(0);
        sandbox.text("pid").trim().to_owned()
    };
    let first = restore();
    let later = mount("later");
    assert!(later.is_some());
    sandbox.brant(&["checkpoint", &first, "--stop", "--force", "-o", &image]).expect(0);
    let second = restore();
    drop(earlier);
    std::fs::remove_dir(sandbox.path("earlier")).expect("nothing is mounted there any more");
    sandbox.brant(&["check", &second]).expect(0);
    // Something else is to be seen here at a place that is there: the program would miss what it has.
    drop(later);
    let refused = sandbox.brant(&["check", &second]);
    let is_private = refused.code == 3 && format!("{}{}", refused.stdout, refused.stderr).contains("/later");
    assert!(is_private || are_shared(), "{refused:?}");
    sandbox.finish_fixture();
}

/// Whether mounts reach other namespaces by themselves.
fn are_shared() -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut roots = mounts.lines().filter(|line| line.split(' ').nth(4) == Some("/"));
    roots.any(|line| line.contains(" shared:"))
}
