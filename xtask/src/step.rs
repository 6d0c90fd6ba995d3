//! One thing that CI does, with its heading and its verdict.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::{packages, root, tidy, windows};

/// A step of a chore.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A cargo command with extra environment variables.
    Cargo { args: Vec<String>, env: Vec<(String, String)> },
    /// The checks of [`tidy`].
    Tidy,
    /// Installs or names the packages that tests need.
    Packages,
    /// The same for the Windows part.
    WindowsPackages,
    /// Fails, with their names, where packages for the Windows part are missing.
    WindowsPackagesAreThere,
    /// A command for the Windows part, with its variables.
    Windows(windows::Run),
    /// Makes the prefixes of Wine that the tests of the Windows part run in.
    WinePrefixes,
    /// Copies what was built to where it is looked for, under its name at once.
    Place { from: PathBuf, to: PathBuf },
    /// Runs a program that was built here.
    Run { program: PathBuf, args: Vec<String> },
    /// Makes folders.
    Folders(Vec<PathBuf>),
    /// Empties the file in which tests record their skips.
    ForgetSkips(PathBuf),
    /// Fails on a skip that was not to be expected on this machine.
    JudgeSkips(PathBuf),
}

impl Step {
    /// A cargo command, run in the repository's root.
    pub(crate) fn cargo(args: &[&str]) -> Step {
        Step::Cargo { args: args.iter().map(|arg| (*arg).to_owned()).collect(), env: Vec::new() }
    }

    /// With one more environment variable.
    pub(crate) fn env(mut self, key: &str, value: &str) -> Step {
        if let Step::Cargo { env, .. } = &mut self {
            env.push((key.to_owned(), value.to_owned()));
        }
        self
    }

    /// Does it; tells whether it passed.
    pub(crate) fn run(&self) -> bool {
        println!("\n== {self}");
        let begin = Instant::now();
        let has_passed = match self {
            Step::Cargo { args, env } => run_cargo(args, env),
            Step::Tidy => report(tidy::findings(&root())),
            Step::Packages => {
                packages::provide();
                true
            }
            Step::WindowsPackages => packages::provide_windows(),
            Step::WindowsPackagesAreThere => {
                let missing = packages::missing_for_windows();
                report(
                    missing
                        .first()
                        .map(|_| format!("apt-get install {}", missing.join(" ")))
                        .into_iter()
                        .collect(),
                )
            }
            Step::Windows(run) => run.run(),
            Step::WinePrefixes => report(windows::prefixes().err().into_iter().collect()),
            Step::Place { from, to } => report(place(from, to).err().into_iter().collect()),
            Step::Run { program, args } => succeeds(Command::new(program).args(args).current_dir(root())),
            Step::Folders(folders) => {
                let made = folders.iter().map(|folder| {
                    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))
                });
                report(made.filter_map(Result::err).collect())
            }
            Step::ForgetSkips(path) => {
                let _ = std::fs::remove_file(path);
                true
            }
            Step::JudgeSkips(path) => report(unexpected_skips(path)),
        };
        println!(
            "-- {} in {:.1} s",
            if has_passed { "passed" } else { "FAILED" },
            begin.elapsed().as_secs_f64()
        );
        has_passed
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Cargo { args, .. } => write!(f, "cargo {}", args.join(" ")),
            Step::Tidy => f.write_str("tidy"),
            Step::Packages => f.write_str("packages for the end-to-end tests"),
            Step::WindowsPackages => f.write_str("packages for the Windows part"),
            Step::WindowsPackagesAreThere => f.write_str("packages of the Windows part are there"),
            Step::Windows(run) => write!(f, "{run}"),
            Step::WinePrefixes => f.write_str("prefixes of Wine"),
            Step::Place { to, .. } => write!(f, "place {}", to.display()),
            Step::Run { program, args } => {
                let name = program.file_name().unwrap_or_default().display();
                write!(f, "{name} {}", args.first().map_or("", String::as_str))
            }
            Step::Folders(_) => f.write_str("folders"),
            Step::ForgetSkips(_) => f.write_str("forget earlier skips"),
            Step::JudgeSkips(_) => f.write_str("skips"),
        }
    }
}

fn run_cargo(args: &[String], env: &[(String, String)]) -> bool {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(args).current_dir(root()).envs(env.iter().map(|(key, value)| (key, value)));
    // Set for xtask's own build; they would make every crate seem changed.
    for key in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
        command.env_remove(key);
    }
    succeeds(&mut command)
}

fn succeeds(command: &mut Command) -> bool {
    match command.status() {
        Ok(status) => status.success(),
        Err(error) => {
            println!("{} does not start: {error}", command.get_program().display());
            false
        }
    }
}

fn place(from: &Path, to: &Path) -> Result<(), String> {
    let fault = |error| format!("{} is not placed: {error}", to.display());
    let partial = to.with_extension("partial");
    std::fs::create_dir_all(to.parent().unwrap_or(Path::new("."))).map_err(fault)?;
    std::fs::copy(from, &partial).and_then(|_| std::fs::rename(&partial, to)).map_err(fault)
}

fn report(findings: Vec<String>) -> bool {
    for finding in &findings {
        println!("{finding}");
    }
    findings.is_empty()
}

/// Skips that this machine gives no reason for. All skips are printed.
fn unexpected_skips(path: &PathBuf) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let skips: BTreeSet<&str> = text.lines().collect();
    let mut expected: BTreeSet<String> =
        packages::missing().into_iter().map(|package| package.command).collect();
    if !packages::is_root() {
        expected.insert("root".to_owned());
    }
    // Abilities that some hosts withhold and no test can supply; named here so that a skip for another reason stands out.
    let by_host = |skip: &str| skip.starts_with("host: ");
    for skip in &skips {
        println!("skipped for want of: {skip}");
    }
    let unexpected = skips.into_iter().filter(|skip| !expected.contains(*skip) && !by_host(skip));
    unexpected.map(|skip| format!("unexpected skip: {skip}")).collect()
}
