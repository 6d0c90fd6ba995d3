//! What may happen at any instant of a move: either brant is killed, the connection is lost, somebody interrupts it.

use std::io::BufRead as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use brant_testkit::{Outcome, Random, Sandbox, Who, is_full, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::hosts::{Hosts, LIFE_TIMEOUT_S, RELAY};

/// Of each kind.
const TRIES_SHORT: u32 = 40;
const TRIES_FULL: u32 = 300;

impl Hosts {
    /// Lets something happen at random instants of many moves, and looks for the one copy after each.
    fn disturb_often(
        &self,
        what: &str,
        seed: u64,
        disturb: impl Fn(&mut Child, &mut Random),
        judge: impl Fn(&Hosts, &Outcome, bool, &str),
    ) {
        let tries = if is_full() { TRIES_FULL } else { TRIES_SHORT };
        let mut random = Random::new(seed);
        let mut program = self.begin_beside_kills();
        let begun = Instant::now();
        let whole = self.sandbox.brant(&self.migrate_words(&program.pid().to_string()));
        let span_us = begun.elapsed().as_micros() as u64 * 11 / 10;
        whole.expect(0);
        let (mut here, mut gone) = (self.expect_one_copy(&mut program, "a whole move"), 0);
        for number in 1..=tries {
            if !here {
                program = self.begin_beside_kills();
            }
            let after_us = random.below(span_us);
            let target = program.pid().to_string();
            let (mut brant, output) = self.sandbox.spawn_brant(&self.migrate_words(&target));
            std::thread::sleep(Duration::from_micros(after_us));
            disturb(&mut brant, &mut random);
            let outcome =
                self.sandbox.outcome(output, brant.wait().expect("our own child can be waited for"));
            let when = format!("{what} {number}, {after_us} us: {} {}", outcome.code, outcome.stderr);
            judge(self, &outcome, program.ended().is_none(), &when);
            here = self.expect_one_copy(&mut program, &when);
            gone += u32::from(!here);
        }
        eprintln!("{tries} x {what}: {gone} programs were moved or resumed, the others ran on; none harmed");
        if here {
            self.expect_good_end("at last");
            assert_eq!(program.wait(LIFE_TIMEOUT_S), Some(0));
        }
        self.sandbox.expect_no_leftovers();
    }
}

fn any_outcome(_: &Hosts, _: &Outcome, _: bool, _: &str) {}

#[test]
fn the_source_is_killed() {
    let kill = |brant: &mut Child, _: &mut Random| drop(brant.kill());
    Hosts::new(Sandbox::new(Who::Plain)).disturb_often(
        "kill of the source",
        0x6272_616e_7411,
        kill,
        any_outcome,
    );
}

#[test]
fn the_destination_is_killed() {
    let hosts = Hosts::new(Sandbox::new(Who::Plain));
    let end = |_: &mut Child, _: &mut Random| {
        if let Some(pid) = hosts.at_work("receive") {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    };
    hosts.disturb_often("kill of the destination", 0x6272_616e_7412, end, any_outcome);
}

#[test]
fn the_connection_is_lost() {
    let hosts = Hosts::new(Sandbox::new(Who::Plain)).with_stand_in(RELAY);
    // What is refused there is judged by it.
    assert_eq!(hosts.far(&["restore", "no-such-image"]).code, 4, "the stand-in hides what it ran");
    // One direction, or what holds both, by a signal that can be refused or one that cannot.
    let end = |_: &mut Child, random: &mut Random| {
        let parts = hosts.transport();
        if let Some(pid) = parts.get(random.below(parts.len().max(1) as u64) as usize) {
            let signals = [Signal::SIGKILL, Signal::SIGTERM];
            let _ = kill(Pid::from_raw(*pid), signals[random.below(2) as usize]);
        }
    };
    hosts.disturb_often("loss of the connection", 0x6272_616e_7413, end, any_outcome);
}

/// The destination throws a held image away once it hears that the program runs on at the source. Who has opened the image
/// before that and looks for its mark behind it finds none.
#[test]
fn an_image_that_is_thrown_away_while_it_is_brought_back() {
    let hosts = Hosts::new(Sandbox::with_faults(Who::Plain));
    let mut program = hosts.begin("busy");
    let target = program.pid().to_string();
    let fault = "receive.said-ready=kill";
    let (broken_off, made) = hosts.sandbox.brant_with_fault(fault, &hosts.migrate_words(&target));
    assert!(made, "{fault} was not reached: {}", broken_off.stderr);
    let held = hosts.listed(&hosts.far(&["ps", "--json"]), "held");
    let of = |key: &str| held[0][key].as_str().expect("a held image has it").to_owned();
    let (image, path) = (of("image"), of("path"));
    let refused = hosts.far(&["restore", "-d", "--files", "keep", &image]);
    assert!(refused.stderr.contains("B-0910"), "a held image was not refused: {}", refused.stderr);

    let log = hosts.sandbox.path("opened");
    let mut command = hosts.sandbox.command(&hosts.rsh);
    command.arg("elsewhere").arg(format!("{} restore -d --files keep {image}", hosts.far_brant));
    command.env("BRANT_FAULT", "restore.opened=hold").env("BRANT_FAULT_LOG", &log);
    let mut restore = command.stderr(Stdio::piped()).spawn().expect("the stand-in starts");
    assert!(wait_until(LIFE_TIMEOUT_S, || log.exists()), "the image was not opened");
    let mark = hosts.sandbox.path("far/state/brant/handovers").join(format!("in-{image}.json"));
    for thrown_away in [Path::new(&path), &mark, &log] {
        std::fs::remove_file(thrown_away).expect("the test may remove it");
    }
    let mut said = String::new();
    let stderr = restore.stderr.take().expect("it is piped");
    std::io::BufReader::new(stderr).read_line(&mut said).expect("it is readable");
    let status = restore.wait().expect("our own child can be waited for");
    assert_eq!(status.code(), Some(4), "{said}");
    assert!(said.contains("B-0606"), "{said}");
    assert!(hosts.listed(&hosts.far(&["ps", "--json"]), "jobs").is_empty(), "two copies");
    hosts.expect_good_end("beside it");
    assert_eq!(program.wait(LIFE_TIMEOUT_S), Some(0));
    hosts.sandbox.expect_no_leftovers();
}

#[test]
fn somebody_interrupts_it() {
    let hosts = Hosts::new(Sandbox::new(Who::Plain));
    let interrupt = |brant: &mut Child, random: &mut Random| {
        let signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
        let _ = kill(Pid::from_raw(brant.id() as i32), signals[random.below(3) as usize]);
    };
    // Both ends live, so both know the outcome: it is there, or it is here and the other host has forgotten it.
    let judge = |hosts: &Hosts, outcome: &Outcome, is_here: bool, when: &str| {
        assert_eq!(outcome.code != 0, is_here, "{when}");
        let lists = [hosts.sandbox.brant(&["ps", "--json"]), hosts.far(&["ps", "--json"])];
        for list in ["held", "handed_out"] {
            assert!(lists.iter().all(|said| hosts.listed(said, list).is_empty()), "{when}: {list}");
        }
        // Before brant has looked at the target the signal simply ends it; before the other host has answered it was
        // not reached.
        let codes = [0, 7, 8, 128 + 1, 128 + 2, 128 + 15];
        assert!(codes.contains(&outcome.code), "{when}");
        assert!(outcome.code != 8 || outcome.stderr.contains("runs on here as before"), "{when}");
        assert!(!outcome.stderr.contains("may hold"), "{when}");
    };
    hosts.disturb_often("interruption", 0x6272_616e_7414, interrupt, judge);
}
