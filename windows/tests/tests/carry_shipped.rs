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

/// Starts the program, gives it a part of its input, moves it to another Windows version, gives it the next part there, and so on. What it printed, on all of them.
fn moved(package: &Package, arguments: &[&str], folder: &Folder, input: &[&str]) -> String {
    let (mut wine, program) = (Wine::new("win10"), shipped(package));
    let words = ["run", "--carry", "--pid-file", "pid", "--", program.to_str().unwrap()];
    let mut running = wine.start_unannounced(folder, &[&words, arguments].concat(), "pid");
    let mut printed = String::new();
    for (hop, part) in input.iter().enumerate() {
        running.say(part);
        if hop + 1 == input.len() {
            break;
        }
        // The first one takes its time to begin.
        std::thread::sleep(Duration::from_millis(if hop == 0 { 3000 } else { 300 }));
        let image = format!("{hop}.brant");
        wine.brant(folder, &["checkpoint", &running.pid(), "-o", &image, "--stop"]).ok();
        let (code, before) = running.end();
        assert_eq!(code, 137, "{before}");
        printed += &before;
        wine = Wine::new(["win7", "winxp64", "win10"][hop % 3]);
        let pid_file = format!("{hop}.pid");
        // Wine then puts libraries so low that a number may look like an address of theirs, which the next checkpoint would refuse (B-1330): there is none after the last hop.
        let is_last = hop + 2 == input.len();
        let places: &[&str] = if is_last { &["--taken", USUAL_PLACES] } else { &[] };
        let words = [&["restore", &image, "--pid-file", &pid_file], places].concat();
        running = wine.start_unannounced(folder, &words, &pid_file);
    }
    let (code, rest) = running.end();
    assert_eq!(code, 0, "{printed}{rest}");
    printed + &rest
}

#[test]
fn clang_format_moves_while_it_reads() {
    let folder = Folder::new();
    let parts = ["int  main( ){", "f( 1);", "g ( 2 ) ;", "h(3 );", "return   0;}"];
    let printed = moved(&CLANG_FORMAT, &["--style={ColumnLimit: 200}"], &folder, &parts);
    for line in ["int main() {\n", "  f(1);\n", "  g(2);\n", "  h(3);\n", "  return 0;\n}\n"] {
        assert!(printed.contains(line), "{printed}");
    }
}

#[test]
fn seven_zip_moves_while_it_packs() {
    let folder = Folder::new();
    let parts = ["first line", "second line", "third line", "fourth line", "last line"];
    let printed = moved(&SEVEN_ZIP, &["a", "-tgzip", "-si", "out.gz"], &folder, &parts);
    assert!(printed.contains("Everything is Ok"), "{printed}");
    let unpacked = Command::new("gzip").args(["-dc", "out.gz"]).current_dir(folder.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&unpacked.stdout), parts.map(|part| format!("{part}\n")).concat());
}
