//! Terminal sessions in documents: what is typed, what it printed, and whether it prints that again.
//!
//! A block ```` ```console ```` is a session: a line that begins with `$ ` is typed, those up to the next one are what it printed;
//! a line `...` stands for any number of lines. A block ```` ```python,file=NAME ```` (of any language) is a file that the session has.
//! The blocks of one document are one session, from top to bottom, in one shell.
//!
//! Two runs are never the same to the letter: numbers, sizes, times and ids are compared as what they are.

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
    /// Reads a document.
    pub fn of(document: &str) -> Session {
        let mut session = Session::default();
        let mut lines = document.lines();
        while let Some(line) = lines.next() {
            let Some(info) = line.strip_prefix("```").filter(|info| !info.is_empty()) else { continue };
            let block: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
            if let Some((_, name)) = info.split_once(",file=") {
                session.files.push((name.to_owned(), block.join("\n") + "\n"));
            } else if info == "console" {
                session.steps.extend(steps(&block));
            }
        }
        session
    }

    /// The session as a script of bash, which prints a line [`Session::mark`] before what each command prints.
    pub fn script(&self) -> String {
        let mut script = String::from("exec 2>&1\n");
        for (number, step) in self.steps.iter().enumerate() {
            script.push_str(&format!("echo; echo '{}'\n{}\n", Session::mark(number), step.command));
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

fn steps(block: &[&str]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in block {
        match line.strip_prefix("$ ") {
            Some(command) => steps.push(Step { command: command.to_owned(), printed: Vec::new() }),
            None => {
                if let Some(step) = steps.last_mut() {
                    step.printed.push((*line).to_owned());
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
        if is_id(part) && !is_number(part) {
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
        Some((first, rest)) => found.first() == Some(first) && matches(rest, &found[1..]),
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
        assert_ne!(shape("a 3", ""), shape("b 3", ""));
        assert_ne!(shape("failed", ""), shape("ID", ""));
    }

    #[test]
    fn dots_stand_for_any_lines() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        assert!(matches(&lines("a\n...\nd"), &lines("a\nb\nc\nd")));
        assert!(matches(&lines("...\nd"), &lines("d")));
        assert!(!matches(&lines("a\n...\nd"), &lines("a\nb")));
    }
}
