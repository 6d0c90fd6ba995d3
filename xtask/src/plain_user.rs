//! The user that Wine and the tests' Windows programs run as where the chores run as root: users are not root.
//!
//! It is the one that the end-to-end tests of Linux have (`crates/testkit/src/ability.rs`): an ordinary uid without any capability, with a
//! supplementary group.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::packages::is_root;

const NAME: &str = "brant-test";
const UID: usize = 2;
const GID: usize = 3;
const HOME: usize = 5;

/// An ordinary user.
#[derive(Clone, Debug)]
pub(crate) struct PlainUser {
    uid: u32,
    gid: u32,
    home: String,
}

/// The user, who is made on first use. Nothing where this is not root: then it is whoever runs this.
pub(crate) fn plain_user() -> Result<Option<PlainUser>, String> {
    if !is_root() {
        return Ok(None);
    }
    if field("/etc/passwd", UID).is_none() {
        let mut command = Command::new("useradd");
        command.args(["--create-home", "--user-group", "--shell", "/bin/bash"]);
        if std::fs::read_to_string("/etc/group").is_ok_and(|text| text.contains("\naudio:")) {
            command.args(["--groups", "audio"]);
        }
        command.arg(NAME).status().map_err(|error| format!("useradd does not start: {error}"))?;
    }
    let of = |which| field("/etc/passwd", which).ok_or_else(|| format!("there is no user {NAME}"));
    let number = |which| of(which)?.parse().map_err(|_| format!("{NAME} has no number"));
    Ok(Some(PlainUser { uid: number(UID)?, gid: number(GID)?, home: of(HOME)? }))
}

fn field(path: &str, which: usize) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.split(':').next() == Some(NAME))?;
    line.split(':').nth(which).map(str::to_owned)
}

impl PlainUser {
    /// The words before a command that make it run as this user.
    pub(crate) fn prefix(&self) -> Vec<String> {
        let (home, name) = (format!("HOME={}", self.home), format!("USER={NAME}"));
        let log_name = format!("LOGNAME={NAME}");
        let (uid, gid) = (self.uid.to_string(), self.gid.to_string());
        let words = [
            "setpriv",
            "--reuid",
            &uid,
            "--regid",
            &gid,
            "--init-groups",
            "--inh-caps=-all",
            "--bounding-set=-all",
            "--",
            "env",
            &home,
            &name,
            &log_name,
        ];
        words.map(str::to_owned).to_vec()
    }

    /// Whether a folder and what is above it are open to this user.
    pub(crate) fn reaches(&self, folder: &Path) -> bool {
        let words = self.prefix();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(["test", "-x"]).arg(folder);
        command.stdin(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    /// Whether this user owns a file.
    pub(crate) fn owns(&self, path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata(path).is_ok_and(|metadata| metadata.uid() == self.uid)
    }

    /// Gives it a file.
    pub(crate) fn give(&self, path: &Path) -> Result<(), String> {
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid))
            .map_err(|error| format!("{}: {error}", path.display()))
    }
}
