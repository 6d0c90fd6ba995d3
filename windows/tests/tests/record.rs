//! The wrapper `record` and `brant.exe show`.

use brant_windows_tests::{Built, Folder, Wine, compile};
use serde_json::Value;

#[test]
fn the_world_of_a_program_is_shown() {
    let (wine, folder) = (Wine::new("win10"), Folder::new());
    let program = compile(&folder, "world", Built::Program, &["-lws2_32", "-lgdi32"]);
    let mut running =
        wine.start_by_brant(&folder, &["run", "--wrap", "record", "--", program.to_str().unwrap()]);
    let output = running.wait_for("all there");
    let port = output.lines().find_map(|line| line.strip_prefix("port ")).unwrap();
    let json = wine.brant(&folder, &["show", &running.pid(), "--json"]).ok();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["schema_version"], 1);
    let shown = &json["process"];
    let list = |name: &str| shown[name].as_array().unwrap().clone();
    let handles = list("handles");
    let has = |kind: &str, name: &str| {
        handles.iter().any(|object| object["kind"] == kind && object["name"] == name)
    };
    assert!(
        has("event", "world-event") && has("mutex", "world-mutex") && has("semaphore", ""),
        "{handles:#?}"
    );
    let files: Vec<&Value> = handles.iter().filter(|object| object["name"] == "world.txt").collect();
    assert_eq!(files.len(), 2, "{files:#?}");
    assert_eq!(
        (&files[0]["position"], &files[0]["detail"]),
        (&12.into(), &"read write".into()),
        "{files:#?}"
    );
    assert!(!has("file", "gone.txt"), "{handles:#?}");
    assert_eq!((&shown["closed"], &shown["failed"]), (&1.into(), &1.into()));
    let processes = list("processes");
    assert_eq!(
        (&processes[0]["command"], &processes[0]["exit_code"]),
        (&"world.exe child".into(), &5.into())
    );
    let threads = list("threads");
    let of = |is_running: bool| {
        threads.iter().filter(|thread| thread["creator"] != 0 && thread["is_running"] == is_running).count()
    };
    assert_eq!((of(true), of(false)), (1, 1), "{threads:#?}");
    let heaps = list("heaps");
    let private: Vec<&Value> =
        heaps.iter().filter(|heap| heap["kind"] == "private" && heap["allocations"] == 3).collect();
    assert_eq!(private.len(), 1, "{heaps:#?}");
    assert_eq!(
        (&private[0]["allocated_bytes"], &private[0]["released_bytes"]),
        (&4500.into(), &1500.into()),
        "{heaps:#?}"
    );
    assert!(heaps.iter().any(|heap| heap["is_destroyed"] == true), "{heaps:#?}");
    assert!(
        list("regions").iter().any(|region| region["bytes"] == 1 << 20 && region["detail"] == "read write")
    );
    let sockets = list("sockets");
    let peer = format!("127.0.0.1:{port}");
    let in_state =
        |state: &str| sockets.iter().find(|socket| socket["state"] == state).cloned().unwrap_or_default();
    assert_eq!(sockets.len(), 3, "{sockets:#?}");
    assert_eq!(in_state("connected")["peer"], peer, "{sockets:#?}");
    assert!(in_state("listening")["kind"] == "tcp" && in_state("accepted")["kind"] == "tcp", "{sockets:#?}");
    let gui = list("gui");
    let kinds: Vec<&str> = gui.iter().map(|object| object["kind"].as_str().unwrap()).collect();
    let count = |kind: &str| kinds.iter().filter(|other| **other == kind).count();
    assert_eq!(
        (count("window"), count("menu"), count("device context"), count("brush")),
        (1, 1, 1, 1),
        "{gui:#?}"
    );
    assert!(gui.iter().any(|object| object["name"] == "world-window"), "{gui:#?}");
    let waits = list("waits");
    let sleep = waits.iter().find(|wait| wait["function"] == "Sleep").unwrap();
    assert_eq!(sleep["limit_ms"], 1_000_000, "{waits:#?}");
    let standard = list("standard");
    assert_eq!((&standard[2]["name"], &standard[2]["sets"]), (&"error".into(), &1.into()));
    let calls = list("calls");
    assert!(
        calls.iter().any(|call| call[0] == "GetStdHandle" && call[1].as_u64().unwrap() > 0),
        "{calls:#?}"
    );

    let text = wine.brant(&folder, &["show", &running.pid()]).ok();
    assert!(text.contains("  file  world.txt  read write  at 12  by CreateFileA\n"), "{text}");
    assert!(text.contains(&format!(" -> {peer}  connected\n")), "{text}");
    running.say("");
    let (code, output) = running.end();
    assert_eq!(code, 0, "{output}");
}

#[test]
fn a_running_program_is_recorded_from_then_on() {
    let (wine, folder) = (Wine::new("win7"), Folder::new());
    let program = compile(&folder, "opener", Built::Program, &[]);
    folder.write("a.txt", "text of a\n");
    let mut program = wine.start(&folder, &program, &[""; 0]);
    let said = wine.brant(&folder, &["show", &program.pid()]);
    assert!(said.err.starts_with("brant: B-1318"), "{said:?}");
    wine.brant(&folder, &["wrap", "record", &program.pid()]).ok();
    program.say("a.txt");
    program.wait_for("text of a");
    let text = wine.brant(&folder, &["show", &program.pid()]).ok();
    assert!(text.contains("  handles  0 open, 1 closed; 0 calls failed\n"), "{text}");
    wine.brant(&folder, &["unwrap", "record", &program.pid()]).ok();
    let said = wine.brant(&folder, &["show", &program.pid()]);
    assert!(said.err.starts_with("brant: B-1318"), "{said:?}");
    assert_eq!(program.end().0, 0);
}

#[test]
fn a_record_ends_and_begins_anew_while_a_thread_waits() {
    let (wine, folder) = (Wine::new("win10"), Folder::new());
    let program = compile(&folder, "sleeper", Built::Program, &[]);
    let mut program = wine.start(&folder, &program, &[""; 0]);
    let pid = program.pid();
    for turn in 1..=3 {
        wine.brant(&folder, &["wrap", "record", &pid]).ok();
        program.say("");
        let begin = std::time::Instant::now();
        // The thread that was made now waits in it for half an hour, those of earlier turns in the records before.
        while !wine.brant(&folder, &["show", &pid]).ok().contains("Sleep  for 33 min") {
            assert!(begin.elapsed().as_secs() < 60, "{}", program.output());
        }
        let off = wine.brant(&folder, &["unwrap", "record", &pid]).ok();
        assert_eq!(off, format!("process {pid} is not wrapped by \"record\" any more\n"), "turn {turn}");
    }
    let listed = wine.brant(&folder, &["wrappers", &pid]);
    assert!(listed.err.contains("has no wrappers"), "{listed:?}");
    let (code, output) = program.end();
    assert_eq!((code, output.matches("slept\n").count()), (0, 3), "{output}");
}
