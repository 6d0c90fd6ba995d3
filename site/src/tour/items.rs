//! Where rustdoc's pages say that their items are defined, and how a relative address becomes one from the root.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A place in a source page: the page from rustdoc's root, and the first and last line.
pub(crate) type Place = (String, usize, usize);

/// rustdoc's item pages, read as they are asked for.
pub(crate) struct Items {
    root: PathBuf,
    pages: RefCell<HashMap<String, HashMap<String, Place>>>,
}

impl Items {
    pub(crate) fn new(root: &Path) -> Items {
        Items { root: root.to_owned(), pages: RefCell::default() }
    }

    /// Where a link of a page leads in the sources. `None` for what is elsewhere, as the standard library.
    pub(crate) fn place(&self, page: &str, href: &str) -> Option<Place> {
        if href.contains("://") {
            return None;
        }
        let (path, fragment) = href.split_once('#').unwrap_or((href, ""));
        let target = if path.is_empty() { page.to_owned() } else { resolved(page, path)? };
        if target.starts_with("src/") {
            let (first, last) = fragment.split_once('-').unwrap_or((fragment, fragment));
            return Some((target, first.parse().ok()?, last.parse().ok()?));
        }
        let mut pages = self.pages.borrow_mut();
        let known = pages.entry(target.clone()).or_insert_with(|| {
            let text = std::fs::read_to_string(self.root.join(&target)).unwrap_or_default();
            places(&target, &text)
        });
        // A variant or a field has no place of its own there: it is within its item's.
        known.get(fragment).or_else(|| known.get("")).cloned()
    }
}

/// The places that a page names: that of its item under an empty name, others by their ids.
fn places(page: &str, text: &str) -> HashMap<String, Place> {
    let mut places = HashMap::new();
    let mut rest = text;
    let mut id = String::new();
    // The first source link is the item's; those below belong to the id before them.
    while let Some((mark, after)) = next_mark(rest) {
        match mark {
            Mark::Id(name) => id = name.to_owned(),
            Mark::Source(href) => {
                if let Some(place) = source(page, href) {
                    if places.is_empty() {
                        places.insert(String::new(), place.clone());
                    }
                    places.entry(id.clone()).or_insert(place);
                }
            }
        }
        rest = after;
    }
    places
}

enum Mark<'a> {
    Id(&'a str),
    Source(&'a str),
}

/// The next id of a section or source link, and what follows it.
fn next_mark(text: &str) -> Option<(Mark<'_>, &str)> {
    const SECTION: &str = "<section id=\"";
    const SOURCE: &str = "<a class=\"src";
    let section = text.find(SECTION).map(|at| (at, true));
    let source = text.find(SOURCE).map(|at| (at, false));
    let (at, is_section) = match (section, source) {
        (Some(a), Some(b)) => a.min(b),
        (a, b) => a.or(b)?,
    };
    if is_section {
        let (name, after) = text[at + SECTION.len()..].split_once('"')?;
        return Some((Mark::Id(name), after));
    }
    let (href, after) = text[at..].split_once("href=\"")?.1.split_once('"')?;
    Some((Mark::Source(href), after))
}

fn source(page: &str, href: &str) -> Option<Place> {
    let (path, fragment) = href.split_once('#')?;
    let (first, last) = fragment.split_once('-').unwrap_or((fragment, fragment));
    Some((resolved(page, path)?, first.parse().ok()?, last.parse().ok()?))
}

/// A relative address on a page as one from the root.
fn resolved(page: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            ".." => drop(parts.pop()?),
            "." | "" => {}
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_an_item_and_its_methods() {
        let page = "<h1>Struct</h1><a class=\"src\" href=\"../src/a/b.rs.html#3-9\">Source</a>\
            <section id=\"method.go\" class=\"x\"><a class=\"src rightside\" href=\"../src/a/b.rs.html#12\">Source</a>";
        let places = places("a/struct.B.html", page);
        assert_eq!(places[""], ("src/a/b.rs.html".to_owned(), 3, 9));
        assert_eq!(places["method.go"], ("src/a/b.rs.html".to_owned(), 12, 12));
    }

    #[test]
    fn addresses_from_the_root() {
        assert_eq!(resolved("src/a/b/c.rs.html", "../d.rs.html").as_deref(), Some("src/a/d.rs.html"));
        assert_eq!(resolved("a.html", "../b"), None);
    }
}
