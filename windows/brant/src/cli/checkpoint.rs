//! `brant.exe checkpoint`.

use std::path::Path;

use brant_control::checkpoint as write;
use brant_windows::Refused;

use super::options::{Options, pid};
use super::usage;

pub(crate) fn checkpoint(words: &[String]) -> Result<(), Refused> {
    let options = Options::of(words)?;
    let [target] = options.words.as_slice() else {
        return Err(usage("checkpoint needs a process's number"));
    };
    let output = options.output.as_ref().ok_or_else(|| usage("checkpoint needs -o FILE"))?;
    let target = pid(target)?;
    let bytes = write(target, Path::new(output), options.stop)?;
    let then = if options.stop { "has ended" } else { "goes on" };
    println!("wrote {output} ({bytes} bytes); process {target} {then}");
    Ok(())
}
