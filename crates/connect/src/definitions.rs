//! Definition files: the path of one, or a name that is looked for.
//!
//! `NAME` is `NAME.wrap` in `$XDG_CONFIG_HOME/brant/wrappers` (or `~/.config/...`), then in `/etc/brant/wrappers`. A relative
//! path of an implementation starts at the definition's folder.

use std::path::{Path, PathBuf};

use brant_definition::Convention;

use crate::Wrapper;
use crate::error::Error;

const ENDING: &str = "wrap";
const SYSTEM_FOLDER: &str = "/etc/brant/wrappers";

/// The folders that are searched, the user's first.
pub fn folders() -> Vec<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let own = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
    own.map(|config| config.join("brant/wrappers"))
        .into_iter()
        .chain([PathBuf::from(SYSTEM_FOLDER)])
        .collect()
}

/// Every definition file in the folders.
pub fn all() -> Vec<PathBuf> {
    let files = |folder: PathBuf| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> =
            entries.map(|entry| entry.path()).filter(|path| is_definition(path)).collect();
        files.sort();
        files
    };
    folders().into_iter().flat_map(files).collect()
}

fn is_definition(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == ENDING)
}

/// Finds and reads what a user named.
pub fn find(text: &str) -> Result<Wrapper, Error> {
    let path = locate(text)?;
    let shown = path.display().to_string();
    let source = std::fs::read(&path).map_err(|error| Error::NoDefinition { path: shown.clone(), error })?;
    let definition =
        brant_definition::parse(&source, Convention::SysV).map_err(|errors| Error::Definition {
            code: errors.iter().next().map_or("B-1102", |first| first.code()),
            text: errors.render(&shown, &source),
            path: shown.clone(),
        })?;
    let wanted = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let chosen = match definition.wrappers.as_slice() {
        [only] => only,
        several => several.iter().find(|wrapper| wrapper.name.as_str() == wanted).ok_or_else(|| {
            let names: Vec<&str> = several.iter().map(|wrapper| wrapper.name.as_str()).collect();
            Error::SeveralWrappers { path: shown.clone(), names: names.join(", ") }
        })?,
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let implementation = folder.join(chosen.implementation.as_str());
    let found = implementation
        .canonicalize()
        .map_err(|error| Error::NoDefinition { path: implementation.display().to_string(), error })?;
    Wrapper::new(chosen, found)
}

fn locate(text: &str) -> Result<PathBuf, Error> {
    if text.contains('/') || is_definition(Path::new(text)) {
        return Ok(PathBuf::from(text));
    }
    let candidates = folders().into_iter().map(|folder| folder.join(format!("{text}.{ENDING}")));
    candidates.into_iter().find(|path| path.is_file()).ok_or_else(|| Error::NoSuchName {
        name: text.escape_debug().to_string(),
        folders: folders().iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(" or "),
    })
}
