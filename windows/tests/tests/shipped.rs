//! Programs that nobody here wrote do under the wrappers `record` and `handles` what they do without: in C++, Rust and Go, of several compilers.

use brant_windows_tests::packages::{CLANG_FORMAT, ESBUILD, NINJA, RUFF, SEVEN_ZIP, SWIG};
use brant_windows_tests::{Built, Folder, Package, Wine, compile, shipped};

/// Runs the program in folders with the same files, bare, recorded, and with virtual handles.
fn check(package: &Package, arguments: &[&str], files: &[(&str, &str)], made: &[&str], expected: &str) {
    let wine = Wine::new("win10");
    let program = shipped(package);
    let run = |wrappers: &[&str]| {
        let folder = Folder::new();
        files.iter().for_each(|(name, text)| drop(folder.write(name, text)));
        let said = if wrappers.is_empty() {
            wine.run(&folder, &program, arguments, "")
        } else {
            let named = wrappers.iter().flat_map(|name| ["--wrap", name]);
            let words: Vec<&str> =
                ["run"].into_iter().chain(named).chain(["--", program.to_str().unwrap()]).collect();
            wine.brant(&folder, &[words.as_slice(), arguments].concat())
        };
        let made: Vec<String> = made.iter().map(|name| folder.read(name)).collect();
        (said.code, said.out, said.err, made)
    };
    let bare = run(&[]);
    assert!(bare.1.contains(expected), "{bare:?}");
    assert!(bare.3.iter().all(|text| !text.is_empty()), "{bare:?}");
    assert_eq!(bare, run(&["record"]));
    assert_eq!(bare, run(&["handles", "record"]));
}

#[test]
fn ninja_builds() {
    let build =
        "rule cp\n  command = cmd /c copy $in $out\nbuild out.txt: cp in.txt\nbuild more.txt: cp out.txt\n";
    let files = [("build.ninja", build), ("in.txt", "some text\n")];
    check(&NINJA, &["-j1"], &files, &["out.txt", "more.txt"], "[2/2]");
}

#[test]
fn clang_format_formats() {
    check(
        &CLANG_FORMAT,
        &["f.c"],
        &[("f.c", "int   main( ){return   0;}\n")],
        &[],
        "int main() { return 0; }",
    );
}

#[test]
fn ruff_checks() {
    check(&RUFF, &["check", "--no-cache", "m.py"], &[("m.py", "import os\nx = 1\n")], &[], "1 fixable");
}

#[test]
fn seven_zip_packs() {
    let text = "line after line\n".repeat(20_000);
    check(&SEVEN_ZIP, &["h", "-mmt2", "a.txt"], &[("a.txt", text.as_str())], &[], "Everything is Ok");
}

#[test]
fn esbuild_bundles() {
    let files = [
        ("t.ts", "import { x } from './u'; console.log(x + 1)\n"),
        ("u.ts", "export const x: number = 1 + 2\n"),
    ];
    check(
        &ESBUILD,
        &["t.ts", "--bundle", "--minify", "--log-level=error", "--outfile=out.js"],
        &files,
        &["out.js"],
        "",
    );
}

#[test]
fn a_program_of_32_bits_is_refused() {
    let (wine, folder) = (Wine::new("win10"), Folder::new());
    let program = shipped(&SWIG);
    let said = wine.brant(&folder, &["run", "--wrap", "record", "--", program.to_str().unwrap(), "-version"]);
    assert!(said.err.starts_with("brant: B-1305") || said.err.starts_with("brant: B-1306"), "{said:?}");
    assert_eq!(said.out, "");
}

/// Go's runtime has threads of its own, stops and moves them.
#[test]
fn a_program_in_go_is_recorded_while_it_runs() {
    let (wine, folder) = (Wine::new("win10"), Folder::new());
    let spawner = compile(&folder, "spawner", Built::Program, &[]);
    folder.write("t.ts", "console.log(1 + 2)\n");
    let program = format!("Z:{}", shipped(&ESBUILD).display());
    let mut running =
        wine.start(&folder, &spawner, &[program.as_str(), "t.ts", "--outfile=out.js", "--watch"]);
    running.wait_for("watching for changes");
    for turn in 0..3 {
        wine.brant(&folder, &["wrap", "record", &running.pid()]).ok();
        folder.write("t.ts", &format!("console.log(1 + 1{turn})\n"));
        let begin = std::time::Instant::now();
        while !folder.read("out.js").contains(&format!("1{turn}")) {
            assert!(begin.elapsed().as_secs() < 40, "{}", running.output());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let text = wine.brant(&folder, &["show", &running.pid()]).ok();
        assert!(text.contains("    CreateFileW  "), "{text}");
        wine.brant(&folder, &["unwrap", "record", &running.pid()]).ok();
    }
    assert_eq!(running.end().0, 0);
}
