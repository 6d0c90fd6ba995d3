//! `cargo xtask bench`: brant beside a plain memcpy and, where the environment names them, its peers.
//!
//! Everything lies on tmpfs, so that no disk is measured. One life of the program gives one sample of each column:
//!
//! - *checkpoint*: the whole command, the program being left running;
//! - *pause*: the longest gap between two readings of the clock that the program itself saw meanwhile. It looks about
//!   every 0.2 ms, writes to one page each time, and tells of gaps from 0.5 ms on;
//! - *--stop*: the whole command that ends the program afterwards;
//! - *image*: all files of the image;
//! - *first step*: from the typing of `restore` to the program's first reading of the clock;
//! - *touched*: from there also, until the program has read all its memory and found it unharmed.
//!
//! For memcpy a *checkpoint* (left running, *--stop*, and so its *pause*) is one memcpy(3) of the memory into a new file on tmpfs
//! that is mapped, and the *image* is this file; the *first step* is reached when a new program was started, has mapped
//! the file, and has copied it into fresh anonymous memory by one memcpy.
//!
//! Before each step as much memory as it needs is touched and freed, as the first touch of free memory is dear in virtual
//! machines. The tools take turns, so that what else the machine does hits all of them. brant and DMTCP run as an ordinary user, CRIU as root.

mod program;
mod table;
mod tools;

use std::path::{Path, PathBuf};
use std::process::Command;

use program::Workplace;
use table::{Results, Row};
use tools::Tool;

use crate::{root, target};

const SHM: &str = "/dev/shm";
const MIB: u64 = 1 << 20;
/// Beside memory and image: programs, page tables, buffers.
const SPARE_BYTES: u64 = 512 * MIB;

/// What was asked for.
struct Request {
    sizes: Vec<u64>,
    json: Option<PathBuf>,
    repeats: Option<usize>,
}

/// Measures and prints; whether all went well.
pub(crate) fn run(arguments: &[String]) -> bool {
    match parse(arguments).and_then(|request| measure(&request)) {
        Ok(has_passed) => has_passed,
        Err(why) => {
            println!("bench: {why}");
            false
        }
    }
}

fn parse(arguments: &[String]) -> Result<Request, String> {
    let mut request = Request { sizes: vec![64 * MIB, 1024 * MIB, 4096 * MIB], json: None, repeats: None };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or(format!("{argument} wants a value"));
        match argument.as_str() {
            "--sizes" => request.sizes = value()?.split(',').map(size).collect::<Result<_, _>>()?,
            "--json" => request.json = Some(PathBuf::from(value()?)),
            "--repeat" => {
                let count = value()?.parse().ok().filter(|count| *count > 0);
                request.repeats = Some(count.ok_or("--repeat wants a number")?);
            }
            other => return Err(format!("it knows --sizes, --json and --repeat, not {other}")),
        }
    }
    Ok(request)
}

fn size(text: &str) -> Result<u64, String> {
    let unit = match text.chars().last() {
        Some('M') => MIB,
        Some('G') => 1024 * MIB,
        _ => return Err(format!("a size is a number and M or G, not {text}")),
    };
    let number = text[..text.len() - 1].parse::<u64>().ok().filter(|number| *number > 0);
    number.map(|number| number * unit).ok_or(format!("a size is a number and M or G, not {text}"))
}

fn measure(request: &Request) -> Result<bool, String> {
    build()?;
    let place = Workplace::make(Path::new(SHM)).map_err(|error| format!("{SHM}: {error}"))?;
    place.provide(&root().join("xtask/src/bench/resident.c"), &target().join("release/brant"))?;
    let tools = Tool::all();
    let mut all = Vec::new();
    for &bytes in &request.sizes {
        if let Err(why) = is_room(bytes) {
            println!("\n{} MiB: skipped, {why}", bytes / MIB);
            continue;
        }
        let repeats = request.repeats.unwrap_or(if bytes > 256 * MIB { 3 } else { 5 });
        let results = measure_size(&place, &tools, bytes, repeats);
        println!("{}", results.text());
        all.push(results);
    }
    if let Some(path) = &request.json {
        let objects: Vec<String> = all.iter().map(Results::json).collect();
        std::fs::write(path, format!("[{}]\n", objects.join(",\n")))
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(all.iter().all(|results| results.rows.iter().all(|row| row.failure.is_none())))
}

fn measure_size(place: &Workplace, tools: &[Tool], bytes: u64, repeats: usize) -> Results {
    let row = |tool: &Tool| Row { tool: tool.to_string(), samples: Vec::new(), failure: None };
    let mut rows: Vec<Row> = tools.iter().map(row).collect();
    for _ in 0..repeats {
        for (tool, row) in tools.iter().zip(&mut rows) {
            match tool.measure(place, bytes) {
                Ok(sample) => row.samples.push(sample),
                Err(why) => row.failure = Some(why),
            }
        }
    }
    Results { bytes, rows }
}

fn build() -> Result<(), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["build", "--package", "brant", "--release", "--quiet"];
    let mut command = Command::new(cargo);
    command.args(arguments).current_dir(root());
    // Set for xtask's own build; they would make every crate seem changed.
    for key in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
        command.env_remove(key);
    }
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        _ => Err("brant does not build".to_owned()),
    }
}

/// The program, its image, a copy of one of them and what is touched beforehand fit into memory.
fn is_room(bytes: u64) -> Result<(), String> {
    let needed = bytes * 7 / 2 + SPARE_BYTES;
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let available = available.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
    let available = available.unwrap_or_default() * 1024;
    if available < needed {
        return Err(format!("it needs {} MiB of memory, {} are available", needed / MIB, available / MIB));
    }
    let df = Command::new("df").args(["--output=avail", "-B1", SHM]).output();
    let df = df.map_err(|error| format!("df: {error}"))?;
    let text = String::from_utf8_lossy(&df.stdout).into_owned();
    let free: u64 = text.lines().last().and_then(|line| line.trim().parse().ok()).unwrap_or_default();
    if free < bytes + SPARE_BYTES {
        return Err(format!("{SHM} has {} MiB free", free / MIB));
    }
    Ok(())
}
