//! Moves between two "hosts" of one machine: two homes of one user behind a stand-in for ssh, and two users behind a
//! real sshd. Whatever fails, one copy runs or can be resumed, and `ps` says how.
#![forbid(unsafe_code)]

mod account;
mod disk;
mod hosts;

use std::time::{Duration, Instant};

use brant_base::fault::POINTS;
use brant_testkit::{Sandbox, Who, is_full};
use hosts::{Hosts, LIFE_TIMEOUT_S};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// At each end.
const KILLS_SHORT: u32 = 40;
const KILLS_FULL: u32 = 300;

impl Hosts {
    /// Kills one end at random instants of many moves.
    fn kill_often(&self, end: &str, seed: u64) {
        let kills = if is_full() { KILLS_FULL } else { KILLS_SHORT };
        let mut state = seed;
        let mut random = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let mut program = self.begin("busy");
        let begun = Instant::now();
        let whole = self.sandbox.brant(&self.migrate_words(&program.pid().to_string()));
        let span_us = begun.elapsed().as_micros() as u64 * 11 / 10;
        assert_eq!(whole.code, 0, "{}", whole.stderr);
        let (mut here, mut gone) = (self.expect_one_copy(&mut program, "a whole move"), 0);
        for number in 1..=kills {
            if !here {
                program = self.begin("busy");
            }
            let after_us = random(span_us);
            let (mut brant, _) = self.sandbox.spawn_brant(&self.migrate_words(&program.pid().to_string()));
            std::thread::sleep(Duration::from_micros(after_us));
            match end {
                "migrate" => drop(brant.kill()),
                end => {
                    if let Some(pid) = self.at_work(end) {
                        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                    }
                }
            }
            let _ = brant.wait();
            here = self.expect_one_copy(&mut program, &format!("kill {number} of {end}, {after_us} us"));
            gone += u32::from(!here);
        }
        eprintln!(
            "{kills} kills of {end}: {gone} programs were moved or resumed, the others ran on; none harmed"
        );
        if here {
            self.expect_good_end("at last");
            assert_eq!(program.wait(LIFE_TIMEOUT_S), Some(0));
        }
        self.sandbox.expect_no_leftovers();
    }
}

#[test]
fn the_source_is_killed_at_random_instants() {
    Hosts::new(Sandbox::new(Who::Plain)).kill_often("migrate", 0x6272_616e_7411);
}

#[test]
fn the_destination_is_killed_at_random_instants() {
    Hosts::new(Sandbox::new(Who::Plain)).kill_often("receive", 0x6272_616e_7412);
}

#[test]
fn a_program_goes_on_at_the_other_end() {
    let hosts = Hosts::new(Sandbox::new(Who::Plain));
    for fixture in ["busy", "tree", "threads"] {
        let mut program = hosts.begin(fixture);
        let target = program.pid().to_string();
        let dry = hosts.sandbox.brant(&[&hosts.migrate_words(&target)[..], &["--dry-run"]].concat());
        assert_eq!(dry.code, 0, "{fixture}: {}", dry.stderr);
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
fn either_end_stops_at_any_point() {
    let hosts = Hosts::new(Sandbox::with_faults(Who::Plain));
    let is_ours = |point: &&&str| point.starts_with("migrate.") || point.starts_with("receive.");
    for point in POINTS.iter().filter(is_ours) {
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
