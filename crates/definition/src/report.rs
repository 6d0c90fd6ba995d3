//! Errors with their places, and how people see them: the line, and a mark under what is wrong in it.

use std::fmt::{self, Write};

use crate::ERRORS_MAX;
use crate::problem::Problem;
use crate::span::{Lines, Position, Span};

/// So many characters of a line are shown.
const WINDOW_CHARS: usize = 120;
/// So many characters of a text are repeated in a message.
const SHOWN_CHARS: usize = 60;

/// One error of a definition file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub problem: Problem,
    pub span: Span,
    /// Where `span` begins.
    pub position: Position,
    /// What probably helps.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// The stable code that `brant explain` expands.
    pub fn code(&self) -> &'static str {
        self.problem.code()
    }

    fn render(&self, file: &str, lines: &Lines<'_>) -> String {
        let Position { line, column } = self.position;
        let margin = " ".repeat(line.to_string().len());
        let mut out = String::new();
        let mut put = |text: fmt::Arguments<'_>| out.write_fmt(text).expect("a string takes everything");
        put(format_args!("{}: {}\n", self.code(), self.problem));
        put(format_args!("{margin}--> {file}:{line}:{column}\n"));
        let Window { before, mut after, marked, is_cut } =
            Window::of(self.span, lines.line(line), lines.start(line));
        let dots = if is_cut.0 { "..." } else { "" };
        let indent = " ".repeat(dots.len() + before.chars().count());
        let mark = "^".repeat(marked.max(1));
        after.push_str(if is_cut.1 { "..." } else { "" });
        let text = format!("{dots}{before}{after}");
        put(format_args!("{margin} |\n{line} | {}\n", text.trim_end()));
        put(format_args!("{margin} | {indent}{mark}\n"));
        if let Some(hint) = &self.hint {
            put(format_args!("{margin} = {hint}\n"));
        }
        out
    }
}

/// What is shown of a line: nothing of it is looked at that lies far from the span.
struct Window {
    before: String,
    /// The span, and what follows.
    after: String,
    /// How many characters of `after` the span has.
    marked: usize,
    /// Whether something was left out before and behind.
    is_cut: (bool, bool),
}

impl Window {
    /// `line` begins at byte `start` of the file.
    fn of(span: Span, line: &[u8], start: usize) -> Window {
        // A character has at most four bytes.
        const REACH_BYTES: usize = 4 * WINDOW_CHARS;
        let at = (span.start as usize).saturating_sub(start).min(line.len());
        let end = (span.end as usize).saturating_sub(start).clamp(at, line.len());
        let is_within = |byte: u8| byte & 0xc0 == 0x80;
        let mut from = at.saturating_sub(REACH_BYTES);
        while from > 0 && from < at && is_within(line[from]) {
            from += 1;
        }
        let before = visible(&line[from..at]);
        let kept = before.len().min(WINDOW_CHARS / 2);
        let to = (at + REACH_BYTES).min(line.len());
        let after = visible(&line[at..to]);
        let room = WINDOW_CHARS - kept;
        Window {
            is_cut: (from > 0 || kept < before.len(), to < line.len() || room < after.len()),
            before: before[before.len() - kept..].iter().collect(),
            marked: visible(&line[at..end.min(to)]).len().min(room),
            after: after.iter().take(room).collect(),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.position.line, self.position.column, self.code(), self.problem)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

/// Every error of a definition file, in the order of their places: never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors(Vec<Diagnostic>);

impl Errors {
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    /// Plain text for people: each error with its line, a mark below, and a hint. `file` is the name to show,
    /// `source` the bytes that were parsed. Nothing of the file reaches a terminal as a control character.
    pub fn render(&self, file: &str, source: &[u8]) -> String {
        let lines = Lines::new(source);
        let parts: Vec<String> = self.0.iter().map(|diagnostic| diagnostic.render(file, &lines)).collect();
        parts.join("\n")
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            let separator = if index > 0 { "\n" } else { "" };
            write!(f, "{separator}{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// What probably helps, where something is known that does.
pub(crate) struct Hint(Option<String>);

impl Hint {
    pub(crate) const NONE: Hint = Hint(None);
}

impl From<&str> for Hint {
    fn from(text: &str) -> Hint {
        Hint(Some(text.to_owned()))
    }
}

impl From<String> for Hint {
    fn from(text: String) -> Hint {
        Hint(Some(text))
    }
}

impl From<Option<String>> for Hint {
    fn from(text: Option<String>) -> Hint {
        Hint(text)
    }
}

/// Where errors are put while a file is parsed. It takes [`ERRORS_MAX`], then parsing ends.
#[derive(Default)]
pub(crate) struct Sink(Vec<(Problem, Span, Hint)>);

impl Sink {
    pub(crate) fn report(&mut self, problem: Problem, span: Span, hint: impl Into<Hint>) {
        if self.0.len() + 1 < ERRORS_MAX {
            self.0.push((problem, span, hint.into()));
        } else if !self.is_full() {
            let problem = Problem::Limit { what: "there may be more errors", max: ERRORS_MAX as u64 };
            self.0.push((problem, span, Hint::from("the rest of the file was not read")));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.0.len() >= ERRORS_MAX
    }

    /// `value` where nothing was reported, else the errors with their places in `source`.
    pub(crate) fn into_result<T>(self, value: T, source: &[u8]) -> Result<T, Errors> {
        if self.0.is_empty() {
            return Ok(value);
        }
        let lines = Lines::new(source);
        let place = |(problem, span, Hint(hint)): (Problem, Span, Hint)| Diagnostic {
            problem,
            span,
            position: lines.position(span.start),
            hint,
        };
        let mut found: Vec<Diagnostic> = self.0.into_iter().map(place).collect();
        // Stable, and what was cut off stays last: nothing behind it was read.
        found.sort_by_key(|diagnostic| diagnostic.span.start);
        Err(Errors(found))
    }
}

/// A text from the file as a message may repeat it: short, and without control characters.
pub(crate) fn shown(text: &str) -> String {
    let mut out = String::new();
    for (index, letter) in text.chars().enumerate() {
        if index == SHOWN_CHARS {
            return out + "...";
        }
        if is_plain(letter) { out.push(letter) } else { out.extend(letter.escape_unicode()) }
    }
    out
}

/// The line as a terminal may show it, one character for each: what would move the cursor is replaced.
fn visible(line: &[u8]) -> Vec<char> {
    let show = |letter: char| match letter {
        '\t' => ' ',
        plain if is_plain(plain) => plain,
        _ => char::REPLACEMENT_CHARACTER,
    };
    String::from_utf8_lossy(line).chars().map(show).collect()
}

/// Whether a terminal shows the character as itself: no control and no change of direction.
pub(crate) fn is_plain(letter: char) -> bool {
    !letter.is_control()
        && !matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}
