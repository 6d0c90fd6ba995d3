//! `brant.exe run`: the program finds everything as without brant.

use brant_windows_tests::{Built, Folder, Wine, compile};

#[test]
fn arguments_input_output_and_code_pass_through() {
    let (wine, folder) = (Wine::new("win10"), Folder::new());
    let program = compile(&folder, "echo", Built::Program, &[]);
    let program = program.to_str().unwrap();
    let said = wine.brant_with(&folder, &["run", "--", program, "a b", "c\"d", "\\", ""], "one\ntwo\n");
    assert_eq!(said.code, 42, "{said:?}");
    assert!(said.out.starts_with("pid "), "{said:?}");
    assert!(said.out.ends_with("[a b]\n[c\"d]\n[\\]\n[]\nread one\nread two\n"), "{said:?}");
    assert_eq!(said.err, "to stderr\n");
}

#[test]
fn what_does_not_start_is_said() {
    let (wine, folder) = (Wine::new("win10"), Folder::new());
    let said = wine.brant(&folder, &["run", "--", "nowhere.exe"]);
    assert_eq!(said.code, 127, "{said:?}");
    assert!(said.err.starts_with("brant: B-1306: nowhere.exe does not start"), "{said:?}");
    let said = wine.brant(&folder, &["run", "--wrap", "nothing", "--", "nowhere.exe"]);
    assert_eq!(said.code, 125, "{said:?}");
    assert!(said.err.starts_with("brant: B-1301: there is no definition called nothing"), "{said:?}");
    let said = wine.brant(&folder, &["wrappers", "1"]);
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.err.starts_with("brant: B-1304: process 1 cannot be opened"), "{said:?}");
    assert!(
        wine.brant(&folder, &["explain", "b-1304"])
            .ok()
            .starts_with("B-1304: The process could not be opened.")
    );
}
