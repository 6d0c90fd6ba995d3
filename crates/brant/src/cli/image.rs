//! `brant image`.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use brant_image::inspect::{Inspection, ProcessLine};
use brant_image::inspect::{inspect, page, readable, size, utc};
use brant_image::model::{Windows, WindowsHandle, WindowsThread};
use brant_image::{Head, Summary};
use brant_kernel::task;
use brant_store::{Cleared, Pending, Place, Received, Store, StoreError, clear_copies};
use clap::Subcommand;
use serde_json::{Value, json};

use super::Done;
use super::checkpoint::{open_image, open_store, store_failed};
use super::stream::{self, Outgoing};
use crate::failure::{Failure, exit, exit_of};
use crate::handover::Handovers;
use crate::report::{Report, command_line, table};

/// List, show, verify, export, import and remove images
#[derive(Debug, clap::Args)]
pub(super) struct Images {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the images in your store
    Ls,
    /// Show what is in an image: processes, threads, descriptors, memory, and what it needs
    Inspect {
        /// A path, a job's name (its newest image), or the beginning of an image's id
        image: OsString,
        /// Write one self-contained page of HTML to this file instead, with each process's memory drawn to scale; never contents
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
    },
    /// Read a whole image and compare every checksum
    Verify {
        /// A path, a job's name (its newest image), or the beginning of an image's id
        image: OsString,
    },
    /// Copy an image out of your store, verified: to standard output, or to a path
    Export {
        /// A path, a job's name (its newest image), or the beginning of an image's id
        image: OsString,
        /// A file, a folder for a file of the image's own name, or - for standard output
        #[arg(short, long, value_name = "PATH", default_value = "-")]
        output: PathBuf,
        /// Overwrite the file of -o
        #[arg(long)]
        force: bool,
    },
    /// Take an image into your store, verified; nothing is ever overwritten
    Import {
        /// A file, or - for standard input
        #[arg(default_value = "-", value_name = "PATH")]
        from: PathBuf,
    },
    /// Remove copies of carried executables and libraries that no running program uses
    Gc,
    /// Remove images
    Rm {
        /// A path, a job's name (its newest image), or the beginning of an image's id
        #[arg(required = true)]
        images: Vec<OsString>,
    },
}

impl Images {
    pub(super) fn run(self, report: &Report) -> Done {
        match self.verb {
            Verb::Ls => list(report),
            Verb::Inspect { image, html: None } => show(&image, report),
            Verb::Inspect { image, html: Some(file) } => write_page(&image, &file, report),
            Verb::Verify { image } => verify(&image, report),
            Verb::Export { image, output, force } => export(&image, &output, force, report),
            Verb::Import { from } => import(&from, report),
            Verb::Gc => clear(report),
            Verb::Rm { images } => images.iter().try_for_each(|image| remove(image, report)).map(|()| 0),
        }
    }
}

fn list(report: &Report) -> Done {
    let listing = open_store()?.list().map_err(|error| store_failed(&error))?;
    if report.json {
        let images: Vec<Value> = listing
            .entries
            .iter()
            .map(|entry| {
                json!({
                    "id": entry.identity.id.to_string(), "job": entry.job, "path": entry.path, "bytes": entry.bytes,
                    "created_unix_ns": entry.identity.created_ns, "processes": entry.processes, "host": entry.host,
                    "root": entry.root.0,
                    "command": entry.command.iter().map(|word| readable(word)).collect::<Vec<_>>(),
                })
            })
            .collect();
        let damaged = |(path, error): &(std::path::PathBuf, brant_image::ImageError)| json!({ "path": path, "code": error.code(), "why": error.to_string() });
        report.json(
            json!({ "images": images, "damaged": listing.damaged.iter().map(damaged).collect::<Vec<_>>() }),
        );
        return Ok(0);
    }
    let mut rows = vec![["ID", "JOB", "TAKEN", "SIZE", "PROCESSES", "COMMAND"].map(String::from).to_vec()];
    rows.extend(listing.entries.iter().map(|entry| {
        let command: Vec<String> = entry.command.iter().map(|word| readable(word)).collect();
        vec![
            entry.identity.id.to_string().chars().take(12).collect(),
            entry.job.clone().unwrap_or_else(|| "-".to_string()),
            utc(entry.identity.created_ns),
            size(entry.bytes),
            entry.processes.to_string(),
            command_line(&command),
        ]
    }));
    report.data(&table(&rows));
    for (path, error) in &listing.damaged {
        report.note(&format!("damaged: {}: {error}", path.display()));
    }
    Ok(0)
}

fn find(image: &OsString) -> Result<std::path::PathBuf, Failure> {
    open_store()?.find(image).map_err(|error| store_failed(&error))
}

fn show(image: &OsString, report: &Report) -> Done {
    let path = find(image)?;
    let inspection = inspect(&open_image(&path)?);
    if report.json {
        report.json(inspection_json(&inspection));
    } else {
        report.data(inspection.to_string().trim_end());
    }
    Ok(0)
}

/// One page about an image. A file that is there is left alone.
fn write_page(image: &OsString, file: &Path, report: &Report) -> Done {
    let page = page(&open_image(&find(image)?)?);
    // Command lines and paths are in it.
    let created = File::options().write(true).create_new(true).mode(0o600).open(file);
    let written = created.and_then(|mut to| to.write_all(page.as_bytes()));
    written.map_err(|error| {
        let what = format!("{} is not written", file.display());
        let failure = Failure::new("B-0602", exit::STORE, what);
        match error.kind() {
            std::io::ErrorKind::AlreadyExists => failure.why("it exists already").next("name another file"),
            _ => failure.why(error),
        }
    })?;
    report.note(&format!("wrote {}", file.display()));
    Ok(0)
}

fn inspection_json(inspection: &Inspection) -> Value {
    let memory = &inspection.memory;
    json!({
        "id": inspection.summary.id.to_string(), "bytes": inspection.summary.bytes,
        "pages": inspection.summary.pages, "zero_pages": inspection.summary.zero_pages,
        "created_unix_ns": inspection.created_ns, "job": inspection.job, "command": inspection.command,
        "host": inspection.host_name, "kernel_release": inspection.kernel_release, "machine": inspection.machine,
        "memory": {
            "private_bytes": memory.private_bytes, "shared_bytes": memory.shared_bytes,
            "file_bytes": memory.file_bytes, "zero_bytes": memory.zero_bytes,
        },
        "carried_files": inspection.carried.iter().map(|file| {
            json!({ "path": file.path, "bytes": file.bytes, "purpose": file.purpose })
        }).collect::<Vec<Value>>(),
        "needs": inspection.needs,
        "windows": inspection.windows.as_ref().map(windows_json),
        "processes": inspection.processes.iter().map(process_json).collect::<Vec<Value>>(),
    })
}

fn windows_json(windows: &Windows) -> Value {
    let thread = |thread: &WindowsThread| json!({ "number": thread.number, "function": thread.function });
    let handle = |handle: &WindowsHandle| json!({ "value": handle.value, "what": handle.what });
    json!({
        "pid": windows.pid, "release": windows.release, "program": windows.program,
        "command_line": windows.command_line, "directory": windows.directory,
        "modules": windows.modules.iter().map(|module| module.path.as_str()).collect::<Vec<&str>>(),
        "memory_bytes": windows.regions.iter().map(|region| region.range.bytes()).sum::<u64>(),
        "threads": windows.threads.iter().map(thread).collect::<Vec<Value>>(),
        "handles": windows.handles.iter().map(handle).collect::<Vec<Value>>(),
    })
}

fn process_json(process: &ProcessLine) -> Value {
    let threads: Vec<Value> = process
        .threads
        .iter()
        .map(|thread| json!({ "tid": thread.tid.0, "name": thread.name, "waiting": thread.waiting }))
        .collect();
    let descriptors: Vec<Value> = process
        .descriptors
        .iter()
        .map(|fd| json!({ "number": fd.number, "what": fd.what, "close_on_exec": fd.close_on_exec }))
        .collect();
    json!({
        "pid": process.pid.0, "ppid": process.ppid.0, "pgid": process.pgid.0, "sid": process.sid.0,
        "name": process.name, "state": process.state, "executable": process.executable, "cwd": process.cwd,
        "uid": process.uid, "gid": process.gid, "mappings": process.mappings,
        "mapped_bytes": process.mapped_bytes, "stored_bytes": process.stored_bytes,
        "threads": threads, "descriptors": descriptors,
    })
}

fn verify(image: &OsString, report: &Report) -> Done {
    let path = find(image)?;
    let summary = verified(&path)?;
    if report.json {
        let digest: String = summary.digest.iter().map(|byte| format!("{byte:02x}")).collect();
        report.json(json!({
            "image": path, "id": summary.id.to_string(), "bytes": summary.bytes, "pages": summary.pages, "blake3": digest,
        }));
    } else {
        report.data(&format!("{}: whole, {}, {} pages", path.display(), size(summary.bytes), summary.pages));
    }
    Ok(0)
}

/// Reads all of an image.
fn verified(path: &Path) -> Result<Summary, Failure> {
    open_image(path)?.verify().map_err(|error| {
        let code = error.code();
        let what = format!("the image {} is damaged", path.display());
        let failure = Failure::of_error(code, what, &error);
        if exit_of(code) == exit::CORRUPT {
            failure.next("restore an older image: brant image ls")
        } else {
            failure
        }
    })
}

/// A damaged image is not handed on.
fn export(image: &OsString, output: &Path, force: bool, report: &Report) -> Done {
    limits_are_errors();
    let path = find(image)?;
    let to_stream = stream::is_standard(output);
    let outgoing = if to_stream { Some(Outgoing::begin()?) } else { None };
    let summary = verified(&path)?;
    let mut file = File::open(&path).map_err(|error| {
        Failure::new("B-0611", exit::STORE, format!("{} cannot be read", path.display())).why(error)
    })?;
    if let Some(outgoing) = outgoing {
        outgoing.copy(&mut file).map_err(|error| {
            let what = format!("{} could not be exported", path.display());
            let failed = || Failure::new("B-0602", exit::STORE, what.clone()).why(&error);
            stream::write_failed(&error, what.clone()).unwrap_or_else(failed)
        })?;
        report.note(&format!("exported {} ({})", path.display(), size(summary.bytes)));
        return Ok(0);
    }
    let mut copy = || -> Result<PathBuf, StoreError> {
        let mut pending = Pending::begin(Place::from_option(output), force, summary.bytes)?;
        pending.check_space(summary.bytes)?;
        std::io::copy(&mut file, &mut pending).map_err(|error| pending.write_fault(error))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        pending.commit(&name)
    };
    let copy = copy().map_err(|error| store_failed(&error))?;
    report.data(&copy.display().to_string());
    Ok(0)
}

fn import(from: &Path, report: &Report) -> Done {
    let received = if stream::is_standard(from) {
        receive(stream::incoming()?)?
    } else {
        let unreadable = |error| {
            Failure::new("B-0611", exit::STORE, format!("{} cannot be read", from.display())).why(error)
        };
        receive(File::open(from).map_err(unreadable)?)?
    };
    if report.json {
        let Summary { id, bytes, pages, .. } = received.summary;
        report.json(json!({
            "image": received.path, "id": id.to_string(), "bytes": bytes, "pages": pages, "was_there": received.was_there,
        }));
        return Ok(0);
    }
    report.data(&received.path.display().to_string());
    let had = if received.was_there { "this very image was there already" } else { "imported and verified" };
    report.note(&format!("{had}: {}, {}", received.summary.id, size(received.summary.bytes)));
    Ok(0)
}

/// A limit on file sizes is an error of the write, as a full disk is, and no death.
fn limits_are_errors() {
    task::ignore_signal(libc::SIGXFSZ);
}

/// Takes an image into the store.
pub(super) fn receive(from: impl std::io::Read) -> Result<Received, Failure> {
    limits_are_errors();
    open_store()?.receive(from).map_err(|error| match exit_of(error.code()) {
        exit::CORRUPT => {
            Failure::of_error(error.code(), "no whole image came; nothing of it is kept", &error)
                .next("look at what the sender said, and let it send again")
        }
        _ => store_failed(&error),
    })
}

fn clear(report: &Report) -> Done {
    let cleared = Store::default_copies_folder().and_then(|folder| clear_copies(&folder));
    let Cleared { removed, bytes, used, busy } = cleared.map_err(|error| store_failed(&error))?;
    if report.json {
        report.json(json!({ "removed": removed, "bytes": bytes, "used": used, "busy": busy }));
    } else if busy {
        report.note("a restore is under way: nothing was removed");
    } else {
        report.note(&format!("removed {removed} copies of {}; {used} are in use", size(bytes)));
    }
    Ok(0)
}

fn remove(image: &OsString, report: &Report) -> Result<(), Failure> {
    let store = open_store()?;
    if let Some(record) = Handovers::open()?.outgoing().into_iter().find(|record| {
        // Its copy of the image may not have come into being, or may be gone.
        image.len() >= 8 && record.image.starts_with(&*image.to_string_lossy()) && !record.path.exists()
    }) {
        Handovers::open()?.forget(&record.image);
        report.note(&format!("removed the record of the hand-over to {}", record.host));
        return Ok(());
    }
    let head = store.find(image).ok().and_then(|path| Head::read(&File::open(path).ok()?).ok());
    let path = store.remove(image).map_err(|error| store_failed(&error))?;
    if let Some(head) = head {
        Handovers::open()?.forget(&head.identity.id.to_string());
    }
    report.note(&format!("removed {}", path.display()));
    Ok(())
}
