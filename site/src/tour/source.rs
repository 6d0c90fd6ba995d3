//! One of rustdoc's source pages as tokens: text, how it is coloured, and where its link leads.

use crate::html::unescape;

/// A piece of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    /// rustdoc's class: `kw`, `string`, `comment`; empty for plain text.
    pub(crate) class: String,
    /// As rustdoc wrote it, relative to its own page.
    pub(crate) href: Option<String>,
}

impl Token {
    /// A name of the program, not a keyword, a literal or a comment.
    pub(crate) fn is_name(&self) -> bool {
        const NO_NAMES: [&str; 10] = [
            "kw",
            "string",
            "number",
            "comment",
            "doccomment",
            "attr",
            "bool-val",
            "lifetime",
            "kw-2",
            "question-mark",
        ];
        !NO_NAMES.contains(&self.class.as_str())
            && self.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
            && self.text.chars().all(|c| c.is_alphanumeric() || c == '_')
            && self.text != "_"
    }
}

/// The lines of a page. `None` if the page has no source.
pub(crate) fn lines(page: &str) -> Option<Vec<Vec<Token>>> {
    let (_, code) = page.split_once("<pre class=\"rust\"><code>")?;
    let (code, _) = code.split_once("</code></pre>")?;
    let mut lines: Vec<Vec<Token>> = Vec::new();
    let mut classes: Vec<String> = Vec::new();
    let mut href: Option<String> = None;
    let mut rest = code;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('<') {
            let (tag, after) = after.split_once('>')?;
            rest = after;
            if tag.ends_with("data-nosnippet") {
                // The number of a line that begins here.
                rest = rest.split_once("</a>")?.1;
                lines.push(Vec::new());
            } else if tag.starts_with("a ") {
                href = Some(unescape(attribute(tag, "href").unwrap_or_default()));
                classes.push(attribute(tag, "class").unwrap_or_default().to_owned());
            } else if tag.starts_with("span") {
                classes.push(attribute(tag, "class").unwrap_or_default().to_owned());
            } else if tag == "/a" || tag == "/span" {
                classes.pop();
                href = if tag == "/a" { None } else { href };
            }
            continue;
        }
        let end = rest.find('<').unwrap_or(rest.len());
        let text = unescape(&rest[..end]);
        rest = &rest[end..];
        let class = classes.iter().rev().find(|class| !class.is_empty()).cloned().unwrap_or_default();
        if let Some(line) = lines.last_mut() {
            push(line, text.trim_end_matches('\n'), &class, href.as_deref());
        }
    }
    Some(lines)
}

/// The lines of a source that rustdoc has no page of, as that of another system: coloured by its words alone, without links.
pub(crate) fn plain(source: &str) -> Vec<Vec<Token>> {
    const KEYWORDS: [&str; 33] = [
        "as", "break", "const", "continue", "crate", "dyn", "else", "enum", "extern", "false", "fn", "for",
        "if", "impl", "in", "let", "loop", "match", "mod", "move", "mut", "pub", "ref", "return", "static",
        "struct", "super", "trait", "true", "type", "unsafe", "use", "while",
    ];
    let line = |text: &str| {
        let mut line = Vec::new();
        // A comment that stands alone, or behind code: text that holds two slashes is rare, and only its colour is wrong then.
        let comment = if text.trim_start().starts_with("//") { Some(0) } else { text.find(" // ") };
        let (code, comment) = text.split_at(comment.unwrap_or(text.len()));
        push(&mut line, code, "", None);
        for token in &mut line {
            if KEYWORDS.contains(&token.text.as_str()) {
                token.class = "kw".to_owned();
            }
        }
        push(&mut line, comment, "comment", None);
        line
    };
    source.lines().map(line).collect()
}

/// Text of one class as tokens: names by themselves where it is code.
fn push(line: &mut Vec<Token>, text: &str, class: &str, href: Option<&str>) {
    let mut add = |text: &str| {
        if !text.is_empty() {
            line.push(Token {
                text: text.to_owned(),
                class: class.to_owned(),
                href: href.map(str::to_owned),
            });
        }
    };
    if ["comment", "doccomment", "string"].contains(&class) {
        return add(text);
    }
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut begin = 0;
    let mut previous: Option<bool> = None;
    for (at, c) in text.char_indices() {
        let word = is_word(c);
        if previous.is_some_and(|previous| previous != word) {
            add(&text[begin..at]);
            begin = at;
        }
        previous = Some(word);
    }
    add(&text[begin..]);
}

fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = tag.split_once(&format!("{name}="))?;
    match rest.strip_prefix('"') {
        Some(rest) => rest.split('"').next(),
        None => rest.split(' ').next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "<pre class=\"rust\"><code><a href=#1 id=1 data-nosnippet>1</a><span class=\"kw\">fn </span>\
        <a href=\"../x.html\">go</a>(tid: Tid)\n<a href=#2 id=2 data-nosnippet>2</a>    <span class=\"comment\">// a &lt; b\n\
        <a href=#3 id=3 data-nosnippet>3</a>// c\n<a href=#4 id=4 data-nosnippet>4</a></span><a class=\"self\" href=\"#1\">self</a>\n</code></pre>";

    #[test]
    fn a_plain_source_is_coloured_by_its_words() {
        let lines = plain("fn go() {} // now\n// alone");
        let told: Vec<(&str, &str)> =
            lines.iter().flatten().map(|token| (token.text.as_str(), token.class.as_str())).collect();
        assert_eq!(told[0], ("fn", "kw"));
        assert_eq!(told[2], ("go", ""));
        assert_eq!(told[4], (" // now", "comment"));
        assert_eq!(told[5], ("// alone", "comment"));
    }

    #[test]
    fn a_page_is_lines_of_tokens() {
        let lines = lines(PAGE).unwrap();
        assert_eq!(lines.len(), 4);
        let texts = |line: usize| lines[line].iter().map(|token| token.text.as_str()).collect::<Vec<_>>();
        assert_eq!(texts(0), ["fn", " ", "go", "(", "tid", ": ", "Tid", ")"]);
        assert_eq!(lines[0][2].href.as_deref(), Some("../x.html"));
        assert!(lines[0][4].is_name() && !lines[0][0].is_name());
        assert_eq!(texts(1), ["    ", "// a < b"]);
        assert_eq!((texts(2), lines[2][0].class.as_str()), (vec!["// c"], "comment"));
        assert_eq!((texts(3), lines[3][0].class.as_str()), (vec!["self"], "self"));
    }
}
