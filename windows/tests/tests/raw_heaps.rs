//! The papers' method for heaps: the system's own, written as they are and brought back in place, or refused.

use std::io::Write as _;
use std::process::{Output, Stdio};

use brant_image::Image;
use brant_windows_tests::{Built, Folder, Running, Wine, compile, windows_path};

const SHOWN: &str = "4 heaps\nmalloc: of malloc\nheap 1: of the first heap, 1 blocks\nheap 2: of the second heap, 11 blocks\n\
     region: of the region\n";

/// The first execution: it asks for texts, keeps them in its heaps, and is captured.
fn first_execution(wine: &Wine, folder: &Folder) {
    let program = compile(folder, "two_executions", Built::Program, &[]);
    let words = ["run", "--carry", "--heaps", "raw", "--pid-file", "pid", "--", &windows_path(&program)];
    let mut running = wine.start_unannounced(folder, &words, "pid");
    for text in ["of malloc", "of the first heap", "of the second heap", "of the region"] {
        running.say(text);
    }
    running.wait_for("kept");
    let said = wine.brant(folder, &["checkpoint", &running.pid(), "-o", "heaps.brant", "--stop"]);
    assert!(said.ok().contains("has ended"));
    assert_eq!(running.end().0, 137);
}

/// The second one: it shows what is in its heaps.
fn second_execution(wine: &Wine, folder: &Folder, more: &[&str], environment: usize) -> Output {
    let mut command = wine.command(&wine.bin().join("brant.exe"));
    command.args(["restore", "heaps.brant"]).args(more).current_dir(folder.path());
    command.env("LARGE", "x".repeat(environment)).stdin(Stdio::piped());
    let mut shown = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // One that is refused does not read.
    let _ = shown.stdin.take().unwrap().write_all(b"show\n");
    shown.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace('\r', "")
}

/// The addresses at which the program's heaps lay.
fn heaps(folder: &Folder) -> Vec<u64> {
    let image = Image::open(std::fs::File::open(folder.path().join("heaps.brant")).unwrap()).unwrap();
    image.verify().unwrap();
    image.checkpoint().windows.as_ref().unwrap().heaps.iter().map(|range| range.start().0).collect()
}

#[test]
fn raw_heaps_are_shown_by_the_next_execution_where_they_can_lie_as_they_did() {
    let (wine, folder) = (Wine::new("win10"), Folder::new());
    first_execution(&wine, &folder);
    assert_eq!(heaps(&folder).len(), 4);
    let output = second_execution(&wine, &folder, &[], 0);
    assert_eq!(text(&output.stdout), SHOWN, "{}", text(&output.stderr));
    // The larger environment is that of brant.exe: the program has its own again.
    let output = second_execution(&Wine::new("winxp64"), &folder, &[], 60_000);
    assert_eq!(text(&output.stdout), SHOWN, "{}", text(&output.stderr));
}

#[test]
fn raw_heaps_that_cannot_lie_as_they_did_are_refused_by_name() {
    let (wine, folder) = (Wine::new("win10"), Folder::new());
    first_execution(&wine, &folder);
    // A unit in the middle of the memory of each heap.
    for at in heaps(&folder) {
        let taken = format!("{:x}", at + 0x1_0000);
        let output = second_execution(&wine, &folder, &["--taken", &taken], 0);
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(125), ""), "{said}");
        let named = format!("B-1335: a heap of the program was at {at:#x}, where something else is");
        assert!(said.contains(&named) && said.contains("explain B-1335"), "{said}");
    }
    // They are shown where they can lie.
    let output = second_execution(&wine, &folder, &[], 0);
    assert_eq!(text(&output.stdout), SHOWN, "{}", text(&output.stderr));
}

/// Starts `busy_heaps.c`.
fn start_busy(wine: &Wine, folder: &Folder, heaps: &str) -> Running {
    let program = windows_path(&compile(folder, "busy_heaps", Built::Program, &[]));
    let mut running = wine.start_by_brant(folder, &["run", "--carry", "--heaps", heaps, "--", &program]);
    running.wait_for("ready");
    running
}

fn check(running: &mut Running, round: u32) {
    running.say("check");
    running.wait_for(&format!("checked {round}"));
}

#[test]
fn raw_heaps_go_on_in_the_next_process() {
    let (mut wine, folder) = (Wine::new("win10"), Folder::new());
    let mut running = start_busy(&wine, &folder, "raw");
    let mut round = 0;
    for version in ["win10", "win7", "winxp64"] {
        let (first, second) = (format!("{round}a.brant"), format!("{round}b.brant"));
        check(&mut running, round + 1);
        wine.brant(&folder, &["checkpoint", &running.pid(), "-o", &first]).ok();
        // It goes on after its checkpoint as well.
        check(&mut running, round + 2);
        wine.brant(&folder, &["checkpoint", &running.pid(), "-o", &second, "--stop"]).ok();
        assert_eq!(running.end().0, 137);
        wine = Wine::new(version);
        running = wine.start_by_brant(&folder, &["restore", &second]);
        round += 2;
    }
    check(&mut running, round + 1);
    running.say("end");
    let (code, output) = running.end();
    assert_eq!((code, output.ends_with("6 heaps\n")), (7, true), "{output}");
}

#[test]
fn a_process_heap_that_lies_elsewhere_is_borne_by_arenas_only() {
    for heaps in ["raw", "arenas"] {
        let (wine, folder) = (Wine::new("win10"), Folder::new());
        let mut running = start_busy(&wine, &folder, heaps);
        check(&mut running, 1);
        let output = running.output();
        let at = output.lines().find_map(|line| line.strip_prefix("process heap ")).unwrap();
        wine.brant(&folder, &["checkpoint", &running.pid(), "-o", "image.brant", "--stop"]).ok();
        assert_eq!(running.end().0, 137);
        let words = ["restore", "image.brant", "--taken", at];
        let next = Wine::new("winxp64");
        if heaps == "raw" {
            let said = next.brant(&folder, &words);
            assert_eq!((said.code, said.out.as_str()), (125, ""), "{}", said.err);
            let named = format!("B-1335: the process heap was at 0x{at}, and is at 0x");
            assert!(said.err.contains(&named) && said.err.contains("explain B-1335"), "{}", said.err);
            continue;
        }
        let mut running = next.start_by_brant(&folder, &words);
        check(&mut running, 2);
        running.say("end");
        assert_eq!(running.end().0, 7);
    }
}

#[test]
fn raw_heaps_are_only_for_carried_programs() {
    let (wine, folder) = (Wine::new("win10"), Folder::new());
    let said = wine.brant(&folder, &["run", "--heaps", "raw", "--", "x.exe"]);
    assert!(said.code == 2 && said.err.contains("run --carry --heaps raw"), "{}", said.err);
}
