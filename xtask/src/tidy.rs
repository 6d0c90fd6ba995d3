//! The checks that the style asks for and no compiler makes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sections::unexplained;

const LINES_MAX: usize = 600;
/// A longer file says so in its module documentation, with this phrase and the reason.
const LONG_FILE_PHRASE: &str = "longer than 600 lines because";

/// Everything that is not as it should be, one line each.
pub(crate) fn findings(root: &Path) -> Vec<String> {
    let mut sources = Vec::new();
    for folder in ["crates", "site", "xtask", "windows"] {
        collect(&root.join(folder), &mut sources);
    }
    sources.sort();
    let mut findings = Vec::new();
    for path in &sources {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
        check_source(&name, &text, &mut findings);
    }
    check_crate_map(root, &mut findings);
    check_tour(root, &mut findings);
    for file in [
        "README.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "CONTRIBUTING.md",
        "docs/ARCHITECTURE.md",
        "docs/format.md",
        "changes",
    ] {
        if !root.join(file).exists() {
            findings.push(format!("{file}: missing"));
        }
    }
    findings
}

fn check_source(name: &str, text: &str, findings: &mut Vec<String>) {
    let body = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or(text);
    let lines = body.lines().count();
    let is_test = name.contains("/tests/") || name.ends_with("/tests.rs");
    let docs_flat: String = text
        .lines()
        .take_while(|line| line.starts_with("//!"))
        .map(|line| line.trim_start_matches("//!"))
        .collect();
    if lines > LINES_MAX && !is_test && !docs_flat.contains(LONG_FILE_PHRASE) {
        findings.push(format!("{name}: {lines} lines, and no \"{LONG_FILE_PHRASE}\" in its documentation"));
    }
    let is_root = name.ends_with("src/lib.rs") || name.ends_with("src/main.rs");
    let may_be_unsafe =
        ["kernel", "runtime", "mediator", "wrappers", "connect-c", "heap", "heap-c", "heap-malloc"]
            .iter()
            .any(|folder| name.starts_with(&format!("crates/{folder}/")))
            || ["agent", "connect", "control", "example", "heap", "carry"]
                .iter()
                .any(|folder| name.starts_with(&format!("windows/{folder}/")));
    if is_root && !may_be_unsafe && !text.contains("#![forbid(unsafe_code)]") {
        findings.push(format!("{name}: no #![forbid(unsafe_code)]"));
    }
    if !text.starts_with("//!") && !text.starts_with("#![") && !is_test {
        findings.push(format!("{name}: no module documentation"));
    }
    let stem = Path::new(name).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let folder_words = Path::new(name).iter().filter_map(|part| part.to_str());
    for word in ["util", "utils", "helper", "helpers", "common", "manager", "misc"] {
        if stem == word || folder_words.clone().any(|part| part == word) {
            findings.push(format!("{name}: a module named {word:?} says nothing"));
        }
    }
    // Spelled apart, so that this file does not find itself.
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X:"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("dbg", "!("),
    ];
    for (number, line) in text.lines().enumerate() {
        if let Some(mark) = marks.iter().find(|mark| line.contains(**mark)) {
            findings.push(format!("{name}:{}: {mark}", number + 1));
        }
    }
}

/// The modules of the source tour exist, and have no long section without an explanation.
fn check_tour(root: &Path, findings: &mut Vec<String>) {
    let tour = std::fs::read_to_string(root.join("docs/tour.md")).unwrap_or_default();
    let modules = tour.split("](../").skip(1).filter_map(|rest| rest.split(')').next());
    let mut count = 0;
    for module in modules.filter(|path| path.ends_with(".rs")) {
        count += 1;
        match std::fs::read_to_string(root.join(module)) {
            Ok(text) => findings.extend(unexplained(&text).into_iter().map(|section| {
                format!("{module}:{section} is long and has no explanation: the source tour shows it")
            })),
            Err(error) => findings.push(format!("docs/tour.md: {module}: {error}")),
        }
    }
    if count == 0 {
        findings.push("docs/tour.md: names no modules".to_owned());
    }
}

/// The architecture's crate map names each crate that exists, and no other.
fn check_crate_map(root: &Path, findings: &mut Vec<String>) {
    let Ok(text) = std::fs::read_to_string(root.join("docs/ARCHITECTURE.md")) else { return };
    let mut named = BTreeSet::new();
    for (at, _) in text.match_indices("crates/") {
        let rest = &text[at + "crates/".len()..];
        let name: String =
            rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-' || *c == '_').collect();
        if !name.is_empty() {
            named.insert(name);
        }
    }
    let entries = std::fs::read_dir(root.join("crates")).into_iter().flatten().flatten();
    let existing: BTreeSet<String> = entries
        .filter(|entry| entry.path().join("Cargo.toml").is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    for missing in existing.difference(&named) {
        findings.push(format!("docs/ARCHITECTURE.md: does not tell of crates/{missing}"));
    }
    for gone in named.difference(&existing) {
        findings.push(format!("docs/ARCHITECTURE.md: tells of crates/{gone}, which does not exist"));
    }
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && entry.file_name() != "target" {
            collect(&path, into);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            into.push(path);
        }
    }
}
