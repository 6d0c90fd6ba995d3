//! Recorded programs of glibc and musl: what `brant show` tells is exact, of the program while it runs, of its image, and of
//! the program that is brought back from it.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use brant_testkit::{Sandbox, Started, Who, wait_until};
use serde_json::{Value, json};

const PROMPT_S: u64 = 60;
const COMPILERS: [&str; 2] = ["cc", "musl-gcc"];
const O_APPEND: u64 = 0o2000;
const O_NONBLOCK: u64 = 0o4000;

/// Displays that are none: they take connections and never answer.
struct Displays {
    _x11: UnixListener,
    _abstract: UnixListener,
    _tcp: TcpListener,
    _wayland: UnixListener,
}

const X11: &str = "/tmp/.X11-unix/X77";

impl Displays {
    fn listen(wayland: &Path) -> Displays {
        let _ = std::fs::create_dir("/tmp/.X11-unix");
        let _ = std::fs::remove_file(X11);
        let named = |path: &Path| {
            let listener = UnixListener::bind(path).expect("its folder can be written");
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("ours");
            listener
        };
        let name = SocketAddr::from_abstract_name("/tmp/.X11-unix/X78").expect("a name");
        Displays {
            _x11: named(Path::new(X11)),
            _abstract: UnixListener::bind_addr(&name).expect("the name is free"),
            _tcp: TcpListener::bind("127.0.0.1:6077").expect("the port is free"),
            _wayland: named(wayland),
        }
    }
}

impl Drop for Displays {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(X11);
    }
}

/// What the fixture says of a phase.
fn phase(sandbox: &Sandbox, number: u32) -> HashMap<String, i64> {
    sandbox.write(&format!("f.go{number}"), "");
    let said = format!("f.said{number}");
    assert!(wait_until(PROMPT_S, || sandbox.path(&said).exists()), "phase {number}: {}", sandbox.text("err"));
    let text = sandbox.text(&said);
    assert!(!text.contains("FAILED"), "{text}");
    let pair =
        |line: &str| line.split_once(' ').map(|(name, number)| (name.to_owned(), number.parse().unwrap()));
    text.lines().filter_map(pair).collect()
}

fn show(sandbox: &Sandbox, target: &str) -> Vec<Value> {
    let outcome = sandbox.brant(&["show", target, "--json"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let said: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    assert_eq!(said["schema_version"], 1);
    said["processes"].as_array().expect("a list").clone()
}

/// The open descriptor of this number.
fn open(process: &Value, number: i64) -> Value {
    let all = process["descriptors"].as_array().expect("a list");
    let found: Vec<&Value> = all.iter().filter(|it| it["number"] == number).collect();
    assert_eq!(found.len(), 1, "descriptor {number}: {found:?}");
    assert_eq!(found[0]["open"], true, "{:?}", found[0]);
    found[0].clone()
}

/// Compares some fields.
fn expect(found: &Value, wanted: Value) {
    for (key, value) in wanted.as_object().expect("fields") {
        assert_eq!(&found[key], value, "{key} of {found:#}");
    }
}

/// Everything that the fixture has open after its first phase.
fn expect_files(process: &Value, said: &HashMap<String, i64>, root: &str) {
    let of = |name: &str| open(process, said[name]);
    let input = format!("{root}.in");
    let file = of("file");
    expect(
        &file,
        json!({ "kind": "file", "path": input, "call": "open", "close_on_exec": true, "position": 3, "flags": 0 }),
    );
    for (name, call, close_on_exec) in [
        ("dup", "dup", false),
        ("dup2", "dup2", false),
        ("dup3", "dup3", true),
        ("dupfd", "fcntl", false),
        ("dupfd_cloexec", "fcntl", true),
    ] {
        expect(
            &of(name),
            json!({ "path": input, "call": call, "close_on_exec": close_on_exec, "position": 3 }),
        );
        assert_eq!(of(name)["description"], file["description"], "{name}");
    }
    let stream = of("stream");
    expect(&stream, json!({ "kind": "file", "path": format!("{root}.out"), "call": "fopen" }));
    assert_eq!(stream["flags"].as_u64().unwrap() & (3 | O_APPEND), 1 | O_APPEND);
    expect(&of("folder"), json!({ "kind": "folder", "path": "/proc", "call": "opendir" }));
    let folder = root.rsplit_once('/').unwrap().0;
    let relative = of("relative");
    expect(&relative, json!({ "kind": "file", "path": format!("{folder}/relative"), "call": "openat" }));
    assert_eq!(relative["flags"].as_u64().unwrap() & (3 | O_APPEND), 2 | O_APPEND);
    expect(&of("creat"), json!({ "path": format!("{folder}/created"), "call": "creat" }));
    let marked = of("marked");
    expect(&marked, json!({ "path": input, "close_on_exec": true, "position": 0, "flags": O_NONBLOCK }));
    assert_ne!(marked["description"], file["description"]);
    expect(
        &of("pipe0"),
        json!({ "kind": "pipe", "writing": false, "made_with": said["pipe1"], "call": "pipe" }),
    );
    expect(&of("pipe1"), json!({ "kind": "pipe", "writing": true, "made_with": said["pipe0"] }));
    expect(
        &of("pipe2_0"),
        json!({ "kind": "pipe", "close_on_exec": true, "flags": O_NONBLOCK, "call": "pipe2" }),
    );
    expect(&of("eventfd"), json!({ "kind": "event", "close_on_exec": true, "call": "eventfd" }));
    expect(&of("timerfd"), json!({ "kind": "timer", "call": "timerfd_create" }));
    expect(&of("memfd"), json!({ "kind": "memory", "name": "some memory" }));
    expect(&of("epoll"), json!({ "kind": "epoll", "call": "epoll_create1" }));
    expect(&of("inotify"), json!({ "kind": "inotify", "call": "inotify_init1" }));
    expect(&of("signalfd"), json!({ "kind": "signals", "call": "signalfd" }));
    expect(&of("pair"), json!({ "kind": "socket", "state": "pair", "protocol": "unix" }));
    expect(&of("passed"), json!({ "kind": "file", "path": input, "call": "recvmsg", "position": 3 }));
    expect(&of("udp"), json!({ "state": "bound", "protocol": "udp" }));
    assert!(of("udp")["address"].as_str().unwrap().starts_with("127.0.0.1:"));
    let own = format!("127.0.0.1:{}", said["port"]);
    expect(&of("listener"), json!({ "state": "listening", "protocol": "tcp", "address": own, "peer": null }));
    expect(&of("by_syscall"), json!({ "path": input, "call": "syscall", "flags": 2 }));
    // Standard handles: the first is the file now, the second what freopen gave.
    expect(&open(process, 0), json!({ "path": input, "call": "dup2", "position": 3 }));
    expect(&open(process, 1), json!({ "path": format!("{root}.out"), "call": "freopen" }));
    let changes: Vec<(u64, &str)> = process["redirections"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["number"].as_u64().unwrap(), it["call"].as_str().unwrap()))
        .collect();
    assert_eq!(changes, [(1, "freopen"), (0, "dup2")]);
}

fn expect_connections(process: &Value, said: &HashMap<String, i64>, wayland: &str) {
    let of = |name: &str| open(process, said[name]);
    let own = format!("127.0.0.1:{}", said["port"]);
    let connected = of("connected");
    expect(
        &connected,
        json!({
            "state": "connected", "protocol": "tcp", "peer": own, "close_on_exec": true, "shut_write": true,
            "shut_read": false, "call": "socket",
        }),
    );
    let accepted = of("accepted");
    expect(
        &accepted,
        json!({ "state": "accepted", "address": own, "peer": connected["address"], "call": "accept" }),
    );
    expect(&of("later"), json!({ "state": "connected", "peer": own, "flags": 2 | O_NONBLOCK }));
    expect(&of("refused"), json!({ "state": "failed", "peer": "127.0.0.1:1" }));
    assert_eq!(said["connect_errno"], 111);
    assert_eq!(process["connect_failed"], 1);
    for (name, display, peer) in [
        ("x11_tcp", "X11 :77", "127.0.0.1:6077"),
        ("x11", "X11 :77", X11),
        ("x11_abstract", "X11 :78", "@/tmp/.X11-unix/X78"),
        ("wayland", "Wayland wayland-5", wayland),
    ] {
        expect(
            &of(name),
            json!({ "kind": "socket", "state": "connected", "display": display, "peer": peer }),
        );
    }
}

fn expect_the_rest(process: &Value, said: &HashMap<String, i64>, root: &str) {
    let input = format!("{root}.in");
    // One by open, one by fopen, one by opendir, two by dup2; then the end of popen's pipe.
    let closed = process["closed"].as_array().unwrap();
    let count =
        |path: &str, call: &str| closed.iter().filter(|it| it["path"] == path && it["call"] == call).count();
    assert_eq!(
        (count(&input, "open"), count(&input, "fopen"), count("/", "opendir")),
        (1, 1, 1),
        "{closed:#?}"
    );
    assert_eq!((count(&input, "dup2"), count(&input, "syscall")), (2, 1));
    assert_eq!(process["open_failed"], 1);
    let children = process["children"].as_array().unwrap();
    let child = |pid: i64| {
        children.iter().find(|it| it["pid"] == pid).unwrap_or_else(|| panic!("{pid}: {children:#?}"))
    };
    expect(child(said["child"]), json!({ "call": "fork", "status": 0x300 }));
    expect(child(said["running"]), json!({ "call": "fork", "status": null, "running": true }));
    expect(child(said["spawned"]), json!({ "call": "posix_spawn", "command": "/bin/sh", "status": 0x400 }));
    expect(child(said["vforked"]), json!({ "call": "execve", "command": "/bin/sh", "status": 0x400 }));
    let by = |call: &str| {
        children.iter().find(|it| it["call"] == call).unwrap_or_else(|| panic!("{call}: {children:#?}"))
    };
    expect(by("system"), json!({ "command": "exit 5", "status": 0x500 }));
    expect(by("popen"), json!({ "command": "exit 6", "status": 0x600 }));
    assert_eq!((children.len(), &process["children_started"]), (6, &json!(6)), "{children:#?}");
    assert_eq!(process["exec_failed"], 1);
    let threads = process["threads"].as_array().unwrap();
    assert_eq!((threads.len(), &process["threads_created"]), (3, &json!(2)), "{threads:#?}");
    let ender = threads.iter().find(|it| it["name"] == "ender").expect("it was named");
    assert!(!ender["ended_ns"].is_null() && ender["running"] == false, "{ender}");
    let sleeper = threads.iter().find(|it| it["name"] == "sleeper").expect("it was named");
    expect(
        sleeper,
        json!({ "tid": said["sleeper"], "running": true, "ended_ns": null, "call": "pthread_create" }),
    );
    let sleeps = &process["sleeps"];
    assert_eq!(
        (&sleeps["count"], &sleeps["asked_ns"], &sleeps["cut_short"]),
        (&json!(3), &json!(3_000_000), &json!(0))
    );
    assert!(sleeps["slept_ns"].as_u64().unwrap() >= 3_000_000);
    let now = sleeps["now"].as_array().unwrap();
    assert_eq!(now.len(), 1, "{now:#?}");
    expect(&now[0], json!({ "tid": said["sleeper"], "call": "nanosleep", "asked_ns": 1_000_000_000_000u64 }));
}

/// The parts of the fixture's region from a page on to another, with what they may be used for.
fn expect_regions(process: &Value, said: &HashMap<String, i64>, root: &str, parts: &[(i64, i64, &str)]) {
    let at = |page: i64| format!("{:#x}", said["region"] + page * 4096);
    let regions = process["regions"].as_array().unwrap();
    for (from, to, protection) in parts {
        let found =
            regions.iter().find(|it| it["start"] == at(*from)).unwrap_or_else(|| panic!("{regions:#?}"));
        expect(
            found,
            json!({ "end": at(*to), "protection": protection, "call": "mmap", "mapped": true, "before": false }),
        );
    }
    let mapped =
        regions.iter().find(|it| it["start"] == format!("{:#x}", said["mapped_file"])).expect("a region");
    expect(mapped, json!({ "name": format!("{root}.in"), "bytes": 4096, "protection": "r--" }));
}

fn expect_no_gap(process: &Value) {
    let missing = process["missing"].as_object().unwrap();
    assert!(missing.values().all(|count| *count == 0), "{missing:?}");
    assert_eq!(process["not_recorded"], json!({ "descriptors": [], "threads": [], "children": [] }));
}

fn heap(process: &Value) -> (u64, u64, i64) {
    let of =
        |key: &str| process["heap"][key].as_u64().unwrap_or_else(|| panic!("{key}: {}", process["heap"]));
    (of("allocations"), of("releases"), of("allocated_bytes") as i64 - of("released_bytes") as i64)
}

/// From the first instruction on, with connections, and a child that has a record of its own.
#[test]
fn everything_is_recorded_from_the_start() {
    for compiler in COMPILERS {
        let sandbox = Sandbox::new(Who::Plain);
        let Some(program) = sandbox.compile(compiler, &["wrappers/record.c"], "record", &[]) else {
            continue;
        };
        sandbox.write("f.in", "content\n");
        let (root, wayland) = (sandbox.path("f").display().to_string(), sandbox.path("wayland-5"));
        let _displays = Displays::listen(&wayland);
        let wayland = wayland.display().to_string();
        let program = program.display().to_string();
        let started = sandbox
            .brant(&["run", "--record", "-d", "-n", "r", "--", &program, &root, "net", "6077", &wayland]);
        assert_eq!(started.code, 0, "{}", started.stderr);
        let said = phase(&sandbox, 0);
        let processes = show(&sandbox, "r");
        assert_eq!(processes.len(), 2, "{compiler}: itself and a child");
        let process = &processes[0];
        assert_eq!(process["since"]["begin"], "start");
        expect_files(process, &said, &root);
        expect_connections(process, &said, &wayland);
        expect_the_rest(process, &said, &root);
        expect_regions(process, &said, &root, &[(0, 4, "rw-"), (4, 5, "r--"), (5, 12, "rw-")]);
        expect_no_gap(process);
        let (allocations, releases, bytes) = heap(process);
        assert!(
            allocations > 10 && releases >= 4 && bytes > 6000,
            "{compiler}: {allocations} {releases} {bytes}"
        );
        expect_child(&processes[1], process, &said, &root);
        let again = phase(&sandbox, 1);
        let after = &show(&sandbox, "r")[0];
        expect_second_phase(process, after, &said, &again, &root);
        let people = sandbox.brant(&["show", "r", "--all"]);
        for part in [
            "X11 :77",
            "Wayland wayland-5",
            "standard handles",
            "recorded from its first instruction",
            "listening",
        ] {
            assert!(people.stdout.contains(part), "{part}: {}", people.stdout);
        }
        sandbox.write("f.go2", "");
        assert!(wait_until(PROMPT_S, || sandbox.brant(&["ps", "--json"]).stdout.contains("\"jobs\": []")));
    }
}

/// The child that still runs: its parent's descriptors but for one, and a record of its own for the rest.
fn expect_child(child: &Value, parent: &Value, said: &HashMap<String, i64>, root: &str) {
    assert_eq!(child["since"]["begin"], "fork");
    assert_eq!(child["parent"], parent["recorded_pid"]);
    let numbers = |process: &Value| -> Vec<i64> {
        process["descriptors"].as_array().unwrap().iter().map(|it| it["number"].as_i64().unwrap()).collect()
    };
    assert!(!numbers(child).contains(&said["file"]), "it has closed that one");
    expect(&open(child, said["dup"]), json!({ "path": format!("{root}.in"), "inherited": true }));
    expect(&child["closed"][0], json!({ "number": said["file"], "path": format!("{root}.in") }));
    assert_eq!(
        (&child["closed_count"], &child["children_started"], &child["threads_created"]),
        (&json!(1), &json!(0), &json!(0))
    );
    assert_eq!(child["threads"].as_array().unwrap().len(), 1);
    expect_no_gap(child);
}

fn expect_second_phase(
    before: &Value,
    after: &Value,
    said: &HashMap<String, i64>,
    again: &HashMap<String, i64>,
    root: &str,
) {
    let numbers: Vec<i64> =
        after["descriptors"].as_array().unwrap().iter().map(|it| it["number"].as_i64().unwrap()).collect();
    for name in ["stream", "folder"] {
        assert!(!numbers.contains(&said[name]) || again["again"] == said[name], "{name}: {numbers:?}");
    }
    expect(
        &open(after, again["again"]),
        json!({ "path": format!("{root}.in"), "position": 0, "call": "open" }),
    );
    let count = |process: &Value| process["closed_count"].as_u64().unwrap();
    assert_eq!(count(after) - count(before), 3);
    let child = after["children"].as_array().unwrap().iter().find(|it| it["pid"] == said["running"]).unwrap();
    expect(child, json!({ "status": 15, "running": false }));
    expect_regions(after, said, root, &[(1, 4, "rw-"), (4, 5, "r--"), (5, 12, "rw-")]);
    let (allocations, releases, bytes) = heap(before);
    let (allocations_after, releases_after, bytes_after) = heap(after);
    let is_less = bytes_after < bytes && releases_after > releases && allocations_after >= allocations;
    assert!(is_less, "{} {}", before["heap"], after["heap"]);
    expect_no_gap(after);
}

/// A program that runs already, then its image, then the program from that.
#[test]
fn a_record_travels_in_the_image_and_goes_on() {
    for compiler in COMPILERS {
        let sandbox = Sandbox::new(Who::Plain);
        let Some(path) = sandbox.compile(compiler, &["wrappers/record.c"], "record", &[]) else { continue };
        sandbox.write("f.in", "content\n");
        let root = sandbox.path("f").display().to_string();
        let mut command = sandbox.command(&path);
        command.arg(&root);
        let mut program: Started = sandbox.launch(command, true);
        let pid = program.pid().to_string();
        assert!(wait_until(PROMPT_S, || std::fs::read_to_string(format!("/proc/{pid}/comm"))
            .is_ok_and(|name| name == "record\n")));
        let none = sandbox.brant(&["show", &pid]);
        assert!(
            none.code == 1 && none.stderr.contains("B-1161") && none.stderr.contains("brant wrap record"),
            "{}",
            none.stderr
        );
        let wrapped = sandbox.brant(&["wrap", "record", &pid]);
        assert_eq!(wrapped.code, 0, "{}", wrapped.stderr);
        let said = phase(&sandbox, 0);
        let live = show(&sandbox, &pid);
        assert_eq!(live[0]["since"]["begin"], "wrap");
        let check = |process: &Value| {
            expect_files(process, &said, &root);
            expect_the_rest(process, &said, &root);
            expect_regions(process, &said, &root, &[(0, 4, "rw-"), (4, 5, "r--"), (5, 12, "rw-")]);
            expect_no_gap(process);
            expect(&open(process, 2), json!({ "before": true, "call": "before" }));
        };
        check(&live[0]);
        let written = sandbox.brant(&["checkpoint", &pid, "--stop", "-o", "./r.brant"]);
        assert_eq!(written.code, 0, "{compiler}: {}", written.stderr);
        program.wait(PROMPT_S);
        let in_image = show(&sandbox, "./r.brant");
        check(&in_image[0]);
        assert_eq!(in_image[1]["since"]["begin"], "fork");
        assert_eq!(in_image[0]["descriptors"], live[0]["descriptors"], "{compiler}");
        let restored = sandbox.brant(&["restore", "-d", "./r.brant", "-n", "back"]);
        assert_eq!(restored.code, 0, "{}", restored.stderr);
        let back = show(&sandbox, "back");
        check(&back[0]);
        let again = phase(&sandbox, 1);
        let after = show(&sandbox, "back");
        expect_second_phase(&back[0], &after[0], &said, &again, &root);
        let unwrapped = sandbox.brant(&["unwrap", "record", "back"]);
        assert_eq!(unwrapped.code, 0, "{}", unwrapped.stderr);
        // One thread sleeps in it, so the library stays, and with it what was recorded until then.
        let off = show(&sandbox, "back");
        assert!(off[0]["since"]["off_ns"].as_u64().is_some(), "{compiler}");
        let people = sandbox.brant(&["show", "back"]);
        assert!(people.stdout.contains("the wrapper has been taken off"), "{}", people.stdout);
        sandbox.write("f.go2", "");
        assert!(wait_until(PROMPT_S, || sandbox.brant(&["ps", "--json"]).stdout.contains("\"jobs\": []")));
    }
}
