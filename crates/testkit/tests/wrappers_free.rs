//! Checkpoints of programs with the wrapper `heap`: what their allocator has free is left out, and nothing else. The program checks
//! every byte that it keeps, and goes on getting and freeing blocks while it is written.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use brant_testkit::{Sandbox, Who, wait_until};

const PROMPT_S: u64 = 120;

struct Holes {
    sandbox: Sandbox,
    path: PathBuf,
}

impl Holes {
    fn make(compiler: &str) -> Option<Holes> {
        let sandbox = Sandbox::new(Who::Plain);
        let path = sandbox.compile(compiler, &["wrappers/holes.c"], "holes", &["-O2"])?;
        Some(Holes { sandbox, path })
    }

    fn brant(&self, args: &[&str]) {
        let outcome = self.sandbox.brant(args);
        assert_eq!(outcome.code, 0, "{args:?}: {}", outcome.stderr);
    }

    fn heap(&self) -> String {
        format!("heap:out={}", self.sandbox.path("heap.txt").display())
    }

    fn start(&self, is_wrapped: bool, sizes: &[&str; 4]) {
        let (program, base) = (self.path.display().to_string(), self.sandbox.path("h").display().to_string());
        let heap = self.heap();
        let mut words = vec!["run", "-d", "-n", "holes0"];
        words.extend(["--wrap", &heap].iter().filter(|_| is_wrapped));
        words.extend(["--", &program]);
        words.extend(sizes);
        words.push(&base);
        self.brant(&words);
        assert!(wait_until(PROMPT_S, || self.sandbox.path("h.ready").exists()), "it does not begin");
    }

    /// Takes a checkpoint, and tells how large the image is. The program goes on from it, as the job of the next number.
    fn go_through_an_image(&self, number: usize) -> u64 {
        let image = self.sandbox.path(&format!("{number}.img"));
        let path = image.display().to_string();
        self.brant(&["checkpoint", &format!("holes{number}"), "--stop", "--compress", "none", "-o", &path]);
        let bytes = std::fs::metadata(&image).expect("it is there").len();
        self.brant(&["restore", &path, "-d", "-n", &format!("holes{}", number + 1)]);
        std::fs::remove_file(image).expect("it is there");
        bytes
    }

    /// Lets it check everything once more.
    fn end(&self, when: &str) {
        self.sandbox.write("h.end", "");
        assert!(
            wait_until(PROMPT_S, || self.sandbox.leftovers().is_empty()),
            "{:?}",
            self.sandbox.leftovers()
        );
        assert!(self.sandbox.path("h.well").exists(), "a block has changed: {when}");
    }
}

#[test]
fn memory_that_is_free_is_not_written() {
    let Some(holes) = Holes::make("cc") else { return };
    holes.start(false, &["0", "100000000", "1000", "10000"]);
    let whole = holes.go_through_an_image(0);
    assert!(whole > 90 << 20, "nothing is known of its memory yet: {whole}");
    holes.brant(&["wrap", &holes.heap(), "holes1"]);
    let without = holes.go_through_an_image(1);
    println!("{whole} bytes, and {without} without what is free");
    assert!(without < 10 << 20, "{without}");
    // What was left out is zeros now, which the allocator has and uses.
    holes.brant(&["unwrap", "heap", "holes2"]);
    let again = holes.go_through_an_image(2);
    assert!(again < 10 << 20, "{again}");
    holes.end("idle");
}

/// musl knows no neighbours: of every second block there is as much left.
#[test]
fn memory_that_is_free_is_not_written_with_musl() {
    let Some(holes) = Holes::make("musl-gcc") else { return };
    holes.start(true, &["0", "60000000", "30000", "2"]);
    let half = holes.go_through_an_image(0);
    println!("{half} bytes of 60 MB, of which half are free");
    assert!((30 << 20..46 << 20).contains(&half), "{half}");
    assert!(holes.go_through_an_image(1) < 46 << 20);
    holes.end("idle");
}

/// Whatever the program does at that moment, in one thread (where glibc locks nothing) and in several.
#[test]
fn nothing_that_is_used_is_left_out() {
    for compiler in ["cc", "musl-gcc"] {
        for (threads, bytes) in [("0", "0"), ("4", "5000000")] {
            let Some(holes) = Holes::make(compiler) else { continue };
            holes.start(true, &[threads, bytes, "1000", "10000"]);
            let sizes: Vec<u64> = (0..8).map(|number| holes.go_through_an_image(number)).collect();
            println!("{compiler}, {threads} threads: {sizes:?}");
            holes.end(&format!("{compiler}, {threads} threads"));
        }
    }
}
