//! What a test runs: fixture programs compiled on demand, and the brant binary under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

/// A program to be started in a sandbox.
#[derive(Clone, Debug)]
pub struct Program {
    /// The fixture's file name without its ending.
    pub fixture: &'static str,
    /// Arguments after the first, which is the sandbox's base path.
    pub args: Vec<String>,
    /// Linked statically.
    pub is_static: bool,
    /// Made the leader of a session of its own; otherwise the leader of a process group in the test's session, as
    /// a shell starts a command.
    pub has_own_session: bool,
}

impl Program {
    /// A fixture with no further arguments.
    pub fn fixture(fixture: &'static str) -> Program {
        Program { fixture, args: Vec::new(), is_static: false, has_own_session: false }
    }

    /// With these arguments after the base path.
    pub fn with_args(mut self, args: &[&str]) -> Program {
        self.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        self
    }

    /// Linked statically.
    pub fn linked_statically(mut self) -> Program {
        self.is_static = true;
        self
    }

    /// In a session of its own.
    pub fn in_own_session(mut self) -> Program {
        self.has_own_session = true;
        self
    }
}

/// The repository's root.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("testkit lies in crates/").to_owned()
}

/// The executable of a fixture, compiled if it is older than its source.
pub fn fixture_binary(name: &str, is_static: bool) -> PathBuf {
    static COMPILING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = COMPILING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let sources = repository().join("fixtures/programs");
    let rust = sources.join(format!("{name}.rs"));
    let source = if rust.is_file() { rust } else { sources.join(format!("{name}.c")) };
    let folder = target_folder().join("fixtures");
    std::fs::create_dir_all(&folder).expect("the target folder is writable");
    let binary = folder.join(if is_static { format!("{name}-static") } else { name.to_owned() });
    let newest = modified(&source).max(modified(&sources.join("fixture.h")));
    if binary.is_file() && modified(&binary) > newest {
        return binary;
    }
    let partial = folder.join(format!("{name}.{}.partial", std::process::id()));
    let mut command;
    if source.extension().is_some_and(|ending| ending == "rs") {
        command = Command::new("rustc");
        command.args(["--edition", "2024", "-O", "--crate-name", name]);
    } else {
        command = Command::new("cc");
        command.args(["-O1", "-Wall", "-pthread"]);
        if is_static {
            command.arg("-static");
        }
    }
    command.arg("-o").arg(&partial).arg(&source);
    if source.extension().is_some_and(|ending| ending == "c") {
        command.arg("-lm");
    }
    let output = command.output().expect("a compiler starts");
    assert!(output.status.success(), "{name} does not compile: {}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(&partial, &binary).expect("the target folder is writable");
    binary
}

/// The brant binary under test: `BRANT_BIN`, or the workspace's own, built first.
pub fn brant_binary() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            if let Some(path) = std::env::var_os("BRANT_BIN") {
                return PathBuf::from(path);
            }
            build_brant(if cfg!(debug_assertions) { "debug" } else { "release" })
        })
        .clone()
}

/// A brant with fault points (`brant_base::fault`): a debug build.
pub fn faulty_brant_binary() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build_brant("debug")).clone()
}

fn build_brant(profile: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "brant", "--bin", "brant"]).current_dir(repository());
    command.arg("--target-dir").arg(target_folder());
    if profile == "release" {
        command.arg("--release");
    }
    assert!(command.status().expect("cargo starts").success(), "brant does not build");
    target_folder().join(profile).join("brant")
}

/// The static brant: `BRANT_DIST`, or what `cargo xtask dist` makes.
pub fn static_brant_binary() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            if let Some(path) = std::env::var_os("BRANT_DIST") {
                return PathBuf::from(path);
            }
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut command = Command::new(cargo);
            command.args(["xtask", "dist"]).current_dir(repository());
            assert!(command.status().expect("cargo starts").success(), "the static brant does not build");
            target_folder().join("dist/brant")
        })
        .clone()
}

/// `target`, as seen from a test binary in `target/PROFILE/deps`.
pub(crate) fn target_folder() -> PathBuf {
    let here = std::env::current_exe().expect("a test binary knows its path");
    here.ancestors().nth(3).expect("a test binary lies in target/PROFILE/deps").to_owned()
}

fn modified(path: &Path) -> std::time::SystemTime {
    let metadata = path.metadata().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    metadata.modified().expect("file systems keep modification times")
}
