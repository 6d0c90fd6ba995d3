//! Programs that are carried: started so, captured, brought back.

use std::path::{Path, PathBuf};

use brant_image::Head;
use brant_image::model::Windows;
use brant_windows::{AGENT_FILE, Code, Refused, Reply, Request};

use crate::process::Process;
use crate::start::Starting;
use crate::wrap::unexpected;

/// How long a checkpoint or a restore may take.
const IMAGE_LIMIT_MS: u32 = 600_000;

/// Prepares a program that has not begun. With `raw_heaps` its heaps are the system's own.
pub fn carry(starting: &Starting, home: &Path, raw_heaps: bool) -> Result<(), Refused> {
    starting.process().load_agent(&home.join(AGENT_FILE))?;
    match starting.process().ask(&Request::Carry { raw_heaps }, IMAGE_LIMIT_MS)? {
        Reply::Prepared => Ok(()),
        other => Err(unexpected(&other)),
    }
}

/// Lets a program write its image to `path`. With `stop` it ends once that is safe. Gives the image's bytes.
pub fn checkpoint(pid: u32, path: &Path, stop: bool) -> Result<u64, Refused> {
    let path = std::path::absolute(path).map_err(|error| {
        Refused::new(Code::NotWritten, format!("{} is no path", path.display())).why(error)
    })?;
    if path.exists() {
        return Err(Refused::new(Code::NotWritten, format!("{} is there already", path.display()))
            .next("take another name, or remove it"));
    }
    let text =
        path.to_str().ok_or_else(|| Refused::new(Code::NotWritten, "the path is no Unicode"))?.to_owned();
    let process = Process::open(pid)?;
    if !process.has_agent() {
        return Err(Refused::new(Code::NotCarried, format!("process {pid} was not started to be carried"))
            .next("brant.exe run --carry -- PROGRAM"));
    }
    match process.ask(&Request::Checkpoint { path: text, stop }, IMAGE_LIMIT_MS) {
        Ok(Reply::Written { bytes }) => Ok(bytes),
        Ok(other) => Err(unexpected(&other)),
        // It has ended, as it was asked to: its image is there, which it writes before.
        Err(refused) if stop && refused.code == Code::NoProcess => {
            std::fs::metadata(&path).map(|metadata| metadata.len()).map_err(|_| refused)
        }
        Err(refused) => Err(refused),
    }
}

/// Starts the program of an image and lets it become what it was. It waits to be let go.
pub fn restored(path: &Path, home: &Path, taken: &[u64]) -> Result<Starting, Refused> {
    let path = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
    let windows = head(&path)?;
    check_program(&windows)?;
    let text =
        path.to_str().ok_or_else(|| Refused::new(Code::NotAnImage, "the path is no Unicode"))?.to_owned();
    let starting = Starting::again(&windows)?;
    if !taken.is_empty() {
        taken.iter().for_each(|&at| starting.process().take(at));
        // Its libraries are not where ours are.
        starting.process().begin_loader()?;
    }
    starting.process().load_agent(&home.join(AGENT_FILE))?;
    keep_free(starting.process(), &windows)?;
    match starting.process().ask(&Request::Restore { path: text }, IMAGE_LIMIT_MS)? {
        Reply::Prepared => Ok(starting),
        other => Err(unexpected(&other)),
    }
}

/// Keeps the addresses of the system's heaps free before the agent needs memory. What the loader needs must lie where it did, so it comes first, and
/// by the same steps as when the program was started.
///
/// Wine gives the stack of a thread back when the next one has ended, and the one that has loaded the agent may lie there. So another one is run, with all taken that
/// is free there, so that its own stack is elsewhere.
fn keep_free(process: &Process, windows: &Windows) -> Result<(), Refused> {
    let ranges = windows.heaps.iter().map(|range| (range.start().0, range.bytes()));
    let taken: Vec<(u64, u64)> = ranges.filter(|&(at, bytes)| !process.reserve(at, bytes)).collect();
    if taken.is_empty() {
        return Ok(());
    }
    let free = taken.iter().flat_map(|&(at, bytes)| process.reserve_parts(at, bytes));
    let free: Vec<u64> = free.collect();
    process.begin_loader()?;
    free.into_iter().for_each(|at| process.release(at));
    match taken.into_iter().find(|&(at, bytes)| !process.reserve(at, bytes)) {
        None => Ok(()),
        Some((at, bytes)) => Err(Refused::new(
            Code::HeapsElsewhere,
            format!("a heap of the program was at {at:#x}, where something else is in this process"),
        )
        .why(format!("it needs {bytes:#x} bytes there"))
        .next("brant.exe explain B-1335")),
    }
}

fn head(path: &Path) -> Result<Windows, Refused> {
    let unreadable = |why: String| {
        Refused::new(Code::NotAnImage, format!("the image {} cannot be read", path.display())).why(why)
    };
    let file = std::fs::File::open(path).map_err(|error| unreadable(error.to_string()))?;
    let head = Head::read(&file).map_err(|error| unreadable(error.to_string()))?;
    head.checkpoint
        .windows
        .ok_or_else(|| unreadable("it holds a Linux program".to_owned()).next("brant restore, on Linux"))
}

fn check_program(windows: &Windows) -> Result<(), Refused> {
    let refused = |why: String| {
        Refused::new(Code::NotRestored, format!("the program {} is not here as it was", windows.program))
            .why(why)
    };
    let bytes = std::fs::read(&windows.program).map_err(|error| refused(error.to_string()))?;
    let is_same =
        windows.modules.first().is_some_and(|module| *blake3::hash(&bytes).as_bytes() == module.digest);
    if is_same { Ok(()) } else { Err(refused("its contents are others".to_owned())) }
}
