//! `brant explain`.

use serde_json::json;

use super::Done;
use crate::explain::{TABLE, find};
use crate::failure::{Failure, exit};
use crate::report::Report;

/// Explain an error code such as B-0101; without a code, list them
#[derive(Debug, clap::Args)]
pub(super) struct Explain {
    code: Option<String>,
}

impl Explain {
    pub(super) fn run(self, report: &Report) -> Done {
        let Some(code) = self.code else {
            if report.json {
                let codes: Vec<_> =
                    TABLE.iter().map(|e| json!({ "code": e.code, "title": e.title })).collect();
                report.json(json!({ "codes": codes }));
            } else {
                let lines: Vec<String> = TABLE.iter().map(|e| format!("{}  {}", e.code, e.title)).collect();
                report.data(&lines.join("\n"));
            }
            return Ok(0);
        };
        let entry = find(&code).ok_or_else(|| {
            Failure::new("B-0112", exit::USAGE, format!("there is no error code \"{}\"", code.escape_debug()))
                .why("codes look like B-0101")
                .next("brant explain")
        })?;
        if report.json {
            report.json(json!({ "code": entry.code, "title": entry.title, "text": entry.text }));
        } else {
            let style = report.out_style();
            report.data(&format!("{}: {}\n\n{}", style.bold(entry.code), entry.title, entry.text.trim()));
        }
        Ok(0)
    }
}
