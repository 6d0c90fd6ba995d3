//! Hand-overs that are under way or were broken off: one durable record for each, on either side, beside the images.
//!
//! A record is keyed by the image's id, so it holds whatever the image's file is called. It is written (temporary name,
//! fsync, rename, fsync of the folder) before the step that it tells of, and removed when the hand-over is done. A
//! record that is there says what may be done with an image; nothing is ever decided by itself.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use brant_store::Store;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, exit};
use crate::job::{Process, Runtime, boot_id};

/// What the source writes down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outgoing {
    pub(crate) schema_version: u32,
    /// The image's id, in hexadecimal digits.
    pub(crate) image: String,
    /// Where this host's copy of it lies.
    pub(crate) path: PathBuf,
    /// The destination, as it was typed.
    pub(crate) host: String,
    /// The job's or the program's name.
    pub(crate) name: String,
    pub(crate) command: Vec<String>,
    /// The processes that were ended, with everything below them.
    pub(crate) roots: Vec<Process>,
    pub(crate) boot_id: String,
    pub(crate) unix_ms: u64,
    pub(crate) state: Sent,
}

/// How far the source came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Sent {
    /// The program is about to be ended here. The destination has not been told to run it.
    Ending,
    /// It is gone here. The destination may have been told.
    Given,
}

/// What the destination writes down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Incoming {
    pub(crate) schema_version: u32,
    pub(crate) image: String,
    pub(crate) path: PathBuf,
    /// `USER@HOST` that it comes from, as that host calls itself.
    pub(crate) from: String,
    pub(crate) name: String,
    pub(crate) command: Vec<String>,
    pub(crate) unix_ms: u64,
    pub(crate) state: Got,
}

/// How far the destination came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Got {
    /// The source has not said that the program is gone there.
    Held,
    /// It has: the program is ours.
    Ours,
}

/// Where a program is that is about to be given away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    /// It still runs here.
    Here,
    /// It is gone here and the destination was not told to run it.
    Nowhere,
    /// It is gone here and the destination may run it.
    There,
}

impl Outgoing {
    /// Where the program is, as far as this host can tell.
    pub(crate) fn whereabouts(&self) -> Whereabouts {
        let is_here = self.boot_id == boot_id() && self.roots.iter().any(|root| root.is_alive());
        match (is_here, self.state) {
            (true, _) => Whereabouts::Here,
            (false, Sent::Ending) => Whereabouts::Nowhere,
            (false, Sent::Given) => Whereabouts::There,
        }
    }
}

/// The folder of the records.
#[derive(Debug, Clone)]
pub(crate) struct Handovers {
    folder: PathBuf,
}

impl Handovers {
    /// This user's; the folder need not be there.
    pub(crate) fn open() -> Result<Handovers, Failure> {
        let images = Store::default_folder().map_err(|error| {
            Failure::of_error(error.code(), "there is no place for records of hand-overs", &error)
        })?;
        Ok(Handovers { folder: images.with_file_name("handovers") })
    }

    pub(crate) fn outgoing(&self) -> Vec<Outgoing> {
        let mut records: Vec<Outgoing> = self.read_all("out-");
        records.sort_by_key(|record| record.unix_ms);
        records
    }

    /// Those whose images are still there.
    pub(crate) fn incoming(&self) -> Vec<Incoming> {
        let mut records: Vec<Incoming> = self.read_all("in-");
        records.retain(|record| record.path.exists());
        records.sort_by_key(|record| record.unix_ms);
        records
    }

    pub(crate) fn outgoing_of(&self, image: &str) -> Option<Outgoing> {
        read(&self.folder.join(format!("out-{image}.json")))
    }

    pub(crate) fn incoming_of(&self, image: &str) -> Option<Incoming> {
        read(&self.folder.join(format!("in-{image}.json")))
    }

    /// Everything of the record is on the disk when it returns, but for its name.
    pub(crate) fn prepare_outgoing(&self, record: &Outgoing) -> io::Result<NamelessRecord> {
        self.prepare(&format!("out-{}.json", record.image), record)
    }

    /// Everything of the record is on the disk when it returns, but for its name.
    pub(crate) fn prepare_incoming(&self, record: &Incoming) -> io::Result<NamelessRecord> {
        self.prepare(&format!("in-{}.json", record.image), record)
    }

    /// Removes what was written of the image.
    pub(crate) fn forget(&self, image: &str) {
        for side in ["out", "in"] {
            let _ = fs::remove_file(self.folder.join(format!("{side}-{image}.json")));
            let _ = fs::remove_file(self.hidden(&format!("{side}-{image}.json")));
        }
        let _ = File::open(&self.folder).and_then(|folder| folder.sync_all());
    }

    /// Removes what older attempts to move the very same processes left: they run, so nobody has got them.
    pub(crate) fn forget_earlier(&self, roots: &[Process]) {
        for record in self.outgoing() {
            let is_same = record.boot_id == boot_id() && record.roots.iter().any(|root| roots.contains(root));
            if is_same && record.whereabouts() == Whereabouts::Here {
                let _ = fs::remove_file(&record.path);
                self.forget(&record.image);
            }
        }
    }

    fn read_all<T: for<'de> Deserialize<'de>>(&self, prefix: &str) -> Vec<T> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let wanted = names.filter(|name| name.starts_with(prefix) && name.ends_with(".json"));
        wanted.filter_map(|name| read(&self.folder.join(name))).collect()
    }

    fn hidden(&self, name: &str) -> PathBuf {
        self.folder.join(format!(".{name}.new"))
    }

    fn prepare<T: Serialize>(&self, name: &str, record: &T) -> io::Result<NamelessRecord> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let hidden = self.hidden(name);
        let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&hidden)?;
        let prepared = NamelessRecord { hidden, path: self.folder.join(name) };
        file.write_all(&serde_json::to_vec_pretty(record)?)?;
        file.sync_all()?;
        Ok(prepared)
    }
}

/// A record that wants nothing but its name: where a step must not fail for want of space, this comes before it.
/// Dropped, it leaves nothing.
#[derive(Debug)]
pub(crate) struct NamelessRecord {
    hidden: PathBuf,
    path: PathBuf,
}

impl NamelessRecord {
    /// Replaces the record that was there. Durable when it returns.
    pub(crate) fn publish(self) -> io::Result<()> {
        fs::rename(&self.hidden, &self.path)?;
        match self.path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}

impl Drop for NamelessRecord {
    fn drop(&mut self) {
        // After publish there is none.
        let _ = fs::remove_file(&self.hidden);
    }
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Whether an image may be brought back here, as far as hand-overs know. `take_over`: the user says so.
pub(crate) fn check_restore(image: &str, path: &Path, take_over: bool) -> Result<(), Failure> {
    let handovers = Handovers::open()?;
    if let Some(record) = handovers.incoming_of(image) {
        let short = &record.image[..record.image.len().min(12)];
        if let Some(job) = runs_from(path) {
            return Err(Failure::new("B-0911", exit::FAILED, format!("{} runs already", path.display()))
                .why(format!("it came from {} and runs as the job \"{job}\"", record.from))
                .next(format!("brant ps; the image is of no more use: brant image rm {short}")));
        }
        if record.state == Got::Held && !take_over {
            let what = format!("{} is held, and may still run at {}", path.display(), record.from);
            return Err(Failure::new("B-0910", exit::FAILED, what)
                .why("the connection was lost before that host said that it had ended the program; it must run in one place only")
                .next(format!(
                    "look there with: brant ps\nif it runs there:  brant image rm {short}\nif it is gone there: brant restore {short} --take-over"
                )));
        }
    }
    if let Some(record) = handovers.outgoing_of(image)
        && !take_over
    {
        let refused = |why: &str, next: String| {
            let what = format!("{} was being handed to {}", path.display(), record.host);
            Err(Failure::new("B-0912", exit::FAILED, what).why(why).next(next))
        };
        let short = &record.image[..record.image.len().min(12)];
        match record.whereabouts() {
            Whereabouts::Here => {
                return refused(
                    "that came to nothing, and the program still runs here",
                    format!("brant ps; the image is of no more use: brant image rm {short}"),
                );
            }
            Whereabouts::There => {
                return refused(
                    "the program was ended here and that host was told to run it; it must run in one place only",
                    format!(
                        "look there with: brant ps\nif it runs there: brant image rm {short} (here)\nif it cannot be brought back there: brant restore {short} --take-over (here)"
                    ),
                );
            }
            // The destination holds it, and will not run it by itself.
            Whereabouts::Nowhere => {}
        }
    }
    // It was opened before its mark was looked for, and who throws it away takes the mark away last: without this, a program
    // that was found to run on at its source would be let go here too.
    if !path.exists() {
        return Err(Failure::new("B-0606", exit::NO_TARGET, format!("{} is gone", path.display()))
            .why("it was removed meanwhile; a move that is given up does that, as the program runs on where it was")
            .next("brant image ls"));
    }
    Ok(())
}

/// The image has been brought back here by hand: its hand-over is over. Says what is left elsewhere.
pub(crate) fn settle_restored(image: &str) -> Option<String> {
    let handovers = Handovers::open().ok()?;
    let left = handovers.outgoing_of(image).map(|record| {
        format!(
            "{} may hold a copy of it: remove it there with: brant image rm {}",
            record.host,
            short(image)
        )
    });
    if left.is_some() || handovers.incoming_of(image).is_some() {
        handovers.forget(image);
    }
    left
}

/// As much of an id as people type.
pub(crate) fn short(image: &str) -> &str {
    &image[..image.len().min(12)]
}

/// The live job that was restored from the image at `path`.
fn runs_from(path: &Path) -> Option<String> {
    let runtime = Runtime::open().ok()?;
    let path = path.to_string_lossy();
    let is_it = |job: &crate::job::Job| job.state.is_live() && job.meta.image.as_deref() == Some(&*path);
    runtime.jobs().into_iter().find(is_it).map(|job| job.name().to_string())
}
