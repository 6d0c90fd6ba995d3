//! `cargo xtask windows`: builds the workspace `windows/` and tests it under Wine.
//!
//! It is built by Debian's compiler, which has the source of its standard library beside it, for a target that works with Wine 8
//! (docs/windows.md). The tests run on Linux and start programs in prefixes under `target/wine`, which are made once. Where this is root, Wine runs
//! as an ordinary user ([`plain_user`]), who owns the prefixes.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::plain_user::{PlainUser, plain_user};
use crate::step::Step;
use crate::{root, target};

const TRIPLE: &str = "x86_64-win7-windows-gnu";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
/// Called by its path: cargo itself prefers one of rustup's.
const DEBIAN_CLIPPY: &str = "/usr/bin/cargo-clippy";
/// The standard library from source, without what needs a newer Windows.
const BUILD_STD: &str = "-Zbuild-std=std,panic_unwind";
/// What Windows a prefix says that it is.
const VERSIONS: [&str; 3] = ["win10", "win7", "winxp64"];
/// No call of Wine takes longer.
const WINE_LIMIT_S: &str = "240";

/// A command of cargo in the workspace.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    cargo: String,
    args: Vec<String>,
    /// Whether it is Debian's compiler, for Windows.
    is_for_windows: bool,
}

impl Run {
    fn for_windows(cargo: &str, args: &[&str]) -> Step {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Step::Windows(Run { cargo: cargo.to_owned(), args, is_for_windows: true })
    }

    fn here(args: &[&str]) -> Step {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let args = args.iter().filter(|arg| !arg.is_empty()).map(|arg| (*arg).to_owned()).collect();
        Step::Windows(Run { cargo, args, is_for_windows: false })
    }

    /// Tells whether it passed.
    pub(crate) fn run(&self) -> bool {
        let mut command = Command::new(&self.cargo);
        command.args(&self.args).current_dir(root().join("windows")).env("WINEDEBUG", "-all");
        if self.is_for_windows {
            command.env("CARGO_TARGET_DIR", build_folder()).env("RUSTC_BOOTSTRAP", "1");
            // The compression libraries are in C, and their builds know no prefix for this target.
            command.env("CC_x86_64_win7_windows_gnu", "x86_64-w64-mingw32-gcc");
            command.env("AR_x86_64_win7_windows_gnu", "x86_64-w64-mingw32-ar");
            command.env("RUSTC", "/usr/bin/rustc").env("RUSTDOC", "/usr/bin/rustdoc");
            // Set by the cargo that runs us; they are of another compiler.
            command.env("CARGO", DEBIAN_CARGO);
            for key in ["RUSTUP_TOOLCHAIN", "RUSTC_WRAPPER", "RUSTFLAGS", "LD_LIBRARY_PATH"] {
                command.env_remove(key);
            }
        } else {
            command.env("CARGO_TARGET_DIR", target().join("windows-tests"));
            command.env("BRANT_WINDOWS_BIN", build_folder().join(TRIPLE).join("release"));
            command.env("BRANT_WINE", wine_folder());
            command.env("BRANT_BIN", target().join("debug/brant"));
            match user() {
                Ok(Some(user)) => _ = command.env("BRANT_WINE_AS", user.prefix().join(" ")),
                Ok(None) => {}
                Err(why) => {
                    println!("{why}");
                    return false;
                }
            }
        }
        for key in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
            command.env_remove(key);
        }
        match command.status() {
            Ok(status) => status.success(),
            Err(error) => {
                println!("{} does not start: {error}", self.cargo);
                false
            }
        }
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "windows: cargo {}", self.args.join(" "))
    }
}

/// What a mediated call costs, beside the bare one.
pub(crate) fn bench() -> Vec<Step> {
    let bench =
        ["test", "--package", "brant-windows-tests", "--test", "bench", "--", "--ignored", "--nocapture"];
    let build = ["build", "--release", BUILD_STD, "--target", TRIPLE, "--quiet"];
    vec![
        Step::WindowsPackagesAreThere,
        Run::for_windows(DEBIAN_CARGO, &build),
        Step::WinePrefixes,
        Run::here(&bench),
    ]
}

/// All of it; of the tests those with `filter` in their names.
pub(crate) fn steps(filter: &str) -> Vec<Step> {
    let lint = ["clippy", "--release", BUILD_STD, "--target", TRIPLE, "--quiet", "--", "-D", "warnings"];
    vec![
        Step::WindowsPackagesAreThere,
        Run::here(&["fmt", "--all", "--check"]),
        Run::for_windows(DEBIAN_CARGO, &["build", "--release", BUILD_STD, "--target", TRIPLE, "--quiet"]),
        Run::for_windows(DEBIAN_CLIPPY, &lint),
        Step::WinePrefixes,
        // Images of Windows programs are looked at with it.
        Step::cargo(&["build", "--package", "brant", "--quiet"]),
        Run::here(&[
            "clippy",
            "--package",
            "brant-windows-tests",
            "--package",
            "brant-windows-heap",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ]),
        Run::here(&["test", "--package", "brant-windows-heap", filter]),
        Run::here(&[
            "test",
            "--package",
            "brant-windows-tests",
            "--no-fail-fast",
            "--",
            "--test-threads",
            "2",
            filter,
        ]),
    ]
}

fn build_folder() -> PathBuf {
    target().join("windows")
}

fn wine_folder() -> PathBuf {
    target().join("wine")
}

/// As whom Wine runs, where it is not whoever runs this. A checkout that other users cannot reach leaves it at that, and says so.
fn user() -> Result<Option<PlainUser>, String> {
    let Some(user) = plain_user()? else { return Ok(None) };
    if user.reaches(&target()) {
        return Ok(Some(user));
    }
    println!("{} is closed to other users: Wine runs as root", target().display());
    Ok(None)
}

/// Makes what is missing of the prefixes, and those anew that are another user's, who is another one in Windows too. The first one takes Wine a quarter of a minute; of the others the files are the same.
pub(crate) fn prefixes() -> Result<(), String> {
    let folder = wine_folder();
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let user = user()?;
    let user = user.as_ref();
    if let Some(user) = user {
        user.give(&folder)?;
        for version in VERSIONS.iter().filter(|version| !user.owns(&folder.join(version))) {
            let _ = std::fs::remove_dir_all(folder.join(version));
        }
    }
    let [first, others @ ..] = VERSIONS;
    prefix(&folder, first, user, |at| wine(at, user, &["wineboot", "-i"]))?;
    for version in others {
        prefix(&folder, version, user, |at| copy(&folder.join(first), at, user))?;
    }
    Ok(())
}

/// One prefix, whole under its name or not at all.
fn prefix(
    folder: &Path,
    version: &str,
    user: Option<&PlainUser>,
    make: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<(), String> {
    let place = folder.join(version);
    if place.is_dir() {
        return Ok(());
    }
    let partial = folder.join(format!("{version}.partial"));
    let _ = std::fs::remove_dir_all(&partial);
    make(&partial)?;
    wine(&partial, user, &["winecfg", "-v", version])?;
    wait_for_server(&partial, user)?;
    std::fs::rename(&partial, &place).map_err(|error| format!("{}: {error}", place.display()))
}

/// Windows's own files are linked, as nobody changes them in place; the rest is copied.
fn copy(from: &Path, to: &Path, user: Option<&PlainUser>) -> Result<(), String> {
    let run = |args: &[&str]| {
        let status = Command::new("cp").args(args).status().map_err(|error| error.to_string())?;
        if status.success() { Ok(()) } else { Err(format!("cp {} failed", args.join(" "))) }
    };
    run(&["-al", &from.to_string_lossy(), &to.to_string_lossy()])?;
    for registry in ["system.reg", "user.reg", "userdef.reg"] {
        std::fs::remove_file(to.join(registry)).map_err(|error| error.to_string())?;
        run(&[&from.join(registry).to_string_lossy(), &to.join(registry).to_string_lossy()])?;
        if let Some(user) = user {
            user.give(&to.join(registry))?;
        }
    }
    Ok(())
}

fn wine(prefix: &Path, user: Option<&PlainUser>, args: &[&str]) -> Result<(), String> {
    run_wine(prefix, user, "wine", args)
}

/// Waits until the prefix's files are written.
fn wait_for_server(prefix: &Path, user: Option<&PlainUser>) -> Result<(), String> {
    run_wine(prefix, user, "wineserver", &["-w"])
}

fn run_wine(prefix: &Path, user: Option<&PlainUser>, program: &str, args: &[&str]) -> Result<(), String> {
    let mut words = user.map(PlainUser::prefix).unwrap_or_default();
    words.extend(["timeout", WINE_LIMIT_S, program].map(str::to_owned));
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(args);
    command.env("WINEPREFIX", prefix).env("WINEDEBUG", "-all").env("WINEDLLOVERRIDES", "mscoree,mshtml=");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{program} {} in {}: {status}", args.join(" "), prefix.display())),
        Err(error) => Err(format!("{program} does not start: {error}")),
    }
}
