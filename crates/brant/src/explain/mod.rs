//! Every error code with its long explanation, in one table.

mod connect;
mod engine;
mod heap;
mod jobs;
mod migrate;
mod record;

use std::sync::LazyLock;

/// An error code's page.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) code: &'static str,
    pub(crate) title: &'static str,
    /// Paragraphs of plain text.
    pub(crate) text: &'static str,
}

/// All codes in ascending order.
pub(crate) static TABLE: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    let texts = brant_capture::EXPLANATIONS.iter().chain(brant_definition::EXPLANATIONS);
    let texts = texts.chain(brant_windows::EXPLANATIONS);
    let of_others = texts.map(|&(code, text)| {
        let title = text.split_once(". ").map_or(text, |(sentence, _)| sentence);
        Entry { code, title: title.trim_end_matches('.'), text }
    });
    let mut table: Vec<Entry> = jobs::ENTRIES
        .iter()
        .chain(engine::ENTRIES)
        .chain(migrate::ENTRIES)
        .chain(connect::ENTRIES)
        .chain(record::ENTRIES)
        .chain(heap::ENTRIES)
        .copied()
        .chain(of_others)
        .collect();
    table.sort_by_key(|entry| entry.code);
    table
});

/// The entry of `code`, in any case, with or without its "B-".
pub(crate) fn find(code: &str) -> Option<Entry> {
    let code = code.to_ascii_uppercase();
    let number = code.strip_prefix("B-").unwrap_or(&code);
    TABLE.iter().find(|entry| &entry.code[2..] == number).copied()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// All codes in the sources of a folder.
    fn codes_in(folder: &Path, codes: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                codes_in(&path, codes);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                for (at, _) in text.match_indices("\"B-") {
                    let code = &text[at + 1..];
                    if code.len() > 6
                        && code[2..6].bytes().all(|byte| byte.is_ascii_digit())
                        && code[6..].starts_with('"')
                    {
                        codes.insert(code[..6].to_string());
                    }
                }
            }
        }
    }

    #[test]
    fn every_code_is_explained_once() {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut used = BTreeSet::new();
        for entry in std::fs::read_dir(crates).unwrap().flatten() {
            if entry.path().join("src").is_dir() {
                codes_in(&entry.path().join("src"), &mut used);
            }
        }
        assert!(used.len() > 60, "{used:?}");
        let missing: Vec<_> = used.iter().filter(|code| find(code).is_none()).collect();
        assert!(missing.is_empty(), "no explanation of {missing:?}");
        let twice: Vec<_> = TABLE.windows(2).filter(|pair| pair[0].code == pair[1].code).collect();
        assert!(twice.is_empty(), "{twice:?}");
        assert!(TABLE.iter().all(|entry| !entry.title.is_empty() && entry.text.len() > 20));
    }
}
