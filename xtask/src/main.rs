//! The project's chores, in plain Rust:
//! `cargo xtask ci [--full] | quick | tidy | golden | fuzz | dist | e2e | docs | packages | windows | bench`.
//!
//! `ci` is exactly what CI runs. Nothing here depends on the project's own crates, so that it builds in seconds and
//! still runs when they do not compile.
#![forbid(unsafe_code)]

mod bench;
mod docs;
mod packages;
mod plain_user;
mod step;
mod tidy;
mod windows;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use step::Step;

const USAGE: &str = "cargo xtask CHORE

  ci [--full]   everything: quick, tidy, golden, fuzz, e2e, windows, docs; with --full the issue's counts
  quick         formatting, clippy with warnings denied, unit and property tests: under three minutes
  tidy          the checks that STYLE asks for and no compiler makes
  golden        the golden and the broken images and wrapper definitions
  fuzz          a short seeded fuzz run over every parser of foreign bytes
  dist          target/dist/brant: one static file for any distribution
  e2e [--full]  the end-to-end tests: fixtures, kills, real programs
  docs [--open | --serve]
                target/site: guide, reference from the code, source tour, rustdoc; checked, then shown
  packages      installs what the end-to-end tests need, or names it
  windows [TEST | bench]
                the Windows part: builds it with Debian's compiler, and tests it under Wine (docs/windows.md); or measures
                what a mediated call costs
  bench [--sizes 64M,1G,4G] [--repeat N] [--json FILE]
                times and sizes on tmpfs, beside a memcpy and, where BRANT_BENCH_CRIU and BRANT_BENCH_DMTCP_LAUNCH
                are the paths of criu and dmtcp_launch, beside these
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let is_full = args.iter().any(|arg| arg == "--full");
    let chore = args.iter().find(|arg| !arg.starts_with('-')).map(String::as_str);
    if chore == Some("bench") {
        return if bench::run(&args[1..]) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let filter = args.get(1).filter(|_| chore == Some("windows")).map_or("", String::as_str);
    let begin = Instant::now();
    let steps: Vec<Step> = match chore {
        Some("ci") => {
            let built = [quick(), vec![Step::Tidy], golden(), fuzz(is_full), e2e(is_full)].concat();
            [built, windows_of_ci(), docs::steps()].concat()
        }
        Some("quick") => quick(),
        Some("tidy") => vec![Step::Tidy],
        Some("golden") => golden(),
        Some("fuzz") => fuzz(is_full),
        Some("dist") => dist(),
        Some("e2e") => e2e(is_full),
        Some("docs") => [docs::steps(), docs::showing(&args)].concat(),
        Some("packages") => vec![Step::Packages, Step::WindowsPackages],
        Some("windows") if filter == "bench" => windows::bench(),
        Some("windows") => windows::steps(filter),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    let failed: Vec<String> = steps.iter().filter(|step| !step.run()).map(Step::to_string).collect();
    let minutes = begin.elapsed().as_secs_f64() / 60.0;
    if failed.is_empty() {
        println!("\nall {} steps passed in {minutes:.1} minutes", steps.len());
        ExitCode::SUCCESS
    } else {
        println!("\nFAILED in {minutes:.1} minutes: {}", failed.join("; "));
        ExitCode::FAILURE
    }
}

fn quick() -> Vec<Step> {
    vec![
        Step::cargo(&["fmt", "--all", "--check"]),
        Step::cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]),
        Step::cargo(&["test", "--workspace", "--exclude", "brant-testkit", "--quiet"]),
        Step::cargo(&["test", "--package", "brant-testkit", "--lib", "--quiet"]),
    ]
}

fn golden() -> Vec<Step> {
    let of = |package| Step::cargo(&["test", "--package", package, "--quiet", "--test", "golden"]);
    vec![of("brant-image"), of("brant-definition")]
}

fn fuzz(is_full: bool) -> Vec<Step> {
    let count = if is_full { "1000000" } else { "20000" };
    let run = |package| {
        Step::cargo(&["test", "--package", package, "--release", "--quiet", "--test", "fuzz"])
            .env("BRANT_FUZZ_COUNT", count)
    };
    vec![run("brant-image"), run("brant-migrate"), run("brant-definition"), run("brant-heap")]
}

/// Where `dist` puts the static brant.
fn dist_binary() -> PathBuf {
    target().join("dist/brant")
}

/// A static brant. The flags are for the target only: with --target, build scripts and macros do without.
fn dist() -> Vec<Step> {
    const TRIPLE: &str = "x86_64-unknown-linux-gnu";
    let build =
        Step::cargo(&["build", "--package", "brant", "--profile", "one-file", "--target", TRIPLE, "--quiet"])
            .env("RUSTFLAGS", "-C target-feature=+crt-static");
    vec![build, Step::Place { from: target().join(TRIPLE).join("one-file/brant"), to: dist_binary() }]
}

fn e2e(is_full: bool) -> Vec<Step> {
    let build = Step::cargo(&["build", "--package", "brant", "--release", "--quiet"]);
    // With points of failure: tests would build it while others run.
    let build_with_faults = Step::cargo(&["build", "--package", "brant", "--bin", "brant", "--quiet"]);
    let brant = target().join("release/brant");
    let skips = target().join("skips.txt");
    let tests = Step::cargo(&[
        "test",
        "--package",
        "brant-testkit",
        "--tests",
        "--no-fail-fast",
        "--",
        "--test-threads",
        "4",
    ])
    .env("BRANT_BIN", &brant.to_string_lossy())
    .env("BRANT_DIST", &dist_binary().to_string_lossy())
    .env("BRANT_SKIPS", &skips.to_string_lossy())
    .env("BRANT_KILLS", if is_full { "300" } else { "12" })
    .env("BRANT_FULL", if is_full { "1" } else { "0" });
    let judged = vec![Step::ForgetSkips(skips.clone()), tests, Step::JudgeSkips(skips)];
    [vec![Step::Packages, build, build_with_faults], dist(), judged].concat()
}

fn windows_of_ci() -> Vec<Step> {
    [vec![Step::WindowsPackages], windows::steps("")].concat()
}

/// The repository's root.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask lies in the root").to_owned()
}

/// Where cargo builds.
fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}
