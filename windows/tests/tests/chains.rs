//! Programs that are captured and brought back many times in a row, at any moment, between Windows versions and with the system's libraries elsewhere.

use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use brant_image::Image;
use brant_windows_tests::{Built, Folder, Running, Wine, compile, windows_path};

/// Where kernelbase, kernel32, msvcrt and the agent lie otherwise.
const USUAL_PLACES: &str = "7b000000,7b600000,228280000,180000000";

/// BRANT_HOPS says another number.
fn hops() -> u32 {
    std::env::var("BRANT_HOPS").ok().and_then(|hops| hops.parse().ok()).unwrap_or(5)
}

/// What must not become more by a restore: threads, handles, regions.
fn counts(folder: &Folder, name: &str) -> [usize; 3] {
    let image = Image::open(File::open(folder.path().join(name)).unwrap()).unwrap();
    image.verify().unwrap();
    let windows = image.checkpoint().windows.as_ref().unwrap();
    [windows.threads.len(), windows.handles.len(), windows.regions.len()]
}

const REFUSALS_MAX: u32 = 4;

/// Moves a program on and on. It was started with `more`, and says `ready` first.
fn chain(program: &str, libraries: &[&str], more: &[&str], may_move: bool, last: &str) {
    let (mut wine, folder) = (Wine::new("win10"), Folder::new());
    let program = windows_path(&compile(&folder, program, Built::Program, libraries));
    let words = [&["run", "--carry"], more, &["--", &program]].concat();
    let mut running: Running = wine.start_by_brant(&folder, &words);
    running.wait_for("ready");
    let (mut seen, mut taken) = (Vec::new(), Vec::new());
    for hop in 1..=hops() {
        running.say("check");
        if hop % 2 == 0 {
            // Any moment of the check, and of what comes after it.
            std::thread::sleep(Duration::from_millis(u64::from(hop * 7919 % 400)));
        } else {
            running.wait_for(&format!("checked {hop}"));
        }
        let image = format!("{hop}.brant");
        let checkpoint = || wine.brant(&folder, &["checkpoint", &running.pid(), "-o", &image, "--stop"]);
        // One that is refused since a thread does not come to a stand has changed nothing; another moment is as good.
        let mut said = checkpoint();
        for _ in 0..REFUSALS_MAX {
            if said.err.contains("B-1334") {
                println!("hop {hop}: {}", said.err);
                said = checkpoint();
            }
        }
        assert!(said.code == 0 && said.out.contains("has ended"), "{said:?}{}", running.output());
        let (code, before) = running.end();
        assert_eq!(code, 137, "{before}");
        seen.push((counts(&folder, &image), std::fs::metadata(folder.path().join(&image)).unwrap().len()));
        wine = Wine::new(["win7", "winxp64", "win10"][hop as usize % 3]);
        // The process heap as well, if the program tells where it is.
        taken.extend(before.lines().filter_map(|line| line.strip_prefix("process heap ")).map(str::to_owned));
        let places = [&[USUAL_PLACES.to_owned()], taken.as_slice()].concat().join(",");
        let mut words = vec!["restore", &image];
        if may_move && hop % 3 != 0 {
            words.extend(["--taken", &places]);
        }
        running = wine.start_by_brant(&folder, &words);
        if hop % 2 == 0 && !before.contains(&format!("checked {hop}\n")) {
            running.wait_for(&format!("checked {hop}"));
        }
    }
    running.say("check");
    running.wait_for(&format!("checked {}", hops() + 1));
    running.say("end");
    let (code, output) = running.end();
    assert_eq!((code, output.contains(last)), (7, true), "{output}");
    println!("{seen:?}");
}

#[test]
fn threads_in_all_kinds_of_calls_go_on_through_many_restores() {
    chain("chain", &["-lsynchronization"], &[], true, "abandoned 80\nover\n");
}

#[test]
fn condition_variables_go_on_through_many_restores() {
    chain("conditions", &[], &[], true, "over 1\n");
}

#[test]
fn raw_heaps_go_on_through_many_restores() {
    chain("busy_heaps", &[], &["--heaps", "raw"], false, "6 heaps\n");
}

#[test]
fn arenas_go_on_through_many_restores() {
    chain("busy_heaps", &[], &["--heaps", "arenas"], true, "6 heaps\n");
}

/// A part of a pipe that is read by one process after the other.
struct Reader {
    child: std::process::Child,
    out: std::path::PathBuf,
}

impl Reader {
    fn new(wine: &Wine, folder: &Folder, words: &[&str], name: &str) -> Reader {
        let out = folder.path().join(name);
        let mut command = wine.command(&wine.bin().join("brant.exe"));
        command.args(words).current_dir(folder.path());
        command.stdin(File::options().read(true).write(true).open(folder.path().join("lines")).unwrap());
        command.stdout(File::create(&out).unwrap());
        Reader { child: command.spawn().expect("wine"), out }
    }

    fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.out).unwrap_or_default()).replace('\r', "")
    }

    fn end(&mut self) -> (Option<i32>, String) {
        let code = self.child.wait().expect("its end").code();
        (code, self.output())
    }
}

/// What arrives while an image is written is in the image, or is there for the next process.
#[test]
fn no_input_is_lost_by_many_restores() {
    let (mut wine, folder) = (Wine::new("win10"), Folder::new());
    let program = windows_path(&compile(&folder, "lines", Built::Program, &[]));
    let pipe = folder.path().join("lines");
    assert!(std::process::Command::new("mkfifo").args(["-m", "666"]).arg(&pipe).status().unwrap().success());
    let mut lines = File::options().read(true).write(true).open(&pipe).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut count = 0;
            while !is_over.load(Ordering::Relaxed) {
                writeln!(lines, "{count}").unwrap();
                count += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
            writeln!(lines, "end").unwrap();
            count
        });
        let mut reader =
            Reader::new(&wine, &folder, &["run", "--carry", "--pid-file", "0", "--", &program], "0.txt");
        let mut all = String::new();
        for hop in 1..=hops() {
            let (begin, file) = (Instant::now(), (hop - 1).to_string());
            while folder.read(&file).trim().is_empty() && begin.elapsed().as_secs() < 60 {
                std::thread::sleep(Duration::from_millis(20));
            }
            std::thread::sleep(Duration::from_millis(u64::from(hop * 7919 % 300)));
            let (pid, image) = (folder.read(&file).trim().to_owned(), format!("{hop}.brant"));
            let said = wine.brant(&folder, &["checkpoint", &pid, "-o", &image, "--stop"]);
            let (code, output) = reader.end();
            all += &output;
            is_over.store(code != Some(137), Ordering::Relaxed);
            assert_eq!(code, Some(137), "{all}{said:?}");
            wine = Wine::new(["win7", "winxp64", "win10"][hop as usize % 3]);
            let words = ["restore", "--pid-file", &hop.to_string(), &image];
            reader = Reader::new(&wine, &folder, &words, &format!("{hop}.txt"));
        }
        is_over.store(true, Ordering::Relaxed);
        let count = writer.join().unwrap();
        let (code, output) = reader.end();
        assert_eq!((code, output.contains(&format!("over {count}\n"))), (Some(7), true), "{all}{output}");
    });
}
