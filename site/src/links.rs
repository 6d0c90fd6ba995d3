//! Whether every link within the site leads somewhere: to a file that is there and, where it says so, to a place in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use crate::html::unescape;

/// What was found.
pub(crate) struct Checked {
    pub(crate) pages: usize,
    pub(crate) links: usize,
    /// `PAGE: HREF leads nowhere`, one for each pair.
    pub(crate) broken: Vec<String>,
}

/// Looks at every page below `site`.
pub(crate) fn check(site: &Path) -> Result<Checked, String> {
    let mut files = BTreeSet::new();
    collect(site, &mut files)?;
    let mut anchors: BTreeMap<PathBuf, BTreeSet<String>> = BTreeMap::new();
    let mut asked: BTreeSet<(PathBuf, String)> = BTreeSet::new();
    let mut checked = Checked { pages: 0, links: 0, broken: Vec::new() };
    for page in files.iter().filter(|file| file.extension().is_some_and(|ending| ending == "html")) {
        let text = std::fs::read_to_string(page).map_err(|error| format!("{}: {error}", page.display()))?;
        checked.pages += 1;
        // What a script sets together is no link.
        let text = without_scripts(&text);
        anchors.insert(
            page.clone(),
            attributes(&text, "id").chain(attributes(&text, "name")).map(unescape_owned).collect(),
        );
        for link in attributes(&text, "href").chain(attributes(&text, "src")) {
            checked.links += 1;
            if !leads_away(link) {
                asked.insert((page.clone(), unescape(link)));
            }
        }
    }
    for (page, link) in asked {
        let (path, fragment) = link.split_once('#').unwrap_or((&link, ""));
        let path = path.split('?').next().unwrap_or_default();
        let target = if path.is_empty() { page.clone() } else { joined(&page, &percent_decoded(path)) };
        let target = if files.contains(&target) { target } else { target.join("index.html") };
        let is_there = files.contains(&target);
        let is_page = anchors.get(&target);
        // A range of lines (`#3-5`) is marked by rustdoc's script; its first line is there.
        let has_place = |places: &BTreeSet<String>| {
            // As a browser does: as it is, else decoded.
            let is_there = places.contains(fragment) || places.contains(&percent_decoded(fragment));
            is_there || fragment.split_once('-').is_some_and(|(first, _)| places.contains(first))
        };
        if !is_there || (!fragment.is_empty() && is_page.is_some_and(|places| !has_place(places))) {
            let page = page.strip_prefix(site).unwrap_or(&page);
            checked.broken.push(format!("{}: {link} leads nowhere", page.display()));
        }
    }
    Ok(checked)
}

fn unescape_owned(text: &str) -> String {
    unescape(text)
}

/// To another site, or to nothing that is a file.
fn leads_away(link: &str) -> bool {
    ["http:", "https:", "data:", "mailto:", "javascript:"].iter().any(|scheme| link.starts_with(scheme))
}

/// The values of an attribute in a page's tags, quoted or (as rustdoc writes them) not.
fn attributes<'a>(text: &'a str, name: &'static str) -> impl Iterator<Item = &'a str> {
    // What stands between tags is text: source code may hold anything.
    let tags = text.split('<').skip(1).map(|rest| rest.split('>').next().unwrap_or(rest));
    tags.flat_map(move |tag| {
        tag.match_indices(name).filter_map(move |(at, _)| {
            let before = tag[..at].chars().next_back();
            let value = tag[at + name.len()..].strip_prefix('=')?;
            if !before.is_some_and(char::is_whitespace) {
                return None;
            }
            match value.chars().next()? {
                quote @ ('"' | '\'') => value[1..].split(quote).next(),
                _ => value.split([' ', '\n']).next(),
            }
        })
    })
}

fn without_scripts(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("<script") {
        out.push_str(before);
        // The opening tag may name a file, which must be there.
        let (tag, body) = after.split_once('>').unwrap_or((after, ""));
        out.push_str(&format!("<script{tag}>"));
        rest = body.split_once("</script>").map_or("", |(_, rest)| rest);
    }
    out + rest
}

fn joined(page: &Path, path: &str) -> PathBuf {
    let mut target = page.parent().unwrap_or(Path::new("")).to_owned();
    for part in Path::new(path).components() {
        match part {
            Component::ParentDir => {
                target.pop();
            }
            Component::Normal(part) => target.push(part),
            _ => {}
        }
    }
    target
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let code = (*first == b'%').then(|| after.get(..2)).flatten();
        let code = code.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn collect(folder: &Path, files: &mut BTreeSet<PathBuf>) -> Result<(), String> {
    let entries = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for entry in entries.flatten() {
        if entry.path().is_dir() {
            collect(&entry.path(), files)?;
        } else {
            files.insert(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_links_are_found_and_whole_ones_are_not() {
        let site = std::env::temp_dir().join(format!("brant-site-links-{}", std::process::id()));
        std::fs::create_dir_all(site.join("a")).unwrap();
        std::fs::write(site.join("a/b c.html"), "<p id=here><a href='../index.html#top'>x</a>").unwrap();
        std::fs::write(
            site.join("index.html"),
            "<h1 id=\"top\"><a href=\"a/b%20c.html#here\">1</a><a href=\"#top-9\">2</a><a href=\"https://x/y\">3</a>\
             <a href=\"a/b%20c.html#gone\">4</a><a href=\"gone.html\">5</a><script>href=\"no\"</script>\
             <script src=\"gone.js\"></script><code>a href=\"text\"</code>",
        )
        .unwrap();
        let checked = check(&site).unwrap();
        std::fs::remove_dir_all(&site).unwrap();
        assert_eq!(checked.pages, 2);
        assert_eq!(
            checked.broken,
            [
                "index.html: a/b%20c.html#gone leads nowhere",
                "index.html: gone.html leads nowhere",
                "index.html: gone.js leads nowhere",
            ]
        );
    }
}
