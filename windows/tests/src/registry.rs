//! Programs that nobody here wrote: Windows binaries in packages of PyPI and npm, by name, version and hash.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where a package comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registry {
    PyPi,
    Npm,
}

/// A package with a program in it.
#[derive(Debug, Clone, Copy)]
pub struct Package {
    pub registry: Registry,
    pub name: &'static str,
    pub version: &'static str,
    /// Of the package's file.
    pub sha256: &'static str,
    /// The program's path in it.
    pub program: &'static str,
}

/// The program of a package, which is downloaded once and kept under `target`.
#[track_caller]
pub fn shipped(package: &Package) -> PathBuf {
    let wine =
        PathBuf::from(std::env::var_os("BRANT_WINE").expect("BRANT_WINE: cargo xtask windows sets it"));
    let kept = wine.with_file_name("windows-downloads");
    let folder = kept.join(format!("{}-{}", package.name.replace(['/', '@'], "_"), package.version));
    let program = folder.join(package.program);
    if !program.is_file() {
        // Whole under its name or not at all.
        let partial = folder.with_extension(format!("partial-{}", std::process::id()));
        std::fs::create_dir_all(&partial).expect("a folder");
        fetch(package, &partial);
        let _ = std::fs::rename(&partial, &folder);
        let _ = std::fs::remove_dir_all(&partial);
    }
    assert!(program.is_file(), "{} has no {}", package.name, package.program);
    program
}

fn fetch(package: &Package, folder: &Path) {
    let Package { registry, name, version, .. } = package;
    match registry {
        Registry::PyPi => {
            let wanted = format!("{name}=={version}");
            let args = [
                "-m",
                "pip",
                "download",
                "-q",
                "--only-binary=:all:",
                "--platform",
                "win_amd64",
                "--no-deps",
                "-d",
                ".",
            ];
            run(folder, Command::new("python3").args(args).arg(wanted));
        }
        Registry::Npm => run(folder, Command::new("npm").args(["pack", "-s", &format!("{name}@{version}")])),
    }
    let file =
        std::fs::read_dir(folder).expect("the folder").flatten().next().expect("a package's file").path();
    let sum = Command::new("sha256sum").arg(&file).output().expect("sha256sum").stdout;
    let sum = String::from_utf8_lossy(&sum).split(' ').next().unwrap_or_default().to_owned();
    assert_eq!(sum, package.sha256, "{name} {version} is another file than it was");
    match registry {
        Registry::PyPi => {
            run(folder, Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&file).arg("."))
        }
        Registry::Npm => run(folder, Command::new("tar").arg("-xzf").arg(&file)),
    }
}

fn run(folder: &Path, command: &mut Command) {
    let output = command.current_dir(folder).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
