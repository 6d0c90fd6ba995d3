//! `brant completions`.

use std::io::Write;

use clap_complete::Shell;

use super::{Done, grammar};
use crate::report::Report;

/// Print the completions of a shell, for its configuration to read
#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// The shell that they are for
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self, _: &Report) -> Done {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut grammar(), "brant", &mut text);
        // A reader that has gone away ends it quietly, as everywhere.
        let _ = std::io::stdout().write_all(&text);
        Ok(0)
    }
}
