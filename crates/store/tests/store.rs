//! The store: images are found by path, job and id, and listed newest first.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;

use brant_base::{Pid, Tid};
use brant_image::model::*;
use brant_image::{Codec, Identity, ImageId, Writer};
use brant_store::{Pending, Store};

fn checkpoint(job: &str) -> Checkpoint {
    let body = ProcessBody {
        cwd: b"/".to_vec(),
        root: b"/".to_vec(),
        limits: vec![Limit::default(); 16],
        actions: vec![SignalAction::default(); 64],
        threads: vec![Thread { tid: Tid(5), ..Default::default() }],
        ..Default::default()
    };
    Checkpoint {
        job: Some(job.to_owned()),
        root: Pid(5),
        processes: vec![Process { pid: Pid(5), ppid: Pid(1), body: Some(body), ..Default::default() }],
        disk_files: vec![DiskFile { path: b"/bin/true".to_vec(), ..Default::default() }],
        ..Default::default()
    }
}

fn store(name: &str) -> Store {
    let folder = std::env::temp_dir().join(format!("brant-store-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    Store::open(folder).unwrap()
}

fn put(store: &Store, job: &str, id: u8, created_ns: i64) -> PathBuf {
    let mut pending = store.begin(0).unwrap();
    let identity = Identity { id: ImageId([id; 16]), created_ns };
    let writer = Writer::create_as(&mut pending, &checkpoint(job), Codec::Raw, identity).unwrap();
    writer.finish().unwrap();
    pending.commit(&Pending::own_name(job, &identity)).unwrap()
}

#[test]
fn images_are_found() {
    let store = store("find");
    let old = put(&store, "sim", 0x11, 1);
    let new = put(&store, "sim", 0x12, 2);
    let other = put(&store, "a b/c", 0x22, 3);
    assert_eq!(other.file_name().unwrap(), "a_b_c-222222222222.brant");
    let find = |name: &str| store.find(OsStr::new(name));
    assert_eq!(find("sim").unwrap(), new);
    assert_eq!(find("1111").unwrap(), old);
    assert_eq!(find("sim-111111111111").unwrap(), old);
    assert_eq!(find("sim-111111111111.brant").unwrap(), old);
    assert_eq!(find(old.to_str().unwrap()).unwrap(), old);
    assert_eq!(find("1").unwrap_err().code(), "B-0607");
    assert_eq!(find("none").unwrap_err().code(), "B-0606");
    assert_eq!(find("").unwrap_err().code(), "B-0606");
    assert_eq!(find("/none").unwrap_err().code(), "B-0611");
    assert_eq!(find("/").unwrap_err().code(), "B-0612");
    let ids: Vec<u8> = store.list().unwrap().entries.iter().map(|entry| entry.identity.id.0[0]).collect();
    assert_eq!(ids, [0x22, 0x12, 0x11]);
    store.remove(OsStr::new("sim")).unwrap();
    assert_eq!(find("sim").unwrap(), old);
    fs::remove_dir_all(store.folder()).unwrap();
}

#[test]
fn damaged_images_are_listed_and_foreign_files_stay() {
    let store = store("damaged");
    let path = put(&store, "sim", 0x11, 1);
    fs::write(&path, &fs::read(&path).unwrap()[..100]).unwrap();
    let stranger = store.folder().join("x.brant");
    fs::write(&stranger, "not an image").unwrap();
    let listing = store.list().unwrap();
    assert!(listing.entries.is_empty());
    let codes: Vec<_> = listing.damaged.iter().map(|(_, error)| error.code()).collect();
    assert_eq!(codes, ["B-0504", "B-0501"]);
    assert_eq!(store.remove(stranger.as_os_str()).unwrap_err().code(), "B-0501");
    store.remove(path.as_os_str()).unwrap();
    assert!(stranger.exists() && !path.exists());
    fs::remove_dir_all(store.folder()).unwrap();
}

#[test]
fn modes_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let store = store("modes");
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&put(&store, "sim", 1, 1)), 0o600);
    assert_eq!(mode(store.folder()), 0o700);
    fs::remove_dir_all(store.folder()).unwrap();
}

#[test]
fn a_stream_is_kept_whole_or_not_at_all() {
    let (sender, store) = (store("send"), store("receive"));
    let sent = put(&sender, "sim", 1, 1);
    let bytes = fs::read(&sent).unwrap();
    let names = || fs::read_dir(store.folder()).unwrap().count();
    for length in [0, 4, 8, 100, bytes.len() - 1] {
        let error = store.receive(&bytes[..length]).unwrap_err();
        assert!(error.code().starts_with("B-05"), "{length}: {}", error.code());
    }
    let mut damaged = bytes.clone();
    for at in (0..bytes.len()).step_by(7) {
        damaged[at] ^= 0x10;
        assert!(store.receive(damaged.as_slice()).unwrap_err().code().starts_with("B-05"), "byte {at}");
        damaged[at] ^= 0x10;
    }
    let longer = [&bytes[..], b"x"].concat();
    assert_eq!(store.receive(longer.as_slice()).unwrap_err().code(), "B-0507");
    // What never ends and is no image is not read for ever.
    assert_eq!(store.receive(std::io::repeat(7)).unwrap_err().code(), "B-0501");
    assert_eq!(names(), 0);

    let received = store.receive(bytes.as_slice()).unwrap();
    assert_eq!(received.path.file_name(), sent.file_name());
    assert!(!received.was_there);
    assert_eq!(fs::read(&received.path).unwrap(), bytes);
    assert!(store.receive(bytes.as_slice()).unwrap().was_there);
    fs::write(&received.path, b"something else").unwrap();
    assert_eq!(store.receive(bytes.as_slice()).unwrap_err().code(), "B-0605");
    assert_eq!(fs::read(&received.path).unwrap(), b"something else");
    assert_eq!(names(), 1);
    fs::remove_dir_all(store.folder()).unwrap();
    fs::remove_dir_all(sender.folder()).unwrap();
}
