//! What rustdoc has made: its pages in the site, and which of them show which source.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Puts rustdoc's pages into the site, as they are.
pub(crate) fn place(from: &Path, to: &Path) -> Result<(), String> {
    copy(from, to).map_err(|error| format!("{}: {error}", from.display()))?;
    // The list of crates: rustdoc itself makes one only with an option of its own for all crates at once.
    let entries = fs::read_dir(to).map_err(|error| format!("{}: {error}", to.display()))?;
    let is_crate = |name: &String| to.join(name).join("index.html").is_file() && name != "src";
    let mut crates: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(is_crate)
        .collect();
    crates.sort();
    let line = |name: &String| {
        let page = fs::read_to_string(to.join(name).join("index.html")).unwrap_or_default();
        let about =
            page.split_once("name=\"description\" content=\"").and_then(|(_, rest)| rest.split_once('"'));
        let about = about.map_or("", |(about, _)| about);
        format!("<li><a href=\"{name}/index.html\"><code>{name}</code></a> <span>{about}</span></li>")
    };
    let list: String = crates.iter().map(line).collect();
    let body = format!(
        "<main class=\"landing\"><h1>All crates</h1><p>As rustdoc sees them, private items too. Each source line's names lead to where \
         they are defined. brant-connect-c is not here, as its library has the name of brant-connect; its functions are those of \
         <code>include/brant/connect.h</code>.</p><ul class=\"crates\">{list}</ul></main>"
    );
    fs::write(to.join("index.html"), crate::html::page("brant: API", "../", "API", &body))
        .map_err(|error| format!("{}: {error}", to.display()))
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let into = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &into)?;
        } else if entry.file_name() != ".lock" {
            // A link is as good as a copy, and quick, where both are on one file system.
            fs::hard_link(entry.path(), &into).or_else(|_| fs::copy(entry.path(), &into).map(drop))?;
        }
    }
    Ok(())
}

/// For each source of the workspace that rustdoc shows, its page from the site's root.
pub(crate) fn source_pages(root: &Path, site: &Path) -> Result<BTreeMap<String, String>, String> {
    let mut pages = BTreeMap::new();
    let entries = fs::read_dir(root.join("crates")).map_err(|error| format!("crates: {error}"))?;
    for folder in entries.flatten() {
        let folder = folder.file_name().to_string_lossy().into_owned();
        let prefix = if folder == "brant" {
            "brant".to_owned()
        } else {
            format!("brant_{}", folder.replace('-', "_"))
        };
        add(root, site, &format!("crates/{folder}/src"), &format!("api/src/{prefix}"), &mut pages);
    }
    Ok(pages)
}

fn add(root: &Path, site: &Path, source: &str, page: &str, pages: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(root.join(source)).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let (source, shown) = (format!("{source}/{name}"), format!("{page}/{name}"));
        if entry.path().is_dir() {
            add(root, site, &source, &shown, pages);
        } else if site.join(format!("{shown}.html")).is_file() {
            pages.insert(source, format!("{shown}.html"));
        }
    }
}
