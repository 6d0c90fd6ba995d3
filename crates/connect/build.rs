//! Makes the runtime: `brant-runtime` as a shared object that imports nothing. brant carries it in itself.

use std::path::{Path, PathBuf};
use std::process::Command;

/// No start files, no libraries; what is exported is used as it is here, and nothing is resolved late.
const FLAGS: [&str; 8] = [
    "-Clink-arg=-nostdlib",
    "-Clink-arg=-Wl,-Bsymbolic",
    "-Clink-arg=-Wl,-z,now",
    "-Clink-arg=-Wl,--no-undefined",
    "-Clink-arg=-Wl,--build-id=none",
    "-Cpanic=abort",
    "-Cforce-unwind-tables=yes",
    "-Cstrip=symbols",
];

fn main() {
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    for folder in ["runtime", "hook", "mediator"] {
        for part in ["src", "Cargo.toml"] {
            println!("cargo:rerun-if-changed={}", here.join("..").join(folder).join(part).display());
        }
    }
    let built = build(&here.join("../runtime/Cargo.toml"), &out.join("target"));
    std::fs::copy(built, out.join("runtime.so")).expect("the build folder is writable");
}

fn build(manifest: &Path, target: &Path) -> PathBuf {
    let mut command = Command::new(std::env::var_os("CARGO").expect("cargo sets it"));
    command.args(["rustc", "--quiet", "--release", "--features", "loaded", "--crate-type", "cdylib"]);
    command.arg("--manifest-path").arg(manifest).arg("--target-dir").arg(target);
    // Those of the outer build are for brant: they may ask for a static libc, or for a sanitizer.
    for name in ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET"] {
        command.env_remove(name);
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    command.env("CARGO_PROFILE_RELEASE_DEBUG", "false").env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "false");
    let status = command.status().expect("cargo starts");
    assert!(status.success(), "the runtime does not build");
    target.join("release/libbrant_runtime.so")
}
