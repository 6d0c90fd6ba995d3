//! Medians, ratios, and how they are shown.

use std::fmt::Write;

/// What one life of the program gave. Times in milliseconds, sizes in MiB.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) left_running_ms: f64,
    pub(super) pause_ms: f64,
    pub(super) stopped_ms: f64,
    pub(super) image_mib: f64,
    pub(super) first_step_ms: f64,
    pub(super) touched_ms: f64,
}

/// Keys, headings, and where the figure is.
type Column = (&'static str, &'static str, fn(&Sample) -> f64);
const COLUMNS: [Column; 6] = [
    ("checkpoint_left_running_ms", "checkpoint ms", |sample| sample.left_running_ms),
    ("pause_ms", "pause ms", |sample| sample.pause_ms),
    ("checkpoint_stop_ms", "--stop ms", |sample| sample.stopped_ms),
    ("image_mib", "image MiB", |sample| sample.image_mib),
    ("first_step_ms", "first step ms", |sample| sample.first_step_ms),
    ("touched_ms", "touched ms", |sample| sample.touched_ms),
];
const WIDTH: usize = 15;

/// All that was measured at one size.
#[derive(Debug)]
pub(super) struct Results {
    pub(super) bytes: u64,
    pub(super) rows: Vec<Row>,
}

/// One tool's samples; none where it failed, and why.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) tool: String,
    pub(super) samples: Vec<Sample>,
    pub(super) failure: Option<String>,
}

impl Row {
    /// The middle of all samples; `None` without any.
    fn median(&self, figure: fn(&Sample) -> f64) -> Option<f64> {
        let mut all: Vec<f64> = self.samples.iter().map(figure).collect();
        all.sort_by(f64::total_cmp);
        let middle = all.len() / 2;
        match all.len() {
            0 => None,
            odd if odd % 2 == 1 => Some(all[middle]),
            _ => Some((all[middle - 1] + all[middle]) / 2.0),
        }
    }
}

impl Results {
    /// A table of medians, then of their ratios to CRIU's.
    pub(super) fn text(&self) -> String {
        let mut text = format!("\n{} MiB\n{:<14}", self.bytes >> 20, "");
        for (_, heading, _) in COLUMNS {
            let _ = write!(text, "{heading:>WIDTH$}");
        }
        for row in &self.rows {
            let _ = write!(text, "\n{:<14}", format!("{} ({})", row.tool, row.samples.len()));
            for (_, _, figure) in COLUMNS {
                let shown = row.median(figure).map_or("-".to_owned(), |median| format!("{median:.1}"));
                let _ = write!(text, "{shown:>WIDTH$}");
            }
            if let Some(failure) = &row.failure {
                let _ = write!(text, "\n    failed: {failure}");
            }
        }
        let Some(peer) = self.rows.iter().find(|row| row.tool == "CRIU") else { return text };
        for row in self.rows.iter().filter(|row| row.tool != "CRIU") {
            let _ = write!(text, "\n{:<14}", format!("{} : CRIU", row.tool));
            for (_, _, figure) in COLUMNS {
                let ratio = row.median(figure).zip(peer.median(figure)).map(|(ours, theirs)| ours / theirs);
                let shown = ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
                let _ = write!(text, "{shown:>WIDTH$}");
            }
        }
        text
    }

    /// All samples, as an object of JSON.
    pub(super) fn json(&self) -> String {
        let rows: Vec<String> = self.rows.iter().map(json_row).collect();
        format!("{{\"bytes\": {}, \"tools\": [{}]}}", self.bytes, rows.join(", "))
    }
}

fn json_row(row: &Row) -> String {
    let samples: Vec<String> = row
        .samples
        .iter()
        .map(|sample| {
            let fields: Vec<String> =
                COLUMNS.iter().map(|(key, _, figure)| format!("\"{key}\": {:.3}", figure(sample))).collect();
            format!("{{{}}}", fields.join(", "))
        })
        .collect();
    let failure = row.failure.as_ref().map_or("null".to_owned(), |why| format!("{why:?}"));
    format!("{{\"tool\": \"{}\", \"failure\": {failure}, \"samples\": [{}]}}", row.tool, samples.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(tool: &str, times: &[f64]) -> Row {
        let sample = |time: &f64| Sample {
            left_running_ms: *time,
            pause_ms: *time,
            stopped_ms: *time,
            image_mib: *time,
            first_step_ms: *time,
            touched_ms: *time,
        };
        Row { tool: tool.to_owned(), samples: times.iter().map(sample).collect(), failure: None }
    }

    #[test]
    fn medians() {
        assert_eq!(row("a", &[]).median(|sample| sample.pause_ms), None);
        assert_eq!(row("a", &[3.0, 1.0, 2.0]).median(|sample| sample.pause_ms), Some(2.0));
        assert_eq!(row("a", &[4.0, 1.0, 2.0, 3.0]).median(|sample| sample.pause_ms), Some(2.5));
    }

    #[test]
    fn ratios_are_to_criu() {
        let rows = vec![row("brant", &[30.0]), row("CRIU", &[60.0])];
        let text = Results { bytes: 64 << 20, rows }.text();
        let last = text.lines().last().unwrap_or_default();
        assert!(last.starts_with("brant : CRIU") && last.ends_with("0.50"), "{text}");
    }
}
