//! From every name to where it is defined, and from there back to its uses.

use std::collections::{BTreeMap, HashMap};

use super::Page;
use super::items::Items;
use super::names::{At, Names, What};
use super::source::Token;

/// Where a token leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Link {
    /// To a definition. `by_name` where nothing but the name says so.
    Definition { at: At, by_name: bool },
    /// To a line without a token of that name: a module, a macro's result.
    Line { page: usize, line: usize },
    /// To the list of all definitions of that name: there are several, and rustdoc does not say which.
    Several,
    /// Out of the workspace.
    Away(String),
}

/// How many names lead somewhere, and how that is known.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) definitions: usize,
    pub(crate) resolved: usize,
    pub(crate) by_name: usize,
    pub(crate) several: usize,
    pub(crate) unlinked: usize,
}

/// All links of all pages.
pub(crate) struct Links {
    links: HashMap<At, Link>,
    uses: HashMap<At, BTreeMap<usize, Vec<usize>>>,
    unlinked: Vec<At>,
    pub(crate) counts: Counts,
}

impl Links {
    /// Looks at every token of every page.
    pub(crate) fn find(pages: &[Page], items: &Items, names: &Names) -> Links {
        let by_rustdoc: HashMap<&str, usize> =
            pages.iter().enumerate().map(|(at, page)| (page.rustdoc.as_str(), at)).collect();
        let mut links = Links {
            links: HashMap::new(),
            uses: HashMap::new(),
            unlinked: Vec::new(),
            counts: Counts::default(),
        };
        for (number, page) in pages.iter().enumerate() {
            for (line, tokens) in page.lines.iter().enumerate() {
                for (token, found) in tokens.iter().enumerate() {
                    // These name nothing that has a place of its own.
                    if !found.is_name()
                        || found.href.is_none() && ["self", "super"].contains(&found.text.as_str())
                    {
                        continue;
                    }
                    let at = At { page: number, line, token };
                    let link = match &found.href {
                        Some(href) => by_rustdoc_link(pages, items, names, &by_rustdoc, at, found, href),
                        None => by_name(names, at, tokens),
                    };
                    links.add(names, at, link);
                }
            }
        }
        links.look_back(pages);
        // A local name is known as one by its uses.
        links.unlinked.retain(|at| !links.uses.contains_key(at));
        links.counts.unlinked = links.unlinked.len();
        links
    }

    fn add(&mut self, names: &Names, at: At, link: Option<Link>) {
        let is_definition = names.defined(at).is_some();
        match &link {
            Some(Link::Definition { at: definition, .. }) if *definition == at => {
                self.counts.definitions += 1;
                return;
            }
            _ if is_definition => {
                self.counts.definitions += 1;
                return;
            }
            Some(Link::Definition { at: definition, by_name }) => {
                let lines = self.uses.entry(*definition).or_default().entry(at.page).or_default();
                if lines.last() != Some(&at.line) {
                    lines.push(at.line);
                }
                *(if *by_name { &mut self.counts.by_name } else { &mut self.counts.resolved }) += 1;
            }
            Some(Link::Line { .. } | Link::Away(_)) => self.counts.resolved += 1,
            Some(Link::Several) => self.counts.several += 1,
            None => self.unlinked.push(at),
        }
        if let Some(link) = link {
            self.links.insert(at, link);
        }
    }

    /// Within macros rustdoc knows no names: one that was a local name just before is that.
    fn look_back(&mut self, pages: &[Page]) {
        const LINES_MAX: usize = 80;
        let mut found = Vec::new();
        for at in &self.unlinked {
            let lines = &pages[at.page].lines;
            let name = &lines[at.line][at.token].text;
            let is_free =
                lines[at.line][..at.token].last().is_none_or(|before| !before.text.ends_with(['.', ':']));
            let before = (at.line.saturating_sub(LINES_MAX)..at.line).rev().filter(|_| is_free);
            let local = before
                .flat_map(|line| (0..lines[line].len()).map(move |token| At { page: at.page, line, token }));
            let local = local.filter(|other| lines[other.line][other.token].text == *name).find_map(
                |other| match self.links.get(&other) {
                    Some(Link::Definition { at: definition, by_name: false })
                        if definition.page == at.page =>
                    {
                        Some(*definition)
                    }
                    _ => self.uses.contains_key(&other).then_some(other),
                },
            );
            found.extend(local.map(|definition| (*at, definition)));
        }
        for (at, definition) in found {
            self.links.insert(at, Link::Definition { at: definition, by_name: true });
            let lines = self.uses.entry(definition).or_default().entry(at.page).or_default();
            lines.push(at.line);
            lines.sort_unstable();
            lines.dedup();
            self.counts.by_name += 1;
        }
        let links = &self.links;
        self.unlinked.retain(|at| !links.contains_key(at));
    }

    pub(crate) fn of(&self, at: At) -> Option<&Link> {
        self.links.get(&at)
    }

    /// Who uses what is defined at a token: lines by page.
    pub(crate) fn uses(&self, at: At) -> Option<&BTreeMap<usize, Vec<usize>>> {
        self.uses.get(&at)
    }
}

/// By what the compiler told rustdoc.
fn by_rustdoc_link(
    pages: &[Page],
    items: &Items,
    names: &Names,
    by_rustdoc: &HashMap<&str, usize>,
    at: At,
    token: &Token,
    href: &str,
) -> Option<Link> {
    let Some((page, first, last)) = items.place(&pages[at.page].rustdoc, href) else {
        return href.contains("://").then(|| Link::Away(href.to_owned()));
    };
    let page = *by_rustdoc.get(page.as_str())?;
    let lines = &pages[page].lines;
    let first = first.checked_sub(1).filter(|first| *first < lines.len())?;
    if token.class == "self" {
        return Some(Link::Line { page, line: first });
    }
    let mut fallback = None;
    for (line, tokens) in lines.iter().enumerate().take(last).skip(first) {
        for (number, found) in tokens.iter().enumerate() {
            if !found.is_name() || found.text != token.text {
                continue;
            }
            let found = At { page, line, token: number };
            if names.defined(found).is_some() {
                return Some(Link::Definition { at: found, by_name: false });
            }
            fallback.get_or_insert(found);
        }
        // A local name is defined on the line that the link says; an item's lines are looked through for variants.
        if fallback.is_some() && first + 1 == last {
            break;
        }
    }
    let found = fallback.map(|at| Link::Definition { at, by_name: false });
    Some(found.unwrap_or(Link::Line { page, line: first }))
}

/// By the name alone, where what is around it says of which kind it is.
fn by_name(names: &Names, at: At, tokens: &[Token]) -> Option<Link> {
    let token = &tokens[at.token];
    let before = tokens[..at.token].last().map_or("", |token| token.text.as_str());
    let after = tokens.get(at.token + 1).map_or("", |token| token.text.as_str());
    let is_alone = before.trim_end().ends_with(['{', ',']) || before.trim().is_empty();
    let kinds: &[What] = if before.ends_with('.') && !before.ends_with("..") {
        if after.starts_with('(') || after.starts_with("::<") { &[What::Function] } else { &[What::Field] }
    } else if after.starts_with("::") {
        &[What::Module, What::Type]
    } else if after.starts_with(": ") && is_alone {
        &[What::Field]
    } else if token.text.starts_with(char::is_uppercase) {
        &[What::Type, What::Variant, What::Value]
    } else {
        return None;
    };
    let found = names.find(&token.text, kinds);
    let near: Vec<&At> = found.iter().filter(|found| found.page == at.page).collect();
    match (near.as_slice(), found.as_slice()) {
        ([one], _) => Some(definition(**one)),
        ([], [one]) => Some(definition(*one)),
        (_, []) => None,
        _ => Some(Link::Several),
    }
}

fn definition(at: At) -> Link {
    match at.token {
        usize::MAX => Link::Line { page: at.page, line: at.line },
        _ => Link::Definition { at, by_name: true },
    }
}
