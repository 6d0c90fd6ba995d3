//! Makes the library with the mediators of all wrappers that ship. brant carries it in itself.

use std::path::{Path, PathBuf};
use std::process::Command;

/// No start files and no libraries: the two functions that it imports are those of the program's own C library.
const FLAGS: [&str; 5] = [
    "-Clink-arg=-nostdlib",
    "-Clink-arg=-Wl,-Bsymbolic",
    "-Clink-arg=-Wl,-z,now",
    "-Clink-arg=-Wl,--build-id=none",
    "-Cforce-unwind-tables=yes",
];

fn main() {
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    for part in [
        "src",
        "definitions",
        "Cargo.toml",
        "../mediator/src",
        "../mediator/Cargo.toml",
        "../identity/src",
        "../record/src/layout.rs",
    ] {
        println!("cargo:rerun-if-changed={}", here.join(part).display());
    }
    // The library itself.
    if std::env::var_os("CARGO_FEATURE_LOADED").is_some() {
        return;
    }
    let built = build(&here.join("Cargo.toml"), &out.join("target"));
    std::fs::copy(built, out.join("wrappers.so")).expect("the build folder is writable");
}

fn build(manifest: &Path, target: &Path) -> PathBuf {
    let mut command = Command::new(std::env::var_os("CARGO").expect("cargo sets it"));
    command.args([
        "rustc",
        "--quiet",
        "--lib",
        "--release",
        "--features",
        "loaded",
        "--crate-type",
        "cdylib",
    ]);
    command.arg("--manifest-path").arg(manifest).arg("--target-dir").arg(target);
    // Those of the outer build are for brant: they may ask for a static libc, or for a sanitizer.
    for name in ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET"] {
        command.env_remove(name);
    }
    // For the library only: flags in the environment would be for this build script too.
    command.arg("--").args(FLAGS).env_remove("CARGO_ENCODED_RUSTFLAGS");
    command.env("CARGO_PROFILE_RELEASE_PANIC", "abort").env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    command.env("CARGO_PROFILE_RELEASE_DEBUG", "false").env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "false");
    let status = command.status().expect("cargo starts");
    assert!(status.success(), "the wrappers do not build");
    target.join("release/libbrant_wrappers.so")
}
