//! The tour's index page, the list of all names, and what its search looks through.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;

use super::Tour;
use super::render::{explanation, line_address};
use crate::html::{escape, page as framed};

pub(super) fn build(tour: &Tour, text: &str, site: &Path) -> Result<(), String> {
    let folder = site.join("tour");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.join(name), text).map_err(|error| format!("{name}: {error}"))
    };
    std::fs::create_dir_all(folder.join("names")).map_err(|error| format!("names: {error}"))?;
    write("index.html", &front(tour, text))?;
    write("search.js", include_str!("../../assets/search.js"))?;
    write("search-index.js", &search_index(tour))?;
    let mut by_initial: BTreeMap<String, String> = BTreeMap::new();
    for (name, places) in tour.names.all() {
        let from = "names/x";
        let mut entry = format!("<section id=\"{name}\"><h2><code>{name}</code></h2><ul>");
        for (at, what) in places {
            let line = tour.pages[at.page].lines.get(at.line).map_or(&[][..], Vec::as_slice);
            let code: String = line.iter().map(|token| token.text.as_str()).collect();
            let _ = write!(
                entry,
                "<li><a href=\"{}\">{}:{}</a> <small>{}</small> <code>{}</code></li>",
                line_address(tour, from, at.page, at.line),
                escape(&tour.pages[at.page].title()),
                at.line + 1,
                what.word(),
                escape(code.trim())
            );
        }
        by_initial.entry(initial(name)).or_default().push_str(&(entry + "</ul></section>\n"));
    }
    let letters: String =
        by_initial.keys().map(|letter| format!("<a href=\"{letter}.html\">{letter}</a>")).collect();
    for (letter, entries) in &by_initial {
        let body = format!(
            "<main class=\"uses\"><nav class=\"way\"><a href=\"../index.html\">Source tour</a><span>All names</span></nav>\
             <nav class=\"letters\">{letters}</nav>{entries}</main>"
        );
        write(
            &format!("names/{letter}.html"),
            &framed(&format!("Names: {letter}"), "../../", "Source tour", &body),
        )?;
    }
    Ok(())
}

/// The page of names on which a name stands.
pub(crate) fn initial(name: &str) -> String {
    name.trim_start_matches('_').chars().next().unwrap_or('_').to_lowercase().to_string()
}

/// The index: the chapters of `docs/tour.md`, and then every other module.
fn front(tour: &Tour, text: &str) -> String {
    let (title, rest) = text.split_once('\n').unwrap_or((text, ""));
    let mut chapters = String::new();
    let mut parts = rest.split("\n## ");
    let introduction = linked(tour, parts.next().unwrap_or_default());
    for (number, part) in parts.enumerate() {
        let (name, rest) = part.split_once('\n').unwrap_or((part, ""));
        let _ = write!(
            chapters,
            "<section class=\"chapter\"><h2><span>{}</span>{}</h2>{}</section>",
            number + 1,
            escape(name),
            linked(tour, rest)
        );
    }
    let mut others = String::new();
    let mut last = "";
    for page in tour.pages.iter().filter(|page| tour.stops.position(&page.path).is_none()) {
        let mut parts = page.path.split('/');
        let folder = match (parts.next(), parts.next()) {
            (Some("windows"), _) => "windows",
            (_, folder) => folder.unwrap_or_default(),
        };
        if folder != last {
            let _ = write!(others, "{}<h3>{folder}</h3><ul>", if last.is_empty() { "" } else { "</ul>" });
            last = folder;
        }
        let about = page.about().replace('\n', " ");
        let about = about.split_once(". ").map_or(about.as_str(), |(first, _)| first).trim_end_matches('.');
        let _ = write!(
            others,
            "<li><a href=\"{}.html\">{}</a> <span>{}</span></li>",
            page.path,
            escape(&page.title()),
            escape(&about.replace('`', "").replace(['[', ']'], ""))
        );
    }
    let body = format!(
        "<main class=\"front\"><h1>{}</h1>\
         <div class=\"search\"><input id=\"search\" type=\"search\" placeholder=\"Find a name: freeze\" aria-label=\"Find a name\" \
         autocomplete=\"off\"><ol id=\"found\"></ol><noscript><p>Search needs JavaScript; <a href=\"names/a.html\">the list of all \
         names</a> does not.</p></noscript></div>{introduction}<p><a href=\"names/a.html\">All names, by letter</a></p>\
         <div class=\"chapters\">{chapters}</div><h2>Every other module</h2><div class=\"others\">{others}</ul></div></main>\
         <script src=\"search.js\" data-up=\"../\" defer></script>",
        escape(title.trim_start_matches("# "))
    );
    framed("brant: source tour", "../", "Source tour", &body)
}

/// Markdown of `docs/tour.md`, whose links lead to pages of the tour and of the guide.
fn linked(tour: &Tour, text: &str) -> String {
    let text = text.replace("](ARCHITECTURE.md", "](../guide/ARCHITECTURE.html");
    let mut moved = String::new();
    for (number, part) in text.split("](../").enumerate() {
        match (number, part.split_once(')')) {
            (0, _) | (_, None) => moved.push_str(part),
            (_, Some((path, rest))) if path.ends_with(".rs") => {
                let _ = write!(moved, "]({path}.html){rest}");
            }
            (_, Some((path, rest))) => {
                let _ = write!(moved, "](../{path}){rest}");
            }
        }
    }
    explanation(tour, 0, &moved)
}

/// Items and modules: `[name, kind, page, line, words]`, pages by number.
fn search_index(tour: &Tour) -> String {
    let mut entries = Vec::new();
    for (name, places) in tour.names.all() {
        for (at, what) in places {
            let page = &tour.pages[at.page];
            let section =
                page.sections.iter().find(|section| (section.first..=section.last).contains(&(at.line + 1)));
            let words =
                section.filter(|section| section.title == name).map(|section| section.explanation.as_str());
            let words = words.unwrap_or_default().split("\n\n").next().unwrap_or_default().replace('\n', " ");
            let words: String = words.chars().take(140).collect();
            let rank = usize::from(tour.stops.position(&page.path).is_none());
            entries.push(json!([name, what.word(), at.page, at.line + 1, words, rank]));
        }
    }
    let pages: Vec<_> = tour.pages.iter().map(|page| json!([page.path, page.title()])).collect();
    format!("brantTour({});\n", json!({ "pages": pages, "names": entries }))
}
