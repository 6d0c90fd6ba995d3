//! Whether everything that is opened by path is there and is what it was.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use brant_base::Refusals;
use brant_image::model::*;
use brant_kernel::elf;

use super::{FilesPolicy, Plan, Rewind, refusal, text};
use crate::Error;
use crate::build::disk::path_error;

pub(super) fn check(checkpoint: &Checkpoint, policy: FilesPolicy, plan: &mut Plan, refusals: &mut Refusals) {
    for file in &checkpoint.disk_files {
        // Contents that travel need no file; those of /proc and /sys are the kernel's.
        if file.inode == 0 || (file.stored && file.carried == Carried::No) {
            continue;
        }
        check_file(checkpoint, file, policy, plan, refusals);
    }
    check_directories(checkpoint, plan, refusals);
    check_special(checkpoint, plan, refusals);
}

fn host_path(plan: &Plan, path: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(plan.path(path)))
}

const MAP_HINT: &str = "put it back, or name where it is now: --map-path OLD=NEW";

fn check_file(
    checkpoint: &Checkpoint,
    file: &DiskFile,
    policy: FilesPolicy,
    plan: &mut Plan,
    refusals: &mut Refusals,
) {
    let path = host_path(plan, &file.path);
    let runs = |body: &ProcessBody| body.executable == file.id;
    let is_executable = checkpoint.processes.iter().flat_map(|process| &process.body).any(runs);
    let what = if is_executable { "the executable" } else { "the file" };
    let resource = format!("{what} {}", path.display());
    let is_mapped = is_executable || is_mapped(checkpoint, file.id);
    let metadata = match fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => metadata,
        _ if file.carried == Carried::Copy => return take_copy(plan, file, &resource, "is not there"),
        Ok(_) => {
            refusals.push(refusal("B-0412", resource, "it is no regular file any more", MAP_HINT));
            return;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && file.carried == Carried::File => {
            return create(plan, file, path, resource, refusals);
        }
        Err(error) => {
            let code = if is_executable { "B-0413" } else { "B-0411" };
            let hint = format!("{MAP_HINT}, or {}", carry_hint(is_mapped));
            refusals.push(refusal(code, resource, format!("it cannot be found: {error}"), hint));
            return;
        }
    };
    let differences = differences(file, &path, &metadata);
    // The very file that the program writes to while we look.
    let is_at_work = plan.runs_on && file.written && metadata.ino() == file.inode;
    if differences.is_empty() || is_at_work {
        return;
    }
    if file.carried == Carried::Copy {
        return take_copy(plan, file, &resource, "is another one here");
    }
    let differences = differences.join(", ");
    if is_mapped && !file.build_id.is_empty() {
        // Its code would be run at addresses of another build.
        let hint = format!("{MAP_HINT}, or {}", carry_hint(true));
        refusals.push(refusal("B-0412", resource, format!("it has changed: {differences}"), hint));
        return;
    }
    match policy {
        FilesPolicy::Keep => plan.steps.push(format!("take {resource} as it is now ({differences})")),
        FilesPolicy::Rewind if has_only_grown(file, &path, &metadata) => {
            let tail = tail_path(&path);
            plan.steps.push(format!(
                "cut {resource} from {} to {} bytes; what is cut off is saved as {}",
                metadata.len(),
                file.size,
                tail.display()
            ));
            plan.rewinds.push(Rewind { path, size: file.size, tail });
        }
        FilesPolicy::Rewind => refusals.push(refusal(
            "B-0412",
            resource,
            format!(
                "it has changed: {differences}; only a file that the program wrote and that has grown is cut"
            ),
            "put the old one back, take it as it is with --files keep, or name another: --map-path OLD=NEW",
        )),
        FilesPolicy::Strict => {
            let cut = if has_only_grown(file, &path, &metadata) {
                "cut it back with --files rewind, take it as it is with --files keep"
            } else {
                "put the old one back, take it as it is with --files keep"
            };
            let mut hint = format!("{cut}, or name another: --map-path OLD=NEW");
            if is_mapped && !file.written {
                hint.push_str(&format!("; or {}", carry_hint(true)));
            }
            refusals.push(refusal("B-0412", resource, format!("it has changed: {differences}"), hint));
        }
    }
}

fn is_mapped(checkpoint: &Checkpoint, id: DiskFileId) -> bool {
    let bodies = checkpoint.processes.iter().flat_map(|process| &process.body);
    bodies
        .flat_map(|body| &body.memory.mappings)
        .any(|mapping| matches!(mapping.backing, Backing::File { file, .. } if file == id))
}

/// What another checkpoint could do about a file that is missing here.
fn carry_hint(is_mapped: bool) -> &'static str {
    match is_mapped {
        true => "take the checkpoint with --portable: the image then carries executable and libraries",
        false => "take the checkpoint with --with-files: the image then carries open files",
    }
}

fn take_copy(plan: &mut Plan, file: &DiskFile, resource: &str, why: &str) {
    plan.steps.push(format!("map {resource} from the image's copy: it {why}"));
    plan.copies.insert(file.id, super::copies::name(file));
}

/// A carried file that is not there is made, if its folder is.
fn create(plan: &mut Plan, file: &DiskFile, path: PathBuf, resource: String, refusals: &mut Refusals) {
    let folder = path.parent().unwrap_or(Path::new("/"));
    if !folder.is_dir() {
        let hint = format!("make it: mkdir -p {}, or name another: --map-path OLD=NEW", folder.display());
        let why = format!("the image carries it, and the folder {} is not there", folder.display());
        refusals.push(refusal("B-0411", resource, why, hint));
        return;
    }
    plan.steps.push(format!("make {resource} of {} bytes from the image", file.size));
    plan.creations.insert(file.id, path);
}

/// What is not as it was, in words; nothing where the file is the same, or another with the same contents.
fn differences(file: &DiskFile, path: &Path, metadata: &Metadata) -> Vec<String> {
    let modified_ns = metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
    let mut found = Vec::new();
    if metadata.len() != file.size {
        found.push(format!("it had {} bytes, now {}", file.size, metadata.len()));
    }
    if modified_ns != file.modified_ns {
        found.push("it was written to since".to_owned());
    }
    if metadata.ino() != file.inode {
        found.push("it is another file of that name".to_owned());
    }
    if found.is_empty() || has_same_contents(file, path, metadata).unwrap_or(false) {
        return Vec::new();
    }
    if !file.build_id.is_empty() {
        found.push("its build id is another one".to_owned());
    }
    found
}

fn has_same_contents(file: &DiskFile, path: &Path, metadata: &Metadata) -> io::Result<bool> {
    if !file.build_id.is_empty() {
        return Ok(elf::build_id(&File::open(path)?).is_some_and(|found| found == file.build_id));
    }
    let known = !file.digest.is_empty() && metadata.len() == file.size;
    Ok(known && digest(path, file.size)? == file.digest)
}

/// blake3 of the first `bytes` bytes.
fn digest(path: &Path, bytes: u64) -> io::Result<Vec<u8>> {
    let mut hasher = blake3::Hasher::new();
    let mut part = File::open(path)?.take(bytes);
    let mut buffer = vec![0; 1 << 16];
    loop {
        match part.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().as_bytes().to_vec()),
            count => hasher.update(&buffer[..count]),
        };
    }
}

/// Whether the program wrote it and it is as it was but for its tail, as far as can be told.
fn has_only_grown(file: &DiskFile, path: &Path, metadata: &Metadata) -> bool {
    let same_start = || file.digest.is_empty() || digest(path, file.size).is_ok_and(|own| own == file.digest);
    file.written && metadata.ino() == file.inode && metadata.len() > file.size && same_start()
}

fn tail_path(path: &Path) -> PathBuf {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".brant-tail-{now}"));
    PathBuf::from(name)
}

/// Saves the tail durably, then cuts.
pub(super) fn rewind(rewind: &Rewind) -> Result<(), Error> {
    let opened = File::options().read(true).write(true).open(&rewind.path);
    let mut file = opened.map_err(path_error("opening", &rewind.path))?;
    let saving = || path_error("saving the tail of a file as", &rewind.tail);
    let mut tail = File::create_new(&rewind.tail).map_err(saving())?;
    file.seek(SeekFrom::Start(rewind.size)).map_err(path_error("reading", &rewind.path))?;
    io::copy(&mut file, &mut tail).map_err(saving())?;
    tail.sync_all().map_err(saving())?;
    file.set_len(rewind.size).map_err(path_error("cutting", &rewind.path))
}

fn check_directories(checkpoint: &Checkpoint, plan: &Plan, refusals: &mut Refusals) {
    let mut check = |path: &[u8], role: &str| {
        let path = host_path(plan, path);
        let why = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => return,
            Ok(_) => "it is no directory any more".to_owned(),
            Err(error) => format!("it cannot be found: {error}"),
        };
        refusals.push(refusal("B-0414", format!("{role} {}", path.display()), why, MAP_HINT));
    };
    for body in checkpoint.processes.iter().flat_map(|process| &process.body) {
        check(&body.cwd, "the working directory");
        if !body.root.is_empty() {
            check(&body.root, "the root directory");
        }
    }
    for file in &checkpoint.open_files {
        if let FileKind::Directory { path } = &file.kind
            && !path.starts_with(b"/proc/")
        {
            check(path, "the directory");
        }
    }
}

/// Fifos, devices and watched paths.
fn check_special(checkpoint: &Checkpoint, plan: &Plan, refusals: &mut Refusals) {
    let mut check = |path: &[u8], role: &str, is_right: &dyn Fn(&Metadata) -> bool| {
        let place = host_path(plan, path);
        let why = match fs::metadata(&place) {
            Ok(metadata) if is_right(&metadata) => return,
            // The image carries it: it will be there.
            Err(_) if plan.creations.values().any(|made| *made == place) => return,
            Ok(_) => "something else is there now".to_owned(),
            Err(error) => format!("it cannot be found: {error}"),
        };
        refusals.push(refusal("B-0415", format!("{role} {}", text(path)), why, MAP_HINT));
    };
    for pipe in &checkpoint.pipes {
        if let Some(path) = &pipe.fifo {
            check(path, "the fifo", &|metadata| metadata.file_type().is_fifo());
        }
    }
    for file in &checkpoint.open_files {
        match &file.kind {
            FileKind::Device { path, major, minor } => check(path, "the device", &|metadata| {
                let number = metadata.rdev();
                metadata.file_type().is_char_device()
                    && (libc::major(number), libc::minor(number)) == (*major, *minor)
            }),
            FileKind::PathOnly { path } if !path.starts_with(b"/proc/") => check(path, "the path", &|_| true),
            FileKind::Inotify { watches } => {
                for watch in watches {
                    check(&watch.path, "the watched path", &|_| true);
                }
            }
            _ => {}
        }
    }
}
