//! The sessions of the guide's Windows pages, typed again under Wine: each command prints what the page says.
//!
//! What stands behind `> ` is typed in bash, as far as Windows's own shell would take it for the same: `\` is a letter, `NUL` is no
//! input, and `start` leaves a program running in a window of its own. `4814` is the number of the program that was started last;
//! hidden steps may compile by `gcc`, with the headers and from `fixtures`.

use std::process::Stdio;

use brant_testkit::{Prompt, Session, repository};
use brant_windows_tests::{Folder, Wine, windows_path};

/// What a whole session may take.
const LIMIT_S: &str = "300";

/// A program that was started has its input open until the session ends, and says `pid NUMBER`. Where the machine was too busy for brant to
/// start it in its time (B-1309), it is typed once more, as its user would.
const SHELL: &str = r#"
mkfifo input
exec 9<>input
brant.exe() { timeout -k 5 150 wine "$BRANT_WINDOWS_BIN/brant.exe" "$@" 9>&-; }
gcc() { x86_64-w64-mingw32-gcc -O1 -Wall -Wextra -Werror -I include "$@"; }
start() {
    while :; do
        rm -f started.txt
        "$@" < input > started.txt 2>&1 &
        until PID=$(sed -n 's/^pid \([0-9]*\).*/\1/p' started.txt 2> /dev/null) && [ -n "$PID" ]; do
            sleep 0.05
            kill -0 $! 2> /dev/null || break
        done
        grep -q B-1309 started.txt || break
    done
    [ -n "$PID" ] || cat started.txt
}
"#;

fn typed_again(name: &str) {
    let document = std::fs::read_to_string(repository().join(name)).expect("the repository has this page");
    let session = Session::typed_at(Prompt::Windows, &document);
    assert!(!session.steps.is_empty(), "{name} has no session");
    let (wine, folder) = (Wine::new("win10"), Folder::new());
    for (file, text) in &session.files {
        folder.write(file, text);
    }
    for (link, to) in [("fixtures", "windows/fixtures"), ("include", "include")] {
        std::os::unix::fs::symlink(repository().join(to), folder.path().join(link)).expect("a link");
    }
    let script = session.script_of(|command| {
        command.replace('\\', r"\\").replace("4814", "$PID").replace("< NUL", "< /dev/null")
    });
    folder.write("script", &format!("{SHELL}{script}"));
    let mut command = wine.script("script", LIMIT_S);
    command.current_dir(folder.path()).env("BRANT_WINDOWS_BIN", wine.bin());
    let output = std::fs::File::create(folder.path().join("printed")).expect("the folder is ours");
    let status = command.stdout(output).stderr(Stdio::null()).status().expect("bash");
    let printed = folder.read("printed").replace('\r', "").replace(&windows_path(folder.path()), r"C:\you");
    assert!(!matches!(status.code(), None | Some(124 | 137)), "{name} did not end: {printed}");
    let differences = session.differences(&printed, "/home/you");
    assert!(differences.is_empty(), "{name}:\n\n{}", differences.join("\n\n"));
}

#[test]
fn windows() {
    typed_again("docs/windows.md");
}

#[test]
fn carried() {
    typed_again("docs/carried.md");
}
