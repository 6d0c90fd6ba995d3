//! A wrapper that is put on and taken off many times, on programs whose threads are busy all the time.

use brant_windows_tests::{Built, Folder, Wine, compile, windows_path};

const COUNT: &str = "wrapper count implementation \"count.dll\"
wrap HeapAlloc in kernel32 with my_alloc size 12
wrap HeapFree in kernel32 with my_free size 12
";

/// BRANT_ROUNDS says another number.
fn rounds() -> String {
    std::env::var("BRANT_ROUNDS").unwrap_or_else(|_| "40".to_owned())
}

#[test]
fn a_busy_program_is_wrapped_and_unwrapped_many_times() {
    let (wine, folder) = (Wine::new("win10"), Folder::new());
    let program = compile(&folder, "busy", Built::Program, &[]);
    let connector = compile(&folder, "rounds", Built::Program, &[]);
    compile(&folder, "count", Built::Library, &[]);
    folder.write("count.wrap", COUNT);
    let program = wine.start(&folder, &program, &[""; 0]);
    let library = windows_path(&wine.bin().join("brant_connect.dll"));
    let rounds = rounds();
    let said = wine.run(&folder, &connector, &[&library, &program.pid(), &rounds], "").ok();
    assert_eq!(said, format!("{rounds} rounds\n"));
    let (code, output) = program.end();
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("end wrong 0"), "{output}");
}
