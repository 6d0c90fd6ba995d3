//! A disk with hardly any room, for images or for what jobs write.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use brant_testkit::{Sandbox, is_root, skip};

const IMAGES_KIB: u32 = 128;
const JOBS_KIB: u32 = 1024;

/// A file system of its own, outside of every sandbox; gone on drop.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    /// Too small for any image. `None`, and a skip, where the test may mount nothing.
    pub(crate) fn for_images() -> Option<SmallDisk> {
        SmallDisk::mount(&format!("size={IMAGES_KIB}k,mode=777"))
    }

    /// What the sandbox's jobs write goes there.
    pub(crate) fn for_jobs(sandbox: &Sandbox) -> Option<SmallDisk> {
        let home = fs::metadata(sandbox.path("home")).expect("every sandbox has one");
        let (uid, gid) = (home.uid(), home.gid());
        let disk = SmallDisk::mount(&format!("size={JOBS_KIB}k,mode=700,uid={uid},gid={gid}"))?;
        let place = sandbox.path("run");
        fs::remove_dir_all(&place).expect("nothing runs yet");
        std::os::unix::fs::symlink(&disk.folder, place).expect("the sandbox is writable");
        Some(disk)
    }

    fn mount(options: &str) -> Option<SmallDisk> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !is_root() {
            skip("root");
            return None;
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("bd-{}-{number}", std::process::id()));
        fs::create_dir(&folder).expect("the temporary folder is writable");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&folder);
        if !mount.status().is_ok_and(|status| status.success()) {
            let _ = fs::remove_dir(&folder);
            skip("host: mount");
            return None;
        }
        Some(SmallDisk { folder })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }

    /// Leaves no room at all.
    pub(crate) fn fill(&self) {
        let mut file = File::create(self.folder.join("filler")).expect("the disk is empty");
        for bytes in [65536, 4096, 1] {
            while file.write_all(&vec![0; bytes]).is_ok() {}
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // After a failure something may still use it: it goes with its last user then.
        let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
        let _ = fs::remove_dir(&self.folder);
    }
}
