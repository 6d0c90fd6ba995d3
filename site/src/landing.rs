//! The page that leads to everything else, and the files that all pages use.

use std::path::Path;

use crate::html::page;

/// Writes them.
pub(crate) fn build(site: &Path) -> Result<(), String> {
    let write = |name: &str, text: &str| {
        std::fs::write(site.join(name), text).map_err(|error| format!("{name}: {error}"))
    };
    write("brant.svg", include_str!("../assets/brant.svg"))?;
    write("site.css", concat!(include_str!("../assets/shared.css"), include_str!("../assets/site.css")))?;
    write("index.html", &page("brant", "", "", BODY))
}

const BODY: &str = r#"<main class="landing">
<h1>brant moves running programs</h1>
<p class="lead">It freezes a process tree that nobody prepared, writes it down as one file, and brings it back: later, elsewhere, or many
times. As a plain user, on a stock Linux kernel.</p>
<div class="doors">
<a class="door" href="guide/index.html"><h2>Guide</h2><p>What it does and how to use it: ten minutes to the first restored program, one page for
each task, every command, every error.</p></a>
<a class="door" href="tour/index.html"><h2>Source tour</h2><p>The code in the order in which a program's state flows through it, with explanations beside it, and
every name a link.</p></a>
<a class="door" href="api/index.html"><h2>API</h2><p>All crates as rustdoc sees them, private items too.</p></a>
</div>
<p class="faint">Made from the repository by <code>cargo xtask docs</code>; what is said of commands, errors and what is carried is taken from the code
itself. Nothing here needs a network.</p>
</main>"#;
