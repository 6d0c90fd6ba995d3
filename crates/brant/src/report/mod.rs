//! How things are printed: data on stdout, everything else on stderr.

mod style;
mod text;

pub(crate) use style::{Color, Style};
pub(crate) use text::{ago, command_line, harmless, signal_name, span, state, table, wait_status};

use std::io::{IsTerminal, Write};

use serde_json::{Value, json};

use brant_base::Refusal;

use crate::failure::Failure;

/// How this run of brant prints.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Report {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    verbose: bool,
    color: Color,
}

impl Report {
    pub(crate) fn new(json: bool, quiet: bool, verbose: bool, color: Color) -> Report {
        Report { json, quiet, verbose, color }
    }

    /// The same, which says nothing but data and errors.
    pub(crate) fn quietly(self) -> Report {
        Report { quiet: true, ..self }
    }

    /// Colours for stdout.
    pub(crate) fn out_style(&self) -> Style {
        Style::new(self.color, std::io::stdout().is_terminal())
    }

    /// Colours for stderr.
    pub(crate) fn err_style(&self) -> Style {
        Style::new(self.color, std::io::stderr().is_terminal())
    }

    /// Data. A reader that has gone away ends it quietly.
    pub(crate) fn data(&self, text: &str) {
        let _ = writeln!(std::io::stdout(), "{text}");
    }

    /// Data for machines; `schema_version` is added.
    pub(crate) fn json(&self, mut value: Value) {
        value["schema_version"] = json!(1);
        let _ = writeln!(std::io::stdout(), "{value:#}");
    }

    /// As [`Report::json`], where stdout takes an image.
    pub(crate) fn json_aside(&self, mut value: Value) {
        value["schema_version"] = json!(1);
        let _ = writeln!(std::io::stderr(), "{value:#}");
    }

    /// One line about what was done, for people; machines and `-q` do without.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet && !self.json {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// One line for those who want to know more (`-v`).
    pub(crate) fn detail(&self, text: &str) {
        if self.verbose {
            self.note(text);
        }
    }

    /// A failure: what happened, why, and what to do next.
    pub(crate) fn failure(&self, failure: &Failure) {
        if self.json {
            let error = json!({ "schema_version": 1, "error": failure.to_json() });
            let _ = writeln!(std::io::stderr(), "{error}");
            return;
        }
        let style = self.err_style();
        let mut text =
            format!("{} {}: {}", style.bad("brant:"), style.bold(failure.code), harmless(&failure.what));
        for refusal in &failure.refusals {
            text.push_str(&format!("\n{}", refusal_lines(refusal, style)));
        }
        for (label, lines) in [("why: ", &failure.why), ("next:", &failure.next)] {
            for (index, line) in harmless(lines).lines().enumerate() {
                let label = if index == 0 { label } else { "     " };
                text.push_str(&format!("\n  {} {line}", style.faint(label)));
            }
        }
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

/// One thing that stands in the way, with its remedy below.
pub(crate) fn refusal_lines(refusal: &Refusal, style: Style) -> String {
    let process = refusal.pid.map_or(String::new(), |pid| format!("process {pid}: "));
    format!(
        "  {}  {process}{}: {}\n          {} {}",
        style.bold(refusal.code),
        harmless(&refusal.resource),
        harmless(&refusal.why),
        style.faint("remedy:"),
        harmless(&refusal.hint)
    )
}
