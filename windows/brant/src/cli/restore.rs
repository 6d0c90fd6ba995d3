//! `brant.exe restore`: brings a program back and waits for it.

use std::ffi::OsString;
use std::path::Path;

use brant_control::restored;
use brant_windows::{Code, Refused};

use super::options::Options;
use super::{exit, home, told, usage};

/// The program's exit code, or our own.
pub(crate) fn restore(arguments: &[OsString]) -> u8 {
    let words: Vec<String> = arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    match bring_back(&words) {
        Ok(code) => std::process::exit(code as i32),
        Err(refused) => {
            told(&refused);
            if refused.code == Code::Usage { exit::USAGE } else { exit::OWN }
        }
    }
}

fn bring_back(words: &[String]) -> Result<u32, Refused> {
    let options = Options::of(words)?;
    let [image] = options.words.as_slice() else { return Err(usage("restore needs an image")) };
    let starting = restored(Path::new(image), &home()?, &options.taken)?;
    let pid = starting.process().pid();
    options.write_pid(pid)?;
    let started = starting.go()?;
    eprintln!("brant: restored {image} as pid {pid}");
    Ok(started.wait())
}
