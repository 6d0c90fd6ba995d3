//! As whom Windows programs run, where the tests run as root: `cargo xtask windows` says by BRANT_WINE_AS how to become an ordinary user.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A command that runs as the user.
pub(crate) fn command(program: &str) -> Command {
    let become_user = std::env::var("BRANT_WINE_AS").unwrap_or_default();
    let mut words = become_user.split_whitespace().chain([program]);
    let mut command = Command::new(words.next().unwrap_or(program));
    command.args(words);
    command
}

/// Gives a test's file to the user: the prefixes' owner.
pub(crate) fn give(path: &Path) {
    if std::env::var_os("BRANT_WINE_AS").is_some() {
        let wine = PathBuf::from(std::env::var_os("BRANT_WINE").expect("cargo xtask windows sets it"));
        let owner = std::fs::metadata(wine).expect("the prefixes are there");
        std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid())).expect("root gives files");
    }
}
