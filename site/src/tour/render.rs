//! The page of one source: explanations on one side, code on the other.

use std::fmt::Write as _;

use pulldown_cmark::{BrokenLink, CowStr, Event, Options, Parser, Tag, TagEnd};
use sections::{Kind, Section};

use super::Tour;
use super::links::Link;
use super::names::{At, What};
use super::source::Token;
use crate::html::{escape, page as framed};
use crate::markdown::relative;

/// The whole page.
pub(super) fn page(tour: &Tour, number: usize) -> String {
    let page = &tour.pages[number];
    let mut body = String::new();
    let up = up(&page.path);
    let plain = match page.rustdoc.as_str() {
        "" => String::new(),
        shown => format!(" · <a href=\"{up}api/{shown}\">plain</a>"),
    };
    let _ = write!(
        body,
        "<main class=\"source\"><nav class=\"way\">{}</nav><h1>{}</h1>",
        way(tour, number, &up),
        escape(&page.title())
    );
    let _ = write!(
        body,
        "<p class=\"links\"><code>{}</code> · <a href=\"{}.uses.html\">uses of what it defines</a>{plain}</p>",
        escape(&page.path),
        file_name(&page.path)
    );
    for section in &page.sections {
        body.push_str(&row(tour, number, section));
    }
    body.push_str("</main>");
    let scripts = format!("<script src=\"{up}tour/search.js\" data-up=\"{up}\" defer></script>");
    framed(&format!("{}: source tour", page.title()), &up, "Source tour", &(body + &scripts))
}

/// From a page of the tour to the site's root.
pub(super) fn up(path: &str) -> String {
    "../".repeat(path.matches('/').count() + 1)
}

pub(super) fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Where the page stands on the tour, and what comes before and after it.
fn way(tour: &Tour, number: usize, up: &str) -> String {
    let page = &tour.pages[number];
    let mut way = format!("<a href=\"{up}tour/index.html\">Source tour</a>");
    let Some(position) = tour.stops.position(&page.path) else { return way };
    let _ = write!(way, "<span>{}</span>", escape(&tour.stops.0[position].0));
    let stop = |position: usize, word: &str| {
        let (_, path) = tour.stops.0.get(position)?;
        let other = tour.pages.iter().find(|other| other.path == *path)?;
        let address = relative(&page.path, &format!("{path}.html"));
        Some(format!("<a class=\"{word}\" href=\"{address}\">{}</a>", escape(&other.title())))
    };
    way.extend(position.checked_sub(1).and_then(|before| stop(before, "before")));
    way.extend(stop(position + 1, "after"));
    way
}

/// One section: its explanation and its code.
fn row(tour: &Tour, number: usize, section: &Section) -> String {
    let page = &tour.pages[number];
    let (kind, title) = match section.kind {
        Kind::Module => ("module", String::new()),
        Kind::Imports => ("imports", String::new()),
        Kind::Tests => ("tests", "Tests".to_owned()),
        Kind::Code => ("code", section.title.clone()),
    };
    let heading = if title.is_empty() { String::new() } else { format!("<h2>{}</h2>", escape(&title)) };
    let mut code = String::new();
    let is_blank = |line: &usize| page.lines.get(line - 1).is_none_or(Vec::is_empty);
    let shown_last =
        (section.first..=section.last).rev().find(|line| !is_blank(line)).unwrap_or(section.first);
    for line in section.first..=section.last {
        // What stands beside it is not shown twice, but its lines are still there to be led to.
        if section.comment.contains(&line) || line > shown_last {
            let _ = write!(code, "<span id=\"L{line}\"></span>");
            continue;
        }
        let tokens = page.lines.get(line - 1).map_or(&[][..], Vec::as_slice);
        let shown: String = tokens
            .iter()
            .enumerate()
            .map(|(at, token)| shown(tour, At { page: number, line: line - 1, token: at }, token))
            .collect();
        let _ =
            write!(code, "<span id=\"L{line}\" class=\"l\"><a href=\"#L{line}\">{line}</a>{shown}</span>");
    }
    let text = explanation(tour, number, &section.explanation);
    let inner = format!("<div class=\"text\">{heading}{text}</div><pre>{code}</pre>");
    match section.kind {
        // Tests and imports are there for who wants them.
        Kind::Tests => format!(
            "<section class=\"row {kind}\"><details><summary>Tests</summary><pre>{code}</pre></details></section>\n"
        ),
        _ => format!("<section class=\"row {kind}\">{inner}</section>\n"),
    }
}

/// A token with its colour and its link.
fn shown(tour: &Tour, at: At, token: &Token) -> String {
    let text = escape(&token.text);
    let class = &token.class;
    let from = &tour.pages[at.page].path;
    let is_definition = tour.links.uses(at).is_some();
    let link = if is_definition {
        Some((format!("{}.uses.html#{}", file_name(from), anchor(at)), "def"))
    } else {
        tour.links.of(at).map(|link| match link {
            Link::Definition { at, by_name } => {
                (line_address(tour, from, at.page, at.line), if *by_name { "named" } else { "" })
            }
            Link::Line { page, line } => (line_address(tour, from, *page, *line), ""),
            Link::Several => (names_address(from, &token.text), "named"),
            Link::Away(address) => (address.clone(), "away"),
        })
    };
    match link {
        Some((address, kind)) => {
            let classes = format!("{class} {kind}");
            format!("<a class=\"{}\" href=\"{}\">{text}</a>", classes.trim(), escape(&address))
        }
        None if class.is_empty() => text,
        None => format!("<span class=\"{class}\">{text}</span>"),
    }
}

/// The name of a definition's entry on the page of uses.
pub(super) fn anchor(at: At) -> String {
    format!("u{}-{}", at.line + 1, at.token)
}

/// A line of a page as seen from the page of another source.
pub(super) fn line_address(tour: &Tour, from: &str, page: usize, line: usize) -> String {
    let to = &tour.pages[page].path;
    let file = if from == to { String::new() } else { relative(from, &format!("{to}.html")) };
    format!("{file}#L{}", line + 1)
}

/// All definitions of a name.
pub(super) fn names_address(from: &str, name: &str) -> String {
    let page = format!("names/{}.html", super::index::initial(name));
    format!("{}#{name}", relative(from, &page))
}

/// Markdown of a comment. Names in brackets lead to what is defined so, if it is clear what that is.
pub(super) fn explanation(tour: &Tour, number: usize, text: &str) -> String {
    let resolve = |target: &str| -> Option<String> {
        let target = target.trim_matches('`').trim_end_matches("()").trim_end_matches('!');
        let target = target.split_once('@').map_or(target, |(_, target)| target);
        let name = target.rsplit("::").next().unwrap_or(target);
        const ANY: [What; 7] =
            [What::Type, What::Function, What::Module, What::Value, What::Macro, What::Variant, What::Field];
        let found = tour.names.find(name, &ANY);
        let from = &tour.pages[number].path;
        let near: Vec<&At> = found.iter().filter(|at| at.page == number).collect();
        match (near.as_slice(), found.as_slice()) {
            ([one, ..], _) => Some(line_address(tour, from, one.page, one.line)),
            ([], [one]) => Some(line_address(tour, from, one.page, one.line)),
            ([], []) => None,
            _ => Some(names_address(from, name)),
        }
    };
    let only = |code: &str| -> Option<String> {
        let is_name = code.chars().all(|c| c.is_alphanumeric() || "_:".contains(c)) && code.len() > 3;
        let name = code.rsplit("::").next().unwrap_or(code);
        let found = tour.names.find(name, &[What::Type, What::Function, What::Value, What::Module]);
        let [one] = found.as_slice() else { return None };
        is_name.then(|| line_address(tour, &tour.pages[number].path, one.page, one.line))
    };
    let mut broken = |link: BrokenLink<'_>| {
        // What leads nowhere is still no text in brackets.
        Some((CowStr::from(resolve(&link.reference).unwrap_or_default()), CowStr::from("")))
    };
    let parser = Parser::new_with_broken_link_callback(text, Options::ENABLE_TABLES, Some(&mut broken));
    let mut is_dropped = false;
    let mut is_in_link = false;
    let events: Vec<Event<'_>> = parser
        .filter_map(|event| match event {
            Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
                let is_address = dest_url.starts_with('#') || dest_url.contains('/');
                let address = if is_address { Some(dest_url.to_string()) } else { resolve(&dest_url) };
                is_dropped = address.is_none();
                is_in_link = true;
                address.map(|address| {
                    Event::Start(Tag::Link { link_type, dest_url: CowStr::from(address), title, id })
                })
            }
            Event::End(TagEnd::Link) => {
                is_in_link = false;
                (!is_dropped).then_some(event)
            }
            // A name that can mean one thing only is a link without being written as one.
            Event::Code(code) if !is_in_link => Some(match only(&code) {
                Some(address) => Event::InlineHtml(CowStr::from(format!(
                    "<a href=\"{}\"><code>{}</code></a>",
                    escape(&address),
                    escape(&code)
                ))),
                None => Event::Code(code),
            }),
            // The page has its own headings.
            Event::Start(Tag::Heading { id, classes, attrs, .. }) => Some(Event::Start(Tag::Heading {
                level: pulldown_cmark::HeadingLevel::H3,
                id,
                classes,
                attrs,
            })),
            Event::End(TagEnd::Heading(_)) => {
                Some(Event::End(TagEnd::Heading(pulldown_cmark::HeadingLevel::H3)))
            }
            event => Some(event),
        })
        .collect();
    let mut html = String::new();
    pulldown_cmark::html::push_html(&mut html, events.into_iter());
    html
}
