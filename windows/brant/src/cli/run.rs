//! `brant.exe run`: starts a program with wrappers from its first instruction on, and waits for it.

use std::ffi::OsString;

use brant_control::{Starting, carry, definitions, wrap};
use brant_windows::{AGENT_FILE, Code, Refused};

use super::options::Options;
use super::wrap::waiting;
use super::{exit, home, told, usage};

/// The program's exit code, or our own.
pub(crate) fn run(arguments: &[OsString]) -> u8 {
    let Err(refused) = start(arguments).map(leave) else { return 0 };
    told(&refused);
    match refused.code {
        Code::Usage => exit::USAGE,
        Code::NoStart => exit::NOT_FOUND,
        _ => exit::OWN,
    }
}

/// Ends with all 32 bits of the program's code.
fn leave(code: u32) {
    std::process::exit(code as i32);
}

fn start(arguments: &[OsString]) -> Result<u32, Refused> {
    let behind = arguments
        .iter()
        .position(|word| word == "--")
        .ok_or_else(|| usage("run needs -- before the program"))?;
    let words: Vec<String> =
        arguments[..behind].iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let options = Options::of(&words)?;
    if let Some(word) = options.words.first() {
        return Err(usage(&format!("{word} stands before --")));
    }
    let [program, rest @ ..] = &arguments[behind + 1..] else {
        return Err(usage("run needs a program behind --"));
    };
    if options.carry && !options.wrappers.is_empty() {
        return Err(usage("--carry and --wrap do not go together"));
    }
    if options.raw_heaps && !options.carry {
        return Err(usage("--heaps is for programs that are carried: run --carry --heaps raw"));
    }
    let home = home()?;
    let log = options.log()?;
    let specs = options.wrappers.iter().map(|name| definitions::find(name, options.callers, &home));
    let specs: Vec<_> = specs.collect::<Result<_, _>>()?;
    let starting = Starting::new(program, rest)?;
    if options.carry {
        carry(&starting, &home, options.raw_heaps)?;
    }
    if !specs.is_empty() {
        starting.process().load_agent(&home.join(AGENT_FILE))?;
    }
    for spec in specs {
        let wrapped = wrap(starting.process(), spec, &log)?;
        waiting(&wrapped.missing).iter().for_each(|line| eprintln!("brant: {line}"));
    }
    options.write_pid(starting.process().pid())?;
    Ok(starting.go()?.wait())
}
