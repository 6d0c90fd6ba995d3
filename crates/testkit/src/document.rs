//! The blocks of a document of the guide: each is typed, a file that a session has, a picture, or declared to be something else, with a reason.
//!
//! | in the document | what it is |
//! |---|---|
//! | a block ```` ```console ```` | a session, see [`Session`](crate::Session) |
//! | a block ```` ```python,file=NAME ````, of any language | a file that the session has |
//! | a block ```` ```picture ```` | drawn, and checked, by `site/src/picture` |
//! | a comment `<!-- typed`, lines as in a session, `-->` | steps that the reader does not see: what must be there before the next ones |
//! | a comment `<!-- file=NAME`, lines, `-->` | a file that the reader does not see |
//! | `<!-- excerpt of PATH -->` before a block | its lines are lines of that file of the repository, in their order |
//! | `<!-- compared by PATH -->` before a block | that test reads this document and judges the block |
//! | `<!-- not typed, KIND: REASON -->` before a block | nobody runs it: [`KINDS`] says what it may be |
//!
//! Every other comment is a fault, so that a mark that is misspelled does not pass for a remark.

use std::path::Path;

/// What a block may be that nobody runs. What looks like a session is none of these but `elsewhere`.
const KINDS: [(&str, &str); 4] = [
    ("build", "it builds brant or its documents, which takes minutes"),
    ("form", "a notation or a diagram, not something that anybody types"),
    ("part", "a part of a program, which is none without the rest"),
    ("elsewhere", "it needs what the machine of the tests does not have"),
];

/// A block between fences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    /// Where its fence is, counted from 1.
    pub(crate) line: usize,
    pub(crate) info: String,
    pub(crate) lines: Vec<String>,
    /// The comment right before it.
    mark: Option<String>,
}

/// A comment with lines of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hidden {
    line: usize,
    pub(crate) what: String,
    pub(crate) lines: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Block(Block),
    Hidden(Hidden),
    /// A mark without a block behind it.
    Stray(usize, String),
}

/// Blocks and comments from top to bottom.
pub(crate) fn parts(document: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut lines = (1..).zip(document.lines());
    let mut mark: Option<(usize, String)> = None;
    while let Some((number, line)) = lines.next() {
        let line = line.trim_start();
        if let Some(fence) = fence(line) {
            let info = line[fence.len()..].trim().to_owned();
            let inner = lines.by_ref().take_while(|(_, line)| !line.trim_start().starts_with(fence));
            let inner = inner.map(|(_, line)| line.to_owned()).collect();
            let mark = mark.take().map(|(_, text)| text);
            parts.push(Part::Block(Block { line: number, info, lines: inner, mark }));
            continue;
        }
        if let Some((number, text)) = mark.take() {
            parts.push(Part::Stray(number, text));
        }
        let Some(comment) = line.strip_prefix("<!--") else { continue };
        if let Some((text, _)) = comment.split_once("-->") {
            mark = Some((number, text.trim().to_owned()));
        } else {
            let inner = lines.by_ref().take_while(|(_, line)| !line.contains("-->"));
            let inner = inner.map(|(_, line)| line.to_owned()).collect();
            parts.push(Part::Hidden(Hidden { line: number, what: comment.trim().to_owned(), lines: inner }));
        }
    }
    parts.extend(mark.map(|(number, text)| Part::Stray(number, text)));
    parts
}

/// The backquotes that open a block.
fn fence(line: &str) -> Option<&str> {
    let length = line.bytes().take_while(|byte| *byte == b'`').count();
    (length >= 3).then(|| &line[..length])
}

impl Block {
    /// The file that it is.
    pub(crate) fn file(&self) -> Option<&str> {
        self.info.split_once(",file=").map(|(_, name)| name)
    }

    /// Whether somebody types it.
    pub(crate) fn is_session(&self) -> bool {
        self.info == "console" && self.mark.is_none()
    }

    fn fault(&self, document: &str, root: &Path) -> Option<String> {
        match &self.mark {
            None if self.is_session() => {
                let first = self.lines.first().map_or("", String::as_str);
                let is_one = first.starts_with("$ ") || first.starts_with("> ");
                (!is_one).then(|| "a session begins with a command".to_owned())
            }
            None if self.info == "picture" || self.file().is_some() => None,
            None => {
                Some("it is neither typed nor declared (crates/testkit/src/document.rs says how)".to_owned())
            }
            Some(mark) => self.fault_of_mark(mark, document, root),
        }
    }

    fn fault_of_mark(&self, mark: &str, document: &str, root: &Path) -> Option<String> {
        let read = |path: &str| {
            std::fs::read_to_string(root.join(path.trim())).map_err(|error| format!("{path}: {error}"))
        };
        if let Some(path) = mark.strip_prefix("excerpt of ") {
            return match read(path) {
                Err(fault) => Some(fault),
                Ok(text) => {
                    let mut there = text.lines().map(str::trim);
                    let mut said = self.lines.iter().map(|line| line.trim()).filter(|line| !line.is_empty());
                    let missing = said.find(|line| !there.any(|other| other == *line));
                    missing.map(|line| format!("{path} has no line {line:?} there"))
                }
            };
        }
        if let Some(path) = mark.strip_prefix("compared by ") {
            return match read(path) {
                Err(fault) => Some(fault),
                Ok(text) => {
                    (!text.contains(document)).then(|| format!("{path} does not speak of {document}"))
                }
            };
        }
        let Some((kind, reason)) =
            mark.strip_prefix("not typed, ").and_then(|declared| declared.split_once(": "))
        else {
            return Some(format!("no such mark: {mark}"));
        };
        if !KINDS.iter().any(|(name, _)| *name == kind) {
            return Some(format!("a block that is not typed is none of the kind {kind:?}"));
        }
        if reason.split_whitespace().count() < 3 {
            return Some(format!("{reason:?} is no reason"));
        }
        let is_typed = |line: &&String| {
            line.starts_with("$ ") || line.trim_start_matches("> ").starts_with("brant.exe ")
        };
        let looks_so = self.info == "console" || self.lines.iter().any(|line| is_typed(&line));
        (looks_so && kind != "elsewhere").then(|| "it looks like a session".to_owned())
    }
}

/// What is wrong with the blocks of a document, one line each. `name` is its path in the repository.
pub fn faults_of_blocks(name: &str, text: &str, root: &Path) -> Vec<String> {
    let parts = parts(text);
    let has_session = parts.iter().any(|part| matches!(part, Part::Block(block) if block.is_session()));
    let fault = |part: &Part| match part {
        Part::Block(block) if block.file().is_some() && !has_session => {
            Some((block.line, "no session has this file".to_owned()))
        }
        Part::Block(block) => block.fault(name, root).map(|fault| (block.line, fault)),
        Part::Hidden(hidden) if hidden.what == "typed" || hidden.what.starts_with("file=") => {
            (!has_session).then(|| (hidden.line, "the document has no session".to_owned()))
        }
        Part::Hidden(hidden) => Some((hidden.line, format!("no such comment: {}", hidden.what))),
        Part::Stray(line, mark) => Some((*line, format!("no block follows: {mark}"))),
    };
    let faults = parts.iter().filter_map(fault);
    faults.map(|(line, fault)| format!("{name}:{line}: {fault}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        faults_of_blocks("docs/x.md", text, &crate::repository())
    }

    #[test]
    fn blocks_are_typed_or_declared() {
        for fine in [
            "```console\n$ true\n```",
            "```console\n> brant.exe ps\n```",
            "```picture\nx\n```",
            "```sh,file=a.sh\ntrue\n```\n```console\n$ sh a.sh\n```",
            "<!-- not typed, form: what stands for what -->\n```\na | b\n```",
            "<!-- not typed, elsewhere: there is no second machine -->\n```console\n$ true\n```",
            "<!-- excerpt of rustfmt.toml -->\n```\nmax_width = 110\n```",
            "<!-- typed\n$ true\n-->\n```console\n$ true\n```",
        ] {
            assert_eq!(faults(fine), Vec::<String>::new(), "{fine}");
        }
    }

    #[test]
    fn nothing_escapes() {
        for (text, what) in [
            ("```\n$ true\n```", "neither typed nor declared"),
            ("```sh\ntrue\n```", "neither typed nor declared"),
            ("  ```\n  x\n  ```", "neither typed nor declared"),
            ("```console\ntrue\n```", "begins with a command"),
            ("```sh,file=a.sh\ntrue\n```", "no session has this file"),
            ("<!-- not typed, form: what stands for what -->\n```\n$ true\n```", "looks like a session"),
            (
                "<!-- not typed, form: what stands for what -->\n```console\n$ true\n```",
                "looks like a session",
            ),
            ("<!-- not typed, form: so -->\n```\nx\n```", "is no reason"),
            ("<!-- not typed, lazy: no time for it -->\n```\nx\n```", "none of the kind"),
            ("<!-- not run -->\n```\nx\n```", "no such mark"),
            ("<!-- not typed, form: what stands for what -->\n\n```\nx\n```", "no block follows"),
            ("<!-- tiped\n$ true\n-->\n```console\n$ true\n```", "no such comment"),
            ("<!-- excerpt of rustfmt.toml -->\n```\nmax_width = 1\n```", "has no line"),
            ("<!-- compared by rustfmt.toml -->\n```\nx\n```", "does not speak of docs/x.md"),
        ] {
            let found = faults(text);
            assert!(found.iter().any(|fault| fault.contains(what)), "{text}: {found:?}");
        }
    }
}
