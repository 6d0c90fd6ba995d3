//! WRAPPER on the command line: the path of a definition file, or a name that is looked for.
//!
//! `NAME` is `NAME.wrap` in `$XDG_CONFIG_HOME/brant/wrappers` (or `~/.config/...`), then in `/etc/brant/wrappers`. A relative
//! path of an implementation starts at the definition's folder.

use std::path::{Path, PathBuf};

use brant_connect::Wrapper;
use brant_definition::Convention;

use crate::failure::{Failure, exit, exit_of};

const ENDING: &str = "wrap";
const SYSTEM_FOLDER: &str = "/etc/brant/wrappers";

/// The folders that are searched, the user's first.
pub(crate) fn folders() -> Vec<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let own = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
    own.map(|config| config.join("brant/wrappers"))
        .into_iter()
        .chain([PathBuf::from(SYSTEM_FOLDER)])
        .collect()
}

/// Every definition file in the folders.
pub(crate) fn all() -> Vec<PathBuf> {
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

/// Finds and reads what the user named.
pub(crate) fn find(text: &str) -> Result<Wrapper, Failure> {
    let path = locate(text)?;
    let shown = path.display().to_string();
    let source = std::fs::read(&path).map_err(|error| {
        Failure::new("B-1101", exit::USAGE, format!("{shown} cannot be read"))
            .why(error)
            .next(format!("ls -l {shown}"))
    })?;
    let definition = brant_definition::parse(&source, Convention::SysV).map_err(|errors| {
        let code = errors.iter().next().map_or("B-1102", |first| first.code());
        Failure::new(code, exit_of(code), format!("{shown} is not a definition of a wrapper"))
            .why(errors.render(&shown, &source))
            .next(format!("brant explain {code}"))
    })?;
    let wanted = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let chosen = match definition.wrappers.as_slice() {
        [only] => only,
        several => several.iter().find(|wrapper| wrapper.name.as_str() == wanted).ok_or_else(|| {
            let names: Vec<&str> = several.iter().map(|wrapper| wrapper.name.as_str()).collect();
            Failure::new(
                "B-1102",
                exit::USAGE,
                format!("{shown} defines several wrappers, none called \"{wanted}\""),
            )
            .why(format!("it defines {}", names.join(", ")))
            .next("name the file as one of them, or put each into a file of its own")
        })?,
    };
    let implementation = implementation(&path, chosen.implementation.as_str())?;
    Wrapper::new(chosen, implementation).map_err(|error| {
        Failure::of_error(
            error.code(),
            format!("the wrapper \"{}\" cannot be used", chosen.name.as_str()),
            &error,
        )
    })
}

fn locate(text: &str) -> Result<PathBuf, Failure> {
    if text.contains('/') || is_definition(Path::new(text)) {
        return Ok(PathBuf::from(text));
    }
    let candidates = folders().into_iter().map(|folder| folder.join(format!("{text}.{ENDING}")));
    candidates.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        let folders: Vec<String> = folders().iter().map(|folder| folder.display().to_string()).collect();
        Failure::new("B-1101", exit::USAGE, format!("there is no wrapper \"{}\"", text.escape_debug()))
            .why(format!("no {}.{ENDING} is in {}", text.escape_debug(), folders.join(" or ")))
            .next("brant wrappers, or name the file by its path: ./NAME.wrap")
    })
}

fn implementation(definition: &Path, text: &str) -> Result<PathBuf, Failure> {
    let folder =
        definition.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let path = folder.join(text);
    path.canonicalize().map_err(|error| {
        let shown = path.display();
        Failure::new("B-1101", exit::USAGE, format!("the implementation {shown} is not there"))
            .why(error)
            .next(format!("ls -l {shown}"))
    })
}
