//! Programs that nobody here wrote, carried: they do what they do without it, and those in scope move to another Windows version in the middle.

use std::process::Command;
use std::time::Duration;

use brant_windows_tests::packages::{CLANG_FORMAT, ESBUILD, NINJA, RUFF, SEVEN_ZIP};
use brant_windows_tests::{Folder, Package, Wine, shipped};

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
