//! What runs in wrapped programs: the mediators of all wrappers that ship. Each load of this library serves one of them.
//!
//! Nothing here allocates by malloc, changes errno, or keeps a descriptor open: system calls are made directly. Arguments of
//! the program that may be no valid addresses are read by the kernel.

mod journal;
mod line;
mod rooms;
mod system;
mod weak;

mod faults;
mod files;
mod follow;
mod heap;
mod net;
mod record;
mod time;
mod trace;

mod virtual_addresses;
mod virtual_calls;
mod virtual_execve;
mod virtual_files;
mod virtual_messages;
mod virtual_mutexes;
mod virtual_table;

use brant_mediator::{Event, Load};

use crate::options::value;

/// How long a program may take from being told of a checkpoint to its stop.
const SAVE_NS: u64 = 10_000_000_000;

brant_mediator::events!(on_event);

fn on_event(event: Event<'_>) -> Result<(), &'static str> {
    match event {
        Event::Load(load) => on_load(load),
        Event::Save => {
            let until_ns = system::wall_ns().saturating_add(SAVE_NS);
            system::be_unsure_of_process(until_ns);
            journal::save(until_ns);
            Ok(())
        }
        Event::Off | Event::Exit => {
            if matches!(event, Event::Off) {
                record::stop();
            }
            journal::write_through();
            if matches!(event, Event::Off) {
                heap::off()
            } else {
                heap::end("at exit")
            }
            Ok(())
        }
        Event::Library(_) | Event::LibraryGone(_) => Ok(()),
        Event::Unload => {
            journal::close();
            heap::forget();
            record::close();
            system::forget();
            Ok(())
        }
    }
}

fn on_load(load: Load) -> Result<(), &'static str> {
    if load.wrapper() == b"follow-exec" {
        return follow::prepare(load.options_text());
    }
    let options = core::str::from_utf8(load.options()).map_err(|_| "its options are no UTF-8")?;
    match value(options, "as") {
        Some("trace") => trace::prepare(options, load.functions())?,
        Some("files") => files::prepare(options)?,
        Some("heap") => return heap::prepare(options, load.functions()),
        Some("time") => time::prepare(options)?,
        Some("net") => net::prepare(options),
        Some("record") => record::prepare(options)?,
        Some("virtual") => virtual_table::prepare(options)?,
        Some("faults") => faults::prepare(options, load.functions())?,
        _ => return Err("brant does not say which wrapper it is"),
    }
    if let Some(path) = value(options, "out") {
        journal::open(path.as_bytes(), value(options, "direct").is_some())?;
    }
    Ok(())
}
