//! The wrapper `heap`, on live programs of glibc and of musl: its counts are exact.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::Command;

use brant_testkit::{Outcome, Sandbox, Started, Who, wait_until};
use serde_json::Value;

const PROMPT_S: u64 = 60;
const COMPILERS: [&str; 2] = ["cc", "musl-gcc"];

struct Blocks {
    sandbox: Sandbox,
    program: Started,
    path: PathBuf,
}

impl Blocks {
    fn start(compiler: &str, flags: &[&str]) -> Option<Blocks> {
        let sandbox = Sandbox::new(Who::Plain);
        let flags = [&["-O0", "-Wno-alloc-size-larger-than"], flags].concat();
        let path = sandbox.compile(compiler, &["wrappers/blocks.c"], "blocks.c.program", &flags)?;
        let mut command = sandbox.command(&path);
        command.arg(sandbox.path("f"));
        let program = sandbox.launch(command, false);
        assert!(wait_until(PROMPT_S, || sandbox.path("f.ready").exists()), "{}", sandbox.text("err"));
        Some(Blocks { sandbox, program, path })
    }

    fn brant(&self, verb: &str, wrapper: &str) -> Outcome {
        let outcome = self.sandbox.brant(&[verb, wrapper, &self.program.pid().to_string(), "--json"]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        outcome
    }

    /// Lets it do what it does.
    fn go(&self) {
        self.sandbox.write("f.go", "");
        assert!(
            wait_until(PROMPT_S, || self.sandbox.path("f.said").exists()),
            "{}",
            self.sandbox.text("err")
        );
        assert_eq!(self.sandbox.text("out"), "3\n");
    }

    fn end(&mut self) {
        self.sandbox.write("f.end", "");
        assert_eq!(self.program.wait(PROMPT_S), Some(5), "{}", self.sandbox.text("err"));
    }

    fn reports(&self, file: &str) -> Vec<Value> {
        let text = self.sandbox.text(file);
        text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// What is live of the program's own callers: bytes and blocks, the largest first.
    fn own(&self, report: &Value) -> Vec<(u64, u64)> {
        let path = self.path.display().to_string();
        let callers = report["callers"].as_array().expect("a list");
        let is_own =
            |caller: &&Value| caller["frames"][0].as_str().is_some_and(|frame| frame.starts_with(&path));
        let number = |value: &Value| value.as_u64().expect("a number");
        callers
            .iter()
            .filter(is_own)
            .map(|caller| (number(&caller["bytes"]), number(&caller["blocks"])))
            .collect()
    }
}

/// What `blocks` keeps: of realloc, the ten less one of malloc, aligned_alloc, memalign, posix_memalign, calloc, realloc of
/// an early one, strdup.
const KEPT: [(u64, u64); 8] = [(5000, 1), (900, 9), (640, 1), (320, 1), (300, 1), (200, 1), (60, 1), (13, 1)];

#[test]
fn heap_counts_every_block_of_a_program_that_was_running() {
    for compiler in COMPILERS {
        let Some(mut blocks) = Blocks::start(compiler, &["-O0"]) else { continue };
        blocks.brant("wrap", "heap:out=heap.json,json,top=0");
        blocks.go();
        blocks.brant("unwrap", "heap");
        let [child, off] = &blocks.reports("heap.json")[..] else {
            panic!("{compiler}: {}", blocks.sandbox.text("heap.json"))
        };
        assert_eq!((&off["when"], &child["when"]), (&"taken off".into(), &"at exit".into()));
        assert_eq!(off["pid"], blocks.program.pid());
        assert_eq!(blocks.own(off), KEPT, "{compiler}");
        // The child has freed what calloc gave.
        let of_child: Vec<_> = KEPT.into_iter().filter(|kept| *kept != (200, 1)).collect();
        assert_eq!(blocks.own(child), of_child, "{compiler}");
        assert_eq!(off["freed_from_before"], 101, "{compiler}: the early ones, and the one that grew");
        assert_eq!((&off["end_unseen"], &off["unseen"]), (&0.into(), &0.into()), "{compiler}");
        // 200,000 of the threads, and 1000 + 8 or so.
        let got = off["got_blocks"].as_u64().expect("a number");
        assert!((201_008..201_100).contains(&got), "{compiler}: {got}");
        let live = off["live_blocks"].as_u64().expect("a number");
        let freed = off["freed_blocks"].as_u64().expect("a number");
        assert_eq!(got, live + freed - 101, "{compiler}");
        assert!(off["peak_bytes"].as_u64() >= off["live_bytes"].as_u64(), "{off}");
        let sizes = off["sizes"].as_array().expect("a list");
        let sum = |key: &str| sizes.iter().map(|size| size[key].as_u64().expect("a number")).sum::<u64>();
        assert_eq!(
            (Some(sum("blocks")), Some(sum("bytes"))),
            (off["live_blocks"].as_u64(), off["live_bytes"].as_u64())
        );
        blocks.end();
        assert_eq!(blocks.reports("heap.json").len(), 2, "nothing is written once it is off");
    }
}

#[test]
fn heap_reports_leaks_at_exit_and_follows_frames() {
    for compiler in COMPILERS {
        let Some(mut blocks) = Blocks::start(compiler, &["-O0", "-fno-omit-frame-pointer"]) else { continue };
        blocks.brant("wrap", "heap:out=heap.txt,top=4,frames=3,every=1");
        blocks.go();
        blocks.end();
        let text = blocks.sandbox.text("heap.txt");
        let (_, last) = text.rsplit_once("# heap of process").expect("a report");
        assert!(last.contains(&format!(" {}, at exit, at ", blocks.program.pid())), "{compiler}: {text}");
        let callers: Vec<&str> = last.lines().skip_while(|line| !line.ends_with("caller")).skip(1).collect();
        let path = blocks.path.display().to_string();
        assert_eq!(callers.len(), 6, "four, the others, and an empty line: {last}");
        let of_malloc = callers.iter().find(|line| line.contains(" 900 ")).expect(last);
        let words: Vec<&str> = of_malloc.split_whitespace().collect();
        assert_eq!(words[..3], ["900", "9", "1000"], "{compiler}: {last}");
        // main, and what called it.
        assert!(words[3].starts_with(&path) && words[4] == "<" && words.len() > 5, "{compiler}: {last}");
        assert!(callers[4].ends_with("all others"), "{compiler}: {last}");
    }
}

#[test]
fn heap_counts_from_the_first_instruction_and_new_for_its_caller() {
    let sandbox = Sandbox::new(Who::Plain);
    sandbox.write(
        "new.cc",
        "#include <string>\n#include <vector>\nint main() {\n  for (int i = 0; i < 7; i++) new int[100];\n  \
         std::vector<std::string> freed(1000, std::string(100, 'x'));\n  return 4;\n}\n",
    );
    let program = sandbox.path("new");
    let mut command = Command::new("c++");
    command.args(["-O0", "-o"]).arg(&program).arg(sandbox.path("new.cc"));
    assert!(command.status().expect("there is a compiler").success());
    let path = program.display().to_string();
    let outcome = sandbox.brant(&["run", "--wrap", "heap:out=heap.json,json", "--", &path]);
    assert_eq!(outcome.code, 4, "{}", outcome.stderr);
    let report: Value = serde_json::from_str(sandbox.text("heap.json").trim()).expect("a line of JSON");
    let callers = report["callers"].as_array().expect("a list");
    let own: Vec<&Value> = callers
        .iter()
        .filter(|caller| caller["frames"][0].as_str().is_some_and(|frame| frame.starts_with(&path)))
        .collect();
    assert_eq!(own.len(), 1, "{report}");
    assert_eq!((&own[0]["bytes"], &own[0]["blocks"], &own[0]["calls"]), (&2800.into(), &7.into(), &7.into()));
    assert!(report["freed_blocks"].as_u64() >= Some(1000), "{report}");
    sandbox.expect_no_leftovers();
}
