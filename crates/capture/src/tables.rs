//! SHIM by the lead until helper capfiles lands the real file: replace it wholly.
use crate::{error::Error, tree::Member};
use brant_base::Refusal;
use brant_image::Writer;
use brant_image::model::*;
use brant_kernel::proc::MapEntry;
#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) clocks: Option<Clocks>,
    files: Vec<DiskFile>,
}
impl Tables {
    pub(crate) fn mapped_memory(&mut self, _m: &Member, _e: &MapEntry) -> Result<SharedMemoryId, Error> {
        unimplemented!()
    }
    pub(crate) fn mapped_file(&mut self, _m: &Member, e: &MapEntry) -> Result<DiskFileId, Error> {
        Ok(self.add(&e.path))
    }
    fn add(&mut self, path: &[u8]) -> DiskFileId {
        if let Some(f) = self.files.iter().find(|f| f.path == path) {
            return f.id;
        }
        let id = DiskFileId(self.files.len() as u32 + 1);
        use std::os::unix::ffi::OsStrExt;
        use std::os::unix::fs::MetadataExt;
        let md = std::fs::metadata(std::ffi::OsStr::from_bytes(path)).unwrap();
        self.files.push(DiskFile {
            id,
            path: path.to_vec(),
            size: md.size(),
            mode: md.mode(),
            device: md.dev(),
            inode: md.ino(),
            modified_ns: md.mtime() * 1_000_000_000 + md.mtime_nsec(),
            ..Default::default()
        });
        id
    }
    pub(crate) fn mapped_file_check(&mut self, _m: &Member, _e: &MapEntry) -> Result<(), Refusal> {
        Ok(())
    }
    pub(crate) fn executable(&mut self, m: &Member) -> Result<DiskFileId, Error> {
        use std::os::unix::ffi::OsStrExt;
        let p = std::fs::read_link(format!("/proc/{}/exe", m.host)).unwrap();
        Ok(self.add(p.as_os_str().as_bytes()))
    }
    pub(crate) fn fill(&mut self, c: &mut Checkpoint) -> Result<(), Error> {
        c.disk_files = self.files.clone();
        Ok(())
    }
    pub(crate) fn write_contents<W: std::io::Write>(&mut self, _w: &mut Writer<W>) -> Result<(), Error> {
        Ok(())
    }
}
