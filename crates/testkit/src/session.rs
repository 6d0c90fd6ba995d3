//! Terminal sessions in documents: what is typed, what it printed, and whether it prints that again.
//!
//! A block ```` ```console ```` is a session: a line that begins with `$ ` is typed, those up to the next one are what it printed;
//! a line `...` stands for any number of lines, and `...` within a line for any of it. Where `> ` stands in the place of `$ `, it is
//! typed on Windows. The blocks of one document are one session, from top to bottom, in one shell, with the files and the hidden steps
//! that the document has (`document.rs`).
//!
//! Two runs are never the same to the letter: numbers, sizes, times and ids are compared as what they are.

use crate::document::{Part, parts};

/// Whose prompt a session shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prompt {
    /// `$ `
    Linux,
    /// `> `
    Windows,
}

/// What a document says.
#[derive(Debug, Default)]
pub struct Session {
    /// Files by name.
    pub files: Vec<(String, String)>,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub command: String,
    pub printed: Vec<String>,
}

impl Session {
    /// Reads a document: what is typed on Linux.
    pub fn of(document: &str) -> Session {
        Session::typed_at(Prompt::Linux, document)
    }

    /// Reads what is typed at one of the prompts.
    pub fn typed_at(prompt: Prompt, document: &str) -> Session {
        let mut session = Session::default();
        for part in parts(document) {
            match part {
                Part::Block(block) => {
                    if let Some(name) = block.file() {
                        session.files.push((name.to_owned(), block.lines.join("\n") + "\n"));
                    } else if block.is_session() {
                        session.steps.extend(steps(prompt, &block.lines));
                    }
                }
                Part::Hidden(hidden) => {
                    if let Some(name) = hidden.what.strip_prefix("file=") {
                        session.files.push((name.to_owned(), hidden.lines.join("\n") + "\n"));
                    } else if hidden.what == "typed" {
                        session.steps.extend(steps(prompt, &hidden.lines));
                    }
                }
                Part::Stray(..) => {}
            }
        }
        session
    }

    /// The session as a script of bash, which prints a line with the step's number before what each command prints.
    pub fn script(&self) -> String {
        self.script_of(str::to_owned)
    }

    /// The same with each command as `in_bash` writes it.
    pub fn script_of(&self, in_bash: impl Fn(&str) -> String) -> String {
        let mut script = String::from("exec 2>&1\n");
        for (number, step) in self.steps.iter().enumerate() {
            let command = in_bash(&step.command);
            script.push_str(&format!("echo; echo '{}'\n{command}\n", Session::mark(number)));
        }
        // Whoever a session leaves running would be waited for.
        script + "echo; kill $(jobs -pr) 2>/dev/null\n"
    }

    fn mark(number: usize) -> String {
        format!("== step {number} ==")
    }

    /// Compares what the script printed with what the document says; each difference in words. `home` is the folder that the document
    /// calls `/home/you`.
    pub fn differences(&self, output: &str, home: &str) -> Vec<String> {
        let mut differences = Vec::new();
        for (number, step) in self.steps.iter().enumerate() {
            let Some((_, rest)) = output.split_once(&format!("\n{}\n", Session::mark(number))) else {
                differences.push(format!("$ {}\nwas not come to", step.command));
                continue;
            };
            let next = format!("\n{}\n", Session::mark(number + 1));
            let printed = rest.split(&next).next().unwrap_or(rest);
            let found: Vec<String> = printed
                .lines()
                .filter(|line| is_said_by_commands(line))
                .map(|line| shape(line, home))
                .collect();
            let written = step.printed.iter().filter(|line| !line.trim().is_empty());
            let wanted: Vec<String> = written.map(|line| shape(line, home)).collect();
            if !matches(&wanted, &found) {
                differences.push(format!(
                    "$ {}\nthe document says:\n{}\nit printed:\n{}\nbut for numbers:\n{}",
                    step.command,
                    step.printed.join("\n"),
                    printed.trim_end(),
                    found.join("\n")
                ));
            }
        }
        differences
    }
}

/// The steps of a block, if it is one of this prompt.
fn steps(prompt: Prompt, block: &[String]) -> Vec<Step> {
    let sign = match prompt {
        Prompt::Linux => "$ ",
        Prompt::Windows => "> ",
    };
    let mut steps: Vec<Step> = Vec::new();
    if !block.first().is_some_and(|line| line.starts_with(sign)) {
        return steps;
    }
    for line in block {
        match line.strip_prefix(sign) {
            Some(command) => steps.push(Step { command: command.to_owned(), printed: Vec::new() }),
            None => {
                if let Some(step) = steps.last_mut() {
                    step.printed.push(line.clone());
                }
            }
        }
    }
    steps
}

/// No empty line, and not what bash says of jobs that ended, which a document leaves out.
fn is_said_by_commands(line: &str) -> bool {
    let of_job = line.contains(": line ") && (line.contains("Killed") || line.contains("Terminated"));
    !line.trim().is_empty() && !of_job
}

/// A line with everything that differs from run to run told by what it is.
fn shape(line: &str, home: &str) -> String {
    let line = line.replace(home, "/home/you");
    // Columns are as wide as their widest entry.
    let words: Vec<String> = line.split_whitespace().map(word_shape).collect();
    let mut shaped: Vec<&str> = Vec::new();
    for word in &words {
        // `852.7 KiB` and `1.2 MiB`, `35 ms` and `1 s`, are sizes and times.
        let bare = word.trim_end_matches([',', ';', ')', '.']);
        let mark = &word[bare.len()..];
        let unit = match bare {
            "B" | "KiB" | "MiB" | "GiB" => "SIZE",
            "us" | "ms" | "s" | "min" => "TIME",
            _ => "",
        };
        match shaped.last() {
            Some(&"N") if !unit.is_empty() => {
                shaped.pop();
                shaped.push(unit);
                if !mark.is_empty() {
                    shaped.push(mark);
                }
            }
            _ => shaped.push(word),
        }
    }
    shaped.join(" ")
}

/// A word with its numbers as `N`, and with ids of images as `ID`.
fn word_shape(word: &str) -> String {
    let is_id = |part: &str| {
        part.len() >= 12
            && part.bytes().all(|byte| byte.is_ascii_hexdigit())
            && part.bytes().any(|byte| byte.is_ascii_digit())
    };
    let mut shaped = String::new();
    let mut rest = word;
    while !rest.is_empty() {
        let length = rest.bytes().take_while(u8::is_ascii_alphanumeric).count();
        let (part, after) =
            rest.split_at(length.max(rest.chars().next().map_or(1, char::len_utf8)).min(rest.len()));
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let is_address = |part: &str| {
            let digits = part.strip_prefix("0x").unwrap_or_default();
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        if is_address(part) {
            shaped.push_str("0xN");
        } else if is_id(part) && !is_number(part) {
            shaped.push_str("ID");
        } else if is_number(part) {
            // `12.5` is one number.
            if shaped.ends_with("N.") {
                shaped.pop();
            } else {
                shaped.push('N');
            }
        } else {
            shaped.push_str(part);
        }
        rest = after;
    }
    shaped
}

/// Whether the lines are the same, `...` standing for any.
fn matches(wanted: &[String], found: &[String]) -> bool {
    match wanted.split_first() {
        None => found.is_empty(),
        Some((first, rest)) if first == "..." => {
            (0..=found.len()).any(|skipped| matches(rest, &found[skipped..]))
        }
        Some((first, rest)) => {
            found.first().is_some_and(|line| fits(first, line)) && matches(rest, &found[1..])
        }
    }
}

/// Whether a line is as it is written, `...` in it standing for any part.
fn fits(written: &str, line: &str) -> bool {
    match written.split_once("...") {
        None => written == line,
        Some((before, after)) => line.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).any(|at| rest.get(at..).is_some_and(|rest| fits(after, rest)))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "\
text
```python,file=a.py
print(1)
```
```console
$ brant ps
NAME  PID
sim   12
$ true
```
```sh
not a session
```
";

    fn output(first: &str) -> String {
        format!("\n== step 0 ==\n{first}\n\n== step 1 ==\n\n")
    }

    #[test]
    fn a_document_is_files_and_steps() {
        let session = Session::of(DOCUMENT);
        assert_eq!(session.files, [("a.py".to_owned(), "print(1)\n".to_owned())]);
        let commands: Vec<&str> = session.steps.iter().map(|step| step.command.as_str()).collect();
        assert_eq!(commands, ["brant ps", "true"]);
    }

    #[test]
    fn numbers_differ_and_words_do_not() {
        let session = Session::of(DOCUMENT);
        assert_eq!(session.differences(&output("NAME     PID\nsim 99999"), "/x"), Vec::<String>::new());
        assert_eq!(session.differences(&output("NAME PID\nsam 12"), "/x").len(), 1);
        assert_eq!(session.differences(&output("NAME PID"), "/x").len(), 1);
        assert_eq!(session.differences("", "/x").len(), 2);
    }

    #[test]
    fn sizes_times_ids_and_homes() {
        let same = |a: &str, b: &str| assert_eq!(shape(a, "/tmp/x"), shape(b, "/tmp/x"));
        same("in 852.7 KiB; it stood for 35 ms", "in 1.2 MiB; it stood for 1 s");
        same("/tmp/x/sim-af9df1436bcb.brant", "/home/you/sim-51e5975ba9d5.brant");
        same("opendir() = 0x5650ccfcd010", "opendir() = 0x1");
        assert_ne!(shape("a 3", ""), shape("b 3", ""));
        assert_ne!(shape("failed", ""), shape("ID", ""));
    }

    #[test]
    fn dots_stand_for_any_lines() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        assert!(matches(&lines("a\n...\nd"), &lines("a\nb\nc\nd")));
        assert!(matches(&lines("...\nd"), &lines("d")));
        assert!(!matches(&lines("a\n...\nd"), &lines("a\nb")));
        assert!(matches(&lines("read(N, ...) = N"), &lines("read(N, N, N) = N")));
        assert!(!matches(&lines("read(N, ...) = N"), &lines("read(N, N, N) = x")));
    }

    #[test]
    fn each_prompt_has_its_own_steps() {
        let text = "<!-- typed\n$ touch x\n-->\n```console\n> brant.exe ps\nNAME\n```\n<!-- file=y\nz\n-->\n```console\n$ ls\nx\n```\n";
        let commands = |session: &Session| -> Vec<String> {
            session.steps.iter().map(|step| step.command.clone()).collect()
        };
        let session = Session::of(text);
        assert_eq!(commands(&session), ["touch x", "ls"]);
        assert_eq!(session.files, [("y".to_owned(), "z\n".to_owned())]);
        assert_eq!(commands(&Session::typed_at(Prompt::Windows, text)), ["brant.exe ps"]);
    }
}
