//! Phases from left to right, and for each lane what is the case meanwhile.
//!
//! ```text
//! timeline TITLE
//! steps discover | preflight | freeze
//! lane the program
//!   1-2 run it runs
//!   3-3 hold it stands still
//! line 2 nothing was touched until here
//! ```
//!
//! `FROM-TO KIND TEXT` fills steps of the lane above it; `line AFTER TEXT` is a mark after a step.

use std::fmt::Write as _;

use super::{Drawing, cell, height_of, known_kind, label, wrapped};

const NAME_WIDTH: f64 = 112.0;
const GAP: f64 = 4.0;
const WIDTH: f64 = 960.0;

struct Lane<'a> {
    name: &'a str,
    spans: Vec<Span<'a>>,
}

struct Span<'a> {
    from: usize,
    to: usize,
    kind: &'a str,
    text: &'a str,
}

pub(super) fn draw(text: &str) -> Result<Drawing, String> {
    let mut steps: Vec<&str> = Vec::new();
    let mut lanes: Vec<Lane> = Vec::new();
    let mut marks: Vec<(usize, &str)> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let (word, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        match word {
            "steps" => steps = rest.split('|').map(str::trim).collect(),
            "lane" => lanes.push(Lane { name: rest.trim(), spans: Vec::new() }),
            "line" => {
                let (after, text) = rest.trim().split_once(' ').unwrap_or((rest.trim(), ""));
                let after = after.parse().ok().filter(|after| (1..steps.len()).contains(after));
                marks.push((after.ok_or_else(|| format!("no step to mark: {line}"))?, text));
            }
            _ if line.starts_with(' ') => {
                let span = span(line, steps.len())?;
                lanes.last_mut().ok_or("a span stands before its lane")?.spans.push(span);
            }
            _ => return Err(format!("what is this in a timeline: {line}")),
        }
    }
    if steps.is_empty() {
        return Err("a timeline has steps".into());
    }
    Ok(render(&steps, &lanes, &marks))
}

fn span(line: &str, steps: usize) -> Result<Span<'_>, String> {
    if steps == 0 {
        return Err("the steps stand before the lanes".into());
    }
    let mut words = line.trim().splitn(3, ' ');
    let range = words.next().unwrap_or_default();
    let kind = known_kind(words.next().unwrap_or_default())?;
    let bounds = range.split_once('-').and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    match bounds {
        Some((from, to)) if 1 <= from && from <= to && to <= steps => {
            Ok(Span { from, to, kind, text: words.next().unwrap_or_default() })
        }
        _ => Err(format!("{range} are no steps of the {steps}: {line}")),
    }
}

fn render(steps: &[&str], lanes: &[Lane], marks: &[(usize, &str)]) -> Drawing {
    let step = (WIDTH - NAME_WIDTH) / steps.len() as f64;
    let left = |at: usize| NAME_WIDTH + (at - 1) as f64 * step;
    let mut body = String::new();
    let heading = steps.iter().map(|name| wrapped(name, step).len()).max().unwrap_or(1) as f64 * 15.0 + 12.0;
    for (at, name) in steps.iter().enumerate() {
        for (row, line) in wrapped(name, step).iter().enumerate() {
            label(&mut body, left(at + 1) + step / 2.0, 14.0 + row as f64 * 15.0, "t-step", line);
        }
    }
    let mut y = heading;
    let mut boxes = String::new();
    for lane in lanes {
        let width = |span: &Span| (span.to - span.from + 1) as f64 * step - GAP;
        let needed = lane.spans.iter().map(|span| height_of(span.text, width(span)));
        let own = wrapped(lane.name, NAME_WIDTH - 8.0);
        let height = needed.fold(own.len() as f64 * 15.0 + 8.0, f64::max).max(30.0);
        let top = y + height / 2.0 - (own.len() as f64 - 1.0) * 7.5 + 4.0;
        for (row, line) in own.iter().enumerate() {
            let _ = write!(
                body,
                "<text class=\"t-lane\" x=\"0\" y=\"{:.1}\">{}</text>",
                top + row as f64 * 15.0,
                crate::html::escape(line)
            );
        }
        for span in &lane.spans {
            cell(&mut boxes, (left(span.from) + GAP / 2.0, y, width(span), height), span.kind, span.text);
        }
        y += height + 6.0;
    }
    for (after, text) in marks {
        let x = left(after + 1);
        let _ = write!(
            body,
            "<line class=\"mark\" x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\"/>",
            heading - 6.0,
            y + 4.0
        );
        // Near the right edge the text would leave the picture.
        let half = text.chars().count() as f64 * 3.2;
        label(&mut body, x.clamp(half, WIDTH - half), y + 18.0, "t-mark", text);
    }
    // Marks stand behind the boxes: they would cross out what is written there.
    body.push_str(&boxes);
    let foot = if marks.is_empty() { 2.0 } else { 26.0 };
    Drawing { width: WIDTH, height: y + foot, body }
}
