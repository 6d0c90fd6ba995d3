//! What an inotify instance watches. The kernel keeps an inode and no path, so paths are tried that the program is
//! likely to have used: at and around its directories, open files and arguments.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use brant_base::Refusal;
use brant_image::model::InotifyWatch;
use brant_kernel::descriptor::{self, DescriptorKind};
use brant_kernel::patience::Patience;
use brant_kernel::proc::{self, Device, InotifyMark};

use super::{Description, Survey, on_its_way};

/// How long paths are searched for, and how many are looked at.
const SEARCH_TIMEOUT: Duration = Duration::from_millis(500);
const PATHS_MAX: usize = 50_000;
/// Levels of directories below a likely one.
const DEPTH_MAX: usize = 3;

pub(super) fn watches(survey: &Survey, description: &Description) -> Result<Vec<InotifyWatch>, Refusal> {
    let duplicate = description.place.duplicate();
    let waiting =
        duplicate.and_then(|fd| descriptor::queued_bytes(std::os::fd::AsFd::as_fd(&fd))).unwrap_or(0);
    if waiting > 0 {
        return Err(on_its_way(description, "inotify", "events wait to be read"));
    }
    let marks = &description.info.inotify;
    let paths = search(survey, description, marks);
    let mut watches = Vec::with_capacity(marks.len());
    for (mark, path) in marks.iter().zip(paths) {
        let Some(path) = path else {
            return Err(description.refuse(
                "B-0339",
                format!(
                    "an inotify watch on inode {} of device {}:{}",
                    mark.inode, mark.device.major, mark.device.minor
                ),
                "no path was found that leads to it",
                "let the program remove the watch, or start it in a directory near to what it watches",
            ));
        };
        watches.push(InotifyWatch {
            descriptor: mark.descriptor,
            path: path.into_os_string().into_vec(),
            mask: mark.mask,
        });
    }
    Ok(watches)
}

/// For each mark a path, where one was found.
fn search(survey: &Survey, description: &Description, marks: &[InotifyMark]) -> Vec<Option<PathBuf>> {
    let mut found = vec![None; marks.len()];
    let mut patience = Patience::new(SEARCH_TIMEOUT);
    let mut seen = HashSet::new();
    let mut queue: VecDeque<(PathBuf, usize)> =
        likely(survey, description).into_iter().map(|path| (path, 0)).collect();
    while let Some((path, depth)) = queue.pop_front() {
        // The likely ones are looked at in any case, however slow the machine is.
        let is_over = depth > 0 && patience.is_over();
        if found.iter().all(Option::is_some) || seen.len() > PATHS_MAX || is_over {
            break;
        }
        if !seen.insert(path.clone()) {
            continue;
        }
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        for (mark, place) in marks.iter().zip(&mut found) {
            if place.is_none() && is_it(mark, &metadata) {
                *place = Some(path.clone());
            }
        }
        if metadata.is_dir() && depth < DEPTH_MAX && !path.starts_with("/proc") && !path.starts_with("/sys") {
            let entries = fs::read_dir(&path).into_iter().flatten().flatten();
            queue.extend(entries.map(|entry| (entry.path(), depth + 1)));
        }
    }
    found
}

fn is_it(mark: &InotifyMark, metadata: &fs::Metadata) -> bool {
    let device = Device::from_stat(metadata.dev());
    // Some file systems make up devices of their own for stat.
    metadata.ino() == mark.inode && (device == mark.device || (device.major == 0 && mark.device.major == 0))
}

/// Places to begin at, the most likely first: directories of the processes that have it, what they have open, their
/// arguments, then the parents of all these.
fn likely(survey: &Survey, description: &Description) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for holder in &description.holders {
        let host = survey.members[holder.member].host;
        let cwd = proc::link(host, "cwd").unwrap_or_default();
        for argument in proc::cmdline(host).unwrap_or_default() {
            paths.push(cwd.join(OsStr::from_bytes(&argument)));
        }
        paths.push(cwd);
        for entry in &survey.descriptors[holder.member] {
            let described = &survey.descriptions.get(entry.file).described;
            if matches!(described.kind, DescriptorKind::Regular | DescriptorKind::Directory) {
                paths.push(PathBuf::from(OsStr::from_bytes(&described.path)));
            }
        }
    }
    let parents: Vec<PathBuf> =
        paths.iter().filter_map(|path| path.parent()).map(Path::to_path_buf).collect();
    paths.extend(parents);
    paths.extend(["/etc", "/run", "/var", "/tmp", "/dev", "/usr/share", "/"].map(PathBuf::from));
    paths.extend(std::env::var_os("HOME").map(PathBuf::from));
    paths.retain(|path| path.is_absolute());
    paths
}
