//! `brant.exe wrap`, `unwrap` and `wrappers`.

use brant_control::{definitions, unwrap_process, wrap_process};
use brant_windows::{Interception, Left, Listed, Missing, Refused};
use serde_json::json;

use super::options::{Options, pid};
use super::{home, usage};

/// Version of what `--json` prints.
const SCHEMA_VERSION: u32 = 1;

pub(crate) fn wrap(words: &[String]) -> Result<(), Refused> {
    let options = Options::of(words)?;
    let [name, target] = options.words.as_slice() else {
        return Err(usage("wrap takes a wrapper and a process's number"));
    };
    let target = pid(target)?;
    let wrapped = wrap_process(name, target, options.callers, &home()?, &options.log()?)?;
    let count = wrapped.interceptions.len();
    println!(
        "wrapped {count} function{} of process {target} by {:?}",
        if count == 1 { "" } else { "s" },
        wrapped.name
    );
    waiting(&wrapped.missing).iter().for_each(|line| println!("{line}"));
    Ok(())
}

pub(crate) fn unwrap(words: &[String]) -> Result<(), Refused> {
    let options = Options::of(words)?;
    let [name, target] = options.words.as_slice() else {
        return Err(usage("unwrap takes a wrapper's name and a process's number"));
    };
    let target = pid(target)?;
    match unwrap_process(name, target, &options.log()?)?.1 {
        Left::Nothing => println!("process {target} is not wrapped by {name:?} any more"),
        Left::Dormant => println!(
            "process {target} is not wrapped by {name:?} any more; a call is still under way in its implementation, which stays loaded"
        ),
    }
    Ok(())
}

pub(crate) fn wrappers(words: &[String]) -> Result<(), Refused> {
    let options = Options::of(words)?;
    let target = match options.words.as_slice() {
        [] => {
            definitions::all(&home()?).iter().for_each(|path| println!("{}", path.display()));
            definitions::all_shipped().for_each(|name| println!("{name}"));
            return Ok(());
        }
        [target] => pid(target)?,
        _ => return Err(usage("wrappers takes one process's number")),
    };
    let wrappers = brant_control::wrappers(target)?;
    if options.is_json {
        println!("{}", json!({ "schema_version": SCHEMA_VERSION, "pid": target, "wrappers": wrappers }));
    } else if wrappers.is_empty() {
        eprintln!("process {target} has no wrappers");
    } else {
        wrappers.iter().for_each(show);
    }
    Ok(())
}

fn show(wrapper: &Listed) {
    let state = if wrapper.is_on { "" } else { " (dormant)" };
    println!("{}{state}  {}", wrapper.name, wrapper.implementation);
    for Interception { function, library, depth, .. } in &wrapper.interceptions {
        let before = if *depth == 0 { String::new() } else { format!("  behind {depth} other") };
        println!("  {function} in {library}{before}");
    }
    waiting(&wrapper.missing).iter().for_each(|line| println!("  {line}"));
}

/// A line for each library that is not loaded yet, and for each function that could not be mediated.
pub(crate) fn waiting(missing: &[Missing]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut told: Vec<&str> = Vec::new();
    for Missing { function, library, why } in missing {
        match why {
            Some(why) => lines.push(format!("not mediated: {function}: {why}")),
            None if told.contains(&library.as_str()) => {}
            None => {
                told.push(library);
                let waits = missing.iter().filter(|other| other.why.is_none() && other.library == *library);
                let functions: Vec<&str> = waits.map(|other| other.function.as_str()).collect();
                lines.push(format!("waits: {}: {library} is not loaded yet", functions.join(", ")));
            }
        }
    }
    lines
}
