//! Golden files: definitions with their canonical text, and broken ones with the whole text of their errors.
//!
//! `BRANT_WRITE_GOLDEN=1 cargo test -p brant-definition --test golden` writes the texts anew; read them before a commit.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use brant_definition::{Convention, EXPLANATIONS, parse};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/definitions").join(name)
}

/// Every definition of a folder, in the order of their names.
fn definitions(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let files = fs::read_dir(folder(name)).unwrap().map(|item| item.unwrap().path());
    let mut paths: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|end| end == "wrap")).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Compares with the golden file of that name, or writes it where the environment asks for it.
fn check_golden(path: &Path, text: &str) {
    if std::env::var_os("BRANT_WRITE_GOLDEN").is_some() {
        fs::write(path, text).unwrap();
    }
    let golden = fs::read_to_string(path).unwrap_or_default();
    assert_eq!(text, golden, "{}", path.display());
}

#[test]
fn whole_definitions_have_a_canonical_text() {
    let whole = definitions("whole");
    assert!(whole.len() >= 2);
    for (path, source) in whole {
        let definition = parse(&source, Convention::SysV)
            .unwrap_or_else(|errors| panic!("{}", errors.render(&path.display().to_string(), &source)));
        check_golden(&path.with_extension("txt"), &definition.to_string());
        assert_eq!(
            parse(definition.to_string().as_bytes(), Convention::SysV),
            Ok(definition),
            "{}",
            path.display()
        );
    }
}

#[test]
fn broken_definitions_are_told_with_every_error() {
    let mut reached = BTreeSet::from(["B-1002"]);
    for (path, source) in definitions("broken") {
        let name = path.file_name().unwrap().to_str().unwrap();
        let errors = parse(&source, Convention::SysV).expect_err(name);
        let codes: Vec<&str> = errors.iter().map(|error| error.code()).collect();
        assert!(codes.iter().any(|code| name.starts_with(code)), "{name}: {codes:?}");
        reached.extend(codes);
        let text = errors.render(name, &source);
        assert!(!text.contains(|letter: char| letter.is_control() && letter != '\n'), "{name}");
        check_golden(&path.with_extension("txt"), &text);
        // One line each for those who read it by a program.
        assert_eq!(errors.to_string().lines().count(), errors.iter().count(), "{name}");
    }
    // Limits are tested where files are made that exceed them.
    let explained: BTreeSet<&str> = EXPLANATIONS.iter().map(|(code, _)| *code).collect();
    assert_eq!(reached, explained);
    assert!(EXPLANATIONS.is_sorted_by_key(|(code, _)| *code));
}
