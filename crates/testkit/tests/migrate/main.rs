//! Moves between two "hosts" of one machine: two homes of one user behind a stand-in for ssh, and two users behind a
//! real sshd. Whatever fails, one copy runs or can be resumed, and `ps` says how.
#![forbid(unsafe_code)]

mod account;
mod disk;
mod hosts;
mod instants;
mod reboot;
mod wrapped;

use brant_base::fault::POINTS;
use brant_testkit::{Sandbox, Who};
use hosts::{Hosts, LIFE_TIMEOUT_S};

#[test]
fn a_program_goes_on_at_the_other_end() {
    let hosts = Hosts::new(Sandbox::new(Who::Plain));
    for fixture in ["busy", "tree", "threads"] {
        let mut program = hosts.begin(fixture);
        let target = program.pid().to_string();
        let dry = hosts.sandbox.brant(&[&hosts.migrate_words(&target)[..], &["--dry-run"]].concat());
        assert_eq!(dry.code, 0, "{fixture}: {}{}", dry.stdout, dry.stderr);
        assert_eq!(program.ended(), None, "{fixture}: a dry run ended it");
        let moved = hosts.sandbox.brant(&[&hosts.migrate_words(&target)[..], &["--json"]].concat());
        assert_eq!(moved.code, 0, "{fixture}: {}", moved.stderr);
        assert!(program.wait(LIFE_TIMEOUT_S).is_some(), "{fixture} runs on here");
        assert_eq!(hosts.listed(&hosts.far(&["ps", "--json"]), "jobs").len(), 1, "{fixture}");
        hosts.expect_good_end(fixture);
        hosts.sandbox.expect_no_leftovers();
        for images in [hosts.sandbox.brant(&["image", "ls"]), hosts.far(&["image", "ls"])] {
            assert!(images.stdout.lines().count() <= 1, "{fixture} left an image: {}", images.stdout);
        }
    }
}

#[test]
fn the_source_stops_at_any_point() {
    one_end_stops("migrate.");
}

#[test]
fn the_destination_stops_at_any_point() {
    one_end_stops("receive.");
}

fn one_end_stops(its_points: &str) {
    let hosts = Hosts::new(Sandbox::with_faults(Who::Plain));
    for point in POINTS.iter().filter(|point| point.starts_with(its_points)) {
        let mut program = hosts.begin("busy");
        let target = program.pid().to_string();
        let fault = format!("{point}=kill");
        let attempt = || hosts.sandbox.brant_with_fault(&fault, &hosts.migrate_words(&target));
        let (mut outcome, mut made) = attempt();
        // Under load a child of `busy` that is about to end can refuse to be traced (exit code 4): the program runs on, and
        // the next attempt is as good.
        for _ in 0..3 {
            if !made && outcome.code == 4 {
                (outcome, made) = attempt();
            }
        }
        assert!(made, "{fault} was not reached: {}", outcome.stderr);
        if hosts.expect_one_copy(&mut program, &fault) {
            hosts.expect_good_end(&fault);
            assert_eq!(program.wait(LIFE_TIMEOUT_S), Some(0), "{fault}");
            hosts.sandbox.expect_no_leftovers();
        }
    }
}

#[test]
fn what_is_refused_there_is_told_before_anything_ends() {
    let hosts = Hosts::new(Sandbox::new(Who::Plain));
    let mut program = hosts.begin("busy");
    let target = program.pid().to_string();
    let elsewhere = format!("{}=/nowhere", hosts.sandbox.path("busy").display());
    for how in [&["--dry-run"][..], &[]] {
        let args = [&hosts.migrate_words(&target)[..], &["--map-path", &elsewhere], how].concat();
        let refused = hosts.sandbox.brant(&args);
        assert_eq!(refused.code, 5, "{}{}", refused.stdout, refused.stderr);
        assert!(format!("{}{}", refused.stdout, refused.stderr).contains("/nowhere"), "{}", refused.stderr);
        assert_eq!(program.ended(), None, "the program ended");
    }
    hosts.sandbox.write("rsh", "#!/bin/sh\nhead -c 300000 /dev/zero\n");
    let hostile = hosts.sandbox.brant(&hosts.migrate_words(&target));
    assert_eq!(hostile.code, 7, "{}", hostile.stderr);
    hosts.sandbox.write("rsh", "#!/bin/sh\nexit 127\n");
    let missing = hosts.sandbox.brant(&["migrate", &target, "elsewhere", "-e", &hosts.rsh]);
    assert_eq!(missing.code, 7, "{}", missing.stderr);
    hosts.sandbox.write("f.go", "go");
    assert_eq!(program.wait(LIFE_TIMEOUT_S), Some(0));
    hosts.sandbox.expect_no_leftovers();
}
