//! Definition files: the path of one, or a name that is looked for, and options behind a colon.
//!
//! `NAME` is `NAME.wrap` in `%APPDATA%\brant\wrappers`, then in the folder `wrappers` beside brant, then a wrapper that ships. A relative path of an
//! implementation starts at the definition's folder.

use std::path::{Path, PathBuf};

use brant_windows::{Callers, Code, Refused, Spec, choose};

/// Definitions that ship: their implementation is in the agent.
const SHIPPED: [(&str, &str); 2] = [
    ("handles", include_str!("../definitions/handles.wrap")),
    ("record", include_str!("../definitions/record.wrap")),
];
/// It must see the calls that Windows's own libraries make.
const FOR_ALL_CALLERS: &str = "handles";
const ENDING: &str = "wrap";

/// The folders that are searched, the user's first. `home` is where brant lies.
pub fn folders(home: &Path) -> Vec<PathBuf> {
    let own = std::env::var_os("APPDATA").map(|data| Path::new(&data).join("brant").join("wrappers"));
    own.into_iter().chain([home.join("wrappers")]).collect()
}

/// Every definition file in the folders.
pub fn all(home: &Path) -> Vec<PathBuf> {
    let files = |folder: PathBuf| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == ENDING))
            .collect();
        files.sort();
        files
    };
    folders(home).into_iter().flat_map(files).collect()
}

/// Finds and reads what a user named: `NAME`, `.\PATH.wrap`, `NAME:OPTIONS`.
pub fn find(text: &str, callers: Callers, home: &Path) -> Result<Spec, Refused> {
    let (name, options) = split(text);
    let is_path = name.contains(['/', '\\']) || name.ends_with(".wrap");
    let path = match search(name, home) {
        _ if is_path => PathBuf::from(name),
        Ok(path) => path,
        Err(refused) => return shipped(name, options, callers).unwrap_or(Err(refused)),
    };
    let shown = path.display().to_string();
    let source = std::fs::read(&path)
        .map_err(|error| Refused::new(Code::NoDefinition, format!("{shown} cannot be read")).why(error))?;
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let wrapper = choose(&source, &shown, &stem)?;
    let implementation = path.parent().unwrap_or(Path::new("")).join(wrapper.implementation.as_str());
    let absolute = std::path::absolute(&implementation).map_err(|error| {
        Refused::new(Code::NoImplementation, format!("{} is no path", implementation.display())).why(error)
    })?;
    Spec::of(&wrapper, absolute.display().to_string(), options, callers)
}

/// Names of the definitions that ship.
pub fn all_shipped() -> impl Iterator<Item = &'static str> {
    SHIPPED.iter().map(|(name, _)| *name)
}

fn shipped(name: &str, options: &str, callers: Callers) -> Option<Result<Spec, Refused>> {
    let (_, text) = SHIPPED.iter().find(|(shipped, _)| *shipped == name)?;
    let callers = if name == FOR_ALL_CALLERS { Callers::All } else { callers };
    let spec = choose(text.as_bytes(), name, name)
        .and_then(|wrapper| Spec::of(&wrapper, wrapper.implementation.as_str().to_owned(), options, callers));
    Some(spec)
}

/// `NAME:OPTIONS`. The colon behind a drive's letter is part of the name.
fn split(text: &str) -> (&str, &str) {
    let bytes = text.as_bytes();
    let has_drive = bytes.len() > 2
        && bytes[0].is_ascii_alphabetic()
        && bytes[1] == b':'
        && matches!(bytes[2], b'/' | b'\\');
    let from = if has_drive { 2 } else { 0 };
    match text[from..].find(':') {
        Some(at) => (&text[..from + at], &text[from + at + 1..]),
        None => (text, ""),
    }
}

fn search(name: &str, home: &Path) -> Result<PathBuf, Refused> {
    let folders = folders(home);
    let found =
        folders.iter().map(|folder| folder.join(format!("{name}.{ENDING}"))).find(|path| path.is_file());
    found.ok_or_else(|| {
        let looked: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
        Refused::new(Code::NoDefinition, format!("there is no definition called {name}"))
            .why(format!("looked for {name}.{ENDING} in {}", looked.join(", ")))
            .next("name its file: brant.exe wrap .\\FILE.wrap PID")
    })
}
