//! Pages that come from the code itself, by way of `brant reference`: verbs, what is supported, error codes.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::html::escape;

/// What `brant reference` says.
pub(crate) struct Reference(Value);

impl Reference {
    /// Asks a brant.
    pub(crate) fn of(brant: &Path) -> Result<Reference, String> {
        let said = Command::new(brant).arg("reference").output();
        let said = said.map_err(|error| format!("{} does not start: {error}", brant.display()))?;
        let value = serde_json::from_slice(&said.stdout);
        value.map(Reference).map_err(|error| format!("what brant reference says is no JSON: {error}"))
    }

    /// The page of every verb and its options.
    pub(crate) fn commands(&self) -> String {
        let brant = &self.0["commands"];
        let mut page = String::from(
            "# Every command\n\nMade from the command line's own description, as `brant man` and `brant completions` are.\n\n",
        );
        let _ = writeln!(page, "{}\n\n{}\n", text(brant, "about"), paragraph(&text(brant, "after")));
        page.push_str("## Options of every verb\n\n");
        options(&mut page, brant);
        for verb in list(brant, "verbs") {
            command(&mut page, verb, 2);
        }
        page
    }

    /// The page of what is carried and what is refused.
    pub(crate) fn support(&self) -> String {
        let mut page = String::from(
            "# What is carried\n\nThis is the table in `crates/capture/src/support.rs`, which its tests hold against the code: every kind of \
             file and mapping that an image knows has a row, and so has every code of a refusal. The last column names the programs of \
             `fixtures/programs` by which the end-to-end tests show a row.\n\nWhat is refused is named before anything is touched, all of \
             it at once; `brant check TARGET` tells.\n",
        );
        let mut area = String::new();
        for row in list(&self.0, "support") {
            if text(row, "area") != area {
                area = text(row, "area");
                let _ = write!(page, "\n## {area}\n\n| | | | shown by |\n|---|---|---|---|\n");
            }
            let verdict = match row["refused"].as_str() {
                Some(code) => {
                    format!("<span class=\"no\">refused</span> | [{code}](errors.md#{})", anchor(code))
                }
                None => format!("<span class=\"yes\">carried</span> | {}", text(row, "how")),
            };
            let shown: Vec<&str> = list(row, "shown_by").iter().filter_map(Value::as_str).collect();
            let _ = writeln!(page, "| {} | {verdict} | {} |", text(row, "what"), shown.join(", "));
        }
        page
    }

    /// The page of every error code.
    pub(crate) fn errors(&self) -> String {
        let mut page = String::from(
            "# Error codes\n\nEvery message of brant's has a code that stays the same. This is what `brant explain CODE` prints.\n",
        );
        const GROUPS: [(&str, &str); 12] = [
            ("B-01", "Usage and jobs"),
            ("B-02", "Targets and permission"),
            ("B-03", "What cannot be carried"),
            ("B-04", "Host and files at a restore"),
            ("B-05", "Images"),
            ("B-06", "The store and streams"),
            ("B-07", "A checkpoint that failed"),
            ("B-08", "A restore that failed"),
            ("B-09", "Two hosts"),
            ("B-10", "Wrapper definitions"),
            ("B-11", "Wrappers"),
            ("B-12", "Heaps"),
        ];
        let mut group = String::new();
        for entry in list(&self.0, "codes") {
            let code = text(entry, "code");
            let prefix = code.get(..4).unwrap_or_default();
            if prefix != group {
                group = prefix.to_owned();
                let name =
                    GROUPS.iter().find(|(prefix, _)| *prefix == group).map_or("More", |(_, name)| name);
                let _ = write!(page, "\n## {name}\n");
            }
            let _ = write!(
                page,
                "\n<h3 id=\"{}\" class=\"code\"><a href=\"#{0}\">{code}</a> {}</h3>\n\n{}\n",
                anchor(&code),
                escape(&text(entry, "title")),
                explanation(&text(entry, "text"))
            );
        }
        page
    }
}

/// The paths of all verbs, for who checks what documents quote.
fn command(page: &mut String, verb: &Value, level: usize) {
    let about = text(verb, "long_about");
    let about = if about.is_empty() { text(verb, "about") } else { about };
    let usage = text(verb, "usage");
    let usage = usage.trim_start_matches("Usage: ").replace("\n       ", "\n");
    let _ = write!(
        page,
        "\n{} {}\n\n{}\n\n```text\n{usage}\n```\n\n",
        "#".repeat(level.min(4)),
        text(verb, "path"),
        paragraph(&about)
    );
    options(page, verb);
    if !text(verb, "after").is_empty() {
        let _ = writeln!(page, "{}\n", paragraph(&text(verb, "after")));
    }
    for below in list(verb, "verbs") {
        command(page, below, level + 1);
    }
}

fn options(page: &mut String, verb: &Value) {
    let shown: Vec<&Value> = list(verb, "options")
        .iter()
        .filter(|option| option["long"] != "help" && option["long"] != "version")
        .collect();
    if shown.is_empty() {
        return;
    }
    page.push_str("<dl class=\"options\">\n");
    for option in shown {
        let value = option["value"].as_str().unwrap_or_default();
        let mut name = match (option["short"].as_str(), option["long"].as_str()) {
            (Some(short), Some(long)) => format!("-{short}, --{long} {value}"),
            (None, Some(long)) => format!("--{long} {value}"),
            (Some(short), None) => format!("-{short} {value}"),
            (None, None) => format!("{value}{}", if option["many"] == true { "..." } else { "" }),
        };
        name.truncate(name.trim_end().len());
        let mut help = text(option, "help");
        let choices: Vec<&str> = list(option, "choices").iter().filter_map(Value::as_str).collect();
        if !choices.is_empty() {
            let _ = write!(help, " (one of: {})", choices.join(", "));
        }
        if let Some(default) = option["default"].as_str().filter(|default| !default.is_empty()) {
            let _ = write!(help, " (if left out: {default})");
        }
        let _ =
            writeln!(page, "<dt><code>{}</code></dt>\n<dd>{}</dd>", escape(&name), marked(&escape(&help)));
    }
    page.push_str("</dl>\n\n");
}

/// `` `code` `` of a help text.
fn marked(help: &str) -> String {
    let parts = help.split('`').enumerate();
    let marked =
        parts.map(|(at, part)| if at % 2 == 1 { format!("<code>{part}</code>") } else { part.to_owned() });
    marked.collect::<String>().replace('\n', " ")
}

/// The paragraphs of `brant explain`: what is indented there is a block here.
fn explanation(text: &str) -> String {
    let show = |part: &str| {
        if part.starts_with("  ") || part.lines().all(|line| line.starts_with("wrap")) {
            format!("```text\n{part}\n```")
        } else {
            paragraph(part)
        }
    };
    text.trim_end().split("\n\n").map(show).collect::<Vec<_>>().join("\n\n")
}

/// Words that Markdown would take for more than words.
fn paragraph(text: &str) -> String {
    let mut in_code = false;
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '`' => in_code = !in_code,
            '<' | '>' | '*' | '_' | '[' | ']' | '#' | '|' if !in_code => out.push('\\'),
            _ => {}
        }
        out.push(c);
    }
    out
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn anchor(code: &str) -> String {
    code.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_help_are_no_markup() {
        assert_eq!(paragraph("a <b> `<c>` d_e"), "a \\<b\\> `<c>` d\\_e");
        assert_eq!(marked("see `brant ps`"), "see <code>brant ps</code>");
    }

    #[test]
    fn indented_lines_are_blocks() {
        assert_eq!(explanation("one\n\n  --a  b\n"), "one\n\n```text\n  --a  b\n```");
    }
}
