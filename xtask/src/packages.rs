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
    ("curl", "curl"),
    ("ip", "iproute2"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("debootstrap", "debootstrap"),
    ("sshd", "openssh-server"),
    ("ssh", "openssh-client"),
    ("/usr/include/sqlite3.h", "libsqlite3-dev"),
    ("chromium", "chromium"),
];

/// What `cargo xtask windows` needs: a Wine, a linker, and a compiler that comes with the source of its standard library.
pub(crate) const WINDOWS: &[(&str, &str)] = &[
    ("wine", "wine"),
    ("/usr/lib/wine/wine64", "wine64"),
    ("x86_64-w64-mingw32-gcc", "gcc-mingw-w64-x86-64"),
    ("/usr/bin/rustc", "rustc-web"),
    ("/usr/bin/cargo", "cargo-web"),
    ("/usr/bin/cargo-clippy", "rust-web-clippy"),
    ("/usr/lib/rustlib/src/rust/library/Cargo.toml", "rust-web-src"),
    ("pip3", "python3-pip"),
    ("npm", "npm"),
];

/// What the end-to-end tests need and is not on the search path.
pub(crate) fn missing() -> Vec<Needed> {
    missing_of(NEEDED)
}

fn missing_of(needed: &[(&str, &'static str)]) -> Vec<Needed> {
    // The tests look there too: what a user installed for himself the tests' plain user may not reach.
    let folders = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(Path::new);
    let is_missing = |command: &str| !folders.iter().any(|folder| folder.join(command).is_file());
    let missing = needed.iter().filter(|(command, _)| is_missing(command));
    missing.map(|(command, package)| Needed { command: (*command).to_owned(), package }).collect()
}

/// Installs what the end-to-end tests need where this may be done, else names it. Tests skip what they cannot run.
pub(crate) fn provide() {
    provide_of(NEEDED);
    // For programs of musl that have heaps of ours. Where the compiler did not come by rustup, such tests are skipped.
    let musl = ["target", "add", "x86_64-unknown-linux-musl"];
    if !Command::new("rustup").args(musl).status().is_ok_and(|status| status.success()) {
        println!("still missing: Rust's library for musl");
    }
}

/// The same for what `cargo xtask windows` needs. Tells whether all is there.
pub(crate) fn provide_windows() -> bool {
    provide_of(WINDOWS)
}

/// The packages that are missing for `cargo xtask windows`.
pub(crate) fn missing_for_windows() -> Vec<&'static str> {
    let mut packages: Vec<&str> = missing_of(WINDOWS).iter().map(|needed| needed.package).collect();
    packages.dedup();
    packages
}

fn provide_of(needed: &[(&str, &'static str)]) -> bool {
    let wanted = missing_of(needed);
    if wanted.is_empty() {
        println!("all there");
        return true;
    }
    let mut packages: Vec<&str> = wanted.iter().map(|needed| needed.package).collect();
    packages.dedup();
    if !is_root() {
        println!("missing, and only root may install: apt-get install {}", packages.join(" "));
        return false;
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
    let missing = missing_of(needed);
    for needed in &missing {
        println!("still missing: {} (package {})", needed.command, needed.package);
    }
    missing.is_empty()
}

/// Whether this is root: the owner of our own /proc entry.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}
