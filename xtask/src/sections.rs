//! A source file in sections, each with its explanation: the form that the source tour shows and that `tidy` checks.
//!
//! - `//!` explains the module.
//! - `///` above an item, or above what stands in an `impl` or a `trait`, begins a section and explains it.
//! - A comment whose first line is `// # Title` begins a section anywhere, in the middle of a function too; the rest of the
//!   comment explains it.
//! - What has no such comment belongs to the section before it, unless it is long: then it is a section without explanation, which
//!   [`unexplained`] names.
//!
//! The sources are formatted by rustfmt, so that indentation tells what is inside of what.
#![forbid(unsafe_code)]

/// An item of more lines than this deserves an explanation of its own.
const UNEXPLAINED_LINES_MAX: usize = 14;

/// A part of a file. Lines count from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// The name of what it is about, or the words of `// # Title`; empty for what has none.
    pub title: String,
    /// Markdown, without comment marks.
    pub explanation: String,
    /// The first and the last line, its explanation included.
    pub first: usize,
    pub last: usize,
    /// The lines of the explanation, which a reader of both need not see twice.
    pub comment: std::ops::Range<usize>,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The module's own documentation.
    Module,
    /// `use` and `mod` lines.
    Imports,
    Code,
    Tests,
}

impl Section {
    /// How many lines of code it has.
    pub fn code_lines(&self) -> usize {
        (self.last + 1 - self.first) - self.comment.len()
    }
}

/// The sections of a file, from its first line to its last.
pub fn sections(text: &str) -> Vec<Section> {
    let lines: Vec<&str> = text.lines().collect();
    let inside = inside_of_literals(&lines);
    let mut sections: Vec<Section> = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let begin = if inside[at] { None } else { beginning(&lines, at, sections.is_empty()) };
        match begin {
            Some(mut section) if section.kind != Kind::Tests => {
                // Up to where a comment within begins another section.
                let is_cut = |line: &usize| lines[*line].trim_start().starts_with("// # ") && !inside[*line];
                section.last = (at + 1..section.last).find(is_cut).unwrap_or(section.last);
                at = section.last;
                push(&mut sections, section);
            }
            Some(tests) => {
                push(&mut sections, Section { last: lines.len(), ..tests });
                break;
            }
            None => {
                if let Some(last) = sections.last_mut() {
                    last.last = at + 1;
                }
                at += 1;
            }
        }
    }
    sections
}

/// Sections that a reader is left alone with, as `LINE: NAME`.
pub fn unexplained(text: &str) -> Vec<String> {
    let is_bare = |section: &&Section| {
        section.kind == Kind::Code
            && section.explanation.is_empty()
            && section.code_lines() > UNEXPLAINED_LINES_MAX
    };
    sections(text)
        .iter()
        .filter(is_bare)
        .map(|section| format!("{}: {}", section.first, section.title))
        .collect()
}

/// Small things without explanation go with what is before them.
fn push(sections: &mut Vec<Section>, section: Section) {
    if let Some(last) = sections.last_mut() {
        let joins_imports = last.kind == Kind::Imports && section.kind == Kind::Imports;
        let is_small = section.kind == Kind::Code
            && section.explanation.is_empty()
            && !section.title.is_empty()
            && last.kind == Kind::Code
            && section.code_lines() <= UNEXPLAINED_LINES_MAX;
        if joins_imports || is_small {
            last.last = section.last;
            return;
        }
    }
    sections.push(section);
}

/// The section that begins at a line, up to where its item's own lines are known to go on: to the end of the item for one without inner
/// sections, else to its first line.
fn beginning(lines: &[&str], at: usize, is_first: bool) -> Option<Section> {
    let line = lines[at];
    let indent = line.len() - line.trim_start().len();
    let words = line.trim_start();
    if is_first && words.starts_with("//!") {
        let end = end_of_comment(lines, at, "//!");
        return Some(section(Kind::Module, String::new(), lines, at, end, end, "//!"));
    }
    if let Some(title) = words.strip_prefix("// # ") {
        let end = end_of_comment(lines, at, "//");
        let explanation = comment_text(&lines[at + 1..end], "//");
        let comment = at + 1..end + 1;
        let title = title.to_owned();
        return Some(Section { title, explanation, first: at + 1, last: end, comment, kind: Kind::Code });
    }
    if line.is_empty() || (indent != 0 && !(indent == 4 && is_member(words))) {
        return None;
    }
    if indent == 0
        && (words.starts_with("use ") || words.starts_with("mod ") || words.starts_with("pub use "))
    {
        return Some(section(Kind::Imports, String::new(), lines, at, at, end_of_item(lines, at, 0), "///"));
    }
    if words.starts_with("//") && !words.starts_with("///") || words.starts_with("#![") || words == "}" {
        return None;
    }
    let after_comment = end_of_comment(lines, at, "///");
    let head = after_attributes(lines, after_comment);
    let item = lines.get(head)?;
    if lines[at..head].iter().any(|line| line.contains("cfg(test)")) && item.contains("mod tests") {
        return Some(section(Kind::Tests, "Tests".into(), lines, at, at, lines.len(), "///"));
    }
    let title = name_of(item)?;
    // In what holds members, each of them may begin a section.
    let holds_members = indent == 0
        && ["impl", "trait", "pub trait", "unsafe impl"]
            .iter()
            .any(|word| item.strip_prefix(word).is_some_and(|rest| rest.starts_with([' ', '<'])));
    let end = if holds_members { head + 1 } else { end_of_item(lines, head, indent) };
    Some(section(Kind::Code, title, lines, at, after_comment, end, "///"))
}

fn section(
    kind: Kind,
    title: String,
    lines: &[&str],
    first: usize,
    comment_end: usize,
    end: usize,
    mark: &str,
) -> Section {
    let explanation = comment_text(&lines[first..comment_end], mark);
    Section { title, explanation, first: first + 1, last: end, comment: first + 1..comment_end + 1, kind }
}

/// A line in an `impl` that begins a member or its documentation.
fn is_member(words: &str) -> bool {
    [
        "///",
        "// # ",
        "#[",
        "fn ",
        "pub fn ",
        "pub(",
        "const ",
        "pub const ",
        "unsafe fn ",
        "pub unsafe fn ",
        "extern ",
    ]
    .iter()
    .any(|begin| words.starts_with(begin))
}

fn end_of_comment(lines: &[&str], from: usize, mark: &str) -> usize {
    let is_comment = |line: &&&str| line.trim_start().starts_with(mark);
    from + lines[from..].iter().take_while(is_comment).count()
}

fn after_attributes(lines: &[&str], mut at: usize) -> usize {
    while lines.get(at).is_some_and(|line| line.trim_start().starts_with("#[")) {
        let indent = lines[at].len() - lines[at].trim_start().len();
        while !lines[at].trim_end().ends_with(']') && at + 1 < lines.len() {
            at += 1;
            if lines[at].trim_start().len() + indent == lines[at].len() && lines[at].trim() == ")]" {
                break;
            }
        }
        at += 1;
    }
    at
}

/// One behind an item's last line: the first line at its own indentation that closes it.
fn end_of_item(lines: &[&str], from: usize, indent: usize) -> usize {
    for (at, line) in lines.iter().enumerate().skip(from) {
        let words = line.trim_start();
        if words.is_empty() || line.len() - words.len() != indent {
            continue;
        }
        let code = line.split(" //").next().unwrap_or(line).trim_end();
        if code.ends_with(';') || code.ends_with(['}', ',']) && (at == from || words.starts_with(['}', ')']))
        {
            return at + 1;
        }
        if at > from && words.starts_with('}') {
            return at + 1;
        }
    }
    lines.len()
}

/// The name that an item gives; `None` for what is none.
fn name_of(item: &str) -> Option<String> {
    let words = item.trim_start();
    if words.starts_with("impl") || words.starts_with("unsafe impl") {
        return Some(words.trim_end_matches(" {").to_owned());
    }
    const BEFORE: [&str; 11] = [
        "pub ",
        "const fn ",
        "unsafe ",
        "extern ",
        "async ",
        "fn ",
        "struct ",
        "enum ",
        "trait ",
        "static ",
        "type ",
    ];
    let mut rest = words;
    let mut is_item = false;
    loop {
        if let Some(after) = rest.strip_prefix("pub(") {
            rest = after.split_once(") ")?.1;
        } else if let Some(after) = rest.strip_prefix("\"C\" ") {
            rest = after;
        } else if let Some(word) = BEFORE.iter().find(|word| rest.starts_with(**word)) {
            is_item |= !["pub ", "unsafe ", "extern ", "async "].contains(word);
            rest = &rest[word.len()..];
        } else if let Some(word) =
            ["const ", "mod ", "mut ", "union ", "macro_rules! "].iter().find(|word| rest.starts_with(**word))
        {
            is_item = true;
            rest = &rest[word.len()..];
        } else {
            break;
        }
    }
    let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    // A macro that makes items is called by its own name.
    let is_macro = !is_item && rest[name.len()..].starts_with("! {");
    (!name.is_empty() && (is_item || is_macro)).then_some(name)
}

/// The text of comment lines without their marks.
fn comment_text(lines: &[&str], mark: &str) -> String {
    let bare = |line: &&str| {
        let line = line.trim_start();
        let line = line.strip_prefix(mark).unwrap_or(line);
        line.strip_prefix(' ').unwrap_or(line).to_owned()
    };
    lines.iter().map(bare).collect::<Vec<_>>().join("\n")
}

/// Which lines begin within a text in quotes or a block comment, where nothing is what it looks like.
fn inside_of_literals(lines: &[&str]) -> Vec<bool> {
    enum State {
        Code,
        Text,
        Raw(usize),
        Comment,
    }
    let mut state = State::Code;
    let mut inside = Vec::with_capacity(lines.len());
    for line in lines {
        inside.push(!matches!(state, State::Code));
        let mut rest = *line;
        while let Some(c) = rest.chars().next() {
            let mut length = c.len_utf8();
            match state {
                State::Code if rest.starts_with("//") => break,
                State::Code if rest.starts_with("/*") => state = State::Comment,
                State::Code if c == '"' => state = State::Text,
                State::Code if rest.starts_with("r\"") || rest.starts_with("r#") => {
                    let hashes = rest[1..].bytes().take_while(|byte| *byte == b'#').count();
                    if rest[1 + hashes..].starts_with('"') {
                        state = State::Raw(hashes);
                        length = 2 + hashes;
                    }
                }
                // A character, unless it is a lifetime.
                State::Code if c == '\'' => {
                    let mut chars = rest[1..].chars();
                    let first = chars.next();
                    if first == Some('\\') {
                        length = 2 + rest[2..].find('\'').map_or(0, |end| end.max(1) + 1);
                    } else if chars.next() == Some('\'') {
                        length = 2 + first.map_or(0, char::len_utf8);
                    }
                }
                State::Text if c == '\\' => length += rest[1..].chars().next().map_or(0, char::len_utf8),
                State::Text if c == '"' => state = State::Code,
                State::Raw(hashes)
                    if c == '"' && rest[1..].bytes().take_while(|byte| *byte == b'#').count() >= hashes =>
                {
                    state = State::Code;
                    length = 1 + hashes;
                }
                State::Comment if rest.starts_with("*/") => state = State::Code,
                _ => {}
            }
            rest = &rest[length.min(rest.len())..];
        }
    }
    inside
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "\
//! The module.
//! More of it.
#![allow(x)]

use std::fs;
use a::{
    b,
};

/// What it is.
#[derive(Debug)]
pub(crate) struct One {
    /// A field.
    a: u32,
}

const SMALL: u32 = 1;

impl One {
    /// Makes one.
    pub fn new() -> One {
        let text = \"
/// not a comment
\";
        // # The second half
        // It is harder.
        One { a: text.len() as u32 }
    }

    fn small(&self) {}
}

#[cfg(test)]
mod tests {
    /// Not told apart.
    fn a() {}
}
";

    fn told(source: &str) -> Vec<(String, usize, usize)> {
        sections(source).into_iter().map(|section| (section.title, section.first, section.last)).collect()
    }

    #[test]
    fn a_file_is_cut_at_its_comments() {
        let section = |title: &str, first, last| (title.to_owned(), first, last);
        assert_eq!(
            told(SOURCE),
            [
                section("", 1, 4),
                section("", 5, 9),
                section("One", 10, 19),
                section("new", 20, 24),
                section("The second half", 25, 32),
                section("Tests", 33, 37),
            ]
        );
    }

    #[test]
    fn explanations_lose_their_marks() {
        let sections = sections(SOURCE);
        assert_eq!(sections[0].explanation, "The module.\nMore of it.");
        assert_eq!(sections[3].explanation, "Makes one.");
        assert_eq!(sections[4].explanation, "It is harder.");
        assert_eq!(sections[5].kind, Kind::Tests);
    }

    #[test]
    fn every_line_is_in_one_section() {
        let sections = sections(SOURCE);
        assert_eq!(sections[0].first, 1);
        assert!(sections.windows(2).all(|pair| pair[0].last + 1 == pair[1].first));
        assert_eq!(sections.last().map(|last| last.last), Some(SOURCE.lines().count()));
    }

    #[test]
    fn long_items_without_explanation_are_named() {
        let body = "    call();\n".repeat(20);
        let source = format!("//! A.\n\n/// B.\nfn b() {{}}\n\nfn c() {{\n{body}}}\n");
        assert_eq!(unexplained(&source), ["6: c"]);
        let explained = source.replace("fn c()", "/// C.\nfn c()");
        assert!(unexplained(&explained).is_empty());
    }
}
