//! `brant wrappers`.

use brant_connect::{Listed, Missing, Outcome, Unhookable, definitions};
use serde_json::{Value, json};

use super::Done;
use super::wrap::{failed, function_json, only_process};
use crate::report::Report;
use crate::target::Target;

/// List the wrappers that a program has, or those that can be put on by name
#[derive(Debug, clap::Args)]
pub(super) struct Wrappers {
    /// A job's name or a pid
    target: Option<String>,
}

impl Wrappers {
    pub(super) fn run(self, report: &Report) -> Done {
        let Some(word) = self.target else {
            definitions(report);
            return Ok(0);
        };
        let target = Target::find(&word)?;
        let pid = only_process(&target)?;
        let wrappers = brant_connect::wrappers(pid)
            .map_err(|error| failed(&format!("the wrappers of {target} cannot be told"), &target, &error))?;
        if report.json {
            let wrappers: Vec<Value> = wrappers.iter().map(wrapper_json).collect();
            report.json(json!({ "pid": pid.0, "wrappers": wrappers }));
        } else if wrappers.is_empty() {
            report.note(&format!("{target} has no wrappers"));
        } else {
            wrappers.iter().for_each(|wrapper| show(report, wrapper));
        }
        Ok(0)
    }
}

/// Those in the folders, then those that ship. A file hides one that ships with its name.
fn definitions(report: &Report) {
    let files = definitions::all();
    if report.json {
        let paths: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
        let shipped: Vec<Value> = brant_wrappers::all()
            .iter()
            .map(|shipped| json!({ "name": shipped.name, "about": shipped.about }))
            .collect();
        return report.json(json!({ "definitions": paths, "shipped": shipped }));
    }
    files.iter().for_each(|path| report.data(&path.display().to_string()));
    for shipped in brant_wrappers::all() {
        report.data(&format!("{:<8} {}", shipped.name, shipped.about));
    }
}

fn show(report: &Report, wrapper: &Listed) {
    let state = if wrapper.is_on { "" } else { " (dormant)" };
    report.data(&format!("{}{state}  {}", shown(&wrapper.name), shown(&wrapper.path)));
    for function in &wrapper.functions {
        let before = match function.depth {
            0 => String::new(),
            depth => format!("  behind {depth} other"),
        };
        report.data(&format!("  {} in {}{before}", shown(&function.name), shown(&function.library)));
    }
    let (waiting, others): (Vec<&Missing>, Vec<&Missing>) =
        wrapper.missing.iter().partition(|missing| missing.outcome == Outcome::Waits);
    for of_library in waiting.chunk_by(|a, b| a.library == b.library) {
        let functions: Vec<String> = of_library.iter().map(|missing| shown(&missing.function)).collect();
        let library = shown(&of_library[0].library);
        report.data(&format!("  waits: {}: {library} is not loaded yet", functions.join(", ")));
    }
    for missing in others {
        report.data(&format!("  not mediated: {}", shown(said(missing).as_bytes())));
    }
    if wrapper.is_on && !wrapper.covers_later {
        report.data("  libraries that are loaded from now on are not mediated");
    }
}

fn said(missing: &Missing) -> String {
    let (library, function) = (text(&missing.library), text(&missing.function));
    Unhookable { library, function, outcome: missing.outcome }.to_string()
}

fn wrapper_json(wrapper: &Listed) -> Value {
    let functions: Vec<Value> = wrapper.functions.iter().map(function_json).collect();
    let missing = |missing: &Missing| {
        json!({
            "name": text(&missing.function), "library": text(&missing.library),
            "waits": missing.outcome == Outcome::Waits, "why": said(missing),
        })
    };
    let missing: Vec<Value> = wrapper.missing.iter().map(missing).collect();
    json!({
        "name": text(&wrapper.name), "implementation": text(&wrapper.path), "dormant": !wrapper.is_on,
        "functions": functions, "missing": missing, "covers_later": wrapper.covers_later,
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// For a terminal.
fn shown(bytes: &[u8]) -> String {
    text(bytes).escape_debug().to_string()
}
