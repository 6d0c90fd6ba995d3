//! Images that carry executable, libraries and open files, restored where those are missing or others.
#![forbid(unsafe_code)]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use brant_base::fault::POINTS;
use brant_testkit::{Program, Sandbox, SmallDisk, Who, is_root, skip, wait_until};

/// The copies of carried files in the sandbox's state folder.
fn copies(sandbox: &Sandbox) -> Vec<PathBuf> {
    let Ok(folders) = std::fs::read_dir(sandbox.path("state/brant/files")) else { return Vec::new() };
    let files =
        folders.flat_map(|folder| std::fs::read_dir(folder.expect("readable").path()).expect("readable"));
    files.map(|file| file.expect("readable").path()).collect()
}

#[test]
fn an_executable_that_is_gone_or_another_one() {
    for replaced in [false, true] {
        let sandbox = Sandbox::new(Who::Plain);
        let mut program = sandbox.start_ready(&Program::fixture("threads"));
        let image = sandbox.stop(&mut program, &["--portable"]);
        let own = sandbox.path("threads");
        std::fs::remove_file(&own).expect("ours");
        if replaced {
            std::fs::copy("/bin/true", &own).expect("the sandbox is writable");
        }
        sandbox.brant(&["restore", &image, "-d", "-n", "it"]).expect(0);
        // What the host has is taken from there: only the executable is a copy.
        let [copy] = &copies(&sandbox)[..] else { panic!("{:?}", copies(&sandbox)) };
        assert_eq!(copy.file_name(), own.file_name());
        assert_eq!(std::fs::metadata(copy).expect("it is there").permissions().mode() & 0o222, 0);
        let found = sandbox.leftovers().into_iter().find(|(_, name)| name == "threads");
        let (pid, _) = found.expect("it runs");
        assert_eq!(std::fs::read_link(format!("/proc/{pid}/exe")).expect("it runs"), *copy);

        // It is in use, and stays.
        let clear = || sandbox.brant(&["image", "gc", "--json"]);
        assert!(wait_until(20, || clear().stdout.contains("\"busy\": false")), "{:?}", clear());
        assert!(clear().stdout.contains("\"used\": 1"), "{:?}", clear());
        assert!(copy.exists());

        // A checkpoint of it carries the copy by itself: no other host has it, nor this one if it is cleared away.
        sandbox.brant(&["checkpoint", "it", "--stop"]).expect(0);
        assert!(clear().stdout.contains("\"removed\": 1"), "{:?}", clear());
        assert_eq!(copies(&sandbox), [""; 0].map(PathBuf::from));
        sandbox.brant(&["restore", "it", "-d"]).expect(0);
        sandbox.finish_fixture();
    }
}

#[test]
fn without_portable_it_is_refused_by_name() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = sandbox.start_ready(&Program::fixture("threads"));
    let image = sandbox.stop(&mut program, &[]);
    let own = sandbox.path("threads");
    let kept = sandbox.path("kept");
    std::fs::rename(&own, &kept).expect("ours");
    for replaced in [false, true] {
        if replaced {
            std::fs::copy("/bin/true", &own).expect("the sandbox is writable");
        }
        for policy in ["strict", "keep", "rewind"] {
            let refused = sandbox.brant(&["restore", &image, "-d", "--files", policy]);
            refused.expect(5);
            assert!(refused.stderr.contains(own.to_str().expect("UTF-8")), "{}", refused.stderr);
            assert!(refused.stderr.contains("--portable"), "{}", refused.stderr);
        }
    }
    sandbox.expect_no_leftovers();
    std::fs::rename(&kept, &own).expect("ours");
    sandbox.brant(&["restore", &image, "-d"]).expect(0);
    sandbox.finish_fixture();
}

#[test]
fn a_damaged_copy_is_written_again() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = sandbox.start_ready(&Program::fixture("threads"));
    let image = sandbox.stop(&mut program, &["--portable"]);
    std::fs::remove_file(sandbox.path("threads")).expect("ours");
    sandbox.brant(&["restore", &image, "-d", "-n", "it"]).expect(0);
    sandbox.brant(&["kill", "it"]).expect(0);
    let [copy] = &copies(&sandbox)[..] else { panic!("{:?}", copies(&sandbox)) };
    std::fs::set_permissions(copy, std::fs::Permissions::from_mode(0o700)).expect("ours");
    let mut bytes = std::fs::read(copy).expect("it is there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(copy, &bytes).expect("it is writable now");
    sandbox.brant(&["restore", &image, "-d", "-n", "it"]).expect(0);
    assert_ne!(std::fs::read(copy).expect("it is there"), bytes);
    sandbox.finish_fixture();
}

#[test]
fn open_files_travel() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = sandbox.start_ready(&Program::fixture("files"));
    let image = sandbox.stop(&mut program, &["--with-files"]);
    let names = ["f.append", "out", "err"];
    let before = names.map(|name| {
        let metadata = std::fs::metadata(sandbox.path(name)).expect("it is there");
        (sandbox.text(name), metadata.mode(), metadata.mtime(), metadata.mtime_nsec())
    });
    // The same contents do, whatever the inode; others do not, and are named.
    let text = sandbox.text("f.append");
    std::fs::remove_file(sandbox.path("f.append")).expect("ours");
    sandbox.write("f.append", "something else");
    let refused = sandbox.brant(&["restore", &image, "-d"]);
    refused.expect(5);
    assert!(refused.stderr.contains("f.append"), "{}", refused.stderr);
    assert_eq!(sandbox.text("f.append"), "something else");
    sandbox.write("f.append", &text);
    // What is not there is made.
    std::fs::remove_file(sandbox.path("f.append")).expect("ours");
    for entry in std::fs::read_dir(sandbox.path("")).expect("readable").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if names.contains(&name.as_str()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    // A plan changes nothing.
    sandbox.brant(&["restore", &image, "-d", "--dry-run"]).expect(0);
    assert!(!sandbox.path("f.append").exists());
    sandbox.brant(&["restore", &image, "-d", "-n", "it"]).expect(0);
    let after = names.map(|name| {
        let metadata = std::fs::metadata(sandbox.path(name)).expect("it was made");
        (sandbox.text(name), metadata.mode(), metadata.mtime(), metadata.mtime_nsec())
    });
    assert_eq!(before, after);
    sandbox.finish_fixture();
}

#[test]
fn no_folder_is_made_for_an_open_file() {
    let sandbox = Sandbox::new(Who::Plain);
    sandbox.write("work.sh", "mkdir -p sub && exec 5>sub/open.txt && echo begun >&5 && : > begun\nwhile [ ! -e f.go ]; do sleep 0.05; done; echo ended >&5; echo ok > f.result");
    let mut command = sandbox.command("sh");
    command.arg(sandbox.path("work.sh"));
    let mut program = sandbox.launch(command, false);
    assert!(wait_until(20, || sandbox.path("begun").exists()), "the shell did not begin");
    let image = sandbox.stop(&mut program, &["--with-files"]);
    std::fs::remove_dir_all(sandbox.path("sub")).expect("ours");
    let refused = sandbox.brant(&["restore", &image, "-d"]);
    refused.expect(5);
    assert!(refused.stderr.contains("mkdir -p"), "{}", refused.stderr);
    assert!(!sandbox.path("sub").exists());
    // Elsewhere will do.
    let (from, to) = (sandbox.path("sub"), sandbox.path("other"));
    std::fs::create_dir(&to).expect("the sandbox is writable");
    std::os::unix::fs::chown(&to, Some(std::fs::metadata(sandbox.path("home")).expect("there").uid()), None)
        .expect("root may give a folder away, and its owner may keep it");
    let map = format!("{}={}", from.display(), to.display());
    sandbox.brant(&["restore", &image, "-d", "--map-path", &map]).expect(0);
    sandbox.write("f.go", "go");
    assert!(wait_until(20, || sandbox.path("f.result").exists()), "no result");
    assert_eq!(sandbox.text("other/open.txt"), "begun\nended\n");
    sandbox.expect_no_leftovers();
}

#[test]
fn the_same_contents_are_carried_once() {
    let sandbox = Sandbox::new(Who::Plain);
    let noise: String =
        (0..200_000u32).map(|number| format!("{} ", number.wrapping_mul(2_654_435_761))).collect();
    sandbox.write("one", &noise);
    sandbox.write("two", &noise);
    sandbox.write("begin.sh", "exec 5<one 6<two; : > begun; while [ ! -e f.go ]; do sleep 0.05; done; cmp /dev/fd/5 /dev/fd/6 && echo ok > f.result");
    let mut command = sandbox.command("sh");
    command.arg(sandbox.path("begin.sh"));
    let mut program = sandbox.launch(command, false);
    assert!(wait_until(20, || sandbox.path("begun").exists()), "the shell did not begin");
    let bare = sandbox.path("bare.img").to_str().expect("UTF-8").to_owned();
    sandbox.brant(&["checkpoint", &program.pid().to_string(), "-o", &bare, "--compress", "none"]).expect(0);
    let image = sandbox.stop(&mut program, &["--with-files", "--compress", "none"]);
    let bytes = |path: &str| std::fs::metadata(path).expect("it is there").len();
    let more = bytes(&image) - bytes(&bare);
    std::fs::remove_file(sandbox.path("one")).expect("ours");
    std::fs::remove_file(sandbox.path("two")).expect("ours");
    sandbox.brant(&["restore", &image, "-d"]).expect(0);
    assert_eq!(sandbox.text("one"), noise);
    assert_eq!(sandbox.text("two"), noise);
    let one = noise.len() as u64;
    assert!((one / 2..one + one / 2).contains(&more), "{more} bytes more for two files of {one} bytes");
    sandbox.write("f.go", "go");
    assert!(wait_until(20, || sandbox.path("f.result").exists()), "they differ: {}", sandbox.text("err"));
    sandbox.expect_no_leftovers();
}

/// Writes the image anew, with another host in its manifest.
fn forge(from: &str, to: &std::path::Path, change: impl FnOnce(&mut brant_image::model::Host)) {
    let image =
        brant_image::Image::open(std::fs::File::open(from).expect("it is there")).expect("it is whole");
    let mut checkpoint = image.checkpoint().clone();
    change(&mut checkpoint.host);
    let file = std::fs::File::create(to).expect("the sandbox is writable");
    let mut writer =
        brant_image::Writer::create(file, &checkpoint, brant_image::Codec::Raw).expect("it is valid");
    for pack in 0..image.pack_count() {
        for run in image.pack(pack).expect("it is whole").runs() {
            match run.content {
                brant_image::PageContent::Bytes(bytes) => writer.pages(run.owner, run.first_page, bytes),
                brant_image::PageContent::Zero { pages } => {
                    writer.zero_pages(run.owner, run.first_page, pages)
                }
            }
            .expect("the disk has room");
        }
    }
    writer.finish().expect("the disk has room");
}

#[test]
fn a_host_that_cannot_run_it_is_told_before_anything_starts() {
    type Change = fn(&mut brant_image::model::Host);
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = sandbox.start_ready(&Program::fixture("threads"));
    let image = sandbox.stop(&mut program, &[]);
    let changes: [(Change, &str, &str); 2] = [
        (|host| host.cpu_flags.push("avx9000".into()), "B-0404", "avx9000"),
        (|host| host.machine = "riscv64".into(), "B-0403", "riscv64"),
    ];
    for (change, code, word) in changes {
        let forged = sandbox.path("forged.img");
        forge(&image, &forged, change);
        let (uid, gid) = (
            std::fs::metadata(&image).expect("there").uid(),
            std::fs::metadata(&image).expect("there").gid(),
        );
        std::os::unix::fs::chown(&forged, Some(uid), Some(gid)).expect("root may, and its owner may keep it");
        let refused = sandbox.brant(&["restore", forged.to_str().expect("UTF-8"), "-d"]);
        refused.expect(5);
        assert!(refused.stderr.contains(code) && refused.stderr.contains(word), "{}", refused.stderr);
        assert!(sandbox.leftovers().is_empty(), "{:?}", sandbox.leftovers());
    }
    sandbox.brant(&["restore", &image, "-d"]).expect(0);
    sandbox.finish_fixture();
}

/// Everything below the folder that is no folder.
fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for item in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match item.path() {
            path if path.is_dir() => files_below(&path, found),
            path => found.push(path),
        }
    }
}

#[test]
fn a_restore_that_ends_while_it_makes_files() {
    let sandbox = Sandbox::with_faults(Who::Plain);
    let mut program = sandbox.start_ready(&Program::fixture("files"));
    let image = sandbox.stop(&mut program, &["--portable", "--with-files"]);
    let lost = ["files", "f.append", "f.plain", "f.sync", "f.beyond"].map(|name| sandbox.path(name));
    let whole: Vec<Vec<u8>> =
        lost.iter().map(|path| std::fs::read(path).expect("the fixture made it")).collect();
    lost.iter().for_each(|path| std::fs::remove_file(path).expect("ours"));
    let kills = POINTS.iter().filter(|point| point.starts_with("carried.")).map(|point| (*point, "kill"));
    let fails = ["carried.written"].map(|point| (point, "fail:28"));
    for (point, action) in kills.chain(fails) {
        for occasion in 1..=lost.len() {
            let fault = format!("{point}#{occasion}={action}");
            let (outcome, made) = sandbox.brant_with_fault(&fault, &["restore", &image, "-d"]);
            assert!(made && outcome.code != 0, "{fault}: {} {}", outcome.code, outcome.stderr);
            sandbox.expect_no_leftovers();
            let mut found = Vec::new();
            files_below(&sandbox.path(""), &mut found);
            let hidden = found.iter().find(|path| path.to_string_lossy().contains("/.brant"));
            assert_eq!(hidden, None, "{fault}");
            for (path, contents) in lost.iter().zip(&whole) {
                let name = path.file_name();
                for made in found.iter().filter(|found| found.file_name() == name) {
                    assert!(std::fs::read(made).is_ok_and(|read| read == *contents), "{fault}: {made:?}");
                    std::fs::remove_file(made).expect("ours");
                }
                assert!(action == "kill" || !found.contains(path), "{fault}: {path:?} stays");
            }
        }
    }
    sandbox.brant(&["restore", &image, "-d"]).expect(0);
    sandbox.finish_fixture();
}

#[test]
fn files_that_travel_are_told_of_and_need_room() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = sandbox.start_ready(&Program::fixture("files"));
    let pid = program.pid().to_string();
    let image = sandbox.path("x.img").to_str().expect("UTF-8").to_owned();
    sandbox.brant(&["checkpoint", &pid, "--portable", "--with-files", "-o", &image]).expect(0);
    let told = sandbox.brant(&["image", "inspect", &image]).stdout;
    let line = |path: &Path| {
        let path = path.to_string_lossy().into_owned();
        told.lines().find(|line| line.trim_start().starts_with(&path)).unwrap_or_default().to_owned()
    };
    assert!(line(&sandbox.path("files")).contains("mapped from a copy"), "{told}");
    assert!(line(&sandbox.path("f.plain")).contains("made anew"), "{told}");
    let listed: serde_json::Value =
        serde_json::from_str(&sandbox.brant(&["image", "inspect", &image, "--json"]).stdout).expect("JSON");
    assert!(listed["carried_files"].as_array().is_some_and(|files| files.len() >= 3), "{listed}");

    if is_root() {
        sandbox.make_folder("small");
        let Some(disk) = SmallDisk::mount(&sandbox.path("small"), "size=300k") else {
            return skip("host: mount");
        };
        let small = sandbox.path("small/x.img").to_str().expect("UTF-8").to_owned();
        // The C library alone needs more, and the memory of this little program much less.
        let refused = sandbox.brant(&["checkpoint", &pid, "--portable", "-o", &small]);
        refused.expect(7);
        assert!(refused.stderr.contains("are needed"), "it was tried: {}", refused.stderr);
        assert!(disk.files().is_empty());
        sandbox.brant(&["checkpoint", &pid, "-o", &small]).expect(0);
    }
    sandbox.write("f.go", "go");
    assert_eq!(program.wait(60), Some(0), "{}", sandbox.text("f.result"));
}
