//! The first law: whatever fails, the program runs on unharmed, or is gone as a whole after its image was safe; never two,
//! never a part.
//!
//! Each operation is killed at random instants (see [`kills`]) beside a program that checks itself (see [`witness`]). After
//! every kill: it makes progress with all its threads and processes and found nothing wrong with itself, no thread is
//! held or traced, no process of brant or copy of memory is left, no zombie, no mount, no file but whole images. What may
//! stay until the next command that looks at jobs is the folder of a job that was lost.
#![forbid(unsafe_code)]

mod cgroup;
mod checkpoint;
mod clients;
mod disk;
mod hard;
mod kills;
mod restore;
mod witness;

use brant_testkit::{Sandbox, Who, is_root, skip, wait_until};

use cgroup::Group;
use disk::SmallDisk;
use hard::Hard;
use kills::{Operation, at_few_instants, at_random_instants};
use witness::Witness;

#[test]
fn killed_in_a_checkpoint() {
    let mut operation = checkpoint::LeaveRunning::new();
    at_random_instants(&mut operation);
    operation.witness.finish(&operation.sandbox);
}

#[test]
fn killed_in_a_checkpoint_that_stops() {
    let mut operation = checkpoint::Stop::new();
    at_random_instants(&mut operation);
    eprintln!("the program was gone and came back {} times", operation.brought_back);
    operation.witness.finish(&operation.sandbox);
}

#[test]
fn killed_in_a_restore() {
    at_random_instants(&mut restore::Restore::<true>::new());
}

#[test]
fn killed_in_a_foreground_restore() {
    at_random_instants(&mut restore::Restore::<false>::new());
}

#[test]
fn killed_in_a_foreground_run() {
    at_random_instants(&mut clients::Run::new());
}

#[test]
fn killed_in_an_attach() {
    for how in [["-t"].as_slice(), &[]] {
        let mut operation = clients::Attach::new(how);
        at_random_instants(&mut operation);
        operation.witness.finish(&operation.sandbox);
    }
}

#[test]
fn killed_beside_hard_programs() {
    for (fixture, args) in hard::PROGRAMS {
        eprintln!("beside {fixture}:");
        kill_beside(Hard::new(fixture, args));
    }
}

/// All but those whose checkpoint may be refused.
#[test]
fn killed_in_a_restore_of_hard_programs() {
    for (fixture, args) in hard::PROGRAMS.iter().filter(|(fixture, _)| *fixture != "vfork") {
        eprintln!("of {fixture}:");
        at_few_instants(&mut restore::Restore::<true>::of(fixture, args));
    }
}

#[test]
fn killed_beside_limits() {
    for (fixture, option) in hard::LIMITS {
        eprintln!("beside {fixture} with {option}");
        kill_beside(Hard::limited(fixture, option));
    }
}

fn kill_beside(mut hard: Hard) {
    at_few_instants(&mut hard);
    hard.finish();
}

/// The program's group has no room for a copy of it; and brant has to share what there is.
#[test]
fn killed_beside_a_tight_memory_cgroup() {
    const PROGRAM_BYTES: u64 = 8 << 20;
    const BRANT_BYTES: u64 = 96 << 20;
    if !is_root() {
        return skip("root");
    }
    for is_shared in [false, true] {
        let Some(group) = Group::new("memory") else { return skip("host: memory cgroups") };
        let hard = Hard::with("busy", &[], |pid| group.add(pid));
        eprintln!("in a tight memory cgroup, brant {}", if is_shared { "too" } else { "not" });
        group.limit_memory(if is_shared { BRANT_BYTES } else { PROGRAM_BYTES });
        kill_beside(hard.in_group(group, is_shared));
    }
}

/// The program's group has no room for processes but those of the program.
#[test]
fn killed_beside_a_tight_pids_cgroup() {
    if !is_root() {
        return skip("root");
    }
    let Some(group) = Group::new("pids") else { return skip("host: pids cgroups") };
    let hard = Hard::with("busy", &[], |pid| group.add(pid));
    group.limit_processes(2);
    kill_beside(hard.in_group(group, false));
}

#[test]
fn killed_with_a_full_disk_for_images() {
    let Some(disk) = SmallDisk::for_images() else { return };
    let folder = disk.path().to_owned();
    let mut hard = Hard::new("busy", &[]).with_image_on(&folder);
    at_few_instants(&mut hard);
    drop(disk);
    hard.finish();
}

/// Nothing of a job's folder can be written: a program is not started, or not brought back.
#[test]
fn killed_with_a_full_disk_for_jobs() {
    let mut run = clients::Run::new();
    let Some(disk) = SmallDisk::for_jobs(run.sandbox()) else { return };
    disk.fill();
    run.expect_failure();
    at_few_instants(&mut run);
    let mut restore = restore::Restore::<true>::new();
    let Some(disk) = SmallDisk::for_jobs(restore.sandbox()) else { return };
    disk.fill();
    restore.expect_failure();
    at_few_instants(&mut restore);
}

/// The disk gets full while a job runs, which speaks all the time: its log ends, and nothing else.
#[test]
fn killed_with_a_full_disk_for_the_log() {
    let sandbox = Sandbox::new(Who::Plain);
    let Some(disk) = SmallDisk::for_jobs(&sandbox) else { return };
    let mut operation = clients::Attach::in_sandbox(sandbox, &[]);
    disk.fill();
    at_few_instants(&mut operation);
    operation.witness.finish(&operation.sandbox);
}

/// What a killed checkpoint leaves in the program must not travel, either.
#[test]
fn killed_and_then_carried() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut witness = Witness::start(&sandbox);
    for number in 0..5 {
        let (mut brant, _) =
            sandbox.spawn_brant(&["checkpoint", &witness.target(), "-o", &text(&sandbox, "cut.img")]);
        std::thread::sleep(std::time::Duration::from_millis(20 + 9 * number));
        let _ = brant.kill();
        let _ = brant.wait();
        let _ = std::fs::remove_file(sandbox.path("cut.img"));
    }
    let whole = text(&sandbox, "whole.img");
    let stopped = sandbox.brant(&["checkpoint", &witness.target(), "--stop", "-o", &whole]);
    assert_eq!(stopped.code, 0, "{}", stopped.stderr);
    assert!(wait_until(20, || witness.has_ended()), "--stop left the program running");
    let restored = sandbox.brant(&["restore", "-d", "-n", "carried", &whole]);
    assert_eq!(restored.code, 0, "{}", restored.stderr);
    Witness::job(&sandbox, "carried").expect("it is a job").finish(&sandbox);
}

fn text(sandbox: &Sandbox, name: &str) -> String {
    sandbox.path(name).to_str().expect("test paths are UTF-8").to_owned()
}

#[test]
fn a_file_size_limit_is_a_full_disk() {
    let sandbox = Sandbox::new(Who::Plain);
    let mut witness = Witness::start(&sandbox);
    let path = text(&sandbox, "big.img");
    let mut command = sandbox.command("prlimit");
    command.arg("--fsize=65536").arg(sandbox.path("brant"));
    command.args(["checkpoint", &witness.target(), "--stop", "-o", &path]);
    let output = command.output().expect("prlimit starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{stderr}");
    assert!(!sandbox.path("big.img").exists(), "a failed checkpoint left an image");
    witness.expect_unharmed(&sandbox);
    witness.finish(&sandbox);
}

#[test]
fn a_full_disk() {
    if !is_root() {
        return skip("root");
    }
    let sandbox = Sandbox::new(Who::Plain);
    let mut witness = Witness::start(&sandbox);
    let folder = sandbox.path("small");
    std::fs::create_dir(&folder).expect("the sandbox is writable");
    let mut mount = std::process::Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=128k,mode=777", "tmpfs"]).arg(&folder);
    if !mount.status().is_ok_and(|status| status.success()) {
        return skip("host: mount");
    }
    let outcome =
        sandbox.brant(&["checkpoint", &witness.target(), "--stop", "-o", &text(&sandbox, "small/x.img")]);
    let left: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder is there")
        .flatten()
        .map(|entry| entry.path())
        .collect();
    let unmounted = std::process::Command::new("umount").arg(&folder).status();
    assert!(unmounted.is_ok_and(|status| status.success()), "the small disk is still in use");
    assert_eq!(outcome.code, 7, "{}", outcome.stderr);
    assert!(left.is_empty(), "left on the full disk: {left:?}");
    witness.expect_unharmed(&sandbox);
    witness.finish(&sandbox);
}
