//! Wrapping where libraries cannot come as files in memory: by files that have a name for a moment, with nothing left behind.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;

use brant_testkit::{Sandbox, Who, is_root, skip, wait_until};

const PROMPT_S: u64 = 60;

fn compile(sandbox: &Sandbox, source: &str, name: &str, flags: &[&str]) -> String {
    let source = format!("connect/{source}");
    let to = sandbox.compile("cc", &[&source], name, flags).expect("a compiler starts");
    to.to_str().expect("test paths are UTF-8").to_owned()
}

/// What brant leaves in folders for temporary files.
fn left(root: &Path) -> Vec<String> {
    let names =
        ["tmp", "var/tmp", "dev/shm", "run"].iter().flat_map(|folder| std::fs::read_dir(root.join(folder)));
    let names = names.flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("brant-") && name.contains('~')).collect()
}

fn records(sandbox: &Sandbox, name: &str) -> usize {
    sandbox.text(name).matches(" access(\"/beat/0/").count()
}

fn expect_records(sandbox: &Sandbox, name: &str, when: &str) {
    let before = records(sandbox, name);
    let is_so = wait_until(PROMPT_S, || records(sandbox, name) > before + 20);
    assert!(is_so, "{when}: {} {}", sandbox.text("err"), sandbox.text(name));
}

fn maps(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default()
}

/// For brant's part and for the wrapper.
const WITHOUT: &str = "wrap.memory-file#1=fail:13,wrap.memory-file#2=fail:13";
/// For the wrapper alone, and its spares: numbers of files that were there before the restore are given again.
const WITHOUT_ONE: &str = "wrap.memory-file#1=fail:13,wrap.memory-file#2=fail:13,\
                           wrap.memory-file#3=fail:13,wrap.memory-file#4=fail:13";

/// The program may make no file in memory that can be mapped: brant's part, and a wrapper that ships, come by other files. All is as
/// it is elsewhere: another brant finds its part again, the wrapper is unloaded, an image has both.
#[test]
fn programs_are_wrapped_without_files_in_memory() {
    let sandbox = Sandbox::with_faults(Who::Plain);
    let beat = compile(&sandbox, "beat.c", "beat", &[]);
    let path = |name: &str| sandbox.path(name).display().to_string();
    sandbox.brant(&["run", "-d", "-n", "first", "--", &beat, &path("f"), "1"]).expect(0);
    let told = sandbox.brant(&["ps", "--json"]);
    let jobs: serde_json::Value = serde_json::from_str(&told.expect(0).stdout).expect("it is JSON");
    let pid = jobs["jobs"][0]["pid"].as_i64().expect("a pid") as i32;
    let wrapper = format!("trace:out={},direct", path("t.txt"));
    let (outcome, made) = sandbox.brant_with_fault(WITHOUT, &["wrap", &wrapper, "first"]);
    assert!(made && outcome.code == 0, "{}", outcome.stderr);
    expect_records(&sandbox, "t.txt", "wrapped");
    assert!(!maps(pid).contains("memfd") && maps(pid).contains("/tmp/brant-runtime-"), "{}", maps(pid));
    assert_eq!(left(Path::new("/")), Vec::<String>::new());
    let image = path("image");
    sandbox.brant(&["checkpoint", "first", "--stop", "-o", &image]).expect(0);
    sandbox.brant(&["restore", &image, "-d", "-n", "second"]).expect(0);
    expect_records(&sandbox, "t.txt", "restored");
    let listed = sandbox.brant(&["wrappers", "second"]);
    assert!(listed.expect(0).stdout.contains("access in libc.so.6"), "{}", listed.stdout);
    let unwrapped = sandbox.brant(&["unwrap", "trace", "second", "--json"]);
    assert!(unwrapped.expect(0).stdout.contains("\"unloaded\": true"), "{}", unwrapped.stdout);
    let (again, made) = sandbox.brant_with_fault(WITHOUT_ONE, &["wrap", &wrapper, "second"]);
    assert!(made && again.code == 0, "{}", again.stderr);
    expect_records(&sandbox, "t.txt", "wrapped again");
    sandbox.brant(&["kill", "second"]).expect(0);
    assert_eq!(left(Path::new("/")), Vec::<String>::new());
    sandbox.expect_no_leftovers();
}

/// A limit on file sizes would end the program: so it is refused.
#[test]
fn a_program_that_may_make_small_files_only_is_refused() {
    let sandbox = Sandbox::new(Who::Plain);
    let beat = compile(&sandbox, "beat.c", "beat", &[]);
    let mut command = sandbox.command("sh");
    command.args(["-c", "ulimit -f 100; exec \"$@\"", "sh", &beat]).arg(sandbox.path("f")).arg("1");
    let mut program = sandbox.launch(command, false);
    let counted = || sandbox.text("f.count.0").lines().count();
    assert!(wait_until(PROMPT_S, || counted() > 3), "{}", sandbox.text("err"));
    let wrapper = format!("trace:out={}", sandbox.path("t.txt").display());
    let refused = sandbox.brant(&["wrap", &wrapper, &program.pid().to_string()]);
    assert!(refused.code == 3 && refused.stderr.contains("B-1152"), "{} {}", refused.code, refused.stderr);
    let before = counted();
    assert!(wait_until(PROMPT_S, || counted() > before + 20), "{}", sandbox.text("err"));
    assert_eq!(program.ended(), None);
}

/// A root file system without /proc, in which a program cannot find its descriptors by name.
#[test]
fn programs_without_proc_are_wrapped() {
    if !is_root() {
        return skip("root");
    }
    let sandbox = Sandbox::new(Who::Plain);
    let beat = compile(&sandbox, "beat.c", "beat", &[]);
    let script = format!(
        "set -e; mkdir -m 755 root; mkdir root/tmp root/work root/lib64 root/dev; cp {beat} root/\n\
         for file in $(ldd {beat} | grep -o '/[^ ]*'); do mkdir -p root/$(dirname $file); cp -L $file root/$file; done\n"
    );
    let made = sandbox.command("sh").args(["-c", &script]).current_dir(sandbox.path("")).status();
    assert!(made.expect("sh starts").success());
    // brant's user owns the namespace, as in a container of a plain user.
    let mut command = sandbox.command("unshare");
    command.args(["-Ur", "chroot"]).arg(sandbox.path("root")).args(["/beat", "/work/f", "1"]);
    let mut program = sandbox.launch(command, false);
    let counted = || sandbox.text("root/work/f.count.0").lines().count();
    assert!(wait_until(PROMPT_S, || counted() > 3), "{}", sandbox.text("err"));
    let pid = program.pid();
    let (word, out) = (pid.to_string(), "root/work/t.txt");
    sandbox.brant(&["wrap", "trace:out=/work/t.txt,direct", &word]).expect(0);
    expect_records(&sandbox, out, "wrapped");
    assert!(maps(pid).contains("/tmp/brant-runtime-"), "{}", maps(pid));
    assert_eq!(left(&sandbox.path("root")), Vec::<String>::new());
    let unwrapped = sandbox.brant(&["unwrap", "trace", &word, "--json"]);
    assert!(unwrapped.expect(0).stdout.contains("\"unloaded\": true"), "{}", unwrapped.stdout);
    sandbox.brant(&["wrap", "trace:out=/work/t.txt,direct", &word]).expect(0);
    expect_records(&sandbox, out, "wrapped again");
    sandbox.brant(&["unwrap", "trace", &word]).expect(0);
    // Nor any folder for temporary files.
    std::fs::remove_dir(sandbox.path("root/tmp")).expect("it is empty");
    let refused = sandbox.brant(&["wrap", "trace:out=/work/t.txt", &word]);
    assert!(refused.code == 3 && refused.stderr.contains("B-1153"), "{} {}", refused.code, refused.stderr);
    sandbox.write("root/work/f.go", "");
    assert_eq!(program.wait(PROMPT_S), Some(0), "{}", sandbox.text("err"));
}

/// vm.memfd_noexec=2 of a pid namespace: no file in memory that could be executed. It can be mapped.
#[test]
fn programs_that_may_execute_no_memory_file_are_wrapped() {
    if !is_root() {
        return skip("root");
    }
    if !Path::new("/proc/sys/vm/memfd_noexec").exists() {
        return skip("host: vm.memfd_noexec (Linux 6.3)");
    }
    let sandbox = Sandbox::new(Who::Plain);
    let beat = compile(&sandbox, "beat.c", "beat", &[]);
    let (brant, base) =
        (sandbox.path("brant").display().to_string(), sandbox.path("f").display().to_string());
    let out = sandbox.path("t.txt").display().to_string();
    let script = format!(
        "echo 2 > /proc/sys/vm/memfd_noexec || exit 9\n\
         mkdir -m 700 {base}.run; export XDG_RUNTIME_DIR={base}.run\n\
         {beat} {base} 1 & target=$!\n\
         sleep 1; {brant} wrap trace:out={out},direct $target || exit 8\n\
         sleep 1; grep -c memfd /proc/$target/maps; {brant} unwrap trace $target --json || exit 7\n\
         touch {base}.go; wait $target\n"
    );
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "sh", "-c", &script]);
    let output = command.output().expect("unshare starts");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{:?} {said}", output.status);
    assert!(records(&sandbox, "t.txt") > 20 && said.contains("\"unloaded\": true"), "{said}");
}
