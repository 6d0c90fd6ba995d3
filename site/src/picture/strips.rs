//! Strips of boxes, one below the other, of which the next enlarges a box of the one above: how bytes lie in a file.
//!
//! ```text
//! strips TITLE
//! strip an image
//!   1 data header
//!   3 work page pack
//! zoom 2
//! strip a page pack
//!   1 plain index
//! ```
//!
//! `WEIGHT KIND TEXT` is a box, as wide as its weight says beside the others; `zoom N` says that the next strip is the
//! inside of box N.

use std::fmt::Write as _;

use super::{Drawing, cell, height_of, known_kind};

const WIDTH: f64 = 960.0;
const BETWEEN: f64 = 34.0;

#[derive(Default)]
struct Strip<'a> {
    name: &'a str,
    boxes: Vec<(f64, &'a str, &'a str)>,
    /// Which box of the strip above this one enlarges.
    inside_of: Option<usize>,
}

pub(super) fn draw(text: &str) -> Result<Drawing, String> {
    let mut strips: Vec<Strip> = Vec::new();
    let mut zoomed = None;
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let (word, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        match word {
            "strip" => strips.push(Strip { name: rest.trim(), boxes: Vec::new(), inside_of: zoomed.take() }),
            "zoom" => {
                let count = strips.last().map_or(0, |strip| strip.boxes.len());
                let number = rest.trim().parse().ok().filter(|number| (1..=count).contains(number));
                zoomed = Some(number.ok_or_else(|| format!("there is no box {rest} to enlarge"))?);
            }
            _ if line.starts_with(' ') => {
                let weight = word.parse().ok().filter(|weight: &f64| *weight > 0.0);
                let weight = weight.ok_or_else(|| format!("a box begins with its weight, not {word}"))?;
                let (kind, text) = rest.split_once(' ').unwrap_or((rest, ""));
                let into = strips.last_mut().ok_or("a box stands before its strip")?;
                into.boxes.push((weight, known_kind(kind)?, text));
            }
            _ => return Err(format!("what is this in strips: {line}")),
        }
    }
    if strips.iter().any(|strip| strip.boxes.is_empty()) || strips.is_empty() {
        return Err("a strip has boxes".into());
    }
    Ok(render(&strips))
}

fn render(strips: &[Strip]) -> Drawing {
    let mut body = String::new();
    let mut y = 0.0;
    let mut above: Vec<(f64, f64)> = Vec::new();
    let mut above_end = 0.0;
    for strip in strips {
        if let Some((x, width)) = strip.inside_of.and_then(|number| above.get(number - 1)) {
            let _ = write!(
                body,
                "<path class=\"zoom\" d=\"M{x:.1} {above_end:.1} L0 {:.1} L{WIDTH} {:.1} L{:.1} {above_end:.1} Z\"/>",
                y + 18.0,
                y + 18.0,
                x + width
            );
        }
        let _ = write!(
            body,
            "<text class=\"t-lane\" x=\"0\" y=\"{:.1}\">{}</text>",
            y + 13.0,
            crate::html::escape(strip.name)
        );
        y += 20.0;
        let total: f64 = strip.boxes.iter().map(|(weight, ..)| weight).sum();
        let width = |weight: f64| weight / total * WIDTH;
        let needed = strip.boxes.iter().map(|(weight, _, text)| height_of(text, width(*weight) - 4.0));
        let height = needed.fold(34.0, f64::max);
        let mut x = 0.0;
        above.clear();
        for (weight, kind, text) in &strip.boxes {
            cell(&mut body, (x + 2.0, y, width(*weight) - 4.0, height), kind, text);
            above.push((x + 2.0, width(*weight) - 4.0));
            x += width(*weight);
        }
        y += height;
        above_end = y;
        y += BETWEEN;
    }
    Drawing { width: WIDTH, height: y - BETWEEN + 4.0, body }
}
