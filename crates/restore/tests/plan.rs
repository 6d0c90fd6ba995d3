//! Plans of self-made checkpoints on this host.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use brant_base::{Pid, Refusals, Tid};
use brant_image::model::*;
use brant_kernel::facts::HostFacts;
use brant_restore::{FilesPolicy, Plan, plan_of};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("brant-plan-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn facts() -> HostFacts {
    HostFacts { machine: "x86_64".into(), kernel_version: (6, 18), pid_max: 32768, ..HostFacts::default() }
}

fn checkpoint(cwd: &Path) -> Checkpoint {
    let body = ProcessBody {
        cwd: cwd.as_os_str().as_bytes().to_vec(),
        root: b"/".to_vec(),
        threads: vec![Thread { tid: Tid(100), ..Thread::default() }],
        ..ProcessBody::default()
    };
    let process = Process { pid: Pid(100), body: Some(body), ..Process::default() };
    let host = Host { machine: "x86_64".into(), ..Host::default() };
    Checkpoint { host, root: Pid(100), processes: vec![process], ..Checkpoint::default() }
}

fn record(path: &Path, written: bool) -> DiskFile {
    let metadata = fs::metadata(path).unwrap();
    DiskFile {
        id: DiskFileId(1),
        path: path.as_os_str().as_bytes().to_vec(),
        written,
        size: metadata.len(),
        mode: metadata.mode(),
        inode: metadata.ino(),
        modified_ns: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
        ..DiskFile::default()
    }
}

fn codes(result: Result<Plan, Refusals>) -> Vec<&'static str> {
    result.err().map_or(Vec::new(), |refusals| refusals.0.iter().map(|refusal| refusal.code).collect())
}

fn strict(checkpoint: &Checkpoint) -> Vec<&'static str> {
    codes(plan_of(checkpoint, &facts(), FilesPolicy::Strict, &[]))
}

#[test]
fn a_file_that_grew_is_refused_kept_or_cut() {
    let folder = Folder::new("grew");
    let path = folder.0.join("log");
    fs::write(&path, "before\n").unwrap();
    let mut checkpoint = checkpoint(&folder.0);
    checkpoint.disk_files = vec![record(&path, true)];
    assert_eq!(strict(&checkpoint), [""; 0]);
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"after\n").unwrap();
    assert_eq!(strict(&checkpoint), ["B-0412"]);
    assert!(plan_of(&checkpoint, &facts(), FilesPolicy::Keep, &[]).unwrap().rewinds().is_empty());
    let plan = plan_of(&checkpoint, &facts(), FilesPolicy::Rewind, &[]).unwrap();
    assert_eq!((plan.rewinds()[0].path.as_path(), plan.rewinds()[0].size), (path.as_path(), 7));
    assert!(plan.to_string().contains("from 13 to 7 bytes"), "{plan}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "before\nafter\n", "a plan changes nothing");
    checkpoint.disk_files[0].written = false;
    assert_eq!(codes(plan_of(&checkpoint, &facts(), FilesPolicy::Rewind, &[])), ["B-0412"]);
}

#[test]
fn the_same_contents_elsewhere_are_the_same_file() {
    let folder = Folder::new("elsewhere");
    fs::create_dir(folder.0.join("new")).unwrap();
    let (old, new) = (folder.0.join("file"), folder.0.join("new/file"));
    fs::write(&old, "contents").unwrap();
    let mut checkpoint = checkpoint(&folder.0);
    let digest = blake3::hash(b"contents").as_bytes().to_vec();
    checkpoint.disk_files = vec![DiskFile { digest, ..record(&old, false) }];
    fs::remove_file(&old).unwrap();
    assert_eq!(strict(&checkpoint), ["B-0411"]);
    fs::write(&new, "contents").unwrap();
    let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
    let map = [(bytes(&old), bytes(&new))];
    assert_eq!(codes(plan_of(&checkpoint, &facts(), FilesPolicy::Strict, &map)), [""; 0]);
    fs::write(&new, "CONTENTS").unwrap();
    assert_eq!(codes(plan_of(&checkpoint, &facts(), FilesPolicy::Strict, &map)), ["B-0412"]);
}

#[test]
fn all_reasons_are_found_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut checkpoint = checkpoint(Path::new("/nonexistent/folder"));
    checkpoint.host.cpu_flags = vec!["avx512f".into(), "nonstop_tsc".into()];
    checkpoint.processes[0].pid = Pid(5_000_000);
    let mut local = (libc::AF_INET as u16).to_ne_bytes().to_vec();
    local.extend(port.to_be_bytes());
    local.extend([127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    checkpoint.inet_sockets = vec![InetSocket {
        family: libc::AF_INET,
        kind: libc::SOCK_STREAM,
        local,
        listening: Some(5),
        ..InetSocket::default()
    }];
    let missing = DiskFile { path: b"/nonexistent/file".to_vec(), inode: 1, ..DiskFile::default() };
    checkpoint.disk_files = vec![missing];
    let expected = ["B-0404", "B-0406", "B-0413", "B-0414", "B-0416"];
    assert_eq!(strict(&checkpoint), expected);
    checkpoint.host.machine = "aarch64".into();
    assert_eq!(strict(&checkpoint)[0], "B-0403");
}

#[test]
fn a_socket_name_in_use_is_refused_and_a_stale_one_is_not() {
    let folder = Folder::new("names");
    let path = folder.0.join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut checkpoint = checkpoint(&folder.0);
    checkpoint.unix_sockets = vec![UnixSocket {
        kind: libc::SOCK_STREAM,
        address: path.as_os_str().as_bytes().to_vec(),
        state: UnixSocketState::Listening { backlog: 5 },
        ..UnixSocket::default()
    }];
    assert_eq!(strict(&checkpoint), ["B-0418"]);
    drop(listener);
    assert_eq!(strict(&checkpoint), [""; 0]);
    fs::remove_file(&path).unwrap();
    File::create(&path).unwrap();
    assert_eq!(strict(&checkpoint), ["B-0418"]);
}
