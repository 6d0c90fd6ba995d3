//! The guide: the documents of `docs/guide` and `docs`, put into one folder with links that fit, and made a book by mdBook.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mdbook_driver::MDBook;
use mdbook_driver::config::Config;

use crate::markdown::{Places, relative, rewrite};
use crate::plain::Plain;
use crate::reference::Reference;

/// Folders of the repository whose documents are pages, and where in the guide they stand.
const FOLDERS: [(&str, &str); 3] = [("docs/guide", ""), ("docs", ""), ("docs/decisions", "decisions/")];

/// The index of the tour is no page of the guide.
const TOUR: &str = "docs/tour.md";

/// Which file of the repository is which page.
pub(crate) struct Pages {
    /// From the path in the repository to that in the guide, `format.md`.
    of_documents: BTreeMap<String, String>,
    /// Sources that the tour has pages of, as `crates/base/src/id.rs`, with the page from the site's root.
    sources: BTreeMap<String, String>,
    plain: Plain,
}

impl Pages {
    /// Looks at the repository. `sources` are files with pages elsewhere in the site.
    pub(crate) fn find(root: &Path, sources: impl Iterator<Item = String>) -> Result<Pages, String> {
        let mut of_documents = BTreeMap::new();
        for (folder, prefix) in FOLDERS {
            let entries =
                std::fs::read_dir(root.join(folder)).map_err(|error| format!("{folder}: {error}"))?;
            for entry in entries.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.ends_with(".md") && format!("{folder}/{name}") != TOUR {
                    let page = format!("{prefix}{name}");
                    if of_documents.values().any(|other| *other == page) {
                        return Err(format!("two documents would be the page {page}"));
                    }
                    of_documents.insert(format!("{folder}/{name}"), page);
                }
            }
        }
        for made in ["commands.md", "support.md", "errors.md"] {
            of_documents.insert(format!("docs/guide/{made}"), made.to_owned());
        }
        let shown = sources.map(|path| (path.clone(), format!("tour/{path}.html")));
        let sources = shown.chain([(TOUR.to_owned(), "tour/index.html".to_owned())]).collect();
        Ok(Pages { of_documents, sources, plain: Plain::new(root) })
    }

    /// The address of a file of the repository as seen from a page of the guide.
    fn seen_from(&self, page: &str, path: &str) -> Option<String> {
        if let Some(to) = self.of_documents.get(path) {
            return Some(relative(page, to));
        }
        let elsewhere = self.sources.get(path).cloned().or_else(|| self.plain.page(path));
        elsewhere.map(|to| relative(&format!("guide/{page}"), &to))
    }
}

struct From<'a> {
    pages: &'a Pages,
    page: &'a str,
}

impl Places for From<'_> {
    fn address(&self, path: &str) -> Option<String> {
        self.pages.seen_from(self.page, path)
    }
}

/// Builds the guide into `site/guide`. What is wrong with the documents is given back.
pub(crate) fn build(
    root: &Path,
    stage: &Path,
    site: &Path,
    pages: &Pages,
    reference: &Reference,
) -> Result<Vec<String>, String> {
    let fault = |path: &Path| {
        let path = path.display().to_string();
        move |error: std::io::Error| format!("{path}: {error}")
    };
    let _ = std::fs::remove_dir_all(stage);
    let source = stage.join("src");
    std::fs::create_dir_all(source.join("decisions")).map_err(fault(&source))?;
    let mut faults = Vec::new();
    let mut place = |path: &str, page: &str, text: &str| {
        let (text, found) = rewrite(text, path, &From { pages, page });
        faults.extend(found);
        let to = source.join(page);
        std::fs::write(&to, text).map_err(fault(&to))
    };
    for (path, page) in &pages.of_documents {
        let from = root.join(path);
        match page.as_str() {
            "commands.md" => place(path, page, &reference.commands())?,
            "support.md" => place(path, page, &reference.support())?,
            "errors.md" => place(path, page, &reference.errors())?,
            _ => place(path, page, &std::fs::read_to_string(&from).map_err(fault(&from))?)?,
        }
    }
    complete_summary(&source, pages).map_err(fault(&source))?;
    dress(stage)?;
    let book = MDBook::load_with_config(stage, config(&site.join("guide"))?);
    book.and_then(|book| book.build()).map_err(|error| format!("mdBook: {error:#}"))?;
    pages.plain.build(site)?;
    Ok(faults)
}

/// Adds the documents that the summary does not name yet, by their first heading.
fn complete_summary(source: &Path, pages: &Pages) -> std::io::Result<()> {
    let path = source.join("SUMMARY.md");
    let mut summary = std::fs::read_to_string(&path)?;
    let is_missing = |page: &&String| *page != "SUMMARY.md" && !summary.contains(&format!("]({page})"));
    let missing: Vec<&String> = pages.of_documents.values().filter(is_missing).collect();
    if !missing.is_empty() {
        summary.push_str("\n# More\n\n");
    }
    for page in missing {
        let text = std::fs::read_to_string(source.join(page))?;
        let title = text.lines().find_map(|line| line.strip_prefix("# ")).unwrap_or(page);
        summary.push_str(&format!("- [{title}]({page})\n"));
    }
    std::fs::write(&path, summary)
}

/// The bar on every page, and the colours.
fn dress(stage: &Path) -> Result<(), String> {
    let theme = stage.join("theme");
    let write = |path: PathBuf, text: &str| {
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    };
    std::fs::create_dir_all(&theme).map_err(|error| format!("{}: {error}", theme.display()))?;
    write(
        theme.join("header.hbs"),
        "<header class=\"bar\"><a class=\"home\" href=\"{{ path_to_root }}../index.html\">brant</a><nav>\
         <a href=\"{{ path_to_root }}index.html\" aria-current=\"true\">Guide</a>\
         <a href=\"{{ path_to_root }}../tour/index.html\">Source tour</a>\
         <a href=\"{{ path_to_root }}../api/index.html\">API</a></nav></header>\n",
    )?;
    write(theme.join("favicon.svg"), include_str!("../assets/brant.svg"))?;
    write(stage.join("shared.css"), include_str!("../assets/shared.css"))?;
    write(stage.join("guide.css"), include_str!("../assets/guide.css"))
}

fn config(destination: &Path) -> Result<Config, String> {
    let destination = destination.display().to_string();
    let text = format!(
        "[book]\ntitle = \"brant\"\nlanguage = \"en\"\n\
         [build]\nbuild-dir = {destination:?}\ncreate-missing = false\n\
         [output.html]\ndefault-theme = \"light\"\npreferred-dark-theme = \"navy\"\nno-section-label = true\n\
         additional-css = [\"shared.css\", \"guide.css\"]\n\
         [output.html.print]\nenable = false\n\
         [output.html.search]\nlimit-results = 20\n"
    );
    text.parse().map_err(|error| format!("mdBook's configuration: {error}"))
}
