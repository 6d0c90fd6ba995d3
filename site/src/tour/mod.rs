//! The source tour: each module's real source in sections, with the explanation beside each, every name a link.
//!
//! What a name means comes from rustdoc's source pages (`--generate-link-to-definition`), that is, from the compiler; the way back,
//! from a definition to its uses, from all of them together. rust-analyzer's libraries would need the standard library's sources,
//! which the toolchain here lacks, and several times the build time.

mod index;
mod items;
mod links;
mod names;
mod render;
mod source;
mod uses;

use std::collections::BTreeMap;
use std::path::Path;

use links::Links;
use names::Names;
use sections::{Kind, Section, sections};
use source::Token;

/// A source with what is known of it.
pub(crate) struct Page {
    /// From the repository's root.
    pub(crate) path: String,
    /// rustdoc's page of it, from rustdoc's root; empty for what is built for another system.
    rustdoc: String,
    lines: Vec<Vec<Token>>,
    sections: Vec<Section>,
}

impl Page {
    /// `kernel::remote::thunk`.
    fn title(&self) -> String {
        let path = self.path.trim_start_matches("crates/").replacen("/src/", "::", 1);
        let path = path.trim_end_matches(".rs").replace('/', "::");
        path.trim_end_matches("::mod").trim_end_matches("::lib").trim_end_matches("::main").to_owned()
    }

    /// What the module says of itself in its first sentence.
    fn about(&self) -> &str {
        let module = self.sections.iter().find(|section| section.kind == Kind::Module);
        let text = module.map_or("", |section| section.explanation.as_str());
        text.split("\n\n").next().unwrap_or("")
    }
}

/// The stops in order, as `docs/tour.md` names them: chapter and path.
pub(crate) struct Stops(Vec<(String, String)>);

impl Stops {
    fn read(text: &str) -> Stops {
        let mut chapter = String::new();
        let mut stops = Vec::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("## ") {
                chapter = name.to_owned();
            } else if let Some((path, _)) =
                line.split_once("](../").and_then(|(_, rest)| rest.split_once(')'))
            {
                stops.push((chapter.clone(), path.to_owned()));
            }
        }
        Stops(stops)
    }

    fn position(&self, path: &str) -> Option<usize> {
        self.0.iter().position(|(_, stop)| stop == path)
    }
}

/// Everything that the pages are made of.
struct Tour {
    pages: Vec<Page>,
    names: Names,
    links: Links,
    stops: Stops,
}

/// The sources of the Windows part's own workspace, which rustdoc here cannot be run on.
pub(crate) fn of_windows(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Vec<String> = ["agent", "control"].map(|part| format!("windows/{part}/src")).to_vec();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(root.join(&folder)).into_iter().flatten().flatten() {
            let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                open.push(path);
            } else if path.ends_with(".rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Builds the tour into `site/tour`; `sources` are rustdoc's source pages, from the site's root. Gives what is to be said of it.
pub(crate) fn build(root: &Path, site: &Path, sources: &BTreeMap<String, String>) -> Result<String, String> {
    let fault = |path: &str| {
        let path = path.to_owned();
        move |error: std::io::Error| format!("{path}: {error}")
    };
    let mut pages = Vec::new();
    for (path, shown) in sources {
        let text = std::fs::read_to_string(site.join(shown)).map_err(fault(shown))?;
        let source = std::fs::read_to_string(root.join(path)).map_err(fault(path))?;
        let lines = source::lines(&text).ok_or_else(|| format!("{shown} is no source page of rustdoc's"))?;
        if lines.len() != source.lines().count() {
            return Err(format!("{path} has changed since rustdoc ran"));
        }
        let rustdoc = shown.trim_start_matches("api/").to_owned();
        pages.push(Page { path: path.clone(), rustdoc, lines, sections: sections(&source) });
    }
    for path in of_windows(root) {
        let source = std::fs::read_to_string(root.join(&path)).map_err(fault(&path))?;
        let lines = source::plain(&source);
        pages.push(Page { path, rustdoc: String::new(), lines, sections: sections(&source) });
    }
    let mut names = Names::default();
    for (number, page) in pages.iter().enumerate() {
        names.add(number, &page.lines);
        let title = page.title();
        names.add_module(title.rsplit("::").next().unwrap_or(&title), number);
        if let Some((name, "src/lib.rs")) = page.path.trim_start_matches("crates/").split_once('/') {
            names.add_module(&format!("brant_{}", name.replace('-', "_")), number);
        }
    }
    let items = items::Items::new(&site.join("api"));
    let links = Links::find(&pages, &items, &names);
    let text = std::fs::read_to_string(root.join("docs/tour.md")).map_err(fault("docs/tour.md"))?;
    let tour = Tour { pages, names, links, stops: Stops::read(&text) };
    for (number, page) in tour.pages.iter().enumerate() {
        let write = |name: String, text: String| {
            let to = site.join("tour").join(&name);
            std::fs::create_dir_all(to.parent().unwrap_or(site)).map_err(fault(&name))?;
            std::fs::write(&to, text).map_err(fault(&name))
        };
        write(format!("{}.html", page.path), render::page(&tour, number))?;
        write(format!("{}.uses.html", page.path), uses::page(&tour, number))?;
    }
    index::build(&tour, &text, site)?;
    let counts = tour.links.counts;
    let names = counts.resolved + counts.by_name + counts.several + counts.unlinked;
    Ok(format!(
        "{} modules, {} of them on the tour; of {names} names {} % lead to their definition by the compiler's word, {} % by their name, \
         {} % to several of that name; the others are of crates that are not documented here, or words within macros",
        tour.pages.len(),
        tour.stops.0.len(),
        100 * counts.resolved / names.max(1),
        100 * counts.by_name / names.max(1),
        100 * counts.several / names.max(1),
    ))
}
