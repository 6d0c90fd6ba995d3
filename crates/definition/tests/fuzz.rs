//! A short, seeded fuzz run for CI over definition files: drawn ones, and these with damage. `BRANT_FUZZ_COUNT` says how
//! many are tried; `fuzz/` has the same for libFuzzer.

#[path = "support/generate.rs"]
mod generate;
#[path = "support/judge.rs"]
mod judge;

use generate::Generator;
use judge::judge;

const COUNT_DEFAULT: u64 = 3000;
const SEED: u64 = 0x6272_616e_7402;

#[test]
fn any_bytes_are_a_definition_or_errors() {
    let count = std::env::var("BRANT_FUZZ_COUNT").map_or(COUNT_DEFAULT, |count| count.parse().unwrap());
    let (mut accepted, mut refused) = (0, 0);
    for number in 0..count {
        let mut generator = Generator(SEED + number);
        let mut bytes = generator.definition().into_bytes();
        for _ in 0..generator.below(4) {
            mutate(&mut bytes, &mut generator);
        }
        if judge(&bytes) {
            accepted += 1;
        } else {
            refused += 1;
        }
    }
    // The run must reach both sides of every check.
    assert!(
        count < 100 || (accepted > count / 10 && refused > count / 10),
        "{accepted} accepted, {refused} refused"
    );
}

/// Changes one thing: a byte, a word, a stretch of bytes, the length.
fn mutate(bytes: &mut Vec<u8>, generator: &mut Generator) {
    if bytes.is_empty() {
        return;
    }
    let at = generator.below(bytes.len());
    let end = (at + generator.below(20)).min(bytes.len());
    match generator.below(7) {
        0 => bytes[at] ^= 1 << generator.below(8),
        1 => bytes[at] = generator.next() as u8,
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..end)),
        4 => {
            let copy = bytes[at..end].to_vec();
            let to = generator.below(bytes.len());
            bytes.splice(to..to, copy);
        }
        5 => {
            let marks = b"\"\\@#/(){}[];*,.\n\r\t\0";
            bytes[at] = marks[generator.below(marks.len())];
        }
        _ => {
            let word = generator.one_of(WORDS);
            bytes.splice(at..at, word.bytes());
        }
    }
}

const WORDS: &[&str] = &[
    " wrap ",
    " wrapper ",
    " in kernel ",
    " with ",
    " size 8 ",
    " size 0x30 ",
    " stack 16 ",
    " sret ",
    " native ",
    "\\u{202e}",
    "\\\"",
    "//",
    "@@",
    "...",
    "struct { ",
    " } ",
    "const ",
    "**",
    "[3]",
    "(*)()",
    "unsigned ",
    "long ",
    "\u{feff}",
    "é",
    "\u{1b}[2J",
    "sig \"int(int)\" ",
    "99999999999999999999",
    "void ",
    "double",
    "_Complex ",
];
