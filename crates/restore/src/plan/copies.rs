//! Whether executables and libraries that an image carries can be mapped from copies here.

use std::path::Path;

use brant_base::Refusals;
use brant_image::model::DiskFile;
use nix::sys::statvfs::{FsFlags, statvfs};

use super::refusal;

/// What a copy is called: its digest, then its own name, which shows in /proc/PID/exe.
pub(super) fn name(file: &DiskFile) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let digest: String = file.digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let path = Path::new(std::ffi::OsStr::from_bytes(&file.path));
    Path::new(&digest).join(path.file_name().unwrap_or("file".as_ref()))
}

/// The folder need not exist yet; the nearest one above it that does must let programs be executed.
pub(super) fn check_folder(folder: &Path, refusals: &mut Refusals) {
    let there = folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/"));
    if statvfs(there).is_ok_and(|facts| facts.flags().contains(FsFlags::ST_NOEXEC)) {
        refusals.push(refusal(
            "B-0420",
            format!("the folder {}", folder.display()),
            "the image carries its executable, copies of which would lie there, and that file system is mounted noexec",
            "set XDG_STATE_HOME to a folder on another file system",
        ));
    }
}
