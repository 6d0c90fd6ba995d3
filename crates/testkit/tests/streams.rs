//! Images through pipes: out of a checkpoint, into a restore, and between stores; and what is left when one end fails.
#![forbid(unsafe_code)]

use std::process::{Command, ExitStatus, Stdio};

use brant_testkit::{Program, Sandbox, Who, wait_until};

/// How long a pipe of commands may take.
const PIPE_TIMEOUT_S: u64 = 120;

/// Runs a line of shell in the sandbox, with brant as `brant` and the exit codes of a pipe's parts in `codes`.
/// What the line itself prints goes to `line.out` and `line.err`.
fn shell(sandbox: &Sandbox, line: &str) -> Vec<i32> {
    let _ = std::fs::remove_file(sandbox.path("codes"));
    let script =
        format!("PATH=.:$PATH; {{ {line}; echo ${{PIPESTATUS[@]}} > codes; }} >> line.out 2>> line.err");
    let mut command: Command = sandbox.command("bash");
    command.args(["-c", &script]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("bash starts");
    let mut status: Option<ExitStatus> = None;
    wait_until(PIPE_TIMEOUT_S, || {
        status = child.try_wait().expect("our own child can be waited for");
        status.is_some()
    });
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
        panic!("{line} did not end: {}", sandbox.text("line.err"));
    }
    let codes = sandbox.text("codes");
    codes.split_whitespace().map(|code| code.parse().expect("bash prints numbers")).collect()
}

/// Names of the images in the sandbox's store, hidden ones too.
fn stored(sandbox: &Sandbox) -> Vec<String> {
    let Ok(items) = std::fs::read_dir(sandbox.path("state/brant/images")) else { return Vec::new() };
    items
        .map(|item| item.expect("the store is readable").file_name().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn a_migration_by_hand() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = sandbox.start_ready(&Program::fixture("threads"));
    let pid = program.pid();
    let codes = shell(&sandbox, &format!("brant checkpoint {pid} --stop -o - | brant restore - -d -n moved"));
    assert_eq!(codes, [0, 0], "{}", sandbox.text("line.err"));
    assert_eq!(program.wait(20), Some(128 + 9));
    // The stream was kept before anything was built, whole.
    let [image] = &stored(&sandbox)[..] else { panic!("{:?}", stored(&sandbox)) };
    sandbox.brant(&["image", "verify", image]).expect(0);
    assert!(sandbox.text("line.err").contains(image.as_str()), "{}", sandbox.text("line.err"));
    // Nothing but the image goes to stdout; the second command's data is the job's name.
    assert_eq!(sandbox.text("line.out"), "moved\n");
    sandbox.finish_fixture();
}

#[test]
fn left_running_through_a_pipe_is_a_copy() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = sandbox.start_ready(&Program::fixture("memory_anon"));
    let pid = program.pid();
    assert_eq!(
        shell(&sandbox, &format!("brant checkpoint {pid} -o - --compress none | cat > x.img")),
        [0, 0]
    );
    sandbox.brant(&["image", "verify", sandbox.path("x.img").to_str().expect("UTF-8")]).expect(0);
    assert_eq!(program.ended(), None);
    sandbox.write("f.go", "go");
    assert_eq!(program.wait(60), Some(0), "{}", sandbox.text("f.result"));
}

#[test]
fn a_reader_that_goes_away_leaves_the_program_running() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = sandbox.start_ready(&Program::fixture("memory_anon"));
    let pid = program.pid();
    for reader in ["true", "head -c 100 > /dev/null", "head -c 100000 > /dev/null", "sh -c 'sleep 1; exit 1'"]
    {
        let codes =
            shell(&sandbox, &format!("brant checkpoint {pid} --stop -o - --compress none | {reader}"));
        assert_eq!(codes[0], 7, "{reader}: {}", sandbox.text("line.err"));
        let said = sandbox.text("line.err");
        assert!(said.contains("B-0614") && said.contains("runs on"), "{said}");
        assert_eq!(program.ended(), None, "{reader} ended the program");
    }
    // A full device is a failure as well, and no end of the program.
    assert_eq!(shell(&sandbox, &format!("brant checkpoint {pid} --stop -o - > /dev/full")), [7]);
    assert_eq!(program.ended(), None);
    sandbox.write("f.go", "go");
    assert_eq!(program.wait(60), Some(0), "{}", sandbox.text("f.result"));
    sandbox.expect_no_leftovers();
}

#[test]
fn terminals_are_refused() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = sandbox.start_ready(&Program::fixture("ids"));
    let pid = program.pid();
    let lines = [
        format!("./brant checkpoint {pid} --stop -o -"),
        "./brant restore -".into(),
        "./brant image import".into(),
    ];
    for line in lines {
        let codes = shell(&sandbox, &format!("script -qec '{line}' /dev/null < /dev/null"));
        assert_eq!(codes, [2], "{line}: {}", sandbox.text("line.out"));
    }
    assert!(sandbox.text("line.out").contains("B-0115"), "{}", sandbox.text("line.out"));
    assert_eq!(program.ended(), None);
    sandbox.write("f.go", "go");
    assert_eq!(program.wait(60), Some(0), "{}", sandbox.text("f.result"));
}

#[test]
fn broken_streams_are_6_and_leave_nothing() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = sandbox.start_ready(&Program::fixture("ids"));
    let image = sandbox.path("x.img");
    let path = image.to_str().expect("UTF-8");
    sandbox.brant(&["checkpoint", &program.pid().to_string(), "--stop", "-o", path]).expect(0);
    program.wait(20);
    let bytes = std::fs::metadata(&image).expect("the image is there").len();
    for verb in ["restore - -d", "image import", "image import -"] {
        for length in [0, 7, 100, bytes / 2, bytes - 1] {
            let codes = shell(&sandbox, &format!("head -c {length} x.img | brant {verb}"));
            assert_eq!(codes[1], 6, "{verb} of {length}: {}", sandbox.text("line.err"));
        }
        assert_eq!(shell(&sandbox, &format!("(cat x.img; echo) | brant {verb}"))[1], 6);
    }
    assert_eq!(shell(&sandbox, "cat /dev/zero | brant image import")[1], 6);
    assert_eq!(stored(&sandbox), [""; 0]);
    sandbox.expect_no_leftovers();
    sandbox.brant(&["restore", path, "-d"]).expect(0);
    sandbox.finish_fixture();
}

#[test]
fn what_came_is_kept_when_the_restore_fails() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = sandbox.start_ready(&Program::fixture("files"));
    let pid = program.pid();
    // The file changes on its way to the other side.
    let line =
        format!("brant checkpoint {pid} --stop -o - | (cat; echo grown >> f.append) | brant restore - -d");
    let codes = shell(&sandbox, &line);
    assert_eq!(codes, [0, 0, 5], "{}", sandbox.text("line.err"));
    program.wait(20);
    let [image] = &stored(&sandbox)[..] else { panic!("{:?}", stored(&sandbox)) };
    let said = sandbox.text("line.err");
    assert!(said.contains("is kept as") && said.contains(image.as_str()), "{said}");
    sandbox.expect_no_leftovers();
    sandbox.brant(&["restore", image, "-d", "--files", "rewind"]).expect(0);
    sandbox.finish_fixture();
}

#[test]
fn export_and_import_between_stores() {
    let sandbox = Sandbox::new(Who::Plain);
    sandbox.brant(&["run", "-d", "-n", "sim", "--", "sleep", "1000"]).expect(0);
    sandbox.brant(&["checkpoint", "sim", "--stop"]).expect(0);
    let other = "XDG_STATE_HOME=$PWD/other";
    assert_eq!(shell(&sandbox, &format!("brant image export sim | {other} brant image import")), [0, 0]);
    let imported = sandbox.text("line.out");
    assert!(imported.trim().ends_with(&stored(&sandbox)[0]), "{imported}");
    assert_eq!(
        std::fs::read(imported.trim()).expect("imported"),
        std::fs::read(sandbox.path("state/brant/images").join(&stored(&sandbox)[0])).expect("exported")
    );
    // Again it is there already; and nothing else is ever replaced.
    assert_eq!(shell(&sandbox, "brant image export sim | brant image import"), [0, 0]);
    assert!(sandbox.text("line.err").contains("there already"), "{}", sandbox.text("line.err"));
    assert_eq!(shell(&sandbox, "brant image export sim -o copy.img && brant image verify copy.img"), [0]);
    assert_eq!(shell(&sandbox, "brant image export sim -o copy.img"), [7]);
    assert_eq!(shell(&sandbox, "brant image export sim -o copy.img --force"), [0]);
    let mine = sandbox.path("state/brant/images").join(&stored(&sandbox)[0]);
    std::fs::write(&mine, "something else").expect("the store is writable");
    assert_eq!(shell(&sandbox, "brant image import copy.img"), [7]);
    assert_eq!(std::fs::read_to_string(&mine).expect("it is there"), "something else");
    // A damaged image is not handed on.
    assert_eq!(shell(&sandbox, "brant image export ./state/brant/images/*.brant > damaged.img"), [6]);
    assert_eq!(sandbox.text("damaged.img"), "");
    // Another store's image runs here.
    std::fs::remove_file(&mine).expect("the store is writable");
    assert_eq!(shell(&sandbox, "brant restore - -d < copy.img"), [0], "{}", sandbox.text("line.err"));
    sandbox.brant(&["kill", "sim"]).expect(0);
    sandbox.expect_no_leftovers();
}

#[test]
fn a_full_disk_keeps_no_half_of_a_stream() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut program = sandbox.start_ready(&Program::fixture("memory_anon"));
    let image = sandbox.path("x.img");
    let path = image.to_str().expect("UTF-8");
    let pid = program.pid().to_string();
    sandbox.brant(&["checkpoint", &pid, "--compress", "none", "-o", path]).expect(0);
    // A limit on file sizes stands for the full disk: it needs no mount.
    let codes = shell(&sandbox, "cat x.img | prlimit --fsize=200000 brant image import");
    assert_eq!(codes[1], 7, "{}", sandbox.text("line.err"));
    assert_eq!(stored(&sandbox), [""; 0]);
    // The far side's disk is full: it goes away, and the program runs on.
    let line = format!(
        "brant checkpoint {pid} --stop --compress none -o - | prlimit --fsize=200000 brant restore - -d"
    );
    let codes = shell(&sandbox, &line);
    assert_eq!(codes[1], 7, "{}", sandbox.text("line.err"));
    assert_eq!(codes[0], 7, "{}", sandbox.text("line.err"));
    assert_eq!(stored(&sandbox), [""; 0]);
    sandbox.write("f.go", "go");
    assert_eq!(program.wait(60), Some(0), "{}", sandbox.text("f.result"));
    sandbox.expect_no_leftovers();
}
