//! `brant demo`: the main job before one's eyes, with the same commands that a user types.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::Done;
use crate::failure::{Failure, exit};
use crate::report::Report;

/// Show the main job: run a real program, write it down in mid-work, end it, bring it back
#[derive(Debug, clap::Args)]
pub(super) struct Demo {}

/// For how long the program is watched before and after.
const WATCH: Duration = Duration::from_millis(1300);

/// A program with a second thread and a growing heap, which says how far it is.
const PYTHON: &str = r#"
import threading, time
kept, beats = [], 0
def beat():
    global beats
    while True:
        time.sleep(0.05); beats += 1
threading.Thread(target=beat, daemon=True).start()
start, step = time.monotonic(), 0
while True:
    step += 1
    kept.extend(range(step * 1000, step * 1000 + 1000))
    print(f"step {step}: {len(kept)} numbers kept, other thread at {beats}, "
          f"{time.monotonic() - start:.1f} s of my life", flush=True)
    time.sleep(0.2)
"#;

const SHELL: &str =
    "step=0; while :; do step=$((step + 1)); echo \"step $step: I am process $$\"; sleep 0.2; done";

impl Demo {
    pub(super) fn run(self, report: &Report) -> Done {
        let own =
            std::env::current_exe().map_err(|error| broken(&format!("finding brant itself: {error}")))?;
        let folder = std::env::temp_dir().join(format!("brant-demo-{}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(|error| broken(&format!("making {}: {error}", folder.display())))?;
        let show = Show { report, own, folder, name: format!("demo-{}", std::process::id()) };
        show.play().map(|()| 0)
    }
}

struct Show<'a> {
    report: &'a Report,
    own: PathBuf,
    folder: PathBuf,
    name: String,
}

impl Show<'_> {
    fn play(&self) -> Result<(), Failure> {
        let started = Instant::now();
        let name = self.name.as_str();
        let has_python = Command::new("python3").arg("-c").arg("pass").stderr(Stdio::null()).status();
        let (interpreter, script) = match has_python {
            Ok(status) if status.success() => ("python3", PYTHON),
            _ => ("sh", SHELL),
        };
        let image = self.folder.join("demo.brant");
        let image = image.to_string_lossy().into_owned();

        self.say("A program that nobody prepared starts, and counts:");
        self.type_in(
            &["run", "-d", "-n", name, "--", interpreter, "-c", script],
            &["run", "-d", "-n", name, "--", interpreter, "-c", "'...'"],
        )?;
        sleep(WATCH);
        self.say("It is written down in mid-work, and ended:");
        let stop = ["checkpoint", name, "-o", &image, "--stop"];
        self.type_in(&stop, &stop)?;
        let before = self.silent(&["logs", name])?;
        self.report.data(&indent(&last_lines(&before, 3)));
        self.say("Nothing of it is left but a file:");
        self.report.data(&format!("    {} ({})", image, size_of(&image)));
        self.say("It is brought back, and goes on where it was:");
        let restore = ["restore", &image, "-d"];
        self.type_in(&restore, &restore)?;
        sleep(WATCH);
        let after = self.silent(&["logs", name])?;
        self.report.data(&indent(&first_lines(&after, 4)));

        let (last, next) = (steps(&before).last().copied(), steps(&after).first().copied());
        match (last, next) {
            (Some(last), Some(next)) if next == last + 1 => {
                let seconds = started.elapsed().as_secs_f32();
                self.say(&format!(
                    "Step {next} follows step {last}, as if nothing had happened. ({seconds:.1} s)"
                ));
                Ok(())
            }
            (last, next) => Err(broken(&format!("step {next:?} came after step {last:?}"))),
        }
    }

    fn say(&self, text: &str) {
        self.report.data(&format!("\n{text}"));
    }

    /// Shows a command and runs it.
    fn type_in(&self, arguments: &[&str], shown: &[&str]) -> Result<(), Failure> {
        let line = format!("$ brant {}", shown.join(" "));
        self.report.data(&format!("  {}", self.report.out_style().bold(&line)));
        self.silent(arguments).map(|_| ())
    }

    /// Runs a command of brant's and returns what it printed.
    fn silent(&self, arguments: &[&str]) -> Result<String, Failure> {
        let output = Command::new(&self.own).args(arguments).stdin(Stdio::null()).output();
        let output = output.map_err(|error| broken(&error.to_string()))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(broken(&format!("brant {} failed:\n{}", arguments.first().unwrap_or(&""), said.trim())))
    }
}

impl Drop for Show<'_> {
    fn drop(&mut self) {
        let _ = Command::new(&self.own).args(["kill", "-q", &self.name]).stderr(Stdio::null()).status();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn broken(why: &str) -> Failure {
    Failure::new("B-0114", exit::FAILED, "the demo did not get to its end").why(why).next("brant doctor")
}

/// The numbers of the steps that a log tells of.
fn steps(log: &str) -> Vec<u64> {
    let number = |line: &str| line.strip_prefix("step ")?.split(':').next()?.parse().ok();
    log.lines().filter_map(number).collect()
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn first_lines(text: &str, count: usize) -> String {
    text.lines().take(count).collect::<Vec<_>>().join("\n")
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

fn size_of(path: &str) -> String {
    brant_image::inspect::size(fs::metadata(path).map_or(0, |found| found.len()))
}
