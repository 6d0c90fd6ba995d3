//! `cargo xtask docs`: the documentation site in `target/site`.
//!
//! The tool that makes it is a workspace of its own (`site/`), as it builds on mdBook: nothing else waits for that.

use std::path::PathBuf;

use crate::step::Step;
use crate::{root, target};

/// Links in rustdoc's source pages lead to definitions; the wrapper `site/rustdoc.sh` makes both possible.
const RUSTDOC_FLAGS: &str = "-Z unstable-options --generate-link-to-definition --document-private-items \
                             --document-hidden-items -D warnings";

/// Builds and checks it.
pub(crate) fn steps() -> Vec<Step> {
    let tool = target().join("site-tool");
    let tool_folder = tool.display().to_string();
    let manifest = ["--manifest-path", "site/Cargo.toml", "--target-dir", &tool_folder];
    let text = |path: PathBuf| path.display().to_string();
    let build = ["build".to_owned()].into_iter().chain(
        [
            ("--root", root()),
            ("--brant", target().join("release/brant")),
            ("--rustdoc", target().join("doc")),
            ("--stage", target().join("site-stage")),
            ("--site", target().join("site")),
        ]
        .into_iter()
        .flat_map(|(name, path)| [name.to_owned(), text(path)]),
    );
    vec![
        Step::cargo(&["build", "--package", "brant", "--release", "--quiet"]),
        Step::Folders(crate_names().map(|name| target().join("doc").join(name)).collect()),
        // brant-connect-c makes a library for C whose name is that of brant-connect.
        Step::cargo(&["doc", "--workspace", "--no-deps", "--exclude", "brant-connect-c", "--quiet"])
            .env("RUSTDOC", &text(root().join("site/rustdoc.sh")))
            .env("RUSTDOCFLAGS", RUSTDOC_FLAGS),
        Step::cargo(&[&["test", "--quiet", "--bins"], manifest.as_slice()].concat()),
        Step::cargo(&[&["build", "--quiet"], manifest.as_slice()].concat()),
        Step::Run { program: tool.join("debug/brant-site"), args: build.collect() },
        Step::Packages,
        Step::cargo(&[&["test", "--quiet", "--test", "browser"], manifest.as_slice()].concat())
            .env("BRANT_SITE", &text(target().join("site"))),
    ]
}

/// Shows it, as the arguments say.
pub(crate) fn showing(args: &[String]) -> Vec<Step> {
    let has = |name: &str| args.iter().any(|arg| arg == name);
    let site = target().join("site");
    let mut steps = Vec::new();
    if has("--open") {
        let page = site.join("index.html").display().to_string();
        steps.push(Step::Run { program: PathBuf::from("xdg-open"), args: vec![page] });
    }
    if has("--serve") {
        let args = ["serve", "--site", &site.display().to_string()].map(str::to_owned).to_vec();
        steps.push(Step::Run { program: target().join("site-tool/debug/brant-site"), args });
    }
    steps
}

/// The folders of rustdoc's pages. They are there before rustdoc runs, since it makes links only to crates whose folder it
/// finds, and several crates are documented at the same time.
fn crate_names() -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(root().join("crates")).into_iter().flatten().flatten();
    entries.map(|entry| {
        let name = entry.file_name().to_string_lossy().replace('-', "_");
        if name == "brant" { name } else { format!("brant_{name}") }
    })
}
