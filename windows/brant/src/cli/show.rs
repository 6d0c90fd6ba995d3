//! `brant.exe show`.

use brant_windows::Refused;
use brant_windows::record::SHOW_VERSION;
use serde_json::json;

use super::options::{Options, pid};
use super::usage;

/// Prints what a recorded program has to do with the world.
pub(crate) fn show(words: &[String]) -> Result<(), Refused> {
    let options = Options::of(words)?;
    let [target] = options.words.as_slice() else { return Err(usage("show takes one process's number")) };
    let shown = brant_control::show(pid(target)?)?;
    if options.is_json {
        println!("{}", json!({ "schema_version": SHOW_VERSION, "process": shown }));
    } else {
        print!("{}", shown.text(options.is_all));
    }
    Ok(())
}
