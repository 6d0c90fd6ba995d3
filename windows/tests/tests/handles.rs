//! The wrapper `handles`: what the program holds stays, what it stands for changes.

use brant_windows_tests::{Built, Folder, Wine, compile};
use serde_json::Value;

fn held(wine: &Wine, folder: &Folder, words: &[&str]) -> Vec<(u64, u64, String)> {
    let json: Value = serde_json::from_str(&wine.brant(folder, words).ok()).unwrap();
    let of = |handle: &Value| {
        (
            handle["handle"].as_u64().unwrap(),
            handle["real"].as_u64().unwrap(),
            handle["kind"].as_str().unwrap().to_owned(),
        )
    };
    json["handles"].as_array().unwrap().iter().map(of).collect()
}

#[test]
fn handles_stand_for_other_ones_without_the_programs_noticing() {
    for version in ["win10", "win7"] {
        let (wine, folder) = (Wine::new(version), Folder::new());
        let program = compile(&folder, "holder", Built::Program, &["-lws2_32"]);
        let mut program =
            wine.start_by_brant(&folder, &["run", "--wrap", "handles", "--", program.to_str().unwrap()]);
        let pid = program.pid();
        let output = program.wait_for("held ");
        let told = output.lines().find_map(|line| line.strip_prefix("held ")).unwrap();
        let told: Vec<u64> = told.split(' ').map(|word| u64::from_str_radix(word, 16).unwrap()).collect();
        assert!(told.iter().all(|handle| *handle >= 0x4000_0000), "{output}");
        let mut before = held(&wine, &folder, &["handles", &pid, "--json"]);
        let kinds: Vec<&str> = ["event", "mutex", "semaphore", "timer", "file", "file"].to_vec();
        for (handle, kind) in told.iter().zip(kinds) {
            assert!(before.iter().any(|(held, _, of)| held == handle && of == kind), "{before:x?}");
        }
        for turn in 0..4 {
            program.say("");
            program.wait_for(&format!("turn {turn}"));
            let after = held(&wine, &folder, &["handles", &pid, "--json", "--renew"]);
            // Winsock makes an event of its own in the first turn.
            for (handle, real, kind) in &before {
                let new = after
                    .iter()
                    .find(|(new, _, _)| new == handle)
                    .unwrap_or_else(|| panic!("{handle:x}: {after:x?}"));
                assert_eq!(*kind, new.2);
                assert_ne!(*real, new.1, "{before:x?} {after:x?}");
            }
            before = after;
        }
        let said = wine.brant(&folder, &["unwrap", "handles", &pid]);
        assert!(said.err.starts_with("brant: B-1321: the program holds"), "{said:?}");
        program.say("");
        program.wait_for("turn 4");
        let (code, output) = program.end();
        assert_eq!(code, 0, "{output}");
    }
}
