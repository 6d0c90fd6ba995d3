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
use brant_restore::{FilesPolicy, Plan, Way, plan_of, plan_of_running};

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
    assert_eq!(codes(plan_of_running(&checkpoint, &facts(), FilesPolicy::Strict, &[])), [""; 0]);
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

/// What is refused of a checkpoint that a host with `change`d facts looks at.
fn on(checkpoint: &Checkpoint, change: impl FnOnce(&mut HostFacts)) -> Vec<(&'static str, String)> {
    let mut facts = facts();
    change(&mut facts);
    let refusals = plan_of(checkpoint, &facts, FilesPolicy::Strict, &[]).err().unwrap_or_default();
    refusals.0.into_iter().map(|refusal| (refusal.code, refusal.resource)).collect()
}

fn only(code: &str, word: &str, found: &[(&'static str, String)]) {
    assert!(matches!(found, [(own, resource)] if *own == code && resource.contains(word)), "{found:?}");
}

#[test]
fn a_cpu_without_the_features_is_named() {
    let mut checkpoint = checkpoint(Path::new("/"));
    checkpoint.host.cpu_flags =
        ["aes", "avx2", "avx512f", "constant_tsc", "sha_ni"].map(String::from).to_vec();
    let has = |flags: &[&str]| {
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        on(&checkpoint, |facts| facts.cpu_flags = flags)
    };
    assert_eq!(has(&["aes", "avx2", "avx512f", "sha_ni"]), []);
    let found = has(&["aes", "avx2"]);
    only("B-0404", "avx512f, sha_ni", &found);
    // What says nothing of instructions is not asked for.
    assert!(!found[0].1.contains("constant_tsc"));
}

/// A state with these components in use.
fn state(in_use: u64) -> brant_base::Redacted<Vec<u8>> {
    let mut bytes = vec![0; 2696];
    bytes[512..520].copy_from_slice(&in_use.to_le_bytes());
    brant_base::Redacted(bytes)
}

#[test]
fn cpu_state_without_a_place_is_named() {
    use brant_kernel::facts::XstateComponent as Own;
    let mut checkpoint = checkpoint(Path::new("/"));
    let layout = [(2, 576, 256), (5, 1088, 64), (9, 2688, 8)];
    checkpoint.host.xstate_layout =
        layout.map(|(number, offset, bytes)| XstateComponent { number, offset, bytes }).to_vec();
    let narrow = |facts: &mut HostFacts| {
        facts.xstate_features = 0b111;
        facts.xstate_layout = vec![Own { number: 2, offset: 576, bytes: 256 }];
    };
    let threads = |checkpoint: &mut Checkpoint, in_use| {
        checkpoint.processes[0].body.as_mut().unwrap().threads[0].xstate = state(in_use);
    };
    // Protection keys count as in use on every CPU that has them, and nobody uses them.
    threads(&mut checkpoint, 0b111 | 1 << 9);
    assert_eq!(on(&checkpoint, narrow), []);
    threads(&mut checkpoint, 0b111 | 1 << 5);
    only("B-0409", "components 5", &on(&checkpoint, narrow));
    let wide = |bytes| {
        move |facts: &mut HostFacts| {
            facts.xstate_features = 0b100111;
            facts.xstate_layout =
                vec![Own { number: 2, offset: 576, bytes: 256 }, Own { number: 5, offset: 832, bytes }];
        }
    };
    // Another place will do, another size will not.
    assert_eq!(on(&checkpoint, wide(64)), []);
    only("B-0409", "components 5", &on(&checkpoint, wide(128)));
}

#[test]
fn each_ability_that_the_kernel_refuses_is_named() {
    use brant_kernel::facts::Ability;
    let mut checkpoint = checkpoint(Path::new("/"));
    checkpoint.terminals = vec![Terminal::default()];
    let no = Ability::No { errno: libc::EPERM };
    type Change = fn(&mut HostFacts, Ability);
    let plain: [(Change, &str); 4] = [
        (|facts, no| facts.isolation.time_namespace = no, "time namespace"),
        (|facts, no| facts.isolation.mount_proc = no, "/proc"),
        (|facts, no| facts.isolation.chosen_pids = no, "clone3 with set_tid"),
        (|facts, no| facts.isolation.mount_devpts = no, "devpts"),
    ];
    let user = |facts: &mut HostFacts| facts.uid = 1000;
    assert_eq!(on(&checkpoint, user), []);
    for (change, word) in plain {
        let found = on(&checkpoint, |facts| {
            user(facts);
            change(facts, no);
        });
        only("B-0405", word, &found);
    }
    // Root needs no user namespace; who has no terminal needs no devpts.
    let root = |facts: &mut HostFacts| {
        (facts.uid, facts.capabilities) = (0, u64::MAX);
        (facts.isolation.user_namespace, facts.isolation.id_map) = (no, no);
    };
    assert_eq!(on(&checkpoint, root), []);
    checkpoint.terminals.clear();
    assert_eq!(on(&checkpoint, |facts| facts.isolation.mount_devpts = no), []);
}

#[test]
fn without_namespaces_numbers_are_translated_or_the_program_is_refused() {
    use brant_kernel::facts::Ability;
    let mut checkpoint = checkpoint(Path::new("/"));
    checkpoint.processes[0].exit_signal = libc::SIGCHLD;
    let body = checkpoint.processes[0].body.as_mut().unwrap();
    (body.credentials.uids, body.credentials.gids) = ([1000; 4], [1000; 4]);
    let no = Ability::No { errno: libc::EPERM };
    let changes: [fn(&mut HostFacts, Ability); 4] = [
        |facts, no| facts.isolation.user_namespace = no,
        |facts, no| facts.isolation.id_map = no,
        |facts, no| facts.isolation.mount_namespace = no,
        |facts, no| facts.isolation.pid_namespace = no,
    ];
    let user = |facts: &mut HostFacts| (facts.uid, facts.gid) = (1000, 1000);
    for change in changes {
        let denied = |facts: &mut HostFacts| {
            user(facts);
            change(facts, no);
        };
        // It has no loader.
        only("B-0423", "process number", &on(&checkpoint, denied));
        let mut dynamic = checkpoint.clone();
        let base = [7u64, 0x7f00_0000_0000, 0, 0].map(u64::to_le_bytes).concat();
        dynamic.processes[0].body.as_mut().unwrap().memory.auxv = base;
        assert_eq!(on(&dynamic, denied), []);
        let mut facts = facts();
        denied(&mut facts);
        let plan = plan_of(&dynamic, &facts, FilesPolicy::Strict, &[]).unwrap();
        assert_eq!(plan.way(), Way::AnyPid);
        assert!(plan.to_string().contains("new numbers"), "{plan}");
        // What only a namespace gives.
        let mut other = dynamic.clone();
        other.processes[0].body.as_mut().unwrap().credentials.uids[0] = 1001;
        only("B-0408", "user 1001", &on(&other, denied));
        let mut other = dynamic.clone();
        other.processes[0].exit_signal = libc::SIGUSR1;
        only("B-0422", "the signal 10", &on(&other, denied));
        let mut other = dynamic.clone();
        other.clocks.monotonic_ns = i64::MAX;
        only("B-0422", "CLOCK_MONOTONIC", &on(&other, denied));
        let mut other = dynamic.clone();
        other.processes[0].body.as_mut().unwrap().root = b"/srv".to_vec();
        assert!(on(&other, denied).iter().any(|(code, what)| *code == "B-0422" && what.contains("root")));
    }
}

#[test]
fn numbers_and_kernels_that_are_too_small_are_named() {
    let mut checkpoint = checkpoint(Path::new("/"));
    let body = checkpoint.processes[0].body.as_mut().unwrap();
    body.threads[0].tid = Tid(40_000);
    let limit = |version, pid_max| {
        move |facts: &mut HostFacts| {
            (facts.kernel_version, facts.pid_max) = (version, pid_max);
        }
    };
    assert_eq!(on(&checkpoint, limit((6, 10), 40_001)), []);
    only("B-0406", "40000", &on(&checkpoint, limit((6, 10), 40_000)));
    // Each pid namespace has a limit of its own since 6.14.
    assert_eq!(on(&checkpoint, limit((6, 14), 40_000)), []);
    let body = checkpoint.processes[0].body.as_mut().unwrap();
    body.memory.mappings = vec![Mapping {
        range: brant_base::PageRange::new(0x1000, 0x2000).unwrap(),
        protection: Protection::default(),
        sharing: Sharing::Private,
        backing: Backing::Anonymous,
        flags: MappingFlags { droppable: true, ..MappingFlags::default() },
        name: None,
    }];
    assert_eq!(on(&checkpoint, limit((6, 11), 50_000)), []);
    only(
        "B-0421",
        "droppable",
        &on(&checkpoint, limit((6, 10), 50_000))
            .iter()
            .map(|(code, text)| (*code, text.replace("may be dropped", "droppable")))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn carried_files_are_copied_made_or_refused() {
    let folder = Folder::new("carried");
    let path = folder.0.join("lib.so");
    fs::write(&path, "contents").unwrap();
    let digest = blake3::hash(b"contents").as_bytes().to_vec();
    let mut checkpoint = checkpoint(&folder.0);
    let file = DiskFile { stored: true, digest, ..record(&path, false) };
    let mut plan = |carried, path: &Path| {
        let path = path.as_os_str().as_bytes().to_vec();
        checkpoint.disk_files = vec![DiskFile { carried, path, ..file.clone() }];
        plan_of(&checkpoint, &facts(), FilesPolicy::Strict, &[]).map(|plan| plan.to_string())
    };
    let lines = |text: Result<String, Refusals>| text.unwrap().lines().count();
    // The same file: nothing to do but to build.
    assert_eq!((lines(plan(Carried::Copy, &path)), lines(plan(Carried::File, &path))), (1, 1));
    fs::write(&path, "CONTENTS and more").unwrap();
    assert!(plan(Carried::Copy, &path).unwrap().contains("copy: it is another one here"));
    assert_eq!(plan(Carried::File, &path).unwrap_err().0[0].code, "B-0412");
    fs::remove_file(&path).unwrap();
    assert!(plan(Carried::Copy, &path).unwrap().contains("copy: it is not there"));
    assert!(plan(Carried::File, &path).unwrap().contains("make the"));
    let nowhere = folder.0.join("no/folder/lib.so");
    assert!(plan(Carried::Copy, &nowhere).unwrap().contains("copy: it is not there"));
    let refused = plan(Carried::File, &nowhere).unwrap_err();
    assert_eq!(refused.0[0].code, "B-0411");
    assert!(refused.0[0].hint.contains("mkdir -p"));
    assert!(!path.exists() && !nowhere.exists(), "a plan changes nothing");
}

#[test]
fn a_windows_program_is_refused_by_name() {
    let windows = Windows { program: r"C:\tools\count.exe".into(), ..Windows::default() };
    let checkpoint = Checkpoint { windows: Some(windows), ..Checkpoint::default() };
    let refusals = plan_of(&checkpoint, &facts(), FilesPolicy::Strict, &[]).unwrap_err();
    assert_eq!(refusals.0.len(), 1);
    assert_eq!(refusals.0[0].code, "B-0424");
    assert!(refusals.0[0].resource.contains(r"C:\tools\count.exe"));
}
