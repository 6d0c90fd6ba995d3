//! Programs that nobody here wrote, carried: they do what they do without it, and those in scope move to another Windows version in the middle.

use std::process::Command;
use std::time::Duration;

use brant_windows_tests::{Folder, Package, Registry, Wine, shipped};

/// C++, by Microsoft's compiler, with its libraries.
const CLANG_FORMAT: Package = Package {
    registry: Registry::PyPi,
    name: "clang-format",
    version: "16.0.6",
    sha256: "e59d80c1ebb4caa744ab6a47200d24bf27bca773834eec0386c7a90e5a6caf1c",
    program: "clang_format/data/bin/clang-format.exe",
};
/// C++, with msvcrt.
const SEVEN_ZIP: Package = Package {
    registry: Registry::Npm,
    name: "7zip-bin",
    version: "5.2.0",
    sha256: "04f9738ee00be8be53f5d06254a9e6e4b5117b17f8b74058477d870e62764a7d",
    program: "package/win/x64/7za.exe",
};
/// Rust.
const RUFF: Package = Package {
    registry: Registry::PyPi,
    name: "ruff",
    version: "0.1.9",
    sha256: "c497d769164df522fdaf54c6eba93f397342fe4ca2123a2e014a5b8fc7df81c7",
    program: "ruff-0.1.9.data/scripts/ruff.exe",
};
/// Go.
const ESBUILD: Package = Package {
    registry: Registry::Npm,
    name: "@esbuild/win32-x64",
    version: "0.19.8",
    sha256: "9f49a67b61c375b7edb37bf834f693c13cd75b046a408d3a6c32c90c430b2172",
    program: "package/esbuild.exe",
};
/// C++, with its C library in itself.
const NINJA: Package = Package {
    registry: Registry::PyPi,
    name: "ninja",
    version: "1.11.1.1",
    sha256: "95da904130bfa02ea74ff9c0116b4ad266174fafb1c707aa50212bc7859aebf1",
    program: "ninja/data/bin/ninja.exe",
};

/// Where kernelbase, kernel32, msvcrt, ucrtbase and the agent lie otherwise.
const USUAL_PLACES: &str = "7b000000,7b600000,228280000,2c7470000,180000000";

/// Runs the program in two folders, once bare and once carried.
fn check(package: &Package, arguments: &[&str], files: &[(&str, &str)], input: &str, expected: &str) {
    let (wine, program) = (Wine::new("win10"), shipped(package));
    let run = |is_carried: bool| {
        let folder = Folder::new();
        files.iter().for_each(|(name, text)| drop(folder.write(name, text)));
        let said = if is_carried {
            let words = ["run", "--carry", "--", program.to_str().unwrap()];
            wine.brant_with(&folder, &[&words, arguments].concat(), input)
        } else {
            wine.run(&folder, &program, arguments, input)
        };
        (said.code, said.out, said.err)
    };
    let (bare, carried) = (run(false), run(true));
    assert_eq!(bare, carried);
    assert!(bare.1.contains(expected), "{bare:?}");
}

#[test]
fn shipped_programs_run_carried_as_they_do_otherwise() {
    check(&CLANG_FORMAT, &[], &[], "int  main( ){return   0;}\n", "int main() { return 0; }");
    check(&RUFF, &["check", "--no-cache", "-"], &[], "import os\nx = 1\n", "F401");
    check(&ESBUILD, &["--loader=ts"], &[], "let x: number = 1\n", "let x = 1;");
    let build = "rule cp\n  command = cmd /c copy $in $out\nbuild out.txt: cp in.txt\n";
    check(&NINJA, &["-j1"], &[("build.ninja", build), ("in.txt", "some text\n")], "", "[1/1]");
}

/// Starts the program, gives it a part of its input, moves it to another Windows version and gives it the rest there. What it printed, on both.
fn moved(package: &Package, arguments: &[&str], folder: &Folder, input: [&str; 2]) -> String {
    let (wine, program) = (Wine::new("win10"), shipped(package));
    let words = ["run", "--carry", "--pid-file", "pid", "--", program.to_str().unwrap()];
    let mut running = wine.start_unannounced(folder, &[&words, arguments].concat(), "pid");
    running.say(input[0]);
    std::thread::sleep(Duration::from_secs(3));
    wine.brant(folder, &["checkpoint", &running.pid(), "-o", "image.brant", "--stop"]).ok();
    let (code, before) = running.end();
    assert_eq!(code, 137, "{before}");
    let said =
        Wine::new("win7").brant_with(folder, &["restore", "image.brant", "--taken", USUAL_PLACES], input[1]);
    before + &said.ok()
}

#[test]
fn clang_format_moves_while_it_reads() {
    let folder = Folder::new();
    let printed = moved(&CLANG_FORMAT, &[], &folder, ["int  main( ){", "return   0;}\n"]);
    assert_eq!(printed, "int main() { return 0; }\n");
}

#[test]
fn seven_zip_moves_while_it_packs() {
    let folder = Folder::new();
    let printed =
        moved(&SEVEN_ZIP, &["a", "-tgzip", "-si", "out.gz"], &folder, ["first line", "second line\n"]);
    assert!(printed.contains("Everything is Ok"), "{printed}");
    let unpacked = Command::new("gzip").args(["-dc", "out.gz"]).current_dir(folder.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&unpacked.stdout), "first line\nsecond line\n");
}
