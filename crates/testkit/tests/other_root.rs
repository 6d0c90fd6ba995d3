//! Other root file systems than the one that programs were checkpointed in.
#![forbid(unsafe_code)]

use std::process::Command;

use brant_testkit::{Sandbox, Who, is_root, skip, static_brant_binary};

#[test]
fn the_static_brant_needs_no_other_file() {
    if !is_root() {
        return skip("root");
    }
    let sandbox = Sandbox::new(Who::Root);
    let root = sandbox.path("empty");
    std::fs::create_dir(&root).expect("the sandbox is writable");
    std::fs::copy(static_brant_binary(), root.join("brant")).expect("the sandbox is writable");
    let run = |args: &[&str]| {
        let output = Command::new("chroot")
            .arg(&root)
            .arg("/brant")
            .args(args)
            .env_clear()
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .output();
        output.expect("chroot starts")
    };
    let version = run(&["--version"]);
    assert!(version.status.success(), "{version:?}");
    assert!(String::from_utf8_lossy(&version.stdout).starts_with("brant "), "{version:?}");
    // Without /proc it can do nothing, and says so.
    let check = run(&["check", "1"]);
    assert!(matches!(check.status.code(), Some(1 | 4)), "{check:?}");
    assert!(String::from_utf8_lossy(&check.stderr).contains("B-0"), "{check:?}");
    let doctor = run(&["doctor"]);
    assert!(doctor.status.code().is_some(), "{doctor:?}");
}
