//! `brant.exe handles`.

use brant_windows::{Refused, VirtualHandle};
use serde_json::json;

use super::options::{Options, pid};
use super::usage;

/// Version of what `--json` prints.
const SCHEMA_VERSION: u32 = 1;

/// Prints the virtual handles of a program under the wrapper `handles`, and what they stand for.
pub(crate) fn handles(words: &[String]) -> Result<(), Refused> {
    let options = Options::of(words)?;
    let [target] = options.words.as_slice() else { return Err(usage("handles takes one process's number")) };
    let handles = brant_control::handles(pid(target)?, options.is_renewed)?;
    if options.is_json {
        println!("{}", json!({ "schema_version": SCHEMA_VERSION, "handles": handles }));
        return Ok(());
    }
    for VirtualHandle { handle, real, kind } in &handles {
        println!("{handle:#x}  {kind}  stands for {real:#x}");
    }
    Ok(())
}
