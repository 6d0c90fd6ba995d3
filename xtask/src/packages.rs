//! The programs that the end-to-end tests run, and the Debian packages that hold them.

use std::path::Path;
use std::process::Command;

/// A command that a test needs.
#[derive(Clone, Debug)]
pub(crate) struct Needed {
    pub(crate) command: String,
    package: &'static str,
}

const NEEDED: &[(&str, &str)] = &[
    ("python3", "python3"),
    ("bash", "bash"),
    ("sqlite3", "sqlite3"),
    ("redis-server", "redis-server"),
    ("redis-cli", "redis-tools"),
    ("redis-benchmark", "redis-tools"),
    ("nginx", "nginx-light"),
    ("perl", "perl"),
    ("node", "nodejs"),
    ("javac", "openjdk-17-jdk-headless"),
    ("java", "openjdk-17-jdk-headless"),
    ("gcc", "gcc"),
    ("cc", "gcc"),
    ("c++", "g++"),
    ("musl-gcc", "musl-tools"),
    ("vim", "vim"),
    ("go", "golang-go"),
    ("setpriv", "util-linux"),
    ("setsid", "util-linux"),
    ("prlimit", "util-linux"),
    ("useradd", "passwd"),
    ("script", "bsdutils"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("debootstrap", "debootstrap"),
    ("sshd", "openssh-server"),
    ("ssh", "openssh-client"),
];

/// What is not on the search path.
pub(crate) fn missing() -> Vec<Needed> {
    // The tests look there too: what a user installed for himself the tests' plain user may not reach.
    let folders = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(Path::new);
    let is_missing = |command: &str| !folders.iter().any(|folder| folder.join(command).is_file());
    let missing = NEEDED.iter().filter(|(command, _)| is_missing(command));
    missing.map(|(command, package)| Needed { command: (*command).to_owned(), package }).collect()
}

/// Installs what is missing where this may be done, else names it. Tests skip what they cannot run.
pub(crate) fn provide() {
    let wanted = missing();
    if wanted.is_empty() {
        println!("all there");
        return;
    }
    let mut packages: Vec<&str> = wanted.iter().map(|needed| needed.package).collect();
    packages.dedup();
    if !is_root() {
        println!("missing, and only root may install: apt-get install {}", packages.join(" "));
        return;
    }
    let apt = |args: &[&str]| {
        let status = Command::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive").status();
        status.is_ok_and(|status| status.success())
    };
    // A service that a package starts would be in the way of nothing, but is not wanted either.
    let _ = apt(&["update", "-qq"]);
    if !apt(&[&["install", "-qq", "-y", "--no-install-recommends"], packages.as_slice()].concat()) {
        for package in packages {
            apt(&["install", "-qq", "-y", "--no-install-recommends", package]);
        }
    }
    for needed in missing() {
        println!("still missing: {} (package {})", needed.command, needed.package);
    }
}

/// Whether this is root: the owner of our own /proc entry.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}
