//! `docs/ARCHITECTURE.md` against the workspace as cargo sees it: the crates of its map, the edges that it denies, and that it is read
//! in ten minutes.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// A quick reader's, of technical text.
const WORDS_A_MINUTE: usize = 300;

/// Package names with their folders from the root and their dependencies within the workspace, without those of tests.
fn packages() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]).current_dir(&root);
    let output = command.output().expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let package = |package: &Value| {
        let manifest = Path::new(package["manifest_path"].as_str().unwrap());
        let folder = manifest.parent().unwrap().strip_prefix(&root).unwrap().display().to_string();
        let edges = package["dependencies"].as_array().unwrap().iter();
        let edges = edges.filter(|edge| edge["kind"].is_null() && edge["path"].is_string());
        let edges = edges.map(|edge| edge["name"].as_str().unwrap().to_owned()).collect();
        (package["name"].as_str().unwrap().to_owned(), (folder, edges))
    };
    metadata["packages"].as_array().unwrap().iter().map(package).collect()
}

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/ARCHITECTURE.md");
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn the_code_map_has_every_package_and_no_other() {
    let document = document();
    let (_, map) = document.split_once("## Code map").unwrap();
    let map = map.split("\n## ").next().unwrap();
    let rows = map.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" |").map(|(cell, _)| cell));
    let named: BTreeSet<String> = rows
        .flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let folders: BTreeSet<String> = packages().into_values().map(|(folder, _)| folder).collect();
    let missing: Vec<_> = folders.difference(&named).collect();
    assert!(missing.is_empty(), "the code map does not tell of {missing:?}");
    // Workspaces of their own.
    let gone: Vec<_> = named.difference(&folders).filter(|name| !["site"].contains(&name.as_str())).collect();
    assert!(gone.is_empty(), "the code map tells of {gone:?}, which cargo does not know");
}

#[test]
fn edges_that_it_denies_are_not_there() {
    let packages = packages();
    let reaches = |from: &str| {
        let mut reached: BTreeSet<String> = BTreeSet::new();
        let mut open = vec![from.to_owned()];
        while let Some(name) = open.pop() {
            for edge in &packages[&name].1 {
                if reached.insert(edge.clone()) {
                    open.push(edge.clone());
                }
            }
        }
        reached
    };
    let denied = [
        ("brant-capture", &["brant-restore", "brant-connect", "brant"][..]),
        ("brant-restore", &["brant-capture", "brant-connect", "brant"]),
        ("brant-migrate", &["brant-capture", "brant-restore", "brant"]),
        ("brant-image", &["brant-kernel", "brant-capture", "brant-restore"]),
        ("brant-store", &["brant-kernel"]),
        ("brant-heap", &["brant-kernel", "brant-image", "brant-capture", "brant-restore"]),
        ("brant", &["brant-testkit"]),
        ("xtask", &["brant", "brant-image", "brant-kernel"]),
    ];
    for (from, others) in denied {
        let reached = reaches(from);
        for other in others {
            assert!(!reached.contains(*other), "{from} leads to {other}");
        }
    }
}

#[test]
fn it_is_read_in_ten_minutes() {
    let words = document().split_whitespace().count();
    assert!(words <= 10 * WORDS_A_MINUTE, "{words} words");
}
