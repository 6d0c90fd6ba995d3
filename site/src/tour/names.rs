//! Definitions that the source itself shows: items, fields and variants, by name.
//!
//! rustdoc's links tell most of what a name means. They leave out fields, and paths through modules; those are looked
//! up here, by their name.

use std::collections::HashMap;

use super::source::Token;

/// A place of a token: page, line (from 0), token of the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct At {
    pub(crate) page: usize,
    pub(crate) line: usize,
    pub(crate) token: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum What {
    Function,
    Type,
    Module,
    Value,
    Macro,
    Field,
    Variant,
}

impl What {
    pub(crate) fn word(self) -> &'static str {
        match self {
            What::Function => "fn",
            What::Type => "type",
            What::Module => "mod",
            What::Value => "const",
            What::Macro => "macro",
            What::Field => "field",
            What::Variant => "variant",
        }
    }
}

/// All definitions of all pages.
#[derive(Default)]
pub(crate) struct Names {
    by_name: HashMap<String, Vec<(At, What)>>,
    at: HashMap<At, What>,
}

impl Names {
    /// Takes in a page.
    pub(crate) fn add(&mut self, page: usize, lines: &[Vec<Token>]) {
        let mut body: Option<(usize, What)> = None;
        for (line, tokens) in lines.iter().enumerate() {
            let indent = tokens.first().map_or(0, |token| token.text.len() - token.text.trim_start().len());
            let text: String = tokens.iter().map(|token| token.text.as_str()).collect();
            if body.is_some_and(|(at, _)| indent == at && text.trim_start().starts_with('}')) {
                body = None;
            }
            if let Some((token, what)) = item(tokens) {
                self.insert(&tokens[token].text, At { page, line, token }, what);
                let holds = text.trim_end().ends_with('{')
                    && text.split_whitespace().any(|w| w == "struct" || w == "enum" || w == "union");
                if holds {
                    let is_enum = text.split_whitespace().any(|word| word == "enum");
                    body = Some((indent, if is_enum { What::Variant } else { What::Field }));
                }
            } else if let Some((at, what)) = body {
                self.add_member(page, line, tokens, indent.saturating_sub(at), what);
            }
        }
    }

    /// A field, or a variant, or a field of a variant.
    fn add_member(&mut self, page: usize, line: usize, tokens: &[Token], depth: usize, what: What) {
        let mut names = tokens.iter().enumerate().filter(|(_, token)| token.is_name());
        // `pub(crate)` and the like are keywords, so that the first name is the member's.
        let Some((token, found)) = names.next() else { return };
        let next = tokens.get(token + 1).map_or("", |token| token.text.as_str());
        let is_field = next.starts_with(':') && !next.starts_with("::");
        let is_variant = what == What::Variant && depth == 4 && !is_field;
        let is_upper = found.text.starts_with(char::is_uppercase);
        if is_variant && is_upper {
            self.insert(&found.text, At { page, line, token }, What::Variant);
        } else if is_field && (depth == 4 && what == What::Field || depth == 8) {
            self.insert(&found.text, At { page, line, token }, What::Field);
        }
    }

    /// A module that is a file: its first line stands for it.
    pub(crate) fn add_module(&mut self, name: &str, page: usize) {
        self.by_name
            .entry(name.to_owned())
            .or_default()
            .push((At { page, line: 0, token: usize::MAX }, What::Module));
    }

    fn insert(&mut self, name: &str, at: At, what: What) {
        self.by_name.entry(name.to_owned()).or_default().push((at, what));
        self.at.insert(at, what);
    }

    /// What is defined at a token.
    pub(crate) fn defined(&self, at: At) -> Option<What> {
        self.at.get(&at).copied()
    }

    /// All of a name that are of one of these kinds.
    pub(crate) fn find(&self, name: &str, kinds: &[What]) -> Vec<At> {
        let known = self.by_name.get(name).map_or(&[][..], Vec::as_slice);
        known.iter().filter(|(_, what)| kinds.contains(what)).map(|(at, _)| *at).collect()
    }

    /// Everything, by name.
    pub(crate) fn all(&self) -> Vec<(&str, &[(At, What)])> {
        let mut all: Vec<_> =
            self.by_name.iter().map(|(name, places)| (name.as_str(), places.as_slice())).collect();
        all.sort_by_key(|(name, _)| (name.to_lowercase(), *name));
        all
    }
}

/// The name that a line gives to an item.
fn item(tokens: &[Token]) -> Option<(usize, What)> {
    let mut what = None;
    for (at, token) in tokens.iter().enumerate() {
        if token.class == "comment" || token.class == "doccomment" {
            return None;
        }
        if let Some(what) = what.filter(|_| token.is_name()) {
            return Some((at, what));
        }
        match token.text.trim() {
            "fn" => what = Some(What::Function),
            "struct" | "enum" | "trait" | "union" | "type" => what = Some(What::Type),
            "const" | "static" => what = Some(What::Value),
            "mod" => what = Some(What::Module),
            "macro_rules" => what = Some(What::Macro),
            // Words and signs that stand before or between.
            "pub" | "unsafe" | "extern" | "mut" | "" | "(" | ")" | "crate" | "super" | "in" | "self"
            | "!" | "\"C\"" | "default" | "async" | "pub(" => {}
            _ if token.class == "string" && what.is_none() => {}
            _ if token.class == "macro" && token.text.contains("macro_rules") => what = Some(What::Macro),
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tour::source::lines;

    fn names(code: &str) -> Names {
        let numbered: String = code
            .lines()
            .enumerate()
            .map(|(at, line)| {
                let mut line = line.to_owned();
                for word in ["pub", "fn", "struct", "enum", "const", "let", "crate"] {
                    line = line.replace(&format!("{word} "), &format!("<span class=\"kw\">{word} </span>"));
                }
                format!("<a href=#{0} id={0} data-nosnippet>{0}</a>{line}\n", at + 1)
            })
            .collect();
        let mut names = Names::default();
        names.add(0, &lines(&format!("<pre class=\"rust\"><code>{numbered}</code></pre>")).unwrap());
        names
    }

    #[test]
    fn items_fields_and_variants() {
        let names = names(
            "pub struct One {\n    pub a: u32,\n    b: Two,\n}\nenum Two {\n    Big,\n    Small {\n        c: u8,\n    },\n}\nfn go(x: One) {\n    let y = One { a: 1 };\n}\n",
        );
        let lines = |name: &str, what| names.find(name, &[what]).iter().map(|at| at.line).collect::<Vec<_>>();
        assert_eq!(lines("One", What::Type), [0]);
        assert_eq!((lines("a", What::Field), lines("b", What::Field)), (vec![1], vec![2]));
        assert_eq!((lines("Big", What::Variant), lines("c", What::Field)), (vec![5], vec![7]));
        assert_eq!(lines("go", What::Function), [10]);
        assert!(lines("y", What::Value).is_empty());
    }
}
