//! What this machine can do for a test: users, commands, counts; and the skips where it cannot.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use crate::denied;

/// The user that plain rows run as where the tests themselves run as root.
const PLAIN_USER: &str = "brant-test";

/// Where programs under test are looked for: what the machine's packages installed, not what its user did.
pub(crate) const SYSTEM_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// As whom a test runs brant and the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// An ordinary uid without any capability, with a supplementary group.
    Plain,
    /// The same where no user namespaces are to be had; only where the tests run as root.
    Denied,
    /// Uid 0 with all capabilities; only where the tests run as root.
    Root,
}

impl Who {
    /// The words before a command that make it run as this user.
    pub(crate) fn prefix(self) -> Vec<String> {
        if !is_root() || self == Who::Root {
            return Vec::new();
        }
        let place = if self == Who::Denied { denied::prefix() } else { Vec::new() };
        let (uid, gid) = plain_user();
        let words =
            ["--reuid", &uid.to_string(), "--regid", &gid.to_string(), "--init-groups"].map(String::from);
        let mut prefix = [place, vec!["setpriv".to_owned()]].concat();
        prefix.extend(words);
        prefix.extend(["--inh-caps=-all", "--bounding-set=-all", "--"].map(String::from));
        prefix
    }

    /// The owner that this user's folders need, where it is not the test's own user.
    pub(crate) fn owner(self) -> Option<(u32, u32)> {
        (is_root() && self != Who::Root).then(plain_user)
    }
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether the counts are to be those of the issue rather than the short ones (`BRANT_FULL=1`).
pub fn is_full() -> bool {
    std::env::var_os("BRANT_FULL").is_some_and(|value| value != "0")
}

/// Whether `name` is an executable on the sandboxes' search path.
pub fn have_command(name: &str) -> bool {
    SYSTEM_PATH.split(':').any(|folder| Path::new(folder).join(name).is_file())
}

/// Records that a test cannot run for want of `ability`: on stderr, and in the file `BRANT_SKIPS` for CI.
pub fn skip(ability: &str) {
    eprintln!("SKIPPED for want of: {ability}");
    if let Some(path) = std::env::var_os("BRANT_SKIPS") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        let mut file = file.expect("BRANT_SKIPS is writable");
        writeln!(file, "{ability}").expect("BRANT_SKIPS is writable");
    }
}

/// The plain user's uid and gid; made on first use.
fn plain_user() -> (u32, u32) {
    static USER: OnceLock<(u32, u32)> = OnceLock::new();
    *USER.get_or_init(|| {
        if lookup("/etc/passwd", PLAIN_USER, 2).is_none() {
            let mut command = Command::new("useradd");
            command.args(["--create-home", "--user-group", "--shell", "/bin/bash"]);
            if lookup("/etc/group", "audio", 2).is_some() {
                command.args(["--groups", "audio"]);
            }
            // Another test binary may have made it meanwhile: what counts is that it exists.
            command.arg(PLAIN_USER).output().expect("useradd starts");
        }
        let uid = lookup("/etc/passwd", PLAIN_USER, 2).expect("useradd made the plain user");
        let gid = lookup("/etc/passwd", PLAIN_USER, 3).expect("the plain user has a group");
        (uid, gid)
    })
}

fn lookup(path: &str, name: &str, field: usize) -> Option<u32> {
    let text = std::fs::read_to_string(Path::new(path)).ok()?;
    let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(field)?.parse().ok()
}
