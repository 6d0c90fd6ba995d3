//! The first law on Windows: brant.exe is ended by force at all instants of its work, and the program goes on.

use std::process::Stdio;
use std::time::Duration;

use brant_windows_tests::{Built, Folder, Wine, compile};

const COUNT: &str = "wrapper count implementation \"count.dll\"
wrap HeapAlloc in kernel32 with my_alloc size 12
wrap HeapFree in kernel32 with my_free size 12
";
const TURNS: u64 = 24;

#[test]
fn a_program_survives_the_end_of_brant_at_any_instant() {
    let (wine, folder) = (Wine::new("win10"), Folder::new());
    let program = compile(&folder, "busy", Built::Program, &[]);
    compile(&folder, "count", Built::Library, &[]);
    folder.write("count.wrap", COUNT);
    let mut program = wine.start(&folder, &program, &[""; 0]);
    let pid = program.pid();
    for turn in 0..TURNS {
        let words: &[&str] =
            if turn % 2 == 0 { &["wrap", "./count.wrap", &pid] } else { &["unwrap", "count", &pid] };
        let mut command = wine.direct(&wine.bin().join("brant.exe"));
        command.args(words).current_dir(folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut brant = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(20 + 37 * (turn / 2)));
        let _ = brant.kill();
        let _ = brant.wait();
        program.say("");
    }
    // What was asked for is done or not, and can be asked for again.
    let listed = wine.brant(&folder, &["wrappers", &pid]);
    if listed.out.starts_with("count") {
        wine.brant(&folder, &["unwrap", "count", &pid]).ok();
    }
    wine.brant(&folder, &["wrap", "./count.wrap", &pid]).ok();
    wine.brant(&folder, &["unwrap", "count", &pid]).ok();
    let (code, output) = program.end();
    assert_eq!(code, 0, "{output}");
    let told: Vec<u64> = output
        .lines()
        .filter_map(|line| line.strip_prefix("rounds ")?.split(' ').next()?.parse().ok())
        .collect();
    assert_eq!(told.len() as u64, TURNS, "{output}");
    assert!(output.contains("end wrong 0"), "{output}");
}
