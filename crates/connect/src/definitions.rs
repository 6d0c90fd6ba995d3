//! Definition files: the path of one, or a name that is looked for, and options behind a colon.
//!
//! `NAME` is `NAME.wrap` in `$XDG_CONFIG_HOME/brant/wrappers` (or `~/.config/...`), then in `/etc/brant/wrappers`, then a
//! wrapper that ships. A relative path of an implementation starts at the definition's folder; `brant:NAME` is the
//! implementation of a wrapper that ships.

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

/// A definition that was found.
struct Found {
    /// For messages.
    shown: String,
    source: Vec<u8>,
    /// The file; nothing where it ships.
    path: Option<PathBuf>,
    /// The wrapper that is meant where the file defines several.
    stem: String,
}

/// Options of a wrapper.
#[derive(Clone, Copy)]
enum Options<'a> {
    /// As a user typed them.
    Typed(&'a str),
    /// As the implementation gets them.
    Checked(&'a [u8]),
}

impl Found {
    fn shipped(shipped: &brant_wrappers::Shipped) -> Found {
        Found {
            shown: format!("{}.{ENDING}", shipped.name),
            source: shipped.definition.into(),
            path: None,
            stem: shipped.name.into(),
        }
    }
}

/// Finds and reads what a user named: `NAME`, `./PATH.wrap`, `NAME:OPTIONS`.
pub fn find(text: &str) -> Result<Wrapper, Error> {
    let (name, options) = split(text);
    load(read(name)?, Options::Typed(options))
}

/// The wrapper that ships under this name, whatever the folders have.
pub fn shipped(name: &str, options: &str) -> Result<Wrapper, Error> {
    let shipped = brant_wrappers::find(name)
        .ok_or_else(|| Error::NoSuchName { name: name.to_owned(), folders: "brant itself".into() })?;
    load(Found::shipped(shipped), Options::Typed(options))
}

/// Reads a definition once more, by what [`Wrapper::definition`] says, for a wrapper with these [`Wrapper::options`].
pub fn again(definition: &str, options: &[u8]) -> Result<Wrapper, Error> {
    load(read(definition)?, Options::Checked(options))
}

fn load(found: Found, options: Options<'_>) -> Result<Wrapper, Error> {
    let shown = &found.shown;
    let definition =
        brant_definition::parse(&found.source, Convention::SysV).map_err(|errors| Error::Definition {
            code: errors.iter().next().map_or("B-1102", |first| first.code()),
            text: errors.render(shown, &found.source),
            path: shown.clone(),
        })?;
    let chosen = match definition.wrappers.as_slice() {
        [only] => only,
        several => several.iter().find(|wrapper| wrapper.name.as_str() == found.stem).ok_or_else(|| {
            let names: Vec<&str> = several.iter().map(|wrapper| wrapper.name.as_str()).collect();
            Error::SeveralWrappers { path: shown.clone(), names: names.join(", ") }
        })?,
    };
    let text = chosen.implementation.as_str();
    let mut wrapper = match text.strip_prefix(brant_wrappers::IMPLEMENTATION) {
        Some(shipped) => {
            let path = PathBuf::from(format!("/memfd:brant-wrapper-{shipped}"));
            let mut wrapper = Wrapper::new(chosen, path)?;
            wrapper.carried = Some(brant_wrappers::LIBRARY);
            // Not every C library has every function of a set that ships.
            wrapper.skips_missing = found.path.is_none();
            wrapper.is_unguarded = brant_wrappers::find(shipped).is_some_and(|shipped| shipped.calls_nothing);
            wrapper.options = match options {
                Options::Typed(options) => shipped_options(shipped, options, chosen)?.into_bytes(),
                Options::Checked(options) => options.to_vec(),
            };
            wrapper
        }
        None => {
            let path = found.path.as_deref().unwrap_or(Path::new(""));
            let folder =
                path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let implementation = folder.join(text);
            let library = implementation
                .canonicalize()
                .map_err(|error| Error::NoDefinition { path: implementation.display().to_string(), error })?;
            let mut wrapper = Wrapper::new(chosen, library)?;
            wrapper.options = match options {
                Options::Typed(options) => options.into(),
                Options::Checked(options) => options.to_vec(),
            };
            wrapper
        }
    };
    let file = found.path.as_deref().map(|path| path.canonicalize().ok()?.to_str().map(str::to_owned));
    wrapper.definition = file.unwrap_or_else(|| Some(found.stem.clone()));
    Ok(wrapper)
}

/// The name, and what stands behind its colon.
fn split(text: &str) -> (&str, &str) {
    // A file's own name may have a colon.
    if Path::new(text).is_file() {
        return (text, "");
    }
    let ending = format!(".{ENDING}:");
    if let Some(at) = text.find(&ending) {
        let (name, options) = text.split_at(at + ending.len() - 1);
        return (name, &options[1..]);
    }
    text.split_once(':').unwrap_or((text, ""))
}

/// Options of an implementation that ships, checked before anything is touched.
fn shipped_options(name: &str, options: &str, chosen: &brant_definition::Wrapper) -> Result<String, Error> {
    let wrong = |why| Error::Options { name: chosen.name.as_str().to_owned(), why };
    let shipped = brant_wrappers::find(name).ok_or_else(|| {
        let names: Vec<&str> = brant_wrappers::all().iter().map(|shipped| shipped.name).collect();
        wrong(format!("no implementation \"brant:{name}\" ships; there are {}", names.join(", ")))
    })?;
    let functions: Vec<&str> = chosen.wraps.iter().map(|wrap| wrap.function.as_str()).collect();
    let folder = std::env::current_dir().map_err(|error| wrong(format!("no working folder: {error}")))?;
    brant_wrappers::prepare(shipped, options, &functions, &folder).map_err(wrong)
}

fn read(text: &str) -> Result<Found, Error> {
    let Some(path) = locate(text) else {
        let shipped = brant_wrappers::find(text).ok_or_else(|| {
            let folders: Vec<String> = folders().iter().map(|folder| folder.display().to_string()).collect();
            Error::NoSuchName { name: text.escape_debug().to_string(), folders: folders.join(" or ") }
        })?;
        return Ok(Found::shipped(shipped));
    };
    let shown = path.display().to_string();
    let source = std::fs::read(&path).map_err(|error| Error::NoDefinition { path: shown.clone(), error })?;
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Found { shown, source, path: Some(path), stem })
}

/// The file that is meant; nothing where the name is in no folder.
fn locate(text: &str) -> Option<PathBuf> {
    if text.contains('/') || is_definition(Path::new(text)) {
        return Some(PathBuf::from(text));
    }
    let mut candidates = folders().into_iter().map(|folder| folder.join(format!("{text}.{ENDING}")));
    candidates.find(|path| path.is_file())
}
