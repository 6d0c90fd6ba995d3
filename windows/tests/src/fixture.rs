//! Programs and mediators in C, built by mingw when a test needs them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Folder;

/// What is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Built {
    Program,
    /// A library with mediators, or one that a program loads.
    Library,
}

/// Builds `windows/fixtures/NAME.c` into the folder. Its path.
pub fn compile(folder: &Folder, name: &str, built: Built, flags: &[&str]) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = here.join(format!("../fixtures/{name}.c"));
    let ending = if built == Built::Program { "exe" } else { "dll" };
    let result = folder.path().join(format!("{name}.{ending}"));
    let mut command = Command::new("x86_64-w64-mingw32-gcc");
    command.args(["-O1", "-Wall", "-Wextra", "-Werror", "-I"]).arg(here.join("../../include"));
    if built == Built::Library {
        command.arg("-shared");
    }
    let output = command.arg("-o").arg(&result).arg(source).args(flags).output().expect("mingw's compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    result
}
