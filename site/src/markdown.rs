//! The repository's Markdown as the guide has it: links lead to pages of the site, names of documents and sources become
//! links, blocks of pictures become pictures, and comments are left out.

use std::path::{Component, Path};

use crate::picture;

/// Where the things that documents link to are in the site.
pub(crate) trait Places {
    /// The address of a file of the repository (its path from the root), as seen from the page; `None` if the site
    /// has no such file.
    fn address(&self, path: &str) -> Option<String>;
}

/// Rewrites a document. `source` is its path in the repository. All that is wrong is in the second part.
pub(crate) fn rewrite(text: &str, source: &str, places: &dyn Places) -> (String, Vec<String>) {
    let mut out = String::with_capacity(text.len());
    let mut faults = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        // What tests of the documents read.
        if line.starts_with("<!--") {
            let _ = line.contains("-->") || lines.any(|line| line.contains("-->"));
            continue;
        }
        let Some(fence) = fence(line) else {
            out.push_str(&prose(line, source, places, &mut faults));
            out.push('\n');
            continue;
        };
        let block: Vec<&str> =
            lines.by_ref().take_while(|line| !line.trim_start().starts_with(fence)).collect();
        if line.trim().trim_start_matches('`') == "picture" {
            match picture::draw(&block.join("\n")) {
                Ok(drawn) => out.push_str(&format!("{drawn}\n")),
                Err(fault) => faults.push(format!("{source}: a picture: {fault}")),
            }
            continue;
        }
        // mdBook would guess a language where none is named.
        let opening = if line.trim() == fence { format!("{line}text") } else { line.to_owned() };
        out.push_str(&format!("{opening}\n{}\n{fence}\n", block.join("\n")));
    }
    (out, faults)
}

/// The backquotes that open a block.
fn fence(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let length = line.bytes().take_while(|byte| *byte == b'`').count();
    (length >= 3).then(|| &line[..length])
}

/// A line of text: its links, and the documents and sources that it names.
fn prose(line: &str, source: &str, places: &dyn Places, faults: &mut Vec<String>) -> String {
    let mut out = String::new();
    let mut rest = line;
    let mut bracket = 0usize;
    while let Some(at) = rest.find(['`', '[', ']']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if rest.starts_with('`') {
            let Some(end) = rest[1..].find('`') else { break };
            let (code, after) = (&rest[1..=end], &rest[end + 2..]);
            let link = (bracket == 0).then(|| places.address(code)).flatten();
            match link {
                Some(address) => out.push_str(&format!("[`{code}`]({address})")),
                None => out.push_str(&rest[..end + 2]),
            }
            rest = after;
        } else if let Some((target, after)) = rest.strip_prefix("](").and_then(|rest| rest.split_once(')')) {
            bracket = bracket.saturating_sub(1);
            match moved(target, source, places) {
                Ok(target) => out.push_str(&format!("]({target})")),
                Err(fault) => {
                    faults.push(format!("{source}: {fault}"));
                    out.push_str(&format!("]({target})"));
                }
            }
            rest = after;
        } else {
            bracket = if rest.starts_with('[') { bracket + 1 } else { bracket.saturating_sub(1) };
            out.push_str(&rest[..1]);
            rest = &rest[1..];
        }
    }
    out + rest
}

/// Where a link leads in the site.
fn moved(target: &str, source: &str, places: &dyn Places) -> Result<String, String> {
    let is_elsewhere = target.starts_with('#') || target.contains("://") || target.starts_with("mailto:");
    if is_elsewhere {
        return Ok(target.to_owned());
    }
    let (path, fragment) = match target.split_once('#') {
        Some((path, fragment)) => (path, format!("#{fragment}")),
        None => (target, String::new()),
    };
    let from_root = joined(source, path).ok_or_else(|| format!("{target} leads out of the repository"))?;
    let address = places.address(&from_root);
    address.map(|address| address + &fragment).ok_or_else(|| format!("{target} leads nowhere"))
}

/// A path that stands in `source`, from the repository's root.
fn joined(source: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Path::new(source).parent()?.iter().filter_map(|part| part.to_str()).collect();
    for part in Path::new(path).components() {
        match part {
            Component::ParentDir => drop(parts.pop()?),
            Component::Normal(part) => parts.push(part.to_str()?),
            _ => {}
        }
    }
    Some(parts.join("/"))
}

/// A path from the page `from` to the page `to`, both from the site's (or the guide's) root.
pub(crate) fn relative(from: &str, to: &str) -> String {
    let mut from: Vec<&str> = from.split('/').collect();
    from.pop();
    let to_parts: Vec<&str> = to.split('/').collect();
    let shared = from.iter().zip(&to_parts[..to_parts.len() - 1]).take_while(|(a, b)| a == b).count();
    let up = "../".repeat(from.len() - shared);
    up + &to_parts[shared..].join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Two;

    impl Places for Two {
        fn address(&self, path: &str) -> Option<String> {
            match path {
                "docs/format.md" => Some("format.md".into()),
                "crates/base/src/id.rs" => Some("../tour/crates/base/src/id.rs.html".into()),
                _ => None,
            }
        }
    }

    #[test]
    fn links_and_names_lead_into_the_site() {
        let text = "See `docs/format.md`, [ids](../crates/base/src/id.rs#L3), [`docs/format.md`](format.md) and `x`.";
        let (text, faults) = rewrite(text, "docs/streams.md", &Two);
        assert_eq!(
            text,
            "See [`docs/format.md`](format.md), [ids](../tour/crates/base/src/id.rs.html#L3), \
             [`docs/format.md`](format.md) and `x`.\n"
        );
        assert!(faults.is_empty());
    }

    #[test]
    fn links_that_lead_nowhere_are_named() {
        let (_, faults) = rewrite("[a](b.md) [c](../../x) [d](https://e)", "docs/a.md", &Two);
        assert_eq!(
            faults,
            ["docs/a.md: b.md leads nowhere", "docs/a.md: ../../x leads out of the repository"]
        );
    }

    #[test]
    fn blocks_are_left_alone() {
        let (text, faults) = rewrite("```\n[a](b) `docs/format.md`\n```\nx\n", "docs/a.md", &Two);
        assert_eq!(text, "```text\n[a](b) `docs/format.md`\n```\nx\n");
        assert!(faults.is_empty());
    }

    #[test]
    fn comments_are_left_out() {
        let text = "a\n<!-- not typed, form: b -->\n<!-- typed\n$ c [d](e)\n-->\nf\n";
        let (text, faults) = rewrite(text, "docs/a.md", &Two);
        assert_eq!(text, "a\nf\n");
        assert!(faults.is_empty());
    }

    #[test]
    fn paths_between_pages() {
        assert_eq!(relative("a/b/c.html", "a/d.html"), "../d.html");
        assert_eq!(relative("c.html", "a/d.html"), "a/d.html");
        assert_eq!(relative("a/c.html", "a/d.html"), "d.html");
    }
}
