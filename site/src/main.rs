//! Makes the documentation site of brant: `cargo xtask docs` calls it.
//!
//! Into one folder of static files go the guide (`docs/`, by mdBook), pages that are taken from the code itself
//! ([`reference`]), rustdoc's pages, the source tour ([`tour`]), and a page that leads to all of it. Reading needs no network and no JavaScript.
#![forbid(unsafe_code)]

mod guide;
mod html;
mod landing;
mod links;
mod markdown;
mod picture;
mod plain;
mod reference;
mod rustdoc;
mod serve;
mod tour;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str =
    "brant-site build --root REPOSITORY --brant BINARY --rustdoc FOLDER --stage FOLDER --site FOLDER
brant-site serve --site FOLDER [--port N]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.first().map(String::as_str) {
        Some("build") => build(&args[1..]),
        Some("serve") => option(&args, "--site").and_then(|site| {
            let port = option(&args, "--port").ok().and_then(|port| port.parse().ok()).unwrap_or(8000);
            serve::serve(Path::new(&site), port)
        }),
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("{fault}");
            ExitCode::FAILURE
        }
    }
}

/// What follows an option.
fn option(args: &[String], name: &str) -> Result<String, String> {
    let at = args.iter().position(|arg| arg == name);
    at.and_then(|at| args.get(at + 1)).cloned().ok_or_else(|| format!("{name} is missing\n{USAGE}"))
}

/// Builds all of it; every fault of the documents is named, and then it has failed.
fn build(args: &[String]) -> Result<(), String> {
    let folder = |name| option(args, name).map(PathBuf::from);
    let (root, site, stage) = (folder("--root")?, folder("--site")?, folder("--stage")?);
    let reference = reference::Reference::of(&folder("--brant")?)?;
    let _ = std::fs::remove_dir_all(&site);
    std::fs::create_dir_all(&site).map_err(|error| format!("{}: {error}", site.display()))?;
    // mdBook would take a relative one as one of its own folder.
    let site = site.canonicalize().map_err(|error| format!("{}: {error}", site.display()))?;
    landing::build(&site)?;
    rustdoc::place(&folder("--rustdoc")?, &site.join("api"))?;
    let sources = rustdoc::source_pages(&root, &site)?;
    println!("{}", tour::build(&root, &site, &sources)?);
    let pages = guide::Pages::find(&root, sources.keys().cloned().chain(tour::of_windows(&root)))?;
    let mut faults = guide::build(&root, &stage, &site, &pages, &reference)?;
    let checked = links::check(&site)?;
    faults.extend(checked.broken);
    if faults.is_empty() {
        println!(
            "{} pages, {} links, all of them lead somewhere: {}",
            checked.pages,
            checked.links,
            site.display()
        );
        return Ok(());
    }
    Err(faults.join("\n"))
}
