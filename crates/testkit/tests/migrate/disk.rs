//! Disks that are full, on either host: the program runs on where it was, nothing is left, and the message says whose
//! disk it is and what to type next.

use brant_testkit::{Sandbox, SmallDisk, Started, Who, is_root, skip, wait_until};

use crate::hosts::{Hosts, LIFE_TIMEOUT_S};

/// Memory that no compression makes shorter.
const RANDOM: &str = "import os,time\nmemory=os.urandom(40<<20)\nprint('ready',flush=True)\nwhile True: time.sleep(.02); print('beat',flush=True)";

/// Where the disk is small, how, and what a user is told: exit code, and words of the message.
struct Case {
    state: &'static str,
    limits: &'static str,
    code: i32,
    words: &'static [&'static str],
}

const CASES: &[Case] = &[
    // Seen before anything is touched.
    Case { state: "state", limits: "size=512k", code: 7, words: &["this host", "brant image rm"] },
    Case { state: "far/state", limits: "size=512k", code: 8, words: &["elsewhere", "brant image rm"] },
    // Seen while the image is written.
    Case { state: "state", limits: "size=16m", code: 7, words: &["this host", "brant image rm"] },
    Case { state: "far/state", limits: "size=16m", code: 8, words: &["elsewhere", "brant image rm"] },
    // There is room for the image and none for the records: for the first (a root, two folders and a file without a
    // name need four), or for that of the next step, which must not be found out when the program has ended.
    Case { state: "state", limits: "nr_inodes=5", code: 7, words: &["this host", "brant image rm"] },
    Case { state: "state", limits: "nr_inodes=6", code: 7, words: &["this host", "brant image rm"] },
    Case { state: "far/state", limits: "nr_inodes=6", code: 8, words: &["elsewhere", "brant image rm"] },
    Case { state: "far/state", limits: "nr_inodes=5", code: 8, words: &["elsewhere", "brant image rm"] },
];

#[test]
fn a_full_disk_on_either_host() {
    if !is_root() {
        return skip("root");
    }
    let hosts = Hosts::new(Sandbox::new(Who::Plain));
    let mut command = hosts.sandbox.command("/usr/bin/python3");
    let beats = std::fs::File::create(hosts.sandbox.path("beats")).expect("the sandbox is writable");
    let program = Started::spawn(command.args(["-c", RANDOM]).stdout(beats));
    let target = program.pid().to_string();
    assert!(wait_until(LIFE_TIMEOUT_S, || hosts.sandbox.text("beats").contains("beat")));
    for Case { state, limits, code, words } in CASES {
        let Some(disk) = SmallDisk::mount(&hosts.sandbox.path(state), limits) else {
            return skip("host: mount");
        };
        let outcome = hosts.sandbox.brant(&hosts.migrate_words(&target));
        let told = format!("{state} with {limits}: {}", outcome.stderr);
        assert_eq!(outcome.code, *code, "{told}");
        assert!(words.iter().all(|word| outcome.stderr.contains(word)), "{told}");
        assert!(outcome.stderr.contains("runs on"), "{told}");
        assert!(disk.files().is_empty(), "{told}: left {:?}", disk.files());
        drop(disk);
        let before = hosts.sandbox.text("beats").len();
        assert!(wait_until(LIFE_TIMEOUT_S, || hosts.sandbox.text("beats").len() > before), "{told}: harmed");
        for list in [hosts.sandbox.brant(&["ps", "--json"]), hosts.far(&["ps", "--json"])] {
            assert!(
                ["jobs", "held", "handed_out"].iter().all(|key| hosts.listed(&list, key).is_empty()),
                "{told}"
            );
        }
    }
    drop(program);
    hosts.sandbox.expect_no_leftovers();
}
