//! A place where user namespaces are denied: a user namespace of root's own, in which their number is limited to none.
//!
//! Made once by each test binary that asks for it; a process holds it that ends with the test binary. Its users have the
//! numbers that they have outside.

use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;

use crate::sandbox::wait_until;

/// Users and groups that exist in it, from 0 on.
const IDS: u32 = 65_000;

struct Holder {
    child: Child,
    /// Its end ends the holder.
    _open: Option<ChildStdin>,
}

/// The words before a command that make root run it there, as root.
pub(crate) fn prefix() -> Vec<String> {
    static HOLDER: OnceLock<Holder> = OnceLock::new();
    let holder = HOLDER.get_or_init(hold).child.id().to_string();
    ["nsenter", "--target", &holder, "--user", "--preserve-credentials", "--"].map(String::from).to_vec()
}

fn hold() -> Holder {
    let mut command = Command::new("unshare");
    let mut child = command.args(["--user", "cat"]).stdin(Stdio::piped()).spawn().expect("unshare starts");
    let id = child.id();
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/user")).ok();
    let is_apart = || namespace(&id.to_string()).is_some_and(|own| Some(own) != namespace("self"));
    assert!(wait_until(30, is_apart), "no user namespace was made");
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{id}/{map}"), format!("0 0 {IDS}\n")).expect("root may map users");
    }
    let open = child.stdin.take();
    let denied = Command::new("nsenter")
        .args(["--target", &id.to_string(), "--user", "--preserve-credentials", "--"])
        .args(["sh", "-c", "echo 0 > /proc/sys/user/max_user_namespaces"])
        .status();
    assert!(denied.expect("nsenter starts").success(), "the limit was not set");
    Holder { child, _open: open }
}
