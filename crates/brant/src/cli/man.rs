//! `brant man`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{Done, grammar};
use crate::failure::{Failure, exit};
use crate::report::Report;

/// Print a manual page, or write all of them to a folder
#[derive(Debug, clap::Args)]
pub(super) struct Man {
    /// A verb, such as checkpoint or image inspect; without one, the page of brant itself
    verb: Vec<String>,
    /// Write every page into this folder instead
    #[arg(long, value_name = "FOLDER", conflicts_with = "verb")]
    folder: Option<PathBuf>,
}

impl Man {
    pub(super) fn run(self, report: &Report) -> Done {
        if let Some(folder) = self.folder {
            let count = write_all(&grammar(), "brant", &folder).map_err(|error| {
                let what = format!("the manual pages cannot be written to {}", folder.display());
                Failure::new("B-0119", exit::FAILED, what).why(error)
            })?;
            report.note(&format!("wrote {count} pages to {}", folder.display()));
            return Ok(0);
        }
        let mut found = grammar();
        for word in &self.verb {
            let next = found.get_subcommands().find(|verb| verb.get_name() == word && !verb.is_hide_set());
            found = next.cloned().ok_or_else(|| {
                let what = format!("there is no verb \"{}\"", self.verb.join(" ").escape_debug());
                Failure::new("B-0120", exit::USAGE, what).next("brant --help")
            })?;
        }
        let text = page(&found).map_err(|error| {
            Failure::new("B-0119", exit::FAILED, "the manual page cannot be made").why(error)
        })?;
        let _ = io::stdout().write_all(&text);
        Ok(0)
    }
}

/// The pages of a verb and of all below it; their number.
fn write_all(verb: &clap::Command, name: &str, folder: &Path) -> io::Result<usize> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join(format!("{name}.1")), page(verb)?)?;
    let mut count = 1;
    for below in verb.get_subcommands().filter(|below| !below.is_hide_set()) {
        count += write_all(below, &format!("{name}-{}", below.get_name()), folder)?;
    }
    Ok(count)
}

fn page(verb: &clap::Command) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    clap_mangen::Man::new(verb.clone()).render(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page_that_names_its_options() {
        let folder = std::env::temp_dir().join(format!("brant-man-{}", std::process::id()));
        let count = write_all(&grammar(), "brant", &folder).expect("a temporary folder is writable");
        let text = std::fs::read_to_string(folder.join("brant-checkpoint.1")).expect("it has a page");
        std::fs::remove_dir_all(&folder).expect("it is ours");
        assert!(count > 20, "{count}");
        assert!(text.contains(".TH brant-checkpoint 1"), "{text}");
        assert!(text.contains("leave") && text.contains("\\-\\-stop"), "{text}");
    }

    #[test]
    fn hidden_verbs_have_none() {
        let folder = std::env::temp_dir().join(format!("brant-man-hidden-{}", std::process::id()));
        write_all(&grammar(), "brant", &folder).expect("a temporary folder is writable");
        let is_there = folder.join("brant-receive.1").exists();
        std::fs::remove_dir_all(&folder).expect("it is ours");
        assert!(!is_there);
    }
}
