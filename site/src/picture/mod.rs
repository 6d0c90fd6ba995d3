//! Pictures from text: a fenced block ```` ```picture ```` in a page becomes inline SVG.
//!
//! The first line says which form it has and what its title is: `timeline TITLE` ([`timeline`]) or `strips TITLE`
//! ([`strips`]). Colours are classes of the site's style sheet, so that a picture is legible on light and dark.

mod strips;
mod timeline;

use std::fmt::Write as _;

use crate::html::escape;

/// Width of a letter of the pictures' type, in pixels, taken large: text must not leave its box.
const LETTER: f64 = 6.7;
const LINE: f64 = 15.0;

/// The picture that a block's text describes, or why it describes none.
pub(crate) fn draw(text: &str) -> Result<String, String> {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let (form, title) = first.trim().split_once(' ').ok_or("a picture begins with its form and its title")?;
    let drawing = match form {
        "timeline" => timeline::draw(rest)?,
        "strips" => strips::draw(rest)?,
        _ => return Err(format!("there is no form of picture called {form:?}")),
    };
    let Drawing { width, height, body } = drawing;
    let title = escape(title.trim());
    // One line: a blank line would end the block of HTML that this is in Markdown.
    Ok(format!(
        "<figure class=\"picture\"><div class=\"scroll\"><svg viewBox=\"0 0 {width:.0} {height:.0}\" \
         style=\"min-width:{:.0}px\" role=\"img\" aria-label=\"{title}\">{body}</svg></div>\
         <figcaption>{title}</figcaption></figure>",
        width * 0.82
    ))
}

/// What a form has drawn.
struct Drawing {
    width: f64,
    height: f64,
    body: String,
}

/// A box of a colour with text in its middle, and its whole text for a pointer that rests on it.
fn cell(body: &mut String, (x, y, width, height): (f64, f64, f64, f64), kind: &str, text: &str) {
    let lines = wrapped(text, width - 10.0);
    let _ = write!(
        body,
        "<rect class=\"k-{kind}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"5\"/>"
    );
    let top = y + height / 2.0 - (lines.len() as f64 - 1.0) * LINE / 2.0 + 4.0;
    for (at, line) in lines.iter().enumerate() {
        label(body, x + width / 2.0, top + at as f64 * LINE, &format!("t-{kind}"), line);
    }
}

/// A line of text, centred at `x`.
fn label(body: &mut String, x: f64, y: f64, class: &str, text: &str) {
    let _ = write!(body, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escape(text));
}

/// How high a box of that width must be.
fn height_of(text: &str, width: f64) -> f64 {
    wrapped(text, width - 10.0).len() as f64 * LINE + 12.0
}

/// The text in lines that fit. A single word that does not is left whole.
fn wrapped(text: &str, width: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if ((line.chars().count() + 1 + word.chars().count()) as f64) * LETTER <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// The kinds of boxes that the style sheet has colours for.
fn known_kind(kind: &str) -> Result<&str, String> {
    const KINDS: [&str; 7] = ["run", "hold", "work", "data", "gone", "good", "plain"];
    let known = KINDS.contains(&kind).then_some(kind);
    known.ok_or_else(|| format!("{kind:?} is none of the kinds {}", KINDS.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_wrapped_at_words() {
        assert_eq!(wrapped("one two three", 8.0 * LETTER), ["one two", "three"]);
        assert_eq!(wrapped("incomprehensible", 10.0), ["incomprehensible"]);
    }

    #[test]
    fn a_timeline_has_its_lanes_and_no_blank_line() {
        let drawn =
            draw("timeline A <b>\nsteps one | two\nlane brant\n  1-2 work looks\nline 1 here\n").unwrap();
        assert!(
            drawn.contains("A &lt;b&gt;") && drawn.contains("k-work") && drawn.contains("brant"),
            "{drawn}"
        );
        assert!(!drawn.contains('\n'));
    }

    #[test]
    fn strips_are_joined_by_what_they_enlarge() {
        let drawn = draw(
            "strips S\nstrip file\n  1 data header\n  3 data pack\nzoom 2\nstrip a pack\n  1 plain index\n",
        );
        assert!(drawn.unwrap().contains("class=\"zoom\""));
    }

    #[test]
    fn faults_are_named() {
        for (text, word) in [
            ("timeline", "title"),
            ("circle A", "circle"),
            ("timeline A\nlane x\n  1-2 work y", "steps"),
            ("timeline A\nsteps a\nlane x\n  1-2 work y", "1-2"),
            ("timeline A\nsteps a\nlane x\n  1-1 red y", "red"),
            ("timeline A\nsteps a\nsomething", "something"),
            ("strips A\n  1 data x", "strip"),
            ("strips A\nstrip a\n  0 data x", "0"),
            ("strips A\nstrip a\n  1 data x\nzoom 4\nstrip b\n  1 data y", "4"),
        ] {
            let fault = draw(text).unwrap_err();
            assert!(fault.contains(word), "{text}: {fault}");
        }
    }
}
