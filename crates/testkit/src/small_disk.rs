//! A disk that is soon full: a tmpfs with limits. Only root can mount one.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Mounted in a folder; unmounted on drop.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `limits` are those of tmpfs: `size=512k`, `nr_inodes=5`. `None` where nothing can be mounted.
    pub fn mount(folder: &Path, limits: &str) -> Option<SmallDisk> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("mode=777,{limits}"), "tmpfs"]).arg(folder);
        mount.status().is_ok_and(|status| status.success()).then(|| SmallDisk(folder.to_owned()))
    }

    /// Everything that is not a folder.
    pub fn files(&self) -> Vec<PathBuf> {
        let found =
            Command::new("find").arg(&self.0).args(["!", "-type", "d"]).output().expect("find starts");
        String::from_utf8_lossy(&found.stdout).lines().map(PathBuf::from).collect()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
