//! Descriptions that need no look at others: files, directories, devices, and what lives in the kernel alone.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use brant_base::{Refusal, Refusals};
use brant_image::model::*;
use brant_kernel::descriptor::{self, Described, DescriptorKind, FileStatus};
use brant_kernel::proc::{Device, LockKind};
use nix::sys::statfs::{HUGETLBFS_MAGIC, statfs};
use nix::unistd::AccessFlags;

use super::{Description, Survey, What, inotify};
use crate::refusals::text;
use crate::tables::Tables;

/// The code of a path that this user cannot open again as the program has it.
const OUT_OF_REACH: &str = "B-0341";
const CLOSE_HINT: &str = "let the program close it, or start it with this feature off";

/// Finds out what each description is, but for pipes, sockets, terminals and epoll.
pub(super) fn classify(survey: &mut Survey, tables: &mut Tables, refusals: &mut Refusals) {
    for id in survey.descriptions.ids(|_| true) {
        let description = survey.descriptions.get(id);
        if description.info.locks.iter().any(|lock| lock.kind == LockKind::Lease) {
            let what = format!("a lease on {}", text(&description.described.path));
            refusals.push(description.refuse(
                "B-0344",
                what,
                "leases are not carried",
                "let the program give it up",
            ));
        }
        match kind(survey, description, tables) {
            Ok(Some(what)) => survey.descriptions.get_mut(id).what = what,
            Ok(None) => {}
            // Whoever started the program may have opened its standard streams with rights that this user lacks, or in
            // a place that is not reachable from here: they belong to the outside then, as a pipe would.
            Err(refusal) if refusal.code == OUT_OF_REACH => {
                if !survey.connect_outside(&[id], &refusal.resource) {
                    refusals.push(refusal);
                }
            }
            Err(refusal) => refusals.push(refusal),
        }
    }
}

/// `None` for what is looked at later.
fn kind(survey: &Survey, description: &Description, tables: &mut Tables) -> Result<Option<What>, Refusal> {
    let described = &description.described;
    if description.is_path_only() {
        return path_only(survey, description).map(Some);
    }
    Ok(Some(match &described.kind {
        DescriptorKind::Regular => regular(survey, description, tables)?,
        DescriptorKind::Directory => directory(survey, description)?,
        DescriptorKind::CharacterDevice(device) => return device_kind(description, *device),
        DescriptorKind::Pipe(_)
        | DescriptorKind::Fifo
        | DescriptorKind::Socket(_)
        | DescriptorKind::Epoll => {
            return Ok(None);
        }
        DescriptorKind::EventFd => What::EventFd,
        DescriptorKind::TimerFd => What::TimerFd,
        DescriptorKind::SignalFd => What::SignalFd,
        DescriptorKind::Inotify => What::Inotify(inotify::watches(survey, description)?),
        DescriptorKind::Memfd(name) => memfd(description, name, tables)?,
        DescriptorKind::PidFd => pid_fd(survey, description)?,
        DescriptorKind::BlockDevice(_) => {
            return Err(not_carried(description, format!("the block device {}", text(&described.path))));
        }
        DescriptorKind::SecretMemory => return Err(not_carried(description, "secret memory".to_owned())),
        DescriptorKind::Namespace(name) => {
            return Err(not_carried(description, format!("the namespace {}", text(name))));
        }
        DescriptorKind::Anonymous(name) => return Err(not_carried(description, text(name))),
        DescriptorKind::SymbolicLink | DescriptorKind::SocketPath => {
            return Err(not_carried(description, text(&described.path)));
        }
    }))
}

fn not_carried(description: &Description, what: String) -> Refusal {
    description.refuse("B-0330", what, "this kind of descriptor is not carried", CLOSE_HINT)
}

fn path_only(survey: &Survey, description: &Description) -> Result<What, Refusal> {
    let path = &description.described.path;
    if description.described.kind == DescriptorKind::SymbolicLink || !path.starts_with(b"/") {
        let what = format!("{}, opened by O_PATH", text(path));
        return Err(not_carried(description, what));
    }
    if !is_kernel_path(path) {
        in_place(description)?;
    } else {
        of_this_tree(survey, description)?;
    }
    Ok(What::Plain(FileKind::PathOnly { path: path.clone() }))
}

fn directory(survey: &Survey, description: &Description) -> Result<What, Refusal> {
    let path = &description.described.path;
    if is_kernel_path(path) {
        of_this_tree(survey, description)?;
    } else {
        in_place(description)?;
    }
    Ok(What::Plain(FileKind::Directory { path: path.clone() }))
}

fn regular(survey: &Survey, description: &Description, tables: &mut Tables) -> Result<What, Refusal> {
    const MQUEUE_MAGIC: i64 = 0x1980_0202;
    let described = &description.described;
    let place = description.place.path();
    if statfs(&place).is_ok_and(|found| found.filesystem_type().0 == MQUEUE_MAGIC) {
        let what = format!("the POSIX message queue {}", text(&described.path));
        return Err(not_carried(description, what));
    }
    let file = if is_kernel_path(&described.path) {
        of_this_tree(survey, description)?;
        tables.kernel_file(&described.path, described.status.mode)
    } else {
        if described.deleted && described.status.links > 0 {
            let renamed = other_name(description)?;
            return Ok(What::Plain(FileKind::Regular {
                file: tables.open_file(&renamed, description.writes(), place),
            }));
        }
        if described.deleted {
            readable(description, &place)?;
        } else {
            in_place(description)?;
            permitted(description)?;
        }
        tables.open_file(described, description.writes(), place)
    };
    Ok(What::Plain(FileKind::Regular { file }))
}

/// The name that a file goes by now whose name was deleted while another one leads to it. Such a name often lies beside
/// the old one.
fn other_name(description: &Description) -> Result<Described, Refusal> {
    let described = &description.described;
    let old = Path::new(OsStr::from_bytes(&described.path));
    let entries = old.parent().and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    let is_it = |path: &std::path::PathBuf| {
        fs::symlink_metadata(path).is_ok_and(|metadata| {
            let found = FileStatus::from(&metadata);
            (found.device, found.inode) == (described.status.device, described.status.inode)
        })
    };
    match entries.map(|entry| entry.path()).find(is_it) {
        Some(path) => Ok(Described {
            path: path.into_os_string().into_encoded_bytes(),
            deleted: false,
            ..described.clone()
        }),
        None => {
            let why = "its name was deleted, and it has another one that is not known";
            let hint = "let the program close it, or remove the other name";
            Err(description.refuse("B-0342", text(&described.path), why, hint))
        }
    }
}

/// The contents of a deleted file travel in the image, so they must be readable.
fn readable(description: &Description, place: &Path) -> Result<(), Refusal> {
    let why = match fs::metadata(place) {
        Ok(metadata) if metadata.is_file() => match nix::unistd::eaccess(place, AccessFlags::R_OK) {
            Ok(()) => return Ok(()),
            Err(error) => error.to_string(),
        },
        Ok(_) => "it is no regular file".to_owned(),
        Err(error) => error.to_string(),
    };
    let what = format!("the deleted file {}", text(&description.described.path));
    let why = format!("its contents cannot be read: {why}");
    Err(description.refuse("B-0342", what, why, "let the program close it"))
}

/// The path leads to what is open, for us too.
fn in_place(description: &Description) -> Result<(), Refusal> {
    let described = &description.described;
    let what = text(&described.path);
    if described.deleted {
        let why = "it was deleted while it is open";
        return Err(description.refuse("B-0342", what, why, "let the program close it"));
    }
    let found = fs::metadata(OsStr::from_bytes(&described.path)).map(|metadata| FileStatus::from(&metadata));
    let status = &described.status;
    let why = match found {
        Ok(found) if (found.device, found.inode) == (status.device, status.inode) => return Ok(()),
        Ok(_) => "another file is there now, as this user sees it".to_owned(),
        Err(error) => format!("it cannot be found there: {error}"),
    };
    Err(description.refuse(
        OUT_OF_REACH,
        what,
        why,
        "let the program open it anew, or unmount what lies over it",
    ))
}

/// This user could open it so once more.
fn permitted(description: &Description) -> Result<(), Refusal> {
    let mut access = AccessFlags::empty();
    access.set(AccessFlags::R_OK, description.reads());
    access.set(AccessFlags::W_OK, description.writes());
    let path = &description.described.path;
    match nix::unistd::eaccess(Path::new(OsStr::from_bytes(path)), access) {
        // A busy executable and the like are no question of permission.
        Ok(()) | Err(nix::errno::Errno::ETXTBSY) => Ok(()),
        Err(error) => {
            let why = format!("this user may not open it again as the program has it: {error}");
            Err(description.refuse(
                OUT_OF_REACH,
                text(path),
                why,
                "change its permissions, or let the program close it",
            ))
        }
    }
}

fn is_kernel_path(path: &[u8]) -> bool {
    [&b"/proc"[..], b"/sys"]
        .iter()
        .any(|top| path.strip_prefix(*top).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/")))
}

/// Files of /proc are opened by path again: those of the tree's own processes, whose numbers stay, and those of none.
fn of_this_tree(survey: &Survey, description: &Description) -> Result<(), Refusal> {
    let path = &description.described.path;
    let mut parts = path.split(|byte| *byte == b'/').skip(2);
    let number = parts.next().and_then(|part| std::str::from_utf8(part).ok()?.parse::<i32>().ok());
    let known = number.is_none_or(|number| survey.members.iter().any(|member| member.pid.0 == number));
    if known && path.starts_with(b"/proc") && !description.described.deleted || path.starts_with(b"/sys") {
        return Ok(());
    }
    let why = "it tells of a process outside of the tree";
    Err(description.refuse("B-0343", text(path), why, "let the program close it"))
}

/// `None` for terminals.
fn device_kind(description: &Description, device: Device) -> Result<Option<What>, Refusal> {
    let path: &[u8] = match (device.major, device.minor) {
        (1, 3) => b"/dev/null",
        (1, 5) => b"/dev/zero",
        (1, 7) => b"/dev/full",
        (1, 8) => b"/dev/random",
        (1, 9) => b"/dev/urandom",
        (5, 0) => b"/dev/tty",
        _ if is_terminal(device) => return Ok(None),
        _ => {
            let what = format!("the device {}", text(&description.described.path));
            return Err(description.refuse("B-0331", what, "its state lies in a driver", CLOSE_HINT));
        }
    };
    let Device { major, minor } = device;
    Ok(Some(What::Plain(FileKind::Device { path: path.to_vec(), major, minor })))
}

/// Masters, slaves, the console, virtual and serial ones (Documentation/admin-guide/devices.txt).
fn is_terminal(device: Device) -> bool {
    matches!((device.major, device.minor), (4, _) | (5, 1 | 2) | (136..=143, _) | (204 | 229, _))
}

fn memfd(description: &Description, name: &[u8], tables: &mut Tables) -> Result<What, Refusal> {
    let place = description.place.path();
    let failed = |error: std::io::Error| super::unseen(description.place.holder, "a memfd", &error);
    if statfs(&place).is_ok_and(|found| found.filesystem_type() == HUGETLBFS_MAGIC) {
        return Err(not_carried(description, format!("a memfd of huge pages, {}", text(name))));
    }
    let duplicate = description.place.duplicate().map_err(failed)?;
    let seals = descriptor::seals(std::os::fd::AsFd::as_fd(&duplicate)).map_err(failed)?;
    let memory = tables.memfd(&description.described, name, seals, place);
    Ok(What::Plain(FileKind::Memfd { memory }))
}

fn pid_fd(survey: &Survey, description: &Description) -> Result<What, Refusal> {
    let number = description.info.pidfd.unwrap_or(0);
    let of_thread = description.flags() as i32 & libc::O_EXCL != 0;
    match survey.members.iter().find(|member| member.host.0 == number) {
        Some(member) if !of_thread => Ok(What::Plain(FileKind::PidFd { pid: member.pid })),
        _ => {
            let (what, why) = match number {
                _ if of_thread => ("a pidfd of a thread".to_owned(), "those of threads are not carried"),
                -1 => ("a pidfd".to_owned(), "its process has ended and was reaped"),
                0 => ("a pidfd".to_owned(), "its process is not visible here"),
                _ => (format!("a pidfd of process {number}"), "that process is outside of the tree"),
            };
            Err(description.refuse("B-0340", what, why, "let the program close it"))
        }
    }
}
