//! The page that leads back: for each definition of a source, where it is used.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Tour;
use super::names::At;
use super::render::{anchor, file_name, line_address, up};
use crate::html::{escape, page as framed};

/// More lines than this are told by their numbers alone.
const SHOWN_LINES_MAX: usize = 40;

pub(super) fn page(tour: &Tour, number: usize) -> String {
    let page = &tour.pages[number];
    let up = up(&page.path);
    let mut body = format!(
        "<main class=\"uses\"><nav class=\"way\"><a href=\"{up}tour/index.html\">Source tour</a><a href=\"{}.html\">{}</a></nav>\
         <h1>Uses of what {} defines</h1>",
        file_name(&page.path),
        escape(&page.title()),
        escape(&page.title())
    );
    for (line, tokens) in page.lines.iter().enumerate() {
        for (token, found) in tokens.iter().enumerate() {
            let at = At { page: number, line, token };
            if let Some(uses) = tour.links.uses(at) {
                let is_item = tour.names.defined(at).is_some();
                body.push_str(&entry(tour, at, &found.text, uses, is_item));
            }
        }
    }
    body.push_str("</main>");
    framed(&format!("Uses: {}", page.title()), &up, "Source tour", &body)
}

/// One definition.
fn entry(tour: &Tour, at: At, name: &str, uses: &BTreeMap<usize, Vec<usize>>, is_item: bool) -> String {
    let from = &tour.pages[at.page].path;
    let here = |page: usize, line: usize| match line_address(tour, from, page, line) {
        // This page is beside the source's.
        address if address.starts_with('#') => format!("{}.html{address}", file_name(from)),
        address => address,
    };
    let mut entry = format!(
        "<section id=\"{}\"><h2><a href=\"{}\"><code>{}</code></a> <small>line {}</small></h2>",
        anchor(at),
        here(at.page, at.line),
        escape(name),
        at.line + 1
    );
    let count: usize = uses.values().map(Vec::len).sum();
    if !is_item || count > SHOWN_LINES_MAX {
        for (page, lines) in uses {
            let links: Vec<String> = lines
                .iter()
                .map(|line| format!("<a href=\"{}\">{}</a>", here(*page, *line), line + 1))
                .collect();
            let title = if is_item {
                format!("{}: ", escape(&tour.pages[*page].title()))
            } else {
                "lines ".to_owned()
            };
            let _ = write!(entry, "<p>{title}{}</p>", links.join(", "));
        }
        return entry + "</section>\n";
    }
    for (page, lines) in uses {
        let _ = write!(entry, "<h3>{}</h3><ul>", escape(&tour.pages[*page].title()));
        for line in lines {
            let text: String =
                tour.pages[*page].lines[*line].iter().map(|token| token.text.as_str()).collect();
            let _ = write!(
                entry,
                "<li><a href=\"{}\">{}</a> <code>{}</code></li>",
                here(*page, *line),
                line + 1,
                escape(text.trim())
            );
        }
        entry.push_str("</ul>");
    }
    entry + "</section>\n"
}
