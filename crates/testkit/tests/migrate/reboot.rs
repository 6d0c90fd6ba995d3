//! A move that was broken off, and then both hosts start anew: what runs is gone, and so are the folders of jobs. The
//! records and the images tell all that is needed.

use brant_testkit::{Sandbox, Who};

use crate::hosts::{Hosts, LIFE_TIMEOUT_S};

/// What a restart takes away, and how the records see it.
fn restart(hosts: &Hosts) {
    for folder in ["run/brant", "far/run/brant"] {
        let _ = std::fs::remove_dir_all(hosts.sandbox.path(folder));
    }
    let records = std::fs::read_dir(hosts.sandbox.path("state/brant/handovers")).expect("the source has one");
    for record in records.flatten() {
        let name = record.path();
        let text = std::fs::read_to_string(&name).expect("it is readable");
        let mut value: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        value["boot_id"] = "another".into();
        std::fs::write(&name, value.to_string()).expect("the test may write it");
    }
}

/// Where a move stops, and the words of `restore` that bring the program back there; none: it is brought back here.
const CASES: &[(&str, Option<&[&str]>)] = &[
    ("migrate.ended", None),
    ("migrate.ended", Some(&["--take-over"])),
    ("migrate.given", Some(&["--take-over"])),
    ("receive.ours", Some(&[])),
];

#[test]
fn a_move_that_a_restart_broke_off() {
    let hosts = Hosts::new(Sandbox::with_faults(Who::Plain));
    for (point, there) in CASES {
        let mut program = hosts.begin("busy");
        let target = program.pid().to_string();
        let fault = format!("{point}=kill");
        let (outcome, made) = hosts.sandbox.brant_with_fault(&fault, &hosts.migrate_words(&target));
        assert!(made, "{fault} was not reached: {}", outcome.stderr);
        assert!(program.wait(LIFE_TIMEOUT_S).is_some(), "{fault}: it runs on here");
        hosts.sandbox.expect_no_leftovers();
        restart(&hosts);

        let (near, far) = (hosts.sandbox.brant(&["ps"]), hosts.far(&["ps"]));
        near.expect(0);
        far.expect(0);
        let told = format!("{fault}: {}{}\n{}{}", near.stdout, near.stderr, far.stdout, far.stderr);
        assert!(near.stdout.contains("handed over") && far.stdout.contains("held"), "{told}");
        let lists = [hosts.sandbox.brant(&["ps", "--json"]), hosts.far(&["ps", "--json"])];
        let (out, held) = (hosts.listed(&lists[0], "handed_out"), hosts.listed(&lists[1], "held"));
        let image = out[0]["image"].as_str().expect("it has an id").to_owned();
        assert_eq!(held[0]["image"].as_str(), Some(&*image), "{told}");
        let near_word = &image[..12];
        assert!(near.stderr.contains(near_word) && far.stderr.contains(near_word), "{told}");

        match there {
            None => {
                hosts.sandbox.brant(&["restore", "-d", near_word]).expect(0);
            }
            Some(words) => {
                if !words.is_empty() {
                    assert_ne!(hosts.far(&["restore", "-d", near_word]).code, 0, "{told}");
                }
                hosts.far(&[&["restore", "-d", near_word], *words].concat()).expect(0);
            }
        }
        hosts.expect_good_end(&told);
        hosts.sandbox.expect_no_leftovers();
        // What `ps` names for tidying up does that, and then nothing is told any more.
        for (list, brant) in [("handed_out", true), ("held", false)] {
            let run = |args: &[&str]| if brant { hosts.sandbox.brant(args) } else { hosts.far(args) };
            if !hosts.listed(&run(&["ps", "--json"]), list).is_empty() {
                run(&["image", "rm", near_word]).expect(0);
            }
            assert!(hosts.listed(&run(&["ps", "--json"]), list).is_empty(), "{told}");
        }
    }
}
