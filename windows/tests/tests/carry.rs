//! Programs that are captured and brought back, between prefixes of different Windows versions and with the system's libraries elsewhere.

use std::process::Command;
use std::time::Duration;

use brant_image::Image;
use brant_image::inspect::inspect;
use brant_windows_tests::{Built, Folder, Running, Said, Wine, compile, windows_path};

/// Where kernelbase, kernel32, msvcrt and the agent lie otherwise.
const USUAL_PLACES: &str = "7b000000,7b600000,228280000,180000000";

/// Starts `carried.c` to be carried, and waits until it is set up.
fn start(wine: &Wine, folder: &Folder) -> Running {
    let program = compile(folder, "carried", Built::Program, &[]);
    let words = ["run", "--carry", "--", &windows_path(&program), "first word", "notes.txt"];
    let mut running = wine.start_by_brant(folder, &words);
    running.wait_for("ready");
    running
}

fn check(running: &mut Running, count: u32) {
    running.say("check");
    running.wait_for(&format!("checked {count}"));
}

fn checkpoint(wine: &Wine, folder: &Folder, pid: &str, image: &str, more: &[&str]) -> Said {
    let words = [&["checkpoint", pid, "-o", image], more].concat();
    wine.brant(folder, &words)
}

#[test]
fn carried_programs_run_as_others_do() {
    let (wine, folder) = (Wine::new("win10"), Folder::new());
    let program = compile(&folder, "carried", Built::Program, &[]);
    let input = "check\ncheck\nend\n";
    let plain = wine.run(&folder, &program, &["first word", "notes.txt"], input);
    let words = ["run", "--carry", "--", &windows_path(&program), "first word", "notes.txt"];
    let carried = wine.brant_with(&folder, &words, input);
    assert_eq!((plain.code, carried.code), (7, 7), "{}{}", carried.out, carried.err);
    let rest = |said: &Said| said.out.split_once('\n').map(|(_, rest)| rest.to_owned());
    assert_eq!(rest(&plain), rest(&carried));
    assert_eq!(folder.read("notes.txt").replace('\r', ""), "begun\nchecked\nchecked\nended\n");
}

#[test]
fn a_program_goes_on_after_its_checkpoint() {
    let (wine, folder) = (Wine::new("win10"), Folder::new());
    let mut running = start(&wine, &folder);
    check(&mut running, 1);
    for round in 1..=5 {
        let said = checkpoint(&wine, &folder, &running.pid(), &format!("{round}.brant"), &[]).ok();
        assert!(said.contains("goes on"), "{said}");
        check(&mut running, round + 1);
    }
    running.say("end");
    let (code, output) = running.end();
    assert_eq!((code, output.ends_with("over\n")), (7, true), "{output}");
}

#[test]
fn a_program_moves_between_windows_versions() {
    let folder = Folder::new();
    let mut wine = Wine::new("win10");
    let mut running = start(&wine, &folder);
    let hops = [
        ("win7", ""),
        ("winxp64", USUAL_PLACES),
        ("win10", USUAL_PLACES),
        ("winxp64", ""),
        ("win7", USUAL_PLACES),
    ];
    let mut checks = 0;
    for (version, taken) in hops {
        checks += 1;
        check(&mut running, checks);
        let image = format!("{checks}.brant");
        let said = checkpoint(&wine, &folder, &running.pid(), &image, &["--stop"]).ok();
        assert!(said.contains("has ended"), "{said}");
        assert_eq!(running.end().0, 137);
        wine = Wine::new(version);
        let words: &[&str] =
            if taken.is_empty() { &["restore", &image] } else { &["restore", &image, "--taken", taken] };
        running = wine.start_by_brant(&folder, words);
    }
    check(&mut running, checks + 1);
    running.say("end");
    let (code, output) = running.end();
    assert_eq!((code, output.ends_with("over\n")), (7, true), "{output}");
    let notes = folder.read("notes.txt").replace('\r', "");
    assert_eq!(notes, format!("begun\n{}ended\n", "checked\n".repeat(6)));
}

#[test]
fn an_image_is_one_of_linux_too() {
    let (wine, folder) = (Wine::new("win10"), Folder::new());
    let mut running = start(&wine, &folder);
    checkpoint(&wine, &folder, &running.pid(), "image.brant", &[]).ok();
    check(&mut running, 1);
    let image = Image::open(std::fs::File::open(folder.path().join("image.brant")).unwrap()).unwrap();
    image.verify().unwrap();
    let text = inspect(&image).to_string();
    for wanted in [
        "carried.exe",
        "threads (4)",
        "Sleep",
        "WaitForSingleObject",
        "mutex, owned",
        "semaphore, 2 of 5",
        "thread, ended with 42",
        "notes.txt at",
    ] {
        assert!(text.contains(wanted), "{wanted} is not in {text}");
    }
}

/// The tools of the Linux brant, as a person has them.
#[test]
fn the_linux_brant_tells_of_an_image_and_does_not_restore_it() {
    let (wine, folder) = (Wine::new("win7"), Folder::new());
    let running = start(&wine, &folder);
    checkpoint(&wine, &folder, &running.pid(), "image.brant", &[]).ok();
    let pid = running.pid();
    let brant = |words: &[&str]| {
        let program = std::env::var_os("BRANT_BIN").expect("BRANT_BIN: cargo xtask windows sets it");
        let output = Command::new(program).args(words).current_dir(folder.path()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, text, err) = brant(&["image", "inspect", "image.brant"]);
    assert_eq!(code, Some(0), "{err}");
    let program = windows_path(&folder.path().join("carried.exe"));
    for wanted in [
        "(Windows 6.1.7601, x86_64)\n",
        &format!("Windows program {pid}, {program}\n"),
        "threads (4)\n",
        " mutex, owned\n",
        "  brant.exe, on Windows or under Wine, x86_64\n",
    ] {
        assert!(text.contains(wanted), "{wanted} is not in {text}");
    }
    let (_, json, err) = brant(&["image", "inspect", "--json", "image.brant"]);
    let json: serde_json::Value =
        serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {err}"));
    assert_eq!(json["windows"]["pid"].to_string(), pid);
    assert_eq!(json["windows"]["program"], program.as_str());
    assert_eq!(json["windows"]["threads"].as_array().map(Vec::len), Some(4));
    let (code, _, err) = brant(&["image", "inspect", "--html", "page.html", "image.brant"]);
    assert_eq!(code, Some(0), "{err}");
    let page = folder.read("page.html");
    // The image's own facts once, and then the program.
    assert!(page.contains("threads (4)") && !page.contains("needs from the host\n"), "{page}");
    let (code, text, err) = brant(&["image", "verify", "image.brant"]);
    assert!(code == Some(0) && text.contains("whole"), "{text}{err}");
    let (code, _, err) = brant(&["restore", "image.brant"]);
    assert!(
        code == Some(5) && err.contains("B-0424") && err.contains("use brant.exe restore"),
        "{code:?} {err}"
    );
    assert_eq!(running.end().0, 7);
}

#[test]
fn what_cannot_be_carried_is_named_and_the_program_goes_on() {
    let (wine, folder) = (Wine::new("win10"), Folder::new());
    let program = windows_path(&compile(&folder, "unknown", Built::Program, &["-lws2_32"]));
    for (what, named) in [
        ("socket", "WSAStartup"),
        ("mapping", "CreateFileMappingA"),
        ("search", "search of files"),
        ("child", "CreateProcessA"),
        ("exception handler", "AddVectoredExceptionHandler"),
    ] {
        let mut running = wine.start_by_brant(&folder, &["run", "--carry", "--", &program, what]);
        running.wait_for("ready");
        let said = checkpoint(&wine, &folder, &running.pid(), "image.brant", &["--stop"]);
        assert_eq!(said.code, 3, "{}{}", said.out, said.err);
        assert!(said.err.contains("B-1330") && said.err.contains(named), "{}", said.err);
        assert!(!folder.path().join("image.brant").exists());
        running.say("there?");
        running.wait_for("still here");
        assert_eq!(running.end().0, 3);
    }
    // A program that was started without it says so.
    let mut running = wine.start(&folder, &folder.path().join("unknown.exe"), &["none"]);
    running.wait_for("ready");
    let said = checkpoint(&wine, &folder, &running.pid(), "image.brant", &[]);
    assert!(said.err.contains("was not started to be carried"), "{}", said.err);
    assert_eq!(running.end().0, 3);
}

#[test]
fn a_damaged_image_and_another_program_are_refused() {
    let (wine, folder) = (Wine::new("win10"), Folder::new());
    let running = start(&wine, &folder);
    checkpoint(&wine, &folder, &running.pid(), "image.brant", &["--stop"]).ok();
    assert_eq!(running.end().0, 137);
    let path = folder.path().join("image.brant");
    let whole = std::fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(&path, damaged).unwrap();
    let said = wine.brant(&folder, &["restore", "image.brant"]);
    assert!(said.code == 125 && said.err.contains("B-1331"), "{}", said.err);
    std::fs::write(&path, whole).unwrap();
    let program = folder.path().join("carried.exe");
    let mut other = std::fs::read(&program).unwrap();
    other.push(0);
    std::fs::write(&program, other).unwrap();
    let said = wine.brant(&folder, &["restore", "image.brant"]);
    assert!(said.code == 125 && said.err.contains("its contents are others"), "{}", said.err);
}

#[test]
fn a_killed_brant_leaves_the_program_running() {
    let (wine, folder) = (Wine::new("win10"), Folder::new());
    let mut running = start(&wine, &folder);
    for round in 0..8_u64 {
        let image = format!("{round}.brant");
        let mut command = wine.direct(&wine.bin().join("brant.exe"));
        command.args(["checkpoint", &running.pid(), "-o", &image]);
        let mut brant = command.current_dir(folder.path()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(40 * (round + 1)));
        brant.kill().unwrap();
        brant.wait().unwrap();
        check(&mut running, round as u32 + 1);
        // Whole, or not there.
        if let Ok(file) = std::fs::File::open(folder.path().join(&image)) {
            Image::open(file).unwrap().verify().unwrap();
        }
    }
    running.say("end");
    assert_eq!(running.end().0, 7);
}

#[test]
fn heaps_of_one_execution_are_shown_by_the_next() {
    let folder = Folder::new();
    let program = compile(&folder, "two_executions", Built::Program, &[]);
    let words = ["run", "--carry", "--pid-file", "pid", "--", &windows_path(&program)];
    let first = Wine::new("win10");
    let mut running = first.start_unannounced(&folder, &words, "pid");
    for text in ["of malloc", "of the first heap", "of the second heap", "of the region"] {
        running.say(text);
    }
    running.wait_for("kept");
    checkpoint(&first, &folder, &running.pid(), "heaps.brant", &["--stop"]).ok();
    assert_eq!(running.end().0, 137);
    // Another version, the system's libraries elsewhere, and a larger environment.
    let second = Wine::new("winxp64");
    let mut command = second.command(&second.bin().join("brant.exe"));
    command.args(["restore", "heaps.brant", "--taken", USUAL_PLACES]).current_dir(folder.path());
    command.env("LARGE", "x".repeat(60_000)).stdin(std::process::Stdio::piped());
    let mut shown = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut shown.stdin.take().unwrap(), b"show\n").unwrap();
    let output = shown.wait_with_output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).replace('\r', ""),
        "4 heaps\nmalloc: of malloc\nheap 1: of the first heap, 1 blocks\nheap 2: of the second heap, 11 blocks\n\
         region: of the region\n"
    );
}

/// Threads that wait in condition variables and for slim locks stand still like others, and go on in the next process.
#[test]
fn condition_variables_and_slim_locks_go_on() {
    let (mut wine, folder) = (Wine::new("win10"), Folder::new());
    let program = windows_path(&compile(&folder, "conditions", Built::Program, &[]));
    let mut running = wine.start_by_brant(&folder, &["run", "--carry", "--", &program]);
    running.wait_for("ready");
    let mut round = 0;
    for version in ["win7", "winxp64"] {
        check(&mut running, round + 1);
        checkpoint(&wine, &folder, &running.pid(), &format!("{round}a.brant"), &[]).ok();
        check(&mut running, round + 2);
        let image = format!("{round}b.brant");
        checkpoint(&wine, &folder, &running.pid(), &image, &["--stop"]).ok();
        assert_eq!(running.end().0, 137);
        wine = Wine::new(version);
        running = wine.start_by_brant(&folder, &["restore", &image, "--taken", USUAL_PLACES]);
        round += 2;
    }
    check(&mut running, round + 1);
    running.say("end");
    let (code, output) = running.end();
    assert_eq!((code, output.ends_with("over 1\n")), (7, true), "{output}");
}
