//! Files of the repository that documents lead to and that are no pages of their own: definitions, headers, fixtures.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::html::{escape, page};

/// Those that were asked for.
pub(crate) struct Plain {
    root: PathBuf,
    asked: RefCell<BTreeSet<String>>,
}

impl Plain {
    pub(crate) fn new(root: &Path) -> Plain {
        Plain { root: root.to_owned(), asked: RefCell::default() }
    }

    /// The page of a file, from the site's root, if there is such a file.
    pub(crate) fn page(&self, path: &str) -> Option<String> {
        if path.is_empty() || path.starts_with('/') || !self.root.join(path).is_file() {
            return None;
        }
        self.asked.borrow_mut().insert(path.to_owned());
        Some(format!("files/{path}.html"))
    }

    /// Writes the pages of all that were asked for.
    pub(crate) fn build(&self, site: &Path) -> Result<(), String> {
        for path in self.asked.borrow().iter() {
            let fault = |error: std::io::Error| format!("{path}: {error}");
            let text = std::fs::read(self.root.join(path)).map_err(fault)?;
            let up = "../".repeat(path.matches('/').count() + 1);
            let body = format!(
                "<main class=\"plain\"><h1><code>{}</code></h1><pre>{}</pre></main>",
                escape(path),
                escape(&String::from_utf8_lossy(&text))
            );
            let to = site.join("files").join(format!("{path}.html"));
            std::fs::create_dir_all(to.parent().unwrap_or(site)).map_err(fault)?;
            std::fs::write(&to, page(path, &up, "", &body)).map_err(fault)?;
        }
        Ok(())
    }
}
