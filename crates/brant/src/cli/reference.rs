//! `brant reference`: all that the documentation takes from the code itself, for the tool that makes the site.

use brant_capture::{SUPPORT, Verdict};
use serde_json::{Value, json};

use super::{Done, grammar};
use crate::explain::TABLE;
use crate::report::Report;

/// Print verbs, options, error codes and what is supported, as JSON
#[derive(Debug, clap::Args)]
pub(super) struct Reference {}

impl Reference {
    pub(super) fn run(self, report: &Report) -> Done {
        let codes =
            TABLE.iter().map(|entry| json!({ "code": entry.code, "title": entry.title, "text": entry.text }));
        let support = SUPPORT.iter().map(|row| {
            let (code, how) = match row.verdict {
                Verdict::Carried(how) => (None, how),
                Verdict::Refused(code) => (Some(code), ""),
            };
            json!({ "area": row.area.to_string(), "what": row.what, "refused": code, "how": how, "shown_by": row.shown_by })
        });
        report.json(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "commands": verb(&grammar(), ""),
            "codes": codes.collect::<Vec<Value>>(),
            "support": support.collect::<Vec<Value>>(),
        }));
        Ok(0)
    }
}

/// A verb, its options, and the verbs below it.
fn verb(command: &clap::Command, above: &str) -> Value {
    let path = format!("{above} {}", command.get_name()).trim_start().to_owned();
    let text =
        |styled: Option<&clap::builder::StyledStr>| styled.map(ToString::to_string).unwrap_or_default();
    // Those of every verb are told once, with the first.
    let is_own = |arg: &&clap::Arg| !arg.is_hide_set() && (above.is_empty() || !arg.is_global_set());
    let options = command.get_arguments().filter(is_own).map(option).collect::<Vec<Value>>();
    let below = command.get_subcommands().filter(|below| !below.is_hide_set());
    json!({
        "path": path, "about": text(command.get_about()), "long_about": text(command.get_long_about()),
        "after": text(command.get_after_help()), "usage": command.clone().render_usage().to_string(),
        "options": options, "verbs": below.map(|below| verb(below, &path)).collect::<Vec<Value>>(),
    })
}

fn option(arg: &clap::Arg) -> Value {
    let takes_value = arg.get_action().takes_values();
    let shown = |value: &clap::builder::OsStr| value.to_string_lossy().into_owned();
    let choices = arg.get_possible_values();
    json!({
        "long": arg.get_long(), "short": arg.get_short(), "positional": arg.is_positional(),
        "value": takes_value.then(|| {
            let names = arg.get_value_names().map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>());
            names.map_or_else(|| arg.get_id().as_str().to_uppercase(), |names| names.join(" "))
        }),
        "help": arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default(),
        "default": takes_value.then(|| arg.get_default_values().iter().map(shown).collect::<Vec<_>>().join(" ")),
        "choices": if takes_value {
            choices.iter().filter(|choice| !choice.is_hide_set()).map(|choice| choice.get_name().to_owned()).collect()
        } else {
            Vec::<String>::new()
        },
        "required": arg.is_required_set(),
        "many": matches!(arg.get_action(), clap::ArgAction::Append),
    })
}
