//! Commands that documents quote, held against the command line: one that no longer parses fails this test.

use std::path::{Path, PathBuf};

use super::grammar;

/// What documents write for a part that the reader fills in.
const PLACEHOLDERS: [&str; 4] = ["...", "[", "…", "<"];

/// Every command of a document: lines of blocks, and what stands in backquotes in the text.
fn quoted(document: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_block = false;
    let mut is_picture = false;
    for line in document.lines() {
        if line.trim_start().starts_with("```") {
            is_block = !is_block;
            is_picture = is_block && line.trim_end().ends_with("picture");
            continue;
        }
        // Words in a picture are no commands.
        if is_picture {
            continue;
        }
        let parts: Vec<&str> =
            if is_block { vec![line] } else { line.split('`').skip(1).step_by(2).collect() };
        for part in parts {
            // In a block a command may stand behind a prompt, a pipe, or another host.
            let part = part.trim_start().trim_start_matches("$ ");
            for piece in part.split(['|', ';']).flat_map(|piece| piece.split("&&")) {
                let piece = piece.trim().trim_start_matches("ssh host ").trim_start_matches("ssh far ");
                // What a document says besides the command stands far from it.
                let piece = piece.split("    ").next().unwrap_or(piece).split(" # ").next().unwrap_or(piece);
                if piece.starts_with("brant ") {
                    found.push(piece.to_owned());
                }
            }
        }
    }
    found
}

/// The words as a shell would give them: quotes are taken off, redirections and what follows `&` left out.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    for c in command.chars() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (None, c) if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            (_, c) => word.push(c),
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    let end =
        words.iter().position(|word| word == "&" || word.starts_with(['>', ')']) || word.starts_with("2>"));
    words.truncate(end.unwrap_or(words.len()));
    words
}

/// Why a command is not one.
fn fault(command: &str) -> Option<String> {
    if PLACEHOLDERS.iter().any(|mark| command.contains(mark)) || command.contains("A|B") {
        return verb_fault(command);
    }
    let error = grammar().try_get_matches_from(words(command)).err()?;
    use clap::error::ErrorKind;
    match error.kind() {
        // A verb or an option that is only named, values that stand for others, and help that is asked for.
        ErrorKind::MissingRequiredArgument
        | ErrorKind::InvalidValue
        | ErrorKind::ValueValidation
        | ErrorKind::MissingSubcommand
        | ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => verb_fault(command),
        _ => Some(error.to_string().lines().next().unwrap_or_default().to_owned()),
    }
}

/// The verb and the options of a command that is not whole.
fn verb_fault(command: &str) -> Option<String> {
    let grammar = grammar();
    let mut verb = &grammar;
    for word in words(command).iter().skip(1) {
        let name: String = word
            .trim_start_matches(['[', '<'])
            .split(['=', ']', '>', ',', '.', ':'])
            .next()
            .unwrap_or_default()
            .to_owned();
        if let Some(below) = verb.find_subcommand(&name) {
            verb = below;
        } else if std::ptr::eq(verb, &grammar)
            && !name.starts_with('-')
            && name.chars().all(|c| c.is_ascii_lowercase())
            && !name.is_empty()
        {
            return Some(format!("there is no verb {name}"));
        } else if let Some(long) = name.strip_prefix("--").filter(|long| !long.is_empty()) {
            let is_known = verb.get_arguments().any(|arg| arg.get_long() == Some(long))
                || ["help", "version"].contains(&long);
            if !is_known {
                return Some(format!("there is no option --{long}"));
            }
        } else if name == "--" {
            break;
        }
    }
    None
}

fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut documents = vec![root.join("README.md"), root.join("CONTRIBUTING.md")];
    for folder in ["docs", "docs/guide", "changes"] {
        let entries = std::fs::read_dir(root.join(folder)).expect("the documents are there");
        let paths = entries.flatten().map(|entry| entry.path());
        documents.extend(paths.filter(|path| path.extension().is_some_and(|ending| ending == "md")));
    }
    documents.sort();
    documents
}

#[test]
fn commands_that_documents_quote_are_commands() {
    let mut faults = Vec::new();
    let mut count = 0;
    for document in documents() {
        let text = std::fs::read_to_string(&document).expect("it is readable");
        for command in quoted(&text) {
            count += 1;
            if let Some(fault) = fault(&command) {
                let name = document.file_name().unwrap_or_default().display().to_string();
                faults.push(format!("{name}: {command}\n    {fault}"));
            }
        }
    }
    assert!(count > 150, "only {count} commands were found");
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn faults_are_found() {
    for (command, is_one) in [
        ("brant ps", true),
        ("brant checkpoint TARGET --stop -o -", true),
        ("brant checkpoint TARGET --halt", false),
        ("brant freeze TARGET", false),
        ("brant run [-d] -- CMD", true),
        ("brant run [--frozen] -- CMD", false),
        ("brant restore", true),
        ("brant image explode", false),
        ("brant run -- sh -c 'a --b; c'", true),
    ] {
        assert_eq!(fault(command).is_none(), is_one, "{command}: {:?}", fault(command));
    }
    assert_eq!(
        quoted("see `brant ps -a`.\n```\n$ brant ps | brant logs x\n```\n"),
        ["brant ps -a", "brant ps", "brant logs x"]
    );
}
